"""Sound files: which ones are meant, what may be written where, and creating them.

Whatever a user can get wrong raises ``BadSound``, one line that names the file.
"""

import os
import tempfile
import unicodedata
from itertools import pairwise
from pathlib import Path

import soundfile

from edge import UserError
from edge.files import atomic

BLOCK_FRAMES = 16_384
RATES_HZ = (4_000, 192_000)
TARGETS = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64"))
"""What we write: containers that keep rate and channels as given."""
SOURCES = frozenset(f".{name.lower()}" for name in soundfile.available_formats()) | {".aif", ".oga", ".opus"}


class BadSound(UserError):
    """A file that cannot be enhanced; the text is one line naming it and why."""


def find_sounds(inputs: list[Path], output: Path) -> list[tuple[Path, Path]]:
    """Pair every sound named, or lying in a folder named, with where it goes; raises BadSound.

    One file goes to ``output`` as it is named; several, or a folder, keep their names below the folder ``output``.
    """
    single = len(inputs) == 1 and not inputs[0].is_dir()
    if single and not output.is_dir() and output.suffix:
        if output.suffix.lower() not in TARGETS:
            formats = " ".join(sorted(TARGETS))
            raise BadSound(f"{output}: {output.suffix} is not among the formats written here: {formats}")
        pairs = [(inputs[0], output)]
    elif output.exists() and not output.is_dir():
        raise BadSound(f"{output}: cannot be a folder, which several inputs (or a folder of them) need: it is a file")
    else:
        pairs = [(source, output / name) for entry in inputs for source, name in _sounds_of(entry, output)]
    _check_targets(pairs, output)
    return pairs


def _check_targets(pairs: list[tuple[Path, Path]], output: Path) -> None:
    """Raises BadSound if a result would come to lie over an input, by whatever link or spelling, or over another."""
    inputs = {_identity(source): source for source, _ in pairs}
    taken: dict[tuple[object, ...], Path] = {}
    folded: set[str] = set()
    for source, target in pairs:
        if atomic.same(target, source):
            raise own_result(source)
        if (found := _identity(target)) != (0, 0) and found in inputs:
            raise BadSound(f"{target}: is the input {inputs[found]}, which the result of {source} would overwrite")
        place = atomic.place_of(target)
        if place in taken:
            raise BadSound(f"{source} and {taken[place]} would both become {target}")
        taken[place] = source
        folded.add(_folded(target))
    if len(folded) < len(pairs) and not _case_sensitive(output):
        twins = sorted((_folded(target), str(target)) for _, target in pairs)
        one, other = next((a[1], b[1]) for a, b in pairwise(twins) if a[0] == b[0])
        raise BadSound(f"{one} and {other} would be one file: names there differ only in case")


def own_result(source: Path) -> BadSound:
    return BadSound(f"{source}: would be overwritten by its own result; name another place with -o")


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode, by which two names of one file are known; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _folded(path: Path) -> str:
    """The name as a file system compares it that ignores case and Unicode composition."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _case_sensitive(folder: Path) -> bool:
    """Whether names that differ only in case are two files in ``folder``: FAT and a Mac's disk do not."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".quietbox-") as probe:
            made = Path(probe.name)
            return not made.with_name(made.name.swapcase()).exists()
    except OSError:
        return True  # nothing can be written there, which is reported later


def _sounds_of(entry: Path, output: Path) -> list[tuple[Path, Path]]:
    """(source, its name below the output folder) for one input; an output folder inside the input is left out."""
    if not entry.is_dir():
        return [(entry, _target_name(Path(entry.name)))]
    found = sorted(path for path in entry.rglob("*") if path.suffix.lower() in SOURCES and path.is_file())
    if not atomic.same(entry, output):
        found = [path for path in found if not any(atomic.same(folder, output) for folder in path.parents)]
    if not found:
        raise BadSound(f"{entry}: no sound files in this folder")
    return [(path, _target_name(path.relative_to(entry))) for path in found]


def _target_name(name: Path) -> Path:
    return name if name.suffix.lower() in TARGETS else name.with_suffix(".wav")


def create_sound(descriptor: int, suffix: str, rate_hz: int) -> soundfile.SoundFile:
    """16-bit samples where the container can hold them, else its own codec."""
    container = {".oga": "OGG", ".opus": "OGG", ".aif": "AIFF"}.get(suffix, suffix[1:].upper())
    codec = "OPUS" if suffix == ".opus" else None
    if codec is None and soundfile.check_format(container, "PCM_16"):
        codec = "PCM_16"
    try:
        return soundfile.SoundFile(descriptor, "w", rate_hz, 1, codec, format=container, closefd=False)
    except (ValueError, soundfile.LibsndfileError):
        raise BadSound(f"{suffix} cannot hold mono sound at {rate_hz} Hz; try .wav or .flac") from None


def check_whole(part: Path, target: Path, frames: int) -> None:
    """libsndfile 1.2 loses the end of an Opus file on a full disk without an error. Raises BadSound."""
    if target.suffix.lower() in (".ogg", ".oga", ".opus") and soundfile.info(os.fsencode(part)).frames < frames:
        raise BadSound(f"{target}: cannot be written: the disk may be full")


def one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "error_string", error)).split())

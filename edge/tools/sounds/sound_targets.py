"""Where results go: what may be written to, and whether results would come to lie over an input or over each other."""

import os
import tempfile
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from edge.files import atomic
from edge.tools.sounds.sound_kinds import BadSound, without_suffix

TARGETS = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64"))
"""What we write: containers that keep rate and channels as given."""


def target_name(name: Path) -> Path:
    """What the result of a file of this name is called: the same, or .wav instead of a suffix that is not written."""
    if name.suffix.lower() in TARGETS:
        return name
    bare = without_suffix(name)
    return bare.with_name(f"{bare.name}.wav")


def written_to(target: Path) -> Path:
    """The file that is written for ``target``: what a symbolic link leads to, else itself, whether it exists or not."""
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def writable(target: Path) -> Path:
    """``written_to``; raises BadSound for what must not be replaced: anything but a plain file, and a file that is
    read-only.
    """
    file = written_to(target)
    try:
        if file.is_symlink():
            raise BadSound(f"{target}: cannot be written: is a link that leads to itself")
        if not file.exists():
            return file
        if not file.is_file():
            raise BadSound(f"{target}: cannot be written: is not a plain file")
        protected = not (file.stat().st_mode & 0o222 and os.access(file, os.W_OK))  # root may write to anything
    except OSError as error:
        raise BadSound(f"{target}: cannot be written: {error.strerror}") from None
    if protected:
        raise BadSound(f"{target}: cannot be written: is read-only; `chmod u+w` changes that, or name another with -o")
    return file


def check_targets(pairs: Sequence[tuple[Path, Path]], output: Path) -> None:
    """Raises BadSound if a result would come to lie over an input, by whatever link or spelling, or over another."""
    inputs = {_identity(source): source for source, _ in pairs}
    taken: dict[tuple[object, ...], Path] = {}
    folded: set[str] = set()
    for source, target in pairs:
        if atomic.same(target, source):
            raise own_result(source)
        if (found := _identity(target)) != (0, 0) and found in inputs:
            raise BadSound(f"{target}: is the input {inputs[found]}, which the result of {source} would overwrite")
        place = atomic.place_of(written_to(target))
        if place in taken:
            raise BadSound(
                f"{source} and {taken[place]} would both become {target}; give them different places with -o"
            )
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

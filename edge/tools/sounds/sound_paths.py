"""The sounds that the arguments of `quietbox enhance` mean, and where the result of each goes."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge.console import complain
from edge.files import atomic
from edge.tools.sounds.sound_kinds import HIDDEN, BadSound, why_no_sound
from edge.tools.sounds.sound_targets import TARGETS, check_targets, target_name

SHOWN = 4
"""So many files that hold no sound are named on stderr; hidden ones, of which a Mac makes many, are not."""


@dataclass(frozen=True)
class LeftOut:
    """What lies in a folder and is not tried."""

    source: Path
    why: str
    failed: bool = False
    """Whether sounds may have been missed by it."""


@dataclass
class Found:
    """What the arguments mean."""

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    """Source and target of everything that may be a sound."""
    left_out: list[LeftOut] = field(default_factory=list)
    named: set[Path] = field(default_factory=set)
    """Sources that are arguments themselves, where the others lie in a folder."""


def find_sounds(inputs: Sequence[str | Path], output: str | Path) -> Found:
    """Pair every sound named, or lying in a folder named, with where it goes; raises BadSound.

    One file goes to ``output`` as it is named; several, or a folder, keep their names below the folder ``output``. A
    slash at its end makes it a folder, too. In a folder everything is tried that may be a sound by name or first bytes.
    """
    sources, place = [Path(name) for name in inputs], Path(output)
    if len(sources) == 1 and not sources[0].is_dir() and _is_file_name(str(output)):
        found = Found([(sources[0], place)], named={sources[0]})
    else:
        _check_folder(place, str(output), sources)
        found = Found()
        for entry in sources:
            _add(found, entry, place)
    check_targets(found.pairs, place)
    return found


def show_left_out(found: Found) -> int:
    """Name on stderr what was left out; returns how much of it may be sounds."""
    failed = [one for one in found.left_out if one.failed]
    for one in failed:
        complain(f"{one.source}: {one.why}")
    if others := [one for one in found.left_out if not one.failed and one.why != HIDDEN]:
        named = ", ".join(f"{one.source} ({one.why})" for one in others[:SHOWN])
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        complain(f"left out: {named}{more}")
    return len(failed)


def _is_file_name(output: str) -> bool:
    """Whether one input goes to a file of this name, not into a folder. Raises BadSound for a name without a format."""
    place = Path(output)
    if _ends_as_folder(output) or place.is_dir():
        return False
    if place.suffix.lower() in TARGETS:
        return True
    formats = " ".join(sorted(TARGETS))
    if place.exists():
        if not place.is_file():
            raise BadSound(f"{place}: cannot be written: is not a plain file")
        raise BadSound(f"{place}: is a file whose name does not end in a format written here: {formats}")
    if place.suffix:
        raise BadSound(
            f"{place}: {place.suffix} is not among the formats written here: {formats} (a folder is meant by {place}/)"
        )
    return False


def _check_folder(place: Path, output: str, sources: list[Path]) -> None:
    """Raises BadSound if the results cannot be meant to go into ``place``."""
    if place.exists() and not place.is_dir():
        raise BadSound(f"{place}: cannot be a folder, which several inputs (or a folder of them) need: it is a file")
    if place.suffix.lower() in TARGETS and not _ends_as_folder(output) and not place.is_dir():
        what = "several inputs" if len(sources) > 1 else "a folder of inputs"
        raise BadSound(f"{place}: names one file, but {what} need a folder (such a folder is meant by {place}/)")


def _ends_as_folder(output: str) -> bool:
    return os.path.basename(output) in ("", ".", "..")


def _add(found: Found, entry: Path, output: Path) -> None:
    """One input to what was found; an output folder inside it is left out."""
    if not entry.is_dir():
        found.named.add(entry)
        found.pairs.append((entry, output / target_name(Path(entry.name))))
        return
    before = len(found.pairs)
    inside = not atomic.same(entry, output)
    for path in sorted(_walk(found, entry, output if inside else None)):
        if why := why_no_sound(path):
            found.left_out.append(LeftOut(path, why))
        else:
            found.pairs.append((path, output / target_name(path.relative_to(entry))))
    if len(found.pairs) == before and not any(one.failed for one in found.left_out):
        raise BadSound(f"{entry}: no sound files in this folder")


def _walk(found: Found, entry: Path, output: Path | None) -> list[Path]:
    """Every file below ``entry``; what cannot be entered, or is not meant to be, is added to what was left out."""

    def unreadable(error: OSError) -> None:
        found.left_out.append(LeftOut(Path(os.fsdecode(error.filename)), f"cannot be read: {error.strerror}", True))

    files: list[Path] = []
    for folder, folders, names in os.walk(entry, onerror=unreadable):
        here = Path(folder)
        files += [here / name for name in names]
        for name in list(folders):
            path = here / name
            why = HIDDEN if name.startswith(".") else "a link to a folder; name it to have it processed"
            if name.startswith(".") or path.is_symlink():
                found.left_out.append(LeftOut(path, why))
                folders.remove(name)
            elif output is not None and atomic.same(path, output):
                folders.remove(name)
    return files

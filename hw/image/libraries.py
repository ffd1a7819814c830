"""Whether a tree for a board holds every shared library that its programs ask for.

The packages are chosen by hand (``debian.WANTED``) and unpacked without their dependencies being asked about, and
wheels name none: so the files themselves are asked (``DT_NEEDED`` of each ELF file, by ``readelf``).
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from edge import UserError

MAGIC = b"\x7fELF"
AT_ONCE = 200
"""Files that one ``readelf`` is given."""


def missing(root: Path, below: str) -> dict[str, list[str]]:
    """Library -> files below ``root/below`` that ask for it, for all that are neither in ``root`` nor among them.

    A library counts as there if any file or link of its name is, wherever the search path of its user may lead.
    Raises UserError where ``readelf`` is missing.
    """
    held = {path.name for path in _objects(root)}
    lacked: dict[str, list[str]] = {}
    for path, library in needed([path for path in _objects(root / below) if _is_program(path)]):
        if library not in held:
            lacked.setdefault(library, []).append(str(path.relative_to(root)))
    return lacked


def needed(paths: list[Path]) -> Iterator[tuple[Path, str]]:
    """(file, library that it asks for) for each of ``paths``."""
    for start in range(0, len(paths), AT_ONCE):
        some = paths[start : start + AT_ONCE]
        try:
            # the second name makes it say which file it speaks of even if there is only one
            command = ["readelf", "--dynamic", "--wide", *map(str, some), "/dev/null"]
            output = subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
        except FileNotFoundError:
            raise UserError("readelf is not installed: apt-get install binutils") from None
        path = some[0]
        for line in output.splitlines():
            if named := re.match(r"File: (.*)", line):
                path = Path(named[1])
            elif asked := re.search(r"\(NEEDED\).*\[(.*)\]", line):
                yield path, asked[1]


def _objects(top: Path) -> Iterator[Path]:
    """Programs and libraries, and links that may stand for one."""
    for path in top.rglob("*"):
        if path.is_symlink() or path.is_file():
            yield path


def _is_program(path: Path) -> bool:
    if path.is_symlink():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC

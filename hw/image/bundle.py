"""A version of the product as one file, and how it becomes a folder again on the box. Needs nothing but Python.

A bundle is a gzip'd tar (POSIX ustar) of regular files. The first member is ``contents.json``: name, build number,
Python, processor, and the sha256 of every file. Nothing is believed that does not stand in there, and nothing is read
without a bound: what else tar knows (links, devices, pax and GNU headers, sparse files) is refused by the type in its
header. What follows the tar is its signature, which ``hw/image/signature.py`` checks before anything is read here.
"""

import hashlib
import json
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from edge import UserError, files
from hw.install import ledger

PYTHON = "3.11"
"""Debian 12's."""
MACHINE = "aarch64"
CONTENTS = "contents.json"
STAMP = "complete.json"
"""Written last: a folder without it is no version."""
MOST_STAMP_BYTES = 4096
MOST_PACKED_BYTES = 320 << 20
"""Of the bundle itself. A version is some 300 MB in 3000 files today, the largest 37 MB, and a third of that packed."""
MOST_BYTES = 640 << 20
"""Of all files together, unpacked."""
MOST_FILE_BYTES = 128 << 20
MOST_CONTENTS_BYTES = 4 << 20
"""170 bytes a file: seven times of what a version needs today."""
MOST_FILES = 20_000
SPARE_BYTES = 32 << 20
"""Stays free on the data partition, for the journal and the settings."""
NAME = r"[0-9a-z][0-9a-z.+-]{0,60}"
MOST_BUILD = 1 << 40
"""A build number counts seconds since 1970, of the newest change in the version: a later version has a greater one."""
LAUNCHER = """#!/opt/quietbox/current/bin/python
import sys

from edge.cli import main

sys.exit(main())
"""
"""By the link to the version in use: where the folder itself lies nobody knows before it is there."""
MADE_HERE = ("bin/quietbox", "pyvenv.cfg", STAMP)
"""What the box writes itself; no bundle brings it."""


def dress(folder: Path) -> None:
    """The three files that make a virtual environment of unpacked wheels, wherever the folder comes to lie."""
    (folder / "bin").mkdir(exist_ok=True)
    for name in ("python", "python3"):
        link = folder / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to("/usr/bin/python3")
    (folder / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n")
    launcher = folder / "bin/quietbox"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below ``folder`` by its path there; without what ``dress`` makes and the stamp."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.is_symlink() and name not in MADE_HERE:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def contents(path: Path) -> dict[str, Any]:
    """What a bundle declares. Raises UserError if it is none, or none for this box."""
    with _opened(path) as (_, head):
        return _checked(path, head)


def unpack(path: Path, folder: Path) -> None:
    """Write the version in the bundle to the new folder ``folder``, stamped and on the disk when this returns.

    Raises UserError if anything in it is not what its contents say; then there is no such folder.
    """
    with _opened(path) as (stream, head):
        described = _checked(path, head)
        missing: dict[str, str] = dict(described["files"])
        left = described.get("bytes", MOST_BYTES)
        if os.path.lexists(folder):
            raise UserError(f"{folder} is there already; remove it")
        try:
            folder.mkdir(parents=True)
            if "bytes" in described:
                _check_room(path, folder, left)
            for member in stream.members():
                if member.name not in missing:
                    raise UserError(f"{path} holds {_shown(member.name)}, which is not in its list of contents")
                left -= member.size
                if left < 0:
                    raise UserError(
                        f"{path} contains more than its list of contents; make it again with hw/image/update"
                    )
                _check_room(path, folder, member.size)
                _write_out(path, stream, member, folder, missing.pop(member.name))
            if missing:
                raise UserError(f"{path} lacks {len(missing)} files, {_shown(min(missing))} first; copy it again")
            dress(folder)
            stamp(folder, described["build"])
        except BaseException:
            ledger.remove_tree(folder)
            raise
    os.sync()


def stamp(folder: Path, build: int) -> None:
    """Mark ``folder`` as a version unpacked to its end, with its build number."""
    (folder / STAMP).write_text(json.dumps({"build": build}) + "\n")


def build_of(folder: Path) -> int:
    """The build number of an unpacked version; 0 where it has none."""
    try:
        build = json.loads(files.read_bounded(folder / STAMP, MOST_STAMP_BYTES))["build"]
    except (OSError, UserError, ValueError, KeyError, TypeError, RecursionError):
        return 0
    return build if type(build) is int and 0 <= build <= MOST_BUILD else 0


def whole(folder: Path) -> bool:
    """Whether a version was unpacked to its end. A folder that cannot be looked at is none."""
    try:
        return (folder / STAMP).is_file() and (folder / "bin/quietbox").is_file()
    except (OSError, ValueError):
        return False


class _Stream:
    """The unpacked bytes of a bundle, in order, and the tar members in it. Memory and length are bounded."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._gzip = zlib.decompressobj(31)  # with the header and the sums of gzip
        self._packed = b""
        self._left = MOST_BYTES + MOST_CONTENTS_BYTES + 1024 * MOST_FILES
        """With a header and the padding of each file."""

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes; raises EOFError, zlib.error, tarfile.TarError or OSError."""
        if size > self._left:
            raise tarfile.ReadError(f"it unpacks to more than {files.in_bytes(MOST_BYTES)}")
        self._left -= size
        parts = list[bytes]()
        while size:
            if not self._packed and not (packed := os.read(self._descriptor, files.READ_BYTES)):
                raise EOFError("it is truncated")
            part = self._gzip.decompress(self._packed or packed, size)
            self._packed = self._gzip.unconsumed_tail
            if not part and self._gzip.eof:
                raise EOFError("it is truncated")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def next(self) -> tarfile.TarInfo | None:
        """The next member; its ``size`` bytes, and padding to a multiple of 512, come next. None at the end."""
        block = self.read(tarfile.BLOCKSIZE)
        if not block.strip(b"\0"):
            return None
        member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise tarfile.ReadError(f"it holds {_shown(member.name)}, which is not a regular file")
        if not 0 <= member.size <= MOST_FILE_BYTES:
            size = files.in_bytes(member.size) if member.size > 0 else "less than nothing"
            raise tarfile.ReadError(
                f"{_shown(member.name)} has {size}, at most {files.in_bytes(MOST_FILE_BYTES)} are allowed"
            )
        return member

    def members(self) -> Iterator[tarfile.TarInfo]:
        """All that follow; whoever takes one reads its data."""
        while member := self.next():
            yield member

    def skip_padding(self, size: int) -> None:
        """After ``size`` bytes of data."""
        self.read(-size % tarfile.BLOCKSIZE)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[_Stream, bytes]]:
    """The bundle behind its first member, and that: contents.json, as it was packed. Raises UserError, one line,
    whatever is wrong with the archive now or while the caller reads on.
    """
    try:
        descriptor = files.open_regular(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read as an update ({error.strerror})") from None
    try:
        try:
            if (size := os.fstat(descriptor).st_size) > MOST_PACKED_BYTES:
                most = files.in_bytes(MOST_PACKED_BYTES)
                raise UserError(f"{path} has {files.in_bytes(size)}; an update has at most {most}")
            stream = _Stream(descriptor)
            head = stream.next()
            if head is None or head.name != CONTENTS or head.size > MOST_CONTENTS_BYTES:
                raise UserError(f"{path} is not a Quietbox update: hw/image/update --make FILE makes one")
            listing = stream.read(head.size)
            stream.skip_padding(head.size)
            yield stream, listing
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(
            f"{path} cannot be unpacked ({error.strerror}); is the card full, or the file truncated?"
        ) from None
    except (EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{path} cannot be read as an update ({_shown(str(error))}); copy it again") from None


def _checked(path: Path, listing: bytes) -> dict[str, Any]:
    """The parsed contents of a bundle, believed as far as its form goes; raises UserError."""
    try:
        described = json.loads(listing)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as an update ({CONTENTS}: {_shown(str(error))})") from None
    name = described.get("name") if isinstance(described, dict) else None
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise UserError(f"{path} has no version; make it again with hw/image/update --make FILE")
    target = described.get("python"), described.get("machine")
    if target != (PYTHON, MACHINE):
        python, machine = (_shown(one) if isinstance(one, str) else "nothing known" for one in target)
        raise UserError(f"{path} is for Python {python} on {machine}, not for this box")
    if type(described.get("build")) is not int or not 0 <= described["build"] <= MOST_BUILD:
        raise UserError(f"{path} has no build number; make it again with hw/image/update --make FILE")
    listed = described.get("files")
    if not isinstance(listed, dict) or not all(isinstance(digest, str) for digest in listed.values()):
        raise UserError(f"{path} does not list its files; make it again with hw/image/update --make FILE")
    if len(listed) > MOST_FILES:
        raise UserError(f"{path} lists {len(listed)} files; a version has at most {MOST_FILES}")
    declared = described.get("bytes", 0)
    if not isinstance(declared, int) or isinstance(declared, bool) or not 0 <= declared <= MOST_BYTES:
        raise UserError(f"{path} has no size, or one above {files.in_bytes(MOST_BYTES)}")
    if (bad := next((name for name in listed if not _stays_inside(name)), None)) is not None:
        raise UserError(f"{path} wants to write {_shown(bad)} outside its folder; it is not made by hw/image/update")
    return dict(described)


def _stays_inside(name: str) -> bool:
    """Whether a file of that name lies where only the bundle's own files lie, and has one spelling."""
    place = PurePosixPath(name)
    plain = name.isprintable() and str(place) == name and not place.is_absolute() and ".." not in place.parts
    return plain and name not in MADE_HERE and place.parts[:1] not in ((), ("bin",))


def _check_room(path: Path, folder: Path, size: int) -> None:
    """Raises UserError where ``size`` more bytes would fill the disk."""
    free = shutil.disk_usage(folder).free
    if size + SPARE_BYTES > free:
        raise UserError(
            f"{path} does not fit: it needs {files.in_bytes(size)}, {files.in_bytes(free)} are free, of which "
            f"{files.in_bytes(SPARE_BYTES)} must remain free"
        )


def _write_out(path: Path, stream: _Stream, member: tarfile.TarInfo, folder: Path, digest: str) -> None:
    """One file of a bundle, checked before it counts; raises UserError, or what ``_opened`` turns into one."""
    target = folder / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    summed, left = hashlib.sha256(), member.size
    with target.open("xb") as out:
        while left:
            data = stream.read(min(left, files.READ_BYTES))
            summed.update(data)
            out.write(data)
            left -= len(data)
    stream.skip_padding(member.size)
    if summed.hexdigest() != digest:
        raise UserError(f"{path}: {_shown(member.name)} is damaged; copy the update again")
    target.chmod(0o755 if member.mode & 0o100 else 0o644)


def _shown(text: str) -> str:
    """What came from outside as at most 80 printable characters."""
    line = "".join(sign if sign.isprintable() else "?" for sign in text[:100])
    return line if len(line) <= 80 else f"{line[:77]}..."

"""What the installer made, written down before it is made, and file changes that a power cut cannot halve.

A file is written beside its place, forced to the disk and renamed; so at any moment the old one or the new one is
there. The ledger is such a file itself. Needs nothing but Python.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge import UserError, files

PART = ".quietbox-part"
MOST_BYTES = 4 << 20
"""Of the ledger itself; it has some 5 KB."""


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace ``path`` with ``data``, on the disk when this returns."""
    part = part_of(path)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    os.replace(part, path)
    sync_folder(path.parent)


def link(path: Path, target: str) -> None:
    """Make or swap a symbolic link in one step."""
    part = part_of(path)
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    os.replace(part, path)
    sync_folder(path.parent)


def part_of(path: Path) -> Path:
    """Where the next ``path`` is made ready; what a power cut leaves there is no one's."""
    return path.with_name(f".{path.name}{PART}")


def sync_folder(folder: Path) -> None:
    """Force a rename or a removal in ``folder`` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """sha256 of a file; empty if there is none."""
    if not path.is_file():
        return ""
    with os.fdopen(files.open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def points_to(path: Path) -> str:
    """Where a symbolic link points; empty if it is none."""
    return os.readlink(path) if path.is_symlink() else ""


class Ledger:
    """The list of what was made below ``root``; paths in it begin at ``root``."""

    def __init__(self, root: Path, place: str) -> None:
        self._root = root
        self._path = root / place
        try:
            held = json.loads(files.read_bounded(self._path, MOST_BYTES))
        except (OSError, UserError, ValueError, RecursionError):
            held = {}
        held = held if isinstance(held, dict) else {}
        self.files: dict[str, list[str]] = dict(held.get("files", {}))
        """Path -> the sha256 it may have: as written last, and while it changes, as written before."""
        self.links: list[str] = list(held.get("links", []))
        self.folders: list[str] = list(held.get("folders", []))
        self.users: list[str] = list(held.get("users", []))
        self.groups: list[str] = list(held.get("groups", []))
        self.packages: list[str] = list(held.get("packages", []))
        self.settings: list[str] = list(held.get("settings", []))
        """sha256 of the settings as the installer made them."""
        self.extras: list[str] = list(held.get("extras", []))
        """What was asked for with ``--with``."""
        self.config_txt: str = held.get("config_txt", "")
        self.pending: bool = bool(held.get("pending", False))
        """Whether a run began and did not reach its end."""

    @property
    def exists(self) -> bool:
        return self._path.is_file()

    def save(self) -> None:
        """On the disk when this returns; does nothing if nothing changed."""
        held: dict[str, Any] = {name: value for name, value in sorted(vars(self).items()) if not name.startswith("_")}
        data = (json.dumps(held, indent=1, sort_keys=True) + "\n").encode()
        if not self._path.is_file() or self._path.read_bytes() != data:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write(self._path, data)

    def make_folder(self, folder: Path) -> None:
        """``folder`` and what is missing above it."""
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        self._note(self.folders, [self._name(place) for place in reversed(missing)])
        self.save()
        folder.mkdir(parents=True, exist_ok=True)

    def put_file(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """Write one of our files. One that somebody else wrote or changed is kept beside it as ``NAME.kept``."""
        self.make_folder(path.parent)
        name = self._name(path)
        now = digest(path)
        known = self.files.get(name, [])
        if now and now not in known and path.read_bytes() != data:
            write(path.with_name(f"{path.name}.kept"), path.read_bytes())
        self.files[name] = [*([now] if now else []), hashlib.sha256(data).hexdigest()]
        self.save()
        write(path, data, mode)

    def put_link(self, path: Path, target: str) -> None:
        self.make_folder(path.parent)
        self._note(self.links, [self._name(path)])
        self.save()
        link(path, target)

    def drop(self, path: Path) -> None:
        """Remove one of our files or links and forget it."""
        if path.is_symlink() or path.exists():
            path.unlink()
            sync_folder(path.parent)
        self.files.pop(self._name(path), None)
        self.links = [name for name in self.links if name != self._name(path)]
        self.save()

    def settle(self) -> None:
        """The run reached its end: note every file as it is now, and sweep up what an earlier run left half made."""
        for name in list(self.files):
            self.files[name] = [digest(self._root / name)]
        for name in [*self.files, *self.links]:
            part_of(self._root / name).unlink(missing_ok=True)
        self.pending = False
        self.save()

    def begin(self) -> None:
        """From here on the system is on its way from one state to the next."""
        self.pending = True
        self.save()

    def remove_folders(self) -> None:
        """The folders made, as far as they are empty; innermost first."""
        for name in sorted(self.folders, key=len, reverse=True):
            folder = self._root / name
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def forget(self) -> None:
        """Everything is gone: the list goes, too."""
        self._path.unlink(missing_ok=True)
        part_of(self._path).unlink(missing_ok=True)
        if self._path.parent.is_dir() and not any(self._path.parent.iterdir()):
            self._path.parent.rmdir()

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root))

    def _note(self, where: list[str], names: Iterable[str]) -> None:
        where += [name for name in names if name not in where]


def remove_tree(folder: Path) -> None:
    """A folder with everything in it, or nothing if there is none."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder)

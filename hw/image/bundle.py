"""A version of the product as one file, and how it becomes a folder again on the box. Needs nothing but Python.

The first member is ``contents.json``: name, Python, processor, and the sha256 of every file. Nothing is believed that
does not stand in there.
"""

import hashlib
import json
import os
import re
import tarfile
import zlib
from pathlib import Path
from typing import Any

from edge import UserError

PYTHON = "3.11"
"""Debian 12's."""
MACHINE = "aarch64"
CONTENTS = "contents.json"
STAMP = "complete.json"
"""Written last: a folder without it is no version."""
MOST_BYTES = 1 << 30
NAME = r"[0-9a-z][0-9a-z.+-]{0,60}"
LAUNCHER = """#!/opt/quietbox/current/bin/python
import sys

from edge.cli import main

sys.exit(main())
"""
"""By the link to the version in use: where the folder itself lies nobody knows before it is there."""


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
        if path.is_file() and not path.is_symlink() and name not in ("bin/quietbox", "pyvenv.cfg", STAMP):
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def contents(path: Path) -> dict[str, Any]:
    """What a bundle says of itself. Raises UserError if it is none, or none for this box."""
    try:
        with tarfile.open(path, "r:gz") as tar:
            head = tar.next()
            if head is None or head.name != CONTENTS or not head.isfile() or head.size > 16 << 20:
                raise UserError(f"{path} is no Quietbox update: hw/image/update --make FILE makes one")
            file = tar.extractfile(head)
            told = json.loads(file.read() if file else b"{}")
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{path} cannot be read as an update ({error}); copy it anew") from None
    if not isinstance(told, dict) or not re.fullmatch(NAME, str(told.get("name"))):
        raise UserError(f"{path} does not say which version it is; make it anew with hw/image/update --make FILE")
    if (told.get("python"), told.get("machine")) != (PYTHON, MACHINE) or not isinstance(told.get("files"), dict):
        raise UserError(f"{path} is for Python {told.get('python')} on {told.get('machine')}, not for this box")
    return told


def unpack(path: Path, folder: Path) -> None:
    """Write the version in the bundle to the new folder ``folder``, stamped and on the disk when this returns.

    Raises UserError if anything in it is not what its contents say.
    """
    told: dict[str, str] = contents(path)["files"]
    if any(name.startswith(("/", "bin/")) or ".." in Path(name).parts for name in told):
        raise UserError(f"{path} wants to write outside its folder; it is not made by hw/image/update")
    missing = dict(told)
    total = 0
    folder.mkdir(parents=True)
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                if member.name == CONTENTS:
                    continue
                total += member.size
                if not member.isfile() or member.name not in missing or total > MOST_BYTES:
                    raise UserError(f"{path} holds {member.name}, which does not stand in its contents; make it anew")
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                file = tar.extractfile(member)
                data = file.read() if file else b""
                if hashlib.sha256(data).hexdigest() != missing.pop(member.name):
                    raise UserError(f"{path}: {member.name} is damaged; copy the update anew")
                target.write_bytes(data)
                target.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"{path} cannot be unpacked ({error}); is the card full, the file whole?") from None
    if missing:
        raise UserError(f"{path} lacks {len(missing)} files, {min(missing)} first; copy the update anew")
    dress(folder)
    (folder / STAMP).write_text("{}\n")
    os.sync()


def whole(folder: Path) -> bool:
    """Whether a version was unpacked to its end."""
    return (folder / STAMP).is_file() and (folder / "bin/quietbox").is_file()

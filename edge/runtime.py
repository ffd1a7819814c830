"""What a running box leaves in memory-backed storage: its claim on the cards and its status. Nothing on disk."""

import fcntl
import json
import os
import re
import stat
from pathlib import Path
from typing import Any


class AlreadyRunning(Exception):
    """Another box holds the card; the text names it."""


def runtime_folder() -> Path:
    """/run/quietbox for the service and for root, else the user's own runtime folder; made if missing."""
    uid = os.getuid()
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        folder = Path(given.split(":")[0])
    elif uid == 0:
        folder = Path("/run/quietbox")
    elif session := os.environ.get("XDG_RUNTIME_DIR"):
        folder = Path(session, "quietbox")
    else:
        folder = Path(f"/tmp/quietbox-{uid}")
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
        raise AlreadyRunning(f"{folder} belongs to somebody else; remove it or set RUNTIME_DIRECTORY")
    return folder


class Claim:
    """The right to run on some devices, held as file locks that end with the process, however it ends."""

    def __init__(self, devices: list[str]) -> None:
        """Raises AlreadyRunning, naming the process that came first."""
        self._locks: list[int] = []
        for device in sorted(set(devices)):
            path = runtime_folder() / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', device)}.lock"
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._locks.append(lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                first = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
                self.release()
                raise AlreadyRunning(
                    f"{device.split(':', 1)[-1]} is already used by {first}; stop that one first"
                ) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"quietbox run, process {os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        while self._locks:
            os.close(self._locks.pop())


def write_status(status: dict[str, Any]) -> None:
    """Replace status.json in one step, so that a reader never sees half of it."""
    folder = runtime_folder()
    part = folder / ".status.json"
    part.write_text(json.dumps(status) + "\n", encoding="utf-8")
    part.replace(folder / "status.json")


def read_status() -> dict[str, Any] | None:
    """What the running box last said, or None if none runs."""
    for folder in (runtime_folder(), Path("/run/quietbox")):
        try:
            status: dict[str, Any] = json.loads((folder / "status.json").read_text(encoding="utf-8"))
            os.kill(int(status["pid"]), 0)
        except PermissionError:
            return status
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return status
    return None


def remove_status() -> None:
    (runtime_folder() / "status.json").unlink(missing_ok=True)

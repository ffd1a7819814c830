"""What a running box leaves in memory-backed storage: its claim on the cards and its status. Nothing on disk.

Locks are flock(2) on files that only their owner can open, in a folder that only its owner can write to: a user who
could open such a file, even to read, could hold its lock and keep the box from running. Other users read the status;
whether it is a living box's they find out from the kernel's list of locks.
"""

import contextlib
import fcntl
import json
import os
import pwd
import re
import stat
from pathlib import Path
from typing import Any

from edge import UserError, files

SYSTEM_FOLDER = Path("/run/quietbox")
STATUS = "status.json"
STATUS_LOCK = "status.lock"
MOST_STATUS_BYTES = 1 << 20
"""A status has 2 KB."""
LOCK_MODE = 0o600
MOST_LOCK_BYTES = 200
MOST_LIST_BYTES = 1 << 20
"""Of /proc/locks: ten thousand locks."""


class AlreadyRunning(UserError):
    """Another box holds the card; the text names it."""


class NoRuntimeFolder(UserError):
    """There is no place for locks and status."""


def runtime_folder() -> Path:
    """/run/quietbox for the service and for root, else the user's own runtime folder (which may not exist yet)."""
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(given.split(":")[0])
    if os.getuid() == 0:
        return SYSTEM_FOLDER
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(session, "quietbox")
    return Path(f"/tmp/quietbox-{os.getuid()}")


def own_folder() -> Path:
    """The runtime folder, made if it is missing; raises NoRuntimeFolder if it is not ours to write in."""
    folder = runtime_folder()
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise NoRuntimeFolder(f"{folder} cannot be made ({error.strerror}); set RUNTIME_DIRECTORY") from None
    if not stat.S_ISDIR(found.st_mode):
        raise NoRuntimeFolder(f"{folder} is not a folder; remove it or set RUNTIME_DIRECTORY")
    if found.st_uid != os.getuid():
        fix = "stop the service (systemctl stop quietbox)" if folder == SYSTEM_FOLDER else "remove it"
        raise NoRuntimeFolder(f"{folder} belongs to {_user(found.st_uid)}; {fix} or set RUNTIME_DIRECTORY")
    if found.st_mode & 0o022:
        raise NoRuntimeFolder(f"{folder} can be written by others; chmod 755 {folder} or set RUNTIME_DIRECTORY")
    return folder


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _locked(path: Path) -> int | None:
    """A lock that ends with the process, however it ends; None if another process holds it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, LOCK_MODE)
        if stat.S_IMODE(os.fstat(lock).st_mode) != LOCK_MODE:  # as earlier versions made it
            os.fchmod(lock, LOCK_MODE)
    except OSError as error:
        raise NoRuntimeFolder(f"{path} cannot be written ({error.strerror}); set RUNTIME_DIRECTORY") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _holder(path: Path) -> str:
    """Who wrote the lock file last, if that process is still there; for a message."""
    with contextlib.suppress(OSError, UserError, ValueError):
        with os.fdopen(files.open_regular(path), encoding="utf-8", errors="replace") as file:
            who, number, started = file.read(MOST_LOCK_BYTES).split("\n")[:3]
        if number.isdecimal() and started == _start_ticks(int(number)):
            return f"{who}, process {number}"
    return f"another process (`fuser {path}` names it)"


def _start_ticks(process: int) -> str:
    """When a process began, in clock ticks after the boot (proc(5), /proc/PID/stat, field 22): with its number that
    identifies it. Raises OSError if there is none."""
    text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    return text.rpartition(")")[2].split()[19]


class Claim:
    """The right to run on some devices, one lock each."""

    def __init__(self, devices: list[str]) -> None:
        """Raises AlreadyRunning, naming the process that came first, or NoRuntimeFolder."""
        self._locks: dict[str, int] = {}
        self.change(devices)

    def change(self, devices: list[str]) -> None:
        """Claim these instead; on AlreadyRunning the old claim stays as it is."""
        new: dict[str, int] = {}
        for device in sorted({*devices} - self._locks.keys()):
            path = own_folder() / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', device)[:100]}.lock"
            lock = _locked(path)
            if lock is None:
                for held in new.values():
                    os.close(held)
                name = device.rsplit(":", 1)[-1]
                raise AlreadyRunning(f"{name} is already used by {_holder(path)}; stop it first")
            new[device] = lock
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"quietbox run\n{os.getpid()}\n{_start_ticks(os.getpid())}\n".encode(), 0)
        for device in self._locks.keys() - {*devices}:
            os.close(self._locks.pop(device))
        self._locks |= new

    def release(self) -> None:
        while self._locks:
            os.close(self._locks.popitem()[1])


class StatusFile:
    """status.json of the box that came first; a second one on other cards keeps its own to itself until that ends."""

    def __init__(self) -> None:
        self._folder = own_folder()
        self._lock: int | None = None
        self._take()

    def _take(self) -> None:
        """Take the file if no other process has it, and remove what a killed box left in it."""
        self._lock = _locked(self._folder / STATUS_LOCK)
        if self._lock is not None:
            with contextlib.suppress(OSError):
                (self._folder / STATUS).unlink(missing_ok=True)

    @property
    def ours(self) -> bool:
        """Whether this box came first."""
        return self._lock is not None

    def write(self, status: dict[str, Any]) -> None:
        """Replace the file in one step, so that a reader never sees half of it; may raise OSError."""
        if self._lock is None:
            # Who asks for the status holds the lock for a moment, and the box that came first may be gone.
            with contextlib.suppress(NoRuntimeFolder):
                self._take()
        if self._lock is not None:
            part = self._folder / f".{STATUS}"
            part.write_text(json.dumps(status) + "\n", encoding="utf-8")
            part.replace(self._folder / STATUS)

    def remove(self) -> None:
        """May raise OSError."""
        if self._lock is not None:
            (self._folder / STATUS).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def running_folder() -> Path | None:
    """The runtime folder of the running box; None if none runs."""
    return next((place for place in (runtime_folder(), SYSTEM_FOLDER) if _is_held(place / STATUS_LOCK)), None)


def read_status() -> dict[str, Any] | None:
    """The last status of the running box, or None if none runs."""
    for folder in (runtime_folder(), SYSTEM_FOLDER):
        if _is_held(folder / STATUS_LOCK):
            try:
                status = json.loads(files.read_bounded(folder / STATUS, MOST_STATUS_BYTES))
            except (OSError, UserError, ValueError, RecursionError):
                continue
            if isinstance(status, dict):
                return status
    return None


def in_words(status: dict[str, Any]) -> str:
    """A status as the one line that `quietbox status` and `systemctl status` show; what is not measured is left out."""
    try:
        known = [
            *_phrase("noise removed {:g} dB", status["noise_removed_db"]),
            *_phrase("speech {:.0%}", status["speech_share"]),
        ]
        parts = [
            f"{status['state']}, engine {status['engine']}",
            *(known or ["no sound yet"]),
            *_phrase("volume {:g} dB", status.get("volume_db")),  # None where only other programs listen
            *_phrase("latency {:g} ms", status["latency_ms"]),
            f"xruns {status['xruns_in']} in {status['xruns_out']} out",
            *_phrase("queue {:g} ms", status["queue_ms"]),
            *_phrase("drift {:+g} ppm", status["drift_ppm"]),
            *_phrase("hop p99 {:g} µs", status["hop_p99_us"]),
            f"process {status['pid']}",
        ]
        return ", ".join(parts)
    except (KeyError, TypeError, ValueError):
        return "quietbox is running, but in another version; `quietbox status --json` shows its status"


def _phrase(words: str, figure: float | None) -> list[str]:
    """The figure in words; nothing where there is none."""
    return [] if figure is None else [words.format(figure)]


def _is_held(path: Path) -> bool:
    """A status outlives its box when that is killed; its lock does not."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except PermissionError:
        return _listed(path)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _listed(path: Path) -> bool:
    """Whether the kernel's list of locks (proc(5), /proc/locks) has one on a file that we may not open."""
    try:
        found = os.stat(path)
        with open("/proc/locks", encoding="utf-8", errors="replace") as file:
            lines = file.read(MOST_LIST_BYTES).splitlines()
    except OSError:
        return False
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(
        words[1:4:2] == ["FLOCK", "WRITE"] and words[5] == place for line in lines if len(words := line.split()) > 5
    )

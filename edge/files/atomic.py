"""Files written whole or not at all: made beside their place under a name nobody else has, then put there in one step.

Needs nothing but Python.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge import UserError

PART_SUFFIX = ".part"
"""No sound's suffix, so that a folder of sounds scanned meanwhile does not show half a file as one."""
SYSTEM_FOLDERS = ("/dev", "/proc", "/sys")
"""What lies there is written to, never replaced: /dev/stdout is a link, and root may rename over it."""


class WouldOverwrite(UserError):
    """The target is one of the sources; the text names it and the fix."""


@contextlib.contextmanager
def part_beside(target: Path, token: str = "") -> Iterator[tuple[int, Path]]:
    """(descriptor, path) of a new empty file in the folder of ``target``; at the end it replaces ``target``.

    If the body raises, it is removed and ``target`` stays as it was; other people's files are never touched: the name
    is random, or that of ``part_of`` for ``token``, and the file made with O_EXCL. Where ``target`` is a symbolic link,
    the link is replaced and what it points to stays. Permissions (and owner, where allowed) of a file that is replaced
    are kept. Raises OSError; one that the body did not raise names ``target``.
    """
    descriptor, part = _new_file(target, token)
    try:
        try:
            _keep_attributes(descriptor, target)
            yield descriptor, part
            with _naming(target):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with _naming(target):
            os.replace(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def write(target: Path, data: bytes) -> None:
    """``data`` as ``target``, whole or not at all. Raises OSError.

    What is no plain file (a pipe, /dev/stdout) is written to as it is.
    """
    if is_special(target):
        with _naming(target), os.fdopen(os.open(target, os.O_WRONLY | os.O_APPEND), "wb") as out:
            out.write(data)
        return
    with (
        part_beside(target) as (descriptor, _),
        _naming(target),
        os.fdopen(descriptor, "wb", closefd=False) as out,
    ):
        out.write(data)


def can_write(target: Path) -> None:
    """Raises the OSError that ``write`` would meet, before the work that makes the data; leaves nothing behind."""
    if is_special(target):
        os.close(os.open(target, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK))
        return
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    descriptor, part = _new_file(target)
    os.close(descriptor)
    part.unlink()


def is_special(target: Path) -> bool:
    """Whether ``target`` is, or links to, something other than a file or folder, or belongs to the system's folders."""
    folder = os.path.realpath(target.parent)
    if any(folder == place or folder.startswith(f"{place}/") for place in SYSTEM_FOLDERS):
        return target.exists() and not target.is_dir() and folder != "/dev/shm" and folder[:9] != "/dev/shm/"
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def same(one: Path, other: Path) -> bool:
    """Whether both exist and are one file, by whatever name (device and inode)."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def refuse_overwriting(target: Path, sources: Iterable[Path | None], option: str = "-o") -> None:
    """Raises WouldOverwrite if ``target`` is one of ``sources`` (None is skipped) through any link or spelling."""
    for source in sources:
        if source is not None and same(target, source):
            raise WouldOverwrite(f"{target}: would overwrite the input {source}; name another file with {option}")


def place_of(path: Path) -> tuple[int, int, str]:
    """The same for two paths whose folders are one folder, whether the files exist or not: (device, inode, rest) of
    the nearest folder that exists.
    """
    absolute = Path(os.path.abspath(path.parent))
    for folder in (absolute, *absolute.parents):
        with contextlib.suppress(OSError):
            found = folder.stat()
            return found.st_dev, found.st_ino, str(absolute.relative_to(folder) / path.name)
    return 0, 0, str(path)


def part_of(target: Path, token: str) -> Path:
    """The path of the file in the making: short, so that the longest name a target may have does not become too long.

    Whoever chose ``token`` (``secrets.token_hex``) can remove what a killed process left of ``part_beside``.
    """
    return target.with_name(f".quietbox-{token}{PART_SUFFIX}")


def _new_file(target: Path, token: str = "") -> tuple[int, Path]:
    """Open descriptor and path. What a signal handler raises while the file is made leaves no file behind."""
    while True:
        part = part_of(target, token or secrets.token_hex(6))
        try:
            with contextlib.suppress(FileExistsError), _naming(target):
                return os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), part
        except OSError:
            raise
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        token = ""  # somebody else's file has that name: it stays


@contextlib.contextmanager
def _naming(target: Path) -> Iterator[None]:
    """A user knows the target, not the file beside it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None


def _keep_attributes(descriptor: int, target: Path) -> None:
    try:
        old = target.lstat()
    except OSError:
        return
    if stat.S_ISREG(old.st_mode):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, old.st_mode & 0o777)

"""Files that come from outside, read with a bound: settings, cards, models, weights, keys, calibrations, state files.

Whatever lies at such a path must cost neither the process nor the machine: a FIFO blocks whoever opens it,
``/dev/zero`` never ends, a sparse file of a terabyte fits on any card. Needs nothing but Python.
"""

import os
import stat
from pathlib import Path

from edge import UserError

READ_BYTES = 1 << 20
"""Asked of the kernel at a time."""
NULL_DEVICE = os.makedev(1, 3)
"""/dev/null (Linux, Documentation/admin-guide/devices.txt): the usual name of a file with nothing in it."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class BadFile(UserError):
    """What lies at a path is no regular file, or too large; the text begins with the path."""


def open_regular(path: Path) -> int:
    """A descriptor of the regular file ``path``, open for reading; /dev/null counts as one.

    Never waits and never touches a device. Raises BadFile, or OSError as ``os.open`` does.
    """
    try:
        _check_kind(path, os.stat(path))  # before it is opened: some devices act on that alone
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:
        raise BadFile(f"{path} is not a path: it holds a NUL or is not valid text") from None
    try:
        _check_kind(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The whole regular file ``path``, at most ``most_bytes`` long. Raises BadFile, or OSError."""
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        parts, left = list[bytes](), most_bytes + 1
        while size <= most_bytes and left > 0 and (part := os.read(descriptor, min(left, READ_BYTES))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    if size > most_bytes or left <= 0:
        raise BadFile(f"{path} has {in_bytes(max(size, most_bytes + 1))}, at most {in_bytes(most_bytes)} are read")
    return b"".join(parts)


def check_regular(path: Path) -> None:
    """Raises BadFile if something lies at ``path`` that is no regular file; for what a library opens by its name."""
    try:
        os.close(open_regular(path))
    except OSError:  # the library reports it itself
        return


def changeable_by_others(path: Path, found: os.stat_result) -> str:
    """Why other users than root and this one could change ``path``, a file or a folder, and what helps; empty if they
    cannot. In a sticky folder as /tmp, nobody can replace what is not theirs."""
    if found.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to another user (uid {found.st_uid}): chown {os.geteuid()} {path}"
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & 0o022 and not sticky:
        return f"{path} can be written by others: chmod go-w {path}"
    return ""


def in_bytes(count: int) -> str:
    """A number of bytes in a unit that suits it: ``900 bytes``, ``64 KiB``, ``1.5 GiB``."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << shift:
            return f"{round(count / (1 << shift), 1):g} {unit}"
    return f"{count} bytes"


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) and found.st_rdev != NULL_DEVICE:
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise BadFile(f"{path} is {kind}; a regular file is needed")

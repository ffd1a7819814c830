"""NumPy archives (.npz) that somebody else may have written, read with a bound on what they unpack to.

``numpy.load`` reserves as much memory as an array's header asks for before it has read the array: a file of 200 bytes
can ask for any amount, and a process that has locked its memory gets it at once.
"""

import io
import math
import zipfile
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edge.files import in_bytes

DIRECTORY_ENTRY = b"PK\x01\x02"
"""Begins the entry of a member in a zip archive's directory (PKWARE's APPNOTE, 4.3.12)."""
MOST_MEMBERS = 10_000


def read_npz(content: bytes, most_bytes: int) -> dict[str, NDArray[Any]]:
    """The arrays of an archive by name, together at most ``most_bytes`` large. Never unpickles.

    Raises whatever zipfile, zlib and NumPy do over a broken archive; ValueError for one that is too large.
    """
    check_archive(content, most_bytes)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {entry.filename.removesuffix(".npy"): _array(_member(archive, entry)) for entry in archive.infolist()}


def check_archive(content: bytes, most_bytes: int) -> None:
    """Raises ValueError if the members of a zip archive (.npz, .pt) unpack to more than ``most_bytes`` together, by its
    directory. Also BadZipFile.
    """
    if content.count(DIRECTORY_ENTRY) > MOST_MEMBERS:  # before zipfile makes an object of each
        raise ValueError(f"it has more than {MOST_MEMBERS} members")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > most_bytes:
        raise ValueError(f"it unpacks to {in_bytes(unpacked)}, at most {in_bytes(most_bytes)} are read")


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """As much of a member as the directory says. Asked for all of it, ``zipfile`` unpacks first and cuts off then."""
    with archive.open(entry) as member:
        return member.read(entry.file_size + 1)


def _array(content: bytes) -> NDArray[Any]:
    """One .npy of format 1.0 or 2.0, which hold anything but field names that are no Latin-1."""
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of the unknown format {version[0]}.{version[1]}")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if any(size < 0 for size in shape) or math.prod(shape) * max(dtype.itemsize, 1) > len(content):
        raise ValueError(f"an array of the shape {str(shape)[:60]} in {len(content)} bytes")
    stream.seek(0)
    return np.asarray(npy.read_array(stream, allow_pickle=False))

"""The card's partition table: three entries of a master boot record, which the Pi's firmware and every PC read.

One sector, so that a change is there or is not, whatever happens to the power.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge import UserError

SECTOR = 512
ALIGN = 8192
"""Partitions begin at multiples of 4 MiB, the size of a card's erase blocks."""
FAT, LINUX = 0x0C, 0x83
ENTRIES, ENTRY = 446, struct.Struct("<B3sB3sII")
FAR = b"\xfe\xff\xff"
"""Cylinder, head and sector of what lies beyond their range; nothing reads them any more."""
SIGNATURE = b"\x55\xaa"


@dataclass(frozen=True)
class Partition:
    """One entry, in sectors of 512 bytes."""

    kind: int
    start: int
    sectors: int


def lay_out(sizes: Sequence[tuple[int, int]]) -> list[Partition]:
    """(kind, bytes) -> partitions one behind the other."""
    found = []
    start = ALIGN
    for kind, size in sizes:
        sectors = -(-size // SECTOR)
        found.append(Partition(kind, start, sectors))
        start = -(-(start + sectors) // ALIGN) * ALIGN
    return found


def boot_record(partitions: Sequence[Partition], disk_id: int) -> bytes:
    """The 512 bytes of sector 0."""
    entries = b"".join(ENTRY.pack(0, FAR, one.kind, FAR, one.start, one.sectors) for one in partitions)
    return struct.pack("<440xIH", disk_id, 0) + entries.ljust(64, b"\0") + SIGNATURE


def read(sector: bytes) -> list[Partition]:
    """The partitions of a boot record, without the empty ones. Raises UserError."""
    if len(sector) < SECTOR or sector[510:512] != SIGNATURE:
        raise UserError("the card has no partition table; write the image to it again")
    entries = (ENTRY.unpack_from(sector, ENTRIES + 16 * at) for at in range(4))
    return [Partition(kind, start, sectors) for _, _, kind, _, start, sectors in entries if kind and sectors]


def grown(sector: bytes, card_sectors: int) -> bytes:
    """The boot record with its last partition reaching the card's end; unchanged where it does already.

    Raises UserError for a table that is none of ours.
    """
    parts = read(sector)
    if len(parts) != 3 or [one.kind for one in parts] != [FAT, LINUX, LINUX]:
        raise UserError("the card's partition table is not the image's; the data partition stays as it is")
    last = parts[-1]
    sectors = min(card_sectors - last.start, 0xFFFFFFFF) // ALIGN * ALIGN
    if sectors <= last.sectors:
        return sector
    at = ENTRIES + 16 * 2
    return sector[: at + 12] + struct.pack("<I", sectors) + sector[at + 16 :]


def grow_file(path: Path, card_sectors: int) -> int:
    """Let the last partition of a card or an image reach its end; returns its sectors. Raises UserError, OSError."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        before = os.pread(descriptor, SECTOR, 0)
        after = grown(before, card_sectors)
        if after != before:
            os.pwrite(descriptor, after, 0)
            os.fsync(descriptor)
        return read(after)[-1].sectors
    finally:
        os.close(descriptor)

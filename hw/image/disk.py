"""File trees -> one card image, without loop devices, the same bytes from the same trees.

FAT by mtools, ext4 by ``mke2fs -d``. What those write of their own accord (the time of day, random numbers) is given
to them or set afterwards.
"""

import os
import struct
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge import UserError
from edge.files import atomic
from hw.image import table

BOOT_MIB = 256
"""Firmware, kernel, and room for an update that somebody copies there."""
DATA_MIB = 64
"""As written; on the card it grows."""
DATA_MOST_BYTES = 1 << 40
BLOCK = 4096
SLACK_MIB = 24
"""Free space of a root that nobody writes to: what ext4 wants for itself, and a little."""
ERASE = 4 << 20
NAMESPACE = uuid.UUID("7a3bfe0c-2a61-5e0b-9d5c-51a3f0b0c5d1")


@dataclass(frozen=True)
class Ids:
    """The names by which a card's partitions find each other; fixed by what is in the image."""

    seed: str

    def of(self, part: str) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{self.seed} {part}"))

    @property
    def disk(self) -> int:
        return uuid.uuid5(NAMESPACE, f"{self.seed} disk").int & 0xFFFFFFFF

    @property
    def fat(self) -> str:
        """A FAT's number as Linux writes it, ABCD-1234."""
        number = f"{self.disk ^ 0x51424F58:08X}"
        return f"{number[:4]}-{number[4:]}"


def fat(folder: Path, out: Path, mib: int, number: str, epoch: int) -> None:
    """A FAT32 of ``mib`` MiB named QUIETBOX with the files of ``folder``. Raises UserError."""
    _set_times(folder, epoch)
    out.unlink(missing_ok=True)
    with out.open("wb") as file:
        file.truncate(mib << 20)
    environment = {"SOURCE_DATE_EPOCH": str(epoch), "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": "/dev/null"}
    # -H: the partition's place on the card, which the boot sector repeats
    size = ["-T", str(mib << 11), "-h", "255", "-s", "63", "-H", str(table.ALIGN)]
    _run(["mformat", "-i", str(out), "-F", "-v", "QUIETBOX", "-N", number.replace("-", ""), *size, "::"], environment)
    names = sorted(str(path) for path in folder.iterdir())
    _run(["mcopy", "-i", str(out), "-s", "-m", "-Q", *names, "::"], environment)


def ext4(folder: Path, out: Path, size_bytes: int, label: str, number: str, epoch: int, *more: str) -> None:
    """An ext4 with the files of ``folder``; ``more`` goes to mke2fs. Raises UserError."""
    _set_times(folder, epoch)
    out.unlink(missing_ok=True)
    with out.open("wb") as file:
        file.truncate(size_bytes)
    environment = {"E2FSPROGS_FAKE_TIME": str(epoch), "SOURCE_DATE_EPOCH": str(epoch), "MKE2FS_CONFIG": "/dev/null"}
    how = ["-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-I", "256", "-m", "0", "-L", label, "-U", number]
    # checksums of the metadata would have to be made anew after the times are set
    features = "has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file"
    features += ",huge_file,dir_nlink,extra_isize,^metadata_csum,^uninit_bg"
    extended = f"hash_seed={number},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=1"
    options = [*how, "-O", features, "-E", ",".join([extended, *more]), "-d", str(folder), str(out)]
    _run(["mke2fs", *options], environment)
    settle_times(out, epoch)


def bytes_needed(folder: Path) -> int:
    """The size of an ext4 for the files of ``folder``, in whole erase blocks."""
    held = sum(-(-path.lstat().st_size // BLOCK) * BLOCK + 512 for path in folder.rglob("*"))
    return -(-(round(held * 1.02) + (SLACK_MIB << 20)) // ERASE) * ERASE


def settle_times(path: Path, epoch: int) -> None:
    """Set the four times of every inode in use to ``epoch``: mke2fs copies the change time of each file, which nobody
    can set. Layout: kernel's Documentation/filesystems/ext4 (super, group_descr, inodes).
    """
    stamp = struct.pack("<I", epoch)
    with path.open("r+b") as file:
        for at in _inodes(file.fileno()):
            inode = bytearray(os.pread(file.fileno(), 160, at))
            if inode[0:2] == b"\0\0" and inode[26:28] == b"\0\0":
                continue
            inode[8:20] = stamp * 3
            if int.from_bytes(inode[128:130], "little") >= 24:
                inode[132:144] = bytes(12)
                inode[144:152] = stamp + bytes(4)
            os.pwrite(file.fileno(), bytes(inode), at)


def _inodes(descriptor: int) -> Iterator[int]:
    """Where each inode lies."""
    head = os.pread(descriptor, 1024, 1024)
    (inodes,) = struct.unpack_from("<I", head, 0)
    block = 1024 << struct.unpack_from("<I", head, 24)[0]
    (per_group,) = struct.unpack_from("<I", head, 40)
    (size,) = struct.unpack_from("<H", head, 88)
    wide = struct.unpack_from("<I", head, 96)[0] & 0x80
    entry = struct.unpack_from("<H", head, 254)[0] if wide else 32
    first = 1 if block > 1024 else 2
    for group in range(inodes // per_group):
        raw = os.pread(descriptor, entry, first * block + group * entry)
        start = struct.unpack_from("<I", raw, 8)[0] | (struct.unpack_from("<I", raw, 40)[0] << 32 if wide else 0)
        for number in range(per_group):
            yield start * block + number * size


def card(parts: list[tuple[int, Path]], out: Path, disk_id: int) -> None:
    """Partition table and partitions as one sparse file, which replaces ``out`` when it is whole."""
    laid = table.lay_out([(kind, path.stat().st_size) for kind, path in parts])
    with atomic.part_beside(out) as (descriptor, _), os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(table.boot_record(laid, disk_id))
        for place, (_, path) in zip(laid, parts, strict=True):
            _copy_sparse(path, file.fileno(), place.start * table.SECTOR)
        file.truncate((laid[-1].start + laid[-1].sectors) * table.SECTOR)


def _copy_sparse(path: Path, descriptor: int, start: int) -> None:
    with path.open("rb") as source:
        at = start
        while data := source.read(1 << 20):
            if data.strip(b"\0"):
                os.pwrite(descriptor, data, at)
            at += len(data)


def _set_times(folder: Path, epoch: int) -> None:
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def _run(command: list[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed: apt-get install mtools e2fsprogs") from None
    if done.returncode:
        raise UserError(f"{command[0]}: {(done.stderr.strip().splitlines() or ['it gave no reason'])[-1][:200]}")

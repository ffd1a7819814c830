"""The two partitions of a Raspberry Pi OS image, read and written without root and without loop devices.

mtools writes to the FAT partition, debugfs to the ext4 one. Needs the Debian packages mtools and e2fsprogs.
"""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edge import UserError

MADE = "20240101"
"""Every file we put into an image is of this day, so that the same input gives the same image."""
MADE_S = 1704067200
SECTOR = 512
FAT, LINUX, GPT = (0x0B, 0x0C, 0x0E), 0x83, 0xEE
"""Kinds of partition in an MBR."""
SUPERBLOCK = 1024
"""Where an ext4 partition's superblock begins (kernel.org, "ext4 Data Structures and Algorithms", The Super Block)."""
CLEAN, RECOVER = 0x1, 0x4
PACKED = {b"\xfd7zXZ\0": "xz -dk", b"\x1f\x8b": "gunzip -k", b"PK\x03\x04": "unzip", b"\x28\xb5\x2f\xfd": "zstd -d"}
"""How a packed file begins -> what unpacks it."""


@dataclass(frozen=True)
class Partition:
    """A part of an image, in bytes."""

    kind: int
    start: int
    size: int


def look(image: Path) -> tuple[Partition, Partition]:
    """The FAT and the ext4 partition of ``image``. Raises UserError that names what is there instead."""
    if not image.is_file():
        raise UserError(f"{image}: there is no such file")
    with image.open("rb") as disk:
        first = disk.read(SECTOR)
        for magic, tool in PACKED.items():
            if first.startswith(magic):
                raise UserError(f"{image} is packed; unpack it first: {tool} {image}")
        if len(first) < SECTOR or first[510:] != b"\x55\xaa":
            raise UserError(f"{image} has no partition table; expected the image of a whole card")
        found = [
            Partition(
                entry[4],
                int.from_bytes(entry[8:12], "little") * SECTOR,
                int.from_bytes(entry[12:], "little") * SECTOR,
            )
            for entry in (first[at : at + 16] for at in range(446, 510, 16))
            if entry[4]
        ]
        kinds = [partition.kind for partition in found]
        if GPT in kinds:
            raise UserError(f"{image} has a GPT; Raspberry Pi OS has an MBR with a FAT and a Linux partition")
        if len(kinds) != 2 or kinds[0] not in FAT or kinds[1] != LINUX:
            named = ", ".join(f"{kind:#04x}" for kind in kinds) or "none"
            raise UserError(f"{image} holds partitions of the kinds {named}; Raspberry Pi OS holds 0x0c and 0x83")
        end = max(partition.start + partition.size for partition in found)
        if end > image.stat().st_size:
            raise UserError(f"{image} is truncated: {image.stat().st_size} bytes of {end}; fetch it again")
        boot, root = found
        disk.seek(root.start + SUPERBLOCK)
        block = disk.read(SUPERBLOCK)
    if block[56:58] != b"\x53\xef":
        raise UserError(f"{image}: its Linux partition holds no ext4; Raspberry Pi OS has its root in one")
    if int.from_bytes(block[96:100], "little") & RECOVER or not block[58] & CLEAN:
        raise UserError(
            f"{image}: its root was not unmounted cleanly; use a fresh image, or a card that was shut down properly"
        )
    return boot, root


class Fat:
    """The FAT partition of an image, through mtools."""

    def __init__(self, image: Path, partition: Partition) -> None:
        self.image = image
        self._where = f"{image}@@{partition.start}"

    def has(self, name: str) -> bool:
        return call("mdir", "-i", self._where, "-b", f"::{name}").returncode == 0

    def read(self, name: str) -> str:
        """A text file; empty if there is none."""
        done = call("mtype", "-i", self._where, f"::{name}")
        return done.stdout.decode(errors="replace") if done.returncode == 0 else ""

    def put(self, name: str, data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            os.utime(file.name, (MADE_S, MADE_S))
            # -m keeps the day; FAT has no time zones, and TZ decides what is written.
            run("mcopy", "-i", self._where, "-o", "-m", file.name, f"::{name}", variables={"TZ": "UTC"})


class Ext4:
    """The ext4 partition of an image, through debugfs. Paths begin at its root and hold no blanks."""

    def __init__(self, image: Path, partition: Partition) -> None:
        self.image = image
        self._where = f"{image}?offset={partition.start}"

    def read(self, path: str) -> bytes:
        """A file's content; empty if there is none."""
        return call("debugfs", "-R", f"cat {path}", self._where).stdout

    def size(self, path: str) -> int:
        """In bytes; 0 if there is none."""
        found = re.search(r"\bSize: (\d+)", self._stat(path))
        return int(found[1]) if found else 0

    def link(self, path: str) -> str:
        """Where a symbolic link points; empty if it is none."""
        found = re.search(r'Fast link dest: "(.*)"', self._stat(path))
        return found[1] if found else ""

    def free_mb(self) -> int:
        output = call("debugfs", "-R", "show_super_stats -h", self._where).stdout.decode()
        blocks, size = (int(re.findall(rf"(?m)^{name}:\s+(\d+)", output)[0]) for name in ("Free blocks", "Block size"))
        return blocks * size >> 20

    def make_folder(self, path: str) -> None:
        for at in range(2, path.count("/") + 2):
            folder = "/".join(path.split("/")[:at])
            if not self._stat(folder):
                self._do(f"mkdir {folder}")

    def put(self, source: Path, path: str, executable: bool = False) -> None:
        """Write a file of root's, instead of any earlier one."""
        folder, name = path.rsplit("/", 1)
        gone = [f"rm {path}"] if self._stat(path) else []
        mode = f"set_inode_field {path} mode {'0100755' if executable else '0100644'}"
        owner = [f"set_inode_field {path} {who} 0" for who in ("uid", "gid")]
        self._do(*gone, f"cd {folder}", f'write "{source}" {name}', mode, *owner)

    def put_link(self, path: str, target: str) -> None:
        if self.link(path) != target:
            gone = [f"rm {path}"] if self._stat(path) else []
            self._do(*gone, f"symlink {path} {target}")

    def check(self) -> None:
        """Raises UserError if the file system is not sound."""
        done = call("e2fsck", "-fn", self._where)
        if done.returncode:
            output = done.stdout.decode(errors="replace").strip().splitlines()
            last = output[-1] if output else "no reason given"
            raise UserError(f"{self.image}: e2fsck finds errors in its root file system: {last}")

    def _stat(self, path: str) -> str:
        output = call("debugfs", "-R", f"stat {path}", self._where).stdout.decode(errors="replace")
        return output if "Inode:" in output else ""

    def _do(self, *commands: str) -> None:
        """debugfs always ends with 0: what it prints beside its name and version is an error."""
        text = "".join(f"{command}\n" for command in (f"set_current_time {MADE}", *commands))
        done = subprocess.run(
            [tool_path("debugfs"), "-w", "-f", "-", self._where], input=text, capture_output=True, text=True
        )
        output = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("debugfs ")]
        if done.returncode or output:
            raise UserError(f"{self.image}: debugfs: {output[0] if output else 'failed'}")


def check_tools() -> None:
    for command, package in {"mcopy": "mtools", "debugfs": "e2fsprogs", "e2fsck": "e2fsprogs"}.items():
        if not tool_path(command):
            raise UserError(f"this needs {command}: apt-get install {package}")


def tool_path(name: str) -> str:
    """Its path; those that only root has in its own are found as well. Empty if there is none."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def call(*command: str, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [tool_path(command[0]) or command[0], *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C", **(variables or {})},
    )


def run(*command: str, variables: dict[str, str] | None = None) -> str:
    """Its output. Raises UserError with its last line if it fails."""
    done = call(*command, variables=variables)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise UserError(f"{command[0]} failed: {last[-1]}")
    return done.stdout.decode(errors="replace")

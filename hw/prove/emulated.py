"""A copy of the card image, and the emulated Raspberry Pi 3 that it is put into (``qemu-system-aarch64 -M raspi3b``).

The emulator gets the kernel, the initial root and the device tree of the card's own first partition, which the Pi's
firmware would read; it has no firmware itself. What it does not emulate: see ``hw.prove.pi3``.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge import UserError
from hw.image import table

TREE = "bcm2837-rpi-3-b.dtb"
REVISION = "a02082"
SERIAL = "00000000c0ffee01"
ALOUD = "systemd.journald.forward_to_console=1 systemd.journald.max_level_console=notice"
"""Added to the card's own command line, so that a boot that fails shows where."""
UNEMULATED = "modprobe.blacklist=vchiq"
"""The line to the Pi's other processor, which plays the jack: nobody answers there, and the driver stumbles over it."""
CARD_BYTES = 2 << 30
"""The least size of the card: an update needs room for itself beside what comes out of it."""


class Missing(UserError):
    """Something on this machine is missing; the text names it."""


PowerOn = Callable[["Card", Path], list[str]]
"""(card, work folder) -> the command that is the machine."""


@dataclass
class Card:
    """The copy of the image that the emulator runs on."""

    path: Path
    parts: list[table.Partition] = field(default_factory=list)

    def sha256(self, number: int) -> str:
        """Of one partition, 1 to 3."""
        part = self.parts[number - 1]
        total = hashlib.sha256()
        with self.path.open("rb") as file:
            file.seek(part.start * table.SECTOR)
            left = part.sectors * table.SECTOR
            while left and (data := file.read(min(left, 1 << 22))):
                total.update(data)
                left -= len(data)
        return total.hexdigest()

    def data_faults(self, work: Path) -> str:
        """What e2fsck reports of the data partition once its journal has been played; empty if it is whole."""
        with self.path.open("rb") as file:
            part = table.read(file.read(table.SECTOR))[2]
        copy = work / "data.img"
        with self.path.open("rb") as source, copy.open("wb") as target:
            source.seek(part.start * table.SECTOR)
            left = part.sectors * table.SECTOR
            while left and (data := source.read(min(left, 1 << 22))):
                if data.strip(b"\0"):
                    target.write(data)
                else:
                    target.seek(len(data), 1)
                left -= len(data)
            target.truncate(part.sectors * table.SECTOR)
        played = run(["e2fsck", "-p", str(copy)], check=False)
        after = run(["e2fsck", "-fn", str(copy)], check=False)
        copy.unlink()
        if played.returncode > 1 or after.returncode:
            return (played.stdout + after.stdout).strip()[-200:]
        return ""

    def into_root(self, files: dict[str, bytes], links: dict[str, str], work: Path) -> None:
        """Write files into the second partition of the copy."""
        part = self.parts[1]
        root = work / "root.img"
        copy_range(self.path, root, part)
        lines = []
        for number, (name, data) in enumerate(files.items()):
            held = work / f"file{number}"
            held.write_bytes(data)
            lines += [f"write {held} {name}", f"set_inode_field {name} mode 0100755"]
        lines += [f"symlink {name} {target}" for name, target in links.items()]
        script = work / "debugfs"
        script.write_text("\n".join(lines) + "\n")
        run(["debugfs", "-w", "-f", str(script), str(root)])
        with root.open("rb") as source, self.path.open("r+b") as target:
            target.seek(part.start * table.SECTOR)
            shutil.copyfileobj(source, target, 1 << 22)
        root.unlink()

    def from_boot(self, name: str, target: Path) -> None:
        run(["mcopy", "-n", "-i", self.mtools(), f"::{name}", str(target)])

    def to_boot(self, source: Path, name: str) -> None:
        run(["mcopy", "-o", "-i", self.mtools(), str(source), f"::{name}"])

    def mtools(self) -> str:
        return f"{self.path}@@{self.parts[0].start * table.SECTOR}"


class Emulator:
    """One power-on."""

    def __init__(self, command: list[str], work: Path) -> None:
        """``command`` keeps its console in ``work/console.log``, and a monitor, if it has one, in ``work/monitor``."""
        self.console, self.socket = work / "console.log", work / "monitor"
        self.began_s = time.monotonic()
        self.console.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        self.log = (work / "emulator.log").open("w")
        quiet = {"stdin": subprocess.DEVNULL, "stdout": self.log, "stderr": self.log}
        self.process = subprocess.Popen(command, start_new_session=True, **quiet)  # type: ignore[call-overload]

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began_s

    def output(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def wait(self, until: Callable[[str], bool], limit_s: float) -> bool:
        """Whether ``until`` held of the console within the limit, since power-on."""
        while self.seconds < limit_s and self.process.poll() is None:
            if until(self.output()):
                return True
            time.sleep(2)
        return until(self.output())

    def words(self, address: int) -> int | None:
        """A register of the Pi's, read from outside."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as link:
            link.settimeout(3)
            link.connect(str(self.socket))
            self._answer(link)
            link.sendall(f"xp /1wx {address:#x}\n".encode())
            found = re.search(r": (0x[0-9a-f]+)", self._answer(link))
            return int(found[1], 16) if found else None
        return None

    def _answer(self, link: socket.socket) -> str:
        received = b""
        while not received.endswith(b"(qemu) "):
            data = link.recv(65536)
            if not data:
                break
            received += data
        return received.decode(errors="replace")

    def cut(self) -> None:
        """The power goes: nothing is written any more."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


def run(command: list[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        packages = "qemu-system-arm mtools device-tree-compiler e2fsprogs"
        raise Missing(f"{command[0]} is not installed: apt-get install {packages}") from None
    if check and done.returncode:
        raise UserError(f"{' '.join(command)[:120]}: {(done.stderr or done.stdout).strip()[-200:]}")
    return done


def prepare(image: Path, work: Path) -> Card:
    """A copy of the image on a larger card, and beside it what the Pi's firmware would have read and made."""
    if shutil.which("qemu-system-aarch64") is None:
        raise Missing("qemu-system-aarch64 is not installed: apt-get install qemu-system-arm")
    card = Card(work / "card.img")
    run(["cp", "--sparse=always", str(image), str(card.path)])
    size = max(CARD_BYTES, 1 << (image.stat().st_size - 1).bit_length())  # the emulator takes powers of two only
    with card.path.open("r+b") as file:
        card.parts = table.read(file.read(table.SECTOR))
        file.truncate(size)
    if len(card.parts) != 3:
        raise UserError(f"{image} has {len(card.parts)} partitions; it is not an image of hw/image/build")
    for name in ("vmlinuz", "initrd.gz", "cmdline.txt"):
        card.from_boot(name, work / name)
    tree = work / "pi.dtb"
    card.from_boot(TREE, tree)
    run(["fdtput", "-cp", str(tree), "/system"], check=False)
    run(["fdtput", "-t", "x", str(tree), "/system", "linux,revision", REVISION])
    run(["fdtput", "-t", "s", str(tree), "/", "serial-number", SERIAL])
    run(["fdtput", "-r", str(tree), "/soc/serial@7e201000/bluetooth"], check=False)  # else the line to us is its
    return card


def qemu(card: Card, work: Path, more: tuple[str, ...] = ()) -> list[str]:
    """The command that is a Pi 3 with ``card`` in it, and ``more`` of the emulator's own words."""
    line = (work / "cmdline.txt").read_text().strip()
    command = [
        "qemu-system-aarch64",
        "-M",
        "raspi3b",
        "-display",
        "none",
        "-no-reboot",
        "-append",
        f"{line} {ALOUD} {UNEMULATED}",
    ]
    for option, name in (("-kernel", "vmlinuz"), ("-initrd", "initrd.gz"), ("-dtb", "pi.dtb")):
        command += [option, str(work / name)]
    command += ["-drive", f"file={card.path},if=sd,format=raw,cache=writethrough"]
    command += [
        "-serial",
        f"file:{work}/console.log",
        "-serial",
        "null",
        "-monitor",
        f"unix:{work}/monitor,server,nowait",
    ]
    return [*command, *more]


def copy_range(source: Path, target: Path, part: table.Partition) -> None:
    with source.open("rb") as file, target.open("wb") as out:
        file.seek(part.start * table.SECTOR)
        left = part.sectors * table.SECTOR
        while left and (data := file.read(min(left, 1 << 22))):
            out.write(data)
            left -= len(data)

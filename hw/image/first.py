"""What a card does once in a board: fills the card with its data partition and finds out what is plugged in.

python -m hw.image.first grow     before /data is mounted, at every boot: cheap, and a new card is grown anew
python -m hw.image.first look     after it, until it has been done for this board
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from edge import UserError, files
from edge.console import run_main
from hw.image import found, settings, table
from hw.image.versions import warn
from hw.install import ledger

BOARD = Path("/data/settings/board")
"""The serial number of the board that was looked at."""
MOST_NUMBER_BYTES = 4096
SOUND_S = 10.0
"""USB sound cards are there a few seconds after power-on."""
BLKPG, RESIZE = 0x1269, 3
"""linux/blkpg.h: the kernel's ioctl for partitions, and resizing one of them while it may be in use."""


def grow() -> None:
    """Data partition up to the card's end, in the table and in the kernel; the file system follows when mounted."""
    disk, name = disk_of_root()
    card_sectors = int(Path(f"/sys/class/block/{name}/size").read_text())
    sectors = table.grow_file(disk, card_sectors)
    with disk.open("rb") as file:
        last = table.read(file.read(table.SECTOR))[-1]
        separator = "p" if name[-1].isdigit() else ""
        known = Path(f"/sys/class/block/{name}{separator}3/size")
        if known.exists() and int(known.read_text()) == sectors:
            return
        part = struct.pack("qqi64s64s4x", last.start * table.SECTOR, sectors * table.SECTOR, 3, b"", b"")
        _tell_kernel(file.fileno(), part)
    print(f"the data partition now has {sectors * table.SECTOR >> 20} MiB", flush=True)


def _tell_kernel(descriptor: int, part: bytes) -> None:
    """The ioctl takes a pointer to ``part``."""
    held = ctypes.create_string_buffer(part)
    fcntl.ioctl(descriptor, BLKPG, struct.pack("iiiP", RESIZE, 0, len(part), ctypes.addressof(held)))


def disk_of_root() -> tuple[Path, str]:
    """(/dev/mmcblk0, mmcblk0): the card that / is on."""
    device = os.stat("/").st_dev
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if not (folder / "partition").exists():
        raise UserError("/ is not a partition of a card; the data partition stays as it is")
    return Path("/dev", folder.parent.name), folder.parent.name


def look() -> None:
    """Wait for the sound cards, note what the settings should say, and say it."""
    board = found.serial() or "unknown"
    if _looked_at() == board:
        return
    subprocess.run(["udevadm", "settle", f"--timeout={SOUND_S:.0f}"], check=False)
    until = time.monotonic() + SOUND_S
    while not list(Path("/proc/asound").glob("card[0-9]*")) and time.monotonic() < until:
        time.sleep(0.2)
    values = found.look()
    if words := found.conflict():
        warn(words)
    settings.FOUND.parent.mkdir(parents=True, exist_ok=True)
    ledger.write(settings.FOUND, found.as_toml(values).encode())
    ledger.write(BOARD, f"{board}\n".encode())
    chosen = [f"[{name}] {key} = {value}" for name, keys in values.items() for key, value in keys.items()]
    print(
        f"first boot of {socket.gethostname()}: {', '.join(chosen) or 'the box selects its cards itself'}", flush=True
    )


def _looked_at() -> str:
    """The serial number that was noted; empty where there is none, or none that can be read."""
    try:
        return files.read_bounded(BOARD, MOST_NUMBER_BYTES).decode(errors="replace").strip()
    except (OSError, UserError):
        return ""


def main() -> int:
    """Returns 0: a card that cannot be grown or looked at starts all the same."""
    try:
        {"grow": grow, "look": look}[sys.argv[1]]()
    except UserError as error:
        warn(str(error))
    except OSError as error:
        warn(f"first boot, {sys.argv[1]}: {error.filename or 'the card'}: {error.strerror}")
    except Exception as error:  # a partition table may hold anything
        warn(f"first boot, {sys.argv[1]}: {error!r}")
    return 0


if __name__ == "__main__":
    run_main(main, "first boot", if_lost=0)

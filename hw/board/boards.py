"""Which board this is and its condition, read from the files the kernel shows.

Needs nothing but Python, so the installer asks it before anything is installed: ``python3 -m hw.board.boards`` prints
sentences, ``--json`` the facts, ``--gpio-package`` (with ``--why``) the GPIO library that suits the board. Every
function takes the root of the file tree it looks at. Nothing here raises: what cannot be read is not known.
"""

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.console import run_main
from hw.board import models
from hw.board.bootconfig import PLACES
from hw.board.models import UNKNOWN, Model

ROOT = Path("/")
MOST_BYTES = 65_536
"""No file looked at here is longer; what claims to be is cut."""
LGPIO_FROM = (6, 6)
"""From this kernel on the old GPIO interface in /sys, which RPi.GPIO's edges need, is gone or renumbered."""
HOT_C = 80.0
"""Above this the firmware slows the processor (Raspberry Pi documentation, frequency and thermal control)."""
THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of get_throttled for "now"; 16 higher for "since it was last cleared" (Raspberry Pi documentation, vcgencmd)."""


@dataclass(frozen=True)
class Board:
    """One machine. ``kind.jack`` and ``kind.usb_device`` are None where nobody can know."""

    is_pi: bool
    model: str
    """As the device tree (elsewhere the BIOS) calls it; empty if nothing does."""
    kind: Model
    revision: int
    """The revision code; 0 if there is none."""
    kernel: str
    kernel_bits: int
    """64 or 32; 0 if not known."""
    userland_bits: int
    """What programs and wheels must be made for: 64 or 32; 0 if not known."""
    memory_mb: int
    config_txt: Path | None
    """What the firmware reads at power-on; None if there is none."""


def this_board(root: Path = ROOT) -> Board:
    """The machine whose files lie under ``root``."""
    tree = _first_folder(root / "proc/device-tree", root / "sys/firmware/devicetree/base")
    compatible = _text(tree / "compatible").split("\0")
    model = _line(tree / "model")
    is_pi = any(name.startswith("raspberrypi,") for name in compatible) or model.startswith("Raspberry Pi")
    revision = _revision(root, tree) if is_pi else 0
    kind = (models.by_revision(revision) or models.by_model_line(model) or UNKNOWN) if is_pi else UNKNOWN
    return Board(
        is_pi=is_pi,
        model=model or _line(root / "sys/class/dmi/id/product_name"),
        kind=kind,
        revision=revision,
        kernel=_line(root / "proc/sys/kernel/osrelease"),
        kernel_bits=_kernel_bits(root),
        userland_bits=_userland_bits(root),
        memory_mb=_memory_mb(root),
        config_txt=_config_txt(root) if is_pi else None,
    )


def in_words(board: Board) -> Iterator[str]:
    """What there is to know of a board, one sentence a line."""
    if not board.is_pi:
        yield f"This is not a Raspberry Pi{f' but {board.model}' if board.model else ''}."
    else:
        yield f"This is a {board.model or 'Raspberry Pi of unknown model'}{_generation(board)}."
        yield {
            True: "It has a headphone jack.",
            False: "It has no headphone jack: sound leaves through a USB headset, a USB dongle or an I2S DAC.",
            None: "Whether it has a headphone jack depends on the carrier board.",
        }[board.kind.jack]
        yield {
            True: "It has a USB port with device mode: the box can be a microphone for a PC.",
            False: "None of its USB ports has device mode.",
            None: "Whether a USB port has device mode depends on the carrier board.",
        }[board.kind.usb_device]
        where = f"{board.config_txt}" if board.config_txt else "in an unknown place"
        yield f"The firmware's config.txt is {where}."
    bits = f"{board.kernel_bits or 'unknown'}-bit kernel {board.kernel or 'of unknown version'}"
    yield f"It runs a {bits} with {board.userland_bits or 'unknown'}-bit programs and {board.memory_mb} MB of memory."


def health_in_words(root: Path = ROOT) -> Iterator[str]:
    """How the board fares now, one sentence a line."""
    governor = ", ".join(governors(root))
    yield f"The processor's governor is {governor}." if governor else "The processor has no frequency governor."
    warmth = temperature_c(root)
    yield "The temperature is not known." if warmth is None else f"The processor is at {warmth:.0f} °C."
    fault = throttling(root)
    yield f"The board reports: {fault}." if fault else "The board reports no problem of power or heat."


def gpio_package(board: Board) -> tuple[str, str]:
    """(package on PyPI, why): both bring the module ``RPi.GPIO``, so only one of them can be installed."""
    if not board.is_pi:
        return "rpi-lgpio", "not a Raspberry Pi: only the kernel's own GPIO interface is possible"
    if board.kind is not UNKNOWN and not board.kind.gpio_by_registers:
        return "rpi-lgpio", "the pins of a Pi 5 are on another chip, which RPi.GPIO does not support"
    version = _version(board.kernel)
    if version >= LGPIO_FROM:
        return "rpi-lgpio", f"Linux {board.kernel}: RPi.GPIO's edges fail from {LGPIO_FROM[0]}.{LGPIO_FROM[1]} on"
    if board.kind is UNKNOWN or version == (0, 0):
        return "rpi-lgpio", "board or kernel is not known: the kernel's own GPIO interface works on all of them"
    return "RPi.GPIO", f"Pi {board.kind.name} with Linux {board.kernel}: the original works and needs no compiler"


def governors(root: Path = ROOT) -> tuple[str, ...]:
    """What decides the speed of the processors, each once; empty if nothing does."""
    found = _glob(root, "sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")
    return tuple(sorted({name for path in found if (name := _line(path))}))


def temperature_c(root: Path = ROOT) -> float | None:
    """The processor's temperature; None if no sensor tells it."""
    zones = _glob(root, "sys/class/thermal/thermal_zone*/temp")
    zones.sort(key=lambda path: ("cpu" not in _line(path.with_name("type")), path))
    for zone in zones:
        text = _line(zone)
        if re.fullmatch(r"-?\d{1,7}", text) and -60 < int(text) / 1000 < 200:
            return int(text) / 1000
    return None


def throttling(root: Path = ROOT, bits: int | None = None) -> str:
    """What the firmware complains of, as "under-voltage now, throttled earlier"; empty if of nothing.

    ``bits``: the firmware's own word, where somebody has asked for it (``vcgencmd get_throttled``). Else under-voltage
    is what the rpi_volt sensor shows (raised for two seconds after each dip) and heat what the thermometer shows. The
    word is in /sys as well, but the kernel answers its first reader of each boot with a warning and a stack trace
    in the log (drivers/firmware/raspberrypi.c): it is read only where there is no sensor.
    """
    alarm = _voltage_alarm(root)
    if bits is None:
        bits = _throttled_bits(root) if alarm is None else 0
    words = [f"{word} now" for bit, word in THROTTLED.items() if bits >> bit & 1]
    words += [f"{word} earlier" for bit, word in THROTTLED.items() if bits >> (bit + 16) & 1 and not bits >> bit & 1]
    if alarm and not bits & 1:
        words.insert(0, "under-voltage now")
    warmth = temperature_c(root)
    if not bits and warmth is not None and warmth >= HOT_C and this_board(root).is_pi:
        words.append(f"throttled by heat ({warmth:.0f} °C)")
    return ", ".join(words)


def hat_products(root: Path = ROOT) -> tuple[str, ...]:
    """What the HATs on the header call themselves in their EEPROMs; empty if none does."""
    found = [_line(path) for path in _glob(root, "proc/device-tree/hat*/product")]
    return tuple(dict.fromkeys(name for name in found if name))


def beside(config_txt: Path) -> Callable[[str], str]:
    """Reads the files that ``config_txt`` includes, as far as the firmware would."""
    return lambda name: _text(config_txt.parent / name)


def config_text(board: Board) -> str:
    """The board's config.txt; empty where there is none."""
    return _text(board.config_txt) if board.config_txt else ""


def texts(root: Path, *patterns: str) -> Iterator[tuple[Path, str]]:
    """The beginnings of the plain files that match ``patterns``, sorted."""
    for path in (path for pattern in patterns for path in _glob(root, pattern)):
        yield path, _text(path)


# The parts of a board.


def _generation(board: Board) -> str:
    return f" (kind {board.kind.name}, generation {board.kind.generation})" if board.kind.name else " (kind unknown)"


def _revision(root: Path, tree: Path) -> int:
    """The code in the device tree (four bytes, big end first) or in /proc/cpuinfo."""
    raw = _bytes(tree / "system/linux,revision")
    if len(raw) == 4:
        return int.from_bytes(raw, "big")
    match = re.search(r"^Revision\s*:\s*([0-9a-fA-F]{1,8})\s*$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return int(match[1], 16) if match else 0


def _kernel_bits(root: Path) -> int:
    """/proc/sys/kernel/arch came with Linux 6.1; before it only the running kernel can be asked."""
    machine = _line(root / "proc/sys/kernel/arch") or (os.uname().machine if root == ROOT else "")
    return 0 if not machine else 64 if "64" in machine or machine == "s390x" else 32


def _userland_bits(root: Path) -> int:
    """The fifth byte of an ELF file: 1 for 32 bits, 2 for 64. A shell every system has."""
    for name in ("bin/sh", "usr/bin/dash", "bin/busybox"):
        head = _bytes(root / name)[:5]
        if head[:4] == b"\x7fELF":
            return {1: 32, 2: 64}.get(head[4] if len(head) > 4 else 0, 0)
    return 0


def _memory_mb(root: Path) -> int:
    match = re.search(r"^MemTotal:\s*(\d{1,15}) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return round(int(match[1]) / 1024) if match else 0


def _config_txt(root: Path) -> Path | None:
    """Since Debian 12 the firmware's partition lies on /boot/firmware; /boot/config.txt is then only a signpost."""
    for name in PLACES:
        try:
            if (root / name).is_file():
                return root / name
        except (OSError, ValueError):
            continue
    return None


def _version(kernel: str) -> tuple[int, int]:
    """(6, 6) of "6.6.31+rpt-rpi-v8"; (0, 0) of anything else."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})", kernel)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _voltage_alarm(root: Path) -> bool | None:
    """Whether the rpi_volt sensor is raised; None if there is no such sensor."""
    for name in _glob(root, "sys/class/hwmon/hwmon*/name"):
        if _line(name) == "rpi_volt":
            text = _line(name.with_name("in0_lcrit_alarm"))
            if text in ("0", "1"):
                return text == "1"
    return None


def _throttled_bits(root: Path) -> int:
    """get_throttled, hexadecimal without 0x; 0 if there is none."""
    for path in _glob(root, "sys/devices/platform/soc*/*firmware/get_throttled"):
        text = _line(path).removeprefix("0x")
        if re.fullmatch(r"[0-9a-fA-F]{1,8}", text):
            return int(text, 16)
    return 0


# Reading what may be anything.


def _bytes(path: Path) -> bytes:
    """The beginning of a file; nothing if it cannot be read. Never waits, whatever lies there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(descriptor, MOST_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _text(path: Path) -> str:
    return _bytes(path).decode(errors="replace")


def _line(path: Path) -> str:
    """The first line, without the zero byte that ends texts of the device tree and without what cannot be printed."""
    lines = _text(path).replace("\0", "\n").splitlines()
    return "".join(sign for sign in lines[0] if sign.isprintable()).strip()[:200] if lines else ""


def _glob(root: Path, pattern: str) -> list[Path]:
    try:
        return sorted(root.glob(pattern))
    except (OSError, ValueError, RuntimeError):  # a loop of links
        return []


def _first_folder(*folders: Path) -> Path:
    """The first that is there, else the first."""
    for folder in folders:
        try:
            if folder.is_dir():
                return folder
        except (OSError, ValueError):
            continue
    return folders[0]


def facts(root: Path = ROOT) -> dict[str, object]:
    """What the installer asks for, ready for JSON. ``jack`` and ``usb_gadget`` are null where the carrier decides."""
    board = this_board(root)
    package, why = gpio_package(board)
    return {
        **{name: value for name, value in dataclasses.asdict(board).items() if name != "kind"},
        "kind": board.kind.name,
        "generation": board.kind.generation,
        "jack": board.kind.jack if board.is_pi else False,
        "usb_gadget": board.kind.usb_device if board.is_pi else False,
        "bits": board.userland_bits,
        "config_txt": str(board.config_txt) if board.config_txt else None,
        "gpio_package": package,
        "gpio_why": why,
        "governors": governors(root),
        "temperature_c": temperature_c(root),
        "throttling": throttling(root),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print what is asked for; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python3 -m hw.board.boards", description="Which board this is, and its condition."
    )
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help="root of the file tree to examine (/)")
    parser.add_argument("--json", action="store_true", help="the facts as JSON")
    parser.add_argument("--gpio-package", action="store_true", help="only the GPIO library that suits the board")
    parser.add_argument("--why", action="store_true", help="only the reason for that choice")
    options = parser.parse_args(arguments)
    package, why = gpio_package(this_board(options.root))
    if options.gpio_package or options.why:
        print("\n".join([package] * options.gpio_package + [why] * options.why))
    elif options.json:
        print(json.dumps(facts(options.root), indent=2))
    else:
        print("\n".join([*in_words(this_board(options.root)), *health_in_words(options.root)]))
        print(f"For GPIO it needs {package} ({why}).")
    return 0


if __name__ == "__main__":
    run_main(main, "boards")

"""Boards as their files show them. Models, revision codes and compatible names are those of the documentation of
Raspberry Pi ("Revision codes", "Device tree"); nothing here was read off a board.
"""

import ast
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import put

from hw.board import boards
from hw.board.boards import (
    facts,
    governors,
    gpio_package,
    health_in_words,
    in_words,
    temperature_c,
    this_board,
    throttling,
)
from hw.board.models import UNKNOWN

PI_4 = ("Raspberry Pi 4 Model B Rev 1.4", "raspberrypi,4-model-b\0brcm,bcm2711", 0xC03114)


def write(root: Path, name: str, content: str | bytes) -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def board_tree(
    root: Path, model: str, compatible: str, revision: int, kernel: str = "6.1.0-rpi7", arch: str = "aarch64"
) -> Path:
    """The files of a board; texts of the device tree end with a zero byte, its numbers have the big end first."""
    write(root, "proc/device-tree/model", f"{model}\0")
    write(root, "proc/device-tree/compatible", f"{compatible}\0")
    if revision:
        write(root, "proc/device-tree/system/linux,revision", revision.to_bytes(4, "big"))
    write(root, "proc/sys/kernel/osrelease", f"{kernel}\n")
    write(root, "proc/sys/kernel/arch", f"{arch}\n")
    write(root, "proc/meminfo", "MemTotal:        3885396 kB\nMemFree:         3000000 kB\n")
    write(root, "bin/sh", b"\x7fELF" + bytes([2 if "64" in arch else 1]))
    return root


@pytest.mark.parametrize(
    ("model", "compatible", "revision", "kind", "jack", "usb"),
    [
        ("Raspberry Pi Model B Plus Rev 1.2", "raspberrypi,model-b-plus\0brcm,bcm2835", 0x0010, "1B+", True, False),
        ("Raspberry Pi Model B Plus Rev 1.2", "raspberrypi,model-b-plus\0brcm,bcm2835", 0x900032, "1B+", True, False),
        ("Raspberry Pi 2 Model B Rev 1.1", "raspberrypi,2-model-b\0brcm,bcm2836", 0xA01041, "2B", True, False),
        ("Raspberry Pi 3 Model B Rev 1.2", "raspberrypi,3-model-b\0brcm,bcm2837", 0xA02082, "3B", True, False),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "raspberrypi,3-model-b-plus", 0xA020D3, "3B+", True, False),
        ("Raspberry Pi 3 Model A Plus Rev 1.0", "raspberrypi,3-model-a-plus", 0x9020E0, "3A+", True, False),
        (*PI_4, "4B", True, True),
        ("Raspberry Pi 400 Rev 1.0", "raspberrypi,400\0brcm,bcm2711", 0xC03130, "400", False, True),
        ("Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b\0brcm,bcm2712", 0xC04170, "5", False, True),
        ("Raspberry Pi 500 Rev 1.0", "raspberrypi,500\0brcm,bcm2712", 0xD04190, "500", False, True),
        ("Raspberry Pi Zero Rev 1.3", "raspberrypi,model-zero\0brcm,bcm2835", 0x900093, "Zero", False, True),
        ("Raspberry Pi Zero W Rev 1.1", "raspberrypi,model-zero-w", 0x9000C1, "Zero W", False, True),
        ("Raspberry Pi Zero 2 W Rev 1.0", "raspberrypi,model-zero-2-w", 0x902120, "Zero 2 W", False, True),
        ("Raspberry Pi Compute Module 4 Rev 1.0", "raspberrypi,4-compute-module", 0xC03140, "CM4", None, None),
        ("Raspberry Pi Compute Module 5 Rev 1.0", "raspberrypi,5-compute-module", 0xC04180, "CM5", None, None),
        ("Raspberry Pi 3 Model B Plus", "raspberrypi,3-model-b-plus", 0, "3B+", True, False),
        ("Raspberry Pi Zero 2 W", "raspberrypi,model-zero-2-w", 0, "Zero 2 W", False, True),
        ("Raspberry Pi 4 Model B", "raspberrypi,4-model-b", 0, "4B", True, True),
        ("Raspberry Pi 7 Model Z Rev 1.0", "raspberrypi,7-model-z", 0, "", None, None),
        ("Raspberry Pi 7 Model Z Rev 1.0", "raspberrypi,7-model-z", 0xF0FFF0, "", None, None),
    ],
)
def test_every_model(
    tmp_path: Path, model: str, compatible: str, revision: int, kind: str, jack: bool | None, usb: bool | None
) -> None:
    board = this_board(board_tree(tmp_path, model, compatible, revision))
    assert board.is_pi and board.model == model and board.revision == revision
    assert (board.kind.name, board.kind.jack, board.kind.usb_device) == (kind, jack, usb)
    words = list(in_words(board))
    assert model in words[0] and all(line.endswith(".") and "\n" not in line for line in words)


def test_kernel_programs_memory_and_config(tmp_path: Path) -> None:
    board_tree(tmp_path, *PI_4)
    write(tmp_path, "bin/sh", b"\x7fELF\x01")  # 32-bit Raspberry Pi OS on a 64-bit kernel
    board = this_board(tmp_path)
    assert (board.kernel, board.kernel_bits, board.userland_bits, board.memory_mb) == ("6.1.0-rpi7", 64, 32, 3794)
    assert board.config_txt is None
    old = write(tmp_path, "boot/config.txt", "")
    assert this_board(tmp_path).config_txt == old
    new = write(tmp_path, "boot/firmware/config.txt", "")
    assert this_board(tmp_path).config_txt == new


def test_32_bit_kernel(tmp_path: Path) -> None:
    board = this_board(board_tree(tmp_path, *PI_4, arch="armv7l"))
    assert (board.kernel_bits, board.userland_bits) == (32, 32)


def test_no_pi(tmp_path: Path) -> None:
    assert not this_board(tmp_path).is_pi
    write(tmp_path, "sys/class/dmi/id/product_name", "ThinkPad\n")
    board = this_board(tmp_path)
    assert not board.is_pi and board.kind == UNKNOWN
    assert next(in_words(board)) == "This is not a Raspberry Pi but ThinkPad."
    reported = facts(tmp_path)
    assert (reported["jack"], reported["usb_gadget"], reported["config_txt"]) == (False, False, None)


def test_no_pi_but_a_device_tree(tmp_path: Path) -> None:
    board = this_board(board_tree(tmp_path, "Radxa ROCK 4SE", "radxa,rock-4se\0rockchip,rk3399", 0))
    assert not board.is_pi and board.model == "Radxa ROCK 4SE" and board.config_txt is None


@pytest.mark.parametrize(
    ("model", "revision", "kernel", "package"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4", 0xC03114, "6.1.21-v8+", "RPi.GPIO"),
        ("Raspberry Pi 4 Model B Rev 1.4", 0xC03114, "6.6.31+rpt-rpi-v8", "rpi-lgpio"),
        ("Raspberry Pi 4 Model B Rev 1.4", 0xC03114, "6.12.25+rpt-rpi-v8", "rpi-lgpio"),
        ("Raspberry Pi 5 Model B Rev 1.0", 0xC04170, "6.1.63-v8-16k+", "rpi-lgpio"),
        ("Raspberry Pi 7 Model Z", 0, "6.1.63", "rpi-lgpio"),
        ("Raspberry Pi 3 Model B Rev 1.2", 0xA02082, "odd", "rpi-lgpio"),
    ],
)
def test_gpio_package(tmp_path: Path, model: str, revision: int, kernel: str, package: str) -> None:
    found, why = gpio_package(this_board(board_tree(tmp_path, model, "raspberrypi,x", revision, kernel)))
    assert found == package and why and "\n" not in why


def test_gpio_package_off_the_pi(tmp_path: Path) -> None:
    assert gpio_package(this_board(tmp_path))[0] == "rpi-lgpio"


def test_governors_each_once(tmp_path: Path) -> None:
    assert governors(tmp_path) == ()
    for cpu, name in enumerate(("ondemand", "ondemand", "performance")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", f"{name}\n")
    assert governors(tmp_path) == ("ondemand", "performance")


def test_temperature_is_the_processors(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "pmic\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "33000\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/type", "cpu-thermal\n")
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "47712\n")
    assert temperature_c(tmp_path) == pytest.approx(47.712)
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", "999999999\n")
    assert temperature_c(tmp_path) == 33.0
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "warm\n")
    assert temperature_c(tmp_path) is None


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        ("0", ""),
        ("50005", "under-voltage now, throttled now"),
        ("50000", "under-voltage earlier, throttled earlier"),
        ("0x20002", "frequency capped now"),
        ("80008", "soft temperature limit now"),
        ("d0001", "under-voltage now, throttled earlier, soft temperature limit earlier"),
        ("rubbish", ""),
    ],
)
def test_throttling_in_words(tmp_path: Path, bits: str, words: str) -> None:
    """Bits by the documentation of vcgencmd, the file by drivers/firmware/raspberrypi.c."""
    write(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", f"{bits}\n")
    assert throttling(tmp_path) == words


def test_sensor_speaks_first_and_the_bits_are_left_alone(tmp_path: Path) -> None:
    """Reading get_throttled makes the kernel complain in its log, so it is not read where there is rpi_volt."""
    write(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "40004\n")
    write(tmp_path, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    write(tmp_path, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    alarm = write(tmp_path, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
    assert throttling(tmp_path) == ""
    alarm.write_text("1\n")
    assert throttling(tmp_path) == "under-voltage now"
    assert throttling(tmp_path, 0x40004) == "under-voltage now, throttled now"
    assert throttling(tmp_path, 0x50005) == "under-voltage now, throttled now"


def test_heat_is_told_where_no_bits_are(tmp_path: Path) -> None:
    board_tree(tmp_path, *PI_4)
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "82400\n")
    assert throttling(tmp_path) == "throttled by heat (82 °C)"
    assert "The board reports: throttled by heat (82 °C)." in list(health_in_words(tmp_path))


NAMES = [
    "proc/device-tree/model",
    "proc/device-tree/compatible",
    "proc/device-tree/system/linux,revision",
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/sys/kernel/osrelease",
    "proc/sys/kernel/arch",
    "bin/sh",
    "boot/firmware/config.txt",
    "sys/class/thermal/thermal_zone0/temp",
    "sys/class/hwmon/hwmon0/name",
    "sys/class/hwmon/hwmon0/in0_lcrit_alarm",
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
]
CONTENTS = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"rpi_volt",
            b"1",
            b"ffffffff",
            b"\x7fELF",
            b"\x7fELF\x09",
            b"Raspberry Pi ",
            b"raspberrypi,",
            b"9" * 400,
            b"Revision : fffffff",
            b"MemTotal: 999999999999999 kB",
            "٣٣٠٠٠".encode(),
        ]
    ),
    st.sampled_from(["folder", "loop", "pipe", "secret", "nowhere"]),
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), CONTENTS))
def test_whatever_lies_there_is_answered(files: dict[str, bytes | str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, content in files.items():
            put(root / name, content)
        reported = facts(root)
        assert json.dumps(reported)
        assert all(line.endswith(".") and line.isprintable() for line in in_words(this_board(root)))
        assert all(line.isprintable() for line in health_in_words(root))


def test_runs_before_anything_is_installed(tmp_path: Path) -> None:
    """`python3 -m hw.board.boards` from the checkout: no site-packages, no warnings, one line for a shell."""
    board_tree(tmp_path, *PI_4, kernel="6.12.25+rpt-rpi-v8")
    where = Path(boards.__file__).parents[2]

    def said(*arguments: str) -> str:
        order = [sys.executable, "-S", "-m", "hw.board.boards", "--root", str(tmp_path), *arguments]
        return subprocess.run(order, cwd=where, capture_output=True, text=True, check=True).stdout

    assert said("--gpio-package") == "rpi-lgpio\n"
    assert said("--why").startswith("Linux 6.12.25+rpt-rpi-v8: ")
    assert json.loads(said("--json"))["jack"] is True
    assert "This is a Raspberry Pi 4 Model B Rev 1.4 (kind 4B, generation 4)." in said()


def test_needs_only_python() -> None:
    tree = ast.parse(Path(boards.__file__).read_text())
    froms = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imports = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    ours = {name for name in (*froms, *imports) if name and name.split(".")[0] not in sys.stdlib_module_names}
    assert ours <= {"hw.board", "hw.board.models", "hw.board.bootconfig", "edge.console"}  # which need only Python, too

"""The board: power and heat, processor clock, storage, light and button."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from edge import runtime
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import FAIL, OK, WARN, Finding
from hw.board import boards, pins
from hw.board.panel import describe

HOT_C = 75.0
FREE_MB = 100
SLOW_GOVERNORS = ("ondemand", "conservative", "powersave")


def board_in_words(context: Context) -> Iterator[Finding]:
    yield Finding("board", OK, " ".join(boards.in_words(context.board)), figures=boards.facts(context.root))


def power_and_heat(context: Context) -> Iterator[Finding]:
    problem = boards.throttling(context.root, _firmware_bits() if context.here else None)
    warmth = boards.temperature_c(context.root)
    figures = {"temperature_c": warmth, "throttling": problem}
    words = "temperature unknown" if warmth is None else f"{warmth:.0f} °C"
    if problem:
        fix = "use the official power supply and a short thick cable" if "voltage" in problem else "cool the board"
        yield Finding("power and heat", WARN, f"{words}, {problem}", fix, figures)
    elif warmth is not None and warmth >= HOT_C:
        fix = "cool the board: it throttles from 80 °C"
        yield Finding("power and heat", WARN, words, fix, figures)
    else:
        yield Finding("power and heat", OK, f"{words}, the board reports no problem", figures=figures)


def governor(context: Context) -> Iterator[Finding]:
    names = boards.governors(context.root)
    figures = {"governors": list(names)}
    if slow := [name for name in names if name in SLOW_GOVERNORS]:
        fix = "sudo systemctl restart quietbox-governor (install.sh brings it; it sets performance at every boot)"
        found = f"{', '.join(slow)}: the processor clock rises only after a hop is late"
        yield Finding("governor", WARN, found, fix, figures)
    else:
        yield Finding("governor", OK, ", ".join(names) or "none: the processor clock is fixed", figures=figures)


def storage(context: Context) -> Iterator[Finding]:
    free_mb = shutil.disk_usage(context.root).free // 2**20
    folder = runtime.runtime_folder()
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    figures = {"free_mb": free_mb, "runtime_folder": str(folder)}
    if not os.access(there, os.W_OK | os.X_OK):
        fix = "run it with sudo, or set RUNTIME_DIRECTORY"
        yield Finding("storage", FAIL, f"{there} cannot be written; the box keeps its lock files there", fix, figures)
    elif free_mb < FREE_MB:
        fix = "free some space: updates and the journal need it"
        yield Finding("storage", WARN, f"only {free_mb} MB free", fix, figures)
    else:
        yield Finding("storage", OK, f"{free_mb} MB free, {folder} can be written", figures=figures)


def panel(context: Context) -> Iterator[Finding]:
    settings = context.config.panel
    package, why = boards.gpio_package(context.board)
    chips = sorted(chip.name for chip in context.dev.glob("gpiochip*"))
    figures: dict[str, Any] = {"package": package, "why": why, "chips": chips}
    check, without = "light and button", "the box works without light, button and knob"
    if settings.backend == "off" or not pins.wiring(settings).pins:
        yield Finding(check, OK, "switched off in the settings", figures=figures)
    elif not chips and not context.board.is_pi:
        yield Finding(check, OK, f"no GPIO here; {without}", figures=figures)
    elif context.running or not context.here:
        held = "in use by the running box" if context.running else "not tried"
        yield Finding(check, OK, f"{describe(settings)}: {held}", figures=figures)
    else:
        try:
            opened = pins.open_pins_for(settings)(settings)
        except pins.PanelError as error:
            fix = f"{package} fits this board ({why}): run install.sh again"
            yield Finding(check, WARN, f"{error}; {without}", fix, figures)
        else:
            opened.close()
            yield Finding(check, OK, f"{describe(settings)}, through {opened.name}", figures=figures)


def _firmware_bits() -> int | None:
    """What `vcgencmd get_throttled` prints ("throttled=0x50005"); None where there is no such command."""
    try:
        order = ["vcgencmd", "get_throttled"]
        answer = subprocess.run(order, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
        return int(answer.stdout.decode(errors="replace").strip().removeprefix("throttled="), 16)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None

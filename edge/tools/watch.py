"""`quietbox watch`: the running box live on a terminal, and on a page that replays what was shown.

The box fills a page of figures (``edge.meters``) as long as somebody asks for it every few seconds; sound is not in it.
"""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.style import Style

from edge import UserError, meters, orders
from edge.console import leave_on_signals
from edge.files import atomic
from edge.meters import Reading
from edge.orders import NotObeyed
from edge.tools.watch_record import Recording
from edge.tools.watch_screen import ASCII, BLOCKS, Glyphs, Line, View

PAGE_SUFFIXES = (".html", ".htm")
FRAME_S = 0.1
MOST_SHARE = 0.02
"""Of a core, for drawing: on a board where a frame costs more than 2 ms there are fewer, so that the box has its time.
The box's own part is below 0.01."""
LONGEST_FRAME_S = 1.0
COST_KEPT = 0.8
"""Smoothing factor per frame of what one costs."""
ASK_S = 2.0
"""How often the box is asked again; it stops 5 s after the last order."""
FIRST_S = 5.0
"""How long the first figures may take; a box that obeys orders late is building an engine, or of an older version."""
GONE_S = 20.0
"""How long a box that was there may be away: it restarts in a few seconds."""
HINT = "Ctrl-C ends; hold: loudest 0.1 s of the last 2 s"


def watch(record: Path | None, seconds: float | None) -> int:
    """Show the running box until Ctrl-C, or for ``seconds``; returns the exit status. ``record``: write the page that
    replays it there at the end, however it ends. Raises UserError."""
    screen = Console()
    is_shown = screen.is_terminal and not screen.is_dumb_terminal
    if not is_shown and record is None:
        raise UserError("watch draws on a terminal; without one use `quietbox status --json`, or --record FILE.html")
    if record is not None and record.suffix.lower() not in PAGE_SUFFIXES:
        raise UserError(
            f"{record}: the page needs a name in .html, so that a browser opens it and nothing else is lost"
        )
    orders.ask_for_figures()  # before anything is drawn or made: is there a box, and may we ask it?
    recording = None
    if record is not None:
        atomic.can_write(record)
        recording = Recording()
    leave_on_signals()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            _show(screen if is_shown else None, recording, seconds)
    finally:
        if record is not None and recording is not None:
            _leave(recording, record)
    return 0


def _show(screen: Console | None, recording: Recording | None, seconds: float | None) -> None:
    """Frame after frame on the terminal, if there is one, and into the recording."""
    view = View()
    drawn = Drawn(screen) if screen else None
    with screen.screen(hide_cursor=True) if screen else contextlib.nullcontext():
        for reading in _readings(seconds):
            if reading:
                view.take(reading)
            now_s = time.monotonic()
            if drawn:
                drawn.draw(view, now_s)
            if recording is not None and reading:
                recording.add(view, now_s)


def _leave(recording: Recording, target: Path) -> None:
    """The page, and its name on stdout."""
    if len(recording):
        recording.write(target)
    print(target if len(recording) else f"{target}: not written, no figures came")


def _readings(seconds: float | None) -> Iterator[Reading | None]:
    """The newest reading ten times a second, or as often as ``MOST_SHARE`` allows; None where there is none that is
    new. Raises NotObeyed when the box does not answer, or is gone."""
    began_s = next_s = time.monotonic()
    heard_s, asked_s, last_at_s = began_s, -math.inf, -math.inf
    has_come = False
    cpu_s, cost_s = time.process_time(), 0.0
    folder: Path | None = None
    while seconds is None or time.monotonic() - began_s < seconds:
        now_s = time.monotonic()
        if now_s - asked_s >= ASK_S:
            asked_s, folder = now_s, _ask(folder)
        reading = meters.read(folder) if folder else None
        if reading and (reading.at_s <= last_at_s or now_s - reading.at_s > ASK_S):
            reading = None  # the same again, or what a killed box left
        if reading:
            heard_s, last_at_s, has_come = now_s, reading.at_s, True
        elif now_s - heard_s > (GONE_S if has_come else FIRST_S):
            raise NotObeyed(_why_silent(has_come))
        yield reading
        cpu_before_s, cpu_s = cpu_s, time.process_time()
        cost_s = COST_KEPT * cost_s + (1 - COST_KEPT) * (cpu_s - cpu_before_s)
        next_s = max(next_s + min(max(FRAME_S, cost_s / MOST_SHARE), LONGEST_FRAME_S), time.monotonic())
        time.sleep(max(next_s - time.monotonic(), 0))


def _ask(folder: Path | None) -> Path | None:
    """Where the page lies; as before while no box runs, which may be about to start again."""
    try:
        return orders.ask_for_figures()
    except NotObeyed:
        return folder


def _why_silent(has_come: bool) -> str:
    if not orders.is_running():
        return f"the box has stopped ({orders.NOT_RUNNING})"
    if has_come:
        return "the box sends no figures any more; see journalctl -u quietbox"
    return "the running box sends no figures; if it was updated, restart it: systemctl restart quietbox"


def _glyphs(screen: Console) -> Glyphs:
    """Blocks where the terminal has them: not the kernel's console, whose font lacks most, nor another encoding."""
    if os.environ.get("TERM") == "linux":
        return ASCII
    try:
        (BLOCKS.steps + BLOCKS.full + BLOCKS.hold + BLOCKS.lamp_on + BLOCKS.lamp_off).encode(screen.encoding)
    except (UnicodeError, LookupError):
        return ASCII
    return BLOCKS


class Drawn:
    """What stands on the terminal: of the next frame only the lines that differ are sent, which halves the time and
    spares a slow connection. Nothing is wrapped and no markup is read."""

    def __init__(self, screen: Console) -> None:
        self._screen, self._glyphs = screen, _glyphs(screen)
        self._size: tuple[int, int] | None = None
        self._lines: list[Line] = []

    def draw(self, view: View, now_s: float) -> None:
        """The frame of ``now_s`` in one write; the whole of it after a change of the terminal's size."""
        screen, (width, height) = self._screen, self._screen.size
        lines = view.lines(width, height, self._glyphs, now_s, HINT)
        lines += [[] for _ in range(height - len(lines))]
        with screen:
            if self._size != (width, height):
                screen.clear()
                self._size, self._lines = (width, height), [[] for _ in lines]
            for row, (line, before) in enumerate(zip(lines, self._lines, strict=True)):
                if line != before:
                    screen.update_screen_lines([segments(line, width)], y=row)
        self._lines = lines


def segments(line: Line, width: int) -> list[Segment]:
    """A line for rich, filled with spaces to ``width``."""
    space = Segment(" " * (width - sum(cell_len(text) for text, _ in line)))
    return [*(Segment(text, Style.parse(style) if style else None) for text, style in line), space]

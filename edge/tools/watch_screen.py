"""What `quietbox watch` shows of a reading: lines of styled text that fit a terminal of any size."""

import functools
import itertools
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from edge import HOP_MS
from edge.console import PLAIN_ERRORS, printable
from edge.dsp.spectrum import band_centres_hz
from edge.meters import BANDS, EVENTS, Reading

Span = tuple[str, str]
"""Text and the name of its style in rich; none is empty."""
Line = list[Span]

METER_DB = 80.0
"""Range of the level meters, below full scale."""
GAINS_DB = 40.0
"""Range of the gains' bars: the default limit is 30 dB."""
HOLD_S = 2.0
"""How long the loudest level stays marked."""
HOT_DBFS, WARM_DBFS = -6.0, -18.0
"""Levels from which a meter is red, and yellow."""
BUDGET_US = 1000 * HOP_MS
ROOMY = 20
"""Rows from which the last one has room for a hint."""
LEAST_GAIN_LINES, MOST_GAIN_LINES = 4, 14
"""Heading, bars and scale of the gains."""
LATE_S = 1.0
"""A reading older than this is not the present."""
MARGIN = 7
"""Columns of the scale left of the gains' bars, and of the names left of the meters."""
MOST_CHARACTERS = 200
"""Of a text from the page, before it is cut to the terminal."""


@dataclass(frozen=True)
class Glyphs:
    """What bars are drawn with."""

    steps: str
    """Column heights within a row, from empty to full."""
    full: str
    hold: str
    lamp_on: str
    lamp_off: str
    encoding: str
    """What lies outside it is written as ``edge.console`` writes it."""


BLOCKS = Glyphs(" ▁▂▃▄▅▆▇█", "█", "│", "●", "○", "utf-8")
ASCII = Glyphs(" .:#", "#", "|", "*", ".", "ascii")


class View:
    """What is shown: the last reading, and the loudest levels of the last seconds."""

    def __init__(self) -> None:
        self.reading = Reading()
        self._levels: deque[tuple[float, float, float]] = deque(maxlen=round(20 * HOLD_S))

    def take(self, reading: Reading) -> None:
        """A new reading."""
        self.reading = reading
        self._levels.append((reading.at_s, reading.level_in_dbfs, reading.level_out_dbfs))

    def held_dbfs(self, which: int) -> float:
        """The loudest level within ``HOLD_S`` before the last reading, of the input (0) or output (1); NaN of none."""
        since_s = self.reading.at_s - HOLD_S
        found = [levels[which] for at_s, *levels in self._levels if at_s >= since_s and not math.isnan(levels[which])]
        return max(found, default=math.nan)

    def lines(self, width: int, height: int, glyphs: Glyphs, now_s: float, foot: str = "") -> list[Line]:
        """At most ``height`` lines of at most ``width`` columns. ``now_s``: CLOCK_MONOTONIC; ``foot``: the last line,
        where there is room. What matters least gives way in a small terminal."""
        reading, width = self.reading, max(width, 1)
        feet = [[(foot, "dim")]] if foot and height >= ROOMY else []
        fixed = [self._title(now_s), *self._meters(width, glyphs), _floors(reading), _voice(reading, width, glyphs)]
        figures = [_delay(reading), _hop_time(reading, width, glyphs), _faults(reading), _board(reading)]
        left = height - len(fixed) - len(feet) - len(figures)
        event_rows = min(max(left - 10, 0), EVENTS)
        bars_height = min(left - event_rows - (3 if left >= 10 else 0), MOST_GAIN_LINES)
        bars = _gains(reading, width, bars_height, glyphs) if bars_height >= LEAST_GAIN_LINES else []
        events = [_event(at_s, sentence) for at_s, sentence in reading.events[-event_rows:]] if event_rows else []
        spaces = max(left - bars_height - event_rows, 0) if bars else 0
        page: list[Line] = []
        for number, block in enumerate((fixed, bars, figures, events)):
            page += [[]] if number and block and number <= spaces else []
            page += block
        page += [[] for _ in range(height - len(feet) - len(page))] if feet else []
        return [_fitted(line, width, glyphs.encoding) for line in [*page, *feet][: max(height, 1)]]

    def _title(self, now_s: float) -> Line:
        reading = self.reading
        if math.isnan(reading.at_s):
            return [("Quietbox", "bold"), (": waiting for figures", "")]
        age_s = now_s - reading.at_s
        style = {"running": "bold green", "fault": "bold red"}.get(reading.state, "bold yellow")
        title = [("Quietbox ", "bold"), (reading.state, style), (f", engine {reading.engine}", "")]
        if not age_s < LATE_S:
            return [*title, (f", no new figures for {_number(age_s, '.0f')} s", "bold red")]
        return [*title, (f", {_duration(reading.seconds)} of sound", "dim")]

    def _meters(self, width: int, glyphs: Glyphs) -> list[Line]:
        reading = self.reading
        return [
            _meter("in", reading.level_in_dbfs, self.held_dbfs(0), width, glyphs),
            _meter("out", reading.level_out_dbfs, self.held_dbfs(1), width, glyphs),
        ]


def plain(lines: Sequence[Line]) -> list[str]:
    """The text alone."""
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def _meter(name: str, level_dbfs: float, held_dbfs: float, width: int, glyphs: Glyphs) -> Line:
    figures = f" {_number(level_dbfs, '.1f'):>6} dBFS, hold {_number(held_dbfs, '.1f'):>6}"
    room = max(width - MARGIN - len(figures), 0)
    filled, held = (round(_share(level, METER_DB) * room) for level in (level_dbfs, held_dbfs))
    style = "red" if level_dbfs >= HOT_DBFS else "yellow" if level_dbfs >= WARM_DBFS else "green"
    line: Line = [(f"{name:<{MARGIN}}", "bold"), (glyphs.full * filled, style)]
    if held > filled:
        line += [(" " * (held - filled - 1), ""), (glyphs.hold, "bold"), (" " * (room - held), "")]
    else:
        line.append((" " * (room - filled), ""))
    return [*line, (figures, "")]


def _floors(reading: Reading) -> Line:
    before, after = reading.floor_in_dbfs, reading.floor_out_dbfs
    return [
        (f"{'noise':<{MARGIN}}", "bold"),
        (f"floor {_number(before, '.1f')} dBFS in, {_number(after, '.1f')} cleaned: ", ""),
        (f"{_number(before - after, '.1f')} dB less", "bold"),
    ]


def _voice(reading: Reading, width: int, glyphs: Glyphs) -> Line:
    is_lit = reading.speaking > 0
    lamp = glyphs.lamp_on if is_lit else glyphs.lamp_off
    room = min(max(width - MARGIN - 20, 0), 40)
    filled = round(_clamped(reading.speech) * room)
    return [
        (f"{'speech':<{MARGIN}}", "bold"),
        (f"{lamp} {'speaking' if is_lit else 'pause':<9}", "bold green" if is_lit else "dim"),
        (f"{_number(100 * reading.speech, '.0f'):>3} % ", ""),
        (glyphs.full * filled, "green" if is_lit else "dim"),
    ]


def _gains(reading: Reading, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """A heading, rows of bars and a scale of frequencies, ``height`` lines in all: bands side by side, 0 dB on top."""
    rows, columns = height - 2, min(BANDS, width - MARGIN)
    if columns < 1:
        return []
    heading: Line = [("gain", "bold"), (" of 64 bands, 0 Hz to 8 kHz", "")]
    if reading.gains is None:
        return [[*heading, (": this engine has none", "dim")]]
    shares = _per_column(reading.gains, columns)
    tops = len(glyphs.steps) - 1
    heights = [round(share * rows * tops) for share in shares]
    lines = [heading]
    for row in range(rows):
        of_height = glyphs.steps[0] * (rows - 1 - row) * tops + glyphs.steps + glyphs.full * row * tops
        bars = "".join([of_height[height] for height in heights])
        top_db = GAINS_DB * row / rows
        lines.append([(f"{-top_db if row else 0:>3.0f} dB ", "dim"), (bars, "cyan")])
    return [*lines, [(" " * MARGIN, ""), (_frequencies(columns), "dim")]]


def _per_column(gains: Sequence[float], columns: int) -> list[float]:
    """Heights 0..1 of the bars; a column of several bands shows their mean."""
    edges = [round(index * len(gains) / columns) for index in range(columns + 1)]
    heights = []
    for low, high in itertools.pairwise(edges):
        gain = sum(gains[low:high]) / max(high - low, 1)
        gain_db = 20 * math.log10(gain) if 0 < gain < math.inf else (0.0 if gain > 0 else -math.inf)
        heights.append(_share(gain_db, GAINS_DB))
    return heights


@functools.cache
def _frequencies(columns: int) -> str:
    """Names under the columns of some frequencies."""
    scale = [" "] * (columns + 8)
    centres = band_centres_hz()
    for wanted_hz, name in ((0, "0"), (500, "500"), (1000, "1k"), (2000, "2k"), (4000, "4k"), (8000, "8k")):
        band = min(range(BANDS), key=lambda index: abs(centres[index] - wanted_hz))
        at = min(band * columns // BANDS, max(columns - len(name), 0))
        if all(sign == " " for sign in scale[max(at - 1, 0) : at + len(name)]):
            scale[at : at + len(name)] = name
    return "".join(scale[:columns]).rstrip()


def _delay(reading: Reading) -> Line:
    return [
        (f"{'delay':<{MARGIN}}", "bold"),
        (
            f"{_number(reading.delay_ms, '.1f')} ms, queue {_number(reading.queue_ms, '.1f')} ms, "
            f"drift {_number(reading.drift_ppm, '+.0f')} ppm, volume {_number(reading.volume_db, 'g')} dB, "
            f"limit {_number(reading.limit_db, 'g')} dB",
            "",
        ),
    ]


def _hop_time(reading: Reading, width: int, glyphs: Glyphs) -> Line:
    """Against the 5 ms that a hop may take; the bar is that of the slowest."""
    words = "/".join(_number(figure, ".0f") for figure in (reading.hop_p50_us, reading.hop_p99_us, reading.hop_max_us))
    text = f"{words} µs of {BUDGET_US:.0f} (p50/p99/max), {_number(reading.late_hops, '.0f')} late "
    room = min(max(width - MARGIN - len(text) - 1, 0), 24)
    share = _clamped(reading.hop_max_us / BUDGET_US)
    filled = round(share * room)
    return [
        (f"{'hop':<{MARGIN}}", "bold"),
        (text, ""),
        (glyphs.full * filled, "red" if share >= 1 else "green"),
        (" " * (room - filled) + glyphs.hold, "dim"),
    ]


def _faults(reading: Reading) -> Line:
    counts = [reading.xruns_in, reading.xruns_out, reading.clips]
    xruns_in, xruns_out, clips = (_number(count, ".0f") for count in counts)
    style = "yellow" if any(count > 0 for count in counts) else ""
    return [(f"{'faults':<{MARGIN}}", "bold"), (f"xruns {xruns_in} in {xruns_out} out, samples clipped {clips}", style)]


def _board(reading: Reading) -> Line:
    line: Line = [
        (f"{'board':<{MARGIN}}", "bold"),
        (f"{_number(reading.temperature_c, '.1f')} °C, {_number(100 * reading.cpu_share, '.0f')} % of a core", ""),
    ]
    return [*line, (f", {reading.throttling}", "bold red")] if reading.throttling else line


def _event(at_s: float, sentence: str) -> Line:
    try:
        clock = time.strftime("%H:%M:%S", time.localtime(at_s))
    except (ValueError, OverflowError, OSError):  # not a time
        clock = "--:--:--"
    return [(f"{clock} ", "dim"), (sentence, "")]


def _fitted(line: Line, width: int, encoding: str) -> Line:
    """Nothing that steers the terminal, nothing that its encoding lacks, cut to ``width`` columns."""
    fitted: Line = []
    for text, style in line:
        clean = text if text.isprintable() else printable(text[:MOST_CHARACTERS].replace("\n", " "))
        if encoding != "utf-8":
            clean = clean.encode(encoding, PLAIN_ERRORS).decode(encoding)
        room = width - sum(cell_len(earlier) for earlier, _ in fitted)
        if cell_len(clean) > room:
            clean = set_cell_size(clean, max(room, 0))
        if clean:
            fitted.append((clean, style))
    return fitted


def _share(level_db: float, range_db: float) -> float:
    """How much of a bar is filled, 0..1: from ``-range_db`` to 0 dB; NaN is nothing."""
    return _clamped(1 + level_db / range_db)


def _clamped(share: float) -> float:
    return 0.0 if math.isnan(share) else min(max(share, 0.0), 1.0)


def _number(figure: float, form: str) -> str:
    """A figure in few characters, however large; -- where nothing was measured."""
    if math.isnan(figure):
        return "--"
    return format(figure, form if abs(figure) < 1e7 else ".0e")


def _duration(seconds: float) -> str:
    """``7 s``, ``12:34 min``, ``1:02 h``."""
    if not 0 <= seconds < 1e9:
        return "-- s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest_s = divmod(int(seconds), 60)
    hours, rest_min = divmod(minutes, 60)
    return f"{hours}:{rest_min:02} h" if hours else f"{minutes}:{rest_s:02} min"

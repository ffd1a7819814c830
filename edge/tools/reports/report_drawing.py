"""One quantity over time as SVG, with its axes."""

import html
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge.tools.reports.timeline import Entry, Part

GAP_S = 150.0
"""Statistics come once a minute: where two in a row are missing, the line breaks."""
WIDTH, HEIGHT, LEFT, RIGHT, ABOVE, BELOW = 900, 150, 76, 24, 10, 22
"""Pixels of a drawing; in the margins the axes' figures: ten characters on the left, half a time on the right."""
LEAST_SPAN = 1e-2
"""Of the values' size: the figures of an axis have six digits, a constant needs an axis too."""
STEPS_S = (60, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)
"""Distances of times on the axis that are easy to read."""


@dataclass(frozen=True)
class Drawing:
    """One quantity over time: the fields it shows, each with its name in the legend."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    low: float | None = None
    """Where the axis begins, if not at the smallest value."""
    high: float | None = None


DRAWINGS = (
    Drawing("Level", "dBFS", (("level_in_dbfs", "microphone"), ("level_out_dbfs", "output"))),
    Drawing("Speech", "share of the minute", (("speech_share", "speech"), ("sleep_share", "network asleep")), 0, 1),
    Drawing(
        "Noise removed in the pauses",
        "dB",
        (("noise_removed_db", "total"), ("feedforward_db", "feedforward"), ("feedback_db", "feedback")),
        0,
    ),
    Drawing("Noise floor", "dBFS", (("noise_floor_in_dbfs", "microphone"), ("noise_floor_out_dbfs", "output"))),
    Drawing("Voice above the floor", "dB", (("snr_in_db", "microphone"), ("snr_out_db", "output"))),
    Drawing("Voice kept", "dB", (("voice_kept_db", "0: unchanged"),)),
    Drawing("Reference microphone", "dB", (("reference_db", "removed"),), 0),
    Drawing(
        "Feedback",
        "a minute and dB",
        (("howl_events", "feedback loops found"), ("howl_drop_db", "gain reduction, dB")),
        0,
    ),
    Drawing("Latency and queue", "ms", (("latency_ms", "microphone to jack, calculated"), ("queue_ms", "queue")), 0),
    Drawing("Time per hop", "µs", (("hop_p50_us", "p50"), ("hop_p99_us", "p99"), ("hop_max_us", "max")), 0),
    Drawing(
        "Xruns and late hops", "a minute", (("xruns_in", "in"), ("xruns_out", "out"), ("late_hops", "late hops")), 0
    ),
    Drawing("Clock drift", "ppm", (("drift_ppm", "output against microphone"),)),
    Drawing("Temperature", "°C", (("temperature_c", "processor"),)),
    Drawing("Memory", "MB", (("memory_mb", "resident"),), 0),
    Drawing("Processor", "share of one core", (("cpu_share", "service"),), 0),
)


def drawn(drawing: Drawing, part: Part) -> str:
    """One quantity as SVG; empty if it was never measured."""
    minutes = [entry for entry in part.entries if entry.event == "statistics"]
    values = [value for entry in minutes for name, _ in drawing.lines if not math.isnan(value := entry.figure(name))]
    if not values:
        return ""
    axes = Axes.around(drawing, values, part)
    paths = []
    for number, (name, _) in enumerate(drawing.lines):
        steps = "".join(f"{pen}{axes.x(at_s):.1f} {axes.y(value):.1f}" for pen, at_s, value in _strokes(minutes, name))
        # A pen that is set down and not moved draws nothing: a round end makes a lone minute a dot.
        paths.append(f'<path class="l{number}" stroke-linecap="round" d="{steps}"/>')
    legend = ", ".join(
        f'<span class="k{number}">{html.escape(name)}</span>' for number, (_, name) in enumerate(drawing.lines)
    )
    return (
        f"<h2>{html.escape(drawing.title)} ({html.escape(drawing.unit)}): {legend}</h2>"
        f'<div><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(drawing.title)}">'
        f"{axes.drawn()}{''.join(paths)}</svg></div>"
    )


@dataclass(frozen=True)
class Axes:
    """The two axes of a drawing: time in seconds, values between the outermost ticks."""

    part: Part
    low: float
    high: float
    ticks: list[float]

    @classmethod
    def around(cls, drawing: Drawing, values: list[float], part: Part) -> "Axes":
        """Axes that hold all ``values`` and the ends that the drawing asks for."""
        low = min(values) if drawing.low is None else min(drawing.low, *values, drawing.low)
        high = max(values) if drawing.high is None else max(drawing.high, *values, drawing.high)
        least = LEAST_SPAN * max(abs(low), abs(high)) or 1.0
        if high - low < least:
            low, high = (low - least / 2 if drawing.low is None else low), low + least
        ticks = _ticks(low, high)
        return cls(part, min(low, ticks[0]), max(high, ticks[-1]), ticks)

    def x(self, at_s: float) -> float:
        """Pixels from the left."""
        share = (at_s - self.part.begin_s) / (self.part.end_s - self.part.begin_s)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return ABOVE + (HEIGHT - ABOVE - BELOW) * (1 - (value - self.low) / (self.high - self.low))

    def drawn(self) -> str:
        """Grid lines with their values, and the time of day."""
        marks = []
        for tick in self.ticks:
            y = self.y(tick)
            marks.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            marks.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        for at_s, label in _times(self.part):
            marks.append(f'<text x="{self.x(at_s):.1f}" y="{HEIGHT - 5}" text-anchor="middle">{label}</text>')
        return "".join(marks)


def _strokes(minutes: Iterable[Entry], name: str) -> Iterator[tuple[str, float, float]]:
    """(M or L, time, value): the pen is lifted over gaps and between boots."""
    last_s, boot = -math.inf, ""
    for entry in minutes:
        if math.isnan(value := entry.figure(name)):
            continue
        if entry.at_s - last_s > GAP_S or entry.boot != boot:
            yield "M", entry.at_s, value
        yield "L", entry.at_s, value
        last_s, boot = entry.at_s, entry.boot


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values that span low..high."""
    span = max(high - low, 1e-9 * max(abs(high), abs(low)), 1e-6)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (factor * step) <= 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _times(part: Part) -> Iterator[tuple[float, str]]:
    """At most nine moments at even distances: by the clock on the wall, or the time since power-on."""
    begin_s, end_s = part.begin_s, part.end_s
    step_s = next(
        (step for step in STEPS_S if (end_s - begin_s) / step <= 8),
        86_400.0 * math.ceil((end_s - begin_s) / 86_400 / 8),
    )
    shift_s = time.localtime(begin_s).tm_gmtoff if part.dated else 0
    at_s = math.ceil((begin_s + shift_s) / step_s) * step_s - shift_s
    while at_s <= end_s:
        yield at_s, _label(at_s, step_s) if part.dated else f"{at_s // 3600:.0f}:{at_s // 60 % 60:02.0f} h"
        at_s += step_s


def _label(at_s: float, step_s: float) -> str:
    return time.strftime("%d %b" if step_s >= 86_400 else "%H:%M", time.localtime(at_s))

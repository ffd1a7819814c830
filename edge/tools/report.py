"""`quietbox report`: the last day as one HTML page, drawn from the journal; no script, no network."""

import html
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edge import files
from edge.files import atomic
from edge.journal import PREFIX, WARNING
from edge.tools.journal_reader import UNIT, NoHistory

LIMIT = 1e9
"""Larger figures cannot be measurements; drawn, they would flatten all others."""
GAP_S = 150.0
"""Statistics come once a minute: where two in a row are missing, the line breaks."""
EVENTS_SHOWN = 400
MOST_BYTES = 256 << 20
"""Of an export of the journal; a day has some 4 MB."""
MOST_LINE = 1 << 18
"""Characters of a record; ours have 2500."""
WIDTH, HEIGHT, LEFT, BELOW = 900, 150, 56, 20
"""Pixels of a drawing; the axes' figures stand in the two margins."""


@dataclass(frozen=True)
class Entry:
    """One record of the box."""

    at_s: float
    """Unix time."""
    event: str
    sentence: str
    priority: int
    fields: dict[str, str]
    """By the names of ``edge.journal.FIELDS``."""

    def figure(self, name: str) -> float:
        """A field as a number; nan where it is missing, no number, or beyond ``LIMIT``."""
        try:
            value = float(self.fields.get(name, "nan"))
        except ValueError:
            return math.nan
        return value if abs(value) <= LIMIT else math.nan


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
    Drawing("Noise floor", "dBFS", (("noise_floor_in_dbfs", "microphone"), ("noise_floor_out_dbfs", "noise removed"))),
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


def from_file(name: str, standard_input: BinaryIO) -> str:
    """What `journalctl -o json` wrote into a file, or into ``standard_input`` where the name is "-".

    Raises UserError, OSError.
    """
    if name != "-":
        return files.read_bounded(Path(name), MOST_BYTES).decode(errors="replace")
    data = standard_input.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise NoHistory(f"standard input has more than {files.in_bytes(MOST_BYTES)}; ask journalctl for fewer hours")
    return data.decode(errors="replace")


def entries(text: str) -> list[Entry]:
    """The box's records among the lines of `journalctl -o json`, oldest first; the rest is skipped."""
    found = [entry for line in text.split("\n") if (entry := _entry(line)) is not None]
    return sorted(found, key=lambda entry: entry.at_s)


def _entry(line: str) -> Entry | None:
    if len(line) > MOST_LINE:
        return None
    try:
        raw = json.loads(line)
        at_s = int(raw["__REALTIME_TIMESTAMP"]) / 1e6
        priority = int(raw.get("PRIORITY", 6))
        time.localtime(at_s)
        fields = {
            key.removeprefix(PREFIX).lower(): _text(value) for key, value in raw.items() if key.startswith(PREFIX)
        }
        if "event" not in fields:
            return None
        return Entry(at_s, fields.pop("event"), _text(raw.get("MESSAGE")), priority, fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, OSError):
        return None


def _text(value: Any) -> str:
    """journalctl writes bytes that are no text as a list of numbers, a repeated field as a list, a huge one as null."""
    if isinstance(value, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in value):
        return bytes(value).decode(errors="replace")
    return "" if value is None else str(value[0] if isinstance(value, list) and value else value)


def page(records: list[Entry]) -> str:
    """The whole page. Raises NoHistory if there is nothing to draw."""
    if not records:
        raise NoHistory(
            f"the journal has no records of the box for this period; is it running (`systemctl status {UNIT}`), and "
            "does the journal outlast a restart (Storage=persistent)?"
        )
    minutes = [entry for entry in records if entry.event == "statistics"]
    begin_s, end_s = records[0].at_s, max(records[-1].at_s, records[0].at_s + 60)
    parts = [
        f"<h1>Quietbox, {_moment(begin_s)} to {_moment(end_s)}</h1>",
        _summary(records, minutes),
        *(_drawn(drawing, minutes, begin_s, end_s) for drawing in DRAWINGS),
        _events(records),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Quietbox report</title>\n'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(part for part in parts if part) + "\n</body></html>\n"
    )


STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "h1{font-size:1.4em}h2{font-size:1em;margin:1.6em 0 .2em}table{border-collapse:collapse}"
    "td,th{text-align:left;padding:.15em .9em .15em 0;vertical-align:top}.warn{color:#b3261e}"
    "svg{width:100%;height:auto}svg text{font:11px sans-serif;fill:#666}.axis{stroke:#ddd}"
    "path{fill:none;stroke-width:1.5}.l0{stroke:#1f6feb}.l1{stroke:#d9730d}.l2{stroke:#8250df}"
    ".k0{color:#1f6feb}.k1{color:#d9730d}.k2{color:#8250df}"
)


WARN = ' class="warn"'


def _summary(records: list[Entry], minutes: list[Entry]) -> str:
    """The day in a dozen figures."""

    def known(name: str) -> list[float]:
        return [value for entry in minutes if not math.isnan(value := entry.figure(name))]

    def total(name: str) -> str:
        return f"{sum(values):.0f}" if (values := known(name)) else "not known"

    def most(name: str, unit: str) -> str:
        return f"{max(values):g} {unit}" if (values := known(name)) else "not known"

    heard_s = sum(known("seconds"))
    slowest = f" (99th percentile below {most('hop_p99_us', 'µs')} in every minute)" if known("hop_p99_us") else ""
    spoken_s = sum(
        entry.figure("seconds") * share for entry in minutes if not math.isnan(share := entry.figure("speech_share"))
    )
    problems = {entry.fields.get("throttling", "") for entry in records} - {""}
    rows = {
        "Sound processed": f"{heard_s / 3600:.2f} h" if known("seconds") else "not known",
        "Speech": f"{spoken_s / heard_s:.0%}" if heard_s else "not known",
        "Starts": f"{sum(entry.event == 'start' for entry in records)}",
        "Xruns in / out": f"{total('xruns_in')} / {total('xruns_out')}",
        "Late hops": total("late_hops"),
        "Slowest hop": most("hop_max_us", "µs") + slowest,
        "Hottest": most("temperature_c", "°C"),
        "Power and heat": "; ".join(sorted(problems)) or "no complaint",
        "Engine": ", ".join(sorted({entry.fields.get("engine", "") for entry in minutes} - {""})) or "not known",
    }
    body = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
    return f"<table>{body}</table>"


def _drawn(drawing: Drawing, minutes: list[Entry], begin_s: float, end_s: float) -> str:
    """One quantity as SVG; empty if it was never measured."""
    lines = [[(entry.at_s, entry.figure(name)) for entry in minutes] for name, _ in drawing.lines]
    values = [value for line in lines for _, value in line if not math.isnan(value)]
    if not values:
        return ""
    axes = Axes.around(drawing, values, begin_s, end_s)
    paths = []
    for number, line in enumerate(lines):
        steps = "".join(f"{pen}{axes.x(at_s):.1f} {axes.y(value):.1f}" for pen, at_s, value in _strokes(line))
        # A pen that is set down and not moved draws nothing: a round end makes a lone minute a dot.
        paths.append(f'<path class="l{number}" stroke-linecap="round" d="{steps}"/>')
    legend = ", ".join(
        f'<span class="k{number}">{html.escape(name)}</span>' for number, (_, name) in enumerate(drawing.lines)
    )
    return (
        f"<h2>{html.escape(drawing.title)} ({html.escape(drawing.unit)}): {legend}</h2>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(drawing.title)}">'
        f"{axes.drawn()}{''.join(paths)}</svg>"
    )


@dataclass(frozen=True)
class Axes:
    """The two axes of a drawing: time in seconds, values between the outermost ticks."""

    begin_s: float
    end_s: float
    low: float
    high: float
    ticks: list[float]

    @classmethod
    def around(cls, drawing: Drawing, values: list[float], begin_s: float, end_s: float) -> "Axes":
        """Axes that hold all ``values`` and the ends that the drawing asks for."""
        low = min(values) if drawing.low is None else min(drawing.low, *values, drawing.low)
        high = max(values) if drawing.high is None else drawing.high
        ticks = _ticks(low, high)
        return cls(begin_s, end_s, min(low, ticks[0]), max(high, ticks[-1]), ticks)

    def x(self, at_s: float) -> float:
        """Pixels from the left."""
        return LEFT + (WIDTH - LEFT) * (at_s - self.begin_s) / (self.end_s - self.begin_s)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return 8 + (HEIGHT - BELOW - 8) * (1 - (value - self.low) / (self.high - self.low))

    def drawn(self) -> str:
        """Grid lines with their values, and the time of day."""
        marks = []
        for tick in self.ticks:
            marks.append(
                f'<line class="axis" x1="{LEFT}" x2="{WIDTH}" y1="{self.y(tick):.1f}" y2="{self.y(tick):.1f}"/>'
            )
            marks.append(f'<text x="{LEFT - 6}" y="{self.y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
        for at_s, label in _hours(self.begin_s, self.end_s):
            marks.append(f'<text x="{self.x(at_s):.1f}" y="{HEIGHT - 4}" text-anchor="middle">{label}</text>')
        return "".join(marks)


def _strokes(line: Iterable[tuple[float, float]]) -> Iterator[tuple[str, float, float]]:
    """(M or L, time, value): the pen is lifted over gaps."""
    last_s = -math.inf
    for at_s, value in line:
        if math.isnan(value):
            continue
        if at_s - last_s > GAP_S:
            yield "M", at_s, value
        yield "L", at_s, value
        last_s = at_s


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values that span low..high."""
    span = max(high - low, 1e-9 * max(abs(high), abs(low)), 1e-6)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (factor * step) <= 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _hours(begin_s: float, end_s: float) -> Iterator[tuple[float, str]]:
    """At most nine moments at even distances, by the clock on the wall."""
    step_s = next(
        (step for step in (60, 300, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200) if (end_s - begin_s) / step <= 8),
        86_400.0 * math.ceil((end_s - begin_s) / 86_400 / 8),
    )
    shift_s = time.localtime(begin_s).tm_gmtoff
    at_s = math.ceil((begin_s + shift_s) / step_s) * step_s - shift_s
    while at_s <= end_s:
        yield at_s, time.strftime("%d %b" if step_s >= 86_400 else "%H:%M", time.localtime(at_s))
        at_s += step_s


def _events(records: list[Entry]) -> str:
    """Everything but the minutes, newest first."""
    events = [entry for entry in reversed(records) if entry.event != "statistics"]
    rows = "".join(
        f"<tr{WARN if entry.priority <= WARNING else ''}><td>{_moment(entry.at_s)}</td>"
        f"<td>{html.escape(entry.event)}</td><td>{html.escape(entry.sentence)}</td></tr>"
        for entry in events[:EVENTS_SHOWN]
    )
    more = f"<p>and {len(events) - EVENTS_SHOWN} earlier ones</p>" if len(events) > EVENTS_SHOWN else ""
    return f"<h2>Events</h2><table>{rows}</table>{more}"


def _moment(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def write(text: str, target: Path) -> None:
    """Draw the records in ``text`` (`journalctl -o json`) into ``target``, whole or not; raises NoHistory, OSError."""
    atomic.write(target, page(entries(text)).encode(errors="backslashreplace"))

"""The report as one HTML page: a summary, every quantity over time, the events; no script, no network."""

import html
import math
import statistics
from collections.abc import Sequence

from edge.journal import WARNING
from edge.tools.reports.journal_reader import UNIT, NoHistory
from edge.tools.reports.report_drawing import DRAWINGS, WIDTH, drawn
from edge.tools.reports.timeline import Entry, Part, parts

EVENTS_SHOWN = 400
PARTS_SHOWN = 8
"""The newest; each has every drawing."""
STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222;background:#fff;"
    "overflow-wrap:anywhere}"
    "h1{font-size:1.4em}h2{font-size:1em;margin:1.6em 0 .2em}table{border-collapse:collapse}"
    "td,th{text-align:left;padding:.15em .9em .15em 0;vertical-align:top}th,td:not(:last-child){white-space:nowrap}"
    f".warn{{color:#b3261e}}div{{overflow-x:auto}}svg{{width:100%;min-width:{WIDTH * 3 // 4}px;height:auto}}"
    "svg text{font:11px sans-serif;fill:#666}.axis{stroke:#ddd}"
    "path{fill:none;stroke-width:1.5}.l0{stroke:#1f6feb}.l1{stroke:#d9730d}.l2{stroke:#8250df}"
    ".k0{color:#1f6feb}.k1{color:#d9730d}.k2{color:#8250df}"
)
"""In a window narrower than a drawing the drawing is moved, not shrunk: its figures stay readable."""
WARN = ' class="warn"'


def page(records: Sequence[Entry]) -> str:
    """The whole page of records in the order of the journal. Raises NoHistory if there is nothing to draw."""
    if not records:
        raise NoHistory(
            f"the journal has no records of the box for this period; is it running (`systemctl status {UNIT}`), and "
            "does the journal outlast a restart (Storage=persistent)?"
        )
    every = parts(records)
    shown = _newest(every)
    sections = [
        f"<h1>Quietbox, {shown[0].title}</h1>",
        _summary(records),
        f"<p>{len(every) - len(shown)} earlier parts are not drawn.</p>" if len(shown) < len(every) else "",
    ]
    for number, part in enumerate(shown):
        if number:
            sections.append(f"<h1>{html.escape(part.title[:1].upper() + part.title[1:])}</h1>")
        sections += [drawn(drawing, part) for drawing in DRAWINGS]
        sections.append(_events(part))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Quietbox report</title>\n'
        f"<style>{STYLE}</style></head><body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )


def _newest(every: list[Part]) -> list[Part]:
    """What is drawn, the newest first; parts with a date before those without."""
    dated, undated = ([part for part in every if part.dated is kind][::-1] for kind in (True, False))
    kept = dated[:PARTS_SHOWN]
    return kept + undated[: PARTS_SHOWN - len(kept)]


def _summary(records: Sequence[Entry]) -> str:
    """The whole time in a dozen figures."""
    minutes = [entry for entry in records if entry.event == "statistics"]

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
    boots = len({entry.boot for entry in records} - {""})
    rows = {
        "Sound processed": f"{heard_s / 3600:.2f} h" if known("seconds") else "not known",
        "Speech": f"{spoken_s / heard_s:.0%}" if heard_s else "not known",
        "Noise removed": _removed(known("noise_removed_db")),
        "Starts": f"{sum(entry.event == 'start' for entry in records)}" + (f" in {boots} boots" if boots > 1 else ""),
        "Xruns in / out": f"{total('xruns_in')} / {total('xruns_out')}",
        "Late hops": total("late_hops"),
        "Slowest hop": most("hop_max_us", "µs") + slowest,
        "Hottest": most("temperature_c", "°C"),
        "Power and heat": "; ".join(sorted(problems)) or "no complaint",
        "Engine": ", ".join(sorted({entry.fields.get("engine", "") for entry in minutes} - {""})) or "not known",
    }
    body = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
    return f"<table>{body}</table>"


def _removed(values_db: list[float]) -> str:
    """The typical minute with the least and the most; a mean of dB would be neither."""
    if not values_db:
        return "not known"
    typical = f"{statistics.median(values_db):.1f} dB in the pauses"
    return f"{typical} (median of the minutes; {min(values_db):.1f} to {max(values_db):.1f} dB)"


def _events(part: Part) -> str:
    """Everything but the minutes, newest first."""
    events = [entry for entry in reversed(part.entries) if entry.event != "statistics"]
    rows = "".join(
        f"<tr{WARN if entry.priority <= WARNING else ''}><td>{part.when(entry)}</td>"
        f"<td>{html.escape(entry.event)}</td><td>{html.escape(entry.sentence)}</td></tr>"
        for entry in events[:EVENTS_SHOWN]
    )
    more = f"<p>and {len(events) - EVENTS_SHOWN} earlier ones</p>" if len(events) > EVENTS_SHOWN else ""
    return f"<h2>Events</h2><table>{rows}</table>{more}"

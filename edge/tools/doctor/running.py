"""A running box has its cards open, so its own figures are judged instead of a probe."""

import time
from typing import Any

from edge import HOP_MS, runtime
from edge.tools.doctor.finding import FAIL, OK, WARN, Finding

SETTLE_S = 6.0
"""From its start to its first second of sound a box takes less."""
HEARD_S = 2.0
"""So much sound after the silence of a start shows whether a microphone delivers sound, and fills the times per hop."""
STATUS_LATE_S = 1.5
"""A running box writes its status once a second."""
DEAD_DBFS = -100.0
"""Less than this over minutes is not a working microphone."""
HOP_US = 1000 * HOP_MS
TIGHT_US = 0.8 * HOP_US
AGAIN = "run it again in a few seconds: quietbox doctor"


def settled_status(started: bool, enough_s: float) -> tuple[dict[str, Any], float]:
    """The status of the running box, empty if none runs, and for how many seconds it was waited for.

    One that has only just ``started`` gets time to open its cards, and then to process ``enough_s`` of sound: without
    sound its figures mean nothing.
    """
    began, limit_s = time.monotonic(), SETTLE_S
    while True:
        status, waited_s = runtime.read_status() or {}, time.monotonic() - began
        if status and status.get("state") != "waiting":
            limit_s = SETTLE_S + enough_s + STATUS_LATE_S
        if waited_s >= limit_s or _settled(status, started, enough_s):
            return status, waited_s
        time.sleep(0.2)


def _settled(status: dict[str, Any], started: bool, enough_s: float) -> bool:
    if not status:
        return not started
    return status.get("state") != "waiting" and heard_s(status) >= enough_s


def heard_s(status: dict[str, Any]) -> float:
    """Seconds of sound since the box started."""
    return _figure(status, "seconds") or 0.0


def running_box(status: dict[str, Any], waited_s: float = 0.0) -> Finding:
    state = str(status.get("state"))
    found = runtime.in_words(status)
    if waited_s >= 0.5:
        found += f" (just started: polled for {waited_s:.1f} s)"
    if state == "fault":
        return Finding(
            "running box", FAIL, found, "systemctl restart quietbox; look at `journalctl -u quietbox`", status
        )
    if state in ("waiting", "degraded"):
        fix = (
            "see the rows below, and `journalctl -u quietbox` for what it waits for or why it fell back to a simpler "
            "engine"
        )
        return Finding("running box", WARN, found, fix, status)
    return Finding("running box", OK, found, figures=status)


def running_side(status: dict[str, Any], word: str, enough: bool = True) -> Finding:
    """The running box has the card open: its figures for that side, if it has processed ``enough`` sound."""
    held = f"in use by the running box: {status.get(word)}"
    xruns = status.get("xruns_in" if word == "microphone" else "xruns_out")
    if word == "output":
        queue, drift = _figure(status, "queue_ms"), _figure(status, "drift_ppm")
        figures = {"xruns": xruns, "queue_ms": queue, "drift_ppm": drift}
        parts = [held] if queue is None or drift is None else [f"{held}; queue {queue:g} ms", f"drift {drift:+g} ppm"]
        return Finding(word, OK, ", ".join([*parts, f"{xruns} xruns"]), "", figures)
    level = _figure(status, "level_in_dbfs")
    figures = {"level_dbfs": level, "xruns": xruns, "clips": status.get("clips")}
    counted = f"{xruns} xruns, {status.get('clips')} samples at full scale"
    if level is None or not enough:
        found = f"{held}; {heard_s(status):g} s of sound since its start, too little to judge the microphone; {counted}"
        return Finding(word, WARN, found, AGAIN, figures)
    found = f"{held}; mean level {level:g} dBFS, {counted}"
    if level <= DEAD_DBFS:
        fix = "stop the box (systemctl stop quietbox) and run this again: it then records the microphone itself"
        return Finding(word, FAIL, f"silent: {found}", fix, figures)
    return Finding(word, OK, found, "", figures)


def running_engine(status: dict[str, Any], enough: bool = True) -> Finding:
    """Timing a second chain would only disturb the one that runs."""
    p99_us, late = _figure(status, "hop_p99_us"), _figure(status, "late_hops")
    figures = {"hop_p99_us": p99_us, "late_hops": late}
    if p99_us is None or not enough:
        found = (
            f"{status.get('engine')} in the running box: {heard_s(status):g} s of sound, too little to measure its time"
        )
        return Finding("engine", WARN, found, AGAIN, figures)
    found = f"{status.get('engine')} in the running box: p99 {p99_us:.0f} µs of {HOP_US:.0f}"
    found += "" if late is None else f", {late:.0f} late hops"
    if p99_us < TIGHT_US:
        return Finding("engine", OK, found, figures=figures)
    return Finding("engine", WARN, found, "stop other programs, or set a faster [suppress] engine", figures)


def _figure(status: dict[str, Any], name: str) -> float | None:
    """None where the box has not measured it, or reports something that is not a number."""
    value = status.get(name)
    return float(value) if isinstance(value, int | float) else None

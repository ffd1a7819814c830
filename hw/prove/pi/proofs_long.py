"""Inside the machine: what takes time to show. Drift of two clocks, processor load, memory."""

import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import proving
import stage
from proving import check, pair, xruns
from stage import JACK, SETTINGS, call, show, state, status, wait_for

from edge import RATE_HZ

OBSERVED_EVERY_S = 0.004
"""Looked at in longer steps, a stall that begins in the middle of one is seen as that much shorter, and missed."""
STOOD_STILL_S = 0.02
"""Lateness that counts as a stall of the machine, about what the output queue of 25 ms bridges."""


class Lateness(threading.Thread):
    """How late the machine itself wakes somebody who asks first of all: what no program in it could do better."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.late_ms: list[float] = []
        self.stood_at: list[float] = []
        """When it stood still, ``STOOD_STILL_S`` and more."""
        self.start()

    def run(self) -> None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(90))
        due = time.monotonic()
        while True:
            due += OBSERVED_EVERY_S
            time.sleep(max(0.0, due - time.monotonic()))
            late = time.monotonic() - due
            self.late_ms.append(1000 * late)
            if late > STOOD_STILL_S:
                due = time.monotonic()
                self.stood_at.append(due)

    def words(self) -> str:
        late = np.array(self.late_ms[10:])
        return (
            f"machine's own timer late by {np.percentile(late, 99):.1f} ms p99, {late.max():.0f} ms max, "
            f"{len(self.stood_at)} times > {1000 * STOOD_STILL_S:.0f} ms"
        )


class Tally:
    """Xruns and lost hops, and those among them in seconds in which the machine itself stood still: sound that no
    program in it could have saved."""

    def __init__(self) -> None:
        self.late = Lateness()
        self._last = xruns()
        self.lost, self.own = [0, 0, 0], 0

    def over(self, seconds: float) -> None:
        """Watch for so long; the status is a second old at the most."""
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            time.sleep(0.5)
            now = xruns()
            more = [new - old for new, old in zip(now, self._last, strict=True)]
            self.lost = [count + gained for count, gained in zip(self.lost, more, strict=True)]
            if any(more) and not any(at > time.monotonic() - 3 for at in self.late.stood_at):
                self.own += sum(more)
            self._last = now

    def words(self) -> str:
        return (
            f"xruns {self.lost[0]} in, {self.lost[1]} out, {self.lost[2]} hops dropped, {self.own} of them while the "
            f"machine ran; {self.late.words()}"
        )


def drift() -> str:
    """two clocks 300 ppm apart, ten minutes of the machine's own time, which no other work of the host can stop"""
    ppm = 300
    call("amixer", "-c", JACK, "cset", "iface=PCM,name='PCM Rate Shift 100000',device=1", str(100_000 + ppm // 10))
    try:
        stage.restart()
        time.sleep(2)
        wait_for(lambda: state() == "running", 60)
        time.sleep(5)
        tally, (_, noisy) = Tally(), pair()
        over = time.monotonic() + float(os.environ["PI_SECONDS"])
        while time.monotonic() < over:
            tally.over(proving.speaker.play(noisy))
        report = status()
    finally:
        call("amixer", "-c", JACK, "cset", "iface=PCM,name='PCM Rate Shift 100000',device=1", "100000")
    return check(
        not any(tally.lost) and abs(abs(report["drift_ppm"]) - ppm) < 60,
        f"{report['seconds']:.0f} s: {tally.words()}; drift measured {report['drift_ppm']:+.0f} ppm, queue "
        f"{report['queue_ms']:.1f} ms",
    )


def stalled() -> str:
    """the service's process stopped for 60 ms, a dozen times: each costs one gap, and nothing after it"""
    stops, stall_s, settle_s = 12, 0.06, 2.0
    time.sleep(5)
    _, noisy = pair()
    process = int(show("MainPID")["MainPID"])
    tally, worst = Tally(), [0, 0, 0]
    for _ in range(stops):
        proving.speaker.play(noisy[: round(RATE_HZ * 2 * settle_s)])
        before = list(tally.lost)
        os.kill(process, signal.SIGSTOP)
        time.sleep(stall_s)
        os.kill(process, signal.SIGCONT)
        tally.over(settle_s)
        worst = [max(most, now - then) for most, now, then in zip(worst, tally.lost, before, strict=True)]
        calm = list(tally.lost)
        tally.over(settle_s)
        if tally.lost != calm:
            return check(False, f"xruns {settle_s:.0f} s after a stall: {calm} -> {tally.lost} (in, out, hops)")
    stopped = 1000 * stall_s
    return check(
        worst[0] <= 1 and worst[1] <= 1 and state() == "running",
        f"{stops} stops of {stopped:.0f} ms: at most {worst[0]} xrun in, {worst[1]} out and {worst[2]} hops lost by "
        f"one, none later; in all {tally.lost[0]}, {tally.lost[1]} and {tally.lost[2]}",
    )


def load() -> str:
    """128-frame periods under full processor load"""
    text = SETTINGS.read_text()
    for section in ("capture", "playback"):
        text = re.sub(rf"(?ms)(^\[{section}\].*?)^period_ms *=.*?$", r"\1", text, count=1)
        text = re.sub(rf"(?m)^\[{section}\].*$", f"[{section}]\nperiod_ms = 8", text, count=1)
    seconds = float(os.environ["PI_SECONDS"])
    renamed = Path(f"/proc/asound/{JACK}").resolve().name.removeprefix("card")
    identity = Path(f"/sys/class/sound/card{renamed}/id")
    identity.write_text("Headset")  # a name that stands for no Pi jack: those move in 10 ms only
    burners = []
    try:
        with stage.settings(text.replace(JACK, "Headset")):
            time.sleep(2)
            wait_for(lambda: state() == "running", 60)
            time.sleep(5)
            burners = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(3)]
            tally, (_, noisy) = Tally(), pair()
            over = time.monotonic() + seconds
            while time.monotonic() < over:
                tally.over(proving.speaker.play(noisy))
            report = status()
    finally:
        for burner in burners:
            burner.kill()
        identity.write_text(JACK)
    return check(
        not tally.own,
        f"{seconds:.0f} s, 3 busy loops: {tally.words()}; {report['microphone']}; "
        f"hop p99 {report['hop_p99_us']:.0f} µs",
    )


def upkeep() -> str:
    """memory and processor time of the service"""
    seconds = float(os.environ["PI_SECONDS"])
    time.sleep(10)
    _, noisy = pair()

    runner, restarts, lost = show("MainPID")["MainPID"], show("NRestarts")["NRestarts"], xruns()

    def resident_mb() -> float:
        text = Path(f"/proc/{runner}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) / 1024

    began, used, before_mb = time.monotonic(), int(show("CPUUsageNSec")["CPUUsageNSec"]), resident_mb()
    tops = [before_mb]
    while time.monotonic() - began < seconds:
        time.sleep(proving.speaker.play(noisy))
        tops.append(resident_mb())
    share = (int(show("CPUUsageNSec")["CPUUsageNSec"]) - used) / 1e9 / (time.monotonic() - began)
    gained = [now - then for now, then in zip(xruns(), lost, strict=True)]
    return check(
        tops[-1] < before_mb + 10 and show("NRestarts")["NRestarts"] == restarts,
        f"{seconds / 60:.0f} min: RSS {before_mb:.0f} -> {tops[-1]:.0f} MB (max {max(tops):.0f}), processor "
        f"{100 * share:.0f} % of one core (User-Mode Linux pays much for each system call), "
        f"xruns {gained[0]} in {gained[1]} out",
    )

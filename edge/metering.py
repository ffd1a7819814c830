"""Fills the page of figures (``edge.meters``) while somebody watches: on the service's main thread, ten times a second.

The audio thread does nothing for it: its counters, powers and band gains are read as they are, without a lock, so a
figure may be one hop older than its neighbour.
"""

import math
import time
from collections import deque

from edge import HOP_MS, meters, runtime, status
from edge.box import Box
from edge.health import BUCKETS, dbfs, percentile_us
from edge.meters import Page, Reading
from hw.board import boards

ASKED_S = 5.0
"""How long one order ``watch`` lasts; whoever watches repeats it."""
SLOW_S = 1.0
"""How often hop times, temperature and processor time are measured."""


class Metering:
    """Nothing but a comparison of two numbers while nobody watches."""

    def __init__(self, box: Box, events: "deque[tuple[float, str]]") -> None:
        """``events``: the journal's newest records (``Journal.recent``)."""
        self._box, self._events = box, events
        self._until_s = -math.inf
        self._page: Page | None = None
        self._hops = 0
        self._energy_in = self._energy_out = 0.0
        self._took = [0] * BUCKETS
        self._cpu_s = self._slow_s = 0.0
        self._slow: dict[str, float] = {}

    def ask(self) -> None:
        """Somebody watches for the next ``ASKED_S``."""
        self._until_s = time.monotonic() + ASKED_S

    def fill(self, throttling: str) -> None:
        """One reading, if somebody watches; else the page is removed. After an OSError or UserError, which it raises,
        it waits for the next order."""
        now_s = time.monotonic()
        if now_s >= self._until_s:
            self.close()
            return
        try:
            if self._page is None:
                self._page = Page(runtime.own_folder())
                self._begin(now_s)
            self._page.write(self._reading(now_s, throttling))
        except BaseException:
            self._until_s = -math.inf
            raise

    def close(self) -> None:
        """Remove the page. Raises OSError."""
        page, self._page = self._page, None
        if page:
            page.close()

    def _begin(self, now_s: float) -> None:
        """Means begin here."""
        totals = self._box.health.totals
        self._hops, self._energy_in, self._energy_out = totals.hops, totals.energy_in, totals.energy_out
        self._took, self._cpu_s, self._slow_s = totals.took.copy(), time.process_time(), now_s
        self._slow = {"temperature_c": _or_nan(boards.temperature_c())}

    def _reading(self, now_s: float, throttling: str) -> Reading:
        box = self._box
        chain, playback, capture, totals = box.chain, box.playback, box.capture, box.health.totals
        if now_s - self._slow_s >= SLOW_S:
            self._measure_slow(now_s)
        floor_in, floor_out = box.health.noise_floors
        moves = box.playing
        gains = None if chain.silent or not moves else chain.engine.band_gains
        return Reading(
            at_s=now_s,
            **self._levels(),
            floor_in_dbfs=dbfs(floor_in) if floor_in > 0 else math.nan,
            floor_out_dbfs=dbfs(floor_out) if floor_in > 0 else math.nan,
            speech=chain.speech if moves else math.nan,
            speaking=float(moves and chain.voice.speaking),
            delay_ms=status.latency_ms(box) if moves else math.nan,
            queue_ms=playback.queue_ms if moves else math.nan,
            drift_ppm=playback.drift_ppm if moves else math.nan,
            late_hops=totals.late,
            xruns_in=capture.xruns,
            xruns_out=playback.xruns,
            clips=capture.clips,
            volume_db=box.latest.playback.volume_db if box.latest.has_headphones else math.nan,
            limit_db=chain.engine.limit_db,
            seconds=totals.hops * HOP_MS / 1000,
            **self._slow,
            gains=None if gains is None else tuple(gains.tolist()),
            state=box.state.value,
            engine=chain.working,
            throttling=throttling,
            events=tuple(self._events)[-meters.EVENTS :],
        )

    def _levels(self) -> dict[str, float]:
        """Of the hops since the last call; without any there is no level."""
        totals = self._box.health.totals
        hops, energy_in, energy_out = totals.hops, totals.energy_in, totals.energy_out
        added = hops - self._hops
        power_in, power_out = energy_in - self._energy_in, energy_out - self._energy_out
        self._hops, self._energy_in, self._energy_out = hops, energy_in, energy_out
        if added <= 0:
            return {}
        return {"level_in_dbfs": dbfs(power_in / added), "level_out_dbfs": dbfs(power_out / added)}

    def _measure_slow(self, now_s: float) -> None:
        took, cpu_s = self._box.health.totals.took.copy(), time.process_time()
        added = [now - before for now, before in zip(took, self._took, strict=True)]
        self._slow = {
            "temperature_c": _or_nan(boards.temperature_c()),
            "cpu_share": (cpu_s - self._cpu_s) / (now_s - self._slow_s),
        }
        if any(added):
            shares = {"hop_p50_us": 0.5, "hop_p99_us": 0.99, "hop_max_us": 1.0}
            self._slow |= {name: percentile_us(added, share) for name, share in shares.items()}
        self._took, self._cpu_s, self._slow_s = took, cpu_s, now_s


def _or_nan(figure: float | None) -> float:
    return math.nan if figure is None else figure

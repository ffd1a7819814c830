"""What the loop counts and what is told of it: the audio thread adds to numbers, another thread tells."""

import math
from collections import deque
from dataclasses import dataclass, field

from edge import HOP_MS

BUCKET_US = 20
BUCKETS = 1000
"""Time per hop is counted in steps of 20 us up to 20 ms; longer ones lie in the last."""
EVENTS_KEPT = 64


@dataclass
class Counters:
    """Totals since the start; the difference of two copies describes the time between them."""

    hops: int = 0
    spoken: int = 0
    late: int = 0
    energy_in: float = 0.0
    energy_out: float = 0.0
    pauses_in: float = 0.0
    pauses_out: float = 0.0
    pauses: int = 0
    took: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    """How many hops took how many steps of BUCKET_US."""

    def copy(self) -> "Counters":
        return Counters(**{**self.__dict__, "took": self.took.copy()})

    def since(self, before: "Counters") -> "Counters":
        late = [now - then for now, then in zip(self.took, before.took, strict=True)]
        rest = {name: value - getattr(before, name) for name, value in self.__dict__.items() if name != "took"}
        return Counters(**rest, took=late)


class Health:
    """Counters and the last events of a running box."""

    def __init__(self) -> None:
        self.totals = Counters()
        self.longest_us = 0.0
        self._longest_lately_us = 0.0
        self._events: deque[tuple[str, str]] = deque(maxlen=EVENTS_KEPT)

    def hop(self, took_us: float, power_in: float, power_out: float, speaking: bool, late: bool) -> None:
        """Count one hop; called by the audio thread, adds numbers and nothing else."""
        totals = self.totals
        totals.hops += 1
        totals.energy_in += power_in
        totals.energy_out += power_out
        if speaking:
            totals.spoken += 1
        else:
            totals.pauses += 1
            totals.pauses_in += power_in
            totals.pauses_out += power_out
        if late:
            totals.late += 1
        if took_us > self._longest_lately_us:
            self._longest_lately_us = took_us
            if took_us > self.longest_us:
                self.longest_us = took_us
        totals.took[min(int(took_us) // BUCKET_US, BUCKETS - 1)] += 1

    def event(self, kind: str, text: str) -> None:
        """Note something worth a line in the journal; told later, by whoever takes ``news``."""
        self._events.append((kind, text))

    def take_longest_us(self) -> float:
        """The slowest hop since the last call."""
        longest, self._longest_lately_us = self._longest_lately_us, 0.0
        return longest

    def news(self) -> list[tuple[str, str]]:
        """The events not yet told, as (kind, sentence)."""
        told = []
        while self._events:
            told.append(self._events.popleft())
        return told


def percentile_us(took: list[int], share: float) -> float:
    """The upper edge of the step below which ``share`` of the hops lie."""
    wanted = share * sum(took)
    seen = 0
    for step, count in enumerate(took):
        seen += count
        if seen >= wanted and seen:
            return float((step + 1) * BUCKET_US)
    return 0.0


def summary(counters: Counters) -> dict[str, float]:
    """One stretch of time in the figures a user reads."""
    hops = max(counters.hops, 1)
    pauses = max(counters.pauses, 1)
    removed_db = dbfs(counters.pauses_in / pauses) - dbfs(counters.pauses_out / pauses)
    return {
        "seconds": round(counters.hops * HOP_MS / 1000, 2),
        "level_in_dbfs": dbfs(counters.energy_in / hops),
        "level_out_dbfs": dbfs(counters.energy_out / hops),
        "noise_removed_db": round(removed_db, 1),
        "speech_share": round(counters.spoken / hops, 3),
        "hop_p50_us": percentile_us(counters.took, 0.5),
        "hop_p99_us": percentile_us(counters.took, 0.99),
        "late_hops": counters.late,
    }


def dbfs(power: float) -> float:
    """Mean square to dBFS (0 dBFS = full-scale square wave), not below -120."""
    return round(10 * math.log10(max(power, 1e-12)), 1)

"""What the loop counts and reports: the audio thread adds to numbers, another thread reads and reports them."""

import math
from collections import deque
from dataclasses import dataclass, field

from edge import HOP_MS

BUCKET_US = 20
BUCKETS = 1000
"""Time per hop is counted in steps of 20 us up to 20 ms; longer ones lie in the last."""
EVENTS_KEPT = 64


FLOOR_HOPS = 150
"""The noise floor is searched in spans of 0.75 s: in two of them even a fast talker pauses."""
FLOOR_KEPT = 0.9
"""Smoothing factor per hop of the power: a time constant of 50 ms."""
LEAST_SPOKEN = round(2000 / HOP_MS)
"""Hops of speech below which no figure of the voice is given."""
LEAST_SNR = 10 ** (-3 / 10)
"""SNR, -3 dB, below which none is given either: the difference to the noise would be chance."""


@dataclass
class Counters:
    """Totals since the start; the difference of two copies describes the time between them."""

    hops: int = 0
    spoken: int = 0
    late: int = 0
    skipped: int = 0
    energy_in: float = 0.0
    energy_out: float = 0.0
    pauses_in: float = 0.0
    pauses_forward: float = 0.0
    pauses_feedback: float = 0.0
    pauses_clean: float = 0.0
    pauses: int = 0
    """Hops without speech that count; the figures above and the three below are sums over hops that count."""
    voice_in: float = 0.0
    voice_clean: float = 0.0
    voice: int = 0
    """Hops with speech that count."""
    floors_in: float = 0.0
    floors_clean: float = 0.0
    floors: int = 0
    took: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    """How many hops took how many steps of BUCKET_US."""

    def copy(self) -> "Counters":
        return Counters(**{**self.__dict__, "took": self.took.copy()})

    def since(self, before: "Counters") -> "Counters":
        late = [now - then for now, then in zip(self.took, before.took, strict=True)]
        rest = {name: value - getattr(before, name) for name, value in self.__dict__.items() if name != "took"}
        return Counters(**rest, took=late)


class NoiseFloor:
    """The power below which a sound does not fall, speech or not: the minimum smoothed power of the last 0.75 to 1.5 s.

    Minimum statistics (Martin 2001) of the whole band. On steady noise the minimum lies about half a dB below the mean;
    what comes and goes faster than a second is not in it.
    """

    def __init__(self) -> None:
        self.power = 0.0
        """Mean square of what never pauses."""
        self._smooth = -1.0  # no hop yet
        self._least = self._least_before = math.inf

    def follow(self, power: float) -> None:
        """One hop's mean square."""
        smooth = self._smooth
        self._smooth = smooth = power if smooth < 0 else smooth + (1 - FLOOR_KEPT) * (power - smooth)
        if smooth < self._least:
            self._least = smooth

    def turn(self) -> None:
        """A span ends; ``power`` is the minimum of it and the one before."""
        self.power = min(self._least, self._least_before)
        self._least_before, self._least = self._least, self._smooth


class Health:
    """Counters and the last events of a running box."""

    def __init__(self) -> None:
        self.totals = Counters()
        self.longest_us = 0.0
        self._longest_recent_us = 0.0
        self._events: deque[tuple[str, str]] = deque(maxlen=EVENTS_KEPT)
        self._floor_in, self._floor_clean = NoiseFloor(), NoiseFloor()

    def hop(
        self,
        took_us: float,
        power_in: float,
        power_forward: float,
        power_feedback: float,
        power_clean: float,
        power_out: float,
        *,
        counts: bool,
        speaking: bool,
        skipped: bool,
        late: bool,
    ) -> None:
        """Count one hop; called by the audio thread, adds numbers and nothing else.

        The powers are mean squares: of the microphone, after the feedforward path, after the feedback path, after all
        that cleans, and at the jack. ``power_clean`` shows what became of noise and voice, whatever
        the volume.
        ``counts`` states whether the powers show what the chain does to noise and voice (``Chain.counts``); the levels
        at both ends are those of all hops.
        """
        totals = self.totals
        totals.hops += 1
        totals.skipped += skipped
        totals.spoken += speaking
        totals.energy_in += power_in
        totals.energy_out += power_out
        if counts and speaking:
            totals.voice += 1
            totals.voice_in += power_in
            totals.voice_clean += power_clean
        elif counts:
            totals.pauses += 1
            totals.pauses_in += power_in
            totals.pauses_forward += power_forward
            totals.pauses_feedback += power_feedback
            totals.pauses_clean += power_clean
        if counts:
            self._follow_floors(power_in, power_clean)
        if late:
            totals.late += 1
        if took_us > self._longest_recent_us:
            self._longest_recent_us = took_us
            if took_us > self.longest_us:
                self.longest_us = took_us
        totals.took[min(int(took_us) // BUCKET_US, BUCKETS - 1)] += 1

    def _follow_floors(self, power_in: float, power_clean: float) -> None:
        totals = self.totals
        self._floor_in.follow(power_in)
        self._floor_clean.follow(power_clean)
        if (totals.pauses + totals.voice) % FLOOR_HOPS == 0:
            self._floor_in.turn()
            self._floor_clean.turn()
            totals.floors_in += self._floor_in.power
            totals.floors_clean += self._floor_clean.power
            totals.floors += 1

    @property
    def noise_floors(self) -> tuple[float, float]:
        """Mean squares of the noise before and after cleaning, of the last second or so; 0 until they are known."""
        return self._floor_in.power, self._floor_clean.power

    def event(self, kind: str, text: str) -> None:
        """Store an event for the journal; reported later by the caller of ``news``."""
        self._events.append((kind, text))

    def take_longest_us(self) -> float:
        """The slowest hop since the last call."""
        longest, self._longest_recent_us = self._longest_recent_us, 0.0
        return longest

    def news(self) -> list[tuple[str, str]]:
        """The events not yet reported, as (kind, sentence)."""
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events


MEASURED = (
    "level_in_dbfs",
    "level_out_dbfs",
    "noise_removed_db",
    "feedforward_db",
    "feedback_db",
    "sleep_share",
    "speech_share",
    "hop_p50_us",
    "hop_p99_us",
)
"""Figures of ``summary`` that exist only once sound has moved."""


def percentile_us(took: list[int], share: float) -> float:
    """The upper edge of the step below which ``share`` of the hops lie."""
    wanted = share * sum(took)
    seen = 0
    for step, count in enumerate(took):
        seen += count
        if seen >= wanted and seen:
            return float((step + 1) * BUCKET_US)
    return 0.0


def quieter_db(power_before: float, power_after: float, hops: int) -> float | None:
    """How much quieter the sum of ``hops`` mean squares became, each mean taken as -120 dBFS at least; None of none."""
    return round(dbfs(power_before / hops) - dbfs(power_after / hops), 1) if hops else None


def summary(counters: Counters) -> dict[str, float | None]:
    """The figures of a span of time, as a user reads them; None where nothing was measured."""
    if not counters.hops:
        return dict.fromkeys(MEASURED) | {"seconds": 0.0, "late_hops": 0}
    hops, pauses = counters.hops, counters.pauses
    before, forward, feedback = counters.pauses_in, counters.pauses_forward, counters.pauses_feedback
    return {
        "seconds": round(counters.hops * HOP_MS / 1000, 2),
        "level_in_dbfs": dbfs(counters.energy_in / hops),
        "level_out_dbfs": dbfs(counters.energy_out / hops),
        "noise_removed_db": quieter_db(before, counters.pauses_clean, pauses),
        "feedforward_db": quieter_db(before, forward, pauses),
        "feedback_db": quieter_db(forward, feedback, pauses),
        "sleep_share": round(counters.skipped / hops, 3),
        **quality(counters),
        "speech_share": round(counters.spoken / hops, 3),
        "hop_p50_us": percentile_us(counters.took, 0.5),
        "hop_p99_us": percentile_us(counters.took, 0.99),
        "late_hops": counters.late,
    }


def quality(counters: Counters) -> dict[str, float]:
    """Estimates of what became of noise and voice; empty until enough was measured.

    Noise is the floor, before and after cleaning, without the volume. The voice's power is that of the spans with
    speech, pauses between words included, less the floor's; where the noise swells while somebody speaks, it counts as
    voice.
    """
    if not counters.floors:
        return {}
    noise_in, noise_out = counters.floors_in / counters.floors, counters.floors_clean / counters.floors
    figures = {"noise_floor_in_dbfs": dbfs(noise_in), "noise_floor_out_dbfs": dbfs(noise_out)}
    if counters.voice < LEAST_SPOKEN:
        return figures
    voice_in = counters.voice_in / counters.voice - noise_in
    voice_out = counters.voice_clean / counters.voice - noise_out
    if not voice_in > LEAST_SNR * noise_in or not voice_out > 0:
        return figures
    voice_in_db, voice_out_db = dbfs(voice_in), dbfs(voice_out)
    return {
        **figures,
        "snr_in_db": round(voice_in_db - figures["noise_floor_in_dbfs"], 1),
        "snr_out_db": round(voice_out_db - figures["noise_floor_out_dbfs"], 1),
        "voice_kept_db": round(voice_out_db - voice_in_db, 1),
    }


def dbfs(power: float) -> float:
    """Mean square to dBFS (0 dBFS = full-scale square wave), not below -120."""
    return round(10 * math.log10(max(power, 1e-12)), 1)

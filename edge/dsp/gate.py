"""The soft gate: turns down residual noise in pauses of speech."""

import math

import numpy as np

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.config import GateConfig
from edge.dsp.spectrum import Floats

CLOSING_DB_PER_S = 100.0
"""Slope of the closing gate: the default depth of 30 dB takes 0.3 s."""
OPENING_SAMPLES = RATE_HZ // 1000
"""Cross-fade of the opening gate, 1 ms: short enough to keep the consonant that opened it, long enough not to click."""
QUARTERS = 4
"""Parts of a hop whose levels are measured apart, 1.25 ms each."""
SILENT_DBFS = -200.0
"""Level of digital silence."""


class SoftGate:
    """Attenuates what is too quiet to be speech, by at most ``depth_db``, without audible switching.

    A hop's level is the RMS of its loudest quarter (1.25 ms) in dBFS, so a consonant that starts late in a hop still
    opens that hop. Below ``floor_dbfs`` the gain is -depth, above ``ceiling_dbfs`` 0 dB, in between a straight line in
    dB. A hop above the ceiling, or one the voice decision calls speech, opens the gate and holds it open for
    ``hold_ms`` more. Opening cross-fades over the first millisecond of the same hop; closing falls at
    ``CLOSING_DB_PER_S``.
    """

    delay_samples = 0

    def __init__(self, config: GateConfig) -> None:
        assert config.floor_dbfs < config.ceiling_dbfs and config.hold_ms >= 0 and config.depth_db >= 0
        self._floor_dbfs, self._ceiling_dbfs = config.floor_dbfs, config.ceiling_dbfs
        self._depth_db = config.depth_db
        self._hold_hops = round(config.hold_ms / HOP_MS)
        self._closing_db = CLOSING_DB_PER_S * HOP_MS / 1000
        self._opening = np.ones(HOP_SAMPLES)
        self._opening[:OPENING_SAMPLES] = np.arange(1, OPENING_SAMPLES + 1) / OPENING_SAMPLES
        self._closing = np.arange(1, HOP_SAMPLES + 1) / HOP_SAMPLES
        self._quarters = np.zeros((QUARTERS, HOP_SAMPLES // QUARTERS))
        self._powers = np.zeros(QUARTERS)
        self._ramp = np.zeros(HOP_SAMPLES)
        self._hold_left = 0
        self.gain_db: float = -config.depth_db
        """Gain at the end of the last hop, -depth_db..0."""

    def process(self, hop: Floats, speaking: bool) -> None:
        """float32, 80 samples in place; ``speaking`` is the voice decision of this hop."""
        level_dbfs = self._level_dbfs(hop)
        if speaking or level_dbfs >= self._ceiling_dbfs:
            self._hold_left, wanted_db = self._hold_hops, 0.0
        elif self._hold_left > 0:
            self._hold_left, wanted_db = self._hold_left - 1, 0.0
        else:
            wanted_db = self.curve_db(level_dbfs)
        before_db, self.gain_db = self.gain_db, max(wanted_db, self.gain_db - self._closing_db)
        if before_db == self.gain_db == 0.0:
            return
        before, after = 10 ** (before_db / 20), 10 ** (self.gain_db / 20)
        np.multiply(self._opening if after > before else self._closing, after - before, out=self._ramp)
        self._ramp += before
        np.multiply(hop, self._ramp, out=hop, casting="same_kind")

    def curve_db(self, level_dbfs: float) -> float:
        """The gain a steady level settles at, -depth_db..0."""
        share = (self._ceiling_dbfs - level_dbfs) / (self._ceiling_dbfs - self._floor_dbfs)
        return -self._depth_db * min(1.0, max(0.0, share))

    def _level_dbfs(self, hop: Floats) -> float:
        quarters = self._quarters
        quarters.reshape(-1)[:] = hop
        np.einsum("ij,ij->i", quarters, quarters, out=self._powers)
        power = float(self._powers.max()) / quarters.shape[1]
        # silent also for NaN: the limiter removes it, and the gate must not carry it into the next hop
        return 10 * math.log10(power) if power > 1e-20 else SILENT_DBFS

    def reset(self) -> None:
        """Closed, as after a long silence."""
        self._hold_left = 0
        self.gain_db = -self._depth_db

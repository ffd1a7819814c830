"""Whose voice it is that two microphones hear."""

import math

from edge.dsp.power import DifferencePower
from edge.dsp.reference_thresholds import ReferenceThresholds
from edge.dsp.spectrum import Floats
from edge.dsp.thresholds import hops


class NearTalkerDetector:
    """Whether a voice is the wearer's: theirs lifts the voice channel against the reference, a talker's at the noise's
    place does not.

    Compared are the powers of the samples' differences over 50 ms, which weighs up the highs, where speech stands out;
    the least ratio of the last 10 s is that of noise alone, so the microphones need no matched gains.
    """

    def __init__(self, limits: ReferenceThresholds) -> None:
        self._limits = limits
        self._difference_power = DifferencePower()
        self._settle_hops, self._block_hops = hops(limits.level_settle_ms), hops(limits.least_block_ms)
        self._lowest_db = [math.inf] * limits.least_blocks
        self.reset()

    def reset(self) -> None:
        """Forget the signal."""
        self._voice = self._reference = self._limits.level_floor
        self._lowest_db[:] = [math.inf] * len(self._lowest_db)
        self._hops = 0

    def of(self, voice: Floats, reference: Floats) -> float:
        """0 (somebody else's) to 1, after these hops: float32, 80 samples each."""
        limits, power = self._limits, self._difference_power
        self._voice += (power.of(voice) - self._voice) * limits.level_share
        self._reference += (power.of(reference) - self._reference) * limits.level_share
        ratio_db = 10 * math.log10((self._voice + limits.level_floor) / (self._reference + limits.level_floor))
        self._hops += 1
        if self._hops < self._settle_hops:
            return 0.0
        block, place = divmod(self._hops - self._settle_hops, self._block_hops)
        block %= len(self._lowest_db)
        self._lowest_db[block] = min(self._lowest_db[block], ratio_db) if place else ratio_db
        return min(max((ratio_db - min(self._lowest_db) - limits.lift_db) / limits.lift_range_db, 0.0), 1.0)

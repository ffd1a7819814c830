"""The howl guard's question to the room: does the microphone follow when the box turns itself down?"""

from enum import Enum

import numpy as np

from edge import HOP_SAMPLES
from edge.dsp.band_powers import BandPowers
from edge.dsp.feedback_path import FeedbackPath
from edge.dsp.howl_thresholds import HowlThresholds
from edge.dsp.power import DifferencePower
from edge.dsp.spectrum import Floats
from edge.dsp.thresholds import hops


class Verdict(Enum):
    """The result of a finished test."""

    LOOP = "the microphone follows the drop"
    OUTSIDE = "the microphone hears a sound from outside"
    UNCLEAR = "neither"


class GainDropTest:
    """Two predictions of the microphone compete while the output is lower: one from what was played, one that does not
    know of the drop. A feedback loop follows the first, a held tone the second.

    Only hops count that the drop reaches and in which the prediction is a good part of the sound. ``start``, then
    ``observe`` each hop until it returns True, then ``verdict``.
    """

    def __init__(self, limits: HowlThresholds, skipped_hops: int, partitions: int) -> None:
        """``skipped_hops``: how much later than it was played the path's estimate begins."""
        self._limits = limits
        self._skipped_hops = skipped_hops
        self._enough_hops = hops(limits.counted_ms)
        self._longest_hops = partitions + hops(limits.longest_test_ms)
        self._power = DifferencePower().mean
        self._bands = BandPowers(3)
        self._powers = np.zeros(self._bands.shape, np.float32)
        """Sums over the counted hops: heard, not explained by what was played, not explained without the drop."""
        self._left_without_drop = np.zeros(HOP_SAMPLES, np.float32)
        self.start(0.0, 0.0)

    def start(self, drop_db: float, power_before: float) -> None:
        """``drop_db``: by how much quieter than before the sound becomes; ``power_before``: the microphone's mean."""
        self._gain = 10 ** (drop_db / 20)
        self._power_before = power_before
        self._hops = self._counted_hops = 0
        self._heard = self._left = self._left_undropped = 0.0
        self._powers.fill(0)
        self._bands.reset()

    def observe(self, hop: Floats, left: Floats, path: FeedbackPath) -> bool:
        """The microphone's hop and what ``path`` leaves of it: float32, 80 samples each; True when the test ends."""
        limits, power = self._limits, self._power
        self._hops += 1
        undropped = path.echo_without_drop(max(0, self._hops - self._skipped_hops), self._gain)
        scratch = self._left_without_drop
        np.subtract(hop, undropped, out=scratch)
        powers = self._bands.powers(hop, left, scratch)
        heard, predicted, left_undropped = power(hop), power(undropped), power(scratch)
        scratch -= left
        if predicted > limits.present_share * heard and power(scratch) > limits.reached_share * predicted:
            self._counted_hops += 1
            self._heard += heard
            self._left += power(left)
            self._left_undropped += left_undropped
            self._powers += powers
        return self._counted_hops >= self._enough_hops or self._hops >= self._longest_hops

    def verdict(self, path_db: float, subtracting: bool) -> Verdict:
        """``path_db``: highest gain of the quick estimate now."""
        limits = self._limits
        heard, left, undropped = self._powers
        explained_db = BandPowers.explained_db(heard, left)
        undropped_db = BandPowers.explained_db(heard, undropped)
        held = self._left_undropped < min(limits.held_share * self._heard, self._left)
        ended = self._heard < limits.ended_share * self._counted_hops * self._power_before
        one_tone = (
            self._left < min(limits.one_tone_share * self._heard, self._left_undropped / limits.one_tone_ratio)
            and explained_db > 0
        )
        everywhere = explained_db > limits.follows_db and explained_db - undropped_db > limits.ahead_db and not held
        everywhere = everywhere and path_db > limits.open_path_db  # else the path is real, but cannot howl
        if (one_tone or everywhere) and not (ended and subtracting):
            return Verdict.LOOP
        return Verdict.OUTSIDE if held and undropped_db < 0 else Verdict.UNCLEAR

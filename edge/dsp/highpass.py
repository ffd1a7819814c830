"""The high-pass: no DC and no rumble in what follows."""

import math

from edge import RATE_HZ
from edge.dsp.biquad import HopFilter, biquad, prewarped, silence_nonfinite
from edge.dsp.spectrum import Floats


class HighPass:
    """Second-order Butterworth high-pass: -3 dB at ``cutoff_hz``, 12 dB per octave below, DC removed entirely.

    The cut-off lies far below the voice because the filter shifts the phase up to ten times its cut-off, and nothing
    after it can undo that; rumble above it is left to the suppressor, whose gains keep the phase.

    ``cutoff_hz=0`` switches it off; then only NaN and Inf are touched. Those become silence here, for everything that
    follows.
    """

    delay_samples = 0

    def __init__(self, cutoff_hz: float) -> None:
        assert 0 <= cutoff_hz < RATE_HZ / 2
        self.nonfinite_samples = 0
        """NaN or Inf received so far."""
        self._filter: HopFilter | None = None
        if cutoff_hz > 0:
            edge = prewarped(cutoff_hz)
            self._filter = HopFilter(biquad((1, 0, 0), (1, math.sqrt(2) * edge, edge**2)))

    def process(self, hop: Floats) -> None:
        """float32, 80 samples in place."""
        self.nonfinite_samples += silence_nonfinite(hop)
        if self._filter is not None:
            self._filter.process(hop)

    def reset(self) -> None:
        if self._filter is not None:
            self._filter.reset()

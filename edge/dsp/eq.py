"""The voice-body equaliser: a band-pass boost for a voice that sounds thin."""

from edge import RATE_HZ
from edge.config import EqConfig
from edge.dsp.biquad import HopFilter, biquad, prewarped, silence_nonfinite
from edge.dsp.spectrum import Floats


class VoiceBodyEq:
    """Raises (or lowers) ``low_hz`` to ``high_hz`` by ``gain_db``; 0 dB passes every bit unchanged.

    ``H = 1 + (g - 1) B`` with B a first-order Butterworth band-pass: the classic peaking equaliser (gain exactly g and
    no phase shift at the geometric centre, 1 far outside), wide enough to span the band. The edges are B's -3 dB
    points.
    """

    delay_samples = 0

    def __init__(self, config: EqConfig) -> None:
        assert 0 < config.low_hz < config.high_hz < RATE_HZ / 2 and abs(config.gain_db) <= 24
        self._filter: HopFilter | None = None
        if config.gain_db != 0.0:
            low, high = prewarped(config.low_hz), prewarped(config.high_hz)
            below = (1.0, high - low, low * high)
            self._filter = HopFilter(biquad((1.0, 10 ** (config.gain_db / 20) * (high - low), low * high), below))

    def process(self, hop: Floats) -> None:
        """float32, 80 samples in place; NaN and Inf become silence."""
        if self._filter is not None:
            silence_nonfinite(hop)
            self._filter.process(hop)

    def reset(self) -> None:
        if self._filter is not None:
            self._filter.reset()

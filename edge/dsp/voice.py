"""The voice decision: a speech probability in, speaking or not out."""

from edge import HOP_MS
from edge.config import VoiceConfig


class VoiceDecision:
    """Hysteresis and hold: speech from ``on`` upwards, none after ``hold_ms`` below ``off`` without interruption.

    The hold (an off-delay) bridges the gaps between words and sentences, so that nothing that depends on the decision
    (gate, LED, adaptation) switches with the syllables. NaN counts as no speech.
    """

    def __init__(self, config: VoiceConfig) -> None:
        assert 0 <= config.off <= config.on <= 1, "0 <= off <= on <= 1"
        assert config.hold_ms >= 0, "hold_ms >= 0"
        self._on = config.on
        self._off = config.off
        self._hold_hops = round(config.hold_ms / HOP_MS)
        self._hops_left = 0
        self.speaking = False
        """The last decision."""

    def decide(self, probability: float) -> bool:
        """One hop's speech probability, 0..1 or NaN -> whether somebody speaks."""
        if probability >= (self._off if self.speaking else self._on):
            self.speaking = True
            self._hops_left = self._hold_hops
        elif self._hops_left > 0:
            self._hops_left -= 1
        else:
            self.speaking = False
        return self.speaking

    def reset(self) -> None:
        """As new: nobody speaks."""
        self._hops_left = 0
        self.speaking = False

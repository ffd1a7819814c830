"""When somebody speaks: a speech probability in, a yes or no out."""

from edge import HOP_MS


class VoiceDecision:
    """Hysteresis and hold: yes from ``on`` upwards, no once below ``off`` for ``hold_ms`` without a break.

    The hold (an off-delay) bridges the gaps between words and sentences, so that nothing that hangs on the decision
    (gate, LED, adaptation) flutters with the syllables. NaN counts as no speech.
    """

    def __init__(self, on: float = 0.6, off: float = 0.4, hold_ms: float = 750) -> None:
        assert 0 <= off <= on <= 1, "0 <= off <= on <= 1"
        assert hold_ms >= 0, "hold_ms >= 0"
        self._on = on
        self._off = off
        self._hold_hops = round(hold_ms / HOP_MS)
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

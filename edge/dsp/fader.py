"""The fader: mute without a click."""

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import Floats


class Fader:
    """Mute: set ``target`` to 0 or 1 and the gain moves there linearly, in ``fade_ms`` from one to the other.

    At 1 the hop passes bit for bit, at 0 it is exact silence; the delay never changes.
    """

    delay_samples = 0

    def __init__(self, fade_ms: float) -> None:
        assert fade_ms > 0
        self._steps = np.arange(1, HOP_SAMPLES + 1) / (fade_ms * RATE_HZ / 1000)
        self._gains = np.zeros(HOP_SAMPLES)
        self.target = 1.0
        """Where the gain goes, 0..1; may be set between two hops."""
        self.gain = 1.0
        """Of the last sample."""

    def process(self, hop: Floats) -> None:
        """float32, 80 samples in place."""
        target, gain, gains = self.target, self.gain, self._gains
        if gain == target:
            if target == 0.0:
                hop.fill(0)  # not a product: 0 x NaN is NaN
            elif target != 1.0:
                np.multiply(hop, np.float32(target), out=hop)
            return
        if target > gain:
            np.add(gain, self._steps, out=gains)
            np.minimum(gains, target, out=gains)
        else:
            np.subtract(gain, self._steps, out=gains)
            np.maximum(gains, target, out=gains)
        np.multiply(hop, gains, out=hop, casting="same_kind")
        self.gain = float(gains[-1])

    def reset(self) -> None:
        """Open."""
        self.target = self.gain = 1.0

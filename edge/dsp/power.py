"""Powers of one hop."""

import numpy as np

from edge import HOP_SAMPLES
from edge.dsp.spectrum import Floats

ABSURD_POWER = 1e4
"""Mean square that no microphone gives: 40 dB above full scale. NaN is not below it either."""


def mean_square(hop: Floats) -> float:
    """float32, 80 samples -> mean square; infinite or NaN for samples that are."""
    return float(np.vdot(hop, hop)) / HOP_SAMPLES


class DifferencePower:
    """Power of the differences between neighbouring samples: 6 dB less with every octave down, so that rumble hides no
    voice. Allocates nothing after its creation.
    """

    def __init__(self) -> None:
        self._differences = np.zeros(HOP_SAMPLES - 1, np.float32)

    def of(self, hop: Floats) -> float:
        """float32, 80 samples -> sum of the 79 squared differences."""
        differences = self._differences
        np.subtract(hop[1:], hop[:-1], out=differences)
        return float(np.vdot(differences, differences))

    def mean(self, hop: Floats) -> float:
        """float32, 80 samples -> the same over 80, comparable to a mean square."""
        differences = self._differences
        np.subtract(hop[1:], hop[:-1], out=differences)
        return float(np.vdot(differences, differences)) / HOP_SAMPLES

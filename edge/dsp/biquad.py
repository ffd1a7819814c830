"""Second-order filters over one hop, and what must not get into a recursion: samples that are not finite.

Designed here by the bilinear transform; SciPy's signal package does the same and takes ten seconds to import on a Pi 3.
"""

import math

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import Doubles, Floats


def silence_nonfinite(block: Floats) -> int:
    """Set NaN and Inf in float32 ``block`` to 0 in place; returns how many there were."""
    finite = np.isfinite(block)
    broken = block.shape[0] - int(np.count_nonzero(finite))
    if broken:
        block[~finite] = 0
    return broken


def prewarped(frequency_hz: float) -> float:
    """The normalised analogue frequency that ``biquad`` maps to ``frequency_hz``, 0 to half the sample rate."""
    return math.tan(math.pi * frequency_hz / RATE_HZ)


def biquad(above: tuple[float, float, float], below: tuple[float, float, float]) -> Doubles:
    """The analogue (p s^2 + q s + r) / (u s^2 + v s + w) as float64 (b0, b1, b2, a0 = 1, a1, a2).

    The bilinear transform, s = (1 - 1/z) / (1 + 1/z).
    """
    sections = [(p + q + r, 2 * (r - p), p - q + r) for p, q, r in (above, below)]
    return np.array(sections).reshape(-1) / sections[1][0]


class HopFilter:
    """A biquad over one hop as one matrix: [80 outputs, new state] = M [80 inputs, old state], float64.

    M's columns are the responses of the recursion (direct form II, transposed) to unit vectors. Finite input only.
    """

    def __init__(self, coefficients: Doubles) -> None:
        b0, b1, b2, _, a1, a2 = coefficients
        inputs = np.eye(HOP_SAMPLES, HOP_SAMPLES + 2)
        first, second = np.eye(2, HOP_SAMPLES + 2, HOP_SAMPLES)
        rows = []
        for x in inputs:
            y = b0 * x + first
            first, second = b1 * x - a1 * y + second, b2 * x - a2 * y
            rows.append(y)
        self._matrix = np.array([*rows, first, second])
        self._before, self._after = np.zeros(HOP_SAMPLES + 2), np.zeros(HOP_SAMPLES + 2)
        self._input, self._state = self._before[:HOP_SAMPLES], self._before[HOP_SAMPLES:]
        self._output, self._new_state = self._after[:HOP_SAMPLES], self._after[HOP_SAMPLES:]

    def process(self, hop: Floats) -> None:
        """float32, 80 samples in place."""
        self._input[:] = hop
        np.dot(self._matrix, self._before, out=self._after)
        hop[:] = self._output
        # rounding flushes what is below 1e-36 to zero: a decaying sound never ends in slow subnormal float32 numbers
        np.add(self._new_state, 1e-20, out=self._state)
        self._state -= 1e-20

    def reset(self) -> None:
        self._state.fill(0)

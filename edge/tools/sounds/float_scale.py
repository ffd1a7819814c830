"""What full scale is in a float file: 1.0 by convention, but some programs write integers' values as floats.

Such samples are up to 2^31 times too loud: clipped, no voice is left in them. The scale is recognised from the levels
that occur in the file, which are counted in one pass before the sound is read.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.dsp.spectrum import Floats

FLOAT_CODECS = frozenset(("FLOAT", "DOUBLE"))
"""libsndfile's names of the codecs whose samples may be above full scale as written."""
INTEGER_BITS = (16, 24, 32)
LOUDEST_ORDINARY = 8.0
"""Mixes that nobody normalised peak at a few times full scale; they are left as they are."""
WEAKEST_INTEGER = 128.0
"""Samples that are not whole numbers and peak below are float sound too loud, not integers (-48 dBFS in 16 bits)."""
WILD_SHARE = 1e-4
"""Samples above the level that is exceeded by fewer are damage, not the sound's peak."""
EXPONENT_BIAS = 127
NOT_FINITE = 255
"""The exponent field of NaN and infinity (IEEE 754, binary32); that of 1.0 is ``EXPONENT_BIAS``."""


class UnknownScale(ValueError):
    """The text says which levels occur."""


@dataclass(frozen=True)
class Scale:
    """Samples are to be divided by ``divisor``, a power of two; ``note`` says why, empty where it is 1."""

    divisor: float = 1.0
    note: str = ""


class Levels:
    """Counts the magnitudes of samples by powers of two; what it takes does not grow with the file."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(256, np.int64)
        self._whole = True
        """Whether all finite samples so far are whole numbers."""

    def add(self, block: Floats) -> None:
        """float32, any shape."""
        samples = np.ascontiguousarray(block, np.float32)
        exponents = (samples.view(np.uint32) >> 23) & 0xFF
        self._counts += np.bincount(exponents.ravel(), minlength=256)
        if self._whole:
            finite = samples[exponents != NOT_FINITE]
            self._whole = bool(np.array_equal(finite, np.rint(finite)))

    @property
    def peak(self) -> float:
        """The power of two that the sound's peak stays below: within 6 dB of it. 0 where all is silence."""
        counts = self._counts[1:NOT_FINITE]
        above = np.cumsum(counts[::-1])[::-1]
        loud = np.flatnonzero(above > WILD_SHARE * counts.sum())
        return float(2.0 ** (int(loud[-1]) + 1 + 1 - EXPONENT_BIAS)) if len(loud) else 0.0

    def scale(self) -> Scale:
        """Raises UnknownScale."""
        peak = self.peak
        whole = self._whole and peak > 2.0
        if not whole and peak <= LOUDEST_ORDINARY:
            return Scale()
        if not whole and peak <= WEAKEST_INTEGER:
            decibels = f"{20 * np.log10(peak):.0f} dB"
            return Scale(peak, f"float samples far above full scale, attenuated by {decibels}")
        for bits in INTEGER_BITS:
            # One bit more than the integers have: converting rates or summing channels may add it.
            if peak <= 2.0**bits:
                divisor = 2.0 ** (bits - 1)
                return Scale(divisor, f"float samples in the scale of {bits}-bit integers, divided by {divisor:.0f}")
        raise UnknownScale(
            f"its float samples reach {peak / 2:.0e}, too much for float sound (1.0) and for 16-, 24- or 32-bit "
            "integers; divide them so that full scale is 1.0"
        )

"""The low-latency transform: 320-sample analysis, 160-sample synthesis, hop 80, and the 64 bands on top.

A long analysis window resolves speech harmonics; a short synthesis window decides the delay. Both are asymmetric, and
copies of their product 80 apart add up to one: perfect reconstruction at 10 ms (Mauler & Martin 2007, "A low delay,
variable resolution, perfect reconstruction spectral analysis-synthesis system"). Unlike theirs the product is no Hann
window but nearly a rectangle: of the two frames over a sample the newer one, which contains 5 ms more of what
follows, determines it nearly alone (figures in models/README.md). The runtime, the training and the NumPy engines all
import this file.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ

WINDOW_SAMPLES = 320
"""Analysis window, 20 ms."""
FALL_SAMPLES = 112
"""The end of it that falls: the peak lies over the hop that is about to be played, 5 to 10 ms back."""
FADE_SAMPLES = 24
"""From one frame to the next the sound fades over 1.5 ms."""
BINS = WINDOW_SAMPLES // 2 + 1
BANDS = 64
DELAY_SAMPLES = HOP_SAMPLES
"""How far the synthesised hop lies behind the analysed one; with the hop itself that is 160 samples = 10 ms."""

POWER_FLOOR = 1e-6
"""Added to a band's power before the logarithm: a microphone's self-noise at -80 dBFS lies just above it."""
SILENCE = (math.log10(POWER_FLOOR) + 1) / 2
"""A feature of digital silence, -2.5."""

Floats = NDArray[np.float32]
Spectra = NDArray[np.complex64]
Doubles = NDArray[np.float64]
Complexes = NDArray[np.complex128]


def analysis_window() -> Floats:
    """float32, 320: square-root Hann, rising over 208 samples and falling over the last 112."""
    rise = WINDOW_SAMPLES - FALL_SAMPLES
    up = np.sin(np.pi / 2 * (np.arange(rise) + 0.5) / rise)
    down = np.cos(np.pi / 2 * (np.arange(FALL_SAMPLES) + 0.5) / FALL_SAMPLES)
    return np.concatenate([up, down]).astype(np.float32)


def synthesis_window() -> Floats:
    """float32, 160: over the last two hops analysis x synthesis fades in, stays one, and out as the next fades in."""
    fade_in = np.ones(HOP_SAMPLES)
    fade_in[:FADE_SAMPLES] = np.sin(np.pi / 2 * (np.arange(FADE_SAMPLES) + 0.5) / FADE_SAMPLES) ** 2
    product = np.concatenate([fade_in, 1 - fade_in])
    return (product / analysis_window()[-2 * HOP_SAMPLES :].astype(np.float64)).astype(np.float32)


def band_centres_hz() -> NDArray[np.float64]:
    """float64, 64: centres from 0 Hz to 8 kHz, one bin (50 Hz) apart at first, then a fixed share of the ERB apart.

    ERB(f) = 24.7 (1 + 0.00437 f) Hz (Glasberg & Moore 1990). The share is what makes the last band end at 8 kHz.
    """
    bin_hz = RATE_HZ / WINDOW_SAMPLES

    def spaced(share: float) -> NDArray[np.float64]:
        centres = [0.0]
        for _ in range(BANDS - 1):
            centres.append(centres[-1] + max(bin_hz, share * 24.7 * (1 + 0.00437 * centres[-1])))
        return np.array(centres)

    low, high = 0.1, 2.0
    for _ in range(60):  # bisection on the share: the top centre grows with it
        middle = (low + high) / 2
        low, high = (middle, high) if spaced(middle)[-1] < RATE_HZ / 2 else (low, middle)
    return np.minimum(spaced(high), RATE_HZ / 2)


def band_weights() -> Floats:
    """float32, (64, 161): triangles between neighbouring centres. Every bin's weights add up to one,

    so ``gains @ band_weights()`` spreads band gains over bins (unity stays unity) and ``power @ band_weights().T``
    gathers power into bands. Each call returns a copy of its own.
    """
    return _band_weights().copy()


@functools.cache
def _band_weights() -> Floats:
    """Computed once in a process: a box that starts needs them a dozen times."""
    centres = band_centres_hz()
    bins_hz = np.arange(BINS) * RATE_HZ / WINDOW_SAMPLES
    identity = np.eye(BANDS)
    return np.array([np.interp(bins_hz, centres, row) for row in identity], dtype=np.float32)


class Transform:
    """Streaming transform of one channel: ``analyse`` a hop, change ``spectrum`` in place, ``synthesise`` a hop."""

    def __init__(self) -> None:
        self._analysis = analysis_window()
        self._synthesis = synthesis_window()
        self._frame = np.zeros(WINDOW_SAMPLES, np.float32)
        self._windowed = np.zeros(WINDOW_SAMPLES, np.float32)
        self._overlap = np.zeros(2 * HOP_SAMPLES, np.float32)
        self.spectrum: Spectra = np.zeros(BINS, np.complex64)
        """complex64, 161: the current frame's half spectrum; changed in place between the two calls."""

    def analyse(self, hop: Floats) -> Spectra:
        """Take float32, 80 samples; return ``spectrum``."""
        frame = self._frame
        frame[:-HOP_SAMPLES] = frame[HOP_SAMPLES:]
        frame[-HOP_SAMPLES:] = hop
        np.multiply(frame, self._analysis, out=self._windowed)
        np.fft.rfft(self._windowed, out=self.spectrum)  # type: ignore[arg-type]  # numpy's stubs know only doubles
        return self.spectrum

    def synthesise(self, hop: Floats) -> None:
        """Write float32, 80 samples: the hop before the last one analysed, as ``spectrum`` is now."""
        np.fft.irfft(self.spectrum, n=WINDOW_SAMPLES, out=self._windowed)  # type: ignore[arg-type]
        overlap = self._overlap
        overlap[:HOP_SAMPLES] = overlap[HOP_SAMPLES:]
        overlap[HOP_SAMPLES:] = 0
        tail = self._windowed[-2 * HOP_SAMPLES :]
        tail *= self._synthesis
        overlap += tail
        hop[:] = overlap[:HOP_SAMPLES]

    def reset(self) -> None:
        self._frame.fill(0)
        self._overlap.fill(0)


class Features:
    """What every network reads of a frame: (log10(band power + floor) + 1) / 2."""

    def __init__(self) -> None:
        # ten times the power is one more in the logarithm
        self._gather: Floats = np.ascontiguousarray(10 * band_weights().T)
        self._half = np.array(0.5, np.float32)  # an array of no dimension: NumPy takes it faster than a number
        self._floor = np.array(10 * POWER_FLOOR, np.float32)
        self._power = np.zeros(BINS, np.float32)
        self._features = np.zeros(BANDS, np.float32)

    def of(self, spectrum: Spectra) -> Floats:
        """complex64[161] -> float32[64], about -2.5 to 2.5; good until the next call."""
        parts = spectrum.view(np.float32).reshape(BINS, 2)
        features = self._features
        np.einsum("ij,ij->i", parts, parts, out=self._power)
        np.matmul(self._power, self._gather, out=features)
        np.add(features, self._floor, out=features)
        np.log10(features, out=features)
        np.multiply(features, self._half, out=features)
        return features

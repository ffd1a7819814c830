"""Narrow band-stop filters at the frequencies of a howl."""

import math

import numpy as np
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.howl_thresholds import HowlThresholds
from edge.dsp.spectrum import Floats
from edge.dsp.thresholds import hops


class Notches:
    """A few narrow band-stops, all allocated beforehand: hop minus what complex one-pole resonators find in it.

    With p = r e^(jw) a resonator is z[n] = p z[n-1] + (1 - r) x[n], over a hop p^n (p z_before + (1 - r) cumsum(x
    p^-n)); 2 Re z is the line at w with its surroundings of ``-ln(r) rate / pi`` Hz.
    """

    def __init__(self, limits: HowlThresholds) -> None:
        self.count = limits.notches
        self._width, self._least_width_hz = limits.notch_width, limits.narrowest_notch_hz
        self._fade_hops, self._kept_hops = hops(limits.notch_fade_ms), hops(limits.notch_kept_ms)
        shape = (self.count, HOP_SAMPLES)
        self.frequencies_hz = np.zeros(self.count)
        self._grow: NDArray[np.complex128] = np.ones(shape, np.complex128)
        self._shrink: NDArray[np.complex128] = np.ones(shape, np.complex128)
        self._step: NDArray[np.complex128] = np.zeros(self.count, np.complex128)
        self._state: NDArray[np.complex128] = np.zeros(self.count, np.complex128)
        self._found: NDArray[np.complex128] = np.zeros(shape, np.complex128)
        self._depth = np.zeros(self.count)
        self._left_hops = np.zeros(self.count, np.int64)
        self._line = np.zeros(HOP_SAMPLES)
        self._samples = np.arange(HOP_SAMPLES)

    @property
    def open_count(self) -> int:
        """How many notches are in force."""
        return int(np.count_nonzero(self._left_hops))

    def place(self, frequency_hz: float) -> None:
        """Notch it for ``notch_kept_ms``: a notch already there is prolonged, else the one nearest its end replaced."""
        width_hz = max(self._least_width_hz, self._width * frequency_hz)
        near = np.abs(self.frequencies_hz - frequency_hz) < width_hz / 2
        near &= self._left_hops > 0
        which = int(near.argmax()) if near.any() else int(self._left_hops.argmin())
        self._left_hops[which] = self._kept_hops
        if near.any():
            return
        radius = math.exp(-math.pi * width_hz / RATE_HZ)
        step = radius * np.exp(2j * np.pi * frequency_hz / RATE_HZ)
        self.frequencies_hz[which] = frequency_hz
        self._step[which] = step
        np.power(step, self._samples, out=self._grow[which])
        np.divide(1 - radius, self._grow[which], out=self._shrink[which])
        self._state[which] = self._depth[which] = 0

    def process(self, hop: Floats) -> None:
        """float32, 80 samples in place; unchanged where no notch is open."""
        if not self._left_hops.any() and not self._depth.any():
            return
        np.maximum(self._left_hops - 1, 0, out=self._left_hops)
        self._depth += np.where(self._left_hops > 0, 1, -1) / self._fade_hops
        np.clip(self._depth, 0, 1, out=self._depth)
        found = self._found
        np.multiply(self._shrink, hop, out=found)
        np.cumsum(found, axis=1, out=found)
        found += (self._step * self._state)[:, None]
        found *= self._grow
        self._state[:] = found[:, -1]
        np.dot(2 * self._depth, found.real, out=self._line)
        np.subtract(hop, self._line, out=hop, casting="same_kind")

    def reset(self) -> None:
        """Close all at once and forget the signal."""
        self._state.fill(0)
        self._depth.fill(0)
        self._left_hops.fill(0)

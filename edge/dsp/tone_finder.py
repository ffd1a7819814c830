"""Finds steady tones in noise and measures their frequencies."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.dsp.antinoise_thresholds import AntiNoiseThresholds
from edge.dsp.spectrum import Complexes, Floats
from edge.dsp.thresholds import hops

HOP_S = HOP_MS / 1000


class ToneFinder:
    """Steady lines between ``lowest_hz`` and ``highest_hz``: every 250 ms a spectrum of the last 512 ms.

    A line rotates from spectrum to spectrum by the same angle; over 2 s the mean of those rotations is as long as the
    mean power for a line, a sixth of it for noise (Hann frames that overlap by half), and about as short for voices;
    quiet spectra count for more. It must stand ``prominence_db`` above its quieter side and be seen eight times in a
    row. The rotation also gives its frequency, to some mHz.
    """

    def __init__(self, lowest_hz: float, highest_hz: float, limits: AntiNoiseThresholds) -> None:
        self._limits = limits
        self._frame_samples, self._around = limits.frame_samples, limits.side_bins
        self._every_hops = hops(limits.frame_ms)
        self._bin_hz = RATE_HZ / self._frame_samples
        first, last = round(lowest_hz / self._bin_hz), round(highest_hz / self._bin_hz)
        self._bins = np.arange(first - self._around, last + self._around + 1)
        window = np.hanning(self._frame_samples)
        self._window = (window * 2 / window.sum()).astype(np.float32)
        self._recent = np.zeros(self._frame_samples + self._every_hops * HOP_SAMPLES, np.float32)
        self._windowed = np.zeros(self._frame_samples, np.float32)
        self._spectrum: NDArray[Any] = np.zeros(self._frame_samples // 2 + 1, np.complex64)
        self._frame: Complexes = np.zeros(len(self._bins), np.complex128)
        self._before: Complexes = np.zeros(len(self._bins), np.complex128)
        self._rotation: Complexes = np.zeros(len(self._bins), np.complex128)
        self._power = np.zeros(len(self._bins))
        self._seen = np.zeros(len(self._bins), np.int64)
        self._beside = np.ones(self._around - 3) / (self._around - 3)
        self.reset()

    def reset(self) -> None:
        """Forget the signal."""
        self._hops = 0
        self._weights = 0.0
        self._steps: Iterator[None] = iter(())
        for state in (self._recent, self._before, self._rotation, self._power, self._seen):
            state.fill(0)
        self.found: list[tuple[float, float]] = []
        """(Hz, amplitude) of the lines of the last spectrum, the loudest first."""

    def hear(self, hop: Floats) -> bool:
        """float32, 80 samples, left alone; True in the one hop in which ``found`` is new."""
        place = self._hops % self._every_hops
        start = self._frame_samples + place * HOP_SAMPLES
        self._recent[start : start + HOP_SAMPLES] = hop
        self._hops += 1
        if place == self._every_hops - 1:
            self._steps = self._analyse()
            self._recent[: self._frame_samples] = self._recent[-self._frame_samples :]
        else:
            next(self._steps, None)
        return place == 4

    def _analyse(self) -> Iterator[None]:
        """In steps of one hop each, so that no hop takes all of the time."""
        np.multiply(self._recent[: self._frame_samples], self._window, out=self._windowed)
        np.fft.rfft(self._windowed, out=self._spectrum)
        self._frame[:] = self._spectrum[self._bins]
        yield
        limits, frame, before = self._limits, self._frame, self._before
        power = (np.abs(frame) ** 2 + np.abs(before) ** 2) / 2
        weight = 1 / (float(power.sum()) + limits.quietest_power)
        self._weights += limits.frame_share * (weight - self._weights)
        share = limits.frame_share * weight / self._weights
        self._power += share * (power - self._power)
        self._rotation += share * (frame * before.conj() - self._rotation)
        before[:] = frame
        yield
        inner = slice(self._around, -self._around)
        beside = np.convolve(self._power, self._beside, "valid")
        power = self._power[inner]
        line = np.abs(self._rotation[inner]) > limits.coherence * power
        around = np.minimum(beside[: len(power)], beside[-len(power) :])
        line &= power > np.maximum(around * 10 ** (limits.prominence_db / 10), limits.quietest_power)
        line &= (power >= self._neighbours(self._power, -1)) & (power >= self._neighbours(self._power, 1))
        yield
        seen = self._seen
        near = np.maximum(np.maximum(self._neighbours(seen, -1), seen[inner]), self._neighbours(seen, 1))
        seen[inner] = np.where(line, near + 1, 0)
        places = np.flatnonzero(seen[inner] >= limits.confirmations)
        loudest = places[np.argsort(power[places])[::-1]][: limits.candidates]
        self.found = [(self._frequency(int(at) + self._around), math.sqrt(power[at])) for at in loudest]

    def _neighbours(self, values: NDArray[Any], step: int) -> NDArray[Any]:
        """Of each bin in the range, the one ``step`` beside it."""
        return values[self._around + step : len(values) - self._around + step]

    def _frequency(self, at: int) -> float:
        """From the rotation; the bin gives how many whole ones there were in 250 ms."""
        every_s = self._every_hops * HOP_S
        part = float(np.angle(self._rotation[at])) / (2 * math.pi)
        whole = round(float(self._bins[at]) * self._bin_hz * every_s - part)
        return (whole + part) / every_s

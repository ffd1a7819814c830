"""The acoustic path from what the box plays back to its microphone, estimated while it plays."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.adaptive_path import BINS, FFT_SAMPLES, AdaptivePath, PathThresholds
from edge.dsp.howl_thresholds import HowlThresholds
from edge.dsp.spectrum import Floats, Spectra
from edge.dsp.thresholds import hops


class FeedbackPath(AdaptivePath):
    """From what was played, some hops ago and earlier, to the microphone: a quick and a steady estimate.

    What the box plays is what it heard some 50 ms before, and a held vowel resembles itself that long: the quick
    estimate always explains a bit of the voice by itself, a different bit each time. Its average over two seconds does
    not, so that is what may be subtracted (the bias of closed-loop identification; van Waterschoot & Moonen 2011,
    "Fifty years of acoustic feedback control", Proc. IEEE 99).
    """

    def __init__(self, partitions: int, limits: HowlThresholds) -> None:
        self._initial = limits.initial_variance
        self._average_hops = hops(limits.average_ms)
        self._refresh_hops = hops(limits.refresh_ms)
        self._steady: Spectra = np.zeros((partitions, BINS), np.complex64)
        self._difference: Spectra = np.zeros((partitions, BINS), np.complex64)
        self._steady_hops = 1
        self.steady_db = -np.inf
        """The gain of what would be subtracted, at the frequency where it is highest."""
        self._subtracted: Spectra = np.zeros((partitions, BINS), np.complex64)
        """The steady estimate above ``ignored_below_hz``, and the same as an impulse response, a row a partition."""
        self.subtracted_taps = np.zeros((partitions, HOP_SAMPLES), np.float32)
        self._hops_since_refresh = 0
        hz = np.fft.rfftfreq(2 * partitions * HOP_SAMPLES, 1 / RATE_HZ)
        low_hz, high_hz = limits.ignored_below_hz, limits.complete_from_hz
        self._band_shares = np.clip((hz - low_hz) / (high_hz - low_hz), 0, 1).astype(np.float32)
        self._echo = np.zeros(FFT_SAMPLES, np.float32)
        super().__init__(partitions, replace(PathThresholds(), drift_variance=limits.drift_variance))

    def restart_average(self) -> None:
        """The quick estimate is right now: begin the average with it."""
        self._steady[:] = self.weights
        self._steady_hops = 1
        self._refresh()

    def average(self) -> None:
        """One hop more for the average."""
        self._steady_hops = min(self._steady_hops + 1, self._average_hops)
        np.subtract(self.weights, self._steady, out=self._difference)
        self._difference *= 1 / self._steady_hops
        self._steady += self._difference
        self._hops_since_refresh += 1
        if self._hops_since_refresh >= self._refresh_hops:
            self._refresh()

    def _refresh(self) -> None:
        """Subtract by the steady estimate as it is now, without the low frequencies."""
        self._hops_since_refresh = 0
        spectrum = self._response(self._steady)
        self.steady_db = _highest_db(spectrum)
        taps = self.subtracted_taps
        taps[:] = np.fft.irfft(spectrum)[: taps.size].reshape(taps.shape)
        np.fft.rfft(taps, n=FFT_SAMPLES, axis=1, out=self._subtracted)  # type: ignore[arg-type]

    def _response(self, weights: Spectra) -> NDArray[np.complex128]:
        """Frequency response of the whole path, without the low frequencies."""
        taps = np.fft.irfft(weights, n=FFT_SAMPLES)[:, :HOP_SAMPLES]
        spectrum = np.fft.rfft(taps.ravel(), n=2 * taps.size)
        spectrum *= self._band_shares
        return spectrum

    @property
    def quick_db(self) -> float:
        """The gain of the quick estimate at the frequency where it is highest."""
        return _highest_db(self._response(self.weights))

    def steady_echo(self) -> Floats:
        """What the steady estimate expects of the same past as the last ``predict``: float32, 80; valid until the next
        call of an echo.
        """
        np.multiply(self._spectra, self._subtracted, out=self._difference)
        return self._echo_of_products()

    def echo_without_drop(self, dropped_hops: int, gain: float) -> Floats:
        """What ``predict`` would have returned, had the last ``dropped_hops`` been played ``gain`` times as loud."""
        np.multiply(self._spectra, self.weights, out=self._difference)
        self._difference[:dropped_hops] *= np.float32(gain)
        return self._echo_of_products()

    def _echo_of_products(self) -> Floats:
        np.add.reduce(self._difference, axis=0, out=self._sum)
        np.fft.irfft(self._sum, n=FFT_SAMPLES, out=self._echo)  # type: ignore[arg-type]
        return self._echo[HOP_SAMPLES:]

    @property
    def delay_hops(self) -> int:
        """How many hops later than the first that ``predict`` was given most of the sound returns."""
        parts = self.weights.view(np.float32)
        return int(np.einsum("ij,ij->i", parts, parts).argmax())

    def forget(self) -> None:
        super().forget()
        self._variance.fill(self._initial)

    def reset(self) -> None:
        super().reset()
        self._steady.fill(0)
        self._subtracted.fill(0)
        self.subtracted_taps.fill(0)
        self._steady_hops = 1
        self.steady_db = -np.inf


def _highest_db(spectrum: NDArray[np.complex128]) -> float:
    return 10 * math.log10(float((spectrum.real**2 + spectrum.imag**2).max()) + 1e-12)

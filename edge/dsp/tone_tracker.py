"""Amplitude and phase of steady tones, and the secondary path at their frequencies: a Kalman filter a tone."""

import numpy as np
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.antinoise_thresholds import AntiNoiseThresholds
from edge.dsp.secondary_path import SecondaryPath
from edge.dsp.spectrum import Complexes, Doubles

GRID_HZ = 0.25
"""Resolution of the calibrated response."""


class ToneTracker:
    """Per tone E = D + S W: E is heard and W played, both complex amplitudes; D, the tone without anti-noise, and S,
    the secondary path, are estimated. In silence D = -S W is all that is known, and both could fade or grow together;
    ``return_to_calibration`` prevents that.
    """

    def __init__(
        self,
        path: SecondaryPath,
        *,
        gain_db: float,
        added_samples: int,
        highest_hz: float,
        tones: int,
        limits: AntiNoiseThresholds,
    ) -> None:
        """``gain_db`` is the microphone's now, ``added_samples`` a delay that was not in the calibration."""
        self._limits = limits
        padded = np.fft.rfft(path.response.astype(np.float64), round(RATE_HZ / GRID_HZ))
        padded = padded[: round((highest_hz + 5) / GRID_HZ)] * 10 ** ((gain_db - path.gain_db) / 20)
        turns = np.arange(len(padded)) * GRID_HZ * added_samples / RATE_HZ
        self._response: Complexes = padded * np.exp(-2j * np.pi * turns)
        self.delay_hops = (path.delay_samples + added_samples) / HOP_SAMPLES
        self._count = tones
        self.reset()

    def reset(self) -> None:
        """No tones."""
        tones = self._count
        self.tone: Complexes = np.zeros(tones, np.complex128)
        """D."""
        self.path: Complexes = np.ones(tones, np.complex128)
        """S."""
        self._tone_variance, self._path_variance = np.zeros(tones), np.zeros(tones)
        self._covariance: Complexes = np.zeros(tones, np.complex128)
        self.noise = np.zeros(tones)
        """Power of what neither explains."""

    def response_at(self, hz: float) -> complex:
        """S of the calibration."""
        return complex(self._response[round(hz / GRID_HZ)])

    def calibrated(self, hz: Doubles) -> Complexes:
        """S of the calibration at each tone's frequency."""
        at = np.rint(hz / GRID_HZ).astype(np.int64)
        return np.asarray(self._response[at.clip(0, len(self._response) - 1)])

    def start(self, which: int, hz: float, amplitude: float) -> None:
        """A new tone of that frequency in place ``which``."""
        limits, path = self._limits, self._response[round(hz / GRID_HZ)]
        self.tone[which], self._tone_variance[which] = 0, amplitude**2
        self.path[which] = path
        self._path_variance[which] = (limits.path_deviation * abs(path)) ** 2
        self._covariance[which] = 0
        self.noise[which] = limits.initial_noise * amplitude**2

    def update(self, heard: Complexes, played: Complexes, full: NDArray[np.bool_]) -> Doubles:
        """One step for the tones that are ``full``: whose window holds nothing older than they are. Returns by how
        much each tone has rotated, rad; 0 where that is uncertain.
        """
        limits, tone, path = self._limits, self.tone, self.path
        tone_power = np.abs(tone) ** 2
        dd = self._tone_variance + limits.tone_walk**2 * tone_power
        ss = self._path_variance + (limits.path_walk * np.abs(path)) ** 2
        ds = self._covariance
        innovation = heard - tone - path * played
        innovation_power = np.abs(innovation) ** 2
        noise = np.maximum(self.noise, innovation_power) + limits.measurement_error**2 * tone_power + 1e-14
        for_tone = dd + ds * played.conj()
        for_path = ds.conj() + ss * played.conj()
        expected = (for_tone + played * for_path).real + noise
        gain_tone, gain_path = for_tone / expected, for_path / expected
        gain_tone[~full] = gain_path[~full] = 0
        before = tone.copy()
        tone += gain_tone * innovation
        path += gain_path * innovation
        self._tone_variance = np.where(full, dd - (gain_tone * for_tone.conj()).real, self._tone_variance)
        self._path_variance = np.where(full, ss - (gain_path * for_path.conj()).real, self._path_variance)
        self._covariance = np.where(full, ds - gain_tone * for_path.conj(), 0)
        self.noise += np.where(full, limits.noise_share * (innovation_power - self.noise), 0)
        certain = full & (np.abs(tone) ** 2 > limits.certain_ratio * self.noise) & (before != 0)
        return np.where(certain, np.angle(tone * before.conj()), 0.0)

    def return_to_calibration(self, played: Complexes, active: NDArray[np.bool_], hz: Doubles) -> None:
        """The loudness of S returns to the calibrated one (a moved headphone changes it for seconds, not for good), and
        D changes with it.
        """
        limits = self._limits
        size, usual = np.abs(self.path) + 1e-12, np.abs(self.calibrated(hz))
        ratio = size / (usual + 1e-12)
        returned = np.clip(ratio**limits.path_return, 1 / limits.path_limit, limits.path_limit)
        changed = self.path * (returned / ratio)
        self.tone += np.where(active, (self.path - changed) * played, 0)
        self.path[:] = np.where(active, changed, self.path)
        most = (limits.path_deviation * usual) ** 2 + 1e-20
        less = np.minimum(1, most / np.maximum(self._path_variance, 1e-20))
        self._path_variance *= less
        self._covariance *= np.sqrt(less)

    def safe_path(self, hz: Doubles) -> Complexes:
        """S, but never so small that the answer becomes absurdly loud: not below a third of the calibrated one."""
        size = np.abs(self.path) + 1e-12
        least = np.maximum(np.abs(self.calibrated(hz)) / self._limits.path_limit, 1e-4)
        return np.asarray(self.path / size * np.maximum(size, least))

"""Estimates an acoustic path from what goes in and what comes out: a partitioned-block frequency-domain Kalman filter.

Enzner & Vary 2006, "Frequency-domain adaptive Kalman filter for acoustic echo control in hands-free telephones", Signal
Processing 86; partitions after Kuech, Mabande & Enzner 2014. Blocks are the hop itself and overlap-save yields the
current hop's prediction from the current hop's reference, so nothing is delayed.
"""

from dataclasses import dataclass

import numpy as np

from edge import HOP_SAMPLES
from edge.dsp.spectrum import Floats, Spectra
from edge.dsp.thresholds import threshold

FFT_SAMPLES = 2 * HOP_SAMPLES
BINS = HOP_SAMPLES + 1

_TUNED = "tuned: rooms of `python -m hw.rooms.acoustics`"


@dataclass(frozen=True)
class PathThresholds:
    """Constants of ``AdaptivePath``, which two stages use."""

    walk: float = threshold(
        1e-3, "1", "share of a weight's power by which its error variance grows each hop: paths move", _TUNED
    )
    drift_variance: float = threshold(
        2e-6, "1", "growth of the error variance each hop in any case: a path of zero can become one", _TUNED
    )
    leak: float = threshold(
        1e-4, "1", "share of a weight that is forgotten each hop: bins without sound must not drift", _TUNED
    )
    initial_variance: float = threshold(
        0.3, "1", "error variance of the first partition at the start", "chosen: a path about as strong as none at all"
    )
    decay_db: float = threshold(
        1.0, "dB", "initial variance decreases by this with each partition", "chosen: 64 ms then span 12 dB of decay"
    )
    smoothing: float = threshold(
        0.85, "1", "forgetting factor of the error's power, each hop", "chosen: 31 ms, a syllable's onset is longer"
    )
    error_floor: float = threshold(
        1e-9, "1", "added to each bin's power of the error", "chosen: avoids 0 / 0 in digital silence"
    )


class AdaptivePath:
    """The acoustic path from the reference to the voice microphone, tracked bin by bin.

    Every partition (5 ms of path) and bin holds a complex weight and the variance of its error. The step of each
    follows from the two: large where the weight is uncertain and the reference strong, small where the error is full of
    what the reference does not explain (a voice, another noise).
    """

    def __init__(self, partitions: int, thresholds: PathThresholds | None = None) -> None:
        self._limits = limits = thresholds or PathThresholds()
        shape = (partitions, BINS)
        self.weights: Spectra = np.zeros(shape, np.complex64)
        decay = 10 ** (-limits.decay_db / 10 * np.arange(partitions))
        self._initial_variance = (limits.initial_variance * decay)[:, None].astype(np.float32)
        self._partitions = partitions
        self._recent = np.zeros(FFT_SAMPLES, np.float32)
        # twice as long as needed, so that the newest ``partitions`` spectra are always contiguous, newest first
        self._past: Spectra = np.zeros((2 * partitions, BINS), np.complex64)
        self._past_power = np.zeros((2 * partitions, BINS), np.float32)
        self._at = 0
        self._variance = np.zeros(shape, np.float32)
        self._products: Spectra = np.zeros(shape, np.complex64)
        self._shares = np.zeros(shape, np.float32)
        self._scratch = np.zeros(shape, np.float32)
        self._blocks = np.zeros((partitions, FFT_SAMPLES), np.float32)
        self._sum: Spectra = np.zeros(BINS, np.complex64)
        self._predicted = np.zeros(FFT_SAMPLES, np.float32)
        self._padded = np.zeros(FFT_SAMPLES, np.float32)
        self._error: Spectra = np.zeros(BINS, np.complex64)
        self._error_power = np.zeros(BINS, np.float32)
        self._unexplained = np.zeros(BINS, np.float32)
        self._expected = np.zeros(BINS, np.float32)
        self.reset()

    def predict(self, reference: Floats) -> Floats:
        """float32, 80 samples of the reference -> 80 samples expected at the voice microphone; valid until the next
        call.
        """
        recent = self._recent
        recent[:HOP_SAMPLES] = recent[HOP_SAMPLES:]
        recent[HOP_SAMPLES:] = reference
        self._at = at = (self._at or self._partitions) - 1
        newest, power = self._past[at], self._past_power[at]
        np.fft.rfft(recent, out=newest)
        _power_of(newest, power, self._scratch[0])
        self._past[at + self._partitions] = newest
        self._past_power[at + self._partitions] = power
        np.multiply(self._spectra, self.weights, out=self._products)
        np.add.reduce(self._products, axis=0, out=self._sum)
        np.fft.irfft(self._sum, n=FFT_SAMPLES, out=self._predicted)  # type: ignore[arg-type]
        return self._predicted[HOP_SAMPLES:]

    @property
    def _spectra(self) -> Spectra:
        return self._past[self._at : self._at + self._partitions]

    def learn(self, error: Floats, share: float) -> None:
        """Update by what ``predict`` left over: float32, 80 samples; ``share`` 0 to 1 of the full step."""
        self._measure_error(error)
        powers, variance = self._past_power[self._at : self._at + self._partitions], self._variance
        shares, expected = self._shares, self._expected
        np.multiply(powers, variance, out=shares)
        np.add.reduce(shares, axis=0, out=expected)
        expected += self._error_power
        np.divide(share, expected, out=expected)
        self._error *= expected
        self._move_weights()
        self._update_variance(share)

    def _measure_error(self, error: Floats) -> None:
        """Its spectrum, and twice the larger of its power now and smoothed: a voice begins louder than the average of
        the past, and no error counts for less than it is.
        """
        limits = self._limits
        self._padded[HOP_SAMPLES:] = error
        np.fft.rfft(self._padded, out=self._error)  # type: ignore[arg-type]
        _power_of(self._error, self._error_power, self._scratch[0])
        self._error_power += limits.error_floor
        unexplained = self._unexplained
        unexplained *= limits.smoothing
        self._error_power *= 1 - limits.smoothing
        unexplained += self._error_power
        self._error_power *= 1 / (1 - limits.smoothing)
        np.maximum(unexplained, self._error_power, out=self._error_power)
        self._error_power *= 2

    def _move_weights(self) -> None:
        """weights += variance x conj(reference) x error, without the half of each block that overlap-save discards."""
        products = self._products
        np.conjugate(self._spectra, out=products)
        products *= self._error
        products *= self._variance
        np.fft.irfft(products, n=FFT_SAMPLES, axis=1, out=self._blocks)  # type: ignore[arg-type]
        self._blocks[:, HOP_SAMPLES:] = 0
        np.fft.rfft(self._blocks, axis=1, out=products)  # type: ignore[arg-type]
        self.weights *= 1 - self._limits.leak
        self.weights += products

    def _update_variance(self, share: float) -> None:
        """What was learnt reduces the error variance, what may have moved adds to it."""
        shares, variance, limits = self._shares, self._variance, self._limits
        shares *= self._expected
        shares *= -0.5
        shares += 1
        variance *= shares
        _power_of(self.weights, shares, self._scratch)
        shares *= limits.walk * share
        variance += shares
        variance += limits.drift_variance * share
        np.minimum(variance, self._initial_variance, out=variance)

    def expect_change(self) -> None:
        """The path may have changed: adapt as fast as at the start."""
        self._variance[:] = self._initial_variance

    def forget(self) -> None:
        """The path has changed; the sound continues."""
        self.weights.fill(0)
        self.expect_change()
        self._unexplained.fill(0)

    def reset(self) -> None:
        """Forget path and sound."""
        self.forget()
        self._recent.fill(0)
        self._past.fill(0)
        self._past_power.fill(0)
        self._at = 0


def _power_of(spectra: Spectra, out: Floats, scratch: Floats) -> None:
    """|z|^2."""
    np.square(spectra.real, out=out)
    np.square(spectra.imag, out=scratch)
    out += scratch

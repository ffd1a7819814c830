"""The suppressor without weights: a Wiener filter on 64 bands, from a tracked noise floor.

The path of a frame: band powers -> noise floor -> a-priori SNR -> cepstral smoothing -> gain and speech probability.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge import HOP_MS
from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import BANDS, BINS, Floats, Spectra, band_weights


def open_estimator(model: str, notes: list[str]) -> Estimator:
    """``engine = "dsp"``: it has no model and nothing to note."""
    return Wiener()


def files(model: str) -> list[Path]:
    """It has none."""
    return []


def per_hop(time_ms: float) -> np.float32:
    """The pole of a first-order smoother with this time constant."""
    return np.float32(math.exp(-HOP_MS / time_ms))


def power_ratio(db: float) -> np.float32:
    return np.float32(10 ** (db / 10))


# Powers are those of edge.dsp.spectrum's frames: white noise of variance v gives 160 v in a one-bin band.
SILENCE = np.float32(1e-9)  # -112 dBFS, a tenth of a 16-bit converter's rounding: no microphone is so quiet
LOUDEST = np.float32(1e6)  # beyond full scale in any band; keeps an invalid frame from dominating for seconds

# Noise floor. Speech presence probability: Gerkmann & Hendriks 2012, "Unbiased MMSE-based noise power estimation with
# low complexity and low tracking delay". The minimum net below it: Martin 2001, "Noise power spectral density
# estimation based on optimal smoothing and minimum statistics".
SPEECH_SNR = power_ratio(10.8)  # the SNR that speech has when present
SPEECH_PRIOR = 0.54
NOISE_HOLD = per_hop(42)
START_HOPS = 6  # the first 30 ms are averaged as noise
STUCK_HOLD = per_hop(77)  # a band that has been "speech" all that time ...
STUCK = np.float32(0.99)  # ... leaks a hundredth into the floor, so that it can never lock
MINIMUM_HOLD = per_hop(41)  # smoothing before the minimum is searched
WINDOWS, WINDOW_HOPS = 6, 36  # the minimum of six stretches of 180 ms: speech pauses in every band within a second

# A-priori SNR, decision-directed: Ephraim & Malah 1984.
PAUSE_BIAS, SPEECH_BIAS = 1.0, 0.75  # while somebody speaks, part of the floor is speech that leaked into it
EXCESS = np.float32(0.75)
DECISION = np.float32(0.934)
LEAST_SNR = power_ratio(-20)

# Temporal cepstrum smoothing: Breithaupt, Gerkmann & Martin 2008, "A novel a priori SNR estimation approach based on
# selective cepstro-temporal smoothing". The envelope of speech lies in the low quefrencies and passes; the single
# bins of musical noise lie in the high ones and are smoothed.
ENVELOPE_HOLD, DETAIL_HOLD, ENVELOPE_QUEFRENCIES = 0.213, 0.934, 8
CEPSTRAL_BIAS = np.float32(2.37)  # the mean of a logarithm lies below the logarithm of the mean

# Gain.
PAUSE_FLOOR_DB, SPEECH_FLOOR_DB = -20.0, -10.0  # a bed of noise masks the residue's tones; weak sounds need it most
RELEASE = np.float32(0.5)  # 6 dB a hop
OVERSUBTRACTION, GAIN_EXPONENT = np.float32(1.06), np.float32(0.84)

# Speech presence of the whole frame.
VOICE_BANDS = slice(2, 60)  # 100 Hz to 6.5 kHz
SPEECH_RMS_SNR = 2.5  # steady noise stays near 0.1, the median of speech at -5..15 dB lies near 40
PRESENCE_HOLD = 0.82


class Wiener(Estimator):
    """Band gains from a tracked noise floor; no weights, nothing to load."""

    name = "dsp"

    def __init__(self) -> None:
        weights = band_weights().T
        blur = _blur(0.041)
        self._gather: Floats = np.ascontiguousarray(np.hstack([weights, weights @ blur]), np.float32)
        rank = np.arange(BANDS)
        cosines = np.sqrt(2 / BANDS) * np.cos(np.pi / BANDS * rank[:, None] * (rank + 0.5))  # the orthonormal DCT-II
        cosines[0] /= np.sqrt(2)
        self._to_cepstrum: Floats = np.ascontiguousarray(cosines.T, np.float32)
        self._from_cepstrum: Floats = np.ascontiguousarray(cosines @ _blur(0.098), np.float32)
        hold = ENVELOPE_HOLD + (DETAIL_HOLD - ENVELOPE_HOLD) * (1 - np.exp(-np.arange(BANDS) / ENVELOPE_QUEFRENCIES))
        self._cepstrum_hold = hold.astype(np.float32)
        self._power = np.zeros(BINS, np.float32)
        self._bands = np.zeros(2 * BANDS, np.float32)
        self._noise, self._smoothed, self._stuck, self._minimum, self._clean = np.zeros((5, BANDS), np.float32)
        self._cepstrum, self._gain = np.zeros((2, BANDS), np.float32)
        self._presence, self._snr, self._a, self._b = np.zeros((4, BANDS), np.float32)
        self._minima = np.zeros((WINDOWS, BANDS), np.float32)
        self._hops = 0
        self._speech = 0.0
        self.reset()

    def reset(self) -> None:
        """As new."""
        for state in (self._clean, self._gain):  # the first frame sets the others
            state.fill(0)
        self._stuck.fill(0.5)
        self._minimum.fill(np.inf)
        self._minima.fill(np.inf)
        self._hops = 0
        self._speech = 0.0

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        """complex64[161] -> gains 0..1 in place in float32[64]; returns the probability of speech, 0..1.

        A frame without any signal, or with NaN or infinite bins, gets no gain and leaves the state as it is.
        """
        parts = spectrum.view(np.float32).reshape(BINS, 2)
        np.einsum("ij,ij->i", parts, parts, out=self._power)
        if not SILENCE * BINS < self._power.sum() < math.inf:
            gains.fill(0)
            return 0.0
        np.matmul(self._power, self._gather, out=self._bands)
        power, blurred = self._bands[:BANDS], self._bands[BANDS:]
        self._bands += SILENCE
        np.minimum(self._bands, LOUDEST, out=self._bands)
        self._track_noise(power, blurred)
        self._estimate_snr(power)
        speech = self._speech_probability()
        self._write_gains(power, speech, gains)
        return speech

    def _track_noise(self, power: Floats, blurred: Floats) -> None:
        """``_noise`` follows the frame where speech is improbable, and is never below the minimum of a second."""
        noise, presence, step = self._noise, self._presence, self._a
        if self._hops == 0:
            noise[:] = power
            self._smoothed[:] = blurred
        # presence = 1 / (1 + (1 - p) / p (1 + snr) exp(-posterior snr / (1 + snr)))
        np.divide(blurred, noise, out=presence)
        presence *= -SPEECH_SNR / (1 + SPEECH_SNR)
        np.maximum(presence, np.float32(-80), out=presence)
        np.exp(presence, out=presence)
        presence *= (1 - SPEECH_PRIOR) / SPEECH_PRIOR * (1 + SPEECH_SNR)
        presence += 1
        np.reciprocal(presence, out=presence)
        self._stuck *= STUCK_HOLD
        np.multiply(presence, 1 - STUCK_HOLD, out=step)
        self._stuck += step
        np.minimum(presence, STUCK, out=presence, where=self._stuck > STUCK)

        np.subtract(power, noise, out=step)
        if self._hops < START_HOPS:
            step /= self._hops + 1
        else:
            step *= 1 - NOISE_HOLD
            np.subtract(1, presence, out=self._b)
            step *= self._b
        noise += step
        self._search_minimum(blurred)
        np.maximum(noise, self._b, out=noise)

    def _search_minimum(self, blurred: Floats) -> None:
        """``_b`` becomes the least smoothed power of the last second or so."""
        self._smoothed *= MINIMUM_HOLD
        np.multiply(blurred, 1 - MINIMUM_HOLD, out=self._b)
        self._smoothed += self._b
        np.minimum(self._minimum, self._smoothed, out=self._minimum)
        self._hops += 1
        if self._hops % WINDOW_HOPS == 0:
            self._minima[self._hops // WINDOW_HOPS % WINDOWS] = self._minimum
            self._minimum[:] = self._smoothed
        np.min(self._minima, axis=0, out=self._b)
        np.minimum(self._b, self._minimum, out=self._b)

    def _estimate_snr(self, power: Floats) -> None:
        """``_snr``: a-priori SNR, decision-directed, then smoothed in the cepstrum."""
        snr, excess = self._snr, self._a
        bias = PAUSE_BIAS + (SPEECH_BIAS - PAUSE_BIAS) * self._speech
        np.multiply(self._noise, np.float32(bias), out=self._b)
        np.divide(power, self._b, out=excess)
        excess -= EXCESS
        np.clip(excess, 0, 1000, out=excess)
        excess *= 1 - DECISION
        np.divide(self._clean, self._b, out=snr)
        snr *= DECISION
        snr += excess
        np.maximum(snr, LEAST_SNR, out=snr)
        np.log(snr, out=snr)
        np.matmul(snr, self._to_cepstrum, out=self._b)
        if self._hops == 1:
            self._cepstrum[:] = self._b
        self._cepstrum -= self._b
        self._cepstrum *= self._cepstrum_hold
        self._cepstrum += self._b
        np.matmul(self._cepstrum, self._from_cepstrum, out=snr)
        np.exp(snr, out=snr)
        snr *= CEPSTRAL_BIAS

    def _speech_probability(self) -> float:
        """From the RMS of the SNR over the voice's bands; rises at once and falls over some hops."""
        snr = self._snr[VOICE_BANDS]
        rms = math.sqrt(float(np.dot(snr, snr)) / len(snr))
        now = rms / (rms + SPEECH_RMS_SNR)
        self._speech = max(now, now + PRESENCE_HOLD * (self._speech - now))
        return self._speech

    def _write_gains(self, power: Floats, speech: float, gains: Floats) -> None:
        """Wiener gain, falling no faster than the release, above a floor that is lower in pauses."""
        wiener = self._a
        np.add(self._snr, OVERSUBTRACTION, out=wiener)
        np.divide(self._snr, wiener, out=wiener)
        np.square(wiener, out=self._clean)
        self._clean *= power
        np.power(wiener, GAIN_EXPONENT, out=wiener)
        self._gain *= RELEASE
        np.maximum(self._gain, wiener, out=self._gain)
        floor_db = PAUSE_FLOOR_DB + (SPEECH_FLOOR_DB - PAUSE_FLOOR_DB) * speech
        np.maximum(self._gain, np.float32(10 ** (floor_db / 20)), out=gains)


def _blur(share: float) -> NDArray[np.float64]:
    """(64, 64): every band gives ``share`` of itself to each neighbour; the outermost keep what they cannot give."""
    blur = np.eye(BANDS) * (1 - 2 * share) + share * (np.eye(BANDS, k=1) + np.eye(BANDS, k=-1))
    blur[0, 0] = blur[-1, -1] = 1 - share
    return blur

"""A network that sleeps while nobody speaks: it runs at every n-th hop only, and at once at an onset.

Asleep, the gains of the last run stay. An onset is a rise of the power of some bands above their recent mean; it is
found in the very hop in which the network then runs again, so nothing is late. The network's recurrent states get fewer
hops than time passes, which makes them slower and never wrong: they hold the sound, not the time. Periodic runs alone,
however often, cut the first consonant; onsets alone miss a voice that rises slowly out of noise.

What it saves and how it changes the sound: ``python -m hw.prove.sleep_cost``.
"""

from typing import Protocol, runtime_checkable

import numpy as np

from edge.config import VoiceConfig
from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import BANDS, WINDOW_SAMPLES, Features, Floats, Spectra, analysis_window
from edge.dsp.voice import VoiceDecision

SPEECH = 0.6
"""Speech above this probability; a fan alone reaches 0.4 every few seconds and this hardly ever."""
CHECK_HOPS = 8
"""Asleep, the network runs once in so many hops."""
AWAKE_HOPS = 16
"""After an onset it runs for at least so many hops."""
WAKE_HOPS = 6
"""Onsets in so many hops in a row are neither chance nor a key press: it wakes as if somebody had spoken."""
PAIRS = BANDS // 2
FOLLOW = np.float32(0.02)
"""Smoothing of the mean: a time constant of 250 ms."""
QUANTILE, MARGIN = 0.99, np.float32(1.4)
"""An onset is a rise of a pair of bands above its mean by so many times what 99 of 100 frames of white noise reach: in
steady noise that is 1 or 2 hops of 100."""
NOISE_FRAMES = 1024
# fmt: off
STEADY_RISE: Floats = np.array([
    0.514153, 0.3908454, 0.4082165, 0.38833863, 0.39146984, 0.42014548, 0.4055345, 0.36878997,
    0.36720985, 0.39782923, 0.3149503, 0.30913925, 0.2816586, 0.2897985, 0.27801347, 0.2539075,
    0.23499447, 0.23783058, 0.24752063, 0.24316561, 0.22429782, 0.20872343, 0.20886487, 0.18876511,
    0.19108748, 0.1728918, 0.18731785, 0.17415583, 0.16188037, 0.15362817, 0.14106101, 0.1778884,
], np.float32)
# fmt: on
"""``noise_rise()``, stored: computing it takes longer than loading the network."""
FALL_DB = 4.0
"""A fall of the mean of all bands by so much is another noise, or the end of one; steady noise never falls so far."""
DB_PER_FEATURE = 20.0
"""A feature of one more is a hundred times the power (``Features``)."""


@runtime_checkable
class Network(Estimator, Protocol):
    """What can sleep: both forms of our networks."""

    def step(self, features: Floats, gains: Floats) -> float:
        """float32[64] features -> gains 0..1 in place in float32[64]; returns the probability of speech, 0..1."""


class Sleeper(Estimator):
    """The estimator around a network: the network's own gains awake, the last ones asleep."""

    def __init__(self, network: Network, after_s: float) -> None:
        """``after_s``: it sleeps after so long without speech."""
        self.name = network.name
        self.network = network
        self._decision = VoiceDecision(VoiceConfig(on=SPEECH, off=SPEECH, hold_ms=1000 * after_s))
        self._features = Features()
        self._gains = np.ones(BANDS, np.float32)
        self._speech = 0.0
        self._onset = Onset()
        self._awake_hops = self._onset_hops = self._hops = 0
        self.reset()

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        """complex64[161] -> gains 0..1 in place in float32[64]; returns the probability of speech, 0..1."""
        features = self._features.of(spectrum)
        if self._onset.detect(features):
            self._awake_hops = AWAKE_HOPS
            self._onset_hops += 1
            if self._onset_hops >= WAKE_HOPS:
                self._decision.decide(1.0)
        else:
            self._onset_hops = 0
        self._hops += 1
        self.skipped = not (self._decision.speaking or self._awake_hops or self._hops % CHECK_HOPS == 0)
        if self.skipped:
            self._decision.decide(0.0)
            np.copyto(gains, self._gains)
            return self._speech
        if self._awake_hops:
            self._awake_hops -= 1
        self._speech = self.network.step(features, gains)
        self._decision.decide(self._speech)
        np.copyto(self._gains, gains)
        return self._speech

    def reset(self) -> None:
        """Forget the signal and wake up."""
        self.network.reset()
        self._decision.reset()
        self._decision.decide(1.0)
        self._onset.reset()
        self._awake_hops = self._onset_hops = self._hops = 0
        self.skipped = False


class Onset:
    """Detects an onset: a pair of bands rises further above its recent mean than steady noise ever does.

    Also an end: all bands together fall below their means, so that the gains of the last run would no longer fit. The
    thresholds are those of steady noise, not of the noise at hand: in fluctuating noise, where onsets are hard to tell,
    it finds them all the time, and the network stays awake.
    """

    def __init__(self) -> None:
        self._gather = _pair_means()
        self._limit = STEADY_RISE * MARGIN
        self._mean, self._rise, self._above = np.zeros((3, PAIRS), np.float32)
        self._share = np.full(PAIRS, 1 / PAIRS, np.float32)
        self._first = True

    def detect(self, features: Floats) -> bool:
        """float32[64], of every hop; NaN counts as an onset, too."""
        rise, above = self._rise, self._above
        np.matmul(features, self._gather, out=rise)
        if self._first:
            self._mean[:] = rise
            self._first = False
        np.subtract(rise, self._mean, out=rise)
        np.subtract(rise, self._limit, out=above)
        falls = float(np.dot(rise, self._share)) < -FALL_DB / DB_PER_FEATURE
        np.multiply(rise, FOLLOW, out=rise)
        np.add(self._mean, rise, out=self._mean)
        return falls or not float(above.max()) <= 0

    def reset(self) -> None:
        """The first hop is what there is."""
        self._first = True


def noise_rise() -> Floats:
    """float32[32], features: how far 99 of 100 frames of white noise stay below, above the mean, for each band pair.

    The source of ``STEADY_RISE``; to be stored again when the bands or the analysis window change.
    """
    noise = np.random.default_rng(1).standard_normal((NOISE_FRAMES, WINDOW_SAMPLES), np.float32)
    features = Features()
    frames = np.fft.rfft(0.1 * noise * analysis_window()).astype(np.complex64)
    noisy = np.array([features.of(frame).copy() for frame in frames]) @ _pair_means()
    rises: Floats = np.quantile(noisy, QUANTILE, axis=0) - noisy.mean(axis=0)
    return rises


def _pair_means() -> Floats:
    """float32 (64, 32): the mean of each pair of neighbouring bands."""
    gather = np.zeros((BANDS, PAIRS), np.float32)
    for band in range(BANDS):
        gather[band, band * PAIRS // BANDS] = PAIRS / BANDS
    return gather

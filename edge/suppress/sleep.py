"""A network that sleeps while nobody speaks: it looks at every n-th hop only, and at once when something begins.

Asleep, the gains of the last look stay. Something begins where the power of some bands rises out of what it was of
late; that is found in the very hop in which the network then works again, so nothing is late. The network's memories
meet fewer hops than time passes, which makes them slower and never wrong: they hold what was heard, not when. Looks
alone, however often, cut the first consonant; beginnings alone miss a voice that swells out of noise.

What it saves and what it costs the ear: ``python -m hw.prove.sleep_cost``.
"""

from typing import Protocol, runtime_checkable

import numpy as np

from edge.config import VoiceConfig
from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import BANDS, WINDOW_SAMPLES, Features, Floats, Spectra, analysis_window
from edge.dsp.voice import VoiceDecision

SPEECH = 0.6
"""Somebody speaks above this probability; a fan alone reaches 0.4 every few seconds and this hardly ever."""
LOOK_HOPS = 8
"""Asleep, the network looks once in so many hops."""
LISTEN_HOPS = 16
"""And after something has begun, it listens for at least so long."""
ROUSED_HOPS = 6
"""What goes on beginning for so long is no chance and no key: it wakes as if somebody had spoken."""
PAIRS = BANDS // 2
FOLLOW = np.float32(0.02)
"""How fast the mean follows: 250 ms."""
RARE, MARGIN = 0.99, np.float32(1.4)
"""Something begins where a pair of bands rises so many times higher above its mean than 99 of 100 frames of white noise
do: in steady noise that is 1 or 2 hops of 100."""
NOISE_FRAMES = 1024
# fmt: off
UNREST: Floats = np.array([
    0.514153, 0.3908454, 0.4082165, 0.38833863, 0.39146984, 0.42014548, 0.4055345, 0.36878997,
    0.36720985, 0.39782923, 0.3149503, 0.30913925, 0.2816586, 0.2897985, 0.27801347, 0.2539075,
    0.23499447, 0.23783058, 0.24752063, 0.24316561, 0.22429782, 0.20872343, 0.20886487, 0.18876511,
    0.19108748, 0.1728918, 0.18731785, 0.17415583, 0.16188037, 0.15362817, 0.14106101, 0.1778884,
], np.float32)
# fmt: on
"""``noise_rise()``, stored: computing it takes longer than loading the network, and a box that starts has to be quick.
"""
FALL_DB = 4.0
"""So much less of all bands in the mean is another noise, or the end of one; steady noise never does that."""
DB_A_FEATURE = 20.0
"""A feature of one more is a hundred times the power (``Features``)."""


@runtime_checkable
class Network(Estimator, Protocol):
    """What can sleep: both forms of our networks."""

    def step(self, features: Floats, gains: Floats) -> float:
        """float32[64] features -> gains 0..1 in place in float32[64]; returns the probability of speech, 0..1."""


class Sleeper(Estimator):
    """The estimator around a network: the network's own gains awake, the last ones asleep."""

    def __init__(self, network: Network, after_s: float) -> None:
        """``after_s``: it sleeps when nobody has spoken for so long."""
        self.name = network.name
        self.network = network
        self._lately = VoiceDecision(VoiceConfig(on=SPEECH, off=SPEECH, hold_ms=1000 * after_s))
        self._features = Features()
        self._gains = np.ones(BANDS, np.float32)
        self._speech = 0.0
        self._onset = Onset()
        self._awake_hops = self._begun_hops = self._hops = 0
        self.reset()

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        """complex64[161] -> gains 0..1 in place in float32[64]; returns the probability of speech, 0..1."""
        features = self._features.of(spectrum)
        if self._onset.heard(features):
            self._awake_hops = LISTEN_HOPS
            self._begun_hops += 1
            if self._begun_hops >= ROUSED_HOPS:
                self._lately.decide(1.0)
        else:
            self._begun_hops = 0
        self._hops += 1
        self.skipped = not (self._lately.speaking or self._awake_hops or self._hops % LOOK_HOPS == 0)
        if self.skipped:
            self._lately.decide(0.0)
            np.copyto(gains, self._gains)
            return self._speech
        if self._awake_hops:
            self._awake_hops -= 1
        self._speech = self.network.step(features, gains)
        self._lately.decide(self._speech)
        np.copyto(self._gains, gains)
        return self._speech

    def reset(self) -> None:
        """Forget the signal and wake up."""
        self.network.reset()
        self._lately.reset()
        self._lately.decide(1.0)
        self._onset.reset()
        self._awake_hops = self._begun_hops = self._hops = 0
        self.skipped = False


class Onset:
    """Hears that something begins: a pair of bands rises further above its mean of late than steady noise ever does.

    Or that something ends: all bands together fall below theirs. What is held would no longer fit.

    The measure is steady noise, not what is there: in a restless place, where a beginning is hard to tell, something
    begins all the time, and the network stays awake.
    """

    def __init__(self) -> None:
        self._gather = _pair_means()
        self._limit = UNREST * MARGIN
        self._mean, self._rise, self._above = np.zeros((3, PAIRS), np.float32)
        self._share = np.full(PAIRS, 1 / PAIRS, np.float32)
        self._fresh = True

    def heard(self, features: Floats) -> bool:
        """float32[64], every hop's; what is no number begins, too."""
        rise, above = self._rise, self._above
        np.matmul(features, self._gather, out=rise)
        if self._fresh:
            self._mean[:] = rise
            self._fresh = False
        np.subtract(rise, self._mean, out=rise)
        np.subtract(rise, self._limit, out=above)
        falls = float(np.dot(rise, self._share)) < -FALL_DB / DB_A_FEATURE
        np.multiply(rise, FOLLOW, out=rise)
        np.add(self._mean, rise, out=self._mean)
        return falls or not float(above.max()) <= 0

    def reset(self) -> None:
        """The first hop is what there is."""
        self._fresh = True


def noise_rise() -> Floats:
    """float32[32], features: how far 99 of 100 frames of white noise stay below, above the mean, for each band pair.

    The source of ``UNREST``; to be stored again when the bands or the analysis window change.
    """
    noise = np.random.default_rng(1).standard_normal((NOISE_FRAMES, WINDOW_SAMPLES), np.float32)
    features = Features()
    frames = np.fft.rfft(0.1 * noise * analysis_window()).astype(np.complex64)
    heard = np.array([features.of(frame).copy() for frame in frames]) @ _pair_means()
    rises: Floats = np.quantile(heard, RARE, axis=0) - heard.mean(axis=0)
    return rises


def _pair_means() -> Floats:
    """float32 (64, 32): the mean of each pair of neighbouring bands."""
    gather = np.zeros((BANDS, PAIRS), np.float32)
    for band in range(BANDS):
        gather[band, band * PAIRS // BANDS] = PAIRS / BANDS
    return gather

"""The five recordings of the gallery: three pairs from tests/sounds, two of their voices in synthetic noise.

Sounds are mono at 16 kHz; the synthetic noise comes from seeds alone and is the same at every call.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soundfile

from edge import RATE_HZ
from edge.dsp.spectrum import Doubles, Floats
from hw.prove.demo import SOUNDS
from quant.edges.voices import shaped_noise

SECONDS = 6.0
"""Of each recording, from its start."""


def fan(samples: int) -> Doubles:
    """A desk fan, power one: moving air, most of it below 600 Hz, whose level flutters by 1 dB, and the harmonics of
    its blade rate (four blades at 1 410 revolutions a minute: 94 Hz) up to 564 Hz, together 6 dB below the air."""
    rng = np.random.default_rng(1)
    time_s = np.arange(samples) / RATE_HZ
    air = shaped_noise(samples, 60, 600, rng) + 0.5 * shaped_noise(samples, 600, 6000, rng)
    flutter = 10 ** (np.sin(2 * np.pi * 1.7 * time_s) / 20)
    harmonics = [np.sin(2 * np.pi * (94 * n * time_s + rng.random())) / n for n in range(1, 7)]
    return _power_one(_power_one(air * flutter) + 0.5 * _power_one(np.sum(harmonics, axis=0)))


def keyboard(samples: int) -> Doubles:
    """Somebody types on a mechanical keyboard, about six keys a second with short rests, over the noise of a room.

    Each key is heard twice: pressed, and 60 to 110 ms later released, which is quieter. Power one.
    """
    rng = np.random.default_rng(2)
    out = np.zeros(samples + RATE_HZ)
    at_s = 0.2
    while at_s < samples / RATE_HZ:
        released_s = at_s + rng.uniform(0.06, 0.11)
        for start_s, level in ((at_s, 1.0), (released_s, 0.4)):
            start, stroke = round(start_s * RATE_HZ), level * rng.uniform(0.6, 1) * _stroke(rng)
            out[start : start + len(stroke)] += stroke
        at_s += rng.uniform(0.1, 0.22) + (rng.random() < 0.12) * rng.uniform(0.2, 0.6)
    return _power_one(_power_one(out[:samples]) + 0.15 * shaped_noise(samples, 80, 4000, rng))


def _stroke(rng: np.random.Generator) -> Doubles:
    """80 ms of one key: a click above 1.5 kHz that decays in 3 ms, and the desk below it, in 15 ms."""
    time_s = np.arange(RATE_HZ * 8 // 100) / RATE_HZ
    click = shaped_noise(len(time_s), 1500, 7000, rng) * np.exp(-time_s / 0.003)
    desk = shaped_noise(len(time_s), 150, 600, rng) * np.exp(-time_s / 0.015)
    return click + 0.5 * desk


def _power_one(wave: Doubles) -> Doubles:
    return wave / np.sqrt(np.mean(wave**2))


@dataclass(frozen=True)
class Recording:
    """One row of the gallery."""

    name: str
    """Of its files."""
    noise: str
    voice: str
    """Language of the speaker."""
    pair: str
    """In tests/sounds: the voice, and the noise if that is recorded."""
    synthetic: Callable[[int], Doubles] | None = None
    snr_db: float = 5.0
    """Level of the voice over synthetic noise, pauses included; recorded noise has the level of its pair."""

    def sounds(self) -> tuple[Floats, Floats]:
        """(clean, noisy), float32, (samples,) each; raises soundfile.LibsndfileError if a file is missing."""
        clean = _read("clean", self.pair)
        if self.synthetic is None:
            return clean, _read("noisy", self.pair)
        level = np.sqrt(np.mean(clean.astype(float) ** 2)) * 10 ** (-self.snr_db / 20)
        return clean, (clean + level * self.synthetic(len(clean))).astype(np.float32)


def _read(kind: str, pair: str) -> Floats:
    sound: Floats = soundfile.read(SOUNDS / kind / f"{pair}.flac", frames=round(SECONDS * RATE_HZ), dtype="float32")[0]
    return sound


RECORDINGS = (
    Recording("rain", "Rain", "English", "rain_en_5dB"),
    Recording("people", "People in a room", "French", "tavern_fr_10dB"),
    Recording("brook", "Running water", "Italian", "brook_it_0dB"),
    Recording("fan", "Desk fan (synthetic)", "French", "tavern_fr_10dB", fan),
    Recording("keyboard", "Keyboard (synthetic)", "Italian", "brook_it_0dB", keyboard),
)

"""Sounds that tests share: the recordings of ``tests/sounds``, noise, and how loud something is. 16 kHz, float32."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import Floats

SOUNDS = Path(__file__).parent / "sounds"
"""Folders ``clean`` and ``noisy`` with recordings of the same names."""
NAMES = ("rain_en_5dB", "tavern_fr_10dB", "brook_it_0dB")
"""The recordings: noise, language, signal-to-noise ratio."""


def recording(part: str, name: str = "brook_it_0dB", seconds: float = 2.0) -> Floats:
    """The first ``seconds`` of a recording; ``part`` is "clean" or "noisy"."""
    return np.asarray(soundfile.read(SOUNDS / part / f"{name}.flac", round(seconds * RATE_HZ), dtype="float32")[0])


def speech(name: str, from_s: float, seconds: float, part: str = "clean") -> Floats:
    """Whole hops of a recording; of a clean one from the first word after ``from_s`` on."""
    sound, _ = soundfile.read(SOUNDS / part / f"{name}.flac", dtype="float32", start=round(from_s * RATE_HZ))
    if part == "clean":
        sound = sound[int(np.argmax(np.abs(sound) > 0.05)) :]
    return np.asarray(sound[: round(seconds * RATE_HZ / HOP_SAMPLES) * HOP_SAMPLES])


def noise(samples: int, level: float = 0.05, seed: int = 1) -> Floats:
    """White Gaussian noise of the standard deviation ``level``."""
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def hops_of_noise(hops: int, level: float = 0.05, seed: int = 5) -> Floats:
    """White noise in whole hops, flat."""
    return noise(hops * HOP_SAMPLES, level, seed)


def level_db(sound: "np.typing.NDArray[Any]") -> float:
    """Mean square in dB, full scale 0; silence is -300."""
    return float(10 * np.log10(np.mean(np.square(sound, dtype=np.float64)) + 1e-30))

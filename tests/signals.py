"""Sounds that tests share: the recordings of ``tests/sounds``, noise, hum, and how loud something is. 16 kHz."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing
import soundfile

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import Floats

Doubles = np.typing.NDArray[np.float64]

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


def noise_hop(level_dbfs: float, seed: int = 0) -> Floats:
    """One hop of white noise whose mean square is exactly ``level_dbfs``."""
    hop = np.random.default_rng(seed).normal(0, 1, HOP_SAMPLES)
    return (hop / np.sqrt(np.mean(hop**2)) * 10 ** (level_dbfs / 20)).astype(np.float32)


def room_noise(seconds: float, level_dbfs: float = -80, seed: int = 0) -> Doubles:
    """The noise of a quiet room and its microphone: white, float64."""
    return np.random.default_rng(seed).normal(0, 1, round(seconds * RATE_HZ)) * 10 ** (level_dbfs / 20)


def mains_hum(
    hz: float | Doubles, seconds: float, harmonics: int = 10, level_dbfs: float = -46, seed: int = 1
) -> Doubles:
    """Harmonics of ``hz``, one number or one for each sample, that fall as 1 / sqrt(k); phases by ``seed``."""
    samples = round(seconds * RATE_HZ)
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(np.asarray(hz, float), samples)) / RATE_HZ
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, harmonics)
    out = np.asarray(sum(np.cos(k * phase + phases[k - 1]) / np.sqrt(k) for k in range(1, harmonics + 1)))
    return out / out.std() * 10 ** (level_dbfs / 20)


def between(sound: Doubles, begin_s: float, end_s: float) -> Doubles:
    """The part from one moment to another."""
    return sound[round(begin_s * RATE_HZ) : round(end_s * RATE_HZ)]


def in_hops(process: Callable[..., object], sound: "np.typing.NDArray[Any]", **more: object) -> Floats:
    """``process`` on every whole hop of a float32 copy, in place."""
    out = sound.astype(np.float32)
    for start in range(0, len(out) - HOP_SAMPLES + 1, HOP_SAMPLES):
        process(out[start : start + HOP_SAMPLES], **more)
    return out


def through(stage: Any, sound: "np.typing.NDArray[Any]") -> Doubles:
    """What a stage makes of a sound hop by hop, float64 to be measured."""
    return in_hops(stage.process, sound).astype(float)

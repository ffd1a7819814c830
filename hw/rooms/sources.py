"""Speech and noises that are played in the simulated room."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from edge import RATE_HZ
from edge.dsp.spectrum import Doubles
from hw.rooms.scenes import BadRequest
from models.measures import pauses

SOUNDS = Path(__file__).parents[2] / "tests" / "sounds"


@cache
def recording(part: str, name: str) -> Doubles:
    """One of tests/sounds, 16 kHz mono."""
    file = SOUNDS / part / f"{name}.flac"
    try:
        return soundfile.read(file)[0]
    except (OSError, soundfile.SoundFileError):
        raise BadRequest(f"{file} cannot be read; run this from a checkout, which has the recordings") from None


def speech(samples: int, pauseless: bool) -> Doubles:
    """An English and an Italian speaker in turn; without their pauses if asked for."""
    spoken = np.concatenate([recording("clean", "rain_en_5dB"), recording("clean", "brook_it_0dB")])
    if pauseless:
        spoken = spoken[~pauses(spoken.astype(np.float32), 35)]
    return looped(spoken, samples)


def looped(sound: Doubles, samples: int, at: int = 0) -> Doubles:
    """``samples`` of a sound that is repeated, from ``at`` on."""
    return np.take(sound, np.arange(at, at + samples), mode="wrap")


def noise_with_spectrum(samples: int, rng: np.random.Generator, gains: Any) -> Doubles:
    """Gaussian noise with a spectrum: ``gains`` of the frequency in Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    return np.fft.irfft(spectrum * gains(np.fft.rfftfreq(samples, 1 / RATE_HZ)), samples)


def slow_curve(samples: int, rng: np.random.Generator, fastest_s: float) -> Doubles:
    """A slow random curve of power one and mean zero, slower than ``fastest_s``."""
    fastest_hz = max(1 / fastest_s, 1.5 * RATE_HZ / samples)
    curve = noise_with_spectrum(samples, rng, lambda hz: (hz > 0) & (hz < fastest_hz))
    return curve / curve.std()


def noise(kind: str, samples: int, seed: int) -> Doubles:
    """One source of noise of power one; another seed is another source."""
    rng = np.random.default_rng([seed, 2718])
    if kind == "white":
        made = rng.standard_normal(samples)
    elif kind == "engine":
        turn = 2 * np.pi * np.cumsum(92 * (1 + 0.003 * slow_curve(samples, rng, 2.0))) / RATE_HZ
        tones = sum(np.sin(k * turn + rng.uniform(0, 6.28)) / k**0.5 for k in range(1, 13))
        rush = noise_with_spectrum(samples, rng, lambda hz: 1 / np.sqrt(1 + hz / 200))
        made = tones / np.std(tones) + rush / rush.std()
    elif kind == "fan":
        turn = 2 * np.pi * np.cumsum(118 * (1 + 5e-5 * slow_curve(samples, rng, 2.0))) / RATE_HZ
        tones = sum(np.sin(k * turn + rng.uniform(0, 6.28)) / k**0.5 for k in range(1, 4))
        rush = noise_with_spectrum(samples, rng, lambda hz: 1 / np.sqrt(1 + hz / 200))
        made = tones / np.std(tones) + 0.5 * rush / rush.std()
    elif kind == "traffic":
        rumble = noise_with_spectrum(samples, rng, lambda hz: 1 / (1 + (hz / 300) ** 2))
        made = rumble * 10 ** (4 * slow_curve(samples, rng, 3.0) / 20)
    elif kind == "babble":
        voices = [recording("clean", name) for name in ("tavern_fr_10dB", "brook_it_0dB", "rain_en_5dB")]
        made = np.zeros(samples)
        for number in range(8):
            voice = voices[number % 3]
            speed = rng.uniform(0.85, 1.2)
            place = (np.arange(samples) * speed + rng.uniform(0, len(voice))) % (len(voice) - 1)
            made += 10 ** rng.uniform(-0.25, 0) * np.interp(place, np.arange(len(voice)), voice)
    elif kind == "talker":
        made = looped(recording("clean", "tavern_fr_10dB"), samples, int(rng.integers(RATE_HZ)))
    else:
        water = recording("noisy", "brook_it_0dB") - recording("clean", "brook_it_0dB")
        made = looped(water, samples, int(rng.integers(len(water))))
    return made / made.std()

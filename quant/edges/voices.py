"""Synthetic voices and their words: harmonics of a gliding pitch through moving formants, and shaped noise.

Everything is 16 kHz mono and follows from numbers and seeds alone. These voices have no jitter, no breath but where a
consonant asks for it and no room: what is hardest for a suppressor that has learnt from recordings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge import RATE_HZ
from edge.dsp.spectrum import Doubles
from edge.tools.bench import voice_like

VOWELS_HZ = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
"""Mean first three formants of men (Peterson & Barney 1952, J. Acoust. Soc. Am. 24, table II)."""
HIGHER_FORMANTS_HZ = (3500, 4500)
BANDWIDTHS_HZ = (80, 100, 140, 200, 250)
"""About what Fant (1972) measured with the glottis closed."""
TOP_HZ = 7600
"""Highest partial."""
CONTROL_SAMPLES = 80
"""Pitch and formants are followed in steps of 5 ms."""


@dataclass(frozen=True)
class Voice:
    """What makes one synthetic talker."""

    name: str
    pitch_hz: float
    tract: float
    """Formants as a multiple of a man's: 1.17 for women, 1.3 for children (the same source)."""


VOICES = (Voice("low", 96, 1.0), Voice("high", 208, 1.17), Voice("child", 287, 1.3))
"""The evaluated voices. Training draws its own, ``models.mix.edge_kinds``, never these."""

ATTACKS_MS = {"cut": 3, "hard": 12, "soft": 150}
"""How a vowel rises: as if a switch had cut it off, as after a glottal stop, as after a breath."""
BEGINNINGS = (*ATTACKS_MS, "p", "m", "s", "h")
"""How a word begins: with a vowel, a burst, a nasal murmur, a fricative, a breath."""


def resonance(at_hz: Doubles, formants_hz: Doubles) -> Doubles:
    """Gain of an all-pole vocal tract, 1 at 0 Hz: ``at_hz`` (...) and ``formants_hz`` (..., 5)."""
    gain = np.ones_like(at_hz)
    for formant_hz, width_hz in zip(np.moveaxis(formants_hz, -1, 0), BANDWIDTHS_HZ, strict=True):
        gain = gain * formant_hz**2 / np.hypot(formant_hz**2 - at_hz**2, at_hz * width_hz)
    return gain


def voiced(pitch_hz: Doubles, formants_hz: Doubles) -> Doubles:
    """Harmonics of ``pitch_hz`` (samples,) through ``formants_hz`` (steps of 5 ms, 5); power one.

    The source falls by 12 dB an octave, radiation from the lips gives back 6.
    """
    samples = len(pitch_hz)
    steps = np.arange(0, samples, CONTROL_SAMPLES)
    turns = np.cumsum(pitch_hz) / RATE_HZ
    wave = np.zeros(samples)
    for partial in range(1, int(TOP_HZ / pitch_hz.min()) + 1):
        at_hz = partial * pitch_hz[steps]
        size = resonance(at_hz, formants_hz[: len(steps)]) / partial * (at_hz < TOP_HZ)
        wave += np.interp(np.arange(samples), steps, size) * np.cos(2 * np.pi * partial * turns)
    return wave / np.sqrt(np.mean(wave**2))


def formants_of(vowels: Sequence[str], steps: int, tract: float, glide: float = 0.25) -> Doubles:
    """(steps, 5): ``vowels`` for equally long, each sliding into the next over ``glide`` of its length."""
    targets = np.array([(*VOWELS_HZ[vowel], *HIGHER_FORMANTS_HZ) for vowel in vowels], float) * tract
    place = np.arange(steps) / steps * len(vowels)
    knots = [edge for index in range(len(vowels)) for edge in (index + glide / 2, index + 1 - glide / 2)]
    values = np.repeat(targets, 2, axis=0)
    return np.stack([np.interp(place, knots, column) for column in values.T], axis=1)


def shaped_noise(samples: int, low_hz: float, high_hz: float, rng: np.random.Generator) -> Doubles:
    """White noise between two frequencies with slopes half an octave wide, power one."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    octaves = np.log2(np.maximum(np.arange(len(spectrum)) * RATE_HZ / samples, 1))
    band = np.clip(2 * (octaves - np.log2(low_hz)) + 1, 0, 1) * np.clip(2 * (np.log2(high_hz) - octaves) + 1, 0, 1)
    wave = np.fft.irfft(spectrum * band, samples)
    return wave / np.sqrt(np.mean(wave**2))


def envelope(samples: int, attack_ms: float, release_ms: float) -> Doubles:
    """Rises and falls as half a cosine, 1 in between."""
    at_ms = np.arange(samples) * 1000 / RATE_HZ
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip(at_ms / attack_ms, 0, 1))
    fall = 0.5 - 0.5 * np.cos(np.pi * np.clip((at_ms[-1] - at_ms) / release_ms, 0, 1))
    return rise * fall


def word(voice: Voice, beginning: str, vowels: str, seconds: float, rng: np.random.Generator) -> Doubles:
    """One of ``BEGINNINGS``, then ``vowels`` for ``seconds``; power of the vowels about one."""
    samples = round(seconds * RATE_HZ)
    place = np.linspace(0, 1, samples)
    pitch_hz = voice.pitch_hz * 2 ** (rng.uniform(0.1, 0.35) * (0.3 - place) + 0.05 * np.sin(9 * place))
    formants = formants_of([*vowels], -(-samples // CONTROL_SAMPLES), voice.tract)
    vowel = voiced(pitch_hz, formants) * envelope(samples, ATTACKS_MS.get(beginning, 12), 90)
    return np.concatenate([consonant(voice, beginning, pitch_hz[0], rng), vowel])


def consonant(voice: Voice, beginning: str, pitch_hz: float, rng: np.random.Generator) -> Doubles:
    """What comes before the vowel, in relation to its power of one; nothing for a word that begins with it."""

    def shaped(level_db: float, sound: Doubles, attack_ms: float, release_ms: float) -> Doubles:
        return 10 ** (level_db / 20) * sound * envelope(len(sound), attack_ms, release_ms)

    def hiss(ms: float, low_hz: float, high_hz: float) -> Doubles:
        return shaped_noise(round(ms * RATE_HZ / 1000), low_hz, high_hz, rng)

    if beginning == "p":
        return np.concatenate([shaped(-8, hiss(12, 400, 3000), 1, 8), np.zeros(RATE_HZ // 100)])
    if beginning == "m":
        steps = 14
        murmur = np.tile(np.array([250, 1000, 2200, *HIGHER_FORMANTS_HZ], float) * voice.tract, (steps, 1))
        return shaped(-10, voiced(np.full(steps * CONTROL_SAMPLES, pitch_hz), murmur), 25, 3)
    if beginning == "s":
        return shaped(-12, hiss(90, 3800, 7200), 25, 15)
    if beginning == "h":
        return shaped(-18, hiss(60, 500, 3500), 20, 10)
    return np.zeros(0)


BUZZ_STARTS_S = (9.85, 0.85, 3.85, 10.85, 2.85, 12.85, 5.7, 8.7, 14.7)
"""The first six are the hardest for the network of 2026-12 among 76 starts, the last three are any."""


def buzzes(seconds: float) -> list[Doubles]:
    """Cuts of the test voice of ``quietbox bench``, 23 partials under moving formants, that begin within 3 ms."""
    samples = round(seconds * RATE_HZ)
    voice = voice_like(16).astype(float)
    starts = [round(start_s * RATE_HZ) for start_s in BUZZ_STARTS_S]
    return [voice[start : start + samples] * envelope(samples, ATTACKS_MS["cut"], 50) for start in starts]


def sung(voice: Voice, notes: Sequence[float], vowels: str, seconds: float, vibrato: float) -> Doubles:
    """One ``vowels`` each for ``notes`` (semitones above the voice's pitch), ``seconds`` altogether.

    ``vibrato``: 0 none, 1 half a semitone up and down 5.5 times a second (Sundberg, The Science of the Singing Voice).
    """
    samples = round(seconds * RATE_HZ)
    place = np.arange(samples) / samples * len(notes)
    slide = 0.06 * len(notes) / seconds  # 60 ms from note to note
    knots = [edge for index in range(len(notes)) for edge in (index + slide / 2, index + 1 - slide / 2)]
    semitones = np.interp(place, knots, np.repeat(notes, 2))
    time_s = np.arange(samples) / RATE_HZ
    swing = vibrato * 0.5 * np.sin(2 * np.pi * 5.5 * time_s) * np.clip(time_s / 0.4, 0, 1)
    formants = formants_of([*vowels], -(-samples // CONTROL_SAMPLES), voice.tract, 0.1)
    return voiced(voice.pitch_hz * 2 ** ((semitones + swing) / 12), formants) * envelope(samples, 40, 150)

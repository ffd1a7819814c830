"""Anti-noise at the ear, in a simulated ear cup."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.config import AntinoiseConfig
from edge.dsp.antinoise import AntiNoise
from edge.dsp.secondary_path import SecondaryPath
from edge.dsp.spectrum import Doubles
from hw.rooms.measures import best_prediction
from hw.rooms.rendering import from_place, paths, save_sounds
from hw.rooms.scenes import CUP, NOISE, SELF_NOISE_DBFS, SNR_DB, SPEECH_DBFS, Point
from hw.rooms.sources import noise

EAR: Point = (2.42, 2.08, 1.27)
LOUDSPEAKER: Point = (2.41, 2.10, 1.27)
"""In the cup, 2 cm from the microphone at the ear. The cup itself attenuates nothing here: only the box does."""
LOOP_S = 0.045
"""Delay from a sample of the microphone at the ear to the anti-noise there: hops, limiter, buffers of two cards."""


@dataclass(frozen=True)
class EarResult:
    """What anti-noise does to one noise at the ear."""

    noise: str
    tones_db: dict[str, float]
    """By Hz, how much quieter each cancelled tone became, within 4 Hz of it."""
    all_db: float
    """All of the noise up to 8 kHz."""
    broadband_possible_db: float
    """The most that any filter could remove with what the reference knew ``LOOP_S`` before."""


def secondary_path() -> Doubles:
    """From the samples handed to the output to those of the ear's microphone: the loop's delay, then the cup.

    Its gain is made 1 on average from 40 to 500 Hz.
    """
    ((response,),) = paths([LOUDSPEAKER], [EAR])
    response = response[: RATE_HZ // 10]
    gain = np.abs(np.fft.rfft(response, RATE_HZ))[40:500].mean()
    return np.concatenate([np.zeros(round(LOOP_S * RATE_HZ)), response / gain])


def at_the_ear(kind: str, seconds: float, seed: int = 0, out: Path | None = None) -> EarResult:
    """``AntiNoise`` in a closed loop: what it plays is heard ``LOOP_S`` later by its own microphone.

    Nothing else is played; the first half of the time is for finding and learning, the second is measured.
    """
    samples = int(seconds * RATE_HZ) // HOP_SAMPLES * HOP_SAMPLES
    alone, reference = from_place(noise(kind, samples, seed), NOISE, [EAR, CUP])
    loud = 10 ** ((SPEECH_DBFS - SNR_DB) / 20) / alone.std()
    alone, reference = alone * loud, reference * loud
    alone += 10 ** (SELF_NOISE_DBFS / 20) * np.random.default_rng([seed, 3141]).standard_normal(samples)
    response = secondary_path()
    antinoise = AntiNoise(SecondaryPath(response.astype(np.float32), 0.0, 40.0), AntinoiseConfig())
    heard = np.concatenate([alone, np.zeros(len(response) + HOP_SAMPLES)])
    for at in range(0, samples, HOP_SAMPLES):
        antinoise.hear(heard[at : at + HOP_SAMPLES].astype(np.float32))
        played = np.zeros(HOP_SAMPLES, np.float32)
        antinoise.process(played)
        if played.any():
            heard[at : at + HOP_SAMPLES + len(response) - 1] += np.convolve(played, response)
    if out is not None:
        save_sounds(
            {"without": alone.astype(np.float32), "with": heard[:samples].astype(np.float32)},
            out / f"in-the-ear-{kind}",
        )
    late = slice(samples // 2, samples)
    late_s = (samples - samples // 2) / RATE_HZ
    powers = [np.abs(np.fft.rfft(sound[late] * np.hanning(samples - samples // 2))) ** 2 for sound in (alone, heard)]

    def quieter_db(low_hz: float, high_hz: float) -> float:
        before, after = (power[round(low_hz * late_s) : round(high_hz * late_s)].sum() for power in powers)
        return 10 * math.log10(before / after)

    known = np.concatenate([np.zeros(round(LOOP_S * RATE_HZ)), reference])[:samples].astype(np.float32)
    left = alone - best_prediction(alone.astype(np.float32), known)
    return EarResult(
        kind,
        {f"{hz:.1f}": quieter_db(hz - 4, hz + 4) for hz in sorted(antinoise.tones_hz)},
        quieter_db(0, RATE_HZ / 2),
        10 * math.log10(float(alone @ alone) / float(left @ left)),
    )

"""What is put around a voice: noises, music, and the whisper of a recording. 16 kHz mono, from seeds alone."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter

from edge import RATE_HZ
from edge.dsp.spectrum import Doubles

FRAME_SAMPLES, STEP_SAMPLES = 320, 80
ORDER = 18
"""Of the linear prediction: a pair for each kHz and one for the tilt."""
PRE_EMPHASIS = 0.9
"""A whisper lacks the fall of the voiced source, so what this adds to the treble stays (Jovičić 1998)."""


def pink(samples: int, seed: int) -> Doubles:
    """Power falls as 1 / f above 20 Hz; power one."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    bins = np.maximum(np.arange(len(spectrum)), 20 * samples / RATE_HZ)
    wave = np.fft.irfft(spectrum / np.sqrt(bins), samples)
    return wave / np.sqrt(np.mean(wave**2))


def white(samples: int, seed: int) -> Doubles:
    """Gaussian, power one."""
    return np.random.default_rng(seed).standard_normal(samples)


def whispered(speech: Doubles, seed: int) -> Doubles:
    """The words of ``speech`` without its voice: linear prediction re-synthesised with noise for an excitation.

    The same length and active power; silence stays silence.
    """
    emphasised = lfilter([1, -PRE_EMPHASIS], [1], speech)
    excitation = np.random.default_rng(seed).standard_normal(len(speech) + FRAME_SAMPLES)
    padded = np.concatenate([emphasised, np.zeros(FRAME_SAMPLES)])
    window = np.hanning(FRAME_SAMPLES + 1)[:-1]
    frames = sliding_window_view(padded, FRAME_SAMPLES)[::STEP_SAMPLES] * window
    out = np.zeros(len(padded))
    for index, frame in enumerate(frames):
        found = np.correlate(frame, frame, "full")[FRAME_SAMPLES - 1 : FRAME_SAMPLES + ORDER]
        if found[0] < 1e-9:
            continue
        found[0] *= 1 + 1e-4  # 40 dB below: keeps the filter stable
        taps = solve_toeplitz(found[:ORDER], found[1 : ORDER + 1])
        at = index * STEP_SAMPLES
        part = lfilter([1], np.concatenate([[1], -taps]), excitation[at : at + FRAME_SAMPLES])
        power = np.mean(part**2)
        out[at : at + FRAME_SAMPLES] += window * part * np.sqrt(found[0] / FRAME_SAMPLES / max(power, 1e-20))
    out = out[: len(speech)]
    return out * np.sqrt(np.sum(speech**2) / max(float(np.sum(out**2)), 1e-20))


def music(samples: int, seed: int) -> Doubles:
    """Plucked chords, a bass, a melody with vibrato and a hi-hat at 100 beats a minute; power one."""
    rng = np.random.default_rng(seed)
    beat = round(0.6 * RATE_HZ)
    out = np.zeros(samples + 4 * beat)

    def note(at: int, midi: float, seconds: float, decay_s: float, level: float, vibrato: float = 0.0) -> None:
        time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
        turns = np.cumsum(440 * 2 ** ((midi - 69 + vibrato * np.sin(2 * np.pi * 5 * time_s)) / 12)) / RATE_HZ
        wave = sum(np.sin(2 * np.pi * n * turns) / n**1.5 for n in range(1, 9))
        ends = np.minimum(np.minimum(time_s / 0.005, 1), np.minimum((time_s[-1] - time_s) / 0.02, 1))
        out[at : at + len(time_s)] += level * wave * np.exp(-time_s / decay_s) * ends

    chords = [(48, 0, 4, 7), (45, 3, 7, 12), (41, 0, 4, 7), (43, 4, 7, 10)]
    for index, at in enumerate(range(0, samples, beat)):
        root, *above = chords[index // 4 % 4]
        note(at, root - 12 * (index % 2), 0.55, 0.6, 0.6)
        for interval in above:
            note(at + int(rng.integers(0, 200)), root + 12 + interval, 1.1, 0.5, 0.25)
        note(at, 72 + int(rng.choice([0, 2, 4, 7, 9])), float(rng.choice([0.3, 0.6, 1.2])), 2.0, 0.5, 0.3)
        for half in (0, beat // 2):
            hit = rng.standard_normal(RATE_HZ // 20) * np.exp(-np.arange(RATE_HZ // 20) / (0.01 * RATE_HZ))
            out[at + half : at + half + len(hit)] += 0.15 * np.diff(hit, prepend=0)
    out = out[:samples]
    return out / np.sqrt(np.mean(out**2))

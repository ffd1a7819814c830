"""Sounds that are random numbers, no recordings: shaped noise, ducts, tones, strokes, what a microphone adds.

Waves are float32 (items, samples) at 16 kHz; every number comes from the ``Draws`` given.
"""

import math

import torch
from torch import Tensor

from edge import RATE_HZ
from models.mix.waves import fast_length, power, unit


class Draws:
    """Random numbers of one generator on one device, in the order in which they are asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rng = torch.Generator(device)

    def seed(self, value: int) -> None:
        """Start again from ``value``."""
        self.rng.manual_seed(value)

    def rand(self, *size: int) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(*size, generator=self.rng, device=self.device)

    def normal(self, *size: int) -> Tensor:
        """Mean 0, variance 1."""
        return torch.randn(*size, generator=self.rng, device=self.device)

    def between(self, items: int, low: float, high: float) -> Tensor:
        """(items,), uniform."""
        return low + (high - low) * self.rand(items)

    def happens(self, items: int, probability: float) -> Tensor:
        """(items, 1): 1.0 with this probability, else 0.0."""
        return (self.rand(items) < probability).float().unsqueeze(1)


def ventilation(draws: Draws, items: int, samples: int) -> Tensor:
    """Noise of random tilt whose level flutters by up to 3 dB at 0.3 to 8 Hz, and one to six harmonics of a fan's
    blade rate (20 to 400 Hz), 0 to 20 dB below it and below each other by 1 / n."""
    time_s = torch.arange(samples, device=draws.device) / RATE_HZ
    flutter_hz, flutter_db = 0.3 * 27 ** draws.rand(items, 1), 3 * draws.rand(items, 1)
    flutter = 10 ** (flutter_db / 20 * torch.sin(2 * math.pi * (flutter_hz * time_s + draws.rand(items, 1))))
    blade_hz = 20 * 20 ** draws.rand(items, 1)
    tones = torch.zeros(items, samples, device=draws.device)
    for harmonic in range(1, 7):
        size = (draws.rand(items, 1) < 1 / harmonic) / harmonic
        tones += size * torch.sin(2 * math.pi * (harmonic * blade_hz * time_s + draws.rand(items, 1)))
    return unit(tilted(draws, items, samples)) * flutter + unit(tones) * 10 ** -draws.rand(items, 1)


def pass_by(draws: Draws, items: int, samples: int) -> Tensor:
    """(items, samples), at most 1: the level of a source on a straight line past the microphone, 1 / distance;
    it is nearest somewhere in the item and within 3 dB of that for 0.3 to 2 s."""
    time_s = torch.arange(samples, device=draws.device) / RATE_HZ
    nearest_s = draws.rand(items, 1) * samples / RATE_HZ
    half_s = 0.15 * (1 / 0.15) ** draws.rand(items, 1)
    return 1 / torch.sqrt(1 + ((time_s - nearest_s) / half_s).square())


def tilted(draws: Draws, items: int, samples: int) -> Tensor:
    """Random numbers whose power falls with frequency to the power 0 (white) to 2 (brown)."""
    white = draws.normal(items, samples)
    bins = torch.arange(1, samples // 2 + 2, device=draws.device, dtype=torch.float32)
    tilt = bins.clamp(min=samples / 400) ** -draws.rand(items, 1)
    return torch.fft.irfft(torch.fft.rfft(white) * tilt, samples)


def tones(draws: Draws, items: int, samples: int) -> Tensor:
    """Up to 24 partials over a pitch of 30 to 3000 Hz that stands, wanders or swings, steady or in strokes."""
    device, count = draws.device, torch.arange(1, 25, device=draws.device)
    time_s = torch.arange(samples, device=device) / RATE_HZ
    knots = draws.rand(items, 1, 2 + samples // (RATE_HZ // 4)) * 2 - 1
    wander = torch.nn.functional.interpolate(knots, samples, mode="linear", align_corners=True).squeeze(1)
    swing_hz = 10 ** draws.between(items, -0.5, 1).unsqueeze(1)
    swing = torch.sin(2 * math.pi * (swing_hz * time_s + draws.rand(items, 1)))
    octaves = wander * draws.happens(items, 0.5) + swing * draws.happens(items, 0.4)
    octaves = octaves * 10 ** draws.between(items, -2, 0.2).unsqueeze(1)
    pitch_hz = (30 * 10 ** draws.between(items, 0, 2)).unsqueeze(1) * 2**octaves
    turns = (pitch_hz.double() / RATE_HZ).cumsum(1)

    stretch = 1 + draws.happens(items, 0.3) * (draws.rand(items, 1) * 0.3 - 0.1)  # bells, not strings
    partials = count**stretch
    size = count ** -draws.between(items, 0, 2).unsqueeze(1) * 10 ** -draws.rand(items, 24)
    size = size * (draws.rand(items, 24) < draws.between(items, 0.3, 1.2).unsqueeze(1))
    size[:, 0] += 1e-3
    tone = torch.zeros(items, samples, device=device)
    for partial, own in zip(partials.T, size.T, strict=True):
        angle = (turns * partial.unsqueeze(1) + draws.rand(items, 1)).remainder(1).float()
        below = (pitch_hz * partial.unsqueeze(1) < RATE_HZ / 2).float()
        tone += own.unsqueeze(1) * torch.sin(2 * math.pi * angle) * below
    breath = unit(tilted(draws, items, samples)) * 10 ** draws.between(items, -2, -0.2).unsqueeze(1)
    rhythm = torch.where(draws.happens(items, 0.6) > 0, strokes(draws, items, samples), 1.0)
    return (unit(tone) + breath) * rhythm


def strokes(draws: Draws, items: int, samples: int) -> Tensor:
    """(items, samples), not negative: strokes at random times, 0.3 to 10 a second, that die away in 5 ms to 1 s."""
    rate_hz = 0.3 * 33 ** draws.rand(items, 1)
    strokes = (draws.rand(items, samples) < rate_hz / RATE_HZ) * draws.rand(items, samples)
    strokes[:, 0] += draws.rand(items)
    age_s = torch.arange(samples, device=draws.device) / RATE_HZ
    rise_s, fall_s = 0.001 * 30 ** draws.rand(items, 1), 0.005 * 200 ** draws.rand(items, 1)
    shape = (1 - torch.exp(-age_s / rise_s)) * torch.exp(-age_s / fall_s)
    length = fast_length(2 * samples)
    wave = torch.fft.irfft(torch.fft.rfft(strokes, length) * torch.fft.rfft(shape, length), length)
    return wave[:, :samples].clamp(min=0)


def microphone(draws: Draws, noisy: Tensor, p_self_noise: float, p_hum: float) -> Tensor:
    """Self-noise 30 to 60 dB and mains hum 10 to 40 dB below what is heard, where they happen."""
    items, samples = noisy.shape
    loud = power(noisy).sqrt().unsqueeze(1) + 1e-5
    white = draws.normal(items, samples)
    hiss = white * 10 ** (draws.between(items, -60, -30) / 20).unsqueeze(1)
    extra = hiss * draws.happens(items, p_self_noise)
    hums = (draws.rand(items) < p_hum).nonzero().squeeze(1)
    if len(hums):
        mains_hz = torch.where(draws.rand(len(hums)) < 0.5, 50.0, 60.0) * draws.between(len(hums), 0.998, 1.002)
        time_s = torch.arange(samples, device=draws.device) / RATE_HZ
        hum = torch.zeros(len(hums), samples, device=draws.device)
        for harmonic in range(1, 11):
            size = draws.rand(len(hums), 1) / harmonic**0.5
            turn = draws.rand(len(hums), 1)
            hum += size * torch.sin(2 * math.pi * (mains_hz.unsqueeze(1) * harmonic * time_s + turn))
        extra[hums] += unit(hum) * 10 ** (draws.between(len(hums), -40, -10) / 20).unsqueeze(1)
    return extra * loud


def late_start(draws: Draws, items: int, samples: int, probability: float) -> Tensor:
    """(items, samples): zeros, then ones; ones alone for most."""
    begin = draws.rand(items, 1) * samples / 2 * draws.happens(items, probability)
    return (torch.arange(samples, device=draws.device) >= begin.floor()).float()


def clipped(draws: Draws, noisy: Tensor, probability: float) -> Tensor:
    """Some items clipped 3 to 12 dB below their peak, as an overdriven input does."""
    peak = noisy.abs().amax(1, keepdim=True)
    roof = peak * 10 ** (draws.between(noisy.shape[0], -12, -3) / 20).unsqueeze(1)
    roof = torch.where(draws.happens(noisy.shape[0], probability) > 0, roof, peak)
    return torch.maximum(torch.minimum(noisy, roof), -roof)

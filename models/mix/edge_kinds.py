"""Speech at its edges for training: whispers, songs, quiet talkers, words after a pause, speech over music.

The same kinds that ``quant.edges`` measures, drawn anew at every step from other seeds and by other means (envelopes by
cepstrum instead of linear prediction, formants at random instead of Peterson & Barney's), and with the measured talkers
left out of the recordings: what is learnt here is not what is measured there.

Waves are float32 (items, samples) at 16 kHz; every number comes from the ``Draws`` given.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from edge import HOP_SAMPLES, RATE_HZ
from models.command import BadRequest
from models.mix.drawn_noise import Draws
from models.mix.waves import unit

MEASURED_TALKERS = ("Allison", "June", "Carlo")
"""Whose recordings tests/sounds holds, as part of the speaker ids of the training recordings."""

ONSET_SNR_DB, QUIET_DBFS = (20.0, 60.0), (-55.0, -35.0)
PAUSE = (0.2, 0.7)
"""Share of an item that passes before the word: 0.6 to 2.1 s of three, up to 4.2 of six."""


@dataclass(frozen=True)
class Kinds:
    """Share of the items that are of each kind; the rest is the ordinary recipe's, the same with and without them."""

    whisper: float = 0.0
    song: float = 0.0
    quiet: float = 0.0
    onset: float = 0.0
    music: float = 0.0

    @property
    def asked(self) -> bool:
        return sum(asdict(self).values()) > 0

    @classmethod
    def read(cls, text: str) -> "Kinds":
        """``whisper=0.05,onset=0.1``; nothing for no kinds. Raises BadRequest."""
        shares: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, share = part.partition("=")
            try:
                shares[name.strip()] = float(share)
            except ValueError:
                raise BadRequest(f"--kinds {part}: expected NAME=SHARE, e.g. whisper=0.05,onset=0.1") from None
        known = asdict(cls())
        if unknown := shares.keys() - known.keys():
            raise BadRequest(f"--kinds {min(unknown)}: known are {', '.join(known)}")
        if not (all(0 <= share <= 1 for share in shares.values()) and sum(shares.values()) <= 1):
            raise BadRequest(f"--kinds {text}: shares are 0 to 1, altogether at most 1")
        return cls(**shares)

    def drawn(self, draws: Draws, items: int) -> dict[str, Tensor]:
        """Which items are of each kind, as indices; no item is of two."""
        roll, low, found = draws.rand(items), 0.0, {}
        for name, share in asdict(self).items():
            found[name] = ((roll >= low) & (roll < low + share)).nonzero().squeeze(1)
            low += share
        return found


NO_KINDS = Kinds()


def is_measured(voice: str) -> bool:
    """Whether ``quant.edges`` measures with recordings of this speaker."""
    return any(talker in voice for talker in MEASURED_TALKERS)


def whispered(draws: Draws, speech: Tensor) -> Tensor:
    """The words without the voice: noise under the cepstrally smoothed envelope of each 32 ms, treble raised by 6 dB
    an octave from about 500 Hz on, since the fall of the voiced source is missing. The power stays."""
    length, step, quefrencies = 512, 128, 24  # 24 samples: nothing finer than 670 Hz remains, so no pitch
    window = torch.hann_window(length, device=speech.device)
    spectra = torch.stft(speech, length, step, window=window, return_complex=True)
    cepstrum = torch.fft.irfft((spectra.abs() + 1e-6).log(), dim=1)
    cepstrum[:, quefrencies : length - quefrencies + 1] = 0
    envelope = torch.fft.rfft(cepstrum, dim=1).real.exp()
    treble = 1 + torch.arange(length // 2 + 1, device=speech.device) * RATE_HZ / length / 500
    noise = torch.stft(draws.normal(*speech.shape), length, step, window=window, return_complex=True)
    soft = torch.istft(noise * envelope * treble.unsqueeze(1), length, step, window=window, length=speech.shape[1])
    return unit(soft) * speech.square().mean(1, keepdim=True).sqrt()


def sung(draws: Draws, items: int, samples: int) -> Tensor:
    """Notes of 0.2 to 2 s in semitones, sliding into each other, with and without vibrato, on vowels of drawn formants;
    a breath between phrases of half of them. Power one."""
    device, steps = draws.device, samples // HOP_SAMPLES + 1
    time_s = torch.arange(samples, device=device) / RATE_HZ
    note_s = 0.2 * 10 ** draws.rand(items, 1)
    melody = (draws.rand(items, 64) * 15 - 5).round().cumsum(1).remainder(19) - 7
    at = (time_s / note_s).remainder(64)
    here = at.long()
    slide = ((at - here) * note_s / 0.05).clamp(max=1)
    before, now = melody.gather(1, (here - 1).clamp(min=0)), melody.gather(1, here)
    swing = draws.happens(items, 0.6) * draws.between(items, 0.1, 0.7).unsqueeze(1)
    wave_hz = draws.between(items, 4.5, 7).unsqueeze(1)
    semitones = before + (now - before) * slide + swing * torch.sin(2 * math.pi * wave_hz * time_s)
    pitch_hz = (90 * 4 ** draws.rand(items, 1)) * 2 ** (semitones / 12)
    angle = _angle(pitch_hz)
    coarse_hz = interpolate(pitch_hz.unsqueeze(1), steps, mode="linear").squeeze(1)
    formants_hz = _formants_hz(draws, items, samples, steps)
    tone = torch.zeros(items, samples, device=device)
    for partial in range(1, int(7600 / max(float(pitch_hz.min()), 50)) + 1):
        at_hz = partial * coarse_hz
        size = (at_hz < 7600) / partial * torch.ones_like(at_hz)
        for formant_hz, width_hz in zip(formants_hz, (80, 110, 160, 250), strict=True):
            size = size * formant_hz**2 / torch.hypot(formant_hz**2 - at_hz**2, at_hz * width_hz)
        size = interpolate(size.unsqueeze(1), samples, mode="linear").squeeze(1)
        tone += size * torch.cos(partial * angle)
    phrase_s, rest = draws.between(items, 1, 3).unsqueeze(1), draws.happens(items, 0.5)
    within_s = (time_s + phrase_s * draws.rand(items, 1)).remainder(phrase_s)
    ends = torch.minimum(within_s / 0.04, (phrase_s - 0.3 * rest - within_s) / 0.1).clamp(0, 1)
    return unit(tone * torch.where(rest > 0, ends, 1.0))


def _angle(pitch_hz: Tensor) -> Tensor:
    """Phase in radians, 0 to 2 pi, of a tone that follows ``pitch_hz``; the sum in double precision."""
    return 2 * math.pi * (pitch_hz.double() / RATE_HZ).cumsum(1).remainder(1).float()


def _formants_hz(draws: Draws, items: int, samples: int, steps: int) -> list[Tensor]:
    """Four times (items, steps): formants of vowels that change every half second, by a tract of drawn length."""
    tract = draws.between(items, 0.95, 1.35).unsqueeze(1)
    knots = 2 + samples // (RATE_HZ // 2)
    found = []
    for low_hz, high_hz in ((260, 760), (850, 2300), (2300, 3000), (3300, 3700)):
        drawn = low_hz + (high_hz - low_hz) * draws.rand(items, 1, knots)
        found.append(tract * interpolate(drawn, steps, mode="linear", align_corners=True).squeeze(1))
    return found


def after_pause(draws: Draws, speech: Tensor) -> Tensor:
    """Silence for ``PAUSE`` of the item, then speech: half of them from the quietest 20 ms of the next 300 on, as words
    begin, half at once, as a switch begins them; over 3 ms."""
    items, samples = speech.shape
    begin = (draws.between(items, *PAUSE) * samples / HOP_SAMPLES).long()
    powers = speech[:, : samples // HOP_SAMPLES * HOP_SAMPLES].reshape(items, -1, HOP_SAMPLES).square().mean(2)
    smooth = torch.nn.functional.avg_pool1d(powers.unsqueeze(1), 4, 1, 0).squeeze(1)
    ahead = (begin.unsqueeze(1) + torch.arange(60, device=speech.device)).clamp(max=smooth.shape[1] - 1)
    natural = draws.happens(items, 0.5).squeeze(1) > 0
    begin = torch.where(natural, begin + smooth.gather(1, ahead).argmin(1), begin) * HOP_SAMPLES
    age = torch.arange(samples, device=speech.device) - begin.unsqueeze(1)
    return speech * (age / (0.003 * RATE_HZ)).clamp(0, 1)


def music(draws: Draws, items: int, samples: int) -> Tensor:
    """Four parts on one scale, each with a timbre, a note length and a decay of its own, and a drum. Power one."""
    time_s = torch.arange(samples, device=draws.device) / RATE_HZ
    scale = torch.tensor([0, 2, 4, 5, 7, 9, 11, 12], device=draws.device)
    key, beat_s = draws.between(items, 0, 12).unsqueeze(1), draws.between(items, 0.25, 0.9).unsqueeze(1)
    out = torch.zeros(items, samples, device=draws.device)
    for octave in (36, 48, 60, 72):
        length_s = beat_s * 2 ** (draws.rand(items, 1) * 3).floor() / 2
        at = time_s / length_s
        here = at.long() % 64
        notes = scale[(draws.rand(items, 64) * 8).long()].gather(1, here)
        pitch_hz = 440 * 2 ** ((key + octave + notes - 69) / 12)
        angle = _angle(pitch_hz)
        fall = draws.between(items, 0.7, 2.5).unsqueeze(1)
        part = torch.zeros_like(out)
        for partial in range(1, 9):
            part += partial**-fall * torch.sin(partial * angle)
        age_s = (at - at.floor()) * length_s
        decay_s = 0.1 * 20 ** draws.rand(items, 1)
        part = part * (age_s / 0.006).clamp(max=1) * torch.exp(-age_s / decay_s)
        out += unit(part) * draws.between(items, 0.3, 1).unsqueeze(1)
    drum = draws.normal(items, samples) * torch.exp(-time_s.remainder(beat_s) / 0.015)
    return unit(unit(out) + 0.5 * draws.rand(items, 1) * unit(drum))

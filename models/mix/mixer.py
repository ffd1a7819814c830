"""Batches of noisy and clean speech, drawn anew at every step."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edge import HOP_SAMPLES, RATE_HZ
from models.mix import drawn_noise, edge_kinds
from models.mix.bank import Bank, open_bank
from models.mix.drawn_noise import Draws
from models.mix.edge_kinds import NO_KINDS, Kinds
from models.mix.recordings import NoRecordings, found_clips, listed_clips
from models.mix.rooms import MOST_ROOM_SAMPLES, Rooms, open_rooms
from models.mix.waves import EQ_POINTS_HZ, active_power, fast_length, hats, power, unit


@dataclass(frozen=True)
class Batch:
    """float32 (items, samples), +-1.0, 16 kHz. ``noisy`` is the box's input, ``clean`` its target output."""

    noisy: Tensor
    clean: Tensor
    snr_db: Tensor
    """(items,): as drawn, speech (with all its reflections) while somebody speaks against all noise from the bank."""
    kind: Tensor
    """(items,): 0 speech in noise, 1 clean only, 2 noise only."""


@dataclass(frozen=True)
class Recipe:
    """How often and how strongly each thing happens; probabilities per item."""

    snr_db: tuple[float, float] = (-5.0, 20.0)
    level_dbfs: tuple[float, float] = (-40.0, -10.0)
    eq_db: float = 6.0
    p_clean_only: float = 0.05
    p_noise_only: float = 0.08
    p_room: float = 0.3
    p_second_noise: float = 0.3
    p_babble: float = 0.1
    p_drawn_noise: float = 0.1
    """Noise that is no recording: random numbers with a random spectral tilt, steady or in bursts."""
    p_ventilation: float = 0.06
    """Air ducts, drawn: shaped noise that flutters, with a few tones of a fan in it."""
    p_pass_by: float = 0.15
    """A noise source that moves past: its level rises and falls as 1 / distance."""
    babble_voices: tuple[int, int] = (3, 20)
    p_tones: float = 0.12
    """Sounds with a pitch that are no voice, drawn as well: horns, sirens, engines, bells, calls."""
    p_hum: float = 0.1
    p_self_noise: float = 0.5
    p_band_limit: float = 0.1
    p_clip: float = 0.05
    p_speed: float = 0.3
    speed: tuple[float, float] = (0.9, 1.1)
    p_noise_speed: float = 0.5
    noise_speed: tuple[float, float] = (0.7, 1.4)
    """Machines of other sizes: there are fewer recordings of noise than kinds of it."""
    p_late_start: float = 0.05
    """Digital silence first, up to half of the item: a device that opens, a mute button let go."""
    kinds: Kinds = NO_KINDS
    """Whispers, songs, quiet talkers, words after a pause, music: none unless asked for."""


class Mixer:
    """Draws batches; ``batch(step, ...)`` is a pure function of the constructor's arguments and ``step``."""

    def __init__(self, speech: Bank, noise: Bank, rooms: Rooms | None, seed: int, recipe: Recipe = Recipe()) -> None:
        self.speech, self.noise, self.rooms, self.seed, self.recipe = speech, noise, rooms, seed, recipe
        self.device = speech.samples.device
        self._draws = Draws(self.device)
        self._edge_draws = Draws(self.device)

    def batch(self, step: int, items: int, samples: int) -> Batch:
        """``items`` mixtures of ``samples``, a multiple of 80."""
        assert samples % HOP_SAMPLES == 0
        self._draws.seed(self.seed * 1_000_003 + step)
        self._edge_draws.seed(self.seed * 1_000_003 + step + 2**40)  # its own, so that the other items stay as they are
        edges = self.recipe.kinds.drawn(self._edge_draws, items)
        recipe, length = self.recipe, samples + MOST_ROOM_SAMPLES
        length = fast_length(length)

        speech = torch.fft.rfft(self._at_the_edge(edges, self._talk(items, samples)), length)
        limit = self._band_limit(items, length)
        speech = speech * (self._eq(items, length) * limit)
        heard, clean = self._in_room(speech, length)
        noise = torch.fft.rfft(self._over_music(edges, self._noise(items, samples)), length)
        noise = noise * (self._eq(items, length) * limit)
        heard, clean, added = (torch.fft.irfft(part, length)[:, :samples] for part in (heard, clean, noise))

        snr_db = self._draws.between(items, *recipe.snr_db)
        snr_db[edges["onset"]] = self._edge_draws.between(len(edges["onset"]), *edge_kinds.ONSET_SNR_DB)
        kind = torch.zeros(items, dtype=torch.int64, device=self.device)
        roll = self._draws.rand(items)
        kind[roll < recipe.p_clean_only + recipe.p_noise_only] = 2
        kind[roll < recipe.p_clean_only] = 1
        scale = (active_power(heard) / (power(added) + 1e-12)).sqrt() * 10 ** (-snr_db / 20)
        added = added * torch.where(kind == 1, 0.0, scale.clamp(max=1e6)).unsqueeze(1)
        spoken = (kind != 2).float().unsqueeze(1)
        noisy, clean = heard * spoken + added, clean * spoken
        noisy = noisy + drawn_noise.microphone(self._draws, noisy, recipe.p_self_noise, recipe.p_hum)

        level_dbfs = self._draws.between(items, *recipe.level_dbfs)
        level_dbfs[edges["quiet"]] = self._edge_draws.between(len(edges["quiet"]), *edge_kinds.QUIET_DBFS)
        level = 10 ** (level_dbfs / 20)
        gain = level / (power(noisy).sqrt() + 1e-9)
        gain = torch.minimum(gain, 0.99 / (noisy.abs().amax(1) + 1e-9)).unsqueeze(1)
        noisy, clean = noisy * gain, clean * gain
        late = drawn_noise.late_start(self._draws, items, samples, recipe.p_late_start)
        noisy = drawn_noise.clipped(self._draws, noisy, recipe.p_clip)
        return Batch(noisy * late, clean * late, snr_db, kind)

    def cut(self, bank: Bank, items: int, samples: int) -> Tensor:
        """float32 (items, samples) from random places of randomly drawn clips; shorter clips go round."""
        clip = torch.multinomial(bank.weights, items, replacement=True, generator=self._draws.rng)
        room = (bank.lengths[clip] - samples).clamp(min=0) + 1
        offset = (self._draws.rand(items) * room).long()
        step = torch.arange(samples, device=self.device)
        place = (offset.unsqueeze(1) + step) % bank.lengths[clip].unsqueeze(1) + bank.starts[clip].unsqueeze(1)
        return bank.samples[place].float() / 32768

    def _talk(self, items: int, samples: int) -> Tensor:
        """One voice per item."""
        return self._at_speed(self.speech, items, samples, self.recipe.p_speed, self.recipe.speed)

    def _at_the_edge(self, edges: dict[str, Tensor], speech: Tensor) -> Tensor:
        """Some voices whispered, sung or silent at first."""
        draws, samples = self._edge_draws, speech.shape[1]
        if len(rows := edges["whisper"]):
            speech[rows] = edge_kinds.whispered(draws, speech[rows])
        if len(rows := edges["song"]):
            speech[rows] = edge_kinds.sung(draws, len(rows), samples)
        if len(rows := edges["onset"]):
            speech[rows] = edge_kinds.after_pause(draws, speech[rows])
        return speech

    def _over_music(self, edges: dict[str, Tensor], noise: Tensor) -> Tensor:
        if len(rows := edges["music"]):
            noise[rows] = edge_kinds.music(self._edge_draws, len(rows), noise.shape[1])
        return noise

    def _recorded_noise(self, items: int, samples: int) -> Tensor:
        return unit(self._at_speed(self.noise, items, samples, self.recipe.p_noise_speed, self.recipe.noise_speed))

    def _at_speed(self, bank: Bank, items: int, samples: int, p: float, speed: tuple[float, float]) -> Tensor:
        """A cut for each item, some played slower or faster and so lower or higher, by cubic interpolation."""
        wave = self.cut(bank, items, math.ceil(samples * speed[1]) + 4)
        ratio = self._draws.between(items, *speed)
        rows = (self._draws.rand(items) < p).nonzero().squeeze(1)
        if len(rows):
            place = torch.arange(samples, device=wave.device) * ratio[rows].unsqueeze(1)
            whole = place.floor()
            x, index = place - whole, whole.long()
            a, b, c, d = (wave[rows].gather(1, index + shift) for shift in range(4))
            wave[rows, :samples] = b + 0.5 * x * (c - a + x * (2 * a - 5 * b + 4 * c - d + x * (3 * (b - c) + d - a)))
        return wave[:, :samples]

    def _eq(self, items: int, length: int) -> Tensor:
        """Zero-phase gains (items, bins): a smooth curve through eight random points, drawn anew for each sound."""
        points_db = (self._draws.rand(items, len(EQ_POINTS_HZ)) * 2 - 1) * self.recipe.eq_db
        return 10 ** (points_db @ hats(length, self.device) / 20)

    def _band_limit(self, items: int, length: int) -> Tensor:
        """(items, bins): ones, or a low-pass at 2.5-7 kHz as telephones, codecs and headsets have."""
        corner_hz = self._draws.between(items, 2500, 7000).unsqueeze(1)
        bins_hz = torch.linspace(0, RATE_HZ / 2, length // 2 + 1, device=self.device)
        curve = ((corner_hz * 1.1 - bins_hz) / (corner_hz * 0.1)).clamp(1e-3, 1)
        return torch.where(self._draws.happens(items, self.recipe.p_band_limit) > 0, curve, 1.0)

    def _in_room(self, speech: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Spectra of the speech at the microphone, and of the target: direct sound and early reflections."""
        rows = (self._draws.rand(speech.shape[0]) < self.recipe.p_room).nonzero().squeeze(1)
        if self.rooms is None or len(rows) == 0:
            return speech, speech
        room = (self._draws.rand(len(rows)) * len(self.rooms.full)).long()
        heard, clean = speech.clone(), speech.clone()
        heard[rows] *= torch.fft.rfft(self.rooms.full[room], length)
        clean[rows] *= torch.fft.rfft(self.rooms.early[room], length)
        return heard, clean

    def _noise(self, items: int, samples: int) -> Tensor:
        """One recording, babble or drawn noise per item, and sometimes a second recording."""
        recipe = self.recipe
        noise = self._recorded_noise(items, samples)
        roll = self._draws.rand(items)
        talk = (roll < recipe.p_babble).nonzero().squeeze(1)
        if len(talk):
            noise[talk] = unit(self._babble(len(talk), samples))
        above = 1 - recipe.p_drawn_noise
        drawn = (roll > above).nonzero().squeeze(1)
        if len(drawn):
            often = self._draws.happens(len(drawn), 0.5) > 0
            bursts = torch.where(often, drawn_noise.strokes(self._draws, len(drawn), samples), 1.0)
            noise[drawn] = unit(drawn_noise.tilted(self._draws, len(drawn), samples) * bursts)
        below = above - recipe.p_tones
        toned = ((roll <= above) & (roll > below)).nonzero().squeeze(1)
        if len(toned):
            noise[toned] = unit(drawn_noise.tones(self._draws, len(toned), samples))
        blown = ((roll <= below) & (roll > below - recipe.p_ventilation)).nonzero().squeeze(1)
        if len(blown):
            noise[blown] = unit(drawn_noise.ventilation(self._draws, len(blown), samples))
        passing = (self._draws.rand(items) < recipe.p_pass_by).nonzero().squeeze(1)
        if len(passing):
            noise[passing] = unit(noise[passing] * drawn_noise.pass_by(self._draws, len(passing), samples))
        second = (self._draws.rand(items) < recipe.p_second_noise).nonzero().squeeze(1)
        if len(second):
            gain = 10 ** (self._draws.between(len(second), -10, 3) / 20).unsqueeze(1)
            noise[second] += gain * self._recorded_noise(len(second), samples)
        return noise

    def _babble(self, items: int, samples: int) -> Tensor:
        """Three to twenty other voices at once, each at its own level, half of them in one more room."""
        fewest, most = self.recipe.babble_voices
        voices = unit(self.cut(self.speech, items * most, samples)).reshape(items, most, samples)
        count = (fewest * (most / fewest) ** self._draws.rand(items)).round().unsqueeze(1)
        loud = 10 ** (self._draws.rand(items, most) * -0.5) * (torch.arange(most, device=self.device) < count)
        crowd = (voices * loud.unsqueeze(2)).sum(1)
        if self.rooms is None:
            return crowd
        length = fast_length(samples + MOST_ROOM_SAMPLES)
        room = (self._draws.rand(items) * len(self.rooms.full)).long()
        wet = torch.fft.rfft(crowd, length) * torch.fft.rfft(self.rooms.full[room], length)
        return torch.where(self._draws.happens(items, 0.5) > 0, torch.fft.irfft(wet, length)[:, :samples], crowd)


def open_mixer(
    data: Path | None,
    cache: Path,
    seed: int,
    device: torch.device | str = "cpu",
    speech: Iterable[Path] = (),
    noise: Iterable[Path] = (),
    recipe: Recipe = Recipe(),
) -> Mixer:
    """A mixer over a folder with speech.tsv, noise.tsv and rir/, over folders of one's own recordings, or over both."""
    voices, noises, rooms = [], [], None
    if data is not None:
        for name in ("speech.tsv", "noise.tsv"):
            if not (data / name).is_file():
                raise NoRecordings(f"{data}: no {name} in it")
        voices += listed_clips(data / "speech.tsv", data)
        noises += listed_clips(data / "noise.tsv", data)
        rooms = data / "rir" if (data / "rir").is_dir() else None
    voices += [clip for folder in speech for clip in found_clips(folder)]
    noises += [clip for folder in noise for clip in found_clips(folder)]
    if recipe.kinds.asked:
        voices = [clip for clip in voices if not edge_kinds.is_measured(clip.voice)]
    if not voices or not noises:
        raise NoRecordings("no speech: give --data or --speech" if not voices else "no noise: give --data or --noise")
    return Mixer(
        open_bank(voices, cache / "speech", device),
        open_bank(noises, cache / "noise", device, gap_s=0),
        open_rooms(rooms, device),
        seed,
        recipe,
    )

"""Noisy speech made on the fly: recordings in, (noisy, clean) batches out, a different one at every step.

Breadth beats hours: signal-to-noise ratio, level, tone, room, second noise, babble, bandwidth, clipping, hum and the
microphone's own noise are drawn anew for every item, and everything is batched PyTorch on one device, so that a GPU
mixes as fast as it learns. What a step sees depends on (seed, step) only: a resumed run sees what it would have seen.
"""

import argparse
import csv
import math
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge import HOP_SAMPLES, RATE_HZ
from edge.console import run_main
from edge.files import atomic

MOST_ROOM_SAMPLES = RATE_HZ // 2
"""Room responses are cut here: half a second holds all but 20-30 dB down of the longest rooms."""
EARLY_SAMPLES = RATE_HZ // 20
"""Reflections within 50 ms help understanding and stay in the target."""
SPEAKER_CAP_S = 120.0
"""A voice, or a kind of noise, counts for its seconds up to here: few voices must not fill the training."""
SYNTHETIC_VOICES = ("vctksyn_",)
"""How names of synthesised voices begin: they have no breath, no room and one way to speak, ..."""
SYNTHETIC_SHARE = 0.25
"""... so each is drawn a quarter as often as a person's."""
EQ_POINTS_HZ = (60, 150, 350, 700, 1400, 2800, 5000, 8000)
WORST_FLOOR_DB = -45.0
"""Speech recordings whose own noise floor lies above this are no target to learn."""


class NoRecordings(Exception):
    """A folder holds nothing to train on, or something that cannot be read; the message says which and why."""


@dataclass(frozen=True)
class Clip:
    """A stretch of one recording that may be cut anywhere."""

    file: Path
    start_s: float
    seconds: float
    voice: str
    """Speaker, or kind of noise: what is drawn before the clip is."""


@dataclass(frozen=True)
class Batch:
    """float32 (items, samples), +-1.0, 16 kHz. ``noisy`` is what the box hears, ``clean`` what it should play."""

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


# ---------------------------------------------------------------------------------------------- recordings


def listed_clips(table: Path, folder: Path, worst_floor_db: float = WORST_FLOOR_DB) -> list[Clip]:
    """The clips of a TSV with columns file, start_s, seconds and (speaker, floor_rel_db) or (source, kind)."""
    clips = []
    with open(table, newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines, delimiter="\t")):
            try:
                if float(row.get("floor_rel_db") or -99) > worst_floor_db:
                    continue
                voice = row.get("speaker") or f"{row['source']}/{row['kind']}"
                if voice == "?":  # unlabelled crowd: five neighbours in a file count as one voice
                    voice = f"{row['file']}#{number // 5}"
                clips.append(Clip(folder / row["file"], float(row["start_s"]), float(row["seconds"]), voice))
            except (KeyError, ValueError) as reason:
                wanted = "file, start_s, seconds, and speaker or kind"
                raise NoRecordings(f"{table}, line {number + 2}: {reason}; want {wanted}") from None
    return clips


def found_clips(folder: Path, least_s: float = 0.2) -> list[Clip]:
    """Every file soundfile reads below a folder, one clip each; a sub-folder is a voice or a kind, else the file is."""
    if not folder.is_dir():
        raise NoRecordings(f"{folder}: no such folder")
    clips = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            seconds = soundfile.info(file).duration
        except soundfile.SoundFileError:
            continue
        if seconds >= least_s:
            voice = file.parent.name if file.parent != folder else file.stem
            clips.append(Clip(file, 0.0, seconds, voice))
    if not clips:
        raise NoRecordings(f"{folder}: no file in it that libsndfile can read (WAV, FLAC, OGG, Opus ...)")
    return clips


def read_mono(file: Path) -> NDArray[np.float32]:
    """A whole file as float32 mono at 16 kHz."""
    try:
        samples, rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as reason:
        raise NoRecordings(f"{file}: {reason}") from None
    mono = samples.mean(1)
    if rate_hz != RATE_HZ:
        from scipy.signal import resample_poly

        common = math.gcd(rate_hz, RATE_HZ)
        mono = resample_poly(mono, RATE_HZ // common, rate_hz // common).astype(np.float32)
    return np.ascontiguousarray(mono, np.float32)


@dataclass(frozen=True)
class Bank:
    """All recordings of one sort end to end, and which stretches of it may be cut for which voice."""

    samples: Tensor
    """int16, one long row."""
    starts: Tensor
    lengths: Tensor
    """int64 (clips,)."""
    weights: Tensor
    """float32 (clips,): how likely a clip is to be drawn; voices, not minutes, share the whole."""

    @property
    def hours(self) -> float:
        return float(self.lengths.sum()) / RATE_HZ / 3600


def decode_once(clips: Sequence[Clip], cache: Path) -> NDArray[np.int16]:
    """Decode every file into one memory-mapped int16 row under ``cache``; a second call only opens it."""
    files = sorted({clip.file for clip in clips})
    listing = "\n".join(f"{file} {file.stat().st_size}" for file in files)
    row, index = cache.with_suffix(".i16"), cache.with_suffix(".txt")
    if not (row.exists() and index.exists() and index.read_text().split("\n\n")[0] == listing):
        cache.parent.mkdir(parents=True, exist_ok=True)
        offsets, total = [], 0
        fresh = [file.with_suffix(f"{file.suffix}.{os.getpid()}") for file in (row, index)]
        with open(fresh[0], "wb") as out:
            for file in files:
                offsets.append(total)
                samples = np.clip(read_mono(file) * 32767, -32768, 32767).astype(np.int16)
                out.write(samples.tobytes())
                total += len(samples)
        fresh[1].write_text(listing + "\n\n" + "\n".join(map(str, [*offsets, total])))
        os.replace(fresh[0], row)
        os.replace(fresh[1], index)
    return np.memmap(row, np.int16, "c")  # copy on write: nothing here writes, PyTorch asks for it


def open_bank(clips: Sequence[Clip], cache: Path, device: torch.device | str = "cpu", gap_s: float = 0.3) -> Bank:
    """Decode (once) and index. Neighbouring clips of one voice are one stretch, with the natural pause between them."""
    if not clips:
        raise NoRecordings(f"{cache.name}: no recordings left after filtering")
    row = decode_once(clips, cache)
    offsets = [int(line) for line in cache.with_suffix(".txt").read_text().split("\n\n")[1].split("\n")]
    files = sorted({clip.file for clip in clips})
    begins, ends = dict(zip(files, offsets, strict=False)), dict(zip(files, offsets[1:], strict=True))
    runs: list[tuple[int, int, str]] = []  # start, stop, voice
    for clip in sorted(clips, key=lambda clip: (str(clip.file), clip.start_s)):
        start = begins[clip.file] + round(clip.start_s * RATE_HZ)
        stop = min(start + round(clip.seconds * RATE_HZ), ends[clip.file])
        if stop - start < 0.2 * RATE_HZ:
            continue
        if gap_s > 0 and runs and runs[-1][2] == clip.voice and 0 <= start - runs[-1][1] <= gap_s * RATE_HZ:
            start = runs.pop()[0]
        runs.append((start, stop, clip.voice))
    if not runs:
        raise NoRecordings(f"{cache.name}: no recording in it is longer than 0.2 s")
    seconds: dict[str, float] = {}
    for start, stop, voice in runs:
        seconds[voice] = seconds.get(voice, 0.0) + (stop - start) / RATE_HZ
    weights = [
        (stop - start) / RATE_HZ * draw_seconds(voice, seconds[voice]) / seconds[voice] for start, stop, voice in runs
    ]
    samples = torch.from_numpy(row.copy() if str(device) != "cpu" else np.asarray(row))
    starts = torch.tensor([run[0] for run in runs], device=device)
    stops = torch.tensor([run[1] for run in runs], device=device)
    share = torch.tensor(weights, dtype=torch.float32, device=device)
    return Bank(samples.to(device), starts, stops - starts, share / share.sum())


def draw_seconds(voice: str, seconds: float) -> float:
    """For how many seconds a voice, or a kind of noise, counts when clips are drawn."""
    capped = min(seconds, SPEAKER_CAP_S)
    return capped * SYNTHETIC_SHARE if voice.startswith(SYNTHETIC_VOICES) else capped


@dataclass(frozen=True)
class Rooms:
    """Room responses, float32 (rooms, 8000): ``full`` as measured, ``early`` its first 50 ms; direct sound at 0."""

    full: Tensor
    early: Tensor


def open_rooms(folder: Path | None, device: torch.device | str = "cpu") -> Rooms | None:
    """Read every response in a folder; None without a folder."""
    if folder is None:
        return None
    full = []
    fade = np.clip(1 - (np.arange(MOST_ROOM_SAMPLES) - EARLY_SAMPLES) / (0.005 * RATE_HZ), 0, 1) ** 2
    for clip in found_clips(folder, least_s=0):
        response = read_mono(clip.file)
        direct = max(int(np.argmax(np.abs(response))) - RATE_HZ // 1000, 0)  # 1 ms before the strongest arrival
        response = response[direct : direct + MOST_ROOM_SAMPLES]
        response = np.pad(response, (0, MOST_ROOM_SAMPLES - len(response)))
        full.append(response / max(float(np.sqrt(np.sum((response * fade) ** 2))), 1e-9))
    whole = np.array(full, np.float32)
    return Rooms(torch.from_numpy(whole).to(device), torch.from_numpy((whole * fade).astype(np.float32)).to(device))


# ------------------------------------------------------------------------------------------------- mixing


class Mixer:
    """Draws batches; ``batch(step, ...)`` is a pure function of the constructor's arguments and ``step``."""

    def __init__(self, speech: Bank, noise: Bank, rooms: Rooms | None, seed: int, recipe: Recipe = Recipe()) -> None:
        self.speech, self.noise, self.rooms, self.seed, self.recipe = speech, noise, rooms, seed, recipe
        self.device = speech.samples.device
        self._dice = torch.Generator(self.device)

    def batch(self, step: int, items: int, samples: int) -> Batch:
        """``items`` mixtures of ``samples``, a multiple of 80."""
        assert samples % HOP_SAMPLES == 0
        self._dice.manual_seed(self.seed * 1_000_003 + step)
        recipe, length = self.recipe, samples + MOST_ROOM_SAMPLES
        length = fast_length(length)

        speech = torch.fft.rfft(self._talk(items, samples), length)
        limit = self._band_limit(items, length)
        speech = speech * (self._eq(items, length) * limit)
        heard, clean = self._in_room(speech, length)
        noise = torch.fft.rfft(self._noise(items, samples), length) * (self._eq(items, length) * limit)
        heard, clean, added = (torch.fft.irfft(part, length)[:, :samples] for part in (heard, clean, noise))

        snr_db = self._between(items, *recipe.snr_db)
        kind = torch.zeros(items, dtype=torch.int64, device=self.device)
        roll = self._rand(items)
        kind[roll < recipe.p_clean_only + recipe.p_noise_only] = 2
        kind[roll < recipe.p_clean_only] = 1
        scale = (active_power(heard) / (power(added) + 1e-12)).sqrt() * 10 ** (-snr_db / 20)
        added = added * torch.where(kind == 1, 0.0, scale.clamp(max=1e6)).unsqueeze(1)
        spoken = (kind != 2).float().unsqueeze(1)
        noisy, clean = heard * spoken + added, clean * spoken
        noisy = noisy + self._microphone(noisy)

        level = 10 ** (self._between(items, *recipe.level_dbfs) / 20)
        gain = level / (power(noisy).sqrt() + 1e-9)
        gain = torch.minimum(gain, 0.99 / (noisy.abs().amax(1) + 1e-9)).unsqueeze(1)
        noisy, clean = noisy * gain, clean * gain
        late = self._late_start(items, samples)
        return Batch(self._clip(noisy) * late, clean * late, snr_db, kind)

    def cut(self, bank: Bank, items: int, samples: int) -> Tensor:
        """float32 (items, samples) from random places of randomly drawn clips; shorter clips go round."""
        clip = torch.multinomial(bank.weights, items, replacement=True, generator=self._dice)
        room = (bank.lengths[clip] - samples).clamp(min=0) + 1
        offset = (self._rand(items) * room).long()
        step = torch.arange(samples, device=self.device)
        place = (offset.unsqueeze(1) + step) % bank.lengths[clip].unsqueeze(1) + bank.starts[clip].unsqueeze(1)
        return bank.samples[place].float() / 32768

    def _rand(self, *size: int) -> Tensor:
        return torch.rand(*size, generator=self._dice, device=self.device)

    def _between(self, items: int, low: float, high: float) -> Tensor:
        return low + (high - low) * self._rand(items)

    def _happens(self, items: int, p: float) -> Tensor:
        return (self._rand(items) < p).float().unsqueeze(1)

    def _talk(self, items: int, samples: int) -> Tensor:
        """One voice per item."""
        return self._at_speed(self.speech, items, samples, self.recipe.p_speed, self.recipe.speed)

    def _recorded_noise(self, items: int, samples: int) -> Tensor:
        return unit(self._at_speed(self.noise, items, samples, self.recipe.p_noise_speed, self.recipe.noise_speed))

    def _at_speed(self, bank: Bank, items: int, samples: int, p: float, speed: tuple[float, float]) -> Tensor:
        """A cut for each item, some played slower or faster and so lower or higher, by cubic interpolation."""
        wave = self.cut(bank, items, math.ceil(samples * speed[1]) + 4)
        ratio = self._between(items, *speed)
        rows = (self._rand(items) < p).nonzero().squeeze(1)
        if len(rows):
            place = torch.arange(samples, device=wave.device) * ratio[rows].unsqueeze(1)
            whole = place.floor()
            x, index = place - whole, whole.long()
            a, b, c, d = (wave[rows].gather(1, index + shift) for shift in range(4))
            wave[rows, :samples] = b + 0.5 * x * (c - a + x * (2 * a - 5 * b + 4 * c - d + x * (3 * (b - c) + d - a)))
        return wave[:, :samples]

    def _eq(self, items: int, length: int) -> Tensor:
        """Zero-phase gains (items, bins): a smooth curve through eight random points, drawn anew for each sound."""
        points_db = (self._rand(items, len(EQ_POINTS_HZ)) * 2 - 1) * self.recipe.eq_db
        return 10 ** (points_db @ hats(length, self.device) / 20)

    def _band_limit(self, items: int, length: int) -> Tensor:
        """(items, bins): ones, or a low-pass at 2.5-7 kHz as telephones, codecs and headsets have."""
        corner_hz = self._between(items, 2500, 7000).unsqueeze(1)
        bins_hz = torch.linspace(0, RATE_HZ / 2, length // 2 + 1, device=self.device)
        curve = ((corner_hz * 1.1 - bins_hz) / (corner_hz * 0.1)).clamp(1e-3, 1)
        return torch.where(self._happens(items, self.recipe.p_band_limit) > 0, curve, 1.0)

    def _in_room(self, speech: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Spectra of the speech as the microphone hears it, and of the target: direct sound and early reflections."""
        rows = (self._rand(speech.shape[0]) < self.recipe.p_room).nonzero().squeeze(1)
        if self.rooms is None or len(rows) == 0:
            return speech, speech
        room = (self._rand(len(rows)) * len(self.rooms.full)).long()
        heard, clean = speech.clone(), speech.clone()
        heard[rows] *= torch.fft.rfft(self.rooms.full[room], length)
        clean[rows] *= torch.fft.rfft(self.rooms.early[room], length)
        return heard, clean

    def _noise(self, items: int, samples: int) -> Tensor:
        """One recording, babble or drawn noise per item, and sometimes a second recording."""
        recipe = self.recipe
        noise = self._recorded_noise(items, samples)
        roll = self._rand(items)
        talk = (roll < recipe.p_babble).nonzero().squeeze(1)
        if len(talk):
            noise[talk] = unit(self._babble(len(talk), samples))
        above = 1 - recipe.p_drawn_noise
        drawn = (roll > above).nonzero().squeeze(1)
        if len(drawn):
            bursts = torch.where(self._happens(len(drawn), 0.5) > 0, self._events(len(drawn), samples), 1.0)
            noise[drawn] = unit(self._tilted(len(drawn), samples) * bursts)
        below = above - recipe.p_tones
        toned = ((roll <= above) & (roll > below)).nonzero().squeeze(1)
        if len(toned):
            noise[toned] = unit(self._tones(len(toned), samples))
        blown = ((roll <= below) & (roll > below - recipe.p_ventilation)).nonzero().squeeze(1)
        if len(blown):
            noise[blown] = unit(self._ventilation(len(blown), samples))
        passing = (self._rand(items) < recipe.p_pass_by).nonzero().squeeze(1)
        if len(passing):
            noise[passing] = unit(noise[passing] * self._pass_by(len(passing), samples))
        second = (self._rand(items) < recipe.p_second_noise).nonzero().squeeze(1)
        if len(second):
            gain = 10 ** (self._between(len(second), -10, 3) / 20).unsqueeze(1)
            noise[second] += gain * self._recorded_noise(len(second), samples)
        return noise

    def _babble(self, items: int, samples: int) -> Tensor:
        """Three to twenty other voices at once, each at its own level, half of them in one more room."""
        fewest, most = self.recipe.babble_voices
        voices = unit(self.cut(self.speech, items * most, samples)).reshape(items, most, samples)
        count = (fewest * (most / fewest) ** self._rand(items)).round().unsqueeze(1)
        loud = 10 ** (self._rand(items, most) * -0.5) * (torch.arange(most, device=self.device) < count)
        crowd = (voices * loud.unsqueeze(2)).sum(1)
        if self.rooms is None:
            return crowd
        length = fast_length(samples + MOST_ROOM_SAMPLES)
        room = (self._rand(items) * len(self.rooms.full)).long()
        wet = torch.fft.rfft(crowd, length) * torch.fft.rfft(self.rooms.full[room], length)
        return torch.where(self._happens(items, 0.5) > 0, torch.fft.irfft(wet, length)[:, :samples], crowd)

    def _ventilation(self, items: int, samples: int) -> Tensor:
        """Noise of random tilt whose level flutters by up to 3 dB at 0.3 to 8 Hz, and one to six harmonics of a fan's
        blade rate (20 to 400 Hz), 0 to 20 dB below it and below each other by 1 / n."""
        time_s = torch.arange(samples, device=self.device) / RATE_HZ
        flutter_hz, flutter_db = 0.3 * 27 ** self._rand(items, 1), 3 * self._rand(items, 1)
        flutter = 10 ** (flutter_db / 20 * torch.sin(2 * math.pi * (flutter_hz * time_s + self._rand(items, 1))))
        blade_hz = 20 * 20 ** self._rand(items, 1)
        tones = torch.zeros(items, samples, device=self.device)
        for harmonic in range(1, 7):
            size = (self._rand(items, 1) < 1 / harmonic) / harmonic
            tones += size * torch.sin(2 * math.pi * (harmonic * blade_hz * time_s + self._rand(items, 1)))
        return unit(self._tilted(items, samples)) * flutter + unit(tones) * 10 ** -self._rand(items, 1)

    def _pass_by(self, items: int, samples: int) -> Tensor:
        """(items, samples), at most 1: the level of a source on a straight line past the microphone, 1 / distance;
        it is nearest somewhere in the item and within 3 dB of that for 0.3 to 2 s."""
        time_s = torch.arange(samples, device=self.device) / RATE_HZ
        nearest_s = self._rand(items, 1) * samples / RATE_HZ
        half_s = 0.15 * (1 / 0.15) ** self._rand(items, 1)
        return 1 / torch.sqrt(1 + ((time_s - nearest_s) / half_s).square())

    def _tilted(self, items: int, samples: int) -> Tensor:
        """Random numbers whose power falls with frequency to the power 0 (white) to 2 (brown)."""
        white = torch.randn(items, samples, generator=self._dice, device=self.device)
        bins = torch.arange(1, samples // 2 + 2, device=self.device, dtype=torch.float32)
        tilt = bins.clamp(min=samples / 400) ** -self._rand(items, 1)
        return torch.fft.irfft(torch.fft.rfft(white) * tilt, samples)

    def _tones(self, items: int, samples: int) -> Tensor:
        """Up to 24 partials over a pitch of 30 to 3000 Hz that stands, wanders or swings, steady or in strokes."""
        device, count = self.device, torch.arange(1, 25, device=self.device)
        time_s = torch.arange(samples, device=device) / RATE_HZ
        knots = self._rand(items, 1, 2 + samples // (RATE_HZ // 4)) * 2 - 1
        wander = torch.nn.functional.interpolate(knots, samples, mode="linear", align_corners=True).squeeze(1)
        swing_hz = 10 ** self._between(items, -0.5, 1).unsqueeze(1)
        swing = torch.sin(2 * math.pi * (swing_hz * time_s + self._rand(items, 1)))
        octaves = wander * self._happens(items, 0.5) + swing * self._happens(items, 0.4)
        octaves = octaves * 10 ** self._between(items, -2, 0.2).unsqueeze(1)
        pitch_hz = (30 * 10 ** self._between(items, 0, 2)).unsqueeze(1) * 2**octaves
        turns = (pitch_hz.double() / RATE_HZ).cumsum(1)

        stretch = 1 + self._happens(items, 0.3) * (self._rand(items, 1) * 0.3 - 0.1)  # bells, not strings
        partials = count**stretch
        size = count ** -self._between(items, 0, 2).unsqueeze(1) * 10 ** -self._rand(items, 24)
        size = size * (self._rand(items, 24) < self._between(items, 0.3, 1.2).unsqueeze(1))
        size[:, 0] += 1e-3
        tone = torch.zeros(items, samples, device=device)
        for partial, own in zip(partials.T, size.T, strict=True):
            angle = (turns * partial.unsqueeze(1) + self._rand(items, 1)).remainder(1).float()
            below = (pitch_hz * partial.unsqueeze(1) < RATE_HZ / 2).float()
            tone += own.unsqueeze(1) * torch.sin(2 * math.pi * angle) * below
        breath = unit(self._tilted(items, samples)) * 10 ** self._between(items, -2, -0.2).unsqueeze(1)
        strokes = torch.where(self._happens(items, 0.6) > 0, self._events(items, samples), 1.0)
        return (unit(tone) + breath) * strokes

    def _events(self, items: int, samples: int) -> Tensor:
        """(items, samples), not negative: strokes at random times, 0.3 to 10 a second, that die away in 5 ms to 1 s."""
        rate_hz = 0.3 * 33 ** self._rand(items, 1)
        strokes = (self._rand(items, samples) < rate_hz / RATE_HZ) * self._rand(items, samples)
        strokes[:, 0] += self._rand(items)
        age_s = torch.arange(samples, device=self.device) / RATE_HZ
        rise_s, fall_s = 0.001 * 30 ** self._rand(items, 1), 0.005 * 200 ** self._rand(items, 1)
        shape = (1 - torch.exp(-age_s / rise_s)) * torch.exp(-age_s / fall_s)
        length = fast_length(2 * samples)
        wave = torch.fft.irfft(torch.fft.rfft(strokes, length) * torch.fft.rfft(shape, length), length)
        return wave[:, :samples].clamp(min=0)

    def _microphone(self, noisy: Tensor) -> Tensor:
        """Self-noise 30 to 60 dB and mains hum 10 to 40 dB below what is heard, where they happen."""
        items, samples = noisy.shape
        loud = power(noisy).sqrt().unsqueeze(1) + 1e-5
        white = torch.randn(items, samples, generator=self._dice, device=self.device)
        hiss = white * 10 ** (self._between(items, -60, -30) / 20).unsqueeze(1)
        extra = hiss * self._happens(items, self.recipe.p_self_noise)
        hums = (self._rand(items) < self.recipe.p_hum).nonzero().squeeze(1)
        if len(hums):
            mains_hz = torch.where(self._rand(len(hums)) < 0.5, 50.0, 60.0) * self._between(len(hums), 0.998, 1.002)
            time_s = torch.arange(samples, device=self.device) / RATE_HZ
            hum = torch.zeros(len(hums), samples, device=self.device)
            for harmonic in range(1, 11):
                size = self._rand(len(hums), 1) / harmonic**0.5
                turn = self._rand(len(hums), 1)
                hum += size * torch.sin(2 * math.pi * (mains_hz.unsqueeze(1) * harmonic * time_s + turn))
            extra[hums] += unit(hum) * 10 ** (self._between(len(hums), -40, -10) / 20).unsqueeze(1)
        return extra * loud

    def _late_start(self, items: int, samples: int) -> Tensor:
        """(items, samples): zeros, then ones; ones alone for most."""
        begin = self._rand(items, 1) * samples / 2 * self._happens(items, self.recipe.p_late_start)
        return (torch.arange(samples, device=self.device) >= begin.floor()).float()

    def _clip(self, noisy: Tensor) -> Tensor:
        """Some items clipped 3 to 12 dB below their peak, as an overdriven input does."""
        peak = noisy.abs().amax(1, keepdim=True)
        roof = peak * 10 ** (self._between(noisy.shape[0], -12, -3) / 20).unsqueeze(1)
        roof = torch.where(self._happens(noisy.shape[0], self.recipe.p_clip) > 0, roof, peak)
        return torch.maximum(torch.minimum(noisy, roof), -roof)


def power(wave: Tensor) -> Tensor:
    """(items, samples) -> mean power (items,)."""
    return wave.square().mean(1)


def active_power(wave: Tensor) -> Tensor:
    """(items, samples) -> mean power (items,) of the 20 ms stretches within 30 dB of the loudest one."""
    whole = wave.shape[1] // 320 * 320
    stretches = wave[:, :whole].reshape(wave.shape[0], -1, 320).square().mean(2)
    active = (stretches >= stretches.amax(1, keepdim=True) * 1e-3).float()
    return (stretches * active).sum(1) / active.sum(1)


def unit(wave: Tensor) -> Tensor:
    """Scaled to power one; silence stays silence."""
    return wave / (power(wave).sqrt().unsqueeze(1) + 1e-6)


_hats: dict[tuple[int, str], Tensor] = {}


def hats(length: int, device: torch.device) -> Tensor:
    """(8, bins): triangles over log-frequency around the equaliser's points; every bin's weights add up to one."""
    key = (length, str(device))
    if key not in _hats:
        bins_hz = np.maximum(np.arange(length // 2 + 1) * RATE_HZ / length, 1.0)
        points = np.log(EQ_POINTS_HZ)
        rows = [np.interp(np.log(bins_hz), points, row) for row in np.eye(len(points))]
        _hats[key] = torch.tensor(np.array(rows), dtype=torch.float32, device=device)
    return _hats[key]


def fast_length(least: int) -> int:
    """The next length of the form 2^a 3^b 5^c that is even: what Fourier transforms are quick at."""
    from scipy.fft import next_fast_len

    length = next_fast_len(least, real=True)
    while length % 2:
        length = next_fast_len(length + 1, real=True)
    return int(length)


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
    if not voices or not noises:
        raise NoRecordings("no speech: give --data or --speech" if not voices else "no noise: give --data or --noise")
    return Mixer(
        open_bank(voices, cache / "speech", device),
        open_bank(noises, cache / "noise", device, gap_s=0),
        open_rooms(rooms, device),
        seed,
        recipe,
    )


# ----------------------------------------------------------------------------------------------- travelling

PACK_BYTES_A_SECOND = 3_800
"""Opus at about 30 kbit/s."""
PACK_FILE_S = 600.0


def pack(data: Path, out: Path, most_mb: float = 58.0) -> None:
    """A copy of a --data folder that fits a small parcel: every voice and kind, long ones cut, at 30 kbit/s."""
    if atomic.same(data, out):
        raise NoRecordings(f"{out}: --pack would overwrite --data; name another folder")
    speech, noise = listed_clips(data / "speech.tsv", data), listed_clips(data / "noise.tsv", data)
    room_files = [clip.file for clip in found_clips(data / "rir", least_s=0)] if (data / "rir").is_dir() else []
    out.mkdir(parents=True, exist_ok=True)
    (out / "rir").mkdir(exist_ok=True)
    for file in room_files:
        shutil.copy(file, out / "rir" / file.name)
    rooms_bytes = sum(file.stat().st_size for file in room_files)
    seconds = (0.95 * most_mb * 1e6 - rooms_bytes) / PACK_BYTES_A_SECOND
    if seconds < 20:
        raise NoRecordings(f"{most_mb} MB leave no room for recordings beside {rooms_bytes / 1e6:.1f} MB of rooms")
    for name, clips, share in (("speech", speech, 0.6), ("noise", noise, 0.4)):
        kept = fairly(clips, seconds * share)
        write_pack(kept, out, name)
        print(f"{name}: {sum(clip.seconds for clip in kept) / 60:.0f} of {sum(c.seconds for c in clips) / 60:.0f} min")


def fairly(clips: Sequence[Clip], most_s: float) -> list[Clip]:
    """Clips taken from every voice in turn until the seconds are used up, in the order of their files."""
    voices: dict[str, list[Clip]] = {}
    for clip in clips:
        voices.setdefault(clip.voice, []).append(clip)
    kept: list[Clip] = []
    for turn in range(max(map(len, voices.values()))):
        for own in voices.values():
            if turn < len(own) and own[turn].seconds <= most_s:
                kept.append(own[turn])
                most_s -= own[turn].seconds + 0.25
    return sorted(kept, key=lambda clip: (clip.voice, str(clip.file), clip.start_s))


def write_pack(clips: Sequence[Clip], out: Path, name: str) -> None:
    """Opus files of about ten minutes and their table, in the form ``open_mixer`` reads."""
    (out / name).mkdir(exist_ok=True)
    waves: dict[Path, NDArray[np.float32]] = {}
    rows = ["file\tstart_s\tseconds\tsource\t" + ("speaker" if name == "speech" else "kind")]
    part, pieces, length_s = 0, list[NDArray[np.float32]](), 0.0

    def finish() -> None:
        if pieces:
            with soundfile.SoundFile(
                out / name / f"{part:02d}.opus", "w", RATE_HZ, 1, "OPUS", format="OGG", compression_level=0.904
            ) as file:
                for piece in pieces:  # libsndfile's Opus writer wants small bites
                    file.write(piece)

    for clip in clips:
        if clip.file not in waves:
            waves = {clip.file: read_mono(clip.file)} if len(waves) > 40 else waves | {clip.file: read_mono(clip.file)}
        begin = round(clip.start_s * RATE_HZ)
        piece = waves[clip.file][begin : begin + round(clip.seconds * RATE_HZ)]
        source, _, kind = clip.voice.rpartition("/") if name == "noise" else ("", "", clip.voice)
        rows.append(f"{name}/{part:02d}.opus\t{length_s:.3f}\t{len(piece) / RATE_HZ:.3f}\t{source}\t{kind}")
        pieces += [piece, np.zeros(RATE_HZ // 4, np.float32)]
        length_s += len(piece) / RATE_HZ + 0.25
        if length_s > PACK_FILE_S:
            finish()
            part, pieces, length_s = part + 1, [], 0.0
    finish()
    (out / f"{name}.tsv").write_text("\n".join(rows) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(
        "python -m models.mix", description="Packs recordings for training on another machine."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with speech.tsv, noise.tsv and rir/")
    parser.add_argument("--pack", type=Path, required=True, metavar="DIR", help="output folder of the smaller copy")
    parser.add_argument("--megabytes", type=float, default=58.0, help="its maximum size")
    wanted = parser.parse_args(arguments)
    try:
        pack(wanted.data, wanted.pack, wanted.megabytes)
    except (NoRecordings, OSError) as reason:
        print(f"mix: {reason}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    run_main(main, "mix")

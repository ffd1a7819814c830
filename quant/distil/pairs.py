"""Recordings and the teacher's outputs: gathered, stored, cut into batches, and a part held out."""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge import RATE_HZ
from edge.dsp.spectrum import Floats
from edge.files import atomic
from models.command import BadRequest
from models.mix.mixer import Batch, Mixer, open_mixer
from models.mix.recordings import read_mono
from quant.calibrate import find, progress
from quant.distil.teacher import SILENT, Hear, outputs_of, power

LEAST_S = 1.0

HELD_SHARE, HELD_MOST_S = 0.2, 20.0

MIXTURE_S, MIXTURES_AT_ONCE = 10, 4

TABLES = ("speech.tsv", "noise.tsv")


def held(length: int) -> int:
    """How many samples at the end of a recording of ``length`` are kept apart."""
    return min(int(HELD_SHARE * length), round(HELD_MOST_S * RATE_HZ))


def to_int16(waves: Sequence[Floats]) -> NDArray[np.int16]:
    """End to end in one row."""
    return np.concatenate([np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16) for wave in waves])


@dataclass(frozen=True)
class DistillationPairs:
    """Recordings and what the teacher made of them, end to end; ``batch`` cuts segments as models.mix.Mixer does."""

    noisy: Tensor
    target: Tensor
    clean: Tensor | None
    """int16 (samples,) each; ``clean`` only where it is known."""
    lengths: tuple[int, ...]
    """Samples of every recording."""
    trust: float = 1.0
    """How often the teacher's output is the target where there is a clean file."""
    seed: int = 1

    def batch(self, step: int, items: int, samples: int) -> Batch:
        """``items`` segments from anywhere but the ends kept apart; a pure function of ``seed`` and ``step``.

        A long recording is drawn more often, a short one goes round. ``clean`` of the batch is the target.
        """
        device = self.noisy.device
        rng = torch.Generator(device)
        rng.manual_seed(self.seed * 1_000_003 + step)
        ends = torch.tensor(self.lengths, device=device)
        starts = ends.cumsum(0) - ends
        usable = torch.tensor([length - held(length) for length in self.lengths], device=device)
        part = torch.multinomial(usable.double(), items, replacement=True, generator=rng)
        room = (usable[part] - samples).clamp(min=0) + 1
        offset = (torch.rand(items, generator=rng, device=device) * room).long().unsqueeze(1)
        place = offset + torch.arange(samples, device=device)
        place = place % usable[part].unsqueeze(1) + starts[part].unsqueeze(1)
        noisy, target = (row[place].float() / 32768 for row in (self.noisy, self.target))
        if self.clean is not None:
            own = torch.rand(items, 1, generator=rng, device=device) < self.trust
            target = torch.where(own, target, self.clean[place].float() / 32768)
        unknown = torch.full((items,), float("nan"), device=device)
        return Batch(noisy, target, unknown, torch.zeros(items, dtype=torch.long, device=device))

    def held_out(self) -> list[tuple[Floats, Floats]]:
        """(noisy, teacher's output) of the ends kept apart in which the teacher left anything."""
        pairs = []
        for end, length in zip(np.cumsum(self.lengths), self.lengths, strict=True):
            noisy, target = (
                (row[int(end) - held(length) : int(end)].float() / 32768).cpu().numpy()
                for row in (self.noisy, self.target)
            )
            if power(target) > SILENT:
                pairs.append((noisy, target))
        return pairs


def made(
    teacher: Hear,
    noisy: Sequence[Floats],
    clean: Sequence[Floats] | None = None,
    tick: Callable[[], object] = lambda: None,
) -> DistillationPairs:
    """DistillationPairs of these recordings; ``tick`` once for each."""
    rows = [noisy, outputs_of(teacher, noisy, tick), *([clean] if clean else [])]
    stored = [torch.from_numpy(to_int16(waves)) for waves in rows]
    return DistillationPairs(stored[0], stored[1], stored[2] if clean else None, tuple(map(len, noisy)))


def save(pairs: DistillationPairs, about: str, file: Path) -> None:
    """All of it or nothing; ``about`` describes what it was made of."""
    clean = torch.zeros(0, dtype=torch.int16) if pairs.clean is None else pairs.clean
    lengths, made_of = np.array(pairs.lengths), np.array(about)
    with atomic.part_beside(file) as (descriptor, _), os.fdopen(descriptor, "wb", closefd=False) as content:
        noisy, target = pairs.noisy.numpy(), pairs.target.numpy()
        np.savez(content, about=made_of, noisy=noisy, target=target, clean=clean.numpy(), lengths=lengths)


def load(file: Path, about: str) -> DistillationPairs | None:
    """What ``save`` wrote of the same ``about``; None for anything else."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["about"]) != about:
                return None
            noisy, target, clean = (torch.from_numpy(stored[row]) for row in ("noisy", "target", "clean"))
            return DistillationPairs(noisy, target, clean if len(clean) else None, tuple(map(int, stored["lengths"])))
    except Exception:  # no file, or a broken archive of any kind: it is made again
        return None


def read(file: Path) -> Floats:
    """The whole recording, float32 mono at 16 kHz; raises NoRecordings or BadRequest."""
    samples = read_mono(file)
    if len(samples) < LEAST_S * RATE_HZ or not np.isfinite(samples).all():
        raise BadRequest(f"{file}: shorter than a second, or it holds NaN or infinite samples")
    return np.clip(samples, -1, 1)


def drawn(mixer: Mixer, minutes: float, tick: Callable[[], object]) -> tuple[list[Floats], list[Floats]]:
    """Mixtures of MIXTURE_S: noisy and clean; the first steps of the mixer, one ``tick`` each."""
    noisy, clean = list[Floats](), list[Floats]()
    for step in range(batches_of(minutes)):
        batch = mixer.batch(step, MIXTURES_AT_ONCE, MIXTURE_S * RATE_HZ)
        noisy += [*batch.noisy.numpy()]
        clean += [*batch.clean.numpy()]
        tick()
    return noisy, clean


def batches_of(minutes: float) -> int:
    return max(round(minutes * 60 / MIXTURE_S / MIXTURES_AT_ONCE), 1)


def gathered(asked: argparse.Namespace, teacher: Hear, weights: list[Path]) -> DistillationPairs:
    """The pairs as the command line wants them: those in RUN if they are the same, else the teacher's new ones."""
    source = [asked.data] if asked.data else find(asked.noisy)
    files = [asked.data / name for name in TABLES] if asked.data else source
    stamps = [[str(file.absolute()), file.stat().st_size, file.stat().st_mtime] for file in [*files, *weights]]
    about = json.dumps([asked.teacher, asked.mixture_minutes if asked.data else 0, asked.seed, stamps])
    store = asked.out / "pairs.npz"
    found = load(store, about)
    if found:
        return found
    recordings = [] if asked.data else [read(file) for file in source]
    mixer = open_mixer(asked.data, asked.out / "cache", asked.seed) if asked.data else None
    asked.out.mkdir(parents=True, exist_ok=True)
    with progress() as bar:
        clean = None
        if mixer:
            task = bar.add_task("mixing", total=batches_of(asked.mixture_minutes))
            recordings, clean = drawn(mixer, asked.mixture_minutes, lambda: bar.advance(task))
        task = bar.add_task(f"{asked.teacher} processes {len(recordings)} recordings", total=len(recordings))
        pairs = made(teacher, recordings, clean, lambda: bar.advance(task))
    save(pairs, about, store)
    return pairs

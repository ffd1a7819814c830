"""All recordings of one sort decoded once, end to end, with the chance of each stretch to be drawn."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge import RATE_HZ
from models.mix.recordings import Clip, NoRecordings, read_mono

SPEAKER_CAP_S = 120.0
"""A voice, or a kind of noise, counts for its seconds up to here: few voices must not fill the training."""

SYNTHETIC_VOICES = ("vctksyn_",)
"""How names of synthesised voices begin: they have no breath, no room and one manner of speaking, ..."""

SYNTHETIC_SHARE = 0.25
"""... so each is drawn a quarter as often as a person's."""


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

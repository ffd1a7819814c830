"""Room impulse responses, and their early part."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edge import RATE_HZ
from models.mix.recordings import found_clips, read_mono

MOST_ROOM_SAMPLES = RATE_HZ // 2
"""Room responses are cut here: half a second holds all but 20-30 dB down of the longest rooms."""

EARLY_SAMPLES = RATE_HZ // 20
"""Reflections within 50 ms help understanding and stay in the target."""


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

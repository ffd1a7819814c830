"""Small operations on batches of waves, (items, samples): powers, scaling, equaliser bands, transform lengths."""

import numpy as np
import torch
from torch import Tensor

from edge import RATE_HZ

EQ_POINTS_HZ = (60, 150, 350, 700, 1400, 2800, 5000, 8000)


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

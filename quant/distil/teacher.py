"""The teacher: any engine or network, and what it makes of recordings, in time with them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from edge import HOP_SAMPLES
from edge.dsp.spectrum import BINS, DELAY_SAMPLES, WINDOW_SAMPLES, Floats
from models.command import BadRequest
from models.measures import lag_samples, without_lag
from models.network import Network, Spectrum
from quant.evaluate.engines import FILE, engine_named
from quant.export.network import read_network

LIMIT_DB = 60.0
"""A teacher of ours attenuates as far as it wants."""

BLOCK_HOPS = 4000
"""Long recordings go through a network in stretches of 20 s."""

SILENT = 1e-8
"""Mean power, -80 dBFS: nothing to come nearer to."""

Hear = Callable[[Floats], Floats]
"""float32, 16 kHz mono -> what a teacher makes of it, late by any constant lag."""


def teacher_named(name: str) -> tuple[Hear, list[Path]]:
    """An engine by its name in quant.evaluate, or a weights.pt; and the files it works from. Raises UserError."""
    file = Path(name)
    if not name.startswith(FILE) and (file.suffix == ".pt" or file.is_file()):
        return partial(through, read_network(file)), [file]
    if name == "noisy":
        raise BadRequest("--teacher noisy changes nothing; choose another teacher")
    engine = engine_named(name)
    return lambda samples: engine(samples, LIMIT_DB), engine.weights()


@torch.no_grad()
def through(network: Network, samples: Floats) -> Floats:
    """A whole recording through a network of ours, DELAY_SAMPLES late and that much longer; any length fits."""
    spectrum, state, pieces = Spectrum(), network.fresh_state(), []
    padded = np.zeros(-(-(len(samples) + DELAY_SAMPLES) // HOP_SAMPLES) * HOP_SAMPLES, np.float32)
    padded[: len(samples)] = samples
    wave, last = torch.from_numpy(padded).unsqueeze(0), torch.zeros(1, 1, BINS, dtype=torch.complex64)
    for start in range(0, wave.shape[1], BLOCK_HOPS * HOP_SAMPLES):
        lead = min(start, WINDOW_SAMPLES - HOP_SAMPLES)  # what the first frame of a stretch sees of the one before
        bins = spectrum.analyse(wave[:, start - lead : start + BLOCK_HOPS * HOP_SAMPLES])[:, lead // HOP_SAMPLES :]
        gains, _, state = network(spectrum.features(bins), state)
        weighed = torch.cat([last, spectrum.weigh(bins, gains)], 1)
        pieces.append(spectrum.synthesise(weighed)[0, HOP_SAMPLES:])
        last = weighed[:, -1:]
    return torch.cat(pieces).numpy()


def outputs_of(teacher: Hear, recordings: Sequence[Floats], tick: Callable[[], object] = lambda: None) -> list[Floats]:
    """What the teacher makes of every recording, lined up with it and as long. Raises BadRequest for no teacher."""
    late, lags = list[Floats](), list[int]()
    for recording in recordings:
        late.append(teacher(recording.copy()))
        if not np.isfinite(late[-1]).all():
            raise BadRequest("the teacher's output holds NaN or infinite samples; choose another teacher")
        if power(late[-1]) > SILENT:
            lags.append(lag_samples(recording, late[-1]))
        tick()
    if not lags:
        raise BadRequest(
            "the teacher returns only silence for these recordings; choose another teacher or other recordings"
        )
    lag = int(np.median(lags))
    return [without_lag(output, lag, len(recording)) for output, recording in zip(late, recordings, strict=True)]


def power(samples: Floats) -> float:
    """Mean square; 0 of nothing."""
    return float(np.square(samples, dtype=np.float64).mean()) if len(samples) else 0.0

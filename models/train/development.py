"""Figures of a network on a folder of pairs, streamed hop by hop as on the box."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edge import HOP_SAMPLES
from edge.dsp.spectrum import DELAY_SAMPLES, Transform, band_weights
from models.command import installed
from models.measures import dnsmos, pesq_wb, si_sdr_db, stoi
from models.mix.recordings import read_mono
from models.network import Network, features_of
from models.train.checkpoint import Refused


@torch.no_grad()
def stream(network: Network, waves: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """The waves through the box's own transform and ``network.step``, hop by hop; delay removed, lengths kept."""
    hops = (max(map(len, waves)) + DELAY_SAMPLES + HOP_SAMPLES - 1) // HOP_SAMPLES
    audio = np.zeros((len(waves), hops * HOP_SAMPLES), np.float32)
    for row, wave in enumerate(waves):
        audio[row, : len(wave)] = wave
    output, bands = np.zeros_like(audio), band_weights()
    transforms, state = [Transform() for _ in waves], network.fresh_state(len(waves))
    for start in range(0, hops * HOP_SAMPLES, HOP_SAMPLES):
        spectra = np.stack([t.analyse(audio[row, start : start + HOP_SAMPLES]) for row, t in enumerate(transforms)])
        features = features_of(torch.from_numpy((spectra.real**2 + spectra.imag**2) @ bands.T))
        gains, _, state = network.step(features, state)
        for row, (transform, gain) in enumerate(zip(transforms, gains.numpy() @ bands, strict=True)):
            transform.spectrum *= gain
            transform.synthesise(output[row, start : start + HOP_SAMPLES])
    return [output[row, DELAY_SAMPLES : DELAY_SAMPLES + len(wave)] for row, wave in enumerate(waves)]


def scores(full: bool) -> dict[str, Callable[[NDArray[np.float32], NDArray[np.float32]], float]]:
    """The measures whose packages are installed: name -> function of (clean, output)."""
    found: dict[str, Callable[[NDArray[np.float32], NDArray[np.float32]], float]] = {"si_sdr_db": si_sdr_db}
    if installed("pesq"):
        found["pesq"] = pesq_wb
    if installed("pystoi"):
        found["stoi"] = stoi
    if full and installed("speechmos") and installed("onnxruntime"):
        found["ovrl"] = lambda clean, output: dnsmos(output)[2]
    return found


def read_pairs(folder: Path, every: int = 1) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """(clean, noisy) waves of the files that lie under the same name in ``clean`` and ``noisy``."""
    names = sorted(file.name for file in folder.glob("clean/*") if (folder / "noisy" / file.name).is_file())
    if not names:
        raise Refused(f"{folder}: no pairs; expected files of the same name in its folders clean and noisy")
    return [(read_mono(folder / "clean" / name), read_mono(folder / "noisy" / name)) for name in names[::every]]


def measure(
    heard: Callable[[list[NDArray[np.float32]]], list[NDArray[np.float32]]],
    folder: Path,
    every: int = 1,
    full: bool = True,
) -> dict[str, float]:
    """Means over a folder of pairs of what ``heard`` makes of the noisy waves."""
    pairs = read_pairs(folder, every)
    outputs = heard([noisy for _, noisy in pairs])
    means: dict[str, float] = {"pairs": float(len(pairs))}
    for name, score in scores(full).items():
        means[name] = float(np.nanmean([score(clean, out) for (clean, _), out in zip(pairs, outputs, strict=True)]))
    before = np.mean([si_sdr_db(clean, noisy) for clean, noisy in pairs])
    means["si_sdr_gain_db"] = means.pop("si_sdr_db") - float(before)
    return {name: round(value, 4) for name, value in means.items()}

"""Training, reading and measuring the U-Net of ``engine = "window"``."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge import HOP_SAMPLES, RATE_HZ
from edge.config import WindowConfig
from edge.dsp.spectrum import Floats
from edge.files import BadFile
from edge.suppress.foreign.window import Geometry, WindowCore, open_core
from models.mix.mixer import open_mixer
from models.train.checkpoint import Refused, load_bounded
from models.train.development import measure as measure_pairs
from models.train.loop import train
from models.train.trainer import Plan, Trainer, device_named
from models.window_network import WINDOWS, UNet, Widths, WindowLossBatch


class WindowTrainer(Trainer):
    """``models.train.Trainer`` with a U-Net to teach."""

    def new_loss_batch(self, shape: Widths) -> WindowLossBatch:
        return WindowLossBatch(UNet(shape))

    def averaged_network(self) -> Any:
        network = UNet(self.shape)
        network.load_state_dict({name: value.cpu() for name, value in self.averaged.items()})
        return network.eval()

    def resume(self, folder: Path) -> None:
        content = read_weights(folder / "checkpoint.pt")
        if "optimiser" not in content:
            raise Refused(f"{folder / 'checkpoint.pt'}: holds weights only; nothing to resume")
        self.restore(content)


def holds_unet(file: Path) -> bool:
    """Whether a weights file names the shape of a U-Net; no other questions asked."""
    try:
        return bool(load_bounded(file)["shape"].keys() == {"levels", "middle"})
    except Exception:  # whatever it is, it is no U-Net
        return False


def read_weights(file: Path) -> dict[str, Any]:
    """What ``WindowTrainer.save`` wrote; raises Refused for anything else."""
    if not file.is_file():
        raise Refused(f"{file}: no such file")
    try:
        content = load_bounded(file)
        widths_of(content)
    except BadFile as reason:
        raise Refused(str(reason)) from None
    except Exception as reason:
        raise Refused(f"{file}: no weights of a U-Net ({type(reason).__name__})") from None
    return content


def widths_of(content: dict[str, Any]) -> Widths:
    widths = Widths(tuple(content["shape"]["levels"]), content["shape"]["middle"])
    widths.check()
    return widths


def load_unet(file: Path) -> UNet:
    """The averaged network of a checkpoint.pt or weights.pt, ready to run; raises Refused."""
    content = read_weights(file)
    network = UNet(widths_of(content))
    try:
        network.load_state_dict(content["weights"])
    except (RuntimeError, KeyError, AttributeError, TypeError) as reason:
        raise Refused(f"{file}: its weights do not match its shape ({type(reason).__name__})") from None
    return network.eval()


def heard(core: WindowCore, wave: Floats) -> Floats:
    """A whole recording through the engine's core; its delay taken off, the length kept."""
    core.reset()
    size = core.block_samples
    walked = np.zeros(-(-(len(wave) + core.delay_samples) // size) * size, np.float32)
    walked[: len(wave)] = wave
    for at in range(0, len(walked), size):
        core.process(walked[at : at + size])
    return walked[core.delay_samples :][: len(wave)]


def measure(core: WindowCore, folder: Path, every: int = 1) -> dict[str, float]:
    """Means over every so many of a folder's pairs, by the measures that are installed, and the latency."""
    figures = measure_pairs(lambda waves: [heard(core, wave) for wave in waves], folder, every)
    return figures | {"latency_ms": 1000 * (core.delay_samples + core.block_samples) / RATE_HZ}


def run(wanted: argparse.Namespace) -> None:
    torch.set_num_threads(wanted.threads)
    if wanted.evaluate:
        if wanted.dev is None:
            raise Refused("--evaluate needs --dev, a folder of pairs")
        settings = WindowConfig() if wanted.wait is None else WindowConfig(wait_frames=wanted.wait)
        print(json.dumps(measure(open_core(wanted.evaluate, settings), wanted.dev, wanted.every)))
        return
    if wanted.data is None or wanted.out is None:
        raise Refused("give --data, the recordings, and --out, the folder for checkpoints")
    if (wanted.out / "checkpoint.pt").exists() and not wanted.resume:
        raise Refused(f"{wanted.out} holds a checkpoint already: add --resume, or choose another --out")
    geometry = Geometry()
    samples = geometry.fft_samples + (WINDOWS * geometry.frames - 1) * geometry.hop_samples
    plan = Plan(wanted.minutes, wanted.steps, wanted.items, samples // HOP_SAMPLES, wanted.rate, wanted.seed)
    trainer = WindowTrainer(Widths(), plan, device_named(wanted.device))
    if wanted.resume:
        trainer.resume(wanted.out)
    mixer = open_mixer(wanted.data, wanted.cache or wanted.out / "cache", plan.seed, trainer.device)
    train(trainer, mixer, wanted.out)

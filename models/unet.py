"""A small U-Net for ``engine = "window"``: 200 ms of log-magnitude spectrogram in, a mask of the same shape out.

    python -m models.unet --data DIR --out RUN --items 6 --rate 3e-3 --minutes 35
    python -m models.unet --data DIR --out RUN --resume
    python -m models.unet --evaluate models/unet/unet.onnx --dev DIR/dev --wait 0

Encoder, decoder and skips (Ronneberger et al. 2015), halving frequency four times and time once; the sizes 241, 121,
61, 31, 16 halve and double without a remainder. It keeps no state, so each window stands alone. The recipe is that of
``models.train``: the same mixtures, schedule, averaged weights, checkpoints and spectral terms of the loss, with SI-SDR
(Le Roux et al. 2019) added. In training windows lie end to end; the engine overlaps them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edge import HOP_SAMPLES, RATE_HZ
from edge.config import WindowConfig
from edge.console import run_main
from edge.dsp.spectrum import Floats
from edge.files import BadFile
from edge.suppress.foreign.window import Geometry, WindowCore, analysis_taper, open_core, synthesis_taper
from edge.suppress.shipped import BadModel
from models.mix import Batch, NoRecordings, open_mixer
from models.train import Loss, Plan, Refused, Trainer, load_bounded, train
from models.train import measure as measure_pairs

WINDOWS = 8
"""Windows of a segment, 1.46 s."""
SI_SDR_SHARE = 0.02
"""What a decibel of SI-SDR weighs beside the spectral terms."""
BEST_DB = 30.0
"""SI-SDR beyond this teaches no more: clean items would drown the others."""


@dataclass(frozen=True)
class Widths:
    """Channels after each halving and in the middle."""

    levels: tuple[int, ...] = (12, 16, 24, 32)
    middle: int = 48

    def check(self) -> None:
        """Raises ValueError for sizes that make no network."""
        if len(self.levels) != len(STRIDES) or not all(1 <= width <= 512 for width in (*self.levels, self.middle)):
            raise ValueError(f"expected {len(STRIDES)} levels of 1 to 512 channels, and a middle")


STRIDES = ((2, 1), (2, 2), (2, 1), (2, 1))
"""(frequency, time) of each level."""
LEAST = 4
"""Channels at full resolution, where each costs most."""


class UNet(nn.Module):
    """Log magnitudes (windows, 1, 241, 18) -> mask of the same shape, 0..1; the level of a window plays no part."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        levels = widths.levels
        halvings = [*zip((1, *levels[:-1]), levels, STRIDES, strict=True)]
        self.down = nn.ModuleList(nn.Conv2d(before, after, 3, stride, 1) for before, after, stride in halvings)
        self.middle = nn.ModuleList(
            [nn.Conv2d(levels[-1], widths.middle, 3, 1, 1), nn.Conv2d(widths.middle, levels[-1], 3, 1, 1)]
        )
        self.up = nn.ModuleList(  # of 9 frames the time stride makes 17, and one more
            nn.ConvTranspose2d(2 * after, max(before, LEAST), 3, stride, 1, (0, stride[1] - 1))
            for before, after, stride in reversed(halvings)
        )
        self.last = nn.Conv2d(LEAST + 1, 1, 3, 1, 1)
        for name, value in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(value)
            else:
                nn.init.kaiming_normal_(
                    value, nonlinearity="relu", mode="fan_out" if name.startswith("up") else "fan_in"
                )

    def forward(self, magnitudes: Tensor) -> Tensor:
        x = magnitudes - magnitudes.mean((2, 3), keepdim=True)
        kept = [x]
        for part in self.down:
            x = torch.relu(part(x))
            kept.append(x)
        for part in self.middle:
            x = torch.relu(part(x))
        for part in self.up:
            x = torch.relu(part(torch.cat([x, kept.pop()], 1)))
        return torch.sigmoid(self.last(torch.cat([x, kept.pop()], 1)))

    def settle(self) -> None:
        """A window has nothing before it: there is no state to find."""


class Frames(nn.Module):
    """The engine's short-time transform for batches, with gradients."""

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.register_buffer("analysis", torch.from_numpy(analysis_taper(geometry)))
        self.register_buffer("synthesis", torch.from_numpy(synthesis_taper(geometry)))

    def analyse(self, wave: Tensor) -> Tensor:
        """(items, samples) -> complex64 (items, frames, bins): the first frame begins with the first sample."""
        return torch.fft.rfft(wave.unfold(1, self.geometry.fft_samples, self.geometry.hop_samples) * self.analysis)

    def synthesise(self, spectra: Tensor) -> Tensor:
        """complex64 (items, frames, bins) -> (items, frames x hop): the wave that ``analyse`` saw, but its end.

        The first fft - hop samples lack frames before them.
        """
        hop = self.geometry.hop_samples
        parts = (torch.fft.irfft(spectra, self.geometry.fft_samples) * self.synthesis).unflatten(2, (-1, hop))
        wave = parts[:, :, 0]
        for late in range(1, parts.shape[2]):
            wave = wave + nn.functional.pad(parts[:, :-late, late], (0, 0, late, 0))
        return wave.flatten(1)

    def magnitudes(self, spectra: Tensor) -> Tensor:
        """complex64 -> what the network reads."""
        size = (spectra.real.square() + spectra.imag.square() + 1e-12).sqrt()
        return torch.log10(size + self.geometry.log_floor)


class WindowLesson(nn.Module):
    """Network, transform and loss as one module."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network, self.frames, self.loss = network, Frames(Geometry()), Loss()

    def enhance(self, wave: Tensor) -> Tensor:
        """(items, samples) -> as many whole windows of it as there are, end to end: (items, windows x 18 x 160)."""
        seen = self.frames.geometry.frames
        spectra = self.frames.analyse(wave)
        spectra = spectra[:, : spectra.shape[1] // seen * seen]
        items, frames, bins = spectra.shape
        windows = self.frames.magnitudes(spectra).reshape(items * frames // seen, 1, seen, bins).transpose(2, 3)
        mask = self.network(windows).transpose(2, 3).reshape(items, frames, bins)
        return self.frames.synthesise(spectra * mask)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        output = self.enhance(batch.noisy)
        whole = slice(self.frames.geometry.fft_samples - self.frames.geometry.hop_samples, output.shape[1])
        cut = Batch(batch.noisy[:, whole], batch.clean[:, whole], batch.snr_db, batch.kind)
        unsaid = torch.zeros(len(output), 1, device=output.device)
        terms: dict[str, Tensor] = self.loss(output[:, whole], unsaid, cut, unsaid)
        del terms["speech"]  # a mask says nothing of speech
        return terms | {"si_sdr": SI_SDR_SHARE * below_best_db(output[:, whole], cut.clean)}


def below_best_db(output: Tensor, clean: Tensor) -> Tensor:
    """By how many dB SI-SDR stays below BEST_DB, the mean over items in which somebody speaks; a soft end at the best.

    models.measures.si_sdr_db with gradients.
    """
    output, clean = output - output.mean(1, keepdim=True), clean - clean.mean(1, keepdim=True)
    power = clean.square().sum(1)
    target = clean * ((output * clean).sum(1) / (power + 1e-8)).unsqueeze(1)
    wanted, rest = target.square().sum(1), (output - target).square().sum(1)
    lost_db = 10 * torch.log10((rest + 10 ** (-BEST_DB / 10) * wanted + 1e-8) / (wanted + 1e-8)) + BEST_DB
    spoken = (power > 1e-4).float()
    return (lost_db * spoken).sum() / spoken.sum().clamp(min=1)


class WindowTrainer(Trainer):
    """``models.train.Trainer`` with a U-Net to teach."""

    def __init__(self, widths: Widths, plan: Plan, device: torch.device) -> None:
        torch.manual_seed(plan.seed)
        self.shape, self.plan, self.device = widths, plan, device  # type: ignore[assignment]
        self.lesson = WindowLesson(UNet(widths)).to(device)  # type: ignore[assignment]
        self.network = self.lesson.network
        self.averaged = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=plan.peak_rate, weight_decay=0.01, fused=True)
        self.step, self.seconds, self.audio_hours, self.skipped = 0, 0.0, 0.0, 0
        self.learner: nn.Module = self.lesson
        self.processes = 1

    def averaged_network(self) -> Any:
        network = UNet(self.shape)  # type: ignore[arg-type]
        network.load_state_dict({name: value.cpu() for name, value in self.averaged.items()})
        return network.eval()

    def resume(self, folder: Path) -> None:
        content = read_weights(folder / "checkpoint.pt")
        if "optimiser" not in content:
            raise Refused(f"{folder / 'checkpoint.pt'}: holds weights only; nothing to resume")
        self.network.load_state_dict(content["network"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.averaged = {name: content["weights"][name].to(self.device) for name in self.averaged}
        self.step, self.seconds = content["step"], content["seconds"]
        self.audio_hours = content["audio_hours"]


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


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m models.unet", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with speech.tsv, noise.tsv and rir/")
    parser.add_argument("--out", type=Path, help="output folder for checkpoint.pt, weights.pt and log.jsonl")
    parser.add_argument("--cache", type=Path, help="cache of decoded recordings (about 1 GB; default: OUT/cache)")
    parser.add_argument("--minutes", type=float, default=120.0, help="planned training time over all resumptions")
    parser.add_argument("--steps", type=int, default=0, help="plan steps instead of minutes")
    parser.add_argument("--items", type=int, default=6, help="segments of 1.5 s a step")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--resume", action="store_true", help="continue from OUT/checkpoint.pt, with the plan given here"
    )
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--evaluate", metavar="F.onnx", help="only measure this mask network on --dev, as the box runs it"
    )
    parser.add_argument("--dev", type=Path, help="folder with clean/ and noisy/ of the same names")
    parser.add_argument("--every", type=int, default=1, help="with --evaluate: only every n-th pair")
    parser.add_argument("--wait", type=int, help="with --evaluate: [window] wait_frames (default: all)")
    return parser.parse_args(arguments)


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
    student = WindowTrainer(Widths(), plan, torch.device(wanted.device))
    if wanted.resume:
        student.resume(wanted.out)
    mixer = open_mixer(wanted.data, wanted.cache or wanted.out / "cache", plan.seed, student.device)
    train(student, mixer, wanted.out)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    try:
        run(parse(arguments))
    except (Refused, NoRecordings, BadModel) as reason:
        print(f"unet: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("unet: stopped; continue with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    run_main(main, "unet")

"""From recordings to a checkpoint in one command: ``python -m models.train --data DIR --out DIR --minutes 120``.

Stops and resumes at any moment (``--resume``), on processor cores, on one GPU, and unchanged under ``torchrun`` on
several. models/README.md tells how to adapt the shipped weights to a place of one's own.
"""

import argparse
import importlib.util
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge import HOP_SAMPLES, RATE_HZ
from edge.console import run_main
from edge.dsp.spectrum import DELAY_SAMPLES, Transform, band_weights
from edge.files import BadFile, read_bounded
from edge.files.arrays import check_archive
from edge.suppress.network import Shape
from models.measures import dnsmos, pesq_wb, si_sdr_db, stoi
from models.mix import Batch, NoRecordings, active_power, open_mixer, power
from models.network import Network, Spectrum, deepened, enhance, features_of
from models.perceptual_losses import Disturbance, Envelopes, Opinion, left_db, quick_in_bfloat16, si_sdr_loss_db

COMPRESSION = 0.3
SEGMENT_HOPS = 614
"""3 s; the first runs had 1.5 s. SI-SDR is minded over a segment: in short ones a burst of noise weighs too little."""
SETTLE_EVERY = 400
"""Steps between two looks for the state that silence leads to: every segment begins there."""
MOST_SKIPPED = 10
"""One step without a finite gradient is left out, so many in a row end the run."""
LONG_EVERY = 8
"""Every so many steps a batch of half of the items, twice as long: memories must hold beyond 3 s."""


MOST_BYTES = 256 << 20
"""Of a checkpoint, packed or unpacked; ours have 4 MB with the optimiser's state."""


class Refused(Exception):
    """Something the user can put right; the message is the one line they see."""


@dataclass(frozen=True)
class Plan:
    """What decides the run; stored in every checkpoint."""

    minutes: float = 120.0
    """Planned training time over all resumptions; the learning rate follows it ..."""
    steps: int = 0
    """... unless a number of steps is planned: then that decides, and two runs are the same to the bit."""
    items: int = 16
    """Segments a step and process."""
    segment_hops: int = SEGMENT_HOPS
    peak_rate: float = 2e-3
    seed: int = 1


# --------------------------------------------------------------------------------------------------- loss


class Loss(nn.Module):
    """What is minded, per item at equal level: compressed spectra of the finished wave, the wave, speech or none, and
    what the listeners' models of ``models.perceptual_losses`` mind.

    The spectra are those of the synthesised output (an ordinary 512/256 transform), so inconsistency of the gained
    short-time spectrum costs as well. Comparing complex values teaches gains that follow the phase error.
    """

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(512))
        self.disturbance, self.envelopes = Disturbance(), Envelopes()
        self.opinion = Opinion() if Opinion.found() else None

    def forward(self, output: Tensor, speech: Tensor, batch: Batch, spoken: Tensor) -> dict[str, Tensor]:
        """Output waves aligned with ``batch.clean``, speech logits and labels (items, hops) -> named terms."""
        loud = torch.maximum(active_power(batch.clean).sqrt(), 0.3 * power(batch.noisy).sqrt()) + 1e-5
        out, clean = output / loud.unsqueeze(1), batch.clean / loud.unsqueeze(1)
        out_size, out_bins = self.compressed(out)
        clean_size, clean_bins = self.compressed(clean)
        gap = clean_size - out_size
        spoken_to = (batch.kind != 2).float()
        share = spoken_to / spoken_to.sum().clamp(min=1)
        terms = {
            "size": 0.3 * gap.square().mean(),
            "bins": 0.4 * torch.view_as_real(clean_bins - out_bins).square().mean(),
            "lost": 0.45 * gap.clamp(min=0).square().mean(),
            "wave": 0.3 * (out - clean).abs().mean(),
            "disturbance": 0.07 * (self.disturbance(out, clean) * share).sum(),
            "envelopes": 1.2 * (self.envelopes(out, clean) * share).sum(),
            "ratio": 0.2 * (si_sdr_loss_db(out, clean) * share).sum(),
            "left": 0.2 * (left_db(output, batch.noisy) * (1 - spoken_to)).mean(),
            "speech": 0.05 * nn.functional.binary_cross_entropy_with_logits(speech, spoken),
        }
        if self.opinion and out.shape[1] >= Opinion.LEAST_S * RATE_HZ:
            terms["opinion"] = 1.6 * ((5 - self.opinion(out)) * share).sum()
        return terms

    def compressed(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Magnitudes to the power 0.3, alone and with the phase."""
        bins = torch.stft(wave, 512, 256, window=self.window, return_complex=True)
        size = torch.log(torch.view_as_real(bins).square().sum(3) + 1e-8)
        return torch.exp(COMPRESSION / 2 * size), bins * torch.exp((COMPRESSION - 1) / 2 * size)


def speech_labels(spectrum: Spectrum, batch: Batch) -> Tensor:
    """float32 (items, hops): one where the clean frame lies within 33 dB of the item's loudest and is no silence."""
    bins = spectrum.analyse(batch.clean)
    energy = (bins.real.square() + bins.imag.square()).sum(2)
    loudest = energy.amax(1, keepdim=True)
    return ((energy > loudest * 10**-3.3) & (loudest > 1e-4)).float()


class LossBatch(nn.Module):
    """Network and transform as one module, so that the distributed wrapper has one ``forward`` to follow."""

    def __init__(self, network: Network, spectrum: Spectrum) -> None:
        super().__init__()
        self.network, self.spectrum, self.loss = network, spectrum, Loss()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        output, speech = enhance(self.network, self.spectrum, batch.noisy)
        late = self.spectrum.delay_samples
        keep = batch.clean.shape[1] - late
        aligned = Batch(batch.noisy[:, :keep], batch.clean[:, :keep], batch.snr_db, batch.kind)
        terms: dict[str, Tensor] = self.loss(output[:, late:], speech, aligned, speech_labels(self.spectrum, batch))
        return terms


# ---------------------------------------------------------------------------------------------- the student


class Trainer:
    """Network, optimiser, averaged weights and how far they have come: all that a checkpoint holds."""

    transform: type[Spectrum] = Spectrum

    def __init__(self, shape: Shape, plan: Plan, device: torch.device) -> None:
        torch.manual_seed(plan.seed)
        self.shape, self.plan, self.device = shape, plan, device
        self.lesson = LossBatch(Network(shape), self.transform()).to(device)
        self.network = self.lesson.network
        self.averaged = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=plan.peak_rate, weight_decay=0.01, fused=True)
        self.step, self.seconds, self.audio_hours, self.skipped = 0, 0.0, 0.0, 0
        self.learner: nn.Module = self.lesson
        self.processes = 1
        if torch.distributed.is_initialized():
            self.processes = torch.distributed.get_world_size()
            self.learner = nn.parallel.DistributedDataParallel(self.lesson, broadcast_buffers=False)

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the plan is fulfilled."""
        if self.plan.steps:
            return min(self.step / self.plan.steps, 1.0)
        return min(self.seconds / 60 / self.plan.minutes, 1.0)

    @property
    def rate(self) -> float:
        """Warm-up over the first 2 % of the plan, at least 50 steps, then half a cosine to 1e-6."""
        warm = min(1.0, (self.step + 1) / 50, self.progress / 0.02 + 1e-3 if not self.plan.steps else 1.0)
        fall = 0.5 * (1 + math.cos(math.pi * self.progress))
        return warm * (1e-6 + (self.plan.peak_rate - 1e-6) * fall)

    def learn(self, batch: Batch) -> dict[str, float]:
        """One step; returns the loss terms."""
        if self.step % SETTLE_EVERY == 0:
            self.network.settle()
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate
        terms = self.learner(batch)
        total = torch.stack(list(terms.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        length = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if torch.isfinite(length):  # the same on every process, for gradients are shared before
            self.optimiser.step()
            self.skipped = 0
        else:
            self.skipped += 1
            if self.skipped == MOST_SKIPPED:
                raise Refused(f"no finite gradient {MOST_SKIPPED} times up to step {self.step}: broken recordings?")
        self.step += 1
        share = min(0.999, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.values()), list(self.network.parameters()), 1 - share)
        self.audio_hours += batch.noisy.numel() * self.processes / RATE_HZ / 3600
        return {"loss": total.item(), **{name: value.item() for name, value in terms.items()}}

    def averaged_network(self) -> Network:
        network = Network(self.shape)
        network.load_state_dict({name: value.cpu() for name, value in self.averaged.items()}, strict=False)
        network.settle()
        return network.eval()

    @staticmethod
    def heard_by(network: Network, waves: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """The waves as the box would play them."""
        return stream(network, waves)

    def measure(self, folder: Path, every: int = 1, full: bool = True) -> dict[str, float]:
        """``measure`` of the averaged network."""
        return measure(partial(self.heard_by, self.averaged_network()), folder, every, full)

    def save(self, folder: Path) -> None:
        """checkpoint.pt to resume from and weights.pt to ship; each replaced in one move, never half written."""
        weights: dict[str, Any] = {
            "shape": asdict(self.shape),
            "weights": self.averaged_network().state_dict(),
        }
        weights |= {"step": self.step, "audio_hours": self.audio_hours, "minutes": self.seconds / 60}
        whole = weights | {
            "plan": asdict(self.plan),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "seconds": self.seconds,
        }
        for name, content in (("checkpoint.pt", whole), ("weights.pt", weights)):
            torch.save(content, folder / (name + ".new"))
            os.replace(folder / (name + ".new"), folder / name)

    def resume(self, folder: Path) -> None:
        content = read_weights(folder / "checkpoint.pt", self.shape)
        if "optimiser" not in content:
            raise Refused(f"{folder / 'checkpoint.pt'}: holds weights only; start from them with --init")
        self.network.load_state_dict(content["network"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.averaged = {name: content["weights"][name].to(self.device) for name in self.averaged}
        self.step, self.seconds = content["step"], content["seconds"]
        self.audio_hours = content["audio_hours"]

    def start_from(self, file: Path) -> None:
        """Fine-tuning: the weights of a finished run, everything else fresh. A network of fewer rounds is deepened."""
        content = read_weights(file)
        stored, weights = Shape(**content["shape"]), content["weights"]
        if replace(stored, rounds=self.shape.rounds) == self.shape and stored.rounds < self.shape.rounds:
            weights = deepened(weights, stored, self.network)
        elif stored != self.shape:
            raise Refused(f"{file}: holds a network of another shape, {stored}; requested: {self.shape}")
        self.network.load_state_dict(weights)
        self.averaged = {name: weights[name].to(self.device) for name in self.averaged}


def load_bounded(file: Path) -> dict[str, Any]:
    """What ``torch.save`` wrote, without any code in it; raises BadFile, OSError, or whatever PyTorch does."""
    content = read_bounded(file, MOST_BYTES)
    check_archive(content, MOST_BYTES)
    found: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return found


def read_weights(file: Path, shape: Shape | None = None) -> dict[str, Any]:
    """What ``Trainer.save`` wrote, refused in one line if it is something else or of another shape."""
    if not file.is_file():
        raise Refused(f"{file}: no such file")
    try:
        content = load_bounded(file)
        stored = Shape(**content["shape"])
        stored.check()
    except BadFile as reason:
        raise Refused(str(reason)) from None
    except Exception as reason:
        raise Refused(f"{file}: no weights of this network ({type(reason).__name__})") from None
    if shape is not None and stored != shape:
        raise Refused(f"{file}: holds a network of another shape, {stored}; asked for was {shape}")
    return content


def load_network(file: Path) -> Network:
    """The averaged network of a checkpoint.pt or weights.pt, ready to run."""
    content = read_weights(file)
    network = Network(Shape(**content["shape"]))
    network.load_state_dict(content["weights"])
    return network.eval()


# ------------------------------------------------------------------------------------------------ measuring


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


def judges(full: bool) -> dict[str, Callable[[NDArray[np.float32], NDArray[np.float32]], float]]:
    """The measures whose packages are installed: name -> function of (clean, output)."""
    found: dict[str, Callable[[NDArray[np.float32], NDArray[np.float32]], float]] = {"si_sdr_db": si_sdr_db}
    if importlib.util.find_spec("pesq"):
        found["pesq"] = pesq_wb
    if importlib.util.find_spec("pystoi"):
        found["stoi"] = stoi
    if full and importlib.util.find_spec("speechmos") and importlib.util.find_spec("onnxruntime"):
        found["ovrl"] = lambda clean, output: dnsmos(output)[2]
    return found


def read_pairs(folder: Path, every: int = 1) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """(clean, noisy) waves of the files that lie under the same name in ``clean`` and ``noisy``."""
    from models.mix import read_mono

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
    for name, judge in judges(full).items():
        means[name] = float(np.nanmean([judge(clean, out) for (clean, _), out in zip(pairs, outputs, strict=True)]))
    before = np.mean([si_sdr_db(clean, noisy) for clean, noisy in pairs])
    means["si_sdr_gain_db"] = means.pop("si_sdr_db") - float(before)
    return {name: round(value, 4) for name, value in means.items()}


# ------------------------------------------------------------------------------------------------- the run


class Source(Protocol):
    """What training asks of a mixer."""

    def batch(self, step: int, items: int, samples: int) -> Batch:
        """``items`` mixtures of ``samples``; the same for the same step."""


def batches(mixer: Source, plan: Plan, step: int, rank: int, ranks: int) -> Iterator[Batch]:
    """Batches from ``step`` on, one mixed ahead in a thread of its own."""

    def mix(step: int) -> Batch:
        long = step % LONG_EVERY == LONG_EVERY - 1
        items, hops = (max(plan.items // 2, 1), plan.segment_hops * 2) if long else (plan.items, plan.segment_hops)
        return mixer.batch(step * ranks + rank, items, hops * HOP_SAMPLES)

    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(mix, step)
        while True:
            step += 1
            batch, coming = coming.result(), ahead.submit(mix, step)
            yield batch


def draw_curve(log: Path, picture: Path) -> None:
    """Loss and development figures over audio heard, from the run's log; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    learned, heard = [row for row in rows if "loss" in row], [row for row in rows if "dev" in row]
    names = sorted({name for row in heard for name in row["dev"] if name != "pairs"})
    figure, axes = pyplot.subplots(1, 1 + len(names), figsize=(4 * (1 + len(names)), 3), layout="constrained")
    axes = np.atleast_1d(axes)
    axes[0].plot([row["audio_hours"] for row in learned], [row["loss"] for row in learned])
    axes[0].set(title="training loss", xlabel="hours of audio")
    for axis, name in zip(axes[1:], names, strict=True):
        shown = [row for row in heard if name in row["dev"]]
        axis.plot([row["audio_hours"] for row in shown], [row["dev"][name] for row in shown], "o-")
        axis.set(title=f"development set: {name}", xlabel="hours of audio")
    figure.savefig(picture, dpi=90)
    pyplot.close(figure)


class TrainingLog:
    """The run's log (log.jsonl), curve picture, progress bar and, away from a terminal, a line a minute."""

    def __init__(self, folder: Path, student: Trainer, leads: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.folder, self.student, self.leads = folder, student, leads
        self.console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.1f} %"))
        self.bar = Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[left]} left"), console=self.console)
        self.bar.disable = not (leads and self.console.is_terminal)
        self.task = self.bar.add_task("training", total=1.0, left="?")
        self._began, self._from = time.monotonic(), student.progress
        self._said, self._sums, self._count = 0.0, dict[str, float](), 0

    def left(self) -> str:
        """Time left at the pace so far."""
        gained = self.student.progress - self._from
        if gained <= 0:
            return "?"
        seconds = (time.monotonic() - self._began) / gained * (1 - self.student.progress)
        return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"

    def note(self, terms: dict[str, float]) -> None:
        """Collect a step's terms; every 50 steps a line of means in the log."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        student, now = self.student, time.monotonic()
        mean = self._sums["loss"] / self._count
        text = f"step {student.step}, {student.audio_hours:.1f} h of audio, loss {mean:.4f}"
        self.bar.update(self.task, completed=student.progress, description=text, left=self.left())
        if self.leads and self.bar.disable and now - self._said > 60:
            self._said = now
            print(f"{100 * student.progress:.1f} %  {text}, rate {student.rate:.2e}, {self.left()} left", flush=True)
        if self._count == 50:
            self.write({name: round(value / self._count, 6) for name, value in self._sums.items()})
            self._sums, self._count = {}, 0

    def write(self, row: dict[str, Any]) -> None:
        if not self.leads:
            return
        student = self.student
        head = {"step": student.step, "minutes": round(student.seconds / 60, 2)}
        head |= {"audio_hours": round(student.audio_hours, 3), "rate": student.rate}
        with open(self.folder / "log.jsonl", "a") as log:
            log.write(json.dumps(head | row) + "\n")

    def dev(self, means: dict[str, float]) -> None:
        self.write({"dev": means})
        figures = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        self.bar.console.print(
            f"step {self.student.step}, {self.student.audio_hours:.1f} h: {figures}", highlight=False
        )
        draw_curve(self.folder / "log.jsonl", self.folder / "curve.png")


@contextmanager
def bfloat16_products(device: torch.device) -> Iterator[None]:
    """Products of float32 matrices in bfloat16 where the device has them: twice as fast, sums in float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if quick_in_bfloat16(device) else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def train(
    student: Trainer,
    mixer: Source,
    out: Path,
    dev: Path | None = None,
    dev_minutes: float = 15.0,
    save_minutes: float = 3.0,
    most_steps: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> None:
    """Run the plan to its end, or ``most_steps`` steps of it; save and measure on the way and at the end."""
    out.mkdir(parents=True, exist_ok=True)
    diary, stop_at = TrainingLog(out, student, rank == 0), student.step + most_steps
    last = saved = measured = time.monotonic()
    with diary.bar, bfloat16_products(student.device):
        for batch in batches(mixer, student.plan, student.step, rank, ranks):
            diary.note(student.learn(batch))
            now = time.monotonic()
            student.seconds, last = student.seconds + now - last, now
            if ranks > 1:  # every process must see the same clock, or one stops while the others wait for it
                seconds = torch.tensor([student.seconds], dtype=torch.float64, device=student.device)
                torch.distributed.broadcast(seconds, 0)
                student.seconds = float(seconds)
            finished = student.progress >= 1 or (most_steps > 0 and student.step >= stop_at)
            if rank == 0 and (finished or now - saved > save_minutes * 60):
                student.save(out)
                saved = now
            if finished:
                break
            if rank == 0 and dev is not None and now - measured > dev_minutes * 60:
                diary.dev(student.measure(dev, every=4, full=False))
                last = measured = time.monotonic()
    if rank == 0 and dev is not None and student.progress >= 1:
        diary.dev(student.measure(dev))


def parse(arguments: list[str] | None, name: str = "train", about: str = __doc__) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"python -m models.{name}", description=about.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with speech.tsv, noise.tsv and rir/")
    parser.add_argument("--speech", type=Path, action="append", default=[], help="folder of your own clean recordings")
    parser.add_argument("--noise", type=Path, action="append", default=[], help="folder of your own noise recordings")
    parser.add_argument("--out", type=Path, help="output folder for checkpoint.pt, weights.pt, log.jsonl and curve.png")
    parser.add_argument("--cache", type=Path, help="cache of decoded recordings (about 1 GB; default: OUT/cache)")
    parser.add_argument("--dev", type=Path, help="folder with clean/ and noisy/ of the same names, measured only")
    parser.add_argument("--minutes", type=float, help="planned training time over all resumptions (default 120)")
    parser.add_argument("--steps", type=int, help="plan steps instead of minutes")
    parser.add_argument("--items", type=int, default=16, help="segments of 3 s a step and process")
    parser.add_argument("--rate", type=float, help="highest learning rate (default 2e-3, with --init 3e-4)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shape", default="{}", help='sizes as JSON, e.g. {"channels": 48}')
    parser.add_argument("--resume", action="store_true", help="continue from OUT/checkpoint.pt")
    parser.add_argument("--init", type=Path, help="fine-tune these weights")
    parser.add_argument("--threads", type=int, default=1, help="processor threads a process")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--evaluate", type=Path, metavar="WEIGHTS", help="only measure these weights on --dev")
    parser.add_argument("--every", type=int, default=1, help="with --evaluate: only every n-th pair")
    return parser.parse_args(arguments)


def run(wanted: argparse.Namespace, learner: type[Trainer] = Trainer) -> None:
    torch.set_num_threads(wanted.threads)
    if wanted.evaluate:
        if wanted.dev is None:
            raise Refused("--evaluate needs --dev, a folder of pairs")
        heard = partial(learner.heard_by, load_network(wanted.evaluate))
        print(json.dumps(measure(heard, wanted.dev, wanted.every)))
        return
    if wanted.out is None:
        raise Refused("give --out, the folder for checkpoints")
    if wanted.resume and wanted.init:
        raise Refused("--resume continues a run, --init starts a new one: give only one of them")
    if (wanted.out / "checkpoint.pt").exists() and not wanted.resume:
        raise Refused(f"{wanted.out} holds a checkpoint already: add --resume, or choose another --out")
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device(wanted.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    student = new_student(wanted, device, ranks, learner)
    cache = wanted.cache or wanted.out / "cache"
    mixer = open_mixer(wanted.data, cache, student.plan.seed, device, wanted.speech, wanted.noise)
    train(student, mixer, wanted.out, wanted.dev, rank=rank, ranks=ranks)


def new_student(
    wanted: argparse.Namespace, device: torch.device, ranks: int, learner: type[Trainer] = Trainer
) -> Trainer:
    """A student as the command line, the checkpoint to resume or the weights to start from want it."""
    shape = shape_of(wanted)
    plan = Plan(
        minutes=wanted.minutes or 120.0,
        steps=wanted.steps or 0,
        items=wanted.items,
        peak_rate=wanted.rate or (3e-4 if wanted.init else 2e-3),
        seed=wanted.seed,
    )
    if wanted.resume:
        stored = Plan(**read_weights(wanted.out / "checkpoint.pt", shape)["plan"])
        changes = {"minutes": wanted.minutes, "steps": wanted.steps, "peak_rate": wanted.rate}
        plan = Plan(**asdict(stored) | {name: value for name, value in changes.items() if value})
    if ranks > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    student = learner(shape, plan, device)
    if wanted.resume:
        student.resume(wanted.out)
    if wanted.init:
        student.start_from(wanted.init)
    return student


def shape_of(wanted: argparse.Namespace) -> Shape:
    """The sizes asked for; those of the checkpoint or weights where none were."""
    source = wanted.out / "checkpoint.pt" if wanted.resume else wanted.init
    if source is not None and wanted.shape == "{}":
        return Shape(**read_weights(source)["shape"])
    try:
        shape = Shape(**json.loads(wanted.shape))
        shape.check()
    except (ValueError, TypeError) as reason:
        raise Refused(f"--shape {wanted.shape}: {reason}") from None
    return shape


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    try:
        run(parse(arguments))
    except (Refused, NoRecordings) as reason:
        print(f"train: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train: stopped; continue with --resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    run_main(main, "train")

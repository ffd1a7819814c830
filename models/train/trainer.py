"""Network, optimiser and averaged weights of one run, one step at a time."""

import io
import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge import RATE_HZ
from edge.files import atomic
from edge.suppress.network import Shape
from models.mix.mixer import Batch
from models.network import Network, Spectrum, deepened
from models.train.checkpoint import Refused, read_weights
from models.train.development import measure, stream
from models.train.loss import LossBatch

SEGMENT_HOPS = 614
"""3 s; the first runs had 1.5 s. SI-SDR is minded over a segment: in short ones a burst of noise weighs too little."""

SETTLE_EVERY = 400
"""Steps between two looks for the state that silence leads to: every segment begins there."""

MOST_SKIPPED = 10
"""One step without a finite gradient is left out, so many in a row end the run."""


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
    kinds: str = ""
    """As ``models.mix.edge_kinds.Kinds`` reads them."""


class Trainer:
    """Network, optimiser, averaged weights and how far they have come: all that a checkpoint holds."""

    transform: type[Spectrum] = Spectrum

    def __init__(self, shape: Any, plan: Plan, device: torch.device) -> None:
        """``shape``: the sizes that ``new_loss_batch`` takes, a ``Shape`` here."""
        torch.manual_seed(plan.seed)
        self.shape, self.plan, self.device = shape, plan, device
        self.loss_batch = self.new_loss_batch(shape).to(device)
        self.network = self.loss_batch.network
        self.averaged = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=plan.peak_rate, weight_decay=0.01, fused=True)
        self.step, self.seconds, self.audio_hours, self.skipped = 0, 0.0, 0.0, 0
        self.wrapped: nn.Module = self.loss_batch
        self.processes = 1
        if torch.distributed.is_initialized():
            self.processes = torch.distributed.get_world_size()
            self.wrapped = nn.parallel.DistributedDataParallel(self.loss_batch, broadcast_buffers=False)

    def new_loss_batch(self, shape: Any) -> Any:
        """A fresh network of this shape with the loss around it, as ``network``; drawn from the plan's seed."""
        return LossBatch(Network(shape), self.transform())

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
        terms = self.wrapped(batch)
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
    def enhanced_by(network: Network, waves: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """The waves as the box would play them."""
        return stream(network, waves)

    def measure(self, folder: Path, every: int = 1, full: bool = True) -> dict[str, float]:
        """``measure`` of the averaged network."""
        return measure(partial(self.enhanced_by, self.averaged_network()), folder, every, full)

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
            packed = io.BytesIO()
            torch.save(content, packed)
            atomic.write(folder / name, packed.getvalue())

    def resume(self, folder: Path) -> None:
        content = read_weights(folder / "checkpoint.pt", self.shape)
        if "optimiser" not in content:
            raise Refused(f"{folder / 'checkpoint.pt'}: holds weights only; start from them with --init")
        self.restore(content)

    def restore(self, content: dict[str, Any]) -> None:
        """Everything that ``save`` put into checkpoint.pt."""
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


def device_named(name: str | None) -> torch.device:
    """The device of this name; without a name the first GPU, or else the processor."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))

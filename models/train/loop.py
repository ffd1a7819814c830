"""The training loop: mixes ahead, learns, saves, measures."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from edge import HOP_SAMPLES
from models.mix.mixer import Batch
from models.perceptual_losses import quick_in_bfloat16
from models.train.log import TrainingLog
from models.train.trainer import Plan, Trainer

LONG_EVERY = 8
"""Every so many steps a batch of half of the items, twice as long: memories must hold beyond 3 s."""


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
    trainer: Trainer,
    mixer: Source,
    out: Path,
    dev: Path | None = None,
    dev_minutes: float = 15.0,
    save_minutes: float = 3.0,
    most_steps: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> None:
    """Run the plan to its end, or ``most_steps`` steps of it; save and measure in between and at the end."""
    out.mkdir(parents=True, exist_ok=True)
    log, stop_at = TrainingLog(out, trainer, rank == 0), trainer.step + most_steps
    last = saved = measured = time.monotonic()
    with log.bar, bfloat16_products(trainer.device):
        for batch in batches(mixer, trainer.plan, trainer.step, rank, ranks):
            log.note(trainer.learn(batch))
            now = time.monotonic()
            trainer.seconds, last = trainer.seconds + now - last, now
            if ranks > 1:  # every process must see the same clock, or one stops while the others wait for it
                seconds = torch.tensor([trainer.seconds], dtype=torch.float64, device=trainer.device)
                torch.distributed.broadcast(seconds, 0)
                trainer.seconds = float(seconds)
            finished = trainer.progress >= 1 or (most_steps > 0 and trainer.step >= stop_at)
            if rank == 0 and (finished or now - saved > save_minutes * 60):
                trainer.save(out)
                saved = now
            if finished:
                break
            if rank == 0 and dev is not None and now - measured > dev_minutes * 60:
                log.dev(trainer.measure(dev, every=4, full=False))
                last = measured = time.monotonic()
    if rank == 0 and dev is not None and trainer.progress >= 1:
        log.dev(trainer.measure(dev))

"""From options to a run: checks, device, processes, trainer, recordings."""

import argparse
import json
import os
from dataclasses import asdict
from functools import partial

import torch

from edge.suppress.network import Shape
from models.mix.edge_kinds import Kinds
from models.mix.mixer import Recipe, open_mixer
from models.train.checkpoint import Refused, load_network, read_weights
from models.train.development import measure
from models.train.loop import train
from models.train.trainer import Plan, Trainer, device_named


def run(wanted: argparse.Namespace, trainer_class: type[Trainer] = Trainer) -> None:
    torch.set_num_threads(wanted.threads)
    if wanted.evaluate:
        if wanted.dev is None:
            raise Refused("--evaluate needs --dev, a folder of pairs")
        heard = partial(trainer_class.enhanced_by, load_network(wanted.evaluate))
        print(json.dumps(measure(heard, wanted.dev, wanted.every)))
        return
    Kinds.read(wanted.kinds or "")
    if wanted.out is None:
        raise Refused("give --out, the folder for checkpoints")
    if wanted.resume and wanted.init:
        raise Refused("--resume continues a run, --init starts a new one: give only one of them")
    if (wanted.out / "checkpoint.pt").exists() and not wanted.resume:
        raise Refused(f"{wanted.out} holds a checkpoint already: add --resume, or choose another --out")
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = device_named(wanted.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    trainer = new_trainer(wanted, device, ranks, trainer_class)
    cache = wanted.cache or wanted.out / "cache"
    recipe = Recipe(kinds=Kinds.read(trainer.plan.kinds))
    mixer = open_mixer(wanted.data, cache, trainer.plan.seed, device, wanted.speech, wanted.noise, recipe)
    train(trainer, mixer, wanted.out, wanted.dev, rank=rank, ranks=ranks)


def new_trainer(
    wanted: argparse.Namespace, device: torch.device, ranks: int, trainer_class: type[Trainer] = Trainer
) -> Trainer:
    """A trainer as the command line, the checkpoint to resume or the weights to start from want it."""
    shape = shape_of(wanted)
    plan = Plan(
        minutes=wanted.minutes or 120.0,
        steps=wanted.steps or 0,
        items=wanted.items,
        peak_rate=wanted.rate or (3e-4 if wanted.init else 2e-3),
        seed=wanted.seed,
        kinds=wanted.kinds or "",
    )
    if wanted.resume:
        stored = Plan(**read_weights(wanted.out / "checkpoint.pt", shape)["plan"])
        changes = {"minutes": wanted.minutes, "steps": wanted.steps, "peak_rate": wanted.rate, "kinds": wanted.kinds}
        plan = Plan(**asdict(stored) | {name: value for name, value in changes.items() if value})
    if ranks > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    trainer = trainer_class(shape, plan, device)
    if wanted.resume:
        trainer.resume(wanted.out)
    if wanted.init:
        trainer.start_from(wanted.init)
    return trainer


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

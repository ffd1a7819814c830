"""The pruning: weights in, smaller weights out, with a table of what it costs before fine-tuning."""

import argparse
import json
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console

from edge.suppress.network import Shape
from models.command import BadRequest
from models.train.checkpoint import read_weights
from quant.calibrate import find, progress, read
from quant.export.network import read_network
from quant.graph import can_write, write_whole
from quant.history import KEY, longer, step
from quant.prune.removal import prune, table_of, whole_hops

FIXED = ("stride_bands", "past_hops")
"""Sizes that say what the network sees, not how much it holds."""


def smaller(text: str, whole: Shape) -> Shape:
    """The shape that the JSON ``text`` makes of ``whole``; raises BadRequest for one that pruning cannot give."""
    sizes = asdict(whole)
    try:
        asked = json.loads(text)
    except ValueError as reason:
        raise BadRequest(f"--shape {text}: no JSON ({reason})") from None
    if not isinstance(asked, dict):
        raise BadRequest(f'--shape {text}: needs sizes by name, e.g. {{"channels": 24}}')
    for name, size in asked.items():
        if name not in sizes:
            raise BadRequest(f"--shape: a network has no {name}; it has {', '.join(sizes)}")
        if name in FIXED and size != sizes[name]:
            raise BadRequest(f"--shape: {name} is the input size of a network and stays {sizes[name]}")
        if type(size) is not int or not 1 <= size <= sizes[name]:
            raise BadRequest(
                f"--shape: {name} {json.dumps(size)} is not a whole number from 1 to {sizes[name]}, as it is"
            )
    return Shape(**sizes | asked)


def run(asked: argparse.Namespace) -> int:
    """Raises UserError; the options are those of ``quant.prune``."""
    can_write(asked.out, asked.weights)
    network, source = read_network(asked.weights), read_weights(asked.weights)
    shape = smaller(asked.shape, network.shape)
    sounds = [read(file) for file in find(asked.sounds)]
    with progress() as bar:
        task = bar.add_task(f"{len(sounds)} streams", total=len(sounds))
        small = prune(network, shape, sounds, lambda: bar.advance(task))
    table = table_of({"whole": network, "pruned": small}, [whole_hops(sound) for sound in sounds])
    content: dict[str, Any] = {"shape": asdict(shape), "weights": small.state_dict()}
    content |= {name: source.get(name, 0) for name in ("step", "audio_hours", "minutes")}
    content[KEY] = longer(str(source.get(KEY, "")), step("prune", asked.weights))
    size = write_whole(asked.out, lambda file: torch.save(content, file))
    console = Console()
    console.print(table)
    console.print(f"{asked.out}: {size} bytes; now fine-tune it:", soft_wrap=True, highlight=False)
    line = f"python -m models.train --init {asked.out} --data DIR --out RUN"
    console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0

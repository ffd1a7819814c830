"""Checkpoints and weights: read with bounds, refused in one line if they are something else."""

import io
from pathlib import Path
from typing import Any

import torch

from edge.files import BadFile, read_bounded
from edge.files.arrays import check_archive
from edge.suppress.network import Shape
from models.command import BadRequest
from models.network import Network

MOST_BYTES = 256 << 20
"""Of a checkpoint, packed or unpacked; ours have 4 MB with the optimiser's state."""


class Refused(BadRequest):
    """Something the user can put right; the text is one line."""


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

"""The U-Net as a graph of one window, and the proof that both give the same."""

from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from edge import RATE_HZ
from edge.suppress.foreign.window import OURS, Geometry
from models.window_network import UNet
from quant.export.builder import Graph, finished, recipe_sha256, version
from quant.graph import open_session

UNET_RECIPE = (
    "models/window_network.py",
    "models/window_training.py",
    "models/mix",
    "models/train",
    "edge/suppress/foreign/window.py",
)

PROOF_WINDOWS = 20


@torch.no_grad()
def build_window(network: UNet) -> onnx.ModelProto:
    """One window of ``network`` as a model; the walk is that of ``UNet.forward``."""
    graph, geometry = Graph(), Geometry()

    def conv(name: str, x: str) -> str:
        part = network.get_submodule(name)
        assert isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and part.bias is not None
        weight = graph.store(f"{name}.weight", part.weight.numpy())
        bias = graph.store(f"{name}.bias", part.bias.numpy())
        sizes: dict[str, Any] = {"strides": [*part.stride], "pads": [1, 1, 1, 1]}
        if isinstance(part, nn.ConvTranspose2d):
            return graph.apply("ConvTranspose", x, weight, bias, output_padding=[*part.output_padding], **sizes)
        return graph.apply("Conv", x, weight, bias, **sizes)

    mean = graph.apply("ReduceMean", "magnitudes", axes=[2, 3], keepdims=1)
    x = graph.apply("Sub", "magnitudes", mean)
    kept = [x]
    for place in range(len(network.down)):
        x = graph.apply("Relu", conv(f"down.{place}", x))
        kept.append(x)
    for place in range(len(network.middle)):
        x = graph.apply("Relu", conv(f"middle.{place}", x))
    for place in range(len(network.up)):
        x = graph.apply("Relu", conv(f"up.{place}", graph.apply("Concat", x, kept.pop(), axis=1)))
    graph.apply("Sigmoid", conv("last", graph.apply("Concat", x, kept.pop(), axis=1)), name="mask")
    shape = [1, 1, geometry.bins, geometry.frames]
    about = {key: str(value) for key, value in asdict(geometry).items()} | {
        "name": OURS,
        "version": version(),
        "sample_rate_hz": str(RATE_HZ),
        "recipe_sha256": recipe_sha256(UNET_RECIPE),
        "licence": "MIT",
    }
    return finished(graph, OURS, {"magnitudes": shape}, {"mask": shape}, about)


@torch.no_grad()
def window_difference(network: UNet, model: onnx.ModelProto) -> float:
    """The largest difference of a gain over windows of wandering level."""
    session, draw, geometry = open_session(model), np.random.default_rng(1), Geometry()
    worst = 0.0
    for _ in range(PROOF_WINDOWS):
        shape = (1, 1, geometry.bins, geometry.frames)
        seen = (draw.normal(0, 1, shape) + draw.normal(0, 1, (1, 1, geometry.bins, 1)) - 1).astype(np.float32)
        mask = session.run(None, {"magnitudes": seen})[0]
        worst = float(np.max([worst, np.abs(mask - network(torch.from_numpy(seen)).numpy()).max()]))
    return worst

"""Checkpoint -> float ONNX of one hop, and proof that both say the same.

    python -m quant.export --weights models/quietbox/weights.pt --out network.onnx

Nodes cost more than arithmetic at this size (0.7 us each on one x86 core, ten times that on a Pi 3), so the graph is
built by hand, in the order of ``Network.logits``. What keeps it short: a group is a row of a Gemm; every gate is a
Gemm of its own whose activation ONNX Runtime fuses into it (9 nodes a memory where one Gemm and a Split take 11);
a residual sum is the third input of a Gemm, and the bias that would stand there is added once, in ``place``; the
clamp of a gate is a Max after its sigmoid.

The file: inputs ``features`` float32 [1, 64] and ``state`` float32 [1, S], outputs ``gains`` [1, 64], ``speech``
[1, 1] and ``state_out`` [1, S], the state laid out as in models/network.py; metadata as in ``metadata``. Tensors are
named as in the checkpoint; ``NAME.gates`` lies in three, ``.z``, ``.c`` and ``.o``.

Weights of models/unet.py become the graph of one window: ``magnitudes`` [1, 1, bins, frames] in, ``mask`` of the same
shape out, the geometry in the metadata.
"""

import argparse
import base64
import hashlib
import importlib.metadata
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, nn

import edge.dsp.spectrum
import edge.suppress.foreign.window
import edge.suppress.network
import models.mix
import models.network
import models.perceptual_losses
import models.recurrence
import models.train
import models.unet
from edge import HOP_SAMPLES, RATE_HZ
from edge.console import run_main
from edge.dsp.spectrum import BANDS, POWER_FLOOR, SILENCE, WINDOW_SAMPLES, Floats
from edge.suppress.foreign.window import OURS, Geometry
from edge.suppress.network import LEVEL_EPS, LEVEL_KEEP, SLOWEST
from models.network import FullBandMemory, GroupMemory, Network
from models.train import Refused, load_network
from models.unet import UNet, holds_unet, load_unet
from quant.evaluate import BadRequest
from quant.graph import GATES, NAME, Hops, can_write, open_session, write_whole

OPSET, IR_VERSION = 17, 8
"""What onnxruntime 1.16 and later read."""
MOST_DIFFERENCE = 1e-5
PROOF_HOPS = 400
RECIPE = (
    models.network,
    models.recurrence,
    models.mix,
    models.perceptual_losses,
    models.train,
    edge.dsp.spectrum,
    edge.suppress.network,
)
"""The files that decide what the weights mean and how they came about."""
UNET_RECIPE = (models.unet, models.mix, models.train, edge.suppress.foreign.window)
PROOF_WINDOWS = 20


class Graph:
    """Nodes and stored tensors in the making. A value is its name; every operation returns its output's."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, NDArray[np.generic]] = {}

    def store(self, name: str, values: NDArray[np.generic]) -> str:
        self.stored[name] = values
        return name

    def apply(self, operation: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        return self.several(operation, *inputs, names=[name or f"t{len(self.nodes)}"], **attributes)[0]

    def several(self, operation: str, *inputs: str, names: list[str], **attributes: Any) -> list[str]:
        self.nodes.append(helper.make_node(operation, inputs, names, **attributes))
        return names

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        at = len(self.nodes)
        lengths = self.store(f"s{at}", np.array(sizes, np.int64))
        return self.several("Split", x, lengths, names=[f"t{at}.{part}" for part in range(len(sizes))], axis=axis)

    def reshape(self, x: str, *shape: int, name: str = "") -> str:
        return self.apply("Reshape", x, self.store(f"s{shape[0]}x{shape[1]}", np.array(shape, np.int64)), name=name)

    def linear(self, name: str, x: str, weight: Tensor, added: Tensor | str) -> str:
        """x @ weight.T + a bias, or + another value of the graph."""
        if isinstance(added, Tensor):
            added = self.store(f"{name}.bias", added.numpy())
        return self.apply("Gemm", x, self.store(f"{name}.weight", weight.numpy()), added, transB=1)


@torch.no_grad()
def build(network: Network) -> onnx.ModelProto:
    """One hop of ``network`` as a model; the walk is that of ``Network.logits``."""
    shape, graph, size = network.shape, Graph(), network.state_size
    groups, channels, stride, past = shape.groups, shape.channels, shape.stride_bands, shape.past_hops

    sizes = [1, 1, *[BANDS] * past, len(network.groups) * groups * channels, *[shape.hidden] * len(network.full)]
    total, weight, *rest = graph.split("state", sizes, axis=1)
    earlier, (held, *full_states) = rest[:past], rest[past:]
    held = graph.reshape(held, len(network.groups) * groups, channels)
    group_states = graph.split(held, [groups] * len(network.groups), axis=0)

    features, level = level_free(graph, "features", total, weight)
    patches = patches_of(graph, [*earlier, features], stride)
    ahead = torch.zeros(channels)
    for part in network.modules():
        if isinstance(part, GroupMemory):
            ahead = ahead + part.back.bias
        elif isinstance(part, FullBandMemory):
            ahead = ahead + part.widen.bias
    x = graph.apply("Relu", graph.linear("patch", patches, network.patch.weight, network.patch.bias))
    x = graph.apply("Add", x, graph.store("place", (network.place + ahead).numpy()))
    group_lasts, full_lasts, shown = [], [], ""
    for index, group in enumerate(network.groups):
        assert isinstance(group, GroupMemory)
        x, last = group_memory(graph, f"groups.{index}", group, x, group_states[index], ahead)
        ahead = ahead - group.back.bias
        group_lasts.append(last)
        if index < len(network.full):
            full = network.full[index]
            assert isinstance(full, FullBandMemory)
            x, shown, last = full_band_memory(graph, f"full.{index}", full, x, full_states[index], ahead)
            ahead = ahead - full.widen.bias
            full_lasts.append(last)
    joined = neighbours(graph, x, groups, channels)
    joined = graph.apply("Relu", graph.linear("join", joined, network.join.weight, network.join.bias))
    gains = graph.apply("Sigmoid", graph.linear("spread", joined, network.spread.weight, network.spread.bias))
    graph.reshape(gains, 1, BANDS, name="gains")
    speech = graph.linear("speech", shown, network.speech.weight, network.speech.bias)
    graph.apply("Sigmoid", speech, name="speech")
    lasts = graph.reshape(graph.apply("Concat", *group_lasts, axis=0), 1, len(group_lasts) * groups * channels)
    kept = [*earlier, features][1:]
    graph.apply("Concat", *level, *kept, lasts, *full_lasts, axis=1, name="state_out")
    return model_of(graph, network, size)


def level_free(graph: Graph, features: str, total: str, weight: str) -> tuple[str, list[str]]:
    """models.network.level_free for one hop."""
    mean = graph.apply("ReduceMean", features, axes=[1], keepdims=1)
    heard = graph.apply("HardSigmoid", mean, alpha=4.0, beta=-4 * SILENCE)
    one = graph.store("one", np.ones((1, 1), np.float32))
    total = graph.apply("Gemm", heard, mean, total, beta=LEVEL_KEEP)
    weight = graph.apply("Gemm", heard, one, weight, beta=LEVEL_KEEP)
    above = graph.apply("Add", weight, graph.store("eps", np.array(LEVEL_EPS, np.float32)))
    return graph.apply("Sub", features, graph.apply("Div", total, above)), [total, weight]


def patches_of(graph: Graph, hops: list[str], stride: int) -> str:
    """Hops [1, 64] -> [groups, hops x 2 stride]: ``Network.patches``, picked from the hops and one zero behind them."""
    nothing = len(hops) * BANDS
    line = graph.apply("Concat", *hops, graph.store("zero", np.zeros((1, 1), np.float32)), axis=1)
    bands = np.arange(0, BANDS, stride)[:, None] - stride // 2 + np.arange(2 * stride)
    picked = [np.where((bands >= 0) & (bands < BANDS), bands + hop * BANDS, nothing) for hop in range(len(hops))]
    pick = np.concatenate(picked, axis=1)
    patches = graph.apply("Gather", line, graph.store("pick", pick.astype(np.int32)), axis=1)
    return graph.reshape(patches, *pick.shape)


def group_memory(graph: Graph, name: str, part: GroupMemory, x: str, state: str, ahead: Tensor) -> tuple[str, str]:
    """``GroupMemory`` for one hop, x and state [groups, channels]. ``ahead``: biases that x holds too early."""
    shown, last = remember(graph, name, x, state, part.gates, ahead)
    return graph.linear(f"{name}.back", shown, part.back.weight, x), last


def full_band_memory(
    graph: Graph, name: str, part: FullBandMemory, x: str, state: str, ahead: Tensor
) -> tuple[str, str, str]:
    """``FullBandMemory`` for one hop."""
    shape = part.shape
    narrow = graph.linear(f"{name}.narrow", x, part.narrow.weight, part.narrow.bias - part.narrow.weight @ ahead)
    narrow = graph.reshape(narrow, 1, shape.flat)
    shown, last = remember(graph, name, narrow, state, part.gates, torch.zeros(shape.flat))
    back = graph.apply("Relu", graph.linear(f"{name}.back", shown, part.back.weight, part.back.bias))
    back = graph.reshape(back, shape.groups, shape.squeeze)
    return graph.linear(f"{name}.widen", back, part.widen.weight, x), shown, last


def remember(graph: Graph, name: str, x: str, state: str, gates: nn.Linear, ahead: Tensor) -> tuple[str, str]:
    """models.recurrence.remember for one hop: what the memory shows, and what it holds."""
    weights, biases = gates.weight.chunk(3), (gates.bias - gates.weight @ ahead).chunk(3)
    z, candidate, shutter = (
        graph.apply(activation, graph.linear(f"{name}.gates.{gate}", x, weight, bias))
        for gate, activation, weight, bias in zip(GATES, ("Sigmoid", "Tanh", "Sigmoid"), weights, biases, strict=True)
    )
    slowest = graph.store("slowest", np.array(1 / (1 + math.exp(-SLOWEST)), np.float32))
    z = graph.apply("Max", z, slowest)
    held = graph.apply("Add", state, graph.apply("Mul", z, graph.apply("Sub", candidate, state)))
    return graph.apply("Mul", shutter, held), held


def neighbours(graph: Graph, x: str, groups: int, channels: int) -> str:
    """[groups, channels] -> [groups, 3 channels]: before, itself, after; nothing beyond the ends. One product."""
    wanted = np.arange(groups)[:, None] + np.array([-1, 0, 1])
    pick = (wanted.reshape(-1, 1) == np.arange(groups)).astype(np.float32)
    return graph.reshape(graph.apply("MatMul", graph.store("around", pick), x), groups, 3 * channels)


def model_of(graph: Graph, network: Network, size: int) -> onnx.ModelProto:
    inputs = {"features": [1, BANDS], "state": [1, size]}
    outputs = {"gains": [1, BANDS], "speech": [1, 1], "state_out": [1, size]}
    return finished(graph, NAME, inputs, outputs, metadata(network))


def finished(
    graph: Graph, name: str, inputs: dict[str, list[int]], outputs: dict[str, list[int]], about: dict[str, str]
) -> onnx.ModelProto:
    """A checked model with float inputs and outputs of these shapes."""

    def values(shapes: dict[str, list[int]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, shape) for key, shape in shapes.items()]

    stored = [onnx.numpy_helper.from_array(np.asarray(data, order="C"), name) for name, data in graph.stored.items()]
    body = helper.make_graph(graph.nodes, name, values(inputs), values(outputs), stored)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, about)
    onnx.checker.check_model(model, full_check=True)
    return model


def metadata(network: Network) -> dict[str, str]:
    """What a reader must know beside the numbers; all values are text."""
    silence = network.silence.numpy().astype("<f2").tobytes()
    return {
        "name": NAME,
        "version": version(),
        "sample_rate_hz": str(RATE_HZ),
        "window_samples": str(WINDOW_SAMPLES),
        "hop_samples": str(HOP_SAMPLES),
        "bands": str(BANDS),
        "normalisation": f"features = (log10(band power + {POWER_FLOOR:g}) + 1) / 2",
        "recipe_sha256": recipe_sha256(),
        "licence": "MIT",
        "silence": base64.b64encode(silence).decode(),
        "shape": json.dumps(asdict(network.shape), separators=(",", ":")),
    }


# --- the U-Net -----------------------------------------------------------------------------------------------------


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


# --- what both say -------------------------------------------------------------------------------------------------


def version() -> str:
    """Of this program; raises BadRequest."""
    try:
        return importlib.metadata.version("quietbox")
    except importlib.metadata.PackageNotFoundError:
        raise BadRequest("quietbox is not installed, so its version is unknown; pip install -e .") from None


def recipe_sha256(recipe: Sequence[ModuleType] = RECIPE) -> str:
    """Of these files, one after the other."""
    digest = hashlib.sha256()
    for module in recipe:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def plausible_features(hops: int, seed: int = 1) -> Floats:
    """float32 [hops, 64]: a wandering level and tilt, noise in every band, pauses of digital silence."""
    draw = np.random.default_rng(seed)
    level = np.cumsum(draw.normal(0, 0.1, (hops, 1)), axis=0) + draw.normal(0, 0.4, (hops, 1))
    tilt = np.linspace(1, -1, BANDS) * np.cumsum(draw.normal(0, 0.03, (hops, 1)), axis=0)
    features = np.clip(level + tilt + draw.normal(0, 0.3, (hops, BANDS)), SILENCE, 2.5)
    features[hops // 2 : hops // 2 + hops // 10] = SILENCE
    return features.astype(np.float32)


@torch.no_grad()
def difference(network: Network, model: onnx.ModelProto, hops: int = PROOF_HOPS) -> float:
    """The largest difference of any output, state included, over a stream that both walk on their own.

    Relative above 1: the running level's sum reaches 100, where float32 has steps of 8e-6.
    """
    if model.graph.input[1].type.tensor_type.shape.dim[1].dim_value != network.state_size:
        return math.inf
    stream, state = Hops(open_session(model), network.silence.numpy()), network.fresh_state()
    worst = 0.0
    for row in plausible_features(hops):
        gains, speech, state = network.step(torch.from_numpy(row[None]), state)
        heard, voice = stream.step(row)
        pairs = ((gains.numpy()[0], heard), (speech.numpy(), voice), (state.numpy(), stream.state))
        apart = (np.abs(ours - theirs) / np.maximum(1, np.abs(ours)) for ours, theirs in pairs)
        worst = float(np.max([worst, *(gap.max() for gap in apart)]))  # NumPy's keeps what is no number
    return worst


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser("python -m quant.export", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, metavar="F", help="weights.pt or checkpoint.pt")
    parser.add_argument("--out", type=Path, required=True, metavar="F.onnx", help="output file of the float model")
    asked = parser.parse_args(argv)
    try:
        can_write(asked.out, asked.weights)
        if holds_unet(asked.weights):
            unet = load_unet(asked.weights)
            model = build_window(unet)
            apart, proof = window_difference(unet, model), f"{PROOF_WINDOWS} windows"
        else:
            network = read_network(asked.weights)
            model = build(network)
            apart, proof = difference(network, model), f"{PROOF_HOPS} hops"
        if not apart < MOST_DIFFERENCE:
            raise BadRequest(
                f"the graph differs from the network by {apart:.1e}; quant/export.py does not match the module"
            )
        size = write_whole(asked.out, lambda content: content.write(model.SerializeToString()))
    except (BadRequest, Refused) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    nodes = len(model.graph.node)
    print(f"{asked.out}: {size} bytes, {nodes} nodes, largest difference {apart:.1e} over {proof}")
    return 0


def read_network(weights: Path) -> Network:
    """As models.train reads it; also refuses weights that do not fit their own shape."""
    try:
        return load_network(weights)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRequest(f"{weights}: its weights do not match its shape ({type(error).__name__})") from None


if __name__ == "__main__":
    run_main(main, "export")

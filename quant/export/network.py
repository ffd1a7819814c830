"""The box's network as a graph of one hop, and the proof that both give the same."""

import base64
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import BANDS, POWER_FLOOR, SILENCE, WINDOW_SAMPLES, Floats
from edge.suppress.network import LEVEL_EPS, LEVEL_KEEP, SLOWEST
from models.command import BadRequest
from models.network import FullBandMemory, GroupMemory, Network
from models.train.checkpoint import load_network
from quant.export.builder import Graph, finished, recipe_sha256, version
from quant.graph import GATES, NAME, open_session
from quant.hops import Hops

MOST_DIFFERENCE = 1e-5
"""Of any output; other orders of addition in float32 make some 3e-6."""
PROOF_HOPS = 400

RECIPE = (
    "models/network.py",
    "models/recurrence.py",
    "models/mix",
    "models/perceptual_losses.py",
    "models/train",
    "edge/dsp/spectrum.py",
    "edge/suppress/network.py",
)
"""The files that decide what the weights mean and how they came about."""


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
        "recipe_sha256": recipe_sha256(RECIPE),
        "licence": "MIT",
        "silence": base64.b64encode(silence).decode(),
        "shape": json.dumps(asdict(network.shape), separators=(",", ":")),
    }


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


def read_network(weights: Path) -> Network:
    """As models.train reads it; also refuses weights that do not fit their own shape."""
    try:
        return load_network(weights)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRequest(f"{weights}: its weights do not match its shape ({type(error).__name__})") from None

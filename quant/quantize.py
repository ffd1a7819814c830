"""Float ONNX -> INT8, two ways, both measured against the float file; the one that passes the gate is written.

    python -m quant.quantize --model network.onnx --out models/quietbox/network.onnx --pairs DIR
    python -m quant.quantize --model somebody-elses.onnx --out smaller.onnx

**weights**: int8 matrices, one scale a row (an output), and ``float(int8) x scale`` as a Cast and a Mul before each
use. ONNX Runtime works both out once, at load: the file is small, one hop takes as long as before, and activations
stay float. A DequantizeLinear would say the same, but is folded only where ``session.disable_quant_qdq`` is set, and
knows scales a row from opset 13 on. For our own files also: matrices of one width lie under each other, so that they
share the two nodes; vectors, scales and place are float16; index tables take one byte; names are a letter or two.
**static**: activations too, uint8 by int8 weights (U8S8 QDQ), ranges from streams (``quant.calibrate``), percentile
99.99; the outputs of every product, hence states, level, logarithm and mask, stay float.

Beside our own .onnx lies an .npz with the same numbers for ``edge.suppress.network``: for every layer NAME of
models/network.py ``NAME.weight`` int8 [out, in], ``NAME.scale`` float16 [out] (weight x scale is the matrix) and
``NAME.bias`` float16 [out]; ``place`` float16 [groups, channels]; ``silence`` float16 [S], the initial state; ``meta``,
a text of no dimension, the metadata but ``silence`` as JSON. Biases of ``back`` and ``widen`` in front of a residual
sum are zero: ``quant.export`` has moved them into ``place`` and the biases behind.

The gate: at most 0.05 PESQ lost, output at least 25 dB above its difference from the float file's, at most 1.1 times
its time, both files at most --most-kb. Other people's models get the first way and no gate.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from edge import HOP_SAMPLES, command_for
from edge.console import run_main
from edge.dsp.spectrum import DELAY_SAMPLES, Floats, band_weights
from models.measures import pesq_wb
from quant.calibrate import SOUNDS, Reader, Samples, collect, find, hops_of, progress, read, read_samples
from quant.evaluate import BadRequest, read_pairs
from quant.graph import (
    GATES,
    Hops,
    can_write,
    initializers,
    is_ours,
    metadata_of,
    open_session,
    read_model,
    silence_of,
    write_whole,
)

MOST_PESQ_LOSS = 0.05
LEAST_SNR_DB = 25.0
MOST_SLOWER = 1.1
PERCENTILE = 99.99
STATIC_SAMPLES = 1500
"""Calibration holds every intermediate value of every sample; more change the ranges by nothing."""
SMALLEST = 64
"""Tensors of fewer numbers are not worth a node."""
TIMED_HOPS = 1500
LEAST_OPSET = 7

Array = NDArray[Any]


# --- int8 weights --------------------------------------------------------------------------------------------------


def row_axis(node: onnx.NodeProto, place: int, dimensions: int) -> int | None:
    """Which axis of a weight at input ``place`` of ``node`` counts the outputs; None if it is no weight there."""
    match node.op_type, place:
        case "Gemm", 1:
            return 0 if any(entry.name == "transB" and entry.i for entry in node.attribute) else 1
        case "MatMul", 1:
            return dimensions - 1
        case "MatMul", 0:
            return dimensions - 2
        case "Conv", 1:
            return 0
        case "ConvTranspose", 1:
            return 0  # its inputs: a depth-wise one stores a single output a group
        case "GRU" | "LSTM" | "RNN", 1 | 2:
            return 1
    return None


def weights_of(model: onnx.ModelProto) -> dict[str, int]:
    """Name -> axis of the outputs, for every stored float32 matrix that only serves as a weight."""
    stored, axes, other = initializers(model), dict[str, int](), {value.name for value in model.graph.output}
    for node in every_node(model.graph):
        for place, name in enumerate(node.input):
            if name not in stored or stored[name].dtype != np.float32:
                continue
            axis = row_axis(node, place, stored[name].ndim) if stored[name].ndim > 1 else None
            if axis is None or axes.setdefault(name, axis) != axis:
                other.add(name)
    return {name: axis for name, axis in axes.items() if name not in other and stored[name].size >= SMALLEST}


def every_node(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The graph's nodes and those of the graphs inside them (If, Loop, Scan)."""
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                nodes += every_node(inner)
    return nodes


def to_int8(matrix: Floats, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """int8 of the same shape, -127..127, and a float16 scale a row along ``axis``: their product is the matrix.

    The scale is rounded first, so that only the weights' own rounding remains. Whole numbers keep themselves.
    """
    rows = np.moveaxis(matrix, axis, 0).reshape(matrix.shape[axis], -1)
    peak = np.abs(rows).max(axis=1)
    scale = np.where(peak > 0, peak / 127, 1)
    scale[(rows == np.round(rows)).all(axis=1) & (peak <= 127)] = 1
    half = np.clip(scale, 6e-8, 65504).astype(np.float16)  # the range of float16
    shape = [-1 if at == axis else 1 for at in range(matrix.ndim)]
    quotient = np.round(matrix / half.astype(np.float32).reshape(shape))
    return np.clip(quotient, -127, 127).astype(np.int8), half


class Shrinking:
    """A model whose stored tensors are being replaced by smaller ones and the nodes that widen them again."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.stored = initializers(model)
        self._were = {*self.stored}
        self._widening: list[onnx.NodeProto] = []
        self._count = 0

    def store(self, values: Array) -> str:
        self._count += 1
        name = f"int8.{self._count}"
        self.stored[name] = values
        return name

    def apply(self, operation: str, *inputs: str, names: list[str] | None = None, **attributes: Any) -> str:
        self._count += 1
        outputs = names or [f"int8.{self._count}"]
        self._widening.append(helper.make_node(operation, inputs, outputs, **attributes))
        return outputs[0]

    def split(self, x: str, lengths: list[int], names: list[str]) -> None:
        """One Split gives the tensors their names back."""
        for name in names:
            del self.stored[name]
        self.apply("Split", x, self.store(np.array(lengths, np.int64)), names=names, axis=0)

    def narrow_integers(self) -> None:
        """Long tables of indices take as few bytes a number as their range allows."""
        for name, table in [*self.stored.items()]:
            if table.dtype not in (np.int64, np.int32) or table.size < SMALLEST:
                continue
            for kind in (np.uint8, np.int16, np.int32):
                limits = np.iinfo(kind)
                if limits.min <= table.min() and table.max() <= limits.max and kind != table.dtype:
                    wide = TensorProto.INT64 if table.dtype == np.int64 else TensorProto.INT32
                    del self.stored[name]
                    self.apply("Cast", self.store(table.astype(kind)), names=[name], to=wide)
                    break

    def finish(self, metadata: dict[str, str], short_names: bool = False) -> onnx.ModelProto:
        graph = self.model.graph
        nodes = [*self._widening, *graph.node]
        inputs = [value for value in graph.input if value.name not in self._were]  # old files list stored tensors, too
        del graph.node[:], graph.initializer[:], graph.value_info[:], graph.input[:]
        graph.input.extend(inputs)
        graph.node.extend(nodes)
        graph.initializer.extend(numpy_helper.from_array(np.asarray(v, order="C"), k) for k, v in self.stored.items())
        if short_names:
            rename(graph)
        helper.set_model_props(self.model, metadata_of(self.model) | metadata)
        return self.model


def rename(graph: onnx.GraphProto) -> None:
    """Every inner value gets a name of one to three letters; a hundred nodes' names are 2 KB otherwise."""
    kept = {value.name for value in (*graph.input, *graph.output)}
    short: dict[str, str] = {"": "", **{name: name for name in kept}}

    def of(name: str) -> str:
        return short.setdefault(name, np.base_repr(len(short), 36).lower())

    for tensor in graph.initializer:
        tensor.name = of(tensor.name)
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            names[:] = [of(name) for name in names]


def weights_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """Any model with int8 weights in place of its float matrices."""
    small = Shrinking(model)
    for name, axis in weights_of(model).items():
        matrix = small.stored.pop(name)
        whole, scale = to_int8(matrix, axis)
        shape = [-1 if at == axis else 1 for at in range(matrix.ndim)]
        wide = small.apply("Cast", small.store(whole), to=TensorProto.FLOAT)
        small.apply("Mul", wide, small.store(scale.astype(np.float32).reshape(shape)), names=[name])
    small.narrow_integers()
    return small.finish({})


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """Our own network as small as it goes: see the top of this file."""
    small, by_width = Shrinking(model), dict[int, list[str]]()
    halves: dict[str, Floats] = {}
    for name, axis in weights_of(model).items():
        if axis == 0:
            by_width.setdefault(small.stored[name].shape[1], []).append(name)
    for names in by_width.values():
        matrices = [small.stored[name] for name in names]
        whole, scale = to_int8(np.concatenate(matrices), 0)
        wide = small.apply("Cast", small.store(whole), to=TensorProto.FLOAT)
        column = small.apply("Cast", small.store(scale[:, None]), to=TensorProto.FLOAT)
        if len(names) == 1:
            del small.stored[names[0]]
            small.apply("Mul", wide, column, names=names)
        else:
            small.split(small.apply("Mul", wide, column), [len(matrix) for matrix in matrices], names)
    for name, values in [*small.stored.items()]:
        if values.dtype == np.float32 and values.ndim == 1:
            halves[name] = values
        elif values.dtype == np.float32 and values.size >= SMALLEST:
            del small.stored[name]
            small.apply("Cast", small.store(values.astype(np.float16)), names=[name], to=TensorProto.FLOAT)
    vectors = np.concatenate([*halves.values()]).astype(np.float16)
    wide = small.apply("Cast", small.store(vectors), to=TensorProto.FLOAT)
    small.split(wide, [len(values) for values in halves.values()], [*halves])
    small.narrow_integers()
    return small.finish({"weights": "int8"}, short_names=True)


def numbers(model: onnx.ModelProto) -> dict[str, Array]:
    """The same int8 weights, scales and vectors by their names in models/network.py, from one of our float files."""
    stored, found = initializers(model), dict[str, Array]()
    layers = dict.fromkeys(name.removesuffix(".weight") for name in stored if name.endswith(".weight"))
    whole = {
        name: name.removesuffix(f".{gate}") for name in layers for gate in GATES if name.endswith(f".gates.{gate}")
    }
    for layer in dict.fromkeys(whole.get(name, name) for name in layers):
        parts = [f"{layer}.{gate}" for gate in GATES] if layer not in layers else [layer]
        weight = np.concatenate([stored[f"{part}.weight"] for part in parts])
        biases = [stored.get(f"{part}.bias", np.zeros(len(weight), np.float32)) for part in parts]
        found[f"{layer}.weight"], found[f"{layer}.scale"] = to_int8(weight, 0)
        found[f"{layer}.bias"] = np.concatenate(biases).astype(np.float16)
    found["place"] = stored["place"].astype(np.float16)
    found["silence"] = silence_of(model).astype(np.float16)
    said = metadata_of(model) | {"weights": "int8"}
    del said["silence"]  # it is an array here; twice is 2 KB more
    found["meta"] = np.array(json.dumps(said))
    return found


# --- int8 weights and activations ----------------------------------------------------------------------------------


def static(model: onnx.ModelProto, samples: Samples) -> onnx.ModelProto:
    """U8S8 QDQ by onnxruntime's own tool; products of a weight only, their outputs float."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    plain = residuals_apart(model)
    weighed = weights_of(plain)
    products = [node.name for node in plain.graph.node if node.op_type == "Gemm" and node.input[1] in weighed]
    thin = slice(None, None, -(-len(samples.features) // STATIC_SAMPLES))
    options = {
        "CalibPercentile": PERCENTILE,
        "OpTypesToExcludeOutputQuantization": ["Gemm"],
        "ActivationSymmetric": False,
        "WeightSymmetric": True,
    }
    with tempfile.TemporaryDirectory() as folder, quiet():
        target = Path(folder, "static.onnx")
        quantize_static(
            plain,
            target,
            Reader(Samples(samples.features[thin], samples.state[thin])),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.Percentile,
            nodes_to_quantize=products,
            extra_options=options,
        )
        small = Shrinking(onnx.load(target))
    small.narrow_integers()
    return small.finish(metadata_of(model) | {"weights": "int8"}, short_names=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The tool prints its progress and logs advice that does not concern us."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def residuals_apart(model: onnx.ModelProto) -> onnx.ModelProto:
    """A Gemm that adds a value of the graph becomes Gemm and Add: the tool knows only stored biases. Names all."""
    plain, stored, weighed = onnx.ModelProto(), initializers(model), weights_of(model)
    plain.CopyFrom(model)
    nodes = []
    for count, node in enumerate(model.graph.node):
        node = onnx.NodeProto.FromString(node.SerializeToString())
        node.name = f"n{count}"
        nodes.append(node)
        if node.op_type == "Gemm" and node.input[1] in weighed and node.input[2] not in stored:
            added, result = node.input.pop(), node.output[0]
            node.output[0] = f"{result}.product"
            nodes.append(helper.make_node("Add", [node.output[0], added], [result], name=f"n{count}.sum"))
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    return plain


# --- measuring -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What a way does to our network; differences are those from the float file."""

    way: str
    size_bytes: int
    hop_us: float
    gain_most: float = 0.0
    gain_mean: float = 0.0
    snr_db: float = float("inf")
    pesq: float = float("nan")
    pesq_loss: float = float("nan")


@dataclass(frozen=True)
class Gate:
    """What a way must keep."""

    most_bytes: int
    float_us: float

    def objections(self, found: Figures) -> list[str]:
        """Why a way is not taken; empty if it passes. A PESQ loss that nobody measured does not object."""
        said = []
        if found.size_bytes > self.most_bytes:
            said.append(f"{found.size_bytes / 1000:.1f} KB are more than {self.most_bytes / 1000:g}")
        if not found.snr_db >= LEAST_SNR_DB:
            said.append(f"output only {found.snr_db:.1f} dB above its error")
        if found.pesq_loss > MOST_PESQ_LOSS:
            said.append(f"{found.pesq_loss:.3f} PESQ lost")
        if found.hop_us > MOST_SLOWER * self.float_us:
            said.append(f"{found.hop_us:.0f} us a hop against {self.float_us:.0f} in float")
        return said


def enhance(hops: Hops, noisy: Floats) -> tuple[Floats, Floats]:
    """Through the box's transform: enhanced, lined up and as long as ``noisy``, and the gains [hops, 64]."""
    hops.reset()
    padded = np.concatenate([noisy, np.zeros(DELAY_SAMPLES + HOP_SAMPLES - len(noisy) % HOP_SAMPLES, np.float32)])
    spread, output, gains = band_weights(), np.zeros_like(padded), list[Floats]()
    for at, (transform, features) in zip(range(0, len(padded), HOP_SAMPLES), hops_of(padded), strict=True):
        gains.append(hops.step(features)[0])
        transform.spectrum *= gains[-1] @ spread
        transform.synthesise(output[at : at + HOP_SAMPLES])
    return output[DELAY_SAMPLES : DELAY_SAMPLES + len(noisy)], np.array(gains)


def hop_us(sessions: list[Any], samples: Samples) -> list[float]:
    """Median time of one hop of each, taken in turns on the same inputs, so that all see the same machine."""
    times: list[list[float]] = [[] for _ in sessions]
    for at in range(TIMED_HOPS):
        row = slice(at % len(samples.features), at % len(samples.features) + 1)
        feed = {"features": samples.features[row], "state": samples.state[row]}
        for session, taken in zip(sessions, times, strict=True):
            began = time.perf_counter()
            session.run(None, feed)
            taken.append(time.perf_counter() - began)
    return [1e6 * float(np.median(taken)) for taken in times]


def compare(
    models: dict[str, onnx.ModelProto],
    samples: Samples,
    sounds: list[tuple[Floats, Floats | None]],
    tick: Callable[[], object] = lambda: None,
) -> list[Figures]:
    """Every model's figures; the first is the float one. ``sounds``: noisy, and clean if PESQ is to be taken."""
    sessions = {way: open_session(model) for way, model in models.items()}
    streams = {way: Hops(sessions[way], silence_of(model)) for way, model in models.items()}
    times = dict(zip(models, hop_us([*sessions.values()], samples), strict=True))
    pesq: dict[str, list[float]] = {way: [] for way in models}
    outputs: dict[str, list[Floats]] = {way: [] for way in models}
    gains: dict[str, list[Floats]] = {way: [] for way in models}
    first = next(iter(models))
    for noisy, clean in sounds:
        for way, stream in streams.items():
            heard, said = enhance(stream, noisy)
            outputs[way].append(heard)
            gains[way].append(said)
            if clean is not None:
                pesq[way].append(pesq_wb(clean, heard))
        tick()
    judged = {way: float(np.nanmean(values)) if np.isfinite(values).any() else np.nan for way, values in pesq.items()}
    apart = {way: np.abs(np.concatenate(gains[way]) - np.concatenate(gains[first])) for way in models}
    return [
        Figures(
            way=way,
            size_bytes=models[way].ByteSize(),
            hop_us=times[way],
            gain_most=float(apart[way].max()),
            gain_mean=float(apart[way].mean()),
            snr_db=snr_db(np.concatenate(outputs[first]), np.concatenate(outputs[way])),
            pesq=judged[way],
            pesq_loss=judged[first] - judged[way],
        )
        for way in models
    ]


def choose(figures: list[Figures], most_bytes: int) -> tuple[Figures | None, str]:
    """The smallest way that passes the gate, and one sentence why; None if none passes."""
    gate = Gate(most_bytes, figures[0].hop_us)
    objections = {found.way: gate.objections(found) for found in figures[1:]}
    refused = "; ".join(f"{way} does not pass: {', '.join(said)}" for way, said in objections.items() if said)
    passing = sorted((found for found in figures[1:] if not objections[found.way]), key=lambda found: found.size_bytes)
    if not passing:
        return None, refused
    best = passing[0]
    why = f"{best.way} is chosen: the smallest that passes, {best.size_bytes / 1000:.1f} KB, {best.hop_us:.0f} us a hop"
    return best, f"{why}, output {best.snr_db:.1f} dB above its error" + (f"; {refused}." if refused else ".")


# --- the two runs --------------------------------------------------------------------------------------------------


def ours(asked: argparse.Namespace, model: onnx.ModelProto) -> int:
    """Both ways, the gate, the table, the files; 1 if none passes."""
    beside = asked.out.with_suffix(".npz")
    can_write(beside)
    given = read_samples(asked.calibration, len(silence_of(model))) if asked.calibration else None
    if given and beside.exists() and beside.samefile(asked.calibration):
        raise BadRequest(f"{beside}: the NumPy weights would overwrite --calibration; give --out another name")
    streams = [] if given else [read(file) for file in find(asked.sounds)]
    judge = importlib.util.find_spec("pesq") is not None
    sounds = [(sound.noisy, sound.clean if judge else None) for sound in read_pairs(asked.pairs)]
    most_bytes = round(1000 * asked.most_kb)
    packed = pack(numbers(model))
    if len(packed) > most_bytes:
        print(f"quantize: nothing written, the NumPy weights have {len(packed)} bytes", file=sys.stderr)
        return 1
    with progress() as bar:
        task = bar.add_task("calibrating", total=len(streams) + 1 + len(sounds))
        hops = Hops(open_session(model), silence_of(model))
        samples = given or collect(hops, streams, asked.every, lambda: bar.advance(task))
        models = {"float": model, "weights": compact(model), "static": static(model, samples)}
        bar.update(task, advance=1, description="measuring")
        figures = compare(models, samples, sounds, lambda: bar.advance(task))
    best, why = choose(figures, most_bytes)
    console = Console()
    console.print(table_of(figures, len(sounds)))
    if not judge:
        console.print(f"pesq is not installed ({command_for('evaluate')}): PESQ was not measured")
    if best is None:
        print(f"quantize: nothing written, {why}", file=sys.stderr)
        return 1
    console.print(why, soft_wrap=True, highlight=False)
    write_whole(beside, lambda content: content.write(packed))
    size = write_whole(asked.out, lambda content: content.write(models[best.way].SerializeToString()))
    console.print(f"{asked.out}: {size} bytes; NumPy weights beside it: {len(packed)} bytes", soft_wrap=True)
    return 0


def pack(arrays: dict[str, Array]) -> bytes:
    """An .npz as of np.savez_compressed, but without its 20 bytes an array for huge files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, values in arrays.items():
            raw = io.BytesIO()
            np.lib.format.write_array(raw, values, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), raw.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return content.getvalue()


def table_of(figures: list[Figures], sounds: int) -> Table:
    table = Table(title=f"against float, {sounds} recordings", title_justify="left")
    for heading in ("way", "bytes", "us a hop", "largest gain error", "mean", "SNR dB", "PESQ", "PESQ loss"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for found in figures:
        quality = (found.gain_most, found.gain_mean, found.snr_db, found.pesq, found.pesq_loss)
        texts = (f"{value:.{digits}f}" for value, digits in zip(quality, (3, 4, 1, 3, 3), strict=True))
        table.add_row(found.way, str(found.size_bytes), f"{found.hop_us:.1f}", *texts)
    return table


def theirs(asked: argparse.Namespace, model: onnx.ModelProto) -> int:
    """Somebody else's model: int8 weights, a table of what became int8, one run beside the float one."""
    chosen = weights_of(model)
    if not chosen:
        raise BadRequest(f"{asked.model}: holds no float weights of a product, convolution or recurrent layer")
    opset = min((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < LEAST_OPSET:
        raise BadRequest(f"{asked.model}: is of opset {opset}; from {LEAST_OPSET} on Mul broadcasts a scale over a row")
    if odd := [name for name in chosen if not np.isfinite(initializers(model)[name]).all()]:
        raise BadRequest(f"{asked.model}: its tensor {odd[0]} holds NaN or infinite weights")
    small = weights_only(model)
    feed = draw_inputs(model)
    sessions = [open_session(model), open_session(small)]
    stored, bytes_of = initializers(model), dict[str, Counter[str]]()
    for node in every_node(model.graph):
        kinds = bytes_of.setdefault(node.op_type, Counter())
        kinds["nodes"] += 1
        for name in {*node.input} & stored.keys():
            if stored[name].dtype == np.float32:
                kinds["int8" if name in chosen else "float"] += stored[name].size
    table = Table(title="stored data types by operator", title_justify="left")
    for heading in ("operator", "nodes", "int8", "float"):
        table.add_column(heading, justify="left" if heading == "operator" else "right")
    for operator, kinds in sorted(bytes_of.items(), key=lambda item: -item[1]["int8"] - item[1]["float"]):
        if kinds["int8"] + kinds["float"]:
            table.add_row(operator, *(str(kinds[key]) for key in ("nodes", "int8", "float")))
    console = Console()
    console.print(table)
    kept = sorted(operator for operator, kinds in bytes_of.items() if not kinds["int8"])
    console.print(f"All operators compute in float; with no int8 weights at all: {', '.join(kept)}.", soft_wrap=True)
    try:
        before, after = (session.run(None, feed) for session in sessions)
    except Exception as error:  # sizes left free, inputs that are indices: anything may be wrong with drawn ones
        console.print(f"Not run; it rejects random inputs: {str(error).splitlines()[0]}", soft_wrap=True)
    else:
        ratios = [snr_db(a, b) for a, b in zip(before, after, strict=True) if a.dtype == np.float32]
        said = ", ".join(f"{ratio:.0f}" for ratio in ratios)
        console.print(f"One run on random inputs: output-to-error ratio {said} dB.", soft_wrap=True)
    size = write_whole(asked.out, lambda content: content.write(small.SerializeToString()))
    console.print(f"{asked.out}: {size} bytes, {asked.model} has {model.ByteSize()}", soft_wrap=True)
    return 0


def snr_db(wanted: Array, got: Array) -> float:
    """How far ``wanted`` lies above its difference from ``got``; infinite where they are equal."""
    signal, error = (float(np.square(x, dtype=np.float64).sum()) for x in (wanted, got - wanted))
    return 10 * float(np.log10(max(signal, 1e-300) / error)) if error else float("inf")


def draw_inputs(model: onnx.ModelProto) -> dict[str, Array]:
    """Normal numbers for every input that takes float32; a free size is 1."""
    draw, feed = np.random.default_rng(1), dict[str, Array]()
    stored = {entry.name for entry in model.graph.initializer}
    for value in model.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        if kind.elem_type == TensorProto.FLOAT:
            shape = [dimension.dim_value or 1 for dimension in kind.shape.dim]
            feed[value.name] = draw.normal(0, 0.1, shape).astype(np.float32)
    return feed


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m quant.quantize", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", type=Path, required=True, metavar="F.onnx", help="float model, of this project or another"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="F.onnx", help="output file of the quantized model")
    parser.add_argument(
        "--sounds", type=Path, nargs="+", default=[SOUNDS], metavar="DIR", help="folders of recordings for calibration"
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="F.npz", help="output of quant.calibrate, instead of recordings"
    )
    parser.add_argument("--every", type=int, default=5, help="use every n-th hop of the streams (default %(default)s)")
    parser.add_argument(
        "--pairs",
        type=Path,
        default=SOUNDS.parent,
        metavar="DIR",
        help="folder with clean/ and noisy/ for the measurement",
    )
    parser.add_argument(
        "--most-kb", type=float, default=100.0, help="largest file, in 1000 bytes (default %(default)g)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """0; 1 if nothing passes the gate; 2 after one line that says what is wrong."""
    asked = arguments(argv)
    try:
        if asked.every < 1 or not asked.most_kb > 0:
            raise BadRequest("--every and --most-kb need numbers above zero")
        can_write(asked.out)
        model = read_model(asked.model)
        if asked.out.suffix != ".onnx" or (asked.out.exists() and asked.out.samefile(asked.model)):
            raise BadRequest(f"{asked.out}: --out needs another file than --model, called .onnx")
        if any("QuantizeLinear" in node.op_type for node in every_node(model.graph)):
            raise BadRequest(f"{asked.model}: is quantized already; give its float version")
        if metadata_of(model).get("weights") == "int8":
            raise BadRequest(f"{asked.model}: holds int8 weights already; give its float version")
        return ours(asked, model) if is_ours(model) else theirs(asked, model)
    except BadRequest as error:
        print(f"quantize: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    run_main(main, "quantize")

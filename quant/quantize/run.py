"""The two runs: a network of ours with its gate, and somebody else's model."""

import argparse
import sys
from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto
from rich.console import Console
from rich.table import Table

from edge import command_for
from models.command import BadRequest, installed
from quant.calibrate import collect, find, progress, read, read_samples
from quant.evaluate.sounds import read_pairs
from quant.graph import can_write, initializers, is_ours, metadata_of, open_session, read_model, silence_of, write_whole
from quant.hops import Hops
from quant.quantize.activations import static
from quant.quantize.compact import compact, numbers, pack
from quant.quantize.gate import choose, compare, snr_db, table_of
from quant.quantize.weights import Array, every_node, weights_of, weights_only

LEAST_OPSET = 7


def quantize(asked: argparse.Namespace) -> int:
    """0; 1 if no variant passes the gate. Raises UserError; the options are those of ``quant.quantize``."""
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


def ours(asked: argparse.Namespace, model: onnx.ModelProto) -> int:
    """Both variants, the gate, the table, the files; 1 if none passes."""
    beside = asked.out.with_suffix(".npz")
    can_write(beside)
    given = read_samples(asked.calibration, len(silence_of(model))) if asked.calibration else None
    if given and beside.exists() and beside.samefile(asked.calibration):
        raise BadRequest(f"{beside}: the NumPy weights would overwrite --calibration; give --out another name")
    streams = [] if given else [read(file) for file in find(asked.sounds)]
    measures_pesq = installed("pesq")
    sounds = [(sound.noisy, sound.clean if measures_pesq else None) for sound in read_pairs(asked.pairs)]
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
    if not measures_pesq:
        console.print(f"pesq is not installed ({command_for('evaluate')}): PESQ was not measured")
    if best is None:
        print(f"quantize: nothing written, {why}", file=sys.stderr)
        return 1
    console.print(why, soft_wrap=True, highlight=False)
    write_whole(beside, lambda content: content.write(packed))
    size = write_whole(asked.out, lambda content: content.write(models[best.variant].SerializeToString()))
    console.print(f"{asked.out}: {size} bytes; NumPy weights beside it: {len(packed)} bytes", soft_wrap=True)
    return 0


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

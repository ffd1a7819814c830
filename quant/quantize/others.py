"""Somebody else's model: int8 weights where they keep the outputs, a table of the file's content, one run beside it."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

from models.command import BadRequest
from quant.graph import initializers, open_session, write_whole
from quant.history import recorded, step
from quant.quantize.folding import constant_of, graphs_of, is_bulky, plain_weights
from quant.quantize.gate import snr_db
from quant.quantize.weights import FLOATS, SMALLEST, Array, classified, every_node, row_snr_db, weights_only

LEAST_OPSET = 7
LEAST_WEIGHT_DB = 20.0
"""A matrix stays float where int8 leaves less of a row. A row of up to 600 weights keeps more whatever it holds, as
long as its scale is one of float32's normal numbers: n errors of half a step of the peak's 1/127, 127^2 4 / n."""
LEAST_OUTPUT_DB = 10.0
"""Of every output over its error. On random inputs sound networks have 12 dB and more (GTCRN: 12 to 32)."""

WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL)
"""Types of inputs that are indices, counts or switches: 0 and 1 suit most."""
FIXED = "an output or input of its graph"


@dataclass
class Attempt:
    """One choice of matrices that stay float, and what a run beside the float model gave."""

    model: onnx.ModelProto
    ratios_db: dict[str, float] = field(default_factory=dict)
    """Of every output that can be compared."""
    notes: list[str] = field(default_factory=list)
    """Why others, or all, cannot."""

    @property
    def lowest_db(self) -> float:
        return min(self.ratios_db.values(), default=np.inf)


def theirs(asked: argparse.Namespace, model: onnx.ModelProto) -> int:
    """0, or 1 if nothing is written because the outputs fall below LEAST_OUTPUT_DB. Raises UserError."""
    opset = min((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < LEAST_OPSET:
        raise BadRequest(f"{asked.model}: is of opset {opset}; from {LEAST_OPSET} on Mul broadcasts a scale over a row")
    plain = plain_weights(model)
    chosen, reasons = classified(plain)
    stored = initializers(plain)
    if not chosen:
        largest = max(reasons, key=lambda name: stored[name].size, default="")
        why = f"; its largest tensor, {largest}: {reasons[largest]}" if largest else ""
        raise BadRequest(f"{asked.model}: holds no float weights of a product, convolution or recurrent layer{why}")
    if odd := [name for name in chosen if not np.isfinite(stored[name]).all()]:
        raise BadRequest(f"{asked.model}: its tensor {odd[0]} holds NaN or infinite weights")
    kept = {name: row_snr_db(stored[name], axis) for name, axis in chosen.items()}
    lossy = {name for name, (row_db, _) in kept.items() if not row_db >= LEAST_WEIGHT_DB}
    order = sorted(chosen.keys() - lossy, key=lambda name: (kept[name][1], name))
    best, extra = search(plain, lossy, order, comparison(model))
    passes = best.lowest_db >= LEAST_OUTPUT_DB and len(lossy) + len(extra) < len(chosen)
    if not passes and asked.force:
        lossy, extra = set(), []
        best = comparison(model)(weights_only(plain))
    reasons |= {name: f"int8 leaves {kept[name][0]:.0f} dB of a row, at least {LEAST_WEIGHT_DB:g}" for name in lossy}
    reasons |= {name: f"in int8 an output falls below {LEAST_OUTPUT_DB:g} dB" for name in extra}
    small = recorded(best.model, step("quantize", asked.model))
    console = Console()
    console.print(table_of(small, plain, reasons))
    stays = reasons.keys() & chosen.keys()
    report(console, best, plain, chosen.keys() - stays, stays)
    if not passes and not asked.force:
        print(f"quantize: nothing written, {objection(best)}; --force writes it", file=sys.stderr)
        return 1
    size = write_whole(asked.out, lambda content: content.write(small.SerializeToString()))
    console.print(f"{asked.out}: {size} bytes, {asked.model} has {model.ByteSize()}", soft_wrap=True)
    return 0


def search(
    plain: onnx.ModelProto, lossy: set[str], order: list[str], measured: Callable[[onnx.ModelProto], Attempt]
) -> tuple[Attempt, list[str]]:
    """The attempt with the fewest float matrices that passes, and those of ``order`` that stay float in it.

    ``order``: the matrices whose small weights lose most come first; 0, 1, 2, 4 ... of them stay float. If none passes
    the first attempt is returned.
    """
    count, first = 0, measured(weights_only(plain, lossy))
    attempt = first
    while attempt.lowest_db < LEAST_OUTPUT_DB:
        count = max(1, 2 * count)
        if count >= len(order):
            return first, []
        attempt = measured(weights_only(plain, lossy | {*order[:count]}))
    return attempt, order[:count]


def comparison(model: onnx.ModelProto) -> Callable[[onnx.ModelProto], Attempt]:
    """Runs a model beside the float ``model`` on the same random inputs."""
    names, feed = [value.name for value in model.graph.output], draw_inputs(model)
    wanted, refusal = list[Array](), ""
    try:
        wanted = open_session(model).run(None, feed)
    except BadRequest:
        raise
    except Exception as error:  # sizes left free, inputs that are indices: anything may be wrong with drawn ones
        refusal = f"Not run; it rejects random inputs: {str(error).splitlines()[0]}"

    def measured(small: onnx.ModelProto) -> Attempt:
        session = open_session(small)
        if refusal:
            return Attempt(small, {}, [refusal])
        found = Attempt(small)
        for name, before, after in zip(names, wanted, session.run(None, feed), strict=True):
            if why := incomparable(before, after):
                found.notes.append(f"Output {name} is not compared: {why}.")
            else:
                found.ratios_db[name] = ratio_db(before, after)
        return found

    return measured


def incomparable(before: Array, after: Array) -> str:
    """Why the ratio of an output to its error means nothing; empty if it does."""
    if not (isinstance(before, np.ndarray) and before.dtype.kind == "f"):
        return "it holds no floats"
    if before.shape != after.shape:
        return f"its shape depends on the data, {before.shape} and {after.shape}"
    if not before.size or not np.isfinite(before).all():
        return "it is empty" if not before.size else "the float model gives NaN or infinite values"
    return ""


def ratio_db(before: Array, after: Array) -> float:
    """``snr_db`` for values of any size, whose squares may be no numbers of double precision."""
    if not np.isfinite(after).all():
        return -np.inf
    peak = float(np.abs(before).max()) or 1.0
    return snr_db(before.astype(np.float64) / peak, after.astype(np.float64) / peak)


def objection(found: Attempt) -> str:
    """What is wrong with the whole model."""
    if found.lowest_db < LEAST_OUTPUT_DB:
        name = min(found.ratios_db, key=lambda one: found.ratios_db[one])
        return (
            f"output {name} is {found.ratios_db[name]:.0f} dB above its error, at least {LEAST_OUTPUT_DB:g} are needed"
        )
    return f"every weight falls below its limit of {LEAST_WEIGHT_DB:g} dB"


def report(console: Console, found: Attempt, plain: onnx.ModelProto, narrow: set[str], float_weights: set[str]) -> None:
    """What the table does not say: operators without int8 (``narrow``: what became int8), and the run."""
    nodes = every_node(plain.graph)
    kept = sorted({node.op_type for node in nodes} - {node.op_type for node in nodes if narrow & {*node.input}})
    without = f"; with no int8 weights at all: {', '.join(kept)}" if kept else ""
    console.print(f"All operators compute in float{without}.", soft_wrap=True)
    if float_weights:
        said = ", ".join(sorted(float_weights))
        console.print(f"Weights that stay float: {said}.", soft_wrap=True, highlight=False, markup=False)
    for note in found.notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    if found.ratios_db:
        said = ", ".join(f"{ratio:.0f}" for ratio in found.ratios_db.values())
        console.print(f"One run on random inputs: output-to-error ratio {said} dB.", soft_wrap=True)


@dataclass
class Content:
    """What one row of the table adds up."""

    tensors: int = 0
    numbers: int = 0
    size_bytes: int = 0

    def add(self, tensor: onnx.TensorProto) -> None:
        self.tensors += 1
        self.numbers += int(np.prod(tensor.dims))
        self.size_bytes += tensor.ByteSize()


def contents_of(
    small: onnx.ModelProto, plain: onnx.ModelProto, reasons: dict[str, str]
) -> dict[tuple[str, str], Content]:
    """(content, why it is not int8) -> what the file holds of it; the bytes add up to the file's size.

    ``small`` is made of ``plain``; ``reasons``: why a stored tensor stays float.
    """
    before, found = {entry.name for entry in plain.graph.initializer}, dict[tuple[str, str], Content]()

    def add(tensor: onnx.TensorProto, what: str, why: str = "") -> None:
        found.setdefault((what, why), Content()).add(tensor)

    for graph in graphs_of(small.graph):
        for tensor in graph.initializer:
            is_new = graph is small.graph and tensor.name not in before
            if tensor.data_type in FLOATS:
                why = reasons.get(tensor.name, FIXED) if graph is small.graph else unlifted(tensor)
                add(tensor, *(("scales", "") if is_new else ("float", why)))
            else:
                is_int8 = is_new and tensor.data_type == TensorProto.INT8
                add(tensor, "int8 weights" if is_int8 else "integers and others")
        for node in graph.node:
            if (constant := constant_of(node)) is not None:
                is_float = constant.data_type in FLOATS
                add(constant, *(("float", unlifted(constant)) if is_float else ("integers and others", "")))
    rest = small.ByteSize() - sum(content.size_bytes for content in found.values())
    found["nodes, names, metadata", ""] = Content(size_bytes=rest)
    return found


def unlifted(tensor: onnx.TensorProto) -> str:
    """Why a tensor of a Constant node, or inside a body, was not moved to the graph's stored tensors."""
    return FIXED if is_bulky(tensor) else f"fewer than {SMALLEST} numbers"


def table_of(small: onnx.ModelProto, plain: onnx.ModelProto, reasons: dict[str, str]) -> Table:
    """What the file holds, largest first."""
    table = Table(title="content of the file", title_justify="left")
    for heading in ("content", "tensors", "numbers", "bytes", "why not int8"):
        table.add_column(heading, justify="left" if heading in ("content", "why not int8") else "right")
    found = contents_of(small, plain, reasons)
    for (what, why), content in sorted(found.items(), key=lambda item: -item[1].size_bytes):
        counts = (str(content.tensors), str(content.numbers)) if content.tensors else ("", "")
        table.add_row(what, *counts, str(content.size_bytes), why)
    table.add_row("total", "", "", str(small.ByteSize()), "")
    return table


def draw_inputs(model: onnx.ModelProto) -> dict[str, Array]:
    """Normal numbers for every input that takes floats, 0 or 1 for integers and truth values; a free size is 1."""
    draw, feed = np.random.default_rng(1), dict[str, Array]()
    stored = {entry.name for entry in model.graph.initializer}
    for value in model.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        shape = [dimension.dim_value or 1 for dimension in kind.shape.dim]
        if kind.elem_type in FLOATS:
            feed[value.name] = draw.normal(0, 0.1, shape).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        elif kind.elem_type in WHOLE:
            feed[value.name] = draw.integers(0, 2, shape).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return feed

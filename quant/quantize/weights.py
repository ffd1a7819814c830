"""int8 weights in any model: which tensors are weights, their scales, and the nodes that widen them again."""

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quant.graph import initializers, metadata_of

SMALLEST = 64
"""Tensors of fewer numbers are not worth a node."""

Array = NDArray[Any]

WEIGHT_PLACES = {"Gemm": (1,), "MatMul": (0, 1), "Conv": (1,), "ConvTranspose": (1,)} | dict.fromkeys(
    ("GRU", "LSTM", "RNN"), (1, 2)
)
"""Which inputs of an operator may be a weight."""
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
SCALE_RANGE = {np.float16: (6e-8, 65504.0), np.float32: (2.0**-126, 2.0**121)}
"""Smallest and largest scale: float16's range; float32's normal numbers, and 127 times the largest is finite."""
OUTLIERS = 0.01
"""The share of a row, at least one weight, that its bulk leaves out."""


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


def classified(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, str]]:
    """Every stored float tensor: name -> axis of the outputs of those that only serve as a weight; name -> why the
    others stay float.
    """
    stored = initializers(model)
    floats = [entry.name for entry in model.graph.initializer if entry.data_type in FLOATS]
    readers: dict[str, set[str]] = {name: set() for name in floats}
    axes: dict[str, set[int | None]] = {}
    for node in every_node(model.graph):
        for place, name in enumerate(node.input):
            if name in readers:
                axis = row_axis(node, place, stored[name].ndim) if stored[name].ndim > 1 else None
                axes.setdefault(name, set()).add(axis)
                if axis is None:
                    readers[name].add(node.op_type)
    outputs = {value.name for value in model.graph.output}
    chosen, reasons = dict[str, int](), dict[str, str]()
    for name, found in (axes | {name: set() for name in floats if name not in axes}).items():
        axis, others = next(iter(found), None), ", ".join(sorted(readers[name]))
        if stored[name].size < SMALLEST:
            reasons[name] = f"fewer than {SMALLEST} numbers"
        elif name in outputs:
            reasons[name] = "is an output of the model"
        elif len(found) == 1 and axis is not None:
            chosen[name] = axis
        elif others:
            reasons[name] = f"read by {others}" + (" as well" if found - {None} else ", not as a weight")
        else:
            reasons[name] = "a weight in two layouts" if found else "not read"
    return chosen, reasons


def weights_of(model: onnx.ModelProto) -> dict[str, int]:
    """Name -> axis of the outputs, for every stored float matrix that only serves as a weight."""
    return classified(model)[0]


def every_node(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The graph's nodes and those of the graphs inside them (If, Loop, Scan)."""
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                nodes += every_node(inner)
    return nodes


def to_int8(
    matrix: Array, axis: int, scale_type: type[np.float16] | type[np.float32] = np.float16
) -> tuple[NDArray[np.int8], Array]:
    """int8 of the same shape, -127..127, and a scale a row along ``axis``: their product is the matrix.

    The scale is rounded first, so that only the weights' own rounding remains. Whole numbers keep themselves.
    """
    matrix = matrix.astype(np.float32) if matrix.dtype == np.float16 else matrix
    rows = rows_of(matrix, axis)
    peak = np.abs(rows).max(axis=1, initial=0)
    scale = np.where(peak > 0, peak / 127, 1)
    scale[(rows == np.round(rows)).all(axis=1) & (peak <= 127)] = 1
    rounded = np.clip(scale, *SCALE_RANGE[scale_type]).astype(scale_type)
    shape = [-1 if at == axis else 1 for at in range(matrix.ndim)]
    quotient = np.round(matrix / rounded.astype(np.float32).reshape(shape))
    return np.clip(quotient, -127, 127).astype(np.int8), rounded


def rows_of(matrix: Array, axis: int) -> Array:
    """[outputs, weights of each]: the matrix with ``axis`` first and the others in one."""
    count = matrix.shape[axis]
    return np.moveaxis(matrix, axis, 0).reshape(count, matrix.size // max(count, 1))


def row_snr_db(matrix: Array, axis: int) -> tuple[float, float]:
    """What int8 costs the row that it costs most: energy of its weights over that of their rounding errors, in dB.

    Second, the same without the largest 1 % of each row (at least one weight): an outlier makes the steps of its row
    large, and hides the loss of the others. Infinite where nothing is lost.
    """
    whole, scale = to_int8(matrix, axis, np.float32)
    rows = rows_of(matrix.astype(np.float64 if matrix.dtype == np.float64 else np.float32), axis)
    peak = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    peak[peak == 0] = 1
    rows = rows / peak
    error = rows - rows_of(whole, axis) * (scale[:, None] / peak).astype(rows.dtype)
    found = [_lowest_db(rows, error)]
    size = rows.shape[1]
    bulk = np.argpartition(np.abs(rows), size - max(1, int(OUTLIERS * size)), axis=1)[
        :, : size - max(1, int(OUTLIERS * size))
    ]
    found.append(_lowest_db(*(np.take_along_axis(part, bulk, axis=1) for part in (rows, error))))
    return found[0], found[1]


def _lowest_db(rows: Array, error: Array) -> float:
    signal, noise = (np.square(part, dtype=np.float64).sum(axis=1) for part in (rows, error))
    lossy = noise > 0
    return float(10 * np.log10(np.maximum(signal[lossy], 1e-300) / noise[lossy]).min(initial=np.inf))


class Shrinking:
    """A model whose stored tensors are being replaced by smaller ones and the nodes that widen them again."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.stored = initializers(model)
        self._originals = {entry.name: entry for entry in model.graph.initializer}
        self._untouched = dict(self.stored)
        self._taken = {name for node in every_node(model.graph) for name in node.output}
        self._taken |= {value.name for value in model.graph.input} | {*self.stored}
        self._widening: list[onnx.NodeProto] = []
        self._count = 0

    def store(self, values: Array) -> str:
        name = self._fresh()
        self.stored[name] = values
        return name

    def _fresh(self) -> str:
        """A name that the model does not use."""
        while True:
            self._count += 1
            if (name := f"int8.{self._count}") not in self._taken:
                return name

    def apply(self, operation: str, *inputs: str, names: list[str] | None = None, **attributes: Any) -> str:
        outputs = names or [self._fresh()]
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
        inputs = [
            value for value in graph.input if value.name not in self._originals
        ]  # old files list stored tensors, too
        del graph.node[:], graph.initializer[:], graph.value_info[:], graph.input[:]
        graph.input.extend(inputs)
        graph.node.extend(nodes)
        graph.initializer.extend(self._tensor(name, values) for name, values in self.stored.items())
        if short_names:
            rename(graph)
        helper.set_model_props(self.model, metadata_of(self.model) | metadata)
        return self.model

    def _tensor(self, name: str, values: Array) -> onnx.TensorProto:
        """As it came, with its description, if nothing replaced it."""
        if self._untouched.get(name) is values:
            return self._originals[name]
        return numpy_helper.from_array(np.asarray(values, order="C"), name)


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


def weights_only(model: onnx.ModelProto, stay: Collection[str] = ()) -> onnx.ModelProto:
    """Any model with int8 weights in place of its float matrices, but those named in ``stay``."""
    small = Shrinking(model)
    for name, axis in weights_of(model).items():
        if name in stay:
            continue
        matrix = small.stored.pop(name)
        whole, scale = to_int8(matrix, axis, np.float32)
        shape = [-1 if at == axis else 1 for at in range(matrix.ndim)]
        wide = small.apply("Cast", small.store(whole), to=TensorProto.FLOAT)
        if matrix.dtype == np.float32:
            small.apply("Mul", wide, small.store(scale.reshape(shape)), names=[name])
        else:
            product = small.apply("Mul", wide, small.store(scale.reshape(shape)))
            small.apply("Cast", product, names=[name], to=helper.np_dtype_to_tensor_dtype(matrix.dtype))
    small.narrow_integers()
    return small.finish({})

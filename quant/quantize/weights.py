"""int8 weights in any model: which tensors are weights, their scales, and the nodes that widen them again."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.dsp.spectrum import Floats
from quant.graph import (
    initializers,
    metadata_of,
)

SMALLEST = 64
"""Tensors of fewer numbers are not worth a node."""

Array = NDArray[Any]


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

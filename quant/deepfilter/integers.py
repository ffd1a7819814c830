"""The graphs of one frame in int8: the GRUs written out as products of int8, other weights stored as int8."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quant.deepfilter.streaming import constant
from quant.graph import initializers
from quant.history import keep_header
from quant.quantize.activations import quiet
from quant.quantize.weights import weights_only


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """The GRUs' products in int8, everything else with int8 weights that are widened at load."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, names = recurrent_as_products(model)
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(plain, source)
        quantize_dynamic(source, target, nodes_to_quantize=names, per_channel=True, weight_type=QuantType.QInt8)
        return keep_header(weights_only(onnx.load(target)), model)


def recurrent_as_products(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Each GRU of one frame as two MatMul and what follows; also the names of these MatMul.

    z, r = sigmoid(W x + R h + b), n = tanh(W x + b + r (R h + b)), h' = n + z (h - n): the GRU whose reset comes after
    its product (linear_before_reset), as PyTorch has it.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph, stored = plain.graph, initializers(model)
    nodes, names = [], list[str]()
    for node in model.graph.node:
        if node.op_type != "GRU":
            nodes.append(node)
            continue
        sequence, last = node.output[:2]
        (weight,), (recurrent,), (biases,) = (stored[node.input[place]] for place in (1, 2, 3))
        units = recurrent.shape[1]

        def make(kind: str, inputs: list[str], *outputs: str, at: str = last, **attributes: Any) -> str:
            found = [f"{at}.{name}" for name in outputs]
            nodes.append(helper.make_node(kind, inputs, found, found[0], **attributes))
            return found[0]

        parts = []
        row = constant(graph, f"{last}.row", 1, units)
        for x, matrix, bias in zip("xh", (weight, recurrent), np.split(biases, 2), strict=True):
            for name, values in ((f"{last}.{x}.weight", matrix.T), (f"{last}.{x}.bias", bias)):
                graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
            flat = make("Reshape", [node.input[0 if x == "x" else 5], row], x)
            names.append(make("MatMul", [flat, f"{last}.{x}.weight"], f"{x}.product"))
            total = make("Add", [names[-1], f"{last}.{x}.bias"], f"{x}.sum")
            make("Split", [total], f"{x}.zr", f"{x}.n", axis=1, split=[2 * units, units])
            parts.append(f"{last}.{x}")
        zr = make("Sigmoid", [make("Add", [f"{part}.zr" for part in parts], "zr.sum")], "zr")
        make("Split", [zr], "z", "r", axis=1, split=[units, units])
        reset = make("Mul", [f"{last}.r", f"{last}.h.n"], "reset")
        new = make("Tanh", [make("Add", [f"{last}.x.n", reset], "n.sum")], "n")
        kept = make("Mul", [f"{last}.z", make("Sub", [f"{last}.h", new], "change")], "kept")
        state = make("Add", [new, kept], "state")
        for name, shape in ((last, (1, 1, units)), (sequence, (1, 1, 1, units))):
            sizes = constant(graph, f"{name}.shape", *shape)
            nodes.append(helper.make_node("Reshape", [state, sizes], [name], f"{name}.out"))
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept_values = [value for value in graph.initializer if value.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept_values)
    onnx.checker.check_model(plain)
    return plain, names

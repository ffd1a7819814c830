"""A graph with UL-UNAS's inputs and outputs, made on the spot: what its owners publish is not needed for any test."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from edge.suppress.foreign.ulunas import STATES

onnx = pytest.importorskip("onnx")


def graph(path: Path, gain: float = 1.0, states: Mapping[str, int] = STATES, memory: float = 0.0) -> Path:
    """It multiplies the spectrum by ``gain / (1 + memory * m)``; m is the mean magnitude of all frames so far, each
    worth 0.9 of the next, and lies in the first and the last state.
    """
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    sound, names = [1, 257, 1, 2], [*states]
    node = helper.make_node
    nodes = [
        node("Abs", ["mix"], ["parts"]),
        node("ReduceMean", ["parts"], ["mean"], axes=[1, 2, 3], keepdims=0),
        *(node("Mul", [name, "keep"], [f"{name}_kept"]) for name in names),
        *(node("Add", [f"{name}_kept", "mean"], [f"{name}_out"]) for name in names),
        node("ReduceMean", [names[0]], ["first"], axes=[0, 1], keepdims=0),
        node("ReduceMean", [names[-1]], ["last"], axes=[0, 1], keepdims=0),
        node("Add", ["first", "last"], ["held"]),
        node("Mul", ["held", "memory"], ["weighed"]),
        node("Add", ["weighed", "one"], ["divisor"]),
        node("Div", ["gain", "divisor"], ["mask"]),
        node("Mul", ["mix", "mask"], ["enh"]),
    ]
    values = {"gain": gain, "keep": 0.9, "memory": memory / 2, "one": 1.0}

    def infos(end: str, signal: str) -> list[object]:
        shaped = [(signal, sound), *((f"{name}{end}", [1, size]) for name, size in states.items())]
        return [helper.make_tensor_value_info(name, real, shape) for name, shape in shaped]

    constants = [helper.make_tensor(name, real, [1], [value]) for name, value in values.items()]
    made = helper.make_graph(nodes, "ulunas", infos("", "mix"), infos("_out", "enh"), constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path

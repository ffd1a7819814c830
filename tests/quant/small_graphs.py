"""Small graphs of other projects' kinds, for quant.quantize, and what quantizing each must give."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE
SIZE = 32
Node, Array = Any, Any


def weights(*shape: int, seed: int = 1, scale: float = 1.0, kind: Any = np.float32) -> Array:
    return (scale * np.random.default_rng(seed).normal(0, 1, shape)).astype(kind)


def value(name: str, shape: list[Any], kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(
    nodes: list[Node], stored: dict[str, Array], x: list[int], kind: int = FLOAT, opset: int = 17, **more: Any
) -> Any:
    """x -> y, whose sizes are left open."""
    rank = more.pop("rank", len(x))
    graph = helper.make_graph(
        nodes,
        "case",
        [value("x", x, kind)],
        [value("y", [None] * rank, more.pop("gives", kind))],
        [numpy_helper.from_array(data, name) for name, data in stored.items()],
    )
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=more.pop("ir_version", 8), **more)


def product(data: Array, opset: int = 17, kind: int = FLOAT) -> Any:
    """y = x @ data."""
    return model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": data}, [4, data.shape[0]], kind, opset)


def behind(*nodes: Node, data: Array, more: dict[str, Array] | None = None) -> Any:
    """y = x @ v, where ``nodes`` make v of w."""
    last = helper.make_node("MatMul", ["x", "v"], ["y"])
    return model_of([*nodes, last], {"w": data} | (more or {}), [4, SIZE])


def node(kind: str, *inputs: str, out: str = "v", **attributes: Any) -> Node:
    return helper.make_node(kind, inputs, [out], **attributes)


def constant_node(data: Array, out: str = "w") -> Node:
    return helper.make_node("Constant", [], [out], value=numpy_helper.from_array(data))


def branching() -> Any:
    """Both branches store a weight of the same name; one transposes it."""
    bodies = []
    for seed, transposed in ((1, False), (2, True)):
        nodes = [node("Transpose", "w", out="v")] if transposed else []
        nodes.append(helper.make_node("MatMul", ["x", "v" if transposed else "w"], ["b"]))
        stored = [numpy_helper.from_array(weights(SIZE, SIZE, seed=seed), "w")]
        bodies.append(helper.make_graph(nodes, "body", [], [value("b", [4, SIZE])], stored))
    total = [
        node("ReduceSum", "x", out="s", keepdims=0),
        node("Greater", "s", "zero", out="more"),
        helper.make_node("If", ["more"], ["y"], then_branch=bodies[0], else_branch=bodies[1]),
    ]
    return model_of(total, {"zero": np.array(0, np.float32)}, [4, SIZE])


def looping() -> Any:
    inputs = [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("h", [4, SIZE])]
    outputs = [value("going", [], TensorProto.BOOL), value("next", [4, SIZE])]
    body = helper.make_graph(
        [
            node("Identity", "go", out="going"),
            constant_node(weights(SIZE, SIZE, scale=0.2)),
            node("MatMul", "h", "w", out="p"),
            node("Tanh", "p", out="next"),
        ],
        "body",
        inputs,
        outputs,
    )
    loop = helper.make_node("Loop", ["count", "true", "x"], ["y"], body=body)
    return model_of([loop], {"count": np.array(3, np.int64), "true": np.array(True)}, [4, SIZE])


def scanning() -> Any:
    body = helper.make_graph(
        [node("MatMul", "e", "w", out="p"), node("Add", "p", "s", out="n"), node("Identity", "n", out="o")],
        "body",
        [value("s", [SIZE]), value("e", [SIZE])],
        [value("n", [SIZE]), value("o", [SIZE])],
        [numpy_helper.from_array(weights(SIZE, SIZE), "w")],
    )
    scan = helper.make_node("Scan", ["zero", "x"], ["last", "y"], body=body, num_scan_inputs=1)
    return model_of([scan], {"zero": np.zeros(SIZE, np.float32)}, [4, SIZE])


def calling() -> Any:
    """A local function holds the weight."""
    function = helper.make_function(
        "local",
        "Dense",
        ["a"],
        ["c"],
        [constant_node(weights(SIZE, SIZE)), node("MatMul", "a", "w", out="c")],
        [helper.make_opsetid("", 17)],
    )
    call = helper.make_node("Dense", ["x"], ["y"], domain="local")
    local = helper.make_opsetid("local", 1)
    return model_of([call], {}, [4, SIZE], functions=[function], opsets=[local], doc_string="kept")


def recurrent(kind: str) -> Any:
    gates = {"GRU": 3, "LSTM": 4, "RNN": 1}[kind]
    stored = {"w": weights(1, gates * 8, SIZE, scale=0.3), "r": weights(1, gates * 8, 8, seed=2, scale=0.3)}
    return model_of([helper.make_node(kind, ["x", "w", "r"], ["y"], hidden_size=8)], stored, [5, 2, SIZE], rank=4)


def tied() -> Any:
    """An embedding that the output layer reads transposed: int8 for one of them would store both."""
    nodes = [
        node("Gather", "w", "rows", out="e"),
        node("Transpose", "w", out="v"),
        node("Add", "x", "e", out="a"),
        node("MatMul", "a", "v", out="y"),
        helper.make_node("MatMul", ["y", "own"], ["z"]),
    ]
    stored = {"w": weights(SIZE, SIZE), "rows": np.arange(4), "own": weights(SIZE, SIZE, seed=2)}
    model = model_of(nodes, stored, [4, SIZE])
    model.graph.output.append(value("z", [None, None]))
    return model


def with_outlier(size: float) -> Array:
    data = weights(SIZE, SIZE)
    data[3, 5] = size
    return data


def embedded() -> Any:
    """Rows of a table, by index."""
    nodes = [node("Gather", "table", "x", out="e"), node("MatMul", "e", "w", out="y")]
    stored = {"table": weights(50, SIZE), "w": weights(SIZE, SIZE, seed=2)}
    return model_of(nodes, stored, [4], TensorProto.INT64, rank=2, gives=FLOAT)


@dataclass(frozen=True)
class Case:
    """A graph and what quantizing it must give."""

    build: Callable[[], Any]
    float_weights: int = 0
    """Numbers in float tensors of 64 and more that remain."""
    least_db: float = 35.0
    """Of the output over its error."""


def half() -> Any:
    return product(weights(SIZE, SIZE, kind=np.float16), kind=HALF)


SQUARE = SIZE * SIZE
CASES = {
    "MatMul, opset 8": Case(lambda: product(weights(SIZE, SIZE), opset=8)),
    "MatMul, opset 13": Case(lambda: product(weights(SIZE, SIZE), opset=13)),
    "MatMul, opset 21": Case(lambda: product(weights(SIZE, SIZE), opset=21)),
    "MatMul, opset 23": Case(lambda: product(weights(SIZE, SIZE), opset=23)),
    "Gemm, transposed": Case(
        lambda: model_of([node("Gemm", "x", "w", out="y", transB=1)], {"w": weights(8, SIZE)}, [4, SIZE])
    ),
    "Conv": Case(lambda: model_of([node("Conv", "x", "w", out="y")], {"w": weights(8, 4, 5)}, [1, 4, 20])),
    "ConvTranspose": Case(
        lambda: model_of([node("ConvTranspose", "x", "w", out="y")], {"w": weights(4, 8, 5)}, [1, 4, 20])
    ),
    "GRU": Case(lambda: recurrent("GRU")),
    "LSTM": Case(lambda: recurrent("LSTM")),
    "RNN": Case(lambda: recurrent("RNN")),
    "weights of 1e-30": Case(lambda: product(weights(SIZE, SIZE, scale=1e-30))),
    "weights of 1e-9": Case(lambda: product(weights(SIZE, SIZE, scale=1e-9))),
    "weights of 8e6": Case(lambda: product(weights(SIZE, SIZE, scale=8e6))),
    "weights of 1e30": Case(lambda: product(weights(SIZE, SIZE, scale=1e30))),
    "all weights zero": Case(lambda: product(np.zeros((SIZE, SIZE), np.float32)), least_db=np.inf),
    "an outlier of 300 in one row": Case(lambda: product(with_outlier(300.0)), least_db=20.0),
    "Constant node": Case(
        lambda: model_of([constant_node(weights(SIZE, SIZE)), node("MatMul", "x", "w", out="y")], {}, [4, SIZE])
    ),
    "Transpose of a weight": Case(lambda: behind(node("Transpose", "w"), data=weights(SIZE, SIZE))),
    "Identity of a weight": Case(lambda: behind(node("Identity", "w"), data=weights(SIZE, SIZE))),
    "Reshape of a weight": Case(
        lambda: behind(
            node("Reshape", "w", "shape"), data=weights(SQUARE), more={"shape": np.array([SIZE, SIZE], np.int64)}
        )
    ),
    "Cast of a half-precision weight": Case(
        lambda: behind(node("Cast", "w", to=FLOAT), data=weights(SIZE, SIZE, kind=np.float16))
    ),
    "weight normalisation": Case(
        lambda: behind(
            node("ReduceL2", "w", out="norm", axes=[0]),
            node("Div", "w", "norm", out="unit"),
            node("Mul", "unit", "g"),
            data=weights(SIZE, SIZE),
            more={"g": weights(1, SIZE, seed=3)},
        )
    ),
    "weights in the bodies of If": Case(branching),
    "weights in the body of Loop": Case(looping),
    "weights in the body of Scan": Case(scanning),
    "weights in a local function": Case(calling),
    "a half-precision network": Case(half),
    "a double-precision network": Case(lambda: product(weights(SIZE, SIZE, kind=np.float64), kind=DOUBLE)),
    "an input of indices": Case(embedded, float_weights=50 * SIZE),
    "an embedding that a product shares": Case(tied, float_weights=SQUARE),
    "denormal weights beside others": Case(
        lambda: model_of(
            [node("MatMul", "x", "w", out="p"), node("MatMul", "p", "own", out="y")],
            {"w": weights(SIZE, SIZE, scale=1e-40), "own": weights(SIZE, SIZE, scale=1e20)},
            [4, SIZE],
        ),
        float_weights=SQUARE,
    ),
}

"""Weights that are computed or lie out of the way become plain stored tensors, so that they can be quantized.

Local functions are inlined by onnx's inliner. Constant nodes, and tensors stored inside the bodies of If, Loop and
Scan, move to the graph's stored tensors. What a product reads as a weight and what depends on stored tensors alone
(Transpose, Reshape, Cast and the like) is worked out by ONNX Runtime. Everything else of the graph stays as it was.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from models.command import BadRequest
from quant.history import keep_header
from quant.quantize.weights import FLOATS, SMALLEST, WEIGHT_PLACES, classified, every_node, weights_of

FOLDS = frozenset(
    (
        "Add",
        "Cast",
        "Concat",
        "Constant",
        "Div",
        "Flatten",
        "Gather",
        "Identity",
        "Mul",
        "Neg",
        "Pow",
        "ReduceL2",
        "ReduceSum",
        "Reshape",
        "Shape",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
    )
)
"""What stands between a stored tensor and a product; none of them makes much out of little, as Expand would."""
LEAST_IR = 4
"""From this IR version on a stored tensor need not be listed as an input."""
MOST_GROWTH = 4
"""A folded weight is at most so many times as large as what it is made of: half to double precision, no broadcast."""
STORED_SMALL = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
Array = NDArray[Any]


def plain_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that computes the same, with its weights as stored tensors; raises BadRequest."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    if model.functions:
        try:
            plain = keep_header(inliner.inline_local_functions(model), model)
        except Exception as error:  # the inliner's C++ errors
            why = str(error).strip().split("\n")[0]
            raise BadRequest(f"the model's local functions cannot be inlined ({why})") from None
    stored = {tensor.name for tensor in plain.graph.initializer}
    inputs = [value for value in plain.graph.input if value.name not in stored]  # old files list stored tensors, too
    del plain.graph.input[:]
    plain.graph.input.extend(inputs)
    names = _Names(plain.graph)
    for graph in graphs_of(plain.graph):
        _store_constants(graph)
    for graph in list(graphs_of(plain.graph))[1:]:
        _lift(graph, plain.graph, names)
    plain.ir_version = max(plain.ir_version, LEAST_IR)
    fixed = set[str]()
    while True:
        folded = onnx.ModelProto()
        folded.CopyFrom(plain)
        sources = _fold(folded, names, fixed)
        if not (shared := sources & classified(folded)[1].keys()):
            return folded
        fixed |= shared  # they stay in float for another reader, so a second copy in int8 would only add bytes


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for inner in bodies_of(node):
            yield from graphs_of(inner)


def bodies_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside a node (If, Loop, Scan)."""
    bodies = list[onnx.GraphProto]()
    for attribute in node.attribute:
        bodies += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    return bodies


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node; None for any other node, and for numbers or texts."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return next((entry.t for entry in node.attribute if entry.name == "value"), None)


def is_bulky(tensor: onnx.TensorProto) -> bool:
    """Whether it holds enough floats to be worth quantizing."""
    return tensor.data_type in FLOATS and int(np.prod(tensor.dims)) >= SMALLEST


class _Names:
    """The names of all values of a model and of its bodies, and new ones."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._taken = set[str]()
        self._often = set[str]()
        for inner in graphs_of(graph):
            here = {value.name for value in (*inner.input, *inner.initializer)}
            here |= {name for node in inner.node for name in node.output}
            self._often |= here & self._taken
            self._taken |= here

    def fresh(self, name: str) -> str:
        count = 1
        while f"{name}.{count}" in self._taken:
            count += 1
        self._taken.add(f"{name}.{count}")
        return f"{name}.{count}"

    def unique(self, name: str) -> str:
        """``name`` itself unless two graphs use it."""
        return self.fresh(name) if name in self._often else name


def _store_constants(graph: onnx.GraphProto) -> None:
    """Large Constant nodes become stored tensors of their graph."""
    outputs, kept = {value.name for value in graph.output}, []
    for node in graph.node:
        tensor = constant_of(node)
        if tensor is None or not is_bulky(tensor) or node.output[0] in outputs:
            kept.append(node)
            continue
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = node.output[0]
    if len(kept) < len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)


def _lift(body: onnx.GraphProto, root: onnx.GraphProto, names: _Names) -> None:
    """Large tensors stored in ``body`` move to ``root``; a body sees the values around it."""
    fixed = {value.name for inner in graphs_of(body) for value in inner.output} | {value.name for value in body.input}
    kept = []
    for tensor in body.initializer:
        if not is_bulky(tensor) or tensor.name in fixed:
            kept.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
            continue
        name = names.unique(tensor.name)
        for node in every_node(body):
            node.input[:] = [name if used == tensor.name else used for used in node.input]
        root.initializer.add().CopyFrom(tensor)
        root.initializer[-1].name = name
    del body.initializer[:]
    body.initializer.extend(kept)


class _Scope:
    """What a graph sees: stored tensors and the nodes that make its values."""

    def __init__(self, graph: onnx.GraphProto, outer: "_Scope | None" = None) -> None:
        self.tensors: dict[str, onnx.TensorProto] = dict(outer.tensors) if outer else {}
        self.makers: dict[str, onnx.NodeProto] = dict(outer.makers) if outer else {}
        self.tensors |= {tensor.name: tensor for tensor in graph.initializer}
        self.makers |= {name: node for node in graph.node for name in node.output if name}

    def chain(self, name: str) -> dict[str, onnx.NodeProto] | None:
        """The nodes that make ``name`` of stored tensors alone, by their first output, in order; None if others do."""
        found, todo = dict[str, onnx.NodeProto](), [(name, False)]
        while todo:
            value, is_ready = todo.pop()
            if value in self.tensors:
                tensor = self.tensors[value]
                if tensor.data_type in STORED_SMALL and int(np.prod(tensor.dims)) >= SMALLEST:
                    return None  # somebody stored it small already
                continue
            node = self.makers.get(value)
            if node is None or node.op_type not in FOLDS or node.domain not in ("", "ai.onnx"):
                return None
            if is_ready:
                found[node.output[0]] = node
            elif node.output[0] not in found:
                todo.append((value, True))
                todo += [(used, False) for used in node.input if used]
        return found


def _fold(model: onnx.ModelProto, names: _Names, fixed: set[str]) -> set[str]:
    """Weights that depend on stored tensors alone become stored tensors, and what made them is dropped.

    Returns the large tensors that the weights were made of. What depends on one of ``fixed`` stays.
    """
    done, candidates, sources = dict[bytes, str](), set[str](), set[str]()

    def weight_of(name: str, scope: _Scope) -> str:
        """The stored tensor to read instead of ``name``; ``name`` where there is none."""
        if not name or name in scope.tensors or not (chain := scope.chain(name)):
            return name
        read = {used for node in chain.values() for used in node.input} & scope.tensors.keys()
        large = {used for used in read if is_bulky(scope.tensors[used])}
        if large & fixed:
            return name
        part = _part(model, name, chain, scope)
        key = hashlib.sha256(part).digest()
        if key not in done and (value := _worked_out(part)) is not None:
            done[key] = names.fresh(name)
            model.graph.initializer.append(numpy_helper.from_array(value, done[key]))
        if key in done:
            sources.update(large)
            candidates.update(used for node in chain.values() for used in (*node.input, *node.output))
        return done.get(key, name)

    def walk(graph: onnx.GraphProto, outer: _Scope | None) -> None:
        scope = _Scope(graph, outer)
        for node in graph.node:
            for place in WEIGHT_PLACES.get(node.op_type, ()):
                if place < len(node.input):
                    node.input[place] = weight_of(node.input[place], scope)
            for inner in bodies_of(node):
                walk(inner, scope)

    walk(model.graph, None)
    _drop_unused(model.graph, candidates)
    _share_equal(model)
    return sources


def _part(model: onnx.ModelProto, name: str, chain: dict[str, onnx.NodeProto], scope: _Scope) -> bytes:
    """A model of its own, without inputs, whose one output is ``name``."""
    leaves = {used for node in chain.values() for used in node.input} & scope.tensors.keys()
    stored = [scope.tensors[leaf] for leaf in sorted(leaves)]
    graph = helper.make_graph([*chain.values()], "weight", [], [onnx.ValueInfoProto(name=name)], stored)
    ir_version = max(model.ir_version, LEAST_IR)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=ir_version)
    return bytes(part.SerializeToString(deterministic=True))


def _worked_out(part: bytes) -> Array | None:
    """What ``part`` computes, by ONNX Runtime; None if it is no weight, or if this runtime cannot."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(part, options, providers=["CPUExecutionProvider"])
        value = session.run(None, {})[0]
    except Exception:  # ONNX Runtime has a class of its own for every kind of fault; the weight stays as it is
        return None
    is_weight = isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim > 1 and value.size >= SMALLEST
    return np.ascontiguousarray(value) if is_weight and value.nbytes <= MOST_GROWTH * len(part) else None


def _share_equal(model: onnx.ModelProto) -> None:
    """Weights of the same numbers and layout become one: inlining repeats those of a function that is called twice."""
    chosen, first, instead = weights_of(model), dict[bytes, str](), dict[str, str]()
    for tensor in model.graph.initializer:
        if tensor.name in chosen:
            about = f"{tensor.data_type} {[*tensor.dims]} {chosen[tensor.name]} ".encode()
            key = hashlib.sha256(about + numpy_helper.to_array(tensor).tobytes()).digest()
            name = first.setdefault(key, tensor.name)
            if name != tensor.name:
                instead[tensor.name] = name
    for node in every_node(model.graph) if instead else ():
        node.input[:] = [instead.get(name, name) for name in node.input]
    _drop_unused(model.graph, {*instead})


def _drop_unused(root: onnx.GraphProto, candidates: set[str]) -> None:
    """Remove nodes and stored tensors among ``candidates`` that nothing reads any more."""
    while True:
        graphs = list(graphs_of(root))
        read = {name for graph in graphs for node in graph.node for name in node.input}
        read |= {value.name for graph in graphs for value in graph.output}
        unread, dropped = candidates - read, False
        for graph in graphs:
            nodes = [at for at, node in enumerate(graph.node) if {*node.output} <= unread]
            tensors = [at for at, tensor in enumerate(graph.initializer) if tensor.name in unread]
            for values, places in ((graph.node, nodes), (graph.initializer, tensors)):
                for at in reversed(places):
                    del values[at]
            dropped = dropped or bool(nodes or tensors)
        if not dropped:
            return

"""Published graphs of whole recordings -> graphs of one frame, and the check that both give the same."""

import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.dsp.spectrum import Floats
from edge.suppress.foreign.deepfilter import STAGES, Shapes
from models.command import BadRequest
from quant.graph import initializers, open_session
from quant.history import keep_header
from quant.quantize.weights import every_node

CHECKED_FRAMES = 40

TOLERANCE = 1e-4
"""Largest difference between frame by frame and the whole; another order of additions makes some 1e-6."""


def streaming(stage: str, published: onnx.ModelProto) -> onnx.ModelProto:
    """One published graph -> one that takes a frame and its states, as ``STAGES`` says; raises BadRequest."""
    inputs, outputs, memories = STAGES[stage]
    model = onnx.ModelProto()
    model.CopyFrom(published)
    graph = model.graph
    if {value.name for value in graph.input} != set(inputs) or not outputs.keys() <= {v.name for v in graph.output}:
        raise BadRequest(f"{stage}.onnx is not a graph of DeepFilterNet3: its inputs and outputs differ")
    del graph.value_info[:]
    declare(graph, inputs, outputs)
    model = folded(model)
    graph = model.graph
    products_of_matrices(model)
    expose_memories(graph)
    declare(graph, inputs | memories, outputs | {f"{name}_out": shape for name, shape in memories.items()})
    model = folded(model)
    model = keep_header(model, published)
    onnx.checker.check_model(model)
    return model


def declare(graph: onnx.GraphProto, inputs: Shapes, outputs: Shapes) -> None:
    """Give the graph these inputs and outputs, float32, and no others."""
    for values, shapes in ((graph.input, inputs), (graph.output, outputs)):
        del values[:]
        values.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's basic optimisation: constants worked out, paddings in their convolutions; and no idle nodes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/folded.onnx"
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class of its own for every kind of fault
            raise BadRequest(f"onnxruntime rejects the graph: {' '.join(str(error).split())[:160]}") from None
        small = onnx.load(options.optimized_model_filepath)
    used = {node.domain for node in every_node(small.graph)}
    if used - {"", "ai.onnx"}:
        raise BadRequest(f"this onnxruntime fuses nodes into private operators ({max(used)}); use another version")
    needed, living = {value.name for value in small.graph.output}, list[onnx.NodeProto]()
    for node in reversed(small.graph.node):
        if needed & {*node.output}:
            needed |= {*node.input}
            living.insert(0, node)
    del small.graph.node[:]
    small.graph.node.extend(living)
    standard = [entry for entry in small.opset_import if entry.domain in ("", "ai.onnx")]
    del small.opset_import[:]
    small.opset_import.extend(standard)
    return small


def expose_memories(graph: onnx.GraphProto) -> None:
    """The n-th GRU's state is ``memory_n``; what a convolution over time keeps of its input x is ``past_x``."""
    nodes, recurrent = [], 0
    for node in graph.node:
        if node.op_type == "GRU":
            recurrent += 1
            node.input[5] = f"memory_{recurrent}"
            node.output[1] = f"memory_{recurrent}_out"
        elif node.op_type == "Conv" and (frames := padded_frames(node)):
            x = node.input[0]
            bounds = [constant(graph, f"{x}_{at}", value) for at, value in (("from", 1), ("to", frames + 1), ("on", 2))]
            nodes.append(helper.make_node("Concat", [f"past_{x}", x], [f"{x}_all"], axis=2))
            nodes.append(helper.make_node("Slice", [f"{x}_all", *bounds], [f"past_{x}_out"]))
            node.input[0] = f"{x}_all"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def padded_frames(convolution: onnx.NodeProto) -> int:
    """How many frames of zeros come before the sequence; afterwards none."""
    for attribute in convolution.attribute:
        if attribute.name == "pads":
            frames, attribute.ints[0] = attribute.ints[0], 0
            return int(frames)
    return 0


def products_of_matrices(model: onnx.ModelProto) -> None:
    """Each Einsum of groups (one frame, weights [groups, in, out]) becomes a MatMul of [groups, 1, in] rows."""
    graph, weights = model.graph, initializers(model)
    maker = {name: node for node in graph.node for name in node.output}
    nodes = []
    for node in graph.node:
        if node.op_type == "Einsum":
            before = maker[node.input[0]]
            while before.op_type == "Transpose":  # of one frame: moves axes of length one
                before = maker[before.input[0]]
            if before.op_type != "Reshape" or node.input[1] not in weights:
                raise BadRequest(f"{node.name} is not a grouped linear layer as DeepFilterNet3 has them")
            groups, width, _ = weights[node.input[1]].shape
            rows = constant(graph, f"{node.output[0]}_rows", groups, 1, width)
            nodes.append(helper.make_node("Reshape", [before.input[0], rows], [f"{node.output[0]}_in"]))
            node = helper.make_node("MatMul", [f"{node.output[0]}_in", node.input[1]], [node.output[0]])
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def constant(graph: onnx.GraphProto, name: str, *values: int) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def check(published: dict[str, onnx.ModelProto], stages: dict[str, onnx.ModelProto]) -> float:
    """The largest difference between whole and frame by frame, as a share of the values' size; raises BadRequest."""
    draw = np.random.default_rng(1)
    whole: dict[str, Floats] = {
        name: draw.normal(0, 0.5, (*shape[:2], CHECKED_FRAMES, shape[3])).astype(np.float32)
        for name, shape in STAGES["enc"][0].items()
    }
    worst = 0.0
    for stage, (inputs, outputs, memories) in STAGES.items():
        feed = {name: whole[name] for name in inputs}
        whole.update(zip(outputs, open_session(published[stage]).run([*outputs], feed), strict=True))
        session = open_session(stages[stage])
        kept = {name: np.zeros(shape, np.float32) for name, shape in memories.items()}
        for at in range(CHECKED_FRAMES):
            now = {name: frame_of(whole[name], shape, at) for name, shape in inputs.items()}
            said = session.run([*outputs, *(f"{name}_out" for name in memories)], now | kept)
            kept = dict(zip(memories, said[len(outputs) :], strict=True))
            for name, value in zip(outputs, said[: len(outputs)], strict=True):
                wanted = frame_of(whole[name], outputs[name], at)
                worst = max(worst, float(np.abs(value - wanted).max() / max(1.0, np.abs(wanted).max())))
    if not worst <= TOLERANCE:  # also what is no number
        raise BadRequest(f"the new graphs differ from the published ones by {worst:.2g}; use another onnxruntime")
    return worst


def frame_of(whole: Floats, shape: tuple[int, ...], at: int) -> Floats:
    """Frame ``at`` of a sequence; time is the axis that ``shape`` has one of and the sequence many."""
    axis = next(axis for axis, size in enumerate(whole.shape) if size == CHECKED_FRAMES and shape[axis] == 1)
    return np.take(whole, [at], axis=axis)

"""int8 weights and uint8 activations by ONNX Runtime's own tool."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import helper

from quant.calibrate import Reader, Samples
from quant.graph import initializers, metadata_of
from quant.history import keep_header
from quant.quantize.weights import Shrinking, weights_of

PERCENTILE = 99.99

STATIC_SAMPLES = 1500
"""Calibration holds every intermediate value of every sample; more change the ranges by nothing."""


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
        small = Shrinking(keep_header(onnx.load(target), model))
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

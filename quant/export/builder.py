"""ONNX graphs in the making, and the metadata of every file of ours."""

import hashlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor

from models.command import BadRequest

ROOT = Path(__file__).parents[2]
OPSET, IR_VERSION = 17, 8
"""What onnxruntime 1.16 and later read."""


class Graph:
    """Nodes and stored tensors in the making. A value is its name; every operation returns its output's."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: dict[str, NDArray[np.generic]] = {}

    def store(self, name: str, values: NDArray[np.generic]) -> str:
        self.stored[name] = values
        return name

    def apply(self, operation: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        return self.several(operation, *inputs, names=[name or f"t{len(self.nodes)}"], **attributes)[0]

    def several(self, operation: str, *inputs: str, names: list[str], **attributes: Any) -> list[str]:
        self.nodes.append(helper.make_node(operation, inputs, names, **attributes))
        return names

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        at = len(self.nodes)
        lengths = self.store(f"s{at}", np.array(sizes, np.int64))
        return self.several("Split", x, lengths, names=[f"t{at}.{part}" for part in range(len(sizes))], axis=axis)

    def reshape(self, x: str, *shape: int, name: str = "") -> str:
        return self.apply("Reshape", x, self.store(f"s{shape[0]}x{shape[1]}", np.array(shape, np.int64)), name=name)

    def linear(self, name: str, x: str, weight: Tensor, added: Tensor | str) -> str:
        """x @ weight.T + a bias, or + another value of the graph."""
        if isinstance(added, Tensor):
            added = self.store(f"{name}.bias", added.numpy())
        return self.apply("Gemm", x, self.store(f"{name}.weight", weight.numpy()), added, transB=1)


def finished(
    graph: Graph, name: str, inputs: dict[str, list[int]], outputs: dict[str, list[int]], about: dict[str, str]
) -> onnx.ModelProto:
    """A checked model with float inputs and outputs of these shapes."""

    def values(shapes: dict[str, list[int]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, shape) for key, shape in shapes.items()]

    stored = [onnx.numpy_helper.from_array(np.asarray(data, order="C"), name) for name, data in graph.stored.items()]
    body = helper.make_graph(graph.nodes, name, values(inputs), values(outputs), stored)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, about)
    onnx.checker.check_model(model, full_check=True)
    return model


def version() -> str:
    """Of this program; raises BadRequest."""
    try:
        return importlib.metadata.version("quietbox")
    except importlib.metadata.PackageNotFoundError:
        raise BadRequest("quietbox is not installed, so its version is unknown; pip install -e .") from None


def recipe_sha256(recipe: Sequence[str]) -> str:
    """Of these files of the checkout, one after the other; of a folder all modules in the order of their names."""
    digest = hashlib.sha256()
    for name in recipe:
        place = ROOT / name
        for file in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    return digest.hexdigest()

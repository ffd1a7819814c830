"""Our own network as small as it goes, as ONNX and as NumPy's archive."""

import io
import json
import zipfile

import numpy as np
import onnx
from onnx import TensorProto

from edge.dsp.spectrum import Floats
from quant.graph import (
    GATES,
    initializers,
    metadata_of,
    silence_of,
)
from quant.quantize.weights import SMALLEST, Array, Shrinking, to_int8, weights_of


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """Our own network as small as it goes: see the top of this file."""
    small, by_width = Shrinking(model), dict[int, list[str]]()
    halves: dict[str, Floats] = {}
    for name, axis in weights_of(model).items():
        if axis == 0:
            by_width.setdefault(small.stored[name].shape[1], []).append(name)
    for names in by_width.values():
        matrices = [small.stored[name] for name in names]
        whole, scale = to_int8(np.concatenate(matrices), 0)
        wide = small.apply("Cast", small.store(whole), to=TensorProto.FLOAT)
        column = small.apply("Cast", small.store(scale[:, None]), to=TensorProto.FLOAT)
        if len(names) == 1:
            del small.stored[names[0]]
            small.apply("Mul", wide, column, names=names)
        else:
            small.split(small.apply("Mul", wide, column), [len(matrix) for matrix in matrices], names)
    for name, values in [*small.stored.items()]:
        if values.dtype == np.float32 and values.ndim == 1:
            halves[name] = values
        elif values.dtype == np.float32 and values.size >= SMALLEST:
            del small.stored[name]
            small.apply("Cast", small.store(values.astype(np.float16)), names=[name], to=TensorProto.FLOAT)
    vectors = np.concatenate([*halves.values()]).astype(np.float16)
    wide = small.apply("Cast", small.store(vectors), to=TensorProto.FLOAT)
    small.split(wide, [len(values) for values in halves.values()], [*halves])
    small.narrow_integers()
    return small.finish({"weights": "int8"}, short_names=True)


def numbers(model: onnx.ModelProto) -> dict[str, Array]:
    """The same int8 weights, scales and vectors by their names in models/network.py, from one of our float files."""
    stored, found = initializers(model), dict[str, Array]()
    layers = dict.fromkeys(name.removesuffix(".weight") for name in stored if name.endswith(".weight"))
    whole = {
        name: name.removesuffix(f".{gate}") for name in layers for gate in GATES if name.endswith(f".gates.{gate}")
    }
    for layer in dict.fromkeys(whole.get(name, name) for name in layers):
        parts = [f"{layer}.{gate}" for gate in GATES] if layer not in layers else [layer]
        weight = np.concatenate([stored[f"{part}.weight"] for part in parts])
        biases = [stored.get(f"{part}.bias", np.zeros(len(weight), np.float32)) for part in parts]
        found[f"{layer}.weight"], found[f"{layer}.scale"] = to_int8(weight, 0)
        found[f"{layer}.bias"] = np.concatenate(biases).astype(np.float16)
    found["place"] = stored["place"].astype(np.float16)
    found["silence"] = silence_of(model).astype(np.float16)
    said = metadata_of(model) | {"weights": "int8"}
    del said["silence"]  # it is an array here; twice is 2 KB more
    found["meta"] = np.array(json.dumps(said))
    return found


def pack(arrays: dict[str, Array]) -> bytes:
    """An .npz as of np.savez_compressed, but without its 20 bytes an array for huge files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, values in arrays.items():
            raw = io.BytesIO()
            np.lib.format.write_array(raw, values, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), raw.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return content.getvalue()

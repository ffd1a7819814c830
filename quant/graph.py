"""What export, calibrate and quantize share: ONNX files read, checked, run as on the box, and written whole or not."""

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from edge.dsp.spectrum import Floats
from edge.files import BadFile, atomic, read_bounded
from models.command import BadRequest

MOST_BYTES = 128_000_000
"""Of a model; the largest that we run has 9 MB."""
NAME = "quietbox"
"""What our own files call themselves in their metadata."""
GATES = ("z", "c", "o")
"""The parts of a memory's gates, in the checkpoint's order of rows: each is a layer of its own in the graph."""
INPUTS, OUTPUTS = ("features", "state"), ("gains", "speech", "state_out")


def read_model(file: Path) -> onnx.ModelProto:
    """A checked ONNX model of any origin; raises BadRequest."""
    try:
        model = onnx.load_model_from_string(read_bounded(file, MOST_BYTES))
        take_in_data(model, file)
        onnx.checker.check_model(model)
    except (BadFile, BadRequest) as error:
        raise BadRequest(str(error)) from None
    except OSError as error:
        raise BadRequest(f"{file}: cannot be read: {error.strerror}") from None
    except Exception as error:  # protobuf's own classes, the checker's, and whatever an old opset provokes
        why = str(error).strip().split("\n")[0]
        raise BadRequest(f"{file}: is not an ONNX model, or a broken one ({why or type(error).__name__})") from None
    if not model.graph.node:
        raise BadRequest(f"{file}: is not an ONNX model, or an empty one")
    return model


def take_in_data(model: onnx.ModelProto, file: Path) -> None:
    """Tensors that lie in files of their own beside ``file`` become part of it; raises BadRequest, ValueError."""
    outside = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    most_bytes = MOST_BYTES
    for tensor in outside:
        info = ExternalDataInfo(tensor)
        place = file.parent / info.location
        if not place.is_file():
            raise BadRequest(f"{file}: its tensor {tensor.name} lies in {place}, which is missing; put it there")
        most_bytes -= place.stat().st_size if info.length is None else info.length
        if most_bytes < 0:
            raise BadRequest(f"{file}: its tensors in {info.location} have more than {MOST_BYTES} bytes")
        load_external_data_for_tensor(tensor, str(file.parent))  # refuses a place outside the folder


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """The model's own notes; empty for most of other people's."""
    return {entry.key: entry.value for entry in model.metadata_props}


def is_ours(model: onnx.ModelProto) -> bool:
    """Whether this is a Quietbox network, so that its contract (features, state -> gains, speech, state) holds."""
    names = tuple(value.name for value in model.graph.input), tuple(value.name for value in model.graph.output)
    return metadata_of(model).get("name") == NAME and names == (INPUTS, OUTPUTS)


def silence_of(model: onnx.ModelProto) -> Floats:
    """float32 [S]: the state that a stream begins with, from one of our networks' metadata; raises BadRequest."""
    try:
        silence = np.frombuffer(base64.b64decode(metadata_of(model)["silence"]), "<f2").astype(np.float32)
    except (KeyError, ValueError):
        raise BadRequest("the model's metadata contain no initial state; export it again with quant.export") from None
    if silence.shape != (model.graph.input[1].type.tensor_type.shape.dim[1].dim_value,):
        raise BadRequest("the model's initial state and its state differ in size; export it again with quant.export")
    return silence


def open_session(model: onnx.ModelProto) -> Any:
    """An onnxruntime session as the box runs it, on one thread; raises BadRequest."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its errors are raised, too
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own for every kind of fault
        raise BadRequest(f"onnxruntime rejects the model: {str(error).splitlines()[0]}") from None


def initializers(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Every stored tensor by its name."""
    return {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}


def can_write(file: Path, *sources: Path | None) -> None:
    """Raises UserError for a place where no file can come to lie, or where one of ``sources`` lies (by any link)."""
    atomic.refuse_overwriting(file, sources, "--out")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise BadRequest(f"{file} cannot be written: it is a folder, or its folder does not exist")
    if not os.access(file.absolute().parent, os.W_OK):
        raise BadRequest(f"{file} cannot be written: no permission to write to its folder")


def write_whole(file: Path, fill: Callable[[io.BytesIO], object]) -> int:
    """Write what ``fill`` puts in, or nothing; returns the size in bytes."""
    content = io.BytesIO()
    fill(content)
    try:
        atomic.write(file, content.getvalue())
    except OSError as error:
        raise BadRequest(f"{file} cannot be written: {error.strerror}") from None
    return len(content.getvalue())

"""The owners' archive, read with bounds, and the model's folder that the box reads."""

import hashlib
import io
import tarfile
import zlib
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edge.files import BadFile, read_bounded
from edge.suppress.foreign.deepfilter import STAGES
from models.command import BadRequest
from quant.graph import metadata_of, write_whole
from quant.history import recorded, step

SHA256 = "c94d91f70911001c946e0fabb4aa9adc37045f45a03b56008cb0c8244cb63616"
"""Of the owners' DeepFilterNet3_onnx.tar.gz, as the package carries it."""

MOST_BYTES = 64_000_000

LICENCE = "MIT or Apache 2.0"


def read_archive(archive: Path, sha256: str) -> dict[str, onnx.ModelProto]:
    """The three published graphs by their names in ``STAGES``; raises BadRequest."""
    try:
        content = read_bounded(archive, MOST_BYTES)
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise BadRequest(
                f"{archive}: its sha256 is {found}, not {sha256}; if this archive is intended, pass its value with "
                "--sha256"
            )
        models = {}
        with tarfile.open(fileobj=io.BytesIO(content)) as packed:  # what was summed is what is read
            for entry in packed:
                stage = Path(entry.name).name.removesuffix(".onnx")
                graph = packed.extractfile(entry) if stage in STAGES and entry.size <= MOST_BYTES else None
                if graph:
                    models[stage] = onnx.load_model_from_string(graph.read())
    except BadFile as error:
        raise BadRequest(str(error)) from None
    except OSError as error:
        raise BadRequest(f"{archive}: cannot be read: {error.strerror or error}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise BadRequest(f"{archive}: is not an archive, or a broken one ({type(error).__name__})") from None
    except DecodeError:
        raise BadRequest(f"{archive}: its {stage}.onnx is not an ONNX model, or a broken one") from None
    if missing := STAGES.keys() - models.keys():
        raise BadRequest(f"{archive}: holds no {sorted(missing)[0]}.onnx")
    return models


def names_in(folder: Path) -> list[Path]:
    """The files that ``write`` replaces."""
    return [folder / "CARD.md", *(folder / f"{folder.name}.{stage}.onnx" for stage in STAGES)]


def licensed(model: onnx.ModelProto, sha256: str, weights: str) -> onnx.ModelProto:
    """The graph with its owners' licence, unless it states one, and how it was made."""
    made: onnx.ModelProto = recorded(model, step("deepfilter", sha256, f"{weights} weights"))
    if "licence" not in metadata_of(made):
        made.metadata_props.add(key="licence", value=LICENCE)
    return made


def write(folder: Path, stages: dict[str, onnx.ModelProto], sha256: str, weights: str) -> None:
    """The model's folder: graphs first, then the card, so that an interrupted run leaves nothing that opens."""
    card = folder / "CARD.md"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        card.unlink(missing_ok=True)
    except OSError as error:
        raise BadRequest(f"{folder} cannot be written: {error.strerror}") from None
    lines = [
        "# DeepFilterNet3, one frame at a time",
        "",
        f"Made by quant.deepfilter from the owners' archive with the sha256 {sha256}, weights {weights}.",
        f"Hendrik Schröter et al. 2023, https://github.com/Rikorose/DeepFilterNet, {LICENCE}.",
        "",
    ]
    for stage, model in stages.items():
        content = licensed(model, sha256, weights).SerializeToString()
        name = f"{folder.name}.{stage}.onnx"
        write_whole(folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
        lines.append(f"| `{name}` | sha256 `{hashlib.sha256(content).hexdigest()}` |")
    write_whole(card, lambda file: file.write(("\n".join(lines) + "\n").encode()))

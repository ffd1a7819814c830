"""What a file says about how it was made: one line a step, with the tool, its version and the sha256 of what it read.

The lines stand under the key ``history`` in an ONNX file's metadata and in a checkpoint, and in an array of that name
in an .npz. The rest of a model's header (producer, descriptions, licence) stays as its author wrote it.
"""

import hashlib
from pathlib import Path
from typing import Any

from edge.version import version
from models.command import BadRequest

KEY = "history"
HEADER = ("producer_name", "producer_version", "domain", "model_version", "doc_string")
"""The fields of an ONNX model that belong to its author."""


def step(tool: str, source: Path | str | None, detail: str = "") -> str:
    """``quant.TOOL VERSION, source sha256 HEX`` of a file, or of a sha256 that is known; raises BadRequest.

    None: there is no source file. ``detail`` stands before the sha256.
    """
    if isinstance(source, Path):
        try:
            with source.open("rb") as content:
                source = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            raise BadRequest(f"{source}: cannot be read: {error.strerror}") from None
    number = version().partition(" (")[0]  # without the commit
    return ", ".join(
        [f"quant.{tool} {number}", *([detail] if detail else []), *([f"source sha256 {source}"] if source else [])]
    )


def longer(before: str, line: str) -> str:
    """The history ``before`` with one more line."""
    return f"{before}\n{line}" if before else line


def recorded(model: Any, line: str, keep: bool = True) -> Any:
    """A copy of the ONNX model with ``line`` in its history, after the earlier lines if these are kept."""
    made = type(model)()
    made.CopyFrom(model)
    for entry in made.metadata_props:
        if entry.key == KEY:
            entry.value = longer(entry.value, line) if keep else line
            return made
    made.metadata_props.add(key=KEY, value=line)
    return made


def keep_header(made: Any, source: Any) -> Any:
    """``made``, an ONNX model that a tool made of ``source``, with the header and metadata of ``source``."""
    for name in HEADER:
        if source.HasField(name):
            setattr(made, name, getattr(source, name))
        else:
            made.ClearField(name)
    made.graph.name, made.graph.doc_string = source.graph.name, source.graph.doc_string
    present = {entry.key for entry in made.metadata_props}
    made.metadata_props.extend(entry for entry in source.metadata_props if entry.key not in present)
    return made

"""A network's files: where they lie, whether they are what their card lists, and their metadata.

A model is a folder that holds files of its own name: ``models/quietbox/quietbox.npz`` (int8 weights, which NumPy runs
and everything else is checked against), ``quietbox.onnx`` (the same as a graph) and ``CARD.md``. The card has one line
for each file, exactly ``| `quietbox.npz` | sha256 `<64 hexadecimal digits>` |``.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ, UserError, files
from edge.dsp.spectrum import BANDS, WINDOW_SAMPLES, Floats
from edge.files.arrays import read_npz
from edge.suppress.network import NumpyNetwork, Shape

FOLDER = Path(__file__).parents[2] / "models"
"""Where the shipped ones lie, in a checkout and in an installed package."""
SHIPPED = ("quietbox", "rnn")
PACKAGED = "quietbox"
"""``[suppress] model`` as it is by default: the shipped network, for a third-party engine its own package's weights."""
MAJOR_VERSION = 0
"""Files of another major version have other contents under the same names."""
MOST_BYTES = 16_000_000
"""No network of ours is a hundredth of this, packed or unpacked."""
NEEDED = {
    "sample_rate_hz": RATE_HZ,
    "window_samples": WINDOW_SAMPLES,
    "hop_samples": HOP_SAMPLES,
    "bands": BANDS,
}
CARD_LINE = re.compile(r"\| `([^`]+)` \| sha256 `([0-9a-f]{64})` \|")


class BadModel(UserError):
    """A file that cannot be used; the text names it, the reason and the fix."""


class Model:
    """A folder of model files."""

    def __init__(self, model: str) -> None:
        """``model``: the name of a shipped one, or the path of a folder."""
        self.folder = FOLDER / model if model in SHIPPED else Path(model).absolute()
        self.shipped = self.folder.parent == FOLDER
        self.name = self.folder.name

    def file(self, suffix: str) -> Path:
        return self.folder / f"{self.name}{suffix}"

    def refused(self, file: Path, why: str) -> BadModel:
        fix = "reinstall Quietbox" if self.shipped else 'export it again or set model = "quietbox"'
        return BadModel(f"{file} {why} ({fix})")

    def read(self, suffix: str) -> bytes:
        """A whole file, if it is the one that the card lists; raises BadModel.

        Somebody's own folder may do without a card.
        """
        file, card = self.file(suffix), self.folder / "CARD.md"
        content = self._content(file)
        if os.path.lexists(card) or self.shipped:
            wanted = self._sums(card)
            if file.name not in wanted:
                raise self.refused(card, f"has no line with the sha256 of {file.name}")
            if hashlib.sha256(content).hexdigest() != wanted[file.name]:
                raise self.refused(file, "does not match its model card: the sha256 differs")
        return content

    def weights(self, engine: str) -> NumpyNetwork:
        """The network on NumPy; ``engine`` becomes its name. Raises BadModel."""
        file = self.file(".npz")
        content = self.read(".npz")
        try:
            arrays = _arrays(content)
            about = json.loads(str(arrays.pop("meta")))
        except Exception as error:  # a broken archive, header or text raises many kinds
            raise self.refused(file, f"contains no readable weights: {_short(error)}") from None
        shape = self.shape(file, about)
        if broken := [name for name, values in arrays.items() if not np.isfinite(values).all()]:
            raise self.refused(file, f"has NaN or infinite weights: {broken[0]}")
        try:
            return NumpyNetwork(engine, shape, arrays)
        except (KeyError, ValueError) as error:
            raise self.refused(file, f"has weights that do not match its shape: {_short(error)}") from None

    def shape(self, file: Path, about: Any) -> Shape:
        """Check a file's metadata (numbers may be text, as ONNX wants it) and return its sizes."""
        try:
            found = {name: int(about[name]) for name in NEEDED}
            major = int(about["version"].split(".")[0])
            sizes = about["shape"]
            sizes = json.loads(sizes) if isinstance(sizes, str) else sizes
            if missing := [name for name in (field.name for field in dataclasses.fields(Shape)) if name not in sizes]:
                raise ValueError(f"no {missing[0]} in its shape")
            shape = Shape(**sizes)
            shape.check()
        except Exception as error:  # the metadata may be anything
            raise self.refused(file, f"has invalid metadata: {_short(error)}") from None
        if major != MAJOR_VERSION:
            raise self.refused(file, f"is of version {about['version']}, this program supports {MAJOR_VERSION}.x")
        if wrong := [name for name, value in NEEDED.items() if found[name] != value]:
            name = wrong[0]
            raise self.refused(file, f"is for {name} = {found[name]}, the box has {NEEDED[name]}")
        return shape

    def silence(self, file: Path, about: Mapping[str, str], size: int) -> Floats:
        """float32 (size,): the initial state as an ONNX file's metadata hold it, float16 in base64."""
        try:
            state = np.frombuffer(base64.b64decode(about["silence"], validate=True), "<f2").astype(np.float32)
        except (KeyError, ValueError, binascii.Error) as error:
            raise self.refused(file, f"has no initial state: {_short(error)}") from None
        if state.shape != (size,) or not np.isfinite(state).all():
            raise self.refused(file, "has an initial state that does not fit it")
        return state

    def _content(self, file: Path) -> bytes:
        try:
            return files.read_bounded(file, MOST_BYTES)
        except FileNotFoundError:
            raise self.refused(file, "is missing") from None
        except OSError as error:
            raise self.refused(file, f"cannot be read: {error.strerror}") from None
        except files.BadFile as error:
            raise self.refused(file, f"cannot be read: it {str(error).removeprefix(f'{file} ')}") from None

    def _sums(self, card: Path) -> dict[str, str]:
        """The sha256 of each file the card names."""
        lines = self._content(card).decode(errors="replace").splitlines()
        found = [(match[1], match[2]) for line in lines if (match := CARD_LINE.fullmatch(line.strip()))]
        if len({name for name, _ in found}) < len(found):
            raise self.refused(card, "names a file twice")
        return dict(found)


def _arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """What an .npz holds; never unpickles."""
    arrays = read_npz(content, MOST_BYTES)
    if text := [name for name, values in arrays.items() if name != "meta" and values.dtype.kind not in "fiu"]:
        raise ValueError(f"{text[0]} holds no numbers")
    return arrays


def _short(error: Exception) -> str:
    """An exception's text on one line, cut to a readable length."""
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= 120 else f"{line[:117]}..."

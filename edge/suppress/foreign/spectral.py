"""Third-party networks between two short-time transforms: frames of 512 samples every 256 at 16 kHz, spectrum in and
cleaned spectrum out, as complex bins.
"""

import numpy as np

from edge import RATE_HZ
from edge.dsp.spectrum import Floats
from edge.suppress.foreign.assets import Recurrent
from edge.suppress.foreign.core import Core

WINDOW, HOP = 512, 256
BINS = WINDOW // 2 + 1
SIGNAL = (1, BINS, 1, 2)
"""Shape of the network's signal: bins of one frame, real and imaginary parts."""


class SpectralCore(Core):
    """Analysis window, network, synthesis window, overlap-add; it reports no speech probability."""

    rate_hz = RATE_HZ
    block_samples = HOP
    delay_samples = WINDOW - HOP

    def __init__(self, network: Recurrent, analysis: Floats, synthesis: Floats) -> None:
        """``network``: of signal shape ``SIGNAL``. The windows: float32, 512; their product overlaps to one."""
        self._network = network
        # bins of real and imaginary parts are complex numbers as they lie in memory
        self._spectrum = network.input.reshape(-1).view(np.complex64)
        self._cleaned = network.output.reshape(-1).view(np.complex64)
        self._analysis, self._synthesis = analysis, synthesis
        self._window, self._overlap, self._frame = np.zeros((3, WINDOW), np.float32)

    def process(self, block: Floats) -> None:
        """float32, 256 samples, in place."""
        window, overlap, frame = self._window, self._overlap, self._frame
        window[:HOP] = window[HOP:]
        window[HOP:] = block
        np.multiply(window, self._analysis, out=frame)
        np.fft.rfft(frame, out=self._spectrum)  # type: ignore[arg-type]  # numpy's stubs know only doubles
        self._network.run()
        np.fft.irfft(self._cleaned, out=frame)  # type: ignore[arg-type]
        frame *= self._synthesis
        overlap[:HOP] = overlap[HOP:]
        overlap[HOP:] = 0
        overlap += frame
        block[:] = overlap[:HOP]

    def reset(self) -> None:
        """Forget the signal."""
        self._network.reset()
        self._window.fill(0)
        self._overlap.fill(0)

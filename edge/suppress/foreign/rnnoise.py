"""RNNoise (Valin 2018, "A hybrid DSP/deep learning approach to real-time full-band speech enhancement").

480 samples at 48 kHz through the C library, which holds its own weights.
"""

from pathlib import Path

import numpy as np

from edge.dsp.spectrum import Floats
from edge.suppress.foreign.assets import FLOATS, asset, library, pointer
from edge.suppress.foreign.core import Core
from edge.suppress.shipped import PACKAGED, BadModel

PIN = "pyrnnoise==0.4.5"
FRAME = 480
FULL_SCALE = np.float32(32768)
"""The library counts as 16-bit samples do."""
FAINT = np.float32(1e-6)
"""A click so faint counts as silence: every version lets that pass as it is, only delay."""
DELAY_FRAMES = 8


def files(model: str = PACKAGED) -> list[Path]:
    """The library, from the package or one's own; raises BadModel if the package is not there."""
    return [asset(PIN, "pyrnnoise/librnnoise.so") if model == PACKAGED else Path(model)]


def open_core(model: str = PACKAGED) -> "Rnnoise":
    """``model``: the library as built for this machine (librnnoise.so). Raises BadModel."""
    return Rnnoise(*files(model))


class Rnnoise(Core):
    """One state of the library; its speech probability comes with every frame."""

    name = "rnnoise"
    rate_hz = 48_000
    block_samples = FRAME

    def __init__(self, file: Path) -> None:
        import ctypes

        self._state = None
        self._library = found = library(file)
        try:
            found.rnnoise_create.argtypes = [ctypes.c_void_p]
            found.rnnoise_create.restype = ctypes.c_void_p
            found.rnnoise_init.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
            found.rnnoise_init.restype = ctypes.c_int
            found.rnnoise_destroy.argtypes = [ctypes.c_void_p]
            found.rnnoise_destroy.restype = None
            found.rnnoise_process_frame.argtypes = [ctypes.c_void_p, FLOATS, FLOATS]
            found.rnnoise_process_frame.restype = ctypes.c_float
        except AttributeError:
            raise BadModel(f"{file} is not a library of RNNoise") from None
        self._state = found.rnnoise_create(None)
        if not self._state:
            raise BadModel(f"{file} creates no engine: out of memory, or a library without weights")
        self.delay_samples = self._measured(file)
        self.reset()

    def process(self, block: Floats) -> float:
        """float32, 480 samples, in place; returns the speech probability."""
        block *= FULL_SCALE
        samples = pointer(block)
        speech: float = self._library.rnnoise_process_frame(self._state, samples, samples)
        block /= FULL_SCALE
        return speech

    def reset(self) -> None:
        """Forget the signal."""
        self._library.rnnoise_init(self._state, None)

    def __del__(self) -> None:
        if self._state:
            self._library.rnnoise_destroy(self._state)

    def _measured(self, file: Path) -> int:
        """The library's delay in samples: versions differ by a frame, and none reports it."""
        frames = np.zeros((DELAY_FRAMES, FRAME), np.float32)
        frames[0, 0] = FAINT
        for frame in frames:
            self.process(frame)
        delay = int(np.argmax(np.abs(frames)))
        if not abs(frames.flat[delay]) > FAINT / 4:
            raise BadModel(f"{file} does not process a quiet signal as RNNoise does")
        return delay

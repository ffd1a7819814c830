"""How much of a sound a prediction explains, band by band."""

import numpy as np

from edge import HOP_SAMPLES
from edge.dsp.adaptive_path import BINS, FFT_SAMPLES
from edge.dsp.spectrum import Floats


class BandPowers:
    """Powers of several signals in bands of 100 Hz: a path through the air explains a little of every band, a held tone
    all of its own and nothing else.
    """

    _BINS = slice(3, 72)
    """300 Hz to 7.1 kHz: where headphones play."""
    _LARGEST_DB = 6.0
    """No band counts for more, or one tone would stand for all."""
    _FLOOR = 1e-9
    """Added to powers: digital silence explains nothing."""

    def __init__(self, signals: int) -> None:
        self.shape = signals, len(range(BINS)[self._BINS])
        self._frames = np.zeros((signals, FFT_SAMPLES), np.float32)
        self._windowed = np.zeros((signals, FFT_SAMPLES), np.float32)
        self._window = np.hanning(FFT_SAMPLES).astype(np.float32)
        self._powers = np.zeros(self.shape, np.float32)

    def powers(self, *signals: Floats) -> Floats:
        """A hop of each, float32, 80 samples -> float32, (signals, bands), over 10 ms; valid until the next call."""
        frames = self._frames
        frames[:, :HOP_SAMPLES] = frames[:, HOP_SAMPLES:]
        for frame, hop in zip(frames, signals, strict=True):
            frame[HOP_SAMPLES:] = hop
        np.multiply(frames, self._window, out=self._windowed)
        np.abs(np.fft.rfft(self._windowed, axis=1)[:, self._BINS], out=self._powers)
        np.square(self._powers, out=self._powers)
        return self._powers

    @classmethod
    def explained_db(cls, heard: Floats, left: Floats) -> float:
        """Powers of a sound and of what a prediction leaves of it, (bands,) -> the mean over the bands, in dB."""
        each_db = 10 * np.log10((heard + cls._FLOOR) / (left + cls._FLOOR))
        np.minimum(each_db, cls._LARGEST_DB, out=each_db)
        np.maximum(each_db, -cls._LARGEST_DB, out=each_db)
        return float(each_db.sum()) / len(each_db)

    def reset(self) -> None:
        """Forget the signals."""
        self._frames.fill(0)

"""The engine of all our own suppressors: band gains on the low-latency transform.

An *estimator* takes one spectrum and returns a gain for each of 64 bands and a speech probability. The ``MaskEngine``
owns the transform and a fallback chain of estimators, best first; when one fails or is too slow the next takes over in
the same buffers, so that nothing changes abruptly but the gains.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import BANDS, BINS, DELAY_SAMPLES, Floats, Spectra, Transform, band_weights
from edge.suppress.engine import Engine


def open_estimator(model: str, notes: list[str]) -> Estimator:
    """``engine = "off"``: it has no model and nothing to note."""
    return Unity()


def files(model: str) -> list[Path]:
    """It has none."""
    return []


class Unity(Estimator):
    """Gains of one: the level below the last suppressor, and ``engine = "off"``."""

    name = "off"

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        gains.fill(1)
        return 0.0

    def reset(self) -> None:
        pass


class MaskEngine(Engine):
    """Noise suppression by band gains: a hop in, the hop before it out, 10 ms of latency with the hop itself."""

    delay_samples = DELAY_SAMPLES
    level = 0
    invalid = 0

    def __init__(self, levels: Sequence[Estimator], limit_db: float, notes: Sequence[str] = ()) -> None:
        """``levels``: best first, at least one. ``limit_db``: the least gain is -limit_db."""
        super().__init__()
        self._levels = [*levels]
        self.notes = [*notes]
        self.limit_db = limit_db
        self._transform = Transform()
        self._spread = band_weights()
        self._gains = np.ones(BANDS, np.float32)
        self._mask = np.ones(BINS, np.float32)

    @property
    def limit_db(self) -> float:
        return self._limit_db

    @limit_db.setter
    def limit_db(self, limit_db: float) -> None:
        self._limit_db = limit_db
        self._floor = np.float32(10 ** (-limit_db / 20))

    @property
    def name(self) -> str:
        """The estimator at work."""
        return self._levels[self.level].name

    @property
    def lowest(self) -> bool:
        """Whether there is no further estimator to fall back to."""
        return self.level == len(self._levels) - 1

    @property
    def band_gains(self) -> Floats:
        return self._gains

    @property
    def skipped(self) -> bool:
        return self._levels[self.level].skipped

    def process(self, hop: Floats) -> float:
        """Clean float32, 80 samples in place; returns the speech probability."""
        spectrum = self._transform.analyse(hop)
        gains = self._gains
        speech = self._estimate(spectrum)
        np.maximum(gains, self._floor, out=gains)
        if self.wet < 1:
            gains -= 1
            gains *= self.wet
            gains += 1
        np.matmul(gains, self._spread, out=self._mask)
        np.multiply(spectrum, self._mask, out=spectrum)
        self._transform.synthesise(hop)
        return speech

    def step_down(self) -> bool:
        """Let the next estimator work; False if there is none."""
        if self.lowest:
            return False
        self.level += 1
        self._levels[self.level].reset()
        return True

    def step_up(self) -> None:
        """Try the best estimator again."""
        self.level = 0
        self._levels[0].reset()

    def reset(self) -> None:
        """Forget the signal, keep the level."""
        self._transform.reset()
        for estimator in self._levels:
            estimator.reset()

    def _estimate(self, spectrum: Spectra) -> float:
        estimator = self._levels[self.level]
        try:
            speech = estimator.estimate(spectrum, self._gains)
        except Exception as error:
            # A try costs nothing until it fails; a failing estimator must never silence the wearer.
            self.failure = error
            self._gains.fill(1)
            self.step_down()
            return 0.0
        if not np.isfinite(self._gains.sum()):
            self.invalid += 1  # the frame passes unchanged and the estimator starts afresh
            self._gains.fill(1)
            estimator.reset()
            return 0.0
        return speech

"""The engine of all our own networks: band gains on the low-latency transform.

An *estimator* sees one frame and says a gain for each of 64 bands and a speech probability. The ``MaskEngine`` owns
the transform and a ladder of estimators, best first; when one fails or is too slow the next takes over in the same
buffers, so nothing jumps but the gains.
"""

from collections.abc import Sequence

import numpy as np

from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import BANDS, BINS, DELAY_SAMPLES, Floats, Spectra, Transform, band_weights
from edge.suppress.sleep import Sleeper


class Unity:
    """Leaves everything as it is: the rung below the last suppressor, and ``engine = "off"``."""

    name = "off"

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        gains.fill(1)
        return 0.0

    def reset(self) -> None:
        pass


class MaskEngine:
    """Noise suppression by band gains: a hop in, the hop before it out, 10 ms of latency with the hop itself."""

    delay_samples = DELAY_SAMPLES
    burst_hops = 1
    """Its work is the same in every hop."""

    def __init__(self, ladder: Sequence[Estimator], limit_db: float, notes: Sequence[str] = ()) -> None:
        """``ladder``: best first, at least one. ``limit_db``: the least gain is -limit_db."""
        self._ladder = [*ladder]
        self.notes = [*notes]
        """Why it is not what was wished for, one sentence each; whoever opened it tells the user."""
        self._floor = np.float32(10 ** (-limit_db / 20))
        self._transform = Transform()
        self._spread = band_weights()
        self._gains = np.ones(BANDS, np.float32)
        self._mask = np.ones(BINS, np.float32)
        self.rung = 0
        """Which estimator works: 0 is the best, each failure goes one up."""
        self.failure: Exception | None = None
        """The last exception an estimator raised; whoever reports it sets it back to None."""
        self.unsound = 0
        """Frames whose gains were no numbers: they pass unchanged and the estimator starts afresh."""
        self.wet = 1.0
        """1 applies the gains, 0 is bypass: unity gains through the same path."""

    @property
    def name(self) -> str:
        """The estimator at work."""
        return self._ladder[self.rung].name

    @property
    def lowest(self) -> bool:
        """Whether there is no further estimator to fall back to."""
        return self.rung == len(self._ladder) - 1

    @property
    def skipped(self) -> bool:
        """Whether a network slept through the last hop."""
        estimator = self._ladder[self.rung]
        return isinstance(estimator, Sleeper) and estimator.skipped

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
        self.rung += 1
        self._ladder[self.rung].reset()
        return True

    def step_up(self) -> None:
        """Try the best estimator again."""
        self.rung = 0
        self._ladder[0].reset()

    def reset(self) -> None:
        self._transform.reset()
        for estimator in self._ladder:
            estimator.reset()

    def _estimate(self, spectrum: Spectra) -> float:
        estimator = self._ladder[self.rung]
        try:
            speech = estimator.estimate(spectrum, self._gains)
        except Exception as error:
            # A try costs nothing until it fails; a failing estimator must never silence the wearer.
            self.failure = error
            self._gains.fill(1)
            self.step_down()
            return 0.0
        if not np.isfinite(self._gains.sum()):
            self.unsound += 1
            self._gains.fill(1)
            estimator.reset()
            return 0.0
        return speech

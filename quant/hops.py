"""One stream through one of our networks, hop by hop, as the box runs it."""

from typing import Any

import numpy as np

from edge.dsp.spectrum import BANDS, Floats


class Hops:
    """One stream through one of our networks, hop by hop; ``state`` is float32 [1, S]."""

    def __init__(self, session: Any, silence: Floats) -> None:
        """``silence``: float32 [S], the state to begin with."""
        self._session = session
        self._silence = silence.reshape(1, -1).astype(np.float32)
        self.state = self._silence

    def step(self, features: Floats) -> tuple[Floats, float]:
        """float32 [64] -> gains float32 [64] in 0..1, speech probability 0..1."""
        feed = {"features": features.reshape(1, BANDS), "state": self.state}
        gains, speech, self.state = self._session.run(None, feed)
        return gains[0], float(speech[0, 0])

    def reset(self) -> None:
        self.state = self._silence

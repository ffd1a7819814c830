"""The headphone volume, and the tap before it for a line output: the volume does not affect the cable."""

import numpy as np

from edge import HOP_MS, HOP_SAMPLES
from edge.config import LimiterConfig
from edge.dsp.fader import Fader
from edge.dsp.limiter import Limiter
from edge.dsp.spectrum import Floats


class Volume:
    """A gain in dB that moves to ``target_db`` without a click; steady at 0 dB, every bit passes.

    It moves by ``_SLOPE_DB_PER_S``: in dB, because the ear hears ratios, so a change is as smooth at -60 dB as at full
    scale. Within a hop the gain is linear, over at most 12 % of itself.
    """

    delay_samples = 0

    _SLOPE_DB_PER_S = 200.0
    """20 dB take 0.1 s, 1 dB a hop: fast enough for a volume control, too slow to click."""

    def __init__(self, volume_db: float) -> None:
        assert volume_db <= 0
        self.target_db = volume_db
        """Where the gain goes, dB, at most 0; may be set between two hops."""
        self._db = volume_db
        self.gain = 10 ** (volume_db / 20)
        """Of the last sample, as a factor."""
        self._factor = np.float32(self.gain)
        self._step_db = self._SLOPE_DB_PER_S * HOP_MS / 1000
        self._ramp = (np.arange(1, HOP_SAMPLES + 1) / HOP_SAMPLES).astype(np.float32)
        self._gains = np.zeros(HOP_SAMPLES, np.float32)

    def process(self, hop: Floats) -> None:
        """float32, 80 samples in place."""
        if self._db == self.target_db:
            if self._db != 0.0:
                np.multiply(hop, self._factor, out=hop)
            return
        before = self.gain
        self._db = min(max(self.target_db, self._db - self._step_db), self._db + self._step_db)
        self.gain = 10 ** (self._db / 20)
        self._factor = np.float32(self.gain)
        np.multiply(self._ramp, self.gain - before, out=self._gains)
        self._gains += np.float32(before)
        np.multiply(hop, self._gains, out=hop)


class LineOut:
    """The sound before the headphone volume and the anti-noise, for a cable beside the jack: muted and bypassed with
    the jack, at the same delay, and below the same peak by a limiter of its own.
    """

    def __init__(self, limiter: LimiterConfig, fade_ms: float) -> None:
        self.hop = np.zeros(HOP_SAMPLES, np.float32)
        """What the cable gets of the last hop: float32, 80 samples, +-1.0."""
        self._mute = Fader(fade_ms)
        self._limiter = Limiter(limiter)

    def process(self, hop: Floats, mute: Fader) -> None:
        """Take float32, 80 samples, which stay as they are; ``mute`` is the jack's, before it has moved."""
        self.hop[:] = hop
        self._mute.gain, self._mute.target = mute.gain, mute.target
        self._mute.process(self.hop)
        self._limiter.process(self.hop)

    def silence(self) -> None:
        """What the cable gets while the chain is silent."""
        self.hop.fill(0)

    def reset(self) -> None:
        """Forget the signal."""
        self.hop.fill(0)
        self._limiter.reset()

"""What is removed without looking at the result: DC, rumble and mains hum. Works in every mode but bypass."""

from edge.config import FeedforwardConfig
from edge.dsp.highpass import HighPass
from edge.dsp.hum import HumCanceller
from edge.dsp.spectrum import Floats


class Feedforward:
    """The feedforward path as one stage: high-pass, then hum canceller."""

    delay_samples = 0

    def __init__(self, config: FeedforwardConfig) -> None:
        self.highpass = HighPass(config.highpass_hz)
        self.hum = HumCanceller(config.mains)

    def process(self, hop: Floats) -> None:
        """float32, 80 samples in place."""
        self.highpass.process(hop)
        self.hum.process(hop)

    def reset(self) -> None:
        """Forget the signal; the counters stay."""
        self.highpass.reset()
        self.hum.reset()

    @property
    def nonfinite_samples(self) -> int:
        """NaN or Inf received so far."""
        return self.highpass.nonfinite_samples

    @property
    def mains_hz(self) -> float:
        """The mains frequency as tracked, 0 when none is found."""
        return self.hum.mains_hz

    @property
    def harmonics(self) -> int:
        """How many harmonics of it are being removed."""
        return self.hum.harmonics

"""A stage of your own in the signal path: treble for whoever hears high tones less well.

    .venv/bin/python docs/examples/new_stage.py

A stage changes a hop in place and does not allocate, log, lock, wait or raise: it runs on the audio thread. One that
stays becomes a class in edge/dsp/, a section in edge/sections.py and a line in ``Chain.process``; to try it, it can
ride on a stage that is there, as here on the equaliser, which comes after the engine and before volume and limiter.
"""

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.chain import Chain
from edge.config import Config
from edge.dsp.eq import VoiceBodyEq


class Treble:
    """y[n] = x[n] - a x[n-1], scaled to 0 dB at 1 kHz: rises by up to 6 dB an octave above."""

    delay_samples = 0

    def __init__(self, a: float = 0.7, flat_hz: float = 1000.0) -> None:
        self._a = np.float32(a)
        self._gain = np.float32(1 / abs(1 - a * np.exp(-2j * np.pi * flat_hz / RATE_HZ)))
        self._before = np.zeros(HOP_SAMPLES, np.float32)  # x[n-1], allocated once
        self._last = np.float32(0)

    def process(self, hop: np.ndarray) -> None:
        """float32, 80 samples, +-1.0, 16 kHz, in place."""
        self._before[0] = self._last
        self._before[1:] = hop[:-1]
        self._last = hop[-1]
        self._before *= self._a
        hop -= self._before
        hop *= self._gain

    def reset(self) -> None:
        """Forget the signal."""
        self._last = np.float32(0)


class EqWithTreble(VoiceBodyEq):
    """The equaliser of the box, then the new stage."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.eq)
        self.treble = Treble()

    def process(self, hop: np.ndarray) -> None:
        super().process(hop)
        self.treble.process(hop)

    def reset(self) -> None:
        super().reset()
        self.treble.reset()


def response_db(chain: Chain, frequency_hz: float) -> float:
    """Level of a steady tone behind the chain, relative to the tone."""
    sound = 0.05 * np.sin(2 * np.pi * frequency_hz * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32)
    played = sound.reshape(-1, HOP_SAMPLES).copy()
    for hop in played:
        chain.process(hop)
    half = len(sound) // 2
    return float(10 * np.log10(np.square(played.reshape(-1)[half:]).mean() / np.square(sound[half:]).mean()))


if __name__ == "__main__":
    from edge.config import FeedforwardConfig, GateConfig, SuppressConfig

    bare = Config(  # a steady tone is noise to the engine and the hum canceller: without them the stage shows itself
        feedforward=FeedforwardConfig(highpass_hz=0, mains="off"),
        suppress=SuppressConfig(engine="off"),
        gate=GateConfig(on=False),
    )
    for frequency_hz in (500, 1000, 2000, 4000):
        plain, changed = Chain(bare), Chain(bare)
        changed.eq = EqWithTreble(bare)
        plain_db, changed_db = response_db(plain, frequency_hz), response_db(changed, frequency_hz)
        print(f"{frequency_hz} Hz: {plain_db:+.1f} dB as shipped, {changed_db:+.1f} dB with the stage")

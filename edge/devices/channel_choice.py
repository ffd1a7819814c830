"""Which channel of a microphone is the live one, by the power of each while the microphone starts."""

import numpy as np

from edge.devices.pcm import StreamParams
from edge.devices.sample_format import Decoder

LIVE_RATIO = 10.0
"""The dead slot of an I2S microphone is at least 10 dB below the live one, in practice constant."""
COMPARE_MS = 300.0
"""How long the channels are compared at the least; the microphone's own start-up pop shows the live one."""


class ChannelComparison:
    """Periods of a device with several channels in, the number of the channel to use out, once one is clear."""

    def __init__(self, params: StreamParams, max_frames: int) -> None:
        self.in_words = ""
        """The choice, in words, once there is one."""
        self._count = params.channels
        self._rate_hz = params.rate_hz
        self._decoder = Decoder(params.sample_format, params.channels, None, max_frames)
        self._powers = np.zeros(params.channels)
        self._mean = np.zeros(params.channels, np.float32)
        self._power = np.zeros(params.channels, np.float32)
        self._deviation = np.zeros((max_frames, params.channels), np.float32)
        self._compared_ms = 0.0

    def compare(self, raw: bytes) -> int | None:
        """One period of the device -> the channel to use, from 0; None while that is open. The first one where none is
        ``LIVE_RATIO`` above all others.
        """
        samples = self._decoder.decode_all(raw)
        deviation = self._deviation[: len(samples)]
        np.subtract(samples, samples[:1], out=deviation)  # exact: a constant has no power, however it is summed
        np.mean(deviation, axis=0, out=self._mean)
        np.subtract(deviation, self._mean, out=deviation)
        np.multiply(deviation, deviation, out=deviation)
        np.mean(deviation, axis=0, out=self._power)
        self._powers += self._power
        self._compared_ms += 1000 * len(samples) / self._rate_hz
        loudest = int(self._powers.argmax())
        if self._compared_ms < COMPARE_MS or self._powers[loudest] == 0:
            return None
        rest = max(power for channel, power in enumerate(self._powers) if channel != loudest)
        alone = bool(self._powers[loudest] > LIVE_RATIO * rest)
        chosen = loudest if alone else 0
        self.in_words = f"{chosen + 1} of {self._count} ({'the live one' if alone else 'others are live too'})"
        return chosen

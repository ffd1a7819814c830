"""Play a test signal on the box's output and record its microphone meanwhile, hop by hop as the box does."""

from collections.abc import Callable

import numpy as np

from edge import HOP_SAMPLES, UserError
from edge.box import Box
from edge.devices.pcm import Event
from edge.dsp.spectrum import Floats


class NothingHeard(UserError):
    """The test signal did not come back."""


def play_and_record(box: Box, signal: Floats, process: Callable[[Floats], object] = lambda hop: None) -> Floats:
    """float32, +-1.0, whole hops at 16 kHz out; what the microphone delivered meanwhile, as long, comes back.

    ``process`` changes each hop in place before it is played. Opens and closes the box's devices. Raises DeviceError,
    NothingHeard if a device fails meanwhile.
    """
    recorded = np.zeros_like(signal)
    hop = np.zeros(HOP_SAMPLES, np.float32)
    box.open()
    try:
        for start in range(0, len(signal), HOP_SAMPLES):
            if box.capture.read(hop) >= Event.STALLED:
                raise NothingHeard("the microphone stopped delivering sound")
            recorded[start : start + HOP_SAMPLES] = hop
            hop[:] = signal[start : start + HOP_SAMPLES]
            process(hop)
            if box.playback.write(hop) >= Event.STALLED:
                raise NothingHeard("the output stopped taking sound")
    finally:
        box.close()
    return recorded

"""The feedforward path: high-pass and hum canceller as one stage."""

import numpy as np
from numpy.typing import NDArray
from signals import between, level_db, mains_hum, room_noise, through

from edge.config import FeedforwardConfig
from edge.dsp.feedforward import Feedforward
from edge.dsp.highpass import HighPass
from edge.dsp.hum import HumCanceller

Doubles = NDArray[np.float64]


def test_reset_is_a_fresh_stage() -> None:
    stage, signal = Feedforward(FeedforwardConfig()), mains_hum(50, 4) + room_noise(4)
    first = through(stage, signal)
    assert stage.harmonics > 0
    stage.reset()
    assert stage.mains_hz == 0
    np.testing.assert_array_equal(through(stage, signal), first)


def test_feedforward_joins_both_without_delay() -> None:
    signal = room_noise(5) + 0.1 + mains_hum(50, 5)
    out = through(Feedforward(FeedforwardConfig(highpass_hz=90, mains="auto")), signal)
    assert level_db(between(out, 4, 5)) < -75
    assert Feedforward.delay_samples == HighPass.delay_samples == HumCanceller.delay_samples == 0

"""The feedforward path: high-pass and hum canceller as one stage."""

import math

import numpy as np
from numpy.typing import NDArray
from signals import level_db

from edge import HOP_SAMPLES, RATE_HZ
from edge.config import FeedforwardConfig
from edge.dsp.feedforward import Feedforward
from edge.dsp.highpass import HighPass
from edge.dsp.hum import HumCanceller

Doubles = NDArray[np.float64]


def in_hops(stage: Feedforward, signal: NDArray[np.floating]) -> Doubles:
    out = signal.astype(np.float32)
    for start in range(0, len(out) - HOP_SAMPLES + 1, HOP_SAMPLES):
        stage.process(out[start : start + HOP_SAMPLES])
    return out.astype(float)


def room(seconds: float, level_dbfs: float = -80, seed: int = 0) -> Doubles:
    noise = np.random.default_rng(seed).normal(0, 1, round(seconds * RATE_HZ))
    return noise * 10 ** (level_dbfs / 20)


def hum(hz: float | Doubles, seconds: float, harmonics: int = 10, level_dbfs: float = -46, seed: int = 1) -> Doubles:
    samples = round(seconds * RATE_HZ)
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(np.asarray(hz, float), samples)) / RATE_HZ
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, harmonics)
    out = sum(np.cos(k * phase + phases[k - 1]) / math.sqrt(k) for k in range(1, harmonics + 1))
    out = np.asarray(out)
    return out / out.std() * 10 ** (level_dbfs / 20)


def seconds_of(x: Doubles, begin: float, end: float) -> Doubles:
    return x[round(begin * RATE_HZ) : round(end * RATE_HZ)]


def test_reset_is_a_fresh_stage() -> None:
    stage, signal = Feedforward(FeedforwardConfig()), hum(50, 4) + room(4)
    first = in_hops(stage, signal)
    assert stage.harmonics > 0
    stage.reset()
    assert stage.mains_hz == 0
    np.testing.assert_array_equal(in_hops(stage, signal), first)


def test_feedforward_joins_both_without_delay() -> None:
    signal = room(5) + 0.1 + hum(50, 5)
    out = in_hops(Feedforward(FeedforwardConfig(highpass_hz=90, mains="auto")), signal)
    assert level_db(seconds_of(out, 4, 5)) < -75
    assert Feedforward.delay_samples == HighPass.delay_samples == HumCanceller.delay_samples == 0

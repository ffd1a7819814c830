"""The voice-body equaliser: the response it promises."""

import math

import numpy as np
import pytest
from signals import in_hops, level_db, noise_hop

from edge import HOP_SAMPLES, RATE_HZ
from edge.config import EqConfig
from edge.dsp.eq import VoiceBodyEq


def response_db(stage: VoiceBodyEq, frequency_hz: float) -> float:
    tone = np.sin(2 * np.pi * frequency_hz * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32) * np.float32(0.1)
    return level_db(in_hops(stage.process, tone)[RATE_HZ // 2 :]) - level_db(tone[RATE_HZ // 2 :])


def test_voice_body_off_passes_every_bit() -> None:
    hop = noise_hop(-20)
    np.testing.assert_array_equal(in_hops(VoiceBodyEq(EqConfig(gain_db=0)).process, hop), hop)


@pytest.mark.parametrize("gain_db", [6.0, -6.0])
def test_voice_body_raises_its_band_and_leaves_the_rest(gain_db: float) -> None:
    assert response_db(VoiceBodyEq(EqConfig(gain_db=gain_db)), math.sqrt(100 * 1000)) == pytest.approx(gain_db, abs=0.1)
    assert abs(response_db(VoiceBodyEq(EqConfig(gain_db=gain_db)), 7000)) < 0.3
    for edge_hz in (100.0, 1000.0):  # half of the added part in power: |1 + (g - 1)(1 +- j) / 2|
        added = 10 ** (gain_db / 20) - 1
        expected = 20 * math.log10(abs(1 + added * (0.5 + 0.5j)))
        assert response_db(VoiceBodyEq(EqConfig(gain_db=gain_db)), edge_hz) == pytest.approx(expected, abs=0.1)


def test_reset_voice_body_is_a_fresh_one_and_broken_input_does_not_stay() -> None:
    stage, hop = VoiceBodyEq(EqConfig(gain_db=6)), noise_hop(-20)
    first = in_hops(stage.process, hop)
    assert np.isfinite(in_hops(stage.process, np.full(HOP_SAMPLES, np.nan, np.float32))).all()
    stage.reset()
    np.testing.assert_array_equal(in_hops(stage.process, hop), first)

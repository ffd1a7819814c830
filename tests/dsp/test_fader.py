"""The fader: mute and its end without a step."""

import numpy as np
from signals import in_hops, noise_hop

from edge import HOP_SAMPLES
from edge.dsp.fader import Fader


def test_fader_mutes_and_opens_in_its_time_without_a_step() -> None:
    fader, ones = Fader(20), np.ones(8 * HOP_SAMPLES, np.float32)
    fader.target = 0.0
    down = in_hops(fader.process, ones)
    fader.target = 1.0
    up = in_hops(fader.process, ones)
    both = np.concatenate([[1.0], down, up])
    assert np.abs(np.diff(both)).max() <= 1 / 320 + 1e-6
    assert np.argmax(down == 0) == 319 and np.argmax(up == 1) == 319  # 20 ms
    assert (down[320:] == 0).all() and (up[320:] == 1).all()


def test_fader_turned_round_half_way_does_not_jump() -> None:
    fader, gains = Fader(20), []
    for target in (0, 0, 1, 0, 1, 1, 1, 1):
        fader.target = target
        gains.append(in_hops(fader.process, np.ones(HOP_SAMPLES, np.float32)))
    assert np.abs(np.diff(np.concatenate([[1.0], *gains]))).max() <= 1 / 320 + 1e-6


def test_open_fader_passes_bits_and_a_muted_one_is_silent_even_for_broken_input() -> None:
    fader, hop = Fader(20), noise_hop(-20)
    np.testing.assert_array_equal(in_hops(fader.process, hop), hop)
    fader.target = 0.0
    in_hops(fader.process, np.zeros(4 * HOP_SAMPLES, np.float32))
    assert (in_hops(fader.process, np.full(HOP_SAMPLES, np.nan, np.float32)) == 0).all()
    fader.reset()
    assert fader.target == fader.gain == 1.0

"""The soft gate: quiet noise is attenuated, consonants pass, the gain never steps."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signals import in_hops, level_db, noise_hop

from edge import HOP_SAMPLES
from edge.config import GateConfig
from edge.dsp.gate import SoftGate


def test_closed_gate_takes_its_depth_from_silence() -> None:
    gate, hop = SoftGate(GateConfig(depth_db=30)), noise_hop(-80)
    out = hop.copy()
    gate.process(out, False)
    assert level_db(out) - level_db(hop) == pytest.approx(-30, abs=0.01)


def test_a_consonant_late_in_a_hop_passes_at_once() -> None:
    gate, consonant = SoftGate(GateConfig()), noise_hop(-40)
    consonant[:60] = noise_hop(-80)[:60]
    out = consonant.copy()
    gate.process(out, False)
    np.testing.assert_array_equal(out[60:], consonant[60:])


@pytest.mark.parametrize("by_level", [True, False])
def test_gate_holds_for_its_time_then_closes_smoothly(by_level: bool) -> None:
    gate = SoftGate(GateConfig(hold_ms=800))
    gate.process(noise_hop(-30 if by_level else -60), speaking=not by_level)
    gains = []
    for _ in range(400):
        gate.process(noise_hop(-90), False)
        gains.append(gate.gain_db)
    assert gains[:160] == [0.0] * 160  # 800 ms
    assert gains[160] < 0
    assert np.diff(gains[159:]).min() >= -0.5 - 1e-9  # 100 dB/s
    assert gains[-1] == -30


def test_gate_curve_is_monotone_between_its_ends() -> None:
    gate = SoftGate(GateConfig(floor_dbfs=-70, ceiling_dbfs=-48, depth_db=30))
    gains = [gate.curve_db(level) for level in np.linspace(-100, 0, 201)]
    assert gains[0] == -30 and gains[-1] == 0
    assert (np.diff(gains) >= 0).all()
    assert gate.curve_db(-59) == pytest.approx(-15)


@settings(max_examples=50, deadline=None)
@given(levels=st.lists(st.tuples(st.floats(-100, 0), st.booleans()), min_size=2, max_size=40))
def test_gate_gain_never_steps(levels: list[tuple[float, bool]]) -> None:
    gate, gains = SoftGate(GateConfig(hold_ms=10)), []
    for level_dbfs, speaking in levels:
        hop = np.full(HOP_SAMPLES, 10 ** (level_dbfs / 20), np.float32)
        out = hop.copy()
        gate.process(out, speaking)
        gains.append(out / hop)
    steps = np.abs(np.diff(np.concatenate(gains)))
    assert steps.max() <= 1 / 16 + 1e-5  # at fastest from nothing to all in a millisecond
    assert np.concatenate(gains).max() <= 1 + 1e-6


def test_broken_hop_does_not_stay_in_the_gate() -> None:
    gate = SoftGate(GateConfig())
    gate.process(np.full(HOP_SAMPLES, np.nan, np.float32), False)
    out = noise_hop(-30)
    gate.process(out, False)
    assert math.isfinite(gate.gain_db) and np.isfinite(out).all()


def test_reset_gate_is_a_fresh_one() -> None:
    gate, signal = SoftGate(GateConfig()), np.concatenate([noise_hop(level) for level in (-60, -30, -80, -55)])
    first = in_hops(gate.process, signal, speaking=False)
    gate.reset()
    np.testing.assert_array_equal(in_hops(gate.process, signal, speaking=False), first)

"""The high-pass and the hop filter below it: the response they promise, and invalid input leaves no trace."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt
from signals import level_db, room_noise, through

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.biquad import HopFilter, biquad, prewarped
from edge.dsp.highpass import HighPass

Doubles = NDArray[np.float64]


def response_db(cutoff_hz: float, frequency_hz: float) -> float:
    tone = 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(2 * RATE_HZ) / RATE_HZ)
    return level_db(through(HighPass(cutoff_hz), tone)[RATE_HZ:]) - level_db(tone[RATE_HZ:])


@pytest.mark.parametrize("cutoff_hz", [40.0, 90.0, 200.0])
def test_highpass_is_butterworth_of_second_order(cutoff_hz: float) -> None:
    assert response_db(cutoff_hz, cutoff_hz) == pytest.approx(-3.01, abs=0.05)
    octave_db = response_db(cutoff_hz, cutoff_hz / 2) - response_db(cutoff_hz, cutoff_hz / 4)
    assert octave_db == pytest.approx(11.8, abs=0.1)
    assert abs(response_db(cutoff_hz, 10 * cutoff_hz)) < 0.01


@pytest.mark.parametrize("cutoff_hz", [1.0, 5.0])
def test_highpass_removes_dc_in_four_periods(cutoff_hz: float) -> None:
    dc = np.full(round(4 / cutoff_hz * RATE_HZ), 0.9)
    assert np.abs(through(HighPass(cutoff_hz), dc)[-HOP_SAMPLES:]).max() < 1e-6


@pytest.mark.parametrize("edge_hz", [15.0, 90.0, 400.0])
def test_a_hop_filter_is_scipys_butterworth(edge_hz: float) -> None:
    sections, signal = butter(2, edge_hz, "highpass", fs=RATE_HZ, output="sos"), room_noise(2, -10)
    edge = prewarped(edge_hz)
    coefficients = biquad((1, 0, 0), (1, math.sqrt(2) * edge, edge**2))
    np.testing.assert_allclose(coefficients, sections[0], atol=1e-12)
    expected = sosfilt(sections, signal.astype(np.float32).astype(float))
    np.testing.assert_allclose(through(HopFilter(coefficients), signal), expected, atol=2e-7)


def test_highpass_off_passes_every_bit() -> None:
    signal = room_noise(0.1, -20).astype(np.float32)
    np.testing.assert_array_equal(through(HighPass(0), signal), signal)


@pytest.mark.parametrize("cutoff_hz", [0.0, 90.0])
def test_broken_samples_become_silence_and_leave_no_trace(cutoff_hz: float) -> None:
    broken = room_noise(0.1, -20).astype(np.float32)
    silent = broken.copy()
    broken[100:104], silent[100:104] = [np.nan, np.inf, -np.inf, np.nan], 0
    stage = HighPass(cutoff_hz)
    np.testing.assert_array_equal(through(stage, broken), through(HighPass(cutoff_hz), silent))
    assert stage.nonfinite_samples == 4


@pytest.mark.parametrize("cutoff_hz", [1.0, 5.0])
def test_a_fading_highpass_never_becomes_subnormal(cutoff_hz: float) -> None:
    out = through(HighPass(cutoff_hz), np.concatenate([np.ones(800), np.zeros(round(18 / cutoff_hz * RATE_HZ))]))
    left = np.abs(out[np.nonzero(out)])
    assert left.min() >= np.finfo(np.float32).tiny
    assert np.abs(out[-HOP_SAMPLES:]).max() < 1e-30

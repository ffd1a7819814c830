"""The limiter: equal to its definition at every block size, and nothing leaves above the peak."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge import RATE_HZ
from edge.config import LimiterConfig
from edge.dsp.limiter import Limiter, decay_per_sample, limiter_speed

Floats = NDArray[np.float32]

T_DBFS, PEAK_DBFS = -2.0, -1.0
DEFAULTS = LimiterConfig()
BASE = replace(DEFAULTS, threshold_dbfs=T_DBFS, peak_dbfs=PEAK_DBFS)
PEAK = 10 ** (PEAK_DBFS / 20)


def limited_sample_by_sample(
    signal: Floats, delay_samples: int, attack_ms: float, release_ms: float, peak: float = PEAK
) -> NDArray[np.float64]:
    """The definition, as it is written down."""
    t, f_a, f_r = 10 ** (T_DBFS / 20), decay_per_sample(attack_ms), decay_per_sample(release_ms)
    envelope, gain, out = 0.0, 1.0, np.zeros(len(signal))
    delayed = np.concatenate([np.zeros(delay_samples), signal])
    for n, sample in enumerate(signal.astype(float)):
        envelope = max(abs(sample), envelope * f_r)
        target = 1.0 if envelope <= t else max(0.0, 1 + t - envelope)
        gain = gain * f_a + target * (1 - f_a)
        out[n] = min(max(delayed[n] * gain, -peak), peak)
    return out


def loud_and_quiet(samples: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    steps = np.repeat(rng.choice([0, 0.01, 0.3, 1, 3], samples // 50 + 1), 50)[:samples]
    return (rng.normal(0, 0.6, samples) * steps).astype(np.float32)


def in_blocks(limiter: Limiter, signal: Floats, block_samples: int) -> Floats:
    out = signal.copy()
    for start in range(0, len(out), block_samples):
        limiter.process(out[start : start + block_samples])
    return out


@pytest.mark.parametrize("block_samples", [1, 2, 3, 4, 5, 16, 79, 80, 127, 128, 129, 480, 1024, 4096])
@pytest.mark.parametrize(("attack_ms", "release_ms"), [(0.25, 60), (5, 1), (0, 0), (0.05, 0.01)])
def test_limiter_is_its_definition_at_every_block_size(block_samples: int, attack_ms: float, release_ms: float) -> None:
    signal = loud_and_quiet(4200)
    limiter = Limiter(
        LimiterConfig(
            threshold_dbfs=T_DBFS, peak_dbfs=PEAK_DBFS, delay_ms=1.0, attack_ms=attack_ms, release_ms=release_ms
        )
    )
    expected = limited_sample_by_sample(signal, limiter.delay_samples, attack_ms, release_ms)
    np.testing.assert_allclose(in_blocks(limiter, signal, block_samples), expected, atol=1e-5)


TIMES_MS = st.one_of(st.just(0.0), st.floats(1e-4, 1e5), st.just(math.inf))


@settings(max_examples=80, deadline=None)
@given(
    splits=st.lists(st.integers(0, 300), min_size=1, max_size=12),
    attack_ms=TIMES_MS,
    release_ms=TIMES_MS,
    delay_ms=st.floats(0, 12),
    seed=st.integers(0, 99),
)
def test_limiter_is_its_definition_however_the_stream_is_cut(
    splits: list[int], attack_ms: float, release_ms: float, delay_ms: float, seed: int
) -> None:
    signal = loud_and_quiet(sum(splits), seed)
    limiter = Limiter(
        LimiterConfig(
            threshold_dbfs=T_DBFS, peak_dbfs=PEAK_DBFS, delay_ms=delay_ms, attack_ms=attack_ms, release_ms=release_ms
        )
    )
    out, start = signal.copy(), 0
    for length in splits:
        limiter.process(out[start : start + length])
        start += length
    expected = limited_sample_by_sample(signal, limiter.delay_samples, attack_ms, release_ms)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_a_release_of_less_than_a_sample_still_remembers_what_was_enormous() -> None:
    signal = np.full(200, 0.2, np.float32)
    signal[[5, 100]] = 1e8, 3e30
    expected = limited_sample_by_sample(signal, 0, 0.0, release_ms=0.0132)
    assert (expected[6:9] < 0.1999).all()  # three samples later it is still above the threshold
    np.testing.assert_allclose(
        in_blocks(
            Limiter(replace(BASE, delay_ms=0, attack_ms=0, release_ms=0.0132)),
            signal,
            80,
        ),
        expected,
        atol=1e-5,
    )


BROKEN = st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30, 3.4e38, 1e-45, -1e-40, 0.0, 1.0, -1.0, 0.7])


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(BROKEN, min_size=1, max_size=300),
    block_samples=st.integers(1, 200),
    peak_dbfs=st.floats(-60, 0),
    release_ms=TIMES_MS,
)
@pytest.mark.filterwarnings("error")
def test_nothing_ever_leaves_above_the_peak(
    values: list[float], block_samples: int, peak_dbfs: float, release_ms: float
) -> None:
    signal = np.array(values, np.float32)
    limiter = Limiter(replace(BASE, peak_dbfs=peak_dbfs, delay_ms=0.5, attack_ms=0.25, release_ms=release_ms))
    out = in_blocks(limiter, signal, block_samples)
    assert np.isfinite(out).all()
    assert np.abs(out.astype(float)).max() <= 10 ** (peak_dbfs / 20)
    assert limiter.nonfinite_samples == np.count_nonzero(~np.isfinite(signal))


def test_broken_samples_are_silence_and_leave_no_trace() -> None:
    signal = loud_and_quiet(800)
    broken, silent = signal.copy(), signal.copy()
    broken[100:110], silent[100:110] = [np.nan, np.inf] * 5, 0
    np.testing.assert_array_equal(in_blocks(Limiter(DEFAULTS), broken, 80), in_blocks(Limiter(DEFAULTS), silent, 80))


@pytest.mark.parametrize("level", [0.1, 0.5, 0.6, 0.8, 1.0, 1.4, 1.6, 2.0])
def test_a_steady_level_leaves_at_the_formula(level: float) -> None:
    t = 10 ** (T_DBFS / 20)
    out = in_blocks(Limiter(replace(BASE, peak_dbfs=0.0)), np.full(4000, level, np.float32), 80)
    expected = level * (1.0 if level <= t else max(0.0, 1 + t - level))
    assert out[-1] == pytest.approx(expected, abs=1e-5)
    assert expected <= (1 + t) ** 2 / 4


def test_attack_has_its_time_constant_and_is_done_when_the_peak_leaves() -> None:
    limiter = Limiter(replace(BASE, peak_dbfs=0.0, delay_ms=1.0, attack_ms=0.25, release_ms=60))
    step = np.concatenate([np.full(400, 0.1, np.float32), np.full(400, 1.0, np.float32)])
    out = in_blocks(limiter, step, 80)
    settled = 10 ** (T_DBFS / 20)
    gain = out[400:416] / 0.1  # what leaves after the step came in is still the quiet part
    assert gain[3] == pytest.approx(settled + (1 - settled) * math.exp(-1), abs=1e-4)
    assert out[416] <= settled * 1.02
    assert limiter.ceiling_samples == 0


def test_release_follows_the_envelope() -> None:
    limiter = Limiter(replace(BASE, peak_dbfs=0.0, delay_ms=0.0, attack_ms=0.0, release_ms=60))
    signal = np.full(4000, 0.1, np.float32)
    signal[0] = 1.0
    gain = in_blocks(limiter, signal, 80)[1:] / 0.1
    back = int(np.argmax(gain > 0.9999))  # e falls from 1 to t: ln(1 / t) time constants
    assert back / RATE_HZ * 1000 == pytest.approx(60 * math.log(1 / 10 ** (T_DBFS / 20)), abs=0.3)


def test_quiet_sound_passes_bit_for_bit_and_late_by_the_delay() -> None:
    limiter, signal = Limiter(DEFAULTS), loud_and_quiet(1600) * np.float32(0.05)
    out = in_blocks(limiter, signal, 80)
    late = limiter.delay_samples
    assert late == 16
    np.testing.assert_array_equal(out[late:], signal[:-late])
    assert limiter.limited_samples == limiter.ceiling_samples == limiter.nonfinite_samples == 0


def test_the_counters_count() -> None:
    limiter = Limiter(replace(BASE, delay_ms=0.0, attack_ms=10.0))
    in_blocks(limiter, np.ones(160, np.float32), 80)
    assert 0 < limiter.ceiling_samples < limiter.limited_samples <= 160


def test_limiter_state_never_becomes_subnormal() -> None:
    limiter = Limiter(LimiterConfig(release_ms=1, attack_ms=0.1))
    in_blocks(limiter, np.full(4000, 5, np.float32), 80)
    in_blocks(limiter, np.zeros(16000, np.float32), 80)
    assert limiter._envelope_buffer[0] == 0.0
    assert limiter._target_buffer[0] == pytest.approx(1.0)


def test_reset_limiter_is_a_fresh_one() -> None:
    limiter, signal = Limiter(DEFAULTS), loud_and_quiet(800)
    first = in_blocks(limiter, signal, 80)
    limiter.reset()
    np.testing.assert_array_equal(in_blocks(limiter, signal, 80), first)


def test_limiter_speed_prints_every_block_size_and_keeps_up() -> None:
    rows = limiter_speed(seconds=0.02)
    assert [row[0] for row in rows] == [2, 4, 80, 1024]
    assert rows[2][2] > 2  # a generous bound: one hop in less than half its time

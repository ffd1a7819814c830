"""The end of the chain: nothing harmful leaves, nothing clicks, consonants pass."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.guard import Fader, Limiter, SoftGate, VoiceBodyEq, decay_per_sample, limiter_speed

Floats = NDArray[np.float32]

T_DBFS, PEAK_DBFS = -2.0, -1.0
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


def in_hops(process: object, signal: Floats, **more: object) -> Floats:
    assert callable(process)
    out = signal.astype(np.float32)
    for start in range(0, len(out) - HOP_SAMPLES + 1, HOP_SAMPLES):
        process(out[start : start + HOP_SAMPLES], **more)
    return out


def level_db(x: NDArray[np.floating]) -> float:
    return 10 * math.log10(float(np.mean(np.square(x.astype(float)))) + 1e-30)


# --- limiter


@pytest.mark.parametrize("block_samples", [1, 2, 3, 4, 5, 16, 79, 80, 127, 128, 129, 480, 1024, 4096])
@pytest.mark.parametrize(("attack_ms", "release_ms"), [(0.25, 60), (5, 1), (0, 0), (0.05, 0.01)])
def test_limiter_is_its_definition_at_every_block_size(block_samples: int, attack_ms: float, release_ms: float) -> None:
    signal = loud_and_quiet(4200)
    limiter = Limiter(T_DBFS, PEAK_DBFS, 1.0, attack_ms, release_ms)
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
    limiter = Limiter(T_DBFS, PEAK_DBFS, delay_ms, attack_ms, release_ms)
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
    np.testing.assert_allclose(in_blocks(Limiter(T_DBFS, PEAK_DBFS, 0, 0, 0.0132), signal, 80), expected, atol=1e-5)


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
    limiter = Limiter(T_DBFS, peak_dbfs, 0.5, 0.25, release_ms)
    out = in_blocks(limiter, signal, block_samples)
    assert np.isfinite(out).all()
    assert np.abs(out.astype(float)).max() <= 10 ** (peak_dbfs / 20)
    assert limiter.nonfinite_samples == np.count_nonzero(~np.isfinite(signal))


def test_broken_samples_are_silence_and_leave_no_trace() -> None:
    signal = loud_and_quiet(800)
    broken, silent = signal.copy(), signal.copy()
    broken[100:110], silent[100:110] = [np.nan, np.inf] * 5, 0
    np.testing.assert_array_equal(in_blocks(Limiter(), broken, 80), in_blocks(Limiter(), silent, 80))


@pytest.mark.parametrize("level", [0.1, 0.5, 0.6, 0.8, 1.0, 1.4, 1.6, 2.0])
def test_a_steady_level_leaves_at_the_formula(level: float) -> None:
    t = 10 ** (T_DBFS / 20)
    out = in_blocks(Limiter(T_DBFS, 0.0), np.full(4000, level, np.float32), 80)
    expected = level * (1.0 if level <= t else max(0.0, 1 + t - level))
    assert out[-1] == pytest.approx(expected, abs=1e-5)
    assert expected <= (1 + t) ** 2 / 4


def test_attack_has_its_time_constant_and_is_done_when_the_peak_leaves() -> None:
    limiter = Limiter(T_DBFS, 0.0, delay_ms=1.0, attack_ms=0.25, release_ms=60)
    step = np.concatenate([np.full(400, 0.1, np.float32), np.full(400, 1.0, np.float32)])
    out = in_blocks(limiter, step, 80)
    settled = 10 ** (T_DBFS / 20)
    gain = out[400:416] / 0.1  # what leaves after the step came in is still the quiet part
    assert gain[3] == pytest.approx(settled + (1 - settled) * math.exp(-1), abs=1e-4)
    assert out[416] <= settled * 1.02
    assert limiter.ceiling_samples == 0


def test_release_follows_the_envelope() -> None:
    limiter = Limiter(T_DBFS, 0.0, delay_ms=0.0, attack_ms=0.0, release_ms=60)
    signal = np.full(4000, 0.1, np.float32)
    signal[0] = 1.0
    gain = in_blocks(limiter, signal, 80)[1:] / 0.1
    back = int(np.argmax(gain > 0.9999))  # e falls from 1 to t: ln(1 / t) time constants
    assert back / RATE_HZ * 1000 == pytest.approx(60 * math.log(1 / 10 ** (T_DBFS / 20)), abs=0.3)


def test_quiet_sound_passes_bit_for_bit_and_late_by_the_delay() -> None:
    limiter, signal = Limiter(), loud_and_quiet(1600) * np.float32(0.05)
    out = in_blocks(limiter, signal, 80)
    late = limiter.delay_samples
    assert late == 16
    np.testing.assert_array_equal(out[late:], signal[:-late])
    assert limiter.limited_samples == limiter.ceiling_samples == limiter.nonfinite_samples == 0


def test_the_counters_count() -> None:
    limiter = Limiter(T_DBFS, PEAK_DBFS, delay_ms=0.0, attack_ms=10.0)
    in_blocks(limiter, np.ones(160, np.float32), 80)
    assert 0 < limiter.ceiling_samples < limiter.limited_samples <= 160


def test_limiter_state_never_becomes_subnormal() -> None:
    limiter = Limiter(release_ms=1, attack_ms=0.1)
    in_blocks(limiter, np.full(4000, 5, np.float32), 80)
    in_blocks(limiter, np.zeros(16000, np.float32), 80)
    assert limiter._envelope_buffer[0] == 0.0
    assert limiter._target_buffer[0] == pytest.approx(1.0)


def test_reset_limiter_is_a_fresh_one() -> None:
    limiter, signal = Limiter(), loud_and_quiet(800)
    first = in_blocks(limiter, signal, 80)
    limiter.reset()
    np.testing.assert_array_equal(in_blocks(limiter, signal, 80), first)


def test_limiter_speed_prints_every_block_size_and_keeps_up() -> None:
    rows = limiter_speed(seconds=0.02)
    assert [row[0] for row in rows] == [2, 4, 80, 1024]
    assert rows[2][2] > 2  # a generous bound: one hop in less than half its time


# --- gate


def noise_hop(level_dbfs: float, seed: int = 0) -> Floats:
    hop = np.random.default_rng(seed).normal(0, 1, HOP_SAMPLES)
    return (hop / math.sqrt(np.mean(hop**2)) * 10 ** (level_dbfs / 20)).astype(np.float32)


def test_closed_gate_takes_its_depth_from_silence() -> None:
    gate, hop = SoftGate(depth_db=30), noise_hop(-80)
    out = hop.copy()
    gate.process(out)
    assert level_db(out) - level_db(hop) == pytest.approx(-30, abs=0.01)


def test_a_consonant_late_in_a_hop_passes_at_once() -> None:
    gate, consonant = SoftGate(), noise_hop(-40)
    consonant[:60] = noise_hop(-80)[:60]
    out = consonant.copy()
    gate.process(out)
    np.testing.assert_array_equal(out[60:], consonant[60:])


@pytest.mark.parametrize("by_level", [True, False])
def test_gate_holds_for_its_time_then_closes_smoothly(by_level: bool) -> None:
    gate = SoftGate(hold_ms=800)
    gate.process(noise_hop(-30 if by_level else -60), speaking=not by_level)
    gains = []
    for _ in range(400):
        gate.process(noise_hop(-90))
        gains.append(gate.gain_db)
    assert gains[:160] == [0.0] * 160  # 800 ms
    assert gains[160] < 0
    assert np.diff(gains[159:]).min() >= -0.5 - 1e-9  # 100 dB/s
    assert gains[-1] == -30


def test_gate_curve_is_monotone_between_its_ends() -> None:
    gate = SoftGate(-70, -48, depth_db=30)
    gains = [gate.curve_db(level) for level in np.linspace(-100, 0, 201)]
    assert gains[0] == -30 and gains[-1] == 0
    assert (np.diff(gains) >= 0).all()
    assert gate.curve_db(-59) == pytest.approx(-15)


@settings(max_examples=50, deadline=None)
@given(levels=st.lists(st.tuples(st.floats(-100, 0), st.booleans()), min_size=2, max_size=40))
def test_gate_gain_never_steps(levels: list[tuple[float, bool]]) -> None:
    gate, gains = SoftGate(hold_ms=10), []
    for level_dbfs, speaking in levels:
        hop = np.full(HOP_SAMPLES, 10 ** (level_dbfs / 20), np.float32)
        out = hop.copy()
        gate.process(out, speaking)
        gains.append(out / hop)
    steps = np.abs(np.diff(np.concatenate(gains)))
    assert steps.max() <= 1 / 16 + 1e-5  # at fastest from nothing to all in a millisecond
    assert np.concatenate(gains).max() <= 1 + 1e-6


def test_broken_hop_does_not_stay_in_the_gate() -> None:
    gate = SoftGate()
    gate.process(np.full(HOP_SAMPLES, np.nan, np.float32))
    out = noise_hop(-30)
    gate.process(out)
    assert math.isfinite(gate.gain_db) and np.isfinite(out).all()


def test_reset_gate_is_a_fresh_one() -> None:
    gate, signal = SoftGate(), np.concatenate([noise_hop(level) for level in (-60, -30, -80, -55)])
    first = in_hops(gate.process, signal)
    gate.reset()
    np.testing.assert_array_equal(in_hops(gate.process, signal), first)


# --- fader


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
    fader, hop = Fader(), noise_hop(-20)
    np.testing.assert_array_equal(in_hops(fader.process, hop), hop)
    fader.target = 0.0
    in_hops(fader.process, np.zeros(4 * HOP_SAMPLES, np.float32))
    assert (in_hops(fader.process, np.full(HOP_SAMPLES, np.nan, np.float32)) == 0).all()
    fader.reset()
    assert fader.target == fader.gain == 1.0


# --- voice body


def response_db(stage: VoiceBodyEq, frequency_hz: float) -> float:
    tone = np.sin(2 * np.pi * frequency_hz * np.arange(RATE_HZ) / RATE_HZ).astype(np.float32) * np.float32(0.1)
    return level_db(in_hops(stage.process, tone)[RATE_HZ // 2 :]) - level_db(tone[RATE_HZ // 2 :])


def test_voice_body_off_passes_every_bit() -> None:
    hop = noise_hop(-20)
    np.testing.assert_array_equal(in_hops(VoiceBodyEq().process, hop), hop)


@pytest.mark.parametrize("gain_db", [6.0, -6.0])
def test_voice_body_raises_its_band_and_leaves_the_rest(gain_db: float) -> None:
    assert response_db(VoiceBodyEq(gain_db), math.sqrt(100 * 1000)) == pytest.approx(gain_db, abs=0.1)
    assert abs(response_db(VoiceBodyEq(gain_db), 7000)) < 0.3
    for edge_hz in (100.0, 1000.0):  # half of the added part in power: |1 + (g - 1)(1 +- j) / 2|
        added = 10 ** (gain_db / 20) - 1
        expected = 20 * math.log10(abs(1 + added * (0.5 + 0.5j)))
        assert response_db(VoiceBodyEq(gain_db), edge_hz) == pytest.approx(expected, abs=0.1)


def test_reset_voice_body_is_a_fresh_one_and_broken_input_does_not_stay() -> None:
    stage, hop = VoiceBodyEq(6), noise_hop(-20)
    first = in_hops(stage.process, hop)
    assert np.isfinite(in_hops(stage.process, np.full(HOP_SAMPLES, np.nan, np.float32))).all()
    stage.reset()
    np.testing.assert_array_equal(in_hops(stage.process, hop), first)

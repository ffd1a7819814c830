"""Sample rates: the converter's measured response, its delay, its bookkeeping of positions, and steering."""

import math

import numpy as np
import pytest

from edge.devices.sample_format import Decoder, Encoder
from edge.dsp.bandwidth import band_edges_hz
from edge.dsp.lowpass import FIRST_HALF
from edge.dsp.resample import Resampler, design
from edge.tools.response import RATE_PAIRS, main, measure_response

ODD_PAIRS = [(44_101, 16_000), (16_000, 44_101), (191_999, 16_000), (16_000, 191_999)]
"""Primes: no output falls on a phase of the bounded table, so every one is interpolated."""


@pytest.mark.parametrize("lower_hz", FIRST_HALF)
def test_the_shipped_low_pass_is_what_its_design_gives(lower_hz: int) -> None:
    (taps, rate_hz), half = design(lower_hz), FIRST_HALF[lower_hz]
    np.testing.assert_allclose(half, taps[: len(half)], atol=1e-8)
    assert len(taps) == 2 * len(half) - 1 and rate_hz == 48_000


@pytest.mark.parametrize("rates", RATE_PAIRS, ids=str)
def test_measured_pass_band_and_stop_band(rates):
    pass_hz, stop_hz = band_edges_hz(*rates)
    if 8_000 not in rates:
        assert pass_hz >= 7000 and stop_hz <= 8000
    hz, db = measure_response(*rates)
    assert np.max(np.abs(db[hz <= pass_hz])) < 0.5
    assert np.max(db[hz >= stop_hz]) < -60.0


@pytest.mark.parametrize("ppm", [0.0, 700.0])
@pytest.mark.parametrize(
    "rates", [(48_000, 16_000), (44_100, 16_000), (16_000, 48_000), (16_000, 44_100), *ODD_PAIRS[:2]], ids=str
)
def test_tones_in_the_stop_band_and_their_images_stay_60_db_down_also_when_steered(rates, ppm):
    """The response above is that of the exact phases; tones show what reading between the phases adds."""
    rate_in, rate_out = rates
    pass_tones, stop_tones = [300.0, 3000.0, 6900.0], [8100.0, 9000.0, 15_000.0, 21_000.0]
    n = rate_in // 4
    for f in pass_tones + [f for f in stop_tones if f < rate_in / 2]:
        resampler = Resampler(rate_in, rate_out, n, steered=True)
        resampler.steer(ppm)
        x = np.sin(2 * np.pi * f * np.arange(n) / rate_in).astype(np.float32)
        y = resampler.process(x)[rate_out // 50 :].astype(float)
        level = 10 * np.log10(np.mean(y**2) * 2)
        if f in stop_tones:
            assert level < -60
            continue
        assert abs(level) < 0.5
        t = np.arange(len(y)) * 2 * np.pi * f / rate_out / (1 + ppm * 1e-6)
        basis = np.stack([np.sin(t), np.cos(t)], axis=1)
        rest = y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]
        assert 10 * np.log10(np.mean(rest**2) * 2) < -60


@pytest.mark.parametrize("rates", [*RATE_PAIRS, *ODD_PAIRS[:2]], ids=str)
def test_delay_is_what_it_says_and_below_one_and_a_half_ms(rates):
    """A band-limited burst in the middle of known silence; the cross-correlation with its ideal copy, parabola-read."""
    rate_in, rate_out = rates
    resampler = Resampler(rate_in, rate_out, rate_in, steered=True)

    def burst(t):
        return np.exp(-(((t - 0.05) / 0.0008) ** 2)) * np.cos(2 * np.pi * 1000 * (t - 0.05))

    y = resampler.process(burst(np.arange(rate_in // 10) / rate_in).astype(np.float32)).astype(float)
    lags_s = np.arange(0, 0.003, 1e-5)
    t_out = np.arange(len(y)) / rate_out
    match = np.array([y @ burst(t_out - lag) for lag in lags_s])
    k = int(np.argmax(match))
    a, b, c = match[k - 1 : k + 2]
    delay_ms = 1000 * (lags_s[k] + 1e-5 * (a - c) / (2 * (a - 2 * b + c)))
    assert abs(delay_ms - resampler.delay_ms) < 0.01
    assert resampler.delay_ms <= 1.5


@pytest.mark.parametrize("rates", [*RATE_PAIRS, *ODD_PAIRS], ids=str)
def test_ten_minutes_lose_and_add_no_sample(rates):
    """The bookkeeping alone, a second a block: position and counts are integers, so a long block is as good as hops."""
    rate_in, rate_out = rates
    resampler = Resampler(rate_in, rate_out, rate_in, steered=True)
    resampler._read = lambda out: None
    second = np.zeros(rate_in, np.float32)
    for k in range(1, 601):
        assert len(resampler.process(second)) == rate_out, k


@pytest.mark.parametrize("rates", ODD_PAIRS, ids=str)
def test_a_rate_without_common_factors_has_a_table_like_any_other(rates):
    """Exact phases would be 16 000 to 191 999 of them, up to 1.3 GB while they are made."""
    resampler = Resampler(*rates, 80)
    assert resampler._table.nbytes < 1e6
    assert resampler._plain_step * rates[1] == resampler._unit * rates[0]  # an integer: no remainder adds up


def test_hops_of_44100_hz_give_exactly_the_outputs_due():
    resampler = Resampler(44_100, 16_000, 221)
    block = np.zeros(221, np.float32)
    fed = given_out = 0
    for k in range(6000):
        n = 220 + k % 2
        fed += n
        given_out += len(resampler.process(block[:n]))
        assert given_out == math.ceil(fed * 160 / 441)


@pytest.mark.parametrize("ppm", [0.0, -431.7])
@pytest.mark.parametrize("rates", [*RATE_PAIRS, *ODD_PAIRS[:2]], ids=str)
def test_any_block_sizes_give_what_one_block_gives(rates, ppm):
    rng = np.random.default_rng(7)
    n = rates[0] // 8
    x = rng.standard_normal(n).astype(np.float32)
    whole, parts = Resampler(*rates, n, steered=True), Resampler(*rates, 700, steered=True)
    whole.steer(ppm)
    parts.steer(ppm)
    expected = whole.process(x).copy()
    got, place = [], 0
    while place < n:
        size = int(rng.choice([0, 1, 2, 79, 80, 240, 700]))
        block = parts.process(x[place : place + size])
        assert len(block) <= parts.max_out
        got.append(block.copy())
        place += size
    np.testing.assert_allclose(np.concatenate(got), expected, atol=1e-6)


@pytest.mark.parametrize("rates", [(16_000, 48_000), (44_100, 16_000), (16_000, 16_000)], ids=str)
def test_steering_from_one_extreme_to_the_other_leaves_no_step(rates):
    """A 1 kHz tone read at the positions that the steering asked for, summed up here independently."""
    rate_in, rate_out = rates
    hop = rate_in // 200
    resampler = Resampler(rate_in, rate_out, hop + 1, steered=True)
    rng = np.random.default_rng(3)
    got, at, position = [], [], 0.0
    for k in range(400):
        ppm = float(rng.choice([-1000, 1000, 0, 333]))
        resampler.steer(ppm)
        y = resampler.process(np.sin(2 * np.pi * 1000 * np.arange(k * hop, (k + 1) * hop) / rate_in).astype(np.float32))
        got.append(y.copy())
        for _ in range(len(y)):
            at.append(position)
            position += rate_in / rate_out / (1 + ppm * 1e-6)
    expected_t = np.array(at) / rate_in - resampler.delay_ms / 1000
    ideal = np.sin(2 * np.pi * 1000 * expected_t)
    settled = expected_t > 0.01
    y = np.concatenate(got)
    gain = (y[settled] @ ideal[settled]) / (ideal[settled] @ ideal[settled])
    error = y[settled] / gain - ideal[settled]
    assert 10 * np.log10(np.mean(error**2) * 2) < -63
    assert np.max(np.abs(error)) < 3e-3


def test_steering_counts_and_limits():
    fast, limited = Resampler(16_000, 48_000, 16_000), Resampler(16_000, 48_000, 16_000)
    fast.steer(1000)
    limited.steer(25_000)
    second = np.zeros(16_000, np.float32)
    counts = [len(fast.process(second)) for _ in range(100)]
    assert abs(sum(counts) - 100 * 48_048) <= 1
    assert len(limited.process(second)) == counts[0] and limited.ppm == 1000


def test_equal_rates_cannot_be_steered_by_accident():
    same = Resampler(16_000, 16_000, 80)
    same.steer(0.0)
    with pytest.raises(AssertionError):
        same.steer(1.0)


def test_one_bad_sample_is_gone_after_the_filters_length_and_reset_forgets_it():
    resampler = Resampler(48_000, 16_000, 240)
    bad = np.zeros(240, np.float32)
    bad[100] = np.nan
    assert np.isnan(resampler.process(bad)).any()
    resampler.process(np.zeros(240, np.float32))
    assert not resampler.process(np.zeros(240, np.float32)).any()
    resampler.process(bad)
    resampler.reset()
    assert not resampler.process(np.zeros(240, np.float32)).any()


def test_steady_work_leaves_nothing_allocated():
    import tracemalloc

    decoder, down = Decoder("S32_LE", 2, 0, 240), Resampler(48_000, 16_000, 240)
    up, encoder = Resampler(16_000, 48_000, 80), Encoder("S16_LE", 2, 248)
    raw = bytes(240 * 8)

    def hop(k):
        up.steer(k % 7)
        return len(encoder.encode(up.process(down.process(decoder.decode(raw)))))

    for k in range(50):
        hop(k)
    grown = []
    tracemalloc.start()
    for _ in range(3):  # what grows does so every time; threads of the test runner allocate now and then
        before = tracemalloc.get_traced_memory()[0]
        for k in range(300):
            hop(k)
        grown.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    assert min(grown) < 4096


def test_the_command_prints_the_table_and_draws_the_picture(tmp_path, capsys, monkeypatch):
    pairs = RATE_PAIRS[:2]
    monkeypatch.setattr("edge.tools.response.RATE_PAIRS", pairs)
    picture = tmp_path / "response.png"
    assert main(["--picture", str(picture)]) == 0
    assert picture.stat().st_size > 10_000
    assert len(capsys.readouterr().out.splitlines()) == len(pairs) + 2
    assert main(["--draw"]) == 2

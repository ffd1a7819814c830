"""Sample formats and sample rates: bits kept where bits can be kept, and the converters' measured response."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.devices.sample_format import SAMPLE_BYTES, BadSampleFormat, Decoder, Encoder
from edge.dsp.lowpass import FIRST_HALF
from edge.dsp.resample import Resampler, band_edges_hz, design
from edge.tools.response import RATE_PAIRS, main, measure_response

FORMATS = sorted(SAMPLE_BYTES)
ODD_PAIRS = [(44_101, 16_000), (16_000, 44_101), (191_999, 16_000), (16_000, 191_999)]
"""Primes: no output falls on a phase of the bounded table, so every one is interpolated."""


def test_the_shipped_low_pass_is_what_its_design_gives() -> None:
    taps, _ = design(16_000)
    np.testing.assert_allclose(FIRST_HALF, taps[: len(FIRST_HALF)], atol=1e-8)
    assert len(taps) == 2 * len(FIRST_HALF) - 1


def packed(values, sample_format):
    """Integers at the format's own width -> bytes, written without the code under test."""
    width = {"S16_LE": 2, "S24_3LE": 3}.get(sample_format, 4)
    return b"".join(int(v).to_bytes(width, "little", signed=True) for v in np.ravel(values))


def unpacked(raw, sample_format):
    width = SAMPLE_BYTES[sample_format]
    return np.array([int.from_bytes(raw[k : k + width], "little", signed=True) for k in range(0, len(raw), width)])


def test_every_16_bit_value_survives_decoding_and_encoding():
    values = np.arange(-32768, 32768)
    decoder, encoder = Decoder("S16_LE", 1, 0, 65536), Encoder("S16_LE", 1, 65536)
    raw = packed(values, "S16_LE")
    assert bytes(encoder.encode(decoder.decode(raw))) == raw


def test_16_bits_pass_bit_exact_through_the_resampler_at_equal_rates():
    raw = np.random.default_rng(1).integers(-32768, 32768, 8000).astype("<i2").tobytes()
    decoder, same, encoder = Decoder("S16_LE", 1, 0, 80), Resampler(16_000, 16_000, 80), Encoder("S16_LE", 1, 80)
    assert same.delay_ms == 0
    out = b"".join(bytes(encoder.encode(same.process(decoder.decode(raw[k : k + 160])))) for k in range(0, 16000, 160))
    assert out == raw


@pytest.mark.parametrize("sample_format", FORMATS)
def test_24_bit_values_survive_in_every_format_that_holds_them(sample_format):
    bits = {"S16_LE": 16, "S32_LE": 32}.get(sample_format, 24)
    step = 1 << max(0, bits - 24)  # float32 keeps 24 bits
    half = 1 << (bits - 1)
    values = np.concatenate([[-half, -step, 0, step, half - step], np.arange(-50, 50) * 77 * step])
    raw = packed(values, sample_format)
    decoder, encoder = Decoder(sample_format, 1, 0, len(values)), Encoder(sample_format, 1, len(values))
    samples = decoder.decode(raw)
    np.testing.assert_array_equal(samples.astype(float), values / half)
    assert unpacked(bytes(encoder.encode(samples)), sample_format).tolist() == values.tolist()


def test_s24_in_a_word_takes_its_sign_from_bit_23_whatever_the_top_byte_says():
    words = np.array([0x00FFFFFF, 0xFFFFFFFF, 0x7F800000, 0x807FFFFF, 0xAA000001], "<u4").tobytes()
    got = Decoder("S24_LE", 1, 0, 8).decode(words)
    np.testing.assert_array_equal(got * 2.0**23, [-1, -1, -(2**23), 2**23 - 1, 1])


@pytest.mark.parametrize("sample_format", FORMATS)
def test_each_channel_and_the_mean(sample_format):
    half = 1 << (8 * SAMPLE_BYTES[sample_format] - 1 if sample_format != "S24_LE" else 23)
    frames = np.array([[1, 2, 3], [-4, 5, -6], [7, -8, 9]]) * (half // 64)
    raw = packed(frames, sample_format)
    for channel in range(3):
        got = Decoder(sample_format, 3, channel, 3).decode(raw)
        np.testing.assert_array_equal(got, (frames[:, channel] / half).astype(np.float32))
    np.testing.assert_allclose(Decoder(sample_format, 3, None, 3).decode(raw), frames.mean(axis=1) / half, atol=1e-7)


@pytest.mark.parametrize("sample_format", FORMATS)
def test_encoder_writes_the_same_sample_to_every_channel_and_only_what_it_was_given(sample_format):
    encoder = Encoder(sample_format, 2, 10)
    encoder.encode(np.ones(10, np.float32))
    left, right = unpacked(bytes(encoder.encode(np.float32([0.5, -0.25, 0.125]))), sample_format).reshape(3, 2).T
    half = {"S16_LE": 2**15, "S32_LE": 2**31}.get(sample_format, 2**23)
    assert left.tolist() == right.tolist() == [half // 2, -half // 4, half // 8]


@pytest.mark.parametrize("sample_format", FORMATS)
def test_encoder_saturates_and_writes_nan_as_silence(sample_format):
    half = {"S16_LE": 2**15, "S32_LE": 2**31}.get(sample_format, 2**23)
    samples = np.float32([np.nan, np.inf, -np.inf, 1.0, -1.0, 3e38, -7.0, -np.nan])
    got = unpacked(bytes(Encoder(sample_format, 1, 8).encode(samples)), sample_format)
    top, bottom = half - 1, -half
    assert got.tolist() == [0, top, bottom, top, bottom, top, bottom, 0]


def test_encoder_rounds_to_the_nearest_step():
    samples = np.float32([0.49, 0.51, -0.49, -0.51, 1.6]) / 32768
    assert unpacked(bytes(Encoder("S16_LE", 1, 5).encode(samples)), "S16_LE").tolist() == [0, 1, 0, -1, 2]


def test_clips_count_full_scale_before_and_after_the_gain():
    raw = packed([32767, -32768, 32766, 0, 20000, -20000], "S16_LE")
    plain, loud, quiet = (Decoder("S16_LE", 1, 0, 6, gain_db=g) for g in (0.0, 6.0, -20.0))
    plain.decode(raw)
    assert plain.clips == 2
    got = loud.decode(raw)
    assert loud.clips == 5 and np.max(np.abs(got)) == 1.0
    got = quiet.decode(raw)
    assert quiet.clips == 2 and np.isclose(got[4], 2000 / 32768)
    quiet.decode(raw)
    assert quiet.clips == 4, "the count goes on from call to call"


def test_a_clipping_channel_is_seen_through_the_mean_and_ignored_when_not_chosen():
    raw = packed([[32767, 0], [32767, 0]], "S16_LE")
    mean, other = Decoder("S16_LE", 2, None, 2), Decoder("S16_LE", 2, 1, 2)
    mean.decode(raw)
    other.decode(raw)
    assert (mean.clips, other.clips) == (2, 0)


def test_a_24_bit_microphone_in_a_32_bit_word_clips_below_the_words_end():
    decoder = Decoder("S32_LE", 1, 0, 2)
    decoder.decode(packed([0x7FFFFF00, 0x7F000000], "S32_LE"))
    assert decoder.clips == 1


@given(st.sampled_from(FORMATS), st.integers(1, 6), st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_of_any_length_decode_to_whole_frames_within_full_scale(sample_format, channels, raw):
    for channel in (None, channels - 1):
        got = Decoder(sample_format, channels, channel, 200, gain_db=30.0).decode(raw)
        assert got.dtype == np.float32
        assert len(got) == len(raw) // (SAMPLE_BYTES[sample_format] * channels)
        assert np.all(np.abs(got) <= 1.0)


def test_what_a_user_can_get_wrong_is_named():
    for arguments in (("U8", 1, 0), ("S16_LE", 2, 2), ("S16_LE", 2, -1), ("S16_LE", 0, None)):
        with pytest.raises(BadSampleFormat):
            Decoder(*arguments, max_frames=1)
    with pytest.raises(BadSampleFormat, match="FLOAT_LE"):
        Encoder("FLOAT_LE", 2, 1)


# ---- sample rates


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
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for k in range(300):
        hop(k)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 4096


def test_the_command_prints_the_table_and_draws_the_picture(tmp_path, capsys, monkeypatch):
    pairs = RATE_PAIRS[:2]
    monkeypatch.setattr("edge.tools.response.RATE_PAIRS", pairs)
    picture = tmp_path / "response.png"
    assert main(["--picture", str(picture)]) == 0
    assert picture.stat().st_size > 10_000
    assert len(capsys.readouterr().out.splitlines()) == len(pairs) + 2
    assert main(["--draw"]) == 2

"""Sample formats: bits kept where bits can be kept, and every clip counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.devices.sample_format import SAMPLE_BYTES, BadSampleFormat, Decoder, Encoder
from edge.dsp.resample import Resampler

FORMATS = sorted(SAMPLE_BYTES)


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

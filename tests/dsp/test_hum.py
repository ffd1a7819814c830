"""The hum canceller: hum is removed, voices and music pass bit for bit."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter
from signals import between, level_db, mains_hum, room_noise, through

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.hum import HumCanceller

Doubles = NDArray[np.float64]


def si_sdr_db(estimate: Doubles, target: Doubles) -> float:
    scaled = target * (estimate @ target) / (target @ target)
    return level_db(scaled) - level_db(estimate - scaled)


def voiced(pitch_hz: Doubles, formants_hz: tuple[int, ...] = (600, 1100, 2500)) -> Doubles:
    """Pulses of the glottis through resonances of the mouth."""
    cycles = np.cumsum(pitch_hz) / RATE_HZ
    pulses = np.diff(np.floor(cycles), prepend=0.0)
    out = lfilter([1.0], [1, -0.95], pulses)
    for formant_hz in formants_hz:
        radius, angle = math.exp(-math.pi * 90 / RATE_HZ), 2 * math.pi * formant_hz / RATE_HZ
        out = lfilter([1.0], [1, -2 * radius * math.cos(angle), radius**2], out)
    return np.asarray(out) / float(np.std(out))


def speech_like(seconds: float, level_dbfs: float = -26, seed: int = 2) -> Doubles:
    """Male phrases of vowels (pitch falling through 125..95 Hz, with jitter) and hisses, and pauses between them."""
    rng, pieces, left = np.random.default_rng(seed), [], round(seconds * RATE_HZ)
    while left > 0:
        samples = int(rng.uniform(0.15, 0.4) * RATE_HZ)
        fall = np.linspace(rng.uniform(105, 125), rng.uniform(92, 105), samples)
        jitter = 1 + 0.005 * np.repeat(rng.normal(0, 1, samples // 160 + 1), 160)[:samples]
        vowel = voiced(fall * jitter, (int(rng.uniform(300, 800)), int(rng.uniform(900, 2200)), 2500))
        vowel *= np.hanning(samples) ** 0.5
        hiss = lfilter([1, -0.9], [1.0], rng.normal(0, 0.15, samples // 3))
        pause = np.zeros(int(rng.choice([0.02, 0.05, 0.5]) * RATE_HZ))
        for piece in (vowel, np.asarray(hiss), pause):
            pieces.append(piece)
            left -= len(piece)
    speech = np.concatenate(pieces)[: round(seconds * RATE_HZ)]
    return speech / speech.std() * 10 ** (level_dbfs / 20) + room_noise(seconds, -85, seed)


def reduction_db(out: Doubles, speech: Doubles, mains: Doubles, begin: float, end: float) -> float:
    left = between(out - speech, begin, end)
    return level_db(between(mains, begin, end)) - level_db(left)


@pytest.mark.parametrize("hz", [50.0, 49.6, 50.43, 60.0, 59.8])
def test_hum_is_found_and_gone_in_three_seconds(hz: float) -> None:
    quiet, mains, canceller = room_noise(5), mains_hum(hz, 5), HumCanceller("auto")
    out = through(canceller, quiet + mains)
    assert reduction_db(out, quiet, mains, 3, 5) > 35
    assert canceller.mains_hz == pytest.approx(hz, abs=0.01)
    assert canceller.harmonics == 10


def test_harmonics_up_to_1500_hz_go() -> None:
    quiet, mains, canceller = room_noise(5), mains_hum(49.9, 5, harmonics=30), HumCanceller("auto")
    assert reduction_db(through(canceller, quiet + mains), quiet, mains, 3, 5) > 35
    assert canceller.harmonics == 30


def test_hum_below_speech_goes_and_speech_stays() -> None:
    speech, mains = speech_like(10), mains_hum(50.1, 10, level_dbfs=-46)
    noisy = speech + mains
    out = through(HumCanceller("auto"), noisy)
    assert reduction_db(out, speech, mains, 4, 10) > 20
    better_db = si_sdr_db(between(out, 4, 10), between(speech, 4, 10)) - si_sdr_db(
        between(noisy, 4, 10), between(speech, 4, 10)
    )
    assert better_db > 15


def test_drifting_mains_is_followed() -> None:
    hz = np.linspace(49.8, 50.2, 20 * RATE_HZ)
    quiet, mains, canceller = room_noise(20), mains_hum(hz, 20), HumCanceller("auto")
    assert reduction_db(through(canceller, quiet + mains), quiet, mains, 4, 20) > 20
    assert canceller.mains_hz == pytest.approx(50.2, abs=0.03)


def test_hum_that_comes_is_removed_and_hum_that_goes_is_let_go() -> None:
    quiet, mains, canceller = room_noise(16), mains_hum(50.1, 16), HumCanceller("auto")
    mains[: 2 * RATE_HZ] = mains[11 * RATE_HZ :] = 0
    out = through(canceller, quiet + mains)
    np.testing.assert_array_equal(out[: 2 * RATE_HZ], (quiet + mains).astype(np.float32)[: 2 * RATE_HZ])
    assert reduction_db(out, quiet, mains, 9, 11) > 35
    assert level_db(between(out - quiet, 11.6, 13)) < -80  # what is still subtracted half a second after
    assert level_db(between(out - quiet, 13, 16)) < -90
    assert canceller.mains_hz == 0 and canceller.harmonics == 0


def test_clean_speech_passes_bit_for_bit() -> None:
    speech = speech_like(12).astype(np.float32)
    np.testing.assert_array_equal(through(HumCanceller("auto"), speech), speech)


@pytest.mark.parametrize("pitch_hz", [100.0, 120.0])
@pytest.mark.parametrize("vibrato", [0.0, 0.01, 0.03])
def test_a_sung_vowel_passes_bit_for_bit(pitch_hz: float, vibrato: float) -> None:
    time_s = np.arange(5 * RATE_HZ) / RATE_HZ
    sung = 0.08 * voiced(pitch_hz * (1 + vibrato * np.sin(2 * np.pi * 5.5 * time_s)))
    signal = np.concatenate([room_noise(3), sung, np.zeros(2 * RATE_HZ)]) + room_noise(10)
    out = through(HumCanceller("auto"), signal)
    np.testing.assert_array_equal(out, signal.astype(np.float32))


def test_a_vowel_with_vibrato_passes_from_the_very_start_even_when_soft() -> None:
    time_s = np.arange(8 * RATE_HZ) / RATE_HZ
    sung = 0.01 * voiced(100 * (1 + 0.04 * np.sin(2 * np.pi * 5.5 * time_s))) + room_noise(8)
    np.testing.assert_array_equal(through(HumCanceller("auto"), sung), sung.astype(np.float32))


def test_an_organ_chord_passes_bit_for_bit() -> None:
    """F4 lies on the 7th harmonic of 49.89 Hz, its overtones on the 14th and 21st."""
    time_s = np.arange(8 * RATE_HZ) / RATE_HZ
    notes = (349.23, 440.0, 523.25)
    chord = sum(np.sin(2 * np.pi * k * hz * time_s) / k for hz in notes for k in (1, 2, 3)) * 0.01 + room_noise(8)
    np.testing.assert_array_equal(
        through(HumCanceller("auto"), np.asarray(chord)), np.asarray(chord).astype(np.float32)
    )


def test_off_touches_nothing() -> None:
    signal = mains_hum(50, 4).astype(np.float32)
    np.testing.assert_array_equal(through(HumCanceller("off"), signal), signal)


def test_the_wrong_mains_is_not_looked_for() -> None:
    signal = (mains_hum(50, 5) + room_noise(5)).astype(np.float32)
    np.testing.assert_array_equal(through(HumCanceller("60"), signal), signal)


def test_silence_stays_silence_and_hum_after_it_is_found() -> None:
    canceller = HumCanceller("auto")
    assert (through(canceller, np.zeros(6 * RATE_HZ)) == 0).all()
    mains = mains_hum(50, 9)
    assert reduction_db(through(canceller, mains), np.zeros_like(mains), mains, 8, 9) > 35


def test_broken_input_does_not_stay_in_the_hum_canceller() -> None:
    canceller, mains, quiet = HumCanceller("auto"), mains_hum(50, 12), room_noise(12)
    signal = (mains + quiet).astype(np.float32)
    broken = slice(4 * RATE_HZ, 4 * RATE_HZ + HOP_SAMPLES)
    signal[broken] = np.resize(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32), HOP_SAMPLES)
    with np.errstate(all="ignore"):
        out = through(canceller, signal)
    assert np.isfinite(np.delete(out, np.arange(broken.start, broken.stop))).all()
    assert reduction_db(out, quiet, mains, 10, 12) > 30


def test_a_soft_steady_tone_with_overtones_on_every_third_harmonic_is_not_mains() -> None:
    time_s = np.arange(8 * RATE_HZ) / RATE_HZ
    tone = 0.005 * sum(np.cos(2 * np.pi * 150.0 * k * time_s + k) / k for k in range(1, 9)) + room_noise(8)
    np.testing.assert_array_equal(through(HumCanceller("auto"), np.asarray(tone)), np.asarray(tone).astype(np.float32))

"""The suppressor without weights: what it does to speech, noise, jumps, silence and rubbish."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter
from signals import level_db

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import BANDS, BINS, Floats, Transform, band_weights
from edge.suppress.wiener import Wiener


@cache
def speech_like(seconds: float = 4.0, level_dbfs: float = -24.0) -> Floats:
    """Buzz of a gliding pitch through three gliding formants, hisses between, pauses; float32, active level."""
    n = round(seconds * RATE_HZ)
    rng = np.random.default_rng(5)
    t = np.arange(n) / RATE_HZ
    pitch_hz = 120 + 25 * np.sin(2 * np.pi * 0.7 * t) + 10 * np.sin(2 * np.pi * 2.3 * t)
    pulses = np.diff(np.floor(np.cumsum(pitch_hz) / RATE_HZ), prepend=0.0)
    voice = lfilter([1], [1, -0.96], pulses)
    voice = sum(
        _resonance(voice, centre, width) for centre, width in ((550, 90), (1400, 120), (2500, 180))
    )  # a vowel between a and e
    hiss = lfilter([1, -0.9], [1], rng.normal(size=n)) * 0.02
    syllable = np.clip(np.sin(2 * np.pi * 3.5 * t), 0, 1) ** 0.5
    between = np.clip(-np.sin(2 * np.pi * 3.5 * t) - 0.5, 0, 1)
    sentence = (np.sin(2 * np.pi * 0.55 * t + 0.4) > -0.6).astype(float)
    sound = (voice / np.std(voice) * syllable + hiss / np.std(hiss) * 0.15 * between) * sentence
    sound *= 10 ** (level_dbfs / 20) / np.std(sound[sentence > 0])
    return sound.astype(np.float32)


def _resonance(x: NDArray[np.float64], centre_hz: float, width_hz: float) -> NDArray[np.float64]:
    radius = np.exp(-np.pi * width_hz / RATE_HZ)
    return np.asarray(lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * centre_hz / RATE_HZ), radius**2], x))


def noise(seconds: float, level_dbfs: float, seed: int = 1, pole: float = 0.8) -> Floats:
    """Steady low-heavy noise like a fan's, float32."""
    x = lfilter([1], [1, -pole], np.random.default_rng(seed).normal(size=round(seconds * RATE_HZ)))
    return (x / np.std(x) * 10 ** (level_dbfs / 20)).astype(np.float32)


def enhance(sound: Floats, wiener: Wiener | None = None) -> tuple[Floats, Floats, NDArray[np.float64]]:
    """Aligned output, gains (hops, 64) and speech probabilities, as the engine would apply them without a limit."""
    wiener, transform, spread = wiener or Wiener(), Transform(), band_weights()
    padded = np.append(sound, np.zeros(HOP_SAMPLES - len(sound) % HOP_SAMPLES + HOP_SAMPLES, np.float32))
    hops = padded.reshape(-1, HOP_SAMPLES).copy()
    gains, speech = np.zeros((len(hops), BANDS), np.float32), np.zeros(len(hops))
    for i, hop in enumerate(hops):
        spectrum = transform.analyse(hop)
        speech[i] = wiener.estimate(spectrum, gains[i])
        spectrum *= gains[i] @ spread
        transform.synthesise(hop)
    return hops.reshape(-1)[HOP_SAMPLES : HOP_SAMPLES + len(sound)], gains, speech


def assert_sound(gains: Floats, speech: NDArray[np.float64]) -> None:
    assert gains.dtype == np.float32
    assert np.isfinite(gains).all() and gains.min() >= 0 and gains.max() <= 1
    assert np.isfinite(speech).all() and speech.min() >= 0 and speech.max() <= 1


# --- speech and noise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level_dbfs", [-45, -24, -12])
def test_clean_speech_keeps_its_level(level_dbfs: float) -> None:
    sound = speech_like(level_dbfs=level_dbfs)
    out, _, _ = enhance(sound)
    assert abs(level_db(out) - level_db(sound)) < 1.5


@pytest.mark.parametrize(("pole", "at_least_db"), [(0.0, 15), (0.8, 12), (0.98, 8)])
@pytest.mark.parametrize("level_dbfs", [-70, -40, -15])
def test_steady_noise_is_turned_down(level_dbfs: float, pole: float, at_least_db: float) -> None:
    sound = noise(4, level_dbfs, pole=pole)
    out, _, speech = enhance(sound)
    half = len(sound) // 2
    assert level_db(sound[half:]) - level_db(out[half:]) > at_least_db
    assert np.mean(speech[400:] > 0.6) < 0.02


def test_usable_after_300_ms() -> None:
    sound = noise(1, -35)
    out, _, _ = enhance(sound)
    late = slice(round(0.3 * RATE_HZ), None)
    assert level_db(sound[late]) - level_db(out[late]) > 8


def test_speech_in_noise_comes_out_cleaner() -> None:
    clean = speech_like()
    sound = clean + noise(4, level_db(clean) - 5)
    out, _, _ = enhance(sound)

    def error_db(x: Floats) -> float:
        return level_db(x - clean)

    assert error_db(sound) - error_db(out) > 3


def test_speech_probability_tells_speech_from_noise() -> None:
    clean = speech_like()
    spoken = np.sqrt(np.mean(np.square(clean.reshape(-1, HOP_SAMPLES)), axis=1)) > 10 ** (-35 / 20)
    _, _, speech = enhance(clean + noise(4, level_db(clean) - 10))
    speech = speech[: len(spoken)]
    assert np.median(speech[spoken]) > 0.8
    assert np.median(speech[~spoken]) < 0.3


# --- change -------------------------------------------------------------------------------------------------------


def test_noise_20_db_louder_is_noise_again_within_1500_ms() -> None:
    sound = np.concatenate([noise(2, -50), noise(3, -30, seed=2)])
    out, _, speech = enhance(sound)
    late = slice(round(3.5 * RATE_HZ), None)
    assert level_db(sound[late]) - level_db(out[late]) > 10
    assert np.mean(speech[700:]) < 0.3


def test_noise_that_fades_in_after_start_up_silence() -> None:
    sound = np.concatenate([np.zeros(RATE_HZ * 2 // 5, np.float32), noise(3, -35)])
    fade = slice(RATE_HZ * 2 // 5, RATE_HZ // 2)
    sound[fade] *= np.linspace(0, 1, RATE_HZ // 10, dtype=np.float32)
    out, _, _ = enhance(sound)
    late = slice(round(1.5 * RATE_HZ), None)
    assert level_db(sound[late]) - level_db(out[late]) > 9


def test_speech_after_noise_stops_passes() -> None:
    clean = speech_like()
    out, _, _ = enhance(np.concatenate([noise(2, -25), clean]))
    late = slice(RATE_HZ, None)
    assert abs(level_db(out[2 * RATE_HZ :][late]) - level_db(clean[late])) < 1.5


# --- rubbish ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digital zero", "one bit", "full-scale square", "impulses", "subnormal", "huge"])
def test_gains_are_sound_for(name: str) -> None:
    n = RATE_HZ
    rng = np.random.default_rng(3)
    sound = {
        "digital zero": np.zeros(n),
        "one bit": rng.integers(-1, 2, n) / 32768,
        "full-scale square": np.sign(np.sin(np.arange(n) * 0.07) + 1e-9),
        "impulses": (np.arange(n) % 997 == 0).astype(float),
        "subnormal": np.full(n, 1e-42),
        "huge": rng.normal(size=n) * 1e15,
    }[name].astype(np.float32)
    _, gains, speech = enhance(sound)
    assert_sound(gains, speech)
    if name in ("digital zero", "subnormal"):
        assert not speech.any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, complex(np.nan, np.inf), 1e30])
def test_a_frame_that_is_no_number_leaves_no_trace(wrong: complex) -> None:
    sound = speech_like() + noise(4, -40)
    plain, troubled, transform = Wiener(), Wiener(), Transform()
    gains, other = np.zeros((2, BANDS), np.float32)
    broken = np.full(BINS, wrong, np.complex64)
    for i, hop in enumerate(sound.reshape(-1, HOP_SAMPLES)):
        spectrum = transform.analyse(hop)
        if i % 50 == 0:
            speech = troubled.estimate(broken, other)
            assert_sound(other, np.array([speech]))
            assert speech == 0
        assert plain.estimate(spectrum, gains) == troubled.estimate(spectrum, other)
        np.testing.assert_array_equal(gains, other)


def test_absurdly_loud_second_is_forgotten() -> None:
    sound = np.concatenate([noise(1, -40), noise(1, 60), noise(3, -40, seed=2)])
    _, gains, speech = enhance(sound)
    assert_sound(gains, speech)
    clean = speech_like()
    after, _, _ = enhance(np.concatenate([noise(1, 200), noise(1.5, -60), clean]))
    assert abs(level_db(after[-len(clean) :]) - level_db(clean)) < 1.5


def test_the_spectrum_is_only_read() -> None:
    spectrum = (np.random.default_rng(0).normal(size=BINS) + 1j).astype(np.complex64)
    before = spectrum.copy()
    Wiener().estimate(spectrum, np.zeros(BANDS, np.float32))
    np.testing.assert_array_equal(spectrum, before)


# --- state --------------------------------------------------------------------------------------------------------


def test_same_input_same_output_and_reset_is_fresh() -> None:
    sound = speech_like() + noise(4, -35)
    wiener = Wiener()
    first, gains, speech = enhance(sound, wiener)
    wiener.reset()
    again, gains_again, speech_again = enhance(sound, wiener)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(gains, gains_again)
    np.testing.assert_array_equal(speech, speech_again)


def test_level_does_not_matter() -> None:
    """The method works on ratios: 20 dB more at the microphone gives the same gains."""
    sound = speech_like() + noise(4, -40)
    _, gains, _ = enhance(sound)
    _, louder, _ = enhance(sound * 4)
    np.testing.assert_allclose(gains[10:], louder[10:], atol=0.05)

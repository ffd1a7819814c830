"""The reference's canceller: what it must remove, what it must leave alone, and when it must leave everything alone."""

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve
from signals import SOUNDS

from edge import HOP_SAMPLES, RATE_HZ
from edge.chain import Chain
from edge.config import Config, FeedforwardConfig, GateConfig, ReferenceConfig, SuppressConfig
from edge.dsp.adaptive_path import AdaptivePath
from edge.dsp.channel_check import ChannelMonitor
from edge.dsp.near_talker import NearTalkerDetector
from edge.dsp.reference import ReferenceCanceller
from edge.dsp.reference_thresholds import ReferenceThresholds
from edge.dsp.spectrum import Floats

CLEAN = SOUNDS / "clean"
LIMITS = ReferenceThresholds()
HISS = 1e-4
"""-80 dBFS: no two microphones hear exactly the same."""


def new_canceller(path_ms: float = 64.0, highpass_hz: float = 1.0) -> ReferenceCanceller:
    return ReferenceCanceller(ReferenceConfig(channel=2, path_ms=path_ms), highpass_hz)


def white(seconds: float, seed: int = 1, level: float = 0.05) -> Floats:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


def fan(seconds: float, seed: int = 2, level: float = 0.05) -> Floats:
    """Noise that falls with the frequency, and four lines of a blade."""
    noise = white(seconds, seed)
    spectrum = np.fft.rfft(noise)
    frequency_hz = np.fft.rfftfreq(len(noise), 1 / RATE_HZ)
    sound = np.fft.irfft(spectrum / np.maximum(frequency_hz, 50), len(noise))
    sound /= sound.std()
    t = np.arange(len(noise)) / RATE_HZ
    sound += sum(0.5 / k * np.sin(2 * np.pi * 120 * k * t + k) for k in range(1, 5))
    return (level * sound / sound.std()).astype(np.float32)


def voice(seconds: float, level: float = 0.1) -> tuple[Floats, Floats]:
    """Buzzing syllables, 0.5 s with and 0.5 s without, and the probability of speech in every hop."""
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    buzz = sum(np.sin(2 * np.pi * (150 + 20 * np.sin(2 * np.pi * t)) * k * t) / k for k in range(1, 20))
    spoken = (t % 1.0) >= 0.5
    return (level * buzz * spoken).astype(np.float32), spoken[::HOP_SAMPLES].astype(np.float32)


def path(path_ms: float, seed: int, delay_samples: int = 8) -> Floats:
    """A room's answer: decaying noise of unit energy, after the delay through the air."""
    length = round(path_ms * RATE_HZ / 1000)
    answer = np.random.default_rng(seed).standard_normal(length) * 10 ** (-1.5 * np.arange(length) / length)
    answer[:delay_samples] = 0
    return (answer / np.sqrt(np.sum(answer**2))).astype(np.float32)


def through(answer: Floats, sound: Floats) -> Floats:
    return fftconvolve(sound, answer)[: len(sound)].astype(np.float32)


def walk(
    canceller: ReferenceCanceller, heard: Floats, reference: Floats, speech: Floats | float = 0.0
) -> tuple[Floats, list[str]]:
    """The output and the state after every hop; resets neither."""
    out = heard.copy()
    states = []
    for number, (hop, other) in enumerate(
        zip(out.reshape(-1, HOP_SAMPLES), reference.reshape(-1, HOP_SAMPLES), strict=True)
    ):
        canceller.process(hop, other, float(speech) if isinstance(speech, float) else float(speech[number]))
        states.append(canceller.state)
    return out, states


def removed_db(before: Floats, after: Floats, start_s: float, stop_s: float) -> float:
    span = slice(round(start_s * RATE_HZ), round(stop_s * RATE_HZ))
    wide = [np.sum(np.square(sound[span], dtype=np.float64)) for sound in (before, after)]
    return float(10 * np.log10(wide[0] / (wide[1] + 1e-20)))


def test_a_path_is_a_filter_without_delay() -> None:
    """Exact weights give the exact convolution, of the very hop that came in."""
    answer, sound = path(20, 1, 0), white(0.5)
    adaptive = AdaptivePath(4)
    adaptive.weights[:] = np.fft.rfft(answer.reshape(4, HOP_SAMPLES), 2 * HOP_SAMPLES)
    got = np.concatenate([adaptive.predict(hop).copy() for hop in sound.reshape(-1, HOP_SAMPLES)])
    np.testing.assert_allclose(got, through(answer, sound), atol=1e-6)


@pytest.mark.parametrize("speech", [0.0, 1.0])
def test_a_silent_reference_leaves_every_bit(speech: float) -> None:
    heard = white(3)
    got, _ = walk(new_canceller(), heard, np.zeros_like(heard), speech)
    assert np.array_equal(got, heard)


@pytest.mark.parametrize("kind", [white, fan])
@pytest.mark.parametrize("path_ms", [3, 60])
def test_correlated_noise_goes_within_two_seconds(kind: object, path_ms: float) -> None:
    noise = kind(2.5)  # type: ignore[operator]
    heard = through(path(path_ms, 4), noise) + white(2.5, 8, HISS)
    canceller = new_canceller(highpass_hz=0)
    got, _ = walk(canceller, heard, noise)
    assert removed_db(heard, got, 2.0, 2.5) > 25
    assert canceller.attenuation_db > 10
    assert canceller.resets == 0


@pytest.mark.parametrize("kind", [white, fan])
def test_an_uncorrelated_reference_does_no_harm(kind: object) -> None:
    heard, reference = kind(4, 11), kind(4, 12)  # type: ignore[operator]
    got, _ = walk(new_canceller(highpass_hz=0), heard, reference)
    for start_s in np.arange(0, 4, 0.5):
        assert removed_db(heard, got, start_s, start_s + 0.5) > -0.3


def test_another_path_is_found_again() -> None:
    noise = white(7)
    heard = through(path(40, 5), noise)
    heard[3 * RATE_HZ :] = through(path(40, 6), noise)[3 * RATE_HZ :]
    heard += white(7, 8, HISS)
    canceller = new_canceller(highpass_hz=0)
    got, _ = walk(canceller, heard, noise)
    assert removed_db(heard, got, 2.5, 3.0) > 25
    assert removed_db(heard, got, 3.0, 3.25) > -4
    assert removed_db(heard, got, 5.0, 5.5) > 20
    assert canceller.resets <= 2


def test_a_path_lost_while_somebody_speaks_does_no_lasting_harm() -> None:
    noise = white(6)
    talk = white(6, 20, 0.03)
    heard = through(path(20, 5), noise)
    heard[2 * RATE_HZ :] = through(path(20, 6), noise)[2 * RATE_HZ :]
    heard += talk
    speech = np.zeros(len(noise) // HOP_SAMPLES, np.float32)
    speech[300:] = 1
    got, _ = walk(new_canceller(highpass_hz=0), heard, noise, speech)
    assert removed_db(heard - talk, got - talk, 1.5, 2.0) > 12
    assert removed_db(heard - talk, got - talk, 4.0, 6.0) > 5


def test_noise_goes_while_somebody_speaks_and_the_voice_stays() -> None:
    """The reference hears the voice at -15 dB, and the talk is as loud as the noise."""
    noise, (talk, speech) = white(6), voice(6, 0.05)
    leak = through(path(10, 9) * np.float32(10 ** (-15 / 20)), talk)
    heard = through(path(30, 4), noise) + talk
    got, states = walk(new_canceller(highpass_hz=0), heard, noise + leak, speech)
    assert removed_db(heard - talk, got - talk, 3, 6) > 10
    assert "adapting" in states


def test_a_leaking_voice_alone_is_not_cancelled() -> None:
    talk, speech = voice(8)
    hiss = white(8, 8, HISS)
    leak = through(path(10, 9) * np.float32(10 ** (-12 / 20)), talk)
    got, _ = walk(new_canceller(), talk + hiss, leak + white(8, 9, HISS), speech)
    for start_s in np.arange(0.5, 8, 1.0):
        assert abs(removed_db(talk, got, start_s, start_s + 0.5)) < 0.5


def test_the_wearers_speech_holds_the_path() -> None:
    noise = white(2)
    heard = through(path(10, 4), noise)
    canceller = new_canceller(highpass_hz=0)
    walk(canceller, heard, noise)
    loud = heard + white(2, 21, 5 * float(np.std(heard)))
    walk(canceller, loud[: RATE_HZ // 2], noise[: RATE_HZ // 2], 0.9)
    weights = canceller._path.weights.copy()
    _, states = walk(canceller, loud[RATE_HZ // 2 :], noise[RATE_HZ // 2 :], 0.9)
    assert np.array_equal(weights, canceller._path.weights)
    assert set(states) == {"frozen"}


def test_a_talker_at_the_noises_place_does_not() -> None:
    """The network calls him speech, but he is no louder at the voice's microphone than the noise was."""
    noise = white(4)
    heard = through(path(10, 4), noise)
    canceller = new_canceller(highpass_hz=0)
    got, states = walk(canceller, heard, noise, 0.95)
    assert set(states) == {"adapting"}
    assert removed_db(heard, got, 3, 4) > 20


@given(gain_db=st.floats(-40, 40), seed=st.integers(0, 9))
@settings(deadline=None)
def test_nearness_needs_no_matched_gains(gain_db: float, seed: int) -> None:
    noise, talk = white(1, seed), white(0.5, seed + 10, 0.5)
    talk = np.concatenate([np.zeros(RATE_HZ // 2, np.float32), talk])
    nearness, gain = NearTalkerDetector(LIMITS), np.float32(10 ** (gain_db / 20))
    found = [
        nearness.of(voice, gain * other)
        for voice, other in zip((noise + talk).reshape(-1, HOP_SAMPLES), noise.reshape(-1, HOP_SAMPLES), strict=True)
    ]
    half = len(found) // 2
    assert max(found[:half]) < 0.1
    assert min(found[half + 20 :]) == 1


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_invalid_samples_of_the_reference_are_survived(poison: float) -> None:
    noise = white(4)
    heard = through(path(10, 4), noise) + white(4, 8, HISS)
    reference = noise.copy()
    reference[RATE_HZ : RATE_HZ + 200 : 7] = poison
    canceller = new_canceller()
    got, _ = walk(canceller, heard, reference)
    assert np.isfinite(got).all()
    assert canceller.invalid_hops == 3
    assert np.abs(got).max() < 2 * np.abs(heard).max()
    assert removed_db(heard, got, 3.5, 4) > 20


def test_a_clipping_reference_teaches_nothing() -> None:
    noise = white(6)
    heard = through(path(10, 4), noise) + white(6, 8, HISS)
    reference = noise.copy()
    loud = slice(2 * RATE_HZ, 4 * RATE_HZ)
    reference[loud] = np.clip(40 * noise[loud], -1, 1)
    canceller = new_canceller(highpass_hz=0)
    got, states = walk(canceller, heard, reference)
    assert set(states[405:795]) == {"frozen"}
    assert removed_db(heard, got, 5.5, 6) > 20


@pytest.mark.parametrize("stuck", [0.0, 0.25])
def test_a_dead_reference_switches_off_and_on_again(stuck: float) -> None:
    noise = white(9)
    heard = through(path(10, 4), noise) + white(9, 8, HISS)
    reference = noise.copy()
    reference[2 * RATE_HZ : 5 * RATE_HZ] = stuck
    canceller = new_canceller(highpass_hz=15)
    got, states = walk(canceller, heard, reference)
    assert "off: dead" not in states[:400] and set(states[605:1000]) == {"off: dead"}
    assert np.array_equal(got[round(3.1 * RATE_HZ) : 5 * RATE_HZ], heard[round(3.1 * RATE_HZ) : 5 * RATE_HZ])
    assert states[-1] == "adapting"
    assert removed_db(heard, got, 8.5, 9) > 20


def test_silence_in_both_is_no_dead_reference() -> None:
    silence = np.zeros(3 * RATE_HZ, np.float32)
    assert set(walk(new_canceller(), silence, silence)[1]) == {"adapting"}


def test_a_copy_of_the_voice_is_noticed() -> None:
    """One microphone in both channels would cancel itself."""
    talk, speech = voice(4)
    heard = talk + white(4, 3, 0.01)
    got, states = walk(new_canceller(), heard, heard, speech)
    assert states[-1] == "off: copy"
    assert np.array_equal(got[2 * RATE_HZ :], heard[2 * RATE_HZ :])


def test_swapped_channels_are_noticed_and_forgiven() -> None:
    noise, (talk, speech) = white(24, level=0.01), voice(24, 0.05)
    near = talk + noise
    far = through(path(5, 4), noise) + np.float32(10 ** (-15 / 20)) * talk
    half = 12 * RATE_HZ
    heard, reference = np.concatenate([far[:half], near[half:]]), np.concatenate([near[:half], far[half:]])
    canceller = new_canceller()
    got, states = walk(canceller, heard, reference, speech)
    assert "off: swapped" in states[:1600] and states[2399] == "off: swapped"
    assert states[-1] != "off: swapped"
    assert np.array_equal(got[9 * RATE_HZ : 12 * RATE_HZ], heard[9 * RATE_HZ : 12 * RATE_HZ])
    right = walk(new_canceller(), near, far, speech)[1]
    assert not any(state.startswith("off") for state in right)


@pytest.mark.slow
def test_swapped_channels_are_noticed_in_loud_noise_by_who_hears_the_speech() -> None:
    """At 0 dB the voice moves no level; and not one hop of the right channels is suspected."""
    clean = [soundfile.read(file, dtype="float32")[0] for file in sorted(CLEAN.glob("*.flac"))]
    words = np.concatenate([clip / clip.std() for clip in clean])
    words = 0.05 * np.tile(words, 24 * RATE_HZ // len(words) + 1)[: 24 * RATE_HZ].astype(np.float32)
    noise = white(24, level=0.05)
    near = words + through(path(5, 5), noise)
    far = noise + np.float32(10 ** (-17 / 20)) * words
    config = Config(gate=GateConfig(on=False), reference=ReferenceConfig(channel=2))
    for voice, other, wanted in ((far, near, True), (near, far, False)):
        chain, found = Chain(config), []
        for hop, there in zip(voice.copy().reshape(-1, HOP_SAMPLES), other.reshape(-1, HOP_SAMPLES), strict=True):
            chain.process(hop, there)
            assert chain.reference is not None
            found.append(chain.reference.trouble == "swapped")
        assert any(found) == found[-1] == wanted


@pytest.mark.slow
def test_who_hears_the_speech_is_asked_now_and_then_and_may_change() -> None:
    monitor = ChannelMonitor(LIMITS)
    rng = np.random.default_rng(3)
    channels = rng.standard_normal((2, HOP_SAMPLES)).astype(np.float32) * 0.1

    def after(seconds: float, here: float, there: float) -> tuple[str, float]:
        """The verdict at the end, and the share of hops for which the reference was listened to."""
        asked, verdict = 0, ""
        for _ in range(round(seconds * 200)):
            asked += monitor.needs_reference_speech
            verdict = monitor.check(*channels, here, there if monitor.needs_reference_speech else None)
        return verdict, asked / seconds / 200

    assert after(60, 0.9, 0.1)[0] == ""
    assert after(600, 0.9, 0.1)[1] < 0.15, "right channels are trusted longer and longer"
    monitor.reset()
    assert after(3.9, 0.1, 0.9)[0] == "" and after(1, 0.1, 0.9)[0] == "swapped"
    assert after(15, 0.9, 0.1)[0] == "swapped" and after(5, 0.9, 0.1)[0] == ""
    monitor.reset()
    assert after(120, 0.9, 0.9)[0] == "", "in quiet both hear it"
    monitor.reset()
    assert after(600, 0.1, 0.1)[1] < 0.2, "nor is it listened to for long while nobody speaks"
    monitor.reset()
    assert after(60, 0.0, 0.9)[0] == "", "an engine that reports no speech is not a witness"


def test_a_machine_that_runs_now_and_then_is_listened_to_and_then_cancelled() -> None:
    """Its level at the reference comes and goes as a voice's in swapped channels would; the network hears no voice."""
    seconds = 24
    running = (np.arange(seconds * RATE_HZ) // (RATE_HZ // 2)) % 2
    noise = white(seconds) * running.astype(np.float32)
    heard = through(path(10, 4), noise * np.float32(0.1)) + white(seconds, 8, 0.005)
    got, states = walk(new_canceller(), heard, noise + white(seconds, 9, HISS))
    assert "off: swapped" not in states
    assert 900 < states.count("off: listening") < 1100
    assert states[-1] == "adapting"
    alone = heard - white(seconds, 8, 0.005)
    left = got - white(seconds, 8, 0.005)
    assert removed_db(alone, left, 20, 24) > 8


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1e-6, 0.1, 1, 1e3, np.nan, np.inf]), st.sampled_from([0, 1e-6, 0.1, 1, np.nan])),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([0.0, 0.3, 1.0, np.nan]),
)
@settings(max_examples=15, deadline=None)
def test_nothing_makes_it_fail_or_roar(levels: list[tuple[float, float]], speech: float) -> None:
    """Whatever the reference does, a valid voice stays valid and never grows beyond bounds."""
    canceller = new_canceller(20)
    rng = np.random.default_rng(1)
    for there, here in levels:
        for _ in range(10):
            hop = (np.nan_to_num(here) * rng.standard_normal(HOP_SAMPLES)).astype(np.float32)
            reference = (there * rng.standard_normal(HOP_SAMPLES)).astype(np.float32)
            canceller.process(hop, reference, speech)
            assert np.isfinite(hop).all()
    for _ in range(100):
        hop = white(0.005, 5, 0.1)
        canceller.process(hop, white(0.005, 6, 0.1), 0.0)
    assert np.abs(hop).max() < 1


def test_a_path_that_diverged_is_not_heard() -> None:
    noise = white(3)
    heard = through(path(10, 4), noise)
    canceller = new_canceller(highpass_hz=0)
    walk(canceller, heard[:RATE_HZ], noise[:RATE_HZ])
    canceller._path.weights[3, 5] = np.nan
    got, _ = walk(canceller, heard[RATE_HZ:], noise[RATE_HZ:])
    assert canceller.resets == 1
    assert np.isfinite(got).all()
    assert removed_db(heard[RATE_HZ:], got, 1.5, 2) > 20


def test_the_reference_is_left_alone_and_nothing_is_kept() -> None:
    noise = white(3)
    kept = noise.copy()
    canceller = new_canceller()
    walk(canceller, noise.copy(), noise)
    assert np.array_equal(noise, kept)
    hop, other = white(0.005, 3), white(0.005, 4)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(300):
        canceller.process(hop, other, 0.1)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 4000


def test_reset_is_as_new() -> None:
    noise = white(1.5)
    heard = through(path(10, 4), noise)
    canceller = new_canceller()
    first, _ = walk(canceller, heard, noise)
    canceller.reset()
    again, _ = walk(canceller, heard, noise)
    assert np.array_equal(first, again)


# In the chain.

BARE = Config(
    feedforward=FeedforwardConfig(highpass_hz=15, mains="off"),
    suppress=SuppressConfig(engine="off"),
    gate=GateConfig(on=False),
)


def chained(config: Config, heard: Floats, reference: Floats | None) -> Floats:
    chain = Chain(config)
    out = heard.copy()
    others = [None] * (len(heard) // HOP_SAMPLES) if reference is None else [*reference.reshape(-1, HOP_SAMPLES)]
    for hop, other in zip(out.reshape(-1, HOP_SAMPLES), others, strict=True):
        chain.process(hop, other)
    return out


def test_the_chain_without_a_reference_is_as_it_was() -> None:
    heard = white(1)
    plain = chained(BARE, heard, None)
    wired = replace(BARE, reference=ReferenceConfig(channel=2))
    assert Chain(BARE).reference is None
    assert np.array_equal(plain, chained(BARE, heard, white(1, 7)))
    assert np.array_equal(plain, chained(wired, heard, None))
    assert np.array_equal(plain, chained(wired, heard, np.zeros_like(heard)))
    assert Chain(wired).delay_samples == Chain(BARE).delay_samples


def test_the_chain_hears_the_reference() -> None:
    noise = fan(3)
    heard = through(path(20, 4), noise) + white(3, 8, HISS)
    wired = replace(BARE, reference=ReferenceConfig(channel=2, path_ms=30))
    got = chained(wired, heard, noise)
    assert removed_db(chained(BARE, heard, None), got, 2, 3) > 20

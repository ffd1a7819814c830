"""No sample leaves above the peak: behind the converter, in every sample format, at every rate, whatever was fed in."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from signals import SOUNDS

from edge import HOP_SAMPLES, RATE_HZ
from edge.box import Box
from edge.chain import Chain
from edge.config import (
    AntinoiseConfig,
    CableConfig,
    CaptureConfig,
    Config,
    FeedforwardConfig,
    GateConfig,
    LimiterConfig,
    PlaybackConfig,
    SuppressConfig,
)
from edge.devices.fake import FakeCard, VirtualClock, opener
from edge.devices.pcm import Capabilities, Event
from edge.devices.playback import Playback
from edge.devices.sample_format import SAMPLE_BYTES, Encoder
from edge.dsp.peak import PeakLimiter
from edge.dsp.resample import Resampler
from edge.dsp.secondary_path import SecondaryPath
from edge.dsp.spectrum import Floats
from edge.serve import bridge
from edge.tools.sounds.enhance import enhance_file, enhance_samples

DEVICE_RATES_HZ = (16_000, 32_000, 44_100, 48_000, 96_000, 8_000, 22_050, 24_000, 88_200, 176_400, 192_000)
RATES_HZ = DEVICE_RATES_HZ
FORMATS = tuple(SAMPLE_BYTES)
RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))


def linear(level_dbfs: float) -> float:
    return float(10 ** (level_dbfs / 20))


def loud(kind: str, seed: int, samples: int) -> Floats:
    """Within +-1, float32: what overshoots most when it is converted."""
    draw = np.random.default_rng(seed)
    match kind:
        case "square":
            wave = np.sign(
                np.sin(2 * np.pi * draw.uniform(20, 7900) * np.arange(samples) / RATE_HZ + draw.uniform(0, 6))
            )
        case "clicks":
            wave = np.where(draw.random(samples) < 0.01, draw.choice([-1, 1], samples), 0)
        case "random signs":
            wave = draw.choice([-1, 1], samples)
        case "clipped speech":
            sound, _ = soundfile.read(SOUNDS / "noisy/tavern_fr_10dB.flac", frames=samples, dtype="float32")
            wave = np.clip(draw.uniform(2, 30) * sound, -1, 1)
        case _:
            wave = _worst(samples)
    return np.asarray(wave, np.float32)


def _worst(samples: int) -> NDArray[np.float64]:
    """The signs of the converter's taps at its worst phase, again and again: all of them add up."""
    up = Resampler(RATE_HZ, 48_000, 400)
    taps = up._table[np.abs(up._table).sum(axis=1).argmax()]
    return np.resize(np.concatenate([np.sign(taps), np.zeros(7)]), samples)


KINDS = ("square", "clicks", "random signs", "clipped speech", "worst case")
KIND, SEED = st.sampled_from(KINDS), st.integers(0, 2**31)
PEAK_DBFS = st.one_of(st.floats(-30, 0), st.sampled_from([0.0, -1.0, -10.0, -20.0, -30.0]))


class Card:
    """A card that keeps the bytes it is given; nothing of them is decoded by our own code."""

    def __init__(self, rate_hz: int, sample_format: str) -> None:
        self.sample_format = sample_format
        stereo_only = rate_hz in (32_000, 96_000)
        capabilities = Capabilities((sample_format,), (rate_hz,), False, (2,) if stereo_only else (1,))
        self.card = FakeCard("Out", VirtualClock(), playback=capabilities, record=True)
        self.given = bytearray()

    def open(self, peak_dbfs: float, same_clock: bool) -> Playback:
        rates_hz = self.card.capabilities["playback"].rates_hz
        playback = Playback(
            "Out",
            same_clock=same_clock,
            peak_dbfs=peak_dbfs,
            rates_hz=rates_hz,
            formats=(self.sample_format,),
            open_pcm=self.card.open_pcm,
        )
        playback.open()
        pcm = playback._pcm
        assert pcm is not None
        write = pcm.write

        def keep(data: bytes | memoryview) -> int:
            self.given += bytes(data)
            return write(data)

        pcm.write = keep  # type: ignore[method-assign]
        return playback

    def highest(self) -> float:
        """The largest magnitude of all samples, +-1.0, exactly."""
        width = SAMPLE_BYTES[self.sample_format]
        raw = np.frombuffer(bytes(self.given), np.uint8).reshape(-1, width)
        words = np.zeros((len(raw), 4), np.uint8)
        words[:, 4 - width :] = raw
        bits = words.view("<i4")[:, 0].astype(np.int64)
        if self.sample_format == "S24_LE":
            bits = bits << 40 >> 32
        return float(np.abs(bits).max()) / 2**31


def play(card: Card, playback: Playback, sound: Floats, chain: Chain | None = None) -> None:
    for number, start in enumerate(range(0, len(sound), HOP_SAMPLES)):
        card.card.clock.wait_until(number * 0.005)
        hop = sound[start : start + HOP_SAMPLES].copy()
        if chain:
            chain.process(hop)
        assert playback.write(hop) is Event.OK


@settings(RELAXED, max_examples=40)
@given(
    kind=KIND,
    seed=SEED,
    peak_dbfs=PEAK_DBFS,
    rate_hz=st.sampled_from(DEVICE_RATES_HZ),
    steered=st.booleans(),
    data=st.data(),
)
def test_no_device_is_handed_a_sample_above_the_peak(
    kind: str, seed: int, peak_dbfs: float, rate_hz: int, steered: bool, data: st.DataObject
) -> None:
    """Behind the chain's limiter, as in the box."""
    card = Card(rate_hz, data.draw(st.sampled_from(FORMATS)))
    threshold_dbfs = peak_dbfs - data.draw(st.floats(0.1, 10))
    limits = LimiterConfig(threshold_dbfs=threshold_dbfs, peak_dbfs=peak_dbfs)
    chain = Chain(replace(UNTOUCHED, limiter=limits))
    play(card, card.open(peak_dbfs, not steered), loud(kind, seed, 40 * HOP_SAMPLES), chain)
    assert 0 < card.highest() <= linear(peak_dbfs)


UNTOUCHED = Config(
    feedforward=FeedforwardConfig(highpass_hz=0, mains="off"),
    suppress=SuppressConfig(engine="off"),
    gate=GateConfig(on=False),
)


@settings(RELAXED, max_examples=10)
@given(kind=KIND, seed=SEED, peak_dbfs=PEAK_DBFS, rate_hz=st.sampled_from((4_000, *RATES_HZ)))
def test_no_file_holds_a_sample_above_the_peak(
    kind: str, seed: int, peak_dbfs: float, rate_hz: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    config = replace(UNTOUCHED, limiter=LimiterConfig(threshold_dbfs=peak_dbfs - 1, peak_dbfs=peak_dbfs))
    soundfile.write(folder / "in.wav", loud(kind, seed, 8000), rate_hz, "FLOAT")
    enhance_file(folder / "in.wav", folder / "out.wav", config)
    words, _ = soundfile.read(folder / "out.wav", dtype="int16")
    assert np.abs(words.astype(int)).max() / 32768 <= linear(peak_dbfs)
    assert np.abs(enhance_samples(loud(kind, seed, 8000), config, rate_hz)).max() <= linear(peak_dbfs)


@settings(RELAXED, max_examples=40)
@given(
    kind=KIND,
    seed=SEED,
    gain=st.sampled_from([0.01, 1, 100, 1e30]),
    peak_dbfs=st.floats(-90, 0),
    rate_hz=st.sampled_from(RATES_HZ),
    pieces=st.lists(st.integers(0, 500), min_size=1, max_size=12),
)
def test_the_limiter_alone_holds_the_peak_for_pieces_of_any_length(
    kind: str, seed: int, gain: float, peak_dbfs: float, rate_hz: int, pieces: list[int]
) -> None:
    """The same samples come out however they are cut, and what is not above the peak comes out with its bits."""
    sound = loud(kind, seed, sum(pieces)) * np.float32(gain)
    whole, cut = PeakLimiter(rate_hz, 6000, peak_dbfs), PeakLimiter(rate_hz, 500, peak_dbfs)
    at_once = whole.process(sound.copy())
    ends = np.cumsum(pieces)
    parts = [cut.process(sound[end - size : end].copy()) for end, size in zip(ends, pieces, strict=True)]
    assert np.abs(at_once).max(initial=0) <= linear(peak_dbfs)
    np.testing.assert_allclose(np.concatenate(parts), at_once, rtol=1e-6, atol=1e-12)
    quiet = sound * np.float32(0.5 * linear(peak_dbfs) / gain)
    late = np.concatenate([np.zeros(whole.delay_samples, np.float32), quiet])[: len(quiet)]
    whole.reset()
    assert np.array_equal(whole.process(quiet.copy()), late)
    assert math.isclose(whole.delay_ms, 0.25, abs_tol=0.03)


def test_the_gain_neither_clicks_nor_stays_down() -> None:
    """Around a click of twice the peak the gain of a steady tone falls within 0.25 ms, and is back after 0.2 s."""
    tone = np.full(48_000, 0.4, np.float32)
    tone[10_000] = 1.0
    limiter = PeakLimiter(48_000, 240, 20 * math.log10(0.5))
    out = np.concatenate([limiter.process(piece.copy()) for piece in tone.reshape(-1, 240)])
    gain = out[limiter.delay_samples :] / tone[: len(tone) - limiter.delay_samples]
    assert gain[10_000] == pytest.approx(0.5, abs=1e-6) and gain.min() == gain[10_000]
    assert (gain[: 10_000 - limiter.delay_samples] == 1).all() and (gain[20_000:] == 1).all()
    assert np.abs(np.diff(gain)).max() < 0.15, "a raised cosine, not a step"
    assert gain[10_000 + 480] == pytest.approx(0.5 * math.exp(10 / 60), abs=0.02), "60 ms of release"
    assert limiter.limited_samples > 0


def test_samples_that_are_no_numbers_become_silence_and_are_forgotten() -> None:
    limiter = PeakLimiter(48_000, 240, -10)
    for odd in (np.nan, np.inf, -np.inf):
        hop = np.full(240, odd, np.float32)
        hop[::2] = 0.1
        assert np.isfinite(limiter.process(hop)).all()
        after = [limiter.process(np.full(240, 0.1, np.float32)).copy() for _ in range(2)]
        assert (after[1] == np.float32(0.1)).all()


def test_a_change_of_the_peak_holds_from_the_next_call_on() -> None:
    limiter = PeakLimiter(48_000, 240, 0)
    limiter.process(np.ones(240, np.float32))
    limiter.set_peak(-20)
    assert limiter.peak_dbfs == -20
    assert np.abs(limiter.process(np.ones(240, np.float32))).max() <= 0.1
    limiter.set_peak(0)
    assert np.abs(limiter.process(np.ones(240, np.float32))).max() <= 1


@pytest.mark.parametrize("sample_format", FORMATS)
def test_rounding_never_leaves_the_peak(sample_format: str) -> None:
    for peak_dbfs in (0.0, -0.0001, -1.0, -20.0, -60.0):
        card = Card(RATE_HZ, sample_format)
        playback = card.open(peak_dbfs, same_clock=True)
        sound = np.resize(np.float32([1, -1, 0.5]), 800) * np.float32(linear(peak_dbfs))
        play(card, playback, sound)
        step = 2.0 ** -(15 if sample_format == "S16_LE" else 23 if "24" in sample_format else 31)
        assert linear(peak_dbfs) - max(2 * step, 2**-24) <= card.highest() <= linear(peak_dbfs)
        assert playback._peak is None, "at 16 kHz without steering nothing is converted"


def test_full_scale_keeps_all_its_steps_without_a_peak() -> None:
    words = np.frombuffer(Encoder("S16_LE", 1, 4).encode(np.float32([-1, -2, 1, 0])), np.int16)
    assert words.tolist() == [-32768, -32768, 32767, 0]


def cards(rate_hz: int, sound: Floats) -> tuple[FakeCard, ...]:
    """A microphone that hears ``sound`` again and again, a jack and a virtual cable."""
    clock = VirtualClock()

    def source(frames: NDArray[np.int64], rate: int) -> NDArray[np.floating]:
        return sound[frames % len(sound)]

    def out(name: str) -> FakeCard:
        capabilities = Capabilities(("S16_LE",), (rate_hz,), False, (2,))
        return FakeCard(name, clock, playback=capabilities, clock_error_ppm=100, record=True)

    mono = Capabilities(("S16_LE",), (RATE_HZ,), False, (1,))
    return FakeCard("Mic", clock, capture=mono, source=source), out("Jack"), out("Loopback")


@pytest.mark.parametrize(("rate_hz", "peak_dbfs"), [(16_000, -20.0), (44_100, -10.0), (48_000, -20.0), (48_000, -1.0)])
def test_both_outputs_hold_the_peak_through_anti_noise_mute_bypass_and_reload(
    rate_hz: int, peak_dbfs: float, tmp_path: Path
) -> None:
    """A whole box, hop by hop on one thread; in the end the peak is lowered by 10 dB without opening anything anew."""
    SecondaryPath(np.eye(1, 400, 300, dtype=np.float32)[0], 0.0, 40.0).save(tmp_path / "path.npz")
    config = replace(
        UNTOUCHED,
        capture=CaptureConfig(device="Mic", mute_ms=0, fade_ms=0),
        playback=PlaybackConfig(device="Jack", volume_db=0),
        cable=CableConfig(device="Loopback"),
        limiter=LimiterConfig(threshold_dbfs=peak_dbfs - 0.5, peak_dbfs=peak_dbfs),
        antinoise=AntinoiseConfig(on=True, calibration=str(tmp_path / "path.npz"), level_dbfs=-6),
    )
    hum = np.sin(2 * np.pi * 100 * np.arange(2 * RATE_HZ) / RATE_HZ)
    sound = np.concatenate([hum, loud("random signs", 1, 800), loud("clipped speech", 2, RATE_HZ)]).astype(np.float32)
    microphone, jack, loopback = cards(rate_hz, sound)
    box = Box(config, opener(microphone, jack, loopback))
    cable = box.cable.output
    assert cable is not None and box.chain.antinoise is not None
    box.open()
    cable.open()

    def walk(hops: int) -> None:
        for number in range(hops):
            assert box.capture.read(box._hop) < Event.STALLED
            box.muted, box.bypass = number % 50 > 40, number % 120 > 90
            box._process(box._hop, None)
            assert box.playback.write(box._hop) < Event.STALLED and cable.write(box._hop) < Event.STALLED

    walk(700)
    opened = jack.opened
    for card in (jack, loopback):
        highest = np.abs(card.played).max()
        assert 0.5 * linear(peak_dbfs) < highest <= linear(peak_dbfs) + 1e-9
        card.recorded.clear()
    lower = LimiterConfig(threshold_dbfs=peak_dbfs - 10.5, peak_dbfs=peak_dbfs - 10)
    box.reload(replace(config, limiter=lower))
    while box._next:
        walk(1)
        box._change_over()
    walk(20)  # what was queued before
    for card in (jack, loopback):
        card.played, card.recorded.clear()
    walk(200)
    for card in (jack, loopback):
        assert 0.5 * linear(peak_dbfs - 10) < np.abs(card.played).max() <= linear(peak_dbfs - 10) + 1e-9
    assert jack.opened == opened, "no device was opened again"
    box.close()


def test_the_whole_chain_for_another_program_holds_the_peak_at_its_rate() -> None:
    config = replace(UNTOUCHED, limiter=LimiterConfig(threshold_dbfs=-12, peak_dbfs=-10))
    for rate_hz in (16_000, 44_100, 48_000):
        stream = bridge.Stream(config, rate_hz, whole=True)
        sound = np.repeat(loud("random signs", 1, 8000), rate_hz // RATE_HZ)
        stream.process(sound)
        assert 0.01 < np.abs(sound).max() <= linear(-10)


def test_the_peak_stage_is_part_of_the_stated_delay() -> None:
    """A click comes out of a 48 kHz device where the latency says, and of a 16 kHz one on the same clock exactly."""
    for rate_hz, peak_ms in ((48_000, 0.25), (16_000, 0.0)):
        card = Card(rate_hz, "S32_LE")
        playback = card.open(-1.0, same_clock=True)
        click = np.zeros(40 * HOP_SAMPLES, np.float32)
        click[1600] = 0.5
        play(card, playback, click)
        words = np.frombuffer(bytes(card.given), "<i4")
        late_ms = 1000 * (np.abs(words.astype(float)).argmax() / rate_hz - 1600 / RATE_HZ)
        assert late_ms == pytest.approx(playback._delay_ms, abs=0.5 * 1000 / rate_hz)
        assert playback._delay_ms == pytest.approx(peak_ms + (1.479 if peak_ms else 0), abs=0.01)

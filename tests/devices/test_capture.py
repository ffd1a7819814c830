"""Capture against made-up cards: what it asks for, what it makes of what it gets, and how it survives."""

import errno
import itertools

import numpy as np
import pytest
from scipy.signal import find_peaks

from edge import HOP_SAMPLES, RATE_HZ
from edge.devices.capture import MOST_RESTARTS, Capture
from edge.devices.fake import (
    I2S_CAPABILITIES,
    USB_CAPABILITIES,
    FakeCard,
    Source,
    VirtualClock,
    constant,
    noise,
    one_live_channel,
    silence,
    tone,
)
from edge.devices.pcm import Capabilities, DeviceBusy, DeviceMissing, DeviceRefused, Event
from edge.dsp.spectrum import Floats

NATIVE = Capabilities(("S16_LE",), (16_000,), False, (1,))


def microphone(capabilities: Capabilities = NATIVE, source: Source = silence, clock_error_ppm: float = 0) -> FakeCard:
    return FakeCard("Mic", VirtualClock(), capture=capabilities, source=source, clock_error_ppm=clock_error_ppm)


def opened(
    card: FakeCard, channel: int | str = "auto", mute_ms: float = 0, gain_db: float = 0, reference: int = 0
) -> Capture:
    capture = Capture(
        "Mic",
        channel=channel,
        reference=reference,
        mute_ms=mute_ms,
        fade_ms=mute_ms / 4,
        gain_db=gain_db,
        open_pcm=card.open_pcm,
    )
    capture.open()
    return capture


def hear(capture: Capture, hops: int) -> Floats:
    """So many hops in a row, all of them whole."""
    hop = np.zeros(HOP_SAMPLES, np.float32)
    heard = []
    for _ in range(hops):
        assert capture.read(hop) is Event.OK
        heard.append(hop.copy())
    return np.concatenate(heard)


def level_at(x: Floats, frequency_hz: float) -> float:
    """Amplitude of a sine in the second half of ``x``."""
    x = x[len(x) // 2 :]
    t = np.arange(len(x)) / RATE_HZ
    return 2 * abs(np.mean(x * np.exp(-2j * np.pi * frequency_hz * t)))


def test_16_khz_mono_comes_with_its_bits() -> None:
    values = np.random.default_rng(1).integers(-32768, 32768, 16_000)
    capture = opened(microphone(source=lambda frames, rate: values[frames] / 32768))
    assert np.array_equal(hear(capture, 200), (values / 32768).astype(np.float32))
    assert capture.granted == "Mic: asked 16000 Hz mono S16_LE 80x8, got 16000 Hz mono S16_LE 80x8, channel 1 of 1"
    assert capture.latency_ms == 0


@pytest.mark.parametrize(
    "capabilities",
    [
        USB_CAPABILITIES,
        Capabilities(("S16_LE",), (44_100,), False, (1,)),
        Capabilities(("S16_LE",), (44_100,), False, (2,)),
        Capabilities(("S24_3LE",), (48_000,), False, (2,)),
        Capabilities(("S24_LE",), (48_000,), False, (1,)),
        Capabilities(("S32_LE",), (96_000,), False, (2,)),
        I2S_CAPABILITIES,
    ],
    ids=str,
)
def test_native_terms_are_converted_here(capabilities: Capabilities) -> None:
    capture = opened(microphone(capabilities, tone(1000, 0.25)))
    heard = hear(capture, 300)
    assert level_at(heard, 1000) == pytest.approx(0.25, rel=0.06)
    assert capture.rate_hz in capabilities.rates_hz
    assert f"got {capture.rate_hz} Hz" in capture.granted
    assert capture.latency_ms < 5


def test_44100_loses_no_sample_in_a_minute() -> None:
    card = microphone(Capabilities(("S16_LE",), (44_100,), False, (1,)), tone(440, 0.5))
    capture = opened(card)
    heard = hear(capture, 12_000)
    assert capture.frames_read / 44_100 == pytest.approx(60, abs=0.011)
    assert card.clock.now() == pytest.approx(60, abs=0.011)
    assert len(find_peaks(heard[8000:])[0]) == pytest.approx(440 * (60 - 0.5), abs=2)


def test_fast_clock_shows_in_the_frame_count() -> None:
    card = microphone(clock_error_ppm=500)
    capture = opened(card)
    hear(capture, 20_000)
    assert capture.frames_read / card.clock.now() / 16_000 == pytest.approx(1.0005, abs=1e-5)


def test_auto_hears_the_live_channel_of_an_i2s_microphone() -> None:
    for live in (0, 1):
        card = microphone(I2S_CAPABILITIES, one_live_channel(live, 2, tone(500, 0.1, dc=0.02)))
        capture = opened(card, mute_ms=400)
        heard = hear(capture, 400)
        assert capture.channel == f"{live + 1} of 2 (the live one)"
        assert capture.channel in capture.granted
        assert not heard[:6400].any()
        assert level_at(heard, 500) == pytest.approx(0.1, rel=0.05)
        assert capture.dc == pytest.approx(0.02, rel=0.3)


def test_auto_waits_for_a_sound_where_both_channels_are_dead() -> None:
    card = microphone(I2S_CAPABILITIES)
    capture = opened(card)
    hear(capture, 200)
    assert "until one has a signal" in capture.channel
    card.source = one_live_channel(1, 2, tone(500, 0.1))
    hear(capture, 200)
    assert capture.channel == "2 of 2 (the live one)"


def test_auto_takes_the_first_where_both_live() -> None:
    capture = opened(microphone(I2S_CAPABILITIES, noise()))
    hear(capture, 100)
    assert capture.channel == "1 of 2 (others are live too)"


@pytest.mark.parametrize(("channel", "expected"), [(1, 0.0), (2, 0.3), ("mean", 0.15)])
def test_chosen_channel(channel: int | str, expected: float) -> None:
    capture = opened(microphone(I2S_CAPABILITIES, one_live_channel(1, 2, tone(500, 0.3))), channel)
    assert level_at(hear(capture, 200), 500) == pytest.approx(expected, abs=0.01)


def test_missing_channel_is_refused_with_what_there_is() -> None:
    with pytest.raises(DeviceRefused, match=r"channel 3.*S24_LE/S32_LE at 48000 Hz, 2 channel"):
        opened(microphone(I2S_CAPABILITIES), channel=3)


def test_refusal_names_what_the_card_offers() -> None:
    with pytest.raises(DeviceRefused, match=r"Mic has no capture.*U8/FLOAT_LE at 8000/11025 Hz") as refusal:
        opened(microphone(Capabilities(("U8", "FLOAT_LE"), (8_000, 11_025), False, (1,))))
    assert "\n" not in str(refusal.value)


def test_start_is_muted_then_fades_in() -> None:
    heard = hear(opened(microphone(source=constant(0.5)), mute_ms=400), 120)
    assert not heard[:6400].any()
    fade = heard[6400:8000]
    assert np.all(np.diff(fade) >= 0) and fade[0] < 1e-3
    assert heard[8000:] == pytest.approx(0.5)


def test_gain_and_clip_counter() -> None:
    capture = opened(microphone(source=tone(1000, 0.2)), gain_db=20)
    heard = hear(capture, 100)
    assert np.abs(heard).max() <= 1.0
    share = capture.clips / len(heard)
    assert share == pytest.approx(2 / np.pi * np.arccos(1 / 2), abs=0.05)
    before = capture.clips
    capture.close()
    assert capture.clips == before


def test_dead_microphone_is_told_from_a_quiet_one() -> None:
    stuck = opened(microphone(source=constant(0.01)))
    hear(stuck, 250)
    assert stuck.silent
    quiet = opened(microphone(source=noise(1e-4)))
    hear(quiet, 250)
    assert not quiet.silent


def test_xrun_is_counted_faded_and_survived() -> None:
    card = microphone(source=constant(0.5))
    capture = opened(card)
    hear(capture, 20)
    card.xruns_to_come = 1
    hop = np.zeros(HOP_SAMPLES, np.float32)
    gap = []
    events = []
    for _ in range(4):
        events.append(capture.read(hop))
        gap.append(hop.copy())
    assert events == [Event.XRUN, Event.OK, Event.OK, Event.OK]
    assert capture.xruns == 1
    path = np.concatenate([np.full(1, 0.5), *gap])
    assert np.abs(np.diff(path)).max() < 0.02  # no click
    assert gap[0][-1] == pytest.approx(0, abs=1e-3) and gap[2] == pytest.approx(0.5)


def test_nothing_from_before_a_gap_is_heard_after_it() -> None:
    card = microphone(Capabilities(("S16_LE",), (44_100,), False, (1,)), constant(0.5))
    capture = opened(card)
    while capture._held < 20:
        hear(capture, 1)
    card.xruns_to_come = 1
    card.source = silence
    hop = np.zeros(HOP_SAMPLES, np.float32)
    while capture.read(hop) is not Event.XRUN:
        pass
    assert not hear(capture, 5).any()


def test_late_reader_overruns_the_card() -> None:
    card = microphone(source=noise())
    capture = opened(card)
    hear(capture, 5)
    card.clock.wait_until(card.clock.now() + 0.1)
    hop = np.zeros(HOP_SAMPLES, np.float32)
    assert capture.read(hop) is Event.XRUN
    assert capture.read(hop) is Event.OK


@pytest.mark.parametrize("frames", [1, 17, 79])
def test_short_read_keeps_every_sample(frames: int) -> None:
    card = microphone(source=lambda numbers, rate: (numbers % 1000) / 1000)
    capture = opened(card)
    hop = np.zeros(HOP_SAMPLES, np.float32)
    heard, events = [], []
    for number in range(20):
        if number == 5:
            card.short_frames = frames
        events.append(capture.read(hop))
        heard.append(hop.copy())
    assert events.count(Event.SHORT) == capture.shorts == 1
    assert set(events) == {Event.OK, Event.SHORT}
    assert np.concatenate(heard) == pytest.approx((np.arange(1600) % 1000) / 1000, abs=1e-4)


def test_stall_ends_after_a_quarter_second() -> None:
    card = microphone(source=constant(0.5))
    capture = opened(card)
    hear(capture, 5)
    card.stalled = True
    began_s = card.clock.now()
    hop = np.ones(HOP_SAMPLES, np.float32)
    assert capture.read(hop) is Event.STALLED
    assert card.clock.now() - began_s == pytest.approx(0.25, abs=0.01)
    assert hop[-1] == pytest.approx(0, abs=1e-3) and np.abs(hop).max() <= 0.5
    assert capture.stalls == 1
    card.stalled = False
    capture.open()
    hear(capture, 5)


def test_pulled_out_and_put_back() -> None:
    card = microphone(source=constant(0.5))
    capture = opened(card)
    hear(capture, 5)
    card.gone = True
    hop = np.ones(HOP_SAMPLES, np.float32)
    assert capture.read(hop) is Event.GONE
    assert capture.error == "No such device"
    capture.close()
    assert capture.read(hop) is Event.GONE and not hop.any()
    with pytest.raises(DeviceMissing):
        capture.open()
    card.gone = False
    capture.open()
    hear(capture, 5)


def test_busy_names_the_holder() -> None:
    card = microphone()
    card.holder = "arecord (process 77)"
    with pytest.raises(DeviceBusy, match=r"Mic is in use by arecord \(process 77\)"):
        opened(card)


@pytest.mark.parametrize("heard_before", [0, 20])
def test_a_card_that_overruns_for_ever_has_stalled(heard_before: int) -> None:
    """It answered EPIPE 8 300 times a second, each a hop of silence, and the box was called running."""
    card = microphone(source=constant(0.5))
    capture = opened(card)
    if heard_before:
        hear(capture, heard_before)
    card.answers["read"] = -errno.EPIPE
    hop = np.zeros(HOP_SAMPLES, np.float32)
    events = [capture.read(hop) for _ in range(1 + MOST_RESTARTS)]
    if heard_before:
        assert events == [Event.XRUN] * MOST_RESTARTS + [Event.STALLED]
    else:
        assert events[0] is Event.STALLED  # not one hop of silence is taken for sound
    assert capture.error == "Broken pipe"
    card.answers.clear()
    capture.open()
    assert hear(capture, 3) == pytest.approx(0.5)


def test_overruns_with_crumbs_between_them_have_stalled_too() -> None:
    card = microphone(source=constant(0.5))
    capture = opened(card)
    hear(capture, 5)
    pcm = capture._pcm
    assert pcm is not None
    answers = itertools.cycle([(-errno.EPIPE, b""), (1, b"\1\1"), (0, b"")])
    pcm.read = lambda: next(answers)  # type: ignore[method-assign]
    pcm.wait = lambda timeout_ms: True  # type: ignore[method-assign]
    hop = np.zeros(HOP_SAMPLES, np.float32)
    events = [capture.read(hop) for _ in range(1 + MOST_RESTARTS)]
    assert events[-1] is Event.STALLED


def test_overruns_that_a_restart_clears_are_no_stall() -> None:
    card = microphone(source=constant(0.5))
    capture = opened(card)
    hop = np.zeros(HOP_SAMPLES, np.float32)
    for _ in range(5 * MOST_RESTARTS):
        card.xruns_to_come = 1
        while capture.read(hop) is Event.XRUN:
            pass
        assert hear(capture, 1) is not None
    assert capture.stalls == 0 and capture.xruns == 5 * MOST_RESTARTS


@pytest.mark.parametrize("answer", [0, -errno.EINTR, -errno.EAGAIN, -errno.ESTRPIPE, -errno.EBADFD, -errno.EIO])
def test_any_answer_for_ever_ends_the_wait(answer: int) -> None:
    card = microphone(source=constant(0.5))
    capture = opened(card)
    hear(capture, 3)
    card.answers["read"] = answer
    hop = np.zeros(HOP_SAMPLES, np.float32)
    assert capture.read(hop) in (Event.STALLED, Event.GONE)


def test_interrupted_read_goes_on() -> None:
    """A signal may end ALSA's wait with EINTR."""
    card = microphone(source=constant(0.5))
    capture = opened(card)
    pcm = capture._pcm
    assert pcm is not None
    genuine, answers = pcm.read, itertools.chain([(-4, b""), (-4, b"")], itertools.repeat(None))
    pcm.read = lambda: next(answers) or genuine()  # type: ignore[method-assign]
    assert hear(capture, 3) == pytest.approx(0.5)


def test_reading_allocates_nothing_that_stays() -> None:
    import gc
    import tracemalloc

    capture = opened(microphone(Capabilities(("S16_LE",), (44_100,), False, (2,)), silence), channel=1)
    hop = np.zeros(HOP_SAMPLES, np.float32)
    for _ in range(300):
        capture.read(hop)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(1000):
        capture.read(hop)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 4000


# The reference's channel.


def hear_both(capture: Capture, hops: int) -> tuple[Floats, Floats]:
    voice, reference = np.zeros((hops, HOP_SAMPLES), np.float32), np.zeros((hops, HOP_SAMPLES), np.float32)
    for hop, other in zip(voice, reference, strict=True):
        assert capture.read(hop, other) is Event.OK
    return voice.reshape(-1), reference.reshape(-1)


def stereo(first: Source, second: Source) -> Source:
    return lambda frames, rate_hz: np.stack([first(frames, rate_hz), second(frames, rate_hz)], 1)


def test_both_channels_come_with_their_bits() -> None:
    values = np.random.default_rng(1).integers(-32768, 32768, (16_000, 2))
    capabilities = Capabilities(("S16_LE",), (16_000,), False, (2,))
    for voice, reference in ((1, 2), (2, 1)):
        capture = opened(
            microphone(capabilities, lambda frames, rate: values[frames] / 32768), voice, reference=reference
        )
        heard, other = hear_both(capture, 100)
        assert np.array_equal(heard, (values[:8000, voice - 1] / 32768).astype(np.float32))
        assert np.array_equal(other, (values[:8000, reference - 1] / 32768).astype(np.float32))
        assert capture.channel == f"{voice} of 2, reference {reference}"
        assert capture.channel in capture.granted


@pytest.mark.parametrize(
    "capabilities", [I2S_CAPABILITIES, Capabilities(("S24_3LE",), (44_100,), False, (2,))], ids=str
)
def test_both_channels_wait_the_same_time(capabilities: Capabilities) -> None:
    """Conversion delays them alike: one sound in both stays one sound, and a late one stays as late."""
    sound = 0.1 * np.random.default_rng(2).standard_normal(100_000)
    late = stereo(lambda frames, rate: sound[frames], lambda frames, rate: sound[np.maximum(frames - 30, 0)])
    same = stereo(lambda frames, rate: sound[frames], lambda frames, rate: sound[frames])
    assert np.array_equal(*hear_both(opened(microphone(capabilities, same), 1, reference=2), 100))
    heard, other = hear_both(opened(microphone(capabilities, late), 1, reference=2), 200)
    likeness = np.correlate(heard[1900:10_100], other[2000:10_000], "valid")
    assert 100 - likeness.argmax() == round(30 * RATE_HZ / capabilities.rates_hz[0])


def test_a_gap_keeps_both_in_step() -> None:
    sound = 0.1 * np.random.default_rng(2).standard_normal(100_000)
    card = microphone(I2S_CAPABILITIES, stereo(lambda frames, rate: sound[frames], lambda frames, rate: sound[frames]))
    capture = opened(card, 1, reference=2)
    hear_both(capture, 20)
    card.xruns_to_come = 1
    hop, other = np.ones(HOP_SAMPLES, np.float32), np.ones(HOP_SAMPLES, np.float32)
    assert capture.read(hop, other) is Event.XRUN
    assert not other.any()
    hear_both(capture, 1)  # fades the voice in
    assert np.array_equal(*hear_both(capture, 50))


def test_the_reference_is_silent_while_the_voice_is_muted() -> None:
    capture = opened(microphone(I2S_CAPABILITIES, stereo(constant(0.5), constant(0.2))), 1, mute_ms=400, reference=2)
    voice, reference = hear_both(capture, 100)
    assert not voice[:6400].any() and not reference[:6400].any()
    assert reference[6400:] == pytest.approx(0.2, rel=1e-3)


def test_a_card_without_a_second_channel_is_refused() -> None:
    with pytest.raises(DeviceRefused, match="a channel 2 for the reference"):
        opened(microphone(NATIVE), channel=1, reference=2)

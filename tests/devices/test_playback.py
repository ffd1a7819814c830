"""Playback against made-up cards: the queue, the two clocks, and how it survives."""

import errno

import numpy as np
import pytest

from edge import HOP_SAMPLES
from edge.devices.capture import Capture
from edge.devices.fake import JACK_CAPABILITIES, FakeCard, FakePcm, VirtualClock, noise, opener, silence, tone
from edge.devices.pcm import Capabilities, DeviceBusy, DeviceMissing, DeviceRefused, Event
from edge.devices.playback import MOST_REFUSED, Playback
from edge.dsp.spectrum import Floats

HOP_S = 0.005
NATIVE = Capabilities(("S16_LE",), (16_000,), False, (1,))


def jack(
    capabilities: Capabilities = JACK_CAPABILITIES, clock_error_ppm: float = 0, step_ms: float = 0, record: bool = False
) -> FakeCard:
    return FakeCard(
        "Headphones",
        VirtualClock(),
        playback=capabilities,
        clock_error_ppm=clock_error_ppm,
        position_step_ms=step_ms,
        record=record,
    )


def opened(card: FakeCard, same_clock: bool = False) -> Playback:
    playback = Playback(card.id, same_clock=same_clock, open_pcm=card.open_pcm)
    playback.open()
    return playback


def play(card: FakeCard, playback: Playback, sound: Floats) -> list[Event]:
    """Hops at the pace of a microphone on the true clock."""
    began_s = card.clock.now()
    events = []
    for number, start in enumerate(range(0, len(sound), HOP_SAMPLES)):
        card.clock.wait_until(began_s + number * HOP_S)
        events.append(playback.write(sound[start : start + HOP_SAMPLES]))
    return events


def sine(seconds: float, frequency_hz: float = 1000, level: float = 0.5) -> Floats:
    return (level * np.sin(2 * np.pi * frequency_hz / 16_000 * np.arange(round(seconds * 16_000)))).astype(np.float32)


def test_jack_gets_its_own_terms() -> None:
    playback = opened(jack())
    assert "asked 48000 Hz stereo S16_LE 480x7, got 48000 Hz stereo S16_LE 480x7" in playback.granted
    assert "steered" in playback.granted
    assert playback.clock == "Headphones"


def test_16_khz_on_one_clock_is_bit_exact() -> None:
    card = FakeCard("Dac", VirtualClock(), playback=NATIVE, record=True)
    playback = opened(card, same_clock=True)
    values = np.random.default_rng(1).integers(-32768, 32768, 16_000)
    assert set(play(card, playback, (values / 32768).astype(np.float32))) == {Event.OK}
    card.clock.wait_until(card.clock.now() + 0.028)
    playback.queue_ms, _ = 0.0, playback._pcm.avail()  # type: ignore[union-attr]
    heard = np.rint(card.played * 32768).astype(int)
    assert not heard[:400].any()  # the priming: 25 ms
    assert np.array_equal(heard[400:16_000], values[:15_600])


def test_queue_is_primed_to_its_target_and_topped_up_before_the_first_hop() -> None:
    card = jack()
    playback = opened(card)
    card.clock.wait_until(0.012)
    assert playback.write(np.zeros(HOP_SAMPLES, np.float32)) is Event.OK
    assert playback.queue_ms == pytest.approx(25, abs=0.1)


def test_slow_start_is_no_xrun() -> None:
    card = jack()
    playback = opened(card)
    card.clock.wait_until(3.0)
    assert playback.write(np.zeros(HOP_SAMPLES, np.float32)) is Event.OK
    assert playback.xruns == 0 and playback.queue_ms == pytest.approx(25, abs=0.1)


def test_target_fits_the_buffer_granted() -> None:
    card = jack()
    card.most_frames = 3 * 480
    playback = Playback("Headphones", queue_ms=200, open_pcm=card.open_pcm)
    playback.open()
    assert playback.target_ms == pytest.approx(10)  # 30 ms less a period and two hops
    assert set(play(card, playback, sine(0.5))) == {Event.OK}


@pytest.mark.parametrize("gap_s", [0.03, 0.2])
def test_a_dry_queue_is_counted_and_filled_again(gap_s: float) -> None:
    card = jack()
    playback = opened(card)
    assert set(play(card, playback, sine(0.2))) == {Event.OK}
    card.clock.wait_until(card.clock.now() + gap_s + HOP_S)
    events = play(card, playback, sine(0.2))
    assert events[0] is Event.XRUN and set(events[1:]) == {Event.OK}
    assert playback.xruns == 1
    assert playback.queue_ms == pytest.approx(25, abs=0.5)


def test_injected_xrun_after_which_the_sound_rises_gently() -> None:
    card = jack(record=True)
    playback = opened(card, same_clock=True)
    play(card, playback, np.full(1600, 0.5, np.float32))
    card.xruns_to_come = 1
    card.clock.wait_until(card.clock.now() + HOP_S)
    events = play(card, playback, np.full(3200, 0.5, np.float32))
    assert events.count(Event.XRUN) == playback.xruns == 1
    heard = card.played
    again = heard[np.flatnonzero(heard == 0)[-1] :]
    assert np.abs(np.diff(again)).max() < 0.02


def test_a_dry_queue_that_the_plugin_hides_is_noticed() -> None:
    card = jack()
    playback = opened(card)
    play(card, playback, sine(0.1))
    pcm = playback._pcm
    assert isinstance(pcm, FakePcm)
    genuine, answers = pcm.avail, iter([pcm.granted.buffer_frames])
    pcm.avail = lambda: next(answers, None) or genuine()  # type: ignore[method-assign]
    assert playback.write(np.zeros(HOP_SAMPLES, np.float32)) is Event.XRUN
    assert playback.xruns == 1


def test_full_queue_leaves_hops_out_down_to_the_target() -> None:
    card = jack()
    playback = opened(card)
    hop = np.zeros(HOP_SAMPLES, np.float32)
    events = [playback.write(hop) for _ in range(10)]  # a burst: no time passes
    assert events[:9] == [Event.OK] * 9 and set(events[9:]) == {Event.SHORT}
    assert playback.dropped == 1
    events = play(card, playback, sine(0.5))
    assert events[-90:] == [Event.OK] * 90
    assert playback.queue_ms == pytest.approx(25, abs=5)


@pytest.mark.parametrize("answer", [0, -errno.EPIPE, -errno.EINTR, -errno.EAGAIN, -errno.ESTRPIPE, -errno.EIO])
@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_card_that_takes_nothing_for_ever_is_given_up(answer: int, from_the_start: bool) -> None:
    card = jack()
    if from_the_start:
        card.answers["write"] = answer
    playback = opened(card)
    if not from_the_start:
        play(card, playback, sine(0.1))
        card.answers["write"] = answer
    before = playback.frames_written
    events = play(card, playback, sine(0.5))
    assert next(number for number, event in enumerate(events) if event >= Event.STALLED) <= MOST_REFUSED
    assert playback.frames_written == before and playback.error
    card.answers.clear()
    playback.open()
    assert set(play(card, playback, sine(0.1))) == {Event.OK}


def test_a_few_refusals_cost_their_hops_only() -> None:
    card = jack()
    playback = opened(card)
    play(card, playback, sine(0.1))
    for _ in range(3):
        card.answers["write"] = 0
        assert set(play(card, playback, sine(0.01))) == {Event.SHORT}
        card.answers.clear()
        assert Event.STALLED not in play(card, playback, sine(0.05))


def test_pulled_out_and_put_back() -> None:
    card = jack()
    playback = opened(card)
    play(card, playback, sine(0.1))
    card.gone = True
    hop = np.zeros(HOP_SAMPLES, np.float32)
    assert playback.write(hop) is Event.GONE
    assert playback.error == "No such device"
    playback.close()
    assert playback.write(hop) is Event.GONE
    with pytest.raises(DeviceMissing):
        playback.open()
    card.gone = False
    playback.open()
    assert set(play(card, playback, sine(0.1))) == {Event.OK}


def test_busy_names_the_holder() -> None:
    card = jack()
    card.holder = "mpv (process 4)"
    with pytest.raises(DeviceBusy, match=r"in use by mpv \(process 4\)"):
        opened(card)


def test_refusal_names_the_offer() -> None:
    with pytest.raises(DeviceRefused, match=r"U8 at 8000 Hz, 1 channel"):
        opened(jack(Capabilities(("U8",), (8_000,), False, (1,))))


def test_what_the_card_offers_is_taken() -> None:
    card = FakeCard("Usb", VirtualClock(), playback=Capabilities(("S24_3LE",), (44_100,), False, (2,)), record=True)
    playback = opened(card)
    assert set(play(card, playback, sine(1.0))) == {Event.OK}
    assert "44100 Hz stereo S24_3LE" in playback.granted
    assert np.abs(card.played).max() == pytest.approx(0.5, rel=0.05)


def test_hop_is_left_as_it_was() -> None:
    playback = opened(jack())
    hop = sine(HOP_S)
    before = hop.copy()
    for _ in range(3):
        playback.write(hop)
    assert np.array_equal(hop, before)


@pytest.mark.slow
def test_ten_minutes_on_two_clocks() -> None:
    """Microphone and jack 300 ppm apart: the queue stays at its target, though the jack reports it in coarse steps."""
    clock = VirtualClock()
    microphone = FakeCard("Mic", clock, capture=NATIVE, source=silence, clock_error_ppm=-150)
    output = FakeCard("Headphones", clock, playback=JACK_CAPABILITIES, clock_error_ppm=150, position_step_ms=10)
    door = opener(microphone, output)
    capture, playback = Capture("Mic", open_pcm=door), Playback("Headphones", open_pcm=door)
    capture.open()
    playback.open()
    pcm = playback._pcm
    assert isinstance(pcm, FakePcm)
    hop = np.zeros(HOP_SAMPLES, np.float32)
    queue = np.zeros(120_000)
    for number in range(len(queue)):
        assert capture.read(hop) is Event.OK
        queue[number] = pcm.true_queue_ms
        assert playback.write(hop) is Event.OK
    assert clock.now() == pytest.approx(600, abs=0.2)
    # A position in steps of 10 ms reports 5 ms too much on average, and the reported queue is what is held.
    held_ms = playback.target_ms - 5
    assert np.abs(queue[60 * 200 :] - held_ms).max() < 2
    assert playback.drift_ppm == pytest.approx(300, abs=40)
    assert capture.xruns == playback.xruns == playback.dropped == 0


def test_sound_arrives_whole_from_microphone_to_jack() -> None:
    clock = VirtualClock()
    microphone = FakeCard("Mic", clock, capture=NATIVE, source=tone(1000, 0.5), clock_error_ppm=-150)
    output = FakeCard("Headphones", clock, playback=JACK_CAPABILITIES, clock_error_ppm=150, record=True)
    door = opener(microphone, output)
    capture, playback = Capture("Mic", mute_ms=0, open_pcm=door), Playback("Headphones", open_pcm=door)
    capture.open()
    playback.open()
    hop = np.zeros(HOP_SAMPLES, np.float32)
    queue = np.zeros(12_000)
    for number in range(len(queue)):
        assert capture.read(hop) is Event.OK and playback.write(hop) is Event.OK
        queue[number] = playback.queue_ms
    assert np.abs(queue[9000:] - playback.target_ms).max() < 2
    heard = output.played[-4 * 48_000 :].astype(float)
    assert thdn_db(heard, 1000 / 48_000) < -60


def thdn_db(x: np.ndarray, about: float) -> float:
    """What is left of ``x`` beside its sine, to the sine; ``about`` in cycles a sample. The steering moves the pitch
    by millionths from second to second, which nobody hears: the sine is fitted piece by piece.
    """
    worst = -200.0
    for piece in x[: len(x) // 4800 * 4800].reshape(-1, 4800):
        n = np.arange(len(piece))
        spectrum = np.exp(-2j * np.pi * about * n) @ (piece * np.hanning(len(piece)))
        halves = [np.exp(-2j * np.pi * about * part) @ piece[part] for part in np.array_split(n, 2)]
        turn = np.angle(halves[1] / halves[0]) / (2 * np.pi * len(piece) / 2)
        assert abs(spectrum) > 0
        basis = np.stack([np.cos(2 * np.pi * (about + turn) * n), np.sin(2 * np.pi * (about + turn) * n)], axis=1)
        fit = basis @ np.linalg.lstsq(basis, piece, rcond=None)[0]
        worst = max(worst, 10 * np.log10(np.mean((piece - fit) ** 2) / np.mean(fit**2)))
    return worst


def test_stalled_microphone_then_burst_keeps_the_latency() -> None:
    """After a gap in the box the queue must not stay long or short for ever."""
    clock = VirtualClock()
    microphone = FakeCard("Mic", clock, capture=NATIVE, source=noise())
    output = FakeCard("Headphones", clock, playback=JACK_CAPABILITIES)
    door = opener(microphone, output)
    capture, playback = Capture("Mic", open_pcm=door), Playback("Headphones", open_pcm=door)
    capture.open()
    playback.open()
    hop = np.zeros(HOP_SAMPLES, np.float32)
    for number in range(6000):
        if number == 1000:
            clock.wait_until(clock.now() + 0.1)
        capture.read(hop)
        playback.write(hop)
    assert capture.xruns == playback.xruns == 1
    assert playback.queue_ms == pytest.approx(playback.target_ms, abs=2)

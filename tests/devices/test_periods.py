"""Cards with two periods, with periods of half a second, with small buffers: no stall, no short queue, no xruns."""

import numpy as np
import pytest

from edge import HOP_SAMPLES
from edge.box import Box
from edge.config import CaptureConfig, Config, GateConfig, PlaybackConfig, SuppressConfig
from edge.devices.capture import Capture
from edge.devices.fake import (
    I2S_CAPABILITIES,
    JACK_CAPABILITIES,
    USB_CAPABILITIES,
    FakeCard,
    FakePcm,
    VirtualClock,
    noise,
    opener,
)
from edge.devices.pcm import Capabilities, DeviceBusy, Direction, Event, StreamParams
from edge.devices.periods import MOST_STALL_MS, stall_ms
from edge.devices.playback import Playback

NATIVE = Capabilities(("S16_LE",), (16_000,), False, (1,))
SLOW = Capabilities(("S16_LE",), (8_000,), False, (1,))


def jack(**faults: int | float) -> FakeCard:
    return FakeCard("Headphones", VirtualClock(), playback=JACK_CAPABILITIES, **faults)  # type: ignore[arg-type]


def hops_of(card: FakeCard, playback: Playback, seconds: float, late_ms: float = 0.0) -> list[Event]:
    """Silence at the pace of a microphone; now and then a hop is late, and the next ones follow at once."""
    began_s, silent = card.clock.now(), np.zeros(HOP_SAMPLES, np.float32)
    events = []
    for number in range(round(200 * seconds)):
        late_s = late_ms / 1000 if number % 97 == 96 else 0.0
        card.clock.wait_until(began_s + number * 0.005 + late_s)
        events.append(playback.write(silent))
    return events


@pytest.mark.parametrize("same_clock", [True, False])
@pytest.mark.parametrize("step_ms", [0, 10])
def test_two_periods_are_made_long_enough_for_the_queue(step_ms: float, same_clock: bool) -> None:
    card = jack(most_periods=2, position_step_ms=step_ms)
    playback = Playback(card.id, same_clock=same_clock, open_pcm=card.open_pcm)
    playback.open()
    assert playback.target_ms == 25 and "1680x2" in playback.granted
    assert set(hops_of(card, playback, 10, late_ms=12)) == {Event.OK}
    assert playback.xruns == playback.dropped == 0 and not playback.unread


@pytest.mark.parametrize("queue_ms", [5, 25, 60, 200])
@pytest.mark.parametrize("periods", [2, 3, 4])
def test_any_queue_fits_into_few_periods(periods: int, queue_ms: float) -> None:
    card = jack(most_periods=periods)
    playback = Playback(card.id, queue_ms=queue_ms, open_pcm=card.open_pcm)
    playback.open()
    assert playback.target_ms == queue_ms
    assert set(hops_of(card, playback, 1)) == {Event.OK}


def test_a_small_buffer_is_used_as_it_is() -> None:
    card = jack(most_frames=960, most_periods=2)
    playback = Playback(card.id, open_pcm=card.open_pcm)
    playback.open()
    assert playback.target_ms == 1 and "480x2" in playback.granted


def test_one_period_as_long_as_the_buffer_is_halved() -> None:
    card = jack(most_frames=8192)
    first = card.open_pcm

    def coarse(device: str, direction: Direction, params: StreamParams) -> FakePcm:
        return first(device, direction, StreamParams(*_samples(params), 8192, 1) if params.periods > 2 else params)

    playback = Playback(card.id, open_pcm=coarse)
    playback.open()
    assert playback.target_ms == 25


def _samples(params: StreamParams) -> tuple[int, int, str]:
    return params.rate_hz, params.channels, params.sample_format


def test_a_device_that_is_taken_meanwhile_is_busy_and_not_left_open() -> None:
    card = jack(most_periods=2)
    first = card.open_pcm

    def once(device: str, direction: Direction, params: StreamParams) -> FakePcm:
        pcm = first(device, direction, params)
        card.holder = "aplay (process 7)"
        return pcm

    with pytest.raises(DeviceBusy, match="aplay"):
        Playback(card.id, open_pcm=once).open()


def test_a_microphone_with_two_periods_survives_a_late_reader() -> None:
    card = FakeCard("Mic", VirtualClock(), capture=I2S_CAPABILITIES, source=noise(), most_periods=2)
    capture = Capture("Mic", open_pcm=card.open_pcm)
    capture.open()
    assert "720x2" in capture.granted and capture.period_ms == 15
    hop = np.zeros(HOP_SAMPLES, np.float32)
    for number in range(2000):
        if number % 50 == 49:
            card.clock.wait_until(card.clock.now() + 0.012)
        assert capture.read(hop) is Event.OK
    assert capture.xruns == 0


@pytest.mark.parametrize("capabilities", [NATIVE, USB_CAPABILITIES, I2S_CAPABILITIES])
def test_a_period_of_8192_frames_is_no_stall(capabilities: Capabilities) -> None:
    card = FakeCard("Mic", VirtualClock(), capture=capabilities, source=noise(), least_period=8192)
    capture = Capture("Mic", open_pcm=card.open_pcm)
    capture.open()
    hop = np.zeros(HOP_SAMPLES, np.float32)
    assert {capture.read(hop) for _ in range(1000)} == {Event.OK}
    assert capture.stalls == 0
    card.stalled = True
    began_s = card.clock.now()
    while capture.read(hop) is Event.OK:
        pass
    assert capture.stalls == 1
    assert card.clock.now() - began_s == pytest.approx(3 * capture.period_ms / 1000, abs=0.01)


def test_the_wait_for_a_stalled_card_ends_before_the_watchdog() -> None:
    assert stall_ms(StreamParams(48_000, 2, "S16_LE", 480, 4)) == 250
    assert stall_ms(StreamParams(16_000, 1, "S16_LE", 8192, 2)) == 1536
    assert stall_ms(StreamParams(8_000, 1, "S16_LE", 1 << 16, 2)) == MOST_STALL_MS < 5000


@pytest.mark.parametrize("step_ms", [170, 43])
@pytest.mark.parametrize("ppm", [-300, 300])
def test_an_output_with_long_periods_has_a_reader_and_no_xruns(ppm: float, step_ms: float) -> None:
    """Its position stands still for a whole period, which neither is a missing reader nor shortens the queue."""
    card = jack(least_period=round(48 * step_ms), position_step_ms=step_ms, clock_error_ppm=ppm)
    playback = Playback(card.id, open_pcm=card.open_pcm)
    playback.open()
    assert set(hops_of(card, playback, 15)) == {Event.OK}
    assert playback.xruns == playback.dropped == 0 and not playback.unread


@pytest.mark.parametrize(("period", "capabilities"), [(8192, NATIVE), (8192, I2S_CAPABILITIES), (4096, NATIVE)])
def test_the_box_plays_whole_periods_of_half_a_second_without_a_gap(period: int, capabilities: Capabilities) -> None:
    """The hops of a period come at once: the queue holds until the next."""
    clock = VirtualClock()
    microphone = FakeCard("Mic", clock, capture=capabilities, source=noise(0.01), least_period=period)
    output = FakeCard("Headphones", clock, playback=JACK_CAPABILITIES, position_step_ms=10, clock_error_ppm=100)
    config = Config(
        capture=CaptureConfig(device="Mic"),
        playback=PlaybackConfig(device="Headphones"),
        suppress=SuppressConfig(engine="off"),
        gate=GateConfig(on=False),
    )
    box = Box(config, opener=opener(microphone, output))
    box.open()
    hop = np.zeros(HOP_SAMPLES, np.float32)
    events = set()
    for _ in range(2400):
        assert box.capture.read(hop) is Event.OK
        events.add(box.playback.write(hop))
    assert events == {Event.OK}
    assert box.playback.xruns == box.playback.dropped == 0 and not box.playback.unread
    assert box.playback.target_ms == pytest.approx(25 + (box.capture.period_ms - 10) / 2)
    box.close()

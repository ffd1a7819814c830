"""The cable beside the jack: whatever becomes of it, the jack plays the very same samples."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from boxes import NATIVE, SECONDS, SETTINGS, Rig
from machine import PATIENCE_S, wait_for

from edge import box as box_module
from edge import config_file
from edge.box import State
from edge.config import (
    USB_CARD,
    CableConfig,
    Config,
    FeedforwardConfig,
    GateConfig,
    PlaybackConfig,
)
from edge.config_file import BadConfig
from edge.devices import cable as cable_module
from edge.devices.cable import Cable, CableState
from edge.devices.capture import Capture
from edge.devices.fake import JACK_CAPABILITIES, FakeCard, VirtualClock, opener
from edge.devices.pcm import Direction, Pcm, StreamParams
from edge.devices.playback import Playback
from edge.dsp.spectrum import Floats

pytestmark = pytest.mark.usefixtures("quick_cable")


@pytest.fixture(scope="module")
def without() -> Floats:
    """What the jack plays when there is no cable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_module, "LATE_US", 1e9)
        played = Rig(replace(SETTINGS, cable=CableConfig())).walk()
    assert len(played) > 0.9 * SECONDS * 48_000 and np.abs(played).max() > 0.1
    return played


def sound(card: FakeCard) -> Floats:
    return card.played


def test_the_cable_hears_what_the_jack_hears(without: Floats) -> None:
    rig = Rig()
    rig.at[0.1] = rig.until(CableState.PLAYING)
    assert np.array_equal(rig.walk(), without)
    jack, cable = rig.jack.played[96_000:240_000], rig.cable.played
    start = int(np.argmax(np.correlate(cable[48_000:264_000], jack[24_000:48_000], "valid"))) + 48_000
    assert like(cable[start : start + 24_000], jack[24_000:48_000]) > 0.99  # parts of a sample apart
    assert rig.box.cable.xruns == 0 and rig.box.cable.dropped == 0
    assert rig.cable_said() == [f"cable {rig.box.cable.output.granted}"] if rig.box.cable.output else False


def like(a: Floats, b: Floats) -> float:
    """Their correlation coefficient."""
    return float(np.corrcoef(a, b)[0, 1])


def test_a_cable_that_is_not_there(without: Floats) -> None:
    rig = Rig()
    rig.cable.gone = True
    rig.at[4.0] = lambda: wait_for(lambda: rig.box.cable.failures > 3, "trying again")
    assert np.array_equal(rig.walk(), without)
    assert len(rig.cable_said()) == 1 and "no cable: no sound card 'Cable'" in rig.cable_said()[0]


def test_a_cable_that_somebody_else_holds_comes_when_it_is_free(without: Floats) -> None:
    rig = Rig()
    rig.cable.holder = "arecord (process 7)"

    def set_free() -> None:
        wait_for(lambda: rig.box.cable.failures > 1)
        rig.cable.holder = ""
        rig.until(CableState.PLAYING)()

    rig.at[2.0] = set_free
    assert np.array_equal(rig.walk(), without)
    said = rig.cable_said()
    assert len(said) == 2 and "arecord (process 7)" in said[0] and "asked" in said[1]
    assert np.abs(sound(rig.cable)).max() > 0.1


def test_a_cable_pulled_out_and_put_back(without: Floats) -> None:
    rig = Rig()

    def pull() -> None:
        assert rig.box.cable.state is CableState.PLAYING
        rig.cable.gone = True

    def put_back() -> None:
        assert rig.box.cable.state is CableState.WAITING and rig.box.state is State.RUNNING
        rig.cable.gone = False
        rig.until(CableState.PLAYING)()

    rig.at |= {0.1: rig.until(CableState.PLAYING), 2.0: pull, 3.0: put_back}
    assert np.array_equal(rig.walk(), without)
    said = " | ".join(rig.cable_said())
    assert said.count("the cable is gone (No such device)") == 1 and said.count("asked") == 2
    assert rig.box.cable.failures >= 1


def test_a_cable_that_takes_nothing_for_ever_is_said_once(without: Floats) -> None:
    rig = Rig()
    rig.cable.answers["write"] = 0
    retry = rig.until(CableState.PLAYING)
    rig.at |= {moment: retry for moment in (0.1, 1.0, 2.0)}
    assert np.array_equal(rig.walk(), without)
    assert rig.cable_said() == ["the cable is gone (takes no sound); everything else goes on"]
    assert rig.box.cable.failures >= 2


def test_a_cable_nobody_reads_is_said_once_and_plays_on_when_somebody_does(without: Floats) -> None:
    """A USB gadget without a PC takes nothing; what it holds when the PC comes is cut to the usual queue."""
    rig = Rig(ppm=50)
    rig.cable.unread = True

    def read() -> None:
        assert rig.box.cable.state is CableState.UNREAD
        assert rig.box.cable.drift_ppm == pytest.approx(0, abs=30)
        rig.cable.unread = False

    def check() -> None:
        output = rig.box.cable.output
        assert output is not None and rig.box.cable.state is CableState.PLAYING
        assert rig.box.cable.queue_ms == pytest.approx(output.target_ms, abs=6)

    rig.at |= {0.1: rig.until(CableState.PLAYING), 4.0: read, 6.0: check}
    assert np.array_equal(rig.walk(), without)
    assert sum("no program reads the cable" in text for text in rig.cable_said()) == 1
    assert rig.box.cable.xruns == 0
    assert np.abs(sound(rig.cable)[-24_000:]).max() > 0.1


def test_xruns_of_the_cable_are_its_own(without: Floats) -> None:
    rig = Rig()

    def xrun() -> None:
        rig.cable.xruns_to_come = 1

    rig.at |= {0.1: rig.until(CableState.PLAYING), 2.0: xrun, 3.0: xrun}
    assert np.array_equal(rig.walk(), without)
    assert rig.box.cable.xruns == 2 and rig.box.playback.xruns == 0


class Refusing:
    """A device that does to us what no interface promises."""

    def __init__(self, door: Callable[[str, Direction, StreamParams], Pcm]) -> None:
        self.door = door
        self.opened = threading.Event()
        self.carry_on = threading.Event()
        self.burst = False

    def __call__(self, device: str, direction: Direction, terms: StreamParams) -> Pcm:
        if device == "Cable":
            self.opened.set()
            if self.burst:
                raise RuntimeError("a bug in a driver's wrapper")
            self.carry_on.wait(PATIENCE_S)
        return self.door(device, direction, terms)


@pytest.mark.parametrize("burst", [False, True])
def test_a_cable_that_hangs_or_bursts_while_it_is_opened(without: Floats, burst: bool) -> None:
    rig = Rig()
    door = Refusing(rig.box._opener)
    door.burst = burst
    rig.box._opener = door
    rig.box.cable = rig.box._new_cable(SETTINGS)
    rig.at[0.1] = lambda: wait_for(door.opened.is_set, "opening")
    rig.at[7.5] = door.carry_on.set
    assert np.array_equal(rig.walk(), without)
    if burst:
        assert sum("a bug in a driver's wrapper" in text for text in rig.cable_said()) == 1


def test_a_cable_that_holds_up_the_box_is_left_alone(without: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()

    def slow() -> None:
        rig.until(CableState.PLAYING)()
        monkeypatch.setattr(cable_module, "SLOW_US", -1.0)  # every write counts as slow from now on

    rig.at |= {0.1: slow, 4.0: lambda: time.sleep(0.1)}
    assert np.array_equal(rig.walk(), without)
    assert sum("delays the audio path" in text for text in rig.cable_said()) == 1
    assert rig.box.cable.failures == 1


@pytest.mark.slow
@pytest.mark.parametrize("ppm", [-400.0, 400.0])
def test_two_minutes_on_a_third_clock(ppm: float) -> None:
    """Microphone, jack and cable each on a crystal of its own: two controllers, neither led astray by the other."""
    clock = VirtualClock()
    mic = FakeCard("Mic", clock, capture=NATIVE)
    cards = (
        FakeCard("Headphones", clock, playback=JACK_CAPABILITIES, clock_error_ppm=-ppm / 2, position_step_ms=10),
        FakeCard("Cable", clock, playback=NATIVE, clock_error_ppm=ppm),
    )
    door = opener(mic, *cards)
    capture = Capture("Mic", open_pcm=door)
    jack, output = (Playback(card.id, open_pcm=door) for card in cards)
    cable = Cable(output, lambda kind, text: None)
    capture.open()
    jack.open()
    hop = np.zeros(80, np.float32)
    capture.read(hop)
    cable.open(capture.clock)
    wait_for(lambda: bool(cable._opened))
    queue = np.zeros(120 * 200)
    for number in range(len(queue)):
        capture.read(hop)
        jack.write(hop)
        cable.write(hop)
        queue[number] = cable.queue_ms
    cable.end()
    assert cable.state is CableState.WAITING
    assert np.abs(queue[90 * 200 :] - output.target_ms).max() < 1
    assert output.drift_ppm == pytest.approx(ppm, abs=40) and jack.drift_ppm == pytest.approx(-ppm / 2, abs=60)
    assert cable.xruns == cable.dropped == jack.xruns == jack.dropped == 0


def test_mute_and_bypass_leave_the_box_on_the_cable_too(without: Floats) -> None:
    settings = replace(SETTINGS, gate=GateConfig(on=False), feedforward=FeedforwardConfig(mains="off"))
    rig = Rig(settings)

    def mute() -> None:
        rig.box.muted = True

    rig.at |= {0.1: rig.until(CableState.PLAYING), 3.0: mute}
    rig.walk()
    assert np.abs(rig.cable.played[48_000:96_000]).max() > 0.1
    assert np.abs(rig.cable.played[4 * 48_000 :]).max() == 0


def test_the_cable_instead_of_the_jack() -> None:
    rig = Rig(replace(SETTINGS, playback=PlaybackConfig(device="off")), seconds=3)
    rig.walk()
    assert rig.box.cable.state is CableState.OFF and rig.box.playback.device == "Cable"
    assert len(rig.jack.played) == 0 and np.abs(rig.cable.played[48_000:]).max() > 0.1
    assert not rig.cable_said() and any("output Cable" in text for _, text in rig.said)


def test_new_settings_bring_a_cable_and_take_it_away() -> None:
    rig = Rig(replace(SETTINGS, cable=CableConfig()), seconds=6)
    rig.at |= {
        1.0: lambda: rig.box.reload(SETTINGS),
        2.0: rig.until(CableState.PLAYING),
        4.0: lambda: rig.box.reload(replace(SETTINGS, cable=CableConfig(device="Cable", queue_ms=30))),
        5.0: rig.until(CableState.PLAYING),
        5.5: lambda: rig.box.reload(replace(SETTINGS, cable=CableConfig())),
    }
    rig.walk()
    assert sum("asked" in text for text in rig.cable_said()) == 2 and rig.box.cable.state is CableState.OFF
    assert not [text for text in rig.cable_said() if "no cable" in text]


def test_a_lost_microphone_lets_the_cable_go_and_brings_it_back() -> None:
    rig = Rig(seconds=5)

    def pull() -> None:
        rig.mic.gone = True
        threading.Timer(0.1, put_back).start()

    def put_back() -> None:
        rig.mic.gone = False

    rig.at |= {0.1: rig.until(CableState.PLAYING), 1.0: pull, 1.5: rig.until(CableState.PLAYING)}
    rig.walk()
    assert sum("asked" in text for text in rig.cable_said()) == 2 and rig.box.cable.failures == 0


def test_nothing_of_the_cables_is_left_running() -> None:
    rig = Rig(seconds=1)
    rig.at[0.1] = rig.until(CableState.PLAYING)
    rig.walk()
    wait_for(lambda: not any(thread.name == "cable" for thread in threading.enumerate()), "the thread's end")


def test_a_thousand_openings_and_closings_never_share_a_device() -> None:
    """The mailboxes under a hail of orders: only one thread at a time has the device, and at the end it is closed."""
    clock = VirtualClock()
    card = FakeCard("Cable", clock, playback=NATIVE)
    inside: list[int] = []
    shared: list[str] = []

    class Watched(Playback):
        """Notes when two threads are in it at once."""

        def write(self, hop: Floats) -> object:  # type: ignore[override]
            return self._alone(lambda: super(Watched, self).write(hop))

        def open(self) -> None:
            self._alone(lambda: super(Watched, self).open())

        def close(self) -> None:
            self._alone(lambda: super(Watched, self).close())

        def _alone(self, work: Callable[[], object]) -> object:
            me = threading.get_ident()
            if any(other != me for other in inside):
                shared.append("two threads")
            inside.append(me)
            try:
                return work()
            finally:
                inside.remove(me)

    cable = Cable(Watched("Cable", open_pcm=card.open_pcm), lambda kind, text: None)
    hop = np.zeros(80, np.float32)
    for number in orders(1000):
        cable.open("Mic")
        for _ in range(number % 4):
            cable.write(hop)
        if number % 5 == 0:
            time.sleep(0.0005)
            cable.write(hop)
        cable.close()
    cable.end()
    wait_for(lambda: not (cable._thread and cable._thread.is_alive()), "the end")
    assert not shared and card.opened > 1
    assert cable.output is not None and cable.output._pcm is None


def orders(count: int) -> Iterator[int]:
    yield from np.random.default_rng(3).integers(0, 100, count).tolist()


# Settings.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[playback]\ndevice = "off"', "both off"),
        ('[cable]\ndevice = "auto"', "cannot be auto"),
        ('[playback]\ndevice = "A"\n[cable]\ndevice = "A"', "both 'A'"),
        ('[cable]\ndevice = "Loopback"\nusb = true', "cable.usb"),
        ("[cable]\nusb = 1", "true or false"),
        ("[cable]\nusb_orders = true", "cable.usb_orders is true and cable.usb false"),
    ],
)
def test_settings_that_cannot_work_are_refused(text: str, words: str) -> None:
    with pytest.raises(BadConfig, match=words) as refusal:
        config_file.parse(text)
    assert "\n" not in str(refusal.value)


def test_what_the_settings_mean() -> None:
    assert (Config().output, Config().second_output) == ("auto", "")
    both = config_file.parse('[playback]\ndevice = "Headphones"\n[cable]\ndevice = "Loopback"')
    assert (both.output, both.second_output) == ("Headphones", "Loopback")
    usb = config_file.parse('[playback]\ndevice = "off"\n[cable]\nusb = true')
    assert (usb.output, usb.second_output) == (USB_CARD, "")

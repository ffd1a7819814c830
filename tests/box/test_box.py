"""The loop on shipped fakes: every failure recovers by itself, is counted, and is said once."""

import errno
import time
from dataclasses import replace

import numpy as np
import pytest
from boxes import CONFIG, Bench
from machine import PATIENCE_S

from edge import box as box_module
from edge.box import Box, State
from edge.config import ReferenceConfig, SuppressConfig
from edge.devices.fake import (
    I2S_CAPABILITIES,
    noise,
    one_live_channel,
)
from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import Floats, Spectra
from edge.suppress.mask import MaskEngine

LATE_US = box_module.LATE_US


@pytest.fixture(autouse=True)
def quick_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_module, "RETRY_DEVICE_S", 0.1)
    monkeypatch.setattr(box_module, "LATE_US", 1e9)  # or a busy machine makes the engine step down


@pytest.fixture
def may_be_late(quick_retry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The box judges its time per hop as it does outside tests."""
    monkeypatch.setattr(box_module, "LATE_US", LATE_US)


def test_it_starts_plays_and_ends() -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)
        bench.hops(100)
        assert bench.loudness() > 0.001
        said = " ".join(bench.hear())
        assert "asked" in said and "got" in said
    assert bench.box.state is State.WAITING


def test_a_missing_microphone_is_waited_for_and_said_once() -> None:
    bench = Bench()
    bench.mic.gone = True
    with bench:
        bench.until_said("Mic")
        time.sleep(0.6)
        assert bench.box.state is State.WAITING
        assert sum("Mic" in text for text in bench.hear()) == 1
        bench.mic.gone = False
        bench.until(State.RUNNING)


def test_a_busy_card_names_its_holder_and_comes_back() -> None:
    bench = Bench()
    bench.jack.holder = "pulseaudio (process 12)"
    with bench:
        bench.until_said("pulseaudio (process 12)")
        bench.jack.holder = ""
        bench.until(State.RUNNING)


@pytest.mark.parametrize("which", ["mic", "jack"])
def test_a_card_pulled_out_and_put_back(which: str) -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)
        bench.hops()
        card = getattr(bench, which)
        card.gone = True
        bench.until(State.WAITING)
        time.sleep(0.3)
        card.gone = False
        bench.until(State.RUNNING)
        bench.hops()
        assert sum("is gone" in text for text in bench.hear()) == 1


def test_a_stalled_microphone_is_noticed_and_opened_again() -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)
        bench.hops()
        opened = bench.mic.opened
        bench.mic.stalled = True
        bench.until(State.WAITING)
        bench.mic.stalled = False
        bench.until(State.RUNNING)
        assert bench.mic.opened > opened
        assert any("delivers nothing" in text for text in bench.hear())


@pytest.mark.parametrize("which", ["mic", "jack"])
def test_an_xrun_is_counted_and_the_sound_goes_on(which: str) -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)
        bench.hops()
        card = getattr(bench, which)
        card.xruns_to_come = 1
        bench.hops(60)
        assert bench.box.state is State.RUNNING
        part = bench.box.capture if which == "mic" else bench.box.playback
        assert part.xruns >= 1
        assert bench.loudness() > 0.001


def test_a_short_read_loses_nothing() -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)
        bench.mic.short_frames = 7
        bench.hops()
        assert bench.box.capture.shorts == 1 and bench.box.capture.xruns == 0


def test_a_microphone_that_never_speaks_is_said_once_and_never_called_running() -> None:
    bench = Bench()
    bench.mic.stalled = True
    with bench:
        for _ in range(100):
            assert bench.box.state is State.WAITING
            time.sleep(0.01)
        bench.until_said("delivers nothing")
        time.sleep(0.5)
        assert bench.box.state is State.WAITING
        assert sum("delivers nothing" in text for text in bench.hear()) == 1
        bench.box.reload(replace(CONFIG, suppress=SuppressConfig(engine="off")))
        bench.mic.stalled = False
        bench.until(State.RUNNING)
        bench.hops(60)
        assert bench.box.config.suppress.engine == "off"


@pytest.mark.parametrize("plays_before", [True, False])
@pytest.mark.parametrize(
    ("which", "call", "answer", "says"),
    [
        ("mic", "read", -errno.EPIPE, "the microphone delivers nothing"),
        ("mic", "read", -errno.EAGAIN, "the microphone delivers nothing"),
        ("jack", "write", -errno.EPIPE, "the output"),
        ("jack", "write", 0, "the output takes no sound"),
    ],
)
def test_a_card_that_answers_the_same_error_for_ever_is_waited_for(
    which: str, call: str, answer: int, says: str, plays_before: bool
) -> None:
    """The box waits with its retry delay, says so, and feeds the watchdog: it neither spins nor is called running."""
    bench = Bench(replace(CONFIG, suppress=SuppressConfig(engine="off")))
    card = getattr(bench, which)
    if not plays_before:
        card.answers[call] = answer
    with bench:
        if plays_before:
            bench.until(State.RUNNING)
            card.answers[call] = answer
            bench.until(State.WAITING)
        bench.until_said(says)
        hops, progress = bench.box.health.totals.hops, bench.box.progress
        over = time.monotonic() + PATIENCE_S
        while bench.box.progress < progress + 4:  # attempts at the device: the watchdog lives on them
            assert bench.box.state is State.WAITING and time.monotonic() < over
            time.sleep(0.01)
        assert bench.box.health.totals.hops - hops < 200  # it was thousands a second
        assert sum(says in text for text in bench.hear()) <= 2
        card.answers.clear()
        bench.until(State.RUNNING)


def test_a_card_that_fails_again_and_again_is_tried_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It plays a few hops and breaks, for ever: the journal gets fewer lines, the watchdog is fed; it recovers."""
    monkeypatch.setattr(box_module, "RETRY_DEVICE_S", 0.2)
    monkeypatch.setattr(box_module, "QUICK_LOSSES", 1)
    with Bench(replace(CONFIG, suppress=SuppressConfig(engine="off"))) as bench:
        breaks, over = 0, time.monotonic() + PATIENCE_S
        while bench.box._early_losses < 4:
            assert time.monotonic() < over
            if bench.box.state is State.RUNNING:
                bench.mic.answers["read"] = -errno.EPIPE
                bench.until(State.WAITING)
                bench.mic.answers.clear()
                breaks += 1
            time.sleep(0.005)
        progress, lines = bench.box.progress, len(bench.hear())
        time.sleep(0.5)  # of a pause of eight times 0.2 s
        assert bench.box.state is State.WAITING and bench.box.progress > progress
        assert len(bench.hear()) == lines
        bench.until(State.RUNNING)
        assert breaks >= 4


def test_a_bug_outside_the_chain_is_said_and_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)

        def burst(hop: Floats) -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(bench.box.playback, "write", burst)
        bench.until(State.WAITING)
        monkeypatch.undo()
        bench.until(State.RUNNING)
        assert sum("a bug" in text for text in bench.hear()) == 1


def test_a_muted_box_stays_silent_when_its_card_comes_back() -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)
        bench.box.muted = True
        bench.until(State.MUTED)
        bench.hops(20)
        bench.jack.gone = True
        bench.until(State.WAITING)
        bench.jack.recorded.clear()
        bench.jack.gone = False
        bench.until(State.MUTED)
        bench.hops(60)
        assert np.abs(bench.jack.played).max() == 0


class Broken(Estimator):
    """An estimator that fails, or dawdles, while it is ordered to."""

    name = "broken"

    def __init__(self) -> None:
        self.fails = False
        self.dawdles_s = 0.0

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        if self.fails:
            raise RuntimeError("on purpose\nwith a second line")
        if self.dawdles_s:
            time.sleep(self.dawdles_s)
        gains.fill(1)
        return 0.0

    def reset(self) -> None:
        pass


def with_broken(bench: Bench) -> Broken:
    broken = Broken()
    engine = bench.box.chain.engine
    assert isinstance(engine, MaskEngine)
    engine._levels.insert(0, broken)
    return broken


def test_a_failing_engine_degrades_and_is_tried_again() -> None:
    bench = Bench(replace(CONFIG, suppress=SuppressConfig(engine="dsp")))
    broken = with_broken(bench)
    with bench:
        bench.until(State.RUNNING)
        broken.fails = True
        bench.until(State.DEGRADED)
        assert bench.box.chain.working == "dsp"
        assert sum("on purpose" in text for text in bench.hear()) == 1
        assert not any("\n" in text for text in bench.hear())
        broken.fails = False
        bench.until(State.RUNNING)
        assert bench.box.chain.working == "broken"


@pytest.mark.usefixtures("may_be_late")
def test_an_engine_that_is_too_slow_degrades_and_the_sound_goes_on() -> None:
    bench = Bench(replace(CONFIG, suppress=SuppressConfig(engine="dsp")))
    broken = with_broken(bench)
    with bench:
        bench.until(State.RUNNING)
        broken.dawdles_s = 0.008
        bench.until(State.DEGRADED)
        assert any("too slow" in text for text in bench.hear())
        bench.hops(60)
        assert bench.loudness() > 0.001
        assert bench.box.health.totals.late > 0


@pytest.mark.usefixtures("may_be_late")
def test_work_for_several_hops_may_take_longer_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(burst_hops: int, *took_us: float) -> int:
        box = Box(replace(CONFIG, suppress=SuppressConfig(engine="off")))
        monkeypatch.setattr(type(box.chain.engine), "burst_hops", burst_hops)
        return sum(box._is_late(us) for us in 20 * took_us)

    assert late(1, 6000, 100) == 20 and late(1, 4900, 4900) == 0
    assert late(2, 6000, 100) == 0 and late(2, 9000, 500) == 0
    assert late(2, 11_000, 100) == 20, "too much for one hop, however short the next"
    assert late(2, 7000, 4000) >= 15, "what never catches up is late"


@pytest.mark.usefixtures("may_be_late")
def test_a_short_overload_of_everything_never_ends_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)
        limit = bench.box.chain.limiter.process

        def dawdle(hop: Floats) -> None:
            time.sleep(0.006)
            limit(hop)

        monkeypatch.setattr(bench.box.chain.limiter, "process", dawdle)
        over = time.monotonic() + PATIENCE_S
        while bench.box.chain.working != "bypass":
            assert time.monotonic() < over
            time.sleep(0.01)
        bench.hops(100)
        assert bench.box.state is not State.FAULT
        monkeypatch.undo()
        bench.until(State.RUNNING)


def test_a_fault_while_muted_lets_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)
        bench.box.muted = True
        bench.hops(40)
        bench.jack.recorded.clear()
        broken = iter([ValueError("a bug")])
        decide = bench.box.chain.voice.decide

        def burst(probability: float) -> bool:
            for error in broken:
                raise error
            return decide(probability)

        monkeypatch.setattr(bench.box.chain.voice, "decide", burst)
        bench.hops(60)
        assert any("a bug" in text for text in bench.hear())
        assert not bench.jack.played.any()


def test_a_fault_of_our_own_ends_in_silence_not_in_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)

        def burst(hop: Floats) -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(bench.box.chain.limiter, "process", burst)
        bench.until(State.FAULT)
        bench.hops()
        assert bench.loudness(0.02) == 0
        monkeypatch.undo()
        bench.until(State.RUNNING)


def test_bypass_and_mute_show_as_states() -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)
        bench.box.bypass = True
        bench.until(State.BYPASS)
        bench.box.muted = True
        bench.until(State.MUTED)
        bench.hops(80)
        assert bench.loudness(0.05) == 0
        bench.box.muted = bench.box.bypass = False
        bench.until(State.RUNNING)
        bench.hops(80)
        assert bench.loudness() > 0.001


def test_new_settings_are_taken_over_without_a_click() -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)
        bench.hops(60)
        opened = bench.mic.opened
        bench.box.reload(replace(CONFIG, suppress=SuppressConfig(engine="off")))
        bench.hops(60)
        assert bench.box.config.suppress.engine == "off"
        assert bench.box.chain.working == "high-pass only"
        assert bench.mic.opened == opened
        assert bench.loudness() > 0.001


def test_new_devices_are_opened() -> None:
    with Bench() as bench:
        bench.until(State.RUNNING)
        opened = bench.mic.opened
        bench.box.reload(replace(CONFIG, capture=replace(CONFIG.capture, gain_db=6)))
        bench.hops(60)
        bench.until(State.RUNNING)
        assert bench.mic.opened > opened
        assert bench.box.config.capture.gain_db == 6


def test_a_reload_while_waiting_finds_the_right_card() -> None:
    bench = Bench(replace(CONFIG, capture=replace(CONFIG.capture, device="Nowhere")))
    with bench:
        time.sleep(0.3)
        bench.box.reload(CONFIG)
        bench.until(State.RUNNING)


def test_a_dead_reference_is_said_once_and_its_return_too() -> None:
    bench = Bench(replace(CONFIG, reference=ReferenceConfig(channel=2)))
    bench.mic.capabilities["capture"] = I2S_CAPABILITIES
    bench.mic.source = one_live_channel(0, 2, noise(0.1))
    with bench:
        bench.until_said("reference microphone is dead")
        bench.hops(100)
        assert sum("reference" in text and "asked" not in text for text in bench.hear()) == 1
        rng = np.random.default_rng(3)
        bench.mic.source = lambda frames, rate_hz: 0.1 * rng.standard_normal((len(frames), 2))
        bench.until_said("reference microphone is used again")
        assert bench.box.chain.reference is not None and bench.box.chain.reference.trouble == ""
        assert "channel 1 of 2, reference 2" in bench.box.capture.granted

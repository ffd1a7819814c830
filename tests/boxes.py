"""Whole boxes on the shipped fake cards: in real time, in virtual time, and in a headphone cup."""

import threading
import time
from collections.abc import Callable

import numpy as np
from machine import PATIENCE_S, wait_for
from numpy.typing import NDArray

from edge.box import Box, State
from edge.config import BoxConfig, CableConfig, CaptureConfig, Config, PlaybackConfig, SuppressConfig
from edge.devices.cable import CableState
from edge.devices.fake import (
    JACK_CAPABILITIES,
    USB_CAPABILITIES,
    FakeCard,
    FakePcm,
    Source,
    VirtualClock,
    WallClock,
    noise,
    opener,
)
from edge.devices.pcm import Capabilities, Direction, OpenPcm, StreamParams
from edge.dsp.spectrum import Floats

NATIVE = Capabilities(("S16_LE",), (16_000,), False, (1,))
USB_GADGET = Capabilities(("S16_LE",), (48_000,), False, (1,))
SECONDS = 8.0
"""How long the jack is compared: long enough for a cable that comes, goes and comes back."""
CONFIG = Config(
    capture=CaptureConfig(device="Mic", mute_ms=0, fade_ms=0, periods=60),
    playback=PlaybackConfig(device="Headphones", volume_db=0),
    box=BoxConfig(priority=0, retry_s=1),
)


SETTINGS = Config(
    capture=CaptureConfig(device="Mic", mute_ms=0, fade_ms=0),
    suppress=SuppressConfig(engine="off"),
    playback=PlaybackConfig(device="Headphones", volume_db=0),
    cable=CableConfig(device="Cable"),
    box=BoxConfig(priority=0),
)


class Bench:
    """A box on a fake microphone and a fake jack, walking in a thread of its own in real time."""

    def __init__(self, config: Config = CONFIG) -> None:
        clock = WallClock()
        self.mic = FakeCard("Mic", clock, capture=USB_CAPABILITIES, source=noise(0.1))
        self.jack = FakeCard("Headphones", clock, playback=JACK_CAPABILITIES, record=True)
        self.box = Box(config, opener(self.mic, self.jack))
        self.said: list[str] = []
        self.thread = threading.Thread(target=self.box.run, daemon=True)

    def __enter__(self) -> "Bench":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.box.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def until(self, state: State) -> None:
        over = time.monotonic() + PATIENCE_S
        while self.box.state is not state:
            assert time.monotonic() < over, f"still {self.box.state}, not {state}; said {self.hear()}"
            time.sleep(0.01)

    def until_said(self, text: str) -> None:
        over = time.monotonic() + PATIENCE_S
        while not any(text in said for said in self.hear()):
            assert time.monotonic() < over, f"never said {text!r}; said {self.said}"
            time.sleep(0.01)

    def hops(self, count: int = 40) -> None:
        """Let some hops pass."""
        wanted = self.box.health.totals.hops + count
        over = time.monotonic() + PATIENCE_S
        while self.box.health.totals.hops < wanted:
            assert time.monotonic() < over, f"no hops; said {self.hear()}"
            time.sleep(0.005)

    def hear(self) -> list[str]:
        self.said += [text for _, text in self.box.health.news()]
        return self.said

    def loudness(self, seconds: float = 0.1) -> float:
        played = self.jack.played
        return float(np.abs(played[-round(seconds * 48_000) :]).max())


class Rig:
    """A box walking in virtual time: the microphone's reads move the clock, so a run repeats sample for sample."""

    def __init__(self, settings: Config = SETTINGS, *, ppm: float = 0.0, seconds: float = SECONDS) -> None:
        clock = VirtualClock()
        self.at: dict[float, Callable[[], None]] = {}
        """Second of the microphone's -> what then happens, in the audio thread."""
        self.mic = FakeCard("Mic", clock, capture=NATIVE, source=self._source(noise(0.1), seconds))
        self.jack = FakeCard("Headphones", clock, playback=JACK_CAPABILITIES, clock_error_ppm=120, record=True)
        self.cable = FakeCard("Cable", clock, playback=USB_GADGET, clock_error_ppm=ppm, record=True)
        self.box = Box(settings, opener(self.mic, self.jack, self.cable))
        self.said: list[tuple[str, str]] = []
        self.errors: list[BaseException] = []

    def _source(self, heard: Source, seconds: float) -> Source:
        def speak(frames: NDArray[np.int64], rate_hz: int) -> NDArray[np.floating]:
            if len(frames):
                for moment in [known for known in self.at if known * rate_hz <= frames[-1]]:
                    try:
                        self.at.pop(moment)()
                    except BaseException as error:  # the box survives whatever happens in here
                        self.errors.append(error)
                        self.box.stop()
                if frames[-1] >= seconds * rate_hz:
                    self.box.stop()
            return heard(frames, rate_hz)

        return speak

    def until(self, *states: CableState) -> Callable[[], None]:
        """Let the cable's own thread come along; virtual time stands still meanwhile."""

        def wait() -> None:
            wait_for(lambda: self.box.cable.state in states or bool(self.box.cable._opened), f"cable {states}")

        return wait

    def walk(self) -> Floats:
        """To the end; what the jack played."""
        self.box.run()
        self.said += self.box.health.news()
        for error in self.errors:
            raise error
        assert not self.at, f"the run ended before {sorted(self.at)} s"
        return self.jack.played

    def cable_said(self) -> list[str]:
        return [text for kind, text in self.said if kind == "cable"]


class Cup:
    """A headphone cup: the microphone hears what was played, ``delay_ms`` later and ``gain`` times as loud."""

    def __init__(self, gain: float, delay_ms: float = 30.0, noise: float = 1e-4) -> None:
        clock = VirtualClock()
        self.gain, self.delay_s = gain, delay_ms / 1000
        self.rng, self.noise = np.random.default_rng(1), noise
        self.ear = FakeCard("Ear", clock, capture=USB_CAPABILITIES, source=self.hear)
        self.cup = FakeCard("Cup", clock, playback=USB_CAPABILITIES, record=True)
        self.played = np.zeros(20 * 48_000, np.float32)
        self.blocks = self.frames = 0
        self.pcms: dict[Direction, FakePcm] = {}
        self.break_at_s = 1e9

    def door(self) -> OpenPcm:
        plain = opener(self.ear, self.cup)

        def open_by_name(device: str, direction: Direction, terms: StreamParams) -> FakePcm:
            pcm = plain(device, direction, terms)
            assert isinstance(pcm, FakePcm)
            self.pcms[direction] = pcm
            return pcm

        return open_by_name

    def hear(self, frames: NDArray[np.int64], rate_hz: int) -> NDArray[np.floating]:
        for block in self.cup.recorded[self.blocks :]:
            self.played[self.frames : self.frames + len(block)] = block
            self.frames += len(block)
        self.blocks = len(self.cup.recorded)
        noise = self.noise * self.rng.standard_normal(len(frames))
        if len(frames) and frames[-1] > self.break_at_s * rate_hz:
            self.break_at_s, self.cup.xruns_to_come = 1e9, 1
        began_s = self.pcms["playback"]._began_s if "playback" in self.pcms else -1.0
        if began_s < 0:
            return noise
        shift = round((began_s - self.pcms["capture"]._began_s + self.delay_s) * rate_hz)
        at = frames - shift
        return noise + np.where((at >= 0) & (at < self.frames), self.gain * self.played[at.clip(0)], 0)

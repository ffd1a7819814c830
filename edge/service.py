"""The process around the box: it claims the cards, starts the audio thread, obeys signals and tells what happens.

The main thread does all of this, a few times a second; the audio thread never waits for it.
"""

import contextlib
import gc
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from edge import UserError, runtime
from edge.box import Box, State
from edge.cards import clock_of
from edge.config import Config
from edge.health import summary
from edge.realtime import settle_process

LOOK_S = 0.1
LINES_KEPT = 200
STATUS_S = 1.0
STATISTICS_S = 60.0
JOIN_S = 0.7
"""How long the audio thread may take to end; SIGTERM is answered within a second even if a device hangs."""


class Service:
    """One running box and its reporting."""

    def __init__(self, load: Callable[[], Config]) -> None:
        """``load`` reads the settings, at the start and at every SIGHUP. Raises UserError."""
        self._stopping = threading.Event()
        self._reload = False
        self._listen()
        self._load = load
        config = load()
        self._claim = runtime.Claim(_devices(config))
        self._status = runtime.StatusFile()
        self._status_failed = False
        self.box = Box(config)
        self._lines = _Lines()
        self._state: State | None = None
        self._told = self.box.health.totals.copy()
        self._xruns = (0, 0)

    def run(self, seconds: float | None = None) -> int:
        """Run until a signal, or for so many seconds; returns the exit status."""
        for refusal in settle_process():
            self._say(refusal)
        audio = threading.Thread(target=self.box.walk, name="audio", daemon=True)
        began = time.monotonic()
        audio.start()
        next_status = next_statistics = began
        next_statistics += STATISTICS_S
        while audio.is_alive() and not self._stopping.wait(LOOK_S):
            now = time.monotonic()
            if seconds is not None and now - began >= seconds:
                break
            if self._reload:
                self._reload = False
                self._load_again()
            self._tell()
            if now >= next_status:
                next_status = now + STATUS_S
                self._write_status()
            if now >= next_statistics:
                next_statistics = now + STATISTICS_S
                self._tell_statistics()
                gc.collect()
        died = not audio.is_alive()
        self.box.stop()
        audio.join(JOIN_S)
        self._tell()
        self._tell_statistics(of_all=True)
        if audio.is_alive():
            self._say("a sound device hangs; leaving without closing it")
        with contextlib.suppress(OSError):
            self._status.remove()
        self._claim.release()
        self._lines.finish()
        if audio.is_alive():
            os._exit(1)
        return 1 if died else 0

    def status(self) -> dict[str, Any]:
        """Everything `quietbox status` shows."""
        box = self.box
        return {
            "pid": os.getpid(),
            "state": box.state.value,
            "engine": box.chain.working,
            "microphone": box.capture.granted if box.playing else box.config.capture.device,
            "output": box.playback.granted if box.playing else box.config.playback.device,
            "realtime": "SCHED_FIFO" if box.hurried else "no",
            "speaking": bool(box.chain.voice.speaking),
            **summary(box.health.totals),
            "hop_max_us": round(box.health.longest_us),
            "xruns_in": box.capture.xruns,
            "xruns_out": box.playback.xruns,
            "dropped_hops": box.playback.dropped,
            "clips": box.capture.clips,
            "queue_ms": round(box.playback.queue_ms, 1),
            "drift_ppm": round(box.playback.drift_ppm, 1),
            "mains_hz": box.chain.feedforward.mains_hz,
            "latency_ms": round(latency_ms(box), 1),
        }

    def _listen(self) -> None:
        def toggle(*_: object) -> None:
            if box := getattr(self, "box", None):
                box.bypass = not box.bypass

        def mute(*_: object) -> None:
            if box := getattr(self, "box", None):
                box.muted = not box.muted

        def reload(*_: object) -> None:
            self._reload = True

        def stop(*_: object) -> None:
            self._stopping.set()

        for number, order in (
            (signal.SIGTERM, stop),
            (signal.SIGINT, stop),
            (signal.SIGUSR1, toggle),
            (signal.SIGUSR2, mute),
            (signal.SIGHUP, reload),
        ):
            signal.signal(number, order)

    def _load_again(self) -> None:
        try:
            config = self._load()
            self._claim.change(_devices(config))
            self.box.reload(config)
            self._say("settings read again")
        except UserError as error:
            self._say(f"{error}; the settings in use stay")

    def _write_status(self) -> None:
        try:
            self._status.write(self.status())
            self._status_failed = False
        except OSError as error:
            if not self._status_failed:
                self._say(f"the status cannot be written ({error.strerror}); the sound goes on")
            self._status_failed = True

    def _say(self, sentence: str) -> None:
        self._lines.say(sentence)

    def _tell(self) -> None:
        """State changes, events and new xruns, one line each."""
        box = self.box
        for _kind, text in box.health.news():
            self._say(text)
        state = box.state
        if state is not self._state:
            self._state = state
            engine = f" ({box.chain.working})" if state in (State.RUNNING, State.DEGRADED) else ""
            self._say(f"state: {state.value}{engine}")
        xruns = (box.capture.xruns, box.playback.xruns)
        if self._xruns == (0, 0) and xruns != (0, 0):
            self._say("first xrun: the system was late for the sound card; further ones are counted once a minute")
        self._xruns = xruns

    def _tell_statistics(self, of_all: bool = False) -> None:
        now = self.box.health.totals.copy()
        figures = summary(now if of_all else now.since(self._told))
        self._told = now
        box = self.box
        self._say(
            f"{'in all' if of_all else 'last minute'}: {figures['seconds']:g} s, in {figures['level_in_dbfs']:g} dBFS, "
            f"out {figures['level_out_dbfs']:g} dBFS, noise removed {figures['noise_removed_db']:g} dB, "
            f"speech {figures['speech_share']:.0%}, "
            f"hop p50 {figures['hop_p50_us']:g} p99 {figures['hop_p99_us']:g} us, "
            f"late {figures['late_hops']}, xruns {box.capture.xruns} in {box.playback.xruns} out, "
            f"dropped {box.playback.dropped}, "
            f"queue {box.playback.queue_ms:.1f} ms, drift {box.playback.drift_ppm:+.0f} ppm"
        )


def latency_ms(box: Box) -> float:
    """Microphone to jack by the budget: capture, chain, playback."""
    return box.capture.latency_ms + box.chain.latency_ms + box.playback.latency_ms


def _devices(config: Config) -> list[str]:
    """What a box with these settings needs for itself."""
    capture, playback = config.capture.device, config.playback.device
    return [f"capture:{clock_of(capture, 'capture')}", f"playback:{clock_of(playback, 'playback')}"]


class _Lines(threading.Thread):
    """Lines for the journal or the terminal, written by a thread of their own: a reader that is slow or gone must not
    stop the box. What does not fit any more is lost."""

    def __init__(self) -> None:
        super().__init__(name="lines", daemon=True)
        self._waiting: queue.Queue[str | None] = queue.Queue(LINES_KEPT)
        self.start()

    def say(self, sentence: str | None) -> None:
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(sentence)

    def run(self) -> None:
        while (sentence := self._waiting.get()) is not None:
            with contextlib.suppress(OSError, ValueError):
                print(sentence, file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Write what is left, if anybody reads it."""
        self.say(None)
        self.join(0.2)

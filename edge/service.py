"""The process around the box: it claims the cards, starts the audio thread, obeys signals and tells what happens.

The main thread does all of this, a few times a second; the audio thread never waits for it.
"""

import contextlib
import gc
import os
import resource
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from edge import HOP_MS, UserError, runtime
from edge.box import Box, State
from edge.chain import Chain
from edge.config import Config
from edge.devices.alsa import open_pcm
from edge.devices.cable import Cable, CableState
from edge.devices.cards import clock_of
from edge.devices.pcm import OpenPcm
from edge.health import Counters, summary
from edge.journal import Journal, notify
from edge.realtime import HOUSEKEEPING_PRIORITY, lock_memory_and_freeze_gc, request_realtime_priority
from hw.board import boards
from hw.board.led import LedPattern
from hw.board.panel import Panel

LOOK_S = 0.1
STATUS_S = 1.0
"""How often the status is written and the watchdog fed, if the sound moved."""
STATUS_LINE_S = 5.0
"""How often systemd gets the status line; besides, at every change of state."""
STATISTICS_S = 60.0
JOIN_S = 0.7
"""How long the audio thread may take to end; SIGTERM is answered within a second even if a device hangs."""

LOOKS = {
    State.WAITING: LedPattern.SLOW,
    State.BYPASS: LedPattern.DIM,
    State.MUTED: LedPattern.OFF,
    State.FAULT: LedPattern.FAST,
}
"""What the LED shows; in the other states it follows the voice."""


class Service:
    """One running box and its reporting."""

    def __init__(self, load: Callable[[], Config], journal: Journal | None = None, opener: OpenPcm = open_pcm) -> None:
        """``load`` reads the settings, at the start and at every SIGHUP; tests hand in ``journal`` and the opener of
        the shipped fake. Raises UserError."""
        self._stopping = threading.Event()
        self._reload = False
        self._reloader: threading.Thread | None = None
        self._orders: deque[tuple[str, str]] = deque(maxlen=64)
        self._listen()
        self._load = load
        config = load()
        self._claim = runtime.Claim(_devices(config))
        self._status = runtime.StatusFile()
        self._status_failed = False
        self.box = Box(config, opener)
        self._journal = journal or Journal()
        self.panel = self._new_panel(config)
        self._state: State | None = None
        self._fed = self.box.progress
        self._xrun_seen = False
        self._begin: _Mark = _Mark.of(self.box)
        self._last = self._begin
        self._throttling = ""
        self._troubles: set[str] = set()
        self._troubles_lately: set[str] = set()

    def run(self, seconds: float | None = None) -> int:
        """Run until a signal, or for so many seconds; returns the exit status."""
        for refusal in lock_memory_and_freeze_gc():
            self._journal.say(refusal, "realtime")
        request_realtime_priority(
            min(HOUSEKEEPING_PRIORITY, self.box.config.box.priority)
        )  # a refusal is said by the audio thread
        audio = threading.Thread(target=self.box.walk, name="audio", daemon=True)
        began = time.monotonic()
        audio.start()
        self._journal.say("quietbox has started", "start", pid=os.getpid())
        notify("READY=1", self._status_line())
        self.panel.start()
        next_status = next_line = began
        next_statistics = began + STATISTICS_S
        while audio.is_alive() and not self._stopping.wait(LOOK_S):
            now = time.monotonic()
            if seconds is not None and now - began >= seconds:
                break
            if self._reload and not self._reloading:
                self._reload = False
                self._reloader = threading.Thread(target=self._load_again, name="reload", daemon=True)
                self._reloader.start()
            changed = self._tell()
            if changed or now >= next_status:  # who waits for the box to run need not wait for the next second
                next_status = now + STATUS_S
                self._watch_board()
                self._write_status()
                self._feed()
            if changed or now >= next_line:
                next_line = now + STATUS_LINE_S
                notify(self._status_line())
            if now >= next_statistics:
                next_statistics = now + STATISTICS_S
                self._tell_statistics()
                gc.collect()
        return self._end(audio)

    def _end(self, audio: threading.Thread) -> int:
        """Stop everything, in about a second whatever hangs; returns the exit status."""
        died = not audio.is_alive()
        notify("STOPPING=1")
        self.box.stop()
        darken = threading.Thread(target=self.panel.stop, name="darken", daemon=True)
        darken.start()
        over = time.monotonic() + JOIN_S
        audio.join(JOIN_S)
        self._tell_events()
        self._tell_statistics(of_all=True)
        if audio.is_alive():
            self._journal.say("a sound device does not respond; stopping without closing it", "hang")
        elif died:
            self._journal.say("the audio thread has died, please report it", "hang")
        else:
            self._journal.say("quietbox stopped", "stop")
        darken.join(max(0.0, over - time.monotonic()))
        with contextlib.suppress(OSError):
            self._status.remove()
        self._claim.release()
        self._journal.finish()
        if audio.is_alive() or self._reloading:
            os._exit(1 if audio.is_alive() else 0)
        return 1 if died else 0

    # What it knows.

    def status(self) -> dict[str, Any]:
        """Everything `quietbox status` shows, by the names of the journal's fields; counted since the start.

        A figure is None until there was something to measure it by.
        """
        box = self.box
        figures = summary(box.health.totals)
        if box.health.totals.hops * HOP_MS <= box.config.capture.mute_ms:
            figures["level_in_dbfs"] = None  # the silence after a start is the box's own, not the microphone's
        return {
            "pid": os.getpid(),
            "state": box.state.value,
            "engine": box.chain.working,
            "microphone": box.capture.granted if box.playing else box.config.capture.device,
            "output": box.playback.granted if box.playing else box.config.output,
            "mixer": box.mixer.words,
            "realtime": "SCHED_FIFO" if box.hurried else "no",
            "speaking": bool(box.chain.voice.speaking),
            **figures,
            "hop_max_us": round(box.health.longest_us) if box.health.totals.hops else None,
            **_counts(box),
            **_moment(box),
            "mains_hz": box.chain.feedforward.mains_hz,
            "throttling": self._throttling,
        }

    def _status_line(self) -> str:
        return f"STATUS={runtime.in_words(self.status())}"

    def look(self) -> LedPattern:
        """What the LED shows now."""
        box = self.box
        return LOOKS.get(box.state) or (LedPattern.LIT if box.chain.voice.speaking else LedPattern.DARK)

    # Orders.

    def toggle_bypass(self, source: str) -> None:
        """Noise removal off or on again; ``source`` is told in the journal. For signal handlers and any thread."""
        self.box.bypass = not self.box.bypass
        self._orders.append((f"bypass {'on' if self.box.bypass else 'off'}", source))

    def toggle_mute(self, source: str) -> None:
        """Silence, or sound again; as ``toggle_bypass``."""
        self.box.muted = not self.box.muted
        self._orders.append((f"mute {'on' if self.box.muted else 'off'}", source))

    def _listen(self) -> None:
        def toggle(*_: object) -> None:
            if hasattr(self, "box"):
                self.toggle_bypass("signal")

        def mute(*_: object) -> None:
            if hasattr(self, "box"):
                self.toggle_mute("signal")

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

    @property
    def _reloading(self) -> bool:
        return self._reloader is not None and self._reloader.is_alive()

    def _load_again(self) -> None:
        """In a thread of its own: an engine may take seconds to build, and the watchdog must be fed meanwhile."""
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = self._load()
            self._claim.change(_devices(config))
            self.box.reload(config)
            if config.panel != self.panel.settings:
                self.panel.stop()
                self.panel = self._new_panel(config)
                self.panel.start()
            self._journal.say("settings read again", "settings")
        except UserError as error:
            self._journal.say(f"{error}; the current settings stay in use", "settings")
        except Exception as fault:
            why = " ".join(f"{type(fault).__name__}: {fault}".split())[:200]
            told = f"unexpected fault, please report it ({why}); not all settings were applied"
            self._journal.say(told, "settings")
        finally:
            notify("READY=1")

    def _new_panel(self, config: Config) -> Panel:
        return Panel(
            config.panel,
            pattern=self.look,
            short=lambda: self.toggle_bypass("button"),
            long=lambda: self.toggle_mute("button"),
            report=lambda sentence: self._journal.say(sentence, "panel"),
        )

    # What it tells.

    def _feed(self) -> None:
        """The watchdog gets its due only if the audio thread got somewhere since the last time."""
        progress = self.box.progress
        if progress != self._fed:
            self._fed = progress
            notify("WATCHDOG=1")

    def _write_status(self) -> None:
        try:
            self._status.write(self.status())
            self._status_failed = False
        except OSError as error:
            if not self._status_failed:
                self._journal.say(f"the status file cannot be written ({error.strerror}); sound continues", "status")
            self._status_failed = True

    def _tell(self) -> bool:
        """Events, and the state if it has changed: then True."""
        self._tell_events()
        box = self.box
        state = box.state
        if state is self._state:
            return False
        self._state = state
        engine = f" ({box.chain.working})" if state in (State.RUNNING, State.DEGRADED) else ""
        self._journal.say(f"state: {state.value}{engine}", "state", state=state.value, engine=box.chain.working)
        return True

    def _tell_events(self) -> None:
        """Orders, events and the first xrun, one record each."""
        box = self.box
        while self._orders:
            order, source = self._orders.popleft()
            self._journal.say(f"{order}, by {source}", "order", source=source)
        for kind, text in box.health.news():
            self._journal.say(text, kind)
        news = box.chain.engine.news
        while news:
            self._journal.say(news.popleft(), "engine")
        if not self._xrun_seen and (box.capture.xruns or box.playback.xruns):
            self._xrun_seen = True
            self._journal.say(
                "first xrun: the system was late for the sound card; later ones are counted once a minute",
                "xrun",
                xruns_in=box.capture.xruns,
                xruns_out=box.playback.xruns,
            )

    def _watch_board(self) -> None:
        """Under-voltage shows for two seconds only, so it is looked for often; each trouble is told once, and again
        after a minute without any."""
        self._throttling = boards.throttling()
        if not self._throttling:
            return
        self._troubles_lately.add(self._throttling)
        if self._throttling not in self._troubles:
            self._troubles.add(self._throttling)
            self._journal.say(f"board: {self._throttling}", "board", throttling=self._throttling)

    def _throttling_lately(self) -> str:
        """Every trouble since the last call."""
        lately, self._troubles_lately = "; ".join(sorted(self._troubles_lately)), set()
        if self._troubles and not lately:
            self._troubles.clear()
            self._journal.say("board: power and temperature are normal again", "board", throttling="")
        return lately

    def _tell_statistics(self, of_all: bool = False) -> None:
        """The figures since the last time, or of the whole run."""
        box, now = self.box, _Mark.of(self.box)
        before, self._last = (self._begin if of_all else self._last), now
        longest_us = box.health.take_longest_us()
        figures: dict[str, Any] = {
            "state": (self._state or box.state).value,
            "engine": box.chain.working,
            "realtime": "SCHED_FIFO" if box.hurried else "no",
            **now.since(before),
            **_moment(box),
            "throttling": self._throttling_lately(),
        }
        if heard := figures["seconds"]:
            figures["hop_max_us"] = round(box.health.longest_us if of_all else longest_us)
        stretch = "total" if of_all else "last minute"
        words = _in_words(figures) if heard else f"no sound, {figures['state']}"
        self._journal.say(f"{stretch}: {words}", "total" if of_all else "statistics", **figures)


class _Mark:
    """All counters at one moment."""

    def __init__(self, totals: Counters, counts: dict[str, int], cpu_s: float, at_s: float) -> None:
        self.totals, self.counts, self.cpu_s, self.at_s = totals, counts, cpu_s, at_s

    @classmethod
    def of(cls, box: Box) -> "_Mark":
        return cls(box.health.totals.copy(), _counts(box), time.process_time(), time.monotonic())

    def since(self, before: "_Mark") -> dict[str, Any]:
        """The figures of the time between; without sound there is no level and no speech to tell of."""
        told = summary(self.totals.since(before.totals))
        if not told["seconds"]:
            told = {"seconds": 0.0}
        # New settings may have brought new devices, which count from nought.
        counts = {name: count - before.counts.get(name, 0) for name, count in self.counts.items()}
        counts = {name: self.counts[name] if more < 0 else more for name, more in counts.items()}
        share = (self.cpu_s - before.cpu_s) / max(self.at_s - before.at_s, 1e-3)
        return {**told, **counts, "cpu_share": round(share, 3)}


def _counts(box: Box) -> dict[str, int]:
    """What is counted elsewhere than in ``health``; a stage that is not there counts nothing."""
    counts = {
        "xruns_in": box.capture.xruns,
        "xruns_out": box.playback.xruns,
        "dropped_hops": box.playback.dropped,
        "clips": box.capture.clips,
    }
    if box.chain.reference:
        counts["reference_resets"] = box.chain.reference.resets
    if box.chain.howl:
        counts["howl_events"] = box.chain.howl.events
    return counts


def _moment(box: Box) -> dict[str, Any]:
    """What is so now, rather than counted; None as long as no sound has moved that could show it."""
    heard = box.health.totals.hops > 0
    return {
        **_of_volume(box.config),
        "queue_ms": round(box.playback.queue_ms, 1) if heard else None,
        "drift_ppm": round(box.playback.drift_ppm, 1) if heard else None,
        "latency_ms": round(latency_ms(box), 1) if heard else None,
        **_of_paths(box.chain),
        **box.chain.engine.counters(),
        **_of_cable(box.cable),
        "temperature_c": boards.temperature_c(),
        "memory_mb": round(_memory_mb(), 1),
    }


def _of_volume(config: Config) -> dict[str, Any]:
    """Nothing where no ear is played at."""
    return {} if config.playback.device == "off" else {"volume_db": config.playback.volume_db}


def _of_paths(chain: Chain) -> dict[str, Any]:
    """How the adaptive stages fare just now; nothing of those that are not there."""
    told: dict[str, Any] = {}
    if chain.reference:
        told["reference_db"] = round(chain.reference.attenuation_db, 1)
        told["reference_state"] = chain.reference.state
    if chain.antinoise:
        told["antinoise_tones_hz"] = " ".join(f"{tone_hz:.1f}" for tone_hz in chain.antinoise.tones_hz)
        told["antinoise_db"] = round(chain.antinoise.attenuation_db, 1)
    if chain.howl:
        told["howl_drop_db"] = round(chain.howl.gain_drop_db, 1)
    return told


def _of_cable(cable: Cable) -> dict[str, Any]:
    """How the cable fares, counted since the start; nothing where there is none."""
    if cable.state is CableState.OFF:
        return {}
    return {
        "cable_state": cable.state.value,
        "cable_xruns": cable.xruns,
        "cable_dropped": cable.dropped,
        "cable_failures": cable.failures,
        "cable_queue_ms": round(cable.queue_ms, 1),
        "cable_drift_ppm": round(cable.drift_ppm, 1),
    }


def _memory_mb() -> float:
    """Resident memory of this process, MB."""
    with open("/proc/self/statm", encoding="ascii") as pages:
        return int(pages.read().split()[1]) * resource.getpagesize() / 1e6


def _in_words(figures: dict[str, Any]) -> str:
    """The figures of a stretch with sound, as one line."""
    removed_db = figures["noise_removed_db"]
    removed = "noise removed not measured" if removed_db is None else f"noise removed {removed_db:g} dB"
    return (
        f"{figures['seconds']:g} s, in {figures['level_in_dbfs']:g} dBFS, "
        f"out {figures['level_out_dbfs']:g} dBFS, {removed}, "
        f"speech {figures['speech_share']:.0%}, "
        f"hop p50 {figures['hop_p50_us']:g} p99 {figures['hop_p99_us']:g} max {figures['hop_max_us']:g} us, "
        f"late {figures['late_hops']}, xruns {figures['xruns_in']} in {figures['xruns_out']} out, "
        f"dropped {figures['dropped_hops']}, "
        f"queue {figures['queue_ms']:.1f} ms, drift {figures['drift_ppm']:+.0f} ppm"
    )


def latency_ms(box: Box) -> float:
    """Microphone to jack by the budget: capture, chain, playback."""
    return box.capture.latency_ms + box.chain.latency_ms + box.playback.latency_ms


def _devices(config: Config) -> list[str]:
    """What a box with these settings needs for itself."""
    outputs = [name for name in (config.output, config.beside) if name]
    microphone = f"capture:{clock_of(config.capture.device, 'capture')}"
    return [microphone, *(f"playback:{clock_of(name, 'playback')}" for name in outputs)]

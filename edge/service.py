"""The process around the box: it claims the cards, starts the audio thread, handles signals and reports what happens.

The main thread does all of this, a few times a second; the audio thread never waits for it.
"""

import contextlib
import gc
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from edge import UserError, orders, runtime, status
from edge.box import Box, State
from edge.config import Config
from edge.control import Control
from edge.devices.alsa import open_pcm
from edge.devices.cards import port_of
from edge.devices.pcm import OpenPcm
from edge.journal import Journal, notify
from edge.knob import Knob
from edge.metering import Metering
from edge.net.log_limit import LogLimit
from edge.realtime import HOUSEKEEPING_PRIORITY, lock_memory_and_freeze_gc, request_realtime_priority
from edge.serial_orders import SerialOrders
from hw.board import boards
from hw.board.led import LedPattern
from hw.board.panel import Panel

POLL_S = 0.1
"""How often the main thread looks at the box."""
STATUS_S = 1.0
"""How often the status is written and the watchdog fed, if the sound moved."""
STATUS_LINE_S = 5.0
"""How often systemd gets the status line; besides, at every change of state."""
STATISTICS_S = 60.0
JOIN_S = 0.7
"""How long the audio thread may take to end; SIGTERM is answered within a second even if a device hangs."""

PATTERNS = {
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
        self._commands: deque[tuple[str, str]] = deque(maxlen=64)
        self._install_signal_handlers()
        self._load = load
        config = load()
        self._claim = runtime.Claim(_devices(config))
        self._status = runtime.StatusFile()
        self._status_failed = False
        self._orders: orders.Fifo | None = None
        self._orders_failed = False
        self.box = Box(config, opener)
        self._journal = journal or Journal()
        self._metering = Metering(self.box, self._journal.recent)
        self._metering_failed = False
        self._control = self._new_control(
            lambda words: self._commands.append((words, "order")), watched=self._metering.ask
        )
        self._knob = Knob(
            self._control,
            report=lambda words: self._commands.append((words, "knob")),
            complain=LogLimit(lambda words: self._journal.report(words, "order")),
        )
        self._serial = SerialOrders(
            self._new_control(LogLimit(lambda words: self._commands.append((words, "usb")))),
            status=lambda: runtime.in_words(self.status()),
            report=lambda words: self._journal.report(words, "order"),
        )
        self.panel = self._new_panel(config)
        self._state: State | None = None
        self._progress_fed = self.box.progress
        self._xrun_seen = False
        self._begin: status.Mark = status.Mark.of(self.box)
        self._last = self._begin
        self._throttling = ""
        self._throttling_reported: set[str] = set()
        self._throttling_seen: set[str] = set()

    def run(self, seconds: float | None = None) -> int:
        """Run until a signal, or for so many seconds; returns the exit status."""
        for refusal in lock_memory_and_freeze_gc():
            self._journal.report(refusal, "realtime")
        request_realtime_priority(
            min(HOUSEKEEPING_PRIORITY, self.box.config.box.priority)
        )  # a refusal is reported by the audio thread
        audio = threading.Thread(target=self.box.run, name="audio", daemon=True)
        began = time.monotonic()
        audio.start()
        self._journal.report("quietbox has started", "start", pid=os.getpid())
        notify("READY=1", self._status_line())
        self.panel.start()
        next_status = next_line = began
        next_statistics = began + STATISTICS_S
        while audio.is_alive() and not self._stopping.wait(POLL_S):
            now = time.monotonic()
            if seconds is not None and now - began >= seconds:
                break
            if self._reload and not self._reloading:
                self._reload = False
                self._in_background(self._reload_settings)
            obeyed = self._take_orders() | self._take_serial_orders(now) | self._knob.take(now)
            changed = self._report_changes() or obeyed
            self._fill_meters()
            if changed or now >= next_status:  # so that nobody who waits for the box waits for the next second
                next_status = now + STATUS_S
                self._watch_board()
                self._write_status()
                self._feed_watchdog()
            if changed or now >= next_line:
                next_line = now + STATUS_LINE_S
                notify(self._status_line())
            if now >= next_statistics:
                next_statistics = now + STATISTICS_S
                self._report_statistics()
                gc.collect()
        return self._end(audio)

    def _end(self, audio: threading.Thread) -> int:
        """Stop everything within about a second, whatever hangs; returns the exit status."""
        died = not audio.is_alive()
        notify("STOPPING=1")
        self.box.stop()
        led_off = threading.Thread(target=self.panel.stop, name="led_off", daemon=True)
        led_off.start()
        over = time.monotonic() + JOIN_S
        audio.join(JOIN_S)
        self._knob.finish()
        self._report_events()
        self._report_statistics(of_all=True)
        if audio.is_alive():
            self._journal.report("a sound device does not respond; stopping without closing it", "hang")
        elif died:
            self._journal.report("the audio thread has died, please report it", "hang")
        else:
            self._journal.report("quietbox stopped", "stop")
        led_off.join(max(0.0, over - time.monotonic()))
        if self._orders:
            self._orders.close()
        self._serial.close()
        for leave in (self._metering.close, self._status.remove):
            with contextlib.suppress(OSError):
                leave()
        self._claim.release()
        self._journal.finish()
        if audio.is_alive() or self._reloading:
            os._exit(1 if audio.is_alive() else 0)
        return 1 if died else 0

    # Status.

    def status(self) -> dict[str, Any]:
        """Everything `quietbox status` shows (``status.of``)."""
        return {**status.of(self.box, self._throttling), "orders": [*self._control.answers]}

    def _status_line(self) -> str:
        return f"STATUS={runtime.in_words(self.status())}"

    def led_pattern(self) -> LedPattern:
        """What the LED shows now."""
        box = self.box
        return PATTERNS.get(box.state) or (LedPattern.LIT if box.chain.voice.speaking else LedPattern.DARK)

    # Commands.

    def _take_orders(self) -> bool:
        """Obey what others wrote into the FIFO; whether there is an answer. A box that came second has none."""
        try:
            if self._orders is None and self._status.ours:
                self._orders = orders.Fifo(runtime.own_folder())
            return self._control.take(self._orders.lines() if self._orders else [])
        except (OSError, UserError) as error:
            if not self._orders_failed:
                self._journal.report(f"no orders can be taken ({error}); sound continues", "order")
            self._orders_failed = True
            return False

    def _take_serial_orders(self, now_s: float) -> bool:
        """Obey the PC at the USB cable, if the settings let it. A box that came second does not."""
        return self._serial.take(now_s, self._status.ours and self.box.latest.cable.usb_orders)

    def _new_control(self, report: Callable[[str], None], watched: Callable[[], None] | None = None) -> Control:
        return Control(
            self.box,
            report=report,
            complain=LogLimit(lambda words: self._journal.report(words, "order")),
            in_background=self._in_background,
            is_busy=lambda: self._reloading,
            watched=watched,
        )

    def _in_background(self, work: Callable[[], None]) -> None:
        """In a thread of its own: an engine may take seconds to build, and the watchdog must be fed meanwhile."""
        self._reloader = threading.Thread(target=work, name="reload", daemon=True)
        self._reloader.start()

    def toggle_bypass(self, source: str) -> None:
        """Noise removal off or on again; ``source`` is reported in the journal. For signal handlers and any thread."""
        self.box.bypass = not self.box.bypass
        self._commands.append((f"bypass {'on' if self.box.bypass else 'off'}", source))

    def toggle_mute(self, source: str) -> None:
        """Silence, or sound again; as ``toggle_bypass``."""
        self.box.muted = not self.box.muted
        self._commands.append((f"mute {'on' if self.box.muted else 'off'}", source))

    def _install_signal_handlers(self) -> None:
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

        for number, handler in (
            (signal.SIGTERM, stop),
            (signal.SIGINT, stop),
            (signal.SIGUSR1, toggle),
            (signal.SIGUSR2, mute),
            (signal.SIGHUP, reload),
        ):
            signal.signal(number, handler)

    @property
    def _reloading(self) -> bool:
        return self._reloader is not None and self._reloader.is_alive()

    def _reload_settings(self) -> None:
        """All settings from the file; what was ordered since is gone."""
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = self._load()
            self._claim.change(_devices(config))
            self.box.reload(config)
            if config.panel != self.panel.settings:
                self.panel.stop()
                self.panel = self._new_panel(config)
                self.panel.start()
            self._journal.report("settings read again", "settings")
        except UserError as error:
            self._journal.report(f"{error}; the current settings stay in use", "settings")
        except Exception as fault:
            why = " ".join(f"{type(fault).__name__}: {fault}".split())[:200]
            text = f"unexpected fault, please report it ({why}); not all settings were applied"
            self._journal.report(text, "settings")
        finally:
            notify("READY=1")

    def _new_panel(self, config: Config) -> Panel:
        return Panel(
            config.panel,
            pattern=self.led_pattern,
            short=lambda: self.toggle_bypass("button"),
            long=lambda: self.toggle_mute("button"),
            report=lambda sentence: self._journal.report(sentence, "panel"),
            turn=lambda detents: self._knob.turned(detents),
        )

    # Reports.

    def _feed_watchdog(self) -> None:
        """Feed the watchdog only if the audio thread has made progress since the last time."""
        progress = self.box.progress
        if progress != self._progress_fed:
            self._progress_fed = progress
            notify("WATCHDOG=1")

    def _write_status(self) -> None:
        try:
            self._status.write(self.status())
            self._status_failed = False
        except OSError as error:
            if not self._status_failed:
                self._journal.report(f"the status file cannot be written ({error.strerror}); sound continues", "status")
            self._status_failed = True

    def _fill_meters(self) -> None:
        """The figures for whoever watches."""
        try:
            self._metering.fill(self._throttling)
        except (OSError, UserError) as error:
            if not self._metering_failed:
                self._journal.report(f"no figures for `quietbox watch` ({error}); sound continues", "status")
            self._metering_failed = True

    def _report_changes(self) -> bool:
        """Events, and the state if it has changed: then True."""
        self._report_events()
        box = self.box
        state = box.state
        if state is self._state:
            return False
        self._state = state
        engine = f" ({box.chain.working})" if state in (State.RUNNING, State.DEGRADED) else ""
        self._journal.report(f"state: {state.value}{engine}", "state", state=state.value, engine=box.chain.working)
        return True

    def _report_events(self) -> None:
        """Commands, events and the first xrun, one record each."""
        box = self.box
        while self._commands:
            command, source = self._commands.popleft()
            self._journal.report(f"{command}, by {source}", "order", source=source)
        for kind, text in box.health.news():
            self._journal.report(text, kind)
        news = box.chain.engine.news
        while news:
            self._journal.report(news.popleft(), "engine")
        if not self._xrun_seen and (box.capture.xruns or box.playback.xruns):
            self._xrun_seen = True
            self._journal.report(
                "first xrun: the system was late for the sound card; later ones are counted once a minute",
                "xrun",
                xruns_in=box.capture.xruns,
                xruns_out=box.playback.xruns,
            )

    def _watch_board(self) -> None:
        """Under-voltage shows for two seconds only, so it is polled often; each condition is reported once, and again
        after a minute without any."""
        self._throttling = boards.throttling()
        if not self._throttling:
            return
        self._throttling_seen.add(self._throttling)
        if self._throttling not in self._throttling_reported:
            self._throttling_reported.add(self._throttling)
            self._journal.report(f"board: {self._throttling}", "board", throttling=self._throttling)

    def _recent_throttling(self) -> str:
        """Every condition since the last call."""
        recent, self._throttling_seen = "; ".join(sorted(self._throttling_seen)), set()
        if self._throttling_reported and not recent:
            self._throttling_reported.clear()
            self._journal.report("board: power and temperature are normal again", "board", throttling="")
        return recent

    def _report_statistics(self, of_all: bool = False) -> None:
        """The figures since the last time, or of the whole run."""
        box, now = self.box, status.Mark.of(self.box)
        before, self._last = (self._begin if of_all else self._last), now
        longest_us = box.health.take_longest_us()
        figures: dict[str, Any] = {
            "state": (self._state or box.state).value,
            "engine": box.chain.working,
            "realtime": status.realtime(box),
            **now.since(before),
            **status.moment(box),
            "throttling": self._recent_throttling(),
        }
        if heard := figures["seconds"]:
            figures["hop_max_us"] = round(box.health.longest_us if of_all else longest_us)
        span = "total" if of_all else "last minute"
        words = status.in_words(figures) if heard else f"no sound, {figures['state']}"
        self._journal.report(f"{span}: {words}", "total" if of_all else "statistics", **figures)


def _devices(config: Config) -> list[str]:
    """What a box with these settings needs for itself."""
    outputs = [name for name in (config.output, config.second_output) if name]
    microphone = f"capture:{port_of(config.capture.device, 'capture')}"
    return [microphone, *(f"playback:{port_of(name, 'playback')}" for name in outputs)]

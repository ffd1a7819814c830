"""The GPIO process: LED, button and knob over the module RPi.GPIO, whoever provides it. ``hw.board.pins`` starts it."""

import contextlib
import importlib
import os
import select
import signal
import socket
import syslog
import time
import traceback
import warnings
from typing import Any

from edge.realtime import request_realtime_priority
from hw.board import boards
from hw.board.knob import Contacts
from hw.board.pins import PanelError, Wiring

TICK_S = 0.02
ALIVE_S = 0.5
"""How often the button's state is sent even if it did not change."""
PWM_HZ = 100


def serve(descriptor: int, priority: int = 0, **wires: Any) -> None:
    """The whole process: sets the LED as ordered, reports button and knob, until the other side closes the connection.

    ``priority``: of SCHED_FIFO, once the library is loaded; 0 asks for none.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the box, which ends us by closing the connection
    link = socket.socket(fileno=descriptor)
    link.setblocking(False)
    with contextlib.suppress(OSError):  # the other side may be gone at any time
        try:
            with contextlib.closing(RpiPins(Wiring(**wires))) as pins:
                request_realtime_priority(priority)
                _serve(link, pins)
        except PanelError as error:
            link.send(f"-{error}".encode())
        except Exception as error:
            _report(error)
            raise


def _report(error: Exception) -> None:
    """An unforeseen fault, with its traceback, for the journal: by systemd's library, whose calls may wait for journald
    with Python's lock held. Here only LED and button wait. Without it the box reports that this process has ended."""
    if "JOURNAL_STREAM" not in os.environ:  # the box was not started by systemd
        return
    with contextlib.suppress(ImportError, OSError):
        import systemd.journal as journal  # optional, see the extra `systemd`

        trace = "".join(traceback.format_exception(error))
        sentence = f"panel: the GPIO process failed, please report this fault: {trace}"
        journal.send(sentence, PRIORITY=syslog.LOG_WARNING, SYSLOG_IDENTIFIER="quietbox", QUIETBOX_EVENT="panel")


def _serve(link: socket.socket, pins: "RpiPins") -> None:
    """Until the other side closes; may raise PanelError, and OSError if it closes in the middle of a message."""
    link.send(pins.name.encode())
    share, detents = 0.0, 0
    sent, sent_s, due_s = None, 0.0, 0.0
    while True:
        ready, _, _ = select.select([link.fileno(), *pins.alarms], [], [], pins.wait_s)
        with contextlib.suppress(BlockingIOError):
            while order := link.recv(16):
                share = int(order) / 100
            return
        now_s = time.monotonic()
        detents += pins.turned(now_s)
        if now_s < due_s and link.fileno() not in ready:
            continue
        due_s = now_s + TICK_S
        pins.light(share)
        pressed = pins.pressed()
        if detents:
            with contextlib.suppress(BlockingIOError):
                link.send(f"t{detents}".encode())
                detents = 0
        if pressed is not sent or now_s - sent_s > ALIVE_S:
            with contextlib.suppress(BlockingIOError):
                link.send(b"1" if pressed else b"0")
                sent, sent_s = pressed, now_s


class RpiPins:
    """The pins over the module RPi.GPIO, whoever provides it."""

    def __init__(self, wiring: Wiring) -> None:
        self._led, self._button = wiring.led, wiring.button
        self._lit_high, self._pressed_high = wiring.led_lit == "high", wiring.button_pull == "down"
        self._share: float | None = None
        self._pwm: Any = None
        self._knob: Contacts | None = None
        self._knob_pins = f"GPIO {wiring.knob_clk} or {wiring.knob_dt}"
        step = "the GPIO library does not load"
        try:
            warnings.simplefilter("ignore")
            self._gpio = gpio = importlib.import_module("RPi.GPIO")
            step = "the GPIO cannot be opened"
            gpio.setwarnings(False)
            gpio.setmode(gpio.BCM)
            if self._led != "off":
                step = f"GPIO {self._led} is refused for the LED"
                gpio.setup(self._led, gpio.OUT, initial=self._level(False))
            if self._button != "off":
                step = f"GPIO {self._button} is refused for the button"
                gpio.setup(self._button, gpio.IN, pull_up_down=gpio.PUD_DOWN if self._pressed_high else gpio.PUD_UP)
            if isinstance(wiring.knob_clk, int) and isinstance(wiring.knob_dt, int):
                step = f"{self._knob_pins} is refused for the knob"
                self._knob = Contacts(gpio, wiring.knob_clk, wiring.knob_dt)
        except Exception as error:
            self.close()
            raise PanelError(_explain(step, error)) from None
        self.name = _named(gpio)

    def light(self, share: float) -> None:
        if self._led == "off":
            return
        try:
            if 0 < share < 1:
                if share != self._share:
                    self._start_pwm(share)
            else:
                self._stop_pwm()
                # Written at every call: the PWM thread of the package RPi.GPIO ends with a last low of its own.
                self._gpio.output(self._led, self._level(share > 0))
        except Exception as error:
            raise PanelError(_explain(f"GPIO {self._led} fails", error)) from None
        self._share = share

    def pressed(self) -> bool:
        if self._button == "off":
            return False
        try:
            return bool(self._gpio.input(self._button)) == self._pressed_high
        except Exception as error:
            raise PanelError(_explain(f"GPIO {self._button} fails", error)) from None

    @property
    def alarms(self) -> list[int]:
        """Descriptors that become readable when the knob is touched."""
        return self._knob.alarms if self._knob else []

    @property
    def wait_s(self) -> float:
        """The longest time to the next ``turned``."""
        return self._knob.wait_s if self._knob else TICK_S

    def turned(self, now_s: float) -> int:
        """Detents of the knob since the last call, clockwise positive."""
        try:
            return self._knob.read(now_s) if self._knob else 0
        except Exception as error:
            raise PanelError(_explain(f"{self._knob_pins} fails", error)) from None

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.light(0.0)
            self._gpio.cleanup()
        if self._knob:
            self._knob.close()

    def _level(self, lit: bool) -> int:
        return int(lit == self._lit_high)

    def _start_pwm(self, share: float) -> None:
        self._stop_pwm()
        self._pwm = self._gpio.PWM(self._led, PWM_HZ)
        self._pwm.start(100 * (share if self._lit_high else 1 - share))

    def _stop_pwm(self) -> None:
        """A stopped PWM of the package RPi.GPIO forgets its frequency, so the next one is made anew."""
        if self._pwm is not None:
            self._pwm.stop()
            self._pwm = None


def _named(module: Any) -> str:
    """``rpi-lgpio 0.6 (why)``: the package behind the module, and whether it suits the board."""
    import importlib.metadata  # takes longer than all else here, and only the GPIO process needs it

    package = "rpi-lgpio" if hasattr(module, "lgpio") else "RPi.GPIO"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = str(module.VERSION)
    wanted, why = boards.gpio_package(boards.this_board())
    advice = "" if package == wanted else f"{wanted} fits this board better: "
    return f"{package} {version} ({advice}{why})"


def _explain(step: str, error: Exception) -> str:
    """A failure of the library on one line, with the fix where there is one."""
    text = str(error) or type(error).__name__
    for cause, fix in (
        ("busy", "another program or an overlay in config.txt holds it; `gpioinfo` names it"),
        ("can not open gpiochip", "may this user open /dev/gpiochip0? add it to the group gpio"),
        ("/dev/mem", "add this user to the group gpio"),
        ("peripheral base", "this library does not support this board; run ./install.sh again"),
        ("only be run on a Raspberry Pi", "this board does not identify itself as one"),
    ):
        if cause in text:
            return f"{step} ({text}: {fix})"
    return f"{step} ({text})"

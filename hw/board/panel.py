"""LED and button: what the box does, told by one light; what the wearer wants, told by one button.

| light | the box |
|---|---|
| lit | passes speech on |
| a short flash every three seconds | listens, nobody speaks |
| dim | bypass: everything passes, noise too |
| dark | muted, or without power |
| slow blinking | waits for a sound card |
| fast blinking | fault |

A light that stayed dark until somebody speaks could not be told from a muted one; a faint glow could not be told from
dim, and flickers under a PWM made by software. Hence the short flash: "on", seen within three seconds, never mistaken.

``RPi.GPIO`` is the interface; rpi-lgpio provides it on every board, the package RPi.GPIO on old ones. It runs in a
process of its own (``serve``), because lgpio keeps Python's lock during each call into the kernel and moves the working
directory: a call that hangs or crashes must cost the light and nothing else. ``Panel`` is the thread on our side of the
wire.
"""

import contextlib
import dataclasses
import glob
import importlib.util
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from edge import runtime
from edge.config import PanelConfig
from edge.realtime import ordinary_children, request_realtime_priority
from hw.board import boards

TICK_S = 0.02
RETRY_S = 10.0
OPEN_S = 20.0
"""How long the GPIO library may take to load; a busy Pi Zero needs seconds."""
SILENCE_S = 3.0
"""A GPIO process that says nothing for so long hangs; it speaks every ``ALIVE_S``."""
ALIVE_S = 0.5
STUCK_S = 30.0
CALM_S = 60.0
"""After so long without trouble the same trouble is worth a sentence again."""
PARTING_S = 0.3
JOIN_S = 0.8

DIM = 0.15
"""Share of the time a dim LED is lit; to the eye, whose response is about a cube root, half as bright."""
PWM_HZ = 100
SLOW_S, FAST_S = 1.0, 0.1
"""How long a blinking LED is lit, and then dark."""
GLINT_EVERY_S, GLINT_S = 3.0, 0.04

DEVICES = ("/dev/gpiochip*", "/dev/gpiomem*")


class LedPattern(Enum):
    """What the LED shows."""

    OFF = "muted"
    DIM = "bypass"
    DARK = "running, nobody speaks"
    LIT = "speech"
    SLOW = "waiting"
    FAST = "fault"


def brightness(look: LedPattern, since_s: float) -> float:
    """0 to 1: how bright the LED is ``since_s`` after it began to show this look."""
    match look:
        case LedPattern.LIT:
            return 1.0
        case LedPattern.DIM:
            return DIM
        case LedPattern.SLOW:
            return float(since_s % (2 * SLOW_S) < SLOW_S)
        case LedPattern.FAST:
            return float(since_s % (2 * FAST_S) < FAST_S)
        case LedPattern.DARK:
            # It begins dark, so that pauses between words do not sparkle.
            return float(since_s % GLINT_EVERY_S >= GLINT_EVERY_S - GLINT_S)
        case LedPattern.OFF:
            return 0.0


class Button:
    """Readings of a bouncing contact -> "short", "long" or nothing.

    A reading counts when the next one confirms it: contacts bounce for less than 10 ms, and a spark of static is over
    within one reading. A button that is down when it is first seen (held at the start, stuck, wired wrong) means
    nothing until it has been let go once.
    """

    def __init__(self, long_press_ms: float) -> None:
        self._long_s = long_press_ms / 1000
        self._last = True
        self._down = True
        self._armed = False
        self._since_s: float | None = None

    def read(self, pressed: bool, now_s: float) -> str:
        """One reading; "short" when the button is let go in time, "long" as soon as it has been held long enough."""
        if self._since_s is None:
            self._since_s = now_s
        confirmed, self._last = pressed == self._last, pressed
        if not confirmed:
            return ""
        if pressed != self._down:
            self._down, self._since_s = pressed, now_s
            if pressed:
                return ""
            was_armed, self._armed = self._armed, True
            return "short" if was_armed else ""
        if pressed and self._armed and now_s - self._since_s >= self._long_s:
            self._armed = False
            return "long"
        return ""

    def held_s(self, now_s: float) -> float:
        """How long it has been down; 0 if it is up."""
        return now_s - self._since_s if self._down and self._since_s is not None else 0.0


class PanelError(Exception):
    """LED and button cannot be used now; the text says why and the way out."""


class Pins(Protocol):
    """The two pins. Everything here may raise PanelError, after which they must be opened anew."""

    name: str
    """What is behind them, in words."""

    def light(self, share: float) -> None:
        """0 dark, 1 lit, between: dim."""
        ...

    def pressed(self) -> bool: ...

    def close(self) -> None:
        """Leave the LED dark; never raises."""
        ...


OpenPins = Callable[[PanelConfig], Pins]


class Panel:
    """The thread that looks at the box 50 times a second, shows it, and obeys the button."""

    def __init__(
        self,
        settings: PanelConfig,
        look: Callable[[], LedPattern],
        short: Callable[[], None],
        long: Callable[[], None],
        say: Callable[[str], None],
        open_pins: OpenPins | None = None,
    ) -> None:
        """``look`` tells what to show, ``short`` and ``long`` take a press, ``say`` a sentence for the journal; all are
        called from the panel's thread and must not wait. ``open_pins`` stands in for the back-end of the settings.
        """
        self.settings = settings
        self.pins: Pins | None = None
        """What is open now; with the fake back-end, what a test presses and reads."""
        self._look, self._short, self._long, self._say = look, short, long, say
        self._open_pins = open_pins or open_pins_for(settings)
        self._stopping = threading.Event()
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="panel", daemon=True)

    def start(self) -> None:
        if self.settings.backend != "off" and (self.settings.led, self.settings.button) != ("off", "off"):
            self._thread.start()

    def stop(self) -> None:
        """LED dark and pins given back, within a second whatever they do; harmless if never started."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)

    def _run(self) -> None:
        ordinary_children()
        while not self._stopping.is_set():
            try:
                self.pins = self._open_pins(self.settings)
                self._tell(f"panel: {describe(self.settings)}, through {self.pins.name}")
                self._serve(self.pins)
            except NoLibrary as trouble:
                self._tell(f"panel: no LED and no button, {trouble}")
                if self.settings.backend == "auto":
                    return
            except PanelError as trouble:
                self._tell(f"panel: no LED and no button, {trouble}")
            except Exception as fault:
                self._tell(f"panel: no LED and no button, please report this fault ({type(fault).__name__}: {fault})")
            finally:
                pins, self.pins = self.pins, None
                if pins is not None:
                    pins.close()
            self._stopping.wait(RETRY_S)

    def _serve(self, pins: Pins) -> None:
        """Show and obey until told to stop; raises PanelError when the pins fail."""
        button = Button(self.settings.long_press_ms)
        began_s = shown_s = time.monotonic()
        shown: LedPattern | None = None
        while not self._stopping.wait(TICK_S):
            now_s = time.monotonic()
            look = self._look()
            if look is not shown:
                shown, shown_s = look, now_s
            pins.light(brightness(look, now_s - shown_s))
            press = button.read(pins.pressed(), now_s)
            if press == "short":
                self._short()
            elif press == "long":
                self._long()
            if button.held_s(now_s) > STUCK_S:
                pin = self.settings.button
                self._tell(
                    f"panel: the button on GPIO {pin} has been down for {STUCK_S:.0f} s; is it stuck or shorted?"
                )
            elif now_s - began_s > CALM_S:
                self._said.clear()

    def _tell(self, sentence: str) -> None:
        """Each trouble once, not every ten seconds; on one line, whatever the library's text was."""
        sentence = " ".join(sentence.split())
        if sentence not in self._said:
            self._said.add(sentence)
            self._say(sentence)


def describe(settings: PanelConfig) -> str:
    """``LED on GPIO 17, button on GPIO 27``."""
    led = "no LED" if settings.led == "off" else f"LED on GPIO {settings.led}"
    return led + (", no button" if settings.button == "off" else f", button on GPIO {settings.button}")


def open_pins_for(settings: PanelConfig) -> OpenPins:
    """The one place that chooses what is behind the two pins."""
    return FakePins if settings.backend == "fake" else PinsApart


# A panel made of air.


class FakePins:
    """Pins for trials and tests: ``press`` and ``release`` are the finger, ``log`` the eye, ``fail`` bad soldering."""

    def __init__(self, settings: PanelConfig) -> None:
        self.name = "nothing: simulated for tests"
        self.log: deque[tuple[float, float]] = deque(maxlen=10_000)
        """(monotonic time in s, brightness 0 to 1) at each change."""
        self.closed = False
        self._pressed = False
        self._broken = ""

    def press(self) -> None:
        self._pressed = True

    def release(self) -> None:
        self._pressed = False

    def fail(self, why: str) -> None:
        """From now on every call fails."""
        self._broken = why

    def light(self, share: float) -> None:
        if self._broken:
            raise PanelError(self._broken)
        if not self.log or self.log[-1][1] != share:
            self.log.append((time.monotonic(), share))

    def pressed(self) -> bool:
        if self._broken:
            raise PanelError(self._broken)
        return self._pressed

    def close(self) -> None:
        self.log.append((time.monotonic(), 0.0))
        self.closed = True


# The real thing, our side of the wire.


class NoLibrary(PanelError):
    """Nothing here provides RPi.GPIO."""


class PinsApart:
    """Pins in a process of their own. A percentage goes over, "0" and "1" come back: the button, as it is."""

    def __init__(self, settings: PanelConfig) -> None:
        """Raises PanelError if there is no GPIO, before any process is started for it if possible."""
        _look_for_gpio()
        folder = _pipe_folder()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        path = [entry or os.getcwd() for entry in sys.path]
        wishes = dataclasses.asdict(settings)
        # It loads as an ordinary process (``ordinary_children``) and then goes on at this thread's priority: a button
        # pressed while the processor is busy must not be missed.
        priority = os.sched_getparam(0).sched_priority
        order = (
            f"import sys; sys.path[:] = {path!r}; from hw.board import panel; "
            f"panel.serve({theirs.fileno()}, {priority}, **{wishes!r})"
        )
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", order],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    cwd=folder,
                    env={"LG_WD": folder, **os.environ},
                )
            except OSError as error:
                ours.close()
                raise PanelError(f"its process does not start ({error.strerror})") from None
        self._link = ours
        self._pressed = False
        self._sent = b""
        self._heard_s = time.monotonic()
        self.name = ""
        try:
            self._await_name()
        except PanelError:
            self.close()
            raise

    def light(self, share: float) -> None:
        order = f"{100 * share:.0f}".encode()
        if order != self._sent:
            try:
                self._link.send(order)
            except OSError:
                return  # full: the next tick tries again; or hung up: what was said last is for ``pressed`` to read
            self._sent = order

    def pressed(self) -> bool:
        while message := self._hear():
            self._pressed = message == "1"
        if time.monotonic() - self._heard_s > SILENCE_S:
            raise PanelError(f"the GPIO library hangs (no answer for {SILENCE_S:.0f} s)")
        return self._pressed

    def close(self) -> None:
        """A process that does not end within PARTING_S is killed; one that the kernel holds is left behind."""
        self._link.close()
        try:
            self._process.wait(PARTING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PARTING_S)

    def _await_name(self) -> None:
        ready, _, _ = select.select([self._link], [], [], OPEN_S)
        if not ready:
            raise PanelError(f"the GPIO library hangs (not open after {OPEN_S:.0f} s)")
        self.name = self._hear()

    def _hear(self) -> str:
        """One message, or "" if there is none; raises PanelError if it is a complaint, or the other side is gone."""
        try:
            message = self._link.recv(1024).decode(errors="replace")
        except BlockingIOError:
            return ""
        except ConnectionResetError:
            return self._hear()  # it hung up before it had heard us out; its own last word comes after this
        if not message:
            raise PanelError(self._end())
        if message.startswith("-"):
            raise PanelError(message[1:])
        self._heard_s = time.monotonic()
        return message

    def _end(self) -> str:
        """How the process ended, in words."""
        try:
            status = self._process.wait(PARTING_S)
        except subprocess.TimeoutExpired:
            return "the GPIO process closed the connection"
        name = next((known.name for known in signal.Signals if known == -status), f"status {status}")
        return f"the GPIO process ended with {name}"


def _look_for_gpio() -> None:
    """What can be known without loading the library; raises PanelError with the way out."""
    if importlib.util.find_spec("RPi") is None:
        raise NoLibrary("no GPIO library is installed here; on a Raspberry Pi run ./install.sh")
    devices = sorted(path for pattern in DEVICES for path in glob.glob(pattern))
    if not devices:
        raise PanelError(f"this kernel offers no GPIO ({DEVICES[0]}); looking again every {RETRY_S:.0f} s")
    if not any(os.access(path, os.R_OK | os.W_OK) for path in devices):
        raise PanelError(
            f"{devices[0]} cannot be used by this user (permission denied); add the user to the group gpio"
        )


def _pipe_folder() -> str:
    """Where lgpio may put the named pipe it makes when it is loaded."""
    folder = runtime.runtime_folder()
    return str(folder if os.access(folder, os.W_OK | os.X_OK) else Path(tempfile.gettempdir()))


# The real thing, the other side of the wire.


def serve(descriptor: int, priority: int = 0, **settings: Any) -> None:
    """The GPIO process: lights what it is told, tells what is pressed, ends when the other side hangs up.

    ``priority``: of SCHED_FIFO, once the library is loaded; 0 asks for none.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the box, which ends us by hanging up
    link = socket.socket(fileno=descriptor)
    link.setblocking(False)
    with contextlib.suppress(OSError):  # the other side may be gone at any time
        try:
            with contextlib.closing(RpiPins(PanelConfig(**settings))) as pins:
                request_realtime_priority(priority)
                _obey(link, pins)
        except PanelError as trouble:
            link.send(f"-{trouble}".encode())


def _obey(link: socket.socket, pins: "RpiPins") -> None:
    """Until the other side hangs up; may raise PanelError, and OSError if it hangs up in the middle of a word."""
    link.send(pins.name.encode())
    share = 0.0
    told, told_s = None, 0.0
    while True:
        select.select([link], [], [], TICK_S)
        with contextlib.suppress(BlockingIOError):
            while order := link.recv(16):
                share = int(order) / 100
            return
        pins.light(share)
        pressed, now_s = pins.pressed(), time.monotonic()
        if pressed is not told or now_s - told_s > ALIVE_S:
            with contextlib.suppress(BlockingIOError):
                link.send(b"1" if pressed else b"0")
                told, told_s = pressed, now_s


class RpiPins:
    """``Pins`` over the module RPi.GPIO, whoever provides it."""

    def __init__(self, settings: PanelConfig) -> None:
        self._led, self._button = settings.led, settings.button
        self._lit_high, self._pressed_high = settings.led_lit == "high", settings.button_pull == "down"
        self._share: float | None = None
        self._pwm: Any = None
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

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.light(0.0)
            self._gpio.cleanup()

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
    doubt = "" if package == wanted else f"{wanted} fits this board better: "
    return f"{package} {version} ({doubt}{why})"


def _explain(step: str, error: Exception) -> str:
    """A failure of the library on one line, with the way out where there is one."""
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

"""The panel's pins: the contract, the back-end for tests, and the real GPIO in a process of its own (our side).

``RPi.GPIO`` is the interface; rpi-lgpio provides it on every board, the package RPi.GPIO on old ones. It runs in a
process of its own (``hw.board.gpio``), because lgpio keeps Python's lock during each call into the kernel and moves the
working directory: a call that hangs or crashes must cost the light and nothing else.
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
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

DEVICES = ("/dev/gpiochip*", "/dev/gpiomem*")
RETRY_S = 10.0
"""How long after a failure the pins are opened again."""
OPEN_S = 20.0
"""How long the GPIO library may take to load; a busy Pi Zero needs seconds."""
SILENCE_S = 3.0
"""A GPIO process that sends nothing for so long hangs; it sends something every ``hw.board.gpio.ALIVE_S``."""
PARTING_S = 0.3
"""How long the GPIO process may take to end."""


@dataclass(frozen=True)
class Wiring:
    """Which pins, by GPIO number (BCM) or "off", and what levels mean."""

    led: int | str
    led_lit: str
    """"high" or "low": the level that lights the LED."""
    button: int | str
    button_pull: str
    """"up": the button connects its pin to ground; "down": to 3.3 V."""
    knob_clk: int | str = "off"
    knob_dt: int | str = "off"
    """The contacts of the rotary encoder, A and B."""

    @property
    def pins(self) -> tuple[int, ...]:
        """Those that are wanted."""
        named = (self.led, self.button, self.knob_clk, self.knob_dt)
        return tuple(pin for pin in named if isinstance(pin, int))


class PanelSettings(Protocol):
    """What the panel asks of the settings (``edge.config.PanelConfig``)."""

    @property
    def led(self) -> int | str: ...
    @property
    def led_lit(self) -> str: ...
    @property
    def button(self) -> int | str: ...
    @property
    def button_pull(self) -> str: ...
    @property
    def long_press_ms(self) -> float: ...
    @property
    def knob(self) -> str: ...
    @property
    def knob_clk(self) -> int: ...
    @property
    def knob_dt(self) -> int: ...
    @property
    def backend(self) -> str: ...


def wiring(settings: PanelSettings) -> Wiring:
    """The part of the settings that the GPIO process needs."""
    knob = (settings.knob_clk, settings.knob_dt) if settings.knob != "off" else ("off", "off")
    return Wiring(settings.led, settings.led_lit, settings.button, settings.button_pull, *knob)


class PanelError(Exception):
    """LED and button cannot be used now; the text has the reason and the fix."""


class NoLibrary(PanelError):
    """Nothing here provides RPi.GPIO."""


class Pins(Protocol):
    """The pins. Everything here may raise PanelError, after which they must be opened anew."""

    name: str
    """What is behind them, in words."""

    def light(self, share: float) -> None:
        """0 dark, 1 lit, between: dim."""
        ...

    def pressed(self) -> bool: ...

    def turned(self) -> int:
        """Detents of the knob since the last call, clockwise positive."""
        ...

    def close(self) -> None:
        """Leave the LED dark; never raises."""
        ...


OpenPins = Callable[[PanelSettings], Pins]


def open_pins_for(settings: PanelSettings) -> OpenPins:
    """The one place that chooses what is behind the pins."""
    return FakePins if settings.backend == "fake" else PinsApart


class FakePins:
    """A shipped back-end for tests: ``press``, ``release`` and ``turn`` are the hand, ``log`` the eye, ``fail`` a bad
    joint."""

    def __init__(self, settings: PanelSettings) -> None:
        self.name = "nothing: simulated for tests"
        self.log: deque[tuple[float, float]] = deque(maxlen=10_000)
        """(monotonic time in s, brightness 0 to 1) at each change."""
        self.closed = False
        self._pressed = False
        self._turns: deque[int] = deque()
        self._broken = ""

    def press(self) -> None:
        self._pressed = True

    def release(self) -> None:
        self._pressed = False

    def turn(self, detents: int) -> None:
        """Clockwise positive."""
        self._turns.append(detents)

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

    def turned(self) -> int:
        if self._broken:
            raise PanelError(self._broken)
        return sum(self._turns.popleft() for _ in range(len(self._turns)))

    def close(self) -> None:
        self.log.append((time.monotonic(), 0.0))
        self.closed = True


class PinsApart:
    """Pins in a process of their own. A percentage goes over; back come "0" and "1", the button as it is, and "t3" or
    "t-3", the knob's detents since the last such message."""

    def __init__(self, settings: PanelSettings) -> None:
        """Raises PanelError if there is no GPIO, before any process is started for it if possible."""
        _look_for_gpio()
        folder = _pipe_folder()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        path = [entry or os.getcwd() for entry in sys.path]
        wires = dataclasses.asdict(wiring(settings))
        # It loads as an ordinary process (``ordinary_children``) and then goes on at this thread's priority: a button
        # pressed while the processor is busy must not be missed.
        priority = os.sched_getparam(0).sched_priority
        code = (
            f"import sys; sys.path[:] = {path!r}; from hw.board import gpio; "
            f"gpio.serve({theirs.fileno()}, {priority}, **{wires!r})"
        )
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
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
        self._detents = 0
        self._sent = b""
        self._received_s = time.monotonic()
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
                return  # full: the next tick tries again; or closed: the last message is for ``pressed`` to read
            self._sent = order

    def pressed(self) -> bool:
        self._receive_all()
        return self._pressed

    def turned(self) -> int:
        self._receive_all()
        detents, self._detents = self._detents, 0
        return detents

    def _receive_all(self) -> None:
        while message := self._receive():
            if message.startswith("t"):
                self._detents += int(message[1:])
            else:
                self._pressed = message == "1"
        if time.monotonic() - self._received_s > SILENCE_S:
            raise PanelError(f"the GPIO library hangs (no answer for {SILENCE_S:.0f} s)")

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
        self.name = self._receive()

    def _receive(self) -> str:
        """One message, or "" if there is none; raises PanelError with an error message, or if the process is gone."""
        try:
            message = self._link.recv(1024).decode(errors="replace")
        except BlockingIOError:
            return ""
        except ConnectionResetError:
            return self._receive()  # it closed before it had read everything; its own last message comes after this
        if not message:
            raise PanelError(self._end())
        if message.startswith("-"):
            raise PanelError(message[1:])
        self._received_s = time.monotonic()
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
    """What can be known without loading the library; raises PanelError with the fix."""
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
    """Where lgpio may put the named pipe it makes when it is loaded: the service's own folder in /run."""
    folder = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return folder if folder and os.access(folder, os.W_OK | os.X_OK) else tempfile.gettempdir()

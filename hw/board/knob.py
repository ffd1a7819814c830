"""The rotary encoder: levels of its two contacts -> detents. ``Decoder`` is pure, ``Contacts`` reads the pins.

Not gpiozero: its RotaryEncoder would bring another package and a second owner of the same chip (its pin factory, beside
the module RPi.GPIO that has LED and button), and over the package RPi.GPIO it, too, gets edges without levels and reads
the pins itself. What it would save is the table below.
"""

import contextlib
import math
import os
from typing import Any

CLOCKWISE = ((True, True), (False, True), (False, False), (True, False))
"""Levels of A and B through one detent: both contacts are open, so pulled high, at rest; turned clockwise, A closes
first (data sheets of the Alps EC11 and Bourns PEC11R with as many pulses as detents)."""
SAMPLE_S = 0.001
"""While the knob moves. At 20 detents a second a state lasts 12.5 ms, of which a contact bounces for up to 5 ms."""
MOVING_S = 0.1
"""After the last change the knob is taken to be still."""
REST_S = 0.02
"""While it is still, an edge wakes the reader; it looks this often in case one was lost."""
UNWATCHED_S = 0.002
"""How often it looks where there are no edges: the package RPi.GPIO needs a writable /sys for them."""


class Decoder:
    """A Gray-code decoder of 4 steps a detent.

    A detent counts at its end, at rest, after four legal steps one way. A bouncing contact goes a step and back; half a
    detent and back comes to nothing; where both levels changed at once the way is not known, and nothing counts until
    the knob rests again, as after power-on.
    """

    def __init__(self) -> None:
        self._place = 0
        self._steps = 0
        self._is_known = False

    def read(self, a_high: bool, b_high: bool) -> int:
        """One reading; returns 1 at the end of a detent clockwise, -1 at the end of one counter-clockwise, else 0."""
        place = CLOCKWISE.index((a_high, b_high))
        step = (place - self._place + 1) % 4 - 1
        self._place = place
        self._steps += step
        if step == 2:
            self._is_known = False
        if place != 0:
            return 0
        detent = self._steps // 4 if self._is_known else 0
        self._steps, self._is_known = 0, True
        return detent


class Contacts:
    """An encoder at two pins with pull-ups, over the module RPi.GPIO; its errors are left to the caller."""

    def __init__(self, gpio: Any, a: int, b: int) -> None:
        self._gpio, self._pins = gpio, (a, b)
        self._decoder = Decoder()
        self._levels: tuple[bool, bool] | None = None
        self._changed_s = -math.inf
        self._is_moving = False
        self._rest_s = REST_S
        for pin in self._pins:
            gpio.setup(pin, gpio.IN, pull_up_down=gpio.PUD_UP)
        self._edge = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            for pin in self._pins:
                gpio.add_event_detect(pin, gpio.BOTH, callback=self._wake)
        except Exception:  # RuntimeError, or lgpio's own
            self._rest_s = UNWATCHED_S

    @property
    def alarms(self) -> list[int]:
        """Descriptors that become readable at an edge; none while it moves, so that noise on a pin cannot hurry the
        reader beyond ``SAMPLE_S``."""
        return [] if self._is_moving else [self._edge]

    @property
    def wait_s(self) -> float:
        """The longest time to the next reading."""
        return SAMPLE_S if self._is_moving else self._rest_s

    def read(self, now_s: float) -> int:
        """Detents since the last reading, clockwise positive: -1, 0 or 1."""
        a, b = (bool(self._gpio.input(pin)) for pin in self._pins)
        if (a, b) != self._levels or self._was_woken():
            self._levels, self._changed_s = (a, b), now_s
        self._is_moving = now_s - self._changed_s < MOVING_S
        return self._decoder.read(a, b)

    def close(self) -> None:
        """After the library has given up the pins: it calls back until then."""
        os.close(self._edge)

    def _was_woken(self) -> bool:
        if self._is_moving:
            return False
        with contextlib.suppress(BlockingIOError):
            return os.eventfd_read(self._edge) > 0
        return False

    def _wake(self, _pin: int) -> None:
        """Called in the library's own thread."""
        os.eventfd_write(self._edge, 1)

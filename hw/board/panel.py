"""LED, button and knob: shows the box's state by one light (``hw.board.led``), takes orders by hand.

``Panel`` is the thread in the box's process; the pins are ``hw.board.pins``. Its states: off (nothing to do), opening
the pins, serving them, waiting ``RETRY_S`` after a failure; without a GPIO library it ends (unless one is required).
"""

import threading
import time
from collections.abc import Callable

from edge.realtime import ordinary_children
from hw.board.button import Button
from hw.board.led import LedPattern, brightness
from hw.board.pins import RETRY_S, NoLibrary, OpenPins, PanelError, PanelSettings, Pins, open_pins_for, wiring

TICK_S = 0.02
STUCK_S = 30.0
CALM_S = 60.0
"""After so long without a fault the same fault is reported again."""
JOIN_S = 0.8


class Panel:
    """The thread that reads the box's state 50 times a second, shows it, and reads button and knob."""

    def __init__(
        self,
        settings: PanelSettings,
        pattern: Callable[[], LedPattern],
        short: Callable[[], None],
        long: Callable[[], None],
        report: Callable[[str], None],
        open_pins: OpenPins | None = None,
        turn: Callable[[int], None] = lambda detents: None,
    ) -> None:
        """``pattern`` returns what to show, ``short`` and ``long`` take a press, ``turn`` the knob's detents (clockwise
        positive), ``report`` a journal sentence; all are called from the panel's thread and must not wait.
        ``open_pins`` replaces the back-end of the settings.
        """
        self.settings = settings
        self.pins: Pins | None = None
        """What is open now; with the fake back-end, what a test presses and reads."""
        self._pattern, self._short, self._long, self._report = pattern, short, long, report
        self._turn = turn
        self._lacking = "no LED and no button" if settings.knob == "off" else "no LED, no button and no knob"
        self._open_pins = open_pins or open_pins_for(settings)
        self._stopping = threading.Event()
        self._reported: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="panel", daemon=True)

    def start(self) -> None:
        if self.settings.backend != "off" and wiring(self.settings).pins:
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
                self._report_once(f"panel: {describe(self.settings)}, through {self.pins.name}")
                self._serve(self.pins)
            except NoLibrary as error:
                self._report_once(f"panel: {self._lacking}, {error}")
                if self.settings.backend == "auto":
                    return
            except PanelError as error:
                self._report_once(f"panel: {self._lacking}, {error}")
            except Exception as error:
                fault = f"{type(error).__name__}: {error}"
                self._report_once(f"panel: {self._lacking}, please report this fault ({fault})")
            finally:
                pins, self.pins = self.pins, None
                if pins is not None:
                    pins.close()
            self._stopping.wait(RETRY_S)

    def _serve(self, pins: Pins) -> None:
        """Show and read until ``stop``; raises PanelError when the pins fail."""
        button = Button(self.settings.long_press_ms)
        began_s = shown_s = time.monotonic()
        shown: LedPattern | None = None
        while not self._stopping.wait(TICK_S):
            now_s = time.monotonic()
            wanted = self._pattern()
            if wanted is not shown:
                shown, shown_s = wanted, now_s
            pins.light(brightness(wanted, now_s - shown_s))
            press = button.read(pins.pressed(), now_s)
            if press == "short":
                self._short()
            elif press == "long":
                self._long()
            if detents := pins.turned():
                self._turn(detents)
            if button.held_s(now_s) > STUCK_S:
                pin = self.settings.button
                self._report_once(
                    f"panel: the button on GPIO {pin} has been down for {STUCK_S:.0f} s; is it stuck or shorted?"
                )
            elif now_s - began_s > CALM_S:
                self._reported.clear()

    def _report_once(self, sentence: str) -> None:
        """Each fault once, not every ten seconds; on one line, whatever the library wrote."""
        sentence = " ".join(sentence.split())
        if sentence not in self._reported:
            self._reported.add(sentence)
            self._report(sentence)


def describe(settings: PanelSettings) -> str:
    """``LED on GPIO 17, button on GPIO 27``."""
    led = "no LED" if settings.led == "off" else f"LED on GPIO {settings.led}"
    button = "no button" if settings.button == "off" else f"button on GPIO {settings.button}"
    knob = (
        "" if settings.knob == "off" else f", {settings.knob} knob on GPIO {settings.knob_clk} and {settings.knob_dt}"
    )
    return f"{led}, {button}{knob}"

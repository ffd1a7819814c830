"""The knob: detents of a rotary encoder change volume or limit, whichever ``[panel] knob`` names."""

from collections import deque
from collections.abc import Callable

from edge import UserError
from edge.control import Control

STEP_DB = 1.5
"""A detent. One turn of a usual encoder has 20: half the volume's range."""
STILL_S = 1.0
"""A turn of the knob is over, and is reported, when it has been still for so long."""
MOST_WAITING = 64
"""Readings of the knob, 50 a second, between two looks of the main thread, 10 a second."""
BUSY = "the knob was ignored while settings were read or an engine was built; turn it again"


class Knob:
    """Obeys the knob at once and reports each turn of it once."""

    def __init__(self, control: Control, report: Callable[[str], None], complain: Callable[[str], None]) -> None:
        """``report`` takes what a turn came to, ``complain`` why it was not obeyed."""
        self._control, self._report, self._complain = control, report, complain
        self._waiting: deque[int] = deque(maxlen=MOST_WAITING)
        self._turned_s = 0.0
        self._to_report: Callable[[], None] | None = None

    def turned(self, detents: int) -> None:
        """Clockwise positive, which is up. From any thread; never waits."""
        self._waiting.append(detents)

    def take(self, now_s: float) -> bool:
        """Obey what has come, on the main thread; whether anything has. ``now_s`` is monotonic time."""
        detents = sum(self._waiting.popleft() for _ in range(len(self._waiting)))
        verb = self._control.box.latest.panel.knob
        if detents and verb != "off":
            self._turned_s = now_s
            self._obey(verb, detents)
        elif now_s - self._turned_s >= STILL_S:
            self.finish()
        return detents != 0

    def finish(self) -> None:
        """Report the turn that has not been reported."""
        report, self._to_report = self._to_report, None
        if report:
            report()

    def _obey(self, verb: str, detents: int) -> None:
        try:
            # Not kept for later: a volume that rises long after the hand has left the knob could hurt.
            words, tell = (
                (BUSY, self._complain) if self._control.is_busy() else (self._moved(verb, detents), self._report)
            )
        except UserError as error:
            words, tell = f"knob: {error}", self._complain
        self._to_report = lambda: tell(words)

    def _moved(self, verb: str, detents: int) -> str:
        return self._control.step(verb, detents * STEP_DB)

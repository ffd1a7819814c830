"""The push button: readings of a bouncing contact -> presses."""


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

"""A limit on a rate, with a burst."""

import time


class Budget:
    """A token bucket."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._left = burst
        self._at_s = time.monotonic()

    def left(self) -> float:
        """What may be spent now; negative after more was spent than there was."""
        now_s = time.monotonic()
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return self._left

    def spend(self, amount: float) -> None:
        self._left -= amount

    def take(self, amount: float = 1.0) -> bool:
        """Spend it if it is there."""
        if self.left() < amount:
            return False
        self._left -= amount
        return True

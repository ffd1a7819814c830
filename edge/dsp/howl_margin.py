"""How much lower than normal the box plays, and why."""

from edge import HOP_MS
from edge.dsp.howl_thresholds import HowlThresholds
from edge.dsp.thresholds import hops


class Margin:
    """The gain margin that remains after a feedback loop was found: the estimated path is never exact.

    Each event adds to it, minutes of quiet give it back, and a rest stays as long as the path is subtracted.
    """

    def __init__(self, limits: HowlThresholds) -> None:
        self._limits = limits
        self._hold, self._recent = hops(limits.hold_ms), hops(limits.recent_ms)
        self._release_db = limits.release_db_s * HOP_MS / 1000
        self._forget_db = limits.forget_db_s * HOP_MS / 1000
        self.reset()

    def reset(self) -> None:
        """No event yet."""
        self.db = 0.0
        """What the gain drop does not go below."""
        self._hold_hops = self._recent_hops = 0

    @property
    def event_is_recent(self) -> bool:
        """Whether the last event was less than ``recent_ms`` ago."""
        return self._recent_hops > 0

    def add_event(self) -> None:
        """Another feedback loop was found."""
        limits = self._limits
        self.db = min(max(self.db + limits.margin_step_db, limits.first_margin_db), limits.largest_margin_db)
        self._hold_hops, self._recent_hops = self._hold, self._recent

    def cover(self, path_db: float) -> None:
        """Soon after an event, at least the estimated path's own gain and a little more."""
        if self._recent_hops:
            limits = self._limits
            self.db = max(self.db, min(path_db + limits.above_path_db, limits.largest_margin_db))

    def age(self) -> None:
        """One hop, in any phase."""
        if self._recent_hops:
            self._recent_hops -= 1

    def release(self, gain_drop_db: float, subtracting: bool) -> float:
        """One hop without a test: the gain drop of the next one."""
        least_db = self._limits.least_margin_db if subtracting else 0.0
        self.db = max(least_db, self.db - self._forget_db)
        if self._hold_hops:
            self._hold_hops -= 1
        elif gain_drop_db > 0.0:
            return max(self.db, gain_drop_db - self._release_db)
        return gain_drop_db

"""The contract of an engine: what every noise suppressor must offer, and what it may.

The chain, the benchmark, the evaluation, the doctor and the servers know an engine by this class alone. Ours is
``suppress.mask.MaskEngine``; ``suppress.foreign.adapter.Adapter`` makes an engine of somebody else's network, and
``suppress.remote.RemoteEngine`` one of another machine.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping

from edge.dsp.spectrum import Floats

NEWS_KEPT = 16
"""Sentences that wait to be reported; the oldest give way."""


class Engine(ABC):
    """A hop of 80 samples at 16 kHz in, the cleaned hop out, ``delay_samples`` late, whatever happens inside.

    ``process`` runs on the audio thread: it does not allocate, log, lock, wait or raise. A failure inside is kept in
    ``failure`` and the next level of the fallback chain takes over within the same hop.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        """Why it is not what was asked for, one sentence each; known once it is opened."""
        self.news: deque[str] = deque(maxlen=NEWS_KEPT)
        """What has changed since, one sentence each, oldest first; whoever reports them removes them."""
        self.wet = 1.0
        """1 lets it work, 0 is bypass: the dry sound at the same delay."""

    # What it must offer.

    @property
    @abstractmethod
    def name(self) -> str:
        """The engine at work just now, as in the settings."""

    delay_samples: int
    """How far the output hop lies behind the input hop, at 16 kHz, the same on every level; set once it is opened."""

    @abstractmethod
    def process(self, hop: Floats) -> float:
        """Clean float32, 80 samples in place; returns the speech probability, 0..1, of what has just come in."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the signal, keep the level."""

    def restart(self) -> None:
        """As it was when opened, for another sound: the best level works, and nothing is left of the last sound."""
        if self.level:
            self.step_up()
        self.reset()
        self.failure = None
        self.wet = 1.0

    # What it may offer: a fallback chain.

    failure: Exception | None = None
    """The last exception inside; whoever reports it sets it back to None."""

    @property
    def level(self) -> int:
        """Which level of the fallback chain works: 0 is the best, each step down one more."""
        return 0

    @property
    def lowest(self) -> bool:
        """Whether there is no further level to fall back to."""
        return True

    def step_down(self) -> bool:
        """Let the next level work; False if there is none."""
        return False

    def step_up(self) -> None:  # noqa: B027  # an engine of one level has nothing to do
        """Try the best level again."""

    # What it may offer: a limit.

    @property
    def limit_db(self) -> float:
        """The most that noise is turned down; may be set between two hops and holds from the next one on."""
        return 0.0

    @limit_db.setter  # noqa: B027  # one without a limit need not keep it
    def limit_db(self, limit_db: float) -> None:
        """One without a limit has nothing to set."""

    # What it may offer: its gains.

    @property
    def band_gains(self) -> Floats | None:
        """Gains of the last hop in the 64 bands of ``edge.dsp.spectrum``, float32[64], 0..1; None where what works just
        now has none. The array is the engine's own, changed by the audio thread: copy it, never write to it."""
        return None

    # What it may offer: facts about its work.

    @property
    def burst_hops(self) -> int:
        """How many hops of sound one piece of its work is for: all of that work may come in one of them."""
        return 1

    @property
    def skipped(self) -> bool:
        """Whether its network had nothing to do in the last hop."""
        return False

    @property
    def invalid(self) -> int:
        """How often its result was invalid (NaN, infinite or absurdly loud), so that the dry sound passed instead."""
        return 0

    def counters(self) -> Mapping[str, int]:
        """Fields for the status file and the journal, counted since it was opened; the names are the fields' own."""
        return {}

    def close(self) -> None:  # noqa: B027  # most have nothing outside
        """Let go of what lies outside this process; the engine goes on without it."""

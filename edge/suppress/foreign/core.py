"""The contract of a third-party engine as it comes: blocks of its own length at its own rate.

``foreign.adapter`` makes an engine of the box of it. The module of an engine has two functions: ``open_core`` opens the
files that ``[suppress] model`` names, ``files`` says which those are.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from edge.dsp.spectrum import Floats


class Core(ABC):
    """Somebody's engine in blocks of ``block_samples``; what it raises is caught by the adapter."""

    name: str
    """As in the settings."""
    rate_hz: int
    block_samples: int
    """How many samples of that rate it takes at a time."""
    delay_samples: int
    """How far its output block lies behind its input block, in samples of that rate; without the block itself."""
    notes: Sequence[str] = ()
    """What the user should know of the files it runs, one sentence each."""

    @abstractmethod
    def process(self, block: Floats) -> float | None:
        """Clean float32, ``block_samples``, ±1.0, in place; speech probability 0..1, or None if it reports none."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the signal."""

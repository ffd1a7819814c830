"""Constants of a stage with their unit, meaning and source: the fields of one frozen dataclass a stage.

A source is one of

- "cited: ..." a publication or a standard,
- "derived: ..." follows from other constants, from physics or from a number format,
- "tuned: ..." on what, and the command that shows the effect,
- "chosen: ..." a design decision without a measurement of its own, and its reason.
"""

import dataclasses
from typing import Any

from edge import HOP_MS

SOURCES = ("cited: ", "derived: ", "tuned: ", "chosen: ")


def threshold(value: float, unit: str, meaning: str, source: str) -> Any:
    """One field of a dataclass of thresholds; ``unit`` is "1" for a ratio, a share or a probability."""
    assert source.startswith(SOURCES), source
    return dataclasses.field(default=value, metadata={"unit": unit, "meaning": meaning, "source": source})


def hops(time_ms: float) -> int:
    """The whole number of hops nearest to a time in ms."""
    return round(time_ms / HOP_MS)

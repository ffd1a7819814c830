"""Everything that an object of ours holds, by path: to show that a setting changes what is built from it."""

import hashlib
from collections import deque
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from edge.config import SECTIONS, Config

SETTINGS = (Config, *SECTIONS.values())
PLAIN = (str, bytes, int, float, complex, Path, Enum, type(None))


def snapshot(thing: object) -> dict[str, object]:
    """Path -> value of all that ``thing`` holds: numbers, names, digests of arrays, and what functions close over.

    Sections of the settings are left out: a stage that only keeps its section has not used it yet.
    """
    return dict(_walked(thing, "", set()))


def differing(one: dict[str, object], other: dict[str, object]) -> set[str]:
    """The paths at which two snapshots differ."""
    missing = object()
    return {path for path in one.keys() | other.keys() if one.get(path, missing) != other.get(path, missing)}


def _walked(thing: Any, path: str, seen: set[int]) -> Iterator[tuple[str, object]]:
    if isinstance(thing, SETTINGS):
        return
    if isinstance(thing, (np.ndarray, np.generic)):
        yield path, (thing.shape, str(thing.dtype), hashlib.blake2b(np.ascontiguousarray(thing)).hexdigest())
    elif isinstance(thing, PLAIN):
        yield path, thing
    elif id(thing) not in seen:
        seen.add(id(thing))
        yield path, type(thing).__name__
        for name, part in _parts(thing):
            yield from _walked(part, f"{path}.{name}", seen)


def _parts(thing: Any) -> Iterator[tuple[object, object]]:
    if isinstance(thing, dict):
        yield from thing.items()
    elif isinstance(thing, (set, frozenset)):
        yield from enumerate(sorted(thing, key=repr))
    elif isinstance(thing, (list, tuple, deque)):
        yield from enumerate(thing)
    elif callable(thing) and hasattr(thing, "__closure__"):
        yield from enumerate(cell.cell_contents for cell in thing.__closure__ or ())
    elif hasattr(thing, "__self__"):
        yield "self", thing.__self__
    elif type(thing).__module__.split(".")[0] in ("edge", "hw", "tests", "test_keys"):
        yield from sorted(vars(thing).items())
        for kind in type(thing).__mro__:
            for name in getattr(kind, "__slots__", ()):
                if hasattr(thing, name):
                    yield name, getattr(thing, name)

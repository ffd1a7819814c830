"""Records of the journal put where they belong in time.

A Pi has no clock of its own: until it has reached a time server it starts with a time of the past, 1970 or whatever
systemd or the last shutdown left, and often with the same one at every boot. CLOCK_MONOTONIC, which starts at power-on,
tells how the records of one boot follow each other; the order in the journal tells how the boots do.
"""

import itertools
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

LIMIT = 1e9
"""Larger figures cannot be measurements; drawn, they would flatten all others."""
CLOCK_SET_S = 1_767_225_600.0
"""2026-01-01, before the first record of a Quietbox: earlier times are of a clock that was never set."""
STEP_S = 60.0
"""A clock that moves by more against CLOCK_MONOTONIC was set; NTP corrects less than 0.5 ms a second without a step
(adjtimex(2))."""
EARLY_S = 3600.0
"""Within this time after power-on a clock that steps forward was wrong before. Later it may be right: CLOCK_MONOTONIC
stands still while a laptop is suspended."""
SAME_CLOCK_S = 120.0
"""Two boots that begin at the same time by their clocks have begun with the same wrong time."""
PAUSE_S = 3 * 86_400.0
"""After a longer pause a new part begins: on one axis the days would be too narrow to read."""
MOST_BOOTS = 300
"""So many of the newest are compared with each other."""


@dataclass(frozen=True)
class Entry:
    """One record of the box."""

    at_s: float
    """Unix time by the clock of the box; in an undated part, seconds since power-on."""
    event: str
    sentence: str
    priority: int
    fields: dict[str, str]
    """By the names of ``edge.journal.FIELDS``."""
    boot: str = ""
    """The machine and boot it comes from."""
    monotonic_s: float | None = None
    """Since power-on."""

    def figure(self, name: str) -> float:
        """A field as a number; nan where it is missing, no number, or beyond ``LIMIT``."""
        try:
            value = float(self.fields.get(name, "nan"))
        except ValueError:
            return math.nan
        return value if abs(value) <= LIMIT else math.nan


@dataclass
class Part:
    """Records that share one time axis, oldest first; never empty."""

    entries: list[Entry]
    dated: bool
    """Whether ``at_s`` is a time of day; else it counts from power-on."""

    @property
    def begin_s(self) -> float:
        """Where the axis begins."""
        return self.entries[0].at_s

    @property
    def end_s(self) -> float:
        """Where it ends, at least a minute later."""
        return max(self.entries[-1].at_s, self.begin_s + 60)

    @property
    def title(self) -> str:
        """The span, in words."""
        if self.dated:
            return f"{moment(self.begin_s)} to {moment(self.end_s)}"
        return f"a boot whose clock was not set, from {since_power_on(self.begin_s)} to {since_power_on(self.end_s)}"

    def when(self, entry: Entry) -> str:
        """The time of one record, in words."""
        return moment(entry.at_s) if self.dated else f"{since_power_on(entry.at_s)} after power-on"


@dataclass
class _Boot:
    """The records of one boot, in the order in which they happened."""

    entries: list[Entry]
    dated: bool = True
    clashes: set[int] = field(default_factory=set)
    """Numbers of the boots that it would overlap."""

    @property
    def machine(self) -> str:
        return self.entries[0].boot.partition("/")[0]

    @property
    def begin_s(self) -> float:
        return self.entries[0].at_s

    @property
    def end_s(self) -> float:
        return self.entries[-1].at_s

    @property
    def power_on_s(self) -> float:
        """By its clock."""
        return self.begin_s - (self.entries[0].monotonic_s or 0.0)


def parts(entries: Sequence[Entry]) -> list[Part]:
    """The records, given in the order of the journal, in parts: what has a date, oldest first, then each boot without
    one, in the order of the journal."""
    boots = [_in_order(boot) for boot in _by_boot(entries)]
    boots = [part for boot in boots for part in _without_unset(boot)]
    for _, of_one in itertools.groupby(sorted(boots, key=lambda boot: boot.machine), key=lambda boot: boot.machine):
        _find_wrong_clocks(list(of_one))
    dated = sorted((entry for boot in boots if boot.dated for entry in boot.entries), key=lambda entry: entry.at_s)
    return [*_at_pauses(dated), *(_undated(boot) for boot in boots if not boot.dated)]


def moment(at_s: float) -> str:
    """A date and time by the wall clock."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def since_power_on(seconds: float) -> str:
    """``1:05:30 h``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02} h"


def _by_boot(entries: Sequence[Entry]) -> list[list[Entry]]:
    """In the order of the journal, also where it was printed newest first (journalctl -r)."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.boot, []).append(entry)
    boots = list(found.values())
    turned = sum((boot[0].monotonic_s or 0) > (boot[-1].monotonic_s or 0) for boot in boots)
    return boots[::-1] if turned * 2 > len(boots) else boots


def _in_order(entries: list[Entry]) -> _Boot:
    """One boot with the times that its clock should have shown before it was set."""
    if any(entry.monotonic_s is None for entry in entries):
        by_clock = sorted(entries, key=lambda entry: entry.at_s)
        return _Boot([replace(entry, monotonic_s=None) for entry in by_clock])
    ordered = sorted(entries, key=lambda entry: entry.monotonic_s or 0.0)
    placed = ordered[-1:]
    right_s = _offset_s(ordered[-1])
    for entry, later in zip(ordered[-2::-1], ordered[:0:-1], strict=True):
        step_s = right_s - _offset_s(entry)
        was_wrong = step_s < 0 or entry.at_s < CLOCK_SET_S or (later.monotonic_s or 0.0) < EARLY_S
        if abs(step_s) > STEP_S and was_wrong:
            placed.append(replace(entry, at_s=right_s + (entry.monotonic_s or 0.0)))
        else:
            right_s -= step_s
            placed.append(entry)
    return _Boot(placed[::-1])


def _offset_s(entry: Entry) -> float:
    """The time of power-on by the clock at that record."""
    return entry.at_s - (entry.monotonic_s or 0.0)


def _without_unset(boot: _Boot) -> Iterable[_Boot]:
    """Records from before ``CLOCK_SET_S`` apart; they are a whole boot, unless the boot's number is missing."""
    early = [entry for entry in boot.entries if entry.at_s < CLOCK_SET_S]
    late = [entry for entry in boot.entries if entry.at_s >= CLOCK_SET_S]
    if early:
        yield _Boot(early, dated=False)
    if late:
        yield _Boot(late)


def _find_wrong_clocks(boots: list[_Boot]) -> None:
    """Of one machine's boots in their order, mark as undated those whose clock cannot be right: they would have run
    before an earlier or after a later one. The others are the chain of boots with the most records."""
    dated = [boot for boot in boots if boot.dated and boot.entries[0].boot][-MOST_BOOTS:]
    for number, boot in enumerate(dated):
        for before, earlier in enumerate(dated[:number]):
            if boot.begin_s < earlier.end_s - STEP_S:
                boot.clashes.add(before)
                earlier.clashes.add(number)
    for boot in dated:
        same = (dated[other] for other in boot.clashes)
        if any(abs(boot.power_on_s - other.power_on_s) < SAME_CLOCK_S for other in same):
            boot.dated = False
    chain = _heaviest_chain([boot for boot in dated if boot.dated])
    for boot in dated:
        boot.dated = boot.dated and any(boot is one for one in chain)


def _heaviest_chain(boots: list[_Boot]) -> list[_Boot]:
    """The boots that follow each other without overlap and have the most records together."""
    best: list[tuple[int, int]] = []
    """(records in the best chain that ends here, number of the boot before it)"""
    for number, boot in enumerate(boots):
        before = [(best[other][0], other) for other in range(number) if boots[other].end_s - STEP_S <= boot.begin_s]
        most, other = max(before, default=(0, -1))
        best.append((most + len(boot.entries), other))
    chain = []
    at = max(range(len(best)), key=lambda number: best[number][0], default=-1)
    while at >= 0:
        chain.append(boots[at])
        at = best[at][1]
    return chain


def _at_pauses(dated: list[Entry]) -> list[Part]:
    found: list[Part] = []
    for entry in dated:
        if not found or entry.at_s - found[-1].entries[-1].at_s > PAUSE_S:
            found.append(Part([], dated=True))
        found[-1].entries.append(entry)
    return found


def _undated(boot: _Boot) -> Part:
    """Times counted from power-on; from the first record where the journal's export lacks them."""
    first_s = boot.entries[0].at_s
    return Part(
        [
            replace(entry, at_s=entry.at_s - first_s if entry.monotonic_s is None else entry.monotonic_s)
            for entry in boot.entries
        ],
        dated=False,
    )

"""Records of boots without a clock are put where they belong, or apart: the day stays readable."""

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.tools.reports import journal_reader
from edge.tools.reports.report_page import PARTS_SHOWN, page
from edge.tools.reports.timeline import Entry, Part, parts

DAY_S = 1_795_000_000.0
EPOCH_S = 1_740_000_000.0
"""What systemd sets a clock to that stands before systemd's own release (TIME_EPOCH): still no right time."""
MINUTES = 30


def boot(name: str, power_on_s: float, minutes: int = MINUTES, unset: int = 0, wrong_s: float = 0.0) -> list[Entry]:
    """A record a minute from a minute after power-on on; the clock of the first ``unset`` began at ``wrong_s``."""
    return [
        Entry(
            (wrong_s if minute <= unset else power_on_s) + 60 * minute,
            "statistics" if minute > 1 else "start",
            f"{name}{minute}",
            6,
            {"seconds": "60", "temperature_c": "50"},
            f"machine/{name}",
            60.0 * minute,
        )
        for minute in range(1, minutes + 1)
    ]


def spans(found: list[Part]) -> list[tuple[bool, float, float, int]]:
    return [(part.dated, part.begin_s, part.end_s, len(part.entries)) for part in found]


def right(*boots: list[Entry]) -> list[tuple[bool, float, float, int]]:
    """One part with all of these."""
    every = [entry for each in boots for entry in each]
    return [(True, every[0].at_s, every[-1].at_s, len(every))]


@pytest.mark.parametrize("wrong_s", [0.0, 86_400.0, EPOCH_S, DAY_S - 3e6, DAY_S - 300, DAY_S + 9e8])
@pytest.mark.parametrize("unset", [1, 5, MINUTES - 1])
def test_what_was_recorded_before_the_clock_was_set_moves_to_its_time(wrong_s: float, unset: int) -> None:
    set_later = boot("b", DAY_S, unset=unset, wrong_s=wrong_s)
    before, after = boot("a", DAY_S - 86_400), boot("c", DAY_S + 86_400)
    assert spans(parts(before + set_later + after)) == right(before, boot("b", DAY_S), after)
    (only,) = parts(set_later)
    assert [entry.at_s for entry in only.entries] == [entry.at_s for entry in boot("b", DAY_S)]


def test_a_boot_without_any_clock_is_a_part_of_its_own() -> None:
    first, last = boot("a", DAY_S), boot("c", DAY_S + 7200)
    found = parts(first + boot("b", 0.0, minutes=90) + last)
    assert spans(found) == [*right(first, last), (False, 60.0, 5400.0, 90)]
    assert found[1].title == "a boot whose clock was not set, from 0:01:00 h to 1:30:00 h"
    assert found[1].when(found[1].entries[4]) == "0:05:00 h after power-on"


def test_boots_that_all_begin_at_the_same_wrong_time_are_apart() -> None:
    """A box without a network: systemd gives each boot the same time."""
    plausible_s = DAY_S - 3e6
    boots = [boot(name, plausible_s, minutes=minutes) for name, minutes in (("a", 40), ("b", 200), ("c", 3))]
    found = parts([entry for each in boots for entry in each])
    assert [(part.dated, len(part.entries)) for part in found] == [(False, 40), (False, 200), (False, 3)]
    found = parts([entry for each in [boot("z", DAY_S - 9e6), *boots, boot("d", DAY_S)] for entry in each])
    assert [part.dated for part in found] == [True, True, False, False, False]


@pytest.mark.parametrize("wrong_s", [DAY_S - 86_400, DAY_S + 9e8])
def test_a_boot_out_of_order_is_the_wrong_one(wrong_s: float) -> None:
    day = [boot(name, DAY_S + 7200 * number, minutes=60) for number, name in enumerate("abcd")]
    wrong = boot("w", wrong_s, minutes=45)
    found = parts([entry for each in (*day[:2], wrong, *day[2:]) for entry in each])
    assert spans(found) == [*right(*day), (False, 60.0, 2700.0, 45)]


def test_newest_first_is_the_same_day() -> None:
    """journalctl -r."""
    records = boot("a", DAY_S) + boot("b", 0.0) + boot("c", DAY_S + 7200, unset=3)
    assert parts(records[::-1]) == parts(records)


def test_a_suspended_laptop_keeps_its_times() -> None:
    """CLOCK_MONOTONIC stands still meanwhile."""
    awake = boot("a", DAY_S, minutes=90)
    slept = [replace(entry, at_s=entry.at_s + 8 * 3600) if number > 75 else entry for number, entry in enumerate(awake)]
    (part,) = parts(slept)
    assert part.entries == slept


def test_two_machines_may_run_at_the_same_time() -> None:
    other = [replace(entry, boot=f"other/{entry.boot}") for entry in boot("b", DAY_S + 300)]
    (part,) = parts(boot("a", DAY_S) + other)
    assert len(part.entries) == 2 * MINUTES


def test_an_export_without_boots_is_split_by_its_times() -> None:
    records = [replace(entry, boot="", monotonic_s=None) for entry in boot("a", 0.0) + boot("b", DAY_S)]
    assert spans(parts(records)) == [
        (True, DAY_S + 60, DAY_S + 60 * MINUTES, MINUTES),
        (False, 0.0, 60.0 * (MINUTES - 1), MINUTES),
    ]


def test_a_long_pause_begins_a_new_part() -> None:
    """A box that was in a drawer for a month."""
    first, last = boot("a", DAY_S), boot("b", DAY_S + 30 * 86_400)
    assert spans(parts(first + last)) == [*right(first), *right(last)]


def test_the_page_shows_the_day_and_each_part_by_itself() -> None:
    drawn = page(boot("a", DAY_S) + boot("b", 0.0) + boot("c", DAY_S + 7200, unset=3))
    assert drawn.count("<h1>") == 2 and drawn.count("<h2>Temperature") == 2 and drawn.count("<h2>Events") == 2
    assert "<h1>A boot whose clock was not set, from 0:01:00 h to 0:30:00 h</h1>" in drawn
    assert "<td>0:01:00 h after power-on</td>" in drawn and ">0:10 h</text>" in drawn
    assert "<th>Starts</th><td>3 in 3 boots</td>" in drawn and "1970" not in drawn


def test_the_number_of_parts_on_a_page_is_bounded() -> None:
    many = [entry for number in range(40) for entry in boot(f"b{number}", 0.0, minutes=2)]
    drawn = page(many + boot("a", DAY_S))
    assert drawn.count("<h1>") == PARTS_SHOWN and "<p>33 earlier parts are not drawn.</p>" in drawn


def test_thousands_of_boots_take_seconds() -> None:
    random.seed(3)
    boots = [boot(f"b{number}", DAY_S + random.uniform(-9e6, 9e6), minutes=3) for number in range(5000)]
    began = time.monotonic()
    assert sum(len(part.entries) for part in parts([entry for each in boots for entry in each])) == 15_000
    assert time.monotonic() - began < 30


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.builds(
            Entry,
            st.floats(-1e10, 1e10),
            st.just("statistics"),
            st.just("x"),
            st.just(6),
            st.just({"queue_ms": "3"}),
            st.sampled_from(["", "a/1", "a/2", "b/1"]),
            st.none() | st.floats(0, 1e7),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_no_record_is_lost_and_every_part_is_in_order(records: list[Entry]) -> None:
    found = parts(records)
    assert sum(len(part.entries) for part in found) == len(records)
    for part in found:
        times = [entry.at_s for entry in part.entries]
        assert times == sorted(times) and part.begin_s < part.end_s


def raw(records: list[Entry]) -> list[dict[str, str]]:
    """As the journal's reader gives them, newest first."""
    return [
        {
            "__REALTIME_TIMESTAMP": str(int(entry.at_s * 1e6)),
            "__MONOTONIC_TIMESTAMP": str(int((entry.monotonic_s or 0) * 1e6)),
            "_BOOT_ID": entry.boot,
            "MESSAGE": entry.sentence,
        }
        for entry in records[::-1]
    ]


def test_the_last_hours_have_what_was_recorded_without_a_clock() -> None:
    """Between others, and at the begin of the oldest boot; what is really older stays out."""
    old, first = boot("o", DAY_S - 86_400), boot("a", DAY_S, minutes=60, unset=10)
    between, last = boot("b", 0.0), boot("c", DAY_S + 7200)
    journal = raw(old + first + between + last)

    def since(at_s: float) -> list[str]:
        return [record["MESSAGE"] for record in journal_reader._since(iter(journal), at_s)][::-1]

    whole = [entry.sentence for entry in first + between + last]
    assert since(DAY_S - 3600) == whole
    assert since(DAY_S + 300) == whole[4:], "of those without a clock, too"
    assert since(DAY_S + 2400) == whole[39:]
    assert since(DAY_S + 7200) == [entry.sentence for entry in last]
    assert since(0.0) == [entry.sentence for entry in old] + whole

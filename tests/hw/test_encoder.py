"""The rotary encoder: every detent counts once, whatever its contacts do, and nothing else counts."""

import bisect
import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.board.knob import CLOCKWISE, MOVING_S, REST_S, SAMPLE_S, UNWATCHED_S, Contacts, Decoder

BOUNCE_S = 0.005
"""The longest that data sheets of such encoders allow is 2 to 5 ms (Alps EC11: 3, Bourns PEC11R: 5)."""
STATE_S = 1 / 20 / 4
"""At 20 detents a second."""

Levels = tuple[bool, bool]


def decoded(levels: list[Levels]) -> list[int]:
    decoder = Decoder()
    return [detent for level in levels if (detent := decoder.read(*level))]


def walk(quarters: list[int], start: int = 0) -> list[Levels]:
    """The levels after each quarter step, +1 clockwise, beginning with ``start``."""
    places = [start]
    for quarter in quarters:
        places.append((places[-1] + quarter) % 4)
    return [CLOCKWISE[place] for place in places]


def test_one_detent_each_way_and_half_of_one_and_back() -> None:
    assert decoded(walk([1] * 4)) == [1]
    assert decoded(walk([-1] * 4)) == [-1]
    for part in (1, 2, 3):
        assert decoded(walk([1] * part + [-1] * part)) == []
        assert decoded(walk([-1] * part + [1] * part)) == []
    assert decoded(walk([1, 1, -1, -1, -1, -1, -1, -1])) == [-1]


@given(st.lists(st.sampled_from([-1, 1]), max_size=30), st.data())
def test_a_contact_that_bounces_adds_nothing_and_takes_nothing(detents: list[int], data: st.DataObject) -> None:
    levels = walk([])
    for before, after in pairwise(walk([detent for detent in detents for _ in range(4)])):
        levels += [(before, after)[bounced] for bounced in data.draw(st.lists(st.booleans(), max_size=6))]
        levels.append(after)
    assert decoded(levels) == detents


@given(st.integers(0, 3), st.lists(st.sampled_from([-1, 1]), max_size=200))
def test_from_any_state_at_power_on_the_detents_are_those_completed_after_the_first_rest(
    start: int, quarters: list[int]
) -> None:
    place, rest, expected = start, 0 if start == 0 else None, []
    for quarter in quarters:
        place += quarter
        if place % 4 == 0:
            if rest is not None and place != rest:
                expected.append((place - rest) // 4)
            rest = place
    assert decoded(walk(quarters, start)) == expected


@given(st.lists(st.sampled_from(CLOCKWISE), max_size=300))
def test_noise_counts_no_detent_that_was_not_walked_through_step_by_step(levels: list[Levels]) -> None:
    decoder, path = Decoder(), []
    for level in levels:
        path.append(level)
        if detent := decoder.read(*level):
            steps = [level for level, following in zip(path, [*path[1:], None], strict=True) if level != following]
            assert set(path) == set(CLOCKWISE)
            assert steps[-2] == CLOCKWISE[-detent]
        if level == CLOCKWISE[0]:
            path = [level]


def test_both_levels_at_once_are_not_believed_until_the_knob_rests() -> None:
    both, at_rest = [CLOCKWISE[2]], [CLOCKWISE[0]]
    assert decoded(at_rest + both + at_rest + both + at_rest) == []
    assert decoded(at_rest + both + [CLOCKWISE[3]] + at_rest) == []
    assert decoded(at_rest + both + [CLOCKWISE[3]] + at_rest + walk([1] * 4)) == [1]


class Library:
    """The module RPi.GPIO in a world where ``level(pin, now)`` is known at any time."""

    IN, PUD_UP, BOTH = 1, 22, 33

    def __init__(self, level: Callable[[int, float], bool], has_edges: bool) -> None:
        self.level, self.has_edges = level, has_edges
        self.now_s = 0.0
        self.callbacks: list[Callable[[int], None]] = []

    def setup(self, _pin: int, _way: int, pull_up_down: int) -> None:
        assert pull_up_down == self.PUD_UP

    def add_event_detect(self, _pin: int, _edge: int, callback: Callable[[int], None]) -> None:
        if not self.has_edges:
            raise RuntimeError("Failed to add edge detection")
        self.callbacks.append(callback)

    def input(self, pin: int) -> bool:
        return self.level(pin, self.now_s)


def turning(detents: list[int], rng: random.Random) -> tuple[Callable[[int, float], bool], list[float]]:
    """Contacts on pins 0 and 1 turned at full speed from 1 s on, the one that changes bouncing; and when it changes."""
    states = walk([detent for detent in detents for _ in range(4)])
    changes_s = [1 + STATE_S * (index + rng.uniform(-0.15, 0.15)) for index in range(len(states) - 1)]
    bounces_s = [sorted(rng.uniform(0, BOUNCE_S) for _ in range(2 * rng.randrange(4))) for _ in changes_s]

    def level(pin: int, now_s: float) -> bool:
        index = bisect.bisect(changes_s, now_s)
        if index == 0:
            return states[0][pin]
        since_s = now_s - changes_s[index - 1]
        is_back = bisect.bisect(bounces_s[index - 1], since_s) % 2
        return states[index - is_back][pin]

    edges_s = [
        change_s + bounce_s
        for change_s, bounces in zip(changes_s, bounces_s, strict=True)
        for bounce_s in (0.0, *bounces)
    ]
    return level, [*sorted(edges_s), math.inf]


@pytest.mark.parametrize("has_edges", [True, False])
@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([-1, 1]), min_size=1, max_size=8), st.integers(0, 2**32))
def test_no_detent_is_lost_or_doubled_at_20_a_second(has_edges: bool, detents: list[int], seed: int) -> None:
    rng = random.Random(seed)
    level, edges_s = turning(detents, rng)
    gpio = Library(level, has_edges)
    contacts = Contacts(gpio, 0, 1)
    found, readings_at_rest, ended_s = [], 0, 1 + STATE_S * 4 * len(detents) + 0.3
    while gpio.now_s < ended_s:
        if detent := contacts.read(gpio.now_s):
            found.append(detent)
        readings_at_rest += gpio.now_s < 0.9
        wait_s = contacts.wait_s * rng.uniform(1, 2)  # the system is late
        edge_s = edges_s[bisect.bisect(edges_s, gpio.now_s)]
        if has_edges and edge_s < gpio.now_s + wait_s:
            for callback in gpio.callbacks:
                callback(0)
            wait_s = edge_s - gpio.now_s + rng.uniform(0, 0.003) if contacts.alarms else wait_s
        gpio.now_s += wait_s
    assert found == detents
    slowest_s, first = (REST_S if has_edges else UNWATCHED_S), MOVING_S / SAMPLE_S
    assert readings_at_rest < 0.9 / slowest_s + first + 2, "a knob at rest costs next to nothing"
    contacts.close()


def test_an_oscillating_pin_wakes_the_reader_no_oftener_than_it_samples() -> None:
    gpio = Library(lambda pin, now_s: True, has_edges=True)
    contacts = Contacts(gpio, 0, 1)
    contacts.read(0.0)
    contacts.read(1.0)
    assert contacts.alarms and contacts.wait_s == REST_S
    gpio.callbacks[0](0)
    contacts.read(1.01)
    assert not contacts.alarms and contacts.wait_s == SAMPLE_S
    contacts.close()

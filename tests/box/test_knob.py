"""The knob at a box: volume or limit follow it at once, and the journal has one line a turn."""

from dataclasses import replace

import pytest
from boxes import SETTINGS

from edge import knob
from edge.box import Box
from edge.config import Config, PanelConfig
from edge.control import Control
from edge.knob import Knob


class Desk:
    """A knob at a box that does not run."""

    def __init__(self, wanted: str, settings: Config = SETTINGS) -> None:
        self.said: list[str] = []
        self.refused: list[str] = []
        self.is_busy = False
        self.box = Box(replace(settings, panel=PanelConfig(knob=wanted)))
        control = Control(
            self.box, self.said.append, self.refused.append, lambda work: work(), is_busy=lambda: self.is_busy
        )
        self.knob = Knob(control, self.said.append, self.refused.append)


def test_the_volume_follows_and_a_turn_is_one_line() -> None:
    desk = Desk("volume")
    began_db = desk.box.latest.playback.volume_db
    now_s = 100.0
    for _ in range(10):
        desk.knob.turned(-1)
        assert desk.knob.take(now_s)
        now_s += 0.3
    assert desk.box.latest.playback.volume_db == began_db - 15
    assert not desk.said
    assert not desk.knob.take(now_s + knob.STILL_S)
    assert not desk.knob.take(now_s + 2 * knob.STILL_S)
    assert desk.said == [f"volume {began_db - 15:g} dB"]
    desk.knob.turned(2)
    desk.knob.take(200)
    desk.knob.finish()  # the box stops
    assert desk.said[1:] == [f"volume {began_db - 12:g} dB"]


def test_the_knob_can_be_that_of_the_limit_and_changes_nothing_else() -> None:
    desk = Desk("limit")
    before = desk.box.latest
    desk.knob.turned(2)
    desk.knob.turned(-4)
    desk.knob.take(0)
    wanted = before.suppress.limit_db - 3
    assert desk.box.latest == replace(before, suppress=replace(before.suppress, limit_db=wanted))


@pytest.mark.parametrize(("wanted", "low_db", "high_db"), [("volume", -60, 0), ("limit", 0, 100)])
def test_it_stops_at_the_range_of_the_setting(wanted: str, low_db: float, high_db: float) -> None:
    desk = Desk(wanted)
    found = []
    for detents in (200, -200):
        desk.knob.turned(detents)
        desk.knob.take(0)
        found.append((desk.box.latest.playback.volume_db, desk.box.latest.suppress.limit_db)[wanted == "limit"])
    assert found == [high_db, low_db]


def test_a_turn_while_an_engine_is_built_is_not_kept_for_later() -> None:
    desk = Desk("volume")
    before = desk.box.latest
    desk.is_busy = True
    desk.knob.turned(9)
    desk.knob.take(0)
    desk.is_busy = False
    desk.knob.take(knob.STILL_S)
    assert desk.box.latest == before
    assert desk.refused == [knob.BUSY] and not desk.said


def test_a_volume_that_there_is_not_is_named_once_a_turn() -> None:
    desk = Desk("volume", replace(SETTINGS, playback=replace(SETTINGS.playback, device="off")))
    for _ in range(5):
        desk.knob.turned(1)
        desk.knob.take(0)
    desk.knob.take(knob.STILL_S)
    assert len(desk.refused) == 1 and "full level" in desk.refused[0]


def test_without_a_knob_nothing_turns() -> None:
    desk = Desk("off")
    before = desk.box.latest
    desk.knob.turned(1)
    desk.knob.take(0)
    desk.knob.finish()
    assert desk.box.latest == before and not desk.said and not desk.refused

"""Orders to a running box: the words, the FIFO, what they do to the sound, and what is kept for the next start."""

import os
import stat
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from boxes import SETTINGS, Rig

import edge.box
from edge import config_edit, config_file, orders, runtime
from edge.box import Box
from edge.config import Config
from edge.control import MOST_WAITING, Control
from edge.engines import CHOICES
from edge.files import toml_edit
from edge.orders import BadOrder, Fifo, NotObeyed, Order
from edge.tools import ordering


@pytest.mark.parametrize(
    ("line", "order"),
    [
        ("bypass on", Order("bypass", "on")),
        ("bypass", Order("bypass", "toggle")),
        ("  mute   off  #0123abcd  ", Order("mute", "off", "0123abcd")),
        ("volume -20", Order("volume", -20.0)),
        ("volume up", Order("volume", "up")),
        ("limit 30.5 #f", Order("limit", 30.5, "f")),
        ("engine rnn", Order("engine", "rnn")),
    ],
)
def test_a_line_is_an_order(line: str, order: Order) -> None:
    assert orders.parse(line) == order
    assert orders.parse(str(order)) == replace(order, token="")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "there are: bypass, mute, limit, volume, engine"),
        ("reboot now", "'reboot now' is not an order"),
        ("bypass on please", "is not an order"),
        ("bypass maybe", "'maybe' is not an order; say one of: on, off, toggle"),
        ("volume", "takes a number from -60 to 0 dB"),
        ("volume 3", "is not a number from -60 to 0 dB"),
        ("volume nan", "is not a number"),
        ("volume inf", "is not a number"),
        ("volume 1e999", "is not a number"),
        ("volume " + "9" * 150, "is not a number"),
        ("volume \u0663", "is not a number"),
        ("limit 101", "is not a number from 0 to 100 dB"),
        ("limit up", "takes a number"),
        ("engine", "engine alone is not an order"),
        ("engine /etc/passwd", "'/etc/passwd' is not an order"),
        ("\x1b[2Jbypass on", r"\x1b[2J"),
        ("bypass on #" + "a" * 33, "is not an order"),
        ("bypass on" + " " * orders.MOST_LINE_BYTES, "is not an order"),
    ],
)
def test_what_is_no_order_is_named_in_printable_words(line: str, named: str) -> None:
    with pytest.raises(BadOrder) as refusal:
        orders.parse(line)
    assert named in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 300


def put(path: Path, data: bytes) -> None:
    end = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.write(end, data)
    os.close(end)


def test_the_fifo_takes_lines_however_they_are_cut(tmp_path: Path) -> None:
    fifo = Fifo(tmp_path)
    assert fifo.lines() == []
    put(fifo.path, b"bypass on\nmu")
    assert fifo.lines() == ["bypass on"]
    assert fifo.lines() == []
    put(fifo.path, b"te on\n\n \nvolume \xff\n")
    assert fifo.lines() == ["mute on", "volume \ufffd"]
    fifo.close()
    assert not fifo.path.exists()


def test_a_flood_costs_bounded_memory_and_no_order_after_it(tmp_path: Path) -> None:
    fifo = Fifo(tmp_path)
    for _ in range(40):
        put(fifo.path, b"x" * orders.MOST_BYTES_AT_ONCE)
        assert fifo.lines() == []
        assert len(fifo._rest) <= orders.MOST_LINE_BYTES + 1
    put(fifo.path, b"\nbypass on\n")
    long, order = fifo.lines()
    with pytest.raises(BadOrder):
        orders.parse(long)
    assert orders.parse(order) == Order("bypass", "on")


def test_root_and_the_group_may_write_and_nobody_else(tmp_path: Path) -> None:
    path = Fifo(tmp_path).path
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o620


@pytest.mark.parametrize("left", ["file", "link", "fifo"])
def test_what_another_process_left_is_replaced_and_what_a_link_leads_to_stays(tmp_path: Path, left: str) -> None:
    path, other = tmp_path / orders.NAME, tmp_path / "other"
    other.write_text("mine")
    {"file": lambda: path.write_text("x"), "link": lambda: path.symlink_to(other), "fifo": lambda: os.mkfifo(path)}[
        left
    ]()
    fifo = Fifo(tmp_path)
    put(fifo.path, b"mute\n")
    assert fifo.lines() == ["mute"]
    assert other.read_text() == "mine"


class Desk:
    """Somebody who obeys orders at a box that does not run."""

    def __init__(self, config: Config = SETTINGS) -> None:
        self.reported: list[str] = []
        self.refused: list[str] = []
        self.later: list[Callable[[], None]] = []
        self.box = Box(config)
        self.control = Control(
            self.box, self.reported.append, self.refused.append, self.later.append, lambda: bool(self.later)
        )

    def work(self) -> None:
        self.later[0]()
        self.later.clear()


def test_orders_are_obeyed_in_their_order_and_answered() -> None:
    desk = Desk()
    assert desk.control.take(["bypass #1", "mute on #2", "mute toggle #3", "volume -20 #4", "volume up #5", "limit 9"])
    assert desk.reported == ["bypass on", "mute on", "mute off", "volume -20 dB", "volume -17 dB", "limit 9 dB"]
    assert [answer["token"] for answer in desk.control.answers] == ["1", "2", "3", "4", "5", ""]
    assert all(answer["done"] for answer in desk.control.answers)
    assert desk.box.bypass and not desk.box.muted
    assert (desk.box.latest.playback.volume_db, desk.box.latest.suppress.limit_db) == (-17, 9)
    assert not desk.control.take([])


@pytest.mark.parametrize(("way", "edge_db"), [("up", 0.0), ("down", -60.0)])
def test_steps_end_at_the_range_of_the_setting(way: str, edge_db: float) -> None:
    desk = Desk()
    desk.control.take([f"volume {way}"] * 25)
    assert desk.box.latest.playback.volume_db == edge_db


def test_a_refusal_reaches_whoever_asked(tmp_path: Path) -> None:
    desk = Desk()
    assert desk.control.take(["volume 7 #abc", "bypass on"])
    first, second = desk.control.answers
    assert (first["token"], first["done"], second["done"]) == ("abc", False, True)
    assert "from -60 to 0 dB" in first["answer"]
    assert len(desk.refused) == 1


def test_a_box_without_headphones_has_no_volume() -> None:
    desk = Desk(replace(SETTINGS, playback=replace(SETTINGS.playback, device="off")))
    desk.control.take(["volume -20"])
    assert not desk.control.answers[0]["done"]
    assert "full level" in desk.control.answers[0]["answer"]


def test_orders_wait_while_an_engine_is_built_and_too_many_are_refused() -> None:
    desk = Desk()
    desk.control.take(["engine dsp #1", "bypass on"])
    assert not desk.control.answers
    desk.control.take(["mute on"] * (MOST_WAITING + 5))
    assert len(desk.refused) == 6  # the bypass waits, too
    desk.work()
    assert desk.control.take([])
    assert desk.reported[:2] == ["engine dsp", "bypass on"]
    assert desk.box.latest.suppress.engine == "dsp"


def test_an_engine_that_cannot_be_opened_is_refused_and_the_old_one_stays() -> None:
    desk = Desk(replace(SETTINGS, suppress=replace(SETTINGS.suppress, model="/nowhere")))
    desk.control.take(["engine network #1"])
    desk.work()
    answer = desk.control.answers[0]
    assert not answer["done"]
    assert "/nowhere" in answer["answer"]
    assert desk.box.latest.suppress.engine == "off"


@pytest.mark.parametrize("engine", CHOICES)
def test_every_engine_can_be_named(engine: str) -> None:
    assert orders.parse(f"engine {engine}").value == engine


def test_volume_and_limit_change_within_200_ms_and_without_a_click(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sound goes on: no fade, no other chain, no step from sample to sample above that of the noise itself."""
    monkeypatch.setattr(edge.box, "LATE_LOAD_LIMIT", float("inf"))  # a busy machine is not what this is about
    noisy = replace(SETTINGS, suppress=replace(SETTINGS.suppress, engine="dsp"))
    rig = Rig(replace(noisy, cable=replace(noisy.cable, device="off")), seconds=4)
    chain = rig.box.chain
    control = Control(rig.box, lambda _: None, lambda _: None, lambda work: work(), lambda: False)
    rig.at[2.0] = lambda: control.take(["limit 0"]) and None
    rig.at[3.0] = lambda: control.take(["volume -30"]) and None
    played = rig.walk()
    assert rig.box.chain is chain
    second = 48_000

    def level_dbfs(begin_s: float, end_s: float) -> float:
        return float(10 * np.log10(np.mean(played[round(begin_s * second) : round(end_s * second)] ** 2)))

    before, open_wide, quiet = level_dbfs(1.5, 1.95), level_dbfs(2.3, 2.95), level_dbfs(3.3, 3.9)
    assert before < open_wide - 6
    assert quiet == pytest.approx(open_wide - 30, abs=1)
    steps = np.abs(np.diff(played))
    assert steps[2 * second :].max() <= 1.05 * steps[round(2.2 * second) : round(2.9 * second)].max()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "[playback]\nvolume_db = -12\n"),
        ("[box]\npriority = 5", "[box]\npriority = 5\n\n[playback]\nvolume_db = -12\n"),
        ("[playback]\n", "[playback]\nvolume_db = -12\n"),
        ("[playback]  # out\nmixer='off'\n", "[playback]  # out\nvolume_db = -12\nmixer='off'\n"),
        ("[playback]\nvolume_db=-3 # loud\n[eq]\n", "[playback]\nvolume_db = -12 # loud\n[eq]\n"),
        ("[playback]\n  volume_db   =  -3.5\n", "[playback]\n  volume_db = -12\n"),
        (
            "[playback]\n# volume_db = -30 # ships\nmixer='off'\n",
            "[playback]\n# volume_db = -30 # ships\nvolume_db = -12\nmixer='off'\n",
        ),
        ("[eq]\n#[playback]\n", "[eq]\n#[playback]\n\n[playback]\nvolume_db = -12\n"),
    ],
)
def test_one_key_is_changed_and_every_other_line_stays(tmp_path: Path, before: str, after: str) -> None:
    assert toml_edit.with_key(before, "playback", "volume_db", "-12") == after
    path = tmp_path / "quietbox.toml"
    path.write_text(before)
    path.chmod(0o640)
    config_edit.keep(path, "playback", "volume_db", -12.0)
    assert path.read_text() == after
    assert path.stat().st_mode & 0o777 == 0o640
    assert config_file.load(path).playback.volume_db == -12


@pytest.mark.parametrize("value", [-12.0, -12.5, -12.3456789, -0.1, -1e-7, True, "rnn", 'a "b"', 22])
def test_a_value_comes_back_as_it_was(value: str | float) -> None:
    text = toml_edit.with_key("", "playback", "x", toml_edit.literal(value))
    assert tomllib.loads(text) == {"playback": {"x": value}}


def test_the_shipped_file_with_every_key_takes_an_engine(tmp_path: Path) -> None:
    path = tmp_path / "quietbox.toml"
    path.write_text("\n".join(config_file.documented()))
    config_edit.keep(path, "suppress", "engine", "rnn")
    assert config_file.load(path) == replace(Config(), suppress=replace(Config().suppress, engine="rnn"))


@pytest.mark.parametrize("text", ["playback.volume_db = -3\n", "playback = {volume_db = -3}\n", "[playback\n", "[x]\n"])
def test_a_file_that_cannot_be_edited_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "quietbox.toml"
    path.write_text(text)
    with pytest.raises(Exception, match=r"quietbox\.toml"):
        config_edit.keep(path, "playback", "volume_db", -12.0)
    assert path.read_text() == text


def test_a_link_as_the_card_image_has_it_is_not_replaced(tmp_path: Path) -> None:
    path, made = tmp_path / "quietbox.toml", tmp_path / "made.toml"
    made.write_text("")
    path.symlink_to(made)
    with pytest.raises(config_edit.NotKept, match=r"link to .*made\.toml"):
        config_edit.keep(path, "playback", "volume_db", -12.0)
    assert path.is_symlink() and made.read_text() == ""


@pytest.fixture
def nobody_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(runtime, "SYSTEM_FOLDER", tmp_path)
    return tmp_path / "quietbox.toml"


def test_without_a_box_an_order_fails_unless_it_is_kept(nobody_runs: Path) -> None:
    with pytest.raises(NotObeyed, match="not running"):
        ordering.order("volume", "-20", None, keep=False)
    with pytest.raises(NotObeyed, match="means nothing"):
        ordering.order("bypass", "toggle", nobody_runs, keep=True)
    assert "kept in" in ordering.order("volume", "-20", nobody_runs, keep=True)
    assert "kept in" in ordering.order("mute", "on", nobody_runs, keep=True)
    found = config_file.load(nobody_runs)
    assert (found.playback.volume_db, found.box.start) == (-20, "muted")
    ordering.order("mute", "off", nobody_runs, keep=True)
    assert config_file.load(nobody_runs).box.start == "running"


@pytest.mark.parametrize(
    ("start", "state"), [("running", (False, False)), ("bypass", (True, False)), ("muted", (False, True))]
)
def test_a_box_begins_as_it_was_kept(start: str, state: tuple[bool, bool]) -> None:
    box = Box(replace(SETTINGS, box=replace(SETTINGS.box, start=start)))
    assert (box.bypass, box.muted) == state

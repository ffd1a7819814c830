"""The page of figures for whoever watches: its format, its file, and that nothing is done while nobody watches."""

import math
import stat
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from boxes import SETTINGS, Bench

from edge import metering, meters, orders
from edge.box import Box, State
from edge.config import Config
from edge.control import Control
from edge.dsp import spectrum
from edge.health import summary
from edge.journal import RECENT_KEPT, Journal
from edge.metering import Metering
from edge.meters import FIGURES, PAGE_BYTES, Page, Reading, pack, unpack
from edge.suppress import open_engine
from edge.suppress.engine import Engine

FULL = Reading(
    **{name: float(number) for number, name in enumerate(FIGURES)},
    gains=tuple(band / 64 for band in range(64)),
    state="running",
    engine="network",
    throttling="under-voltage",
    events=((1.5, "state: running"), (2.5, "bypass on, by knob")),
)


def same(one: Reading, other: Reading) -> bool:
    """Equal, NaN to NaN, too."""
    return repr(one) == repr(other)


@pytest.mark.parametrize(
    "reading",
    [
        FULL,
        Reading(),
        replace(FULL, gains=None),
        replace(FULL, level_in_dbfs=-math.inf, queue_ms=1e300, gains=(math.inf,) * 63 + (math.nan,)),
    ],
)
def test_a_reading_comes_back_as_it_was(reading: Reading) -> None:
    data = pack(reading)
    assert len(data) == PAGE_BYTES <= 4096
    found = unpack(data)
    assert found and same(found, reading)


def test_every_figure_is_on_the_page() -> None:
    assert {field.name for field in fields(Reading)} == {*FIGURES, "gains", "state", "engine", "throttling", "events"}
    assert spectrum.BANDS == meters.BANDS


def test_texts_are_cut_between_characters_and_events_to_the_newest() -> None:
    many = tuple((float(number), f"{number} " + "ä" * 200) for number in range(20))
    found = unpack(pack(replace(FULL, state="ü" * 100, engine="\udcff", events=many)))
    assert found
    assert found.state == "ü" * 8
    assert found.engine == "?"
    assert [at_s for at_s, _ in found.events] == [14, 15, 16, 17, 18, 19]
    assert all(sentence.endswith("ä") and len(sentence.encode()) <= meters.EVENT_BYTES for _, sentence in found.events)


def test_half_a_write_and_anything_else_is_rejected() -> None:
    old, new = pack(FULL), pack(replace(FULL, at_s=99.0, level_in_dbfs=-1.0, state="bypass", events=()))
    differing = [at for at in range(PAGE_BYTES) if old[at] != new[at]]
    for at in (differing[1], differing[len(differing) // 2], differing[-1]):
        assert unpack(new[:at] + old[at:]) is None  # the start of the new one over the old one
    for data in (b"", b"\0" * PAGE_BYTES, new[:-1], new + b"\0", b"QBMETER2" + new[8:]):
        assert unpack(data) is None
    assert unpack(new) is not None


@pytest.mark.parametrize("left", ["file", "link", "nothing"])
def test_the_file_is_the_groups_to_read_and_replaces_what_lay_there(tmp_path: Path, left: str) -> None:
    path, other = tmp_path / meters.NAME, tmp_path / "other"
    other.write_text("mine")
    {"file": lambda: path.write_text("x" * 9999), "link": lambda: path.symlink_to(other), "nothing": lambda: None}[
        left
    ]()
    page = Page(tmp_path)
    assert meters.read(tmp_path) is None
    page.write(FULL)
    page.write(replace(FULL, at_s=5.0))
    found = meters.read(tmp_path)
    assert found and same(found, replace(FULL, at_s=5.0))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640 and path.stat().st_size == PAGE_BYTES
    page.close()
    assert not path.exists() and other.read_text() == "mine"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    yield tmp_path


def test_nothing_is_written_or_measured_while_nobody_watches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Metering(Box(SETTINGS), deque())
    monkeypatch.setattr(feed, "_reading", lambda *_: pytest.fail("measured"))
    for _ in range(20):
        feed.fill("")
    assert [*folder.iterdir()] == []


def test_one_order_lasts_for_some_seconds_and_the_page_goes_with_the_last_watcher(folder: Path) -> None:
    feed = Metering(Box(SETTINGS), deque([(1.0, "state: waiting")]))
    feed.ask()
    feed.fill("hot")
    found = meters.read(folder)
    assert (
        found and found.state == "waiting" and found.throttling == "hot" and found.events == ((1.0, "state: waiting"),)
    )
    assert math.isnan(found.level_in_dbfs) and found.gains is None  # nothing moves in a box that does not run
    assert 0 < feed._until_s - time.monotonic() <= metering.ASKED_S
    feed._until_s = time.monotonic()
    feed.fill("")
    assert [*folder.iterdir()] == []


def test_a_folder_that_cannot_be_written_is_one_complaint_an_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Metering(Box(SETTINGS), deque())
    (folder / meters.NAME).mkdir()
    feed.ask()
    with pytest.raises(OSError):
        feed.fill("")
    feed.fill("")  # until somebody asks again
    (folder / meters.NAME).rmdir()
    feed.ask()
    feed.fill("")
    assert meters.read(folder)


def test_the_figures_are_those_of_the_sound(folder: Path) -> None:
    with Bench(replace(SETTINGS, cable=Config().cable)) as bench:
        bench.until(State.RUNNING)
        feed = Metering(bench.box, deque())
        feed.ask()
        feed.fill("")
        bench.hops(40)
        feed._slow_s -= metering.SLOW_S
        feed.fill("")
        found = meters.read(folder)
        heard_dbfs = summary(bench.box.health.totals)["level_in_dbfs"]
    assert found and heard_dbfs and -30 < heard_dbfs < -20
    assert found.level_in_dbfs == pytest.approx(heard_dbfs, abs=1)
    assert 0 < found.hop_p50_us <= found.hop_p99_us <= found.hop_max_us
    assert found.delay_ms > 5 and found.speaking == 0 and found.engine == "high-pass only"
    assert found.gains == (1.0,) * 64


def test_the_order_watch_is_neither_answered_nor_reported_nor_kept_waiting() -> None:
    said: list[str] = []
    asked: list[int] = []
    control = Control(
        Box(SETTINGS), said.append, said.append, lambda work: work(), lambda: True, lambda: asked.append(1)
    )
    assert not control.take(["watch", "watch #12ab"])
    assert len(asked) == 2 and not said and not control.answers
    assert control.take(["watch me"])
    assert "watch takes no value" in control.answers[-1]["answer"]
    assert orders.parse("watch") == orders.Order("watch", "")


def test_where_nobody_can_watch_the_order_is_refused_not_left_without_an_answer() -> None:
    refused: list[str] = []
    control = Control(Box(SETTINGS), refused.append, refused.append, lambda work: work(), lambda: False)
    assert control.take(["watch #12ab"])
    assert control.answers[-1]["token"] == "12ab" and not control.answers[-1]["done"]
    assert refused == ["order refused: the figures are shown on the box itself: quietbox watch"]


@pytest.mark.parametrize("engine", ["network", "rnn", "dsp", "off"])
def test_engines_of_ours_show_their_gains(engine: str) -> None:
    opened = open_engine(engine, 20.0)
    hop = np.random.default_rng(0).normal(0, 0.1, 80).astype(np.float32)
    for _ in range(20):
        opened.process(hop.copy())
    gains = opened.band_gains
    assert gains is not None and gains.shape == (64,)
    assert 0.1 - 1e-6 <= gains.min() <= gains.max() <= 1
    assert (gains.min() < 1) == (engine != "off")


def test_an_engine_without_gains_has_none() -> None:
    class Bare(Engine):
        name = "bare"
        delay_samples = 0

        def process(self, hop: np.ndarray) -> float:
            return 0.0

        def reset(self) -> None:
            pass

    assert Bare().band_gains is None


def test_the_journal_keeps_its_newest_sentences_but_no_statistics(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "nobody"))
    for number in range(20):
        journal.report(f"event {number}", "engine")
        journal.report("figures", "statistics")
    journal.finish()
    assert [sentence for _, sentence in journal.recent] == [f"event {number}" for number in range(20)][-RECENT_KEPT:]

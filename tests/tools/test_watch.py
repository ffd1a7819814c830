"""What `quietbox watch` shows and records: it fits every terminal, whatever the figures are."""

import io
import itertools
import json
import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

from edge import UserError, meters, orders
from edge.console import PLAIN
from edge.meters import FIGURES, Reading
from edge.tools import watch, watch_record
from edge.tools.watch_record import COLUMNS, ROWS, Recording
from edge.tools.watch_screen import ASCII, BLOCKS, Glyphs, View, plain

GOOD = Reading(
    at_s=100.0,
    level_in_dbfs=-20.0,
    level_out_dbfs=-40.0,
    floor_in_dbfs=-50.0,
    floor_out_dbfs=-75.5,
    speech=0.93,
    speaking=1.0,
    delay_ms=26.1,
    queue_ms=12.0,
    drift_ppm=-12.0,
    hop_p50_us=640.0,
    hop_p99_us=900.0,
    hop_max_us=2500.0,
    late_hops=3.0,
    xruns_in=0.0,
    xruns_out=1.0,
    clips=2.0,
    volume_db=-20.0,
    limit_db=30.0,
    temperature_c=55.5,
    cpu_share=0.23,
    seconds=3723.0,
    gains=tuple(10 ** (-40 * band / 63 / 20) for band in range(64)),
    state="running",
    engine="network",
    throttling="under-voltage now",
    events=tuple((1.7e9 + number, f"event {number}") for number in range(6)),
)
STEERING = "\x1b[2J\x07" + "宽" * 90 + "\n\r\u202e"


def all_figures(figure: float) -> Reading:
    return replace(GOOD, **dict.fromkeys(FIGURES, figure), gains=(figure,) * 64)


EXTREME = {
    "good": GOOD,
    "nothing": Reading(),
    "nan": all_figures(math.nan),
    "inf": all_figures(math.inf),
    "-inf": all_figures(-math.inf),
    "huge": all_figures(1e300),
    "-huge": all_figures(-1e300),
    "zero": all_figures(0.0),
    "texts": replace(
        GOOD, state=STEERING, engine=STEERING, throttling=STEERING, events=tuple((1e300, STEERING) for _ in range(6))
    ),
}


def shown(reading: Reading, width: int, height: int, glyphs: Glyphs = BLOCKS, now_s: float = 100.05) -> list[str]:
    view = View()
    view.take(reading)
    return plain(view.lines(width, height, glyphs, now_s, watch.HINT))


@pytest.mark.parametrize("glyphs", [BLOCKS, ASCII])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (60, 20), (40, 12), (10, 5), (1, 1), (80, 3)])
@pytest.mark.parametrize("reading", EXTREME.values(), ids=EXTREME)
def test_it_fits_the_terminal_whatever_the_figures_are(
    reading: Reading, width: int, height: int, glyphs: Glyphs
) -> None:
    lines = shown(reading, width, height, glyphs)
    assert 0 < len(lines) <= height
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert all(sign.isprintable() or sign in "\n\u202e" for sign in text)
    text.encode(glyphs.encoding)


def test_everything_that_is_promised_is_on_80_by_24() -> None:
    lines = shown(GOOD, 80, 24)
    text = "\n".join(lines)
    assert len(lines) == 24
    for part in (
        *("running, engine network", "1:02 h of sound", "-20.0 dBFS", "-40.0 dBFS", "floor -50.0 dBFS in"),
        *("25.5 dB less", "speaking", "93 %", "gain of 64 bands", "26.1 ms", "queue 12.0 ms", "drift -12 ppm"),
        *("640/900/2500 µs of 5000", "3 late", "xruns 0 in 1 out", "55.5 °C", "23 % of a core", "under-voltage now"),
        *("volume -20 dB", "limit 30 dB", "event 5", "event 2", "Ctrl-C ends"),
    ):
        assert part in text, part
    assert "waiting" not in text


def test_bars_are_as_long_as_the_level_and_as_high_as_the_gain() -> None:
    lines = shown(replace(GOOD, level_in_dbfs=-40.0, level_out_dbfs=-math.inf), 80, 24)
    room = 80 - len("in     ") - len("  -40.0 dBFS, hold  -40.0")
    assert lines[1].count("█") == round(room / 2) and lines[2].count("█") == 0
    bars = [line[7:71].ljust(64) for line in lines if " dB " in line[:8] and line[7:].strip(" ▁▂▃▄▅▆▇█") == ""]
    heights = [sum(BLOCKS.steps.index(row[band]) for row in bars) for band in range(64)]
    assert len(bars) == 5 and heights[0] == 40 and heights[-1] == 0
    assert heights == sorted(heights, reverse=True)
    assert heights[32] == pytest.approx(40 * 31 / 63, abs=1)


def test_the_peak_is_held_for_two_seconds() -> None:
    view = View()
    for number in range(40):
        view.take(replace(GOOD, at_s=number / 10, level_in_dbfs=-10.0 if number == 5 else -40.0))
        held = -10.0 if 5 <= number <= 25 else -40.0
        assert view.held_dbfs(0) == held, number
    view.take(replace(GOOD, at_s=10.0, level_in_dbfs=math.nan))
    assert math.isnan(view.held_dbfs(0))


def test_an_old_reading_is_not_shown_as_the_present_one() -> None:
    assert "no new figures for 7 s" in shown(GOOD, 80, 24, now_s=107.0)[0]
    assert "waiting for figures" in shown(Reading(), 80, 24)[0]


@pytest.mark.parametrize(
    ("term", "encoding", "glyphs"),
    [("xterm", "utf-8", BLOCKS), ("xterm", "latin-1", ASCII), ("linux", "utf-8", ASCII), ("xterm", "nonsense", ASCII)],
)
def test_blocks_are_drawn_only_where_the_terminal_has_them(
    term: str, encoding: str, glyphs: Glyphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Screen:
        pass

    screen = Screen()
    screen.encoding = encoding  # type: ignore[attr-defined]
    monkeypatch.setenv("TERM", term)
    assert watch._glyphs(screen) is glyphs  # type: ignore[arg-type]
    assert {"µ", "°"} <= {*PLAIN}  # what the other texts need


def recorded(count: int, most: int = watch_record.MOST_FRAMES, text: str = "event") -> Recording:
    view, recording = View(), Recording(most)
    for number in range(count):
        view.take(replace(GOOD, at_s=number / 10, level_in_dbfs=-number % 80, events=((1.0, f"{text} {number}"),)))
        recording.add(view, number / 10)
    return recording


def replayed(page: str) -> list[tuple[float, list[str]]]:
    """What the page's script shows, by the same rule."""
    data = json.loads(re.search(r'id="frames">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    lines, frames = [""] * data["rows"], []
    for at_s, changes in data["frames"]:
        lines = [*lines]
        for row, text in changes:
            lines[row] = text
        frames.append((at_s, lines))
    return frames


def test_the_page_replays_every_frame(tmp_path: Path) -> None:
    recording = recorded(30)
    target = tmp_path / "page.html"
    recording.write(target)
    frames = replayed(target.read_text())
    assert [at_s for at_s, _ in frames] == [number / 10 for number in range(30)]
    for number, (_, lines) in enumerate(frames):
        assert len(lines) == ROWS and max(map(cell_len, lines)) <= COLUMNS
        assert f"event {number}" in "\n".join(lines)
    assert [*tmp_path.iterdir()] == [target]


def test_the_page_is_bounded_and_takes_nothing_from_outside() -> None:
    recording = recorded(60, most=20, text="</script><script>alert(1)</script>")
    page = recording.page()
    frames = replayed(page)
    assert len(frames) == 20 and frames[0][0] == 0
    assert "script>alert(1)" in frames[-1][1][-2] + "".join(frames[-1][1])
    assert "</script><script>alert" not in page and page.count("</script>") == 2
    assert "default-src 'none'" in page and not re.search(r"https?://|src=|href=", page)
    grown = len(recorded(200).page()) - len(recorded(100).page())
    assert grown / 100 * watch_record.MOST_FRAMES < 4e6


def test_without_a_box_it_is_one_line_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders.runtime, "running_folder", lambda: None)
    with pytest.raises(UserError, match="quietbox is not running: systemctl start quietbox"):
        watch.watch(tmp_path / "page.html", 1.0)
    with pytest.raises(UserError, match="draws on a terminal"):
        watch.watch(None, 1.0)
    assert [*tmp_path.iterdir()] == []


def test_only_a_page_is_ever_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "quietbox.toml"
    settings.write_text("mine")
    monkeypatch.setattr(orders, "ask_for_figures", lambda: tmp_path)
    with pytest.raises(UserError, match=r"needs a name in \.html"):
        watch.watch(settings, 1.0)
    assert settings.read_text() == "mine"
    with pytest.raises(OSError, match=r"no/page\.html"):
        watch.watch(tmp_path / "no/page.html", 1.0)


def without_waiting(
    monkeypatch: pytest.MonkeyPatch, at_each: Callable[[float], None], frame_costs_s: float = 0.0
) -> None:
    """Time passes as fast as it is asked for; a frame takes so much processor time."""
    costs = itertools.count(step=frame_costs_s)
    now_s = [1000.0]

    def sleep(seconds: float) -> None:
        now_s[0] += max(seconds, 1e-3)
        at_each(now_s[0])

    monkeypatch.setattr(
        watch, "time", SimpleNamespace(monotonic=lambda: now_s[0], sleep=sleep, process_time=lambda: next(costs))
    )


def test_a_box_that_sends_nothing_or_ends_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = meters.Page(tmp_path)
    is_alive = [False]
    asked: list[float] = []
    without_waiting(monkeypatch, lambda now_s: page.write(replace(GOOD, at_s=now_s)) if is_alive[0] else None)
    monkeypatch.setattr(orders, "ask_for_figures", lambda: asked.append(watch.time.monotonic()) or tmp_path)
    monkeypatch.setattr(orders, "is_running", lambda: True)
    with pytest.raises(UserError, match="sends no figures; if it was updated, restart it"):
        deque(watch._readings(None), maxlen=0)
    is_alive[0] = True
    asked.clear()
    found = [reading for reading in watch._readings(10.0) if reading]
    assert 95 <= len(found) <= 101
    assert max(later - earlier for earlier, later in itertools.pairwise(asked)) < 2.2
    readings = watch._readings(None)
    for _ in range(5):
        next(readings)
    is_alive[0] = False
    monkeypatch.setattr(orders, "is_running", lambda: False)
    with pytest.raises(UserError, match="the box has stopped"):
        deque(readings, maxlen=0)


@pytest.mark.parametrize(("frame_costs_s", "frames"), [(0.001, 300), (0.005, 120), (0.01, 60), (1.0, 30)])
def test_a_slow_board_gets_fewer_frames_and_the_box_keeps_its_time(
    frame_costs_s: float, frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = meters.Page(tmp_path)
    without_waiting(monkeypatch, lambda now_s: page.write(replace(GOOD, at_s=now_s)), frame_costs_s)
    monkeypatch.setattr(orders, "ask_for_figures", lambda: tmp_path)
    found = sum(1 for _ in watch._readings(30.0))
    assert found == pytest.approx(frames, rel=0.15)


class Terminal:
    """A terminal of any size that can be asked what was sent to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm-256color")
        self.sent = io.StringIO()
        self.screen = Console(file=self.sent, force_terminal=True, color_system="standard", width=80, height=24)
        self.screen.set_alt_screen(True)
        self.drawn = watch.Drawn(self.screen)

    def new(self, reading: Reading, now_s: float) -> str:
        view = View()
        view.take(reading)
        self.sent.seek(0)
        self.sent.truncate()
        self.drawn.draw(view, now_s)
        return self.sent.getvalue()


def test_only_lines_that_differ_are_sent_and_all_after_a_change_of_size(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(monkeypatch)
    assert "engine network" in terminal.new(GOOD, 100.0)
    assert terminal.new(GOOD, 100.1) == ""
    sent = terminal.new(replace(GOOD, queue_ms=13.0, events=()), 100.1)
    assert "queue 13.0 ms" in sent and "engine network" not in sent
    rows = re.findall("\x1b\\[(\\d+);1H([^\x1b]*)", sent)
    assert [int(row) for row, _ in rows] == [15, 20, 21, 22, 23] and all(not text.strip() for _, text in rows[1:])
    terminal.screen.size = (40, 12)  # type: ignore[assignment]
    sent = terminal.new(GOOD, 100.1)
    assert "engine network" in sent and sent.count(";1H") <= 12

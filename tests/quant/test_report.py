"""The page: it holds every file and engine it should, plays what the engines made, and needs nothing from outside."""

import base64
import io
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import SOUNDS

from edge import RATE_HZ
from edge.dsp.spectrum import Floats
from quant import report
from quant.evaluate import run
from quant.evaluate.cost import Cost
from quant.evaluate.run import Figures, Row
from quant.evaluate.sounds import Sound, read_sound

for package in ("pesq", "pystoi", "speechmos", "onnxruntime", "matplotlib"):
    pytest.importorskip(package)

NASTY = "a<script>&'b"


class Page(HTMLParser):
    """What a page shows and refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"

    def sounds(self) -> list[Floats]:
        kinds = [source for source in self.sources if source.startswith("data:audio/flac;base64,")]
        return [soundfile.read(io.BytesIO(base64.b64decode(kind.partition(",")[2])), dtype="float32")[0]
                for kind in kinds]  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of each test sound, one by a name that is no HTML."""
    folder = tmp_path_factory.mktemp("pairs")
    for part in ("clean", "noisy"):
        (folder / part).mkdir()
        for path, name in zip(sorted((SOUNDS / part).iterdir()), ("plain", NASTY, "z"), strict=True):
            soundfile.write(folder / part / f"{name}.flac", soundfile.read(path, 2 * RATE_HZ)[0], RATE_HZ)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The costs have a test of their own."""
    cost = Cost(10, float("nan"), 0.01, 1)
    monkeypatch.setattr(run, "costs", lambda engines, *_: dict.fromkeys(engines, cost))


@pytest.mark.usefixtures("quick")
def test_one_page_holds_everything(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    asked = ["--pairs", str(pairs), "--engines", "noisy,dsp", "--compare", "noisy,dsp", "--files", "2", "--jobs", "1"]
    assert report.main([*asked, "--out", str(out)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    text = out.read_text()
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags
    assert all(source.startswith("data:") for source in page.sources), "nothing comes from outside"
    assert not re.search(r"https?://|url\(|@import", re.sub(r"base64,[^\"]*", "", text))
    assert NASTY in page.text and NASTY not in text and NASTY in unescape(text)
    assert "dsp less noisy" in page.text and "PESQ-WB" in page.text and "algorithmic latency" in page.text
    assert page.tags.count("audio") == 2 * 3, "two files: noisy, clean, dsp"
    assert page.tags.count("img") == 2 * 3 + 1, "and the histograms"
    played = page.sounds()
    noisy = [read_sound(path) for path in sorted((pairs / "noisy").iterdir())]
    assert any(np.abs(played[0] - one).max() < 1e-4 for one in noisy)
    assert np.std(played[2]) < np.std(played[0]) and len(played[2]) == len(played[0])


@pytest.mark.usefixtures("quick")
def test_recordings_without_a_reference_make_a_page_too(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.htm"
    asked = ["--noisy", str(pairs / "noisy"), "--engines", "dsp", "--files", "1", "--jobs", "1", "--out", str(out)]
    assert report.main(asked) == 0
    page = Page(out.read_text())
    assert page.tags.count("audio") == 2 and "PESQ" not in page.text and "DNSMOS" in page.text


def figures(**pesq: tuple[float, float]) -> Figures:
    """Engines a and b with the PESQ of each file."""
    rows = [Row(engine, name, None, None, {"pesq_wb": both[index]})
            for index, engine in enumerate("ab") for name, both in pesq.items()]  # fmt: skip
    cost = Cost(10, 1, 0.01, 1)
    return Figures(["a", "b"], 60, rows, {"a": 0, "b": 0}, {"a": cost, "b": cost})


def test_differences_are_second_less_first_and_the_worst_come_first() -> None:
    nan = float("nan")
    found = figures(same=(2, 2), better=(1, 2), broken=(2, nan), worse=(3, 2.5))
    order = report.changes(found, "a", "b")
    assert [change.name for change in order] == ["worse", "same", "better", "broken"]
    assert [change.values["pesq_wb"] for change in order[:3]] == [-0.5, 0, 1]
    spread, worst = report.change_tables(found, order, "a", "b")
    assert spread[2][0] == ["PESQ-WB", "+0.1667", "+0.6236", "-0.5000", "+0.0000", "+1.0000"]
    assert [line[0] for line in worst[2]] == ["worse", "same", "better", "broken"] and worst[2][3][1] == "-"


def test_a_long_sound_is_cut_and_a_loud_one_clipped() -> None:
    played = Page(f'<audio src="{report.sound(np.full(RATE_HZ, 3, np.float32))}">').sounds()[0]
    assert len(played) == RATE_HZ and played.min() > 0.99
    long = Sound("long", None, np.zeros(30 * RATE_HZ, np.float32))
    found = Figures(["noisy"], 60, [Row("noisy", "long", None, None, {})], {"noisy": 0}, {})
    page = Page(report.heard_html(long, found))
    assert [len(sound) for sound in page.sounds()] == [report.SHOWN_SECONDS * RATE_HZ]


def test_a_spectrogram_shows_where_the_tone_is() -> None:
    from matplotlib.image import imread

    t = np.arange(RATE_HZ) / RATE_HZ
    uri = report.spectrogram(np.sin(2 * np.pi * 6000 * t).astype(np.float32))
    picture = imread(io.BytesIO(base64.b64decode(uri.partition(",")[2])))[..., :3]
    middle = picture[:, picture.shape[1] // 2].sum(axis=1)
    inside = np.flatnonzero(middle < 2.9)
    brightest = inside[np.argmax(middle[inside])]
    height = (inside[-1] - brightest) / (inside[-1] - inside[0])
    assert height == pytest.approx(6 / 8, abs=0.05)


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        (["--out", "page.txt"], "HTML"),
        (["--files", "-1"], "--files"),
        (["--compare", "noisy"], "--compare"),
        (["--compare", "noisy,noisy"], "--compare"),
        (["--compare", "noisy,rnnoise"], "--compare"),
        (["--engines", "krisp"], "krisp"),
        (["--out", "nowhere/page.html"], "nowhere"),
    ],
)
def test_wrong_arguments_are_refused_before_the_work(
    extra: list[str], word: str, pairs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    asked = ["--pairs", str(pairs), "--engines", "noisy,dsp", "--out", "page.html"]
    assert report.main([*asked, *extra]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("report: ") and said.err.count("\n") == 1 and word in said.err
    assert not [*tmp_path.iterdir()]

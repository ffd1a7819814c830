"""docs/gallery: its pages hold the figures that its command measured, its files are whole and small."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge import RATE_HZ
from hw.prove import spectrogram
from hw.prove.gallery import __main__ as gallery
from hw.prove.gallery import pages
from hw.prove.gallery.recordings import RECORDINGS, SECONDS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/gallery"
FOUND = json.loads((FOLDER / "figures.json").read_text())
FILES = [f"{one.name}_{kind}.ogg" for one in RECORDINGS for kind in pages.KINDS]
PICTURES = [f"{one.name}.png" for one in RECORDINGS]
AGAIN = "python -m hw.prove.gallery"


def test_the_pages_hold_the_figures_that_were_measured() -> None:
    assert (FOLDER / "README.md").read_text() == pages.readme(FOUND), AGAIN
    assert (FOLDER / "index.html").read_text() == pages.index(FOUND, FOLDER), AGAIN
    assert [row["name"] for row in FOUND["recordings"]] == [one.name for one in RECORDINGS]
    assert re.fullmatch(r"[0-9a-f]{7,40}", FOUND["commit"]) and re.fullmatch(r"\d{4}-\d\d-\d\d", FOUND["date"])
    page = (FOLDER / "README.md").read_text()
    for row in FOUND["recordings"]:
        assert f"{row['pesq_noisy']:.2f} → {row['pesq_output']:.2f}" in page


def test_a_changed_figure_is_noticed() -> None:
    changed = json.loads(json.dumps(FOUND))
    changed["recordings"][0]["noise_removed_db"] += 0.1
    assert (FOLDER / "README.md").read_text() != pages.readme(changed)


def test_the_product_still_does_what_the_page_states() -> None:
    """On one of the five, whose noise is computed; other processors round differently."""
    one = RECORDINGS[-1]
    clean, noisy = one.sounds()
    now = gallery.measured(clean, noisy, gallery.enhanced(noisy)[0])
    stated = next(row for row in FOUND["recordings"] if row["name"] == one.name)
    for name, value in now.items():
        assert value == pytest.approx(stated[name], abs=0.5 if name.endswith("_db") else 0.05), f"{name}: {AGAIN}"


def test_every_link_leads_to_a_file_and_every_file_is_linked() -> None:
    links = re.findall(r"\]\(([^)#]+)", (FOLDER / "README.md").read_text())
    assert all((FOLDER / link).is_file() for link in links)
    here = {link for link in links if "/" not in link}
    assert here == {*FILES, *PICTURES, "index.html"}
    assert {path.name for path in FOLDER.iterdir()} == here | {"README.md", "figures.json"}
    assert "(docs/gallery/README.md)" in (ROOT / "README.md").read_text()


def test_the_page_plays_alone() -> None:
    """Every sound and picture is in it, byte for byte, and nothing is loaded from elsewhere."""
    page = (FOLDER / "index.html").read_text()
    sources = re.findall(r'src="([^"]*)"', page)
    inside = {base64.b64decode(source.partition(";base64,")[2]) for source in sources}
    assert inside == {(FOLDER / name).read_bytes() for name in [*FILES, *PICTURES]}
    assert page.count("<audio controls") == len(FILES) and "<script" not in page and "href=" not in page


def test_the_files_are_whole_and_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 1_500_000
    for name in FILES:
        info = soundfile.info(FOLDER / name)
        assert (info.samplerate, info.channels, info.subtype) == (RATE_HZ, 1, "VORBIS")
        assert info.frames == round(SECONDS * RATE_HZ) and (FOLDER / name).stat().st_size < 60_000
    assert all((FOLDER / name).stat().st_size < 120_000 for name in PICTURES)


def test_a_sound_that_is_the_same_leaves_its_file_alone(tmp_path: Path) -> None:
    file, sound = tmp_path / "a.ogg", np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32) / 10
    gallery.keep_sound(file, sound)
    first = file.read_bytes()
    gallery.keep_sound(file, sound)
    assert file.read_bytes() == first
    gallery.keep_sound(file, -sound)
    assert file.read_bytes() != first
    file.write_bytes(b"not a sound")
    gallery.keep_sound(file, sound)
    assert len(gallery.decoded(file.read_bytes())) == RATE_HZ


@pytest.mark.parametrize("one", [one for one in RECORDINGS if one.synthetic], ids=lambda one: one.name)
def test_synthetic_noise_is_the_same_at_every_call_and_has_its_level(one: gallery.Recording) -> None:
    clean, noisy = one.sounds()
    np.testing.assert_array_equal(noisy, one.sounds()[1])
    rest = noisy.astype(float) - clean
    assert 10 * np.log10(np.mean(clean.astype(float) ** 2) / np.mean(rest**2)) == pytest.approx(one.snr_db, abs=0.01)
    assert np.abs(noisy).max() < 1


def test_a_tone_is_drawn_at_its_frequency_and_level() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 2000 * np.arange(2 * RATE_HZ) / RATE_HZ)
    cells = spectrogram.power_db(np.append(tone, np.zeros(2 * RATE_HZ)).astype(np.float32), 40)
    assert cells.shape == (spectrogram.CELLS_HIGH, 40)
    assert abs(int(cells[:, 10].argmax()) - round(2000 / 8000 * spectrogram.CELLS_HIGH)) <= 1
    assert -10 < cells[:, 10].max() < -6  # a cell is the mean of two bins
    assert cells[:, 30:].max() < -100


def test_the_colours_read_in_grey() -> None:
    from matplotlib import colormaps

    grey = colormaps[spectrogram.COLOURS](np.linspace(0, 1, 256))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) > 0).all() and grey[0] < 0.05 and grey[-1] > 0.9


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from edge.console import guarded

    monkeypatch.setattr("sys.argv", ["gallery"])
    monkeypatch.setattr("models.command.installed", lambda package: package != "pesq")
    assert guarded(gallery.main, "gallery") == 1
    assert capsys.readouterr().err.startswith("gallery: pesq not installed; ./install.sh --setup evaluate")

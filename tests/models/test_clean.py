"""The teacher's wave lies on the original, and only what it changes little becomes a target."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch")
pytest.importorskip("onnx")

from ulunas_graph import graph

from edge import RATE_HZ
from models import clean as module
from models.clean import Teacher, clean, cleanable, floor_rel_db, main
from models.mix.recordings import NoRecordings


def talk(seconds: float = 3.0, floor_db: float = -40.0) -> np.ndarray:
    """Bursts of noise with pauses between them, as loud as speech against its floor."""
    rng, samples = np.random.default_rng(5), round(seconds * RATE_HZ)
    bursts = (np.arange(samples) // (RATE_HZ // 4) % 2).astype(np.float32)
    sound = rng.normal(0, 0.1, samples) * bursts + rng.normal(0, 0.1 * 10 ** (floor_db / 20), samples)
    return sound.astype(np.float32)


def data(folder: Path, wave: np.ndarray, floor_db: float) -> Path:
    folder.mkdir()
    soundfile.write(folder / "a.flac", wave, RATE_HZ, "PCM_16")
    head = "file\tstart_s\tseconds\tsource\tspeaker\tfloor_rel_db"
    (folder / "speech.tsv").write_text(f"{head}\na.flac\t0\t{len(wave) / RATE_HZ}\tx\tanna/1\t{floor_db}\n")
    return folder


@pytest.mark.parametrize("length", [RATE_HZ, RATE_HZ + 77, 300])
def test_a_teacher_that_changes_nothing_returns_the_wave_in_place(tmp_path: Path, length: int) -> None:
    wave = talk()[:length]
    np.testing.assert_allclose(Teacher(graph(tmp_path / "t.onnx", 1.0))(wave), wave, atol=2e-4)


def test_the_floor_is_measured_against_speech() -> None:
    assert floor_rel_db(talk(floor_db=-40)) == pytest.approx(-40, abs=2)


def test_only_speech_between_the_two_floors_is_cleaned(tmp_path: Path) -> None:
    wave = talk()
    assert not cleanable(data(tmp_path / "good", wave, -60.0))
    assert not cleanable(data(tmp_path / "bad", wave, -30.0))
    assert [clip.voice for clip in cleanable(data(tmp_path / "middle", wave, -40.0))] == ["anna/1"]


def test_what_changed_much_or_kept_its_floor_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = cleanable(data(tmp_path / "data", talk(), -40.0))
    (same,) = clean(Teacher(graph(tmp_path / "t.onnx", 1.0)), clips)
    assert same.kept_db > 50 and not same.good  # the floor is still there
    monkeypatch.setattr(module, "GOOD_FLOOR_DB", -35.0)
    assert same.good
    monkeypatch.setattr(module, "LEAST_KEPT_DB", 200.0)
    assert not same.good


def test_the_command_writes_a_folder_a_voice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "GOOD_FLOOR_DB", -35.0)
    folder, out = data(tmp_path / "data", talk(), -40.0), tmp_path / "out"
    words = ["--data", str(folder), "--teacher", str(graph(tmp_path / "t.onnx", 1.0)), "--out", str(out)]
    assert main(words) == 0 and "1 of 1 clips" in capsys.readouterr().out
    assert [path.parent.name for path in out.rglob("*.flac")] == ["anna_1"]
    assert main(words) == 2 and "exists already" in capsys.readouterr().err


def test_another_graph_and_no_graph_are_named(tmp_path: Path) -> None:
    with pytest.raises(NoRecordings, match="not UL-UNAS"):
        Teacher(graph(tmp_path / "other.onnx", 1.0, {"cache": 5}))
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(NoRecordings, match="not an ONNX model"):
        Teacher(tmp_path / "text.onnx")

"""Presets: what ships is complete and measured, what people add is checked, and using one changes nothing else."""

import json
import os
import signal
from pathlib import Path

import pytest

from edge import config_file, runtime
from edge.cli import main
from edge.config import Config
from edge.config_file import BadConfig
from edge.tools import preset
from edge.tools.preset import KEYS, BadPreset
from quant.presets import FIGURES, keep

SHIPPED = sorted(path.stem for path in preset.SHIPPED.glob("*.toml"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty /etc/quietbox/presets on which no box runs."""
    monkeypatch.setattr(preset, "FOLDER", tmp_path / "presets")
    preset.FOLDER.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(runtime, "SYSTEM_FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_each_that_ships_says_what_it_is_for_and_was_measured_as_it_is(name: str) -> None:
    found = preset.load(name)
    assert len(found.text) > 30
    assert len(found.figures) == 3, "python -m quant.presets"
    assert all(set(figures) == set(FIGURES) for figures in found.figures.values())
    assert set(found.values) == {(section, key) for section in KEYS for key in KEYS[section]}


def test_the_five_places_are_there() -> None:
    assert {"office", "street", "workshop", "music-lesson", "table"} <= set(SHIPPED)
    assert preset.load("office").apply(Config()) == Config(), "the box ships as for an office"


def test_using_one_writes_what_differs_and_leaves_every_other_line(place: Path, capsys: pytest.CaptureFixture) -> None:
    settings = place / "quietbox.toml"
    settings.write_text("# mine\n[suppress]\nlimit_db = 12  # by ear\nengine = 'rnn'\n\n[playback]\nvolume_db = -31\n")
    assert main(["preset", "use", "music-lesson", "--config", str(settings)]) == 0
    assert "not running" in capsys.readouterr().out
    after = config_file.load(settings)
    expected = preset.load("music-lesson").apply(config_file.parse(settings.read_text()))
    assert after == expected
    assert (after.suppress.limit_db, after.gate.on, after.voice.hold_ms) == (8, False, 2000)
    assert (after.suppress.engine, after.playback.volume_db) == ("rnn", -31)
    assert settings.read_text().startswith("# mine\n[suppress]\nlimit_db = 8  # by ear\nengine = 'rnn'\n\n[playback]\n")
    assert main(["preset", "use", "street", "--config", str(settings)]) == 0
    assert config_file.load(settings).gate.on, "what the next one does not name is at its default again"
    before = settings.read_bytes()
    assert main(["preset", "use", "street", "--config", str(settings)]) == 0
    assert settings.read_bytes() == before


def test_a_running_box_reads_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(signal, "SIGHUP", signal.SIGHUP)
    monkeypatch.setattr(runtime, "read_status", lambda: {"pid": 77})
    monkeypatch.setattr(os, "kill", lambda *call: told.append(call))
    assert "running box reads it" in preset.use(preset.load("street"), place / "quietbox.toml")
    assert told == [(77, signal.SIGHUP)]

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert "sudo systemctl reload quietbox" in preset.use(preset.load("street"), place / "quietbox.toml")


def test_anyone_can_add_one_and_it_takes_the_place_of_ours(place: Path, capsys: pytest.CaptureFixture) -> None:
    own = preset.FOLDER / "street.toml"
    own.write_text("# My street.\n[suppress]\nlimit_db = 25\n")
    found = preset.load("street")
    assert (found.path, found.text, found.changed) == (own, "My street.", {"suppress.limit_db": 25.0})
    assert main(["preset", "show", "street"]) == 0
    assert f"not measured; python -m quant.presets {own}" in capsys.readouterr().out
    keep(own, {"rain": dict.fromkeys(FIGURES, 1.0)})
    assert main(["preset", "show", "street", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["figures"] == {"rain": dict.fromkeys(FIGURES, 1.0)}
    own.write_text(own.read_text() + "\n")
    assert not preset.load("street").figures, "the file is not the one that was measured"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[playback]\nvolume_db = 0\n", r"cannot set \[playback\] volume_db"),
        ("[suppress]\nengine = 'rnn'\n", r"cannot set \[suppress\] engine"),
        ("[suppress]\nlimit_db = 500\n", r"loud\.toml, line 2: \[suppress\] limit_db = 500"),
        ("[suppres]\nlimit_db = 5\n", "suppres"),
        ("\x00", "loud"),
    ],
)
def test_one_that_sets_what_it_must_not_is_refused_by_name(place: Path, text: str, named: str) -> None:
    (preset.FOLDER / "loud.toml").write_text(text)
    with pytest.raises((BadPreset, BadConfig), match=named):
        preset.load("loud")


def test_an_unknown_one_and_a_missing_name_are_one_line(place: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["preset", "show", "../../etc/passwd"]) == 1
    assert main(["preset", "use"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("office" in line for line in lines)


def test_settings_that_cannot_be_written_stay(place: Path) -> None:
    settings = place / "quietbox.toml"
    settings.write_text("[nonsense]\n")
    with pytest.raises(BadConfig, match="nonsense"):
        preset.use(preset.load("street"), settings)
    assert settings.read_text() == "[nonsense]\n"

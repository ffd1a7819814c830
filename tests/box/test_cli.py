"""The commands that need no sound card, and what is said when a command is called wrongly."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from edge import cli, console
from edge.devices.cards import Card, Port
from edge.engines import Family, names
from edge.suppress import open_engine
from edge.tools import tables
from edge.tools.doctor import command
from edge.tools.doctor.finding import FAIL, Finding


def test_bench_prints_a_row_for_every_engine_and_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--seconds", "0.5", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {
        f"whole chain, {name}" for name in names(Family.OURS, Family.NONE) if open_engine(name, 30).name == name
    } <= rows.keys()
    assert {"whole chain, dsp", "whole chain, off"} <= rows.keys()
    assert {"feedforward", "limiter", "gate", "equaliser"} <= rows.keys()
    for row in rows.values():
        assert 0 < row["p50_us"] <= row["p99_us"] <= row["p999_us"] <= row["max_us"]
    assert rows["whole chain, dsp"]["real_time_factor"] < 1
    assert cli.main(["bench", "--seconds", "0.5"]) == 0
    assert "whole chain, dsp" in capsys.readouterr().out


def test_devices_lists_what_there_is_or_says_there_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert set(reported) == {"cards", "named"}
    assert cli.main(["devices"]) == 0
    said = capsys.readouterr().out
    assert "further ALSA names for capture" in said
    assert reported["cards"] or "no sound cards" in said


@pytest.mark.parametrize("name", ["[/]", "[bold]", "\x1b[2Jx\n", "\x9b31m"])
def test_a_card_may_be_held_by_a_process_of_any_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = Port("playback", 0, "", "jack", held_by=f"{name} (process 1)")
    Console(width=200).print(tables.devices([Card("x", 0, "", "", (port,))]))
    command._print_table([Finding("output", FAIL, f"busy: {name}", "x")])
    said = capsys.readouterr().out
    assert not set(said) & {"\x1b", "\x9b"} and said.count(console.printable(name)) == 2


def test_status_of_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().out == "quietbox is not running\n"
    assert cli.main(["status", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["run", "--seconds", "-1"],
        ["run", "--seconds", "soon"],
        ["run", "--seconds", "nan"],
        ["bench", "--seconds", "601"],
        ["report", "--hours", "0"],
        ["doctor", "--seconds", "0.5"],
        ["serve", "--rate", "7999"],
        ["calibrate", "--level-dbfs", "-5"],
        ["enhance", "a.wav"],
        ["enhance", "a.wav", "-o", "b.wav", "--engine", "best"],
        ["enhance", "a.wav", "-o", "b.wav", "--limit-db", "nan"],
        ["enhance", "a.wav", "-o", "b.wav", "--channel", "0"],
    ],
)
def test_a_wrong_call_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: quietbox" in capsys.readouterr().err


def test_without_a_command_it_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("usage: quietbox")
    assert all(f"\n    {verb} " in printed.err or f"\n    {verb}\n" in printed.err for verb in cli.VERBS)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (
        "calibrate",
        "serve",
        "keys",
        "run",
        "passthrough",
        "devices",
        "enhance",
        "latency",
        "bench",
        "status",
        "doctor",
        "report",
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, "--help"])
        assert ended.value.code == 0
        assert "--config FILE" in capsys.readouterr().out

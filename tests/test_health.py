"""Counters, claims and status: what is told of a running box is what happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge import runtime
from edge.health import EVENTS_KEPT, Counters, Health, dbfs, percentile_us, summary


def test_a_stretch_of_time_is_the_difference_of_two_copies() -> None:
    health = Health()
    health.hop(100, 0.01, 0.001, True, False)
    before = health.totals.copy()
    for _ in range(3):
        health.hop(250, 0.04, 0.0004, False, True)
    lately = health.totals.since(before)
    assert (lately.hops, lately.spoken, lately.pauses, lately.late, sum(lately.took)) == (3, 0, 3, 3, 3)
    told = summary(lately)
    assert told["noise_removed_db"] == 20.0
    assert told["level_in_dbfs"] == dbfs(0.04) == -14.0
    assert told["seconds"] == 0.01 or told["seconds"] == 0.02


def test_nothing_heard_yet_is_no_division_by_zero() -> None:
    told = summary(Counters())
    assert told["noise_removed_db"] == 0 and told["hop_p99_us"] == 0 and told["level_in_dbfs"] == -120


def test_percentiles_are_upper_edges_of_their_steps() -> None:
    health = Health()
    for took_us in [50] * 98 + [430, 10**9]:
        health.hop(took_us, 0, 0, False, False)
    took = health.totals.took
    assert percentile_us(took, 0.5) == 60
    assert percentile_us(took, 0.99) == 440
    assert percentile_us(took, 1.0) == 20_000
    assert health.longest_us == 10**9


def test_events_are_told_once_and_never_pile_up() -> None:
    health = Health()
    for number in range(EVENTS_KEPT + 5):
        health.event("x", str(number))
    assert [text for _, text in health.news()] == [str(number) for number in range(5, EVENTS_KEPT + 5)]
    assert health.news() == []


def test_a_second_claim_names_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    first = runtime.Claim(["capture:hw:CARD=Mic", "playback:jack"])
    with pytest.raises(
        runtime.AlreadyRunning, match=rf"hw:CARD=Mic is already used by quietbox run, process {os.getpid()}"
    ):
        runtime.Claim(["capture:hw:CARD=Mic", "playback:other"])
    runtime.Claim(["capture:hw:CARD=Other", "playback:other"]).release()
    first.release()
    runtime.Claim(["capture:hw:CARD=Mic"]).release()


def test_a_killed_box_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    code = "import os; from edge.runtime import Claim; held = Claim(['capture:a']); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    runtime.Claim(["capture:a"]).release()


def test_status_is_there_only_while_its_process_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    runtime.write_status({"pid": os.getpid(), "state": "running"})
    assert runtime.read_status() == {"pid": os.getpid(), "state": "running"}
    runtime.write_status({"pid": 2**22 - 3, "state": "running"})
    assert runtime.read_status() is None
    (tmp_path / "status.json").write_text("half a fi")
    assert runtime.read_status() is None
    runtime.remove_status()
    runtime.remove_status()


def test_a_runtime_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "link"))
    with pytest.raises(runtime.AlreadyRunning, match="belongs to somebody else"):
        runtime.runtime_folder()

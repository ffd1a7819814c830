"""Counters, claims and status: what is told of a running box is what happened."""

import fcntl
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
    first = runtime.Claim(["capture:Mic", "playback:jack"])
    with pytest.raises(runtime.AlreadyRunning, match=rf"Mic is already used by quietbox run, process {os.getpid()}"):
        runtime.Claim(["capture:Mic", "playback:other"])
    runtime.Claim(["capture:Other", "playback:other"]).release()
    first.release()
    runtime.Claim(["capture:Mic"]).release()


def test_a_killed_box_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    code = "import os; from edge.runtime import Claim; held = Claim(['capture:a']); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    runtime.Claim(["capture:a"]).release()


def test_a_claim_changes_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    mine, other = runtime.Claim(["capture:a", "playback:b"]), runtime.Claim(["capture:c"])
    with pytest.raises(runtime.AlreadyRunning):
        mine.change(["capture:c", "playback:d"])
    runtime.Claim(["playback:d"]).release()
    with pytest.raises(runtime.AlreadyRunning):
        runtime.Claim(["capture:a"])
    mine.change(["capture:e", "playback:b"])
    runtime.Claim(["capture:a"]).release()
    with pytest.raises(runtime.AlreadyRunning):
        other.change(["capture:e"])
    runtime.Claim(["capture:" + "long name " * 50]).release()


def test_status_is_there_only_while_its_box_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    assert runtime.read_status() is None
    mine, second = runtime.StatusFile(), runtime.StatusFile()
    mine.write({"pid": 1, "state": "running"})
    second.write({"state": "second"})
    second.remove()
    assert runtime.read_status() == {"pid": 1, "state": "running"}
    for odd in ("half a fi", "[1]", "[" * 100_000, "\xff"):
        (tmp_path / "status.json").write_text(odd, encoding="latin-1")
        assert runtime.read_status() is None
    mine.write({"pid": 1, "state": "running"})
    kept = (tmp_path / "status.json").read_bytes()
    mine.remove()
    mine.remove()
    (tmp_path / "status.json").write_bytes(kept)  # as a killed box leaves it
    assert runtime.read_status() is None
    late = runtime.StatusFile()
    assert runtime.read_status() is None, "what a dead box said is not what the new one says"
    late.write({"state": "late"})
    assert runtime.read_status() == {"state": "late"}
    late.remove()


def test_a_box_that_finds_its_status_locked_for_a_moment_tells_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    with (tmp_path / "status.lock").open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)  # as `quietbox status` does for a moment
        box = runtime.StatusFile()
        box.write({"state": "start"})
        assert not (tmp_path / "status.json").exists()
    box.write({"state": "running"})
    assert runtime.read_status() == {"state": "running"}
    box.remove()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_runtime_folder_that_is_not_ours_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / kind))
    with pytest.raises(runtime.NoRuntimeFolder, match=kind):
        runtime.Claim(["capture:a"])
    assert runtime.read_status() is None


def test_the_slowest_hop_is_told_for_each_stretch_and_for_all() -> None:
    health = Health()
    for took_us in (100, 900, 300):
        health.hop(took_us, 0, 0, False, False)
    assert health.take_longest_us() == 900
    health.hop(200, 0, 0, False, False)
    assert health.take_longest_us() == 200 and health.longest_us == 900
    assert health.take_longest_us() == 0


def test_a_status_is_one_line_whoever_wrote_it() -> None:
    known = {"state": "running", "engine": "network", "pid": 7, "xruns_in": 0, "xruns_out": 2, "drift_ppm": -3.5}
    figures = {
        "noise_removed_db": 21.0,
        "speech_share": 0.25,
        "latency_ms": 44.1,
        "queue_ms": 20.5,
        "hop_p99_us": 800.0,
    }
    line = runtime.in_words({**known, **figures})
    assert line.startswith("running, engine network, noise removed 21 dB, speech 25%") and "0 in 2 out" in line
    for odd in ({}, known, {**known, **figures, "speech_share": "much"}):
        assert "another version" in runtime.in_words(odd)

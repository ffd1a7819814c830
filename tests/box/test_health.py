"""Counters, claims and status: what is reported of a running box is what happened."""

import fcntl
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import SOUNDS

from edge import HOP_SAMPLES, runtime, status
from edge.box import Box
from edge.config import Config, HowlConfig, ReferenceConfig, SuppressConfig
from edge.dsp.spectrum import Floats
from edge.health import EVENTS_KEPT, FLOOR_HOPS, Counters, Health, dbfs, percentile_us, summary
from edge.journal import FIELDS
from hw.prove.sleep_cost import sentences, spaced
from models.measures import spoken


def hop(
    health: Health,
    took_us: float = 100,
    power_in: float = 0.0,
    power_out: float = 0.0,
    *,
    speaking: bool = False,
    skipped: bool = False,
    late: bool = False,
) -> None:
    """One hop of which the feedforward path took nothing and the feedback path everything."""
    powers = (power_in, power_in, power_out, power_out, power_out)
    health.hop(took_us, *powers, counts=True, speaking=speaking, skipped=skipped, late=late)


def test_a_stretch_of_time_is_the_difference_of_two_copies() -> None:
    health = Health()
    hop(health, 100, 0.01, 0.001, speaking=True)
    before = health.totals.copy()
    for _ in range(3):
        hop(health, 250, 0.04, 0.0004, late=True)
    lately = health.totals.since(before)
    assert (lately.hops, lately.spoken, lately.pauses, lately.late, sum(lately.took)) == (3, 0, 3, 3, 3)
    reported = summary(lately)
    assert reported["noise_removed_db"] == 20.0
    assert reported["level_in_dbfs"] == dbfs(0.04) == -14.0
    assert reported["seconds"] == 0.01 or reported["seconds"] == 0.02


def test_each_path_has_its_own_share_of_what_was_removed() -> None:
    health = Health()
    for number in range(100):
        pause, voice = (1e-2, 1e-3, 1e-5, 1e-6, 1e-6), (1e-1,) * 5
        health.hop(100, *pause, counts=True, speaking=False, skipped=number % 4 > 0, late=False)
        health.hop(100, *voice, counts=True, speaking=True, skipped=False, late=False)
    reported = summary(health.totals)
    assert (reported["feedforward_db"], reported["feedback_db"], reported["noise_removed_db"]) == (10.0, 20.0, 40.0)
    assert reported["sleep_share"] == 0.375


def talk(name: str, left: float) -> tuple[Floats, Floats, Floats]:
    """Sentences and pauses, the same in noise, and with so much of the noise's amplitude left."""
    clean, noisy = (soundfile.read(SOUNDS / part / f"{name}.flac", dtype="float32")[0] for part in ("clean", "noisy"))
    voice = spaced(sentences(1.5)[:6], [2.0] * 6, before_s=2.0)
    noise = np.resize(noisy - clean, len(voice))
    cleaner: Floats = (voice + left * noise).astype(np.float32)
    return voice, voice + noise, cleaner


def heard(clean: Floats, before: Floats, after: Floats) -> dict[str, float]:
    """What is reported of a box that turns one into the other and decides rightly when somebody speaks."""
    health = Health()
    said = spoken(clean)
    said |= np.convolve(said, np.ones(150))[: len(said)] > 0  # the decision holds for 750 ms
    rows = (x[: len(x) // HOP_SAMPLES * HOP_SAMPLES].reshape(-1, HOP_SAMPLES) for x in (before, after))
    for speaking, *powers in zip(said, *(np.square(row).mean(axis=1) for row in rows), strict=False):
        hop(health, 100, float(powers[0]), float(powers[1]), speaking=bool(speaking))
    return summary(health.totals)


def level_dbfs(sound: Floats) -> float:
    return dbfs(float(np.square(sound).mean()))


@pytest.mark.parametrize("name", ["rain_en_5dB", "tavern_fr_10dB", "brook_it_0dB"])
def test_noise_and_voice_are_told_without_knowing_either_alone(name: str) -> None:
    clean, noisy, cleaner = talk(name, 0.1)
    reported = heard(clean, noisy, cleaner)
    noise_dbfs = level_dbfs(noisy - clean)
    assert noise_dbfs - 5 < reported["noise_floor_in_dbfs"] < noise_dbfs
    assert reported["noise_floor_in_dbfs"] - reported["noise_floor_out_dbfs"] == pytest.approx(20, abs=3)
    snr_db = level_dbfs(clean[np.repeat(spoken(clean), HOP_SAMPLES)]) - noise_dbfs
    assert reported["snr_in_db"] == pytest.approx(snr_db, abs=3)
    assert reported["snr_out_db"] - reported["snr_in_db"] == pytest.approx(20, abs=3)
    assert abs(reported["voice_kept_db"]) < 1.5
    quieter = heard(clean, noisy, 0.5 * cleaner)
    assert reported["voice_kept_db"] - quieter["voice_kept_db"] == pytest.approx(6, abs=0.3)
    assert quieter["snr_out_db"] == pytest.approx(reported["snr_out_db"], abs=0.3)


def test_the_floor_of_steady_noise_is_its_level_and_a_step_is_found_within_seconds() -> None:
    draw = np.random.default_rng(1)
    health = Health()
    for level in (0.01, 0.1, 0.001):
        for power in np.square(level * draw.standard_normal((1200, HOP_SAMPLES))).mean(axis=1):
            hop(health, 100, float(power), float(power))
        before = health.totals.copy()
        for power in np.square(level * draw.standard_normal((1200, HOP_SAMPLES))).mean(axis=1):
            hop(health, 100, float(power), float(power))
        reported = summary(health.totals.since(before))
        assert reported["noise_floor_in_dbfs"] == pytest.approx(20 * np.log10(level) - 0.5, abs=0.5)
        assert "snr_in_db" not in reported, "nobody spoke"


def test_a_voice_that_drowns_is_not_told() -> None:
    health = Health()
    for number in range(20 * FLOOR_HOPS):
        hop(health, 100, 1e-2, 1e-4, speaking=number % 10 > 4)
    reported = summary(health.totals)
    assert reported["noise_floor_in_dbfs"] == -20 and "snr_in_db" not in reported and "voice_kept_db" not in reported


def test_every_figure_has_a_field() -> None:
    assert summary(Counters()).keys() | heard(*talk("rain_en_5dB", 0.1)).keys() <= {field.name for field in FIELDS}


def test_the_adaptive_stages_are_told_where_they_are_and_only_there() -> None:
    off = Config(suppress=SuppressConfig(engine="off"))
    on = replace(off, reference=ReferenceConfig(channel=2), howl=HowlConfig(on=True))
    names = {"reference_db", "reference_state", "reference_resets", "howl_events", "howl_drop_db"}
    for config, wanted in ((off, set()), (on, names)):
        box = Box(config)
        reported = status.counts(box) | status.moment(box)
        assert reported.keys() & names == wanted and reported.keys() <= {field.name for field in FIELDS}
    before = status.Mark.of(box)
    assert box.chain.howl and box.chain.reference
    box.chain.howl.events += 2
    box.chain.reference.resets += 1
    lately = status.Mark.of(box).since(before)
    assert (lately["howl_events"], lately["reference_resets"]) == (2, 1)
    assert status.Mark.of(box).since(status.Mark.of(Box(off)))["howl_events"] == 2, "new settings brought it"


def test_nothing_heard_yet_is_no_figure() -> None:
    reported = summary(Counters())
    assert (reported.pop("seconds"), reported.pop("late_hops")) == (0, 0)
    assert reported and all(figure is None for figure in reported.values())
    health = Health()
    hop(health, 100)
    assert {name for name, figure in summary(health.totals).items() if figure is None} < reported.keys()
    assert summary(health.totals).keys() >= reported.keys()


def test_percentiles_are_upper_edges_of_their_steps() -> None:
    health = Health()
    for took_us in [50] * 98 + [430, 10**9]:
        hop(health, took_us)
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
        hop(health, took_us)
    assert health.take_longest_us() == 900
    hop(health, 200)
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
    unheard = dict.fromkeys(figures)
    assert runtime.in_words({**known, **unheard, "drift_ppm": None, "state": "waiting"}) == (
        "waiting, engine network, no sound yet, xruns 0 in 2 out, process 7"
    )
    for odd in ({}, known, {**known, **figures, "speech_share": "much"}):
        assert "another version" in runtime.in_words(odd)

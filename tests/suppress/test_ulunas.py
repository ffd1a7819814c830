"""UL-UNAS in the box equals its owners' loop; its file is named by path, and another one is noted or refused.

The graphs are made on the spot (``ulunas_graph``); the published file is compared by hand (docs/engines.md).
"""

from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("onnxruntime")

from ulunas_graph import graph

from edge import HOP_SAMPLES, RATE_HZ
from edge.chain import Chain
from edge.config_file import parse
from edge.dsp.spectrum import Floats
from edge.engines import BY_NAME
from edge.suppress import BadModel, open_core, open_engine
from edge.suppress.foreign import ulunas
from edge.suppress.foreign.spectral import HOP
from edge.tools import bench

SOUND = Path(__file__).parents[1] / "sounds" / "noisy" / "brook_it_0dB.flac"


def read(seconds: float = 2.0) -> Floats:
    return soundfile.read(SOUND, round(seconds * RATE_HZ), dtype="float32")[0]


@pytest.fixture(scope="module")
def remembers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose gain depends on all that it has got."""
    return graph(tmp_path_factory.mktemp("ulunas") / "graph.onnx", 0.8, memory=3.0)


def test_in_the_box_it_equals_its_owners_loop(remembers: Path) -> None:
    pytest.importorskip("torch")
    from quant.ulunas import SILENCE, agreement_db, in_the_box

    sound = read()
    assert agreement_db(remembers, sound) > 70, "-100 dB of dry sound beside an output of -20 dB is all that is left"
    padded = np.concatenate([SILENCE, sound, SILENCE])
    memoryless = in_the_box(graph(remembers.with_name("plain.onnx"), 0.8), padded)
    assert np.abs(in_the_box(remembers, padded) - memoryless).max() > 0.01, "the states matter"


def test_the_command_compares_recordings_and_names_what_is_wrong(
    remembers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    from quant.ulunas import main

    soundfile.write(tmp_path / "a.wav", read(0.5), RATE_HZ, "PCM_16")
    assert main([str(remembers), str(tmp_path / "a.wav")]) == 0
    assert "at least 60 dB" in capsys.readouterr().out
    assert main([str(tmp_path / "none.onnx"), str(tmp_path / "a.wav")]) == 2
    assert main([str(remembers), str(tmp_path / "none.wav")]) == 2
    soundfile.write(tmp_path / "b.wav", read(0.5), 8000, "PCM_16")
    assert main([str(remembers), str(tmp_path / "b.wav")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "none.onnx" in said[0] and "none.wav" in said[1] and "mono at 16000 Hz" in said[2]


def test_a_network_that_changes_nothing_leaves_only_the_delay(tmp_path: Path) -> None:
    core, sound = open_core("ulunas", str(graph(tmp_path / "one.onnx"))), read()
    walked = np.resize(sound, len(sound) // HOP * HOP)
    for block in walked.reshape(-1, HOP):
        assert core.process(block) is None
    np.testing.assert_allclose(walked[HOP:], sound[: len(walked) - HOP], atol=1e-6)


def test_a_reset_core_is_a_new_one(remembers: Path) -> None:
    one, other = (open_core("ulunas", str(remembers)) for _ in range(2))
    blocks = read()[: 20 * HOP].reshape(20, HOP)
    for block in blocks:
        one.process((3 * block).clip(-1, 1))
    one.reset()
    for block in blocks:
        first, second = block.copy(), block.copy()
        one.process(first)
        other.process(second)
        np.testing.assert_array_equal(first, second)


def test_the_settings_name_the_file_and_the_row_says_the_latency(remembers: Path) -> None:
    config = parse(f'[suppress]\nengine = "ulunas"\nmodel = "{remembers}"\n', "settings")
    chain = Chain(config)
    assert chain.working == "ulunas" and not chain.degraded
    engine = open_engine("ulunas", bench.NO_LIMIT_DB, str(remembers))
    assert 5 * (1 + engine.delay_samples / HOP_SAMPLES) == BY_NAME["ulunas"].latency_ms
    assert abs(bench.measured_delay(engine) - engine.delay_samples) <= 2


def test_another_file_of_the_same_inputs_is_used_with_a_note(remembers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    (note,) = open_engine("ulunas", 30, str(remembers)).notes
    assert str(remembers) in note and "sha256" in note and ulunas.SHA256[:12] in note and "\n" not in note
    monkeypatch.setattr(ulunas, "SHA256", hashlib.sha256(remembers.read_bytes()).hexdigest())
    assert not open_engine("ulunas", 30, str(remembers)).notes


@pytest.mark.parametrize(
    "states",
    [{"conv_cache": 5358, "tfa_cache": 402}, ulunas.STATES | {"inter_cache": 528}, {"a": 5358, "b": 402, "c": 1056}],
    ids=["one state less", "another size", "other names"],
)
def test_a_file_of_another_shape_is_refused_in_one_line(states: dict[str, int], tmp_path: Path) -> None:
    file = graph(tmp_path / "other.onnx", states=states)
    with pytest.raises(BadModel, match="is not UL-UNAS's streaming graph: its inputs are mix") as refused:
        open_core("ulunas", str(file))
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)
    engine = open_engine("ulunas", 30, str(file))
    assert engine.name in ("network", "rnn") and str(refused.value) in engine.notes[-1]


def test_without_a_file_the_line_says_where_it_is_published() -> None:
    with pytest.raises(BadModel) as refused:
        open_core("ulunas")
    assert "set model to its path" in str(refused.value) and "github.com/Xiaobin-Rong/ul-unas" in str(refused.value)
    assert open_engine("ulunas", 30).name != "ulunas"


@pytest.mark.parametrize("fault", ["nothing", "folder", "rubbish"])
def test_a_wrong_file_is_named(fault: str, tmp_path: Path) -> None:
    at = tmp_path / "it.onnx"
    if fault == "folder":
        at.mkdir()
    elif fault == "rubbish":
        at.write_bytes(b"\x7fELF and so on" * 99)
    with pytest.raises(BadModel) as refused:
        open_core("ulunas", str(at))
    assert str(at) in str(refused.value) and "\n" not in str(refused.value)


def test_the_evaluation_takes_an_engine_with_its_model(remembers: Path) -> None:
    from models.command import BadRequest
    from quant.evaluate.engines import engine_named

    named = engine_named(f"ulunas:{remembers}")
    assert named.weights() == [remembers] and named.latency_ms() == 36
    with pytest.raises(BadRequest, match="no engine is called"):
        engine_named(f"nobody:{remembers}")
    with pytest.raises(BadRequest, match="set model to its path"):
        engine_named("ulunas").weights()

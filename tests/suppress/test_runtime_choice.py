"""ONNX Runtime runs the network only where its device probe has passed; else NumPy does."""
# ruff: noqa: F811  (fixtures are imported and then named as arguments)

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from network_files import SMALL, box, folder, fresh_trials, quantised, settled, spectra, whole, write_card  # noqa: E402, F401

from edge import suppress  # noqa: E402
from edge.dsp.spectrum import BANDS  # noqa: E402
from edge.suppress import open_engine, probe, shipped  # noqa: E402
from edge.suppress.network import NumpyNetwork  # noqa: E402
from edge.tools.bench import speech_like  # noqa: E402
from quant.export.network import build  # noqa: E402


def numpy_goes_on(folder: Path, says: str) -> None:
    box = open_engine("network", 30, str(folder))
    assert isinstance(box._levels[0], NumpyNetwork) and box.name == "network"
    assert sum(says in note for note in box.notes) == 1, box.notes
    assert "NumPy runs the network instead" in box.notes[0] and "\n" not in box.notes[0]
    gains = np.zeros(BANDS, np.float32)
    box._levels[0].estimate(spectra(1)[0], gains)
    assert gains.min() > 0 and gains.max() < 1


def test_a_sound_onnxruntime_is_taken(box: Path) -> None:
    opened = open_engine("auto", 30)
    assert opened.notes == []
    assert [level.__class__.__name__ for level in opened._levels] == ["OnnxNetwork", "NumpyNetwork", "Wiener", "Unity"]
    assert [level.name for level in opened._levels] == ["network", "rnn", "dsp", "off"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "ONNX Runtime was ended by SIGILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ONNX Runtime was ended by SIGSEGV"),
        ("import os; os._exit(1)", "ONNX Runtime failed its probe"),
        ("raise ImportError('libsomething.so.3: cannot open')", "libsomething.so.3"),
        ("raise SystemError('a\\nb')", "a b"),
        ("print('noise on stdout')\nimport time; time.sleep(60)", "did not answer within 1.5 s"),
        ("", "ONNX Runtime failed (AttributeError"),
    ],
)
def test_a_broken_onnxruntime_is_found_out_next_door(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    (tmp_path / "onnxruntime.py").write_text(code + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    failure = probe.failure
    monkeypatch.setattr(probe, "failure", lambda model: failure(model, 1.5 if "sleep" in code else 30))
    numpy_goes_on(whole, says)


def test_a_runtime_that_gives_wrong_numbers_is_not_taken(folder: Path) -> None:
    wrong = settled(SMALL, seed=9)
    quantised(wrong)
    for scale, says in ((1.0, "and NumPy disagree"), (float("nan"), "and NumPy disagree")):
        with torch.no_grad():
            wrong.spread.bias *= scale
        (folder / "mine.onnx").write_bytes(build(wrong).SerializeToString())
        write_card(folder)
        probe._tried.cache_clear()
        numpy_goes_on(folder, says)


def test_no_wheel_at_all(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = probe.importlib.util.find_spec
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    numpy_goes_on(whole, "ONNX Runtime is not installed")


def test_a_trial_is_made_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_engine("network", 30, str(whole))
    monkeypatch.setattr(probe.subprocess, "run", None)
    assert not any("NumPy" in note for note in open_engine("network", 30, str(whole)).notes)


def test_a_service_that_comes_back_trusts_the_trial_of_its_last_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "run"
    kept.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(kept))
    assert probe.failure(shipped.Model(str(folder))) == ""
    assert len(list(kept.iterdir())) == 1
    probe._tried.cache_clear()  # as in a new process
    run, tries = probe.subprocess.run, []
    monkeypatch.setattr(probe.subprocess, "run", lambda *args, **named: tries.append(args) or run(*args, **named))
    assert probe.failure(shipped.Model(str(folder))) == "" and not tries

    other = settled(SMALL, seed=9)
    quantised(other)
    (folder / "mine.onnx").write_bytes(build(other).SerializeToString())
    write_card(folder)
    probe._tried.cache_clear()
    assert "disagree on the same weights" in probe.failure(shipped.Model(str(folder))) and len(tries) == 1
    assert len(list(kept.iterdir())) == 1, "what failed is not trusted"
    probe._tried.cache_clear()
    assert "disagree on the same weights" in probe.failure(shipped.Model(str(folder))) and len(tries) == 2


def test_what_the_installer_tried_no_start_tries_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At power-on /run is empty; another processor, as when the card moves to another board, is tried anew."""
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    model = shipped.Model(str(folder))
    probe._tried.cache_clear()
    assert probe.failure(model) == "" and not list(tmp_path.glob("passed-*")), "only the installer writes there"
    assert probe.remember(model) == "" and len(list(tmp_path.glob("passed-*"))) == 1
    run, tries = probe.subprocess.run, []
    monkeypatch.setattr(probe.subprocess, "run", lambda *args, **named: tries.append(args) or run(*args, **named))
    probe._tried.cache_clear()
    assert probe.failure(model) == "" and not tries
    monkeypatch.setattr(probe, "_processor", lambda: "another board")
    probe._tried.cache_clear()
    assert probe.failure(model) == "" and len(tries) == 1


def test_a_folder_that_keeps_nothing_only_costs_another_trial(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/nowhere/at/all")
    assert probe.failure(shipped.Model(str(folder))) == ""


def test_a_deadly_onnxruntime_does_not_kill_the_command(whole: Path, tmp_path: Path) -> None:
    import soundfile

    (tmp_path / "onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    (tmp_path / "quietbox.toml").write_text(f'[suppress]\nmodel = "{whole}"\n')
    soundfile.write(tmp_path / "a.wav", speech_like(0.3), 16_000)
    call = ["enhance", "a.wav", "-o", "b.wav", "--config", "quietbox.toml", "--engine", "network"]
    done = subprocess.run(
        [sys.executable, "-m", "edge.cli", *call],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(suppress.__file__).parents[2]}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and (tmp_path / "b.wav").exists()
    assert "quietbox: ONNX Runtime was ended by SIGILL; NumPy runs the network instead" in done.stderr
    assert "Traceback" not in done.stderr


def dtln_like(folder: Path) -> bytes:
    value = onnx.helper.make_tensor_value_info
    inputs = [value("input_2", onnx.TensorProto.FLOAT, [1, 257])]
    outputs = [value("activation", onnx.TensorProto.FLOAT, [1, 257])]
    node = onnx.helper.make_node("Relu", ["input_2"], ["activation"])
    graph = onnx.helper.make_graph([node], "other", inputs, outputs)
    opset = [onnx.helper.make_opsetid("", 17)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def with_props(folder: Path, **said: str) -> bytes:
    model = onnx.load(folder / "mine.onnx")
    props = {entry.key: entry.value for entry in model.metadata_props} | said
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, props)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        (lambda folder: None, "mine.onnx is missing"),
        (lambda folder: b"", "mine.onnx is not an ONNX model, or a broken one"),
        (lambda folder: b"no ONNX at all\n", "mine.onnx is not an ONNX model, or a broken one"),
        (lambda folder: (folder / "mine.onnx").read_bytes()[:-500], "mine.onnx is not an ONNX model, or a broken one"),
        (dtln_like, "mine.onnx is not a network of this box: its inputs and outputs are input_2, activation"),
        (lambda folder: with_props(folder, bands="32"), "mine.onnx is for bands = 32"),
        (lambda folder: with_props(folder, version="9.1"), "mine.onnx is of version 9.1"),
        (lambda folder: with_props(folder, silence="AAA"), "mine.onnx has no initial state"),
        (lambda folder: with_props(folder, silence="AAAA"), "mine.onnx has no initial state"),
        (lambda folder: with_props(folder, silence="AAAAAAAA"), "mine.onnx has an initial state that does not fit"),
        (
            lambda folder: with_props(folder, shape=json.dumps(asdict(replace(SMALL, hidden=13)))),
            "mine.onnx has inputs and outputs of other sizes than it says",
        ),
    ],
)
def test_a_wrong_graph_is_named_and_numpy_goes_on(folder: Path, spoilt: Any, says: str) -> None:
    content = spoilt(folder)
    (folder / "mine.onnx").unlink()
    if content is not None:
        (folder / "mine.onnx").write_bytes(content)
    write_card(folder)
    numpy_goes_on(folder, says)


def test_a_graph_that_its_card_does_not_mean_is_not_even_tried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mine.onnx").write_bytes(dtln_like(folder))
    monkeypatch.setattr(probe.subprocess, "run", None)
    numpy_goes_on(folder, "mine.onnx does not match its model card")

"""The networks on the box: NumPy and ONNX Runtime say what PyTorch says; whatever is wrong is named and survived."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edge import HOP_SAMPLES, cli, suppress  # noqa: E402
from edge.box import Box  # noqa: E402
from edge.config import Config, SuppressConfig  # noqa: E402
from edge.dsp.spectrum import BANDS, BINS, Features, Floats, Spectra  # noqa: E402
from edge.engines import AUTO, Family, names  # noqa: E402
from edge.suppress import network as engine  # noqa: E402
from edge.suppress import open_engine, probe, shipped  # noqa: E402
from edge.suppress.mask import MaskEngine, Unity  # noqa: E402
from edge.suppress.network import NumpyNetwork, Shape  # noqa: E402
from edge.suppress.shipped import BadModel, Model  # noqa: E402
from edge.tools.bench import speech_like  # noqa: E402
from models.network import Network, Spectrum  # noqa: E402
from models.train.checkpoint import load_network  # noqa: E402
from quant.export.network import build  # noqa: E402
from quant.quantize.compact import compact, numbers, pack  # noqa: E402

torch.set_num_threads(1)
SMALL = Shape(stride_bands=16, channels=8, squeeze=4, hidden=12, rounds=1, past_hops=1)
ODD = Shape(stride_bands=4, channels=12, squeeze=4, hidden=24, rounds=3, past_hops=3)
TRAINED = Path(__file__).parents[2] / "models" / "quietbox" / "weights.pt"


def settled(shape: Shape, seed: int = 3) -> Network:
    torch.manual_seed(seed)
    network = Network(shape).eval()
    network.settle()
    return network


def quantised(network: Network) -> dict[str, Any]:
    """Int8 rows and scales as the box reads them; ``network`` gets the very same values."""
    weights: dict[str, Any] = {}
    state = network.state_dict()
    for name, values in state.items():
        if name.endswith(".weight"):
            scale = (values.abs().amax(1) / 127).clamp(min=1e-8)
            rows = (values / scale[:, None]).round()
            weights[name], weights[name.removesuffix("weight") + "scale"] = rows.to(torch.int8).numpy(), scale.numpy()
            state[name] = rows * scale[:, None]
        else:
            state[name] = values.half().float()
            weights[name] = values.half().numpy()
    network.load_state_dict(state)
    return weights


def about(network: Network) -> dict[str, Any]:
    """What a file says of itself."""
    return {
        "name": "quietbox",
        "version": f"{shipped.MAJOR_VERSION}.1.0",
        **shipped.NEEDED,
        "normalisation": "",
        "recipe_sha256": "",
        "licence": "MIT",
        "shape": asdict(network.shape),
    }


def packed(weights: dict[str, Any], said: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, meta=np.array(json.dumps(said)), **weights)
    return content.getvalue()


def write_model(folder: Path, network: Network) -> Path:
    """A whole model folder."""
    weights = quantised(network)
    folder.mkdir(parents=True)
    (folder / f"{folder.name}.npz").write_bytes(packed(weights, about(network)))
    (folder / f"{folder.name}.onnx").write_bytes(build(network).SerializeToString())
    write_card(folder)
    return folder


def write_card(folder: Path) -> None:
    lines = ["# A card", "", "| file | |", "|---|---|"]
    for file in sorted(folder.glob(f"{folder.name}.*")):
        lines.append(f"| `{file.name}` | sha256 `{hashlib.sha256(file.read_bytes()).hexdigest()}` |")
    (folder / "CARD.md").write_text("\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def fresh_trials() -> Iterator[None]:
    probe._tried.cache_clear()
    yield
    probe._tried.cache_clear()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network as it would be shipped; nobody changes it."""
    return write_model(tmp_path_factory.mktemp("models") / "whole", settled(SMALL))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One to be spoilt."""
    return write_model(tmp_path / "mine", settled(SMALL))


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box with both shipped models."""
    write_model(tmp_path / "quietbox", settled(SMALL))
    write_model(tmp_path / "rnn", settled(SMALL, seed=4))
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    return tmp_path


def wandering(hops: int, seed: int = 1) -> Floats:
    """Features with level changes and a long digital silence."""
    draw = np.random.default_rng(seed)
    features = draw.normal(0, 0.6, (hops, BANDS)) + np.sin(np.arange(hops) / 90)[:, None]
    features[hops // 3 : hops // 2] = engine.SILENCE
    return features.astype(np.float32)


def spectra(hops: int, level: float = 0.05) -> Spectra:
    draw = np.random.default_rng(2)
    both = draw.normal(0, level * 12.6, (2, hops, BINS)).astype(np.float32)
    return (both[0] + 1j * both[1]).astype(np.complex64)


# --- the same numbers ----------------------------------------------------------------------------------------------


def test_the_states_have_the_sizes_of_the_definition() -> None:
    ours = Shape()
    assert ours.state_sizes == Network(Shape()).state_sizes


def test_features_are_those_of_the_training() -> None:
    features, theirs = Features(), Spectrum()
    for frame in [*spectra(20), *spectra(5, 1e-4), np.zeros(BINS, np.complex64)]:
        wanted = theirs.features(torch.from_numpy(frame)).numpy()
        np.testing.assert_allclose(features.of(frame), wanted, atol=2e-6)


@torch.no_grad()
@pytest.mark.parametrize("which", ["trained", "small", "odd"])
def test_numpy_is_step(which: str) -> None:
    network = load_network(TRAINED).eval() if which == "trained" else settled({"small": SMALL, "odd": ODD}[which])
    weights = quantised(network)
    ours = NumpyNetwork("network", network.shape, weights)
    gains, state = np.zeros(BANDS, np.float32), network.fresh_state()
    worst = spread = 0.0
    for row in wandering(2000 if which == "trained" else 500):
        theirs, speech, state = network.step(torch.from_numpy(row)[None], state)
        said = ours.step(row, gains)
        worst = max(worst, float(np.abs(gains - theirs.numpy()[0]).max()), abs(said - float(speech[0])))
        spread = max(spread, float(np.ptp(gains)))
    assert worst < 1e-4
    assert spread > 0.05  # else nothing was compared


def test_a_clamped_gate_forgets_as_slowly_as_the_definition_allows() -> None:
    network = settled(SMALL)
    with torch.no_grad():
        for part in (*network.groups, *network.full):
            part.gates.bias[: part.gates.out_features // 3] = -30
    weights = quantised(network)
    ours = NumpyNetwork("network", SMALL, weights)
    gains, state = np.zeros(BANDS, np.float32), network.fresh_state()
    with torch.no_grad():
        for row in wandering(400):
            theirs, _, state = network.step(torch.from_numpy(row)[None], state)
            ours.step(row, gains)
    np.testing.assert_allclose(gains, theirs.numpy()[0], atol=1e-4)


def test_one_scale_for_a_whole_matrix_is_as_good() -> None:
    network = settled(SMALL)
    weights = quantised(network)
    for name in [name for name in weights if name.endswith(".scale")]:
        weights[name] = np.array(0.01, np.float32)
    shape = SMALL
    one = NumpyNetwork("network", shape, weights)
    for name in [name for name in weights if name.endswith(".scale")]:
        weights[name] = np.full(len(weights[name.removesuffix("scale") + "bias"]), 0.01, np.float32)
    each = NumpyNetwork("network", shape, weights)
    gains, other_gains = np.zeros((2, BANDS), np.float32)
    for row in wandering(20):
        assert one.step(row, gains) == each.step(row, other_gains)
    np.testing.assert_array_equal(gains, other_gains)


@pytest.mark.parametrize("shape", [SMALL, Shape()])
def test_onnx_is_numpy(shape: Shape, tmp_path: Path) -> None:
    from edge.suppress.onnx import OnnxNetwork

    model = Model(str(write_model(tmp_path / "mine", settled(shape))))
    ours, theirs = model.weights("network"), OnnxNetwork("network", model)
    gains, other_gains = np.zeros((2, BANDS), np.float32)
    for frame in spectra(600):
        speech, other_speech = ours.estimate(frame, gains), theirs.estimate(frame, other_gains)
        assert abs(speech - other_speech) < 1e-5
        np.testing.assert_allclose(gains, other_gains, atol=1e-5)


def test_what_quantize_writes_runs_on_both(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    exact = build(settled(Shape()))
    (folder / "mine.onnx").write_bytes(compact(exact).SerializeToString())
    (folder / "mine.npz").write_bytes(pack(numbers(exact)))
    model = Model(str(folder))
    assert probe.failure(model) == ""
    ours, theirs = both(model)
    gains, other_gains = np.zeros((2, BANDS), np.float32)
    for frame in spectra(300):
        assert abs(ours.estimate(frame, gains) - theirs.estimate(frame, other_gains)) < 2e-3
        np.testing.assert_allclose(gains, other_gains, atol=2e-3)


def both(model: Model) -> list[Any]:
    from edge.suppress.onnx import OnnxNetwork

    return [model.weights("network"), OnnxNetwork("network", model)]


def test_reset_is_a_fresh_start_exactly(whole: Path) -> None:
    for estimator in both(Model(str(whole))):
        frames, gains = spectra(101), np.zeros((3, 101, BANDS), np.float32)
        for run in range(3):
            said = [estimator.estimate(frame, row) for frame, row in zip(frames, gains[run], strict=True)]
            assert all(0 <= speech <= 1 for speech in said)
            if run == 1:
                estimator.estimate(np.full(BINS, np.nan, np.complex64), gains[2, 0])
                assert np.isnan(gains[2, 0]).any()  # the engine above counts it and starts afresh
            estimator.reset()
        np.testing.assert_array_equal(gains[0], gains[1])
        np.testing.assert_array_equal(gains[0], gains[2])
        assert gains.min() >= 0 and gains.max() <= 1


def test_absurd_frames_give_gains_or_a_fresh_start(whole: Path) -> None:
    for estimator in both(Model(str(whole))):
        box = MaskEngine([estimator, Unity()], 60)
        sound = speech_like(1.0).reshape(-1, HOP_SAMPLES)
        for number, hop in enumerate(sound.copy()):
            hop *= [0.0, 1.0, 1e2, 1e-20, 1e6][number // 20 % 5]
            assert 0 <= box.process(hop) <= 1
        box.reset()
        after, wanted = sound.copy(), sound.copy()
        other = MaskEngine([Model(str(whole)).weights("network"), Unity()], 60)
        for hop, same in zip(after, wanted, strict=True):
            box.process(hop)
            other.process(same)
        np.testing.assert_allclose(after, wanted, atol=1e-5)
        assert box.level == 0


def test_the_limit_holds_on_the_gains_of_a_network(whole: Path) -> None:
    """With a limit of 0 dB nothing changes at all; with 12 dB no hop comes out quieter than that."""
    sound = speech_like(2.0)
    for limit_db in (0.0, 12.0):
        for estimator in both(Model(str(whole))):
            box = MaskEngine([estimator], limit_db)
            got = sound.reshape(-1, HOP_SAMPLES).copy()
            for hop in got:
                box.process(hop)
            late = sound[: -box.delay_samples]
            out = got.reshape(-1)[box.delay_samples :]
            assert (out @ out) / (late @ late) > 10 ** (-(limit_db + 0.1) / 10)
            if limit_db == 0:
                np.testing.assert_allclose(out, late, atol=1e-5)
            else:
                assert (out @ out) / (late @ late) < 0.9


def test_no_hop_leaves_memory_behind(whole: Path) -> None:
    gains = np.zeros(BANDS, np.float32)
    for estimator in both(Model(str(whole))):
        frames = spectra(500)
        for frame in frames[:100]:
            estimator.estimate(frame, gains)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for frame in frames[100:]:
                estimator.estimate(frame, gains)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 2048


# --- refusals ------------------------------------------------------------------------------------------------------


def spoil_nan(weights: dict[str, Any]) -> None:
    weights["join.bias"] = np.full_like(weights["join.bias"], np.nan)


def spoil_size(weights: dict[str, Any]) -> None:
    weights["patch.weight"] = weights["patch.weight"][:, :-1]


def spoil_name(weights: dict[str, Any]) -> None:
    del weights["groups.0.gates.bias"]


def spoil_kind(weights: dict[str, Any]) -> None:
    weights["place"] = np.array(["a", "b"])


def spoil_silence(weights: dict[str, Any]) -> None:
    weights["silence"] = weights["silence"][1:]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_nan, "NaN or infinite weights: join.bias"),
        (spoil_size, "patch.weight is (8, 63), not (8, 64)"),
        (spoil_name, "groups.0.gates.bias"),
        (spoil_kind, "place holds no numbers"),
        (spoil_silence, "silence is"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder: Path, spoil: Any, says: str) -> None:
    network = settled(SMALL)
    weights = quantised(network)
    spoil(weights)
    (folder / "mine.npz").write_bytes(packed(weights, about(network)))
    write_card(folder)
    refused(folder, "mine.npz", says)


def refused(folder: Path, *says: str) -> None:
    """One clear sentence that names the file and the way out; the fallback chain goes on below."""
    with pytest.raises(BadModel) as caught:
        Model(str(folder)).weights("network")
    said = str(caught.value)
    assert all(part in said for part in says), said
    assert str(folder) in said and "export it again" in said and "\n" not in said and len(said) < 600
    box = open_engine("network", 30, str(folder))
    assert box.name in ("rnn", "dsp")
    assert sum(said in note for note in box.notes) == 1
    assert box.notes[-1].endswith(f"{box.name} works")


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"sample_rate_hz": 8000}, "sample_rate_hz = 8000, the box has 16000"),
        ({"hop_samples": "160"}, "hop_samples = 160, the box has 80"),
        ({"window_samples": 512}, "window_samples = 512, the box has 320"),
        ({"bands": 32}, "bands = 32, the box has 64"),
        ({"version": "9.0"}, "is of version 9.0, this program supports 0.x"),
        ({"version": None}, "has invalid metadata"),
        ({"shape": {"channels": 8}}, "has invalid metadata"),
        ({"shape": {**asdict(SMALL), "layers": 8}}, "layers"),
        ({"shape": {**asdict(SMALL), "hidden": 10**9}}, "no network of this shape"),
        ({"shape": {**asdict(SMALL), "stride_bands": 3}}, "no network of this shape"),
        ({"shape": 7}, "has invalid metadata"),
    ],
)
def test_a_file_made_for_something_else_is_refused(folder: Path, said: dict[str, Any], says: str) -> None:
    network = settled(SMALL)
    (folder / "mine.npz").write_bytes(packed(quantised(network), about(network) | said))
    write_card(folder)
    refused(folder, "mine.npz", says)


class Pickled:
    def __reduce__(self) -> Any:
        return os._exit, (17,)


def garbage() -> list[bytes]:
    good = packed(quantised(settled(SMALL)), about(settled(SMALL)))
    evil, bare, large = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(evil, meta=np.array(Pickled(), dtype=object))
    np.save(bare, np.zeros(3))
    np.savez_compressed(large, meta=np.array("{}"), place=np.zeros(5_000_000, np.float32))
    broken = [b"", b"PK\x03\x04 no archive", good[:2000], good[:-30], b"\x00" * 5000, good.replace(b"place", b"plaqe")]
    return [*broken, packed({}, {}), *(content.getvalue() for content in (evil, bare, large))]


def test_garbage_is_refused_and_never_unpickled(folder: Path) -> None:
    for content in garbage():
        (folder / "mine.npz").write_bytes(content)
        write_card(folder)
        refused(folder, "mine.npz")


def test_a_changed_byte_anywhere_never_gets_through(folder: Path) -> None:
    """With its card it is another file; without, it is refused or gives sound gains, never another exception."""
    file = folder / "mine.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused(folder, "mine.npz", "does not match its model card")
    (folder / "CARD.md").unlink()
    draw = np.random.default_rng(5)
    good = bytes(content)
    for at in draw.integers(0, len(good), 60):
        file.write_bytes(good[:at] + bytes([draw.integers(0, 256)]) + good[at + 1 :])
        try:
            Model(str(folder)).weights("network")
        except BadModel as refusal:
            assert "mine.npz" in str(refusal)


def test_a_card_is_read_strictly(folder: Path) -> None:
    card = folder / "CARD.md"
    lines = card.read_text()
    npz = next(line for line in lines.splitlines() if ".npz" in line)
    for wrong in (
        lines.replace("sha256 `", "sha256 `0"),
        lines.replace("| `mine.npz`", "| mine.npz"),
        lines.replace(npz, npz.upper().replace("MINE.NPZ", "mine.npz").replace("SHA256", "sha256")),
        lines.replace(npz, npz + " checked"),
        "",
    ):
        card.write_text(wrong)
        refused(folder, "CARD.md has no line with the sha256 of mine.npz")
    card.write_text(lines + npz + "\n")
    refused(folder, "CARD.md names a file twice")
    card.write_bytes(b"\xff\xfe" + lines.encode())
    Model(str(folder)).weights("network")


def test_what_is_not_there_is_named(box: Path, tmp_path: Path) -> None:
    for file, says in (("CARD.md", "is missing"), ("quietbox.npz", "is missing")):
        kept = (box / "quietbox" / file).read_bytes()
        (box / "quietbox" / file).unlink()
        opened = open_engine("auto", 30)
        assert opened.name == "rnn" and len(opened.notes) == 1
        assert f"{box / 'quietbox' / file} {says} (reinstall Quietbox)" in opened.notes[0]
        (box / "quietbox" / file).write_bytes(kept)
    (box / "quietbox" / "quietbox.npz").unlink()
    (box / "quietbox" / "quietbox.npz").mkdir()
    assert "cannot be read" in open_engine("auto", 30).notes[0]
    refused(tmp_path / "no" / "where", "where.npz is missing")


def test_without_any_model_auto_says_one_sentence_and_takes_dsp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    box = open_engine("auto", 30)
    assert box.name == "dsp" and len(box.notes) == 1
    assert "quietbox.npz is missing" in box.notes[0] and "rnn.npz is missing" in box.notes[0]
    assert open_engine("dsp", 30).notes == [] and open_engine("off", 30).notes == []


def test_the_model_of_the_settings_is_the_one_that_is_opened(folder: Path, whole: Path) -> None:
    one, other = open_engine("network", 30, str(folder)), open_engine("network", 30, str(whole))
    assert one.name == other.name == "network"
    assert one._levels[0].__class__.__name__ == "OnnxNetwork"


# --- which runtime -------------------------------------------------------------------------------------------------


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


# --- the fallback chain ------------------------------------------------------------------------------------------


def test_a_network_that_fails_is_followed_by_the_next(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_engine("auto", 30)
    sound = speech_like(0.5).reshape(-1, HOP_SAMPLES).copy()

    def fails(*_: object) -> float:
        raise RuntimeError("on purpose")

    names = []
    for hop in sound[:6]:
        names.append(opened.name)
        monkeypatch.setattr(opened._levels[opened.level], "estimate", fails)
        opened.process(hop)
        if opened.lowest:
            break
    assert names == ["network", "rnn", "dsp"]
    assert isinstance(opened.failure, RuntimeError) and opened.name == "off"
    monkeypatch.undo()
    opened.step_up()
    assert opened.name == "network"
    opened.process(sound[10])
    assert opened.name == "network"


def test_gains_that_are_no_numbers_never_leave(box: Path) -> None:
    opened = open_engine("auto", 30)
    broken = opened._levels[0] = Model("quietbox").weights("network")
    broken._groups[0].recurrence.state[:] = np.nan
    sound = speech_like(0.5).reshape(-1, HOP_SAMPLES).copy()
    for hop in sound:
        opened.process(hop)
        assert np.isfinite(hop).all()
    assert opened.invalid == 1  # one hop passed as it was, then the state was fresh


# --- what the user sees --------------------------------------------------------------------------------------------


def test_enhance_says_why_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", speech_like(0.3), 16_000)
    settings = tmp_path / "quietbox.toml"
    call = ["enhance", str(tmp_path / "a.wav"), "-o", str(tmp_path / "b.wav"), "--config", str(settings)]
    settings.write_text(f'[suppress]\nmodel = "{tmp_path}/none"\n')
    assert cli.main([*call, "--engine", "network"]) == 0
    assert "quietbox: engine network cannot be used:" in capsys.readouterr().err
    settings.write_text(f'[suppress]\nmodel = "{whole}"\n')
    assert cli.main([*call, "--engine", "network"]) == 0
    assert "engine network" not in capsys.readouterr().err
    assert cli.main(["bench", "--seconds", "0.3", "--config", str(settings)]) == 0
    assert "whole chain, network" in capsys.readouterr().out


def test_the_journal_says_why_once(tmp_path: Path) -> None:
    chosen = Config(suppress=SuppressConfig(model=str(tmp_path / "none")))
    running = Box(chosen)
    told = [text for kind, text in running.health.news() if kind == "engine"]
    assert len(told) == 1 and "none.npz is missing" in told[0]
    running.reload(replace(chosen, suppress=SuppressConfig(engine="off")))
    assert running.health.news() == []


def test_every_name_a_user_can_write_can_be_opened(box: Path) -> None:
    for name in (AUTO, *names(Family.OURS, Family.NONE)):
        assert open_engine(name, 30).name == ("network" if name == "auto" else name)

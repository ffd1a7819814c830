"""INT8 says nearly what float says, is small, is chosen for reasons, and nothing else is ever written."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from signals import SOUNDS

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edge.dsp.spectrum import BANDS, Floats  # noqa: E402
from edge.suppress import network as numpy_engine  # noqa: E402
from edge.suppress.network import Shape  # noqa: E402
from models.network import Network  # noqa: E402
from quant.calibrate import Samples  # noqa: E402
from quant.export.network import build, plausible_features, read_network  # noqa: E402
from quant.graph import initializers, metadata_of, open_session, silence_of  # noqa: E402
from quant.hops import Hops  # noqa: E402
from quant.quantize import gate  # noqa: E402
from quant.quantize.__main__ import main  # noqa: E402
from quant.quantize.activations import (  # noqa: E402
    residuals_apart,
    static,
)
from quant.quantize.compact import (  # noqa: E402
    compact,
    numbers,
    pack,
)
from quant.quantize.gate import (  # noqa: E402
    Figures,
    choose,
    snr_db,
)
from quant.quantize.others import draw_inputs  # noqa: E402
from quant.quantize.weights import (  # noqa: E402
    to_int8,
    weights_of,
    weights_only,
)

torch.set_num_threads(1)
WEIGHTS = Path(__file__).parents[2] / "models" / "quietbox" / "weights.pt"
SMALL = Shape(stride_bands=16, channels=8, squeeze=8, hidden=16, rounds=1, past_hops=1)
MOST_BYTES = 100_000


@pytest.fixture(scope="module")
def shipped() -> Any:
    """The float graph of the weights in the repository."""
    return build(read_network(WEIGHTS))


@pytest.fixture(scope="module")
def small() -> Any:
    torch.manual_seed(1)
    return build(Network(SMALL).eval())


def gains_of(model: Any, features: Floats) -> Floats:
    hops = Hops(open_session(model), silence_of(model))
    return np.array([hops.step(row)[0] for row in features])


# --- int8 ----------------------------------------------------------------------------------------------------------

MATRICES = arrays(np.float32, (4, 6), elements=st.floats(-100, 100, width=32))


@settings(deadline=None)
@given(MATRICES, st.sampled_from([0, 1]))
def test_no_weight_is_off_by_more_than_half_a_step(matrix: Floats, axis: int) -> None:
    whole, scale = to_int8(matrix, axis)
    assert whole.dtype == np.int8 and scale.dtype == np.float16 and scale.shape == (matrix.shape[axis],)
    step = scale.astype(np.float32).reshape((-1, 1) if axis == 0 else (1, -1))
    # float16 rounds the scale by up to 2^-11 of itself, the peak is 127 of them; below that it has fixed steps
    assert (np.abs(whole * step - matrix) <= 0.6 * step + 127 * 3e-8).all()
    assert np.abs(whole.astype(int)).max() <= 127


@settings(deadline=None)
@given(arrays(np.int8, (3, 5), elements=st.integers(-127, 127)))
def test_whole_numbers_keep_themselves(matrix: Any) -> None:
    whole, scale = to_int8(matrix.astype(np.float32), 0)
    assert np.array_equal(whole * scale.astype(np.float32)[:, None], matrix)


def test_int8_gains_are_the_float_gains(shipped: Any) -> None:
    features = plausible_features(600, seed=5)
    apart = np.abs(gains_of(compact(shipped), features) - gains_of(shipped, features))
    assert apart.max() < 0.08 and apart.mean() < 0.004


def test_the_files_are_small_and_say_what_they_are(shipped: Any) -> None:
    model = compact(shipped)
    assert len(model.SerializeToString()) <= MOST_BYTES
    assert len(pack(numbers(shipped))) <= MOST_BYTES
    assert metadata_of(model) == metadata_of(shipped) | {"weights": "int8"}
    bulky = [name for name, data in initializers(model).items() if data.dtype == np.float32 and data.size > 16]
    assert not bulky
    assert np.array_equal(silence_of(model), silence_of(shipped))


def test_the_same_input_gives_the_same_bytes(small: Any) -> None:
    onnx_bytes = {compact(small).SerializeToString() for _ in range(2)}
    npz_bytes = {pack(numbers(small)) for _ in range(2)}
    assert len(onnx_bytes) == len(npz_bytes) == 1


def test_the_widening_is_folded_at_load(shipped: Any, tmp_path: Path) -> None:
    """A hop must not pay for small weights."""
    import onnxruntime

    nodes = []
    for model in (shipped, compact(shipped)):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes.append(len(onnx.load(tmp_path / "optimized.onnx").graph.node))
    assert nodes[0] == nodes[1]


@pytest.mark.parametrize("which", ["shipped", "small"])
def test_numpy_reads_the_same_network(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    with np.load(io.BytesIO(pack(numbers(model))), allow_pickle=False) as found:
        weights = {name: found[name] for name in found.files}
    about = json.loads(str(weights.pop("meta")))
    assert {*about} == {*metadata_of(model)} - {"silence"} | {"weights"}
    names = {*read_network(WEIGHTS).state_dict()} if which == "shipped" else {*Network(SMALL).state_dict()}
    assert names <= {*weights}
    for name in names:
        if name.endswith(".weight"):
            scale = weights[name.replace(".weight", ".scale")]
            assert weights[name].dtype == np.int8 and scale.shape in ((), weights[name].shape[:1])
    engine = numpy_engine.NumpyNetwork("numpy", Shape(**json.loads(about["shape"])), weights)
    features, gains = plausible_features(300, seed=7), np.zeros(BANDS, np.float32)
    expected = gains_of(compact(model), features)
    for row, wanted in zip(features, expected, strict=True):
        engine.step(row, gains)
        assert np.abs(gains - wanted).max() < 1e-4


def test_static_is_close_too(small: Any) -> None:
    features = plausible_features(400, seed=2)
    hops, states = Hops(open_session(small), silence_of(small)), []
    for row in features:
        states.append(hops.state[0].copy())
        hops.step(row)
    model = static(small, Samples(features, np.array(states)))
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    apart = np.abs(gains_of(model, features) - gains_of(small, features))
    assert apart.max() < 0.1 and apart.mean() < 0.01


def test_a_residual_sum_stays_the_same_apart(small: Any) -> None:
    features = plausible_features(60)
    plain = residuals_apart(small)
    assert np.allclose(gains_of(plain, features), gains_of(small, features), atol=1e-6)
    assert len(plain.graph.node) == len(small.graph.node) + 3  # two group memories, one full-band memory


# --- the choice ----------------------------------------------------------------------------------------------------

FLOAT = Figures("float", 355_000, 50.0)
GOOD = Figures("weights", 98_000, 51.0, 0.01, 0.001, 50.0, 2.0, 0.01)


def test_the_smallest_that_passes_is_chosen() -> None:
    best, why = choose([FLOAT, replace(GOOD, variant="a", size_bytes=99_000), GOOD], MOST_BYTES)
    assert best == GOOD and "98.0 KB" in why


@pytest.mark.parametrize(
    ("worse", "said"),
    [
        ({"size_bytes": 100_001}, "KB"),
        ({"hop_us": 56.0}, "µs a hop"),
        ({"snr_db": 24.0}, "24.0 dB"),
        ({"snr_db": float("nan")}, "nan dB"),
        ({"pesq_loss": 0.06}, "PESQ"),
    ],
)
def test_every_fault_is_named(worse: dict[str, float], said: str) -> None:
    best, why = choose([FLOAT, replace(GOOD, **worse)], MOST_BYTES)  # type: ignore[arg-type]
    assert best is None and said in why


# --- whole runs ----------------------------------------------------------------------------------------------------


def written(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two seconds of one recording, clean and noisy."""
    folder = tmp_path_factory.mktemp("pairs")
    for part in ("clean", "noisy"):
        (folder / part).mkdir()
        samples, rate_hz = soundfile.read(SOUNDS / part / "rain_en_5dB.flac", frames=32_000)
        soundfile.write(folder / part / "rain.flac", samples, rate_hz)
    return folder


@pytest.mark.slow
def test_a_whole_run(
    small: Any, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MOST_SLOWER", 1e9)  # a busy machine must not decide
    model, out = written(small, tmp_path / "f.onnx"), tmp_path / "q.onnx"
    command = ["--model", str(model), "--out", str(out), "--every", "40"]
    command += ["--pairs", str(pairs), "--sounds", str(pairs / "noisy")]
    assert main([*command, "--most-kb", "0.1"]) == 1
    assert "nothing written, the NumPy weights have" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(gate, "LEAST_SNR_DB", 1e9)
        assert main(command) == 1
    refused = capsys.readouterr().err
    assert "nothing written" in refused and "static does not pass" in refused
    assert {path.name for path in tmp_path.iterdir()} == {"f.onnx"}
    assert main(command) == 0
    said = capsys.readouterr().out
    assert " is chosen: the smallest that passes" in said and "PESQ loss" in " ".join(said.split())
    assert {path.name for path in tmp_path.iterdir()} == {"f.onnx", "q.onnx", "q.npz"}
    assert main(["--model", str(out), "--out", str(tmp_path / "again.onnx")]) == 2
    assert "already" in capsys.readouterr().err


def test_wrong_input_is_refused_in_one_line(small: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, text, empty = written(small, tmp_path / "f.onnx"), tmp_path / "t.onnx", tmp_path / "empty"
    text.write_text("no model")
    empty.mkdir()
    np.savez(tmp_path / "c.npz", features=np.zeros((3, BANDS)), state=np.zeros((3, 7)))
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model.read_bytes()[:-300])
    before = {path.name for path in tmp_path.iterdir()}
    out = str(tmp_path / "q.onnx")
    for command, said in (
        (["--model", str(text), "--out", out], "t.onnx"),
        (["--model", str(cut), "--out", out], "cut.onnx"),
        (["--model", str(tmp_path / "none.onnx"), "--out", out], "none.onnx"),
        (["--model", str(empty), "--out", out], "empty"),
        (["--model", str(model), "--out", str(model)], "another file"),
        (["--model", str(model), "--out", str(tmp_path / "q.bin")], ".onnx"),
        (["--model", str(model), "--out", str(tmp_path / "no" / "q.onnx")], "cannot be written"),
        (["--model", str(model), "--out", out, "--sounds", str(empty)], "no sound files"),
        (["--model", str(model), "--out", out, "--pairs", str(empty)], "clean"),
        (["--model", str(model), "--out", out, "--calibration", str(tmp_path / "c.npz")], "another network"),
        (["--model", str(model), "--out", out, "--calibration", str(text)], "no calibration data"),
        (["--model", str(model), "--out", out, "--calibration", str(tmp_path / "none.npz")], "none.npz"),
        (["--model", str(model), "--out", out, "--every", "0"], "--every"),
    ):
        assert main(command) == 2, command
        refusal = capsys.readouterr().err
        assert refusal.startswith("quantize: ") and refusal.count("\n") == 1 and said in refusal
    assert {path.name for path in tmp_path.iterdir()} == before


# --- other people's models -----------------------------------------------------------------------------------------


def foreign(opset: int = 11, as_inputs: bool = False) -> Any:
    """A convolution, a GRU, a product, an embedding and a scalar index, as exporters write them."""
    draw = np.random.default_rng(4)
    stored = {
        "conv.w": draw.normal(0, 1, (6, 3, 5)).astype(np.float32),
        "gru.w": draw.normal(0, 1, (1, 24, 6)).astype(np.float32),
        "gru.r": draw.normal(0, 0.3, (1, 24, 8)).astype(np.float32),
        "out.w": draw.normal(0, 1, (8, 10)).astype(np.float32),
        "table": draw.normal(0, 1, (64, 10)).astype(np.float32),
        "rows": np.arange(64, dtype=np.int64)[::-1].copy(),
        "last": np.array(-1, np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv.w"], ["c"], pads=[2, 2]),
        helper.make_node("Transpose", ["c"], ["t"], perm=[2, 0, 1]),
        helper.make_node("GRU", ["t", "gru.w", "gru.r"], ["", "h"], hidden_size=8),
        helper.make_node("MatMul", ["h", "out.w"], ["m"]),
        helper.make_node("Gather", ["m", "last"], ["g"], axis=0),  # keeps its rank only with a scalar index
        helper.make_node("Gather", ["table", "rows"], ["e"], axis=0),
        helper.make_node("Add", ["g", "e"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 20])]
    if as_inputs:  # as files of IR version 3 do
        inputs += [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(data.dtype), data.shape)
            for name, data in stored.items()
        ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 10])
    tensors = [numpy_helper.from_array(data, name) for name, data in stored.items()]
    graph = helper.make_graph(nodes, "foreign", inputs, [output], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3 if as_inputs else 8)


@pytest.mark.parametrize("as_inputs", [False, True])
@pytest.mark.parametrize("opset", [9, 11, 17])
def test_other_peoples_models_keep_what_they_say(opset: int, as_inputs: bool) -> None:
    model = foreign(opset, as_inputs)
    small = weights_only(model)
    assert [value.name for value in small.graph.input] == ["x"]
    kinds = {name: data.dtype for name, data in initializers(small).items() if data.size >= 64}
    assert "table" in kinds and {*kinds.values()} == {np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.float32)}
    feed = draw_inputs(model)
    wanted, got = open_session(model).run(None, feed)[0], open_session(small).run(None, feed)[0]
    assert wanted.shape == got.shape and snr_db(wanted, got) > 35


def test_a_run_on_another_projects_model_lists_what_stayed_float(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = written(foreign(), tmp_path / "theirs.onnx"), tmp_path / "small.onnx"
    assert main(["--model", str(model), "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "no int8 weights at all: Add, Gather, Transpose" in said and "output-to-error ratio" in said
    assert out.stat().st_size < model.stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {"theirs.onnx", "small.onnx"}  # no .npz: not our network
    assert main(["--model", str(out), "--out", str(tmp_path / "again.onnx")]) == 2
    assert "holds no float weights" in capsys.readouterr().err


@pytest.mark.parametrize(("fault", "said"), [("nan", "NaN or infinite"), ("old", "opset 6")])
def test_somebody_elses_broken_model_is_refused(
    fault: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = np.full((10, 10), np.nan if fault == "nan" else 1, np.float32)
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [10, 10])] for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "broken", *ends, [numpy_helper.from_array(weight, "w")])
    opset = helper.make_opsetid("", 6 if fault == "old" else 17)
    model = written(helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "broken.onnx")
    assert main(["--model", str(model), "--out", str(tmp_path / "out.onnx")]) == 2
    refusal = capsys.readouterr().err
    assert said in refusal and refusal.count("\n") == 1 and not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("silence", ["", "AAAA", "no base64"])
def test_our_network_without_its_silence_is_refused(
    small: Any, silence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.ModelProto.FromString(small.SerializeToString())
    helper.set_model_props(model, metadata_of(small) | {"silence": silence})
    file = written(model, tmp_path / "f.onnx")
    assert main(["--model", str(file), "--out", str(tmp_path / "q.onnx")]) == 2
    refusal = capsys.readouterr().err
    assert "initial state" in refusal and refusal.count("\n") == 1


def test_a_weight_with_a_second_life_stays_float() -> None:
    """What is also added, or is an output, must keep its numbers."""
    stored = numpy_helper.from_array(np.random.default_rng(1).normal(0, 1, (10, 10)).astype(np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "w"], ["y"])]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [10, 10])] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "twice", *ends, [stored])
    assert weights_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])) == {}

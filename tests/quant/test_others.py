"""Other projects' networks: weights of every size and in every place, and figures that add up to the file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402
from small_graphs import CASES, SIZE, Case, model_of, node, product, value, weights  # noqa: E402

from quant.graph import initializers, open_session, read_model  # noqa: E402
from quant.quantize import others  # noqa: E402
from quant.quantize.__main__ import main  # noqa: E402
from quant.quantize.folding import constant_of, graphs_of, is_bulky, plain_weights  # noqa: E402
from quant.quantize.gate import snr_db  # noqa: E402
from quant.quantize.others import (  # noqa: E402
    LEAST_WEIGHT_DB,
    Attempt,
    contents_of,
    draw_inputs,
    incomparable,
    ratio_db,
    search,
)
from quant.quantize.weights import classified, row_snr_db, to_int8, weights_only  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "quantizing.md"


def quantized(model: Any, folder: Path, *more: str) -> tuple[int, Path]:
    file, out = folder / "float.onnx", folder / "small.onnx"
    file.write_bytes(model.SerializeToString())
    return main(["--model", str(file), "--out", str(out), *more]), out


def float_numbers(model: Any) -> int:
    """Numbers in float tensors of 64 and more that are no scales."""
    tensors = [tensor for graph in graphs_of(model.graph) for tensor in graph.initializer]
    tensors += [entry for graph in graphs_of(model.graph) for one in graph.node if (entry := constant_of(one))]
    return sum(int(np.prod(tensor.dims)) for tensor in tensors if is_bulky(tensor))


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_graph_keeps_its_output(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case: Case = CASES[name]
    model = case.build()
    status, out = quantized(model, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert status == 0
    small = read_model(out)
    feed = draw_inputs(model)
    wanted, got = (open_session(one).run(None, feed) for one in (model, small))
    ratio_db = min(snr_db(a, b) for a, b in zip(wanted, got, strict=True))
    assert ratio_db >= case.least_db, ratio_db
    assert float_numbers(small) == case.float_weights, said
    assert f"{out}: {out.stat().st_size} bytes" in said
    assert (f"| {name} |") in PAGE.read_text(), "the page lists every case"


def test_the_contents_add_up_to_the_file() -> None:
    for case in CASES.values():
        plain = plain_weights(case.build())
        small = weights_only(plain)
        found = contents_of(small, plain, classified(plain)[1])
        assert sum(content.size_bytes for content in found.values()) == len(small.SerializeToString())
        assert all(why for (what, why) in found if what == "float")


def test_folding_changes_no_output() -> None:
    for name, case in CASES.items():
        model = case.build()
        feed = draw_inputs(model)
        for a, b in zip(*(open_session(one).run(None, feed) for one in (model, plain_weights(model))), strict=True):
            assert np.array_equal(a, b), name


@settings(deadline=None, max_examples=60)
@given(st.floats(-30, 30), st.integers(0, 1000), st.sampled_from([0, 1]), st.sampled_from([1, 3, 64]))
def test_weights_of_every_size_keep_their_precision(exponent: float, seed: int, axis: int, spread: int) -> None:
    """Rows of sizes up to ``spread`` decades apart, within 1e-30..1e30."""
    data = weights(8, 12, seed=seed, scale=1.0).astype(np.float64)
    sizes = 10.0 ** np.clip(exponent + np.linspace(0, spread, data.shape[axis]), -30, 30)
    matrix = (data * sizes.reshape((-1, 1) if axis == 0 else (1, -1))).astype(np.float32)
    whole, scale = to_int8(matrix, axis, np.float32)
    assert scale.dtype == np.float32 and np.abs(whole.astype(int)).max() <= 127
    step = scale.astype(np.float64).reshape((-1, 1) if axis == 0 else (1, -1))
    assert (np.abs(whole * step - matrix) <= 0.5001 * step).all()
    assert row_snr_db(matrix, axis)[0] > 30


@pytest.mark.parametrize("peak", [3.4028235e38, 1.5e-36])
def test_the_ends_of_float32_are_weights_too(peak: float) -> None:
    row = (np.linspace(-1, 1, 64) * peak).astype(np.float32)[None]
    whole, scale = to_int8(row, 0, np.float32)
    assert np.isfinite(whole * scale[:, None]).all() and row_snr_db(row, 0)[0] > 30


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (0, 0)])
def test_nothing_is_quantized_to_nothing(shape: tuple[int, int]) -> None:
    whole, scale = to_int8(np.zeros(shape, np.float32), 0, np.float32)
    assert whole.shape == shape and scale.shape == shape[:1]


def test_an_empty_weight_beside_another_is_kept(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x", "w", out="p"), node("MatMul", "none", "thin", out="q"), node("Add", "p", "q", out="y")]
    stored = {"w": weights(SIZE, 8), "none": np.zeros((4, 0), np.float32), "thin": np.zeros((0, 8), np.float32)}
    status, out = quantized(model_of(nodes, stored, [4, SIZE]), tmp_path)
    assert status == 0 and initializers(read_model(out))["thin"].shape == (0, 8)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["plain", "Constant", "If"])
def test_a_weight_that_is_no_number_is_named(
    bad: float, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = {"plain": "MatMul, opset 13", "Constant": "Constant node", "If": "weights in the bodies of If"}[place]
    model = CASES[name].build()
    tensors = [tensor for graph in graphs_of(model.graph) for tensor in graph.initializer]
    tensors += [entry for one in model.graph.node if (entry := constant_of(one))]
    tensor = max(tensors, key=lambda one: np.prod(one.dims))
    values = numpy_helper.to_array(tensor).copy()
    values[2, 3] = bad
    tensor.raw_data = values.tobytes()
    status, out = quantized(model, tmp_path)
    refusal = capsys.readouterr().err
    assert status == 2 and "NaN or infinite" in refusal and " w" in refusal and refusal.count("\n") == 1
    assert not out.exists()


def test_denormal_weights_alone_are_not_written_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = product(weights(SIZE, SIZE, scale=1e-40))
    status, out = quantized(model, tmp_path)
    refusal = capsys.readouterr().err
    assert status == 1 and not out.exists()
    assert "nothing written" in refusal and f"{LEAST_WEIGHT_DB:g} dB" in refusal and "--force" in refusal
    assert quantized(model, tmp_path, "--force")[0] == 0 and out.exists()


def test_an_output_below_the_limit_keeps_the_matrix_that_causes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The outlier's input is always zero, so its row's other weights decide; they vanish in int8."""
    data = weights(SIZE, SIZE)
    data[0] = 1e4
    nodes = [
        node("Mul", "x", "mask", out="masked"),
        node("MatMul", "masked", "own", out="p"),
        node("Mul", "p", "mask", out="q"),
        node("MatMul", "q", "w", out="y"),
    ]
    mask = np.ones((1, SIZE), np.float32)
    mask[0, 0] = 0
    model = model_of(nodes, {"mask": mask, "w": data, "own": weights(SIZE, SIZE, seed=2)}, [4, SIZE])
    status, out = quantized(model, tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert status == 0 and "Weights that stay float: w." in said
    stored = initializers(read_model(out))
    assert stored["w"].dtype == np.float32 and "own" not in stored


def test_a_whole_model_below_the_limit_is_not_written_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(others, "LEAST_OUTPUT_DB", 99.0)
    model = CASES["GRU"].build()
    status, out = quantized(model, tmp_path)
    refusal = capsys.readouterr().err
    assert status == 1 and not out.exists() and refusal.count("\n") == 1
    assert "nothing written, output y is 4" in refusal and "at least 99" in refusal and "--force" in refusal
    status, out = quantized(model, tmp_path, "--force")
    assert status == 0 and float_numbers(read_model(out)) == 0


def test_the_search_ends() -> None:
    """Nothing passes: the first attempt comes back after a few doublings."""
    plain, calls = plain_weights(CASES["GRU"].build()), list[int]()

    def measured(small: Any) -> Attempt:
        calls.append(1)
        return Attempt(small, {"y": 3.0})

    best, stay = search(plain, set(), ["w", "r"], measured)
    assert stay == [] and best.lowest_db == 3.0 and len(calls) == 2


def test_small_weights_of_another_project_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights stored as int8 and widened by ordinary nodes are no float weights."""
    whole, scale = to_int8(weights(SIZE, SIZE), 1, np.float32)
    nodes = [node("Cast", "q", out="f", to=1), node("Mul", "f", "s", out="v"), node("MatMul", "x", "v", out="y")]
    status, _ = quantized(model_of(nodes, {"q": whole, "s": scale[None]}, [4, SIZE]), tmp_path)
    assert status == 2 and "holds no float weights" in capsys.readouterr().err


def test_a_refusal_names_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [node("MatMul", "x", "w", out="a"), node("Gemm", "a", "w", out="y", transB=1)]
    status, out = quantized(model_of(nodes, {"w": weights(SIZE, SIZE)}, [4, SIZE]), tmp_path)
    refusal = capsys.readouterr().err
    assert status == 2 and refusal.count("\n") == 1 and "w: a weight in two layouts" in refusal and not out.exists()


@pytest.mark.parametrize("kind", ["two calls", "two transposes"])
def test_equal_weights_are_stored_once(kind: str) -> None:
    if kind == "two calls":
        model = CASES["weights in a local function"].build()
        model.graph.node[0].output[0] = "z"
        model.graph.node.append(helper.make_node("Dense", ["z"], ["y"], domain="local"))
    else:
        nodes = [node("Transpose", "w", out=name) for name in ("v", "u")]
        nodes += [node("MatMul", "x", "v", out="a"), node("MatMul", "a", "u", out="y")]
        model = model_of(nodes, {"w": weights(SIZE, SIZE)}, [4, SIZE])
    plain, feed = plain_weights(model), draw_inputs(model)
    assert float_numbers(plain) == SIZE * SIZE
    wanted, got = (open_session(one).run(None, feed)[0] for one in (model, plain))
    assert np.array_equal(wanted, got)


def test_equal_weights_of_two_layouts_stay_two() -> None:
    nodes = [node("MatMul", "x", "w", out="a"), node("Gemm", "a", "u", out="y", transB=1)]
    model = model_of(nodes, {"w": weights(SIZE, SIZE), "u": weights(SIZE, SIZE)}, [4, SIZE])
    assert {*classified(plain_weights(model))[0]} == {"w", "u"}


def test_a_file_that_lists_its_weights_as_inputs_needs_none_of_them(tmp_path: Path) -> None:
    """As IR version 3 wants it."""
    model = CASES["Transpose of a weight"].build()
    model.ir_version, model.opset_import[0].version = 3, 8
    model.graph.input.append(value("w", [SIZE, SIZE]))
    status, out = quantized(model, tmp_path)
    session = open_session(read_model(out))
    assert status == 0 and [entry.name for entry in session.get_inputs()] == ["x"]
    wanted, got = (one.run(None, draw_inputs(model))[0] for one in (open_session(model), session))
    assert snr_db(wanted, got) > 35


def test_tensors_named_as_ours_do_not_collide() -> None:
    model = model_of([node("MatMul", "x", "int8.1", out="y")], {"int8.1": weights(SIZE, SIZE)}, [4, SIZE])
    feed = draw_inputs(model)
    wanted, got = (open_session(one).run(None, feed)[0] for one in (model, weights_only(model)))
    assert snr_db(wanted, got) > 35


def test_what_cannot_be_compared_is_said() -> None:
    ones = np.ones((2, 2), np.float32)
    assert not incomparable(ones, ones)
    assert "no floats" in incomparable(ones.astype(int), ones)
    assert "shape" in incomparable(ones, ones[:1])
    assert "NaN" in incomparable(ones * np.nan, ones)
    assert "empty" in incomparable(ones[:0], ones[:0])
    assert "no floats" in incomparable([ones], [ones])  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_the_ratio_holds_for_outputs_of_every_size(size: float) -> None:
    assert ratio_db(np.full(4, size), np.full(4, 1.1 * size)) == pytest.approx(20)
    assert ratio_db(np.full(4, size), np.full(4, np.nan)) == -np.inf


def test_weights_beside_the_file_are_taken_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = CASES["MatMul, opset 13"].build()
    onnx.save(model, tmp_path / "float.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    words = ["--model", str(tmp_path / "float.onnx"), "--out", str(tmp_path / "small.onnx")]
    assert main(words) == 0
    wanted, got = (
        open_session(one).run(None, draw_inputs(model))[0]
        for one in (CASES["MatMul, opset 13"].build(), read_model(tmp_path / "small.onnx"))
    )
    assert snr_db(wanted, got) > 35
    (tmp_path / "w.data").rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(words) == 2
    refusal = capsys.readouterr().err
    assert "w.data, which is missing" in refusal and refusal.count("\n") == 1


def test_the_header_stays_as_its_author_wrote_it(tmp_path: Path) -> None:
    for name in ("MatMul, opset 13", "weights in a local function"):
        model = CASES[name].build()
        model.producer_name, model.producer_version, model.domain, model.model_version = "their tool", "2.1", "org.x", 7
        model.doc_string, model.graph.doc_string = "a denoiser", "one hop"
        helper.set_model_props(model, {"license": "CC-BY-4.0", "author": "them"})
        status, out = quantized(model, tmp_path)
        small = read_model(out)
        assert status == 0 and small.producer_name == "their tool" and small.producer_version == "2.1"
        assert (small.domain, small.model_version, small.doc_string) == ("org.x", 7, "a denoiser")
        assert small.graph.doc_string == "one hop" and small.graph.name == "case"
        entries = {entry.key: entry.value for entry in small.metadata_props}
        assert {*entries} == {"license", "author", "history"} and entries["license"] == "CC-BY-4.0"
        wanted = [entry for entry in model.opset_import if entry.domain == ""]
        assert [entry for entry in small.opset_import if entry.domain == ""] == wanted

"""The exported graph says what the network says, carries all that a reader needs, and is refused where it does not."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edge.dsp.spectrum import BANDS, SILENCE  # noqa: E402
from edge.suppress.network import Shape  # noqa: E402
from models.network import Network  # noqa: E402
from quant.export import run  # noqa: E402
from quant.export.__main__ import main  # noqa: E402
from quant.export.network import (  # noqa: E402
    MOST_DIFFERENCE,
    build,
    difference,
    read_network,
)
from quant.graph import INPUTS, OUTPUTS, is_ours, metadata_of, open_session, read_model, silence_of  # noqa: E402
from quant.hops import Hops  # noqa: E402

WEIGHTS = Path(__file__).parents[2] / "models" / "quietbox" / "weights.pt"
OTHER = Shape(stride_bands=4, channels=12, squeeze=4, hidden=24, rounds=1, past_hops=3)
KEYS = {
    *("name", "version", "sample_rate_hz", "window_samples", "hop_samples", "bands", "normalisation"),
    *("recipe_sha256", "licence", "silence", "shape"),
}
torch.set_num_threads(1)


def drawn(shape: Shape, seed: int = 3) -> Network:
    """A network with gates wide open and shut, at its own silence."""
    torch.manual_seed(seed)
    network = Network(shape).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.5)
    network.settle()
    return network


@pytest.mark.parametrize(
    "shape",
    [
        Shape(),
        Shape(stride_bands=8, squeeze=16),
        OTHER,
        Shape(stride_bands=16, channels=8, squeeze=3, rounds=3, past_hops=1),
    ],
)
def test_the_graph_is_the_network(shape: Shape) -> None:
    network = drawn(shape)
    assert difference(network, build(network), hops=150) < MOST_DIFFERENCE


def test_the_shipped_network_too_and_in_few_nodes() -> None:
    network = read_network(WEIGHTS)
    model = build(network)
    assert difference(network, model) < MOST_DIFFERENCE
    assert len(model.graph.node) <= 98  # each costs microseconds on the box


def test_the_proof_sees_a_single_wrong_bias() -> None:
    network = drawn(OTHER)
    model = build(network)
    with torch.no_grad():
        network.groups[1].back.bias[5] += 1e-3
    assert difference(network, model, hops=100) > MOST_DIFFERENCE


def test_what_is_no_number_is_no_agreement() -> None:
    network = drawn(OTHER)
    with torch.no_grad():
        network.join.bias[0] = float("nan")
    assert not difference(network, build(network), hops=3) < MOST_DIFFERENCE


def test_the_slowest_gate_is_kept() -> None:
    network = drawn(OTHER)
    with torch.no_grad():
        network.groups[0].gates.bias[:12] = -30
    assert difference(network, build(network), hops=150) < MOST_DIFFERENCE


def test_the_metadata_say_it_all() -> None:
    network = drawn(OTHER)
    model = build(network)
    about = metadata_of(model)
    assert about.keys() == KEYS and all(about.values())
    assert Shape(**json.loads(about["shape"])) == OTHER
    assert (about["sample_rate_hz"], about["hop_samples"], about["bands"]) == ("16000", "80", "64")
    assert len(about["recipe_sha256"]) == 64 and about["licence"] == "MIT"
    assert len(base64.b64decode(about["silence"])) == 2 * network.state_size
    assert np.allclose(silence_of(model), network.silence.numpy(), atol=2e-3)


def test_the_contract_of_names_and_sizes() -> None:
    network = drawn(OTHER)
    model = build(network)
    assert model.opset_import[0].version <= 17 and model.ir_version <= 9  # onnxruntime 1.16
    values = (*model.graph.input, *model.graph.output)
    assert tuple(value.name for value in values) == INPUTS + OUTPUTS
    sizes = [[dimension.dim_value for dimension in value.type.tensor_type.shape.dim] for value in values]
    assert sizes == [[1, BANDS], [1, network.state_size], [1, BANDS], [1, 1], [1, network.state_size]]
    assert is_ours(model)


def test_silence_is_where_the_stream_begins_and_stays() -> None:
    model = build(drawn(OTHER))
    hops = Hops(open_session(model), silence_of(model))
    for _ in range(50):
        hops.step(np.full(BANDS, SILENCE, np.float32))
    assert np.abs(hops.state - silence_of(model)).max() < 5e-3  # float16


@pytest.mark.slow
def test_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "network.onnx"
    assert main(["--weights", str(WEIGHTS), "--out", str(target)]) == 0
    assert is_ours(read_model(target))
    assert "largest difference" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]


def stored(path: Path, **changes: object) -> Path:
    content = torch.load(WEIGHTS, weights_only=True)
    torch.save(content | changes, path)
    return path


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "shape", "keys", "no sizes"])
def test_wrong_weights_are_refused_in_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, target = tmp_path / "w.pt", tmp_path / "out.onnx"
    if kind == "folder":
        weights.mkdir()
    elif kind == "text":
        weights.write_text("not weights")
    elif kind == "shape":
        stored(weights, shape=vars(OTHER))
    elif kind == "keys":
        stored(weights, weights={})
    elif kind == "no sizes":
        stored(weights, shape={"channels": "many"})
    assert main(["--weights", str(weights), "--out", str(target)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("export: ") and said.count("\n") == 1 and str(weights) in said
    assert not target.exists()


@pytest.mark.parametrize("shape", [read_network(WEIGHTS).shape, OTHER])
def test_a_graph_that_differs_is_not_written(
    shape: Shape, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = build(drawn(shape))
    monkeypatch.setattr(run, "build", lambda network: wrong)
    assert main(["--weights", str(WEIGHTS), "--out", str(tmp_path / "out.onnx")]) == 2
    assert "differs from the network" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_place_that_cannot_be_written_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target in (tmp_path, tmp_path / "nowhere" / "out.onnx"):
        assert main(["--weights", "missing.pt", "--out", str(target)]) == 2
        assert str(target) in capsys.readouterr().err

"""Small networks as files, made on the spot: folders with weights, graph and card, and the features to feed them."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edge.dsp.spectrum import BANDS, BINS, Floats, Spectra  # noqa: E402
from edge.suppress import network as engine  # noqa: E402
from edge.suppress import probe, shipped  # noqa: E402
from edge.suppress.network import Shape  # noqa: E402
from models.network import Network  # noqa: E402
from quant.export.network import build  # noqa: E402

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

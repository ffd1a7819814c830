"""Weights, graphs and cards that are wrong are named, and the fallback chain goes on."""
# ruff: noqa: F811  (fixtures are imported and then named as arguments)

import io
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from network_files import SMALL, about, box, folder, fresh_trials, packed, quantised, settled, whole, write_card  # noqa: E402, F401

from edge.suppress import open_engine, shipped  # noqa: E402
from edge.suppress.shipped import BadModel, Model  # noqa: E402


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

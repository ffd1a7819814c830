"""Every file that quant writes names what made it, and none overwrites what it was made of."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from signals import SOUNDS

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from small_graphs import SIZE, product, weights  # noqa: E402

from edge.suppress.network import Shape  # noqa: E402
from models.command import BadRequest  # noqa: E402
from models.network import Network  # noqa: E402
from quant import calibrate  # noqa: E402
from quant.export.__main__ import main as export  # noqa: E402
from quant.graph import metadata_of, read_model  # noqa: E402
from quant.history import KEY, recorded, step  # noqa: E402
from quant.prune.__main__ import main as prune  # noqa: E402
from quant.quantize.__main__ import main as quantize  # noqa: E402

torch.set_num_threads(1)
SMALL = Shape(stride_bands=16, channels=8, squeeze=8, hidden=16, rounds=1, past_hops=1)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and the float graph of it."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(1)
    content = {"shape": vars(SMALL), "weights": Network(SMALL).state_dict()}
    torch.save(content, folder / "weights.pt")
    assert export(["--weights", str(folder / "weights.pt"), "--out", str(folder / "float.onnx")]) == 0
    (folder / "theirs.onnx").write_bytes(product(weights(SIZE, SIZE)).SerializeToString())
    return folder


def sounds(folder: Path) -> Path:
    """One second of one recording."""
    (folder / "sounds").mkdir()
    samples, rate_hz = soundfile.read(SOUNDS / "noisy" / "rain_en_5dB.flac", frames=16_000)
    soundfile.write(folder / "sounds" / "rain.flac", samples, rate_hz)
    return folder / "sounds"


def test_every_step_is_in_the_file(made: Path, tmp_path: Path) -> None:
    small, pruned, samples = tmp_path / "small.onnx", tmp_path / "pruned.pt", tmp_path / "samples.npz"
    folder = ["--sounds", str(sounds(tmp_path))]
    assert quantize(["--model", str(made / "theirs.onnx"), "--out", str(small)]) == 0
    assert prune(["--weights", str(made / "weights.pt"), "--shape", "{}", "--out", str(pruned), *folder]) == 0
    assert calibrate.main(["--model", str(made / "float.onnx"), "--out", str(samples), *folder]) == 0
    with np.load(samples, allow_pickle=False) as stored:
        by_npz = str(stored[KEY])
    found = {
        "export": (metadata_of(read_model(made / "float.onnx"))[KEY], made / "weights.pt"),
        "quantize": (metadata_of(read_model(small))[KEY], made / "theirs.onnx"),
        "prune": (torch.load(pruned, weights_only=True)[KEY], made / "weights.pt"),
        "calibrate": (by_npz, made / "float.onnx"),
    }
    for tool, (line, source) in found.items():
        assert line.startswith(f"quant.{tool} 0.") and line.endswith(f", source sha256 {sha256(source)}"), line
    again = tmp_path / "again.onnx"
    assert export(["--weights", str(pruned), "--out", str(again)]) == 0
    assert metadata_of(read_model(again))[KEY].splitlines()[0] == found["prune"][0], "a checkpoint's history goes along"


def test_a_history_grows_and_the_source_stays_as_it_is() -> None:
    model = product(weights(SIZE, SIZE))
    once = recorded(model, "first")
    twice = recorded(once, "second")
    assert not model.metadata_props and metadata_of(once)[KEY] == "first"
    assert metadata_of(twice)[KEY] == "first\nsecond"
    assert metadata_of(recorded(twice, "third", keep=False))[KEY] == "third"
    with pytest.raises(BadRequest, match=r"none\.onnx"):
        step("quantize", Path("none.onnx"))


LINKS: list[Any] = [lambda source, target: os.symlink(source, target), os.link]


@pytest.mark.parametrize("link", LINKS, ids=["symlink", "hard link"])
def test_no_command_overwrites_its_source(
    link: Any, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = sounds(tmp_path)
    commands = [
        (quantize, "theirs.onnx", ["--model", "{}", "--out", "{}.link.onnx"]),
        (quantize, "float.onnx", ["--model", "{}", "--out", "{}.link.onnx"]),
        (export, "weights.pt", ["--weights", "{}", "--out", "{}.link.onnx"]),
        (prune, "weights.pt", ["--weights", "{}", "--shape", "{{}}", "--out", "{}.link.onnx", "--sounds", str(here)]),
        (calibrate.main, "float.onnx", ["--model", "{}", "--out", "{}.link.onnx", "--sounds", str(here)]),
    ]
    for main, name, words in commands:
        source, target = tmp_path / name, tmp_path / f"{name}.link.onnx"
        source.write_bytes((made / name).read_bytes())
        target.unlink(missing_ok=True)
        link(source, target)
        before = sha256(source)
        capsys.readouterr()
        assert main([word.format(source) for word in words]) == 2, words
        refusal = capsys.readouterr().err
        assert "would overwrite the input" in refusal and refusal.count("\n") == 1, refusal
        assert sha256(source) == sha256(target) == before and target.is_symlink() == (link is LINKS[0])

"""The U-Net learns by the others' recipe, resumes to the same bit, is exported exactly, and the shipped one works."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import SOUNDS

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edge import RATE_HZ  # noqa: E402
from edge.dsp.spectrum import Floats  # noqa: E402
from edge.suppress.foreign.window import OURS, Geometry, open_core  # noqa: E402
from edge.suppress.shipped import BadModel, Model  # noqa: E402
from models.measures import si_sdr_db  # noqa: E402
from models.mix.mixer import Batch  # noqa: E402
from models.train.checkpoint import Refused  # noqa: E402
from models.train.loop import train  # noqa: E402
from models.train.trainer import Plan  # noqa: E402
from models.unet import main  # noqa: E402
from models.window_network import BEST_DB, Frames, UNet, Widths, below_best_db  # noqa: E402
from models.window_training import WindowTrainer, heard, holds_unet, load_unet, read_weights  # noqa: E402
from quant.export import run as export_run  # noqa: E402
from quant.export.__main__ import main as export_main  # noqa: E402
from quant.graph import metadata_of, read_model  # noqa: E402
from quant.quantize.__main__ import main as quantize_main  # noqa: E402

SHIPPED = Path(__file__).parents[2] / "models" / "unet"
SMALL = Widths((4, 4, 6, 6), 8)
SAMPLES = 480 + (2 * 18 - 1) * 160
MOST_BYTES = 300_000


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Hum:
    """A mixer of one voice-like tone in noise; the same for the same step."""

    def batch(self, step: int, items: int, samples: int) -> Batch:
        rng = torch.Generator().manual_seed(step)
        time_s = torch.arange(samples) / RATE_HZ
        pitch_hz = 100 + 100 * torch.rand(items, 1, generator=rng)
        clean = 0.1 * sum(torch.sin(2 * torch.pi * k * pitch_hz * time_s) / k for k in range(1, 8))
        clean = clean * (torch.sin(2 * torch.pi * 3 * time_s) > 0)
        noisy = clean + 0.05 * torch.randn(items, samples, generator=rng)
        return Batch(noisy, clean, torch.zeros(items), torch.zeros(items, dtype=torch.int64))


def student(steps: int) -> WindowTrainer:
    return WindowTrainer(
        SMALL, Plan(steps=steps, items=2, segment_hops=SAMPLES // 80, peak_rate=4e-2), torch.device("cpu")
    )


def test_frames_are_the_engines_and_invert() -> None:
    frames, wave = Frames(Geometry()), torch.randn(2, SAMPLES)
    spectra = frames.analyse(wave)
    assert spectra.shape == (2, 36, 241)
    back = frames.synthesise(spectra)
    assert (back - wave[:, : back.shape[1]])[:, 320:].abs().max() < 1e-5


def test_mask_has_the_windows_shape_and_no_level() -> None:
    network, seen = UNet(Widths()), torch.randn(3, 1, 241, 18)
    mask = network(seen)
    assert mask.shape == seen.shape and mask.min() >= 0 and mask.max() <= 1
    assert (network(seen + 2.5) - mask).abs().max() < 1e-5
    assert sum(value.numel() for value in network.parameters()) < 100_000


def test_si_sdr_term_is_si_sdr() -> None:
    draw = torch.Generator().manual_seed(1)
    clean = torch.randn(3, 4000, generator=draw)
    heard = 0.3 * clean + 0.1 * torch.randn(3, 4000, generator=draw)
    wanted = np.mean([BEST_DB - si_sdr_db(c, h) for c, h in zip(clean.numpy(), heard.numpy(), strict=True)])
    assert abs(float(below_best_db(heard, clean)) - wanted) < 0.1
    assert 0 <= float(below_best_db(clean, clean)) < 0.01
    silent = torch.zeros(1, 4000)
    both = below_best_db(torch.cat([heard, heard[:1]]), torch.cat([clean, silent]))
    assert abs(float(both) - wanted) < 0.1  # noise alone says nothing of it
    assert float(below_best_db(heard[:1], silent)) == 0


@torch.no_grad()
def loss_of(whole: WindowTrainer) -> float:
    return sum(float(term) for term in whole.loss_batch(Hum().batch(9999, 4, SAMPLES)).values())


def test_training_learns_and_resumes_to_the_same_bit(tmp_path: Path) -> None:
    whole = student(16)
    before = loss_of(whole)
    train(whole, Hum(), tmp_path / "whole")
    assert loss_of(whole) < 0.95 * before

    train(student(16), Hum(), tmp_path / "halves", most_steps=6)
    again = student(16)
    again.resume(tmp_path / "halves")
    assert again.step == 6
    train(again, Hum(), tmp_path / "halves")
    first, second = (load_unet(tmp_path / name / "weights.pt").state_dict() for name in ("whole", "halves"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    assert "give --data" in said("--out", str(tmp_path / "run"))
    assert "needs --dev" in said("--evaluate", "quietbox")
    assert "cannot be read" in said("--evaluate", str(tmp_path / "none.onnx"), "--dev", str(SOUNDS))
    assert "no speech.tsv" in said("--data", str(tmp_path), "--out", str(tmp_path / "run"))
    (tmp_path / "checkpoint.pt").write_text("no")
    assert "add --resume" in said("--data", str(tmp_path), "--out", str(tmp_path))
    assert "no weights of a U-Net" in said("--data", str(tmp_path), "--out", str(tmp_path), "--resume")
    with pytest.raises(Refused, match="no such file"):
        read_weights(tmp_path / "none.pt")
    other = Path(__file__).parents[2] / "models" / "quietbox" / "weights.pt"
    assert not holds_unet(other)
    with pytest.raises(Refused, match="no weights of a U-Net"):
        load_unet(other)
    content = read_weights(SHIPPED / "weights.pt")
    content["shape"] = {"levels": (4, 4, 6, 6), "middle": 8}
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(Refused, match="do not match its shape"):
        load_unet(tmp_path / "odd.pt")


def test_the_same_scripts_export_and_quantize_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(2)
    shape = {"levels": (8, 8, 12, 12), "middle": 16}
    torch.save({"shape": shape, "weights": UNet(Widths((8, 8, 12, 12), 16)).state_dict()}, tmp_path / "weights.pt")
    assert export_main(["--weights", str(tmp_path / "weights.pt"), "--out", str(tmp_path / "float.onnx")]) == 0
    whole = tmp_path / "float.onnx"
    assert quantize_main(["--model", str(whole), "--out", str(tmp_path / "small.onnx")]) == 0
    small = tmp_path / "small.onnx"
    assert small.stat().st_size < 0.5 * whole.stat().st_size
    said, before = metadata_of(read_model(small)), metadata_of(read_model(whole))
    history = said["history"].splitlines()
    assert history[:-1] == before["history"].splitlines() and history[-1].startswith("quant.quantize ")
    assert said == before | {"history": said["history"]} and said["name"] == OURS and said["licence"] == "MIT"
    assert said["frames"] == "18" and len(said["recipe_sha256"]) == 64
    sound = np.random.default_rng(1).normal(0, 0.1, 9600).astype(np.float32)
    first, second = (heard(open_core(str(file)), sound) for file in (whole, small))
    assert np.linalg.norm(first - second) < 0.03 * np.linalg.norm(first)


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_run, "window_difference", lambda network, model: 1e-3)
    arguments = ["--weights", str(SHIPPED / "weights.pt"), "--out", str(tmp_path / "float.onnx")]
    assert export_main(arguments) == 2
    assert not (tmp_path / "float.onnx").exists()


def pairs() -> list[tuple[Floats, Floats]]:
    def read(part: str, name: str) -> Floats:
        return np.asarray(soundfile.read(SOUNDS / part / name, 5 * RATE_HZ, dtype="float32")[0])

    names = sorted(file.name for file in (SOUNDS / "noisy").iterdir())
    return [(read("clean", name), read("noisy", name)) for name in names]


def test_the_shipped_one_is_the_one_of_its_card_and_small() -> None:
    model = Model(str(SHIPPED))
    assert len(model.read(".onnx")) <= MOST_BYTES
    weights = SHIPPED / "weights.pt"
    assert model._sums(SHIPPED / "CARD.md").keys() == {"unet.onnx", "weights.pt"}
    assert holds_unet(weights)


def test_a_shipped_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    for file in SHIPPED.iterdir():
        if file.is_file():
            (tmp_path / "unet").mkdir(exist_ok=True)
            (tmp_path / "unet" / file.name).write_bytes(file.read_bytes())
    assert open_core(str(tmp_path / "unet")).geometry == Geometry()
    (tmp_path / "unet" / "unet.onnx").write_bytes((SHIPPED / "unet.onnx").read_bytes() + b" ")
    with pytest.raises(BadModel, match="the sha256 differs"):
        open_core(str(tmp_path / "unet"))


def test_the_shipped_one_works_and_int8_costs_nothing(tmp_path: Path) -> None:
    whole = tmp_path / "float.onnx"
    assert export_main(["--weights", str(SHIPPED / "weights.pt"), "--out", str(whole)]) == 0
    core, reference = open_core("quietbox"), open_core(str(whole))
    better, apart = [], []
    for clean, noisy in pairs():
        small = heard(core, noisy)
        better.append(si_sdr_db(clean, small) - si_sdr_db(clean, noisy))
        apart.append(si_sdr_db(heard(reference, noisy), small))
    assert np.mean(better) > LEAST_BETTER_DB
    assert min(apart) > 25


LEAST_BETTER_DB = 3.0
"""Over the three recordings; models/unet/CARD.md says what was measured."""

"""Training learns, resumes to the same bit, measures through the box's path and refuses in one line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")

from edge import RATE_HZ  # noqa: E402
from edge.dsp.spectrum import DELAY_SAMPLES  # noqa: E402
from edge.suppress.network import Shape  # noqa: E402
from models.late_window import (  # noqa: E402
    LateSpectrum,
    TwinTrainer,
)
from models.measures import si_sdr_db  # noqa: E402
from models.mix.mixer import Batch  # noqa: E402
from models.network import Network, Spectrum, enhance  # noqa: E402
from models.train.__main__ import main  # noqa: E402
from models.train.checkpoint import Refused, load_network, read_weights  # noqa: E402
from models.train.development import measure, stream  # noqa: E402
from models.train.loop import LONG_EVERY, batches  # noqa: E402
from models.train.loss import Loss, LossBatch, speech_labels  # noqa: E402
from models.train.trainer import Plan, Trainer  # noqa: E402
from models.twin import main as twin_main  # noqa: E402

SMALL = '{"channels": 8, "squeeze": 4, "hidden": 12, "rounds": 1}'


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech/ with two voices (pulsed harmonics), noise/ with two kinds, pairs/ with two mixtures."""
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    time_s = np.arange(3 * RATE_HZ) / RATE_HZ
    for voice, pitch_hz in (("ann", 210), ("bob", 120)):
        (folder / "speech" / voice).mkdir(parents=True)
        wave = sum(np.sin(2 * np.pi * pitch_hz * k * time_s) / k for k in range(1, 12))
        wave = 0.1 * wave * (np.sin(2 * np.pi * 2.5 * time_s) > 0)
        soundfile.write(folder / "speech" / voice / "a.wav", wave, RATE_HZ)
    for kind, width in (("hiss", 1), ("rumble", 20)):
        (folder / "noise" / kind).mkdir(parents=True)
        wave = np.convolve(rng.standard_normal(4 * RATE_HZ), np.ones(width) / width, "same")
        soundfile.write(folder / "noise" / kind / "n.wav", 0.1 * wave, RATE_HZ)
    for side in ("clean", "noisy"):
        (folder / "pairs" / side).mkdir(parents=True)
    for name in ("one.wav", "two.wav"):
        clean = soundfile.read(folder / "speech" / "ann" / "a.wav")[0][: RATE_HZ + 37]
        soundfile.write(folder / "pairs" / "clean" / name, clean, RATE_HZ)
        soundfile.write(folder / "pairs" / "noisy" / name, clean + 0.05 * rng.standard_normal(len(clean)), RATE_HZ)
    return folder


def learn(recordings: Path, out: Path, *more: str) -> int:
    own = ["--speech", str(recordings / "speech"), "--noise", str(recordings / "noise"), "--device", "cpu"]
    return main([*own, "--out", str(out), "--items", "4", *more])


def test_a_short_training_lowers_the_loss(recordings: Path, tmp_path: Path) -> None:
    from models.mix.mixer import open_mixer

    mixer = open_mixer(None, tmp_path, 1, speech=[recordings / "speech"], noise=[recordings / "noise"])
    batch, student = mixer.batch(0, 4, 80 * 60), Trainer(Shape(**json.loads(SMALL)), Plan(), torch.device("cpu"))
    student.seconds = 600  # past the warm-up
    terms = [student.learn(batch) for _ in range(60)]
    assert terms[-1]["loss"] < 0.85 * terms[0]["loss"]
    assert student.audio_hours == pytest.approx(60 * 4 * 0.3 / 3600)


def test_resumed_is_uninterrupted(recordings: Path, tmp_path: Path) -> None:
    from models.mix.mixer import open_mixer
    from models.train.loop import train

    plan, shape = Plan(steps=14, items=4, segment_hops=60), Shape(**json.loads(SMALL))
    sources = {"speech": [recordings / "speech"], "noise": [recordings / "noise"]}
    mixer = open_mixer(None, tmp_path / "cache", plan.seed, **sources)
    whole = Trainer(shape, plan, torch.device("cpu"))
    train(whole, mixer, tmp_path / "whole")
    train(Trainer(shape, plan, torch.device("cpu")), mixer, tmp_path / "halves", most_steps=9)
    second = Trainer(shape, plan, torch.device("cpu"))
    second.resume(tmp_path / "halves")
    assert second.step == 9
    train(second, mixer, tmp_path / "halves")
    assert second.step == whole.step == 14
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name])
    assert all(torch.equal(value, second.averaged[name]) for name, value in whole.averaged.items())


def test_command_resumes_fine_tunes_and_evaluates(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, tuned, pairs = tmp_path / "first", tmp_path / "tuned", str(recordings / "pairs")
    kinds = ["--kinds", "whisper=0.5"]
    assert learn(recordings, first, "--steps", "2", "--shape", SMALL, "--dev", pairs, "--items", "1", *kinds) == 0
    assert (first / "curve.png").exists() or pytest.importorskip("matplotlib") is None
    assert learn(recordings, first, "--resume", "--steps", "4") == 0
    assert read_weights(first / "checkpoint.pt")["step"] == 4
    assert read_weights(first / "checkpoint.pt")["plan"]["kinds"] == "whisper=0.5", "a resumed run goes on with them"
    assert learn(recordings, tuned, "--init", str(first / "weights.pt"), "--steps", "2") == 0
    assert read_weights(tuned / "weights.pt")["shape"] == read_weights(first / "weights.pt")["shape"]
    capsys.readouterr()
    assert main(["--evaluate", str(tuned / "weights.pt"), "--dev", pairs]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["pairs"] == 2 and np.isfinite(figures["si_sdr_gain_db"])


def test_refusals_are_one_line(recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.pt").write_text("no weights")
    torch.save({"shape": {"channels": 8}, "weights": {}}, tmp_path / "other.pt")
    out, speech = tmp_path / "out", ["--speech", str(recordings / "speech"), "--noise", str(recordings / "noise")]
    cases = {
        "--out": [*speech],
        "no speech": ["--out", str(out)],
        "no such folder": ["--out", str(out), "--speech", str(tmp_path / "nowhere")],
        "no such file": ["--out", str(out), *speech, "--resume"],
        "no weights of this network": ["--out", str(out), *speech, "--init", str(tmp_path / "bad.pt")],
        "another shape": ["--out", str(out), *speech, "--init", str(tmp_path / "other.pt"), "--shape", SMALL],
        "--kinds": ["--out", str(out), *speech, "--kinds", "opera=1"],
        "--shape": ["--out", str(out), *speech, "--shape", '{"chanels": 3}'],
        "give only one of them": ["--out", str(out), *speech, "--resume", "--init", str(tmp_path / "bad.pt")],
        "needs --dev": ["--evaluate", str(tmp_path / "bad.pt")],
        "no pairs": ["--evaluate", str(tmp_path / "w.pt"), "--dev", str(tmp_path)],
    }
    Trainer(Shape(**json.loads(SMALL)), Plan(steps=1), torch.device("cpu")).save(tmp_path)
    (tmp_path / "weights.pt").rename(tmp_path / "w.pt")
    for wanted, arguments in cases.items():
        assert main(arguments) == 2, wanted
        said = capsys.readouterr().err
        assert said.startswith("train: ") and said.count("\n") == 1 and wanted in said, said


def test_a_second_run_does_not_overwrite_the_first(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer(Shape(**json.loads(SMALL)), Plan(), torch.device("cpu")).save(tmp_path)
    assert learn(recordings, tmp_path) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_broken_batch_is_left_out_and_many_stop_the_run() -> None:
    student = Trainer(Shape(**json.loads(SMALL)), Plan(), torch.device("cpu"))
    before = {name: value.clone() for name, value in student.network.state_dict().items()}
    noisy = torch.full((1, 4000), float("nan"))
    broken = Batch(noisy, noisy, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    student.learn(broken)
    after = dict(student.network.named_parameters())
    assert all(torch.equal(before[name], value) for name, value in after.items())
    student.learn(make_batch(torch.randn(1, 4000), torch.randn(1, 4000)))
    assert all(value.isfinite().all() for value in student.averaged.values())
    with pytest.raises(Refused, match="step 11"):
        for _ in range(10):
            student.learn(broken)


def make_batch(noisy: torch.Tensor, clean: torch.Tensor) -> Batch:
    items = len(noisy)
    return Batch(noisy, clean, torch.zeros(items), torch.zeros(items, dtype=torch.int64))


def test_loss_is_level_free_and_least_for_the_clean_wave() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 8000) * 0.1, torch.randn(2, 8000) * 0.1
    loss, logits, labels = Loss(), torch.zeros(2, 100), torch.ones(2, 100)

    def total(output: torch.Tensor, scale: float = 1.0) -> float:
        terms = loss(output * scale, logits, make_batch((clean + noise) * scale, clean * scale), labels)
        return float(sum(terms.values()) - terms["speech"])

    assert total(clean) < -0.5, "SI-SDR alone counts below nothing, to 30 dB"
    assert total(clean) < total(0.5 * clean) < total(0 * clean)
    assert total(clean + 0.3 * noise) < total(clean + noise)
    assert total(clean + noise, 0.05) == pytest.approx(total(clean + noise), abs=0.01)
    assert total(clean * 0.8) > total(clean * 1.2)  # taking speech away costs more than leaving something over


def test_loss_prefers_the_phase_sensitive_gain() -> None:
    """At 90 degrees between clean and noisy the best real gain is below the ratio of magnitudes."""
    time_s = torch.arange(8000) / RATE_HZ
    clean = torch.sin(2 * np.pi * 500 * time_s)[None] * 0.1
    noisy = torch.cos(2 * np.pi * 500 * time_s)[None] * 0.1
    batch, loss = make_batch(noisy, clean), Loss()
    terms = [loss(gain * noisy, torch.zeros(1, 9), batch, torch.zeros(1, 9)) for gain in (1.0, 0.5)]
    assert terms[1]["bins"] < terms[0]["bins"] and terms[1]["wave"] < terms[0]["wave"]


def test_speech_labels_follow_the_clean_energy() -> None:
    clean = torch.randn(3, 80 * 60) * torch.tensor([0.1, 0.001, 0.0])[:, None]
    clean[:, 2400:] = 0
    labels = speech_labels(Spectrum(), make_batch(clean, clean))
    assert (labels[:2, 4:29] == 1).all() and (labels[:2, 35:] == 0).all()
    assert (labels[2] == 0).all()


@pytest.mark.parametrize("transform", [Spectrum, LateSpectrum])
def test_the_output_meets_its_target_in_time(transform: type[Spectrum]) -> None:
    """An open network on clean speech costs nothing: output and target lie on each other sample by sample."""
    loss_batch = LossBatch(Network(Shape(**json.loads(SMALL))), transform())
    with torch.no_grad():
        loss_batch.network.spread.weight.zero_()
        loss_batch.network.spread.bias.fill_(20)
        clean = torch.randn(2, 4000) * 0.1
        terms = loss_batch(make_batch(clean, clean))
    assert all(float(terms[name]) < 1e-4 for name in ("size", "bins", "wave", "lost"))


def test_stream_equals_the_batch_path_and_keeps_lengths() -> None:
    torch.manual_seed(1)
    network, rng = Network(Shape(**json.loads(SMALL))).eval(), np.random.default_rng(1)
    waves = [rng.standard_normal(length).astype(np.float32) * 0.1 for length in (4000, 2411)]
    streamed = stream(network, waves)
    assert [len(wave) for wave in streamed] == [4000, 2411]
    with torch.no_grad():
        whole, _ = enhance(network, Spectrum(), torch.from_numpy(np.pad(waves[0], (0, 80)))[None])
    assert np.allclose(whole[0, DELAY_SAMPLES:].numpy(), streamed[0], atol=1e-5)


def test_a_deepened_network_begins_as_the_one_it_was(recordings: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    small = Shape(**json.loads(SMALL))
    plan, features = Plan(), torch.randn(2, 40, 64)
    before = Trainer(small, plan, torch.device("cpu"))
    before.save(tmp_path)
    deeper = Trainer(replace(small, rounds=3), plan, torch.device("cpu"))
    deeper.start_from(tmp_path / "weights.pt")
    for got, wanted in zip(deeper.network(features)[:2], before.network(features)[:2], strict=True):
        assert torch.allclose(got, wanted, atol=1e-6)
    assert set(deeper.averaged) == {name for name, _ in deeper.network.named_parameters()}
    deeper.learn(make_batch(torch.randn(1, 4000), torch.randn(1, 4000)))
    assert deeper.network.groups[0].back.weight.any() and deeper.network.full[1].widen.weight.any()


def test_the_twin_trains_and_is_measured_in_time(recordings: Path, tmp_path: Path) -> None:
    shape, pairs = Shape(**json.loads(SMALL)), recordings / "pairs"
    sounds = ("--speech", recordings / "speech", "--noise", recordings / "noise", "--items", 2, "--shape", SMALL)
    assert twin_main([str(word) for word in ("--out", tmp_path, *sounds, "--steps", 2, "--dev", pairs)]) == 0
    assert twin_main(["--evaluate", str(tmp_path / "weights.pt")]) == 2
    network = Network(shape)
    with torch.no_grad():
        network.spread.weight.zero_()
        network.spread.bias.fill_(20)
    waves = [np.random.default_rng(length).standard_normal(length).astype(np.float32) for length in (4000, 2411)]
    for heard, wave in zip(TwinTrainer.enhanced_by(network, waves), waves, strict=True):
        assert np.allclose(heard, wave, atol=1e-5)


def test_measures(recordings: Path) -> None:
    wave = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    other = np.random.default_rng(1).standard_normal(8000).astype(np.float32)
    assert si_sdr_db(wave, 0.1 * wave + 0.01 * other) == pytest.approx(20, abs=0.3)
    assert measure(lambda waves: waves, recordings / "pairs", full=False)["si_sdr_gain_db"] == 0


def test_rate_rises_and_falls() -> None:
    student, rates = Trainer(Shape(**json.loads(SMALL)), Plan(steps=1000), torch.device("cpu")), []
    for step in range(0, 1001, 10):
        student.step = step
        rates.append(student.rate)
    top = int(np.argmax(rates))
    assert 2 <= top <= 8 and max(rates) < 2e-3
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(1e-6)


def test_some_batches_are_long(recordings: Path, tmp_path: Path) -> None:
    from models.mix.mixer import open_mixer

    mixer = open_mixer(None, tmp_path, 1, speech=[recordings / "speech"], noise=[recordings / "noise"])
    stretch = batches(mixer, Plan(items=4, segment_hops=20), LONG_EVERY - 2, 0, 1)
    assert [next(stretch).noisy.shape for _ in range(3)] == [(4, 1600), (2, 3200), (4, 1600)]
    stretch.close()


def test_weights_round_trip(tmp_path: Path) -> None:
    student = Trainer(Shape(**json.loads(SMALL)), Plan(), torch.device("cpu"))
    student.save(tmp_path)
    ours, read = student.averaged_network().state_dict(), load_network(tmp_path / "weights.pt").state_dict()
    assert all(torch.equal(ours[name], read[name]) for name in ours)
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint.pt", "weights.pt"}


def test_training_leaves_the_precision_of_products_alone(tmp_path: Path, recordings: Path) -> None:
    before = torch.get_float32_matmul_precision()
    assert learn(recordings, tmp_path / "run", "--steps", "1") == 0
    assert torch.get_float32_matmul_precision() == before

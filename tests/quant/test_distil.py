"""A student comes nearer to its teacher, and only to what the teacher said at that moment; refusals are one line."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from edge import HOP_SAMPLES, RATE_HZ  # noqa: E402
from edge.dsp.spectrum import DELAY_SAMPLES, Floats  # noqa: E402
from edge.suppress.network import Shape  # noqa: E402
from models.command import BadRequest  # noqa: E402
from models.mix.rooms import MOST_ROOM_SAMPLES  # noqa: E402
from models.network import Network, Spectrum, enhance  # noqa: E402
from models.train.checkpoint import load_network, read_weights  # noqa: E402
from models.train.trainer import Plan, Trainer  # noqa: E402
from quant.calibrate import SOUNDS, find  # noqa: E402
from quant.distil import pairs as pairs_module  # noqa: E402
from quant.distil import teacher as teacher_module  # noqa: E402
from quant.distil.__main__ import main  # noqa: E402
from quant.distil.pairs import (  # noqa: E402
    DistillationPairs,
    held,
    made,
    read,
    to_int16,
)
from quant.distil.student import similarity_db, train_student  # noqa: E402
from quant.distil.teacher import outputs_of, teacher_named, through  # noqa: E402

torch.set_num_threads(1)
SMALL = Shape(stride_bands=8, channels=12, squeeze=6, hidden=16, rounds=1, past_hops=1)
TINY = json.dumps({"stride_bands": 16, "channels": 4, "squeeze": 2, "hidden": 6, "rounds": 1, "past_hops": 1})
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recordings() -> list[Floats]:
    return [read(file)[: 5 * RATE_HZ] for file in find([SOUNDS])]


@pytest.fixture(scope="module")
def pairs(recordings: list[Floats]) -> DistillationPairs:
    return made(teacher_named("dsp")[0], recordings)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    network = Network(Shape(**json.loads(TINY)))
    network.settle()
    torch.save({"shape": asdict(network.shape), "weights": network.state_dict()}, tmp_path / "teacher.pt")
    return tmp_path / "teacher.pt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two short recordings, one of them at another rate and in stereo."""
    (tmp_path / "noisy").mkdir()
    rng = np.random.default_rng(2)
    soundfile.write(tmp_path / "noisy" / "a.wav", rng.normal(0, 0.1, 2 * RATE_HZ), RATE_HZ)
    soundfile.write(tmp_path / "noisy" / "b.flac", rng.normal(0, 0.1, (66_150, 2)), 44_100)
    return tmp_path / "noisy"


def command(teacher: object, out: Path, *more: object) -> int:
    own = ["--teacher", str(teacher), "--out", str(out), "--device", "cpu", "--items", "1"]
    return main([*own, *map(str, more)])


def taught_30_steps(pairs: DistillationPairs, judged: DistillationPairs, folder: Path) -> tuple[float, float]:
    """How near a student is to ``judged`` before and after it learnt from ``pairs``; the same every time."""
    plan = Plan(steps=30, items=4, segment_hops=150, peak_rate=1.5e-2)
    student = Trainer(SMALL, plan, CPU)
    before = similarity_db(judged, student.averaged_network())
    train_student(student, pairs, folder)
    assert student.step == 30
    return before, similarity_db(judged, student.averaged_network())


def test_a_student_comes_nearer_to_its_teacher(pairs: DistillationPairs, tmp_path: Path) -> None:
    before, after = taught_30_steps(pairs, pairs, tmp_path)
    assert after > before + 0.4
    learnt = load_network(tmp_path / "weights.pt")
    assert similarity_db(pairs, learnt) == pytest.approx(after, abs=1e-3)


def swapped(target: list[torch.Tensor]) -> list[torch.Tensor]:
    return [*target[1:], target[0]]


def one_hop_late(target: list[torch.Tensor]) -> list[torch.Tensor]:
    return [wave.roll(HOP_SAMPLES) for wave in target]


@pytest.mark.parametrize("spoilt", [swapped, one_hop_late])
def test_it_learns_nothing_from_the_wrong_targets(
    pairs: DistillationPairs, tmp_path: Path, spoilt: Callable[[list[torch.Tensor]], list[torch.Tensor]]
) -> None:
    """Were the pairs mixed up or not lined up, the test above would fail."""
    target = torch.cat(spoilt([*pairs.target.split([*pairs.lengths])]))
    before, after = taught_30_steps(replace(pairs, target=target), pairs, tmp_path)
    assert after < before


def test_a_late_teacher_is_lined_up(recordings: list[Floats], pairs: DistillationPairs) -> None:
    """Half a dozen lags, hops and not, and one recording of which the teacher leaves nothing."""
    hear, known = teacher_named("dsp")[0], dict[int, Floats]()
    for lag in (0, 1, 80, 641, 1333):

        def late(samples: Floats, lag: int = lag) -> Floats:
            key = hash(samples.tobytes())
            known[key] = known[key] if key in known else hear(samples)
            return np.concatenate([np.zeros(lag, np.float32), known[key]])

        again = outputs_of(late, recordings)
        rows = torch.from_numpy(to_int16(again))
        assert torch.equal(rows, pairs.target), lag

    def deaf(samples: Floats) -> Floats:
        heard = np.concatenate([np.zeros(500, np.float32), samples])
        return heard * 0 if len(samples) == len(recordings[0]) - 1 else heard

    mixed = [recordings[0][1:], recordings[1], recordings[2]]
    outputs = outputs_of(deaf, mixed)
    assert not outputs[0].any() and all(np.array_equal(*pair) for pair in zip(outputs[1:], mixed[1:], strict=True))


def test_a_teacher_with_silent_or_invalid_output_is_refused(recordings: list[Floats]) -> None:
    with pytest.raises(BadRequest, match="silence"):
        outputs_of(lambda samples: samples * 0, recordings)
    with pytest.raises(BadRequest, match="NaN or infinite"):
        outputs_of(lambda samples: samples * np.float32("nan"), recordings)


@pytest.mark.parametrize("samples", [1, 79, 80, 4001, 16_000])
def test_long_recordings_go_through_a_network_in_stretches(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_module, "BLOCK_HOPS", 7)
    torch.manual_seed(2)
    network = Network(SMALL).eval()
    network.settle()
    wave = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    output = through(network, wave)
    padded = torch.nn.functional.pad(torch.from_numpy(wave), (0, len(output) - samples)).unsqueeze(0)
    with torch.no_grad():
        whole = enhance(network, Spectrum(), padded)[0][0].numpy()
    assert len(output) >= samples + DELAY_SAMPLES
    np.testing.assert_allclose(output, whole, atol=1e-6)


def numbered(trust: float = 1.0) -> DistillationPairs:
    """Rows whose samples say where they come from: noisy n, target n + 7, clean -n."""
    noisy = torch.arange(20_000, dtype=torch.int16)
    return DistillationPairs(noisy, noisy + 7, -noisy, (2_000, 5_000, 13_000), trust)


def test_segments_are_pairs_from_outside_the_parts_kept_apart() -> None:
    pairs = numbered()
    for step in range(20):
        batch = pairs.batch(step, 8, 1_600)
        noisy, target = ((wave * 32768).round().long() for wave in (batch.noisy, batch.clean))
        assert torch.equal(target, noisy + 7)
        start = 0
        inside = torch.zeros(8, dtype=torch.bool)
        for length in pairs.lengths:
            inside |= ((noisy >= start) & (noisy < start + length - held(length))).all(1)
            start += length
        assert inside.all()
    ends = [np.rint(noisy * 32768) for noisy, _ in pairs.held_out()]
    assert [(end[0], end[-1]) for end in ends] == [(1_600, 1_999), (6_000, 6_999), (17_400, 19_999)]


def test_batches_depend_on_seed_and_step_alone_and_short_recordings_go_round() -> None:
    pairs = numbered()
    assert torch.equal(pairs.batch(3, 8, 800).noisy, pairs.batch(3, 8, 800).noisy)
    assert not torch.equal(pairs.batch(3, 8, 800).noisy, pairs.batch(4, 8, 800).noisy)
    assert not torch.equal(pairs.batch(3, 8, 800).noisy, replace(pairs, seed=2).batch(3, 8, 800).noisy)
    batch = replace(pairs, lengths=(2_000, 18_000)).batch(0, 64, 4_000)
    short = batch.noisy[(batch.noisy * 32768).amax(1) < 2_000]
    assert len(short) and torch.equal(short[:, :1_600], short[:, 1_600:3_200])


@pytest.mark.parametrize(("trust", "own"), [(0.0, 0.0), (1.0, 1.0), (0.25, 0.25)])
def test_trust_is_the_share_of_targets_from_the_teacher(trust: float, own: float) -> None:
    batch = numbered(trust).batch(0, 2_000, 80)
    from_teacher = (batch.clean > 0).any(1).float().mean()
    assert float(from_teacher) == pytest.approx(own, abs=0.04)


def test_the_command_trains_resumes_and_reuses_the_pairs(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, source = tmp_path / "run", ["--noisy", folder]
    assert command(weights, out, *source, "--shape", TINY, "--steps", "2") == 0
    assert "student now" in capsys.readouterr().out
    assert {file.name for file in out.iterdir()} >= {"checkpoint.pt", "weights.pt", "pairs.npz"}
    assert not [file for file in out.iterdir() if file.name.startswith(".")]
    with np.load(out / "pairs.npz") as stored:
        assert stored["lengths"].tolist() == [2 * RATE_HZ, 24_000]
        assert np.count_nonzero(stored["target"]) > 50_000
    monkeypatch.setattr(pairs_module, "outputs_of", lambda *_: pytest.fail("the pairs were there"))
    assert command(weights, out, *source, "--resume", "--steps", "3") == 0
    assert read_weights(out / "checkpoint.pt")["step"] == 3
    monkeypatch.undo()
    (out / "pairs.npz").write_bytes(b"PK")
    assert command(weights, out, *source, "--resume", "--steps", "4") == 0
    other = tmp_path / "other"
    assert command("dsp", other, *source, "--init", out / "weights.pt", "--steps", "1") == 0
    assert load_network(other / "weights.pt").shape == Shape(**json.loads(TINY))
    lines = read_weights(other / "weights.pt")["history"].splitlines()
    sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (weights, out / "weights.pt")]
    assert [line.partition(" ")[0] for line in lines] == ["quant.distil"] * 5, lines
    assert sums[0] in lines[0] and "teacher dsp" in lines[3] and lines[4].endswith(f"student, source sha256 {sums[1]}")
    before = (out / "weights.pt").read_bytes()
    capsys.readouterr()
    (out / "checkpoint.pt").unlink()
    for teacher, more in (("dsp", ["--init", out / "weights.pt"]), (out / "weights.pt", ["--shape", TINY])):
        assert command(teacher, out, *source, *more, "--steps", "1") == 2
        assert "would overwrite the input" in capsys.readouterr().err
    assert (out / "weights.pt").read_bytes() == before


def test_mixtures_with_a_known_clean_side(weights: Path, tmp_path: Path) -> None:
    data, rng = tmp_path / "data", np.random.default_rng(3)
    data.mkdir()
    for name, column in (("speech", "speaker"), ("noise", "kind")):
        soundfile.write(data / f"{name}.wav", rng.normal(0, 0.1, 3 * RATE_HZ), RATE_HZ)
        head = f"file\tstart_s\tseconds\tsource\t{column}\n"
        (data / f"{name}.tsv").write_text(head + f"{name}.wav\t0\t3\there\tone\n")
    more = ["--data", data, "--trust", "0.3", "--mixture-minutes", "0.1", "--shape", TINY, "--steps", "1"]
    assert command(weights, tmp_path / "run", *more) == 0
    with np.load(tmp_path / "run" / "pairs.npz") as stored:
        assert stored["lengths"].tolist() == [10 * RATE_HZ] * 4
        assert len(stored["clean"]) == len(stored["noisy"]) == len(stored["target"]) > MOST_ROOM_SAMPLES
        assert not np.array_equal(stored["clean"], stored["target"])


def test_refusals_are_one_line_and_leave_nothing(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("empty", "broken", "short", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad.pt").write_text("no weights")
    (tmp_path / "broken" / "a.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "short" / "a.wav", np.zeros(900), RATE_HZ)
    torch.save({"shape": json.loads(TINY)}, tmp_path / "run" / "checkpoint.pt")
    out, noisy, shape = tmp_path / "out", ["--noisy", folder], ["--shape", TINY, "--steps", "1"]
    cases: list[tuple[str, object, Path, list[object]]] = [
        ("no engine is called nobody", "nobody", out, [*noisy, *shape]),
        ("choose another teacher", "noisy", out, [*noisy, *shape]),
        ("no engine is called auto", "auto", out, [*noisy, *shape]),
        ("no engine is called off", "off", out, [*noisy, *shape]),
        ("no such file", tmp_path / "none.pt", out, [*noisy, *shape]),
        ("no weights of this network", tmp_path / "bad.pt", out, [*noisy, *shape]),
        ("none.onnx", f"file:{tmp_path / 'none.onnx'}", out, [*noisy, *shape]),
        ("no sound files", weights, out, ["--noisy", tmp_path / "empty", *shape]),
        ("is not a folder", weights, out, ["--noisy", tmp_path / "none", *shape]),
        ("a.wav", weights, out, ["--noisy", tmp_path / "broken", *shape]),
        ("shorter than a second", weights, out, ["--noisy", tmp_path / "short", *shape]),
        ("speech.tsv", weights, out, ["--data", folder, *shape]),
        ("no student", weights, out, [*noisy]),
        ("units", weights, out, [*noisy, "--shape", '{"units": 3}']),
        ("no network of this shape", weights, out, [*noisy, "--shape", '{"channels": "a"}']),
        ("no network of this shape", weights, out, [*noisy, "--shape", '{"stride_bands": 7}']),
        ("no weights of this network", weights, out, [*noisy, "--init", tmp_path / "bad.pt"]),
        ("another shape", weights, out, [*noisy, "--init", weights, "--shape", '{"channels": 8}']),
        ("--trust", weights, out, [*noisy, *shape, "--trust", "0.5"]),
        ("--trust", weights, out, ["--data", folder, *shape, "--trust", "2"]),
        ("--minutes", weights, out, [*noisy, *shape, "--minutes", "0"]),
        ("--items", weights, out, [*noisy, *shape, "--items", "0"]),
        ("--rate", weights, out, [*noisy, *shape, "--rate", "nan"]),
        ("is a file", weights, tmp_path / "bad.pt", [*noisy, *shape]),
        ("add --resume", weights, tmp_path / "run", [*noisy, *shape]),
        ("no such file", weights, out, [*noisy, "--resume"]),
        ("cannot be resumed", weights, tmp_path / "run", [*noisy, "--resume"]),
        ("one of them", weights, tmp_path / "run", [*noisy, "--resume", "--init", weights]),
    ]
    before = sorted(tmp_path.rglob("*"))
    for wanted, teacher, target, more in cases:
        assert command(teacher, target, *more) == 2, wanted
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("distil: ") and wanted in lines[0], (wanted, lines)
    assert sorted(tmp_path.rglob("*")) == before

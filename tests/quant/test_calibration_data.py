"""Calibration streams hold what the box meets, their states are the network's own, and wrong input is refused."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edge import RATE_HZ  # noqa: E402
from edge.dsp.spectrum import BANDS, SILENCE, Floats  # noqa: E402
from edge.suppress.network import Shape  # noqa: E402
from models.command import BadRequest  # noqa: E402
from models.network import Network  # noqa: E402
from quant import calibrate  # noqa: E402
from quant.calibrate import Reader, Samples  # noqa: E402
from quant.export.network import build  # noqa: E402
from quant.graph import open_session, silence_of  # noqa: E402
from quant.hops import Hops  # noqa: E402

torch.set_num_threads(1)
SMALL = Shape(stride_bands=16, channels=4, squeeze=2, hidden=6, rounds=1, past_hops=1)


def noise(seconds: float, level: float = 0.1, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(0, level, round(seconds * RATE_HZ)).clip(-1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("model") / "small.onnx"
    file.write_bytes(build(Network(SMALL).eval()).SerializeToString())
    return file


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds" / "deeper"
    folder.mkdir(parents=True)
    soundfile.write(folder / "mono.wav", noise(0.8), RATE_HZ)
    soundfile.write(folder / "stereo.flac", np.stack([noise(3), noise(3, seed=2)], 1), 44_100)
    return folder.parent


@settings(deadline=None, max_examples=20)
@given(st.floats(0.5, 3), st.floats(0, 1))
def test_a_stream_is_whole_hops_within_full_scale(seconds: float, level: float) -> None:
    stream = calibrate.stream_of(noise(seconds, level))
    assert stream.dtype == np.float32 and len(stream) % 80 == 0
    assert np.isfinite(stream).all() and np.abs(stream).max() <= 1


def test_a_stream_holds_silence_loud_clipped_and_faint() -> None:
    sound = noise(2, 0.01)
    sound[: RATE_HZ // 2] *= 0.1
    stream = calibrate.stream_of(sound).reshape(-1, 80)
    peaks = np.abs(stream).max(axis=1)
    assert (peaks == 0).mean() > 0.05
    assert (np.abs(stream) == 1).mean() > 0.01  # clipped
    assert ((peaks > 0) & (peaks < 0.002)).mean() > 0.1  # faint
    assert not stream[:90].any() and not stream[-90:].any()


def test_samples_are_hops_of_running_streams(model: Path) -> None:
    loaded = onnx.load(model)
    sound = noise(0.6)
    every = calibrate.collect(Hops(open_session(loaded), silence_of(loaded)), [sound, sound], every=1)
    some = calibrate.collect(Hops(open_session(loaded), silence_of(loaded)), [sound, sound], every=7)
    half = len(every.features) // 2
    assert every.features.shape[1] == BANDS and every.features.min() >= SILENCE - 1e-5
    assert np.array_equal(every.state[0], silence_of(loaded))
    assert np.array_equal(every.state[half], every.state[0])  # every stream begins anew
    assert np.array_equal(every.features[:half:7], some.features[: len(some.features) // 2])
    again = Hops(open_session(loaded), every.state[200])
    again.step(every.features[200])
    assert np.allclose(again.state[0], every.state[201])


def test_the_reader_gives_every_sample_once() -> None:
    reader = Reader(Samples(np.zeros((3, BANDS), np.float32), np.ones((3, 5), np.float32)))
    feeds = [reader.get_next() for _ in range(5)]
    assert [feed is None for feed in feeds] == [False, False, False, True, True]
    assert feeds[0] is not None and feeds[0]["features"].shape == (1, BANDS) and feeds[0]["state"].shape == (1, 5)


@pytest.mark.slow
def test_a_whole_run(model: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "samples.npz"
    assert calibrate.main(["--model", str(model), "--sounds", str(sounds), "--out", str(out), "--every", "9"]) == 0
    size = len(silence_of(onnx.load(model)))
    samples = calibrate.read_samples(out, size)
    assert len(samples.features) == len(samples.state) > 100
    assert "2 streams" in capsys.readouterr().out
    with pytest.raises(BadRequest, match="another network"):
        calibrate.read_samples(out, size + 1)


def test_any_rate_and_any_channels_become_16_khz_mono(sounds: Path) -> None:
    read = [calibrate.read(file) for file in calibrate.find([sounds])]
    assert [len(sound) for sound in read] == [round(0.8 * RATE_HZ), -(-3 * RATE_HZ * RATE_HZ // 44_100)]
    assert all(sound.dtype == np.float32 and sound.ndim == 1 for sound in read)


def test_a_sound_is_found_by_its_first_bytes_and_a_hidden_file_is_not(tmp_path: Path) -> None:
    with open(tmp_path / "2026.12.01", "wb") as file:
        soundfile.write(file, noise(1), RATE_HZ, format="WAV")
    (tmp_path / "._a.wav").write_bytes(b"\0\5\x16\7")
    (tmp_path / "notes.txt").write_text("take one was good")
    assert [file.name for file in calibrate.find([tmp_path])] == ["2026.12.01"]
    assert len(calibrate.read(tmp_path / "2026.12.01")) == RATE_HZ


def test_no_sound_at_all_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, out = tmp_path / "empty", tmp_path / "samples.npz"
    empty.mkdir()
    broken, short, odd = tmp_path / "broken", tmp_path / "short", tmp_path / "odd"
    for folder in (broken, short, odd):
        folder.mkdir()
    (broken / "a.wav").write_text("no sound")
    soundfile.write(short / "a.wav", noise(0.2), RATE_HZ)
    holed = noise(1)
    holed[77] = np.nan
    soundfile.write(odd / "a.wav", holed, RATE_HZ, "FLOAT")
    for folder in (empty, broken, short, odd, tmp_path / "nowhere"):
        assert calibrate.main(["--model", str(model), "--sounds", str(folder), "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("calibrate: ") and str(folder) in said and said.count("\n") == 1
    assert not out.exists()


def test_other_models_are_refused(
    model: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, foreign, cut = tmp_path / "text.onnx", tmp_path / "foreign.onnx", tmp_path / "cut.onnx"
    text.write_text("nothing")
    cut.write_bytes(model.read_bytes()[:-500])
    somebody = onnx.load(model)
    del somebody.metadata_props[:]
    onnx.save(somebody, foreign)
    for file in (text, foreign, cut, tmp_path / "missing.onnx", tmp_path):
        command = ["--model", str(file), "--sounds", str(sounds), "--out", str(tmp_path / "out.npz")]
        assert calibrate.main(command) == 2
        said = capsys.readouterr().err
        assert said.startswith("calibrate: ") and str(file) in said and said.count("\n") == 1
    assert not (tmp_path / "out.npz").exists()


def test_no_calibration_data_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("nothing")
    for name in ("other.npz", "array.npy", "text.npz", "missing.npz"):
        with pytest.raises(BadRequest, match=name):
            calibrate.read_samples(tmp_path / name, 5)

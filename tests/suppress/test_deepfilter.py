"""DeepFilterNet3 one frame at a time: the owners' sound, the delay it says, rest in silence, refusals."""

import hashlib
import io
import math
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly
from signals import SOUNDS

from edge import HOP_SAMPLES, UserError
from edge.config import VoiceConfig
from edge.dsp.spectrum import Floats, Spectra
from edge.dsp.voice import VoiceDecision
from edge.suppress import open_engine
from edge.suppress.engine import Engine
from edge.suppress.foreign import deepfilter
from edge.suppress.foreign.deepfilter import (
    AHEAD,
    BANDS,
    BINS,
    FILTERED,
    HOP,
    STAGES,
    TAPS,
    DeepFilter,
    open_core,
    open_stages,
)
from edge.suppress.shipped import BadModel
from models.measures import si_sdr_db

if find_spec("onnx"):
    from quant.deepfilter.__main__ import main
    from quant.deepfilter.archive import SHA256, read_archive, write
    from quant.deepfilter.compare import Forgetful
    from quant.deepfilter.integers import int8
    from quant.graph import read_model
    from quant.peers import Libdf, dfn3_files

NAMES = sorted(path.stem for path in (SOUNDS / "noisy").iterdir())
DELAY = (AHEAD + 1) * HOP


def wide(name: str, seconds: float = 2) -> Floats:
    """Noisy speech at 48 kHz, whole blocks."""
    samples = soundfile.read(SOUNDS / "noisy" / f"{name}.flac", int(16_000 * seconds), dtype="float32")[0]
    return resample_poly(samples, 3, 1).astype(np.float32)[: int(100 * seconds) * HOP]


def walk(core: "DeepFilter | Libdf", samples: Floats) -> tuple[Floats, list[float]]:
    """What the core makes of ``samples``, and what it says block by block."""
    heard = samples.copy()
    return heard, [core.process(heard[at : at + HOP]) for at in range(0, len(heard), HOP)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as the script writes it, with float and, beside it, int8 weights."""
    for package in ("onnx", "onnxruntime"):
        if not find_spec(package):
            pytest.skip(f"{package} is not installed")
    try:
        published = dfn3_files()[0]
    except UserError as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("made")
    assert main(["--out", str(folder / "float"), "--archive", str(published)]) == 0
    stages = {stage: read_model(folder / "float" / f"float.{stage}.onnx") for stage in STAGES}
    small = {stage: int8(model) for stage, model in stages.items()}
    write(folder / "small", small, SHA256, "int8")
    return folder


@pytest.fixture(scope="module")
def tireless(made: Path) -> DeepFilter:
    return DeepFilter(*open_stages(deepfilter.files(str(made / "float"))), rest_frames=math.inf)


@pytest.fixture
def owners(made: Path) -> "Iterator[Libdf]":
    try:
        runtime = Libdf()
    except UserError as missing:
        pytest.skip(str(missing))
    yield runtime
    runtime.close()


def test_the_graphs_name_their_owners_and_what_made_them(made: Path) -> None:
    published = read_archive(dfn3_files()[0], SHA256)
    for variant in ("float", "small"):
        for stage, owners in published.items():
            model = read_model(made / variant / f"{variant}.{stage}.onnx")
            said = {entry.key: entry.value for entry in model.metadata_props}
            assert said["history"].startswith("quant.deepfilter 0.") and said["history"].endswith(SHA256)
            assert said["licence"] == "MIT or Apache 2.0"
            assert (model.producer_name, model.producer_version) == (owners.producer_name, owners.producer_version)


def test_the_archive_is_not_overwritten(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive, folder = tmp_path / "archive.tar.gz", tmp_path / "df"
    archive.write_bytes(dfn3_files()[0].read_bytes())
    folder.mkdir()
    (folder / "df.enc.onnx").symlink_to(archive)
    assert main(["--out", str(folder), "--archive", str(archive)]) == 2
    assert "would overwrite the input" in capsys.readouterr().err
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256


# --- the same sound ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_frame_by_frame_it_sounds_as_the_owners_runtime(name: str, tireless: DeepFilter, owners: "Libdf") -> None:
    noisy = wide(name)
    tireless.reset()
    wanted, local_snr_db = walk(owners, noisy)
    heard = noisy.copy()
    for at, wanted_db in zip(range(0, len(heard), HOP), local_snr_db, strict=True):
        tireless.process(heard[at : at + HOP])
        assert tireless.local_snr_db == pytest.approx(wanted_db, abs=0.01)
    assert si_sdr_db(wanted, heard) > 90, "no more difference than float32's roundings"
    assert si_sdr_db(noisy[:-DELAY], heard[DELAY:]) < 30, "it does something"


def test_int8_weights_are_a_third_of_the_size_and_nearly_the_same_sound(made: Path, tireless: DeepFilter) -> None:
    graphs, small = (deepfilter.files(str(made / which)) for which in ("float", "small"))
    assert sum(file.stat().st_size for file in small) < sum(file.stat().st_size for file in graphs) / 3
    noisy = wide(NAMES[1])
    tireless.reset()
    wanted, _ = walk(tireless, noisy)
    heard, _ = walk(DeepFilter(*open_stages(small), rest_frames=math.inf), noisy)
    assert 60 > si_sdr_db(wanted, heard) > 20


def test_without_memory_it_is_another_sound(made: Path, tireless: DeepFilter) -> None:
    stages, values = open_stages(deepfilter.files(str(made / "float")), Forgetful)
    noisy = wide(NAMES[1])
    tireless.reset()
    wanted, _ = walk(tireless, noisy)
    heard, _ = walk(DeepFilter(stages, values, rest_frames=math.inf), noisy)
    assert si_sdr_db(wanted, heard) < 15


def test_reset_forgets_everything(tireless: DeepFilter) -> None:
    noisy = wide(NAMES[2], 0.5)
    tireless.reset()
    first, said = walk(tireless, noisy)
    walk(tireless, np.clip(30 * noisy, -1, 1))
    tireless.reset()
    again, said_again = walk(tireless, noisy)
    np.testing.assert_array_equal(first, again)
    assert said == said_again


# --- delay and transform -------------------------------------------------------------------------------------------


class Unity:
    """Networks that change nothing: gains of one, the filter's middle tap, as in speech of 35 dB local SNR."""

    def __init__(self, values: dict[str, Floats]) -> None:
        self.values = values
        self.runs = 0

    def run(self) -> None:
        self.runs += 1
        self.values["lsnr"].fill(35)
        self.values["m"].fill(1)
        taps: Spectra = self.values["coefs"].reshape(FILTERED, 2 * TAPS).view(np.complex64)
        taps[:] = 0
        taps[:, TAPS - 1 - AHEAD] = 1

    def reset(self) -> None:
        self.runs = 0


def unity() -> tuple[DeepFilter, Unity]:
    values = {
        name: np.zeros(shape, np.float32) for stage in STAGES.values() for name, shape in (stage[0] | stage[1]).items()
    }
    stage = Unity(values)
    return DeepFilter([stage] * 3, values), stage  # type: ignore[list-item]


def test_networks_that_change_nothing_leave_a_pure_delay() -> None:
    core, _ = unity()
    sound = np.random.default_rng(1).uniform(-1, 1, 40 * HOP).astype(np.float32)
    heard, _ = walk(core, sound)
    assert core.delay_samples == DELAY == 1440
    np.testing.assert_allclose(heard[DELAY:], sound[:-DELAY], atol=2e-6)
    np.testing.assert_allclose(heard[:DELAY], 0, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_speech_is_as_late_as_it_says(name: str, tireless: DeepFilter) -> None:
    noisy = wide(name)
    tireless.reset()
    heard, _ = walk(tireless, noisy)
    size = 2 * len(noisy)
    cross = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(noisy, size)), size)
    assert abs(int(np.argmax(cross[: 4 * DELAY])) - tireless.delay_samples) <= 2


def test_nothing_is_heard_of_what_is_still_to_come(tireless: DeepFilter) -> None:
    """The output up to a block depends on the input up to that block, and on nothing behind it."""
    noisy = wide(NAMES[0], 1)
    tireless.reset()
    first, _ = walk(tireless, noisy)
    other = noisy.copy()
    other[60 * HOP :] = 0.3
    tireless.reset()
    second, _ = walk(tireless, other)
    np.testing.assert_array_equal(first[: 60 * HOP], second[: 60 * HOP])


def test_bands_cover_every_bin_once() -> None:
    sizes = deepfilter.band_sizes()
    assert len(sizes) == BANDS and sum(sizes) == BINS and min(sizes) == 2
    assert sizes[5:-1] == sorted(sizes[5:-1]), "wider towards the top"


def test_the_window_is_power_complementary() -> None:
    squares = deepfilter.window().astype(np.float64) ** 2
    np.testing.assert_allclose(squares[:HOP] + squares[HOP:], 1, atol=1e-6)


# --- speech, rest and silence --------------------------------------------------------------------------------------


def test_ten_db_of_local_snr_is_where_speech_begins() -> None:
    decision = VoiceDecision(VoiceConfig())
    assert not decision.decide(deepfilter.speech_probability(9.9))
    assert decision.decide(deepfilter.speech_probability(10.1))
    said = [deepfilter.speech_probability(float(db)) for db in np.linspace(-20, 40, 200)]
    assert said == sorted(said) and said[0] == 0 and said[-1] == 1


@pytest.mark.slow
def test_the_decoders_rest_in_noise_and_wake_for_speech(made: Path, tireless: DeepFilter) -> None:
    draw = np.random.default_rng(2)
    noise = draw.normal(0, 0.01, 2 * 100 * HOP).astype(np.float32)
    sound = np.concatenate([noise, wide(NAMES[1], 2)])
    core = open_core(str(made / "float"))
    tireless.reset()
    wanted, _ = walk(tireless, sound)
    heard = sound.copy()
    resting = []
    for at in range(0, len(heard), HOP):
        core.process(heard[at : at + HOP])
        resting.append(core.resting)
    assert not any(resting[:75]) and all(resting[150:195]), "after 750 ms of noise"
    assert not heard[155 * HOP : 195 * HOP].any()
    assert not any(resting[-100:])
    assert si_sdr_db(wanted[-150 * HOP :], heard[-150 * HOP :]) > 15


def test_below_minus_100_dbfs_nothing_is_computed() -> None:
    core, stage = unity()
    sound = np.full(HOP, 5e-6, np.float32)
    for _ in range(20):
        block = sound.copy()
        said = core.process(block)
    assert stage.runs == 3 * deepfilter.SILENT_FRAMES
    assert said == 0 and not block.any() and core.resting
    core.process(np.full(HOP, 0.1, np.float32))
    assert stage.runs == 3 * (deepfilter.SILENT_FRAMES + 1), "and a sound wakes it"


@pytest.mark.parametrize("kind", ["square", "impulses", "constant", "hiss", "tiny"])
def test_no_sound_upsets_it(kind: str, tireless: DeepFilter) -> None:
    time = np.arange(60 * HOP)
    sounds = {
        "square": np.sign(np.sin(time / 37)),
        "impulses": (time % 4001 == 0) * 1.0,
        "constant": np.ones(len(time)),
        "hiss": np.random.default_rng(3).uniform(-1, 1, len(time)),
        "tiny": np.where(time % 3, 1e-38, 1e-3),
    }
    tireless.reset()
    heard, said = walk(tireless, sounds[kind].astype(np.float32))
    assert np.isfinite(heard).all() and np.abs(heard).max() < 4
    assert all(0 <= probability <= 1 for probability in said)


# --- refusals ------------------------------------------------------------------------------------------------------


def refusal(model: Path | str) -> str:
    with pytest.raises(BadModel) as refused:
        open_core(str(model))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_missing_model_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "python -m quant.deepfilter --out" in refusal(tmp_path / "nowhere")
    monkeypatch.setattr(deepfilter, "places", lambda: [tmp_path / "a", tmp_path / "b"])
    said = refusal("quietbox")
    assert str(tmp_path / "a") in said and "python -m quant.deepfilter --out" in said
    (tmp_path / "b").mkdir()
    assert "CARD.md is missing" in refusal("quietbox")
    (tmp_path / "b" / "CARD.md").write_text("# nothing\n")
    assert "b.enc.onnx is missing" in refusal("quietbox")


def test_the_name_quietbox_finds_the_users_own(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert deepfilter.places()[1] == tmp_path / "quietbox" / "deepfilternet3"
    monkeypatch.setattr(deepfilter, "places", lambda: [tmp_path / "nowhere", made / "float"])
    assert deepfilter.files()[0] == made / "float" / "float.enc.onnx"


def test_a_graph_that_is_not_the_cards_is_refused(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "float"
    folder.mkdir()
    for file in (made / "float").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    graph, card = folder / "float.df_dec.onnx", folder / "CARD.md"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1])
    assert "sha256 differs" in refusal(folder)
    encoder = (folder / "float.enc.onnx").read_bytes()
    for other, wanted in ((content[:5000], "not an ONNX model"), (encoder, "not a streaming")):
        graph.write_bytes(other)
        lines = [line for line in card.read_text().splitlines() if "df_dec" not in line]
        lines.append(f"| `{graph.name}` | sha256 `{hashlib.sha256(other).hexdigest()}` |")
        card.write_text("\n".join(lines))
        assert wanted in refusal(folder)


def archive(path: Path, entries: dict[str, bytes]) -> list[str]:
    """An archive and what tells the script to take it."""
    with tarfile.open(path, "w:gz") as packed:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return ["--archive", str(path), "--sha256", hashlib.sha256(path.read_bytes()).hexdigest()]


@pytest.mark.skipif(not find_spec("onnx"), reason="onnx is not installed")
@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ([], "nothing to do"),
        (["--compare"], "--pairs"),
        (["--out", "{}/out", "--archive", "{}/none.tar.gz"], "cannot be read"),
        (["--out", "{}/out", "--archive", "{}/text"], "its sha256 is"),
        (
            ["--out", "{}/out", "--archive", "{}/text", "--sha256", hashlib.sha256(b"text").hexdigest()],
            "not an archive",
        ),
        (["--compare", "--pairs", "{}", "--every", "0"], "--every"),
    ],
)
def test_the_script_says_what_is_wrong_in_one_line(
    asked: list[str], wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_bytes(b"text")
    assert main([word.format(tmp_path) for word in asked]) == 2
    said = capsys.readouterr().err
    assert wanted in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not find_spec("onnx"), reason="onnx is not installed")
def test_an_archive_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "other", [value], [other])
    content = helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 12)]).SerializeToString()
    for entries, wanted in (
        ({"enc.onnx": content}, "holds no d"),
        ({f"{stage}.onnx": content for stage in STAGES}, "not a graph of DeepFilterNet3"),
        ({f"{stage}.onnx": b"\xff" * 9 for stage in STAGES}, "is not an ONNX model"),
    ):
        asked = archive(tmp_path / "other.tar.gz", entries)
        assert main([*asked, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert wanted in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_restarted_engine_gives_the_bits_of_a_new_one(made: Path) -> None:
    """As the others in tests/tools/test_enhance_jobs.py; after loud noise that ends amid a block."""
    sound = soundfile.read(SOUNDS / "noisy/brook_it_0dB.flac", 9_600, dtype="float32")[0]
    noise = (0.3 * np.random.default_rng(3).standard_normal(4_000)).astype(np.float32)

    def process(engine: Engine, samples: Floats) -> Floats:
        cleaned = samples.copy()
        for hop in cleaned.reshape(-1, HOP_SAMPLES):
            engine.process(hop)
        return cleaned

    first, other = (open_engine("deepfilternet3", 30, str(made / "float"), required=True) for _ in range(2))
    process(first, noise)
    first.restart()
    np.testing.assert_array_equal(process(first, sound), process(other, sound))
    assert first.failure is None and first.name == "deepfilternet3"

"""The evaluation: its measures on signals whose answer is known, its refusals, and small whole runs."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ, UserError
from edge.config import Config
from edge.dsp.spectrum import Floats
from edge.tools.sounds.enhance import enhance_samples
from models import command, measures
from models.command import BadRequest
from quant import peers
from quant.evaluate import cost, run, sounds
from quant.evaluate.__main__ import main
from quant.evaluate.cost import Cost
from quant.evaluate.engines import ENGINES, OURS, engine_named
from quant.evaluate.measures import MEASURES, measure, probe, removed_in_likely_pauses_db
from quant.evaluate.options import DEFAULT_ENGINES
from quant.evaluate.run import Figures, Row
from quant.evaluate.tables import tables, write

for package in ("pesq", "pystoi", "speechmos", "onnxruntime"):
    pytest.importorskip(package)


def speechy(seconds: float = 3.0, seed: int = 0) -> Floats:
    """Noise in syllables with pauses: enough of an utterance for every measure."""
    n = round(seconds * RATE_HZ)
    rng = np.random.default_rng(seed)
    t = np.arange(n) / RATE_HZ
    carrier = np.cumsum(rng.normal(size=n)) * 0.01 + rng.normal(size=n)
    syllables = np.clip(np.sin(2 * np.pi * 3 * t), 0, 1) * (np.sin(2 * np.pi * 0.6 * t) > -0.5)
    return (0.05 * carrier * syllables).astype(np.float32)


def noise(n: int, level: float = 0.01) -> Floats:
    return (level * np.random.default_rng(9).normal(size=n)).astype(np.float32)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    (tmp_path / "clean").mkdir()
    (tmp_path / "noisy").mkdir()
    for i in range(2):
        clean = speechy(seed=i)
        soundfile.write(tmp_path / "clean" / f"{i}.flac", clean, RATE_HZ)
        soundfile.write(tmp_path / "noisy" / f"{i}.flac", clean + noise(len(clean)), RATE_HZ)
    (tmp_path / "dev.tsv").write_text("name\tsnr_db\tnoise_kind\n0\t5\thome__fan\n1\t10\train\n")
    return tmp_path


# --- measures -----------------------------------------------------------------------------------------------------


def orthogonal(a: Floats, b: Floats) -> NDArray[np.float64]:
    """``b`` without its mean and without its share of zero-mean ``a``."""
    b = b.astype(np.float64) - b.mean()
    return b - a * (b @ a) / (a @ a)


@pytest.mark.parametrize("ratio_db", [-10, 0, 17])
@pytest.mark.parametrize("scale", [0.01, 1, -3])
def test_si_sdr_is_the_ratio_whatever_the_scale(ratio_db: float, scale: float) -> None:
    clean = speechy().astype(np.float64)
    clean -= clean.mean()
    rest = orthogonal(clean, noise(len(clean)))
    rest *= np.sqrt((clean @ clean) / (rest @ rest)) * 10 ** (-ratio_db / 20)
    assert measures.si_sdr_db(clean, scale * (clean + rest)) == pytest.approx(ratio_db, abs=1e-3)


def test_si_sdr_ignores_an_offset_and_survives_silence() -> None:
    clean = speechy()
    assert measures.si_sdr_db(clean, 0.5 * clean + 0.1) > 60
    assert np.isfinite(measures.si_sdr_db(clean, np.zeros_like(clean)))
    assert np.isfinite(measures.si_sdr_db(np.zeros_like(clean), clean))


def test_a_perfect_copy_gets_the_best_marks() -> None:
    clean = speechy()
    values = measure(clean, clean + noise(len(clean)), clean)
    assert values["pesq_wb"] > 4.6
    assert values["stoi"] > 0.999 and values["estoi"] > 0.999
    assert values["si_sdr_improvement_db"] > 60
    assert values["noise_removed_db"] > 60 or np.isnan(values["noise_removed_db"])


def test_doing_nothing_improves_nothing() -> None:
    clean = speechy()
    noisy = clean + noise(len(clean))
    values = measure(clean, noisy, noisy)
    assert values["si_sdr_improvement_db"] == 0
    assert values["noise_removed_db"] == 0
    assert values["pesq_wb"] < 4 and values["stoi"] < 0.999


def test_noise_removed_is_what_was_removed_in_the_pauses() -> None:
    clean = speechy()
    hum = noise(len(clean))
    values = measure(clean, clean + hum, 0.5 * clean + 0.1 * hum)
    assert values["noise_removed_db"] == pytest.approx(20, abs=0.5)


def test_without_a_reference_the_noise_removed_is_found_in_the_sound_itself() -> None:
    clean, hum = speechy(), noise(3 * RATE_HZ, 0.003)
    values = measure(None, clean + hum, 0.5 * clean + 0.1 * hum)
    assert values["noise_removed_db"] == pytest.approx(20, abs=1.5)
    assert values.keys() == {"noise_removed_db", "dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl"}
    assert measure(None, hum, 0.1 * hum)["noise_removed_db"] == pytest.approx(20, abs=0.01), "nobody speaks"
    silence = np.zeros_like(hum)
    assert np.isnan(removed_in_likely_pauses_db(silence, silence))
    assert removed_in_likely_pauses_db(hum, silence) > 100


def turned(share: float) -> peers.Engine:
    """An engine that does nothing but turn the sound down."""
    return peers.Engine(lambda samples, limit_db: peers.Heard(np.float32(share) * samples), lambda: 0.0, list)


def test_an_engine_is_probed_with_each_half_of_the_mixture() -> None:
    clean = speechy()
    noisy = clean + noise(len(clean))
    truth = measures.spoken(clean)
    values = probe(turned(0.5), clean, noisy, peers.Heard(noisy, truth.astype(np.float32)), 60)
    assert values["clean_level_db"] == pytest.approx(-6.02, abs=0.01)
    assert values["noise_alone_removed_db"] == pytest.approx(6.02, abs=0.01)
    assert values["speech_auc"] == 1
    values = probe(turned(1), clean, clean, peers.Heard(clean), 60)
    assert values["clean_level_db"] == 0
    assert np.isnan(values["noise_alone_removed_db"]) and np.isnan(values["speech_auc"])


def test_what_still_holds_speech_is_no_noise_alone() -> None:
    clean = speechy()
    hum = noise(len(clean))
    assert measures.noise_alone(clean, 0.5 * clean + hum) is None
    found = measures.noise_alone(clean, clean + hum)
    assert found is not None
    np.testing.assert_allclose(found, hum, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_the_share_of_pairs_in_the_right_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, truth = rng.integers(0, 6, 90).astype(np.float32), rng.random(90) < 0.4
    ahead = score[truth][:, np.newaxis] - score[~truth]
    expected = ((ahead > 0) + 0.5 * (ahead == 0)).mean()
    assert measures.roc_auc(score, truth) == pytest.approx(expected)
    assert measures.roc_auc(-score, truth) == pytest.approx(1 - expected)
    assert np.isnan(measures.roc_auc(score, np.ones(90, bool)))


def test_hops_are_spoken_where_the_sound_is() -> None:
    clean = np.zeros(100 * HOP_SAMPLES, np.float32)
    clean[40 * HOP_SAMPLES : 60 * HOP_SAMPLES] = noise(20 * HOP_SAMPLES, 0.1)
    clean[80 * HOP_SAMPLES :] = noise(20 * HOP_SAMPLES, 0.1 * 10 ** (-36 / 20))
    found = measures.spoken(clean)
    assert len(found) == 100 and found[41:60].all()
    assert not found[:40].any() and not found[64:].any()
    assert not measures.spoken(1e-5 * clean).any(), "silence"


def test_dnsmos_hears_noise_and_takes_any_length() -> None:
    clean = speechy(2)
    marks = measures.dnsmos(clean)
    assert all(0.5 < mark < 5 for mark in marks)
    assert measures.dnsmos(np.tile(clean, 6)) == pytest.approx(marks, abs=1e-4), "the first 9.01 s of a repetition"
    assert measures.dnsmos(clean + noise(len(clean), 0.05))[1] < marks[1], "BAK falls with noise"


def test_pauses_are_where_nobody_speaks() -> None:
    clean = speechy()
    clean[: RATE_HZ // 2] = 0
    quiet = measures.pauses(clean)
    assert quiet[: RATE_HZ // 2 - 640].all()
    loud = np.convolve(np.abs(clean), np.ones(160), "same") > 0.5 * np.abs(clean).max() * 40
    assert not quiet[loud].any()


@pytest.mark.parametrize("late", [0, 1, 80, 160, 777])
def test_lag_is_found_and_removed(late: int) -> None:
    clean = speechy()
    delayed = np.concatenate([np.zeros(late, np.float32), 0.3 * clean, np.zeros(200, np.float32)])
    assert measures.lag_samples(clean, delayed) == late
    np.testing.assert_array_equal(measures.without_lag(delayed, late, len(clean)), 0.3 * clean)
    assert len(measures.without_lag(clean, late, len(clean))) == len(clean)


# --- engines ------------------------------------------------------------------------------------------------------


def available(name: str) -> peers.Engine:
    engine = engine_named(name)
    try:
        engine.weights()
    except UserError as missing:
        pytest.skip(str(missing))
    return engine


@pytest.mark.parametrize("name", ["noisy", *OURS, *(f"{name}-whole" for name in OURS)])
def test_every_engine_gives_back_all_of_the_sound(name: str) -> None:
    engine = available(name)
    sound = speechy(1.003) + noise(round(1.003 * RATE_HZ))
    before = sound.copy()
    out = engine(sound, 20.0)
    np.testing.assert_array_equal(sound, before)
    assert out.dtype == np.float32 and np.isfinite(out).all()
    assert len(out) >= len(sound)
    assert measures.lag_samples(sound, out) == 0
    assert engine.latency_ms() == (0 if name == "noisy" else 10)


@pytest.mark.parametrize("name", OURS)
def test_our_engines_run_as_enhance_runs_them(name: str) -> None:
    engine = available(f"{name}-whole")
    sound = speechy(1.5) + noise(round(1.5 * RATE_HZ))
    shipped = Config()
    config = replace(shipped, suppress=replace(shipped.suppress, engine=name, limit_db=60))
    heard = engine.hear(sound, 60)
    np.testing.assert_array_equal(heard.samples[: len(sound)], enhance_samples(sound, config))
    assert heard.speech is not None and len(heard.speech) * HOP_SAMPLES >= len(sound)
    assert heard.speech.min() >= 0 and heard.speech.max() <= 1


def test_the_limit_reaches_our_engine() -> None:
    hiss = noise(2 * RATE_HZ, 0.02)
    levels = [np.std(ENGINES["dsp"](hiss, limit_db)[RATE_HZ : 2 * RATE_HZ]) for limit_db in (0.0, 6.0, 60.0)]
    assert levels[0] > 1.5 * levels[1] > 1.5 * levels[2]


# --- the whole run ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_measures_every_engine_on_every_file(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report, page = tmp_path / "r.json", tmp_path / "r.md"
    asked = ["--pairs", str(pairs), "--engines", "noisy,dsp,noisy", "--json", str(report), "--markdown", str(page)]
    assert main([*asked, "--jobs", "1"]) == 0
    found = json.loads(report.read_text())
    assert [(row["engine"], row["name"]) for row in found["files"]] == [
        ("noisy", "0"), ("noisy", "1"), ("dsp", "0"), ("dsp", "1"),
    ]  # fmt: skip
    assert {row["snr_db"] for row in found["files"]} == {5, 10}
    assert found["lag_samples"] == {"noisy": 0, "dsp": 0}
    assert found["means"]["noisy"]["si_sdr_improvement_db"] == 0
    assert {row["noise_kind"] for row in found["files"]} == {"home", "rain"}
    assert set(MEASURES) == set(found["means"]["dsp"])
    assert 0.5 < found["means"]["dsp"]["speech_auc"] <= 1 and found["means"]["noisy"]["speech_auc"] is None
    assert found["costs"]["dsp"]["latency_ms"] == 10 and 0 < found["costs"]["dsp"]["real_time_factor"] < 10
    text = page.read_text()
    assert "| dsp |" in text and "STOI by SNR" in text and "| 10 dB |" in text.replace("| 5 dB ", "")
    assert "by kind of noise" in text and "| kinds with one file | 2 |" in text
    assert "2 files" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "dev.tsv", "noisy", "r.json", "r.md"]


def test_recordings_without_a_reference_are_measured_too(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    report = tmp_path / "r.json"
    asked = ["--noisy", str(pairs / "noisy"), "--engines", "dsp", "--json", str(report), "--jobs", "1"]
    assert main(asked) == 0
    found = json.loads(report.read_text())
    assert found["means"]["dsp"]["noise_removed_db"] > 3
    assert found["means"]["dsp"]["pesq_wb"] is None and "pesq_wb" not in found["files"][0]
    said = capsys.readouterr().out
    assert "DNSMOS" in said and "PESQ" not in said


def rows(engine: str, **kinds: str) -> list[Row]:
    return [Row(engine, name, None, kind, {"pesq_wb": float(name[1:])}) for name, kind in kinds.items()]


def test_kinds_come_commonest_first_and_single_ones_together() -> None:
    found = rows("a", f1="rain", f2="dog", f3="rain", f4="bell")
    cost = Cost(10, float("nan"), 0.1, 1)
    *_, kinds = tables(Figures(["a"], 60, found, {"a": 0}, {"a": cost}))
    assert kinds[1] == ["kind", "files", "a"]
    assert kinds[2] == [["rain", "2", "2.000"], ["kinds with one file", "2", "3.000"]]


def test_a_failing_engine_ends_the_run_in_one_line(
    pairs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(samples: Floats, limit_db: float) -> peers.Heard:
        raise BadRequest("dsp failed on the way: tired")

    cost = Cost(10, 0, 0.1, 1)
    monkeypatch.setattr(run, "costs", lambda *_: {"dsp": cost})
    monkeypatch.setitem(ENGINES, "dsp", peers.Engine(fail, lambda: 10.0, list))
    assert "tired" in refusal(capsys, "--pairs", str(pairs), "--engines", "dsp", "--jobs", "1")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("old")
    write(kept, "new\udcff")
    assert kept.read_text().startswith("new")
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    with pytest.raises(BadRequest, match="cannot be written"):
        write(folder, "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "kept"]


# --- refusals -----------------------------------------------------------------------------------------------------


def refusal(capsys: pytest.CaptureFixture, *asked: str) -> str:
    assert main([*asked]) != 0
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and not said.out, "one clear line"
    return said.err


def test_wrong_arguments_are_refused(pairs: Path, capsys: pytest.CaptureFixture) -> None:
    asked = ("--pairs", str(pairs), "--engines")
    assert "krisp" in refusal(capsys, *asked, "dsp,krisp")
    assert "nothing.onnx is missing" in refusal(capsys, *asked, "file:nothing.onnx")
    assert "not an ONNX model" in refusal(capsys, *asked, f"file:{pairs / 'dev.tsv'}")
    assert "known:" in refusal(capsys, *asked, " ,")
    assert "--jobs" in refusal(capsys, *asked, "noisy", "--jobs", "0")
    assert "--limit-db" in refusal(capsys, *asked, "noisy", "--limit-db", "-3")
    assert "--limit-db" in refusal(capsys, *asked, "noisy", "--limit-db", "nan")
    assert "nowhere" in refusal(capsys, *asked, "noisy", "--json", str(pairs / "nowhere" / "r.json"))
    assert "written" in refusal(capsys, *asked, "noisy", "--markdown", str(pairs))


def test_a_missing_package_is_named(
    pairs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "installed", lambda package: package != "pystoi")
    assert "pystoi" in refusal(capsys, "--pairs", str(pairs), "--engines", "noisy")


def test_folders_that_hold_no_pairs_are_refused(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def said(folder: Path = pairs) -> str:
        return refusal(capsys, "--pairs", str(folder), "--engines", "noisy")

    assert "not a folder" in said(tmp_path / "nowhere")
    assert "not a folder" in refusal(capsys, "--noisy", str(tmp_path / "nowhere"), "--engines", "noisy")
    assert "no sound files" in refusal(capsys, "--noisy", str(pairs), "--engines", "noisy")
    empty = tmp_path / "empty"
    (empty / "clean").mkdir(parents=True)
    assert "noisy is not a folder" in said(empty)
    (empty / "noisy").mkdir()
    assert "no sound files" in said(empty)
    (pairs / "clean" / "2.wav").write_text("this is text")
    assert "2.wav" in said() and "in only one of" in said()
    soundfile.write(pairs / "noisy" / "2.wav", speechy(), RATE_HZ)
    assert "broken" in said()


@pytest.mark.parametrize(
    ("sound", "word"),
    [
        (np.zeros(100), "half a second"),
        (np.zeros(RATE_HZ), "cut both to the same stretch"),
        (np.full(3 * RATE_HZ, np.nan), "NaN"),
    ],
)
def test_sounds_that_do_not_fit_are_refused_with_the_fix(
    sound: NDArray[np.float64], word: str, pairs: Path, capsys: pytest.CaptureFixture
) -> None:
    (pairs / "noisy" / "1.flac").unlink()
    soundfile.write(pairs / "noisy" / "1.wav", sound, RATE_HZ, "FLOAT")
    said = refusal(capsys, "--pairs", str(pairs), "--engines", "noisy")
    assert word in said and "1.wav" in said


def test_other_rates_channels_and_lengths_are_made_to_fit(pairs: Path, capsys: pytest.CaptureFixture) -> None:
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(3 * 48_000) / 48_000)
    for part in ("clean", "noisy"):
        for old in (pairs / part).iterdir():
            old.unlink()
    soundfile.write(pairs / "clean" / "a.wav", tone, 48_000)
    soundfile.write(pairs / "noisy" / "a.wav", np.stack([tone, 0 * tone], 1)[: -48_000 // 5], 48_000)
    (pair,) = sounds.read_pairs(pairs)
    assert pair.clean is not None and len(pair.clean) == len(pair.noisy) == round(2.8 * RATE_HZ)
    wanted = 0.1 * np.sin(2 * np.pi * 440 * np.arange(len(pair.clean)) / RATE_HZ)
    np.testing.assert_allclose(pair.clean[800:-800], wanted[800:-800], atol=1e-3)
    np.testing.assert_allclose(pair.noisy[800:-800], wanted[800:-800], atol=1e-3)
    said = capsys.readouterr().err
    assert "resampled from 48000 Hz: 2 files" in said and "first of 2 channels used: 1 file\n" in said
    assert "cut to the length of its other half: 1 file\n" in said


@pytest.mark.parametrize(
    ("clean", "noisy"),
    [
        ("a.wav", "a.wav"),
        ("a.wav", "a.flac"),
        ("a_clean.wav", "a_noisy.wav"),
        ("clean-A.flac", "noisy-a.flac"),
        ("clean_fileid_17.wav", "book_x_snr5_fileid_17.wav"),
    ],
)
def test_halves_with_other_names_pair(clean: str, noisy: str, tmp_path: Path) -> None:
    for part, names in (("clean", (clean, "b.wav")), ("noisy", (noisy, "b.wav", "._b.wav"))):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / name).touch()
    found = {noisy_file.name: clean_file.name for clean_file, noisy_file in sounds.paired(tmp_path)}
    assert found == {noisy: clean, "b.wav": "b.wav"}


def test_halves_that_do_not_pair_are_named_with_the_fix(tmp_path: Path) -> None:
    for part, names in (("clean", ("a_clean.wav", "a.flac")), ("noisy", ("a_noisy.wav",))):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / name).touch()
    with pytest.raises(BadRequest, match=r"a\.flac and a_clean\.wav would pair alike; rename or remove one"):
        sounds.paired(tmp_path)
    (tmp_path / "clean" / "a_clean.wav").rename(tmp_path / "clean" / "z.wav")
    (tmp_path / "clean" / "a.flac").unlink()
    with pytest.raises(BadRequest, match=r"z\.wav is in only one .*\(2 such files\); give it a partner .* in noisy/"):
        sounds.paired(tmp_path)


def test_what_only_hands_the_sound_on_is_no_measure_of_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = {"noisy": 1e-7, "dsp": 0.01, "network": 0.02}
    monkeypatch.setattr(cost, "_spent", lambda engine, *_: {"real_time_factor": spent[engine]})
    monkeypatch.setattr(cost, "pool_of", lambda *_: ThreadPoolExecutor(1))
    found = cost.costs([*spent], noise(RATE_HZ), 60)
    assert found["dsp"].against_first == 1 and found["network"].against_first == pytest.approx(2)
    assert np.isnan(found["noisy"].against_first)


def test_the_products_network_is_measured_unless_other_engines_are_named() -> None:
    assert DEFAULT_ENGINES.split(",")[0] == "network"


def test_a_table_without_the_columns_is_refused(pairs: Path, capsys: pytest.CaptureFixture) -> None:
    for text in ("name\tloudness\n0\t5\n", "file\tsnr_db\n0\t5\n", "name\tsnr_db\n0\tloud\n"):
        (pairs / "dev.tsv").write_text(text)
        assert "snr_db" in refusal(capsys, "--pairs", str(pairs), "--engines", "noisy")
    (pairs / "dev.tsv").write_bytes(b"\xff\xfe\x00")
    assert "dev.tsv" in refusal(capsys, "--pairs", str(pairs), "--engines", "noisy")

"""The set of onsets, whispers, songs, quiet talkers and music: what it holds, and that its measures see a loss."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge import RATE_HZ
from edge.dsp.spectrum import Doubles
from models.measures import si_sdr_db
from quant.edges.__main__ import main
from quant.edges.cases import KINDS, SOUNDS, Case, active_level, apart, cases, mixed, pieces_of, talkers_in
from quant.edges.losses import ONSET_SAMPLES, losses
from quant.edges.run import Row
from quant.edges.signals import music, pink, whispered
from quant.edges.tables import as_json, tables
from quant.edges.voices import BEGINNINGS, VOICES, sung, voiced, word
from quant.evaluate.sounds import read_pairs


def spectrum_db(wave: Doubles) -> Doubles:
    """Power of each whole Hz in dB."""
    return 20 * np.log10(np.abs(np.fft.rfft(wave, RATE_HZ)) + 1e-9)


def test_all_talkers_take_part_and_no_kind_changes_between_calls() -> None:
    assert {*talkers_in(SOUNDS)} == {"brook_it_0dB", "rain_en_5dB", "tavern_fr_10dB"}
    first, second = (list(cases(kinds=["quiet", "onset"])) for _ in range(2))
    assert len(first) == 9 + 9
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name and np.array_equal(one.noisy, other.noisy)
    assert len({one.noisy.tobytes() for one in first}) == len(first)


def test_each_has_the_level_the_noise_and_the_pauses_it_names() -> None:
    for case in cases(kinds=["quiet"]):
        said_dbfs = float(case.name.split(" dBFS")[0].split()[-1])
        assert 20 * np.log10(active_level(case.clean.astype(float))) == pytest.approx(said_dbfs, abs=1)
        noise = (case.noisy - case.clean).astype(float)
        assert 10 * np.log10(np.mean(noise**2)) == pytest.approx(said_dbfs - 20, abs=0.5)
        for onset, pause_s in zip(case.onsets, (1, 2, 5), strict=True):
            assert case.clean[onset : onset + ONSET_SAMPLES].any()
            assert not case.clean[onset - round((pause_s - 0.2) * RATE_HZ) : onset - RATE_HZ // 20].any()


def test_synthetic_words_are_voices_with_the_pitch_and_formants_asked_for() -> None:
    for voice in VOICES:
        for beginning in BEGINNINGS:
            said = word(voice, beginning, "ai", 0.4, np.random.default_rng(3))
            assert np.isfinite(said).all() and 0.4 <= len(said) / RATE_HZ < 0.5, (voice.name, beginning)
    formants = np.tile([500.0, 1500, 2500, 3500, 4500], (200, 1))
    found = spectrum_db(voiced(np.full(RATE_HZ, 100.0), formants))
    partials = found[100:7600:100]
    assert np.median(partials) > np.median(found[150:7600:100]) + 40, "only multiples of the pitch sound"
    peaks_hz = [
        100 * (index + 1) for index in range(1, 40) if partials[index] > max(partials[index - 1 : index + 2 : 2])
    ]
    assert peaks_hz == pytest.approx([500, 1500, 2500, 3500], abs=100)


def test_a_held_note_holds_and_a_vibrato_swings() -> None:
    def widest(vibrato: float) -> int:
        around = spectrum_db(sung(VOICES[1], [0], "a", 1.0, vibrato))[150:270]
        return int(np.ptp(np.flatnonzero(around > around.max() - 20)))

    assert widest(1) > 2 * widest(0)


def test_a_whisper_keeps_the_words_and_loses_the_voice() -> None:
    piece = talkers_in(SOUNDS)["rain_en_5dB"][0]
    soft = whispered(piece, 1)
    assert len(soft) == len(piece) and np.isfinite(soft).all()
    assert np.sum(soft**2) == pytest.approx(np.sum(piece**2))
    assert si_sdr_db(piece, soft) < -5, "another excitation"
    blocks = [np.square(x[: len(x) // 320 * 320]).reshape(-1, 320).mean(1) for x in (piece, soft)]
    loud = blocks[0] > blocks[0].max() * 1e-3
    assert np.corrcoef(np.log(blocks[0][loud]), np.log(blocks[1][loud] + 1e-12))[0, 1] > 0.5, "the same syllables"
    assert not whispered(np.zeros(1600), 1).any()


@pytest.mark.parametrize("sound", [pink, music])
def test_noise_and_music_have_power_one_and_no_seed_in_common(sound: object) -> None:
    assert callable(sound)
    one, other = sound(2 * RATE_HZ, 1), sound(2 * RATE_HZ, 2)
    assert np.mean(one**2) == pytest.approx(1)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.9


def a_case(snr_db: float = 40) -> Case:
    rng = np.random.default_rng(0)
    piece = np.sin(2 * np.pi * 300 * np.arange(8000) / RATE_HZ) * np.r_[np.ones(7000), np.zeros(1000)]
    spaced = apart([piece, piece], (1, 2))
    return mixed("onset", "a", spaced, snr_db, rng.standard_normal(len(spaced[0])))


def test_what_an_engine_takes_from_a_beginning_is_found() -> None:
    case = a_case()
    damaged = case.noisy.copy()
    damaged[case.onsets[1] : case.onsets[1] + ONSET_SAMPLES] *= np.float32(0.1)
    found = losses(case, damaged)
    assert found.onsets_db[0] == pytest.approx(0, abs=0.05) and found.onsets_db[1] == pytest.approx(-20, abs=0.1)
    assert found.worst_db == pytest.approx(-20, abs=0.3) and -3 < found.level_db < -0.5
    assert losses(case, case.clean).si_sdr_improvement_db > 60
    silent = losses(case, np.zeros_like(damaged))
    assert silent.onsets_db == [-100, -100] and silent.worst_db == silent.level_db == -100
    noisy = losses(a_case(5), a_case(5).noisy)
    assert not noisy.onsets_db and np.isnan(noisy.worst_db), "noise would hide the loss"
    assert noisy.si_sdr_improvement_db == 0


def test_tables_show_the_worst_and_the_median_of_each_kind() -> None:
    case = a_case(20)
    rows = [Row("a", kind, "x", 20, losses(case, np.float32(share) * case.noisy))
            for kind, share in (("onset", 1), ("onset", 0.1), ("onset", 0.5), ("song", 0.5))]  # fmt: skip
    first = next(iter(tables(rows)))
    assert first[1] == ["engine", "onset", "song"] and first[2] == [["a", "-20.0 (-6.0)", "-6.0 (-6.0)"]]
    found = json.loads(as_json(rows, 60))
    assert found["kinds"]["a"]["onset"]["onset_db"] == {
        "worst": pytest.approx(-20, abs=0.1),
        "median": pytest.approx(-6, abs=0.1),
    }
    assert len(found["recordings"]) == 4


def test_the_command_measures_and_writes_pairs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "f.json"
    asked = ["--engines", "noisy", "--kinds", "quiet", "--jobs", "1"]
    assert main([*asked, "--json", str(out), "--markdown", str(tmp_path / "f.md")]) == 0
    found = json.loads(out.read_text())["kinds"]["noisy"]["quiet"]
    assert found["level_db"]["worst"] == pytest.approx(0, abs=0.1) and found["si_sdr_improvement_db"]["worst"] == 0
    assert "| noisy |" in (tmp_path / "f.md").read_text() and "quiet" in capsys.readouterr().out
    assert main(["--kinds", "quiet", "--write", str(tmp_path / "pairs")]) == 0
    pairs = read_pairs(tmp_path / "pairs")
    assert len(pairs) == 9 and pairs[0].kind == "quiet" and pairs[0].snr_db == 20


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (["--engines", "krisp"], "krisp"),
        (["--engines", " ,"], "known"),
        (["--kinds", "opera"], "opera"),
        (["--jobs", "0"], "--jobs"),
        (["--voices", "nowhere"], "nowhere"),
        (["--voices", "hiss"], "clean speech with pauses"),
        (["--json", "nowhere/f.json"], "nowhere"),
        (["--write", "."], "empty folder"),
    ],
)
def test_wrong_arguments_are_one_line(
    asked: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hiss").mkdir()
    hiss = 0.1 * np.random.default_rng(1).standard_normal(RATE_HZ)
    soundfile.write(tmp_path / "hiss" / "a.wav", hiss, RATE_HZ)
    assert not pieces_of(hiss)
    assert main(["--kinds", "quiet", "--engines", "noisy", *asked]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("edges: ") and said.err.count("\n") == 1 and word in said.err, said.err


def test_every_kind_is_drawn() -> None:
    talkers = {"a": talkers_in(SOUNDS)["rain_en_5dB"]}
    for kind in ("whisper", "song", "music", "onset from silence"):
        case = next(KINDS[kind](kind, talkers))
        assert case.kind == kind and case.clean.shape == case.noisy.shape and np.isfinite(case.noisy).all()
        assert np.abs(case.noisy).max() < 1 and case.onsets

"""The simulated room: what its scenes promise about levels and paths, its measures, its gates, its command."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyroomacoustics", reason="the simulation's extra is not installed: ./install.sh --setup simulate")

from edge import HOP_SAMPLES, RATE_HZ
from edge.chain import Chain
from edge.dsp.spectrum import Floats
from hw.rooms import acoustics, ear_cup, scenes
from hw.rooms.measures import attenuation_db, best_prediction, quiet_power, recovery_s
from hw.rooms.modes import MODES, processed, settings
from hw.rooms.rendering import render
from hw.rooms.scenes import SCENES, Sound
from hw.rooms.sources import noise as noise_of
from hw.rooms.verdicts import ear_verdicts, scene_verdicts
from models.measures import lag_samples, pauses, si_sdr_db

SCENE = {scene.name: scene for scene in SCENES}
SHORT_S = 5.0


def power_db(sound: Floats) -> float:
    return float(10 * np.log10(np.mean(np.square(sound, dtype=float)) + 1e-20))


def pretended(voice: Floats) -> Sound:
    """Nothing but noise, half a second of lead."""
    return Sound(voice, np.zeros_like(voice), None, RATE_HZ // 2, 0, 0)


@pytest.mark.parametrize("kind", ["white", "engine", "fan", "traffic", "babble", "talker", "brook"])
def test_noises_have_power_one_and_differ_by_seed_only(kind: str) -> None:
    first, again, other = (noise_of(kind, 3 * RATE_HZ, seed) for seed in (1, 1, 2))
    assert first.std() == pytest.approx(1) and np.array_equal(first, again) and not np.array_equal(first, other)


def test_levels_at_the_two_microphones() -> None:
    sound = render(SCENE["engine"], SHORT_S)
    assert sound.reference is not None and len(sound.voice) % HOP_SAMPLES == 0
    assert sound.voice.dtype == sound.clean.dtype == sound.reference.dtype == np.float32
    spoken = sound.clean[sound.lead_samples :]
    assert power_db(spoken) - power_db(sound.voice - sound.clean) == pytest.approx(scenes.SNR_DB, abs=0.1)
    assert -20 <= sound.speech_at_reference_db <= -15 and abs(sound.noise_at_reference_db) < 3
    assert np.abs(sound.clean[: sound.lead_samples]).max() < 1e-9 and np.abs(sound.voice).max() < 0.9


def test_a_render_is_the_same_every_time() -> None:
    first, again = (render(SCENE["babble"], SHORT_S) for _ in range(2))
    assert np.array_equal(first.voice, again.voice) and first.reference is not None and again.reference is not None
    assert np.array_equal(first.reference, again.reference)


def test_the_reference_predicts_the_noise_but_not_of_another_engine_nor_from_the_far_side() -> None:
    possible = {}
    for name in ("engine", "at the machine", "elsewhere", "far side"):
        sound = render(replace(SCENE[name], noise="white"), SHORT_S)
        assert sound.reference is not None
        noise = sound.voice - sound.clean
        possible[name] = power_db(noise) - power_db(noise - best_prediction(noise, sound.reference))
    assert possible["elsewhere"] < 1 < possible["far side"] + 0.5 < possible["engine"] < possible["at the machine"]
    assert possible["engine"] > 6 and possible["at the machine"] > 12


def test_the_path_changes_when_it_should() -> None:
    sound = render(replace(SCENE["path change"], noise="white"), 14.0)
    assert sound.reference is not None
    noise, change = sound.voice - sound.clean, int(scenes.CHANGE_S * RATE_HZ)
    own = noise[:change] - best_prediction(noise[:change], sound.reference[:change])
    both = noise - best_prediction(noise, sound.reference)
    assert power_db(noise) - power_db(both) < power_db(noise[:change]) - power_db(own) - 3


def test_a_sway_is_slow_and_goes_nowhere() -> None:
    sound = render(SCENE["moving talker"], SHORT_S)
    noise = (sound.voice - sound.clean).reshape(-1, RATE_HZ // 2)
    levels = [power_db(stretch) for stretch in noise]
    assert max(levels) - min(levels) < 6


def test_references_that_are_none() -> None:
    dead, none, swapped, right = (render(SCENE[name], SHORT_S) for name in ("dead", "none", "swapped", "engine"))
    assert dead.reference is not None and not dead.reference.any() and none.reference is None
    assert swapped.reference is not None and np.array_equal(swapped.reference, right.voice)
    assert swapped.speech_at_reference_db == -right.speech_at_reference_db


def test_double_talk_has_no_pause_to_learn_in() -> None:
    sound = render(SCENE["double talk"], SHORT_S)
    quiet = pauses(sound.clean)
    end = len(quiet) - int(scenes.TAIL_S * RATE_HZ)
    assert quiet[:end].mean() < 0.1 and quiet[end:].mean() > 0.8


def test_attenuation_is_reported_by_band() -> None:
    voice = (0.03 * np.random.default_rng(0).standard_normal(3 * RATE_HZ)).astype(np.float32)
    spectrum = np.fft.rfft(voice)
    hz = np.fft.rfftfreq(len(voice), 1 / RATE_HZ)
    spectrum[(hz > 1000) & (hz < 4000)] *= 0.1
    spectrum[hz >= 4000] *= 0.01
    output = np.fft.irfft(spectrum, len(voice)).astype(np.float32)
    found = attenuation_db(pretended(voice), output)
    assert [found[band] for band in ("<250", "250-1k", "1-4k", "4-8k")] == pytest.approx([0, 0, 20, 40], abs=2)
    assert found["all"] == pytest.approx(9, abs=0.5)
    assert all(math.isnan(db) for db in attenuation_db(pretended(voice * np.float32(1e-4)), output).values())


def test_frame_powers_add_up_to_the_mean_square() -> None:
    voice = (0.1 * np.random.default_rng(1).standard_normal(RATE_HZ)).astype(np.float32)
    total = quiet_power(voice, np.ones(len(voice), bool)).sum()
    assert 10 * np.log10(total) == pytest.approx(power_db(voice), abs=0.2)


@pytest.mark.parametrize(("delay", "least_db", "most_db"), [(0, 25, 120), (900, 25, 120), (-5, -1, 1)])
def test_the_best_prediction_finds_every_path_of_the_past_and_none_of_the_future(
    delay: int, least_db: float, most_db: float
) -> None:
    source = np.random.default_rng(2).standard_normal(2 * RATE_HZ).astype(np.float32)
    left = source - best_prediction(source, np.roll(source, -delay))
    assert least_db < power_db(source[2000:-2000]) - power_db(left[2000:-2000]) < most_db


def test_with_nothing_switched_on_the_voice_passes_at_its_place() -> None:
    sound = render(SCENE["none"], SHORT_S)
    plain = processed(Chain(settings(MODES[0], "network")), sound.clean, None)
    assert len(plain) == len(sound.clean) and lag_samples(sound.clean, plain) == 0
    assert si_sdr_db(sound.clean[sound.lead_samples :], plain[sound.lead_samples :]) > 15


def test_both_paths_beat_either_and_no_reference_costs_nothing() -> None:
    found = acoustics.measure_scene(SCENE["engine"], 6.0, "rnn")
    attenuation = {name: mode["attenuation_db"]["all"] for name, mode in found["modes"].items()}
    assert attenuation["feedforward"] > 6 and attenuation["both"] > max(attenuation["network"], 12)
    assert abs(attenuation["high-pass"]) < 1
    assert [verdict for verdict in scene_verdicts(found) if not verdict.passed] == []
    sound = render(SCENE["none"], SHORT_S)
    alone, both = (processed(Chain(settings(mode, "rnn")), sound.voice, sound.reference) for mode in MODES[2:])
    assert np.array_equal(alone, both)


def figures(pesq: dict[str, float], attenuation: dict[str, float], correlated: bool = True) -> dict[str, Any]:
    modes = {name: {"pesq": pesq[name], "attenuation_db": {"all": attenuation[name]}} for name in pesq}
    return {"scene": {"name": "made up", "correlated": correlated}, "modes": modes}


def test_the_gates_can_fail() -> None:
    good = {"feedforward": 2.0, "network": 2.1, "both": 2.5}
    assert all(verdict.passed for verdict in scene_verdicts(figures(good, good)))
    for name in ("feedforward", "network"):
        bad = good | {name: 2.6}
        assert [v.gate for v in scene_verdicts(figures(good, bad)) if not v.passed] == [
            "both exceed either alone: attenuation"
        ]
        assert "both exceed either alone: PESQ" in [v.gate for v in scene_verdicts(figures(bad, good)) if not v.passed]
    for both, passed in ((2.09, True), (2.07, False), (math.nan, False)):
        (verdict,) = scene_verdicts(figures(good | {"both": both}, good, correlated=False))
        assert verdict.passed is passed


def test_the_gates_of_the_ear_can_fail() -> None:
    for tones_db, all_db, passed in (
        ({"118.0": 12.0}, 3.0, [True, True]),
        ({"118.0": 12.0, "236.0": 6.0}, 3.0, [True, False]),
        ({}, -0.5, [False, False]),
    ):
        verdicts = ear_verdicts(ear_cup.EarResult("fan", tones_db, all_db, 0.0))
        assert [verdict.passed for verdict in verdicts] == passed


def test_the_secondary_path_is_late_and_of_unit_gain() -> None:
    response = ear_cup.secondary_path()
    assert not response[: round(ear_cup.LOOP_S * RATE_HZ)].any()
    assert np.abs(np.fft.rfft(response, RATE_HZ))[40:500].mean() == pytest.approx(1, abs=0.01)


def test_recovery_is_counted_from_the_change() -> None:
    before, change = [0.0, *[10.0] * 9], int(scenes.CHANGE_S)
    assert len(before) == change
    assert recovery_s([*before, 1.0, 4.0, 8.0, 10.0]) == 2
    assert recovery_s([*before, 9.0]) == 0 and recovery_s([*before, 1.0]) == math.inf


def test_the_command_leaves_table_verdicts_figures_and_sounds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ["--quick", "--scene", "none", "--engine", "dsp", "--jobs", "1"]
    code = acoustics.main([*asked, "--json", f"{tmp_path / 'figures.json'}", "--out", f"{tmp_path / 'sounds'}"])
    printed = capfd.readouterr().out
    assert code == 0 and "high-pass" in printed
    assert "ok    none: PESQ not 0.02 below the network" in printed

    def refuse(literal: str) -> None:
        raise AssertionError(f"{literal} is not JSON")

    figures = json.loads((tmp_path / "figures.json").read_text(), parse_constant=refuse)
    assert (
        set(figures["scenes"][0]["modes"]) == {mode.name for mode in MODES} and figures["verdicts"][0]["passed"] is True
    )
    kept = {file.name for file in (tmp_path / "sounds" / "none").iterdir()}
    assert kept == {"voice.wav", "speech-alone.wav", "high-pass.wav", "feedforward.wav", "network.wav", "both.wav"}


def test_what_is_wrong_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, named in (
        (["--scene", "the moon"], "babble"),
        (["--seed", "-1"], "--seed"),
        (["--json", "/no/such/folder/figures.json"], "/no/such/folder"),
    ):
        assert acoustics.main(asked) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1 and named in printed
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    assert acoustics.main(["--quick"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "pyroomacoustics is missing: ./install.sh --setup simulate\n" in printed

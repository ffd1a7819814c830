"""The way from output to microphone: measured through devices, stored, read again, refused where it is none."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from boxes import Cup

from edge import RATE_HZ, UserError, cli
from edge.config import CaptureConfig, Config, LimiterConfig, PlaybackConfig
from edge.dsp.secondary_path import BadPath, SecondaryPath
from edge.tools import calibrate
from edge.tools.calibrate import NothingHeard, response_to, sweep

CONFIG = Config(
    capture=CaptureConfig(device="Ear", mute_ms=0, fade_ms=0, periods=60, gain_db=6.0),
    playback=PlaybackConfig(device="Cup", clock="shared"),
)


pytestmark = pytest.mark.usefixtures("short_sweep")


def test_the_response_of_a_known_way_is_found() -> None:
    rng = np.random.default_rng(3)
    way = np.zeros(1200)
    way[700] = 0.4
    way[700:] += 0.1 * rng.standard_normal(500) * np.exp(-np.arange(500) / 60)
    sent = sweep(-20)
    heard = np.convolve(sent, way)[: len(sent) + RATE_HZ]
    heard = np.concatenate([heard, np.zeros(len(sent) + RATE_HZ - len(heard))]) + 1e-3 * rng.standard_normal(
        len(sent) + RATE_HZ
    )
    response, ratio_db = response_to(sent, heard.astype(np.float32))
    assert int(np.abs(response).argmax()) == int(np.abs(way).argmax()) and ratio_db > 30
    for hz in (60, 100, 500, 2000, 5000):
        turns = np.exp(-2j * np.pi * hz / RATE_HZ * np.arange(4000))
        found, true = (np.sum(x * turns[: len(x)]) for x in (response, way))
        assert abs(found / true - 1) < 0.15, hz


def test_nothing_is_made_of_noise() -> None:
    rng = np.random.default_rng(4)
    sent = sweep(-20)
    for seed in range(3):
        heard = 0.05 * rng.standard_normal(len(sent) + RATE_HZ)
        _, ratio_db = response_to(sent, heard.astype(np.float32))
        assert ratio_db < calibrate.HEARD_DB, seed


def test_through_devices_and_back_from_the_file(tmp_path: Path) -> None:
    cup = Cup(0.25)
    file = tmp_path / "deep" / "path.npz"
    found = calibrate.calibrate(CONFIG, file, opener=cup.door())
    stored = SecondaryPath.load(file)
    assert stored.gain_db == 6.0
    assert found.delay_ms == pytest.approx(1000 * stored.delay_samples / RATE_HZ)
    assert 30 < found.delay_ms < 150 and found.spread_ms < 1
    expected_db = 20 * np.log10(0.25) + 6
    gains = np.abs(np.fft.rfft(stored.response, RATE_HZ))
    assert 20 * np.log10(gains[1000]) == pytest.approx(expected_db, abs=1)
    assert 20 * np.log10(gains[100]) == pytest.approx(expected_db, abs=1.5)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_an_ear_that_hears_nothing_is_said(tmp_path: Path, noise: float) -> None:
    file = tmp_path / "path.npz"
    with pytest.raises(NothingHeard, match="did not hear the"):
        calibrate.calibrate(CONFIG, file, opener=Cup(0.0, noise=noise).door())
    assert not file.exists(), "a failed measurement leaves nothing"


def test_a_sound_that_breaks_off_is_said(tmp_path: Path) -> None:
    cup = Cup(0.25)
    cup.break_at_s = 2.0
    with pytest.raises(NothingHeard, match="was interrupted"):
        calibrate.calibrate(CONFIG, tmp_path / "path.npz", opener=cup.door())


def test_the_sweeps_stay_below_the_peak_of_the_output(tmp_path: Path) -> None:
    """Limited, they would measure a path that is too quiet; and nothing that is played may be above it."""
    found = []
    for peak_dbfs in (-1.0, -30.0):
        cup = Cup(0.5, noise=1e-6)
        config = replace(CONFIG, limiter=LimiterConfig(threshold_dbfs=peak_dbfs - 1, peak_dbfs=peak_dbfs))
        found.append(calibrate.calibrate(config, tmp_path / "path.npz", -6.0, cup.door()))
        assert np.abs(cup.cup.played).max() <= 10 ** (peak_dbfs / 20)
    assert found[0].gain_db == pytest.approx(found[1].gain_db, abs=0.2)


def test_an_old_calibration_outlives_a_failed_new_one(tmp_path: Path) -> None:
    file = tmp_path / "path.npz"
    response = np.zeros(500, np.float32)
    response[300] = 0.5
    SecondaryPath(response, 0.0, 30.0).save(file)
    with pytest.raises(UserError):
        calibrate.calibrate(CONFIG, file, opener=Cup(0.0).door())
    assert SecondaryPath.load(file).delay_samples == 300


def spoilt(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        good: dict[str, object] = {
            "response": np.ones(500, np.float32),
            "gain_db": 0.0,
            "signal_to_noise_db": 30.0,
            "rate_hz": RATE_HZ,
        }
        change(good)
        np.savez(file, **good)  # type: ignore[arg-type]

    return write


@pytest.mark.parametrize(
    "write",
    [
        lambda file: None,
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"PK\x03\x04 and then nothing"),
        lambda file: file.write_text("hello"),
        lambda file: file.mkdir(),
        lambda file: np.save(file.open("wb"), np.ones(5)),
        spoilt(lambda good: good.pop("response")),
        spoilt(lambda good: good.update(response=np.full(500, np.nan))),
        spoilt(lambda good: good.update(response=np.zeros(500))),
        spoilt(lambda good: good.update(response=np.ones((5, 100)))),
        spoilt(lambda good: good.update(response=np.ones(10 * RATE_HZ))),
        spoilt(lambda good: good.update(response=np.array([None] * 500))),
        spoilt(lambda good: good.update(rate_hz=48_000)),
        spoilt(lambda good: good.update(gain_db=np.nan)),
        spoilt(lambda good: good.update(gain_db="loud")),
    ],
)
def test_what_is_no_calibration_is_refused_on_one_line(tmp_path: Path, write: Callable[[Path], None]) -> None:
    file = tmp_path / "path.npz"
    write(file)
    with pytest.raises(BadPath) as refused:
        SecondaryPath.load(file)
    assert str(file) in str(refused.value) and "quietbox calibrate" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "quietbox.toml"
    settings.write_text('[capture]\ndevice = "Ear"\nmute_ms = 0\n[playback]\ndevice = "Cup"\nclock = "shared"\n')
    door = Cup(0.5).door()
    plain = calibrate.calibrate
    monkeypatch.setattr(calibrate, "calibrate", lambda config, file, level: plain(config, file, level, door))
    target = tmp_path / "path.npz"
    arguments = ["calibrate", "--config", str(settings), "--output", str(target), "--json"]
    assert cli.main(arguments) == 0
    reported = json.loads(capsys.readouterr().out)
    assert reported["file"] == str(target) and reported["delay_ms"] > 30
    assert SecondaryPath.load(target).response.any()

    assert cli.main(["calibrate", "--config", str(settings), "--output", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("quietbox: ") and said.count("\n") == 1
    with pytest.raises(SystemExit):
        cli.main(["calibrate", "--level-dbfs", "0"])

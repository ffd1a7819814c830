"""Float files whose samples are integers' values come out as sound; ordinary ones stay as they are."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import recording

from edge import RATE_HZ, cli
from edge.config import Config, FeedforwardConfig, GateConfig, SuppressConfig
from edge.dsp.spectrum import Floats
from edge.tools.sounds import sound_reader
from edge.tools.sounds.enhance import enhance_file
from edge.tools.sounds.float_scale import Levels, UnknownScale
from edge.tools.sounds.sound_kinds import BadSound

PLAIN = Config(
    feedforward=FeedforwardConfig(highpass_hz=0, mains="off"),
    suppress=SuppressConfig(engine="off"),
    gate=GateConfig(on=False),
)
VOICE = recording("noisy", "rain_en_5dB", 4)
VOICE = VOICE * np.float32(0.7 / np.abs(VOICE).max())


def divisor(samples: "Floats | np.typing.NDArray[np.float64]") -> float:
    levels = Levels()
    for part in np.array_split(np.asarray(samples, np.float32), 5):
        levels.add(part)
    return levels.scale().divisor


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("gain", [1.4, 0.05])
@pytest.mark.parametrize("whole", [True, False])
def test_integers_values_are_recognised(bits: int, gain: float, whole: bool) -> None:
    """Down to a peak of -29 dBFS, and whether a program has computed with them or not."""
    samples = VOICE.astype(np.float64) * gain * 2.0 ** (bits - 1)
    assert divisor(np.rint(samples) if whole else samples) == 2.0 ** (bits - 1)


def test_a_quiet_recording_in_whole_numbers_is_recognised() -> None:
    assert divisor(np.rint(VOICE * 10)) == 2.0**15


@pytest.mark.parametrize("gain", [0, 1e-6, 0.1, 1, 2, 5, 11])
def test_ordinary_float_sound_stays_as_it_is(gain: float) -> None:
    assert divisor(VOICE * np.float32(gain)) == 1


def test_damaged_samples_do_not_decide() -> None:
    damaged = VOICE.copy()
    damaged[[5, 7000, 7001]] = [1e20, -np.inf, 30_000]
    assert divisor(damaged) == 1
    damaged = np.rint(VOICE * 2.0**15)
    damaged[:5] = [1e30, np.nan, np.inf, -np.inf, -1e12]
    assert divisor(damaged) == 2.0**15
    assert divisor(np.sign(VOICE)) == 1  # a clipped square wave in whole numbers


def test_float_sound_that_is_far_too_loud_is_attenuated() -> None:
    assert divisor(VOICE * 30) == 32


@pytest.mark.parametrize("gain", [1e11, 1e30])
def test_what_is_no_known_scale_is_refused(gain: float) -> None:
    with pytest.raises(UnknownScale, match="full scale"):
        divisor(VOICE * np.float32(gain))


def write(path: Path, samples: Floats, subtype: str = "FLOAT") -> Path:
    soundfile.write(path, samples, RATE_HZ, subtype)
    return path


@pytest.mark.parametrize(
    ("name", "subtype"),
    [("x.wav", "FLOAT"), ("x.wav", "DOUBLE"), ("x.aiff", "FLOAT"), ("x.au", "DOUBLE"), ("x.caf", "FLOAT")],
)
def test_the_voice_of_such_a_file_is_kept(name: str, subtype: str, tmp_path: Path) -> None:
    """It was 39.8 -> -69.4 dBFS: clipped 50 dB above full scale, and removed as noise."""
    voice = VOICE[:RATE_HZ]
    expected = enhance_file(write(tmp_path / "right.wav", voice), tmp_path / "expected.wav", PLAIN)
    loud = write(tmp_path / name, voice * 2.0**15, subtype)
    result = enhance_file(loud, tmp_path / "out.wav", PLAIN)
    assert result.notes == ["float samples in the scale of 16-bit integers, divided by 32768"]
    assert result.level_in_dbfs == expected.level_in_dbfs
    assert (tmp_path / "out.wav").read_bytes() == (tmp_path / "expected.wav").read_bytes()


def test_the_command_says_it_or_refuses_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "wide.wav", np.stack([VOICE, VOICE], 1) * 2.0**23)
    assert cli.main(["enhance", str(source), "-o", str(tmp_path / "x.wav"), "--json", "--engine", "dsp"]) == 0
    said = json.loads(capsys.readouterr().out)[0]
    assert said["notes"] == ["float samples in the scale of 24-bit integers, divided by 8388608"]
    assert -30 < said["level_out_dbfs"] < said["level_in_dbfs"] < -15
    unknown = write(tmp_path / "unknown.wav", VOICE * np.float32(1e30))
    assert cli.main(["enhance", str(unknown), "-o", str(tmp_path / "y.wav"), "--engine", "off"]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "unknown.wav: its float samples reach" in line
    assert not (tmp_path / "y.wav").exists()


def test_invalid_and_wild_samples_are_reported(tmp_path: Path) -> None:
    damaged = VOICE.copy()
    damaged[[100, 200, 300]] = [np.nan, np.inf, 1e9]
    result = enhance_file(write(tmp_path / "a.wav", damaged), tmp_path / "x.wav", PLAIN)
    assert result.invalid_samples == 2
    assert result.notes == [
        "2 samples were NaN or infinite and became silence",
        "1 samples were over 40 dB too loud and were clipped",
    ]


def test_a_pipe_is_decided_from_its_start(tmp_path: Path) -> None:
    source = write(tmp_path / "a.wav", VOICE * 2.0**15)
    piped = f"cat {source} | {sys.executable} -m edge.cli enhance /dev/stdin -o {tmp_path}/out.wav --engine off"
    done = subprocess.run(["sh", "-c", piped], cwd=Path(__file__).parents[2], capture_output=True, timeout=120)
    assert done.returncode == 0 and b"divided by 32768" in done.stdout
    assert soundfile.info(tmp_path / "out.wav").frames == len(VOICE)


def test_a_scale_that_shows_too_late_in_a_pipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = np.concatenate([np.zeros(20_000, np.float32), VOICE * np.float32(2.0**15)])
    source = write(tmp_path / "a.wav", late)
    assert enhance_file(source, tmp_path / "x.wav", PLAIN).notes
    monkeypatch.setattr(soundfile.SoundFile, "seekable", lambda self: False)  # as a pipe
    monkeypatch.setattr(sound_reader, "MOST_SAMPLES", 16_384)
    with pytest.raises(BadSound, match="shows too late in a pipe"):
        enhance_file(source, tmp_path / "y.wav", PLAIN)
    assert not (tmp_path / "y.wav").exists()

"""Results beyond 4 GiB and full disks: nothing is lost without a word."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import noise
from test_float_scale import PLAIN

from edge import RATE_HZ, cli
from edge.tools.sounds import sound_output
from edge.tools.sounds.enhance import enhance_file
from edge.tools.sounds.sound_kinds import BadSound
from edge.tools.sounds.sound_output import SoundOutput, check_room, in_bytes

SAMPLES = (noise(20_000) * 2**15).astype(np.int16)


def written(path: Path, frames: int) -> str:
    """libsndfile's name of the container while ``SAMPLES`` are written, told that there will be ``frames``."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    with SoundOutput(descriptor, path.suffix, RATE_HZ, frames) as out:
        out.write(SAMPLES)
        container = out._sound.format
    os.close(descriptor)
    got, rate_hz = soundfile.read(path, dtype="int16")
    assert rate_hz == RATE_HZ
    np.testing.assert_array_equal(got, SAMPLES)
    return container


def test_a_wav_file_becomes_rf64_only_where_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.wav"
    assert written(path, len(SAMPLES)) == "WAV" and path.read_bytes()[:4] == b"RIFF"
    assert path.read_bytes()[36:40] == b"data"
    # A stream's length is not known before: it is RF64 until it turns out to be short.
    assert written(path, 0) == "RF64" and path.read_bytes()[:4] == b"RIFF"
    assert soundfile.info(path).format in ("WAV", "WAVEX")
    monkeypatch.setattr(sound_output, "MOST_BYTES", 30_000)
    assert written(path, len(SAMPLES)) == "RF64"
    monkeypatch.setattr(sound_output, "SFC_RF64_AUTO_DOWNGRADE", 0)  # as beyond 4 GiB, where libsndfile leaves it
    assert written(path, len(SAMPLES)) == "RF64"
    assert path.read_bytes()[:4] == b"RF64" and soundfile.info(path).format == "RF64"


def test_12_hours_and_a_half_at_48_khz_are_rf64(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    with SoundOutput(descriptor, ".wav", 48_000, round(12.5 * 3600 * 48_000)) as out:
        assert out._sound.format == "RF64"
    with SoundOutput(descriptor, ".wav", 48_000, 3600 * 48_000) as out:
        assert out._sound.format == "WAV"
    os.close(descriptor)


@pytest.mark.parametrize("name", ["x.aiff", "x.aif", "x.wav"])
def test_what_a_container_cannot_count_is_refused_not_lost(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the work where the length is known; an estimate that was far too low, on the way."""
    if name != "x.wav":
        with pytest.raises(BadSound, match="no more than 4 GiB"):
            check_room(tmp_path / name, tmp_path, 3_000_000_000)
    monkeypatch.setattr(sound_output, "MOST_BYTES", 30_000)
    with pytest.raises(BadSound, match="holds no more than 4 GiB; name a"):
        written(tmp_path / name, 5_000)


def test_a_source_that_no_disk_has_room_for_is_refused_at_once(tmp_path: Path) -> None:
    """A hole of 3 TB stands for a recording."""
    source = tmp_path / "long.au"
    source.write_bytes(b".snd" + struct.pack(">IIIII", 24, 0xFFFFFFFF, 3, RATE_HZ, 1))
    os.truncate(source, 3 << 40)
    (tmp_path / "x.wav").write_bytes(b"earlier")
    with pytest.raises(BadSound, match=r"x\.wav: cannot be written: it needs .* are free: .* are missing"):
        enhance_file(source, tmp_path / "x.wav", PLAIN)
    assert (tmp_path / "x.wav").read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.au", "x.wav"]


@pytest.mark.parametrize(("suffix", "missing"), [(".wav", "about 40.0 kB are needed, 7."), (".flac", " kB more than")])
def test_a_disk_that_fills_on_the_way_says_how_much_is_missing(
    suffix: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """/dev/full stands for the disk: every write fails as on a full one."""
    source = tmp_path / "a.wav"
    soundfile.write(source, SAMPLES, RATE_HZ)
    target = tmp_path / f"x{suffix}"
    target.write_bytes(b"earlier")
    pwrite = os.pwrite

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    def failing(*_: object) -> None:
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(os, "pwrite", full)
    written_before = SoundOutput.write

    def write(self: SoundOutput, samples: "np.typing.NDArray[np.int16]") -> None:
        if self.frames:
            monkeypatch.setattr(self._sound, "write", failing)
        written_before(self, samples)

    monkeypatch.setattr(SoundOutput, "write", write)
    assert cli.main(["enhance", str(source), "-o", str(target), "--engine", "off"]) == 1
    monkeypatch.setattr(os, "pwrite", pwrite)
    line = capsys.readouterr().err
    assert "No space left on device; about" in line and missing in line and line.count("\n") == 1
    assert target.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", target.name]


@pytest.mark.parametrize(("count", "text"), [(12, "12 bytes"), (3_900, "3.9 kB"), (4_320_000_000, "4.3 GB")])
def test_sizes_are_readable(count: int, text: str) -> None:
    assert in_bytes(count) == text

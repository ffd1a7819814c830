"""Recordings whose recorder died, and damaged ones: what is there comes out, and what was wrong is reported."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from signals import noise
from test_float_scale import PLAIN

from edge import RATE_HZ, cli
from edge.tools.sounds.enhance import enhance_file
from edge.tools.sounds.sound_input import SoundInput
from edge.tools.sounds.sound_kinds import BadSound
from edge.tools.sounds.unfinished import NOT_FINISHED, PatchedFile, examine

SOUND = noise(48_000)
CODED = {"WAV": "PCM_16", "WAVEX": "PCM_24", "AIFF": "PCM_16", "AU": "PCM_16", "CAF": "PCM_16", "W64": "PCM_16"}
CODED["RF64"] = "PCM_16"
COUNTS_ONLY = "its header counts only"


def whole(folder: Path, container: str = "WAV", subtype: str = "") -> bytearray:
    path = folder / f"whole.{container}"
    soundfile.write(path, SOUND, RATE_HZ, subtype or CODED.get(container), format=container)
    return bytearray(path.read_bytes())


def read(path: Path) -> tuple[int, list[str]]:
    with SoundInput(path) as sound:
        blocks = list(sound.blocks())
        again = 0
        if sound.can_rewind:
            sound.rewind()
            again = sum(map(len, sound.blocks()))
        frames = sum(map(len, blocks))
        assert again == frames or not sound.can_rewind
        return frames, sound.notes


@pytest.mark.parametrize("container", CODED)
def test_what_a_killed_recorder_left_is_read_to_the_end(container: str, tmp_path: Path) -> None:
    """The file as it lies on the disk before it is closed."""
    target = tmp_path / "open"
    with soundfile.SoundFile(target, "w", RATE_HZ, 1, CODED[container], format=container) as recorder:
        recorder.write(SOUND)
        recorder.flush()
        left = tmp_path / "left"
        left.write_bytes(target.read_bytes())
    assert read(left) in ((48_000, [NOT_FINISHED]), (48_000, []))
    # SoundFile.flush may bring the header up to date; a recorder that never did leaves a length of nothing
    data = whole(tmp_path, container)
    for where, length in lengths(container, data):
        left.write_bytes(data[:where] + bytes(length) + data[where + length :])
        assert read(left) == (48_000, [NOT_FINISHED])


def lengths(container: str, data: bytes) -> list[tuple[int, int]]:
    """Offset and size of the length of the sound in the header."""
    if container == "AU":
        return [(8, 4)]
    if container == "RF64":
        return [(20, 24)]
    at = data.index(b"SSND" if container == "AIFF" else b"data")
    return [{"CAF": (at + 4, 8), "W64": (at + 16, 8)}.get(container, (at + 4, 4))]


@pytest.mark.parametrize("riff", [0, 8, 36, 0xFFFFFFFF, 0x7FFFF024, None])
@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF - 36])
def test_every_placeholder_of_a_wav_header_is_known(riff: int | None, length: int, tmp_path: Path) -> None:
    data = whole(tmp_path)
    if riff is not None:
        data[4:8] = struct.pack("<I", riff)
    data[40:44] = struct.pack("<I", length)
    (tmp_path / "a.wav").write_bytes(data)
    assert read(tmp_path / "a.wav") == (48_000, [NOT_FINISHED])


@pytest.mark.parametrize("kind", ["padded header", "odd chunk before", "big-endian", "float", "extensible, 8 channels"])
def test_unfinished_headers_of_other_shapes(kind: str, tmp_path: Path) -> None:
    data = whole(tmp_path)
    if kind == "padded header":  # as recorders reserve it, so that the sound begins at a sector
        data = data[:36] + b"PAD " + struct.pack("<I", 4044) + bytes(4044) + data[36:]
    elif kind == "odd chunk before":
        data = data[:36] + b"bext" + struct.pack("<I", 603) + bytes(604) + data[36:]
    elif kind == "big-endian":
        path = tmp_path / "big.wav"
        soundfile.write(path, SOUND, RATE_HZ, "PCM_16", "BIG", "WAV")
        data = bytearray(path.read_bytes())
    elif kind == "float":
        data = whole(tmp_path, "WAV", "FLOAT")
    else:
        path = tmp_path / "eight.wav"
        soundfile.write(path, np.stack([SOUND] * 8, 1), RATE_HZ, "PCM_24", format="WAVEX")
        data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    (tmp_path / "a.wav").write_bytes(data[:4] + bytes(4) + data[8:at] + bytes(4) + data[at + 4 :])
    assert read(tmp_path / "a.wav") == (48_000, [NOT_FINISHED])


def stale(data: bytearray) -> bytearray:
    """As Python's ``wave`` leaves it after ``writeframesraw``: the lengths of the first block."""
    data[4:8], data[40:44] = struct.pack("<I", 36 + 2000), struct.pack("<I", 2000)
    return data


CHUNK = b"LIST" + struct.pack("<I", 9000) + np.random.default_rng(4).bytes(9000)


@pytest.mark.parametrize(
    ("change", "frames", "says"),
    [
        (stale, 48_000, COUNTS_ONLY),
        (lambda data: data[:60_000], 29_978, "the file holds 62.5 % of the sound"),
        (lambda data: data + CHUNK, 48_000, ""),
        (lambda data: data + bytes(9000), 48_000, ""),
        (lambda data: data + b"ID3" + bytes(range(1, 250)) * 40, 48_000, ""),
        (lambda data: data + b"\x01" * 100, 48_000, ""),
        (lambda data: data[:40] + bytes(4) + CHUNK, 0, ""),
        (lambda data: data[:40] + bytes(4), 0, ""),
        (lambda data: data[:4] + b"\xff" * 4 + data[8:38] + data[:38], 0, None),
    ],
)
def test_what_follows_the_sound_is_read_only_where_it_is_sound(
    change: Callable[[bytearray], bytes], frames: int, says: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(change(whole(tmp_path)))
    if says is None:
        with pytest.raises(BadSound, match=r"a\.wav: is not a sound file"):
            read(path)
        return
    got, notes = read(path)
    assert got == frames
    assert notes == [] if not says else len(notes) == 1 and notes[0].startswith(says)


def test_a_header_whose_lengths_wrapped_at_4_gib_is_read_to_the_end(tmp_path: Path) -> None:
    """12.5 hours at 48 kHz: the file says that it has 5 minutes. A hole stands for the sound."""
    path = tmp_path / "long.wav"
    path.write_bytes(whole(tmp_path))
    frames = (1 << 31) + 48_000
    os.truncate(path, 44 + 2 * frames)
    with SoundInput(path) as sound:
        assert sound.frames == frames
    assert examine(path).note.startswith(COUNTS_ONLY)
    with path.open("r+b") as file:
        file.seek(4)
        file.write(bytes(4))
        file.seek(40)
        file.write(bytes(4))
    with SoundInput(path) as sound:
        assert sound.frames == frames and sound.notes == [NOT_FINISHED]


@pytest.mark.parametrize("damage", range(60))
def test_no_header_hangs_or_breaks_the_examination(damage: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(damage)
    data = whole(tmp_path, [*CODED][damage % len(CODED)])[:6000]
    for place in rng.integers(0, 120, 6):
        data[place] = int(rng.choice([0, 1, 127, 128, 255]))
    (tmp_path / "a").write_bytes(data[: rng.integers(1, 6000)])
    finding = examine(tmp_path / "a")
    with PatchedFile(tmp_path / "a", finding.patches) as file:
        assert len(file.readall()) == (tmp_path / "a").stat().st_size


def test_flac_that_was_cut_or_damaged_gives_what_is_there(tmp_path: Path) -> None:
    data = whole(tmp_path, "FLAC", "PCM_16")
    half = len(data) // 2
    path = tmp_path / "a.flac"
    path.write_bytes(data[:half])
    frames, notes = read(path)
    assert 18_000 < frames < 24_000 and notes[0].startswith("cut: 1.") and "of the 3.0 s" in notes[0]
    path.write_bytes(data[:half] + bytes(3000) + data[half + 3000 :])
    with SoundInput(path) as sound:
        got = np.concatenate([*sound.blocks()])[:, 0]
    assert len(got) == len(SOUND) and "s became silence" in sound.notes[0]
    np.testing.assert_allclose(got[:18_000], SOUND[:18_000], atol=1e-4)
    np.testing.assert_allclose(got[-15_000:], SOUND[-15_000:], atol=1e-4)
    data[21] &= 0xF0  # the number of samples in the header is 0 until the encoder has finished
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert read(path)[0] == 48_000


def test_the_decoders_own_lines_stay_off_the_terminal(tmp_path: Path) -> None:
    """libmpg123 writes "Illegal Audio-MPEG-Header" and "part2_3_length" to descriptor 2."""
    data = whole(tmp_path, "MP3", "MPEG_LAYER_III")
    half = len(data) // 2
    noise_inside = data[:half] + np.random.default_rng(5).bytes(2000) + data[half + 2000 :]
    sources = [tmp_path / "cut.mp3", tmp_path / "bad.mp3"]
    for source, damaged in zip(sources, (data[:half], noise_inside), strict=True):
        source.write_bytes(damaged)
    call = [sys.executable, "-m", "edge.cli", "enhance", *sources, "-o", tmp_path / "out", "--engine", "off", "--json"]
    done = subprocess.run(call, cwd=Path(__file__).parents[2], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    records = json.loads(done.stdout)
    assert len(records) == 2
    for record in records:
        assert record["notes"] and all("cut" in note or "damage" in note for note in record["notes"])


def test_the_command_says_that_it_read_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = whole(tmp_path)
    (tmp_path / "dead.wav").write_bytes(data[:4] + bytes(4) + data[8:40] + bytes(4) + data[44:])
    before = (tmp_path / "dead.wav").read_bytes()
    assert cli.main(["enhance", str(tmp_path / "dead.wav"), "-o", str(tmp_path / "x.wav"), "--engine", "off"]) == 0
    assert NOT_FINISHED in capsys.readouterr().out
    assert soundfile.info(tmp_path / "x.wav").frames == 48_000
    assert (tmp_path / "dead.wav").read_bytes() == before


@pytest.mark.parametrize(("length", "frames"), [(0, 0), (0xFFFFFFFF, 9_000), (0x7FFFF000, 9_000)])
def test_a_pipe_is_read_by_its_header_and_placeholders_are_none(length: int, frames: int, tmp_path: Path) -> None:
    data = whole(tmp_path)[: 44 + 18_000]
    data[4:8], data[40:44] = struct.pack("<I", length), struct.pack("<I", length)
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    source = Path(f"/dev/fd/{reading}")
    if frames:
        with SoundInput(source) as sound:
            assert sound.known_frames == sound.sure_frames == 0
            assert sum(map(len, sound.blocks())) == frames
    else:
        with pytest.raises(BadSound, match="holds no samples by its header; save the pipe to a file"):
            enhance_file(source, tmp_path / "x.wav", PLAIN)
    os.close(reading)

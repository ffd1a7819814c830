"""What libsndfile does not read, by a decoder in a process of its own: its contract, its limits, and what it is told.

Small programs stand in for ffmpeg where it must fail; ``test_foreign_formats`` has the real decoders.
"""

import json
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge import RATE_HZ, cli
from edge.tools.sounds import foreign_decoder
from edge.tools.sounds.foreign_decoder import CONTAINERS, Foreign
from edge.tools.sounds.sound_kinds import BadSound
from edge.tools.sounds.sound_opening import open_sound

M4A = b"\0\0\0\x1cftypM4A \0\0\0\0M4A isommp42" + bytes(600)


def header(rate_hz: int = RATE_HZ, channels: int = 1, encoding: int = 6, offset: int = 24) -> str:
    packed = struct.pack(">4s5I", b".snd", offset, 0xFFFFFFFF, encoding, rate_hz, channels)
    return "printf '" + "".join(f"\\{byte:03o}" for byte in packed) + "'"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder on the path for a program, and a file that only such a program would read."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.m4a").write_bytes(M4A)
    return tmp_path / "in/a.m4a"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ffmpeg is looked for first."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path / "bin/ffmpeg"


def stand_in(program: Path, body: str) -> None:
    program.write_text(f'#!/bin/sh\necho $$ >"$0.pid"\n{body}\n')
    program.chmod(0o755)


def gone(program: Path) -> bool:
    """Whether the process that stood in has ended."""
    return not Path("/proc", program.with_name("ffmpeg.pid").read_text().strip()).exists()


def read(source: Path) -> tuple[np.ndarray, Foreign]:
    with Foreign(source) as sound:
        return np.concatenate([*sound.blocks()]), sound


def test_the_decoder_gets_the_open_file_and_may_open_nothing_else(source: Path, program: Path, tmp_path: Path) -> None:
    stand_in(
        program,
        f"""printf '%s\\n' "$@" >"{tmp_path}/arguments"
for word in "$@"; do case $word in file:*) cp "${{word#file:}}" "{tmp_path}/copy" ;; esac; done
wc -c >"{tmp_path}/stdin"; env >"{tmp_path}/environment"
echo '[info]   Duration: 00:00:01.00, start: 0.000000' >&2
{header(channels=2)}; head -c 12800 /dev/zero""",
    )
    odd = source.with_name("-i concat:x|http:\nb.m4a")
    source.rename(odd)
    os.environ["FFREPORT"] = f"file={tmp_path}/report"
    try:
        got, sound = read(odd)
    finally:
        del os.environ["FFREPORT"]
    assert got.shape == (1600, 2) and (sound.rate_hz, sound.channels, sound.known_frames) == (RATE_HZ, 2, RATE_HZ)
    assert sound.notes == ["decoded by ffmpeg"]
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert not [word for word in arguments if "http" in word or "concat" in word or odd.name in word]
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file,pipe"
    assert arguments[arguments.index("-format_whitelist") + 1] == CONTAINERS
    assert not {"hls", "dash", "concat", "sdp", "rtsp", "image2", "lavfi", "imf"} & set(CONTAINERS.split(","))
    assert (tmp_path / "copy").read_bytes() == M4A and (tmp_path / "stdin").read_text().strip() == "0"
    assert "FFREPORT" not in (tmp_path / "environment").read_text()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("exit 3", "is not a sound that ffmpeg reads, or it is broken: the decoder ended with status 3"),
        ("kill -SEGV $$", "is broken: the decoder was ended by signal 11"),
        (
            "echo '[error] [mov @ 0x5] moov atom not found' >&2; exit 1",
            "is broken: its index is missing, so the recording",
        ),
        ("echo '[fatal] Output file does not contain any stream' >&2; exit 1", "holds no sound"),
        ("head -c 100 /dev/zero", "gave something else than the sound asked for"),
        (header(encoding=1), "gave something else"),
        (header(offset=1 << 30), "gave something else"),
        (header(rate_hz=1), "a rate of 1 Hz is outside 4000 to 192000 Hz"),
        (header(channels=0), "has 0 channels"),
        (header(channels=1 << 20), "has 1048576 channels"),
        (header(), "is not a sound that ffmpeg reads"),
        (f"{header()}; head -c 400 /dev/zero; echo '[error] I/O error' >&2; exit 1", "is broken: I/O error"),
    ],
)
def test_a_decoder_that_fails_gives_one_line(body: str, says: str, source: Path, program: Path) -> None:
    stand_in(program, body)
    with pytest.raises(BadSound) as refusal:
        read(source)
    assert str(refusal.value).startswith(f"{source}: ") and says in str(refusal.value)
    assert "\n" not in str(refusal.value) and gone(program)


@pytest.mark.parametrize(
    "body",
    ["exec sleep 1000", f"{header()}; exec sleep 1000", "while :; do echo '[warning] chatter'; done >&2"],
    ids=["says nothing", "stops", "chatters"],
)
def test_a_decoder_that_hangs_is_ended(body: str, source: Path, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_decoder, "STALL_S", 0.3)
    stand_in(program, body)
    with pytest.raises(BadSound, match=r"ffmpeg gave no sound for 0\.3 s and was ended"):
        read(source)
    assert gone(program)


def test_sound_without_end_is_refused_in_bounded_memory(
    source: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign_decoder, "MOST_S", 10.0)
    stand_in(program, f"{header()}; exec cat /dev/zero")
    with Foreign(source) as sound, pytest.raises(BadSound, match="holds more than 0 h of sound"):
        for block in sound.blocks():
            assert block.size <= 16_384
    assert gone(program)


def test_a_decoder_whose_sound_is_not_read_to_the_end_is_ended(source: Path, program: Path) -> None:
    stand_in(program, f"{header()}; exec cat /dev/zero")
    began_s = time.monotonic()
    with Foreign(source) as sound:
        next(sound.blocks())
    assert gone(program) and time.monotonic() - began_s < 5


def test_what_a_decoder_reports_is_kept_in_bounds_and_damage_is_a_note(source: Path, program: Path) -> None:
    damage = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo '[error] [aac @ 0x5] invalid band type'; done >&2"
    stand_in(program, f"{header()}; {damage}; head -c 6400 /dev/zero; echo '[error] late' >&2")
    got, sound = read(source)
    assert len(got) == 1600 and len(sound._process.log) <= foreign_decoder.MOST_LOG
    assert sound.notes == ["decoded by ffmpeg", "the decoder reports damage: invalid band type"]


def test_a_file_that_lacks_its_end_is_noted(source: Path, program: Path) -> None:
    stand_in(program, f"echo '[info] Duration: 01:00:10.5' >&2; sleep 0.1; {header()}; head -c 64000 /dev/zero")
    assert read(source)[1].notes[1] == "cut: 1.0 s of the 3610.5 s in its header can be read"


def test_a_program_that_cannot_be_started_is_named(source: Path, program: Path) -> None:
    program.write_bytes(b"\x7fELF of another processor")
    program.chmod(0o755)
    with pytest.raises(BadSound, match="bin/ffmpeg cannot be started: Exec format error"):
        open_sound(source)


# --- without a decoder -----------------------------------------------------------------------------------------------


@pytest.fixture
def no_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(foreign_decoder.importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("no_decoder")
def test_without_a_decoder_the_fix_is_named_and_every_file_has_a_state(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such files were skipped without a word and with status 0 once."""
    for name in ("b.webm", "c.3gp", "d.wma"):
        source.with_name(name).write_bytes(b"\x1a\x45\xdf\xa3" + bytes(100))
    soundfile.write(source.with_name("e.wav"), np.full(1600, 0.01), RATE_HZ)
    source.with_name("notes.txt").write_text("take one was good")
    source.with_name("._e.wav").write_bytes(b"\0\5\x16\7")
    assert cli.main(["enhance", "--engine", "off", str(source.parent), "-o", str(tmp_path / "out"), "--json"]) == 1
    said = capsys.readouterr()
    assert {Path(row["source"]).name: row["state"] for row in json.loads(said.out)} == {
        "a.m4a": "failed",
        "b.webm": "failed",
        "c.3gp": "failed",
        "d.wma": "failed",
        "e.wav": "done",
        "notes.txt": "left out",
        "._e.wav": "left out",
    }
    lines = said.err.splitlines()
    assert sum("is in a format that needs FFmpeg: `apt install ffmpeg`, or `" in line for line in lines) == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["e.wav"]


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("content", [b"", b"no such thing"])
def test_a_wav_file_that_is_none_is_not_said_to_need_a_decoder(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(BadSound, match=r"is empty|is not a sound file that libsndfile reads"):
        open_sound(tmp_path / "a.wav")

"""Which files `quietbox enhance` tries, where the results go, and what is never written to."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge import RATE_HZ, cli
from edge.config import Config, GateConfig, SuppressConfig
from edge.tools.sounds.enhance import enhance_file
from edge.tools.sounds.sound_input import SoundInput
from edge.tools.sounds.sound_kinds import LIBSNDFILE_SUFFIXES, BadSound, may_be_foreign, why_no_sound
from edge.tools.sounds.sound_paths import Found, find_sounds, show_left_out
from edge.tools.sounds.sound_targets import target_name, writable

QUICK = Config(suppress=SuppressConfig(engine="off"), gate=GateConfig(on=False))
SOUND = (0.05 * np.random.default_rng(3).standard_normal(1600)).astype(np.float32)


def sound(path: Path, container: str = "WAV", subtype: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        soundfile.write(file, SOUND, RATE_HZ, subtype, format=container)
    return path


def names(found: Found) -> dict[str, str]:
    """Name of each source -> name of its target."""
    return {source.name: target.name for source, target in found.pairs}


def reasons(found: Found) -> dict[str, str]:
    return {one.source.name: one.why for one in found.left_out}


# --- which files ---------------------------------------------------------------------------------------------------


def test_every_format_of_libsndfile_has_suffixes() -> None:
    """A newer libsndfile with a format more must be looked at."""
    assert set(soundfile.available_formats()) <= set(LIBSNDFILE_SUFFIXES)


WRITTEN = {
    "a.aifc": "AIFF",
    "a.snd": "AU",
    "a.wave": "WAV",
    "a.bwf": "WAV",
    "a.sph": "NIST",
    "a.8svx": "SVX",
    "a.mat": "MAT5",
    "a.htk": "HTK",
    "a.sf": "IRCAM",
    "a.mp2": "MP3",
    "a.fap": "PAF",
    "recording": "WAV",
    "2026.12.01": "FLAC",
    "call.dat": "OGG",
    "VOICE": "MP3",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_folder_gives_what_is_opened_by_name(name: str, tmp_path: Path) -> None:
    """Skipped without a word once, while the same files worked when they were named."""
    source = sound(tmp_path / "in" / name, WRITTEN[name])
    found = find_sounds([tmp_path / "in"], tmp_path / "out")
    assert [pair[0] for pair in found.pairs] == [source]
    enhance_file(*found.pairs[0], QUICK)
    assert soundfile.info(found.pairs[0][1]).frames >= len(SOUND)


FOREIGN_HEADS = {
    "a.m4a": b"\0\0\0\x1cftypM4A \0\0\0\0M4A isommp42",
    "a.3gp": b"\0\0\0\x1cftyp3gp4\0\0\0\0",
    "a.webm": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01",
    "a.wma": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9",
    "a.amr": b"#!AMR\n",
    "a.aac": b"\xff\xf1\x50\x80\x02\x1f\xfc\x21",
    "film.avi": b"RIFF\0\0\0\0AVI LIST",
    "speex.ogg": b"OggS" + bytes(24) + b"Speex   1.2",
    "g726.wav": b"RIFF\0\0\0\0WAVEfmt \x14\0\0\0\x45\0\x01\0",
    "voicemail": b"#!AMR\n",
    "broken.m4a": b"no such thing",
}


@pytest.mark.parametrize("name", FOREIGN_HEADS)
def test_what_needs_a_decoder_is_tried(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FOREIGN_HEADS[name] + bytes(600))
    assert names(find_sounds([tmp_path], tmp_path / "out")).keys() == {name}
    assert may_be_foreign((tmp_path / name).read_bytes(), Path(name).suffix)


NO_SOUNDS = {
    "notes.txt": b"Take one was good.\n",
    "utf16": "Take one was good.\n".encode("utf-16") * 100,
    "cover.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "cover.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "photo.raw": b"IIU\0\x18\0\0\0",
    "data.mat": b"MATLAB 5.0 MAT-file, no sound",
    "model.vox": b"VOX \x96\0\0\0MAIN",
    "score.mid": b"MThd\0\0\0\x06",
    "list.m3u": b"#EXTM3U\na.wav\n",
    "table": bytes(2000),
    "empty.txt": b"",
    "film.mpg": b"plain text",
}


@pytest.mark.parametrize("name", NO_SOUNDS)
def test_what_is_no_sound_is_named_and_is_no_failure(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(NO_SOUNDS[name])
    with pytest.raises(BadSound, match="no sound files in this folder"):
        find_sounds([tmp_path / "in"], tmp_path / "out")
    sound(tmp_path / "in/a.wav")
    found = find_sounds([tmp_path / "in"], tmp_path / "out")
    assert names(found) == {"a.wav": "a.wav"} and reasons(found) == {name: "no sound"}
    assert show_left_out(found) == 0
    assert f"{name} (no sound)" in capfd.readouterr().err


def test_hidden_files_and_odd_things_are_no_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound(tmp_path / "a.wav")
    (tmp_path / "._a.wav").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    sound(tmp_path / ".trash/b.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "gone.wav").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tmp_path)  # the address of a socket is short
        listener.bind("socket.wav")
        os.chdir(here)
        found = find_sounds([tmp_path], tmp_path / "out")
    assert names(found) == {"a.wav": "a.wav"}
    assert reasons(found) == {
        "._a.wav": "hidden",
        ".DS_Store": "hidden",
        ".trash": "hidden",
        "pipe.wav": "not a plain file",
        "socket.wav": "not a plain file",
        "gone.wav": "a link to nothing",
        "loop": "a link to a folder; name it to have it processed",
    }
    assert show_left_out(found) == 0
    assert "(hidden)" not in (said := capsys.readouterr().err) and said.count("\n") == 1 and "gone.wav" in said


@contextlib.contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder of a user who is not root, and his rights."""
    folder = Path(tempfile.mkdtemp(prefix="quietbox-test-"))
    folder.chmod(0o755)
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
        shutil.rmtree(folder)


def test_a_folder_that_cannot_be_read_is_a_failure_and_the_rest_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with as_nobody() as folder:
        sound(folder / "a.wav")
        (folder / "shut").mkdir(mode=0)
        (sound(folder / "mine.wav")).chmod(0)
        found = find_sounds([folder], folder / "out")
        assert names(found).keys() == {"a.wav", "mine.wav"} and show_left_out(found) == 1
        assert "shut: cannot be read: Permission denied" in capsys.readouterr().err
        with pytest.raises(BadSound, match=r"mine\.wav: cannot be read: Permission denied"):
            SoundInput(folder / "mine.wav")


@pytest.mark.parametrize(
    ("name", "says"), [("/dev/zero", "is a device"), ("/dev/null", "is a device"), ("{tmp}", "is a folder")]
)
def test_an_input_that_is_no_file_is_not_read(name: str, says: str, tmp_path: Path) -> None:
    """/dev/zero never ends."""
    with pytest.raises(BadSound, match=says):
        SoundInput(Path(name.format(tmp=tmp_path)))
    (tmp_path / "x.vox").symlink_to("/dev/zero")  # libsndfile reads any bytes as such a file
    with pytest.raises(BadSound, match="is a device"):
        SoundInput(tmp_path / "x.vox")


@pytest.mark.parametrize(("name", "says"), [("a.raw", "without a header"), ("a.wav", "is empty")])
def test_a_file_that_cannot_be_opened_says_what_is_missing(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(bytes(100) if "raw" in name else b"")
    with pytest.raises(BadSound, match=says):
        SoundInput(tmp_path / name)


# --- where to --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("a.wav", "a.wav"),
        ("a.FLAC", "a.FLAC"),
        ("a.m4a", "a.wav"),
        ("a.sph", "a.wav"),
        ("a.b.3gp", "a.b.wav"),
        ("recording", "recording.wav"),
        ("2026.12.01", "2026.12.01.wav"),
        ("take.v1", "take.v1.wav"),
        ("-x.snd", "-x.wav"),
        ("deep/a.aifc", "deep/a.wav"),
        (".m4a", ".m4a.wav"),
    ],
)
def test_only_the_suffix_of_a_sound_is_replaced(source: str, target: str) -> None:
    assert target_name(Path(source)) == Path(target)


@pytest.mark.parametrize("output", ["new.v2/", "new.wav/", "old.v2", "old.v2/.", "new", "./"])
def test_what_is_meant_as_a_folder_is_one(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = sound(tmp_path / "in/a.m4a.wav")
    (tmp_path / "old.v2").mkdir()
    assert find_sounds([str(source)], output).pairs == [(source, Path(output) / "a.m4a.wav")]
    assert cli.main(["enhance", "--engine", "off", str(source), "-o", output]) == 0
    assert (tmp_path / output / "a.m4a.wav").is_file()


@pytest.mark.parametrize(
    ("inputs", "output", "says"),
    [
        (["a.wav"], "new.v2", r"v2 is not among the formats written here: .* \(a folder is meant by new\.v2/\)"),
        (["a.wav"], "plain", "whose name does not end in a format"),
        (["a.wav"], "plain/", "cannot be a folder"),
        (["a.wav"], "/dev/null", "/dev/null: cannot be written: is not a plain file"),
        (["a.wav"], "/dev/full", "/dev/full: cannot be written: is not a plain file"),
        (["a.wav"], "pipe", "pipe: cannot be written: is not a plain file"),
        (["a.wav", "b.wav"], "x.wav", r"x\.wav: names one file, but several inputs need a folder"),
        (["folder"], "x.wav", r"x\.wav: names one file, but a folder of inputs need a folder"),
        (["a.wav", "folder/a.wav"], "out", "would both become out/a.wav"),
        (["twins"], "out", r"twins/b\.wav and twins/b\.sph would both become out/b\.wav"),
        (["a.wav", "b.wav"], "linked", r"would both become linked/[ab]\.wav"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    inputs: list[str], output: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "b.wav", "folder/a.wav", "twins/b.sph", "twins/b.wav"):
        sound(tmp_path / name)
    Path("plain").write_text("a file")
    os.mkfifo("pipe")
    Path("linked").mkdir()
    Path("linked/a.wav").symlink_to("b.wav")
    with pytest.raises(BadSound, match=says):
        find_sounds(inputs, output)
    assert not Path("out").exists() and not Path("new.v2").exists()


@pytest.mark.parametrize(
    "name",
    [
        "caf\udce9.wav",
        "n" * 246 + ".wav",
        "n" * 250,
        "-o.wav",
        "--help",
        "two\nlines.wav",
        "a:b|c.wav",
        "file:x.wav",
        "a..b.wav",
        "%d.wav",
        " .wav",
    ],
    ids=range(11),
)
def test_names_are_kept_byte_for_byte(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    sound(tmp_path / "in" / name)
    for inputs in ([str(tmp_path / "in")], [str(tmp_path / "in" / name)]):
        out = tmp_path / f"out{len(inputs[0])}"
        assert cli.main(["enhance", "--engine", "off", *inputs, "-o", str(out)]) == 0
        wanted = name if name.endswith(".wav") else f"{name}.wav"
        assert os.listdir(os.fsencode(out)) == [os.fsencode(wanted)]
        said = capsys.readouterr()
        assert said.out.count("\n") == 1 and said.out.isascii() and said.err == ""
        assert "\udce9" not in name or "caf\\xe9.wav" in said.out


def test_a_name_that_is_too_long_with_its_new_suffix_costs_no_other_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound(tmp_path / "in" / ("n" * 253))
    sound(tmp_path / "in/z.wav")
    assert cli.main(["enhance", "--engine", "off", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 1
    assert "n.wav: cannot be written: File name too long" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1 and [path.name for path in (tmp_path / "out").iterdir()] == ["z.wav"]


def test_a_name_beginning_with_a_dash_is_named_after_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sound(tmp_path / "-x.wav")
    assert cli.main(["enhance", "--engine", "off", "-o", "out.wav", "--", "-x.wav"]) == 0
    assert soundfile.info("out.wav").frames == len(SOUND)


# --- what is there already -------------------------------------------------------------------------------------------


def test_a_link_is_written_through_and_stays(tmp_path: Path) -> None:
    """It was replaced by the result once, and what it led to kept the old sound."""
    source = sound(tmp_path / "a.wav")
    (tmp_path / "far").mkdir()
    (tmp_path / "far/real.flac").write_bytes(b"old")
    (tmp_path / "link.wav").symlink_to("far/real.flac")
    (tmp_path / "dangling.wav").symlink_to("far/new.wav")
    for name, real in (("link.wav", "far/real.flac"), ("dangling.wav", "far/new.wav")):
        enhance_file(source, tmp_path / name, QUICK)
        assert (tmp_path / name).is_symlink()
        assert soundfile.info(tmp_path / real).format == "WAV"
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["new.wav", "real.flac"]


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("x.wav", "leads to itself"),
        ("/dev/full", "not a plain file"),
        ("pipe", "not a plain file"),
        (".", "not a plain"),
    ],
)
def test_a_link_to_what_is_no_file_is_refused(to: str, says: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.wav").symlink_to(to)
    with pytest.raises(BadSound, match=rf"x\.wav: cannot be written: is .*{says}"):
        enhance_file(sound(tmp_path / "a.wav"), tmp_path / "x.wav", QUICK)
    assert os.readlink(tmp_path / "x.wav") == to


def test_a_file_that_is_read_only_stays(tmp_path: Path) -> None:
    target = tmp_path / "x.wav"
    target.write_bytes(b"old")
    target.chmod(0o444)
    with pytest.raises(BadSound, match=r"x\.wav: cannot be written: is read-only; `chmod u\+w`"):
        enhance_file(sound(tmp_path / "a.wav"), target, QUICK)
    assert target.read_bytes() == b"old"
    assert writable(tmp_path / "new.wav") == tmp_path / "new.wav"


def test_a_folder_without_permission_to_write_is_named() -> None:
    with as_nobody() as folder:
        source = sound(folder / "a.wav")
        (folder / "shut").mkdir(mode=0o555)
        for target in (folder / "shut/x.wav", folder / "shut/deep/x.wav"):
            with pytest.raises(BadSound, match=r"x\.wav: cannot be written: Permission denied"):
                enhance_file(source, target, QUICK)
        assert not list((folder / "shut").iterdir())


def test_a_hidden_file_that_is_named_is_tried(tmp_path: Path) -> None:
    source = sound(tmp_path / ".x.wav")
    assert why_no_sound(source) == "hidden"
    assert names(find_sounds([source], tmp_path / "out.wav")) == {".x.wav": "out.wav"}

"""m4a, WebM, 3gp, WMA and others through the decoders that are there: PyAV, and the program ffmpeg where it is."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from signals import level_db, speech

from edge import RATE_HZ, cli
from edge.dsp.resample import Resampler
from edge.dsp.spectrum import Floats
from edge.tools.sounds import foreign_decoder
from edge.tools.sounds.sound_kinds import BadSound
from edge.tools.sounds.sound_opening import open_sound

av = pytest.importorskip("av", reason="PyAV is not installed; ./install.sh --setup formats")

VOICE = speech("rain_en_5dB", 0, 2.0)
FORMATS = {
    "a.m4a": ("aac", 44_100, 2),
    "a.webm": ("libopus", 48_000, 1),
    "a.3gp": ("libopencore_amrnb", 8_000, 1),
    "a.wma": ("wmav2", 44_100, 1),
}
DECODERS = ["PyAV", *(["ffmpeg"] if shutil.which("ffmpeg") else [])]


@pytest.fixture(params=DECODERS)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "PyAV":
        monkeypatch.setattr(foreign_decoder.shutil, "which", lambda name: None)
    return str(request.param)


def encode(path: Path, codec: str, rate_hz: int, channels: int) -> Path:
    layout = "stereo" if channels == 2 else "mono"
    container = "asf" if path.suffix == ".wma" else None
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate_hz, layout=layout)
        if codec != "libopencore_amrnb":
            stream.bit_rate = 64_000
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(np.stack([VOICE] * channels), format="fltp", layout=layout)
        frame.sample_rate = RATE_HZ
        fitting = av.AudioResampler(
            format=stream.format.name, layout=layout, rate=rate_hz, frame_size=stream.codec_context.frame_size
        )
        for ready in [*fitting.resample(frame), *fitting.resample(None)]:
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return path


def decoded(path: Path) -> tuple[Floats, tuple[int, int], list[str]]:
    """Mono at 16 kHz; rate and channels of the file; the notes."""
    with open_sound(path) as sound:
        frames = np.concatenate([*sound.blocks()])
        assert sound.channels == frames.shape[1] and sound.known_frames == pytest.approx(len(frames), rel=0.1)
        converter = Resampler(sound.rate_hz, RATE_HZ, len(frames))
        mono = converter.process(np.ascontiguousarray(frames.mean(axis=1)))
        return mono, (sound.rate_hz, sound.channels), sound.notes


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_comes_out_in_place_and_at_its_level(name: str, decoder: str, tmp_path: Path) -> None:
    codec, rate_hz, channels = FORMATS[name]
    got, form, notes = decoded(encode(tmp_path / name, codec, rate_hz, channels))
    assert form == (rate_hz, channels) and notes == [f"decoded by {decoder}"]
    assert abs(len(got) - len(VOICE)) < 0.15 * RATE_HZ and level_db(got) == pytest.approx(level_db(VOICE), abs=1.5)
    shared = min(len(got), len(VOICE))
    likeness = np.correlate(got[:shared], VOICE[:shared], "full")[shared - 1 - 800 : shared + 800]
    assert likeness.max() > 0.6 * np.linalg.norm(got[:shared]) * np.linalg.norm(VOICE[:shared])


def test_a_folder_of_them_is_enhanced(decoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.m4a", "a.3gp"):
        encode(tmp_path / "in" / f"{name[-3:]}-{name}", *FORMATS[name])
    encode(tmp_path / "in/voicemail.m4a", *FORMATS["a.m4a"]).rename(tmp_path / "in/voicemail")
    (tmp_path / "in/cut.m4a").write_bytes((tmp_path / "in/m4a-a.m4a").read_bytes()[:4000])
    assert cli.main(["enhance", "--engine", "off", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--json"]) == 1
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert said.err.count("\n") == 1 and "cut.m4a: " in said.err and "its index is missing" in said.err
    assert {Path(row["source"]).name: row["state"] for row in rows} == {
        "3gp-a.3gp": "done",
        "cut.m4a": "failed",
        "m4a-a.m4a": "done",
        "voicemail": "done",
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["3gp-a.wav", "m4a-a.wav", "voicemail.wav"]
    assert all(row["notes"][0] == f"decoded by {decoder}" for row in rows if row["state"] == "done")


HOSTILE = {
    "playlist.m4a": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}x.ts\n#EXT-X-ENDLIST\n",
    "list.m4a": "ffconcat version 1.0\nfile '{sound}'\nfile '{url}x.wav'\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_leads_elsewhere_is_refused_and_nothing_is_asked_of_the_network(
    name: str, decoder: str, tmp_path: Path
) -> None:
    sound = encode(tmp_path / "a.webm", *FORMATS["a.webm"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (tmp_path / name).write_text(HOSTILE[name].format(url=f"http://127.0.0.1:{port}/", sound=sound))
        with pytest.raises(BadSound, match=rf"{name}: is not a sound that {decoder} reads"):
            decoded(tmp_path / name)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_film_without_sound_is_a_failure_only_where_it_is_named(
    decoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with av.open(str(tmp_path / "film.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for _ in range(5):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    for name, status, state in ((".", 0, "left out"), ("film.mp4", 1, "failed")):
        call = ["enhance", "--engine", "off", str(tmp_path / name), "-o", str(tmp_path / "out"), "--json"]
        assert cli.main(call) == status
        said = capsys.readouterr()
        assert [(row["state"], row["why"]) for row in json.loads(said.out)] == [
            (state, f"{tmp_path / 'film.mp4'}: holds no sound")
        ]
        assert said.err == f"quietbox: {tmp_path / 'film.mp4'}: holds no sound\n"

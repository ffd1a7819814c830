"""What people's recorders and editors write: every header, codec, container, rate and name that libsndfile reads gives
the sound that it holds, and a settings file is one however it was saved.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge import cli
from edge.config import Config, FeedforwardConfig, GateConfig, LimiterConfig, SuppressConfig
from edge.config_file import load
from edge.dsp.spectrum import Floats
from edge.tools.sounds.enhance import enhance_file

UNTOUCHED = Config(
    feedforward=FeedforwardConfig(highpass_hz=0, mains="off"),
    suppress=SuppressConfig(engine="off"),
    gate=GateConfig(on=False),
    limiter=LimiterConfig(threshold_dbfs=-0.2, peak_dbfs=-0.1),
)
RATE_HZ = 16_000
FRAMES = 3_001
"""Odd, so that 8-bit data end with a padding byte."""


def tone(rate_hz: int = RATE_HZ, frames: int = FRAMES) -> Floats:
    """A tone of 400 Hz that swells: it has a place in time and survives every codec."""
    swell = np.hanning(frames)
    return (0.3 * swell * np.sin(2 * np.pi * 400 * np.arange(frames) / rate_hz)).astype(np.float32)


def heard(source: Path, folder: Path) -> tuple[Floats, int]:
    """What `enhance` makes of a file with everything turned off."""
    enhance_file(source, folder / "heard.wav", UNTOUCHED)
    samples, rate_hz = soundfile.read(folder / "heard.wav", dtype="float32")
    return samples, rate_hz


def assert_is_the_tone(samples: Floats, rate_hz: int = RATE_HZ, *, frames: int = FRAMES, error: float = 0.01) -> None:
    """``error``: RMS of what is left, in parts of the tone's."""
    wanted = tone(rate_hz, frames)
    assert frames <= len(samples) < frames + 4096  # ADPCM and GSM fill their last block
    left = samples[: len(wanted)] - wanted
    assert np.sqrt(np.mean(left**2)) < error * np.sqrt(np.mean(wanted**2))


# --- headers -------------------------------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes, *, padded: bool = True) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (padded and len(body) % 2)


def pcm(samples: Floats) -> bytes:
    return np.round(samples * 32767).astype("<i2").tobytes()


def fmt(tag: int = 1, more: bytes = b"", *, bits: int = 16, channels: int = 1) -> bytes:
    frame = channels * bits // 8
    return struct.pack("<HHIIHH", tag, channels, RATE_HZ, RATE_HZ * frame, frame, bits) + more


def riff(*chunks: bytes, after: bytes = b"", size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body + after


PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")
EXTENSIBLE = struct.pack("<HHI", 22, 16, 4) + PCM_GUID
FMT, DATA = chunk(b"fmt ", fmt()), chunk(b"data", pcm(tone()))
INFO = chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"Lavf60.3.100\0"))
U8 = bytes(np.round(128 + 127 * tone()).astype(np.uint8))

HEADERS: dict[str, bytes] = {
    "plain": riff(FMT, DATA),
    "extensible": riff(chunk(b"fmt ", fmt(0xFFFE, EXTENSIBLE)), DATA),
    "extensible without a speaker": riff(chunk(b"fmt ", fmt(0xFFFE, struct.pack("<HHI", 22, 16, 0) + PCM_GUID)), DATA),
    "format with an empty extension": riff(chunk(b"fmt ", fmt(1, b"\0\0")), DATA),
    "LIST before the format": riff(INFO, FMT, DATA),
    "JUNK before the format": riff(chunk(b"JUNK", bytes(28)), FMT, DATA),
    "Broadcast Wave": riff(chunk(b"bext", bytes(602)), FMT, chunk(b"fact", struct.pack("<I", FRAMES)), DATA),
    "LIST between format and data": riff(FMT, INFO, DATA),
    "a chunk of unknown kind": riff(FMT, chunk(b"zzzz", b"anything"), DATA),
    "a chunk of odd length": riff(FMT, chunk(b"note", b"odd"), DATA),
    "LIST and cues after the data": riff(FMT, DATA, INFO, chunk(b"cue ", struct.pack("<I", 0))),
    "data of odd length": riff(chunk(b"fmt ", fmt(bits=8)), chunk(b"data", U8)),
    "data of odd length without padding": riff(chunk(b"fmt ", fmt(bits=8)), chunk(b"data", U8, padded=False)),
    "a tag of a music player at the end": riff(FMT, DATA, after=b"TAG" + bytes(125)),
    "zeros at the end": riff(FMT, DATA, after=bytes(4096)),
    "a length too large": riff(FMT, DATA, size=1_000_000),
    "a length too small": riff(FMT, DATA, size=36),
    "wrong byte rate": riff(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE_HZ, 1, 2, 16)), DATA),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_every_wav_header_gives_its_sound(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "a.wav"
    source.write_bytes(HEADERS[kind])
    samples, rate_hz = heard(source, tmp_path)
    assert rate_hz == RATE_HZ and len(samples) == FRAMES
    assert_is_the_tone(samples, error=0.05 if "odd length" in kind else 0.01)


def test_a_big_endian_wav(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), RATE_HZ, "PCM_16", endian="BIG")
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RIFX"
    assert_is_the_tone(heard(tmp_path / "a.wav", tmp_path)[0])


# --- codecs and containers -----------------------------------------------------------------------------------------

ERRORS = {
    "PCM_U8": 0.05,
    "PCM_S8": 0.05,
    "ULAW": 0.03,
    "ALAW": 0.03,
    "IMA_ADPCM": 0.1,
    "MS_ADPCM": 0.1,
}
ERRORS |= {"GSM610": 0.5, "G721_32": 0.2, "NMS_ADPCM_16": 0.5, "NMS_ADPCM_24": 0.3, "NMS_ADPCM_32": 0.2}
CODECS = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"]
CODECS += ["G721_32", "NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32"]
CONTAINERS = ["W64", "RF64", "WAVEX", "AIFF", "AU", "CAF", "AVR", "IRCAM", "MAT4", "MAT5", "NIST", "PAF", "PVF", "SVX"]
CONTAINERS += ["VOC", "MPC2K", "HTK", "FLAC", "SDS"]
OTHERS = [
    ("W64", "PCM_24"),
    ("RF64", "FLOAT"),
    ("AU", "ULAW"),
    ("AIFF", "PCM_S8"),
    ("FLAC", "PCM_24"),
    ("CAF", "ALAC_16"),
]


@pytest.mark.parametrize(
    ("container", "codec"), [*(("WAV", codec) for codec in CODECS), *((kind, "PCM_16") for kind in CONTAINERS), *OTHERS]
)
def test_every_codec_and_container_gives_its_sound(container: str, codec: str, tmp_path: Path) -> None:
    """The suffix does not matter: content names the container."""
    source = tmp_path / "a.wav"
    soundfile.write(source, tone(), RATE_HZ, codec, format=container)
    samples, rate_hz = heard(source, tmp_path)
    assert rate_hz == RATE_HZ
    assert_is_the_tone(samples, error=ERRORS.get(codec, 0.01))


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 12_000, 22_050, 37_800, 44_101, 48_001, 88_200, 192_000])
def test_every_rate_gives_its_sound(rate_hz: int, tmp_path: Path) -> None:
    frames = rate_hz // 2 + 1
    soundfile.write(tmp_path / "a.wav", tone(rate_hz, frames), rate_hz)
    samples, got_hz = heard(tmp_path / "a.wav", tmp_path)
    assert got_hz == rate_hz and len(samples) == frames
    # two converters of 0.12 dB ripple; and the delay is removed in whole samples: half of one is pi f / rate
    assert_is_the_tone(samples, rate_hz, frames=frames, error=0.06 + np.pi * 400 / rate_hz)


# --- names ---------------------------------------------------------------------------------------------------------

NAMES = {
    "accents": "Größe é.wav",
    "accents apart": "Gro\u0308ße e\u0301.wav",
    "Japanese": "録音 01.wav",
    "Arabic": "تسجيل.wav",
    "emoji": "🎤 take 1.wav",
    "spaces": "  two  spaces .wav",
    "dash": "-o.wav",
    "quotes": 'it\'s "one" $HOME `x` *.wav',
    "percent": "100%s {0} \\n.wav",
    "comma": "a,b;c=d&e#f?.wav",
    "dots": "a..b.wav.wav",
    "upper case": "REC00001.WAV",
    "long": "n" * 251 + ".wav",
}


def test_every_name_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All in one folder, and each named by itself from there."""
    (tmp_path / "in").mkdir()
    content = HEADERS["plain"]
    for name in NAMES.values():
        (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "off.toml").write_text('[suppress]\nengine = "off"\n')
    monkeypatch.chdir(tmp_path / "in")
    common = ["--config", str(tmp_path / "off.toml"), "-o"]
    assert cli.main(["enhance", ".", *common, "../out"]) == 0
    assert cli.main(["enhance", *(f"./{name}" for name in NAMES.values()), *common, "../each"]) == 0
    assert not capsys.readouterr().err
    for folder in ("out", "each"):
        assert {path.name for path in (tmp_path / folder).iterdir()} == {*NAMES.values()}


# --- settings files ------------------------------------------------------------------------------------------------

LINES = ["# the box in the kitchen", "[suppress]", 'engine = "dsp"  # no network', "", "limit_db = 18"]
WITH_TABS = ["\t[suppress]\t", '\tengine\t=\t"dsp"\t# no network', "", "\t\tlimit_db=18\t"]
SAVED: dict[str, Callable[[], bytes]] = {
    "as it should be": lambda: "\n".join([*LINES, ""]).encode(),
    "no newline at the end": lambda: "\n".join(LINES).encode(),
    "Windows line ends": lambda: "\r\n".join([*LINES, ""]).encode(),
    "old Mac line ends": lambda: "\r".join([*LINES, ""]).encode(),
    "mixed line ends": lambda: "\r\n".join(LINES[:3]).encode() + b"\n" + "\n".join(LINES[3:]).encode(),
    "byte-order mark": lambda: "\n".join(LINES).encode("utf-8-sig"),
    "byte-order mark and Windows line ends": lambda: "\r\n".join(LINES).encode("utf-8-sig"),
    "tabs": lambda: "\n".join(WITH_TABS).encode(),
    "empty lines and spaces at the end": lambda: ("\n\n" + "  \n".join(LINES) + "\n\n   \n").encode(),
    "comments only around": lambda: ("#\n##\n#é\n" + "\n".join(LINES) + "\n# end").encode(),
    "dotted": lambda: b'suppress.engine = "dsp"\nsuppress.limit_db = 18',
    "one line": lambda: b'suppress = { engine = "dsp", limit_db = 18 }',
    "quoted": lambda: b"[\"suppress\"]\n'engine' = 'dsp'\n\"limit_db\" = 18.0",
    "other numbers": lambda: b'[suppress]\nengine = "dsp"\nlimit_db = +1.8e1',
}


@pytest.mark.parametrize("kind", SAVED)
def test_a_settings_file_is_read_however_it_was_saved(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "quietbox.toml"
    path.write_bytes(SAVED[kind]())
    assert load(path) == Config(suppress=SuppressConfig(engine="dsp", limit_db=18.0))


@pytest.mark.parametrize("content", [b"", b"\n", b"# nothing\r\n", b"\xef\xbb\xbf"])
def test_an_empty_settings_file_means_the_defaults(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "quietbox.toml").write_bytes(content)
    assert load(tmp_path / "quietbox.toml") == Config()

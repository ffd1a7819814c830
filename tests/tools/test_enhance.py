"""Files through the live chain: aligned, as long as they were, and nothing half-written whatever comes in."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signals import SOUNDS

from edge import RATE_HZ, cli
from edge.config import Config, FeedforwardConfig, GateConfig, LimiterConfig, ReferenceConfig, SuppressConfig
from edge.dsp.spectrum import Floats
from edge.tools.sounds import enhance, sound_targets
from edge.tools.sounds.enhance import enhance_file, enhance_samples
from edge.tools.sounds.sound_kinds import BadSound
from edge.tools.sounds.sound_paths import find_sounds

UNTOUCHED = Config(
    feedforward=FeedforwardConfig(highpass_hz=0, mains="off"),
    suppress=SuppressConfig(engine="off"),
    gate=GateConfig(on=False),
    limiter=LimiterConfig(threshold_dbfs=-0.2, peak_dbfs=-0.1),
)


def noise(seconds: float, rate_hz: int = RATE_HZ, level: float = 0.05) -> Floats:
    return (level * np.random.default_rng(3).standard_normal(round(seconds * rate_hz))).astype(np.float32)


def smooth_noise(seconds: float, rate_hz: int) -> Floats:
    """Noise below 5 kHz, which every converter must pass."""
    spectrum = np.fft.rfft(noise(seconds, rate_hz))
    spectrum[round(5000 * seconds) :] = 0
    return np.fft.irfft(spectrum, round(seconds * rate_hz)).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 79, 80, 81, 4000, 33_333])
def test_with_everything_off_the_output_is_the_input(samples: int) -> None:
    heard = noise(3)[:samples]
    np.testing.assert_allclose(enhance_samples(heard, UNTOUCHED), heard, atol=2e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_other_rates_come_back_in_place(rate_hz: int) -> None:
    heard = smooth_noise(2, rate_hz) if rate_hz > 16_000 else noise(2, rate_hz)
    got = enhance_samples(heard, UNTOUCHED, rate_hz)
    assert len(got) == len(heard)
    likeness = np.correlate(got[4000:12000], heard[4000:12000], "same")
    assert abs(int(likeness.argmax()) - 4000) <= max(1, rate_hz // 16_000)


def test_the_demonstration_gets_quieter_in_the_pauses(tmp_path: Path) -> None:
    result = enhance_file(SOUNDS / "noisy/rain_en_5dB.flac", tmp_path / "out.wav", Config())
    assert result.noise_removed_db > 10
    assert 0.3 < result.speech_share < 1
    assert soundfile.info(tmp_path / "out.wav").frames == soundfile.info(SOUNDS / "noisy/rain_en_5dB.flac").frames


def write(path: Path, samples: Floats, rate_hz: int = RATE_HZ, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate_hz, subtype)
    return path


def good_and_odd(folder: Path) -> dict[str, Path]:
    one = noise(0.5)
    return {
        "8 bit": write(folder / "eight.wav", one, subtype="PCM_U8"),
        "96 kHz": write(folder / "fast.wav", one, 96_000),
        "6 channels": write(folder / "six.wav", np.stack([one] * 6, 1)),
        "NaN": write(folder / "nan.wav", np.where(np.arange(len(one)) % 7, one, np.nan), subtype="FLOAT"),
        "infinite": write(folder / "inf.wav", np.where(np.arange(len(one)) % 7, one, np.inf), subtype="FLOAT"),
        "far too loud": write(folder / "loud.wav", one * 100, subtype="FLOAT"),
        "silence": write(folder / "silence.wav", one * 0),
        "one sample": write(folder / "one.wav", one[:1]),
        "clipped": write(folder / "clipped.wav", np.sign(one)),
    }


@pytest.mark.parametrize(
    "kind", ["8 bit", "96 kHz", "6 channels", "NaN", "infinite", "far too loud", "silence", "one sample", "clipped"]
)
def test_odd_sounds_come_out_whole(kind: str, tmp_path: Path) -> None:
    source = good_and_odd(tmp_path)[kind]
    result = enhance_file(source, tmp_path / "out" / "x.wav", Config())
    got, rate_hz = soundfile.read(tmp_path / "out" / "x.wav")
    assert (len(got), rate_hz) == (soundfile.info(source).frames, soundfile.info(source).samplerate)
    assert np.isfinite(got).all()
    assert np.abs(got).max() <= 10 ** (Config().limiter.peak_dbfs / 20) + 1e-4
    assert (result.invalid_samples > 0) == (kind in ("NaN", "infinite"))


def broken(folder: Path) -> dict[str, Path]:
    whole = write(folder / "whole.flac", noise(1))
    (folder / "text.wav").write_text("RIFF, but only in words\n" * 20)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "cut.flac").write_bytes(whole.read_bytes()[:30])
    (folder / "folder.wav").mkdir()
    (folder / "head.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt ")
    return {
        "text": folder / "text.wav",
        "empty": folder / "empty.wav",
        "cut in the header": folder / "cut.flac",
        "half a header": folder / "head.wav",
        "zero length": write(folder / "zero.wav", noise(0)),
        "missing": folder / "nowhere.wav",
    }


@pytest.mark.parametrize("kind", ["text", "empty", "cut in the header", "half a header", "zero length", "missing"])
def test_broken_files_get_one_line_and_leave_nothing(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = broken(tmp_path)[kind]
    target = tmp_path / "out" / "x.wav"
    assert cli.main(["enhance", str(source), "-o", str(target)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and source.name in said and "Traceback" not in said
    assert not target.exists()
    assert not list(tmp_path.rglob("*.part*"))


def test_a_file_cut_in_the_middle_gives_what_is_there(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.wav", noise(2))
    (tmp_path / "cut.wav").write_bytes(whole.read_bytes()[:30_044])
    enhance_file(tmp_path / "cut.wav", tmp_path / "x.wav", Config())
    assert soundfile.info(tmp_path / "x.wav").frames == 15_000


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from([".wav", ".flac", ".ogg", ".aiff"]), data=st.data())
def test_no_damage_to_a_file_breaks_the_command(suffix: str, data: st.DataObject, tmp_path: Path) -> None:
    """Cut anywhere and with bytes changed anywhere it either comes out or is refused, in one line."""
    whole = tmp_path / f"whole{suffix}"
    soundfile.write(whole, noise(0.05), RATE_HZ)
    damaged = bytearray(whole.read_bytes())
    for place in data.draw(st.lists(st.integers(0, min(200, len(damaged)) - 1), max_size=6)):
        damaged[place] = data.draw(st.integers(0, 255))
    source = tmp_path / f"damaged{suffix}"
    source.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    target = tmp_path / "out.wav"
    target.unlink(missing_ok=True)
    try:
        enhance_file(source, target, UNTOUCHED)
    except BadSound as error:
        assert "\n" not in str(error) and source.name in str(error)
        assert not target.exists()
    assert not list(tmp_path.glob("*.part*"))


def test_an_interrupted_or_failed_run_keeps_the_old_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = write(tmp_path / "x.wav", noise(0.1))
    before = target.read_bytes()

    def burn(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhance_file(SOUNDS / "noisy/rain_en_5dB.flac", target, Config(), progress=burn)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


def test_folders_keep_their_names_and_bad_files_do_not_stop_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write(tmp_path / "in" / "a.wav", noise(0.2))
    write(tmp_path / "in" / "deep" / "b.flac", noise(0.2))
    (tmp_path / "in" / "bad.wav").write_text("no sound")
    assert cli.main(["enhance", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--json"]) == 1
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert {Path(row["target"]).name for row in rows if row["state"] == "done"} == {"a.wav", "b.flac"}
    assert [(Path(row["source"]).name, row["state"]) for row in rows if "target" not in row] == [("bad.wav", "failed")]
    assert "bad.wav" in said.err
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")) == [
        "a.wav",
        "deep/b.flac",
    ]


def test_one_channel_of_many(tmp_path: Path) -> None:
    one = noise(0.5)
    source = write(tmp_path / "stereo.wav", np.stack([one, one * 0], 1))
    enhance_file(source, tmp_path / "left.wav", UNTOUCHED, channel=1)
    enhance_file(source, tmp_path / "right.wav", UNTOUCHED, channel=2)
    assert np.abs(soundfile.read(tmp_path / "left.wav")[0]).max() > 0.1
    assert np.abs(soundfile.read(tmp_path / "right.wav")[0]).max() < 1e-3
    with pytest.raises(BadSound, match="2 channels, none is number 3"):
        enhance_file(source, tmp_path / "x.wav", UNTOUCHED, channel=3)


def test_nothing_is_overwritten_by_accident(tmp_path: Path) -> None:
    source = write(tmp_path / "a.wav", noise(0.1))
    with pytest.raises(BadSound, match="overwritten by its own result"):
        find_sounds([source], source)
    (tmp_path / "b").mkdir()
    twin = Path(shutil.copy(source, tmp_path / "b" / "a.wav"))
    with pytest.raises(BadSound, match="would both become"):
        find_sounds([source, twin], tmp_path / "out")
    with pytest.raises(BadSound, match="docx is not among the formats"):
        find_sounds([source], tmp_path / "x.docx")
    with pytest.raises(BadSound, match="no sound files"):
        (tmp_path / "bare").mkdir()
        find_sounds([tmp_path / "bare"], tmp_path / "out")


def test_a_folder_inside_its_own_input_is_not_fed_to_itself(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", noise(0.1))
    write(tmp_path / "old.wve", noise(0.1), 8000, "ALAW")
    for _ in range(2):
        assert cli.main(["enhance", str(tmp_path), "-o", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.wav", "old.wav"]


@pytest.mark.parametrize("target", ["/dev/null", "/proc/x.wav", "{tmp}/" + 300 * "n" + ".wav", "{tmp}/a.wav/x.wav"])
def test_a_place_that_cannot_be_written_is_named(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "a.wav", noise(0.1))
    assert cli.main(["enhance", str(source), "-o", target.format(tmp=tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("cannot be" in said or "name too long" in said)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGHUP, "ended by SIGHUP"),
        (signal.SIGINT, "interrupted"),
    ],
)
def test_a_signal_leaves_nothing_half_written(number: int, says: str, tmp_path: Path) -> None:
    source = write(tmp_path / "long.wav", noise(300))
    process = subprocess.Popen(
        [sys.executable, "-m", "edge.cli", "enhance", str(source), "-o", str(tmp_path / "x.wav")],
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background has SIGINT ignored
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    over = time.monotonic() + 20
    while not list(tmp_path.glob(".quietbox-*.part")):
        assert time.monotonic() < over and process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert process.stderr is not None and process.stderr.read() == f"quietbox: {says}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["long.wav"]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("inputs", "output", "says"),
    [
        (["in/a.wav"], "in/a.wav", "overwritten by its own result"),
        (["in/a.wav"], "in/../in/a.wav", "overwritten by its own result"),
        (["in/a.wav"], "soft.wav", "overwritten by its own result"),
        (["in/a.wav"], "hard.wav", "overwritten by its own result"),
        (["in/a.wav"], "in", "overwritten by its own result"),
        (["in"], "in", "overwritten by its own result"),
        (["in"], "in_link", "overwritten by its own result"),
        (["in_link"], "in", "overwritten by its own result"),
        (["in/a.wav", "other/c.wav"], "out_of_links", "is the input in/a.wav"),
        (["in/deep/a.wav", "in/a.wav", "other/c.wav"], "in_other", "is the input other/c.wav"),
        (["twins"], "out_twins", "would both become"),
        (["in"], "hard.wav", "cannot be a folder"),
        (["in/a.wav"], "in/deep/pipe.wav", "not a plain file"),
    ],
)
def test_no_input_is_written_over_by_any_way(
    inputs: list[str],
    output: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("in/deep", "other", "out_of_links", "in_other", "twins/one", "twins/two", "out_twins/one"):
        Path(folder).mkdir(parents=True)
    for number, name in enumerate(("in/a.wav", "in/deep/a.wav", "other/c.wav", "twins/one/x.wav", "twins/two/x.wav")):
        write(Path(name), noise(0.1 + 0.01 * number))
    Path("soft.wav").symlink_to("in/a.wav")
    Path("hard.wav").hardlink_to("in/a.wav")
    Path("in_link").symlink_to("in")
    Path("out_of_links/c.wav").symlink_to("../in/a.wav")
    Path("in_other/a.wav").hardlink_to("other/c.wav")
    Path("out_twins/two").symlink_to("one")
    if "pipe" in output:
        os.mkfifo(output)
    before = contents(tmp_path)
    assert cli.main(["enhance", *inputs, "-o", output]) == 1
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert contents(tmp_path) == before


def test_a_file_called_like_a_part_file_and_the_parts_of_others_stay(tmp_path: Path) -> None:
    """The first was truncated and deleted once: it had the name of the file in the making."""
    source = write(tmp_path / ".b.part.wav", noise(0.1))
    (tmp_path / ".b.wav.part").write_bytes(b"another program's")
    before = contents(tmp_path)
    assert cli.main(["enhance", str(source), "-o", str(tmp_path / "b.wav")]) == 0
    assert soundfile.info(tmp_path / "b.wav").frames == 1600
    assert contents(tmp_path) == before | {tmp_path / "b.wav": (tmp_path / "b.wav").read_bytes()}


def test_two_runs_to_one_target_do_not_mix(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one.wav", noise(0.4)), write(tmp_path / "other.wav", noise(0.2))
    target = tmp_path / "x.wav"

    def second(*_: object) -> None:
        if not target.exists():
            enhance_file(other, target, UNTOUCHED)
            assert soundfile.info(target).frames == 3200

    enhance_file(one, target, UNTOUCHED, progress=second)
    assert soundfile.info(target).frames == 6400
    assert {path.name for path in tmp_path.iterdir()} == {"one.wav", "other.wav", "x.wav"}


def test_names_that_differ_only_in_case_are_one_file_on_some_disks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    inputs = [write(tmp_path / "a" / "x.wav", noise(0.1)), write(tmp_path / "b" / "X.wav", noise(0.1))]
    assert len(find_sounds(inputs, tmp_path / "out").pairs) == 2
    assert not list(tmp_path.glob(".quietbox*"))
    monkeypatch.setattr(
        sound_targets, "_case_sensitive", lambda folder: False
    )  # as on FAT, which needs root to be mounted
    with pytest.raises(BadSound, match="differ only in case"):
        find_sounds(inputs, tmp_path / "out")


@pytest.mark.parametrize("name", ["\udcff\udcfe", "[red]", "line\nbreak\x1b[2J"], ids=["no UTF-8", "markup", "control"])
def test_odd_names_are_names(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / f"{name}.wav"
    shutil.copy(write(tmp_path / "a.wav", noise(0.1)), source)
    assert cli.main(["enhance", str(source), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / source.name).is_file()
    source.write_bytes(b"no sound")
    assert cli.main(["enhance", str(source), "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert text.count("\n") == 1 and "\x1b" not in text


def test_a_fifo_is_not_waited_for_and_an_open_pipe_is_read(tmp_path: Path) -> None:
    fifo = tmp_path / "x.wav"
    os.mkfifo(fifo)
    with pytest.raises(BadSound, match=r"x\.wav: is a FIFO"):
        enhance_file(fifo, tmp_path / "out.wav", UNTOUCHED)
    with pytest.raises(BadSound, match=r"x\.wav: .*not a plain file"):
        enhance_file(write(tmp_path / "a.wav", noise(0.1)), fifo, UNTOUCHED)
    piped = f"cat {tmp_path}/a.wav | {sys.executable} -m edge.cli enhance /dev/stdin -o {tmp_path}/out.wav"
    done = subprocess.run(["sh", "-c", piped], cwd=Path(__file__).parents[2], capture_output=True, timeout=120)
    assert done.returncode == 0 and soundfile.info(tmp_path / "out.wav").frames == 1600


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_a_full_disk_is_said_and_leaves_the_old_result(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stands for the disk: it fails in the same calls, and needs no root."""
    source = write(tmp_path / "a.wav", noise(4))
    target = tmp_path / f"x{suffix}"
    target.write_bytes(b"old")
    settings_file = tmp_path / "settings.toml"
    settings_file.write_text('[suppress]\nengine = "off"\n')
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        assert cli.main(["enhance", str(source), "-o", str(target), "--config", str(settings_file)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{target}: cannot be written" in said
    assert contents(tmp_path) == before


@pytest.mark.parametrize("rate_hz", [44_101, 191_999])
def test_rates_without_common_factors_take_no_more_memory_than_others(rate_hz: int, tmp_path: Path) -> None:
    """191 999 Hz is prime: its converters once held a table of 1.3 GB for a file of any length."""
    source = write(tmp_path / "a.wav", smooth_noise(0.5, rate_hz), rate_hz)
    stream = enhance.Stream(UNTOUCHED, rate_hz)
    assert sum(part._table.nbytes + part._slope.nbytes for part in (stream._in, stream._out)) < 4e6
    enhance_file(source, tmp_path / "x.wav", UNTOUCHED)
    heard, got = (soundfile.read(path, dtype="float32")[0] for path in (source, tmp_path / "x.wav"))
    assert len(got) == len(heard)
    inside = slice(len(heard) // 4, -len(heard) // 4)
    # the delay is taken off in whole samples: up to half a sample of it is left
    assert np.std(got[inside] - heard[inside]) < 0.07 * np.std(heard[inside])


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff"])
def test_every_usual_format_can_be_written(suffix: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a.wav", noise(0.5))
    enhance_file(source, tmp_path / f"x{suffix}", Config())
    assert soundfile.info(tmp_path / f"x{suffix}").channels == 1


def test_the_limit_bounds_what_is_removed() -> None:
    heard = noise(4, level=0.03)

    def removed_db(limit_db: float) -> float:
        chosen = replace(UNTOUCHED, suppress=SuppressConfig(engine="dsp", limit_db=limit_db))
        tail = slice(32_000, None)
        return float(10 * np.log10(np.mean(heard[tail] ** 2) / np.mean(enhance_samples(heard, chosen)[tail] ** 2)))

    assert removed_db(0) == pytest.approx(0, abs=0.01)
    assert removed_db(6) == pytest.approx(6, abs=0.6)
    assert removed_db(12) == pytest.approx(12, abs=1.5)


def with_reference(folder: Path, swapped: bool = False, rate_hz: int = 48_000) -> tuple[Path, Floats]:
    """A stereo file, voice and reference, whose noise is the same but for a way of 2 ms; and the voice channel."""
    there = smooth_noise(5, rate_hz)
    here = np.roll(there, rate_hz // 500) * np.float32(0.8)
    lanes = [there, here] if swapped else [here, there]
    return write(folder / "stereo.wav", np.stack(lanes, 1), rate_hz), here


@pytest.mark.parametrize("arguments", [[], ["--channel", "1"], ["swapped"]])
def test_a_reference_channel_takes_the_noise_away(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, here = with_reference(tmp_path, "swapped" in arguments)
    settings_file = tmp_path / "settings.toml"
    settings_file.write_text('[suppress]\nengine = "off"\n[gate]\non = false\n')
    chosen = ["--reference", "1"] if "swapped" in arguments else ["--reference", "2", *arguments]
    target = tmp_path / "out.wav"
    call = ["enhance", str(source), "-o", str(target), "--config", str(settings_file), "--json", *chosen]
    assert cli.main(call) == 0
    reported = json.loads(capsys.readouterr().out)[0]
    assert reported["reference"] == "adapting" and reported["reference_removed_db"] > 20
    got, rate_hz = soundfile.read(target)
    assert (len(got), rate_hz) == (len(here), 48_000)
    assert np.std(got[-48_000:]) < 0.1 * np.std(here)


@pytest.mark.parametrize(
    ("channel", "reference", "says"),
    [(0, 3, "has 2 channels, none is number 3"), (2, 2, "cannot be both voice and reference")],
)
def test_a_reference_that_is_not_there_is_named(channel: int, reference: int, says: str, tmp_path: Path) -> None:
    source, _ = with_reference(tmp_path)
    with pytest.raises(BadSound, match=says):
        enhance_file(source, tmp_path / "x.wav", UNTOUCHED, channel=channel, reference=reference)
    mono = write(tmp_path / "mono.wav", noise(0.1))
    with pytest.raises(BadSound, match="has one channel, so there is no reference"):
        enhance_file(mono, tmp_path / "x.wav", UNTOUCHED, reference=2)


def test_a_configured_reference_does_not_touch_a_file_without_one(tmp_path: Path) -> None:
    """The settings speak of the live microphone; a file has a reference only where one is named."""
    chosen = replace(UNTOUCHED, reference=ReferenceConfig(channel=2))
    source = write(tmp_path / "a.wav", noise(0.5))
    result = enhance_file(source, tmp_path / "x.wav", chosen)
    assert result.reference == "" and np.allclose(soundfile.read(tmp_path / "x.wav")[0], noise(0.5), atol=1e-4)

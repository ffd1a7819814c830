"""Real ALSA in user space: what goes in through the microphone comes out of the output."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import correlate

from edge import HOP_SAMPLES
from edge.devices.alsa import list_pcms
from edge.devices.capture import Capture
from edge.devices.pcm import DeviceMissing, DeviceRefused, Event
from edge.devices.playback import Playback
from hw.prove.demo import SOUNDS, slipped
from hw.virtual import sound
from hw.virtual.rigs import ExactRig, NoVirtualSound, PacedRig, forget_killed_servers


def pass_through(capture: Capture, playback: Playback, hops: int) -> list[tuple[Event, Event]]:
    """Hops from the microphone to the output, nothing in between."""
    hop = np.zeros(HOP_SAMPLES, np.float32)
    met = []
    capture.open()
    playback.open()
    try:
        for _ in range(hops):
            heard = capture.read(hop)
            met.append((heard, playback.write(hop)))
    finally:
        capture.close()
        playback.close()
    return met


def test_five_seconds_pass_bit_by_bit() -> None:
    speech = np.random.default_rng(1).integers(-32768, 32768, 80_000).astype(np.int16)
    with ExactRig() as rig:
        rig.feed(speech)
        capture = Capture("mic", mute_ms=0, fade_ms=0)
        playback = Playback("spk")
        met = pass_through(capture, playback, 1000)
        played = rig.played()
    assert set(met) == {(Event.OK, Event.OK)}
    assert "16000 Hz mono S16_LE" in capture.granted and "clockless" in playback.granted
    start = len(played) - len(speech)
    assert np.array_equal(played[start:], speech)
    assert not played[:start].any()


def test_stereo_32_bit_at_48_khz_on_real_alsa() -> None:
    """The shape of an I2S microphone: the second channel lives, and it arrives here at 16 kHz."""
    frames = np.zeros((48_000, 2), np.int32)
    frames[:, 1] = 2**30 * np.sin(2 * np.pi * 1000 / 48_000 * np.arange(48_000))
    with ExactRig() as rig:
        rig.feed(frames, 48_000)
        capture = Capture("mic", channel=2, mute_ms=0, fade_ms=0, rates_hz=(48_000,), formats=("S32_LE",))
        capture.open()
        hop, heard = np.zeros(HOP_SAMPLES, np.float32), []
        for _ in range(190):
            assert capture.read(hop) <= Event.SHORT
            heard.append(hop.copy())
        capture.close()
    assert "got 48000 Hz stereo S32_LE 240x8, channel 2 of 2" in capture.granted
    tone = np.concatenate(heard)[1600:]
    expected = np.exp(-2j * np.pi * 1000 / 16_000 * np.arange(len(tone)))
    assert 2 * abs(np.mean(tone * expected)) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_a_real_clock_paces_three_seconds(rate_hz: int) -> None:
    rng = np.random.default_rng(2)
    speech = (3000 * rng.standard_normal(3 * rate_hz)).astype(np.int16)
    if rate_hz != 16_000:
        from scipy.signal import firwin, lfilter

        speech = (2 * lfilter(firwin(255, 6000, fs=rate_hz), 1, speech)).astype(np.int16)
    with PacedRig(rate_hz) as rig:
        recorder = rig.record(3.5)
        rig.play(speech)
        capture = Capture("mic", mute_ms=0, fade_ms=0)
        playback = Playback("spk", queue_ms=25)
        began_s = time.monotonic()
        met = pass_through(capture, playback, 600)
        took_s = time.monotonic() - began_s
        recorder.done.wait(5)
        heard = recorder.samples
    assert 2.7 < took_s < 20  # a clock of its own; a busy machine loses time with every xrun
    assert all(max(pair) <= Event.XRUN for pair in met)
    assert capture.xruns + playback.xruns == sum(pair.count(Event.XRUN) for pair in met)
    assert f"{rate_hz} Hz mono" in capture.granted and f"{rate_hz} Hz mono" in playback.granted
    # A gap on a busy machine may hit a piece, not all of them.
    assert max(likeness(heard, speech[at : at + rate_hz // 4]) for at in range(0, len(speech), rate_hz // 2)) > 0.9


def likeness(heard: np.ndarray, piece: np.ndarray) -> float:
    """Correlation (0 to 1) of a piece with the place in ``heard`` that it fits best."""
    product = correlate(heard.astype(float), piece.astype(float), "valid")
    at = int(product.argmax())
    match = heard[at : at + len(piece)].astype(float)
    return float(product[at] / max(np.linalg.norm(piece.astype(float)) * np.linalg.norm(match), 1e-9))


def test_a_rate_the_device_lacks_is_refused_with_what_it_offers() -> None:
    with PacedRig(48_000) as rig, pytest.raises(DeviceRefused, match=r"S16_LE.*48000"):
        Capture(rig.mic, rates_hz=(16_000,)).open()


def test_unknown_device_is_one_line() -> None:
    with ExactRig(), pytest.raises(DeviceMissing, match="nosuch") as refusal:
        Capture("nosuch").open()
    assert "\n" not in str(refusal.value)


def test_named_devices_are_listed() -> None:
    with ExactRig():
        assert "mic" in list_pcms("capture") and "spk" in list_pcms("playback")


def test_silence_follows_a_feed_and_real_time_is_kept() -> None:
    with ExactRig() as rig:
        feeder = rig.feed(np.full(1600, 1000, np.int16), paced=True)
        capture = Capture("mic", mute_ms=0, fade_ms=0)
        capture.open()
        hop = np.zeros(HOP_SAMPLES, np.float32)
        began_s = time.monotonic()
        means = []
        for _ in range(100):
            assert capture.read(hop) is Event.OK
            means.append(float(hop.mean()))
        took_s = time.monotonic() - began_s
        capture.close()
    assert feeder.done.is_set() and feeder.error is None
    assert means == pytest.approx([1000 / 32768] * 20 + [0.0] * 80)
    assert 0.3 < took_s < 3


def test_environment_and_folder_are_put_back() -> None:
    before = dict(os.environ)
    with PacedRig() as rig:
        folder, server = rig.folder, rig.server
        assert os.environ["ALSA_CONFIG_PATH"].startswith(str(folder))
    assert dict(os.environ) == before
    assert not folder.exists()
    assert not list(Path("/dev/shm").glob(f"jack*{server}*"))


def test_a_killed_rig_leaves_no_server_and_blocks_nobody() -> None:
    code = (
        "import time\nfrom hw.virtual.rigs import PacedRig\n"
        "with PacedRig() as rig:\n print(rig._jackd.pid, rig.folder, flush=True)\n time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    jackd, folder = child.stdout.readline().split()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    for _ in range(50):
        if not Path(f"/proc/{jackd}/stat").exists() or Path(f"/proc/{jackd}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("jackd outlived the process that started it")
    for left in Path(folder).iterdir():
        left.unlink()
    Path(folder).rmdir()
    with PacedRig():
        pass


def test_a_dying_server_is_a_lost_device_and_leaves_nothing() -> None:
    with PacedRig() as rig:
        capture, playback = Capture("mic"), Playback("spk")
        capture.open()
        playback.open()
        hop = np.zeros(HOP_SAMPLES, np.float32)
        for _ in range(20):
            capture.read(hop)
            playback.write(hop)
        assert rig._jackd is not None
        rig._jackd.kill()
        began_s = time.monotonic()
        while capture.read(hop) < Event.STALLED:
            assert time.monotonic() - began_s < 10
        capture.close()
        playback.close()
        with pytest.raises(DeviceMissing):
            capture.open()
    assert not list(Path("/dev/shm").glob(f"jack*{rig.server}*"))


def test_missing_jackd_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoVirtualSound, match="apt install jackd2"):
        PacedRig().__enter__()
    monkeypatch.setattr(Path, "exists", lambda path: "alsa-lib" not in str(path))
    with pytest.raises(NoVirtualSound, match="jackd and ALSA's jack plugin; apt install jackd2 libasound2-plugins"):
        PacedRig().__enter__()


def test_command_line_runs_a_command_and_records(tmp_path: Path) -> None:
    import soundfile

    speech = np.random.default_rng(3).integers(-9000, 9000, 8000).astype(np.int16)
    soundfile.write(tmp_path / "in.wav", speech, 16_000, subtype="PCM_16")
    code = (
        "import numpy as np\nfrom edge.devices.capture import Capture\nfrom edge.devices.playback import Playback\n"
        "c, p, hop = Capture('mic', mute_ms=0, fade_ms=0), Playback('spk'), np.zeros(80, np.float32)\n"
        "c.open(), p.open()\n"
        "for _ in range(100): c.read(hop), p.write(hop)\n"
        "c.close(), p.close()\n"
    )
    files = ["--play", str(tmp_path / "in.wav"), "--record", str(tmp_path / "out.wav")]
    assert sound.main(["exact", *files, "--", sys.executable, "-c", code]) == 0
    heard, rate_hz = soundfile.read(tmp_path / "out.wav", dtype="int16")
    assert rate_hz == 16_000 and np.array_equal(heard[-8000:], speech)


def test_command_line_names_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    assert sound.main(["exact", "--play", str(tmp_path / "text.wav"), "--", "true"]) == 2
    assert "not a sound file" in capsys.readouterr().err


def test_a_list_of_killed_servers_is_removed_unless_a_server_lives(tmp_path: Path) -> None:
    registry, processes = tmp_path / "registry", tmp_path / "proc"
    (processes / "12").mkdir(parents=True)
    for name, removed in (("jackdbus", False), ("bash", True)):
        registry.touch()
        (processes / "12" / "comm").write_text(f"{name}\n")
        assert forget_killed_servers(registry, processes) == removed
        assert registry.exists() != removed
    assert not forget_killed_servers(registry, processes), "there is none"


def test_the_demo_notices_a_skipped_period() -> None:
    """128 samples lost in the middle; what was only cleaned is no slip."""
    clean, noisy = (
        soundfile.read(SOUNDS / kind / "rain_en_5dB.flac", dtype="float32")[0] for kind in ("clean", "noisy")
    )
    middle = len(clean) // 2
    skipped = np.concatenate([clean[:middle], clean[middle + 128 :], np.zeros(128, np.float32)])
    assert slipped(skipped, noisy) and not slipped(clean, noisy)

"""The doctor: every verdict on shipped fakes and on real ALSA in user space; the command's exit status; never a
traceback. The file trees are made after documentation and kernel sources, as in test_boards.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import put

from edge import RATE_HZ, cli, runtime
from edge.config import CableConfig, CaptureConfig, Config, PlaybackConfig
from edge.devices.fake import (
    I2S_CAPABILITIES,
    JACK_CAPABILITIES,
    USB_CAPABILITIES,
    FakeCard,
    Source,
    VirtualClock,
    constant,
    noise,
    one_live_channel,
    opener,
    silence,
    tone,
)
from edge.devices.pcm import Capabilities, DeviceError
from edge.tools import device_probe, probe_process
from edge.tools.device_probe import MicrophoneProbe, OutputProbe
from edge.tools.doctor import cards, command, machine, running, service, sound
from edge.tools.doctor import settings as settings_check
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import FAIL, OK, WARN, Finding, Verdict
from edge.tools.doctor.verdicts import judge_bandwidth, judge_buffer, judge_microphone, judge_output
from edge.tools.probe_process import ProbeFailure
from hw.virtual.rigs import ExactRig, PacedRig

CARDS = """\
 0 [Headphones     ]: bcm2835_headpho - bcm2835 Headphones
                      bcm2835 Headphones
 1 [sndrpigooglevoi]: RPi-simple - snd_rpi_googlevoicehat_soundcar
                      snd_rpi_googlevoicehat_soundcard
"""
SETTINGS = '[capture]\ndevice = "mic"\nmute_ms = 0\nfade_ms = 0\n[playback]\ndevice = "spk"\n'
QUIET = 10 ** (-75 / 20)


def hear(source: Source, config: CaptureConfig | None = None, **card: Any) -> tuple[MicrophoneProbe, CaptureConfig]:
    """Five seconds of a made-up I2S microphone on a made-up clock."""
    clock = VirtualClock()
    config = config or CaptureConfig(device="Mic")
    mic = FakeCard("Mic", clock, capture=I2S_CAPABILITIES, source=source, **card)
    return device_probe.probe_microphone(config, 5, opener(mic), clock.now), config


@functools.cache
def some_noise() -> MicrophoneProbe:
    return hear(noise(0.1))[0]


def verdicts(heard: tuple[MicrophoneProbe, CaptureConfig]) -> dict[str, Finding]:
    return {finding.check: finding for finding in judge_microphone(*heard)}


# What is heard.


def test_a_good_microphone_is_measured_as_it_is() -> None:
    heard = hear(one_live_channel(1, 2, tone(440, 0.1, dc=0.02)), clock_error_ppm=300)
    found = verdicts(heard)
    assert {finding.verdict for finding in found.values()} == {OK}
    assert found["level"].figures["level_dbfs"] == pytest.approx(-23.0, abs=0.1)  # a sine of 0.1
    assert found["level"].figures["peak_dbfs"] == pytest.approx(20 * np.log10(0.12), abs=0.1)
    assert found["level"].figures["dc"] == pytest.approx(0.02, abs=1e-4)
    assert found["microphone rate"].figures["measured_hz"] == pytest.approx(48_000 * 1.0003, rel=1e-4)
    assert "channel 2 of 2" in found["microphone"].found


@pytest.mark.parametrize(
    ("source", "words"), [(silence, "only zeros"), (constant(0.25), "stuck at +0.250"), (constant(-1), "stuck")]
)
def test_a_dead_microphone_fails(source: Source, words: str) -> None:
    found = verdicts(hear(source))
    assert found["microphone"].verdict is FAIL and words in found["microphone"].found and found["microphone"].fix
    assert "level" not in found


def test_wrong_channel() -> None:
    source = one_live_channel(1, 2, noise(0.1))
    found = verdicts(hear(source, CaptureConfig(device="Mic", channel=1)))["microphone"]
    assert found.verdict is FAIL and "1 is dead, 2 is live" in found.found and "channel = 2" in found.fix
    for right in (2, "auto", "mean"):
        assert verdicts(hear(source, CaptureConfig(device="Mic", channel=right)))["microphone"].verdict is OK


def test_cross_talk_on_the_wrong_channel_is_doubted() -> None:
    def both(frames: Any, rate_hz: int) -> Any:
        return np.stack([tone(300, 0.01)(frames, rate_hz), tone(300, 0.1)(frames, rate_hz)], axis=1)

    found = verdicts(hear(both, CaptureConfig(device="Mic", channel=1)))["microphone"]
    assert found.verdict is WARN and "20 dB louder" in found.found


def test_clipping() -> None:
    found = verdicts(hear(lambda frames, rate_hz: np.clip(tone(300, 3.0)(frames, rate_hz), -1, 1)))["level"]
    assert found.verdict is WARN and "clipping" in found.found and found.figures["clips"] > 1000


def test_gain_that_clips() -> None:
    found = verdicts(hear(tone(300, 0.3), CaptureConfig(device="Mic", gain_db=20)))["level"]
    assert found.verdict is WARN and "gain makes peaks clip" in found.found
    assert "gain_db = 4" in found.fix  # -10.5 dBFS and 6 dB to spare


def test_too_quiet_and_the_gain_that_helps() -> None:
    found = verdicts(hear(noise(QUIET)))["level"]
    assert found.verdict is WARN and "very quiet" in found.found and "gain_db = 55" in found.fix
    assert verdicts(hear(noise(QUIET), CaptureConfig(device="Mic", gain_db=50)))["level"].verdict is OK


def test_large_offset() -> None:
    found = verdicts(hear(tone(300, 0.1, dc=0.3)))["level"]
    assert found.verdict is WARN and "large offset" in found.found


@pytest.mark.parametrize(("ppm", "verdict"), [(0, OK), (-15_000, OK), (-25_000, FAIL), (90_000, FAIL)])
def test_rate_against_the_clock(ppm: float, verdict: Verdict) -> None:
    found = verdicts(hear(noise(0.1), clock_error_ppm=ppm))["microphone rate"]
    assert found.verdict is verdict
    assert found.figures["measured_hz"] == pytest.approx(48_000 * (1 + ppm * 1e-6), rel=2e-3)


def test_a_wrong_rate_is_measured_twice_before_it_counts(pi: Path) -> None:
    wrong = dataclasses.replace(some_noise(), measured_hz=46_000.0)
    for answers, verdict in (([wrong, some_noise()], OK), ([wrong, wrong], FAIL)):
        heard = iter(answers)
        found = side(pi, "capture", reported=lambda *_, heard=heard: next(heard))
        assert found["microphone rate"].verdict is verdict


def test_a_rate_that_lost_sound_is_only_doubted() -> None:
    heard, config = hear(noise(0.1))
    torn = dataclasses.replace(heard, measured_hz=44_000.0, xruns=9)
    assert verdicts((torn, config))["microphone rate"].verdict is WARN


def test_a_microphone_that_is_lost() -> None:
    clock = VirtualClock()
    mic = FakeCard("Mic", clock, capture=USB_CAPABILITIES, source=noise(0.1))

    def pull(frames: Any, rate_hz: int) -> Any:
        mic.gone = clock.now() > 1
        return noise(0.1)(frames, rate_hz)

    mic.source = pull
    config = CaptureConfig(device="Mic")
    found = verdicts((device_probe.probe_microphone(config, 5, opener(mic), clock.now), config))
    assert found["microphone"].verdict is FAIL and "is gone" in found["microphone"].found


def test_a_microphone_that_gives_nothing() -> None:
    clock = VirtualClock()
    mic = FakeCard("Mic", clock, capture=USB_CAPABILITIES, source=noise(0.1))
    mic.stalled = True
    config = CaptureConfig(device="Mic")
    found = verdicts((device_probe.probe_microphone(config, 5, opener(mic), clock.now), config))
    assert found["microphone"].verdict is FAIL and "delivers nothing" in found["microphone"].found


# What is played.


def output(**card: Any) -> OutputProbe:
    clock = VirtualClock()
    jack = FakeCard("Headphones", clock, playback=JACK_CAPABILITIES, position_step_ms=10, **card)
    wait = lambda seconds: clock.wait_until(clock.now() + seconds)  # noqa: E731
    return device_probe.probe_output(PlaybackConfig(device="Headphones"), 1.5, opener(jack), clock.now, wait)


@pytest.mark.parametrize(("ppm", "verdict"), [(0, OK), (500, OK), (40_000, FAIL)])
def test_output_rate(ppm: float, verdict: Verdict) -> None:
    found = judge_output(output(clock_error_ppm=ppm))
    assert found.verdict is verdict and "48000 Hz stereo" in found.found


def test_output_that_stands_still_or_goes() -> None:
    assert judge_output(dataclasses.replace(output(), lost="is gone")).verdict is FAIL
    assert judge_output(dataclasses.replace(output(), measured_hz=0.0)).verdict is WARN
    clockless = OutputProbe("spk: ..., clockless", 16_000, 0.0, 1.5, 0, "")
    assert judge_output(clockless).verdict is OK


@functools.cache
def some_silence() -> OutputProbe:
    return output()


# A machine made of files.


def write(root: Path, name: str, content: str | bytes) -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    """A Pi 4 with jack and I2S microphone."""
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    write(tmp_path, "proc/device-tree/compatible", "raspberrypi,4-model-b\0brcm,bcm2711\0")
    write(tmp_path, "proc/device-tree/system/linux,revision", bytes.fromhex("00c03114"))
    write(tmp_path, "proc/asound/cards", CARDS)
    for card, name in ((0, "pcm0p"), (1, "pcm0p"), (1, "pcm0c")):
        write(tmp_path, f"proc/asound/card{card}/{name}/info", "device: 0\nname: x\n")
    write(tmp_path, "boot/firmware/config.txt", "dtparam=audio=on\ndtoverlay=googlevoicehat-soundcard\n")
    return tmp_path


def good(word: str) -> Any:
    if word == "capture":
        return lambda config, seconds: some_noise()
    return lambda config, seconds: some_silence()


def refuse(kind: str, text: str, fix: str = "") -> Any:
    return lambda config, seconds: ProbeFailure(kind, text, fix)


def side(root: Path, direction: Any, device: str = "auto", reported: Any = None) -> dict[str, Finding]:
    context = Context(
        root=root, probe_microphone=reported or good("capture"), probe_output=reported or good("playback")
    )
    return {finding.check: finding for finding in sound.check_device(context, direction, device)}


def test_chosen_cards_are_named(pi: Path) -> None:
    found = side(pi, "capture")
    assert {finding.verdict for finding in found.values()} == {OK}
    assert found["microphone card"].figures["chosen"] == "hw:CARD=sndrpigooglevoi,DEV=0"
    assert "the headphone jack" in side(pi, "playback")["output card"].found


def only(root: Path, card: str) -> None:
    lines = CARDS.splitlines(keepends=True)
    write(root, "proc/asound/cards", "".join(lines[:2] if card == "Headphones" else lines[2:]))


def test_overlay_missing(pi: Path) -> None:
    only(pi, "Headphones")
    write(
        pi,
        "boot/firmware/config.txt",
        "#dtoverlay=googlevoicehat-soundcard\n[pi5]\ndtoverlay=googlevoicehat-soundcard\n",
    )
    for device in ("auto", "hw:CARD=sndrpigooglevoi"):
        found = side(pi, "capture", device)["microphone card"]
        assert found.verdict is FAIL and "add dtoverlay=googlevoicehat-soundcard to" in found.fix
    reported = refuse("missing", "no sound card or ALSA device 'sndrpigooglevoi'")
    found = side(pi, "capture", "sndrpigooglevoi", reported)["microphone card"]
    assert found.verdict is FAIL and "overlay is missing" in found.fix


def test_overlay_there_but_no_card(pi: Path) -> None:
    only(pi, "Headphones")
    assert "overlay is set but there is no card" in side(pi, "capture")["microphone card"].fix


def test_jack_switched_off(pi: Path) -> None:
    write(pi, "proc/asound/cards", "")
    write(pi, "boot/firmware/config.txt", "dtparam=audio=off\n")
    found = side(pi, "playback")["output card"]
    assert found.verdict is FAIL and "add dtparam=audio=on to" in found.fix


def test_board_without_a_jack(pi: Path) -> None:
    write(pi, "proc/asound/cards", "")
    write(pi, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    write(pi, "proc/device-tree/system/linux,revision", bytes.fromhex("00c04170"))
    found = side(pi, "playback")["output card"]
    assert found.verdict is FAIL and "this board has no jack" in found.fix


@pytest.mark.parametrize(
    ("kind", "text", "fix"),
    [
        ("busy", "Mic is in use by pulseaudio (process 7); stop it", "mask --now pulseaudio.socket"),
        ("busy", "Mic is in use by arecord (process 7); stop it", "stop that program"),
        ("permission", "Mic cannot be opened by this user (permission denied)", "usermod -aG audio"),
        ("channels", "Mic has no capture with a channel 3", "set [capture] channel to at most 2"),
        ("rate", "Mic has no capture at 8 to 384 kHz", 'set the device to "plughw:CARD=Mic"'),
        ("system", "Mic does not open for capture: something new", "quietbox devices"),
        ("hangs", "gave no answer within 25 s", "its driver does not respond"),
        ("died", "the device probe ended by signal 11", "report"),
    ],
)
def test_a_device_that_does_not_open(pi: Path, kind: str, text: str, fix: str) -> None:
    named = fix if kind in ("permission", "channels", "rate") else ""
    found = side(pi, "capture", reported=refuse(kind, text, named))["microphone"]
    assert found.verdict is FAIL and text in found.found and fix in found.fix
    assert "sudo" not in found.fix or kind == "permission"


def test_bandwidth_that_a_device_takes_is_named() -> None:
    telephone = Capabilities(("S16_LE",), (8_000,), False, (1,))
    clock = VirtualClock()
    card = FakeCard("Sco", clock, capture=telephone, source=noise(0.1))
    heard = device_probe.probe_microphone(CaptureConfig(device="Sco"), 1, opener(card), clock.now)
    (found,) = judge_bandwidth("microphone", heard.rate_hz)
    assert found.verdict is WARN and "nothing above 4 kHz" in found.found and "mSBC" in found.fix
    assert "nothing above 4 kHz" in heard.granted
    assert not [*judge_bandwidth("microphone", RATE_HZ), *judge_bandwidth("output", 192_000)]


def test_long_periods_and_small_buffers_are_named() -> None:
    clock = VirtualClock()
    slow = FakeCard("Mic", clock, capture=I2S_CAPABILITIES, source=noise(0.1), least_period=8192)
    small = FakeCard("Amp", clock, playback=JACK_CAPABILITIES, most_frames=320)
    heard = device_probe.probe_microphone(CaptureConfig(device="Mic"), 5, opener(slow), clock.now)
    (found,) = judge_buffer(heard)
    assert found.verdict is WARN and "every 171 ms" in found.found and found.fix
    assert {finding.verdict for finding in judge_microphone(heard, CaptureConfig(device="Mic"))} == {OK}

    def sleep(seconds: float) -> None:
        clock.wait_until(clock.now() + seconds)

    played = device_probe.probe_output(PlaybackConfig(device="Amp"), 1, opener(small), clock.now, sleep)
    (found,) = judge_buffer(played)
    assert found.verdict is WARN and "a queue of 1 ms, not 25" in found.found and found.fix
    assert not [*judge_buffer(some_noise())]


def test_sound_server_is_named_with_the_way_to_stop_it(pi: Path) -> None:
    write(pi, "proc/812/comm", "pipewire\n")
    write(pi, "proc/813/comm", "bash\n")
    (found,) = cards.sound_servers(Context(root=pi))
    assert found.verdict is WARN and "pipewire (process 812)" in found.found and "mask --now pipewire" in found.fix


def test_a_port_that_is_no_device_is_told_before_a_card_is_missed(pi: Path) -> None:
    context = Context(root=pi)
    context.config = Config(cable=CableConfig(usb=True))
    (missing,) = cards.cable(context)
    assert missing.verdict is WARN and "/sys/class" not in missing.found and "dwc2" in missing.fix
    write(pi, "sys/class/udc/fe980000.usb/uevent", "")
    (found,) = cards.cable(context)
    assert "dwc2" not in found.fix


def test_governor_and_power(pi: Path) -> None:
    write(pi, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand\n")
    write(pi, "sys/class/hwmon/hwmon0/name", "rpi_volt\n")
    write(pi, "sys/class/hwmon/hwmon0/in0_lcrit_alarm", "1\n")
    write(pi, "sys/class/thermal/thermal_zone0/temp", "76000\n")
    context = Context(root=pi)
    (governor,) = machine.governor(context)
    (power,) = machine.power_and_heat(context)
    assert governor.verdict is WARN and "performance" in governor.fix
    assert power.verdict is WARN and "under-voltage now" in power.found and "supply" in power.fix


@pytest.mark.parametrize(
    ("content", "verdict", "words"),
    [
        (None, OK, "default"),
        (SETTINGS, OK, "valid"),
        ("[capture]\ngian_db = 3\n", FAIL, "gian_db"),
        (b"\xff\xfe", FAIL, "not a text file"),
    ],
)
def test_settings(pi: Path, content: str | bytes | None, verdict: Verdict, words: str) -> None:
    if content is not None:
        write(pi, "etc/quietbox/quietbox.toml", content)
    (found,) = settings_check.settings(Context(root=pi))
    assert found.verdict is verdict and words in found.found


UNIT = {
    "LoadState": "loaded",
    "UnitFileState": "enabled",
    "ActiveState": "active",
    "SubState": "running",
    "Result": "success",
    "LimitRTPRIO": "95",
    "LimitMEMLOCK": "infinity",
}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, OK),
        ({"UnitFileState": "disabled"}, WARN),
        ({"ActiveState": "inactive", "SubState": "dead"}, WARN),
        ({"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}, FAIL),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, FAIL),
        ({"LoadState": "not-found"}, WARN),
    ],
)
def test_service_states(change: dict[str, str], verdict: Verdict) -> None:
    assert service._service_state(UNIT | change).verdict is verdict


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"LimitRTPRIO": "0"}, "LimitRTPRIO=50"),
        ({"LimitMEMLOCK": "8388608"}, "LimitMEMLOCK=infinity"),
        ({"LimitRTPRIO": "infinity"}, ""),
    ],
)
def test_limits_of_the_service(change: dict[str, str], words: str) -> None:
    context = Context()
    context.unit = UNIT | change
    (found,) = service.real_time(context)
    assert found.verdict is (WARN if words else OK) and words in found.fix


def test_a_model_that_is_not_the_one_on_its_card(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write(folder, "mine.npz", b"weights")
    write(folder, "CARD.md", f"| `mine.npz` | sha256 `{'0' * 64}` |\n")
    context = Context()
    context.config = dataclasses.replace(
        Config(), suppress=dataclasses.replace(Config().suppress, model=str(folder), engine="network")
    )
    (found,) = settings_check.model(context)
    assert found.verdict is WARN and "sha256 differs" in found.found


# While the box runs.


def test_figures_of_a_running_box() -> None:
    status = {"pid": 1, "state": "running", "engine": "dsp", "level_in_dbfs": -30.0, "hop_p99_us": 700, "xruns_in": 2}
    assert running.running_box(status).verdict is OK
    assert running.running_side(status, "microphone").verdict is OK
    assert running.running_side(status | {"level_in_dbfs": -120.0}, "microphone").verdict is FAIL
    assert running.running_engine(status).verdict is OK
    assert running.running_engine(status | {"hop_p99_us": 4800}).verdict is WARN
    assert running.running_box(status | {"state": "fault"}).verdict is FAIL
    assert running.running_box({}).verdict is OK
    assert running.running_side({"xruns_in": "x", "queue_ms": None}, "output").verdict is OK


# The real thing, on ALSA in user space.


def quietbox(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "q.toml").write_text(SETTINGS)
    order = [sys.executable, "-m", "edge.cli", "doctor", "--config", str(folder / "q.toml"), *arguments]
    variables = os.environ | {"RUNTIME_DIRECTORY": str(folder), "COLUMNS": "200"}
    return subprocess.run(order, env=variables, capture_output=True, text=True, timeout=120, check=False)


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert all(set(row) == {"check", "verdict", "found", "fix", "figures"} for row in found)
    return {row["check"]: row for row in found}


@pytest.mark.slow
def test_a_good_box_passes(tmp_path: Path) -> None:
    speech = (3000 * np.random.default_rng(1).standard_normal(48_000 * 30)).astype(np.int16)
    with PacedRig(48_000) as rig:
        rig.play(speech)
        done = quietbox(tmp_path, "--json", "--seconds", "2")
    found = rows(done)
    assert done.returncode == 0, done.stdout
    assert all(row["verdict"] != "fail" for row in found.values())
    assert found["level"]["figures"]["level_dbfs"] == pytest.approx(-20.8, abs=0.5)
    assert found["microphone rate"]["figures"]["rate_hz"] == 48_000
    assert "48000 Hz nominal" in found["output"]["found"]


def test_a_silent_microphone_fails_in_the_table(tmp_path: Path) -> None:
    with ExactRig() as rig:
        rig.feed(np.zeros(RATE_HZ, np.int16), paced=True)
        done = quietbox(tmp_path, "--seconds", "1")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "only zeros" in done.stdout and "The box would not work: microphone" in done.stdout


def test_a_source_without_a_clock_has_the_wrong_rate() -> None:
    with ExactRig() as rig:
        rig.feed(np.full((RATE_HZ, 1), 1000, np.int16))
        heard = probe_process.microphone_in_child(CaptureConfig(device="mic"), 1)
    assert isinstance(heard, MicrophoneProbe)
    assert verdicts((heard, CaptureConfig(device="mic")))["microphone rate"].verdict is FAIL


def test_a_name_that_nobody_knows() -> None:
    with ExactRig():
        context = Context(seconds=1)
        context.config = dataclasses.replace(Config(), capture=CaptureConfig(device="nosuch"))
        (found,) = sound.check_device(context, "capture", "nosuch")
    assert (found.check, found.verdict) == ("microphone card", FAIL) and "nosuch" in found.found and found.fix


def test_sound_can_be_left_alone() -> None:
    checks = [check.__name__ for check in command.checks(use_sound=False)]
    assert "no_sound" in checks and not {"microphone", "output"} & {*checks}


def test_a_running_box_is_asked_and_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(SETTINGS)
    order = [sys.executable, "-m", "edge.cli", "run", "--config", str(tmp_path / "run.toml"), "--seconds", "60"]
    with PacedRig(48_000) as rig:
        rig.play((3000 * np.random.default_rng(1).standard_normal(48_000 * 60)).astype(np.int16))
        variables = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path)}
        with (tmp_path / "log").open("w") as log:
            box = subprocess.Popen(order, env=variables, stderr=log)
        try:
            over = time.monotonic() + 20
            status = tmp_path / runtime.STATUS
            while time.monotonic() < over and not (status.exists() and '"running"' in status.read_text()):
                time.sleep(0.1)
            done = quietbox(tmp_path, "--json", "--seconds", "1")
        finally:
            box.terminate()
            box.wait(10)
    found = rows(done)
    assert found["running box"]["verdict"] in ("ok", "warn")  # a busy machine steps down
    assert found["running box"]["figures"]["seconds"] >= running.HEARD_S, "asked in its first second, it is asked again"
    assert found["microphone"]["verdict"] == "ok" and found["microphone"]["figures"]["level_dbfs"] > -30
    assert (
        "in use by the running box" in found["microphone"]["found"]
        and "in use by the running box" in found["output"]["found"]
    )
    assert "in the running box" in found["engine"]["found"]


def test_a_box_that_has_just_started_gets_time_to_take_its_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an upgrade: else its own cards would be called busy."""
    heard = {"state": "running", "seconds": 3.0}
    reported = iter([None, {"state": "waiting"}, {"state": "waiting"}, heard])
    monkeypatch.setattr(runtime, "read_status", lambda: next(reported))
    assert running.settled_status(started=True, enough_s=2.5)[0] == heard
    monkeypatch.setattr(runtime, "read_status", lambda: None)
    assert running.settled_status(started=False, enough_s=2.5)[0] == {}, "where none runs nothing is waited for"
    monkeypatch.setattr(running, "SETTLE_S", 0.3)
    monkeypatch.setattr(runtime, "read_status", lambda: {"state": "waiting"})
    assert running.settled_status(started=True, enough_s=2.5)[0] == {"state": "waiting"}, "nor for ever"


def test_a_box_that_has_just_started_gets_time_to_hear_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after an upgrade its level is that of nothing: no microphone is called silent on that."""
    fresh = {"state": "running", "engine": "network", "seconds": 0.3, "level_in_dbfs": -120.0, "hop_p99_us": 100.0}
    reported = iter([{"state": "running", "seconds": 0.0}, fresh, fresh | {"seconds": 2.6, "level_in_dbfs": -40.0}])
    monkeypatch.setattr(runtime, "read_status", lambda: next(reported))
    status, waited_s = running.settled_status(started=True, enough_s=2.5)
    assert status["level_in_dbfs"] == -40.0 and waited_s >= 0.4
    assert "polled for 1.2 s" in running.running_box(status, 1.2).found

    monkeypatch.setattr(running, "SETTLE_S", 0.2)
    monkeypatch.setattr(running, "STATUS_LATE_S", 0.2)
    monkeypatch.setattr(runtime, "read_status", lambda: fresh)
    status, _ = running.settled_status(started=True, enough_s=0.4)
    assert status == fresh, "not for ever"
    for figures in (fresh, fresh | {"level_in_dbfs": None, "hop_p99_us": None, "seconds": 0.0}):
        for found in (running.running_side(figures, "microphone", False), running.running_engine(figures, False)):
            assert found.verdict is WARN and "too little" in found.found and "again" in found.fix


def test_a_device_that_hangs_is_left_in_time(tmp_path: Path) -> None:
    """ALSA's file plugin waits for a writer on the FIFO in open(2), with Python's lock held: no thread could help."""
    os.mkfifo(tmp_path / "fifo")
    conf = f'pcm.stuck {{ type file slave.pcm "null" infile "{tmp_path}/fifo" file "/dev/null" format "raw" }}\n'
    (tmp_path / "asound.conf").write_text(f"</usr/share/alsa/alsa.conf>\n{conf}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALSA_CONFIG_PATH", str(tmp_path / "asound.conf"))
        words = {"settings": dataclasses.asdict(CaptureConfig(device="stuck")), "seconds": 1}
        began = time.monotonic()
        reported = probe_process.run_in_child("microphone", words, 1, limit_s=2)
    assert isinstance(reported, ProbeFailure) and reported.kind == "hangs"
    assert time.monotonic() - began < 20


def test_a_child_that_dies_or_talks_nonsense_is_trouble() -> None:
    reported = probe_process.run_in_child("no such command", {})
    assert isinstance(reported, ProbeFailure) and reported.kind == "died"


def test_refusals_keep_their_kind() -> None:
    with ExactRig():
        reported = probe_process.microphone_in_child(CaptureConfig(device="nosuch"), 1)
    assert isinstance(reported, ProbeFailure) and reported.kind == "missing" and "nosuch" in reported.text
    assert issubclass(DeviceError, Exception)


@pytest.mark.parametrize("seconds", ["0", "nan", "61", "x"])
def test_a_length_that_makes_no_sense(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--seconds", seconds])
    assert ended.value.code == 2
    capsys.readouterr()


# Whatever lies there.

PLACES = [
    "proc/device-tree/model",
    "proc/device-tree/system/linux,revision",
    "boot/firmware/config.txt",
    "etc/quietbox/quietbox.toml",
    "proc/12/comm",
    "proc/x/comm",
    "dev/gpiochip0",
    "dev/snd/pcmC0D0c",
    "sys/class/thermal/thermal_zone0/temp",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
]
SOUND_PLACES = [
    "proc/asound/cards",
    "proc/asound/card0/id",
    "proc/asound/card0/pcm0c/info",
    "proc/asound/card1/stream0",
]
TEXTS = [b"Raspberry Pi 4 Model B", CARDS.encode(), b"pipewire\n", b'[capture]\ndevice = "hw:9"', b"\0" * 9, b"9" * 99]
CONTENT = st.one_of(st.binary(max_size=50), st.sampled_from(TEXTS), st.sampled_from(["folder", "loop"]))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(PLACES), st.one_of(CONTENT, st.just("pipe"))),
    st.dictionaries(st.sampled_from(SOUND_PLACES), CONTENT),
    st.sampled_from([None, ProbeFailure("busy", "x"), ProbeFailure("missing", ""), ProbeFailure("hangs", "[/]")]),
)
def test_never_raises_whatever_it_reads(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, Any], sound: dict[str, Any], trouble: ProbeFailure | None
) -> None:
    monkeypatch.setattr(
        probe_process, "run_in_child", lambda *_, **__: trouble or ProbeFailure("died", "not tried here")
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, content in (files | sound).items():
            put(root / name, content)
        heard = trouble or some_noise()
        context = Context(
            root=root, probe_microphone=lambda *_: heard, probe_output=lambda *_: trouble or some_silence()
        )
        found = command.examine(context)
    assert {"board", "settings", "microphone card", "output card", "light and button"} <= {each.check for each in found}
    assert json.dumps([dataclasses.asdict(each) for each in found], default=str)
    command._print_table(found)


def test_a_check_that_breaks_is_a_row(monkeypatch: pytest.MonkeyPatch, pi: Path) -> None:
    context = Context(root=pi, probe_microphone=lambda *_: 1 / 0, probe_output=good("playback"))  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(probe_process, "run_in_child", lambda *_, **__: ProbeFailure("died", ""))
    broken = [finding for finding in command.examine(context) if "failed with an error" in finding.found]
    assert [finding.check for finding in broken] == ["microphone"] and "ZeroDivisionError" in broken[0].found

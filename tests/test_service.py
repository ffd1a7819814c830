"""The whole command on real ALSA in user space: exact samples, signals, reload, a second run, a clean end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge import RATE_HZ
from edge.chain import Chain
from edge.config import load
from edge.enhance import enhance_file
from hw.virtual.sound import ExactRig, PacedRig

SOUNDS = Path(__file__).parent / "sounds"
SETTINGS = """
[capture]
device = "mic"
mute_ms = 0
fade_ms = 0
[playback]
device = "spk"
"""


class Running:
    """`quietbox run` as a user starts it."""

    def __init__(self, folder: Path, *arguments: str, settings: str = SETTINGS) -> None:
        self.config = folder / "quietbox.toml"
        self.config.write_text(settings)
        self.log = folder / f"log-{time.monotonic_ns()}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge.cli", "run", "--config", str(self.config), *arguments],
                env=os.environ | {"RUNTIME_DIRECTORY": str(folder)},
                stderr=log,
            )

    def said(self) -> str:
        return self.log.read_text()

    def until(self, text: str, times: int = 1, within_s: float = 15) -> None:
        over = time.monotonic() + within_s
        while self.said().count(text) < times:
            assert time.monotonic() < over, f"never said {text!r}:\n{self.said()}"
            assert self.process.poll() is None, f"ended before {text!r}:\n{self.said()}"
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> float:
        """Seconds until SIGTERM was obeyed."""
        began = time.monotonic()
        self.send(signal.SIGTERM)
        assert self.process.wait(5) == 0, self.said()
        return time.monotonic() - began


def quietbox(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge.cli", *arguments],
        env=os.environ | {"RUNTIME_DIRECTORY": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_live_output_is_what_enhance_writes_sample_for_sample(tmp_path: Path) -> None:
    noisy, rate_hz = soundfile.read(SOUNDS / "noisy/rain_en_5dB.flac", dtype="int16")
    assert rate_hz == RATE_HZ
    with ExactRig() as rig:
        feeder = rig.feed(noisy)
        box = Running(tmp_path)
        assert feeder.done.wait(40), box.said()
        time.sleep(0.5)
        box.end()
        played = rig.played()
    enhance_file(SOUNDS / "noisy/rain_en_5dB.flac", tmp_path / "offline.wav", load(box.config))
    offline, _ = soundfile.read(tmp_path / "offline.wav", dtype="int16")
    first = int(np.flatnonzero(played)[0]) - int(np.flatnonzero(offline)[0])
    primed = first - Chain(load(box.config)).delay_samples
    assert primed == round(load(box.config).playback.queue_ms * RATE_HZ / 1000)
    whole = min(len(offline), len(played) - first)
    assert whole > 0.98 * len(offline)
    np.testing.assert_array_equal(played[first : first + whole], offline[:whole])


def test_signals_status_reload_and_a_clean_end(tmp_path: Path) -> None:
    with PacedRig() as rig:
        rig.play((3000 * np.random.default_rng(0).standard_normal(40 * RATE_HZ)).astype(np.int16))
        box = Running(tmp_path)
        box.until("state: running")
        time.sleep(1.5)
        status = json.loads(quietbox(tmp_path, "status", "--json").stdout)
        assert status["state"] == "running" and status["pid"] == box.process.pid
        assert 10 < status["latency_ms"] < 120
        box.send(signal.SIGUSR1)
        box.until("state: bypass")
        box.send(signal.SIGUSR1)
        box.until("state: running", 2)
        box.send(signal.SIGUSR2)
        box.until("state: muted")
        box.send(signal.SIGUSR2)
        box.until("state: running", 3)

        box.config.write_text(SETTINGS + "[suppress]\nlimit_bd = 3\n")
        box.send(signal.SIGHUP)
        box.until('unknown key "limit_bd"')
        assert "the settings in use stay" in box.said()
        box.config.write_text(SETTINGS + '[suppress]\nengine = "off"\n')
        box.send(signal.SIGHUP)
        box.until("settings read again")
        time.sleep(1.3)
        assert json.loads(quietbox(tmp_path, "status", "--json").stdout)["engine"] == "high-pass only"

        second = quietbox(tmp_path, "run", "--config", str(box.config))
        assert second.returncode == 1
        assert f"process {box.process.pid}" in second.stderr and second.stderr.count("\n") == 1

        assert box.end() < 1.0
    assert "Traceback" not in box.said()
    assert quietbox(tmp_path, "status").returncode == 1


def test_it_waits_for_a_card_that_is_not_there_and_still_ends_at_once(tmp_path: Path) -> None:
    box = Running(tmp_path, settings='[capture]\ndevice = "Nowhere"\n')
    box.until("state: waiting")
    time.sleep(1.5)
    assert box.said().count("Nowhere") == 1
    assert box.end() < 1.0
    assert "Traceback" not in box.said()


def test_it_ends_at_once_although_the_microphone_says_nothing(tmp_path: Path) -> None:
    with ExactRig():
        box = Running(tmp_path)
        time.sleep(1.5)
        began = time.monotonic()
        box.send(signal.SIGTERM)
        box.process.wait(3)
        assert time.monotonic() - began < 1.2
    assert "Traceback" not in box.said()


def test_a_status_that_cannot_be_written_is_said_once_and_the_sound_goes_on(tmp_path: Path) -> None:
    (tmp_path / "status.json").mkdir()
    with PacedRig():
        box = Running(tmp_path)
        box.until("the status cannot be written")
        box.until("state: running")
        time.sleep(2.5)
        assert box.said().count("the status cannot be written") == 1
        box.end()


def handled(pid: int, number: signal.Signals) -> bool:
    """Whether a process ignores or catches a signal, rather than die of it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigIgn", "SigCgt"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def test_signals_during_the_start_do_not_end_it(tmp_path: Path) -> None:
    """From the moment that our first line runs, long before SciPy is loaded."""
    with PacedRig():
        box = Running(tmp_path)
        early = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
        while not all(handled(box.process.pid, number) for number in early):
            assert box.process.poll() is None
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR2, signal.SIGHUP):
            box.send(number)
            time.sleep(0.1)
        box.until("state:")
        box.end()


def test_nobody_reading_what_it_says_does_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_text(SETTINGS)
    reading, writing = os.pipe()
    with PacedRig():
        process = subprocess.Popen(
            [sys.executable, "-m", "edge.cli", "run", "--config", str(tmp_path / "q.toml")],
            env=os.environ | {"RUNTIME_DIRECTORY": str(tmp_path)},
            stderr=writing,
        )
        os.close(writing)
        os.close(reading)
        over = time.monotonic() + 15
        while quietbox(tmp_path, "status").returncode:
            assert time.monotonic() < over and process.poll() is None
        process.terminate()
        assert process.wait(3) == 0


@pytest.mark.parametrize("verb", ["run", "passthrough", "bench", "latency", "enhance"])
def test_a_broken_settings_file_is_one_line_for_every_command(verb: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[suppress]\nlimit_bd = 3\n")
    extra = ["x.wav", "-o", "y.wav"] if verb == "enhance" else []
    done = quietbox(tmp_path, verb, "--config", str(tmp_path / "bad.toml"), *extra)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "line 2" in done.stderr


def test_passthrough_passes_the_sound_as_it_is(tmp_path: Path) -> None:
    sound = (3000 * np.random.default_rng(0).standard_normal(4 * RATE_HZ)).astype(np.int16)
    (tmp_path / "q.toml").write_text(SETTINGS)
    with ExactRig() as rig:
        feeder = rig.feed(sound)
        process = subprocess.Popen(
            [sys.executable, "-m", "edge.cli", "passthrough", "--config", str(tmp_path / "q.toml"), "--seconds", "6"],
            env=os.environ | {"RUNTIME_DIRECTORY": str(tmp_path)},
            stderr=subprocess.DEVNULL,
        )
        assert feeder.done.wait(20)
        assert process.wait(20) == 0
        played = rig.played()
    first = int(np.flatnonzero(played)[0]) - int(np.flatnonzero(sound)[0])
    got = played[first : first + 3 * RATE_HZ].astype(int)
    assert np.abs(got - sound[: len(got)]).max() <= 1


def test_latency_is_measured_through_real_alsa(tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_text(SETTINGS.replace('"spk"', '"feed"'))
    with PacedRig():
        done = quietbox(tmp_path, "latency", "--config", str(tmp_path / "q.toml"), "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert abs(found["measured_ms"] - found["budget_ms"]) < 40
        (tmp_path / "q.toml").write_text(SETTINGS)
        silent = quietbox(tmp_path, "latency", "--config", str(tmp_path / "q.toml"))
        assert silent.returncode == 1 and "did not come back" in silent.stderr

"""The whole command on real ALSA in user space: exact samples, signals, reload, a second run, a clean end."""

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from journal_socket import Listener, decoded
from signals import SOUNDS

from edge import RATE_HZ, meters
from edge.chain import Chain
from edge.config import Config
from edge.config_file import load
from edge.journal import FIELDS, Journal
from edge.service import Service
from edge.tools.sounds.enhance import enhance_file
from hw.virtual.rigs import ExactRig, PacedRig

KEYS = {field.key for field in FIELDS}
SETTINGS = """
[capture]
device = "mic"
mute_ms = 0
fade_ms = 0
[playback]
device = "spk"
volume_db = 0
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


FAKED = """
import sys, threading, time
from dataclasses import replace
import numpy as np
from edge.config import Config
from edge.devices.fake import I2S_CAPABILITIES, JACK_CAPABILITIES, FakeCard, WallClock, opener
from edge.journal import Journal
from edge.service import Service

moving = threading.Event()
moving.set()

def hear(frames, rate_hz):
    moving.wait()
    return 0.1 * np.random.default_rng(0).standard_normal(len(frames))

clock = WallClock()
microphone = FakeCard("Mic", clock, capture=I2S_CAPABILITIES, source=hear)
jack = FakeCard("Jack", clock, playback=JACK_CAPABILITIES)
config = Config()
config = replace(
    config,
    capture=replace(config.capture, device="Mic"),
    playback=replace(config.playback, device="Jack"),
    suppress=replace(config.suppress, engine="off"),
    panel=replace(config.panel, backend="fake", knob="volume"),
)
service = Service(lambda: config, Journal(sys.argv[1]), opener(microphone, jack))

def obey():
    for order in sys.stdin:
        exec(order, globals())

threading.Thread(target=obey, daemon=True).start()
sys.exit(service.run())
"""


class Faked:
    """The service on made-up cards and a made-up panel, in a process of its own, seen as systemd sees it."""

    def __init__(self, folder: Path) -> None:
        self.notified, self.received = Listener(str(folder / "notify")), Listener(str(folder / "journal"))
        self.process = subprocess.Popen(
            [sys.executable, "-c", FAKED, str(folder / "journal")],
            env=os.environ | {"RUNTIME_DIRECTORY": str(folder), "NOTIFY_SOCKET": str(folder / "notify")},
            stdin=subprocess.PIPE,
            text=True,
        )

    def order(self, line: str) -> None:
        assert self.process.stdin
        print(line, file=self.process.stdin, flush=True)

    def fed(self) -> int:
        """How often the watchdog was fed."""
        return self.notified.heard.count(b"WATCHDOG=1")

    def records(self, event: str) -> list[dict[str, str]]:
        received = [decoded(data) for data in self.received.heard]
        return [entry for entry in received if entry["QUIETBOX_EVENT"] == event]

    def until(self, reached: Callable[[], bool], within_s: float = 20) -> None:
        over = time.monotonic() + within_s
        while not reached():
            assert time.monotonic() < over, (self.notified.heard[-5:], self.received.heard[-5:])
            assert self.process.poll() is None
            time.sleep(0.02)

    def running(self) -> None:
        self.until(lambda: any(entry["QUIETBOX_STATE"] == "running" for entry in self.records("state")))


def measured(folder: Path) -> bool:
    """Whether the box has heard enough at work to say how much noise it removes."""
    status = folder / "status.json"
    return status.exists() and json.loads(status.read_text()).get("noise_removed_db") is not None


@pytest.fixture
def faked(tmp_path: Path) -> Iterator[Faked]:
    found = Faked(tmp_path)
    yield found
    found.process.kill()
    found.process.wait()


def test_systemd_is_told_how_it_goes(faked: Faked, tmp_path: Path) -> None:
    faked.running()
    faked.until(lambda: measured(tmp_path))
    assert faked.notified.heard[0].startswith(b"READY=1\nSTATUS=")
    faked.until(lambda: any(line.startswith(b"STATUS=running, engine ") for line in faked.notified.heard))
    faked.process.send_signal(signal.SIGHUP)
    faked.until(lambda: b"READY=1" in faked.notified.heard)
    (reloading,) = [line for line in faked.notified.heard if line.startswith(b"RELOADING=1\nMONOTONIC_USEC=")]
    assert 0 <= time.monotonic() - int(reloading.rsplit(b"=")[-1]) / 1e6 < 60
    faked.until(lambda: bool(faked.records("settings")))  # it may come a moment after the word to systemd
    faked.process.terminate()
    assert faked.process.wait(5) == 0
    faked.notified.until(1)
    assert b"STOPPING=1" in faked.notified.heard
    assert faked.records("stop")
    (total,) = faked.records("total")
    assert KEYS > {key for key in total if key.startswith("QUIETBOX_")} >= MINUTE


def test_systemd_shows_the_line_that_status_prints(faked: Faked, tmp_path: Path) -> None:
    faked.running()
    faked.until(lambda: (tmp_path / "status.json").exists())
    no_figures = re.compile(r"[-+]?[\d.]+(e-?\d+)?")

    def alike() -> bool:
        """The line for systemd comes every 5 s, the file every second: a figure may be missing in the older one."""
        printed = quietbox(tmp_path, "status").stdout.strip()
        shown = next(line for line in reversed(faked.notified.heard) if line.startswith(b"STATUS=run")).decode()
        return no_figures.sub("", shown.removeprefix("STATUS=")) == no_figures.sub("", printed)

    faked.until(alike)


def test_the_watchdog_is_fed_only_while_the_sound_moves(faked: Faked) -> None:
    faked.running()
    before = faked.fed()
    faked.until(lambda: faked.fed() >= before + 2)
    faked.order("moving.clear()")
    time.sleep(1.5)
    frozen = faked.fed()
    time.sleep(3)
    assert faked.fed() == frozen
    faked.order("moving.set()")
    faked.until(lambda: faked.fed() > frozen)


def test_the_watchdog_is_fed_while_the_box_waits_for_a_card_and_can_look_for_it(faked: Faked) -> None:
    faked.running()
    faked.order("microphone.gone = True")
    faked.until(lambda: bool(faked.records("waiting")))
    before = faked.fed()
    faked.until(lambda: faked.fed() >= before + 2)
    faked.order("microphone.open_pcm = lambda *_: time.sleep(1000)")
    time.sleep(2.5)
    hung = faked.fed()
    time.sleep(3)
    assert faked.fed() == hung
    faked.process.terminate()
    assert faked.process.wait(5) == 1
    assert faked.records("hang")


def test_the_knob_is_obeyed_at_once_and_reported_once_a_turn(faked: Faked, tmp_path: Path) -> None:
    faked.running()
    faked.until(lambda: any("volume knob" in entry["MESSAGE"] for entry in faked.records("panel")))
    faked.order("[service.panel.pins.turn(-1) or time.sleep(0.05) for _ in range(4)]")
    faked.until(lambda: len(faked.records("order")) == 1)
    faked.order("service.panel.pins.turn(2); time.sleep(0.3); service._stopping.set()")
    assert faked.process.wait(10) == 0
    received = [(entry["MESSAGE"], entry["QUIETBOX_SOURCE"]) for entry in faked.records("order")]
    assert received == [("volume -26 dB, by knob", "knob"), ("volume -23 dB, by knob", "knob")]


def test_button_and_signal_do_the_same_and_the_journal_knows_which(faked: Faked) -> None:
    faked.running()
    faked.until(lambda: any("simulated" in entry["MESSAGE"] for entry in faked.records("panel")))
    faked.order("service.panel.pins.press(); time.sleep(0.2); service.panel.pins.release()")
    faked.until(lambda: len(faked.records("order")) == 1)
    faked.process.send_signal(signal.SIGUSR1)
    faked.until(lambda: len(faked.records("order")) == 2)
    faked.order("service.panel.pins.press(); time.sleep(1.2); service.panel.pins.release()")
    faked.until(lambda: len(faked.records("order")) == 3)
    received = [(entry["MESSAGE"], entry["QUIETBOX_SOURCE"]) for entry in faked.records("order")]
    assert received == [
        ("bypass on, by button", "button"),
        ("bypass off, by signal", "signal"),
        ("mute on, by button", "button"),
    ]
    faked.until(
        lambda: faked.records("state")[-1]["QUIETBOX_STATE"] == "muted"
    )  # the state is reported after the order
    states = [entry["QUIETBOX_STATE"] for entry in faked.records("state")]
    assert [state for state in states if state != "waiting"] == ["running", "bypass", "running", "muted"]


def test_a_pc_at_the_usb_cable_gives_orders_and_gets_answers(faked: Faked, tmp_path: Path) -> None:
    """A pseudo-terminal in place of the cable; the PC floods, is unplugged and comes again."""

    ends: list[int] = []

    def plug_in() -> int:
        pc, end = os.openpty()
        ends.append(end)
        faked.order(f"service._serial.path = type(service._serial.path)({os.ttyname(end)!r})")
        return pc

    def opened() -> bool:
        return not termios.tcgetattr(ends[-1])[3] & termios.ECHO

    def ask(line: bytes) -> str:
        os.write(pc, line + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            assert select.select([pc], [], [], 20)[0], answer
            answer += os.read(pc, 1)
        return answer.decode().rstrip()

    faked.running()
    controller = tmp_path / "sys/class/udc/3f980000.usb"
    controller.mkdir(parents=True)
    (controller / "state").write_text("configured\n")
    (controller / "function").write_text("configfs-gadget.quietbox\n")
    faked.order(f"service._serial.root = type(service._serial.root)({str(tmp_path)!r})")
    pc = plug_in()
    faked.order("config = replace(config, cable=replace(config.cable, usb_orders=True)); service._reload = True")
    faked.until(opened)
    assert ask(b"volume -30") == "ok volume -30 dB"
    assert ask(b"bypass on") == "ok bypass on"
    assert ask(b"volume 3").startswith("error [playback] volume_db = 3.0 is not a number")
    faked.until(lambda: faked.records("state")[-1]["QUIETBOX_STATE"] == "bypass")
    assert ask(b"status").startswith("ok bypass, engine ")
    assert json.loads((tmp_path / "status.json").read_text())["orders"] == []
    os.set_blocking(pc, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pc, b"limit 3\n" * 100)
    fed = faked.fed()
    done = quietbox(tmp_path, "bypass", "off")
    assert (done.returncode, done.stdout) == (0, "bypass off\n")
    faked.until(lambda: faked.fed() >= fed + 2)
    os.close(pc)
    pc = plug_in()
    faked.until(opened)
    assert ask(b"mute on") == "ok mute on"
    for end in (pc, *ends):
        os.close(end)
    received = [entry["MESSAGE"] for entry in faked.records("order") if entry.get("QUIETBOX_SOURCE") == "usb"]
    assert received[:2] == ["volume -30 dB, by usb", "bypass on, by usb"]
    assert len(received) < 30


def test_orders_are_obeyed_while_it_runs_and_kept_only_if_asked(faked: Faked, tmp_path: Path) -> None:
    faked.running()
    settings = tmp_path / "quietbox.toml"
    began = time.monotonic()
    (tmp_path / "orders").open("w").write("bypass on\nnonsense\n")  # as a shell's echo does
    faked.until(lambda: faked.records("state")[-1]["QUIETBOX_STATE"] == "bypass")
    assert time.monotonic() - began < 2
    received = [entry["MESSAGE"] for entry in faked.records("order")]
    assert any(text.startswith("order refused: 'nonsense' is not an order") for text in received)
    done = quietbox(tmp_path, "bypass", "off")
    assert (done.returncode, done.stdout) == (0, "bypass off\n")
    done = quietbox(tmp_path, "volume", "-40", "--keep", "--config", str(settings))
    assert (done.returncode, done.stdout) == (0, f"volume -40 dB, kept in {settings}\n")
    assert load(settings).playback.volume_db == -40
    done = quietbox(tmp_path, "engine", "dsp", "--json")
    assert json.loads(done.stdout) == {"order": "engine", "answer": "engine dsp"}
    faked.until(lambda: json.loads((tmp_path / "status.json").read_text())["engine"] == "dsp")
    done = quietbox(tmp_path, "limit", "500")
    assert done.returncode == 1
    assert done.stderr == "quietbox: [suppress] limit_db = 500.0 is not a number from 0 to 100 dB\n"
    faked.process.terminate()
    assert faked.process.wait(5) == 0
    assert not (tmp_path / "orders").exists()
    done = quietbox(tmp_path, "mute")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not running" in done.stderr


def on_a_terminal(folder: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """`quietbox` on a terminal of 80 by 24, and the other end of it."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = os.environ | {"RUNTIME_DIRECTORY": str(folder), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    process = subprocess.Popen(
        [sys.executable, "-m", "edge.cli", *arguments],
        env={name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    return process, ours


def test_the_box_can_be_watched_and_does_nothing_for_it_while_nobody_does(faked: Faked, tmp_path: Path) -> None:
    faked.running()
    faked.until(lambda: (tmp_path / "orders").exists())
    assert meters.read(tmp_path) is None
    page = tmp_path / "watched.html"
    process, terminal = on_a_terminal(tmp_path, "watch", "--record", str(page))
    drawn = b""
    over = time.monotonic() + 20
    while b"high-pass only" not in drawn or b"state: running" not in drawn or drawn.count(b"queue ") < 5:
        assert time.monotonic() < over, drawn[-2000:]
        drawn += os.read(terminal, 65_536)
    found = meters.read(tmp_path)
    assert found and -27 < found.level_in_dbfs < -18 and found.state == "running"
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while more := os.read(terminal, 65_536):
            drawn += more
    os.close(terminal)
    assert process.wait(5) == 0
    assert b"Traceback" not in drawn and b"\x1b[?1049l" in drawn
    assert drawn.rstrip().endswith(str(page).encode())
    assert "high-pass only" in page.read_text()
    assert not faked.records("order")  # it would fill the journal
    assert json.loads((tmp_path / "status.json").read_text())["orders"] == []
    faked.order("service._metering._until_s = 0")  # as 5 s after the last order
    faked.until(lambda: not (tmp_path / "meters").exists())
    faked.process.terminate()
    assert faked.process.wait(5) == 0
    done = quietbox(tmp_path, "watch", "--record", str(tmp_path / "none.html"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "quietbox: quietbox is not running: systemctl start quietbox\n"
    assert not (tmp_path / "none.html").exists()


MINUTE = {
    *("QUIETBOX_STATE", "QUIETBOX_ENGINE", "QUIETBOX_LEVEL_IN_DBFS", "QUIETBOX_LEVEL_OUT_DBFS", "QUIETBOX_QUEUE_MS"),
    *("QUIETBOX_SPEECH_SHARE", "QUIETBOX_NOISE_REMOVED_DB", "QUIETBOX_XRUNS_IN", "QUIETBOX_XRUNS_OUT"),
    *("QUIETBOX_DRIFT_PPM", "QUIETBOX_HOP_P50_US", "QUIETBOX_HOP_P99_US", "QUIETBOX_HOP_MAX_US", "QUIETBOX_LATE_HOPS"),
    *("QUIETBOX_THROTTLING", "QUIETBOX_CPU_SHARE", "QUIETBOX_MEMORY_MB"),
}
"""What a minute tells on a board without a thermometer."""


def test_each_minute_has_its_own_figures(faked: Faked, tmp_path: Path) -> None:
    faked.running()
    faked.until(lambda: measured(tmp_path))
    faked.order("service._report_statistics(); jack.xruns_to_come = 1")
    faked.until(lambda: len(faked.records("statistics")) == 1)
    first = faked.records("statistics")[0]
    assert first.keys() >= MINUTE and {key for key in first if key.startswith("QUIETBOX_")} <= KEYS
    time.sleep(1)
    faked.order("service._report_statistics()")
    faked.until(lambda: len(faked.records("statistics")) == 2)
    second = faked.records("statistics")[1]
    xruns = [int(entry["QUIETBOX_XRUNS_OUT"]) for entry in (first, second)]
    assert xruns == [0, 1]
    assert 0.5 < float(second["QUIETBOX_SECONDS"]) < 10
    faked.order("microphone.gone = True")
    faked.until(lambda: bool(faked.records("waiting")))
    faked.order("service._report_statistics(); service._report_statistics()")
    faked.until(lambda: len(faked.records("statistics")) == 4)
    assert faked.records("statistics")[2]["QUIETBOX_XRUNS_OUT"] == "0"
    nothing = faked.records("statistics")[3]
    assert nothing["QUIETBOX_SECONDS"] == "0.0" and "QUIETBOX_LEVEL_IN_DBFS" not in nothing
    assert nothing["MESSAGE"] == "last minute: no sound, waiting"


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
        assert "the current settings stay in use" in box.said()
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
        assert time.monotonic() - began < 2.5
    assert "Traceback" not in box.said()


def test_a_status_that_cannot_be_written_is_said_once_and_the_sound_goes_on(tmp_path: Path) -> None:
    (tmp_path / "status.json").mkdir()
    with PacedRig():
        box = Running(tmp_path)
        box.until("the status file cannot be written")
        box.until("state: running")
        time.sleep(2.5)
        assert box.said().count("the status file cannot be written") == 1
        box.end()


def handled(pid: int, number: signal.Signals) -> bool:
    """Whether a process ignores or catches a signal, rather than die of it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigIgn", "SigCgt"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def test_a_fault_while_settings_are_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A thread that ends in a traceback tells nobody that the order was not obeyed."""

    def load() -> Config:
        raise MemoryError("no room\nfor an engine")

    said: list[str] = []
    service = Service.__new__(Service)  # no signal handlers, no cards
    service._load, service._journal = load, Journal.__new__(Journal)
    monkeypatch.setattr(service._journal, "report", lambda sentence, kind: said.append(sentence))
    service._reload_settings()
    assert len(said) == 1 and "(MemoryError: no room for an engine); not all settings were applied" in said[0]
    assert capfd.readouterr().err == ""


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


@pytest.mark.slow
def test_latency_is_measured_through_real_alsa(tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_text(SETTINGS.replace('"spk"', '"feed"').replace("volume_db = 0\n", ""))
    with PacedRig():
        done = quietbox(tmp_path, "latency", "--config", str(tmp_path / "q.toml"), "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert abs(found["measured_ms"] - found["budget_ms"]) < 40
        (tmp_path / "q.toml").write_text(SETTINGS)
        silent = quietbox(tmp_path, "latency", "--config", str(tmp_path / "q.toml"))
        assert silent.returncode == 1 and "did not hear the" in silent.stderr

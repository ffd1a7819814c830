"""Inside the machine: one function a proof. Run by the product's own Python as root, one line of JSON a result.

    /opt/quietbox/current/bin/python /share/proofs.py NAME...

A proof returns what it measured in words, or raises ``Failed`` with them.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import stage  # type: ignore[import-not-found]  # lies beside this file in the machine
from numpy.polynomial import Polynomial
from scipy.ndimage import median_filter
from scipy.signal import correlate, resample_poly
from stage import CABLE, JACK, LAG_S, MICROPHONE, SERVICE, SETTINGS, call, show, state, status, wait_for

from edge import RATE_HZ
from edge.console import run_main
from edge.dsp.spectrum import Floats
from edge.journal import FIELDS
from hw.install import ledger, wheels
from hw.prove.demo import judge, pauses
from models.measures import si_sdr_db

SHARE = Path("/share")
RESULTS = SHARE / "results.jsonl"
PAIR = "rain_en_5dB"
BACK_S = 3.0
"""The box has to be back this long after a card is plugged in again or its process was killed."""


speaker: stage.Speaker
led: stage.Led


ALWAYS = """
    EVENT STATE ENGINE SECONDS LEVEL_IN_DBFS LEVEL_OUT_DBFS SPEECH_SHARE NOISE_REMOVED_DB XRUNS_IN XRUNS_OUT
    DROPPED_HOPS QUEUE_MS DRIFT_PPM LATENCY_MS HOP_P50_US HOP_P99_US HOP_MAX_US LATE_HOPS MEMORY_MB CPU_SHARE
"""
"""What every record of a minute must tell, whatever board and cards."""


class Failed(Exception):
    """The proof did not hold; the text says what was measured."""


@dataclass(frozen=True)
class Result:
    name: str
    passed: bool
    words: str
    seconds: float


def check(holds: bool, words: str) -> str:
    """``words`` if it holds; raises Failed with them if not."""
    if not holds:
        raise Failed(words)
    return words


def pair() -> tuple[Floats, Floats]:
    """(clean, noisy) speech, 16 kHz."""
    clean, noisy = (
        soundfile.read(SHARE / "sounds" / kind / f"{PAIR}.flac", dtype="float32")[0] for kind in ("clean", "noisy")
    )
    return clean, noisy


# The plain machine.


def boots() -> str:
    """service starts at boot; power-on to first hop played"""
    at = first(stage.Reader.__new__(stage.Reader), "running")
    found = show("ExecMainStartTimestampMonotonic", "NRestarts", "UnitFileState")
    began = int(found["ExecMainStartTimestampMonotonic"]) / 1e6
    systemd = int(call("systemctl", "show", "-P", "UserspaceTimestampMonotonic")) / 1e6
    return check(
        found["UnitFileState"] == "enabled" and found["NRestarts"] == "0",
        f"sound {at:.1f} s after the kernel's start, {at - systemd:.1f} s after systemd's, {at - began:.1f} s after "
        f"the service's; {found['UnitFileState']}, {found['NRestarts']} restarts",
    )


def first(reader: stage.Reader, wanted: str) -> float:
    """Monotonic time of the first record of this boot that tells this state."""
    reader._cursor = ""
    wait_for(lambda: state() == wanted, 120)
    return reader.at(20, QUIETBOX_EVENT="state", QUIETBOX_STATE=wanted)


def enhanced() -> str:
    """noisy speech into the microphone comes out enhanced, as from `quietbox enhance`"""
    (live,), alike = heard_at(JACK)
    return check(live.good, f"{live.words}; {status()['engine']}, {alike}")


def cable() -> str:
    """clean microphone for other programs: one records the virtual cable while the jack plays, then goes away"""
    with stage.settings(SETTINGS.read_text() + '\n[cable]\ndevice = "Cable"\n'):
        time.sleep(2)
        wait_for(lambda: state() == "running", 60)
        time.sleep(5)
        (jack, clean), alike = heard_at(JACK, CABLE)
        (after,), later = heard_at(JACK)
    return check(
        jack.good and clean.good and after.good,
        f"jack: {jack.words}; cable: {clean.words}; {alike}; with nobody at the cable the jack: {after.words}; {later}",
    )


def cable_only() -> str:
    """the cable instead of the jack"""
    text = re.sub(r"(?ms)^\[playback\].*?(?=^\[|\Z)", "", SETTINGS.read_text())
    with stage.settings(text + '\n[playback]\ndevice = "off"\n[cable]\ndevice = "Cable"\n'):
        time.sleep(2)
        wait_for(lambda: state() == "running", 60)
        time.sleep(5)
        (live,), alike = heard_at(CABLE)
        silent = not (Path("/proc/asound") / JACK / "pcm0p/sub0/hw_params").read_text().startswith("access")
    return check(live.good and silent, f"{live.words}; {alike}; the jack is {'left alone' if silent else 'open'}")


def gadget() -> str:
    """the USB microphone: taken by the kernel, seen by the PC's driver at its other end, told while nobody reads it

    The controller (dummy_hcd) is both ends of one cable and carries no audio transfers, so nothing can be recorded.
    """
    with stage.settings(SETTINGS.read_text() + "\n[cable]\nusb = true\n"):
        call("systemctl", "restart", "quietbox-gadget.service")
        try:
            wait_for(lambda: state() == "running", 60)
            wait_for(lambda: "quietbox" in Path("/proc/asound/cards").read_text().lower(), 20)
            port = call("/opt/quietbox/current/bin/python", "-m", "edge.tools.usb_microphone", "status")
            cards = re.findall(r"^ *(\d+) \[(\w+) *\]: (.*)$", Path("/proc/asound/cards").read_text(), re.M)
            number, _, name = next(card for card in cards if "USB-Audio" in card[2])
            offer = Path(f"/proc/asound/card{number}/stream0").read_text()
            wait_for(lambda: status().get("cable_state") in ("playing", "unread"), 20)
            said = status()
        finally:
            call("systemctl", "stop", "quietbox-gadget.service")
    left = [*Path("/sys/kernel/config/usb_gadget").iterdir()]
    capture = offer[offer.find("Capture:") :]
    wanted = ("Format: S16_LE", "Channels: 1", "Rates: 48000")
    return check(
        "configured" in port and "Capture:" in offer and all(word in capture for word in wanted) and not left,
        f"{port}; the PC's driver made of it {name!r}: {', '.join(wanted)}; the box says of its cable "
        f"{said['cable_state']!r} and is {said['state']}; removed without a trace",
    )


@dataclass(frozen=True)
class Verdict:
    """What came out at one place, against what `quietbox enhance` makes of the same sound."""

    good: bool
    words: str


def heard_at(*cards: str) -> tuple[list[Verdict], str]:
    """Play noisy speech into the microphone and listen at these cards; and what was lost on the way, in words."""
    clean, noisy = pair()
    call("quietbox", "enhance", str(SHARE / "sounds" / "noisy" / f"{PAIR}.flac"), "-o", "/run/file.wav")
    from_file = soundfile.read("/run/file.wav", dtype="float32")[0]
    with contextlib.ExitStack() as stack:
        ears = [stack.enter_context(stage.Ear(card)) for card in cards]
        time.sleep(5)  # the machine has to calm down: its clock stumbles when programs start
        begins, before = [ear.now() for ear in ears], xruns()
        time.sleep(speaker.say(noisy) + 1 + LAG_S)
        sounds = [ear.since(begin) for ear, begin in zip(ears, begins, strict=True)]
        lost = [now - then for now, then in zip(xruns(), before, strict=True)]
    found = []
    for card, heard in zip(cards, sounds, strict=True):
        soundfile.write(SHARE / f"heard-{card}.wav", heard, RATE_HZ)
        live = lined_up(heard, from_file)
        file, box = judge(clean, noisy, from_file), judge(clean, noisy, live)
        good = abs(box.si_sdr_after_db - file.si_sdr_after_db) < 1 and box.noise_removed_db > file.noise_removed_db - 3
        words = (
            f"SI-SDR {box.si_sdr_before_db:.1f} -> {box.si_sdr_after_db:.1f} dB (file {file.si_sdr_after_db:.1f}), "
            f"noise removed {box.noise_removed_db:.1f} dB (file {file.noise_removed_db:.1f}), "
            f"against the file {si_sdr_db(from_file, live):.1f} dB"
        )
        found.append(Verdict(good, words))
    return found, f"xruns {lost[0]} in {lost[1]} out, {lost[2]} hops dropped"


def lined_up(heard: Floats, wanted: Floats) -> Floats:
    """The part of ``heard`` that lies on ``wanted``, stretched as it takes.

    The box follows the jack's clock: after a start it steers by some hundred ppm until its queue stands right, and
    SI-SDR does not forgive the half sample that this is in every 100 ms.
    """
    start = int(correlate(heard, wanted, "full", "fft").argmax()) - (len(wanted) - 1)
    check(0 <= start <= len(heard) - len(wanted), "what was played is not in the recording")
    fine, slack, block = 8, RATE_HZ // 50, RATE_HZ // 10
    finely = resample_poly(np.pad(heard, slack)[start : start + len(wanted) + 2 * slack], fine, 1)
    centres, lags = [], []
    for begin in range(0, len(wanted) - block, block // 2):
        target = wanted[begin : begin + block]
        sparse = np.zeros(fine * block, np.float32)
        sparse[::fine] = target
        nearby = finely[fine * begin : fine * (begin + block + 2 * slack)]
        lag = int(correlate(nearby, sparse, "valid", "fft").argmax())
        found = nearby[lag : lag + fine * block : fine]
        if np.dot(found, target) > 0.98 * np.linalg.norm(found) * np.linalg.norm(target) > 0:
            centres.append(begin + block / 2)
            lags.append(lag)
    check(len(lags) > 10, "what was played is hardly like what the file became")
    at, lag_there = np.array(centres), np.array(lags)
    drift = Polynomial.fit(at, median_filter(lag_there, 9, mode="mirror"), 4)
    sound = np.abs(drift(at) - lag_there) < 4 * fine  # a vowel is like itself a period later
    drift = Polynomial.fit(at[sound], lag_there[sound], 6)  # steering is slow
    samples = np.arange(len(wanted))
    places = fine * samples + drift(samples)
    return np.interp(places, np.arange(len(finely)), finely).astype(np.float32)


def led_follows() -> str:
    """the LED follows speech"""
    clean, _ = pair()
    silence = np.zeros(3 * RATE_HZ, np.float32)
    wait_for(lambda: not status()["speaking"], 20)
    began = time.monotonic() + 0.25  # through both cards' buffers
    speaker.say(np.concatenate([silence, clean, silence]))
    time.sleep(6 + len(clean) / RATE_HZ + 0.5)
    before = led.lit(began, began + 2.5)
    spoken = ~pauses(clean)
    talk = [began + 3 + at / RATE_HZ for at in (int(spoken.argmax()), len(spoken) - int(spoken[::-1].argmax()))]
    during, after = led.lit(talk[0] + 0.3, talk[1]), led.lit(talk[1] + 1.2)
    return check(
        before < 0.1 and during > 0.7 and after < 0.1,
        f"lit {before:.0%} of the time before, {during:.0%} during, {after:.0%} after speech",
    )


def button() -> str:
    """button: short press toggles bypass, long press mutes; seen in sound, LED and journal"""
    noise = 0.03 * np.random.default_rng(3).standard_normal(60 * RATE_HZ).astype(np.float32)
    reader = stage.Reader()
    with stage.Ear() as ear:
        speaker.say(noise)
        time.sleep(4)
        found = {"running": ear.level_dbfs(2)}
        for seconds, wanted in ((0.2, "bypass"), (0.2, "running"), (1.2, "muted"), (1.2, "running")):
            stage.press(seconds)
            wait_for(lambda wanted=wanted: state() == wanted, 10)
            if wanted != "running":
                began = time.monotonic()
                found[wanted] = ear.level_dbfs(2)
                found[f"{wanted} lit"] = led.lit(began)
        speaker.hush()
    orders = [f"{entry.get('MESSAGE')}" for entry in reader.records(QUIETBOX_EVENT="order", QUIETBOX_SOURCE="button")]
    return check(
        found["bypass"] > found["running"] + 10
        and found["muted"] < -90
        and 0.05 < found["bypass lit"] < 0.4
        and found["muted lit"] == 0
        and len(orders) == 4,
        f"jack with noise: on {found['running']} dBFS, bypass {found['bypass']}, muted {found['muted']}; LED lit "
        f"{found['bypass lit']:.0%} in bypass, {found['muted lit']:.0%} muted; journal: {'; '.join(orders)}",
    )


def journal_fields() -> str:
    """structured fields in journalctl -o json"""
    reader = stage.Reader()
    clean, _ = pair()
    speaker.say(np.tile(clean, 5))
    record = None
    try:
        reader.at(100, QUIETBOX_EVENT="statistics")
        record = reader.records(QUIETBOX_EVENT="statistics")[0]
    finally:
        speaker.hush()
    missing = [f"QUIETBOX_{name}" for name in ALWAYS.split() if f"QUIETBOX_{name}" not in record]
    there = [name for name in record if name.startswith("QUIETBOX_")]
    foreign = [name for name in there if name not in {field.key for field in FIELDS}]
    words = f"{len(there)} QUIETBOX_ fields a minute: noise removed {record.get('QUIETBOX_NOISE_REMOVED_DB')} dB, "
    words += f"speech {record.get('QUIETBOX_SPEECH_SHARE')}"
    return check(
        not missing and not foreign, words + "".join(f", missing {name}" for name in missing) + "".join(foreign)
    )


def unplugged(card: str) -> str:
    """Pull a card, look at the box, put the card back."""
    reader = stage.Reader()
    threading.Thread(target=stage.unplug, args=(card,), daemon=True).start()
    waiting_s = wait_for(lambda: state() == "waiting", 15)
    wait_for(lambda: not (stage.DRIVER / stage.DEVICES[card]).exists(), 15)
    began = time.monotonic()
    time.sleep(8.2)
    rises = led.rises(began)
    share = led.lit(began)
    stage.plug(card)
    back_s = wait_for(lambda: state() == "running", 30)
    period = statistics.median(np.diff(rises)) if len(rises) > 1 else float("nan")
    said = [entry["MESSAGE"] for entry in reader.records(QUIETBOX_EVENT="waiting")]
    return check(
        back_s <= BACK_S and 0.35 < share < 0.65 and 1.8 < period < 2.2 and bool(said),
        f"waiting after {waiting_s:.1f} s, LED blinks every {period:.1f} s; running {back_s:.1f} s after it came back "
        f"({said[0] if said else 'no output'!r})",
    )


def microphone_unplugged() -> str:
    """microphone pulled out and put back"""
    return unplugged(MICROPHONE)


def jack_unplugged() -> str:
    """output pulled out and put back"""
    return unplugged(JACK)


def watchdog() -> str:
    """kill -STOP: the watchdog restarts the service"""
    reader, victim = stage.Reader(), stage.runner()
    began = time.monotonic()
    os.kill(victim, signal.SIGSTOP)
    killed_s = wait_for(lambda: not Path(f"/proc/{victim}").exists(), 40)
    wait_for(lambda: stage.runner() not in (0, victim), 60)
    over_s = time.monotonic() - began
    return check(
        "watchdog" in reader.text().lower() and over_s < 30,
        f"killed after {killed_s:.1f} s, running again after {over_s:.1f} s",
    )


def killed() -> str:
    """kill -9, twenty times"""
    times, systemds = [], []
    for _ in range(20):
        victim = stage.runner()
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda victim=victim: stage.runner() not in (0, victim), 60)
        times.append(time.monotonic() - began)
        systemds.append(int(show("ExecMainStartTimestampMonotonic")["ExecMainStartTimestampMonotonic"]) / 1e6 - began)
        time.sleep(0.3)
    return check(
        max(times) <= BACK_S,
        f"running again after {statistics.median(times):.1f} s in the middle, {max(times):.1f} s at the most; of that "
        f"{statistics.median(systemds):.1f} s until systemd had started the program",
    )


@contextlib.contextmanager
def spoilt(path: Path, content: bytes) -> Iterator[None]:
    """A file with other content for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def bad_model() -> str:
    """corrupt model"""
    folder = Path(call("/opt/quietbox/current/bin/python", "-c", "import models; print(models.__path__[0])"))
    victims = sorted(path for path in (folder / "quietbox").iterdir() if path.suffix in (".onnx", ".npz"))
    reader = stage.Reader()
    with contextlib.ExitStack() as stack:
        for path in victims:
            stack.enter_context(spoilt(path, path.read_bytes()[:1000] + b"\0" * 5000))
        stage.restart()
        reader.at(60, QUIETBOX_EVENT="start")
        wait_for(lambda: state() in ("running", "degraded"), 60)
        engine = status()["engine"]
    said = [entry["MESSAGE"] for entry in reader.records(QUIETBOX_EVENT="engine")]
    stage.restart()
    return check(bool(said) and "network" not in engine, f"{engine} goes on; {said[0] if said else 'no output'!r}")


def bad_settings() -> str:
    """corrupt settings: refused at reload, named at the start, running once fixed"""
    good = SETTINGS.read_bytes()
    reader = stage.Reader()
    with spoilt(SETTINGS, good + b"\n[capture\nnoise = maybe\n"):
        call("systemctl", "reload", SERVICE)
        wait_for(lambda: str(SETTINGS) in reader.text(), 20)
        kept = state()
        stage.restart()
        time.sleep(15)
        lines = [entry["MESSAGE"] for entry in reader.records() if str(SETTINGS) in str(entry.get("MESSAGE"))]
        meanwhile = state() or show("SubState")["SubState"]
    back_s = wait_for(lambda: state() == "running", 60) if meanwhile != "running" else 0.0
    return check(
        kept == "running" and len(lines) >= 2 and back_s <= 2 * BACK_S,
        f"reload keeps {kept}; at the start: {lines[-1]!r}, box {meanwhile}, running {back_s:.1f} s after it was fixed",
    )


def busy_card() -> str:
    """somebody else holds the microphone"""
    reader = stage.Reader()
    call("systemctl", "stop", SERVICE)
    terms = ("-f", "S32_LE", "-r", str(RATE_HZ), "-c", "1")
    thief = subprocess.Popen(["arecord", "-q", "-D", f"hw:{MICROPHONE},0", "-t", "raw", *terms, "/dev/null"])
    try:
        time.sleep(1)
        call("systemctl", "start", SERVICE)
        reader.at(60, QUIETBOX_EVENT="waiting")
        said = reader.records(QUIETBOX_EVENT="waiting")[0]["MESSAGE"]
        doctor = subprocess.run(["quietbox", "doctor"], capture_output=True, text=True)
    finally:
        thief.kill()
        thief.wait()
    back_s = wait_for(lambda: state() == "running", 30)
    return check(
        back_s <= BACK_S and "arecord" in said and doctor.returncode != 0 and "arecord" in doctor.stdout,
        f"{said!r}; doctor exits {doctor.returncode}, {'names' if 'arecord' in doctor.stdout else 'does not name'} "
        f"arecord; running {back_s:.1f} s after it let go",
    )


def full_disk() -> str:
    """full disk"""
    reader, filler = stage.Reader(), Path("/var/filler")
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * (1 << 20)):
                pass
        with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 512):
                pass
        free = shutil.disk_usage("/").free
        stage.restart()
        reader.at(60, QUIETBOX_EVENT="start")
        took_s = wait_for(lambda: state() == "running", 60)
    finally:
        filler.unlink(missing_ok=True)
    return check(free < 1 << 20, f"{free} bytes free: starts all the same, running {took_s:.1f} s later")


def security() -> str:
    """systemd-analyze security"""
    text = call("systemd-analyze", "security", SERVICE, "--no-pager")
    line = next((line for line in text.splitlines() if "Overall exposure" in line), text[-200:])
    found = re.search(r": ([\d.]+) (\w+)", line)
    return check(bool(found) and float(found[1]) <= 1.5, line.strip("→ ") if found else line)  # type: ignore[index]


def doctor() -> str:
    """quietbox doctor, with the box running"""
    done = subprocess.run(["quietbox", "doctor"], capture_output=True, text=True)
    (SHARE / "doctor.txt").write_text(done.stdout + done.stderr)
    tail = (done.stdout + done.stderr).strip().splitlines()[-1:]
    return check("Traceback" not in done.stderr, f"exit status {done.returncode}: {tail[0] if tail else 'no output'}")


# Other boots.


def no_microphone() -> str:
    """boot without the microphone, which is plugged in later"""
    reader = stage.Reader()
    reader._cursor = ""
    at = first(reader, "waiting")
    said = reader.records(QUIETBOX_EVENT="waiting")[0]["MESSAGE"]
    stage.plug(MICROPHONE)
    back_s = wait_for(lambda: state() == "running", 60)
    return check(
        back_s <= BACK_S, f"waiting {at:.1f} s after power-on ({said!r}), running {back_s:.1f} s after it came"
    )


def read_only() -> str:
    """read-only root"""
    options = next(line.split()[3] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[1] == "/")
    at = first(stage.Reader.__new__(stage.Reader), "running")
    _, noisy = pair()
    with stage.Ear() as ear:
        begin = ear.now()
        time.sleep(speaker.say(noisy) + LAG_S)
        level = stage.level_dbfs(ear.since(begin))
    complaints = [line for line in stage.Reader().records(PRIORITY="3")]
    return check(
        "ro" in options.split(",") and level > -60 and state() == "running" and not complaints,
        f"/ is {options.split(',')[0]}; running {at:.1f} s after power-on, speech at {level} dBFS on the jack",
    )


# Long ones.


class Lateness(threading.Thread):
    """How late the machine itself wakes somebody who asks first of all: what no program in it could do better."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.late_ms: list[float] = []
        self.stood_at: list[float] = []
        """When it stood still for more than 20 ms."""
        self.start()

    def run(self) -> None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(90))
        due = time.monotonic()
        while True:
            due += 0.02
            time.sleep(max(0.0, due - time.monotonic()))
            late = time.monotonic() - due
            self.late_ms.append(1000 * late)
            if late > 0.02:
                due = time.monotonic()
                self.stood_at.append(due)

    def words(self) -> str:
        late = np.array(self.late_ms[10:])
        return (
            f"machine's own timer late by {np.percentile(late, 99):.1f} ms p99, {late.max():.0f} ms max, "
            f"{int((late > 20).sum())} times > 20 ms"
        )


class Tally:
    """Xruns and lost hops, and those among them in seconds in which the machine itself stood still: sound that no
    program in it could have saved."""

    def __init__(self) -> None:
        self.late = Lateness()
        self._last = xruns()
        self.lost, self.own = [0, 0, 0], 0

    def over(self, seconds: float) -> None:
        """Watch for so long; the status is a second old at the most."""
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            time.sleep(0.5)
            now = xruns()
            more = [new - old for new, old in zip(now, self._last, strict=True)]
            self.lost = [count + gained for count, gained in zip(self.lost, more, strict=True)]
            if any(more) and not any(at > time.monotonic() - 3 for at in self.late.stood_at):
                self.own += sum(more)
            self._last = now

    def words(self) -> str:
        return (
            f"xruns {self.lost[0]} in, {self.lost[1]} out, {self.lost[2]} hops dropped, {self.own} of them while the "
            f"machine ran; {self.late.words()}"
        )


def xruns() -> tuple[int, int, int]:
    said = status()
    return said["xruns_in"], said["xruns_out"], said["dropped_hops"]


def drift() -> str:
    """two clocks 300 ppm apart, ten minutes"""
    ppm = 300
    call("amixer", "-c", JACK, "cset", "iface=PCM,name='PCM Rate Shift 100000',device=1", str(100_000 + ppm // 10))
    try:
        stage.restart()
        time.sleep(2)
        wait_for(lambda: state() == "running", 60)
        time.sleep(5)
        tally, (_, noisy) = Tally(), pair()
        over = time.monotonic() + float(os.environ["PI_SECONDS"])
        while time.monotonic() < over:
            tally.over(speaker.say(noisy))
        said = status()
    finally:
        call("amixer", "-c", JACK, "cset", "iface=PCM,name='PCM Rate Shift 100000',device=1", "100000")
    return check(
        not tally.own and abs(abs(said["drift_ppm"]) - ppm) < 60,
        f"{said['seconds']:.0f} s: {tally.words()}; drift measured {said['drift_ppm']:+.0f} ppm, queue "
        f"{said['queue_ms']:.1f} ms",
    )


def load() -> str:
    """128-frame periods under full processor load"""
    text = SETTINGS.read_text()
    for section in ("capture", "playback"):
        text = re.sub(rf"(?ms)(^\[{section}\].*?)^period_ms *=.*?$", r"\1", text, count=1)
        text = re.sub(rf"(?m)^\[{section}\].*$", f"[{section}]\nperiod_ms = 8", text, count=1)
    seconds = float(os.environ["PI_SECONDS"])
    renamed = Path(f"/proc/asound/{JACK}").resolve().name.removeprefix("card")
    identity = Path(f"/sys/class/sound/card{renamed}/id")
    identity.write_text("Headset")  # a name that stands for no Pi jack: those move in 10 ms only
    burners = []
    try:
        with stage.settings(text.replace(JACK, "Headset")):
            time.sleep(2)
            wait_for(lambda: state() == "running", 60)
            time.sleep(5)
            burners = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(3)]
            tally, (_, noisy) = Tally(), pair()
            over = time.monotonic() + seconds
            while time.monotonic() < over:
                tally.over(speaker.say(noisy))
            said = status()
    finally:
        for burner in burners:
            burner.kill()
        identity.write_text(JACK)
    return check(
        not tally.own,
        f"{seconds:.0f} s, 3 busy loops: {tally.words()}; {said['microphone']}; hop p99 {said['hop_p99_us']:.0f} us",
    )


# The installer on the running box; what it takes lies in /share/checkout and /share/wheels.

OPT = Path("/opt/quietbox")
CHECKOUT = SHARE / "checkout"


def installer(*words: str) -> list[str]:
    """The command that the user types."""
    return [str(CHECKOUT / "install.sh"), "--board", "--wheels", str(SHARE / "wheels"), *words]


def install(*words: str) -> tuple[int, str]:
    """Exit status and last line of the installer."""
    done = subprocess.run(installer(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    with (SHARE / "installer.log").open("a") as log:
        log.write(done.stdout + done.stderr)
    lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
    return done.returncode, lines[-1]


def in_use() -> str:
    return os.readlink(OPT / "current")


@contextlib.contextmanager
def later_version(file: str, old: str, new: str) -> Iterator[None]:
    """A checkout in which the first ``old`` of a file has become ``new``, its wheel, and the list of sums beside it."""
    path, wheel = CHECKOUT / file, next((SHARE / "wheels").glob("quietbox-*.whl"))
    sums = SHARE / "wheels" / wheels.SUMS
    before, listed = (path.read_bytes(), wheel.read_bytes()), sums.read_text()
    collected = ledger.digest(wheel)
    path.write_text(path.read_text().replace(old, new, 1))
    try:
        with zipfile.ZipFile(io.BytesIO(before[1])) as held, zipfile.ZipFile(wheel, "w") as made:
            for name in held.namelist():
                made.writestr(name, path.read_bytes() if name == file else held.read(name))
        sums.write_text(listed.replace(collected, ledger.digest(wheel)))
        yield
    finally:
        path.write_bytes(before[0])
        wheel.write_bytes(before[1])
        sums.write_text(listed)


def way_back() -> str:
    """a new version that cannot start: the one before runs on"""
    before = in_use()
    with later_version("edge/service.py", "for refusal in lock_memory_and_freeze_gc():", "raise SystemExit(7)"):
        status, words = install()
    wait_for(lambda: state() == "running", 60)
    return check(
        status == 1 and "runs again" in words and in_use() == before and show("ActiveState")["ActiveState"] == "active",
        f"exit status {status}: {words}",
    )


def cut_off() -> str:
    """an upgrade killed at three moments: what ran runs on, the next try finishes"""
    before, moments_s = in_use(), (2.0, 6.0, 12.0)
    still = []
    with later_version("edge/__init__.py", '"""', '"""Later. '):
        for moment_s in moments_s:
            run = subprocess.Popen(
                installer(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(moment_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            still.append(in_use() == before and state() == "running")
        status, words = install()
    wait_for(lambda: state() == "running", 60)
    return check(
        all(still) and status == 0 and in_use() != before and os.readlink(OPT / "previous") == before,
        f"killed after {', '.join(f'{moment_s:g}' for moment_s in moments_s)} s, the box ran on; then: {words}",
    )


def upgraded() -> str:
    """a new version over the running box: settings kept; then nothing left to do"""
    SETTINGS.write_text(SETTINGS.read_text() + "# mine\n")
    settings, before = SETTINGS.read_bytes(), in_use()
    with later_version("edge/__init__.py", '"""', '"""Later still. '):
        status, words = install()
        wait_for(lambda: state() == "running", 60)
        after = in_use()
        again = subprocess.run(installer("--dry-run"), capture_output=True, text=True).stdout
    return check(
        status == 0
        and words.endswith("the box works")
        and after != before
        and SETTINGS.read_bytes() == settings
        and "planned steps" not in again,
        f"exit status {status}, {words}; {before} -> {after}, settings as they were; a second run has nothing to do",
    )


def uninstalled() -> str:
    """taken off the running box"""
    unit = Path("/etc/systemd/system/quietbox.service")
    status, words = install("--uninstall")
    left = [str(path) for path in (OPT, unit, Path("/usr/local/bin/quietbox"), SETTINGS) if path.exists()]
    account = "quietbox:" in Path("/etc/passwd").read_text()
    kept = SETTINGS.with_name(f"{SETTINGS.name}.kept").is_file()
    loaded = show("LoadState")["LoadState"]
    return check(
        status == 0 and not left and not account and kept and loaded == "not-found",
        f"exit status {status}: {words}; left: {', '.join(left) or 'the settings only'}; unit {loaded}",
    )


def upkeep() -> str:
    """memory and processor time of the service"""
    seconds = float(os.environ["PI_SECONDS"])
    time.sleep(10)
    _, noisy = pair()

    runner, restarts, lost = show("MainPID")["MainPID"], show("NRestarts")["NRestarts"], xruns()

    def resident_mb() -> float:
        text = Path(f"/proc/{runner}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) / 1024

    began, used, before_mb = time.monotonic(), int(show("CPUUsageNSec")["CPUUsageNSec"]), resident_mb()
    tops = [before_mb]
    while time.monotonic() - began < seconds:
        time.sleep(speaker.say(noisy))
        tops.append(resident_mb())
    share = (int(show("CPUUsageNSec")["CPUUsageNSec"]) - used) / 1e9 / (time.monotonic() - began)
    gained = [now - then for now, then in zip(xruns(), lost, strict=True)]
    return check(
        tops[-1] < before_mb + 10 and show("NRestarts")["NRestarts"] == restarts,
        f"{seconds / 60:.0f} min: RSS {before_mb:.0f} -> {tops[-1]:.0f} MB (max {max(tops):.0f}), processor "
        f"{100 * share:.0f} % of one core (User-Mode Linux pays much for each system call), "
        f"xruns {gained[0]} in {gained[1]} out",
    )


PROOFS: dict[str, Callable[[], str]] = {
    proof.__name__: proof
    for proof in (
        boots,
        security,
        enhanced,
        cable,
        cable_only,
        gadget,
        led_follows,
        button,
        journal_fields,
        microphone_unplugged,
        jack_unplugged,
        watchdog,
        killed,
        bad_model,
        bad_settings,
        busy_card,
        full_disk,
        doctor,
        no_microphone,
        read_only,
        drift,
        load,
        way_back,
        cut_off,
        upgraded,
        uninstalled,
        upkeep,
    )
}


def main() -> None:
    global speaker, led
    speaker, led = stage.Speaker(), stage.Led()
    for name in sys.argv[1:]:
        began = time.monotonic()
        try:
            if name not in ("boots", "no_microphone", "read_only"):
                stage.settled()
                time.sleep(1)
            words, passed = PROOFS[name](), True
        except Failed as failed:
            words, passed = str(failed), False
        except Exception as error:
            words, passed = f"{type(error).__name__}: {error}", False
        with RESULTS.open("a") as out:
            print(json.dumps(asdict(Result(name, passed, words, round(time.monotonic() - began, 1)))), file=out)


if __name__ == "__main__":
    run_main(main, "proofs")

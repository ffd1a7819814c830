"""Inside the machine: faults. Cards pulled out and taken, processes stopped and killed, broken files, a full disk."""

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import proving
import stage
from proving import BACK_S, check
from stage import JACK, MICROPHONE, SERVICE, SETTINGS, call, show, state, status, wait_for

from edge import RATE_HZ


def unplugged(card: str) -> str:
    """Pull a card, look at the box, put the card back."""
    reader = stage.Reader()
    threading.Thread(target=stage.unplug, args=(card,), daemon=True).start()
    waiting_s = wait_for(lambda: state() == "waiting", 15)
    wait_for(lambda: not (stage.DRIVER / stage.DEVICES[card]).exists(), 15)
    began = time.monotonic()
    time.sleep(8.2)
    rises = proving.led.rises(began)
    share = proving.led.lit(began)
    stage.plug(card)
    back_s = wait_for(lambda: state() == "running", 30)
    period = statistics.median(np.diff(rises)) if len(rises) > 1 else float("nan")
    messages = [entry["MESSAGE"] for entry in reader.records(QUIETBOX_EVENT="waiting")]
    return check(
        back_s <= BACK_S and 0.35 < share < 0.65 and 1.8 < period < 2.2 and bool(messages),
        f"waiting after {waiting_s:.1f} s, LED blinks every {period:.1f} s; running {back_s:.1f} s after it came back "
        f"({messages[0] if messages else 'no output'!r})",
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
    messages = [entry["MESSAGE"] for entry in reader.records(QUIETBOX_EVENT="engine")]
    stage.restart()
    return check(
        bool(messages) and "network" not in engine, f"{engine} goes on; {messages[0] if messages else 'no output'!r}"
    )


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
        message = reader.records(QUIETBOX_EVENT="waiting")[0]["MESSAGE"]
        doctor = subprocess.run(["quietbox", "doctor"], capture_output=True, text=True)
    finally:
        thief.kill()
        thief.wait()
    back_s = wait_for(lambda: state() == "running", 30)
    return check(
        back_s <= BACK_S and "arecord" in message and doctor.returncode != 0 and "arecord" in doctor.stdout,
        f"{message!r}; doctor exits {doctor.returncode}, {'names' if 'arecord' in doctor.stdout else 'does not name'} "
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

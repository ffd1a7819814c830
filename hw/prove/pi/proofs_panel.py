"""Inside the machine: what people see and press. LED, button, journal, doctor."""

import re
import subprocess
import time

import numpy as np
import proving
import stage
from proving import SHARE, check, pair
from stage import SERVICE, call, state, status, wait_for

from edge import RATE_HZ
from edge.dsp.spectrum import Floats
from edge.journal import FIELDS
from hw.prove.demo import pauses

ALWAYS = """
    EVENT STATE ENGINE SECONDS LEVEL_IN_DBFS LEVEL_OUT_DBFS SPEECH_SHARE NOISE_REMOVED_DB XRUNS_IN XRUNS_OUT
    DROPPED_HOPS QUEUE_MS DRIFT_PPM LATENCY_MS HOP_P50_US HOP_P99_US HOP_MAX_US LATE_HOPS MEMORY_MB CPU_SHARE
"""
"""What every record of a minute must have, whatever board and cards."""


def led_follows() -> str:
    """the LED follows speech"""
    clean, _ = pair()
    silence = np.zeros(3 * RATE_HZ, np.float32)
    wait_for(lambda: not status()["speaking"], 20)
    began = time.monotonic() + 0.25  # through both cards' buffers
    proving.speaker.play(np.concatenate([silence, clean, silence]))
    time.sleep(6 + len(clean) / RATE_HZ + 0.5)
    before = proving.led.lit(began, began + 2.5)
    spoken = ~pauses(clean)
    talk = [began + 3 + at / RATE_HZ for at in (int(spoken.argmax()), len(spoken) - int(spoken[::-1].argmax()))]
    during, after = proving.led.lit(talk[0] + 0.3, talk[1]), proving.led.lit(talk[1] + 1.2)
    return check(
        before < 0.1 and during > 0.7 and after < 0.1,
        f"lit {before:.0%} of the time before, {during:.0%} during, {after:.0%} after speech",
    )


def button() -> str:
    """button: short press toggles bypass, long press mutes; seen in sound, LED and journal"""
    noise = 0.03 * np.random.default_rng(3).standard_normal(60 * RATE_HZ).astype(np.float32)
    reader = stage.Reader()
    with stage.Recorder() as recorder:
        proving.speaker.play(noise)
        time.sleep(4)
        found = {"running": recorder.level_dbfs(2)}
        for seconds, wanted in ((0.2, "bypass"), (0.2, "running"), (1.2, "muted"), (1.2, "running")):
            stage.press(seconds)
            wait_for(lambda wanted=wanted: state() == wanted, 10)
            if wanted != "running":
                began = time.monotonic()
                found[wanted] = recorder.level_dbfs(2)
                found[f"{wanted} lit"] = proving.led.lit(began)
        proving.speaker.stop()
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


def orders() -> str:
    """quietbox bypass and volume: from the box's group, refused to others, heard at the jack soon and without a gap"""
    noise = 0.03 * np.random.default_rng(4).standard_normal(60 * RATE_HZ).astype(np.float32)

    def ordered(user: str, *words: str) -> tuple[int, str]:
        by = ["setpriv", "--reuid=1000", "--clear-groups", f"--regid={user}"]
        done = subprocess.run([*by, "quietbox", *words], capture_output=True, text=True)
        return done.returncode, (done.stdout + done.stderr).strip()

    with stage.Recorder() as recorder:
        proving.speaker.play(noise)
        time.sleep(4)
        found = {"on": recorder.level_dbfs(2)}
        stranger, refusal = ordered("1000", "bypass", "on")
        began, began_s = recorder.now(), time.monotonic()
        with open("/run/quietbox/orders", "w") as fifo:
            fifo.write("bypass on\n")
        wait_for(lambda: state() == "bypass", 10)
        answered_s = time.monotonic() - began_s
        time.sleep(1 + stage.LAG_S)
        heard_ms = _louder_after_ms(recorder.since(began), found["on"] + 10)
        found["bypass"] = recorder.level_dbfs(2)
        member, answer = ordered("quietbox", "volume", "-30")
        time.sleep(1)
        found["volume -30"] = recorder.level_dbfs(2)
        proving.speaker.stop()
    stage.restart()
    return check(
        stranger == 1
        and "group quietbox" in refusal
        and (member, answer) == (0, "volume -30 dB")
        and found["bypass"] > found["on"] + 10
        and abs(found["volume -30"] - found["bypass"] + 30) < 1
        and heard_ms < 300 + 1000 * stage.LAG_S,
        f"jack with noise: on {found['on']} dBFS, bypass {found['bypass']}, then volume -30 dB {found['volume -30']}; "
        f"bypass heard after {heard_ms:.0f} ms, what lies in the recorder's buffers included, and shown after "
        f"{1000 * answered_s:.0f} ms; a user outside the group: {refusal}",
    )


def _louder_after_ms(heard: Floats, dbfs: float) -> float:
    """When a sound first reaches a level, over 10 ms; infinity if it never does."""
    step = RATE_HZ // 100
    levels = 10 * np.log10(np.mean(heard[: len(heard) // step * step].reshape(-1, step) ** 2, axis=1) + 1e-12)
    reached = np.flatnonzero(levels > dbfs)
    return 10.0 * float(reached[0]) if len(reached) else float("inf")


def journal_fields() -> str:
    """structured fields in journalctl -o json"""
    reader = stage.Reader()
    clean, _ = pair()
    proving.speaker.play(np.tile(clean, 5))
    record = None
    try:
        reader.at(100, QUIETBOX_EVENT="statistics")
        record = reader.records(QUIETBOX_EVENT="statistics")[0]
    finally:
        proving.speaker.stop()
    missing = [f"QUIETBOX_{name}" for name in ALWAYS.split() if f"QUIETBOX_{name}" not in record]
    there = [name for name in record if name.startswith("QUIETBOX_")]
    foreign = [name for name in there if name not in {field.key for field in FIELDS}]
    words = f"{len(there)} QUIETBOX_ fields a minute: noise removed {record.get('QUIETBOX_NOISE_REMOVED_DB')} dB, "
    words += f"speech {record.get('QUIETBOX_SPEECH_SHARE')}"
    return check(
        not missing and not foreign, words + "".join(f", missing {name}" for name in missing) + "".join(foreign)
    )


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

"""Inside the machine: what a boot does, whole, without a microphone, and with a read-only root."""

import time
from pathlib import Path

import proving
import stage
from proving import BACK_S, check, pair
from stage import LAG_S, MICROPHONE, call, show, state, wait_for


def first(reader: stage.Reader, wanted: str) -> float:
    """Monotonic time of the first record of this boot with this state."""
    reader._cursor = ""
    wait_for(lambda: state() == wanted, 120)
    return reader.at(20, QUIETBOX_EVENT="state", QUIETBOX_STATE=wanted)


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


def no_microphone() -> str:
    """boot without the microphone, which is plugged in later"""
    reader = stage.Reader()
    reader._cursor = ""
    at = first(reader, "waiting")
    message = reader.records(QUIETBOX_EVENT="waiting")[0]["MESSAGE"]
    stage.plug(MICROPHONE)
    back_s = wait_for(lambda: state() == "running", 60)
    return check(
        back_s <= BACK_S, f"waiting {at:.1f} s after power-on ({message!r}), running {back_s:.1f} s after it came"
    )


def read_only() -> str:
    """read-only root"""
    options = next(line.split()[3] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[1] == "/")
    at = first(stage.Reader.__new__(stage.Reader), "running")
    _, noisy = pair()
    with stage.Recorder() as recorder:
        begin = recorder.now()
        time.sleep(proving.speaker.play(noisy) + LAG_S)
        level = stage.level_dbfs(recorder.since(begin))
    complaints = [line for line in stage.Reader().records(PRIORITY="3")]
    return check(
        "ro" in options.split(",") and level > -60 and state() == "running" and not complaints,
        f"/ is {options.split(',')[0]}; running {at:.1f} s after power-on, speech at {level} dBFS on the jack",
    )

"""Device probes in a process of their own: a driver that hangs or crashes takes only that process with it."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge.config import BoxConfig, CaptureConfig, Config, PlaybackConfig, SuppressConfig
from edge.devices.alsa_mixer import alsa_mixer
from edge.devices.mixer import Level
from edge.devices.pcm import DeviceBusy, DeviceError, DeviceMissing, DeviceRefused
from edge.realtime import lock_memory_and_freeze_gc, request_realtime_priority
from edge.tools.device_probe import ChannelLevels, MicrophoneProbe, OutputProbe, probe_microphone, probe_output

START_LIMIT_S = 20.0
"""Interpreter, NumPy, SciPy and ALSA take several seconds to load from a slow card; what takes longer hangs."""


@dataclass(frozen=True)
class ProbeFailure:
    """Why a probe has no result: ``kind`` is "busy", "missing", one of ``edge.devices.pcm.Obstacle``, "hangs" or
    "died".
    """

    kind: str
    text: str
    fix: str = ""
    """What the device's error names as the fix."""


def microphone_in_child(settings: CaptureConfig, seconds: float) -> MicrophoneProbe | ProbeFailure:
    """``probe_microphone``, whatever the driver does."""
    answer = run_in_child("microphone", {"settings": dataclasses.asdict(settings), "seconds": seconds}, seconds)
    if isinstance(answer, ProbeFailure):
        return answer
    return MicrophoneProbe(**{**answer, "channels": tuple(ChannelLevels(**row) for row in answer["channels"])})


def output_in_child(settings: PlaybackConfig, seconds: float) -> OutputProbe | ProbeFailure:
    """``probe_output``, whatever the driver does."""
    answer = run_in_child("output", {"settings": dataclasses.asdict(settings), "seconds": seconds}, seconds)
    return answer if isinstance(answer, ProbeFailure) else OutputProbe(**answer)


def mixer_in_child(clock: str) -> list[Level] | ProbeFailure:
    """The levels of an output's mixer (``clock`` as ``Pcm.clock``); empty if it has none. Nothing is changed."""
    answer = run_in_child("mixer", {"clock": clock})
    if isinstance(answer, ProbeFailure):
        return answer
    return [Level(**{**row, "range_db": tuple(row["range_db"]) if row["range_db"] else None}) for row in answer]


def run_in_child(command: str, arguments: dict[str, Any], seconds: float = 0.0, limit_s: float = START_LIMIT_S) -> Any:
    """Run one of ``COMMANDS`` in a new process: its answer, or ProbeFailure. Takes at most a little longer than
    ``seconds`` and ``limit_s`` together, even if the process cannot be killed.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from edge.tools import probe_process; probe_process.run_command()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, command, json.dumps(arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=seconds + limit_s)
    except subprocess.TimeoutExpired:
        return ProbeFailure("hangs", f"gave no answer within {seconds + limit_s:.0f} s")
    finally:
        _end(child)
    try:
        reply = json.loads(output.decode(errors="replace").splitlines()[-1])
    except (ValueError, IndexError):
        how = f"ended by signal {-child.returncode}" if child.returncode < 0 else "ended without an answer"
        return ProbeFailure("died", f"the device probe {how}")
    return ProbeFailure(**reply["failure"]) if "failure" in reply else reply["result"]


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Kill it; a process that a driver holds in the kernel is left behind rather than waited for."""
    if child.poll() is None:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1)
    if child.stdout:
        child.stdout.close()


def run_command() -> None:
    """What the child does: command and arguments come on its command line, the answer is the last line it prints."""
    try:
        reply = {"result": COMMANDS[sys.argv[1]](json.loads(sys.argv[2]))}
    except DeviceError as error:
        reply = {"failure": {"kind": _kind(error), "text": error.found, "fix": error.fix}}
    except Exception as fault:
        text = f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
        reply = {"failure": {"kind": "died", "text": text}}
    print("\n" + json.dumps(reply), flush=True)
    os._exit(0)  # threads of a sound library may not want to end


def _kind(error: DeviceError) -> str:
    if isinstance(error, DeviceRefused):
        return error.obstacle
    return "busy" if isinstance(error, DeviceBusy) else "missing" if isinstance(error, DeviceMissing) else "system"


def _realtime(arguments: dict[str, Any]) -> list[str]:
    return [*lock_memory_and_freeze_gc(), *request_realtime_priority(arguments["priority"])]


def _time_engines(arguments: dict[str, Any]) -> dict[str, Any]:
    """Every engine as the box would run it: the name of the configured one, its notes, microseconds of each."""
    from edge.suppress import open_engine
    from edge.tools import bench

    settings = SuppressConfig(**arguments["suppress"])
    if settings.engine == "remote":  # its fallback is what this machine has to run
        settings = dataclasses.replace(settings, engine="auto")
    engine = open_engine(settings.engine, settings.limit_db, settings.model)
    request_realtime_priority(arguments["priority"])
    rows = bench.bench_engines(Config(suppress=settings), arguments["seconds"])
    times = {row.name.removeprefix("whole chain, "): dataclasses.asdict(row) for row in rows}
    return {"engine": engine.name, "notes": engine.notes, "times": times}


def _microphone(arguments: dict[str, Any]) -> dict[str, Any]:
    request_realtime_priority(BoxConfig().priority)  # as the box; without it there may be xruns, which are counted
    return dataclasses.asdict(probe_microphone(CaptureConfig(**arguments["settings"]), arguments["seconds"]))


def _output(arguments: dict[str, Any]) -> dict[str, Any]:
    request_realtime_priority(BoxConfig().priority)
    return dataclasses.asdict(probe_output(PlaybackConfig(**arguments["settings"]), arguments["seconds"]))


def _mixer(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    mixer = alsa_mixer(arguments["clock"])
    return [dataclasses.asdict(level) for level in mixer.levels()] if mixer else []


COMMANDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "microphone": _microphone,
    "output": _output,
    "realtime": _realtime,
    "engines": _time_engines,
    "mixer": _mixer,
}

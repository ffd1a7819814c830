"""The device probe of ONNX Runtime: does it work here? Tried in a process of its own, since a build for another
processor ends with SIGILL, which must not end the box.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from edge import command_for
from edge.console import run_main
from edge.dsp.spectrum import BANDS
from edge.runtime import runtime_folder
from edge.suppress.shipped import BadModel, Model

LIMIT_S = 30.0
"""An import from a slow card takes seconds; what takes longer hangs."""
HOPS = 50
TOLERANCE = 0.01
"""Largest difference of a gain between the two; roundings alone make 1e-6."""
PROCESSOR_LINES = ("flags", "features", "model name", "cpu implementer", "cpu part", "cpu variant")
"""Lines of /proc/cpuinfo that are the same at every start on the same board, on x86 and on ARM."""
REFUSED = 3
"""Exit status of a probe that found something wrong and printed what."""


def failure(model: Model, limit_s: float = LIMIT_S) -> str:
    """Why ONNX Runtime cannot run this model, or nothing if it can.

    A probe takes half a second on a PC and several on a Pi, so each file is probed once in a process. What passed is
    remembered: by the installer for every start (``python -m edge.suppress.probe``), else by the service for its next
    start, which may be one after a crash.
    """
    try:
        return _tried(str(model.folder), model.read(".onnx") + model.read(".npz"), limit_s)
    except BadModel as refusal:
        return str(refusal)


@functools.lru_cache(maxsize=4)
def _tried(folder: str, content: bytes, limit_s: float) -> str:
    runtime = importlib.util.find_spec("onnxruntime")
    if runtime is None:
        return f"ONNX Runtime is not installed ({command_for('onnx')})"
    mark = _mark(content, runtime.origin)
    if mark and any((kept / mark).exists() for kept in (_program_folder(), _service_folder()) if kept):
        return ""
    ordinary = "os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))"  # the caller's may be real-time
    order = f"import os, sys; {ordinary}; sys.path[:] = {sys.path!r}"
    order += f"; from edge.suppress import probe; probe.try_out({folder!r})"
    try:
        probe = subprocess.run(
            [sys.executable, "-c", order],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"ONNX Runtime did not answer within {limit_s:g} s"
    except (OSError, ValueError) as error:
        return f"the device probe of ONNX Runtime did not start ({error})"
    if probe.returncode < 0:
        number = -probe.returncode
        return f"ONNX Runtime was ended by {next((known.name for known in signal.Signals if known == number), number)}"
    printed = " ".join(probe.stdout.decode(errors="replace").split())[:300]
    if probe.returncode == REFUSED:
        return printed
    if probe.returncode:
        return "ONNX Runtime failed its probe"
    if mark and (kept := _service_folder()):
        with contextlib.suppress(OSError):  # then it is tried again next time
            (kept / mark).touch()
    return ""


def remember(model: Model) -> str:
    """For the installer: as ``failure``, and what passes leaves its mark in the program's folder. May raise OSError."""
    why = failure(model)
    runtime, folder = importlib.util.find_spec("onnxruntime"), _program_folder()
    if not why and runtime and folder and (mark := _mark(model.read(".onnx") + model.read(".npz"), runtime.origin)):
        (folder / mark).touch()
    return why


def _mark(content: bytes, runtime: str | None) -> str:
    """The name of the mark that these very files passed with this very ONNX Runtime on a processor of this kind."""
    if not runtime:
        return ""
    file = os.path.realpath(runtime)
    library = os.confstr("CS_GNU_LIBC_VERSION")
    edition = f"{file} {os.stat(file).st_mtime_ns} {sys.version} {library} {_processor()}"
    return f"passed-{hashlib.sha256(content + edition.encode()).hexdigest()[:16]}"


def _program_folder() -> Path | None:
    """The program's virtual environment, which holds for every start; the service itself may not write there."""
    return Path(sys.prefix) if sys.prefix != sys.base_prefix else None


def _service_folder() -> Path | None:
    """What systemd gives a service until it is stopped or the machine is; None outside a service."""
    return runtime_folder() if "RUNTIME_DIRECTORY" in os.environ else None


def _processor() -> str:
    """What the processor can do, since a card may be put into another board: the instruction sets the kernel names."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    lines_kept = sorted({line for line in lines if line.lower().startswith(PROCESSOR_LINES)})
    return "\n".join([os.uname().machine, *lines_kept])


def try_out(folder: str) -> None:
    """The probe itself: some hops by both, compared; ends the process with REFUSED after printing what is wrong."""
    try:
        wrong = _compare(Model(folder))
    except BadModel as refusal:
        wrong = str(refusal)
    except Exception as error:
        wrong = f"ONNX Runtime failed ({type(error).__name__}: {error})"
    if wrong:
        print(wrong, flush=True)
        sys.exit(REFUSED)


def _compare(model: Model) -> str:
    from edge.suppress.onnx import OnnxNetwork

    ours, theirs = model.weights("numpy"), OnnxNetwork("onnx", model)
    draw = np.random.default_rng(1)
    gains, other_gains = np.zeros((2, BANDS), np.float32)
    worst = 0.0
    for features in draw.normal(0, 0.8, (HOPS, BANDS)).astype(np.float32):
        speech = ours.step(features, gains)
        other_speech = theirs.step(features, other_gains)
        worst = float(np.max([worst, np.abs(gains - other_gains).max(), abs(speech - other_speech)]))
    if not worst <= TOLERANCE:  # also NaN
        return f"ONNX Runtime and NumPy disagree on the same weights (by {worst:.2g})"
    return ""


if __name__ == "__main__":
    run_main(lambda: sys.exit(remember(Model("quietbox")) or 0), "probe")

"""Does ONNX Runtime work here? Tried in a process of its own: a wheel for another processor dies of SIGILL, and must
not take the box with it.
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

from edge.runtime import runtime_folder
from edge.spectrum import BANDS
from edge.suppress.shipped import BadModel, Model

LIMIT_S = 30.0
"""An import from a slow card takes seconds; what takes longer hangs."""
HOPS = 50
TOLERANCE = 0.01
"""Largest difference of a gain between the two; roundings alone make 1e-6."""
REFUSED = 3
"""Exit status of a trial that found something wrong and printed what."""


def trouble(model: Model, limit_s: float = LIMIT_S) -> str:
    """Why ONNX Runtime cannot run this model, or nothing if it can.

    A trial takes half a second on a PC and several on a Pi, so each file is tried once in a process, and what passed
    is remembered for the service's next start, which may be one after a crash.
    """
    try:
        return _tried(str(model.folder), model.read(".onnx") + model.read(".npz"), limit_s)
    except BadModel as refusal:
        return str(refusal)


@functools.lru_cache(maxsize=4)
def _tried(folder: str, content: bytes, limit_s: float) -> str:
    runtime = importlib.util.find_spec("onnxruntime")
    if runtime is None:
        return "ONNX Runtime is not installed (pip install onnxruntime)"
    passed = _passed(content, runtime.origin)
    if passed and passed.exists():
        return ""
    order = f"import sys; sys.path[:] = {sys.path!r}; from edge.suppress import probe; probe.try_out({folder!r})"
    try:
        trial = subprocess.run(
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
        return f"ONNX Runtime could not be tried ({error})"
    if trial.returncode < 0:
        number = -trial.returncode
        return f"ONNX Runtime died of {next((known.name for known in signal.Signals if known == number), number)}"
    said = " ".join(trial.stdout.decode(errors="replace").split())[:300]
    if trial.returncode == REFUSED:
        return said
    if trial.returncode:
        return "ONNX Runtime failed its trial"
    if passed:
        with contextlib.suppress(OSError):  # then it is tried again next time
            passed.touch()
    return ""


def _passed(content: bytes, runtime: str | None) -> Path | None:
    """The mark that these very files passed with this very ONNX Runtime, in the folder that systemd gives a service
    until it is stopped or the machine is; None outside a service."""
    if "RUNTIME_DIRECTORY" not in os.environ or not runtime:
        return None
    edition = f"{runtime} {os.stat(runtime).st_mtime_ns} {sys.version}"
    return runtime_folder() / f"passed-{hashlib.sha256(content + edition.encode()).hexdigest()[:16]}"


def try_out(folder: str) -> None:
    """The trial itself: some hops by both, compared; ends the process with REFUSED after printing what is wrong."""
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
    if not worst <= TOLERANCE:  # also what is no number
        return f"ONNX Runtime gives other gains than NumPy on the same weights (by {worst:.2g})"
    return ""

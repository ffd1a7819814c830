"""Does ONNX Runtime work here? Tried in a process of its own: a wheel for another processor dies of SIGILL, and must
not take the box with it.
"""

import functools
import importlib.util
import signal
import subprocess
import sys

import numpy as np

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
    """Why ONNX Runtime cannot run this model, or nothing if it can. A trial takes half a second on a PC, so each file
    is tried once in a process."""
    try:
        return _tried(str(model.folder), model.read(".onnx"), limit_s)
    except BadModel as refusal:
        return str(refusal)


@functools.lru_cache(maxsize=4)
def _tried(folder: str, content: bytes, limit_s: float) -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed (pip install onnxruntime)"
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
    return "ONNX Runtime failed its trial" if trial.returncode else ""


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

"""``engine = "network"``: our network on ONNX Runtime where that works, else on NumPy."""

from pathlib import Path

from edge.dsp.estimator import Estimator
from edge.suppress import probe
from edge.suppress.shipped import Model


def open_estimator(model: str, notes: list[str]) -> Estimator:
    """``model``: the name of a shipped network or the path of a folder. Raises BadModel; adds to ``notes`` why NumPy
    runs it, if it does.
    """
    found = Model(model)
    why = probe.failure(found)
    if not why:
        try:
            from edge.suppress.onnx import OnnxNetwork  # an optional package

            return OnnxNetwork("network", found)
        except Exception as error:  # it has just worked in a process of its own; whatever it is, NumPy can do it
            why = f"ONNX Runtime failed ({' '.join(str(error).split())[:120]})"
    on_numpy = found.weights("network")
    notes.append(f"{why}; NumPy runs the network instead")
    return on_numpy


def files(model: str) -> list[Path]:
    """The graph, or the weights for NumPy where there is no graph; nothing where there is neither."""
    found = Model(model)
    return [path for path in (found.file(".onnx"), found.file(".npz")) if path.is_file()][:1]

"""``engine = "rnn"``: the small network, on NumPy alone."""

from pathlib import Path

from edge.dsp.estimator import Estimator
from edge.suppress.shipped import Model


def open_estimator(model: str, notes: list[str]) -> Estimator:
    """``model``: the name of a shipped network. Raises BadModel."""
    return Model(model).weights("rnn")


def files(model: str) -> list[Path]:
    """Its weights; nothing where they are missing."""
    return [path for path in [Model(model).file(".npz")] if path.is_file()]

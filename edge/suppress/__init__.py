"""The feedback path: engines that look at what the feedforward path left over and take the noise out.

``mask`` is the engine, ``network``, ``onnx`` and ``dsp`` are the estimators that drive it, ``shipped`` finds and checks
a network's files, ``probe`` finds out whether ONNX Runtime works, and ``open_engine`` chooses among them.
"""

from collections.abc import Callable

from edge.suppress.mask import Estimator, MaskEngine, Unity
from edge.suppress.shipped import BadModel, Model


def _network(model: str, notes: list[str]) -> Estimator:
    """The network on ONNX Runtime if that works here, else on NumPy."""
    from edge.suppress import probe

    files = Model(model)
    ours = files.weights("network")
    why = probe.trouble(files)
    if not why:
        try:
            from edge.suppress.onnx import OnnxNetwork

            return OnnxNetwork("network", files)
        except Exception as error:  # it has just worked next door; whatever it is, there is another way
            why = f"ONNX Runtime failed ({' '.join(str(error).split())[:120]})"
    notes.append(f"{why}; NumPy runs the network instead")
    return ours


def _rnn(model: str, notes: list[str]) -> Estimator:
    return Model("rnn").weights("rnn")


def _dsp(model: str, notes: list[str]) -> Estimator:
    from edge.suppress.dsp import Wiener  # SciPy takes long to load, and the trial of ONNX Runtime needs none of it

    return Wiener()


def _off(model: str, notes: list[str]) -> Estimator:
    return Unity()


BUILDERS: dict[str, Callable[[str, list[str]], Estimator]] = {
    "network": _network,
    "rnn": _rnn,
    "dsp": _dsp,
    "off": _off,
}
"""Every engine a user can name, best first: takes the model's name, may add notes, raises BadModel."""


def open_engine(engine: str, limit_db: float, model: str = "quietbox") -> MaskEngine:
    """The engine asked for with everything below it on the ladder; ``auto`` begins with the best.

    What cannot be opened is left out; the engine's ``notes`` say so.
    """
    names = list(BUILDERS)
    ladder: list[Estimator] = []
    notes: list[str] = []
    refusals = []
    for name in names[0 if engine == "auto" else names.index(engine) :]:
        try:
            ladder.append(BUILDERS[name](model, notes))
        except BadModel as refusal:
            refusals.append(f"engine {name} cannot be used: {refusal}")
    if refusals:
        notes.append("; ".join([*refusals, f"{ladder[0].name} works"]))
    return MaskEngine(ladder, limit_db, notes)

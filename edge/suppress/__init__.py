"""The feedback path: engines that look at what the feedforward path left over and take the noise out.

``mask`` is the engine, ``network``, ``onnx`` and ``wiener`` are the estimators that drive it, ``sleep`` spares a
network while nobody speaks, ``shipped`` finds and checks a network's files, ``probe`` finds out whether ONNX Runtime
works, and ``open_configured`` chooses among them.

Other people's engines have a file each (``FOREIGN``); ``foreign.adapter`` makes engines of them,
``foreign.assets`` is what they open their files with.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge.config import Config, WindowConfig
from edge.dsp.estimator import Estimator
from edge.suppress.mask import MaskEngine, Unity
from edge.suppress.shipped import BadModel, Model
from edge.suppress.sleep import Network, Sleeper

if TYPE_CHECKING:
    from edge.suppress.foreign.adapter import Adapter, Core
    from edge.suppress.remote import RemoteEngine


def _network(model: str, notes: list[str]) -> Estimator:
    """The network on ONNX Runtime if that works here, else on NumPy."""
    from edge.suppress import probe

    files = Model(model)
    why = probe.trouble(files)
    if not why:
        try:
            from edge.suppress.onnx import OnnxNetwork

            return OnnxNetwork("network", files)
        except Exception as error:  # it has just worked next door; whatever it is, there is another way
            why = f"ONNX Runtime failed ({' '.join(str(error).split())[:120]})"
    ours = files.weights("network")
    notes.append(f"{why}; NumPy runs the network instead")
    return ours


def _rnn(model: str, notes: list[str]) -> Estimator:
    return Model("rnn").weights("rnn")


def open_listener() -> Estimator | None:
    """The smallest network, for its speech probability; none if its files are not there."""
    try:
        return _rnn("rnn", [])
    except BadModel:
        return None


def _dsp(model: str, notes: list[str]) -> Estimator:
    from edge.suppress.wiener import Wiener  # SciPy takes long to load, and the trial of ONNX Runtime needs none of it

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


_FILES = {
    "deepfilternet3": "deepfilter",
    "dtln": "dtln",
    "gtcrn": "gtcrn",
    "rnnoise": "rnnoise",
    "window": "window",
}


def _opener(engine: str) -> "Callable[..., Core]":
    def opened(model: str, *settings: object) -> "Core":
        core: Core = importlib.import_module(f"edge.suppress.foreign.{_FILES[engine]}").open_core(model, *settings)
        return core

    return opened


FOREIGN: "dict[str, Callable[..., Core]]" = {engine: _opener(engine) for engine in _FILES}
"""Other people's engines by name: takes ``[suppress] model`` and, if the engine has some, its own section of the
settings; raises BadModel. Imported when asked for, not before."""


def files_of(engine: str, model: str = "quietbox") -> list[Path]:
    """The files that hold an engine's weights, as far as it says; raises BadModel where they cannot be had."""
    if engine in FOREIGN:
        files = getattr(importlib.import_module(f"edge.suppress.foreign.{_FILES[engine]}"), "files", None)
        return files(model) if files else []
    if engine in ("network", "rnn"):
        named = Model(model if engine == "network" else engine)
        return [path for path in (named.file(".onnx"), named.file(".npz")) if path.is_file()][:1]
    return []


def open_configured(config: Config) -> "MaskEngine | Adapter | RemoteEngine":
    """The engine that the settings ask for."""
    suppress = config.suppress
    if suppress.engine == "remote":
        from edge.suppress import remote  # brings ZeroMQ, which nobody else needs

        return remote.open_configured(config)
    return open_engine(suppress.engine, suppress.limit_db, suppress.model, suppress.sleep_s, config.window)


def open_engine(
    engine: str,
    limit_db: float,
    model: str = "quietbox",
    sleep_s: float = 0,
    window: WindowConfig | None = None,
) -> "MaskEngine | Adapter":
    """The engine asked for with everything below it on the fallback chain; ``auto`` begins with the best of ours.

    ``model``: the network's name or path, or the path of the foreign engine's files. What cannot be opened is left
    out; the engine's ``notes`` say so. ``sleep_s``: our networks sleep after so long without speech; 0: never.
    ``window``: what the engine of that name wants to know of somebody's network.
    """
    if engine in FOREIGN:
        own = (window,) if engine == "window" and window else ()
        return _open_foreign(engine, limit_db, model, sleep_s, own)
    names = list(BUILDERS)
    levels: list[Estimator] = []
    notes: list[str] = []
    refusals = []
    for name in names[0 if engine == "auto" else names.index(engine) :]:
        try:
            found = BUILDERS[name](model, notes)
            levels.append(Sleeper(found, sleep_s) if sleep_s and isinstance(found, Network) else found)
        except BadModel as refusal:
            refusals.append(f"engine {name} cannot be used: {refusal}")
    if refusals:
        notes.append("; ".join([*refusals, f"{levels[0].name} works"]))
    return MaskEngine(levels, limit_db, notes)


def _open_foreign(
    engine: str, limit_db: float, model: str, sleep_s: float, own: tuple[object, ...]
) -> "MaskEngine | Adapter":
    """Its core above all of ours, or ours alone with a note."""
    below = open_engine("auto", limit_db, sleep_s=sleep_s)
    assert isinstance(below, MaskEngine)
    try:
        from edge.suppress.foreign.adapter import Adapter

        return Adapter(FOREIGN[engine](model, *own), below, limit_db)
    except BadModel as refusal:
        why = str(refusal)
    except Exception as error:  # it is not our code: whatever it is, there is another way
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    below.notes.append(f"engine {engine} cannot be used: {why}; {below.name} works")
    return below

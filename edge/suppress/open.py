"""Opens the engine that the settings ask for, with everything below it on the fallback chain.

Which engines there are and where they lie: ``edge.engines``. The live box must play: ``open_configured`` leaves out and
notes what cannot be opened. A command's result counts as that of the engine named to it: ``open_named`` opens that one
or raises.
"""

import importlib
from pathlib import Path
from typing import Any, cast

from edge.config import Config
from edge.dsp.estimator import Estimator
from edge.engines import AUTO, BY_NAME, Family, Row, fallback_chain, names
from edge.suppress.engine import Engine
from edge.suppress.foreign.core import Core
from edge.suppress.mask import MaskEngine
from edge.suppress.shipped import PACKAGED, BadModel, Model
from edge.suppress.sleep import Network, Sleeper


def open_configured(config: Config) -> Engine:
    """The engine that the settings name or, where it cannot be opened, what lies below it, with a note."""
    suppress = config.suppress
    row = BY_NAME.get(suppress.engine)
    if row is None or row.family is not Family.REMOTE:
        return open_engine(
            suppress.engine, suppress.limit_db, suppress.model, suppress.sleep_s, _section(row, config) if row else None
        )
    below = _open_ours(AUTO, suppress.limit_db, suppress.model, suppress.sleep_s)
    try:
        return _remote(row, config, below)
    except BadModel as refusal:
        return _instead_of(row, str(refusal), below)


def open_named(config: Config) -> Engine:
    """The engine that the settings name, with the fallback chain below it; raises BadModel where it cannot be opened.

    ``auto`` names none: any of ours may be it. But where ``[suppress] model`` names a network, that one is meant.
    """
    suppress = config.suppress
    row = BY_NAME.get(suppress.engine)
    if row is None and suppress.model == PACKAGED:
        return open_configured(config)
    if row and row.family is Family.REMOTE:
        return _remote(row, config, _open_ours(AUTO, suppress.limit_db, suppress.model, suppress.sleep_s))
    return open_engine(
        suppress.engine,
        suppress.limit_db,
        suppress.model,
        suppress.sleep_s,
        _section(row, config) if row else None,
        required=True,
    )


def open_engine(
    engine: str,
    limit_db: float,
    model: str = PACKAGED,
    sleep_s: float = 0,
    section: object = None,
    *,
    required: bool = False,
) -> Engine:
    """The engine asked for with everything below it on the fallback chain; ``auto`` begins with the best of ours.

    ``model``: the network's name or path, or the path of the third-party engine's files. ``sleep_s``: our networks
    sleep after so long without speech; 0: never. ``section``: the engine's own section of the settings. Where it cannot
    be opened, those below it work and a note says why; if it is ``required``, BadModel is raised instead.
    """
    if engine not in names(Family.THIRD_PARTY):
        return _open_ours(engine, limit_db, model, sleep_s, required=required)
    row = BY_NAME[engine]
    below = _open_ours(AUTO, limit_db, PACKAGED, sleep_s)
    try:
        from edge.suppress.foreign.adapter import Adapter  # a box with an engine of ours starts without it

        return Adapter(open_core(engine, model, section), below, limit_db)
    except BadModel as refusal:
        why = str(refusal)
    except Exception as error:  # it is not our code: whatever it raises, ours takes over
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if required:
        raise BadModel(_unusable(row, why))
    return _instead_of(row, why, below)


def open_core(engine: str, model: str = PACKAGED, section: object = None) -> Core:
    """A third-party engine without the adapter; raises BadModel."""
    row = BY_NAME[engine]
    opened: Core = _module(row).open_core(model, *([section] if row.section and section else []))
    return opened


def open_listener(engine: str) -> Estimator | None:
    """The smallest network, for its speech probability beside one of our networks; None beside another ``engine``, or
    if its files are not there. Only a network recognises speech at the voice microphone well enough to be compared.
    """
    if not any(row.shipped for row in fallback_chain(engine)):
        return None
    row = BY_NAME["rnn"]
    try:
        opened: Estimator = _module(row).open_estimator(row.model, [])
        return opened
    except BadModel:
        return None


def files_of(engine: str, model: str = PACKAGED) -> list[Path]:
    """The files that hold an engine's weights, as far as it says; raises BadModel where they cannot be had."""
    row = BY_NAME[engine]
    found: list[Path] = [] if row.family is Family.REMOTE else _module(row).files(row.model or model)
    return found


def files_with_cards(engine: str, model: str = PACKAGED) -> list[tuple[Model, str]]:
    """Every file of ``engine`` and of what lies below it that a model card lists: the folder and the file's ending."""
    return [(Model(row.model or model), suffix) for row in fallback_chain(engine) for suffix in row.shipped]


def _module(row: Row) -> Any:
    return importlib.import_module(row.module)


def _section(row: Row, config: Config) -> object:
    return getattr(config, row.section) if row.section else None


def _remote(row: Row, config: Config, below: MaskEngine) -> Engine:
    """Raises BadModel."""
    priority = max(0, config.box.priority - 1)
    opened: Engine = _module(row).open_remote(_section(row, config), config.suppress.limit_db, below, priority)
    return opened


def _open_ours(engine: str, limit_db: float, model: str, sleep_s: float, *, required: bool = False) -> MaskEngine:
    """``required``: raises BadModel where the first cannot be opened."""
    levels: list[Estimator] = []
    notes: list[str] = []
    refusals = []
    for row in fallback_chain(engine):
        try:
            found: Estimator = _module(row).open_estimator(row.model or model, notes)
            levels.append(Sleeper(cast(Network, found), sleep_s) if sleep_s and row.shipped else found)
        except BadModel as refusal:
            if required and not levels:
                raise BadModel(_unusable(row, str(refusal))) from None
            refusals.append(_unusable(row, str(refusal)))
    if refusals:
        notes.append("; ".join([*refusals, f"{levels[0].name} works"]))
    return MaskEngine(levels, limit_db, notes)


def _instead_of(row: Row, why: str, below: MaskEngine) -> MaskEngine:
    below.notes.append(f"{_unusable(row, why)}; {below.name} works")
    return below


def _unusable(row: Row, why: str) -> str:
    return f"engine {row.name} cannot be used: {why}"

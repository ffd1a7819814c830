"""Every engine on every file, on as many processes as asked for."""

import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge.dsp.spectrum import Floats
from models.command import BadRequest
from models.measures import (
    lag_samples,
    without_lag,
)
from quant.evaluate.cost import Cost, costs
from quant.evaluate.engines import engine_named
from quant.evaluate.measures import MEASURES, measure, probe
from quant.evaluate.processes import in_order, pool_of
from quant.evaluate.sounds import Sound


@dataclass(frozen=True)
class Row:
    """One engine on one file."""

    engine: str
    name: str
    snr_db: float | None
    kind: str | None
    values: dict[str, float]

    def __getitem__(self, key: str) -> float:
        return self.values.get(key, float("nan"))


def evaluate(
    sounds: list[Sound], engines: list[str], limit_db: float, jobs: int, ticks: Callable[[], object] = lambda: None
) -> tuple[list[Row], dict[str, int]]:
    """All rows, and every engine's lag in samples. ``ticks`` is called twice for each file and engine."""
    tasks = [(engine, sound) for engine in engines for sound in sounds]
    with pool_of(jobs) as pool:
        ran = in_order(pool, ticks, (pool.submit(_run, engine, sound, limit_db) for engine, sound in tasks))
        found_lags: dict[str, list[int]] = {engine: [] for engine in engines}
        for (engine, _), (_, _, lag) in zip(tasks, ran, strict=True):
            found_lags[engine].append(lag)
        lags = {engine: int(np.median(found)) for engine, found in found_lags.items()}
        to_measure = (
            pool.submit(_measure, sound, estimate, lags[engine])
            for (engine, sound), (estimate, _, _) in zip(tasks, ran, strict=True)
        )
        measured = in_order(pool, ticks, to_measure)
    rows = [
        Row(engine, sound.name, sound.snr_db, sound.kind, values | probed)
        for (engine, sound), values, (_, probed, _) in zip(tasks, measured, ran, strict=True)
    ]
    return rows, lags


def _run(engine: str, sound: Sound, limit_db: float) -> tuple[Floats, dict[str, float], int]:
    named = engine_named(engine)
    heard = named.hear(sound.noisy.copy(), limit_db)
    probed = {} if sound.clean is None else probe(named, sound.clean, sound.noisy, heard, limit_db)
    return heard.samples, probed, lag_samples(sound.noisy, heard.samples)


def _measure(sound: Sound, late: Floats, lag: int) -> dict[str, float]:
    return measure(sound.clean, sound.noisy, without_lag(late, lag, len(sound.noisy)))


def means(rows: list[Row]) -> dict[str, float]:
    """The mean of every measure over the files that have one."""
    found = {key: np.array([row[key] for row in rows]) for key in MEASURES}
    return {key: float(np.nanmean(x)) if np.isfinite(x).any() else float("nan") for key, x in found.items()}


@dataclass(frozen=True)
class Figures:
    """Everything a run found."""

    engines: list[str]
    limit_db: float
    rows: list[Row]
    lags: dict[str, int]
    """Every engine's lag in samples, as found and removed."""
    costs: dict[str, Cost]

    @property
    def measures(self) -> list[str]:
        """The measures that at least one file has."""
        return [key for key in MEASURES if any(np.isfinite(row[key]) for row in self.rows)]

    def of(self, engine: str) -> list[Row]:
        return [row for row in self.rows if row.engine == engine]


def figures_of(sounds: list[Sound], engines: list[str], limit_db: float, jobs: int) -> Figures:
    """The whole run with a bar on stderr; raises UserError."""
    for engine in engines:
        for note in engine_named(engine).notes():
            print(f"{engine}: {note}", file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        screen = Console(stderr=True)
        with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
            work = f"{len(sounds)} files, {len(engines)} engines"
            bar = progress.add_task(work, total=(2 * len(sounds) + 1) * len(engines))
            ticks = partial(progress.advance, bar)
            spent = costs(engines, max(sounds, key=lambda sound: len(sound.noisy)).noisy, limit_db, ticks)
            return Figures(engines, limit_db, *evaluate(sounds, engines, limit_db, jobs, ticks), spent)
    except BrokenProcessPool:
        raise BadRequest("a worker process ended early, perhaps for lack of memory; use fewer --jobs") from None

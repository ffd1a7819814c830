"""Every engine on every recording of the set, on as many processes as asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge import UserError
from edge.dsp.spectrum import Floats
from edge.files import atomic
from models.command import BadRequest
from models.measures import lag_samples, without_lag
from quant.edges.cases import KINDS, Case
from quant.edges.losses import Losses, losses
from quant.evaluate.engines import engine_named
from quant.evaluate.processes import in_order, pool_of
from quant.peers import PEERS

OURS = ("network", "rnn", "dsp")


def default_engines() -> list[str]:
    """Ours, and the other projects' that are installed here."""
    return [*OURS, *(name for name in PEERS if _usable(name))]


def _usable(name: str) -> bool:
    try:
        engine_named(name).weights()
    except UserError:
        return False
    return True


@dataclass(frozen=True)
class Row:
    """One engine on one recording."""

    engine: str
    kind: str
    name: str
    snr_db: float
    losses: Losses


def evaluate(
    found: list[Case], engines: list[str], limit_db: float, jobs: int, ticks: Callable[[], object] = lambda: None
) -> list[Row]:
    """All rows; the median lag of an engine's outputs is removed before they are measured, as quant.evaluate does."""
    rows = []
    with pool_of(jobs) as pool:
        for engine in engines:
            heard = in_order(pool, ticks, [pool.submit(_heard, engine, case, limit_db) for case in found])
            lag = int(np.median([lag for _, lag in heard]))
            for case, (samples, _) in zip(found, heard, strict=True):
                estimate = without_lag(samples, lag, len(case.clean))
                rows.append(Row(engine, case.kind, case.name, case.snr_db, losses(case, estimate)))
    return rows


def _heard(engine: str, case: Case, limit_db: float) -> tuple[Floats, int]:
    samples = engine_named(engine)(case.noisy.copy(), limit_db)
    return samples, lag_samples(case.noisy, samples)


def of_kind(rows: list[Row], engine: str, kind: str) -> list[Row]:
    return [row for row in rows if row.engine == engine and row.kind == kind]


def write_pairs(found: list[Case], folder: Path) -> None:
    """``folder``/clean, ``folder``/noisy and dev.tsv, as quant.evaluate reads them; raises BadRequest."""
    import soundfile

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadRequest(f"{folder} exists and is not an empty folder; name a new one for --write")
    lines = ["name\tsnr_db\tnoise_kind"]
    for part in ("clean", "noisy"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(found):
        name = f"{number:03d}_{case.kind} {case.name}".replace(",", "").replace(" ", "_")
        for part, samples in (("clean", case.clean), ("noisy", case.noisy)):
            soundfile.write(folder / part / f"{name}.flac", samples, 16_000, "PCM_24")
        lines.append(f"{name}\t{case.snr_db:g}\t{case.kind}")
    atomic.write(folder / "dev.tsv", ("\n".join(lines) + "\n").encode())


def kinds_in(rows: list[Row]) -> list[str]:
    """In the order of the set."""
    present = {row.kind for row in rows}
    return [kind for kind in KINDS if kind in present]

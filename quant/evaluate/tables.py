"""Figures as tables: on the terminal, in Markdown, in JSON."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edge.files import atomic
from models.command import BadRequest
from quant.evaluate.cost import COSTS
from quant.evaluate.measures import MEASURES
from quant.evaluate.run import Figures, means

Lines = tuple[str, list[str], list[list[str]]]
"""One table: title, headings, lines."""


def tables(figures: Figures) -> Iterator[Lines]:
    """The whole set, the costs, then the main measures at each SNR and for each kind of noise."""
    files = len({row.name for row in figures.rows})
    shown = figures.measures
    yield (
        f"{files} files, attenuation limit {figures.limit_db:g} dB",
        ["engine", *(MEASURES[key][0] for key in shown)],
        [[engine, *(_text(means(figures.of(engine))[key], key) for key in shown)] for engine in figures.engines],
    )
    yield (
        "Cost",
        ["engine", *(heading for heading, _ in COSTS.values())],
        [[name, *(_number(asdict(cost)[key], digits) for key, (_, digits) in COSTS.items())]
         for name, cost in figures.costs.items()],
    )  # fmt: skip
    yield from _by_snr(figures, [key for key in ("pesq_wb", "stoi", "si_sdr_improvement_db") if key in shown])
    yield from _by_kind(figures, "pesq_wb" if "pesq_wb" in shown else "dnsmos_ovrl")


def _by_snr(figures: Figures, keys: list[str]) -> Iterator[Lines]:
    snrs = sorted({row.snr_db for row in figures.rows if row.snr_db is not None})
    for key in keys if len(snrs) > 1 else ():
        lines = []
        for engine in figures.engines:
            at = [means([row for row in figures.of(engine) if row.snr_db == snr])[key] for snr in snrs]
            lines.append([engine, *(_text(value, key) for value in at)])
        yield f"{MEASURES[key][0]} by SNR", ["engine", *(f"{snr:g} dB" for snr in snrs)], lines


def _by_kind(figures: Figures, key: str) -> Iterator[Lines]:
    """One line a kind, the commonest first; kinds of a single file share the last line."""
    files = Counter(row.kind for row in figures.of(figures.engines[0]) if row.kind)
    if len(files) < 2:
        return
    single = {kind for kind, count in files.items() if count == 1}
    groups = [({kind}, kind) for kind, _ in sorted(files.items(), key=lambda item: (-item[1], item[0]))]
    groups = [group for group in groups if not group[0] <= single]
    lines = []
    for kinds, name in [*groups, (single, "kinds with one file")] if single else groups:
        own = [means([row for row in figures.of(engine) if row.kind in kinds])[key] for engine in figures.engines]
        lines.append([name, str(sum(files[kind] for kind in kinds)), *(_text(value, key) for value in own)])
    yield f"{MEASURES[key][0]} by kind of noise", ["kind", "files", *figures.engines], lines


def _text(value: float, key: str) -> str:
    return _number(value, MEASURES[key][1], "+" if key == "si_sdr_improvement_db" else "")


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}" if np.isfinite(value) else "-"


def markdown(figures: Figures) -> str:
    return markdown_of(tables(figures))


def markdown_of(found: Iterable[Lines]) -> str:
    """Each table under its title."""
    pieces = []
    for title, headings, lines in found:
        body = [headings, ["---"] * len(headings), *lines]
        text = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in body)
        pieces.append(f"{title}\n\n{text}\n")
    return "\n".join(pieces)


def as_json(figures: Figures) -> str:
    def sound(values: dict[str, float]) -> dict[str, float | None]:
        return {key: round(value, 5) if np.isfinite(value) else None for key, value in values.items()}

    report = {
        "limit_db": figures.limit_db,
        "lag_samples": figures.lags,
        "costs": {engine: sound(asdict(cost)) for engine, cost in figures.costs.items()},
        "means": {engine: sound(means(figures.of(engine))) for engine in figures.engines},
        "files": [
            {"engine": row.engine, "name": row.name, "snr_db": row.snr_db, "noise_kind": row.kind, **sound(row.values)}
            for row in figures.rows
        ],
    }
    return json.dumps(report, indent=1) + "\n"


def write(path: Path, text: str) -> None:
    """All of ``text`` or nothing."""
    try:
        atomic.write(path, text.encode(errors="backslashreplace"))
    except OSError as error:
        raise BadRequest(f"{path} cannot be written: {error.strerror}") from None

"""The figures of the set as tables, Markdown and JSON: the worst and the median of each kind."""

import json
from collections.abc import Callable, Iterator

import numpy as np

from quant.edges.run import Row, kinds_in, of_kind
from quant.evaluate.tables import Lines

Values = Callable[[Row], list[float]]
MEASURES: dict[str, tuple[str, Values]] = {
    "onset_db": ("Level of the first 80 ms of a word, dB: worst (median)", lambda row: row.losses.onsets_db),
    "worst_80ms_db": ("Level of the worst 80 ms, dB: worst (median)", lambda row: [row.losses.worst_db]),
    "level_db": ("Level of the speech, dB: worst (median)", lambda row: [row.losses.level_db]),
    "si_sdr_improvement_db": (
        "SI-SDR improvement, dB: worst (median)",
        lambda row: [row.losses.si_sdr_improvement_db] if row.snr_db <= MOST_SNR_DB else [],
    ),
}
"""Every measure: heading and how it is read."""
MOST_SNR_DB = 20
"""Above it SI-SDR counts errors that nobody hears."""


def worst_and_median(rows: list[Row], values: Values) -> tuple[float, float]:
    """NaN, NaN where no row has a value."""
    found = [value for row in rows for value in values(row) if np.isfinite(value)]
    return (min(found), float(np.median(found))) if found else (float("nan"), float("nan"))


def tables(rows: list[Row]) -> Iterator[Lines]:
    """One table a measure: engines down, kinds across."""
    engines, kinds = list(dict.fromkeys(row.engine for row in rows)), kinds_in(rows)
    for heading, values in MEASURES.values():
        lines = [
            [engine, *(cell(*worst_and_median(of_kind(rows, engine, kind), values)) for kind in kinds)]
            for engine in engines
        ]
        yield heading, ["engine", *kinds], lines


def cell(worst: float, median: float) -> str:
    return f"{worst:+.1f} ({median:+.1f})" if np.isfinite(worst) else "-"


def as_json(rows: list[Row], limit_db: float) -> str:
    """Worst and median by engine and kind, then every recording."""

    def number(value: float) -> float | None:
        return round(value, 2) if np.isfinite(value) else None

    engines = list(dict.fromkeys(row.engine for row in rows))
    summary = {
        engine: {
            kind: {
                key: dict(
                    zip(
                        ("worst", "median"),
                        map(number, worst_and_median(of_kind(rows, engine, kind), values)),
                        strict=True,
                    )
                )
                for key, (_, values) in MEASURES.items()
            }
            for kind in kinds_in(rows)
        }
        for engine in engines
    }
    recordings = [
        {
            "engine": row.engine, "kind": row.kind, "name": row.name, "snr_db": row.snr_db,
            "onset_db": [number(value) for value in row.losses.onsets_db],
            "worst_80ms_db": number(row.losses.worst_db), "level_db": number(row.losses.level_db),
            "si_sdr_improvement_db": number(row.losses.si_sdr_improvement_db),
        }
        for row in rows
    ]  # fmt: skip
    return json.dumps({"limit_db": limit_db, "kinds": summary, "recordings": recordings}, indent=1) + "\n"

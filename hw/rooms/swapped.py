"""Two microphones in each other's place: is it detected, how soon, and are right ones ever suspected?

    python -m hw.rooms.swapped [--noise KIND ...] [--snr-db DB ...] [--seconds 30] [--jobs 2] [--json FILE]

The office of ``hw.rooms.scenes``, every noise at every signal-to-noise ratio, once with right channels and once
swapped, through the whole chain. The exit status is 1 if right ones were reported as swapped.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge import HOP_MS, HOP_SAMPLES, UserError
from edge.chain import Chain
from edge.console import run_main
from edge.tools.tables import show
from hw.rooms.modes import MODES, settings
from hw.rooms.rendering import check_packages, render
from hw.rooms.scenes import Scene

NOISES = ("engine", "traffic", "white", "brook", "babble", "talker")
SNRS_DB = (-5.0, 5.0, 10.0, 25.0)
BOTH_PATHS = MODES[-1]


@dataclass(frozen=True)
class Row:
    """What the box reported of one scene."""

    noise: str
    snr_db: float
    swapped: bool
    """Whether they were."""
    reported_s: float | None
    """When it first reported so."""
    reported_share: float
    """How much of the scene it reported so."""


def listen(noise: str, snr_db: float, swapped: bool, seconds: float) -> Row:
    """One scene through the chain."""
    kind = "swapped" if swapped else "cup"
    sound = render(Scene("", noise, "", reference=kind), seconds, snr_db=snr_db)
    assert sound.reference is not None
    chain = Chain(settings(BOTH_PATHS, "network"))
    reported = []
    for at in range(0, len(sound.voice), HOP_SAMPLES):
        chain.process(sound.voice[at : at + HOP_SAMPLES].copy(), sound.reference[at : at + HOP_SAMPLES])
        assert chain.reference is not None
        reported.append(chain.reference.trouble == "swapped")
    first_s = reported.index(True) * HOP_MS / 1000 if any(reported) else None
    return Row(noise, snr_db, swapped, first_s, sum(reported) / len(reported))


def cell(row: Row) -> str:
    """Seconds until it was reported, and for how much of the scene."""
    return "-" if row.reported_s is None else f"{row.reported_s:.0f} ({row.reported_share:.0%})"


def tabulate(rows: Sequence[Row]) -> Table:
    """A line a noise, two columns a ratio."""
    table = Table(title="reported as swapped after s (share of the scene); - never")
    found = {(row.noise, row.snr_db, row.swapped): row for row in rows}
    snrs_db = sorted({row.snr_db for row in rows})
    table.add_column("noise")
    for swapped in (True, False):
        for snr_db in snrs_db:
            table.add_column(f"{'swapped' if swapped else 'right'}, {snr_db:g} dB", justify="right")
    for noise in dict.fromkeys(row.noise for row in rows):
        cells = [found[noise, snr_db, swapped] for swapped in (True, False) for snr_db in snrs_db]
        table.add_row(
            noise, *("-" if c.reported_s is None else f"{c.reported_s:.0f} ({c.reported_share:.0%})" for c in cells)
        )
    return table


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 if right channels were never suspected, 2 after one line that names the fault."""
    parser = argparse.ArgumentParser("python -m hw.rooms.swapped", description="Are swapped microphones detected?")
    parser.add_argument("--noise", nargs="+", choices=NOISES, default=NOISES, help="which (all)")
    parser.add_argument("--snr-db", nargs="+", type=float, default=SNRS_DB, metavar="DB", help="speech against noise")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="each scene lasts, at least 10 (30)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the table's content")
    wanted = parser.parse_args(arguments)
    if not 10 <= wanted.seconds <= 3600 or wanted.jobs < 1 or not all(-40 <= snr <= 60 for snr in wanted.snr_db):
        parser.error("10 to 3600 seconds, at least one job, -40 to 60 dB")
    try:
        check_packages()
    except UserError as reason:
        print(f"swapped: {reason}", file=sys.stderr)
        return 2
    cases = list(product(wanted.noise, wanted.snr_db, (True, False)))
    with ProcessPoolExecutor(wanted.jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(listen, *case, wanted.seconds) for case in cases]
        rows = [each.result() for each in track(waiting, "scenes", console=Console(stderr=True))]
    show(tabulate(rows))
    suspected = sum(row.reported_share > 0 for row in rows if not row.swapped)
    missed = sum(row.reported_share == 0 for row in rows if row.swapped)
    print(f"{len(rows)} scenes: swapped and not detected {missed}, right and suspected {suspected}")
    if wanted.json:
        wanted.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 1 if suspected else 0


if __name__ == "__main__":
    run_main(main, "swapped")

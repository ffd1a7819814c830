"""Engines side by side on a folder of recordings."""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge.console import run_main
from models.command import status_of
from quant.evaluate.options import check, common_arguments, read
from quant.evaluate.run import Figures, figures_of
from quant.evaluate.tables import as_json, markdown, tables, write


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m quant.evaluate", description="Engines side by side on a folder of recordings."
    )
    common_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures of every file to this file")
    parser.add_argument("--markdown", type=Path, metavar="F", help="write the tables to this file")
    return parser.parse_args(argv)


def show(figures: Figures) -> None:
    """The tables on the terminal, and how many outputs PESQ could not measure."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    for title, headings, lines in tables(figures):
        table = Table(title=title, title_justify="left")
        for heading in headings:
            table.add_column(heading, justify="left" if heading in ("engine", "kind") else "right")
        for line in lines:
            table.add_row(*map(escape, line))
        console.print(table)
    without_pesq = sum("pesq_wb" in row.values and not np.isfinite(row["pesq_wb"]) for row in figures.rows)
    if without_pesq:
        console.print(f"{without_pesq} outputs contain no utterance for PESQ; its mean excludes them")


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    asked = arguments(argv)

    def work() -> None:
        engines = check(asked, asked.json, asked.markdown)
        figures = figures_of(read(asked), engines, asked.limit_db, asked.jobs)
        if asked.json:
            write(asked.json, as_json(figures))
        if asked.markdown:
            write(asked.markdown, markdown(figures))
        show(figures)

    return status_of(work, "evaluate")


if __name__ == "__main__":
    run_main(main, "evaluate")

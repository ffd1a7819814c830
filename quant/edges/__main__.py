"""What engines lose of words after a pause, whispers, songs, quiet talkers and speech over music."""

import argparse
import sys
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from edge.console import run_main
from models.command import BadRequest, status_of
from quant.edges.cases import KINDS, SOUNDS, cases
from quant.edges.run import Row, default_engines, evaluate, write_pairs
from quant.edges.tables import as_json, tables
from quant.evaluate.engines import KNOWN, engine_named
from quant.evaluate.options import check_numbers, check_targets
from quant.evaluate.tables import markdown_of, write


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m quant.edges",
        description="What engines lose of words after a pause, whispers, songs, quiet talkers and speech over music.",
    )
    parser.add_argument("--engines", help=f"comma-separated, of: {KNOWN}; default: ours and the installed peers")
    parser.add_argument("--voices", type=Path, metavar="DIR", help="clean recordings, one talker a file, not ours")
    parser.add_argument("--kinds", help=f"comma-separated, of: {', '.join(KINDS)}; default: all")
    parser.add_argument("--limit-db", type=float, default=60.0, help="attenuation limit of our engines (default 60)")
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes (default 2)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures of every recording to this file")
    parser.add_argument("--markdown", type=Path, metavar="F", help="write the tables to this file")
    parser.add_argument("--write", type=Path, metavar="DIR", help="only write the recordings to a new folder of pairs")
    return parser.parse_args(argv)


def work(asked: argparse.Namespace) -> None:
    """Raises UserError."""
    check_numbers(asked.jobs, asked.limit_db)
    check_targets(asked.json, asked.markdown)
    voices = asked.voices or SOUNDS
    if not voices.is_dir():
        raise BadRequest(f"{voices} is not a folder of clean recordings; name one with --voices")
    kinds = split(asked.kinds)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise BadRequest(f"--kinds {unknown[0]}: known are {', '.join(KINDS)}")
    if asked.write:
        write_pairs(list(cases(voices, kinds)), asked.write)
        print(f"{asked.write}: pairs for python -m quant.evaluate --pairs {asked.write}")
        return
    named = split(asked.engines)
    if asked.engines is not None and not named:
        raise BadRequest(f"--engines names none; known: {KNOWN}")
    engines = named or default_engines()
    for engine in engines:
        engine_named(engine).weights()
        for note in engine_named(engine).notes():
            print(f"{engine}: {note}", file=sys.stderr)
    found = list(cases(voices, kinds))
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task(f"{len(found)} recordings, {len(engines)} engines", total=len(found) * len(engines))
        rows = evaluate(found, engines, asked.limit_db, asked.jobs, partial(progress.advance, bar))
    if asked.json:
        write(asked.json, as_json(rows, asked.limit_db))
    if asked.markdown:
        write(asked.markdown, markdown_of(tables(rows)))
    show(rows)


def split(listed: str | None) -> list[str]:
    """The names of a comma-separated option, each once."""
    return list(dict.fromkeys(name.strip() for name in (listed or "").split(",") if name.strip()))


def show(rows: list[Row]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200)
    for title, headings, lines in tables(rows):
        table = Table(*headings, title=title, title_justify="left")
        for line in lines:
            table.add_row(*map(escape, line))
        console.print(table)


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    asked = arguments(argv)
    return status_of(lambda: work(asked), "edges")


if __name__ == "__main__":
    run_main(main, "edges")

"""Packs recordings for training on another machine: ``python -m models.mix --data DIR --pack SMALL``."""

import argparse
from pathlib import Path

from edge.console import run_main
from models.command import BadRequest, status_of
from models.mix.pack import pack


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(
        "python -m models.mix", description="Packs recordings for training on another machine."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with speech.tsv, noise.tsv and rir/")
    parser.add_argument("--pack", type=Path, required=True, metavar="DIR", help="output folder of the smaller copy")
    parser.add_argument("--megabytes", type=float, default=58.0, help="its maximum size")
    wanted = parser.parse_args(arguments)

    def work() -> None:
        try:
            pack(wanted.data, wanted.pack, wanted.megabytes)
        except OSError as reason:
            raise BadRequest(str(reason)) from None

    return status_of(work, "mix")


if __name__ == "__main__":
    run_main(main, "mix")

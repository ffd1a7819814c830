"""Writes the completion of `quietbox` in bash and zsh again, from the parser of the command itself.

python -m edge.write_completion      after a change of the options; needs the extra dev
"""

import argparse
from pathlib import Path

from edge import engines, orders
from edge.arguments import Arguments
from edge.cli import VERBS
from edge.console import run_main
from edge.tools.completion import SHELLS, path_of


def made(shell: str) -> str:
    """The same as shtab makes it of today's parser."""
    import shtab  # an extra: users get the files

    parser = Arguments(VERBS).parser
    _say_what_completes(parser, shtab.FILE)
    return str(shtab.complete(parser, shell=shell))


def _say_what_completes(parser: argparse.ArgumentParser, of_file: object) -> None:
    """File names where a path is taken; the words of an order."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, verb in action.choices.items():
                _say_what_completes(verb, of_file)
                for each in verb._actions:
                    if each.dest == "value":
                        each.choices = {"engine": engines.CHOICES, "volume": ("up", "down")}.get(
                            name, () if name == "limit" else orders.SWITCHES
                        ) or None
        elif action.type is Path or action.metavar in ("FILE", "OUT", "IN", "JSON"):
            action.complete = of_file  # type: ignore[attr-defined]  # shtab looks for it


def main() -> None:
    """Write the files that ship."""
    for shell in SHELLS:
        path_of(shell).write_text(made(shell), encoding="utf-8")


if __name__ == "__main__":
    run_main(main, "completion")

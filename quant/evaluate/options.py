"""Options that ``quant.evaluate`` and ``quant.report`` share, and their checks before the work begins."""

import argparse
import sys
from pathlib import Path

from edge import UserError
from edge.files import atomic
from models.command import BadRequest, need
from quant.evaluate.engines import ALL, BOXED, KNOWN, OURS, engine_named
from quant.evaluate.sounds import Sound, read_noisy, read_pairs

DEFAULT_ENGINES = "network,dsp,speexdsp,noisy"
"""The product's network first: what the others cost is compared with it."""


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """What to hear and with what; shared with the report."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pairs", type=Path, metavar="DIR", help="folder with clean/ and noisy/ of the same names")
    source.add_argument("--noisy", type=Path, metavar="DIR", help="folder of recordings without a clean reference")
    parser.add_argument("--engines", default=DEFAULT_ENGINES, help=f"{ALL}, or comma-separated of: {KNOWN}")
    parser.add_argument("--limit-db", type=float, default=60.0, help="attenuation limit of our engines (default 60)")
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes (default 2)")


def check(asked: argparse.Namespace, *targets: Path | None) -> list[str]:
    """The engines asked for; raises UserError for whatever would fail later, before the work begins."""
    names = [name.strip() for name in asked.engines.split(",") if name.strip()]
    engines = [*dict.fromkeys(each for name in names for each in (_all_here() if name == ALL else [name]))]
    if not engines:
        raise BadRequest(f"--engines names none; known: {ALL}, {KNOWN}")
    for engine in engines:
        engine_named(engine)
    check_numbers(asked.jobs, asked.limit_db)
    need("evaluate", "speechmos", "onnxruntime", *(["pesq", "pystoi"] if asked.pairs else []))
    for engine in engines:
        engine_named(engine).weights()
    check_targets(*targets)
    return engines


def check_numbers(jobs: int, limit_db: float) -> None:
    """Raises BadRequest."""
    if jobs < 1:
        raise BadRequest(f"--jobs {jobs}: at least 1")
    if not 0 <= limit_db <= 100:
        raise BadRequest(f"--limit-db {limit_db:g}: 0 to 100")


def check_targets(*targets: Path | None) -> None:
    """Whether each can be written and none is named twice; raises BadRequest."""
    for path in targets:
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise BadRequest(f"{path} cannot be written: it is a folder, or its folder does not exist")
    places = [atomic.place_of(path) for path in targets if path]
    if len({*places}) < len(places):
        raise BadRequest(f"{targets[0]} would be written twice; give --json and --markdown different files")


def _all_here() -> list[str]:
    """``ALL`` in names; what cannot be had is a line on stderr."""
    here = ["noisy"]
    for name in [*OURS, *BOXED]:
        try:
            engine_named(name).weights()
            here.append(name)
        except UserError as missing:
            print(f"left out: {missing}", file=sys.stderr)
    return here


def read(asked: argparse.Namespace) -> list[Sound]:
    return read_pairs(asked.pairs) if asked.pairs else read_noisy(asked.noisy)

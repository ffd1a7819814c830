"""A smaller network out of a trained one."""

import argparse
from pathlib import Path

from edge.console import run_main
from models.command import need, status_of
from quant.calibrate import SOUNDS


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m quant.prune", description=str(__doc__).split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, metavar="F.pt", help="weights.pt or checkpoint.pt")
    parser.add_argument("--shape", required=True, metavar="JSON", help='the target sizes, e.g. {"channels": 24}')
    parser.add_argument("--out", type=Path, required=True, metavar="F.pt", help="output file of the smaller network")
    parser.add_argument("--sounds", type=Path, nargs="+", default=[SOUNDS], metavar="DIR", help="folders of recordings")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    asked = arguments(argv)

    def work() -> int:
        need("quantize,train", "torch", "onnx")
        from quant.prune.run import run  # what it needs comes from an extra

        return run(asked)

    return status_of(work, "prune")


if __name__ == "__main__":
    run_main(main, "prune")

"""DeepFilterNet3's published graphs -> graphs that take one frame at a time."""

import argparse
from pathlib import Path

from edge.console import run_main
from edge.suppress.foreign.deepfilter import places
from models.command import need, status_of


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m quant.deepfilter", description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"output folder, such as {places()[0]}")
    parser.add_argument("--archive", type=Path, metavar="F.tar.gz", help="the owners' archive (default: the package's)")
    parser.add_argument("--sha256", metavar="HEX", help="expected sha256 of the archive (default: that of 0.1.0)")
    parser.add_argument("--int8", action="store_true", help="store int8 weights")
    parser.add_argument("--compare", action="store_true", help="compare the variants")
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="clean/ and noisy/ to compare on")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every n-th pair")
    parser.add_argument(
        "--pause-s", type=float, default=5.0, metavar="S", help="seconds of noise alone before each (default 5)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    asked = arguments(argv)

    def work() -> int:
        need("quantize,peers", "onnx", "onnxruntime")
        from quant.deepfilter.run import run  # what it needs comes from an extra

        return run(asked)

    return status_of(work, "deepfilter")


if __name__ == "__main__":
    run_main(main, "deepfilter")

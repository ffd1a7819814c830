"""Float ONNX -> INT8, measured against the float file."""

import argparse
from pathlib import Path

from edge.console import run_main
from models.command import need, status_of
from quant.calibrate import SOUNDS


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m quant.quantize", description=str(__doc__).split("\n")[0])
    parser.add_argument(
        "--model", type=Path, required=True, metavar="F.onnx", help="float model, of this project or another"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="F.onnx", help="output file of the quantized model")
    parser.add_argument(
        "--sounds", type=Path, nargs="+", default=[SOUNDS], metavar="DIR", help="folders of recordings for calibration"
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="F.npz", help="output of quant.calibrate, instead of recordings"
    )
    parser.add_argument("--every", type=int, default=5, help="use every n-th hop of the streams (default %(default)s)")
    parser.add_argument(
        "--pairs",
        type=Path,
        default=SOUNDS.parent,
        metavar="DIR",
        help="folder with clean/ and noisy/ for the measurement",
    )
    parser.add_argument(
        "--most-kb", type=float, default=100.0, help="largest file, in 1000 bytes (default %(default)g)"
    )
    parser.add_argument(
        "--force", action="store_true", help="write another project's model even if its outputs fall below the limit"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """0; 1 if nothing passes its limits, so that nothing is written; 2 after one line that says what is wrong."""
    asked = arguments(argv)

    def work() -> int:
        need("quantize", "onnx", "onnxruntime")
        from quant.quantize.run import quantize  # what it needs comes from an extra

        return quantize(asked)

    return status_of(work, "quantize")


if __name__ == "__main__":
    run_main(main, "quantize")

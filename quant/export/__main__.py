"""Checkpoint -> float ONNX of one hop, and proof that both give the same output."""

import argparse
from pathlib import Path

from edge.console import run_main
from models.command import need, status_of


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m quant.export", description=str(__doc__).split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, metavar="F", help="weights.pt or checkpoint.pt")
    parser.add_argument("--out", type=Path, required=True, metavar="F.onnx", help="output file of the float model")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    asked = arguments(argv)

    def work() -> int:
        need("quantize,train", "torch", "onnx", "onnxruntime")
        from quant.export.run import export  # what it needs comes from an extra

        return export(asked)

    return status_of(work, "export")


if __name__ == "__main__":
    run_main(main, "export")

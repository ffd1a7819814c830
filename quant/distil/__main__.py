"""A student of ours learns from a teacher."""

import argparse
from pathlib import Path

from edge.console import run_main
from models.command import need, status_of


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m quant.distil", description=str(__doc__).split("\n")[0])
    parser.add_argument("--teacher", required=True, help="an engine by its name in quant.evaluate, or a weights.pt")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--noisy", type=Path, nargs="+", metavar="DIR", help="folders of noisy recordings")
    source.add_argument("--data", type=Path, metavar="DIR", help="speech.tsv, noise.tsv and rir/, to mix from")
    parser.add_argument(
        "--trust", type=float, help="with --data: weight of the teacher's output in the target, 0 to 1 (default 0.5)"
    )
    parser.add_argument("--mixture-minutes", type=float, default=30.0, help="with --data (default %(default)g)")
    parser.add_argument("--init", type=Path, metavar="F.pt", help="initial weights of the student")
    parser.add_argument("--shape", default="{}", metavar="JSON", help='a new student, e.g. {"channels": 24}')
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="output folder for checkpoint.pt and weights.pt"
    )
    parser.add_argument("--resume", action="store_true", help="continue from RUN/checkpoint.pt")
    parser.add_argument("--minutes", type=float, help="planned time over all resumptions (default 120)")
    parser.add_argument("--steps", type=int, help="plan steps instead of minutes")
    parser.add_argument("--items", type=int, default=16, help="segments of 1.5 s a step (default %(default)s)")
    parser.add_argument("--rate", type=float, help="highest learning rate (default 2e-3, with --init 3e-4)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.set_defaults(kinds="")  # an option of models.train, which makes the student
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    asked = arguments(argv)

    def work() -> int:
        need("quantize,train", "torch", "onnx")
        from quant.distil.student import run  # what it needs comes from an extra

        return run(asked)

    return status_of(work, "distil", "stopped; continue with --resume once there is a checkpoint")


if __name__ == "__main__":
    run_main(main, "distil")

"""A small U-Net for ``engine = "window"``: training and measuring.

    python -m models.unet --data DIR --out RUN --items 6 --rate 3e-3 --minutes 35
    python -m models.unet --data DIR --out RUN --resume
    python -m models.unet --evaluate models/unet/unet.onnx --dev DIR/dev --wait 0

The network: ``models.window_network``; its training: ``models.window_training``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from edge.console import run_main
from models.command import need, status_of


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m models.unet", description=str(__doc__).split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with speech.tsv, noise.tsv and rir/")
    parser.add_argument("--out", type=Path, help="output folder for checkpoint.pt, weights.pt and log.jsonl")
    parser.add_argument("--cache", type=Path, help="cache of decoded recordings (about 1 GB; default: OUT/cache)")
    parser.add_argument("--minutes", type=float, default=120.0, help="planned training time over all resumptions")
    parser.add_argument("--steps", type=int, default=0, help="plan steps instead of minutes")
    parser.add_argument("--items", type=int, default=6, help="segments of 1.5 s a step")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--resume", action="store_true", help="continue from OUT/checkpoint.pt, with the plan given here"
    )
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument(
        "--evaluate", metavar="F.onnx", help="only measure this mask network on --dev, as the box runs it"
    )
    parser.add_argument("--dev", type=Path, help="folder with clean/ and noisy/ of the same names")
    parser.add_argument("--every", type=int, default=1, help="with --evaluate: only every n-th pair")
    parser.add_argument("--wait", type=int, help="with --evaluate: [window] wait_frames (default: all)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    wanted = parse(arguments)

    def work() -> None:
        need("train", "torch")
        from models.window_training import run  # PyTorch comes from an extra

        run(wanted)

    return status_of(work, "unet", "stopped; continue with --resume")


if __name__ == "__main__":
    run_main(main, "unet")

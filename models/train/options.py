"""The options of ``models.train`` and ``models.twin``; needs no extra."""

import argparse
from pathlib import Path


def parse(arguments: list[str] | None, name: str, about: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"python -m models.{name}", description=about.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with speech.tsv, noise.tsv and rir/")
    parser.add_argument("--speech", type=Path, action="append", default=[], help="folder of your own clean recordings")
    parser.add_argument("--noise", type=Path, action="append", default=[], help="folder of your own noise recordings")
    parser.add_argument("--out", type=Path, help="output folder for checkpoint.pt, weights.pt, log.jsonl and curve.png")
    parser.add_argument("--cache", type=Path, help="cache of decoded recordings (about 1 GB; default: OUT/cache)")
    parser.add_argument("--dev", type=Path, help="folder with clean/ and noisy/ of the same names, measured only")
    parser.add_argument("--minutes", type=float, help="planned training time over all resumptions (default 120)")
    parser.add_argument("--steps", type=int, help="plan steps instead of minutes")
    parser.add_argument("--items", type=int, default=16, help="segments of 3 s a step and process")
    parser.add_argument("--rate", type=float, help="highest learning rate (default 2e-3, with --init 3e-4)")
    parser.add_argument(
        "--kinds",
        metavar="NAME=SHARE,...",
        help="share of items that are whisper, song, quiet, onset or music (default none)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shape", default="{}", help='sizes as JSON, e.g. {"channels": 48}')
    parser.add_argument("--resume", action="store_true", help="continue from OUT/checkpoint.pt")
    parser.add_argument("--init", type=Path, help="fine-tune these weights")
    parser.add_argument("--threads", type=int, default=1, help="processor threads a process")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--evaluate", type=Path, metavar="WEIGHTS", help="only measure these weights on --dev")
    parser.add_argument("--every", type=int, default=1, help="with --evaluate: only every n-th pair")
    return parser.parse_args(arguments)

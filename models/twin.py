"""The twin without limits, never shipped: what 10 ms and 100 KB cost the box's network.

    torchrun --nproc_per_node 2 -m models.twin --data DIR --out TWIN --init models/quietbox/weights.pt --dev DIR/dev

Twice the rounds of the shipped network, and an ordinary transform: root-Hann windows of 30 ms on both sides
(``models.late_window``). All else is ``models.train``: mixtures, loss, schedule, checkpoints. ``--evaluate`` measures a
twin.
"""

import json
from dataclasses import asdict

from edge.console import run_main
from models.command import need, status_of
from models.train.options import parse


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    wanted = parse(arguments, "twin", str(__doc__))

    def work() -> None:
        need("train", "torch")
        from models.late_window import SHAPE, TwinTrainer  # PyTorch comes from an extra
        from models.train.start import run

        if wanted.shape == "{}":
            wanted.shape = json.dumps(asdict(SHAPE))
        run(wanted, TwinTrainer)

    return status_of(work, "twin", "stopped; continue with --resume")


if __name__ == "__main__":
    run_main(main, "twin")

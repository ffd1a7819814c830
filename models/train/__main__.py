"""From recordings to a checkpoint in one command."""

from edge.console import run_main
from models.command import need, status_of
from models.train.options import parse


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    wanted = parse(arguments, "train", str(__doc__))

    def work() -> None:
        need("train", "torch")
        from models.train.start import run  # PyTorch comes from an extra

        run(wanted)

    return status_of(work, "train", "stopped; continue with --resume")


if __name__ == "__main__":
    run_main(main, "train")

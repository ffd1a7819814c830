"""``python -m hw.install``: what ./install.sh calls on a board."""

from edge.console import run_main
from hw.install.command import main

if __name__ == "__main__":
    run_main(main, "install.sh")

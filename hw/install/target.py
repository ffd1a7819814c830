"""The system that is installed to: this machine, or a tree below another root; and what the installer prints."""

import argparse
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge import UserError, files
from edge.devices import cards
from hw.board import boards
from hw.board.i2s import Decision
from hw.install.ledger import Ledger
from hw.install.places import MANIFEST

MOST_TEXT_BYTES = 4 << 20
"""Of config.txt, /etc/passwd, /etc/group and their like."""


@dataclass(frozen=True)
class Step:
    """One thing to be done: its line in the plan, and the function that does it."""

    text: str
    do: Callable[[], object]


class Target:
    """What was asked for, and what is there."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.root: Path = options.root
        self.live = self.root == Path("/")
        """Whether this is the running system."""
        self.systemd = self.live and Path("/run/systemd/system").is_dir()
        self.board = boards.this_board(self.root)
        self.ledger = Ledger(self.root, MANIFEST)
        self.cards = cards.list_cards(proc=self.at("proc"), dev=self.at("dev"))
        self.extras: list[str] = self.ledger.extras if options.extras is None else options.extras
        """Of ``wheels.CHOICES``: what was asked for now, or last time."""
        self.reboot = False
        self.i2s = Decision(None)
        """Which card gets the I2S bus."""

    def at(self, place: str) -> Path:
        return self.root / place

    def named(self, path: Path) -> str:
        """A path as it will be called on the board."""
        return f"/{path.relative_to(self.root)}"

    def check_root(self) -> None:
        """Raises UserError if this user may not change the system."""
        if self.live and os.geteuid() != 0:
            raise UserError("this changes the system: run it as root (sudo)")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Only one installer at a time."""
        folder = self.at("etc") if self.at("etc").is_dir() else self.root
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise UserError("another run of the installer is active; wait for it to end") from None
        finally:
            os.close(descriptor)


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def complain(text: str) -> None:
    print(f"install.sh: {text}", file=sys.stderr, flush=True)


def list_steps(steps: list[Step]) -> None:
    """The plan, numbered."""
    if steps:
        say("planned steps:")
    for number, step in enumerate(steps, 1):
        print(f"    {number}. {step.text}", flush=True)


def do_steps(steps: list[Step]) -> None:
    """Do them in order, each printed before it is done."""
    for number, step in enumerate(steps, 1):
        say(f"{number}/{len(steps)} {step.text}")
        step.do()


def run(command: list[str]) -> None:
    """Raises UserError with the command's last line."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed: Quietbox installs on a Debian with systemd") from None
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines() or ["it gave no reason"]
        raise UserError(f"{' '.join(command)} failed: {last[-1]}")


def attempt(command: list[str]) -> bool:
    """Whether the command succeeded."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def lines(path: Path) -> list[str]:
    """The lines of a text file; none if it is not there."""
    return read_text(path).splitlines() if path.is_file() else []


def read_text(path: Path) -> str:
    """A text of unknown encoding, byte for byte."""
    return files.read_bounded(path, MOST_TEXT_BYTES).decode("utf-8", "surrogateescape")

"""Installs the box on a board, brings it up to date, takes it off again; ``./install.sh`` is its command.

First the plan, a numbered list; then the same steps are done. A step that finds its work done is not in the plan. Cut
off at any moment, the next run finishes: files change by renaming, a new version is built beside the old one and
entered by swapping one link. Needs nothing but Python: it runs before anything is installed.

Exit status: 0 installed (even if ``quietbox doctor`` at the end finds something missing, which it names), 1 not done,
2 wrong call.
"""

import argparse
import os
import sys
from pathlib import Path

from edge import UserError
from hw.board import boards
from hw.install import packages, plan, wheels
from hw.install.target import Step, Target, complain, list_steps, say
from hw.install.uninstall import uninstall


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parser().parse_args(arguments)
    os.umask(0o022)  # the service's own user reads what is made here
    try:
        _find_folders(options)
        if options.collect_wheels:
            return _collect(options)
        target = Target(options)
        return uninstall(target) if options.uninstall else plan.install(target)
    except UserError as error:
        complain(str(error))
    except OSError as error:
        complain(f"{error.filename or 'the system'}: {error.strerror}; fix that and run this again")
    except KeyboardInterrupt:
        complain("interrupted; run it again to continue")
        return 130
    return 1


def _collect(options: argparse.Namespace) -> int:
    """Fill a folder with wheels for a board of this kind that has no network."""
    board = boards.this_board()
    extras = wheels.extras(boards.gpio_package(board)[0], 64 if sys.maxsize > 2**32 else 32, options.extras or [])
    target: Path = options.collect_wheels
    steps = []
    missing = packages.missing([*packages.NEEDED[:1], *packages.TO_BUILD])
    if missing and os.geteuid() != 0 and not options.dry_run:
        raise UserError(f"Debian packages are missing; run: sudo apt-get install {' '.join(missing)}")
    if missing:
        steps.append(Step(f"install the Debian packages {' '.join(missing)}", lambda: packages.install(missing)))
    names = ", ".join(extra.name for extra in extras)
    steps.append(
        Step(f"fill {target} with wheels of quietbox and {names}", lambda: wheels.collect(target, extras, say))
    )
    list_steps(steps)
    if not options.dry_run:
        for step in steps:
            step.do()
        say(f"{len(list(target.glob('*.whl')))} wheels in {target}: ./install.sh --wheels FOLDER needs no network")
    return 0


def _find_folders(options: argparse.Namespace) -> None:
    """Make every folder of the call a full path; raises UserError."""
    for name in ("root", "wheels", "collect_wheels"):
        if folder := getattr(options, name):
            setattr(options, name, (options.called_from / folder).resolve())
    for name in ("root", "wheels"):
        if (folder := getattr(options, name)) and not folder.is_dir():
            raise UserError(f"--{name} {folder}: there is no such folder")
    if options.wheels and not any(options.wheels.glob("*.whl")):
        raise UserError(f"{options.wheels} holds no wheels; ./install.sh --collect-wheels {options.wheels} fills it")


def _extras(text: str) -> list[str]:
    """The argument of ``--with``."""
    names = sorted({name.strip() for name in text.split(",")} - {"none"})
    if unknown := [name for name in names if name not in wheels.CHOICES]:
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}; there are {', '.join(wheels.CHOICES)}, none")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="install.sh",
        description="Installs Quietbox as a service, or updates it. First lists what it will do.",
        epilog="Exit status: 0 installed, even if the doctor at the end finds the box not working yet; 1 failed; "
        "2 wrong arguments.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--board", action="store_true", help="install the service on a Debian that is not a Raspberry Pi, too"
    )
    parser.add_argument(
        "--microphone",
        choices=("i2s", "usb", "keep"),
        default="keep",
        help="i2s: enable the overlay for an I2S MEMS microphone, or use that of a sound board on the header; "
        "usb: disable it; keep (default): no change",
    )
    parser.add_argument(
        "--i2s-card",
        choices=("keep", "replace"),
        help="where another card has the one I2S bus (hifiberry-dac ...): keep it, without the microphone's overlay, "
        "or replace it, switching its line in config.txt off until --uninstall (default: ask)",
    )
    parser.add_argument(
        "--usb-microphone",
        action=argparse.BooleanOptionalAction,
        help="make the box a microphone for a PC on the board's USB port (Zero 2, 4, 5)",
    )
    parser.add_argument(
        "--release-cards", action="store_true", help="prevent the desktop's sound server from using the box's cards"
    )
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="take all packages from DIR, without a network")
    parser.add_argument(
        "--with",
        dest="extras",
        type=_extras,
        metavar="EXTRAS",
        help=f"also install {' or '.join(wheels.CHOICES)} (comma-separated; later runs keep them, none removes them)",
    )
    parser.add_argument("--again", action="store_true", help="build the program again, to add what was missing")
    parser.add_argument("--dry-run", action="store_true", help="list what would be done and stop")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="install below DIR (a card image)")
    parser.add_argument(
        "--uninstall", action="store_true", help="remove everything that was installed; settings are kept"
    )
    parser.add_argument("--purge", action="store_true", help="with --uninstall: remove the settings, too")
    parser.add_argument(
        "--collect-wheels",
        type=Path,
        metavar="DIR",
        help="fill DIR with the packages for --wheels, for boards like this",
    )
    parser.add_argument("--called-from", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)
    return parser

"""The program: a folder of its own for each version, entered by swapping one link, and the command that leads to it."""

import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edge import UserError
from hw.board import boards
from hw.install import ledger, packages, wheels
from hw.install.places import COMMAND, CURRENT, OPT, PREVIOUS, SETTINGS
from hw.install.target import Step, Target, say

SPACE_MB = 500


def folder_of(target: Target) -> tuple[Path, bool]:
    """Where this version lies or is to be built, and whether it is there already."""
    package, _ = boards.gpio_package(target.board)
    return choose_folder(target, wheels.name_of(package, target.extras))


def steps(target: Target, folder: Path, built: bool) -> Iterator[Step]:
    """Debian's packages, and the program in ``folder`` unless it is ``built``."""
    yield from debian(target)
    if built:
        return
    package, _ = boards.gpio_package(target.board)
    bits = target.board.userland_bits or (64 if sys.maxsize > 2**32 else 32)
    extras = wheels.extras(package, bits, target.extras)
    names = ", ".join(extra.name for extra in extras)
    source = f"from {target.options.wheels}" if target.options.wheels else "from the network"
    yield Step(
        f"build the program in {target.named(folder)}, packages {source}, with {names} (takes some minutes)",
        partial(build, target, folder, extras),
    )


def entering(target: Target, folder: Path) -> Iterator[Step]:
    """Make ``folder`` the version in use."""
    if ledger.points_to(target.at(CURRENT)) != folder.name:
        yield Step(f"check the settings, then enter {folder.name}", lambda: enter(target, folder))


def choose_folder(target: Target, name: str) -> tuple[Path, bool]:
    """Where this version lies or is to be built, and whether it is there already."""
    for number in range(1, 100):
        folder = target.at(f"{OPT}/{name}" + (f".{number}" if number > 1 else ""))
        stamped = (folder / wheels.STAMP).is_file()
        again = target.options.again and not target.ledger.pending
        if stamped and not again and wheels.complete(folder):
            return folder, True
        if not stamped:
            return folder, False
    raise UserError(f"{target.at(OPT)} contains too many versions that do not run; run --uninstall, then install again")


def debian(target: Target) -> Iterator[Step]:
    """Debian's part; below another root it is for whoever makes that root."""
    if not target.live:
        return
    wanted = [*packages.NEEDED, *(() if sys.maxsize > 2**32 else packages.NEEDED_32)]
    wanted += () if target.options.wheels else packages.TO_BUILD
    missing = packages.missing(wanted)
    if missing:
        yield Step(f"install the Debian packages {' '.join(missing)}", lambda: install_packages(target, missing))


def install_packages(target: Target, missing: list[str]) -> None:
    target.ledger.make_folder(target.at(OPT))
    target.ledger.packages += [name for name in missing if name not in target.ledger.packages]
    target.ledger.save()
    packages.install(missing)


def build(target: Target, folder: Path, extras: list[wheels.Extra]) -> None:
    target.ledger.make_folder(folder.parent)
    free_mb = shutil.disk_usage(folder.parent).free >> 20
    if free_mb < SPACE_MB:
        raise UserError(
            f"{target.named(folder.parent)} has {free_mb} MB free, {SPACE_MB} MB are needed; free some space"
        )
    target.ledger.extras = target.extras
    target.ledger.save()
    wheels.build(folder, extras, target.options.wheels, target.root, say)


def enter(target: Target, folder: Path) -> None:
    """Swap ``current``, if the new version takes the settings."""
    fault = wheels.settings_fault(folder, target.at(SETTINGS))
    if fault:
        stays = ledger.points_to(target.at(CURRENT))
        raise UserError(f"{fault}; fix it and run this again ({stays or 'nothing'} stays in use)")
    before = ledger.points_to(target.at(CURRENT))
    if before and (target.at(OPT) / before).is_dir():
        target.ledger.put_link(target.at(PREVIOUS), before)
    target.ledger.put_link(target.at(CURRENT), folder.name)


def command(target: Target) -> Iterator[Step]:
    path = target.at(COMMAND)
    leads_to = f"/{CURRENT}/bin/quietbox"
    if ledger.points_to(path) == leads_to:
        return
    if path.exists() and COMMAND not in target.ledger.links:
        raise UserError(f"{path} exists and is not Quietbox's; move it away and run this again")
    yield Step(f"link the command {target.named(path)}", lambda: target.ledger.put_link(path, leads_to))


def old_versions(target: Target, folder: Path) -> Iterator[Step]:
    """Everything but this version and the one before, to which one can go back."""
    before = ledger.points_to(target.at(CURRENT))
    if before == folder.name:
        before = ledger.points_to(target.at(PREVIOUS))
    opt = target.at(OPT)
    for old in sorted(opt.iterdir()) if opt.is_dir() else []:
        if old.is_dir() and not old.is_symlink() and old.name not in (folder.name, before):
            yield Step(f"remove the old version {old.name}", partial(ledger.remove_tree, old))

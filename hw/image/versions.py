"""Which version of the product runs, and the return to the one before when a new one does not.

An update is put in only if it is signed with a key of this box (``hw/image/signature.py``) and is not older than what
runs, by the build number in it, unless that is asked for.

Everything is kept in one folder on the data partition, in files that change by renaming, so that a power cut leaves
the state before or the state after each step:

    versions/NAME   a version, whole once its stamp is there
    current         link to the version in use; none: the one the image shipped
    previous        link to the last version that reached READY before this one
    good            the name of the last version that reached READY
    tries           "NAME N": starts of a version that has not reached READY yet
    refused         names of versions that never did, one a line
    offered         sha256 of the signature of the update on the card's first partition that was taken last

``quietbox.service`` calls ``begin`` before each start and ``ready`` when systemd has heard READY. A version that began
twice and was never ready is refused at the third start, which takes the one before, and the shipped one if there is
none. One that has been ready once stays: what then fails is not the update. A power cut between begin and READY counts
as a start, so a box switched off twice while it starts a new version for the first time goes back, too: wrong once in
a while, and safe. One that was ready and then fails six times in a row (``quietbox-trial`` counts in
memory) gives way to the one before until the next power-on.

    python -m hw.image.versions begin|ready|fail|show|update FILE
"""

import argparse
import contextlib
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edge import UserError, files
from edge.console import run_main
from hw.image import bundle, signature
from hw.install import ledger

STORE = Path("/data/quietbox")
SHIPPED = Path("/opt/quietbox/shipped")
IN_USE = Path("/run/quietbox-version")
"""What /opt/quietbox/current points to, since the root is read-only."""
MOST_TRIES = 2
MOST_LINE = 600
"""Characters of a line in the journal; what a card holds may be quoted in it."""
MOST_STATE_BYTES = 64 << 10
"""Of a state file; the longest, ``refused``, has 20 names of 61 characters."""
OFFERED = Path("/boot/firmware/update.quietbox")
"""An update that somebody copied to the card."""

Say = Callable[[str], None]


class TriedBefore(UserError):
    """A signed update that was put in before and never became ready."""


class OlderVersion(UserError):
    """A signed update that is older than what runs."""


class Versions:
    """The versions below ``store``; ``shipped`` is the one that is always there; ``signers`` lists the keys that sign
    updates. Only ``update`` raises UserError."""

    def __init__(
        self,
        store: Path = STORE,
        shipped: Path = SHIPPED,
        in_use: Path = IN_USE,
        signers: Path = signature.SIGNERS,
    ) -> None:
        self.store, self.shipped, self.in_use, self.signers = store, shipped, in_use, signers

    @property
    def current(self) -> str:
        """The name of the version in use; empty: the shipped one."""
        return self._linked("current")

    @property
    def previous(self) -> str:
        return self._linked("previous")

    @property
    def good(self) -> str:
        return self._read("good")

    @property
    def refused(self) -> list[str]:
        return self._read("refused").split()

    @property
    def offered(self) -> str:
        """The update on the card that was taken last: it stays there, and must not undo a later one."""
        return self._read("offered")

    @offered.setter
    def offered(self, name: str) -> None:
        self._write("offered", name)

    @property
    def tries(self) -> int:
        """How often the current version began without reaching READY."""
        name, _, count = self._read("tries").partition(" ")
        return int(count) if name == self.current and re.fullmatch("[0-9]{1,4}", count) else 0

    @property
    def failing(self) -> list[str]:
        """Versions that were ready once and do not start any more. Forgotten at the next power-on: what stops them may
        be a driver or a full memory, not the update."""
        return self._read(str(self._failing)).split()

    @property
    def _failing(self) -> Path:
        return self.in_use.with_name(f"{self.in_use.name}-failing")

    def fail(self, say: Say) -> Path:
        """The version in use was started again and again and never ready: take another until the next power-on."""
        name = Path(ledger.points_to(self.in_use)).name
        if self.folder(name) != self.shipped and name not in self.failing:
            ledger.write(self._failing, f"{' '.join([*self.failing, name])}\n".encode())
            folder = self.choose()
            say(f"version {name} no longer starts: {folder.name} runs until the next power-on")
        return self.choose()

    def folder(self, name: str) -> Path:
        """Where a version lies; the shipped one if the name is empty or the version is not whole."""
        place = self.store / "versions" / name
        return place if name and bundle.whole(place) else self.shipped

    def choose(self) -> Path:
        """Point ``in_use`` at the current version, at the one before or the shipped one if that is not whole or does
        not start; counts nothing.

        Comes first at every start and raises nothing, so that ``in_use`` never dangles.
        """
        out = {*self.refused, *self.failing}
        usable = (self.folder(name) for name in (self.current, self.previous) if name not in out)
        folder = next((place for place in usable if place != self.shipped), self.shipped)
        try:
            if ledger.points_to(self.in_use) != str(folder):
                self.in_use.parent.mkdir(parents=True, exist_ok=True)
                _remove_folder(self.in_use)
                ledger.link(self.in_use, str(folder))
        except OSError as error:
            warn(f"{self.in_use} cannot be pointed to {folder}: {error.strerror}")
        return folder

    def begin(self, say: Say) -> Path:
        """Before a start: count it if the version is new, go back if it failed too often. Returns what is to start.

        A data partition that cannot be written, or holds anything at all, costs the counting, never the start.
        """
        self.choose()
        try:
            self._count(say)
        except Exception as error:
            say(f"the versions below {self.store} cannot be managed: {error}")
        return self.choose()

    def _count(self, say: Say) -> None:
        self._remove_folders()
        for _ in range(2):
            name = self.current
            if not name or (name == self.good and self.folder(name) != self.shipped):
                return
            if name not in self.refused and self.folder(name) != self.shipped and self.tries < MOST_TRIES:
                self._write("tries", f"{name} {self.tries + 1}")
                return
            self._go_back(say)

    def _go_back(self, say: Say) -> None:
        """Refuse the current version; from the state after each step the next ``begin`` arrives at the same end."""
        name, before = self.current, self.previous
        why = (
            "is damaged"
            if self.folder(name) == self.shipped
            else (f"was started {self.tries} times without becoming ready")
        )
        if name not in self.refused:
            self._write("refused", "\n".join([*self.refused, name][-20:]))
        usable = before != name and before not in self.refused and self.folder(before) != self.shipped
        if usable:
            ledger.link(self.store / "current", f"versions/{before}")
        else:
            self._remove("current")
        self._remove("tries")
        say(f"version {name} {why}: back to {before if usable else 'the version of the card image'}")

    def ready(self) -> None:
        """systemd has heard READY: the version in use is good."""
        name = self.current
        runs = ledger.points_to(self.in_use) == str(self.folder(name))
        if name and name != self.good and runs and self.folder(name) != self.shipped:
            self._write("good", name)
            self._remove("tries")

    def update(self, path: Path, say: Say, again: bool = False, older: bool = False) -> str:
        """Make the version in a signed bundle the current one, the last good one the previous. Returns its name.

        ``again`` takes one that was refused before, ``older`` one that is older than what runs. Nothing changes for
        what runs until the last step. Raises UserError.
        """
        self.store.mkdir(parents=True, exist_ok=True)
        with signature.verified(path, self.store, self.signers) as payload:
            try:
                return self._put_in(payload, say, again, older)
            except UserError as error:  # it was made here and has no name; the user's file has
                raise type(error)(str(error).replace(str(payload), str(path))) from None

    def _put_in(self, path: Path, say: Say, again: bool, older: bool) -> str:
        """``update`` for a bundle whose signature was right. Raises UserError."""
        listing = bundle.contents(path)
        name = str(listing["name"])
        if name in self.refused and not again:
            raise TriedBefore(f"version {name} was tried and did not become ready; --again tries it again")
        newest = max(bundle.build_of(self.shipped), bundle.build_of(self.folder(self.current)))
        if listing["build"] < newest and not (older or listing.get("older") is True):
            raise OlderVersion(
                f"version {name} of {_date(listing['build'])} is older than what runs, of {_date(newest)}; "
                "--older installs it anyway (for an update on a card: hw/image/update --make FILE --older)"
            )
        if name == self.current and self.folder(name) != self.shipped and not again:
            say(f"version {name} is in use already")
            return name
        self.sweep()
        target = self.store / "versions" / name
        if not bundle.whole(target):
            part = target.with_name(f".{name}.part")
            ledger.remove_tree(target)
            bundle.unpack(path, part)
            os.rename(part, target)
            ledger.sync_folder(target.parent)
        before = self.current
        if before == self.good and self.folder(before) != self.shipped and before != name:
            ledger.link(self.store / "previous", f"versions/{before}")
        elif not before:
            self._remove("previous")
        if self.good == name:
            self._remove("good")
        self._remove("tries")
        if name in self.refused:
            self._write("refused", "\n".join(one for one in self.refused if one != name))
        ledger.link(self.store / "current", f"versions/{name}")
        self.sweep()
        say(f"version {name} starts next; {self.previous or 'the version of the card image'} is kept")
        return name

    def sweep(self) -> None:
        """Remove versions that nothing points to, and what a power cut left half unpacked."""
        self._remove_folders()
        top = self.store / "versions"
        if not top.is_dir():
            top.unlink(missing_ok=True)
        top.mkdir(parents=True, exist_ok=True)
        for folder in sorted(top.iterdir()):
            if folder.name not in (self.current, self.previous):
                if folder.is_dir() and not folder.is_symlink():
                    ledger.remove_tree(folder / bundle.STAMP)  # first: half removed it must not pass for whole
                ledger.remove_tree(folder)

    def _linked(self, name: str) -> str:
        """The name of the version that a link points to; empty if it is no link, or no name of a version."""
        try:
            target = Path(ledger.points_to(self.store / name)).name
        except OSError:
            return ""
        return target if re.fullmatch(bundle.NAME, target) else ""

    def _read(self, name: str) -> str:
        """A state file; empty where there is none, or none that can be read."""
        try:
            return files.read_bounded(self.store / name, MOST_STATE_BYTES).decode(errors="replace").strip()
        except (OSError, UserError):
            return ""

    def _remove_folders(self) -> None:
        """Where a state file or a link belongs: no rename replaces a folder."""
        for name in ("current", "previous", "good", "tries", "refused", "offered"):
            _remove_folder(self.store / name)

    def _write(self, name: str, text: str) -> None:
        ledger.write(self.store / name, f"{text}\n".encode())

    def _remove(self, name: str) -> None:
        path = self.store / name
        if path.is_symlink() or path.exists():
            path.unlink()
            ledger.sync_folder(self.store)


def _remove_folder(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        ledger.remove_tree(path)


def take_offered(versions: Versions, path: Path, say: Say) -> bool:
    """Put in the update that lies on the card's first partition, once. A bad one is named and changes nothing.

    Returns whether nothing was wrong; raises nothing.
    """
    try:
        if not os.path.lexists(path):
            return True
        mark = signature.mark(path)
        if mark != versions.offered:
            try:
                versions.update(path, say)
            except TriedBefore:
                pass  # reported when it was taken back
            except OlderVersion as error:
                say(f"{path} is rejected: {error}")
                versions.offered = mark  # reported once
                return False
            versions.offered = mark
    except UserError as error:
        say(str(error))
        return False
    except Exception as error:  # whatever else an update makes of the box, the box starts
        say(f"{path} cannot be installed: {error.strerror if isinstance(error, OSError) else error!r}")
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="quietbox-versions", description="Shows or changes the version of the product."
    )
    parser.add_argument("what", choices=("begin", "ready", "fail", "show", "update"))
    parser.add_argument("file", type=Path, nargs="?", help="with update: the file that hw/image/update --make wrote")
    parser.add_argument("--again", action="store_true", help="with update: try a version again that was rejected")
    parser.add_argument("--older", action="store_true", help="with update: permit a version older than the running one")
    options = parser.parse_args(arguments)
    versions = Versions()
    if options.what in ("begin", "ready", "fail"):
        return _count_start(versions, options.what)
    try:
        match options.what:
            case "show":
                print(f"in use {versions.current or 'shipped'}, good {versions.good or 'shipped'}")
                print(f"before {versions.previous or 'shipped'}, refused {' '.join(versions.refused) or 'none'}")
            case "update":
                if options.file is None:
                    raise UserError("the file is missing: quietbox-versions update FILE")
                versions.update(options.file, print, options.again, options.older)
    except UserError as error:
        print(f"quietbox-versions: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"quietbox-versions: {error.filename or STORE}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _date(build: int) -> str:
    """A build number for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(build))


def _count_start(versions: Versions, what: str) -> int:
    """Always 0: systemd would not start the service at all, or stop it again."""
    try:
        match what:
            case "begin":
                versions.begin(warn)
            case "fail":
                versions.fail(warn)
            case _:
                versions.ready()
    except Exception as error:
        warn(f"the versions below {versions.store} cannot be managed: {error}")
    return 0


def warn(text: str) -> None:
    """A warning for the journal, one line of a readable length: systemd reads the number as syslog's priority."""
    line = "".join(sign if sign.isprintable() else "?" for sign in text[:MOST_LINE])
    with contextlib.suppress(OSError):  # nobody hears it: no reason for a box not to start
        print(f"<4>{line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main(main, "quietbox-versions")

"""Which settings a box on a card starts with: those on the card if they are right, else the last that were.

Before every start of the service ``choose`` reads ``quietbox.toml`` on the card's first partition, which any PC can
edit, checks it with the version of the product that will run, and writes what holds to ``/run``. A refused file costs
nothing but its changes: the last good settings are taken, the journal names the key, and the LED blinks its fault
pattern for some seconds before the box takes it over.

    python -m hw.image.settings
"""

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge import files
from edge.console import run_main
from edge.files import toml
from hw.image import found
from hw.image.versions import OFFERED, Versions, take_offered, warn
from hw.install import ledger, wheels

CARD = Path("/boot/firmware/quietbox.toml")
KEPT = Path("/data/settings/quietbox.toml")
"""The last good settings, as they stood on the card."""
FOUND = Path("/data/settings/found.toml")
"""What the first boot found out about the board; used where the card's file sets nothing."""
OUT = Path("/run/quietbox-settings/quietbox.toml")
CHECKED = Path("/data/settings/checked")
NONE = Path("/dev/null")
BLINK_MOST_S = 30.0
"""The fault light takes 6 s; a GPIO that hangs must not keep the box from starting."""

Check = Callable[[Path], str]
"""Settings file -> why it would be refused; empty if it is right."""
Tables = dict[str, dict[str, object]]


@dataclass(frozen=True)
class Choice:
    """Where the settings came from."""

    source: str
    """"card", "last good" or "shipped"."""
    fault: str
    """Why the card's file was refused; empty if it was not."""


def choose(check: Check, card: Path = CARD, kept: Path = KEPT, guessed: Path = FOUND, out: Path = OUT) -> Choice:
    """Write the settings to start with to ``out`` and keep good ones in ``kept``. Never raises for what lies on the
    card or the data partition, however broken.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    extra = _tables(_text(guessed)[0])[0]
    text, fault = _text(card)
    if not fault:
        fault = _try(text, extra, check, out)
    if not fault:
        _keep(text, kept)
        return Choice("card", "")
    before, missing = _text(kept)
    if not missing and not _try(before, extra, check, out):
        return Choice("last good", fault)
    if _try("", extra, check, out):
        ledger.write(out, b"")
    return Choice("shipped", fault)


def _keep(text: str, kept: Path) -> None:
    """A data partition that is full or gone costs the keeping only."""
    try:
        if _text(kept) != (text, ""):
            kept.parent.mkdir(parents=True, exist_ok=True)
            if kept.is_dir():
                ledger.remove_tree(kept)
            ledger.write(kept, text.encode())
    except OSError:
        return


def _try(text: str, extra: Tables, check: Check, out: Path) -> str:
    """Write ``text`` with ``extra`` below it to ``out`` if that is right; else say why not."""
    tables, unparsed = _tables(text)
    part = ledger.part_of(out)
    part.write_text(text)
    if fault := check(part) or unparsed:  # the user's own words first, so that line numbers are theirs
        part.unlink()
        return fault.replace(str(part), CARD.name)
    if more := _with_found(tables, extra):
        part.write_text(more)
        if check(part):
            part.write_text(text)
    ledger.write(out, part.read_bytes())
    return ""


def _with_found(tables: Tables, extra: Tables) -> str:
    """The settings with what the board asks for below them; empty where that changes nothing or cannot be written."""
    try:
        merged = found.merged(tables, extra)
        return found.as_toml(merged) if merged != tables else ""
    except Exception:  # the file on the data partition may hold anything: a date is no JSON, a section no mapping
        return ""


def _text(path: Path) -> tuple[str, str]:
    """(the text, why there is none)."""
    try:
        return toml.decode(files.read_bounded(path, toml.MOST_BYTES)), ""
    except FileNotFoundError:
        return "", f"there is no {path.name} on the card"
    except OSError as error:
        return "", f"{path.name} on the card cannot be read: {error.strerror}"
    except files.BadFile as error:
        return "", f"{path.name} on the card{str(error).removeprefix(str(path))}"
    except toml.BadToml as error:
        return "", f"{path.name} on the card: {error}"


def _tables(text: str) -> tuple[Tables, str]:
    try:
        parsed = toml.parse(text)
    except toml.BadToml as error:
        return {}, f"{CARD.name} on the card: {error}"
    return {name: dict(keys) for name, keys in parsed.items() if isinstance(keys, dict)}, ""


def remembering(check: Check, version: str, notes: Path = CHECKED) -> Check:
    """``check``, which starts a Python of its own, asked only about what this version has not taken before."""

    def asked(path: Path) -> str:
        mark = hashlib.sha256(version.encode() + path.read_bytes()).hexdigest()
        known = _text(notes)[0].split()
        if mark in known:
            return ""
        if fault := check(path):
            return fault
        with contextlib.suppress(OSError):
            notes.parent.mkdir(parents=True, exist_ok=True)
            ledger.write(notes, " ".join([*known[-7:], mark]).encode())
        return ""

    return asked


def checker(version: Path, shipped: Path, ask: Callable[[Path, Path], str] = wheels.settings_fault) -> Check:
    """The version's own word on settings; the shipped version's where that one cannot even take none: a broken update
    is not the settings' fault."""

    def asked(path: Path) -> str:
        fault = ask(version, path)
        if fault and version != shipped and ask(version, NONE):
            return ask(shipped, path)
        return fault

    return asked


def main() -> int:
    """Returns 0: a box always starts, with some version and some settings."""
    versions = Versions()
    version = versions.choose()  # first of all: whatever fails after it, what quietbox.service starts is there
    refused = _make(versions, version)
    refused |= not take_offered(versions, OFFERED, warn)
    if (updated := versions.choose()) != version:
        refused |= _make(versions, updated)
    if refused:
        _show_fault()
    return 0


def _make(versions: Versions, version: Path) -> bool:
    """The settings for ``version``, with one line about them; returns whether those on the card were refused."""
    try:
        choice = choose(remembering(checker(version, versions.shipped), str(version.resolve())))
    except Exception as error:  # the box starts with its defaults
        warn(f"the settings cannot be made: {error!r}")
        return True
    if choice.fault:
        warn(f"settings rejected: {choice.fault}; the {choice.source} ones are used")
    else:
        with contextlib.suppress(OSError):
            print(f"settings from the card, {version.name}", flush=True)
    return bool(choice.fault)


def _show_fault() -> None:
    """In a process of its own: the GPIO library may hang or crash."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run([sys.executable, "-m", "hw.image.blink"], check=False, timeout=BLINK_MOST_S)


if __name__ == "__main__":
    run_main(main, "settings", if_lost=0)

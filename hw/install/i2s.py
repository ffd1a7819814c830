"""The one I2S bus: which card gets it, asked of the user where it matters, and what follows for settings and pins."""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from edge import UserError, files
from hw.board import boards, bootconfig, configtxt, hats
from hw.board import i2s as bus
from hw.board.bootconfig import MICROPHONE
from hw.board.i2s import Claim, Decision
from hw.board.pins_taken import BUTTON, LED, Header
from hw.install.places import SETTINGS
from hw.install.target import Target, read_text, say

OPTION = "--i2s-card"
QUESTIONS = 3
"""How often an answer that is none of the choices is asked for again."""


def decide(target: Target) -> Decision:
    """Which card gets the bus. Asks at a terminal; raises UserError where a choice is needed and nobody can answer."""
    wanted, choice = target.options.microphone, target.options.i2s_card or ""
    text, claims = _found(target)
    held = MICROPHONE in bootconfig.block(text) or _own_line(target, text)
    decision = bus.decide(wanted, held, choice, claims)
    if decision.open and wanted == "i2s":
        decision = bus.decide(wanted, held, _ask(target, claims), claims)
    if decision.microphone and claims:
        _refuse_replacing(claims)
    return decision


def remarks(target: Target) -> Iterator[str]:
    """What the plan says about the bus, and about pins of LED and button that are taken."""
    decision = target.i2s
    for claim in decision.claims:
        yield str(claim)
    if decision.open:
        yield (
            f"{MICROPHONE} is set as well: one I2S bus has one card, one of the two is missing after a reboot; "
            f"./install.sh {OPTION} keep or {OPTION} replace decides"
        )
    elif decision.hat:
        what = "line input (a microphone needs a preamplifier)" if decision.hat.line else "microphone"
        yield f"{decision.hat.name} has a {what} of its own: it is used, {MICROPHONE} is not added"
    elif decision.microphone is False and decision.claims and target.options.microphone != "usb":
        yield f"{MICROPHONE} is not added: the microphone has to be a USB one"
    if decision.microphone is False and decision.claims and _own_line(target, _found(target)[0]):
        yield f"your own line {MICROPHONE} in config.txt is kept: remove it, one I2S bus has one card"
    if decision.off and all(claim.passive for claim in decision.claims):
        yield f"{MICROPHONE} plays to this converter as well, as card {hats.HATS[0].card}"
    yield from _pin_remarks(target)


def on_header(target: Target) -> Header:
    """What is on the header, beside lines that this run switches off."""
    text, claims = _found(target)
    text = bootconfig.switch_off(text, target.i2s.off)
    stay = tuple(claim for claim in claims if claim.setting not in target.i2s.off)
    return bus.header(text, target.board.model, stay, _reader(target), boards.hat_products(target.root))


def _found(target: Target) -> tuple[str, tuple[Claim, ...]]:
    """(config.txt, the claims on the bus); nothing where there is no config.txt."""
    path = bootconfig.find(target.root)
    if path is None:
        return "", ()
    text = read_text(path)
    return text, bus.of_machine(text, target.board, target.root, _reader(target), target.named(path))


def _reader(target: Target) -> configtxt.ReadFile:
    path = bootconfig.find(target.root)
    return boards.beside(path) if path else configtxt.no_files


def _own_line(target: Target, text: str) -> bool:
    """Whether the user's own lines set our overlay."""
    plain = bootconfig.remove(text)
    return bootconfig.sets(plain, "dtoverlay", hats.OVERLAY, target.board.model, _reader(target))


def _ask(target: Target, claims: tuple[Claim, ...]) -> str:
    """The answer, "keep" or "replace"; raises UserError if there is no terminal or no answer."""
    undecided = f"{bus.in_one_line(claims)}; one I2S bus has one card: {OPTION} keep or {OPTION} replace decides"
    if target.options.dry_run or not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(undecided)
    for claim in claims:
        say(str(claim))
    say("there is one I2S bus, and it can have one card:")
    print("    keep     that card stays; the microphone has to be a USB one", flush=True)
    also = ", which plays to this converter as well" if all(claim.passive for claim in claims) else ""
    print(f"    replace  switch that line off and set {MICROPHONE}{also}", flush=True)
    for _ in range(QUESTIONS):
        try:
            answer = input("keep, replace, or stop? [stop] ").strip().lower()
        except EOFError:
            break
        if answer in ("keep", "replace"):
            return answer
        if answer in ("", "stop"):
            break
    raise UserError(undecided)


def _refuse_replacing(claims: tuple[Claim, ...]) -> None:
    """Raises UserError for what no line of config.txt itself switches off."""
    stuck = [claim for claim in claims if claim.setting is None or claim.setting.file != configtxt.NAME]
    if not stuck:
        return
    claim = stuck[0]
    if claim.setting:
        how = "switch that line off yourself: the installer changes config.txt alone"
    elif "EEPROM" in claim.where:
        how = "take the board off, or put an empty line dtoverlay= above every other dtoverlay and dtparam line"
    else:
        how = "remove that module from the file"
    raise UserError(f"{claim}; {OPTION} replace cannot switch it off: {how}")


def _pin_remarks(target: Target) -> Iterator[str]:
    """Pins of the settings that are there, or that a first install would have made without a look at the header."""
    path = target.at(SETTINGS)
    header = on_header(target)
    led, button = _panel(path)
    better = dict(zip(("led", "button"), header.panel(led, button), strict=True))
    for name, by in header.collisions(led, button).items():
        pin, new = {"led": led, "button": button}[name], better[name]
        word = "LED" if name == "led" else "button"
        value = f'"{new}"' if isinstance(new, str) else new
        fix = f"set [panel] {name} = {value} in {target.named(path)}" if path.exists() else f"[panel] {name} = {value}"
        yield f"the {word}'s GPIO {pin} is taken by {by}: {fix}"


def _panel(path: Path) -> tuple[int | str, int | str]:
    """(LED, button) of a settings file; the defaults where it sets none or cannot be read."""
    try:
        held = tomllib.loads(files.read_bounded(path, 1 << 20).decode()).get("panel", {})
    except (OSError, ValueError, UserError):
        held = {}
    held = held if isinstance(held, dict) else {}
    values = (held.get("led", LED), held.get("button", BUTTON))
    led, button = (value if isinstance(value, int | str) else "off" for value in values)
    return led, button

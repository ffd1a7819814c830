"""The settings file: made for the cards of this board, kept once somebody has edited it."""

import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edge.files.toml_edit import literal, with_key
from hw.board.pins_taken import BUTTON, LED
from hw.install import i2s, ledger, sound_cards, wheels
from hw.install.places import SETTINGS
from hw.install.sound_cards import MEMS_CARD
from hw.install.target import Step, Target, say

MEMS_GAIN_DB = 24.0
"""I2S MEMS microphones arrive 20 to 30 dB below what speech should have."""


def steps(target: Target) -> Iterator[Step]:
    """The settings file; one that the user changed is never touched."""
    path = target.at(SETTINGS)
    text, about = made(target)
    options = target.options
    asked = options.microphone != "keep" or options.usb_microphone is not None or options.i2s_card is not None
    untouched = ledger.digest(path) in target.ledger.settings
    if not path.exists():
        yield Step(f"make {target.named(path)}: {about}", lambda: put(target, text))
    elif asked and untouched and path.read_text() != text:
        yield Step(f"write {target.named(path)} again (it was never edited): {about}", lambda: put(target, text))
    elif asked and not untouched:
        say(f"{target.named(path)} was edited and is kept; for these options it should contain: {about}")


def made(target: Target) -> tuple[str, str]:
    """The shipped settings with the cards of this board, and in words what differs from the shipped ones."""
    text = (wheels.SOURCE / "edge/quietbox.toml").read_text()
    words = []
    microphone, output = sound_cards.microphone(target), sound_cards.output(target)
    led, button = i2s.on_header(target).panel()
    for section, key, value in (
        ("capture", "device", f'"{microphone}"' if microphone else ""),
        ("capture", "gain_db", str(MEMS_GAIN_DB) if microphone == MEMS_CARD else ""),
        ("playback", "device", f'"{output}"' if output else ""),
        ("cable", "usb", "true" if target.options.usb_microphone else ""),
        ("panel", "led", literal(led) if led != LED else ""),
        ("panel", "button", literal(button) if button != BUTTON else ""),
    ):
        if value:
            text = with_key(text, section, key, value)
            words.append(f"[{section}] {key} = {value}")
    return text, ", ".join(words) or "all settings at their defaults, the box selects the cards itself"


def put(target: Target, text: str) -> None:
    path = target.at(SETTINGS)
    target.ledger.make_folder(path.parent)
    data = text.encode()
    written = hashlib.sha256(data).hexdigest()
    target.ledger.settings = [*(entry for entry in [ledger.digest(path)] if entry), written]
    target.ledger.save()
    ledger.write(path, data)
    target.ledger.settings = [written]
    target.ledger.save()


def removal(target: Target) -> Iterator[Step]:
    path = target.at(SETTINGS)
    kept = path.with_name(f"{path.name}.kept")
    if target.options.purge:
        there = [place for place in (path, kept) if place.exists()]
        if there:
            yield Step(f"remove {' '.join(map(target.named, there))}", partial(_unlink, there))
    elif path.exists():
        yield Step(f"keep your settings as {target.named(kept)}", lambda: os.replace(path, kept))


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()

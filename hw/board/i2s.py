"""Who has the I2S bus: one bus, one card. Two overlays on it, and one of the two cards is missing after the reboot.

Pure, but for ``machine``, which reads what a running board shows: names in EEPROMs, and modules loaded at boot.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hw.board import boards, configtxt, hats, pins_taken
from hw.board.configtxt import Overlay, ReadFile, Setting, no_files
from hw.board.hats import Hat

MODULES = re.compile(r"(?m)^\s*(snd[-_]i2smic[-_]rpi|snd[-_]i2s[-_]rpi)\b")
"""Kernel modules outside the kernel that make an I2S card without an overlay (Adafruit's i2smic)."""
PLACES = ("etc/modules", "etc/modules-load.d/*.conf")


@dataclass(frozen=True)
class Claim:
    """Something beside our overlay that uses the I2S bus or its pins."""

    where: str
    """"/boot/firmware/config.txt line 7", "the HAT's EEPROM"."""
    what: str
    """The line, or the name."""
    setting: Setting | None = None
    """The line of config.txt that switches it on; None: there is none."""
    hats: tuple[Hat, ...] = ()
    """The rows of the table that it may be; empty: it is not in the table."""
    records: bool | None = None
    """Whether it has a microphone or another input; None: not known."""
    plays: bool | None = None
    pins: tuple[int, ...] = ()
    """The I2S pins that it uses for something else than sound; empty: it is a sound card."""

    @property
    def passive(self) -> bool:
        """Whether our overlay drives its converter as well."""
        return bool(self.hats) and all(hat.passive for hat in self.hats)

    @property
    def words(self) -> str:
        """In words: what it is and what it can do."""
        if self.pins:
            return f"uses GPIO {', '.join(map(str, self.pins))}, pins of the I2S bus, for something else"
        name = " or ".join(hat.name for hat in self.hats) or "not in the table of sound boards"
        able = {
            (True, True): "input and output",
            (True, False): "input only",
            (False, True): "output only",
        }.get((bool(self.records), bool(self.plays)), "")
        return f"uses the I2S bus ({name}{f': {able}' if able and self.records is not None else ''})"

    def __str__(self) -> str:
        section = f" under {self.setting.section}" if self.setting and self.setting.section else ""
        return f"{self.where}{section}: {self.what} {self.words}"


@dataclass(frozen=True)
class Decision:
    """What becomes of our overlay beside the claims on the bus."""

    microphone: bool | None
    """Whether our overlay is to be set; None: as it is."""
    claims: tuple[Claim, ...] = ()
    off: tuple[Setting, ...] = ()
    """Lines to switch off for ours."""
    restore: bool = False
    """Whether lines switched off before come back."""
    hat: Hat | None = None
    """The board whose own microphone is used instead of ours."""
    open: bool = False
    """Whether somebody has to choose first."""


def decide(wanted: str, held: bool, choice: str, claims: tuple[Claim, ...]) -> Decision:
    """``wanted``: "i2s", "usb" or "keep"; ``held``: whether our overlay is set now; ``choice``: "keep" the card that
    has the bus, "replace" it by ours, or "" if nobody has chosen. A board with a microphone of its own needs no choice.
    """
    if wanted == "usb":
        return Decision(False, claims, restore=True)
    if not claims or (wanted == "keep" and not held):
        return Decision(True if wanted == "i2s" else None, claims)
    recording = [claim for claim in claims if claim.records]
    if choice == "replace":
        return Decision(True, claims, tuple(claim.setting for claim in claims if claim.setting))
    if choice == "keep" or (wanted == "i2s" and recording):
        rows = [hat for claim in recording for hat in claim.hats if hat.inputs]
        return Decision(False, claims, restore=True, hat=rows[0] if rows else None)
    return Decision(None, claims, open=True)


def claims(
    text: str, model: str, read: ReadFile = no_files, products: Iterable[str] = (), file: str = configtxt.NAME
) -> tuple[Claim, ...]:
    """Every claim on the bus in the config.txt ``text`` (``file`` is what it is called) and in EEPROMs that name
    ``products``. A line for the board that its own EEPROM names already is no claim of its own.
    """
    found = list(configtxt.settings(text, model, read))
    loaded = () if configtxt.eeprom_disabled(found) else tuple(products)
    in_eeprom = [claim for product in loaded for claim in _of_product(product)]
    known = {hat.name for claim in in_eeprom for hat in claim.hats}
    result = []
    for overlay in configtxt.overlays(found):
        if overlay.name not in hats.OURS and not known & {hat.name for hat in hats.by_overlay(overlay.name)}:
            result += [*_of_overlay(overlay, _called(overlay.setting, file))]
    result += [
        Claim(_called(setting, file), setting.line, setting, pins=pins)
        for setting in found
        if setting.key == "gpio" and (pins := _on_bus(pins_taken.of_gpio_line(setting.value)))
    ]
    return (*result, *in_eeprom)


def modules(root: Path = boards.ROOT) -> tuple[Claim, ...]:
    """Claims by kernel modules that are loaded at boot."""
    return tuple(
        Claim(f"/{path.relative_to(root)}", match[1], records=True, plays=False)
        for path, text in boards.texts(root, *PLACES)
        if (match := MODULES.search(text))
    )


def of_machine(
    text: str, board: boards.Board, root: Path, read: ReadFile = no_files, file: str = configtxt.NAME
) -> tuple[Claim, ...]:
    """Every claim on the bus of the machine whose files lie under ``root``."""
    return (*claims(text, board.model, read, boards.hat_products(root), file), *modules(root))


def header(
    text: str, model: str, found: tuple[Claim, ...], read: ReadFile = no_files, products: Iterable[str] = ()
) -> pins_taken.Header:
    """What is on the header, as far as claims, EEPROMs and overlays show it."""
    rows = [hats.by_product(product) for product in products]
    groups = [claim.hats for claim in found if claim.hats]
    groups += [(row,) for row in rows if row and (row,) not in groups]
    overlays = configtxt.overlays(list(configtxt.settings(text, model, read)))
    return pins_taken.Header(tuple(groups), tuple(overlays))


def in_one_line(found: tuple[Claim, ...]) -> str:
    return "; ".join(map(str, found))


def _of_overlay(overlay: Overlay, where: str) -> Iterator[Claim]:
    line = overlay.setting.line
    rows = hats.by_overlay(overlay.name)
    name = overlay.name
    if rows:
        records, plays = any(hat.inputs for hat in rows), any(hat.outputs for hat in rows)
        yield Claim(where, line, overlay.setting, rows, records, plays)
    elif name in hats.PLAYS_ONLY or name in hats.RECORDS:
        yield Claim(where, line, overlay.setting, (), name in hats.RECORDS, name in hats.PLAYS_ONLY or None)
    elif pins := _on_bus(pins_taken.of_overlay(overlay)):
        yield Claim(where, line, overlay.setting, pins=pins)
    elif hats.LOOKS_LIKE_SOUND.match(name) and not hats.NO_CARD.fullmatch(name):
        yield Claim(where, line, overlay.setting)


def _of_product(product: str) -> Iterator[Claim]:
    """Our own overlay in an EEPROM (Google's Voice HAT) is no claim against it."""
    where = "the HAT's EEPROM"
    if row := hats.by_product(product):
        if row.overlays[0] not in hats.OURS:
            yield Claim(where, product, None, (row,), bool(row.inputs), bool(row.outputs))
    elif hats.SOUND_PRODUCT.match(hats.letters(product)):
        yield Claim(where, product)


def _on_bus(taken: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(taken) & set(hats.I2S_PINS)))


def _called(setting: Setting, file: str) -> str:
    """``file`` is the full name of config.txt; included files lie beside it."""
    folder = file.rpartition("/")[0]
    name = file if setting.file == configtxt.NAME else f"{folder}/{setting.file}" if folder else setting.file
    return f"{name} line {setting.number}"

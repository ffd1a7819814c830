"""The Pi's config.txt: the lines the box needs, in one marked block that comes out again exactly as it went in.

Pure text in, text out; ``hw.install.firmware`` reads and writes the file. The block stands at the end, under
``[all]``, so that no section of the user's (``[pi4]``, ``[cm5]``) filters it. The user's own lines are touched only by
``switch_off``, which turns them into comments that ``restore`` turns back.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from hw.board import configtxt, hats
from hw.board.configtxt import ReadFile, Setting, no_files

PLACES = ("boot/firmware/config.txt", "boot/config.txt")
BACKUP = "config.txt.quietbox-backup"

BEGIN = "# quietbox begin"
GLUED = "# quietbox begin, and the end of the line above"
END = "# quietbox end"

OFF = "#quietbox-off# "
"""Before a line of the user's that was switched off on request."""

MICROPHONE = f"dtoverlay={hats.OVERLAY}"
JACK = "dtparam=audio=on"
GADGET = "dtoverlay=dwc2,dr_mode=peripheral"
# Parameters after an overlay belong to that overlay, and vc4-kms-v3d has an "audio" of its own (HDMI); a bare
# dtoverlay= ends its scope (Raspberry Pi documentation, "Device Trees, overlays, and parameters", 3.2).
SCOPE = "dtoverlay="
ALL = "[all]"
SETTINGS = (MICROPHONE, GADGET, JACK)
OURS = {BEGIN, GLUED, END, ALL, SCOPE, *SETTINGS}


@dataclass(frozen=True)
class Wish:
    """What the block is to hold; None keeps what it holds now."""

    microphone: bool | None = None
    """The I2S microphone's overlay."""
    gadget: bool | None = None
    """The USB port as a device, for the USB microphone that a PC sees."""
    jack: bool = False
    """Whether the board has a jack to switch on."""
    off: tuple[Setting, ...] = ()
    """Lines of the user's to switch off."""
    restore: bool = False
    """Whether lines switched off before are switched on again."""


def find(root: Path) -> Path | None:
    """The config.txt below ``root`` that the firmware reads; None where there is none (no Raspberry Pi)."""
    return next((root / place for place in PLACES if (root / place).is_file()), None)


def edit(text: str, wish: Wish, model: str = "", read: ReadFile = no_files) -> str:
    """``text`` with the block that ``wish`` asks for, none if it needs no line; twice is the same as once."""
    held = block(text)
    plain = remove(switch_off(restore(text) if wish.restore else text, wish.off))
    lines = []
    if wish.microphone or (wish.microphone is None and MICROPHONE in held):
        lines += [MICROPHONE] * (not sets(plain, "dtoverlay", hats.OVERLAY, model, read))
    if wish.gadget or (wish.gadget is None and GADGET in held):
        lines += [GADGET] * (not sets(plain, "dtoverlay", "dwc2,dr_mode=peripheral", model, read))
    if wish.jack and audio(plain, model, read) is None:
        # Above every other overlay, an empty one would switch off that of a HAT's EEPROM: only where a scope is open.
        before = configtxt.overlays(list(configtxt.settings(plain, model, read)))
        lines += [SCOPE] * (bool(lines) or (bool(before) and bool(before[-1].name))) + [JACK]
    return add(plain, lines)


def switch_off(text: str, settings: tuple[Setting, ...]) -> str:
    """``text`` with these lines of config.txt itself as comments; a line that has changed meanwhile stays."""
    lines = re.findall(r"[^\n]*\n|[^\n]+\Z", text)
    for setting in settings:
        at = setting.number - 1
        if setting.file == configtxt.NAME and at < len(lines) and lines[at].strip() == setting.line:
            lines[at] = OFF + lines[at]
    return "".join(lines)


def restore(text: str) -> str:
    """``text`` with the lines that ``switch_off`` made comments as they were."""
    return re.sub(rf"(?m)^{re.escape(OFF)}", "", text)


def undo(text: str) -> str:
    """``text`` as it would be without us."""
    return restore(remove(text))


def add(text: str, lines: list[str]) -> str:
    """``text`` with a block of ``lines`` at its end instead of any earlier one, in the line ends that ``text`` uses."""
    text = remove(text)
    if not lines:
        return text
    end = "\r\n" if "\r\n" in text else "\n"
    glued = bool(text) and not text.endswith("\n")
    return text + end * glued + end.join([GLUED if glued else BEGIN, ALL, *lines, END, ""])


def remove(text: str) -> str:
    """``text`` without our block. Lines that somebody else wrote into it or after it stay, under the section that
    applied to them.
    """
    before, inside, after = _split(text)
    if not inside:
        return text
    end = "\r\n" if inside[0].endswith("\r\n") else "\n"
    if inside[0].strip() == GLUED:
        before = before.removesuffix(end) if before.endswith(end) else before.removesuffix("\n")
    theirs = "".join(line for line in inside if line.strip() not in OURS) + after
    if not theirs:
        return remove(before)
    if before and not before.endswith("\n"):
        before += end
    if _filtered(before) and not re.match(r"\s*\[", theirs) and theirs.strip():
        before += ALL + end
    return remove(before + theirs)


def block(text: str) -> list[str]:
    """The lines our block holds now."""
    return [line.strip() for line in _split(text)[1]]


def audio(text: str, model: str, read: ReadFile = no_files) -> bool | None:
    """Whether the last ``dtparam=audio=`` that this board obeys switches the jack on; None if there is none."""
    found = None
    scope = ""
    for setting in configtxt.obeyed(text, model, read):
        if setting.key == "dtoverlay":
            scope = re.split(r"[,:]", setting.value)[0]
        elif setting.key == "dtparam" and not scope.startswith("vc4-"):
            for pair in setting.value.split(","):
                name, _, state = pair.partition("=")
                if name.strip() == "audio":
                    found = state.strip() in ("", "on", "yes", "true", "y", "1", "okay")
    return found


def sets(text: str, key: str, value: str, model: str, read: ReadFile = no_files) -> bool:
    """Whether this board obeys a line ``key=value``, with or without further parameters."""
    return any(
        setting.key == key and f"{setting.value},".replace(":", ",").startswith(f"{value},")
        for setting in configtxt.obeyed(text, model, read)
    )


def _split(text: str) -> tuple[str, list[str], str]:
    """Text before the block, its lines, text after it. A block that lost its end goes on as long as its lines are
    ours.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+\Z", text)
    start = next((at for at, line in enumerate(lines) if line.strip() in (BEGIN, GLUED)), None)
    if start is None:
        return text, [], ""
    stop = next((at for at, line in enumerate(lines) if at > start and line.strip() == END), None)
    if stop is None:
        stop = start
        while stop + 1 < len(lines) and lines[stop + 1].strip() in OURS - {BEGIN, GLUED}:
            stop += 1
    return "".join(lines[:start]), lines[start : stop + 1], "".join(lines[stop + 1 :])


def _headers(text: str) -> list[str]:
    return [line.strip()[1:-1].strip().lower() for line in text.split("\n") if re.fullmatch(r"\[.*\]", line.strip())]


def _filtered(text: str) -> bool:
    """Whether a line after ``text`` would be obeyed by some boards only."""
    headers = _headers(text)
    return bool(headers) and headers[-1] != "all"

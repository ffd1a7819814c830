"""The settings file: read, checked at once, and documented.

``load`` returns a ``Config`` or raises ``BadConfig`` whose text names the file, the line, the key and the nearest right
one. ``python -m edge.config`` prints ``documented``, which ships as ``edge/quietbox.toml``.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import UserError, files
from edge.config import SECTIONS, USB_CARD, Config
from edge.console import run_main
from edge.files import toml
from hw.board.models import TAKEN_PINS

SYSTEM_FILE = Path("/etc/quietbox/quietbox.toml")


class BadConfig(UserError):
    """A setting a user can fix; the text names it, its place and the fix."""


def find(path: Path | None) -> Config:
    """The file named, else the system's, else the defaults."""
    if path is not None:
        return load(path)
    return load(SYSTEM_FILE) if SYSTEM_FILE.exists() else Config()


def load(path: Path) -> Config:
    """Read and check one file; raises BadConfig."""
    try:
        text = toml.decode(files.read_bounded(path, toml.MOST_BYTES))
    except toml.BadToml as error:
        raise BadConfig(f"{path}: {error}") from None
    except files.BadFile as error:
        raise BadConfig(str(error)) from None
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read: {error.strerror}") from None
    return parse(text, str(path))


def parse(text: str, name: str = "config") -> Config:
    """Check the text of a settings file; raises BadConfig at the first thing wrong."""
    try:
        tables = toml.parse(text)
    except toml.BadToml as error:
        raise BadConfig(f"{name}: {error}") from None
    sections = {}
    for section, values in tables.items():
        at = _Place(name, text, section, None)
        if section not in SECTIONS:
            raise BadConfig(f"{at}: unknown {_kind(values)} {_quote(section)}{_nearest(section)}")
        if not isinstance(values, dict):
            raise BadConfig(f"{at}: {section} is a section; write [{section}] on a line of its own")
        checked = {}
        for name_of_key, value in values.items():
            checked[name_of_key] = _checked(_Place(name, text, section, name_of_key), section, name_of_key, value)
        sections[section] = SECTIONS[section](**checked)
    config = Config(**sections)
    _check_pairs(name, config)
    return config


@dataclass(frozen=True)
class _Place:
    """Where a key or a section (key None) stands: FILE, line N. Looked up only when it is shown."""

    name: str
    text: str
    section: str
    key: str | None

    def __str__(self) -> str:
        return f"{self.name}, line {_line_of(self.text, self.section, self.key)}"


def _checked(at: object, section: str, name: str, value: Any) -> Any:
    """The value as the settings hold it; raises BadConfig, which begins with ``at``."""
    known = {entry.name: entry for entry in dataclasses.fields(SECTIONS[section])}
    if name not in known:
        raise BadConfig(f"{at}: unknown key {_quote(name)} in [{section}]{_nearest(name, section)}")
    entry = known[name]
    rule = entry.metadata
    if value in rule["choices"] and not isinstance(value, bool):
        return value

    def complaint() -> str:
        return f"{at}: [{section}] {name} = {_show(value)} is not {_expected(entry)}"

    if isinstance(entry.default, bool):
        if isinstance(value, bool):
            return value
        raise BadConfig(complaint())
    if rule["low"] < rule["high"]:
        whole = entry.type in (int, int | str)
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not number or not rule["low"] <= value <= rule["high"]:
            raise BadConfig(complaint())
        return value if whole else float(value)
    if rule["choices"] or not isinstance(value, str) or not value or not value.isprintable():
        raise BadConfig(complaint())
    return value


def _check_pairs(name: str, config: Config) -> None:
    """Constraints between keys."""
    for low, high in (
        ("voice.off", "voice.on"),
        ("gate.floor_dbfs", "gate.ceiling_dbfs"),
        ("window.hop_samples", "window.fft_samples"),
        ("eq.low_hz", "eq.high_hz"),
        ("antinoise.lowest_hz", "antinoise.highest_hz"),
        ("limiter.threshold_dbfs", "limiter.peak_dbfs"),
    ):
        below, above = (getattr(getattr(config, where.split(".")[0]), where.split(".")[1]) for where in (low, high))
        if not below < above:
            raise BadConfig(f"{name}: {low} ({below:g}) must be below {high} ({above:g})")
    if config.reference.channel:
        if config.capture.channel == "mean":
            raise BadConfig(f'{name}: capture.channel = "mean" mixes the reference in; name the voice\'s channel')
        if config.capture.channel == config.reference.channel:
            raise BadConfig(
                f"{name}: capture.channel and reference.channel are both {config.reference.channel}; "
                "the reference needs a microphone of its own"
            )
    if not config.output:
        raise BadConfig(
            f"{name}: playback.device and cable.device are both off; name one, otherwise there is no output"
        )
    if config.cable.pcm == "auto":
        raise BadConfig(f"{name}: cable.device cannot be auto; name a card of `quietbox devices`, or set cable.usb")
    if config.cable.usb and USB_CARD not in config.cable.pcm:
        raise BadConfig(f"{name}: cable.usb is true and cable.device another card; set device to off")
    if config.second_output == config.output:
        raise BadConfig(f"{name}: playback.device and cable.device are both {config.output!r}; set one to off")
    panel = config.panel
    for which, pin in (("led", panel.led), ("button", panel.button)):
        if pin in TAKEN_PINS:
            raise BadConfig(f"{name}: panel.{which} = {pin} is taken by {TAKEN_PINS[pin]}; try 17, 22 to 25 or 27")
    if panel.led == panel.button != "off":
        raise BadConfig(f"{name}: panel.led and panel.button are both {panel.led}; give each a pin of its own")
    if config.bridge.noisy_port == config.bridge.clean_port:
        raise BadConfig(f"{name}: bridge.noisy_port and bridge.clean_port are both {config.bridge.noisy_port}")


def _expected(entry: dataclasses.Field[Any]) -> str:
    """What a key takes, in words: ``a number from 0 to 100 dB``."""
    rule = entry.metadata
    words = []
    if isinstance(entry.default, bool):
        return "true or false"
    if rule["low"] < rule["high"]:
        kind = "a whole number" if entry.type in (int, int | str) else "a number"
        words.append(f"{kind} from {rule['low']:g} to {rule['high']:g} {rule['unit']}".rstrip())
    words += [f'"{choice}"' if isinstance(choice, str) else f"{choice}" for choice in rule["choices"]]
    return " or ".join(words) or "a name in quotes"


def _kind(values: Any) -> str:
    return "section" if isinstance(values, dict) else "key"


def _quote(name: str) -> str:
    return json.dumps(_short(name), ensure_ascii=False)


def _show(value: Any) -> str:
    """A value of any kind and size as a few characters."""
    try:
        return _short(repr(value))
    except (ValueError, RecursionError):
        return "a number of thousands of digits" if isinstance(value, int) else "something huge"


def _short(text: str) -> str:
    """At most 80 characters on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."


def _nearest(name: str, section: str | None = None) -> str:
    """`` (did you mean ...?)``: the nearest key of this section, else of another, else the nearest section."""
    if section is not None:
        here = [entry.name for entry in dataclasses.fields(SECTIONS[section])]
        if close := difflib.get_close_matches(name, here, 1, 0.5):
            return f' (did you mean "{close[0]}"?)'
    elif close := difflib.get_close_matches(name, list(SECTIONS), 1, 0.5):
        return f" (did you mean [{close[0]}]?)"
    everywhere = {entry.name: owner for owner, made in SECTIONS.items() for entry in dataclasses.fields(made)}
    if close := difflib.get_close_matches(name, list(everywhere), 1, 0.6):
        return f' (did you mean "{close[0]}" in [{everywhere[close[0]]}]?)'
    names = ", ".join(here) if section is not None else ", ".join(f"[{known}]" for known in SECTIONS)
    return f" (there are: {names})"


def _line_of(text: str, section: str, name: str | None) -> int:
    """The line a section or one of its keys stands on, counted from 1; tomllib does not report it."""
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        if head := re.match(r"\s*\[+\s*[\"']?([^\]\"'.]+)", line):
            current = head.group(1).strip()
            if name is None and current == section:
                return number
        elif found := re.match(r"\s*[\"']?([\w-]+)[\"']?\s*(?:\.\s*[\"']?([\w-]+)[\"']?\s*)?=", line):
            path = (current, found.group(1)) if current else (found.group(1), found.group(2))
            if path == (section, name) or (name is None and path[0] == section):
                return number
    return 1


def documented() -> Iterator[str]:
    """The lines of the shipped file: every key with meaning, unit, range and default."""
    yield "# Quietbox settings. Every key is optional; each line shows its default."
    yield (
        "# After a change: `systemctl reload quietbox` (or SIGHUP). If a key is wrong, it is named and the old "
        "settings stay."
    )
    for section, made in SECTIONS.items():
        yield ""
        yield f"[{section}]  # {made.__doc__}"
        for entry in dataclasses.fields(made):
            default = entry.default
            literal = f'"{default}"' if isinstance(default, str) else str(default).lower()
            yield f"{entry.name} = {literal}  # {entry.metadata['text']} ({_expected(entry)})"


if __name__ == "__main__":
    run_main(lambda: print("\n".join(documented())), "config")

"""What a value may be, and what values may not stand beside each other."""

import dataclasses
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from edge.config import SECTIONS, USB_CARD, Config
from edge.config_names import instead_of_choice
from edge.files import lookalikes
from hw.board.models import TAKEN_PINS

ORDERED = (
    ("voice.off", "voice.on"),
    ("gate.floor_dbfs", "gate.ceiling_dbfs"),
    ("window.hop_samples", "window.fft_samples"),
    ("eq.low_hz", "eq.high_hz"),
    ("antinoise.lowest_hz", "antinoise.highest_hz"),
    ("limiter.threshold_dbfs", "limiter.peak_dbfs"),
)
"""The first of each must be below the second."""
Conflict = tuple[tuple[str, ...], str]
"""The keys (SECTION.KEY) and why they do not go together."""


def key(section: str, name: str) -> dataclasses.Field[Any]:
    """The definition of a key; raises KeyError."""
    return {entry.name: entry for entry in dataclasses.fields(SECTIONS[section])}[name]


def checked(entry: dataclasses.Field[Any], value: Any) -> Any:
    """The value as the settings hold it; raises ValueError."""
    rule = entry.metadata
    if value in rule["choices"] and not isinstance(value, bool):
        return value
    if isinstance(entry.default, bool):
        if isinstance(value, bool):
            return value
        raise ValueError
    if rule["low"] < rule["high"]:
        whole = entry.type in (int, int | str)
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not number or not rule["low"] <= value <= rule["high"]:
            raise ValueError
        return value if whole else float(value)
    if rule["choices"] or not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError
    return value


def complaint(section: str, entry: dataclasses.Field[Any], value: Any) -> str:
    """Why ``value`` is refused, and what the key takes."""
    return f"[{section}] {entry.name} = {_show(value)} is not {expected(entry)}{_remedy(entry, value)}"


def expected(entry: dataclasses.Field[Any]) -> str:
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


def conflicts(config: Config) -> Iterator[Conflict]:
    """Keys whose values exclude each other."""
    for low, high in ORDERED:
        below, above = (getattr(getattr(config, where.split(".")[0]), where.split(".")[1]) for where in (low, high))
        if not below < above:
            yield (low, high), f"{low} ({below:g}) must be below {high} ({above:g})"
    yield from _channels(config)
    yield from _outputs(config)
    yield from _pins(config)
    if config.bridge.noisy_port == config.bridge.clean_port:
        ports = ("bridge.noisy_port", "bridge.clean_port")
        yield ports, f"{' and '.join(ports)} are both {config.bridge.noisy_port}"


def _channels(config: Config) -> Iterator[Conflict]:
    keys, reference = ("capture.channel", "reference.channel"), config.reference.channel
    if reference and config.capture.channel == "mean":
        yield keys, 'capture.channel = "mean" mixes the reference in; name the voice\'s channel'
    if reference and config.capture.channel == reference:
        yield keys, f"{' and '.join(keys)} are both {reference}; the reference needs a microphone of its own"


def _outputs(config: Config) -> Iterator[Conflict]:
    devices = ("playback.device", "cable.device")
    if not config.output:
        yield devices, f"{' and '.join(devices)} are both off; name one, otherwise there is no output"
    if config.cable.pcm == "auto":
        yield devices[1:], "cable.device cannot be auto; name a card of `quietbox devices`, or set cable.usb"
    if config.cable.usb and USB_CARD not in config.cable.pcm:
        yield ("cable.usb", "cable.device"), "cable.usb is true and cable.device another card; set device to off"
    if config.cable.usb_orders and not config.cable.usb:
        yield ("cable.usb_orders", "cable.usb"), "cable.usb_orders is true and cable.usb false; set both or neither"
    if config.output and config.second_output == config.output:
        yield devices, f"{' and '.join(devices)} are both {config.output!r}; set one to off"


def _pins(config: Config) -> Iterator[Conflict]:
    panel = config.panel
    pins = {"panel.led": panel.led, "panel.button": panel.button}
    if panel.knob != "off":
        pins |= {"panel.knob_clk": panel.knob_clk, "panel.knob_dt": panel.knob_dt}
    for which, pin in pins.items():
        if pin in TAKEN_PINS:
            yield (which,), f"{which} = {pin} is taken by {TAKEN_PINS[pin]}; try 17, 22 to 25 or 27"
    for keys in combinations(pins, 2):
        if pins[keys[0]] == pins[keys[1]] != "off":
            yield keys, f"{' and '.join(keys)} are both {pins[keys[0]]}; give each a pin of its own"


def _remedy(entry: dataclasses.Field[Any], value: Any) -> str:
    """What the writer of a refused text probably meant."""
    if not isinstance(value, str):
        return ""
    if sign := lookalikes.named(value[:200]):
        return f"; it holds {sign}"
    try:
        checked(entry, _unquoted(value))
    except ValueError:
        return instead_of_choice(value, entry.metadata["choices"])
    return f"; write it without quotes: {value.strip().lower()}"


def _unquoted(text: str) -> float | bool:
    """The number or truth that a text names; raises ValueError."""
    truths = {"true": True, "false": False}
    if (bare := text.strip().lower()) in truths:
        return truths[bare]
    number = float(bare)
    return int(number) if number.is_integer() else number


def _show(value: Any) -> str:
    """A value of any kind and size as a few characters."""
    try:
        return short(repr(value))
    except (ValueError, RecursionError):
        return "a number of thousands of digits" if isinstance(value, int) else "something huge"


def short(text: str) -> str:
    """At most 80 characters on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."

"""Which sound cards there are, what each can do, and which process holds it, as /proc reports it."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge.devices.pcm import Capabilities, DeviceError, DeviceMissing, Direction, OpenPcm, StreamParams

PROC = Path("/proc")
DEV = Path("/dev")

# Names.


def resolve(device: str, direction: Direction, root: Path = PROC) -> str:
    """``auto``, a card's id, or any ALSA name -> an ALSA name. Raises DeviceMissing if ``auto`` finds nothing."""
    if device == "auto":
        best = best_card(_known_cards(root), direction)
        if best is None:
            raise missing(device, direction, root)
        return f"hw:CARD={best.id}"
    if re.fullmatch(r"\w+", device) and device in {card.id for card in _known_cards(root)}:
        return f"hw:CARD={device}"
    return device


def missing(device: str, direction: Direction, root: Path = PROC) -> DeviceMissing:
    """The error for an unknown name: the nearest known one, and the cards there are."""
    ids = [card.id for card in _known_cards(root) if any(port.direction == direction for port in card.ports)]
    there = f"cards with {direction}: {', '.join(ids)}" if ids else f"this machine has no card with {direction}"
    if device == "auto":
        return DeviceMissing(f"no sound card can do {direction}; plug one in or name an ALSA device in the settings")
    wanted = re.sub(r"^\w+:(CARD=)?|,.*$", "", device)
    close = difflib.get_close_matches(wanted.lower(), [name.lower() for name in ids], 1, 0.5)
    near = next((name for name in ids if close and name.lower() == close[0]), None)
    if near == wanted:
        return DeviceMissing(f"{device} has no {direction} there; is it plugged in?")
    if wanted in {card.id for card in _known_cards(root)}:
        return DeviceMissing(f"{device} has no {direction} ({there})")
    hint = f"; did you mean {near}?" if near else ""
    return DeviceMissing(f"no sound card or ALSA device {device!r} for {direction}{hint} ({there})")


def clock_of(device: str, direction: Direction, root: Path = PROC) -> str:
    """What ``Pcm.clock`` will be, known before anything is opened."""
    try:
        name = resolve(device, direction, root)
    except DeviceMissing:
        return f"pcm:{device}"
    match = re.match(r"(?:plug)?hw:(?:CARD=)?(\w+)", name)
    if not match:
        return f"pcm:{name}"
    return card_id(int(match[1]), root) if match[1].isdigit() else match[1]


# The list.


@dataclass(frozen=True)
class Port:
    """One direction of one device of a card."""

    direction: Direction
    device: int
    name: str
    looks_like: str
    """"microphone", "jack", "output" or "" (never chosen automatically: HDMI, a loop-back)."""
    formats: tuple[str, ...] = ()
    rates_hz: tuple[int, ...] = ()
    any_rate_between: bool = False
    channels: tuple[int, ...] = ()
    held_by: str = ""
    note: str = ""
    """Why formats, rates and channels are not known, where they are not."""


@dataclass(frozen=True)
class Card:
    """A sound card as the kernel lists it. ``id`` is what the settings name; ``number`` changes from boot to boot."""

    id: str
    number: int
    driver: str
    name: str
    ports: tuple[Port, ...] = field(default=())


def list_cards(*, proc: Path = PROC, dev: Path = DEV, open_device: OpenPcm | None = None) -> list[Card]:
    """Every card the kernel knows, by number; empty where it knows none.

    ``open_device`` (``edge.devices.alsa.open_pcm``) opens idle ports for a moment to read their capabilities; without
    it nothing is opened.
    """
    return [
        replace(card, ports=tuple(_filled(card, port, proc, dev, open_device) for port in card.ports))
        for card in _known_cards(proc)
    ]


def _known_cards(proc: Path) -> list[Card]:
    """The cards in /proc/asound; nothing is opened."""
    try:
        text = (proc / "asound" / "cards").read_text(errors="replace")
    except OSError:
        return []
    found = []
    for number, identity, driver, name in re.findall(r"^ *(\d+) \[(\S+) *\]: (\S+) - (.*)$", text, re.MULTILINE):
        card = Card(identity, int(number), driver, name.strip())
        found.append(replace(card, ports=tuple(_ports(card, proc))))
    return sorted(found, key=lambda card: card.number)


def _ports(card: Card, proc: Path) -> Iterator[Port]:
    for folder in sorted((proc / "asound" / f"card{card.number}").glob("pcm*[cp]")):
        match = re.fullmatch(r"pcm(\d+)([cp])", folder.name)
        if not match:
            continue
        direction: Direction = "capture" if match[2] == "c" else "playback"
        name = _fields(folder / "info").get("name", "")
        yield Port(direction, int(match[1]), name, _looks_like(card, direction))


def _looks_like(card: Card, direction: Direction) -> str:
    rank = _rank(card, direction)
    if rank <= 0:
        return ""
    if direction == "capture":
        return "microphone"
    return "jack" if _is_jack(card) else "output"


def _is_jack(card: Card) -> bool:
    return "headphones" in card.id.lower() or card.driver.startswith("bcm2835_headph")


def _rank(card: Card, direction: Direction) -> int:
    """How likely the wearer means this card; 0 is never chosen automatically."""
    words = f"{card.id} {card.driver} {card.name}".lower()
    if any(word in words for word in ("hdmi", "loopback", "dummy", "gadget")):
        return 0
    usb = card.driver.lower().startswith("usb")
    microphone_board = any(
        word in words for word in ("googlevoi", "i2s", "mems", "inmp", "sph0645", "seeed", "respeaker")
    )
    if direction == "capture":
        return 3 if microphone_board else 2 if usb else 1
    if _is_jack(card):
        return 4
    # The Google voice overlay always shows an output, whether or not an amplifier is wired to it.
    return 1 if microphone_board else 3 if any(word in words for word in ("dac", "hifiberry")) else 2


def best_card(cards: Iterable[Card], direction: Direction) -> Card | None:
    """The likeliest microphone or output; None if no card will do."""
    able = [card for card in cards if any(port.direction == direction and port.looks_like for port in card.ports)]
    return max(able, key=lambda card: (_rank(card, direction), -card.number), default=None)


def is_jack(device: str, root: Path = PROC) -> bool:
    """Whether this is the Pi's own headphone jack, which moves in steps of 10 ms at 48 kHz stereo only."""
    match = re.match(r"hw:(?:CARD=)?(\w+)", device)
    name = match[1] if match else device
    return (
        any(_is_jack(card) for card in _known_cards(root) if name in (card.id, str(card.number)))
        or name == "Headphones"
    )


def _filled(card: Card, port: Port, proc: Path, dev: Path, open_device: OpenPcm | None) -> Port:
    """``port`` with its holder and its capabilities."""
    letter = "c" if port.direction == "capture" else "p"
    who = _holder(card.number, port.device, letter, proc, dev)
    usb = _usb_capabilities(proc / "asound" / f"card{card.number}" / f"stream{port.device}", port.direction)
    if usb.formats:
        return _with_capabilities(replace(port, held_by=who), usb)
    if who:
        return replace(port, held_by=who, note="in use")
    if open_device is None:
        return replace(port, note="not queried")
    try:
        pcm = open_device(
            f"hw:CARD={card.id},DEV={port.device}", port.direction, StreamParams(48_000, 2, "S16_LE", 480, 4)
        )
    except DeviceError as error:
        return replace(port, note=str(error))
    try:
        return _with_capabilities(port, pcm.capabilities())
    finally:
        pcm.close()


def _with_capabilities(port: Port, capabilities: Capabilities) -> Port:
    return replace(
        port,
        formats=capabilities.formats,
        rates_hz=capabilities.rates_hz,
        any_rate_between=capabilities.any_rate_between,
        channels=capabilities.channels,
    )


def _usb_capabilities(stream: Path, direction: Direction) -> Capabilities:
    """What the USB driver prints of a card's alternate settings: no need to open it, so it works while in use."""
    try:
        text = stream.read_text(errors="replace")
    except OSError:
        return Capabilities()
    halves = re.split(r"^(Playback|Capture):$", text, flags=re.MULTILINE)
    half = next((body for head, body in zip(halves[1::2], halves[2::2], strict=True) if head.lower() == direction), "")
    rates = re.findall(r"^\s*Rates: (.*)$", half, re.MULTILINE)
    ranged = any("-" in line for line in rates)
    return Capabilities(
        tuple(dict.fromkeys(re.findall(r"^\s*Format: (\S+)$", half, re.MULTILINE))),
        tuple(sorted({int(rate) for line in rates for rate in re.findall(r"\d+", line)})),
        ranged,
        tuple(sorted({int(count) for count in re.findall(r"^\s*Channels: (\d+)$", half, re.MULTILINE)})),
    )


# Which process holds a card.


def holder(device: str, direction: Direction, proc: Path = PROC, dev: Path = DEV) -> str:
    """ "aplay (process 123)" for whoever holds the card behind an ALSA name; empty if nobody or not known."""
    match = re.match(r"(?:plug)?hw:(?:CARD=)?(\w+)(?:,(?:DEV=)?(\d+))?", device)
    if not match:
        return ""
    number = next((card.number for card in _known_cards(proc) if match[1] in (card.id, str(card.number))), None)
    letter = "c" if direction == "capture" else "p"
    return "" if number is None else _holder(number, int(match[2] or 0), letter, proc, dev)


def _holder(card: int, device: int, letter: str, proc: Path, dev: Path) -> str:
    for status in sorted((proc / "asound" / f"card{card}" / f"pcm{device}{letter}").glob("sub*/status")):
        owner = _fields(status).get("owner_pid", "")
        if owner.isdigit():
            return _process(_group_leader(int(owner), proc), proc)
    node = dev / "snd" / f"pcmC{card}D{device}{letter}"
    if not node.exists():
        return ""
    for descriptor in proc.glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) == str(node):
                return _process(int(descriptor.parts[-3]), proc)
        except OSError:  # not ours to look at, or gone meanwhile
            continue
    return ""


def _group_leader(thread: int, proc: Path) -> int:
    """owner_pid is the thread that opened the card."""
    leader = _fields(proc / str(thread) / "status").get("Tgid", "")
    return int(leader) if leader.isdigit() else thread


def _process(number: int, proc: Path) -> str:
    try:
        name = (proc / str(number) / "comm").read_text(errors="replace").strip()
    except OSError:
        name = "a process"
    return f"{name} (process {number})"


def card_id(number: int, root: Path = PROC) -> str:
    """The stable id of a card number."""
    try:
        return (root / "asound" / f"card{number}" / "id").read_text().strip()
    except OSError:
        return f"card{number}"


def _fields(path: Path) -> dict[str, str]:
    """A "name: value" file of /proc; empty if it cannot be read."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

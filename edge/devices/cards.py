"""Which sound cards there are, what each can do, and which process holds it, as /proc reports it."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge.devices.names import PcmName, parse
from edge.devices.negotiation import outlook
from edge.devices.pcm import Capabilities, DeviceError, DeviceMissing, Direction, OpenPcm, StreamParams

PROC = Path("/proc")
DEV = Path("/dev")

# Names.


def resolve(device: str, direction: Direction, root: Path = PROC) -> str:
    """``auto``, a card's id, ``id,device``, or any ALSA name -> an ALSA name.

    Where no device of the card is named it is that of the card's likeliest port in this direction; ``hw:X`` keeps
    ALSA's device 0 if that has the direction. Raises DeviceMissing if ``auto`` finds nothing.
    """
    known = _known_cards(root)
    if device == "auto":
        best = best_card(known, direction)
        port = best_port(best, direction) if best else None
        if best is None or port is None:
            raise missing(device, direction, root)
        return str(PcmName("hw", best.id, port.device))
    name = parse(device)
    card = _card(known, name.card) if name else None
    if name is None or card is None or (not name.kind and card.id != name.card):
        return device
    port = best_port(card, direction)
    if name.device is None and name.subdevice is None and port is not None:
        devices = {other.device for other in card.ports if other.direction == direction}
        if not name.kind or 0 not in devices:
            return str(name.at(port.device))
    return device if name.kind else str(name)


def missing(device: str, direction: Direction, root: Path = PROC) -> DeviceMissing:
    """The error for an unknown name: the nearest known one, and the ports there are."""
    known = _known_cards(root)
    able = [card for card in known if best_port(card, direction)]
    labels = [label(card, port) for card in able for port in card.ports if port.direction == direction]
    there = f"cards with {direction}: {', '.join(labels)}" if able else f"this machine has no card with {direction}"
    if device == "auto":
        if able:
            return DeviceMissing(f"auto takes no sound card for {direction} ({there}); name one in the settings")
        return DeviceMissing(f"no sound card can do {direction}; plug one in or name an ALSA device in the settings")
    name = parse(device)
    wanted = name.card if name else re.sub(r"^\w+:(CARD=)?|,.*$", "", device)
    card = _card(known, wanted)
    if card:
        number = (parse(resolve(device, direction, root)) or PcmName("hw", wanted)).device or 0
        if any((port.direction, port.device) == (direction, number) for port in card.ports):
            return DeviceMissing(f"{device} has no {direction} there; is it plugged in?")
        return DeviceMissing(f"{device} has no {direction} ({there})")
    close = difflib.get_close_matches(wanted.lower(), [other.id.lower() for other in able], 1, 0.5)
    near = next((other.id for other in able if close and other.id.lower() == close[0]), None)
    hint = f"; did you mean {near}?" if near else ""
    return DeviceMissing(f"no sound card or ALSA device {device!r} for {direction}{hint} ({there})")


def clock_of(device: str, direction: Direction, root: Path = PROC) -> str:
    """What ``Pcm.clock`` will be, known before anything is opened: the card's id, whichever of its devices it is."""
    name = _hardware(device, direction, root)
    return name.card if isinstance(name, PcmName) else f"pcm:{name}"


def port_of(device: str, direction: Direction, root: Path = PROC) -> str:
    """Names one PCM for a lock: two names of one PCM give the same text, two devices of one card do not."""
    name = _hardware(device, direction, root)
    if not isinstance(name, PcmName):
        return f"pcm:{name}"
    numbers = [str(number) for number in (name.device or 0, name.subdevice) if number is not None]
    return ",".join([name.card, *numbers])


def _hardware(device: str, direction: Direction, root: Path) -> PcmName | str:
    """The PCM of a card with the card's id, or an ALSA name of another kind."""
    try:
        resolved = resolve(device, direction, root)
    except DeviceMissing:
        return device
    name = parse(resolved) if ":" in resolved else None
    if name is None:
        return resolved
    return replace(name, card=card_id(int(name.card), root)) if name.card.isdigit() else name


def _card(cards: Iterable["Card"], name: str) -> "Card | None":
    """The card with this id or number."""
    return next((card for card in cards if name in (card.id, str(card.number))), None)


def shown(device: str, direction: Direction, root: Path = PROC) -> str:
    """``device`` of the settings in messages: with the port it means, where it does not name that itself."""
    name = _hardware(device, direction, root)
    if not isinstance(name, PcmName) or ":" in device:
        return device
    card = _card(_known_cards(root), name.card)
    ports = [port for port in card.ports if port.device == name.device] if card else []
    meant = label(card, ports[0]) if card and ports and name.subdevice is None else device
    return f"{device} ({meant})" if device == "auto" else meant


def label(card: "Card", port: "Port") -> str:
    """What the settings call a port: the card's id, with the device's number where that is not always 0."""
    return f"{card.id},{port.device}" if any(other.device for other in card.ports) else card.id


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
    limits: str = ""
    """What of the sound it will not carry, or why the box cannot open it; empty where nothing is lost."""


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
    folders = (proc / "asound" / f"card{card.number}").glob("pcm*[cp]")
    found = [(int(match[1]), match[2]) for folder in folders if (match := re.fullmatch(r"pcm(\d+)([cp])", folder.name))]
    for number, letter in sorted(found):
        direction: Direction = "capture" if letter == "c" else "playback"
        own = proc / "asound" / f"card{card.number}"
        name = _fields(own / f"pcm{number}{letter}" / "info").get("name", "")
        port = Port(direction, number, name, _looks_like(card, direction, name))
        usb = _usb_capabilities(own / f"stream{number}", direction)
        yield _with_capabilities(card, port, usb) if usb.formats else port


def _looks_like(card: Card, direction: Direction, name: str) -> str:
    if _rank(card, direction) <= 0 or "hdmi" in name.lower():
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
    """The likeliest microphone or output; None if no card will do. Of equally likely ones the first that is known to
    lose nothing of the sound (``Port.limits``).
    """

    def able(card: Card) -> list[Port]:
        return [port for port in card.ports if port.direction == direction and port.looks_like]

    def likely(card: Card) -> tuple[int, bool, int]:
        return _rank(card, direction), any(not port.limits for port in able(card)), -card.number

    return max((card for card in cards if able(card)), key=likely, default=None)


def best_port(card: Card, direction: Direction) -> Port | None:
    """The likeliest microphone or output among a card's devices: analogue before digital, then one that loses nothing
    of the sound, then the lowest number.
    """
    ports = [port for port in card.ports if port.direction == direction]
    likely = [(not port.looks_like, _is_digital(port), bool(port.limits), port.device) for port in ports]
    return ports[likely.index(min(likely))] if ports else None


def _is_digital(port: Port) -> bool:
    """Whether the driver calls it a digital line (S/PDIF), to which nobody has wired a microphone or headphones."""
    return bool(re.search(r"s/?pdif|iec958|digital", port.name, re.IGNORECASE))


def is_jack(device: str, root: Path = PROC) -> bool:
    """Whether this is the Pi's own headphone jack, which moves in steps of 10 ms at 48 kHz stereo only."""
    name = parse(device)
    card = _card(_known_cards(root), name.card) if name else None
    return _is_jack(card) if card else name is not None and name.card == "Headphones"


def _filled(card: Card, port: Port, proc: Path, dev: Path, open_device: OpenPcm | None) -> Port:
    """``port`` with its holder and its capabilities."""
    letter = "c" if port.direction == "capture" else "p"
    owners = _subdevices(proc / "asound" / f"card{card.number}" / f"pcm{port.device}{letter}").values()
    free = len(owners) > 1 and not all(owners)
    who = "" if free else _holder(card.number, port.device, letter, proc, dev)
    if port.formats:
        return replace(port, held_by=who)
    if who:
        return replace(port, held_by=who, note="in use")
    if open_device is None:
        return replace(port, note="not queried")
    try:
        pcm = open_device(f"{card.id},{port.device}", port.direction, StreamParams(48_000, 2, "S16_LE", 480, 4))
    except DeviceError as error:
        return replace(port, note=str(error))
    try:
        return _with_capabilities(card, port, pcm.capabilities())
    finally:
        pcm.close()


def _with_capabilities(card: Card, port: Port, capabilities: Capabilities) -> Port:
    return replace(
        port,
        formats=capabilities.formats,
        rates_hz=capabilities.rates_hz,
        any_rate_between=capabilities.any_rate_between,
        channels=capabilities.channels,
        limits=outlook(port.direction, capabilities, str(PcmName("hw", card.id, port.device))),
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
    name = parse(resolve(device, direction, proc)) if device != "auto" else None
    card = _card(_known_cards(proc), name.card) if name else None
    if name is None or card is None:
        return ""
    letter = "c" if direction == "capture" else "p"
    return _holder(card.number, name.device or 0, letter, proc, dev, name.subdevice)


def _subdevices(folder: Path) -> dict[int, str]:
    """The thread that holds each subdevice of a PCM, "" for a free one; empty where the kernel does not say."""
    found = {}
    for path in folder.glob("sub*/status"):
        if (number := path.parent.name.removeprefix("sub")).isdigit():
            owner = _fields(path).get("owner_pid", "")
            found[int(number)] = owner if owner.isdigit() else ""
    return dict(sorted(found.items()))


def _holder(card: int, device: int, letter: str, proc: Path, dev: Path, subdevice: int | None = None) -> str:
    """Who holds this subdevice, or the first of them."""
    owners = _subdevices(proc / "asound" / f"card{card}" / f"pcm{device}{letter}")
    mine = [owner for number, owner in owners.items() if owner and subdevice in (None, number)]
    if mine:
        return _process(_group_leader(int(mine[0]), proc), proc)
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

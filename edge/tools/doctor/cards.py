"""Whether the settings mean sound cards that are there, and who may occupy them."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from edge.config import USB_CARD
from edge.devices import cards, names
from edge.devices.cards import Card
from edge.devices.pcm import DeviceMissing, Direction
from edge.tools.doctor import i2s
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import FAIL, OK, WARN, Finding
from hw.board import bootconfig

SERVERS = {
    "pipewire": "pipewire.socket pipewire pipewire-pulse.socket pipewire-pulse wireplumber",
    "wireplumber": "pipewire.socket pipewire pipewire-pulse.socket pipewire-pulse wireplumber",
    "pulseaudio": "pulseaudio.socket pulseaudio",
    "jackd": "",
    "jackdbus": "",
}
"""Sound servers by the name of their process, and the user's units that start them."""
MOST_KB = 64


def sound_servers(context: Context) -> Iterator[Finding]:
    found = {name: number for number, name in _processes(context.proc) if name in SERVERS}
    figures = {"processes": found}
    if not found:
        yield Finding("sound server", OK, "none is running; the cards are free for the box", figures=figures)
        return
    named = " and ".join(f"{name} (process {number})" for name, number in found.items())
    yield Finding("sound server", WARN, f"{named} may occupy the card", stop_server(next(iter(found))), figures)


def stop_server(name: str) -> str:
    units = SERVERS.get(name)
    return f"systemctl --user mask --now {units}" if units else f"stop {name} while the box runs"


def cable(context: Context) -> Iterator[Finding]:
    """The virtual cable beside the jack; without it the jack still plays."""
    if context.config.second_output == USB_CARD and not any((context.root / "sys/class/udc").glob("*")):
        found = "the USB port of this board is not in device mode: the kernel has no device controller"
        fix = f"Zero 2, 4, 5: put {bootconfig.GADGET} into config.txt and restart; others: set [cable] usb = false"
        yield Finding("cable card", WARN, found, fix)
    elif context.config.second_output:
        card = find_card(context, "playback", context.config.second_output)
        verdict = WARN if card.verdict is FAIL else card.verdict
        fix = "load snd-aloop, or see the USB gadget in README.md" if verdict is WARN else ""
        yield dataclasses.replace(card, check="cable card", verdict=verdict, fix=fix)


def find_card(context: Context, direction: Direction, device: str) -> Finding:
    """Whether the settings mean a card that is there."""
    word = "microphone" if direction == "capture" else "output"
    known = cards.list_cards(proc=context.proc, dev=context.dev)
    figures = {"cards": [dataclasses.asdict(card) for card in known if _has(card, direction)]}
    ports = [(card, port) for card in known for port in card.ports if port.direction == direction]
    there = ", ".join(cards.label(card, port) for card, port in ports) or "none"
    try:
        name = cards.resolve(device, direction, context.proc)
        if not _exists(name, direction, known):
            raise cards.missing(device, direction, context.proc)
    except DeviceMissing as error:
        return Finding(f"{word} card", FAIL, str(error), absent(context, direction, device), figures)
    jack = ", the headphone jack" if direction == "playback" and cards.is_jack(name, context.proc) else ""
    return Finding(f"{word} card", OK, f"{name}{jack} (cards: {there})", figures=figures | {"chosen": name})


def _exists(name: str, direction: Direction, known: list[Card]) -> bool:
    """Whether an ALSA name can be there; what only ALSA knows counts as there until it is opened."""
    pcm = names.parse(name)
    if pcm is None or not pcm.kind:
        return True
    ports = [port for card in known if pcm.card in (card.id, str(card.number)) for port in card.ports]
    return any((port.direction, port.device) == (direction, pcm.device or 0) for port in ports)


def absent(context: Context, direction: Direction, device: str) -> str:
    """What to do about a card that is not there."""
    board, config_txt = context.board, context.board.config_txt
    text = _text(config_txt) if config_txt else ""
    if direction == "capture":
        plug = "plug in a USB microphone"
        if not config_txt or (device != "auto" and "googlevoi" not in device):
            return f"{plug}, or choose one of `quietbox devices` as [capture] device"
        if bootconfig.sets(text, "dtoverlay", bootconfig.MICROPHONE.partition("=")[2], board.model):
            why = "the overlay is set but there is no card: restart, then check the wiring and `dmesg | grep -i voice`"
            return f"{why}; or {plug}"
        if other := i2s.instead(context):
            return other
        return f"the overlay is missing: add {bootconfig.MICROPHONE} to {config_txt} and restart; or {plug}"
    if board.kind.jack and config_txt:
        if bootconfig.audio(text, board.model):
            return "the jack is switched on but there is no card: restart and look at `dmesg | grep -i bcm2835`"
        return f"add {bootconfig.JACK} to {config_txt} and restart, or choose another [playback] device"
    none = "this board has no jack: " if board.kind.jack is False else ""
    return f"{none}plug in a USB headset or dongle, or an I2S DAC, and choose it as [playback] device"


def _has(card: Card, direction: Direction) -> bool:
    return any(port.direction == direction for port in card.ports)


def _processes(proc: Path) -> Iterator[tuple[int, str]]:
    for comm in sorted(proc.glob("[0-9]*/comm")):
        with contextlib.suppress(OSError, ValueError):
            yield int(comm.parent.name), _text(comm).strip()


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        if path.is_file():
            with path.open("rb") as opened:
                return opened.read(MOST_KB * 1024).decode(errors="replace")
    return ""

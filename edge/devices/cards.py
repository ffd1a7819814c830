"""Which sound cards there are, what each offers, who holds it; and the one door to ALSA.

Everything above this file knows devices as ``Pcm`` objects that ``open_pcm`` hands out; ``edge/devices/fake.py``
hands out the same from made-up cards. A ``Pcm`` never blocks (only ``wait`` does) and never raises: a failure is a
negative errno.
"""

import difflib
import errno
import functools
import os
import re
import select
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from edge import UserError
from edge.devices.alsa_mixer import alsa_mixer
from edge.devices.mixer import Mixer

Direction = Literal["capture", "playback"]

PROC = Path("/proc")
DEV = Path("/dev")


class Event(IntEnum):
    """What one read or write met; the hop is valid (perhaps silent) up to SHORT, after that the device must be opened
    again.
    """

    OK = 0
    SHORT = 1
    """The card gave less than it announced, or took a hop too few: handled, counted."""
    XRUN = 2
    """The card's buffer ran over or dry; it was started again, a short silence stands for what is lost."""
    STALLED = 3
    """Nothing moved for a quarter of a second."""
    GONE = 4
    """The card was pulled out or failed."""
    END = 5
    """A source with an end (a file) has ended."""


class DeviceError(UserError):
    """A device cannot be used; the text is one line that names the thing and the way out."""


class DeviceMissing(DeviceError):
    """No such card or ALSA name, or it is not plugged in."""


class DeviceBusy(DeviceError):
    """Another process holds the card."""


class DeviceRefused(DeviceError):
    """The card is there but does not do what we need, or we may not use it."""


@dataclass(frozen=True)
class StreamParams:
    """How a device is, or is to be, opened."""

    rate_hz: int
    channels: int
    sample_format: str
    period_frames: int
    periods: int

    @property
    def buffer_frames(self) -> int:
        return self.period_frames * self.periods

    def sounds_like(self, other: "StreamParams") -> bool:
        """Same samples; the card may cut them into periods as it likes."""
        mine = (self.rate_hz, self.channels, self.sample_format)
        return mine == (other.rate_hz, other.channels, other.sample_format)

    def __str__(self) -> str:
        channels = {1: "mono", 2: "stereo"}.get(self.channels, f"{self.channels} channels")
        return f"{self.rate_hz} Hz {channels} {self.sample_format} {self.period_frames}x{self.periods}"


@dataclass(frozen=True)
class Capabilities:
    """What a device can do by itself; an empty field is unknown. ``rates_hz`` of a range lists its two ends."""

    formats: tuple[str, ...] = ()
    rates_hz: tuple[int, ...] = ()
    any_rate_between: bool = False
    channels: tuple[int, ...] = ()

    def covers(self, terms: StreamParams) -> bool:
        """Whether ``terms`` are worth trying."""
        if self.formats and terms.sample_format not in self.formats:
            return False
        if self.channels and terms.channels not in self.channels:
            return False
        if self.any_rate_between:
            return self.rates_hz[0] <= terms.rate_hz <= self.rates_hz[-1]
        return not self.rates_hz or terms.rate_hz in self.rates_hz

    def __str__(self) -> str:
        joint = " to " if self.any_rate_between else "/"
        rates = joint.join(str(rate) for rate in self.rates_hz) or "unknown rates"
        channels = "/".join(str(count) for count in self.channels) or "?"
        return f"{'/'.join(self.formats) or 'unknown formats'} at {rates} Hz, {channels} channel(s)"


class Pcm(Protocol):
    """One opened direction of one device. Nothing here raises; negative figures are -errno (-EPIPE is an xrun, after
    which the device is ready to start again).
    """

    granted: StreamParams
    clock: str
    """Names the crystal behind it: two devices with the same text cannot drift apart."""

    def offer(self) -> Capabilities: ...

    def read(self) -> tuple[int, bytes]:
        """At most one period; (0, b"") if none is there. The first call starts the card."""
        ...

    def write(self, data: bytes | memoryview) -> int:
        """Frames taken; the first call starts the card."""
        ...

    def avail(self) -> int:
        """Frames that can be read or written now."""
        ...

    def wait(self, timeout_ms: int) -> bool:
        """Sleep until a period can be moved (or the card failed); False if the time is over."""
        ...

    def mixer(self) -> Mixer | None:
        """The card's own volume controls, not opened yet; None where there can be none."""
        ...

    def close(self) -> None: ...


OpenPcm = Callable[[str, Direction, StreamParams], Pcm]
"""(ALSA name or card id, direction, terms to ask for) -> Pcm with the terms it granted; raises DeviceError."""


def negotiate(
    open_device: OpenPcm, device: str, direction: Direction, wishes: Sequence[StreamParams], needed: str
) -> tuple[Pcm, StreamParams]:
    """Open ``device`` on the first of ``wishes`` that it grants by itself: (device, the wish). Raises DeviceError.

    ALSA quietly grants something else rather than refuse, so every answer is read back and compared. ``needed`` says in
    words what the wishes have in common, for the refusal.
    """
    offer = Capabilities()
    for wish in wishes:
        if not offer.covers(wish):
            continue
        pcm = open_device(device, direction, wish)
        if pcm.granted.sounds_like(wish):
            return pcm, wish
        if not offer.formats:
            offer = pcm.offer()
        pcm.close()
    raise DeviceRefused(f"{device} has no {direction} with {needed}; it supports {offer}")


# The real thing.


class AlsaPcm:
    """``Pcm`` over pyalsaaudio, in non-blocking mode (a blocking read cannot time out)."""

    def __init__(self, device: str, direction: Direction, terms: StreamParams) -> None:
        alsa = _alsa()
        self._pcm = alsa.PCM(
            type=alsa.PCM_CAPTURE if direction == "capture" else alsa.PCM_PLAYBACK,
            mode=alsa.PCM_NONBLOCK,
            device=device,
            rate=terms.rate_hz,
            channels=terms.channels,
            format=getattr(alsa, f"PCM_FORMAT_{terms.sample_format}"),
            periodsize=terms.period_frames,
            periods=terms.periods,
        )
        info = self._pcm.info()
        period = info["period_size"]
        self.granted = StreamParams(
            info["rate"], info["channels"], info["format_name"], period, max(1, info["buffer_size"] // period)
        )
        self.clock = card_id(info["card_no"]) if info["card_no"] >= 0 else f"pcm:{device}"
        self._native = device.startswith("hw:")
        self._capturing = direction == "capture"
        self._fruitless = 0
        self._poll = select.poll()
        for descriptor, events in self._pcm.polldescriptors():
            self._poll.register(descriptor, events)

    def offer(self) -> Capabilities:
        rates = self._pcm.getrates()
        ranged = isinstance(rates, tuple)
        rates = (rates,) if isinstance(rates, int) else tuple(rates)
        # A plugin claims every channel count up to 2^32 and getchannels() would try them all.
        channels = tuple(self._pcm.getchannels()) if self._native else ()
        return Capabilities(tuple(self._pcm.getformats()), rates, ranged, channels)

    def read(self) -> tuple[int, bytes]:
        try:
            frames, data = self._pcm.read()
        except _alsa().ALSAAudioError as error:
            return -_errno_of(error), b""
        self._fruitless = 0 if frames > 0 else self._fruitless + 1
        return frames, data

    def write(self, data: bytes | memoryview) -> int:
        try:
            return int(self._pcm.write(data))
        except _alsa().ALSAAudioError as error:
            return -_errno_of(error)

    def avail(self) -> int:
        return int(self._pcm.avail())

    def wait(self, timeout_ms: int) -> bool:
        if self._fruitless > 2:  # a source at its end says "ready" and gives nothing: do not spin on it
            time.sleep(0.005)
        ready = self._poll.poll(timeout_ms)
        if ready:
            # Plugins hide what happened behind descriptors of their own, and asking is what re-arms them.
            self._pcm.polldescriptors_revents(ready)
        return bool(ready)

    def mixer(self) -> Mixer | None:
        return alsa_mixer(self.clock)

    def close(self) -> None:
        if not self._capturing:
            try:
                self._pcm.drop()  # else close() waits for the queue to play out, or for ever on a dead card
            except _alsa().ALSAAudioError:
                pass
        self._pcm.close()


def open_pcm(device: str, direction: Direction, terms: StreamParams) -> AlsaPcm:
    """The one door to ALSA. ``device`` is a card's id, ``auto``, or any ALSA name; raises DeviceError."""
    try:
        alsa = _alsa()
    except ImportError as error:
        raise DeviceRefused(
            f"pyalsaaudio does not load ({error}); install libasound2 and run install.sh again"
        ) from None
    name = resolve(device, direction)
    try:
        return AlsaPcm(name, direction, terms)
    except alsa.ALSAAudioError as error:
        raise _explain(device, name, direction, error) from None


@functools.cache
def _alsa() -> Any:
    """pyalsaaudio, with ALSA's own chatter on stderr switched off: we say it in one line ourselves."""
    import alsaaudio

    _hush()
    return alsaaudio


_silencer: Any = None


def _hush() -> None:
    """Give libasound an error handler that says nothing (pyalsaaudio has no call for it)."""
    import ctypes

    global _silencer
    handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p)
    _silencer = handler(lambda *_: None)
    try:
        ctypes.CDLL("libasound.so.2").snd_lib_error_set_handler(_silencer)
    except (OSError, AttributeError):
        _silencer = None


_ERRNO_BY_TEXT = {os.strerror(number): number for number in errno.errorcode}


def _errno_of(error: Exception) -> int:
    """pyalsaaudio 0.11 raises only strerror's text, followed by the device's name in brackets."""
    return _ERRNO_BY_TEXT.get(str(error).rsplit(" [", 1)[0], errno.EIO)


def _explain(device: str, name: str, direction: Direction, error: Exception) -> DeviceError:
    """The error of an open as one line with a way out."""
    number = _errno_of(error)
    if number in (errno.EBUSY, errno.EAGAIN):
        who = holder(name, direction)
        return DeviceBusy(f"{device} is in use by {who or 'another process'}; stop it or choose another card")
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return missing(device, direction)
    if number in (errno.EACCES, errno.EPERM):
        return DeviceRefused(
            f"{device} cannot be opened by this user (permission denied); add the user to the group audio"
        )
    return DeviceRefused(f"{device} does not open for {direction}: {str(error).rsplit(' [', 1)[0]}")


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
    """The refusal of a name nobody knows: the nearest right one, and what there is."""
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
    """"microphone", "jack", "output" or "" (a port nobody would pick by itself: HDMI, a loop-back)."""
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


def list_cards(
    *, proc: Path = PROC, dev: Path = DEV, open_device: OpenPcm | None = None, ask: bool = True
) -> list[Card]:
    """Every card the kernel knows, by number; empty where it knows none. ``ask`` opens idle ports for a moment to learn
    what they offer.
    """
    opener = open_device or open_pcm
    cards = _known_cards(proc)
    return [
        replace(card, ports=tuple(_filled(card, port, proc, dev, opener, ask) for port in card.ports)) for card in cards
    ]


def list_pcms(direction: Direction) -> list[str]:
    """Named ALSA devices beside the cards (from the asoundrc files), as far as they carry a hint."""
    try:
        alsa = _alsa()
        names = alsa.pcms(alsa.PCM_CAPTURE if direction == "capture" else alsa.PCM_PLAYBACK)
    except Exception:  # no ALSA configuration at all
        return []
    return [name for name in names if ":" not in name and name not in ("null", "default")]


def _known_cards(proc: Path) -> list[Card]:
    """What /proc/asound says, nothing opened."""
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
    """How likely this is what the wearer means; 0 is never taken by itself."""
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


def _filled(card: Card, port: Port, proc: Path, dev: Path, opener: OpenPcm, ask: bool) -> Port:
    """``port`` with its holder and its offer."""
    letter = "c" if port.direction == "capture" else "p"
    who = _holder(card.number, port.device, letter, proc, dev)
    usb = _usb_offer(proc / "asound" / f"card{card.number}" / f"stream{port.device}", port.direction)
    if usb.formats:
        return _with_offer(replace(port, held_by=who), usb)
    if who:
        return replace(port, held_by=who, note="in use")
    if not ask:
        return replace(port, note="not asked")
    try:
        pcm = opener(f"hw:CARD={card.id},DEV={port.device}", port.direction, StreamParams(48_000, 2, "S16_LE", 480, 4))
    except DeviceError as error:
        return replace(port, note=str(error))
    try:
        return _with_offer(port, pcm.offer())
    finally:
        pcm.close()


def _with_offer(port: Port, offer: Capabilities) -> Port:
    return replace(
        port,
        formats=offer.formats,
        rates_hz=offer.rates_hz,
        any_rate_between=offer.any_rate_between,
        channels=offer.channels,
    )


def _usb_offer(stream: Path, direction: Direction) -> Capabilities:
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


# Who holds what.


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

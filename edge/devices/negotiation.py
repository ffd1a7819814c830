"""Which parameters a device is asked for, best first; and, where it grants none of them, what is in the way.

Nothing is converted by ALSA: a card is opened at a rate, in a format and with a channel count of its own.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from edge import RATE_HZ
from edge.devices.names import parse
from edge.devices.pcm import Capabilities, DeviceRefused, Direction, Obstacle, OpenPcm, Pcm, StreamParams
from edge.dsp.bandwidth import lost_band

CAPTURE_RATES_HZ = (16_000, 48_000, 44_100, 32_000, 96_000, 24_000, 22_050, 88_200, 192_000, 176_400, 8_000)
"""16 kHz needs no conversion; then what nearly every card has; then what few have, and last what carries less than the
16 kHz between the converters. Other rates of a card are tried last of their kind (``Needs``)."""
PLAYBACK_RATES_HZ = CAPTURE_RATES_HZ
JACK_RATES_HZ = (48_000, 44_100, *(rate for rate in PLAYBACK_RATES_HZ if rate not in (48_000, 44_100)))
"""The Pi's jack takes 16 kHz too, but then moves in steps of 32 ms; at 48 kHz stereo in 10 ms."""
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 8_000, 384_000
"""Telephone rate; the highest of audio interfaces."""
REFERENCE = "[reference] channel"
MOST_CHANNELS = 32
"""Of the largest interfaces on USB and of snd-aloop."""
FORMATS = ("S16_LE", "S24_LE", "S24_3LE", "S32_LE")
"""What ``edge.devices.sample_format`` reads and writes."""
MOST_ATTEMPTS = 48
"""Openings of one device in one negotiation: a device that hides its channel counts is asked for each of them."""
MOST_REJECTED = 4
"""So many rates that ALSA rejects outright, rather than grant another: it is not the parameters."""


@dataclass(frozen=True)
class Needs:
    """What the box can use of a device, best first: rates (Hz), then formats, then channel counts."""

    rates_hz: tuple[int, ...]
    formats: tuple[str, ...]
    channels: Callable[[int], Sequence[int]]
    """Channel counts at a rate, in order of preference."""
    period_ms: float
    periods: int
    channel: int = 1
    """The highest channel that is used, from 1: a device needs as many."""
    setting: str = ""
    """What named that channel, as ``[capture] channel``."""
    other_rates: bool = True
    """Whether to use a device's other rates, too, from 8 to 384 kHz."""

    def requests(self, offered: Capabilities, channels_first: int = 0) -> Iterator[StreamParams]:
        """Every acceptable set of parameters, best first, with the rates ``offered`` beyond our own list.
        ``channels_first``: the count that a device without known counts has shown.
        """
        for rate_hz in self._rates_hz(offered):
            counts = [count for count in self.channels(rate_hz) if count >= self.channel]
            if channels_first in counts:
                counts = [channels_first, *(count for count in counts if count != channels_first)]
            for sample_format in self.formats:
                for count in counts:
                    yield self.request(rate_hz, count, sample_format)

    def request(self, rate_hz: int, channels: int, sample_format: str) -> StreamParams:
        period = max(1, round(rate_hz * self.period_ms / 1000))
        return StreamParams(rate_hz, channels, sample_format, period, self.periods)

    def _rates_hz(self, offered: Capabilities) -> list[int]:
        other = [
            rate
            for rate in sorted(offered.rates_hz)
            if self.other_rates and LOWEST_RATE_HZ <= rate <= HIGHEST_RATE_HZ and rate not in self.rates_hz
        ]
        wide = [rate for rate in (*self.rates_hz, *other) if rate >= RATE_HZ]
        return wide + sorted((rate for rate in (*self.rates_hz, *other) if rate < RATE_HZ), reverse=True)

    def accepts(self, params: StreamParams) -> bool:
        rates_hz = self._rates_hz(Capabilities(rates_hz=(params.rate_hz,)))
        enough = self.channel <= params.channels <= MOST_CHANNELS
        return params.rate_hz in rates_hz and params.sample_format in self.formats and enough


def capture_needs(
    native: bool,
    channel: int,
    setting: str,
    *,
    period_ms: float,
    periods: int,
    rates_hz: tuple[int, ...] = (),
    formats: tuple[str, ...] = (),
) -> Needs:
    """``native``: hardware, of which we take all the bits it has; a plugin takes anything, and more bits there are
    only filling. The fewest channels that contain ``channel``. ``rates_hz`` and ``formats`` narrow the choice.
    """
    wide = ("S32_LE", "S24_3LE", "S16_LE", "S24_LE")
    return Needs(
        rates_hz or CAPTURE_RATES_HZ,
        formats or (wide if native else ("S16_LE", *(name for name in wide if name != "S16_LE"))),
        lambda rate_hz: range(1, MOST_CHANNELS + 1),
        period_ms,
        periods,
        channel,
        setting,
        other_rates=not rates_hz,
    )


def playback_needs(
    jack: bool,
    pair: int = 0,
    *,
    period_ms: float,
    periods: int,
    rates_hz: tuple[int, ...] = (),
    formats: tuple[str, ...] = (),
) -> Needs:
    """Stereo where rates are converted, mono where our own samples pass with their bits; else the fewest channels.
    ``pair`` is the first of the two channels to use, from 1; 0 uses all that there are.
    """
    order = JACK_RATES_HZ if jack else PLAYBACK_RATES_HZ

    def channels(rate_hz: int) -> tuple[int, ...]:
        counts = (1, 2) if rate_hz == RATE_HZ else (2, 1)
        counts = (*counts, *range(3, MOST_CHANNELS + 1))
        return (*(count for count in counts if count > pair), *([pair] if pair else []))

    return Needs(
        tuple(rate for rate in order if rate in rates_hz) if rates_hz else order,
        formats or ("S16_LE", "S32_LE", "S24_3LE", "S24_LE"),
        channels,
        period_ms,
        periods,
        max(1, pair),
        "[playback] channels",
        other_rates=not rates_hz,
    )


def negotiate(
    open_device: OpenPcm, device: str, name: str, direction: Direction, needs: Needs
) -> tuple[Pcm, StreamParams]:
    """Open ``device`` with the best parameters of ``needs`` that it grants by itself: (device, the request).

    ALSA silently grants something else rather than refuse, so the granted parameters are read back and compared; what
    was granted instead is used where nothing better is, if we can. ``name`` is the ALSA name behind ``device``. Raises
    DeviceError; DeviceRefused names what is in the way.
    """
    offered: Capabilities | None = None
    instead: list[StreamParams] = []
    rejected_hz: list[int] = []
    tried: set[StreamParams] = set()
    requests = needs.requests(Capabilities())
    for _ in range(MOST_ATTEMPTS):
        candidates = (each for each in requests if each not in tried and each.rate_hz not in rejected_hz)
        request = next((each for each in candidates if offered is None or offered.covers(each)), None)
        if request is None:
            break
        tried.add(request)
        try:
            pcm = open_device(device, direction, request)
        except DeviceRefused as error:
            rejected_hz.append(request.rate_hz)
            if error.obstacle != "parameters" or len(rejected_hz) >= MOST_REJECTED:
                raise
            continue
        if pcm.granted.same_samples(request):
            return pcm, request
        instead.append(needs.request(pcm.granted.rate_hz, pcm.granted.channels, pcm.granted.sample_format))
        if offered is None:
            offered = pcm.capabilities()
            requests = needs.requests(offered, 0 if offered.channels else pcm.granted.channels)
        pcm.close()
    for request in instead:
        if needs.accepts(request):
            pcm = open_device(device, direction, request)
            if pcm.granted.same_samples(request):
                return pcm, request
            pcm.close()
    shown = offered or Capabilities()
    if instead and not shown.channels:
        shown = replace(shown, channels=_channels_below(open_device, device, direction, needs, instead[0]))
    raise refusal(device, name, direction, needs, shown)


def _channels_below(
    open_device: OpenPcm, device: str, direction: Direction, needs: Needs, granted: StreamParams
) -> tuple[int, ...]:
    """The channel counts known of a device that does not list them: the one granted, and the highest below what is
    needed, for the error message.
    """
    found = {granted.channels}
    for count in range(min(needs.channel, MOST_CHANNELS + 1) - 1, granted.channels, -1):
        pcm = open_device(device, direction, replace(granted, channels=count))
        found.add(pcm.granted.channels)
        pcm.close()
        if max(found) == count:
            break
    return tuple(sorted(found))


# What is in the way.


def obstacles(direction: Direction, needs: Needs, offered: Capabilities) -> dict[Obstacle, str]:
    """What of a device does not fit ``needs``, in words that follow "has no capture"; empty where everything does."""
    found: dict[Obstacle, str] = {}
    if offered.channels and not any(
        count in needs.channels(RATE_HZ) for count in offered.channels if count >= needs.channel
    ):
        if max(offered.channels) < needs.channel:
            purpose = " for the reference" if needs.setting == REFERENCE else ""
            found["channels"] = f"with a channel {needs.channel}{purpose}"
        else:
            found["channels"] = f"with {needs.channel} to {MOST_CHANNELS} channels"
    if offered.rates_hz and not any(_rate_fits(rate, needs, offered) for rate in (*needs.rates_hz, *offered.rates_hz)):
        listed = "/".join(f"{rate / 1000:g}" for rate in sorted(needs.rates_hz))
        limits = f"{LOWEST_RATE_HZ / 1000:g} to {HIGHEST_RATE_HZ / 1000:g}"
        found["rate"] = f"at {limits if needs.other_rates else listed} kHz"
    if offered.formats and not any(name in needs.formats for name in offered.formats):
        found["format"] = f"in 16, 24 or 32 bits ({', '.join(sorted(needs.formats))})"
    return found


def _rate_fits(rate_hz: int, needs: Needs, offered: Capabilities) -> bool:
    if rate_hz in needs.rates_hz:
        return offered.covers(StreamParams(rate_hz, *_any_of(offered), 1, 1))
    return needs.other_rates and LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ


def _any_of(offered: Capabilities) -> tuple[int, str]:
    return (offered.channels or (1,))[0], (offered.formats or ("S16_LE",))[0]


def refusal(device: str, name: str, direction: Direction, needs: Needs, offered: Capabilities) -> DeviceRefused:
    """The error for a device that grants nothing of ``needs``: what is in the way, what it offers, and the fix."""
    found = obstacles(direction, needs, offered)
    if "channels" in found and max(offered.channels) < needs.channel and needs.setting:
        none = ", or to 0 for none" if needs.setting == REFERENCE else ""
        fix = f"set {needs.setting} to at most {max(offered.channels)}{none}, or choose a device with more channels"
    else:
        fix = conversion(name)
    words = " and ".join(found.values()) or "with a rate, a format and a channel count of ours at the same time"
    text = f"{device} has no {direction} {words}; it supports {offered}"
    return DeviceRefused(text, fix, next(iter(found), "combination"))


def conversion(name: str) -> str:
    """The fix for a device whose own parameters do not fit: ALSA's converting device in front of it."""
    card = parse(name) if ":" in name else None
    if card and card.kind == "hw":
        converting = str(replace(card, kind="plughw"))
    elif re.fullmatch(r"\w+", name) and name != "plug":
        converting = f"plug:{name}"
    else:
        return "choose another device of `quietbox devices`"
    return f'set the device to "{converting}", which converts, or choose another one of `quietbox devices`'


def outlook(direction: Direction, offered: Capabilities, name: str) -> str:
    """What a listed device will not do in the box, in words; empty where nothing is lost."""
    needs = (
        capture_needs(True, 1, "", period_ms=5, periods=2)
        if direction == "capture"
        else playback_needs(False, period_ms=5, periods=2)
    )
    if found := obstacles(direction, needs, offered):
        return f"no {direction} {' and '.join(found.values())}; {conversion(name)}"
    best = next((each for each in needs.requests(offered) if offered.covers(each)), None)
    return lost_band(best.rate_hz) if best and offered.rates_hz else ""

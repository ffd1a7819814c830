"""What the box knows of a sound device: ``Pcm``, how one is opened, and what a hop's read or write can report.

``edge.devices.alsa`` opens real cards, ``edge.devices.fake`` made-up ones; both give ``Pcm`` objects. A ``Pcm`` never
blocks (only ``wait`` does) and never raises: a failure is a negative errno.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol

from edge import UserError
from edge.devices.mixer import Mixer

Direction = Literal["capture", "playback"]


class Event(IntEnum):
    """The result of a read or write: up to XRUN there is a hop (perhaps silent), beyond that the device must be opened
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


Obstacle = Literal["channels", "rate", "format", "combination", "permission", "parameters", "library", "system"]
"""What of a device, or of our access to it, is in the way: "combination" are its rates, formats and channel counts each
of which fits alone, "parameters" is what ALSA rejects without a reason, "system" any other error of the system."""


class DeviceError(UserError):
    """A device cannot be used; the text is one line that names the device and the fix."""

    def __init__(self, found: str, fix: str = "") -> None:
        super().__init__(f"{found}; {fix}" if fix else found)
        self.found = found
        """The line without the fix."""
        self.fix = fix


class DeviceMissing(DeviceError):
    """No such card or ALSA name, or it is not plugged in."""


class DeviceBusy(DeviceError):
    """Another process holds the card."""


class DeviceRefused(DeviceError):
    """The card is there but does not do what we need, or we may not use it."""

    def __init__(self, found: str, fix: str = "", obstacle: Obstacle = "system") -> None:
        super().__init__(found, fix)
        self.obstacle = obstacle


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

    def same_samples(self, other: "StreamParams") -> bool:
        """Whether rate, channels and format agree; periods may differ."""
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

    def covers(self, params: StreamParams) -> bool:
        """Whether ``params`` are worth trying."""
        if self.formats and params.sample_format not in self.formats:
            return False
        if self.channels and params.channels not in self.channels:
            return False
        if self.any_rate_between:
            return self.rates_hz[0] <= params.rate_hz <= self.rates_hz[-1]
        return not self.rates_hz or params.rate_hz in self.rates_hz

    def __str__(self) -> str:
        joint = " to " if self.any_rate_between else "/"
        rates = joint.join(str(rate) for rate in self.rates_hz) or "unknown rates"
        channels = counts_in_words(self.channels) or "?"
        return f"{'/'.join(self.formats) or 'unknown formats'} at {rates} Hz, {channels} channel(s)"


def counts_in_words(counts: tuple[int, ...]) -> str:
    """Ascending channel counts in few characters: "1/2", "2/4", "1 to 32"; four in a row and more are a range."""
    runs: list[list[int]] = []
    for count in counts:
        if runs and count == runs[-1][-1] + 1:
            runs[-1].append(count)
        else:
            runs.append([count])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 3 else "/".join(str(count) for count in run) for run in runs]
    return "/".join(words)


class Pcm(Protocol):
    """One opened direction of one device. Nothing here raises; negative figures are -errno (-EPIPE is an xrun, after
    which the device is ready to start again).
    """

    granted: StreamParams
    clock: str
    """Names the crystal behind it: two devices with the same text cannot drift apart."""

    def capabilities(self) -> Capabilities: ...

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
"""(ALSA name or card id, direction, requested parameters) -> Pcm with the granted ones; raises DeviceError."""

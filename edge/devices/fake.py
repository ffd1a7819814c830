"""Made-up sound cards with the interface of real ones, on a clock that runs as fast as it is read.

Whatever a real card does, these do on request: a clock that is off by some ppm, coarse positions, an xrun, a short
read, a stall, being pulled out and put back, being held by somebody, silence, a constant. Ten minutes take seconds.

    clock = VirtualClock()
    microphone = FakeCard("Mic", clock, capture=Capabilities(("S16_LE",), (48_000,), False, (1,)), source=tone(1000))
    jack = FakeCard("Headphones", clock, playback=Capabilities(...), clock_error_ppm=300)
    Capture("Mic", open_pcm=opener(microphone, jack))
"""

import errno
import math
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge.devices.mixer import Level, Mixer
from edge.devices.names import parse
from edge.devices.pcm import Capabilities, DeviceBusy, DeviceMissing, Direction, OpenPcm, StreamParams
from edge.devices.sample_format import SAMPLE_BYTES, Decoder, Encoder
from edge.dsp.spectrum import Floats

Source = Callable[[NDArray[np.int64], int], NDArray[np.floating]]
"""(frame numbers, rate in Hz) -> +-1.0: what a microphone hears; shape (frames,) or (frames, channels)."""


class VirtualClock:
    """Seconds that pass only when somebody waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def wait_until(self, moment_s: float) -> None:
        self.now_s = max(self.now_s, moment_s)

    def now(self) -> float:
        return self.now_s


class WallClock:
    """The real time, for a fake card that must be as slow as a real one."""

    def now(self) -> float:
        return time.monotonic()

    def wait_until(self, moment_s: float) -> None:
        time.sleep(max(0.0, moment_s - time.monotonic()))


Clock = VirtualClock | WallClock


def silence(frames: NDArray[np.int64], rate_hz: int) -> Floats:
    """A microphone that is off."""
    return np.zeros(len(frames), np.float32)


def constant(level: float) -> Source:
    """A microphone stuck at one value."""
    return lambda frames, rate_hz: np.full(len(frames), level, np.float32)


def tone(frequency_hz: float, level: float = 0.5, dc: float = 0.0) -> Source:
    """A sine on an offset."""
    return lambda frames, rate_hz: dc + level * np.sin(2 * np.pi * frequency_hz / rate_hz * frames)


def noise(level: float = 0.1, seed: int = 0) -> Source:
    """White noise, the same for the same seed and the same reads."""
    rng = np.random.default_rng(seed)
    return lambda frames, rate_hz: level * rng.standard_normal(len(frames))


def one_live_channel(live: int, channels: int, source: Source) -> Source:
    """An I2S microphone: ``live`` (from 0) speaks, the other slots are zero."""

    def speak(frames: NDArray[np.int64], rate_hz: int) -> NDArray[np.floating]:
        out = np.zeros((len(frames), channels))
        out[:, live] = source(frames, rate_hz)
        return out

    return speak


NOTHING = Capabilities()
I2S_CAPABILITIES = Capabilities(("S24_LE", "S32_LE"), (48_000,), False, (2,))
"""googlevoicehat-soundcard with a MEMS microphone."""
USB_CAPABILITIES = Capabilities(("S16_LE",), (44_100, 48_000), False, (1,))
"""A cheap USB microphone."""
JACK_CAPABILITIES = Capabilities(("U8", "S16_LE"), (8_000, 48_000), True, (1, 2))
"""The Pi's own headphone jack; its position moves in steps of 10 ms."""


class FakeMixer:
    """``edge.devices.mixer.Mixer`` of a fake card: ``controls`` by name, as anybody may change them at any time.

    ``error`` is what every call raises, ``stuck`` keeps all controls as they are, ``answers`` cleared makes it hang.
    """

    def __init__(self, name: str, *controls: Level) -> None:
        self.name = name
        self.controls = {(level.control, level.index): level for level in controls}
        self.error: OSError | None = None
        self.stuck = False
        self.answers = threading.Event()
        self.answers.set()
        self.written: list[Level] = []

    def levels(self) -> list[Level]:
        self._answer()
        return list(self.controls.values())

    def put(self, wanted: Level) -> None:
        self._answer()
        self.written.append(wanted)
        if not self.stuck:
            self.controls[wanted.control, wanted.index] = wanted

    def _answer(self) -> None:
        self.answers.wait()
        if self.error:
            raise self.error


def jack_mixer(name: str = "Headphones") -> FakeMixer:
    """The Pi's own jack as its driver leaves it at power-on, but muted."""
    return FakeMixer(name, Level("PCM", db=-20.0, range_db=(-102.39, 4.0), percent=77, muted=True))


class FakeCard:
    """One card: its capabilities in each direction, its crystal, and the faults to inject.

    ``clock_error_ppm`` makes its crystal fast (positive) or slow. ``position_step_ms`` is how coarsely the card reports
    its position (the Pi's jack: 10). ``least_period`` is the shortest period it grants, in frames, ``most_frames`` its
    longest buffer, ``most_periods`` how many periods it has at most. Set ``holder``, ``gone``,
    ``stalled``, ``unread``, ``answers``, ``xruns_to_come``, ``short_frames`` at any time. With ``record`` on,
    ``played`` holds what was taken from the queue and heard, with the silence of its gaps.
    """

    def __init__(
        self,
        card_id: str,
        clock: Clock,
        *,
        capture: Capabilities = NOTHING,
        playback: Capabilities = NOTHING,
        clock_error_ppm: float = 0.0,
        source: Source = silence,
        position_step_ms: float = 0.0,
        least_period: int = 1,
        most_periods: int = 1024,
        most_frames: int = 1 << 20,
        record: bool = False,
        mixer: FakeMixer | None = None,
    ) -> None:
        self.id = card_id
        self.clock = clock
        self.capabilities: dict[Direction, Capabilities] = {"capture": capture, "playback": playback}
        self.clock_error_ppm = clock_error_ppm
        self.source = source
        self.position_step_ms = position_step_ms
        self.least_period = least_period
        self.most_periods, self.most_frames = most_periods, most_frames
        self.holder = ""
        """The process that holds it: opening raises DeviceBusy while this is not empty."""
        self.gone = False
        """Unplugged: opening raises DeviceMissing, reading and writing return -ENODEV."""
        self.stalled = False
        """Neither fails nor delivers samples."""
        self.unread = False
        """Takes nothing of what is played, as a USB gadget without a PC."""
        self.answers: dict[str, int] = {}
        """What "read", "write" or "avail" returns from now on: -errno, or 0 for no frame. The
        card polls as ready meanwhile. -EPIPE is an xrun that restarting does not clear."""
        self.xruns_to_come = 0
        self.short_frames = 0
        """The next read gives only so many frames."""
        self.mixer = mixer
        self.record = record
        self.recorded: list[Floats] = []
        self.opened = 0

    @property
    def played(self) -> Floats:
        """float32: everything heard so far at the card's rate, first channel."""
        return np.concatenate(self.recorded) if self.recorded else np.zeros(0, np.float32)

    def open_pcm(self, device: str, direction: Direction, params: StreamParams) -> "FakePcm":
        """Grants the requested parameters where it can, else silently the nearest ones, as ALSA does."""
        capabilities = self.capabilities[direction]
        if self.gone or not capabilities.formats:
            raise DeviceMissing(f"no sound card {device!r} for {direction}")
        if self.holder:
            raise DeviceBusy(f"{device} is in use by {self.holder}; stop it or choose another card")
        self.opened += 1
        return FakePcm(self, direction, self._grant(capabilities, params))

    def _grant(self, capabilities: Capabilities, requested: StreamParams) -> StreamParams:
        low, high = min(capabilities.rates_hz), max(capabilities.rates_hz)
        rate = min(max(requested.rate_hz, low), high)
        if not capabilities.any_rate_between:
            rate = min(capabilities.rates_hz, key=lambda candidate: abs(candidate - requested.rate_hz))
        channels = min(capabilities.channels, key=lambda candidate: abs(candidate - requested.channels))
        sample_format = (
            requested.sample_format if requested.sample_format in capabilities.formats else capabilities.formats[0]
        )
        period = min(max(requested.period_frames, self.least_period), self.most_frames)
        periods = min(requested.periods, self.most_periods, self.most_frames // period)
        return StreamParams(rate, channels, sample_format, period, periods)


def opener(*cards: FakeCard) -> OpenPcm:
    """Opens any of several fake cards, found by id (``Mic``, ``hw:CARD=Mic``)."""

    def open_by_name(device: str, direction: Direction, params: StreamParams) -> FakePcm:
        name = parse(device)
        for card in cards:
            if name and card.id == name.card:
                return card.open_pcm(device, direction, params)
        raise DeviceMissing(
            f"no sound card {device!r} for {direction}; there are {', '.join(card.id for card in cards)}"
        )

    return open_by_name


class FakePcm:
    """``edge.devices.pcm.Pcm`` of a fake card."""

    def __init__(self, card: FakeCard, direction: Direction, granted: StreamParams) -> None:
        self.granted = granted
        self.clock = card.id
        self._card = card
        self._capturing = direction == "capture"
        self._direction: Direction = direction
        self._rate_hz = granted.rate_hz * (1 + card.clock_error_ppm * 1e-6)
        self._began_s = -1.0
        self._looked_s = 0.0
        self._before = 0
        """Frames the card had moved when it was last started."""
        self._moved = 0
        """Frames we have read or written, all starts together."""
        self._heard = 0
        self._in_xrun = False
        self._queue = bytearray()
        # Nobody moves samples in a format the box cannot use; the card still grants it.
        sample_format = granted.sample_format if granted.sample_format in SAMPLE_BYTES else "S16_LE"
        self._encoder = Encoder(sample_format, 1, granted.buffer_frames)
        self._decoder = Decoder(sample_format, granted.channels, 0, granted.buffer_frames)
        self._frame_bytes = self._decoder.frame_bytes

    def capabilities(self) -> Capabilities:
        return self._card.capabilities[self._direction]

    def _position(self) -> int:
        """Frames the card itself has moved since its start, as finely as it reports."""
        if self._began_s < 0:
            return 0
        now_s = self._card.clock.now()
        if self._card.unread and not self._capturing:
            self._began_s += now_s - self._looked_s
        self._looked_s = now_s
        frames = (now_s - self._began_s) * self._rate_hz
        step = self._card.position_step_ms * self.granted.rate_hz / 1000
        return math.floor(frames / step + 1e-9) * round(step) if step else math.floor(frames + 1e-6)

    @property
    def true_queue_ms(self) -> float:
        """What is really queued for playback, however coarsely ``avail`` reports it."""
        moved = (self._card.clock.now() - self._began_s) * self._rate_hz if self._began_s >= 0 else 0.0
        return 1000 * (self._moved - moved) / self.granted.rate_hz

    def _start(self) -> None:
        if self._began_s < 0:
            self._began_s = self._looked_s = self._card.clock.now()

    def _stop(self) -> None:
        """Ready to start anew, all queues empty."""
        self._began_s = -1.0
        self._moved = self._heard = 0
        self._in_xrun = False

    def _failure(self) -> int:
        if self._card.gone:
            return -errno.ENODEV
        if self._card.xruns_to_come:
            self._card.xruns_to_come -= 1
            self._in_xrun = True
        return -errno.EPIPE if self._in_xrun else 0

    def avail(self) -> int:
        if "avail" in self._card.answers:
            return self._card.answers["avail"]
        if failure := self._failure():
            return failure
        buffer = self.granted.buffer_frames
        if self._capturing:
            waiting = self._position() - self._moved
            self._in_xrun = waiting > buffer
            return -errno.EPIPE if self._in_xrun else waiting
        if self._began_s < 0:
            return buffer
        position = self._position()
        self._hear(position)
        self._in_xrun = position >= self._moved
        return -errno.EPIPE if self._in_xrun else min(buffer, buffer - (self._moved - position))

    def _hear(self, position: int) -> None:
        """The card takes from the queue what its clock has reached."""
        due = position - self._heard
        self._heard = position
        if not self._card.record:
            return
        data = bytes(self._queue[: due * self._frame_bytes])
        del self._queue[: due * self._frame_bytes]
        block = np.zeros(due, np.float32)
        for start in range(0, len(data) // self._frame_bytes, self.granted.buffer_frames):
            part = data[start * self._frame_bytes : (start + self.granted.buffer_frames) * self._frame_bytes]
            block[start : start + len(part) // self._frame_bytes] = self._decoder.decode(part)
        self._card.recorded.append(block)

    def read(self) -> tuple[int, bytes]:
        assert self._capturing
        if "read" in self._card.answers:
            return self._card.answers["read"], b""
        self._start()
        waiting = self.avail()
        if waiting == -errno.EPIPE:
            self._stop()
        if waiting < 0:
            return waiting, b""
        frames = 0 if self._card.stalled else min(waiting, self.granted.period_frames)
        if self._card.short_frames and frames:
            frames, self._card.short_frames = min(frames, self._card.short_frames), 0
        heard = np.asarray(self._card.source(self._before + np.arange(frames), self.granted.rate_hz))
        self._moved += frames
        self._before += frames
        return frames, self._encoded(heard, frames)

    def _encoded(self, heard: NDArray[np.floating], frames: int) -> bytes:
        channels = heard if heard.ndim == 2 else np.repeat(heard[:, None], self.granted.channels, axis=1)
        if channels.shape[1] == 1:
            return bytes(self._encoder.encode(channels[:, 0].astype(np.float32)))
        width = self._frame_bytes // self.granted.channels
        packed = np.zeros((frames, channels.shape[1], width), np.uint8)
        for channel in range(channels.shape[1]):
            one = self._encoder.encode(np.ascontiguousarray(channels[:, channel], np.float32))
            packed[:, channel] = np.frombuffer(one, np.uint8).reshape(frames, width)
        return packed.tobytes()

    def write(self, data: bytes | memoryview) -> int:
        assert not self._capturing
        if "write" in self._card.answers:
            return self._card.answers["write"]
        room = self.avail()
        if room == -errno.EPIPE:
            self._stop()
            self._queue.clear()
        if room < 0:
            return room
        self._start()
        frames = min(room, len(data) // self._frame_bytes)
        if self._card.record:
            self._queue += data[: frames * self._frame_bytes]
        self._moved += frames
        return frames

    def wait(self, timeout_ms: int) -> bool:
        """Let time pass until one period can be moved."""
        clock = self._card.clock
        over_s = clock.now() + timeout_ms / 1000
        if self._card.gone or self._in_xrun or self._card.xruns_to_come or self._card.answers:
            return True
        if self._card.stalled or self._began_s < 0:
            clock.wait_until(over_s)
            return False
        period, buffer = self.granted.period_frames, self.granted.buffer_frames
        wanted = self._moved + period if self._capturing else self._moved - buffer + period
        ready_s = self._began_s + (wanted + 0.01) / self._rate_hz
        if step_ms := self._card.position_step_ms:
            step_frames = step_ms * self.granted.rate_hz / 1000
            ready_s = self._began_s + (math.ceil(wanted / step_frames) * step_frames + 0.01) / self._rate_hz
        clock.wait_until(min(ready_s, over_s))
        return ready_s <= over_s

    def mixer(self) -> Mixer | None:
        return self._card.mixer

    def close(self) -> None:
        self._stop()

"""Microphone and output tried for some seconds by the code the box runs, with a note of every sample and its moment.

``run_in_child`` does so in a process of its own, because a driver that hangs takes the interpreter with it.
"""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge import HOP_MS, HOP_SAMPLES
from edge.box import LOST, LOST_OUTPUT
from edge.config import CaptureConfig, PlaybackConfig
from edge.devices.alsa import open_pcm
from edge.devices.capture import Capture
from edge.devices.mixer import Mixer
from edge.devices.pcm import (
    Capabilities,
    Direction,
    Event,
    OpenPcm,
    Pcm,
    StreamParams,
)
from edge.devices.playback import Playback
from edge.devices.sample_format import Decoder
from edge.dsp.spectrum import Floats
from edge.health import dbfs

SETTLE_S = 0.25
"""Left out when a rate is measured: cards start with a burst or a pause."""
LOUD_MS = 100
"""The loudest stretch of so long is what a syllable reaches."""


@dataclass(frozen=True)
class ChannelLevels:
    """One channel of a microphone, before any gain of ours. Levels in dBFS, without the offset."""

    level_dbfs: float
    loudest_dbfs: float
    """Of the loudest 100 ms."""
    peak_dbfs: float
    dc: float
    """Offset, +-1.0."""
    clips: int
    """Samples at full scale."""
    constant: bool
    """Whether every sample was the same: a dead microphone."""


@dataclass(frozen=True)
class MicrophoneProbe:
    """What some seconds of a microphone showed."""

    granted: str
    rate_hz: int
    measured_hz: float
    """By the monotonic clock; 0 if too little was recorded to measure it."""
    seconds: float
    xruns: int
    channels: tuple[ChannelLevels, ...]
    lost: str
    """How the microphone was lost; empty if it was not."""
    period_ms: float = 0.0
    """The card delivers sound this often."""


@dataclass(frozen=True)
class OutputProbe:
    """What playing some seconds of silence showed."""

    granted: str
    rate_hz: int
    measured_hz: float
    """By the monotonic clock; 0 if the output has no clock or too little was played to measure it."""
    seconds: float
    xruns: int
    lost: str
    queue_ms: float = 0.0
    """The longest queue that the card's buffer allows, up to the requested one."""
    requested_ms: float = 0.0


class _RecordingPcm:
    """A ``Pcm`` that passes everything through and records the samples and their times."""

    def __init__(self, pcm: Pcm, now: Callable[[], float]) -> None:
        self._pcm, self._now = pcm, now
        self.granted, self.clock = pcm.granted, pcm.clock
        self.recorded: list[bytes] = []
        self.moved = 0
        """Frames read, or played out by the card."""
        self.moments: list[tuple[float, int]] = []
        """(seconds, ``moved``) whenever that changed."""
        self._written = 0

    def capabilities(self) -> Capabilities:
        return self._pcm.capabilities()

    def read(self) -> tuple[int, bytes]:
        frames, data = self._pcm.read()
        if frames > 0:
            self.recorded.append(data)
            self._move(self.moved + frames)
        return frames, data

    def write(self, data: bytes | memoryview) -> int:
        frames = self._pcm.write(data)
        self._written += max(0, frames)
        return frames

    def avail(self) -> int:
        return self._pcm.avail()

    def look(self) -> None:
        """Note how much of what was written the card has played."""
        room = self._pcm.avail()
        if room >= 0:
            self._move(self._written - (self.granted.buffer_frames - room))

    def _move(self, moved: int) -> None:
        if moved > self.moved:
            self.moved = moved
            self.moments.append((self._now(), moved))

    def wait(self, timeout_ms: int) -> bool:
        return self._pcm.wait(timeout_ms)

    def mixer(self) -> Mixer | None:
        return self._pcm.mixer()

    def close(self) -> None:
        self._pcm.close()

    def measured_hz(self) -> float:
        """Frames a second after the start, by the straight line through all steps (each of them may be noticed late);
        0 if there were too few.
        """
        begun = [moment for moment in self.moments if moment[0] >= self.moments[0][0] + SETTLE_S]
        if len(begun) < 2 and self.moved > self.granted.rate_hz:
            begun = self.moments  # a source without a clock is over before it has settled
        if len(begun) < 2 or begun[-1][0] <= begun[0][0]:
            return 0.0
        moments, frames = np.transpose(begun)
        moments = moments - moments.mean()
        return float(np.dot(moments, frames) / np.dot(moments, moments))


class _RecordingOpener:
    """Opens devices as ``_RecordingPcm``; ``last`` is the one that stayed open."""

    def __init__(self, opener: OpenPcm, now: Callable[[], float]) -> None:
        self._opener, self._now = opener, now
        self.last: _RecordingPcm

    def open(self, device: str, direction: Direction, terms: StreamParams) -> _RecordingPcm:
        self.last = _RecordingPcm(self._opener(device, direction, terms), self._now)
        return self.last


def probe_microphone(
    settings: CaptureConfig, seconds: float, opener: OpenPcm = open_pcm, now: Callable[[], float] = time.monotonic
) -> MicrophoneProbe:
    """Hear the microphone for so long, natively and on all its channels; raises DeviceError.

    The start, where the box mutes a settling microphone, does not count for the levels.
    """
    opened = _RecordingOpener(opener, now)
    capture = Capture.from_section(settings, channel=settings.channel, open_pcm=opened.open)
    hop = np.zeros(HOP_SAMPLES, np.float32)
    capture.open()
    pcm, lost, began_s = opened.last, "", now()
    most_frames = 2 * seconds * pcm.granted.rate_hz  # a source without a clock is as fast as we are
    try:
        while not lost and now() - began_s < seconds and pcm.moved < most_frames:
            event = capture.read(hop)
            if event >= Event.STALLED:
                lost = LOST[event]
    finally:
        capture.close()
    skip = round(pcm.granted.rate_hz * min((settings.mute_ms + settings.fade_ms) / 1000, seconds / 4))
    return MicrophoneProbe(
        granted=capture.granted,
        rate_hz=pcm.granted.rate_hz,
        measured_hz=round(pcm.measured_hz(), 1),
        seconds=round(pcm.moved / pcm.granted.rate_hz, 2),
        xruns=capture.xruns,
        channels=_channels(b"".join(pcm.recorded), pcm.granted, skip),
        lost=lost,
        period_ms=round(capture.period_ms, 1),
    )


def _channels(data: bytes, terms: StreamParams, skip: int) -> tuple[ChannelLevels, ...]:
    """Every channel of what was recorded, from frame ``skip`` on; none if there is nothing after it."""
    channels = []
    for channel in range(terms.channels):
        frame_bytes = Decoder(terms.sample_format, terms.channels, channel, 1).frame_bytes
        rest = data[skip * frame_bytes :]
        frames = len(rest) // frame_bytes
        if not frames:
            return ()
        decoder = Decoder(terms.sample_format, terms.channels, channel, frames)
        channels.append(_levels(decoder.decode(rest), decoder, terms.rate_hz))
    return tuple(channels)


def _levels(samples: Floats, decoder: Decoder, rate_hz: int) -> ChannelLevels:
    dc = float(np.mean(samples, dtype=np.float64))
    sound = samples.astype(np.float64) - dc
    stretch = min(len(sound), rate_hz * LOUD_MS // 1000)
    stretches = sound[: len(sound) // stretch * stretch].reshape(-1, stretch)
    return ChannelLevels(
        level_dbfs=dbfs(float(np.mean(np.square(sound)))),
        loudest_dbfs=dbfs(float(np.square(stretches).mean(axis=1).max())),
        peak_dbfs=dbfs(float(np.square(np.abs(samples).max()))),
        dc=round(dc, 5),
        clips=decoder.clips,
        constant=bool(samples.max() == samples.min()),
    )


def probe_output(
    settings: PlaybackConfig,
    seconds: float,
    opener: OpenPcm = open_pcm,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> OutputProbe:
    """Play silence for so long, a hop every 5 ms; raises DeviceError."""
    opened = _RecordingOpener(opener, now)
    playback = Playback(
        settings.device,
        queue_ms=settings.queue_ms,
        period_ms=settings.period_ms,
        periods=settings.periods,
        channels=settings.channels,
        same_clock=True,
        open_pcm=opened.open,
    )
    silence = np.zeros(HOP_SAMPLES, np.float32)
    playback.open()
    pcm, lost, began_s = opened.last, "", now()
    clockless = "clockless" in playback.granted
    try:
        for hops in itertools.count(1):
            if lost or now() - began_s >= seconds:
                break
            event = playback.write(silence)
            if event >= Event.STALLED:
                lost = LOST_OUTPUT[event]
            pcm.look()
            sleep(max(0.0, began_s + hops * HOP_MS / 1000 - now()))
    finally:
        playback.close()
    return OutputProbe(
        granted=playback.granted,
        rate_hz=pcm.granted.rate_hz,
        measured_hz=0.0 if clockless else round(pcm.measured_hz(), 1),
        seconds=round(now() - began_s, 2),
        xruns=playback.xruns,
        lost=lost,
        queue_ms=round(playback.target_ms, 1),
        requested_ms=settings.queue_ms,
    )

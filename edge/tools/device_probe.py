"""Microphone and output tried for some seconds by the code the box runs, with a note of every sample and its moment.

``run_in_child`` does so in a process of its own, because a driver that hangs takes the interpreter with it.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge import HOP_MS, HOP_SAMPLES
from edge.box import LOST, LOST_OUTPUT
from edge.config import BoxConfig, CaptureConfig, Config, PlaybackConfig, SuppressConfig
from edge.devices.alsa import open_pcm
from edge.devices.alsa_mixer import alsa_mixer
from edge.devices.capture import Capture
from edge.devices.mixer import Level, Mixer
from edge.devices.pcm import (
    Capabilities,
    DeviceBusy,
    DeviceError,
    DeviceMissing,
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
from edge.realtime import lock_memory_and_freeze_gc, request_realtime_priority

SETTLE_S = 0.25
"""Left out when a rate is measured: cards start with a burst or a pause."""
START_LIMIT_S = 20.0
"""Interpreter, NumPy, SciPy and ALSA take several seconds to load from a slow card; what takes longer hangs."""
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
    """Some seconds of a microphone."""

    granted: str
    rate_hz: int
    measured_hz: float
    """By the monotonic clock; 0 if too little came to tell."""
    seconds: float
    xruns: int
    lanes: tuple[ChannelLevels, ...]
    lost: str
    """How the microphone was lost; empty if it was not."""


@dataclass(frozen=True)
class OutputProbe:
    """Some seconds of silence played."""

    granted: str
    rate_hz: int
    measured_hz: float
    """By the monotonic clock; 0 if the output has no clock or too little went to tell."""
    seconds: float
    xruns: int
    lost: str


@dataclass(frozen=True)
class ProbeFailure:
    """Why something could not be tried: ``kind`` is "busy", "missing", "refused", "hangs" or "died"."""

    kind: str
    text: str


class _Tap:
    """A ``Pcm`` that lets everything through and keeps what passed, and when."""

    def __init__(self, pcm: Pcm, now: Callable[[], float]) -> None:
        self._pcm, self._now = pcm, now
        self.granted, self.clock = pcm.granted, pcm.clock
        self.heard: list[bytes] = []
        self.moved = 0
        """Frames read, or played out by the card."""
        self.moments: list[tuple[float, int]] = []
        """(seconds, ``moved``) whenever that changed."""
        self._written = 0

    def offer(self) -> Capabilities:
        return self._pcm.offer()

    def read(self) -> tuple[int, bytes]:
        frames, data = self._pcm.read()
        if frames > 0:
            self.heard.append(data)
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


class _Taps:
    """A door to ALSA that taps what goes through; ``last`` is the device that stayed open."""

    def __init__(self, opener: OpenPcm, now: Callable[[], float]) -> None:
        self._opener, self._now = opener, now
        self.last: _Tap

    def open(self, device: str, direction: Direction, terms: StreamParams) -> _Tap:
        self.last = _Tap(self._opener(device, direction, terms), self._now)
        return self.last


def listen(
    settings: CaptureConfig, seconds: float, opener: OpenPcm = open_pcm, now: Callable[[], float] = time.monotonic
) -> MicrophoneProbe:
    """Hear the microphone for so long, natively and on all its channels; raises DeviceError.

    The start, where the box mutes a settling microphone, does not count for the levels.
    """
    taps = _Taps(opener, now)
    capture = Capture(
        settings.device,
        channel=settings.channel,
        gain_db=settings.gain_db,
        mute_ms=settings.mute_ms,
        fade_ms=settings.fade_ms,
        period_ms=settings.period_ms,
        periods=settings.periods,
        open_pcm=taps.open,
    )
    hop = np.zeros(HOP_SAMPLES, np.float32)
    capture.open()
    tap, lost, began_s = taps.last, "", now()
    most_frames = 2 * seconds * tap.granted.rate_hz  # a source without a clock is as fast as we are
    try:
        while not lost and now() - began_s < seconds and tap.moved < most_frames:
            heard = capture.read(hop)
            if heard >= Event.STALLED:
                lost = LOST[heard]
    finally:
        capture.close()
    skip = round(tap.granted.rate_hz * min((settings.mute_ms + settings.fade_ms) / 1000, seconds / 4))
    return MicrophoneProbe(
        granted=capture.granted,
        rate_hz=tap.granted.rate_hz,
        measured_hz=round(tap.measured_hz(), 1),
        seconds=round(tap.moved / tap.granted.rate_hz, 2),
        xruns=capture.xruns,
        lanes=_lanes(b"".join(tap.heard), tap.granted, skip),
        lost=lost,
    )


def _lanes(data: bytes, terms: StreamParams, skip: int) -> tuple[ChannelLevels, ...]:
    """Every channel of what was heard, from frame ``skip`` on; none if there is nothing after it."""
    lanes = []
    for channel in range(terms.channels):
        frame_bytes = Decoder(terms.sample_format, terms.channels, channel, 1).frame_bytes
        rest = data[skip * frame_bytes :]
        frames = len(rest) // frame_bytes
        if not frames:
            return ()
        decoder = Decoder(terms.sample_format, terms.channels, channel, frames)
        lanes.append(_lane(decoder.decode(rest), decoder, terms.rate_hz))
    return tuple(lanes)


def _lane(samples: Floats, decoder: Decoder, rate_hz: int) -> ChannelLevels:
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


def play(
    settings: PlaybackConfig,
    seconds: float,
    opener: OpenPcm = open_pcm,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> OutputProbe:
    """Play silence for so long, a hop every 5 ms; raises DeviceError."""
    taps = _Taps(opener, now)
    playback = Playback(
        settings.device,
        queue_ms=settings.queue_ms,
        period_ms=settings.period_ms,
        periods=settings.periods,
        same_clock=True,
        open_pcm=taps.open,
    )
    silence = np.zeros(HOP_SAMPLES, np.float32)
    playback.open()
    tap, lost, began_s = taps.last, "", now()
    clockless = "clockless" in playback.granted
    try:
        for hops in itertools.count(1):
            if lost or now() - began_s >= seconds:
                break
            met = playback.write(silence)
            if met >= Event.STALLED:
                lost = LOST_OUTPUT[met]
            tap.look()
            sleep(max(0.0, began_s + hops * HOP_MS / 1000 - now()))
    finally:
        playback.close()
    return OutputProbe(
        granted=playback.granted,
        rate_hz=tap.granted.rate_hz,
        measured_hz=0.0 if clockless else round(tap.measured_hz(), 1),
        seconds=round(now() - began_s, 2),
        xruns=playback.xruns,
        lost=lost,
    )


# In a process of its own.


def microphone_in_child(settings: CaptureConfig, seconds: float) -> MicrophoneProbe | ProbeFailure:
    """``listen``, whatever the driver does."""
    told = run_in_child("listen", {"settings": dataclasses.asdict(settings), "seconds": seconds}, seconds)
    if isinstance(told, ProbeFailure):
        return told
    return MicrophoneProbe(**{**told, "lanes": tuple(ChannelLevels(**lane) for lane in told["lanes"])})


def output_in_child(settings: PlaybackConfig, seconds: float) -> OutputProbe | ProbeFailure:
    """``play``, whatever the driver does."""
    told = run_in_child("play", {"settings": dataclasses.asdict(settings), "seconds": seconds}, seconds)
    return told if isinstance(told, ProbeFailure) else OutputProbe(**told)


def mixer_in_child(clock: str) -> list[Level] | ProbeFailure:
    """What the mixer of an output is at (``clock`` as ``Pcm.clock``); empty if it has none. Nothing is changed."""
    told = run_in_child("mixer", {"clock": clock})
    if isinstance(told, ProbeFailure):
        return told
    return [Level(**{**row, "range_db": tuple(row["range_db"]) if row["range_db"] else None}) for row in told]


def run_in_child(order: str, words: dict[str, Any], seconds: float = 0.0, limit_s: float = START_LIMIT_S) -> Any:
    """Carry out one of ``ORDERS`` in a new process: its answer, or ProbeFailure. Takes at most a little longer than
    ``seconds`` and ``limit_s`` together, even if the process cannot be killed.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from edge.tools import device_probe; device_probe.obey()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, order, json.dumps(words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        said, _ = child.communicate(timeout=seconds + limit_s)
    except subprocess.TimeoutExpired:
        return ProbeFailure("hangs", f"gave no answer within {seconds + limit_s:.0f} s")
    finally:
        _end(child)
    try:
        answer = json.loads(said.decode(errors="replace").splitlines()[-1])
    except (ValueError, IndexError):
        how = f"ended by signal {-child.returncode}" if child.returncode < 0 else "ended without an answer"
        return ProbeFailure("died", f"the device probe {how}")
    return ProbeFailure(**answer["trouble"]) if "trouble" in answer else answer["told"]


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Kill it; a process that a driver holds in the kernel is left behind rather than waited for."""
    if child.poll() is None:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1)
    if child.stdout:
        child.stdout.close()


def obey() -> None:
    """What the child does: the order and its words come as arguments, the answer goes out as the last line."""
    try:
        answer = {"told": ORDERS[sys.argv[1]](json.loads(sys.argv[2]))}
    except DeviceError as error:
        kind = {DeviceBusy: "busy", DeviceMissing: "missing"}.get(type(error), "refused")
        answer = {"trouble": {"kind": kind, "text": str(error)}}
    except Exception as fault:
        text = f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
        answer = {"trouble": {"kind": "died", "text": text}}
    print("\n" + json.dumps(answer), flush=True)
    os._exit(0)  # threads of a sound library may not want to end


def _hurry(words: dict[str, Any]) -> list[str]:
    return [*lock_memory_and_freeze_gc(), *request_realtime_priority(words["priority"])]


def _time_engines(words: dict[str, Any]) -> dict[str, Any]:
    """Every engine as the box would run it: the name of the configured one, its notes, microseconds of each."""
    from edge.suppress import open_engine
    from edge.tools import bench

    settings = SuppressConfig(**words["suppress"])
    if settings.engine == "remote":  # what fills in for it is what this machine has to bear
        settings = dataclasses.replace(settings, engine="auto")
    engine = open_engine(settings.engine, settings.limit_db, settings.model)
    request_realtime_priority(words["priority"])
    rows = bench.bench_engines(Config(suppress=settings), words["seconds"])
    times = {row.name.removeprefix("whole chain, "): dataclasses.asdict(row) for row in rows}
    return {"engine": engine.name, "notes": engine.notes, "times": times}


def _listen(words: dict[str, Any]) -> dict[str, Any]:
    request_realtime_priority(BoxConfig().priority)  # as the box; if it is refused, xruns tell
    return dataclasses.asdict(listen(CaptureConfig(**words["settings"]), words["seconds"]))


def _play(words: dict[str, Any]) -> dict[str, Any]:
    request_realtime_priority(BoxConfig().priority)
    return dataclasses.asdict(play(PlaybackConfig(**words["settings"]), words["seconds"]))


def _mixer(words: dict[str, Any]) -> list[dict[str, Any]]:
    mixer = alsa_mixer(words["clock"])
    return [dataclasses.asdict(level) for level in mixer.levels()] if mixer else []


ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "listen": _listen,
    "play": _play,
    "realtime": _hurry,
    "engines": _time_engines,
    "mixer": _mixer,
}

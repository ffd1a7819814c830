"""`quietbox serve`: the noise suppressor of another program, over the published two-process wire format.

A program, say an audio engine in C++, pushes noisy chunks to one port and pulls clean ones from another: raw
little-endian float32, any number of samples, nothing else, and for each chunk in the same number of samples out, in
order. The sound is late by a constant number of samples (the first chunks begin with so much silence); that is what
makes an answer possible at once, whatever the rate and the length of chunks. What passes is at most 8 kHz wide.

As in that system only the noise is taken out: no high-pass, gate or limiter, which the other program has itself. With
``whole`` the sound walks the box's whole chain.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ, keys
from edge.boxes import Boxes, short
from edge.chain import Chain
from edge.config import BridgeConfig, Config
from edge.realtime import SWITCH_INTERVAL_S, hurry_thread
from edge.spectrum import Floats
from edge.suppress.adapter import Blocks
from edge.wire import sound

QUEUE_CHUNKS = 8
"""Chunks that wait to be cleaned, and clean ones that wait to be fetched; beyond that the oldest is dropped."""
ROUND = 64
"""Chunks looked at before one is cleaned: a flood must not keep us from working."""
PIECE_SAMPLES = 4096
"""Longer chunks are treated in pieces."""
MOST_BYTES = 1 << 24
"""A longer message breaks the connection: 95 s at 44.1 kHz are no chunk."""
BUFFER_BYTES = 1 << 16
"""What the kernel may hold for a program that does not fetch its sound."""
LOOK_MS = 200
SAMPLE_BYTES = 4

Say = Callable[[str], None]


@dataclass
class Counts:
    """Chunks since the start."""

    received: int = 0
    sent: int = 0
    dropped_in: int = 0
    """Came faster than they could be cleaned."""
    dropped_out: int = 0
    """Were not fetched."""
    refused: int = 0
    """Not a multiple of four bytes, or samples that are no sound: NaN, Inf, 40 dB above full scale."""

    def __str__(self) -> str:
        dropped = f"{self.dropped_in + self.dropped_out} dropped"
        return f"{self.received} chunks in, {self.sent} out, {dropped}, {self.refused} refused"


class Stream:
    """Chunks of any length and rate through the suppressor: as many samples out as in, ``delay_samples`` late."""

    def __init__(self, config: Config, rate_hz: int, whole: bool = False) -> None:
        """``whole``: through the whole chain and not the suppressor alone."""
        chain = Chain(config)
        self.engine = chain.engine
        self._work: Any = chain if whole else chain.engine
        delay = int(self._work.delay_samples)
        self._blocks = Blocks(
            self._work.process,
            RATE_HZ,
            HOP_SAMPLES,
            delay,
            outer_hz=rate_hz,
            grain_samples=1,
            most_samples=PIECE_SAMPLES,
        )
        self.delay_samples = self._blocks.delay_samples

    def process(self, chunk: Floats) -> None:
        """float32, any number of samples, in place."""
        for start in range(0, len(chunk), PIECE_SAMPLES):
            self._blocks.process(chunk[start : start + PIECE_SAMPLES])

    def reset(self) -> None:
        """Forget the signal."""
        self._work.reset()
        self._blocks.reset()


class Bridge:
    """The two sockets, and a stream between them."""

    def __init__(self, settings: BridgeConfig, stream: Stream, say: Say) -> None:
        """Opens both ports; raises UserError."""
        zmq = self._zmq = keys.zeromq()
        self.counts = Counts()
        self._stream = stream
        self._say = say
        self._noisy: deque[Floats] = deque(maxlen=QUEUE_CHUNKS)
        self._clean: deque[bytes] = deque(maxlen=QUEUE_CHUNKS)
        self._programs = 0
        self._context: Any = zmq.Context()
        try:
            self._pull = self._open(zmq.PULL, settings.host, settings.noisy_port, "noisy_port")
            self._push = self._open(zmq.PUSH, settings.host, settings.clean_port, "clean_port")
        except BaseException:
            self._context.destroy(linger=0)
            raise
        changes = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        self._senders = self._pull.get_monitor_socket(changes)
        self._fetchers = self._push.get_monitor_socket(changes)

    def _open(self, kind: int, host: str, port: int, setting: str) -> Any:
        zmq = self._zmq
        way = self._context.socket(kind)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, QUEUE_CHUNKS),
            (zmq.RCVHWM, QUEUE_CHUNKS),
            (zmq.SNDBUF, BUFFER_BYTES),
            (zmq.MAXMSGSIZE, MOST_BYTES),
            (zmq.IPV6, int(":" in host)),
        ):
            way.setsockopt(option, value)
        keys.bind(way, host, port, setting)
        return way

    def serve(self, stop: threading.Event) -> None:
        """Until told to stop."""
        zmq = self._zmq
        poller = zmq.Poller()
        for way in (self._pull, self._senders, self._fetchers):
            poller.register(way, zmq.POLLIN)
        try:
            while not stop.is_set():
                if self._clean:
                    poller.register(self._push, zmq.POLLOUT)
                elif self._push in poller:
                    poller.unregister(self._push)
                ready = dict(poller.poll(0 if self._noisy else LOOK_MS))
                if self._fetchers in ready:
                    self._watch_fetchers()
                if self._senders in ready:
                    self._watch_senders()
                if self._pull in ready:
                    self._receive()
                if self._noisy:
                    self._treat(self._noisy.popleft())
                self._send()
        finally:
            for way in (self._pull, self._push):
                way.disable_monitor()
            self._context.destroy(linger=0)

    def _receive(self) -> None:
        """Everything that has come, up to a bound; the oldest chunks give way."""
        for _ in range(ROUND):
            try:
                frames = self._pull.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return
            self.counts.received += 1
            whole = len(frames) == 1 and len(frames[0]) % SAMPLE_BYTES == 0
            chunk = np.frombuffer(frames[0], "<f4").astype(np.float32) if whole else None
            if chunk is None or not sound(chunk):
                self.counts.refused += 1
                if self.counts.refused == 1:
                    self._say("refused a chunk: not a multiple of 4 bytes, or no sound; further ones are only counted")
                continue
            self.counts.dropped_in += len(self._noisy) == QUEUE_CHUNKS
            self._noisy.append(chunk)

    def _treat(self, chunk: Floats) -> None:
        self._stream.process(chunk)
        engine = self._stream.engine
        if engine.failure is not None:
            failure, engine.failure = engine.failure, None
            self._say(f"an engine failed ({short(failure)}); {engine.name} goes on")
        self.counts.dropped_out += len(self._clean) == QUEUE_CHUNKS
        self._clean.append(chunk.astype("<f4").tobytes())

    def _send(self) -> None:
        """As much as the program fetches."""
        while self._clean:
            try:
                self._push.send(self._clean[0], self._zmq.NOBLOCK)
            except self._zmq.Again:
                return
            self._clean.popleft()
            self.counts.sent += 1

    def _watch_senders(self) -> None:
        """A program that comes back begins a new sound: nothing of the old one may reach it."""
        for event in self._events(self._senders):
            if event == self._zmq.EVENT_DISCONNECTED:
                self._programs = max(0, self._programs - 1)
                self._receive()
                self._noisy.clear()
                self._clean.clear()
                self._stream.reset()
                self._say(f"the program has gone: {self.counts}")
            else:
                self._programs += 1
                more = (
                    "" if self._programs < 2 else ", and another is there: their sounds mix, the format knows but one"
                )
                self._say(f"a program has come{more}")

    def _watch_fetchers(self) -> None:
        for event in self._events(self._fetchers):
            if event == self._zmq.EVENT_DISCONNECTED:
                self._clean.clear()

    def _events(self, monitor: Any) -> list[int]:
        from zmq.utils.monitor import parse_monitor_message

        found = []
        while monitor.poll(0):
            found.append(int(parse_monitor_message(monitor.recv_multipart())["event"]))
        return found


def serve(config: Config, say: Say, stop: threading.Event, whole: bool = False) -> Counts:
    """For programs, until told to stop; raises UserError."""
    settings = config.bridge
    keys.zeromq()  # before the engine, which takes longer to open
    _hurry(config, say)
    stream = Stream(config, settings.rate_hz, whole)
    for note in stream.engine.notes:
        say(note)
    bridge = Bridge(settings, stream, say)
    late_ms = 1000 * stream.delay_samples / settings.rate_hz
    host = settings.host
    say(
        f"{stream.engine.name} waits for noisy chunks at {keys.endpoint(host, settings.noisy_port)} and gives clean "
        f"ones at {keys.endpoint(host, settings.clean_port)}: {settings.rate_hz} Hz, "
        f"{stream.delay_samples} samples ({late_ms:.1f} ms) late"
    )
    if not keys.stays_here(host):
        say(f"whoever reaches {host} can listen and send: this wire format knows neither encryption nor names")
    bridge.serve(stop)
    say(f"ends: {bridge.counts}")
    return bridge.counts


def serve_boxes(config: Config, say: Say, stop: threading.Event) -> None:
    """For boxes, until told to stop; raises UserError."""
    # How much of the noise stays is each box's own setting; taken twice, the limit would be lower than either.
    unlimited = replace(config, suppress=replace(config.suppress, limit_db=100.0))
    _hurry(config, say)
    served = Boxes(config.bridge, lambda: Chain(unlimited).engine, say)
    secured = "with keys" if served.door else "without keys: from this machine only"
    say(f"waits for boxes at {keys.endpoint(config.bridge.host, config.bridge.boxes_port)}, {secured}")
    served.serve(stop)
    say("ends")


def _hurry(config: Config, say: Say) -> None:
    """Before any other thread begins: they inherit it, ZeroMQ's own too. And no thread keeps the others waiting."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for refusal in hurry_thread(config.box.priority):
        say(refusal)

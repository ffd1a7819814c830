"""`quietbox serve`: the noise suppressor of another program, over the published two-process wire format.

A program, say an audio engine in C++, pushes noisy chunks to one port and pulls clean ones from another: raw
little-endian float32, any number of samples, nothing else, and for each chunk in the same number of samples out, in
order. The sound is late by a constant number of samples (the first chunks begin with so much silence); that is what
makes an answer possible at once, whatever the rate and the length of chunks. What passes is at most 8 kHz wide.

As in that system only the noise is taken out: no high-pass, gate or limiter, which the other program has itself. With
``whole`` the sound passes the box's whole chain.

The format knows neither names nor encryption, so whoever can connect can speak. The stream belongs to the program that
sends first, until it goes or is silent for ``HOLD_S`` while another one sends; what others send meanwhile is refused.
Clean chunks go to everybody who fetches, so that nobody takes them from the program. ``edge.net.transport`` has the
bounds.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ, UserError
from edge.chain import Chain
from edge.config import BridgeConfig, Config
from edge.console import describe
from edge.dsp.peak import PeakLimiter
from edge.dsp.spectrum import Floats
from edge.net import keys
from edge.net.budget import Budget
from edge.net.connection import Connection
from edge.net.log_limit import LogLimit
from edge.net.transport import Limits, Listener, Loop, endpoint
from edge.net.wire import is_audio
from edge.net.zmtp import Null, Peer
from edge.realtime import SWITCH_INTERVAL_S, request_realtime_priority
from edge.serve.box_server import BoxServer
from edge.suppress.blocks import Blocks

QUEUE_CHUNKS = 8
"""Chunks that wait to be cleaned, and clean ones that wait to be fetched; beyond that the oldest is dropped."""
PIECE_SAMPLES = 4096
"""Longer chunks are treated in pieces."""
MOST_BYTES = 1 << 22
"""A longer message breaks the connection: 24 s at 44.1 kHz are no chunk. No queue holds more than this, either, unless
it is a single chunk."""
MOST_PROGRAMS = 4
"""Connections at a time, in each direction."""
HOLD_S = 2.0
"""The stream goes over to another program that sends when the one that has it was silent for so long."""
OTHER_BYTES_PER_S, OTHER_BYTES_AT_ONCE = 400_000.0, 65_536.0
"""What is read, and thrown away, of a program that does not have the stream: enough to see that it sends."""
NEW_BYTES_PER_S = 8e6
"""What is read of each program while none has the stream; a second for the longest chunk there may be."""
BUFFER_BYTES = 1 << 16
"""What the kernel may hold for a program that does not fetch its sound."""
POLL_MS = 200
SAMPLE_BYTES = 4

Log = Callable[[str], None]


@dataclass
class Counts:
    """Chunks since the start."""

    received: int = 0
    sent: int = 0
    dropped_in: int = 0
    """Received faster than they could be processed."""
    dropped_out: int = 0
    """Were not fetched."""
    refused: int = 0
    """Not a multiple of four bytes, or invalid samples: NaN, infinite, 40 dB above full scale."""

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
        # The chain's limiter holds the peak at its own rate only; the suppressor alone has no peak to hold.
        converted = whole and rate_hz != RATE_HZ
        self._peak = PeakLimiter(rate_hz, PIECE_SAMPLES, config.limiter.peak_dbfs) if converted else None
        self.delay_samples = self._blocks.delay_samples + (self._peak.delay_samples if self._peak else 0)

    def process(self, chunk: Floats) -> None:
        """float32, any number of samples, in place."""
        for start in range(0, len(chunk), PIECE_SAMPLES):
            piece = chunk[start : start + PIECE_SAMPLES]
            self._blocks.process(piece)
            if self._peak:
                self._peak.process(piece)

    def reset(self) -> None:
        """Forget the signal."""
        self._work.reset()
        self._blocks.reset()
        if self._peak:
            self._peak.reset()


class Bridge:
    """The two ports, and a stream between them."""

    def __init__(self, settings: BridgeConfig, stream: Stream, log: Log) -> None:
        """Opens both ports; raises UserError."""
        self.counts = Counts()
        self._stream = stream
        self._log = LogLimit(log)
        self._noisy: deque[Floats] = deque()
        self._clean: deque[bytes] = deque()
        """What waits for the first that fetches."""
        self._holder: Connection | None = None  # whose stream it is
        self._holder_spoke_s = 0.0
        limits = Limits(MOST_PROGRAMS, QUEUE_CHUNKS, queue_bytes=MOST_BYTES, send_buffer_bytes=BUFFER_BYTES)
        host = settings.host
        self._senders = Listener(
            host, settings.noisy_port, "noisy_port", lambda: Peer(Null(b"PULL"), (b"PUSH",), MOST_BYTES), limits
        )
        try:
            self._fetchers = Listener(
                host, settings.clean_port, "clean_port", lambda: Peer(Null(b"PUSH"), (b"PULL",), 0), limits
            )
        except UserError:
            self._senders.socket.close()
            raise
        self._senders.budget = lambda: self._other_budget() if self._holder else self._new_budget()
        self._senders.on_open, self._senders.on_close = self._come, self._leave
        self._senders.on_message = self._receive
        self._senders.expendable = self._most_silent
        self._fetchers.budget = self._other_budget
        self._fetchers.expendable = lambda: next((one for one in self._fetchers.peers if one.stuck), None)
        self._fetchers.on_open = self._fetch
        self._fetchers.on_close = lambda *_: self._count_fetched()
        self._loop = Loop(self._senders, self._fetchers)

    def _most_silent(self) -> Connection:
        """The program, of those without the stream, that has been silent longest."""
        return min((one for one in self._senders.peers if one is not self._holder), key=lambda one: one.heard_s)

    def _other_budget(self) -> Budget:
        return Budget(OTHER_BYTES_PER_S, OTHER_BYTES_AT_ONCE)

    def _new_budget(self) -> Budget:
        return Budget(NEW_BYTES_PER_S, NEW_BYTES_PER_S)

    def serve(self, stop: threading.Event) -> None:
        """Until ``stop`` is set."""
        try:
            while not stop.is_set():
                self._loop.turn(0 if self._noisy else POLL_MS / 1000)
                self._count_parts()
                if self._noisy:
                    self._process(self._noisy.popleft())
                self._count_fetched()
        finally:
            self._loop.close()

    def _come(self, connection: Connection) -> None:
        """A program's handshake is complete."""
        another = len(self._senders.peers) > 1
        more = "while another is connected: the one that sends first owns the stream, the other's chunks are refused"
        self._log(f"a program has connected{more if another else ''}")

    def _receive(self, connection: Connection, message: bytes) -> None:
        """Queue a chunk that was received; when the queue is full the oldest is dropped."""
        self.counts.received += 1
        chunk = np.frombuffer(message, "<f4").astype(np.float32) if len(message) % SAMPLE_BYTES == 0 else None
        if chunk is None or not is_audio(chunk):
            self._refuse("not a multiple of 4 bytes, or samples that are NaN, infinite or too large")
        elif not self._holds(connection):
            self._refuse("another program owns the stream")
        else:
            self._holder_spoke_s = time.monotonic()
            self.counts.dropped_in += _append(self._noisy, chunk, SAMPLE_BYTES)

    def _holds(self, connection: Connection) -> bool:
        """Whether the stream is this program's, from now on if it was nobody's."""
        if self._holder is connection:
            return True
        if self._holder and time.monotonic() - self._holder_spoke_s < HOLD_S:
            return False
        if self._holder:
            self._reset()
            self._log("the program that owned the stream stopped sending; another one owns it now")
        self._holder = connection
        for one in self._senders.peers:
            one.budget = None if one is connection else self._other_budget()
        return True

    def _refuse(self, why: str) -> None:
        self.counts.refused += 1
        if self.counts.refused == 1:
            self._log(f"refused a chunk: {why}; later ones are only counted")

    def _count_parts(self) -> None:
        """Chunks of several parts were thrown away as they came."""
        for one in self._senders.peers:
            refused, one.peer.refused = one.peer.refused, 0
            for _ in range(refused):
                self.counts.received += 1
                self._refuse("it has several parts")

    def _count_fetched(self) -> None:
        for one in self._fetchers.peers:
            self.counts.sent += one.sent
            self.counts.dropped_out += one.dropped
            one.sent = one.dropped = 0

    def _reset(self) -> None:
        """A program that comes begins a new sound: nothing of the old one may reach it."""
        self._holder = None
        self._noisy.clear()
        self._clean.clear()
        for one in self._fetchers.peers:
            one.forget()
        self._stream.reset()

    def _leave(self, connection: Connection, why: str) -> None:
        """A program has gone; the sound ends only if it was its."""
        self._count_parts()
        if self._holder is connection:
            self._reset()
            for one in self._senders.peers:
                one.budget = self._new_budget()
            self._log(f"the program has disconnected: {self.counts}{f' (it {why})' if why else ''}")
        else:
            self._log(f"a program that did not own the stream has disconnected: {self.counts}")

    def _process(self, chunk: Floats) -> None:
        self._stream.process(chunk)
        engine = self._stream.engine
        if engine.failure is not None:
            failure, engine.failure = engine.failure, None
            self._log(f"an engine failed ({describe(failure)}); {engine.name} takes over")
        clean = chunk.astype("<f4").tobytes()
        if not self._fetchers.peers:
            self.counts.dropped_out += _append(self._clean, clean, 1)
        for one in [*self._fetchers.peers]:
            self._give(one, clean)

    def _give(self, connection: Connection, clean: bytes) -> None:
        """A clean chunk to one that fetches, as far as it does."""
        connection.send(clean)
        self._loop.flush(self._fetchers, connection)

    def _fetch(self, connection: Connection) -> None:
        """A program fetches: it gets what has waited."""
        while self._clean:
            self._give(connection, self._clean.popleft())


def _append(queue: "deque[Any]", chunk: Floats | bytes, item_bytes: int) -> int:
    """Put a chunk into a queue that is bounded by number and bytes; returns how many old ones were dropped."""
    queue.append(chunk)
    dropped = 0
    while len(queue) > QUEUE_CHUNKS or (len(queue) > 1 and sum(map(len, queue)) * item_bytes > MOST_BYTES):
        queue.popleft()
        dropped += 1
    return dropped


def serve(config: Config, log: Log, stop: threading.Event, whole: bool = False) -> Counts:
    """Serve programs until ``stop`` is set; raises UserError."""
    settings = config.bridge
    _prepare_realtime(config, log)
    stream = Stream(config, settings.rate_hz, whole)
    for note in stream.engine.notes:
        log(note)
    bridge = Bridge(settings, stream, log)
    late_ms = 1000 * stream.delay_samples / settings.rate_hz
    host = settings.host
    log(
        f"{stream.engine.name} receives noisy chunks at {endpoint(host, settings.noisy_port)} and sends clean ones at "
        f"{endpoint(host, settings.clean_port)}: {settings.rate_hz} Hz, "
        f"{stream.delay_samples} samples ({late_ms:.1f} ms) late"
    )
    if not keys.is_loopback(host):
        log(
            f"anybody who can reach {host} can listen and send: this protocol has neither encryption nor authentication"
        )
    bridge.serve(stop)
    log(f"stopped: {bridge.counts}")
    return bridge.counts


def serve_boxes(config: Config, log: Log, stop: threading.Event) -> None:
    """Serve boxes until ``stop`` is set; raises UserError."""
    # How much of the noise stays is each box's own setting; taken twice, the limit would be lower than either.
    unlimited = replace(config, suppress=replace(config.suppress, limit_db=100.0))
    _prepare_realtime(config, log)
    served = BoxServer(config.bridge, lambda: Chain(unlimited).engine, log)
    secured = "with keys" if served.allowed else "without keys: from this machine only"
    log(f"serves boxes at {endpoint(config.bridge.host, config.bridge.boxes_port)}, {secured}")
    served.serve(stop)
    log("stopped")


def _prepare_realtime(config: Config, log: Log) -> None:
    """Before any other thread begins: threads inherit the priority. Also shortens Python's switch interval."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for refusal in request_realtime_priority(config.box.priority):
        log(refusal)

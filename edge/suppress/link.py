"""The way to the machine of ``remote`` and back: a thread with a socket, between two bounded queues.

The audio thread puts hops into one queue and takes answers from the other, and never waits; everything that the
network may do to a socket happens in here.
"""

import errno
import os
import socket
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ, UserError, keys
from edge.config import RemoteConfig
from edge.realtime import hurry_thread
from edge.spectrum import Floats
from edge.wire import MOST_BYTES, Kind, Message, pack, unpack

QUEUE_HOPS = 64
"""Hops on their way to the link's thread, and answers on their way back; the oldest give way."""
LEAST_ROOM_MS = 5.0
"""Less time than this for network and engine is hopeless."""
HELLO_S, GONE_S = 0.5, 2.0
"""The link asks so often whether the machine is there, and gives it up after so long without a word."""
QUIET_S = 30.0
"""Between two things said: a machine that is late again and again would fill the journal."""
PATIENCE_S = 3.0
"""Nothing is said of the machine's silence for so long after the start."""
CLOSED = (errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES, errno.ENETUNREACH)
"""How systemd's sandbox answers, and a network namespace with nothing in it."""
DROP_IN = "the service has no network until you install hw/quietbox-remote.conf, its first lines say how"


@dataclass
class Tally:
    """Totals since the engine was opened; the audio thread and the link each add to their own."""

    answered: int = 0
    """Hops that were heard from the machine."""
    filled: int = 0
    """Hops that our own network filled."""
    switches: int = 0
    """Changes between the two, each way."""
    late: int = 0
    """Answers that came after their time."""
    lost: int = 0
    """Hops sent that were never answered, or later than 1.3 s."""
    refused: int = 0
    """Messages that made no sense."""


class Link(threading.Thread):
    """Connects, asks whether the machine is there, carries hops and answers, and says what has changed."""

    def __init__(self, settings: RemoteConfig, priority: int = 0) -> None:
        """Raises UserError; connects once it is started, with SCHED_FIFO at ``priority`` if that is granted."""
        super().__init__(name="remote", daemon=True)
        self._priority = priority
        self._zmq: Any = keys.zeromq()
        self._host, self._port = keys.host_and_port(settings.server, "[remote] server")
        self._where = settings.server
        self._keys = _curve(settings, self._host)
        self.delay_samples = round(settings.budget_ms * RATE_HZ / 1000) - HOP_SAMPLES
        self.answers: deque[Message] = deque(maxlen=QUEUE_HOPS)
        self.news: deque[str] = deque(maxlen=16)
        self.tally = Tally()
        self.heard = False
        """Whether the engine plays what comes; it says so."""
        self._hops: deque[bytes] = deque(maxlen=QUEUE_HOPS)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._wake)
        self._ending = False
        self._open = False  # whether the machine takes hops
        self._refusal = ""
        self._engine = ""
        self._said = ""
        self._quiet_until_s = 0.0
        self._filled_before = 0

    # The audio thread's side.

    def send(self, epoch: int, seq: int, hop: Floats) -> bool:
        """Leave a hop to be sent; False if the machine takes none just now. Never blocks."""
        if not self._open:
            return False
        self._hops.append(pack(Kind.HOP, epoch, seq, 0, hop.astype("<f4").tobytes()))
        os.eventfd_write(self._wake, 1)
        return True

    def stop(self) -> None:
        """End the thread soon."""
        self._open, self._ending = False, True

    # The thread.

    def run(self) -> None:
        hurry_thread(self._priority)  # before ZeroMQ's own thread begins, which inherits it
        zmq = self._zmq
        context = zmq.Context()
        way = context.socket(zmq.DEALER)
        ears = way.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        try:
            self._connect(way)
            poller = zmq.Poller()
            for what in (way, ears, self._wake):
                poller.register(what, zmq.POLLIN)
            self._converse(way, ears, poller)
        except (zmq.ZMQError, OSError) as error:
            self.news.append(f"remote: {self._where} cannot be used ({error}); our own network goes on")
        finally:
            self._open = False
            way.disable_monitor()
            context.destroy(linger=0)

    def _connect(self, way: Any) -> None:
        zmq = self._zmq
        for option, value in (
            (zmq.IDENTITY, b"q" + os.urandom(8)),
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),  # nothing waits for a connection that is not there
            (zmq.SNDHWM, QUEUE_HOPS),
            (zmq.RCVHWM, QUEUE_HOPS),
            (zmq.MAXMSGSIZE, MOST_BYTES),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 2000),
            (zmq.HEARTBEAT_IVL, 1000),
            (zmq.HEARTBEAT_TIMEOUT, 3000),
            (zmq.IPV6, int(":" in self._host)),
        ):
            way.setsockopt(option, value)
        if self._keys:
            server, secret = self._keys
            way.curve_serverkey, way.curve_secretkey = server, secret
            way.curve_publickey = keys.public(secret).encode()
        way.connect(keys.endpoint(self._host, self._port))

    def _converse(self, way: Any, ears: Any, poller: Any) -> None:
        """Until stopped; what the network throws is said and tried again."""
        began = heard_s = time.monotonic()
        next_s = 0.0
        while not self._ending:
            ready = dict(poller.poll(100))
            now_s = time.monotonic()
            if self._wake in ready:
                os.eventfd_read(self._wake)
                self._send_all(way)
            if way in ready and self._receive_all(way):
                heard_s = now_s
            if ears in ready:
                ears.recv_multipart()
                self._refusal = "it does not let this box's key in"
            if now_s >= next_s:
                next_s = now_s + HELLO_S
                self._put(way, pack(Kind.HELLO))
                if now_s - heard_s > GONE_S:
                    self._open = False
                if now_s - began > PATIENCE_S or self.heard:
                    self._tell()

    def _send_all(self, way: Any) -> None:
        while self._hops:
            self._put(way, self._hops.popleft())

    def _put(self, way: Any, frame: bytes) -> None:
        try:
            way.send(frame, self._zmq.NOBLOCK)
        except self._zmq.Again:  # no connection, or one that is stuck: a hop that waits is a hop too late
            return

    def _receive_all(self, way: Any) -> bool:
        """Whether anything of sense came."""
        sense = False
        while True:
            try:
                frames = way.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return sense
            message = unpack(frames[0]) if len(frames) == 1 else None
            if message is None:
                self.tally.refused += 1
                continue
            sense = True
            if message.kind is Kind.CLEAN:
                self.answers.append(message)
            elif message.kind is Kind.WELCOME:
                self._meet(message)
            elif message.kind is Kind.FULL:
                self._open = False
                self._refusal = "it serves as many boxes as it may"

    def _meet(self, welcome: Message) -> None:
        """Whether its engine leaves any time for the way."""
        self._engine = welcome.body.decode(errors="replace")[:40]
        room_ms = (self.delay_samples - welcome.delay_samples - HOP_SAMPLES) * 1000 / RATE_HZ
        need_ms = welcome.delay_samples * 1000 / RATE_HZ + 2 * HOP_MS + LEAST_ROOM_MS
        self._refusal = ""
        if room_ms < LEAST_ROOM_MS:
            self._refusal = f"its engine {self._engine} needs a [remote] budget_ms of {need_ms:.0f} or more"
        self._open = not self._refusal

    def _tell(self) -> None:
        """What has changed between this box and the machine, now and then."""
        now_s = time.monotonic()
        idle = self.tally.filled == self._filled_before
        self._filled_before = self.tally.filled
        if now_s < self._quiet_until_s or (idle and self._open and not self.heard):
            return
        if self.heard:
            now = f"{self._engine} on {self._where} is heard"
        elif self._open:
            now = f"the answers of {self._where} come too late or not at all; our own network goes on"
        else:
            why = self._refusal or self._unreachable() or "is `quietbox serve --boxes` running, are the keys right?"
            now = f"{self._where} is no help ({why}); our own network goes on"
        if now != self._said:
            self._said, self._quiet_until_s = now, now_s + QUIET_S
            self.news.append(f"remote: {now}")

    def _unreachable(self) -> str:
        """Why nothing can be sent there, if the system says so; sends nothing."""
        try:
            kind, _, _, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
        except OSError:
            return f"there is no {self._host}"
        try:
            with socket.socket(kind, socket.SOCK_DGRAM) as probe:
                probe.connect(address)
        except OSError as error:
            return DROP_IN if error.errno in CLOSED and _is_service() else f"{error.strerror}"
        return ""


def _is_service() -> bool:
    """Whether systemd started us."""
    return "INVOCATION_ID" in os.environ


def _curve(settings: RemoteConfig, host: str) -> tuple[bytes, bytes] | None:
    """The machine's public key and our secret one; None where sound stays on this machine anyway. Raises UserError."""
    if settings.server_key == settings.key_file == "off":
        if keys.stays_here(host):
            return None
        raise UserError(
            f"[remote] server = {settings.server!r} is another machine: sound leaves this one only encrypted; "
            "`quietbox keys FILE` makes a key here and there, then set server_key and key_file"
        )
    for name in ("server_key", "key_file"):
        if getattr(settings, name) == "off":
            raise UserError(f"[remote] {name} is off and the other key is set; encryption needs both")
    server = keys.checked(settings.server_key, "[remote] server_key")
    return server, keys.read_secret(Path(settings.key_file))

"""The connection of ``remote`` to its server: a thread with a socket, between two bounded queues.

The audio thread puts hops into one queue and takes answers from the other, and never waits; everything that may block
happens in here. The server is trusted no further than its key: what it sends is read within a budget and never
collected (``edge.net.transport``, ``edge.net.zmtp``), so that it can cost this box neither memory nor more than a few
percent of its processor.
"""

import errno
import os
import select
import socket
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ, UserError
from edge.config import RemoteConfig
from edge.dsp.spectrum import Floats
from edge.net import keys
from edge.net.budget import Budget
from edge.net.connection import Connection, Gone
from edge.net.curve import UNKNOWN_KEY, CurveClient, sodium
from edge.net.log_limit import printable
from edge.net.wire import BYTES_AT_ONCE, BYTES_PER_S, MOST_BYTES, Kind, Message, pack, unpack
from edge.net.zmtp import Null, Peer, Refused
from edge.realtime import request_realtime_priority

QUEUE_HOPS = 64
"""Hops that wait for the link's thread, and answers that wait for the audio thread; the oldest are dropped."""
LEAST_ROOM_MS = 5.0
"""With less time than this for the network no answer would be in time."""
HELLO_S, GONE_S = 0.5, 2.0
"""Interval of the keep-alive messages, and the silence after which the server counts as gone."""
CONNECT_S, SILENCE_S = 3.0, 3.0
"""Time limits of connecting, handshake included, and of silence on an open connection; then it is closed."""
RETRY_S, RETRY_MOST_S = 0.1, 2.0
"""Pause before the next connection; doubled after each that failed, up to the second value."""
REPORT_S = 30.0
"""Least time between two reports: a server that is late again and again would fill the journal."""
GRACE_S = 3.0
"""The server's silence is not reported for so long after the start."""
CLOSED = (errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES, errno.ENETUNREACH)
"""Errors of systemd's sandbox, and of an empty network namespace."""
DROP_IN = (
    "the service has no network access until you install systemd/optional/quietbox-remote.conf; see its first lines"
)


@dataclass
class Tally:
    """Totals since the engine was opened; the audio thread and the link each add to their own."""

    answered: int = 0
    """Hops that the server cleaned."""
    filled: int = 0
    """Hops that our own network cleaned instead."""
    switches: int = 0
    """Changes between the two, in either direction."""
    late: int = 0
    """Answers that arrived too late."""
    lost: int = 0
    """Hops sent that were never answered, or later than 1.3 s."""
    refused: int = 0
    """Invalid messages."""


class Link(threading.Thread):
    """Connects, keeps the connection alive, carries hops and answers, and reports what has changed."""

    def __init__(self, settings: RemoteConfig, priority: int = 0) -> None:
        """Raises UserError; connects once it is started, with SCHED_FIFO at ``priority`` if that is granted."""
        super().__init__(name="remote", daemon=True)
        self._priority = priority
        self._host, self._port = keys.host_and_port(settings.server, "[remote] server")
        self._where = settings.server
        self._keys = _curve(settings, self._host)
        self.delay_samples = round(settings.budget_ms * RATE_HZ / 1000) - HOP_SAMPLES
        self.answers: deque[Message] = deque(maxlen=QUEUE_HOPS)
        self.news: deque[str] = deque(maxlen=16)
        self.tally = Tally()
        self.in_use = False
        """Whether the server's answers are the output; the engine sets it."""
        self._hops: deque[bytes] = deque(maxlen=QUEUE_HOPS)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._wake)
        self._ending = False
        self._open = False  # whether the server takes hops
        self._refusal = ""
        self._engine = ""
        self._reported = ""
        self._next_report_s = 0.0
        self._filled_before = 0

    # The audio thread's side.

    def send(self, epoch: int, seq: int, hop: Floats) -> bool:
        """Queue a hop; False if the server takes none just now. Never blocks."""
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
        request_realtime_priority(self._priority)
        self._began_s = time.monotonic()
        retry_s = RETRY_S
        while not self._ending:
            connection = None
            try:
                if connection := self._connected():
                    answered = self._converse(connection)
                    retry_s = RETRY_S if answered else min(2 * retry_s, RETRY_MOST_S)
            except Gone as end:
                self._refusal = self._why(end)
                retry_s = min(2 * retry_s, RETRY_MOST_S)
            except Exception as fault:  # the thread must not end while the engine counts on it
                self._refusal = f"unexpected fault, please report it: {printable(repr(fault))}"
                retry_s = RETRY_MOST_S
            finally:
                self._open = False
                if connection:
                    connection.close()
            self._rest(retry_s)

    def _rest(self, seconds: float) -> None:
        """Until the next try."""
        until_s = time.monotonic() + seconds
        while not self._ending and time.monotonic() < until_s:
            self._report_if_due()
            time.sleep(min(0.1, seconds))

    def _why(self, end: Gone) -> str:
        """Why the connection ended, for the user."""
        if isinstance(end.__cause__, Refused):
            known = str(end) == UNKNOWN_KEY.decode()
            return "it rejects this box's key" if known else f"it refuses: {printable(str(end))}"
        return f"its answer is invalid: {printable(str(end))}" if end.__cause__ else ""

    def _connected(self) -> Connection | None:
        """A connection whose handshake has begun; None if there is none to be had just now."""
        try:
            family, kind, _, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0]
            opened = socket.socket(family, kind)
        except OSError:
            self._refusal = ""
            return None
        try:
            opened.settimeout(CONNECT_S)
            opened.connect(address)
            mechanism = CurveClient(b"DEALER", self._keys[1], self._keys[0]) if self._keys else Null(b"DEALER")
            peer = Peer(mechanism, (b"ROUTER", b"DEALER"), MOST_BYTES)
            return Connection(opened, peer, QUEUE_HOPS, budget=Budget(BYTES_PER_S, BYTES_AT_ONCE))
        except OSError:
            opened.close()
            self._refusal = ""
            return None

    def _converse(self, connection: Connection) -> bool:
        """Runs until stopped, or until the connection has failed: whether it brought any valid message. Raises Gone."""
        answered_s = time.monotonic()
        next_s = 0.0
        answered = False
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        self._hops.clear()
        while not self._ending:
            reads = select.POLLIN if connection.may_read else 0
            poller.register(connection.socket, reads | (select.POLLOUT if connection.has_output else 0))
            for descriptor, events in poller.poll(100 if reads else 10):
                if descriptor == self._wake:
                    os.eventfd_read(self._wake)
                elif events & (select.POLLIN | select.POLLHUP | select.POLLERR) and self._receive_all(connection):
                    answered_s, answered = time.monotonic(), True
            now_s = time.monotonic()
            ready = connection.peer.ready
            if now_s - connection.alive_s > SILENCE_S or not (ready or now_s - connection.opened_s < CONNECT_S):
                return answered
            if ready and now_s >= next_s:
                next_s = now_s + HELLO_S
                connection.send(pack(Kind.HELLO))
                connection.peer.ping()
                if now_s - answered_s > GONE_S:
                    self._open = False
                self._report_if_due()
            while self._hops:
                connection.send(self._hops.popleft())
            connection.write()
        return answered

    def _report_if_due(self) -> None:
        if time.monotonic() - self._began_s > GRACE_S or self.in_use:
            self._report()

    def _receive_all(self, connection: Connection) -> bool:
        """Whether any valid message came. Raises Gone."""
        valid = False
        refused = connection.peer.refused
        for frame in connection.read():
            message = unpack(frame)
            if message is None:
                self.tally.refused += 1
                continue
            valid = True
            if message.kind is Kind.CLEAN:
                self.answers.append(message)
            elif message.kind is Kind.WELCOME:
                self._check_delay(message)
            elif message.kind is Kind.FULL:
                self._open = False
                self._refusal = printable(message.body) or "it already serves its maximum number of boxes"
        self.tally.refused += connection.peer.refused - refused
        return valid

    def _check_delay(self, welcome: Message) -> None:
        """Whether the delay of its engine leaves any time for the network."""
        self._engine = printable(welcome.body, 40)
        room_ms = (self.delay_samples - welcome.delay_samples - HOP_SAMPLES) * 1000 / RATE_HZ
        need_ms = welcome.delay_samples * 1000 / RATE_HZ + 2 * HOP_MS + LEAST_ROOM_MS
        self._refusal = ""
        if room_ms < LEAST_ROOM_MS:
            self._refusal = f"its engine {self._engine} needs a [remote] budget_ms of {need_ms:.0f} or more"
        self._open = not self._refusal

    def _report(self) -> None:
        """Adds to ``news`` what has changed, at most once in ``REPORT_S``."""
        now_s = time.monotonic()
        idle = self.tally.filled == self._filled_before
        self._filled_before = self.tally.filled
        if now_s < self._next_report_s or (idle and self._open and not self.in_use):
            return
        if self.in_use:
            now = f"{self._engine} on {self._where} is in use"
        elif self._open:
            now = f"the answers of {self._where} are late or missing; the local network takes over"
        else:
            why = self._refusal or self._unreachable() or "is `quietbox serve --boxes` running? are the keys right?"
            now = f"{self._where} cannot be used ({why}); the local network takes over"
        if now != self._reported:
            self._reported, self._next_report_s = now, now_s + REPORT_S
            self.news.append(f"remote: {now}")

    def _unreachable(self) -> str:
        """Why the system refuses to send anything there, or nothing; sends nothing."""
        try:
            kind, _, _, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)[0]
        except OSError:
            return f"the host name {self._host} cannot be resolved"
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
    """The server's public key and our secret one, 32 bytes each; None where the server is this machine itself. Raises
    UserError."""
    if settings.server_key == settings.key_file == "off":
        if keys.is_loopback(host):
            return None
        raise UserError(
            f"[remote] server = {settings.server!r} is another machine, so the connection must be encrypted; "
            "`quietbox keys FILE` makes a key here and there, then set server_key and key_file"
        )
    for name in ("server_key", "key_file"):
        if getattr(settings, name) == "off":
            raise UserError(f"[remote] {name} is off and the other key is set; encryption needs both keys")
    server = keys.z85_decode(keys.check_public(settings.server_key, "[remote] server_key"), "[remote] server_key")
    secret = keys.z85_decode(keys.read_secret(Path(settings.key_file)), settings.key_file)
    sodium()
    return server, secret

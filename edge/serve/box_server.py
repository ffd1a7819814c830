"""`quietbox serve --boxes`: the noise suppressor of boxes with less power than this machine.

One thread owns the sockets; each box has a ``Session``, a thread with an engine and a state of its own, so that an
engine that loads or is slow delays no other. Queues are bounded; what does not fit is lost, and the box's own fallback
fills the gap.

A session belongs to the CURVE key that opened it, and a key has one session: no name that a client chooses counts, and
nobody takes over another one's stream. Without keys, on this machine alone, it belongs to the connection. An admitted
box can make its engine work a quarter more than real time (``HOPS_PER_S``) and send four times what real use
needs (``edge.net.wire``), no more.
"""

import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ, UserError
from edge.config import BridgeConfig
from edge.console import describe
from edge.dsp.spectrum import Floats
from edge.net import keys
from edge.net.budget import Budget
from edge.net.connection import Connection
from edge.net.curve import CurveServer, sodium
from edge.net.log_limit import LogLimit
from edge.net.transport import Limits, Listener, Loop
from edge.net.wire import BYTES_AT_ONCE, BYTES_PER_S, MOST_BYTES, Kind, Message, pack, unpack
from edge.net.zmtp import Null, Peer
from edge.suppress.engine import Engine

BACKLOG_HOPS = 64
"""Hops of one box that wait: after 0.3 s of standstill the older ones are of no use to it."""
FILLED_HOPS = 64
"""A gap of up to so many hops is passed through the engine as silence; a longer one is a new beginning."""
SETTLE_HOPS = 4
"""Hops after a gap that are not answered, beyond the engine's delay: the length of the analysis window."""
IDLE_S = 5.0
"""A box that sends nothing for so long has gone."""
TAKEOVER_S = 2.0
"""A box sends at least twice a second: one that was silent for so long may continue on another connection."""
HOPS_PER_S, HOPS_AT_ONCE = 1.25 * RATE_HZ / HOP_SAMPLES, 600.0
"""What a box's engine does at most, gaps that are passed through it included."""
STARTS_PER_S = 1.0
"""Sessions begun, once all places were taken: each opens an engine, which may take a second of processor time."""
ENDING_SESSIONS = 4
"""Sessions whose box has gone and whose engine is still at work; with more of them no new one begins."""
SPARE_PEERS = 8
"""Connections beyond the served boxes: they get the answer that all places are taken."""
POLL_MS = 200

Log = Callable[[str], None]


class Session(threading.Thread):
    """One box's stream through one engine."""

    def __init__(self, box: bytes, build: Callable[[], Engine], post: Callable[[bytes, bytes], None], log: Log) -> None:
        """``build`` opens the engine, ``post`` sends a frame to a box; both are called by this thread."""
        super().__init__(name="session", daemon=True)
        self.welcome = b""
        """The WELCOME message, once the engine is open."""
        self.connection: Connection | None = None
        """Where its answers go; the thread that owns the sockets sets it."""
        self.failed = False
        """Whether its engine could not be opened."""
        self.seen_s = time.monotonic()
        self.hops = self.lost = self.stale = self.refused = self.dropped = 0
        """Hops processed; never received; received after a later one; invalid; dropped at a full queue."""
        self._box = box
        self._build = build
        self._post = post
        self._log = log
        self._waiting: deque[Message] = deque(maxlen=BACKLOG_HOPS)
        self._order = threading.Event()
        self._ending = False
        self._work = Budget(HOPS_PER_S, HOPS_AT_ONCE)
        self._epoch = -1
        self._next = self._mute = 0
        self._silence = np.zeros(HOP_SAMPLES, np.float32)

    def take(self, message: Message) -> None:
        """Queue a hop that was received."""
        self.dropped += len(self._waiting) == BACKLOG_HOPS
        self._waiting.append(message)
        self._order.set()

    def end(self) -> None:
        self._ending = True
        self._order.set()

    def run(self) -> None:
        try:
            engine = self._build()
        except Exception as fault:
            self._log(f"no engine could be opened for a box ({describe(fault)})")
            self.failed = True
            return
        for note in engine.notes:
            self._log(note)
        self.welcome = pack(Kind.WELCOME, delay_samples=engine.delay_samples, body=engine.name.encode())
        self._post(self._box, self.welcome)
        while not self._ending:
            self._order.wait()
            self._order.clear()
            while self._waiting and not self._ending:
                try:
                    self._process(engine, self._waiting.popleft())
                except Exception as fault:  # an engine that breaks must not take the box's stream with it
                    self._log(f"unexpected fault, please report it ({describe(fault)})")
                    self._epoch = -1

    def _process(self, engine: Engine, message: Message) -> None:
        hop = message.hop
        if hop is None:
            self.refused += 1
            return
        gap = message.seq - self._next
        if not self._work.take():
            self.dropped += 1
            return
        new = message.epoch != self._epoch or gap > FILLED_HOPS
        if new or (gap > 0 and not self._work.take(gap)):
            engine.reset()
            self._epoch = message.epoch
            self._mute = self._settling(engine) if message.seq else 0
        elif gap < 0:
            self.stale += 1
            return
        elif gap > 0:
            self.lost += gap
            for _ in range(gap):
                self._silence.fill(0)
                engine.process(self._silence)
            self._mute = self._settling(engine)
        self._next = message.seq + 1
        self._clean(engine, hop)
        if self._mute:
            self._mute -= 1
            return
        body = hop.astype("<f4").tobytes()
        self._post(self._box, pack(Kind.CLEAN, message.epoch, message.seq, engine.delay_samples, body))

    def _clean(self, engine: Engine, hop: Floats) -> None:
        self.hops += 1
        engine.process(hop)
        if engine.failure is not None:
            failure, engine.failure = engine.failure, None
            self._log(f"an engine failed ({describe(failure)}); {engine.name} takes over")

    def _settling(self, engine: Engine) -> int:
        """Hops after which the output holds nothing of a gap."""
        return math.ceil(engine.delay_samples / HOP_SAMPLES) + SETTLE_HOPS


class BoxServer:
    """The port and its sessions."""

    def __init__(self, settings: BridgeConfig, build: Callable[[], Engine], log: Log) -> None:
        """Opens the port; raises UserError."""
        secret, clients = _read_keys(settings)
        self._build = build
        self._log = LogLimit(log)
        self._log_refused = LogLimit(log)  # apart from the other: unknown clients must not use up its lines
        self._most = settings.most_boxes
        self.sessions: dict[bytes, Session] = {}
        """By the box's public key in its 40 characters; without keys by the connection's number."""
        self._ended: list[Session] = []  # whose thread may still run
        self._starts = Budget(STARTS_PER_S, self._most)
        self._invalid = self._number = 0
        self._names: dict[Connection, bytes] = {}
        self._answers: deque[tuple[bytes, bytes]] = deque(maxlen=self._most * BACKLOG_HOPS)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._wake)
        self.allowed = keys.AllowedKeys(clients) if secret else None
        limits = Limits(peers=self._most + SPARE_PEERS, queue_messages=BACKLOG_HOPS, silence_s=IDLE_S)
        self._listener = Listener(settings.host, settings.boxes_port, "boxes_port", self._peer_maker(secret), limits)
        self._listener.budget = lambda: Budget(BYTES_PER_S, BYTES_AT_ONCE)
        self._listener.expendable = self._unserved
        self._listener.on_open = self._open
        self._listener.on_message = self._take
        self._listener.on_close = self._leave
        self._loop = Loop(self._listener, wake=self._wake)

    def _peer_maker(self, secret: bytes) -> Callable[[], Peer]:
        """What makes the protocol's state for a new connection."""
        allowed = self.allowed
        if allowed is None:
            return lambda: Peer(Null(b"ROUTER"), (b"DEALER",), MOST_BYTES)
        return lambda: Peer(CurveServer(b"ROUTER", secret, allowed.admits), (b"DEALER",), MOST_BYTES)

    def _unserved(self) -> Connection | None:
        """The connection that has been open longest without a session."""
        served = {session.connection for session in self.sessions.values()}
        return next((one for one in self._listener.peers if one not in served), None)

    @property
    def refused(self) -> int:
        """Invalid messages."""
        return self._invalid + sum(one.peer.refused for one in self._listener.peers)

    def serve(self, stop: threading.Event) -> None:
        """Until ``stop`` is set."""
        refused = 0
        try:
            while not stop.is_set():
                if self._loop.turn(POLL_MS / 1000):
                    os.eventfd_read(self._wake)
                    self._send_answers()
                self._forget_idle()
                if self.allowed and self.allowed.refused != refused:
                    refused = self.allowed.refused
                    self._log_refused(f"rejected a client with an unknown key ({refused} so far)")
        finally:
            self._close()

    def _close(self) -> None:
        for session in self.sessions.values():
            session.end()
        for session in self.sessions.values():
            session.join(1.0)
        self._loop.close()

    def _open(self, connection: Connection) -> None:
        """A peer's handshake is complete. A key has two connections at most: that of its session and one that follows
        when the box's network was cut."""
        key = connection.peer.mechanism.key
        self._number += 1
        name = keys.z85_encode(key) if key else b"connection %d" % self._number
        session = self.sessions.get(name)
        holder = session.connection if session else None
        waiting = [one for one, its in self._names.items() if its == name and one is not holder]
        for one in waiting:
            self._loop.drop(self._listener, one)
        self._names[connection] = name

    def _take(self, connection: Connection, frame: bytes) -> None:
        """Handle a message."""
        message = unpack(frame)
        if message is None or message.kind not in (Kind.HELLO, Kind.HOP):
            self._invalid += 1
        elif message.kind is Kind.HELLO:
            self._greet(connection)
        elif (session := self.sessions.get(self._names[connection])) and session.connection is connection:
            session.seen_s = time.monotonic()
            session.take(message)

    def _greet(self, connection: Connection) -> None:
        name = self._names[connection]
        session = self.sessions.get(name) or self._begin(connection, name)
        if session is None:
            return
        if session.connection is not connection:
            if session.connection and time.monotonic() - session.connection.heard_s < TAKEOVER_S:
                self._send(connection, pack(Kind.FULL, body=b"its key is in use by another box"))
                self._log("rejected a second box with a key already in use; each box needs a key of its own")
                return
            session.connection = connection
        session.seen_s = time.monotonic()
        if session.welcome:
            self._send(connection, session.welcome)

    def _begin(self, connection: Connection, name: bytes) -> Session | None:
        """A new session, if there is a place for it; the box asks again."""
        self._ended = [session for session in self._ended if session.is_alive()]
        if len(self.sessions) >= self._most:
            self._send(connection, pack(Kind.FULL))
            return None
        if len(self._ended) > ENDING_SESSIONS or not self._starts.take():
            return None
        session = self.sessions[name] = Session(name, self._build, self._post, self._log)
        session.connection = connection
        session.start()
        self._log(f"a box has connected, {len(self.sessions)} of {self._most}")
        return session

    def _post(self, box: bytes, frame: bytes) -> None:
        """Called by sessions."""
        self._answers.append((box, frame))
        os.eventfd_write(self._wake, 1)

    def _send_answers(self) -> None:
        while self._answers:
            box, frame = self._answers.popleft()
            session = self.sessions.get(box)
            if session and session.connection:
                self._send(session.connection, frame)

    def _send(self, connection: Connection, frame: bytes) -> None:
        """Never waits: a box fills what it does not get."""
        connection.send(frame)
        self._loop.flush(self._listener, connection)

    def _leave(self, connection: Connection, _: str) -> None:
        """A connection has ended. Its session waits for the same key to come back; without keys nobody can."""
        self._invalid += connection.peer.refused
        name = self._names.pop(connection, b"")
        session = self.sessions.get(name)
        if session and session.connection is connection:
            session.connection = None
            if not connection.peer.mechanism.key:
                self._forget(name)

    def _forget_idle(self) -> None:
        now_s = time.monotonic()
        for box, session in [*self.sessions.items()]:
            if now_s - session.seen_s > IDLE_S or session.failed:
                self._forget(box)

    def _forget(self, box: bytes) -> None:
        session = self.sessions.pop(box)
        session.end()
        self._ended.append(session)
        self._log(
            f"a box has disconnected: {session.hops} hops, {session.lost} lost in the network, "
            f"{session.stale + session.dropped} too late, {session.refused} invalid"
        )


def _read_keys(settings: BridgeConfig) -> tuple[bytes, frozenset[bytes]]:
    """Our secret key, 32 bytes, and the public ones let in; nothing where nobody else can come in. Raises UserError."""
    given = [getattr(settings, name) for name in ("key_file", "clients_file")]
    if given == ["off", "off"]:
        if keys.is_loopback(settings.host):
            return b"", frozenset()
        raise UserError(
            f"{settings.host} can be reached from other machines, so boxes need keys to connect; `quietbox keys FILE` "
            "makes one here and one on each box, then set --key FILE and --clients LIST"
        )
    if "off" in given:
        raise UserError("a key needs a list of clients: give both, --key FILE and --clients LIST")
    secret = keys.z85_decode(keys.read_secret(Path(given[0])), given[0])
    clients = keys.read_clients(Path(given[1]))
    sodium()
    return secret, clients

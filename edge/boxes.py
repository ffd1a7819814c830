"""`quietbox serve --boxes`: the noise suppressor of boxes with less power than this machine.

One thread owns the socket; each box has a ``Session``, a thread with an engine and a state of its own, so that one
engine that loads or is slow holds up nobody else. Queues are bounded; what does not fit is lost, and the box fills it.
"""

import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge import HOP_SAMPLES, UserError, keys
from edge.chain import Engine
from edge.config import BridgeConfig
from edge.spectrum import Floats
from edge.wire import MOST_BYTES, Kind, Message, pack, unpack

BACKLOG_HOPS = 64
"""Hops of one box that wait: after 0.3 s of standstill the older ones are of no use to it."""
FILLED_HOPS = 64
"""A gap of up to so many hops is passed through the engine as silence; a longer one is a new beginning."""
SETTLE_HOPS = 4
"""Hops after a gap that no answer is given to, beyond the engine's delay: the analysis window is so long."""
IDLE_S = 5.0
"""A box that says nothing for so long has gone."""
LOOK_MS = 200

Say = Callable[[str], None]


class Session(threading.Thread):
    """One box's stream through one engine."""

    def __init__(self, box: bytes, build: Callable[[], Engine], post: Callable[[bytes, bytes], None], say: Say) -> None:
        """``build`` opens the engine, ``post`` sends a frame to a box; both are called by this thread."""
        super().__init__(name="session", daemon=True)
        self.welcome = b""
        """What the box is greeted with, once the engine is open."""
        self.seen_s = time.monotonic()
        self.hops = self.lost = self.stale = self.refused = self.dropped = 0
        """Hops treated; hops that never came; that came after their successor; that were no sound; that found the queue
        full."""
        self._box = box
        self._build = build
        self._post = post
        self._say = say
        self._waiting: deque[Message] = deque(maxlen=BACKLOG_HOPS)
        self._order = threading.Event()
        self._ending = False
        self._epoch = -1
        self._next = self._mute = 0
        self._silence = np.zeros(HOP_SAMPLES, np.float32)

    def take(self, message: Message) -> None:
        """A hop has come."""
        self.dropped += len(self._waiting) == BACKLOG_HOPS
        self._waiting.append(message)
        self._order.set()

    def end(self) -> None:
        self._ending = True
        self._order.set()

    def run(self) -> None:
        engine = self._build()
        for note in engine.notes:
            self._say(note)
        self.welcome = pack(Kind.WELCOME, delay_samples=engine.delay_samples, body=engine.name.encode())
        self._post(self._box, self.welcome)
        while not self._ending:
            self._order.wait()
            self._order.clear()
            while self._waiting and not self._ending:
                try:
                    self._treat(engine, self._waiting.popleft())
                except Exception as fault:  # an engine that breaks must not take the box's stream with it
                    self._say(f"unexpected fault, please report it ({short(fault)})")
                    self._epoch = -1

    def _treat(self, engine: Engine, message: Message) -> None:
        hop = message.hop
        if hop is None:
            self.refused += 1
            return
        gap = message.seq - self._next
        if message.epoch != self._epoch or gap > FILLED_HOPS:
            engine.reset()
            self._epoch = message.epoch
            self._mute = self._settling(engine) if message.seq else 0
        elif gap < 0:
            self.stale += 1
            return
        elif gap:
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
            self._say(f"an engine failed ({short(failure)}); {engine.name} goes on")

    def _settling(self, engine: Engine) -> int:
        """After so many hops the output has nothing of a gap left in it."""
        return math.ceil(engine.delay_samples / HOP_SAMPLES) + SETTLE_HOPS


class Boxes:
    """The socket and who is behind it."""

    def __init__(self, settings: BridgeConfig, build: Callable[[], Engine], say: Say) -> None:
        """Opens the port; raises UserError."""
        self._zmq: Any = keys.zeromq()
        secret, clients = _curve(settings)
        self._build = build
        self._say = say
        self._most = settings.most_boxes
        self.sessions: dict[bytes, Session] = {}
        self.refused = 0
        """Messages that made no sense."""
        self._answers: deque[tuple[bytes, bytes]] = deque(maxlen=self._most * BACKLOG_HOPS)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._wake)
        self._context = self._zmq.Context()
        self.door = keys.Doorkeeper(self._context, clients) if secret else None
        try:
            self._open(settings, secret)
        except UserError:
            self._close()
            raise

    def _open(self, settings: BridgeConfig, secret: bytes) -> None:
        zmq = self._zmq
        self._router = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.ROUTER_HANDOVER, 1),  # a box that comes back by another connection is the same box
            (zmq.SNDHWM, BACKLOG_HOPS),
            (zmq.RCVHWM, BACKLOG_HOPS),
            (zmq.MAXMSGSIZE, MOST_BYTES),
            (zmq.HEARTBEAT_IVL, 1000),
            (zmq.HEARTBEAT_TIMEOUT, 3000),
            (zmq.IPV6, int(":" in settings.host)),
        ):
            self._router.setsockopt(option, value)
        if secret:
            self._router.curve_server = True
            self._router.curve_secretkey = secret
            self._router.curve_publickey = keys.public(secret).encode()
        keys.bind(self._router, settings.host, settings.boxes_port, "boxes_port")

    def serve(self, stop: threading.Event) -> None:
        """Until told to stop."""
        zmq = self._zmq
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        refused = 0
        try:
            while not stop.is_set():
                ready = dict(poller.poll(LOOK_MS))
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                    self._send_answers()
                if self._router in ready:
                    self._receive()
                self._forget_idle()
                if self.door and self.door.refused != refused:
                    refused = self.door.refused
                    self._say(f"a key that is not in the list knocked ({refused} times by now)")
        finally:
            self._close()

    def _close(self) -> None:
        for session in self.sessions.values():
            session.end()
        for session in self.sessions.values():
            session.join(1.0)
        if self.door:
            self.door.close()
        self._context.destroy(linger=0)

    def _receive(self) -> None:
        """What has come, a bounded number at a time."""
        for _ in range(BACKLOG_HOPS):
            try:
                box, *frames = self._router.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return
            message = unpack(frames[0]) if len(frames) == 1 else None
            if message is None or message.kind not in (Kind.HELLO, Kind.HOP):
                self.refused += 1
            elif message.kind is Kind.HELLO:
                self._greet(box)
            elif session := self.sessions.get(box):
                session.seen_s = time.monotonic()
                session.take(message)

    def _greet(self, box: bytes) -> None:
        session = self.sessions.get(box)
        if session is None:
            if len(self.sessions) >= self._most:
                self._send(box, pack(Kind.FULL))
                return
            session = self.sessions[box] = Session(box, self._build, self._post, self._say)
            session.start()
            self._say(f"a box has come, {len(self.sessions)} of {self._most}")
        session.seen_s = time.monotonic()
        if session.welcome:
            self._send(box, session.welcome)

    def _post(self, box: bytes, frame: bytes) -> None:
        """Called by sessions."""
        self._answers.append((box, frame))
        os.eventfd_write(self._wake, 1)

    def _send_answers(self) -> None:
        while self._answers:
            self._send(*self._answers.popleft())

    def _send(self, box: bytes, frame: bytes) -> None:
        try:
            self._router.send_multipart((box, frame), self._zmq.NOBLOCK)
        except self._zmq.ZMQError:  # gone, or stuck: a box fills what it does not get
            return

    def _forget_idle(self) -> None:
        now_s = time.monotonic()
        for box, session in [*self.sessions.items()]:
            if now_s - session.seen_s > IDLE_S:
                session.end()
                del self.sessions[box]
                self._say(
                    f"a box has gone: {session.hops} hops, {session.lost} lost on the way, "
                    f"{session.stale + session.dropped} too late, {session.refused} that were no sound"
                )


def short(error: Exception) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def _curve(settings: BridgeConfig) -> tuple[bytes, frozenset[bytes]]:
    """Our secret key and the public ones let in; nothing where nobody else can come in. Raises UserError."""
    given = [getattr(settings, name) for name in ("key_file", "clients_file")]
    if given == ["off", "off"]:
        if keys.stays_here(settings.host):
            return b"", frozenset()
        raise UserError(
            f"{settings.host} can be reached from other machines: boxes come in only with keys; `quietbox keys FILE` "
            "makes one here and one there, then set --key FILE and --clients LIST"
        )
    if "off" in given:
        raise UserError("a key goes with a list of clients: give both, --key FILE and --clients LIST")
    return keys.read_secret(Path(given[0])), keys.read_clients(Path(given[1]))

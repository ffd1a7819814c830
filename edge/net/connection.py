"""One TCP connection to a peer: what it sent, what waits to be sent to it, what it may use up."""

import contextlib
import socket
import time
from collections import deque
from dataclasses import dataclass, field

from edge.net.budget import Budget
from edge.net.zmtp import Peer, ProtocolError

READ_BYTES = 1 << 14
"""Taken from a socket at a time: as many frames as fit in here are handled before the next peer's turn."""
WRITE_BYTES = 1 << 16
FRAME_COST_BYTES = 256
"""What a frame costs beside its bytes, since the smallest frames use the most processor time a byte."""


class Gone(Exception):
    """The connection has ended; the text is the reason, empty for an ordinary end."""


@dataclass(eq=False)
class Connection:
    """One peer: its socket, the protocol's state, what waits to be sent to it."""

    socket: socket.socket
    peer: Peer
    queue_messages: int
    """Messages that wait to be sent; beyond that the oldest is dropped."""
    queue_bytes: int = 1 << 20
    """The same in bytes; the newest message always waits."""
    budget: Budget | None = None
    """What it may send us; None for a peer without a limit."""
    address: str = ""
    dropped: int = 0
    """Messages that were not sent because it did not read."""
    sent: int = 0
    opened_s: float = field(default_factory=time.monotonic)
    heard_s: float = field(default_factory=time.monotonic)
    """When its last whole message came; before the first, when it connected."""
    more: bool = False
    """Whether there was more to read than was read."""
    alive_s: float = field(default_factory=time.monotonic)
    """When its last byte came."""
    known: bool = False
    """Whether its handshake is over and has been reported."""

    def __post_init__(self) -> None:
        self.socket.setblocking(False)
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._queue: deque[bytes] = deque()
        self._out = bytearray()

    @property
    def _waiting(self) -> int:
        return sum(map(len, self._queue))

    @property
    def stuck(self) -> bool:
        """Whether messages wait because it does not read."""
        return bool(self._queue)

    @property
    def may_read(self) -> bool:
        return self.budget is None or self.budget.left() > 0

    @property
    def has_output(self) -> bool:
        return bool(self._out or self.peer.out or (self._queue and self.peer.ready))

    def read(self) -> list[bytes]:
        """Whole messages that have come; raises Gone, also if the peer breaks the protocol."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise Gone(error.strerror or "") from None
        if not data:
            raise Gone("")
        self.alive_s = time.monotonic()
        self.more = len(data) == READ_BYTES
        try:
            messages, frames = self.peer.receive(data)
        except ProtocolError as error:
            with contextlib.suppress(Gone):
                self.write()  # the peer may get the reason
            raise Gone(str(error)) from error
        if self.budget:
            self.budget.spend(len(data) + frames * FRAME_COST_BYTES)
        if messages:
            self.heard_s = self.alive_s
        return messages

    def send(self, message: bytes) -> None:
        """Put a message into the queue; ``write`` sends it."""
        self._queue.append(message)
        while len(self._queue) > self.queue_messages or (len(self._queue) > 1 and self._waiting > self.queue_bytes):
            self._queue.popleft()
            self.dropped += 1

    def forget(self) -> None:
        """Drop what waits; a message that is half sent is sent to its end."""
        self._queue.clear()

    def write(self) -> None:
        """As much as the peer reads; raises Gone."""
        while self.has_output:
            self._out += self.peer.out
            self.peer.out.clear()
            while self._queue and self.peer.ready and len(self._out) < READ_BYTES:
                self._out += self.peer.encode(self._queue.popleft())
                self.sent += 1
            try:
                done = self.socket.send(memoryview(self._out)[:WRITE_BYTES])
            except BlockingIOError:
                return
            except OSError as error:
                raise Gone(error.strerror or "") from None
            del self._out[:done]

    def close(self) -> None:
        self.socket.close()

"""TCP sockets, both sides: everything a peer can use up has a bound here.

Memory: a peer holds at most one unfinished frame and a short queue. Processor: a peer's bytes and frames come out of a
budget; when it is used up its socket is not read until there is more, and TCP makes it wait. File descriptors: so
many peers, so many handshakes at a time, the oldest of the busiest address is dropped. Time: a handshake has seconds,
and a silent peer may be dropped. ``edge.net.zmtp`` is the protocol.
"""

import contextlib
import errno
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from edge import UserError
from edge.net.budget import Budget
from edge.net.connection import Connection, Gone
from edge.net.zmtp import Peer

READS = 8
"""Reads in a row from a peer without a budget, so that its newest sound is used."""
LISTEN_BACKLOG = 64
ACCEPTS_PER_S, ACCEPT_BURST = 100.0, 32.0
"""Connections let in; more wait in the kernel's queue. A handshake with keys costs a millisecond of processor time."""
RETRY_S = 0.5
"""Until the next try after the system had no file descriptor or memory for a new connection."""
CHECK_S = 0.1
"""Between two looks for peers whose time is up."""


@dataclass(frozen=True)
class Limits:
    """What the peers of one port may use up together."""

    peers: int
    """With their handshake complete; for one more ``Listener.expendable`` chooses which is dropped."""
    queue_messages: int
    queue_bytes: int = 1 << 20
    handshakes: int = 16
    """At a time."""
    handshake_s: float = 3.0
    """How long one may take."""
    silence_s: float = float("inf")
    """A peer that sends no message for so long is dropped."""
    send_buffer_bytes: int = 1 << 16
    """What the kernel may hold for a peer that does not read."""


class Listener:
    """A listening port and its peers. Its user sets ``on_...``, ``budget`` and ``expendable``; ``Loop`` drives it."""

    def __init__(self, host: str, port: int, setting: str, peer: Callable[[], Peer], limits: Limits) -> None:
        """Opens the port; raises UserError that names the ``setting`` to change."""
        self.limits = limits
        self.peers: list[Connection] = []
        self.pending: list[Connection] = []
        """Those whose handshake is not over."""
        self.failed = 0
        """Connections that ended without a handshake."""
        self.on_open: Callable[[Connection], object] = lambda _: None
        self.on_message: Callable[[Connection, bytes], object] = lambda _, __: None
        self.on_close: Callable[[Connection, str], object] = lambda _, __: None
        self.budget: Callable[[], Budget | None] = lambda: None
        """The budget of a new peer."""
        self.expendable: Callable[[], Connection | None] = lambda: None
        """Which peer to drop for a new one when all places are taken; None for the new one."""
        self.accepts = Budget(ACCEPTS_PER_S, ACCEPT_BURST)
        self.blocked_until_s = 0.0
        self._peer = peer
        self.socket = _bound(host, port, setting)

    def accept(self) -> Connection | None:
        """The next connection; None if there is none, or no descriptor or memory for it."""
        if not self.accepts.take():
            return None
        try:
            accepted, address = self.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self.blocked_until_s = time.monotonic() + RETRY_S
            return None
        with contextlib.suppress(OSError):
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.send_buffer_bytes)
        limits = self.limits
        came = Connection(
            accepted, self._peer(), limits.queue_messages, limits.queue_bytes, self.budget(), str(address[0])
        )
        self.pending.append(came)
        return came

    @property
    def surplus(self) -> Connection | None:
        """Which handshake to drop when there are too many: the oldest of the address with most of them."""
        if len(self.pending) <= self.limits.handshakes:
            return None
        busiest = Counter(one.address for one in self.pending).most_common(1)[0][0]
        return next(one for one in self.pending if one.address == busiest)

    def overdue(self) -> list[Connection]:
        """Connections whose time is up."""
        now_s = time.monotonic()
        slow = [one for one in self.pending if now_s - one.opened_s > self.limits.handshake_s]
        return slow + [one for one in self.peers if now_s - one.heard_s > self.limits.silence_s]


class Loop:
    """Waits for the sockets of some listeners, and of a file descriptor that wakes it; all in the caller's thread."""

    def __init__(self, *listeners: Listener, wake: int | None = None) -> None:
        self._listeners = listeners
        self._selector = selectors.DefaultSelector()
        self._interest: dict[Connection, int] = {}
        self._paused: set[Connection] = set()
        self._paused_listeners: set[Listener] = set()
        self._check_s = 0.0
        for listener in listeners:
            self._selector.register(listener.socket, selectors.EVENT_READ, (listener, None))
        if wake is not None:
            self._selector.register(wake, selectors.EVENT_READ, (None, None))

    def turn(self, timeout_s: float) -> bool:
        """Handle pending events once, or return after so many seconds; True if the wake descriptor was set."""
        woken = False
        limit_s = CHECK_S if self._interest or self._paused_listeners else timeout_s
        if self._paused:
            limit_s = 0.01
        for key, events in self._selector.select(min(timeout_s, limit_s)):
            listener, connection = key.data
            if listener is None:
                woken = True
            elif connection is None:
                self._accept(listener)
            elif connection in self._interest:
                self._serve(listener, connection, events)
        self._resume()
        return woken

    def flush(self, listener: Listener, connection: Connection) -> None:
        """Send what waits for a peer, as far as it goes without waiting."""
        if connection in self._interest:
            try:
                connection.write()
            except Gone as end:
                self.drop(listener, connection, str(end))
                return
            self._watch(listener, connection)

    def drop(self, listener: Listener, connection: Connection, why: str = "") -> None:
        """End a connection."""
        if self._interest.pop(connection, 0):
            self._selector.unregister(connection.socket)
        self._paused.discard(connection)
        connection.close()
        if connection in listener.peers:
            listener.peers.remove(connection)
            listener.on_close(connection, why)
        elif connection in listener.pending:
            listener.pending.remove(connection)
            listener.failed += 1

    def close(self) -> None:
        """End everything, the ports too."""
        for listener in self._listeners:
            for connection in [*listener.pending, *listener.peers]:
                connection.close()
            listener.socket.close()
        self._selector.close()

    def _accept(self, listener: Listener) -> None:
        came = listener.accept()
        if came is None:
            if listener.accepts.left() < 1 or listener.blocked_until_s > time.monotonic():
                self._selector.unregister(listener.socket)
                self._paused_listeners.add(listener)
            return
        self._interest[came] = 0
        self._watch(listener, came)
        self.flush(listener, came)
        if surplus := listener.surplus:
            self.drop(listener, surplus)

    def _serve(self, listener: Listener, connection: Connection, events: int) -> None:
        """A peer's socket is ready."""
        try:
            if events & selectors.EVENT_READ:
                self._read(listener, connection)
            if connection in self._interest:
                connection.write()
        except Gone as end:
            self.drop(listener, connection, str(end))
            return
        if connection in self._interest:
            self._watch(listener, connection)

    def _read(self, listener: Listener, connection: Connection) -> None:
        """What has come from a peer, as far as its budget and a bound go. Raises Gone."""
        for _ in range(READS):
            if connection not in self._interest or not connection.may_read:
                return
            messages = connection.read()
            if not connection.known and connection.peer.ready and not self._introduce(listener, connection):
                return
            for message in messages:
                if connection in self._interest:
                    listener.on_message(connection, message)
            if connection.budget or not connection.more:
                return

    def _introduce(self, listener: Listener, connection: Connection) -> bool:
        """A peer's handshake is over; False if there is no place for it."""
        connection.known = True
        connection.heard_s = time.monotonic()
        if len(listener.peers) >= listener.limits.peers:
            expendable = listener.expendable()
            self.drop(listener, expendable or connection)
            if expendable is None:
                return False
        listener.pending.remove(connection)
        listener.peers.append(connection)
        listener.on_open(connection)
        return connection in self._interest

    def _watch(self, listener: Listener, connection: Connection) -> None:
        """Register the events wanted of a socket: none for a peer that may not send and has nothing to receive."""
        reads = connection.may_read
        (self._paused.discard if reads else self._paused.add)(connection)
        wanted = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if connection.has_output else 0)
        before = self._interest[connection]
        if wanted == before:
            return
        data = (listener, connection)
        if not before:
            self._selector.register(connection.socket, wanted, data)
        elif not wanted:
            self._selector.unregister(connection.socket)
        else:
            self._selector.modify(connection.socket, wanted, data)
        self._interest[connection] = wanted

    def _resume(self) -> None:
        """Read again who has a budget again, drop whose time is up, listen again where accepting was paused."""
        for listener in self._listeners:
            for connection in [*self._paused] if self._paused else ():
                if connection in listener.peers or connection in listener.pending:
                    self._watch(listener, connection)
        now_s = time.monotonic()
        if now_s < self._check_s:
            return
        self._check_s = now_s + CHECK_S
        for listener in self._listeners:
            for connection in listener.overdue():
                self.drop(listener, connection, "silent for too long")
            ready = listener.accepts.left() >= 1 and now_s >= listener.blocked_until_s
            if listener in self._paused_listeners and ready:
                self._paused_listeners.remove(listener)
                self._selector.register(listener.socket, selectors.EVENT_READ, (listener, None))


def _bound(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; raises UserError."""
    where = endpoint(host, port)
    opened = None
    try:
        family, _, _, _, address = socket.getaddrinfo(
            None if host == "*" else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.bind(address)
        opened.listen(LISTEN_BACKLOG)
        opened.setblocking(False)
    except OSError as error:
        if opened:
            opened.close()
        fix = f"is it in use? set [bridge] {setting}" if error.errno == errno.EADDRINUSE else "set [bridge] host"
        raise UserError(f"{where} cannot be opened: {error.strerror} ({fix})") from None
    return opened


def endpoint(host: str, port: int) -> str:
    """The address as ZeroMQ writes it."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

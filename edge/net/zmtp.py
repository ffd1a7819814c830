"""ZMTP 3.1, the wire protocol of ZeroMQ, for messages of one part: bytes in, bytes out, no socket of its own.

Why this and not libzmq for what faces the network: libzmq collects all parts of a message before its reader sees the
first (``MAXMSGSIZE`` bounds one part, nothing bounds their number), and it ends the whole process when one of its
assertions fails. Here a message of several parts is discarded part by part as it arrives, a frame is refused by its
announced length, and whatever a peer sends ends in at most ``ProtocolError`` for that peer alone. libzmq 4.0 (2013)
and everything else that speaks ZMTP 3.x is understood; ``edge.net.curve`` is the CURVE mechanism.

https://rfc.zeromq.org/spec/37 (ZMTP 3.1), /23 (3.0).
"""

import struct
from typing import Protocol

GREETING_BYTES = 64
MORE, LONG, COMMAND = 1, 2, 4
"""Bits of a frame's first byte; the other five are reserved and zero."""
HANDSHAKE_BYTES = 2048
"""The longest command in a handshake: names, an identity of at most 255 bytes, CURVE's boxes."""
CONTROL_BYTES = 4096
"""What may wait for a peer that sends PING after PING and reads no PONG."""
PING_CONTEXT_BYTES = 16
LONGEST_HEAD = 9


class ProtocolError(Exception):
    """The peer broke the protocol, or refused us; the connection is of no use any more."""


class Refused(ProtocolError):
    """The peer rejects us."""


class Mechanism(Protocol):
    """A security mechanism: the handshake, and how frames are protected afterwards."""

    name: bytes
    as_server: bool
    ready: bool
    """Whether messages may pass."""
    rejected: str
    """Why the peer is rejected; empty if it is not, or not yet."""
    key: bytes
    """The peer's public key, 32 bytes; empty where there are no keys."""
    properties: dict[bytes, bytes]
    """The peer's metadata, names in lower case."""
    overhead_bytes: int
    """How much longer a message is on the wire, beyond its frame's head."""

    def begin(self) -> list[bytes]:
        """Commands to send once both greetings have passed."""

    def answer(self, command: bytes) -> list[bytes]:
        """Commands to send for one that came; raises ProtocolError."""

    def seal(self, flags: int, body: bytes) -> tuple[int, bytes]:
        """Flags and body as they go on the wire."""

    def unseal(self, flags: int, body: bytes) -> tuple[int, bytes]:
        """Flags and body as they were meant; raises ProtocolError."""


class Null:
    """The mechanism without keys: the handshake only exchanges socket types."""

    name = b"NULL"
    as_server = False
    rejected = ""
    overhead_bytes = 0

    def __init__(self, socket_type: bytes) -> None:
        self.ready = False
        self.key = b""
        self.properties: dict[bytes, bytes] = {}
        self._socket_type = socket_type

    def begin(self) -> list[bytes]:
        return [command(b"READY", properties(self._socket_type))]

    def answer(self, body: bytes) -> list[bytes]:
        name, rest = split_command(body)
        if name == b"ERROR":
            raise Refused(reason(rest))
        if name != b"READY":
            raise ProtocolError("READY was expected")
        self.properties = read_properties(rest)
        self.ready = True
        return []

    def seal(self, flags: int, body: bytes) -> tuple[int, bytes]:
        return flags, body

    def unseal(self, flags: int, body: bytes) -> tuple[int, bytes]:
        return flags, body


class Peer:
    """The protocol's state for one peer. ``out`` holds what must be sent beside messages."""

    def __init__(self, mechanism: Mechanism, accepts: tuple[bytes, ...], most_bytes: int) -> None:
        """``accepts``: the socket types the peer may have; ``most_bytes``: the longest message, without its head."""
        self.mechanism = mechanism
        self.refused = 0
        """Messages of several parts, discarded."""
        self.out = bytearray(greeting(mechanism))
        self._accepts = accepts
        self._most_bytes = most_bytes + mechanism.overhead_bytes
        self._buffer = bytearray()
        self._greeted = False
        self._discarding = False
        self._minor = 0

    @property
    def ready(self) -> bool:
        """Whether the handshake is over and messages may pass."""
        return self.mechanism.ready

    @property
    def held_bytes(self) -> int:
        """How much of an unfinished frame waits here."""
        return len(self._buffer)

    def receive(self, data: bytes) -> tuple[list[bytes], int]:
        """Bytes from the peer -> the whole messages in them, and how many frames they were; raises ProtocolError."""
        buffer = self._buffer
        buffer += data
        found: list[bytes] = []
        frames = at = 0
        if not self._greeted:
            if not self._read_greeting():
                return found, 0
            at = GREETING_BYTES
        while (frame := self._frame(at)) is not None:
            flags, start, end = frame
            body, at, frames = bytes(memoryview(buffer)[start:end]), end, frames + 1
            if (message := self._take(flags, body)) is not None:
                found.append(message)
        del buffer[:at]
        return found, frames

    def encode(self, message: bytes) -> bytes:
        """A message of one part as it goes on the wire; only when ``ready``, in the order of sending."""
        return frame(*self.mechanism.seal(0, message))

    def ping(self) -> None:
        """Send a PING, if the peer knows it (since 3.1)."""
        if self._minor >= 1:
            self._control(b"PING", b"\0\x1e")  # a time to live of 3 s, in tenths

    def _read_greeting(self) -> bool:
        """Whether it is all there."""
        buffer = self._buffer
        if (buffer and buffer[0] != 0xFF) or (len(buffer) > 9 and not buffer[9] & 1):
            raise ProtocolError("does not speak ZeroMQ's protocol")
        if len(buffer) > 10 and buffer[10] < 3:
            raise ProtocolError("speaks ZMTP 2 or older; libzmq 4.0 or newer is needed")
        if len(buffer) < GREETING_BYTES:
            return False
        self._greeted, self._minor = True, buffer[11] if buffer[10] == 3 else 1
        wanted = self.mechanism.name
        if bytes(buffer[12:32]).rstrip(b"\0") != wanted:
            raise ProtocolError(f"the mechanism {wanted.decode()} was expected")
        for reply in self.mechanism.begin():
            self.out += frame(COMMAND, reply)
        return True

    def _frame(self, at: int) -> tuple[int, int, int] | None:
        """Flags, begin and end of the frame at ``at``; None if it is not all there. Raises ProtocolError."""
        buffer = self._buffer
        size = len(buffer) - at
        if size < 2:
            return None
        flags = buffer[at]
        if flags & ~(MORE | LONG | COMMAND):
            raise ProtocolError("a frame with reserved flags")
        if flags & LONG:
            if size < LONGEST_HEAD:
                return None
            start, length = at + LONGEST_HEAD, struct.unpack_from(">Q", buffer, at + 1)[0]
        else:
            start, length = at + 2, buffer[at + 1]
        most = HANDSHAKE_BYTES if flags & COMMAND or not self.ready else self._most_bytes
        if length > most:
            raise ProtocolError(f"a frame of more than {most} bytes")
        return (flags, start, start + length) if len(buffer) >= start + length else None

    def _take(self, flags: int, body: bytes) -> bytes | None:
        """A message, if the frame is one."""
        mechanism = self.mechanism
        if not mechanism.ready:
            self._shake(flags, body)
            return None
        flags, body = mechanism.unseal(flags, body)
        if flags & COMMAND:
            self._control_received(body)
            return None
        if self._discarding or flags & MORE:
            self.refused += not self._discarding
            self._discarding = bool(flags & MORE)
            return None
        return body

    def _shake(self, flags: int, body: bytes) -> None:
        if not flags & COMMAND or flags & MORE:
            raise ProtocolError("a message before the end of the handshake")
        for reply in self.mechanism.answer(body):
            self.out += frame(COMMAND, reply)
        if self.mechanism.rejected:
            raise ProtocolError(self.mechanism.rejected)
        if self.ready and self.mechanism.properties.get(b"socket-type") not in self._accepts:
            raise ProtocolError(f"a socket of type {b' or '.join(self._accepts).decode()} was expected")

    def _control_received(self, body: bytes) -> None:
        name, rest = split_command(body)
        if name == b"PING":
            self._control(b"PONG", rest[2 : 2 + PING_CONTEXT_BYTES])
        elif name == b"ERROR":
            raise Refused(reason(rest))

    def _control(self, name: bytes, rest: bytes) -> None:
        if len(self.out) > CONTROL_BYTES:
            raise ProtocolError("reads nothing")
        self.out += frame(*self.mechanism.seal(COMMAND, command(name, rest)))


def greeting(mechanism: Mechanism) -> bytes:
    """Signature, version 3.1, mechanism, who is the server; 64 bytes."""
    head = b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.name.ljust(20, b"\0")
    return (head + bytes([mechanism.as_server])).ljust(GREETING_BYTES, b"\0")


def frame(flags: int, body: bytes) -> bytes:
    if len(body) > 255:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return bytes([flags, len(body)]) + body


def command(name: bytes, rest: bytes) -> bytes:
    return bytes([len(name)]) + name + rest


def split_command(body: bytes) -> tuple[bytes, bytes]:
    """A command's name and the rest; raises ProtocolError."""
    if not body or len(body) < 1 + body[0]:
        raise ProtocolError("a command without a name")
    return body[1 : 1 + body[0]], body[1 + body[0] :]


def properties(socket_type: bytes) -> bytes:
    """The metadata we send: our socket type."""
    name = b"Socket-Type"
    return bytes([len(name)]) + name + struct.pack(">I", len(socket_type)) + socket_type


def read_properties(data: bytes) -> dict[bytes, bytes]:
    """Metadata, names in lower case; raises ProtocolError."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        if name_end + 4 > len(data):
            raise ProtocolError("truncated metadata")
        (length,) = struct.unpack_from(">I", data, name_end)
        if name_end + 4 + length > len(data):
            raise ProtocolError("truncated metadata")
        found[data[at + 1 : name_end].lower()] = data[name_end + 4 : name_end + 4 + length]
        at = name_end + 4 + length
    return found


def reason(rest: bytes) -> str:
    """The reason in a peer's ERROR command."""
    text = rest[1 : 1 + rest[0]] if rest else b""
    return text.decode("ascii", "replace")

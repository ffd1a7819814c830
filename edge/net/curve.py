"""CURVE, ZeroMQ's encryption with key pairs: both sides of the handshake, and the encryption of each message.

The primitives (X25519, XSalsa20, Poly1305) are libsodium's, through PyNaCl; this file has only the order in which
CurveZMQ uses them. https://rfc.zeromq.org/spec/26; libzmq is the other side in the tests, both ways round.
"""

import hmac
import os
import struct
from collections.abc import Callable
from types import ModuleType

from edge import UserError, command_for
from edge.net.zmtp import (
    COMMAND,
    MORE,
    ProtocolError,
    Refused,
    command,
    properties,
    read_properties,
    reason,
    split_command,
)

KEY_BYTES = 32
COOKIE_BYTES = 96
"""A nonce of 16 and a box of 80 in the specification; the client only hands it back, and here it is 96 random bytes
because the connection keeps what the cookie would carry."""
MAC_BYTES = 16
VERSION = b"\x01\x00"
HELLO_BYTES = 200
WELCOME_BYTES = 168
INITIATE_LEAST_BYTES = 9 + COOKIE_BYTES + 8 + 128 + MAC_BYTES
MESSAGE = b"\x07MESSAGE"
SEALED_COMMAND = 2
"""The bit inside a MESSAGE that marks a command; MORE is the same bit as in ZMTP."""
UNKNOWN_KEY = b"400"
"""The status with which ZAP and libzmq reject a key (https://rfc.zeromq.org/spec/27)."""

Admits = Callable[[bytes], bool]


def sodium() -> ModuleType:
    """PyNaCl's bindings of libsodium; raises UserError that names the command to install them."""
    try:
        from nacl import bindings
    except ImportError:
        raise UserError(f"PyNaCl is not installed; {command_for('bridge')}") from None
    return bindings


class _Curve:
    """What both sides share: short-lived keys, counted nonces, the encryption of a message."""

    name = b"CURVE"
    _mine = _theirs = b""  # the nonces' prefix, in each direction
    overhead_bytes = len(MESSAGE) + 8 + MAC_BYTES + 1

    def __init__(self, socket_type: bytes, secret: bytes) -> None:
        """``secret``: our own long-lived secret key, 32 bytes."""
        self.ready = False
        self.rejected = ""
        self.key = b""
        self.properties: dict[bytes, bytes] = {}
        self._nacl = sodium()
        self._socket_type = socket_type
        self._secret = secret
        self._short_public, self._short_secret = self._nacl.crypto_box_keypair()
        self._shared = b""  # the key of all messages after the handshake
        self._sent = self._heard = 0

    def seal(self, flags: int, body: bytes) -> tuple[int, bytes]:
        if not self._shared:
            raise ProtocolError("a message before the end of the handshake")
        inner = flags & MORE | (SEALED_COMMAND if flags & COMMAND else 0)
        nonce = self._next()
        box = self._nacl.crypto_box_afternm(bytes([inner]) + body, self._mine + nonce, self._shared)
        return 0, MESSAGE + nonce + box

    def unseal(self, flags: int, body: bytes) -> tuple[int, bytes]:
        if flags & MORE or body[: len(MESSAGE)] != MESSAGE or len(body) < self.overhead_bytes:
            raise ProtocolError("an unencrypted message")
        nonce = self._fresh(body[8:16])
        plain = self._opened(lambda nacl: nacl.crypto_box_open_afternm(body[16:], self._theirs + nonce, self._shared))
        return plain[0] & MORE | (COMMAND if plain[0] & SEALED_COMMAND else 0), plain[1:]

    def _next(self) -> bytes:
        self._sent += 1
        return struct.pack(">Q", self._sent)

    def _fresh(self, nonce: bytes) -> bytes:
        """A nonce that has not been used, or ProtocolError: replayed messages are rejected."""
        (number,) = struct.unpack(">Q", nonce)
        if number <= self._heard:
            raise ProtocolError("a replayed message")
        self._heard = number
        return nonce

    def _opened(self, opening: Callable[[ModuleType], bytes]) -> bytes:
        """What was in a box; raises ProtocolError."""
        try:
            return opening(self._nacl)
        except Exception:  # nacl.exceptions: CryptoError, ValueError and kin; also for keys that are no points
            raise ProtocolError("a message that cannot be decrypted: the keys do not match") from None


class CurveServer(_Curve):
    """The server: admits the keys that ``admits`` accepts."""

    as_server = True
    _mine, _theirs = b"CurveZMQMESSAGES", b"CurveZMQMESSAGEC"

    def __init__(self, socket_type: bytes, secret: bytes, admits: Admits) -> None:
        super().__init__(socket_type, secret)
        self._admits = admits
        self._cookie = b""
        self._client_short = b""

    def begin(self) -> list[bytes]:
        return []

    def answer(self, body: bytes) -> list[bytes]:
        name, rest = split_command(body)
        if name == b"HELLO" and not self._cookie:
            return [self._welcome(body, rest)]
        if name == b"INITIATE" and self._cookie:
            return [self._admit(rest)]
        raise ProtocolError("HELLO or INITIATE was expected")

    def _welcome(self, body: bytes, rest: bytes) -> bytes:
        if len(body) != HELLO_BYTES or rest[:2] != VERSION:
            raise ProtocolError("a HELLO of another version of CURVE")
        client, nonce, box = rest[74:106], self._fresh(rest[106:114]), rest[114:]
        self._opened(lambda nacl: nacl.crypto_box_open(box, b"CurveZMQHELLO---" + nonce, client, self._secret))
        self._client_short, self._cookie = client, os.urandom(COOKIE_BYTES)
        long_nonce = os.urandom(16)
        reply = self._nacl.crypto_box(self._short_public + self._cookie, b"WELCOME-" + long_nonce, client, self._secret)
        return command(b"WELCOME", long_nonce + reply)

    def _admit(self, rest: bytes) -> bytes:
        if len(rest) + 9 < INITIATE_LEAST_BYTES:
            raise ProtocolError("a truncated INITIATE")
        cookie, nonce, box = rest[:COOKIE_BYTES], self._fresh(rest[COOKIE_BYTES:104]), rest[104:]
        if not hmac.compare_digest(cookie, self._cookie):
            raise ProtocolError("an unknown cookie")
        client = self._client_short
        self._shared = self._opened(lambda nacl: nacl.crypto_box_beforenm(client, self._short_secret))
        plain = self._opened(lambda nacl: nacl.crypto_box_open_afternm(box, b"CurveZMQINITIATE" + nonce, self._shared))
        key, vouch_nonce, vouch_box, metadata = plain[:32], plain[32:48], plain[48:128], plain[128:]
        vouch = self._opened(
            lambda nacl: nacl.crypto_box_open(vouch_box, b"VOUCH---" + vouch_nonce, key, self._short_secret)
        )
        ours = self._nacl.crypto_scalarmult_base(self._secret)
        if not hmac.compare_digest(vouch, client + ours):
            raise ProtocolError("a key without proof of possession")
        if not self._admits(key):
            self.rejected = "a key that is not in the list"
            return command(b"ERROR", bytes([len(UNKNOWN_KEY)]) + UNKNOWN_KEY)
        self.properties = read_properties(metadata)
        self.key, self.ready = key, True
        short_nonce = self._next()
        metadata = properties(self._socket_type)
        reply = self._nacl.crypto_box_afternm(metadata, b"CurveZMQREADY---" + short_nonce, self._shared)
        return command(b"READY", short_nonce + reply)


class CurveClient(_Curve):
    """The client: connects only to the server with the given public key."""

    as_server = False
    _mine, _theirs = b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES"

    def __init__(self, socket_type: bytes, secret: bytes, server: bytes) -> None:
        super().__init__(socket_type, secret)
        self._server = server
        self._welcomed = False

    def begin(self) -> list[bytes]:
        nonce = self._next()
        box = self._nacl.crypto_box(bytes(64), b"CurveZMQHELLO---" + nonce, self._server, self._short_secret)
        return [command(b"HELLO", VERSION + bytes(72) + self._short_public + nonce + box)]

    def answer(self, body: bytes) -> list[bytes]:
        name, rest = split_command(body)
        if name == b"ERROR":
            raise Refused(reason(rest))
        if name == b"WELCOME" and not self._welcomed and len(body) == WELCOME_BYTES:
            self._welcomed = True
            return [self._initiate(rest)]
        if name == b"READY" and self._welcomed:
            return self._finish(rest)
        raise ProtocolError("WELCOME or READY was expected")

    def _initiate(self, rest: bytes) -> bytes:
        nacl, secret = self._nacl, self._short_secret
        plain = self._opened(
            lambda nacl: nacl.crypto_box_open(rest[16:], b"WELCOME-" + rest[:16], self._server, secret)
        )
        server_short, cookie = plain[:KEY_BYTES], plain[KEY_BYTES:]
        self._shared = self._opened(lambda nacl: nacl.crypto_box_beforenm(server_short, secret))
        vouch_nonce = os.urandom(16)
        vouch = self._opened(
            lambda nacl: nacl.crypto_box(
                self._short_public + self._server, b"VOUCH---" + vouch_nonce, server_short, self._secret
            )
        )
        ours = nacl.crypto_scalarmult_base(self._secret)
        nonce = self._next()
        plain = ours + vouch_nonce + vouch + properties(self._socket_type)
        box = nacl.crypto_box_afternm(plain, b"CurveZMQINITIATE" + nonce, self._shared)
        return command(b"INITIATE", cookie + nonce + box)

    def _finish(self, rest: bytes) -> list[bytes]:
        if len(rest) < 8 + MAC_BYTES:
            raise ProtocolError("a truncated READY")
        nonce = self._fresh(rest[:8])
        plain = self._opened(
            lambda nacl: nacl.crypto_box_open_afternm(rest[8:], b"CurveZMQREADY---" + nonce, self._shared)
        )
        self.properties = read_properties(plain)
        self.key, self.ready = self._server, True
        return []

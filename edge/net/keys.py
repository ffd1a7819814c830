"""Access over the network: CURVE key pairs, the list of allowed keys, and addresses of other machines.

A secret key is a file of one line that only its owner can read; a public key is 40 characters to paste into a setting
or into the list of allowed keys. https://rfc.zeromq.org/spec/26 (CurveZMQ) and /32 (Z85, how keys are written).
"""

import ipaddress
import os
import pwd
import re
from pathlib import Path

from edge import UserError, files
from edge.net.curve import sodium

KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
"""32 bytes as Z85 writes them (https://rfc.zeromq.org/spec/32)."""
COMMENT = "# "
"""Begins a comment line; Z85 uses the sign, but not the space."""
MOST_BYTES = 1 << 18
"""Of a key file or a list: some thousand keys with a comment each."""
ACCOUNT = "quietbox"
"""The service's: a key that root makes must be readable to it."""
Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def z85_encode(key: bytes) -> bytes:
    """32 bytes -> the key's 40 characters (Z85)."""
    words = [int.from_bytes(key[at : at + 4], "big") for at in range(0, len(key), 4)]
    return "".join(Z85[word // 85**place % 85] for word in words for place in (4, 3, 2, 1, 0)).encode()


def z85_decode(known: bytes, where: str) -> bytes:
    """A key's 40 characters -> its 32 bytes; raises UserError for 40 characters that are no key."""
    digits = [Z85.index(sign) for sign in known.decode()]
    words = [sum(digits[at + place] * 85 ** (4 - place) for place in range(5)) for at in range(0, len(digits), 5)]
    if max(words) >= 1 << 32:
        raise UserError(f"{where} is not a key: a character is wrong")
    return b"".join(word.to_bytes(4, "big") for word in words)


def create(path: Path) -> str:
    """Write a new secret key, or read the one that is there; returns its public key. Raises UserError."""
    if path.exists():
        return public(read_secret(path))
    known, secret = (z85_encode(half).decode() for half in sodium().crypto_box_keypair())
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(opened, "w") as file:
            file.write(f"{COMMENT}Quietbox, secret key; its public key is {known}\n{secret}\n")
            if os.geteuid() == 0 and (account := _account()):
                os.fchown(file.fileno(), *account)
    except OSError as error:
        path.unlink(missing_ok=True)  # half a key is none, and would stay
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    return known


def _account() -> tuple[int, int] | None:
    """User and group of the service, where it is installed."""
    try:
        found = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return None
    return found.pw_uid, found.pw_gid


def read_secret(path: Path) -> bytes:
    """The secret key in ``path``; raises UserError, also where others could read it."""
    lines, found = _lines(path)
    if found.st_mode & 0o077:
        raise UserError(f"{path} is a secret key that others can read; chmod 600 {path}")
    if len(lines) != 1 or not KEY.fullmatch(lines[0]):
        raise UserError(f"{path} holds no secret key; `quietbox keys NEWFILE` makes one")
    return lines[0].encode()


def public(secret: bytes) -> str:
    """The public key of a secret one."""
    return z85_encode(sodium().crypto_scalarmult_base(z85_decode(secret, "the secret key"))).decode()


def check_public(known: str, where: str) -> bytes:
    """A public key of the setting or list named ``where``; raises UserError."""
    if not KEY.fullmatch(known):
        raise UserError(f"{where} is not a public key: it has 40 characters, as `quietbox keys` prints it")
    z85_decode(known.encode(), where)
    return known.encode()


def read_clients(path: Path) -> frozenset[bytes]:
    """The public keys of a list, one a line, each followed by anything; raises UserError, also where other users than
    root and this one could change the list: whoever can add a key can listen."""
    lines, found = _lines(path)
    folder = path.resolve().parent
    for place, its in ((path, found), (folder, folder.stat())):
        if fault := files.changeable_by_others(place, its):
            raise UserError(f"anybody who can change {path} can add keys, and {fault}")
    keys = [line.split()[0] for line in lines]
    if not keys:
        raise UserError(f"{path} lists no client; add a line with the public key that `quietbox keys` printed there")
    return frozenset(check_public(known, f"{path}: {known[:50]!r}") for known in keys)


def _lines(path: Path) -> tuple[list[str], os.stat_result]:
    """Lines of a small file without comments and empty lines, and its status (owner, mode); raises UserError."""
    try:
        with os.fdopen(files.open_regular(path), "rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(MOST_BYTES + 1)
        text = data.decode()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file") from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing; `quietbox keys {path}` makes a secret key") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"{path} has more than {files.in_bytes(MOST_BYTES)}; a key is a line of 40 characters")
    return [line.strip() for line in text.splitlines() if line.strip() and not f"{line} ".startswith(COMMENT)], found


def host_and_port(address: str, where: str) -> tuple[str, int]:
    """``10.0.0.5:5557``, ``[fe80::1]:5557`` or ``name:5557`` -> host and port; raises UserError."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if (
        not re.fullmatch(r"[0-9A-Za-z.:%_-]+", host)
        or not re.fullmatch("[0-9]{1,5}", port)
        or not 0 < int(port) < 65536
    ):
        raise UserError(f"{where} = {address!r} is not an address; write it like 192.168.1.20:5557")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine's loop-back address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class AllowedKeys:
    """The public keys that are admitted; counts the others."""

    def __init__(self, allowed: frozenset[bytes]) -> None:
        """``allowed``: keys in their 40 characters."""
        self.refused = 0
        """How often an unknown key was rejected."""
        self._allowed = allowed

    def admits(self, key: bytes) -> bool:
        """Whether the key, 32 bytes, is in the list."""
        known = z85_encode(key) in self._allowed
        self.refused += not known
        return known

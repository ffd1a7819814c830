"""The owner's update key, on the PC where images and updates are made: how it is made, what it signs, who may sign.

The key is an ordinary OpenSSH key; making it, signing and its passphrase are ssh-keygen's.
"""

import contextlib
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

from edge import UserError, files
from hw.image.signature import BEGIN, END, MOST_SIGNATURE_BYTES, NAMESPACE, PRINCIPAL

PUBLIC = re.compile(r"((?:sk-)?(?:ssh|ecdsa)-[0-9a-z@.-]+) ([A-Za-z0-9+/]{40,4000}={0,2})(?: .*)?")
"""A line of a public key file (sshd(8), AUTHORIZED_KEYS FILE FORMAT) without options."""
MOST_KEY_BYTES = 1 << 16
NONE = "none"
"""Given as ``--signer``: no key, no updates."""


def default_key() -> Path:
    """The key that is used where none is named: the caller's, also under sudo."""
    home = Path.home()
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        with contextlib.suppress(KeyError):
            home = Path(pwd.getpwuid(int(os.environ["SUDO_UID"])).pw_dir)
    return home / ".config/quietbox/update-key"


def public_of(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def new_key(key: Path) -> str:
    """Make an Ed25519 key pair, ``key`` (mode 0600) and ``key``.pub; returns its fingerprint. At a terminal ssh-keygen
    asks for a passphrase, else there is none. Raises UserError, also if either file is there already."""
    for path in (key, public_of(key)):
        if path.exists() or path.is_symlink():
            raise UserError(f"{path} exists already and is kept; name another file, or move it away")
    key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    without = [] if sys.stdin.isatty() else ["-N", ""]
    _keygen(["-q", "-t", "ed25519", "-C", NAMESPACE, *without, "-f", str(key)], f"{key} cannot be made")
    return fingerprint(public_of(key))


def fingerprint(path: Path) -> str:
    """As ``ssh-keygen -l`` prints it, "SHA256:..."; raises UserError."""
    words = _keygen(["-l", "-f", str(path)], f"{path} is not a key").split()
    return words[1] if len(words) > 1 else "?"


def check_key(key: Path) -> None:
    """Raises UserError if there is no such key; the text has the command that makes one."""
    if not key.is_file():
        raise UserError(
            f"there is no update key {key}: `hw/image/update --new-key` makes one, --key FILE names another"
        )


def sign(payload: Path, key: Path) -> None:
    """Append the signature of everything in ``payload`` to it. ssh-keygen asks for a passphrase if the key has one.

    Raises UserError.
    """
    check_key(key)
    made = payload.with_name(f"{payload.name}.sig")
    made.unlink(missing_ok=True)
    try:
        _keygen(["-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(payload)], f"{payload} cannot be signed")
        with made.open("rb") as file:
            signature = file.read(MOST_SIGNATURE_BYTES + 1)
    finally:
        made.unlink(missing_ok=True)
    if not (signature.startswith(BEGIN) and signature.endswith(END) and len(signature) <= MOST_SIGNATURE_BYTES):
        raise UserError(f"{payload} cannot be signed: ssh-keygen wrote no signature that a box would read")
    with payload.open("ab") as file:
        file.write(signature)


def allowed_signers(public: Path) -> str:
    """The allowed-signers file for the public keys in ``public``, one a line; raises UserError."""
    try:
        data = files.read_bounded(public, MOST_KEY_BYTES)
    except OSError as error:
        raise UserError(f"the update key {public} cannot be read: {error.strerror}") from None
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    found = [PUBLIC.fullmatch(line) for line in lines if line and not line.startswith("#")]
    if not found or None in found:
        raise UserError(f"{public} is not a file of public keys, one a line, as `hw/image/update --new-key` makes it")
    fingerprint(public)
    return "".join(f'{PRINCIPAL} namespaces="{NAMESPACE}" {one[1]} {one[2]}\n' for one in found if one)


def chosen_signers(given: str | None) -> tuple[str, str]:
    """(allowed-signers file, one line for the builder) for ``--signer``; not given: the owner's key if there is one.

    Raises UserError.
    """
    public = Path(given) if given else public_of(default_key())
    if given == NONE or (given is None and not public.is_file()):
        how = "" if given else "; `hw/image/update --new-key` makes a key, then build again"
        return "", f"no update key: a box with this image accepts no update{how}"
    text = allowed_signers(public)
    return text, f"updates must be signed with {fingerprint(public)} ({public})"


def _keygen(words: list[str], failed: str) -> str:
    """What ssh-keygen printed; a passphrase it asks for at the terminal itself. Raises UserError."""
    try:
        done = subprocess.run(["ssh-keygen", *words], capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("ssh-keygen is not installed: apt-get install openssh-client") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ssh-keygen ended with {done.returncode}"])[-1]
        raise UserError(f"{failed}: {last[:200]}")
    return done.stdout

"""Signatures of updates, as a box checks them: before it reads anything of an update, and on a copy of its own.

An update file is a payload followed by the armored signature that ``ssh-keygen -Y sign`` writes (OpenSSH,
PROTOCOL.sshsig). The signature covers every byte before it. The public keys that a box accepts stand in ``SIGNERS`` on
its read-only root, in the format "ALLOWED SIGNERS" of ssh-keygen(1); ``hw/image/build --signer`` puts them there. No
such file: no update is accepted. Needs nothing but Python and ssh-keygen.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edge import UserError, files
from hw.image.bundle import MOST_PACKED_BYTES, SPARE_BYTES

SIGNERS = Path("/etc/quietbox/update-signers")
NAMESPACE = "quietbox-update"
"""What the key signs here; a signature that it made for anything else (a git commit, a file) is none of an update."""
PRINCIPAL = "owner"
BEGIN, END = b"-----BEGIN SSH SIGNATURE-----\n", b"-----END SSH SIGNATURE-----\n"
MOST_SIGNATURE_BYTES = 8192
"""Armored; Ed25519 takes 300 bytes, RSA with 16384 bits 6 KiB."""
VERIFY_S = 300.0
"""Reading the largest update from a card takes 16 s, hashing it on a Pi Zero 2 W less."""


def split(file: BinaryIO, path: Path) -> tuple[int, bytes]:
    """(bytes of the payload, signature) of the update ``path``, opened as ``file``. Raises UserError, naming ``path``,
    if it is too large or carries no signature."""
    size = os.fstat(file.fileno()).st_size
    if size > MOST_PACKED_BYTES:
        most = files.in_bytes(MOST_PACKED_BYTES)
        raise UserError(f"{path} has {files.in_bytes(size)}, but an update has at most {most}; remove it")
    file.seek(max(0, size - MOST_SIGNATURE_BYTES))
    tail = file.read(MOST_SIGNATURE_BYTES)
    start = tail.rfind(BEGIN)
    if start < 0 or tail.find(END, start) != len(tail) - len(END):  # ssh-keygen ignores what follows the first END
        raise UserError(
            f"{path} is not signed, or was cut off while it was copied; "
            "copy it again, or make it again with hw/image/update --make FILE"
        )
    return size - len(tail) + start, tail[start:]


def mark(path: Path) -> str:
    """Distinguishes signed updates without reading all of them; proves nothing. Raises UserError, OSError."""
    with os.fdopen(files.open_regular(path), "rb") as file:
        payload_bytes, signature = split(file, path)
    return hashlib.sha256(b"%d " % payload_bytes + signature).hexdigest()


@contextlib.contextmanager
def verified(path: Path, folder: Path, signers: Path = SIGNERS) -> Iterator[Path]:
    """The payload of the update ``path``, whose signature is right, as a file without a name in ``folder``.

    The path given holds until the context ends. What was checked is what is read: nobody else can open that file, and
    changing ``path`` afterwards changes nothing. Raises UserError, OSError.
    """
    if not signers.is_file():
        raise UserError(
            f"{path} is rejected: this box accepts no updates, because its card was made without an update key "
            "(hw/image/build --signer FILE)"
        )
    with os.fdopen(files.open_regular(path), "rb") as source, tempfile.TemporaryFile(dir=folder) as copy:
        payload_bytes, signature = split(source, path)
        if shutil.disk_usage(folder).free < payload_bytes + SPARE_BYTES:
            size = files.in_bytes(payload_bytes)
            raise UserError(f"{folder} has no room for a copy of {path} ({size}), so it is not installed")
        _copy(source, copy, payload_bytes, path)
        if fault := _fault(copy, signature, signers):
            raise UserError(f"{path} is refused: {fault}")
        yield Path(f"/proc/self/fd/{copy.fileno()}")


def _copy(source: BinaryIO, copy: BinaryIO, count: int, path: Path) -> None:
    source.seek(0)
    while count:
        data = source.read(min(count, files.READ_BYTES))
        if not data:
            raise UserError(f"{path} became shorter while it was read; copy it again")
        copy.write(data)
        count -= len(data)
    copy.flush()


def _fault(payload: BinaryIO, signature: bytes, signers: Path) -> str:
    """Why the signature does not count; empty if it does."""
    descriptor = os.memfd_create("signature")
    try:
        os.write(descriptor, signature)
        payload.seek(0)
        command = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", PRINCIPAL, "-n", NAMESPACE]
        done = subprocess.run(
            [*command, "-s", f"/proc/self/fd/{descriptor}"],
            stdin=payload.fileno(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERIFY_S,
            pass_fds=[descriptor],
            env=os.environ | {"LC_ALL": "C"},
        )
    except FileNotFoundError:
        return "its signature cannot be checked without ssh-keygen (Debian package openssh-client)"
    except subprocess.TimeoutExpired:
        return f"its signature could not be checked within {VERIFY_S:.0f} s"
    finally:
        os.close(descriptor)
    if done.returncode == 0:
        return ""
    why = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[0][:200]
    return f"it is not signed with an update key of this box, or was changed after signing (ssh-keygen: {why})"

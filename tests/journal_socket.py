"""The other end of journald's and systemd's sockets, and a real journald of one's own."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

PRIVATE_JOURNALD = """
set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/journal /run/log/journal
mount -t tmpfs none /var/log
[ -s /etc/machine-id ] || { echo 0123456789abcdef0123456789abcdef > /run/machine-id; touch /etc/machine-id
  mount --bind /run/machine-id /etc/machine-id; }
$JOURNALD & journald=$!
for i in $(seq 100); do [ -S /run/systemd/journal/socket ] && break; sleep 0.1; done
"""
"""Shell: starts journald ($JOURNALD) on a /run of its own, in mount and process namespaces of its own."""
JOURNALD = Path("/lib/systemd/systemd-journald")


def with_private_journald(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run shell lines beside such a journald; $PYTHON is this Python, ``folder`` the current one."""
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", PRIVATE_JOURNALD + script],
        cwd=folder,
        env={**os.environ, "JOURNALD": str(JOURNALD), "PYTHON": sys.executable, "JOURNAL_STREAM": "0:0"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def decoded(data: bytes) -> dict[str, str]:
    """journald's native protocol, read as its documentation says."""
    found = {}
    while data:
        head, _, data = data.partition(b"\n")
        key, plain, value = head.partition(b"=")
        if not plain:
            length = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + length], data[8 + length :]
            assert data[:1] == b"\n"
            data = data[1:]
        found[key.decode()] = value.decode()
    return found


class Listener:
    """A datagram socket that keeps what it hears: journald's or systemd's place."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self.heard: list[bytes] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while data := self._socket.recv(1 << 20):
            self.heard.append(data)

    def until(self, count: int, within_s: float = 10) -> list[bytes]:
        over = time.monotonic() + within_s
        while len(self.heard) < count:
            assert time.monotonic() < over, self.heard
            time.sleep(0.01)
        return self.heard

"""The other end of journald's and systemd's sockets."""

import socket
import threading
import time


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

"""What tests ask of the machine that they run on: a free port, patience, namespaces, entries of every kind."""

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PATIENCE_S = 60.0
"""How long anything may take that happens at once on an idle machine."""


def until(true: Callable[[], object], within_s: float = PATIENCE_S, every_s: float = 0.002) -> bool:
    """Whether ``true()`` became true in time."""
    over = time.monotonic() + within_s
    while not true() and time.monotonic() < over:
        time.sleep(every_s)
    return bool(true())


def wait_for(true: Callable[[], object], what: str = "it", within_s: float = PATIENCE_S) -> None:
    """Fails with ``what`` in its message if ``true()`` does not become true in time."""
    assert until(true, within_s), f"{what} did not happen in {within_s:g} s"


def free_port() -> int:
    """A TCP port of the loopback address that nobody listened at a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _may_make_namespaces() -> bool:
    try:
        command = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "true"]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


with_namespaces = pytest.mark.only_where(
    _may_make_namespaces(), "a root that may make namespaces (in a container: CAP_SYS_ADMIN)"
)


def put(file: Path, content: bytes | str) -> None:
    """A file with these bytes, or something that is no file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "folder":
        file.mkdir()
    elif content == "loop":
        file.symlink_to(file.name)
    elif content == "pipe":
        os.mkfifo(file)
    elif content == "nowhere":
        file.symlink_to("/nowhere/at/all")
    else:
        file.write_text("secret")
        file.chmod(0)

"""`quietbox serve --bench`: the bridge in real time, measured by the other program.

The server runs in a process of its own, as in use; this one acts as the audio engine: a chunk of 1536 samples every
34.8 ms, and the time until its clean one is back.
"""

import os
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edge import UserError, command_for
from edge.config import Config
from edge.net.transport import endpoint
from edge.realtime import request_realtime_priority
from edge.tools.bench import speech_like

CHUNK_SAMPLES = 1536
LATE_MS = 50.0
"""The published system's bound for everything together."""
GRACE_S = 2.0
"""Chunks that are not back so long after the last one was sent have been dropped."""


@dataclass(frozen=True)
class RoundTrips:
    """Ten minutes, or however long."""

    engine: str
    seconds: float
    chunks: int
    dropped: int
    wrong_length: int
    late: int
    """Round trips of more than LATE_MS."""
    p50_ms: float
    p99_ms: float
    max_ms: float


def bench(chosen: Config, seconds: float, file: Path | None = None) -> RoundTrips:
    """Run a server with the engine chosen and be its program for so long; ``file``: the settings. Raises UserError.

    Both ask for the real-time priority that audio programs have. Answers are matched by their order: after the first
    drop the times are those of older chunks, and so too long.
    """
    zmq = _zeromq()
    settings, engine = chosen.bridge, chosen.suppress.engine
    request_realtime_priority(chosen.box.priority)
    context = zmq.Context()
    server = None
    try:
        push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        command = [sys.executable, "-m", "edge.cli", "serve", "--engine", engine, "--rate", str(settings.rate_hz)]
        command += ["--config", str(file)] if file else []
        server = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        name = _started(server)
        push.connect(endpoint(settings.host, settings.noisy_port))
        pull.connect(endpoint(settings.host, settings.clean_port))
        return _played(push, pull, name, settings.rate_hz, seconds)
    finally:
        if server:
            server.terminate()
            server.wait(10)
        context.destroy(linger=0)


def _zeromq() -> ModuleType:
    """libzmq, which most of those programs use; raises UserError that names the command to install it."""
    try:
        import zmq
    except ImportError:
        raise UserError(f"pyzmq is not installed; {command_for('bridge')}") from None
    return zmq


def _started(server: "subprocess.Popen[str]") -> str:
    """The engine that really works; raises UserError if the server does not come up."""
    assert server.stderr
    lines: deque[str] = deque(maxlen=8)
    for line in server.stderr:
        lines.append(line.strip())
        if " receives noisy chunks at " in line:
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return line.split(" receives ")[0].removeprefix("quietbox: ")
    raise UserError(f"the server did not start: {lines[-1] if lines else 'it printed nothing'}")


def _played(push: Any, pull: Any, name: str, rate_hz: int, seconds: float) -> RoundTrips:
    """One chunk after the other, each at its time."""
    period_s = CHUNK_SAMPLES / rate_hz
    sound = speech_like(20.0)
    chunks = sound[: len(sound) // CHUNK_SAMPLES * CHUNK_SAMPLES].reshape(-1, CHUNK_SAMPLES)
    total = max(1, round(seconds / period_s))
    sent_s: deque[float] = deque()
    took_ms: list[float] = []
    wrong = 0

    def fetch(until_s: float) -> None:
        nonlocal wrong
        while sent_s and pull.poll(max(0.0, 1000 * (until_s - time.monotonic()))):
            wrong += len(pull.recv()) != 4 * CHUNK_SAMPLES
            took_ms.append(1000 * (time.monotonic() - sent_s.popleft()))

    time.sleep(0.5)  # until both sockets are connected: what is sent before waits for that, and so would the figures
    began_s = time.monotonic()
    for number in range(total):
        due_s = began_s + number * period_s
        fetch(due_s)
        time.sleep(max(0.0, due_s - time.monotonic()))
        sent_s.append(time.monotonic())
        push.send(chunks[number % len(chunks)].tobytes())
    fetch(time.monotonic() + GRACE_S)
    p50, p99 = np.percentile(took_ms, (50, 99)) if took_ms else (np.inf, np.inf)
    return RoundTrips(
        engine=name,
        seconds=round(total * period_s, 1),
        chunks=total,
        dropped=len(sent_s),
        wrong_length=wrong,
        late=sum(took > LATE_MS for took in took_ms),
        p50_ms=round(float(p50), 2),
        p99_ms=round(float(p99), 2),
        max_ms=round(max(took_ms, default=np.inf), 2),
    )

"""Inside the machine: the world around the box. A speaker (into the microphone card), a recorder (at the jack), a
finger on the button, an eye on the LED, and a reader of the journal.

A loop-back card hands on what is played into device 1 to whoever captures from device 0, and the other way round.
"""

import json
import os
import random
import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from edge import RATE_HZ
from edge.dsp.spectrum import Floats

SERVICE = "quietbox.service"
STATUS = Path("/run/quietbox/status.json")
SETTINGS = Path("/etc/quietbox/quietbox.toml")
DRIVER = Path("/sys/bus/platform/drivers/snd_aloop")
MICROPHONE, JACK, CABLE = "Microphone", "Headphones", "Cable"
DEVICES = {MICROPHONE: "snd_aloop.0", JACK: "snd_aloop.1", CABLE: "snd_aloop.2"}
LED, BUTTON = 17, 27
BLOCK = RATE_HZ // 50
AIR_DBFS = -75.0
"""A live microphone is never quite silent."""
LAG_S = 0.7
"""What is recorded may lie this long in buffers before it can be looked at."""


def call(*command: str) -> str:
    """What a command prints; its complaints stay where they are."""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


class Speaker(threading.Thread):
    """Plays silence (of a room) into the microphone card, and between that what ``play`` is given; for ever, also when
    the card goes and comes back."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        rng = np.random.default_rng(1)
        self._air = (10 ** (AIR_DBFS / 20) * rng.standard_normal((50, BLOCK))).astype(np.float32)
        self._sound: deque[Floats] = deque()
        self.start()

    def play(self, sound: Floats) -> float:
        """Play this next; returns the seconds it takes."""
        padded = np.pad(sound.astype(np.float32), (0, -len(sound) % BLOCK)).reshape(-1, BLOCK)
        self._sound.extend(padded)
        return len(sound) / RATE_HZ

    def stop(self) -> None:
        self._sound.clear()

    def run(self) -> None:
        turn = 0
        while True:
            command = ["aplay", "-q", "-D", f"hw:{MICROPHONE},1", "-t", "raw", "-f", "S32_LE", "-r", str(RATE_HZ)]
            with subprocess.Popen(
                [*command, "-c", "1", "--period-time=10000", "--buffer-time=80000"],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pipesize=4096,
            ) as player:
                assert player.stdin is not None
                try:
                    while player.poll() is None:
                        turn = (turn + 1) % len(self._air)
                        block = self._air[turn]
                        if self._sound:
                            block = block + self._sound.popleft()
                        player.stdin.write((np.clip(block, -1, 0.999) * 2**31).astype("<i4").tobytes())
                except OSError:
                    pass
            time.sleep(0.2)


class Recorder:
    """Records what the jack plays, on terms of whoever plays; ``since`` gives what was heard after a ``now``."""

    def __init__(self, card: str = JACK, folder: Path = Path("/run")) -> None:
        self._rate, self._channels = _terms(card)
        self._path = folder / f"heard-{card}.raw"
        self._path.unlink(missing_ok=True)
        terms = ("-f", _format(card), "-r", str(self._rate), "-c", str(self._channels))
        patience = ("--period-time=50000", "--buffer-time=1000000")
        self._process = subprocess.Popen(
            ["arecord", "-q", "-D", f"hw:{card},1", "-t", "raw", *terms, *patience, str(self._path)],
            stderr=subprocess.DEVNULL,
        )
        self._type = "<i4" if _format(card).startswith("S32") else "<i2"
        self._frame = np.dtype(self._type).itemsize * self._channels
        over = time.monotonic() + 20
        while not (self._path.exists() and self._path.stat().st_size) and time.monotonic() < over:
            time.sleep(0.05)

    def now(self) -> int:
        """The place in the recording that is reached now (what is heard now lies up to LAG_S behind it)."""
        return self._path.stat().st_size // self._frame

    def since(self, begin: int) -> Floats:
        """Everything heard after ``begin``, float32, 16 kHz mono."""
        raw = np.fromfile(self._path, self._type, offset=begin * self._frame)
        full = float(np.iinfo(raw.dtype).max) + 1
        frames = raw[: len(raw) // self._channels * self._channels].reshape(-1, self._channels)
        sound = (frames[:, 0] / full).astype(np.float32)
        return sound if self._rate == RATE_HZ else resample_poly(sound, RATE_HZ, self._rate).astype(np.float32)

    def level_dbfs(self, seconds: float) -> float:
        """Listen for so long from now on."""
        begin = self.now() + round(0.3 * self._rate)
        time.sleep(seconds + LAG_S)
        return level_dbfs(self.since(begin))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _granted(card: str) -> dict[str, str]:
    """What the product's side of a card runs on, as the kernel reports."""
    text = Path(f"/proc/asound/{card}/pcm0p/sub0/hw_params").read_text()
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def _terms(card: str) -> tuple[int, int]:
    granted = _granted(card)
    return int(granted["rate"].split()[0]), int(granted["channels"])


def _format(card: str) -> str:
    return _granted(card)["format"]


def level_dbfs(sound: Floats) -> float:
    return round(float(10 * np.log10(np.mean(sound.astype(float) ** 2) + 1e-12)), 1)


class Led(threading.Thread):
    """Looks at the LED's line a hundred times a second on average, at random moments: a dim LED is switched a hundred
    times a second too, and regular looks saw it lit for 0 to 24 % of the time where 15 % were meant."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._line = os.open(_gpio(LED) / "value", os.O_RDONLY)
        self._seen: deque[tuple[float, bool]] = deque(maxlen=60_000)
        self.start()

    def run(self) -> None:
        while True:
            self._seen.append((time.monotonic(), os.pread(self._line, 1, 0) == b"1"))
            time.sleep(random.uniform(0.005, 0.015))

    def lit(self, begin_s: float, end_s: float | None = None) -> float:
        """Share of the time it was lit between two monotonic times."""
        over = end_s or time.monotonic()
        seen = [lit for at, lit in list(self._seen) if begin_s <= at <= over]
        return round(sum(seen) / max(len(seen), 1), 3)

    def rises(self, begin_s: float) -> list[float]:
        """When it went from dark to lit, with 50 ms of dark before: a software PWM's flicker does not count."""
        found, dark_since = [], None
        for at, lit in list(self._seen):
            if not lit:
                dark_since = at if dark_since is None else dark_since
            else:
                if dark_since is not None and at - dark_since >= 0.05 and at >= begin_s:
                    found.append(at)
                dark_since = None
        return found


def press(seconds: float) -> None:
    """Hold the button, which connects its pin to ground, for so long."""
    pull = _gpio(BUTTON) / "pull"
    pull.write_text("pull-down")
    time.sleep(seconds)
    pull.write_text("pull-up")


def release() -> None:
    """The button is up, as its pull-up resistor has it."""
    (_gpio(BUTTON) / "pull").write_text("pull-up")


def _gpio(line: int) -> Path:
    return next(Path("/sys/devices/platform").glob(f"gpio-sim.*/gpiochip*/sim_gpio{line}"))


def unplug(card: str) -> None:
    """Pull the card out; returns once everybody has let go of it."""
    (DRIVER / "unbind").write_text(DEVICES[card])


def plug(card: str) -> None:
    (DRIVER / "bind").write_text(DEVICES[card])


# The service as systemd and the journal know it.


def show(*names: str) -> dict[str, str]:
    """Properties of the service."""
    return dict(line.split("=", 1) for line in call("systemctl", "show", SERVICE, "-p", ",".join(names)).splitlines())


def state() -> str:
    """The box's state by its status file; empty if there is none, or the process that wrote it has ended."""
    try:
        report = json.loads(STATUS.read_text())
    except (OSError, ValueError):
        return ""
    return str(report.get("state", "")) if os.path.exists(f"/proc/{report.get('pid')}") else ""


def runner() -> int:
    """The process that reports that it runs; 0 if none does. Cheap: polling that takes time delays the start itself."""
    try:
        return int(status()["pid"]) if state() == "running" else 0
    except (OSError, ValueError):
        return 0


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(STATUS.read_text())
    return found


def wait_for(true: Callable[[], bool], limit_s: float) -> float:
    """Seconds until it is true; raises TimeoutError."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > limit_s:
            raise TimeoutError(f"not within {limit_s:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began


class Reader:
    """The service's journal from now on."""

    def __init__(self) -> None:
        # The cursor has to be that of a record which the filter lets through: systemd 252 skips one matching record
        # after any other cursor, and the first order by button was missed whenever another unit had spoken last.
        found = re.search(r"-- cursor: (.*)", call("journalctl", "-u", SERVICE, "-n1", "--show-cursor"))
        self._cursor = found[1] if found else ""

    def records(self, **fields: str) -> list[dict[str, Any]]:
        """Records of the service whose fields have these values, oldest first."""
        after = ["--after-cursor", self._cursor] if self._cursor else ["-b"]
        text = call("journalctl", "-u", SERVICE, "-o", "json", *after)
        found = [json.loads(line) for line in text.splitlines()]
        return [entry for entry in found if all(entry.get(name) == value for name, value in fields.items())]

    def at(self, limit_s: float, **fields: str) -> float:
        """Wait for such a record; its monotonic time in seconds. Raises TimeoutError."""
        wait_for(lambda: bool(self.records(**fields)), limit_s)
        return int(self.records(**fields)[0]["__MONOTONIC_TIMESTAMP"]) / 1e6

    def text(self) -> str:
        return "\n".join(str(entry.get("MESSAGE")) for entry in self.records())


@contextmanager
def settings(text: str) -> Iterator[None]:
    """Other settings for a while; the service is started anew before and after."""
    before = SETTINGS.read_bytes()
    SETTINGS.write_text(text)
    restart()
    try:
        yield
    finally:
        SETTINGS.write_bytes(before)
        restart()


def restart() -> None:
    """Start the service anew; returns once the old process is gone, which may be long before the new one runs."""
    before = show("MainPID")["MainPID"]
    call("systemctl", "restart", "--no-block", SERVICE)
    wait_for(lambda: before == "0" or not os.path.exists(f"/proc/{before}"), 15)


def settled(limit_s: float = 60) -> None:
    """The box runs, neither muted nor bypassed: where every proof begins."""
    for card in DEVICES:
        if not Path(f"/proc/asound/{card}").exists():
            plug(card)
    release()
    if state() != "running":
        restart()
    wait_for(lambda: state() == "running", limit_s)

"""The page of figures that a running box keeps while somebody watches it: its format, and how it is written and read.

One file of fixed size in the runtime folder, written ten times a second by one write(2) over the last one. A reader may
meet the middle of a write: the checksum rejects that. It is not mapped into memory, since a page that is mapped on a
full or truncated file system ends the process with SIGBUS, where a write reports an error.
"""

import contextlib
import dataclasses
import math
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge import UserError, files

NAME = "meters"
"""The file's, in the runtime folder."""
MODE = 0o640
"""Its owner writes, the group reads: whoever may give the order ``watch``."""
MAGIC = b"QBMETER1"
"""The format; another one has another number."""
BANDS = 64
"""Of the suppressor's gains (``edge.dsp.spectrum.BANDS``)."""
EVENTS = 6
"""The newest records of the journal on the page."""
EVENT_BYTES = 112
STATE_BYTES, ENGINE_BYTES, THROTTLING_BYTES = 16, 48, 80


@dataclass(frozen=True)
class Reading:
    """What the box measures at one moment. NaN: not measured, or there is no such thing here."""

    at_s: float = math.nan
    """CLOCK_MONOTONIC when it was taken, the same clock in every process."""
    level_in_dbfs: float = math.nan
    """Mean of all hops since the last reading (0.1 s), as the two below."""
    level_out_dbfs: float = math.nan
    """At the output: after volume and limiter."""
    floor_in_dbfs: float = math.nan
    """Noise floor of the last 0.75 to 1.5 s (``health.NoiseFloor``)."""
    floor_out_dbfs: float = math.nan
    """The same after cleaning, before the volume."""
    speech: float = math.nan
    """Speech probability of the last hop, 0..1."""
    speaking: float = math.nan
    """1 while the box takes the sound for speech, else 0."""
    delay_ms: float = math.nan
    """Microphone to output, calculated."""
    queue_ms: float = math.nan
    drift_ppm: float = math.nan
    hop_p50_us: float = math.nan
    """Of the last second, in steps of ``health.BUCKET_US``, as the two below."""
    hop_p99_us: float = math.nan
    hop_max_us: float = math.nan
    late_hops: float = math.nan
    """Since the start, as the three below."""
    xruns_in: float = math.nan
    xruns_out: float = math.nan
    clips: float = math.nan
    volume_db: float = math.nan
    limit_db: float = math.nan
    temperature_c: float = math.nan
    cpu_share: float = math.nan
    """Processor time of the service in the last second; 1 is one core."""
    seconds: float = math.nan
    """Duration of the sound processed since the start."""
    gains: tuple[float, ...] | None = None
    """Of the 64 bands, 0..1; None where the engine at work has none."""
    state: str = ""
    engine: str = ""
    throttling: str = ""
    """Under-voltage, throttling or heat in words."""
    events: tuple[tuple[float, str], ...] = ()
    """(seconds since the epoch, sentence), oldest first."""


FIGURES = tuple(field.name for field in dataclasses.fields(Reading) if field.type is float)
_NUMBERS = struct.Struct(f"<{len(FIGURES)}d{BANDS}d")
_TEXTS = struct.Struct(f"<{STATE_BYTES}s{ENGINE_BYTES}s{THROTTLING_BYTES}s")
_EVENT = struct.Struct(f"<d{EVENT_BYTES}s")
_CHECK = struct.Struct("<I")
PAGE_BYTES = len(MAGIC) + _NUMBERS.size + _TEXTS.size + EVENTS * _EVENT.size + _CHECK.size


def pack(reading: Reading) -> bytes:
    """``PAGE_BYTES`` bytes: a reading, texts cut to their room, and the CRC-32 of all before it."""
    gains = reading.gains if reading.gains is not None else (math.nan,) * BANDS
    parts = [
        MAGIC,
        _NUMBERS.pack(*(getattr(reading, name) for name in FIGURES), *gains),
        _TEXTS.pack(
            _cut(reading.state, STATE_BYTES),
            _cut(reading.engine, ENGINE_BYTES),
            _cut(reading.throttling, THROTTLING_BYTES),
        ),
    ]
    events = [*reading.events[-EVENTS:], *[(math.nan, "")] * EVENTS][:EVENTS]
    parts += [_EVENT.pack(at_s, _cut(sentence, EVENT_BYTES)) for at_s, sentence in events]
    body = b"".join(parts)
    return body + _CHECK.pack(zlib.crc32(body))


def unpack(data: bytes) -> Reading | None:
    """The reading of a page; None of anything else, half written or of another version."""
    if len(data) != PAGE_BYTES or not data.startswith(MAGIC):
        return None
    body = data[: -_CHECK.size]
    if _CHECK.unpack(data[-_CHECK.size :])[0] != zlib.crc32(body):
        return None
    numbers = _NUMBERS.unpack_from(body, len(MAGIC))
    gains = numbers[len(FIGURES) :]
    texts_at = len(MAGIC) + _NUMBERS.size
    state, engine, throttling = map(_text, _TEXTS.unpack_from(body, texts_at))
    events = [(at_s, _text(text)) for at_s, text in _EVENT.iter_unpack(body[texts_at + _TEXTS.size :])]
    return Reading(
        **dict(zip(FIGURES, numbers, strict=False)),
        gains=None if all(map(math.isnan, gains)) else gains,
        state=state,
        engine=engine,
        throttling=throttling,
        events=tuple(_present(events)),
    )


def read(folder: Path) -> Reading | None:
    """The last reading that the box left in ``folder``; None if there is none, or it was being written."""
    try:
        return unpack(files.read_bounded(folder / NAME, PAGE_BYTES))
    except (OSError, UserError):
        return None


class Page:
    """The box's end: the file, as long as somebody watches."""

    def __init__(self, folder: Path) -> None:
        """Make it anew in ``folder``, whoever left what there. Raises OSError."""
        self.path = folder / NAME
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self.path, flags, 0o600)
        os.fchmod(self._file, MODE)

    def write(self, reading: Reading) -> None:
        """Replace what is there. Raises OSError."""
        os.pwrite(self._file, pack(reading), 0)

    def close(self) -> None:
        """Remove it. Raises OSError."""
        os.close(self._file)
        self.path.unlink(missing_ok=True)


def _cut(text: str, most_bytes: int) -> bytes:
    """UTF-8 of at most so many bytes, no character in half."""
    return text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore").encode()


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "replace")


def _present(events: Iterable[tuple[float, str]]) -> list[tuple[float, str]]:
    return [(at_s, sentence) for at_s, sentence in events if sentence]

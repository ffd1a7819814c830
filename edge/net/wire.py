"""The messages between a box and the server that runs its engine: one frame a message, a header and a body.

``quietbox serve --boxes`` and ``edge.suppress.remote`` both import this file. (The wire format for other programs has
no header at all; ``edge.serve.bridge`` implements that one.)
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from edge import HOP_SAMPLES
from edge.dsp.spectrum import Floats

MARK, VERSION = b"QB", 1
HEAD = struct.Struct("<2sBBIqi")
"""Mark, version, kind, epoch, sequence number, delay; little-endian, 20 bytes."""
HOP_BYTES = 4 * HOP_SAMPLES
MOST_BYTES = 1024
"""No message is longer."""
BYTES_PER_S, BYTES_AT_ONCE = 480_000.0, 262_144.0
"""What either side may be sent, with 256 for each message on top: four times the 200 hops a second of real use."""
LOUDEST = 100.0
"""40 dB above full scale; samples beyond it, NaN and infinite ones are invalid."""


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1
    """Box: sent twice a second to connect and to keep the session."""
    WELCOME = 2
    """Answer: the engine's delay in samples at 16 kHz, and its name."""
    FULL = 3
    """Answer: too many boxes."""
    HOP = 4
    """Box: 80 samples, float32, 16 kHz."""
    CLEAN = 5
    """Answer: the engine's output for the hop with this number."""


@dataclass(frozen=True)
class Message:
    """One message, unpacked."""

    kind: Kind
    epoch: int = 0
    """A stream without a break has one epoch; another one begins with all states forgotten."""
    seq: int = 0
    """The hop's place in its epoch, from 0."""
    delay_samples: int = 0
    """How far the engine's output hop lies behind the hop with the same number."""
    body: bytes = b""

    @property
    def hop(self) -> Floats | None:
        """float32, 80 samples, a copy; None if the samples are invalid."""
        samples = np.frombuffer(self.body, "<f4").astype(np.float32)
        return samples if is_audio(samples) else None


def is_audio(samples: Floats) -> bool:
    """Whether all samples are finite and within ``LOUDEST``."""
    return not samples.size or bool(np.abs(samples).max() <= LOUDEST)  # NaN is not below anything


def pack(kind: Kind, epoch: int = 0, seq: int = 0, delay_samples: int = 0, body: bytes = b"") -> bytes:
    return HEAD.pack(MARK, VERSION, kind, epoch, seq, delay_samples) + body


def unpack(frame: bytes) -> Message | None:
    """A message, or None for anything that is not exactly one."""
    if not HEAD.size <= len(frame) <= MOST_BYTES:
        return None
    mark, version, kind, epoch, seq, delay_samples = HEAD.unpack_from(frame)
    body = frame[HEAD.size :]
    if mark != MARK or version != VERSION or kind not in Kind.__members__.values() or seq < 0 or delay_samples < 0:
        return None
    if kind in (Kind.HOP, Kind.CLEAN) and len(body) != HOP_BYTES:
        return None
    return Message(Kind(kind), epoch, seq, delay_samples, body)

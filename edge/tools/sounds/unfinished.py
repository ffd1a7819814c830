"""Recordings whose header was not finished: the recorder died, the disk was full, or a stream was saved as it came.

A recorder writes the length of the sound last. Until then the header says zero, all ones, or what it was some time ago,
and libsndfile reads that much or nothing. ``examine`` compares the header with the size of the file; ``PatchedFile``
shows libsndfile the file with a header that makes it read to the end. The file itself is never written to.
"""

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

MOST_CHUNKS = 1000
"""Chunks that are looked through for the sound: no file in use has so many, and a forged one must end."""
FARTHEST = 1 << 50
"""Longer chunks are in no file, and cannot be sought."""
SHORTEST_TAIL = 4096
"""Bytes after the declared end that are fewer are taken for padding or a tag, not for sound."""
LOOKS, LOOK_BYTES = 64, 1 << 16
"""So many places of what follows are looked at, of any length: all zeros is padding."""
WRAP = 1 << 32
"""32-bit lengths count modulo this: a WAV file of 4.1 GiB says that it has 0.1."""
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
W64_SOUND = b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a")
AU_UNKNOWN = 0xFFFF_FFFF
"""The length that the format defines for a stream."""

NOT_FINISHED = "its header was not finished (the recorder stopped early?): read to the end of the file"


@dataclass(frozen=True)
class Sound:
    """Where the samples lie, by the header."""

    start: int
    """Offset of the first sample in the file."""
    declared: int
    """Bytes of samples by the header."""
    end_of_form: int | None
    """Where the whole of RIFF or FORM ends by its own length; None where the container has none."""
    patches: dict[int, bytes] = field(default_factory=dict)
    """What makes libsndfile read to the end of the file: offset and bytes."""
    chunk: str = "<I"
    """``struct`` format of the length of a chunk, behind its four letters; empty where there are no chunks."""


@dataclass(frozen=True)
class Finding:
    """``note``: what is wrong with the header, empty if nothing; ``patches``: what to read instead."""

    note: str = ""
    patches: dict[int, bytes] = field(default_factory=dict)


def examine(source: Path) -> Finding:
    """Raises OSError. Files that are not of the containers known here are left to libsndfile."""
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            sound = _find(file, size)
        except struct.error:  # the header ends in the middle
            return Finding()
        return _judge(file, size, sound) if sound and sound.start < size else Finding()


def _judge(file: BinaryIO, size: int, sound: Sound) -> Finding:
    there = size - sound.start
    if sound.declared > there:
        if sound.declared >= WRAP // 2 - 2 * SHORTEST_TAIL and there < sound.declared // 2:
            return Finding(NOT_FINISHED, sound.patches)  # a placeholder, such as 0xFFFFFFFF or 0x7FFFF000
        share = 100 * there / sound.declared
        return Finding(f"the file holds {share:.1f} % of the sound that its header declares", sound.patches)
    if not sound.declared:
        return Finding() if _chunk_at(file, sound.start, size, sound) else Finding(NOT_FINISHED, sound.patches)
    tail = there - sound.declared
    end = sound.start + sound.declared
    wrapped = tail >= WRAP - SHORTEST_TAIL and min(tail % WRAP, -tail % WRAP) <= SHORTEST_TAIL
    if not wrapped and sound.end_of_form is not None and sound.end_of_form - end > 1 and sound.end_of_form <= size:
        return Finding()  # chunks follow the sound and are counted
    if wrapped or (tail >= SHORTEST_TAIL and _is_sound(file, end, size, sound)):
        share = 100 * sound.declared / there
        return Finding(f"its header counts only {share:.1f} % of the sound: read to the end of the file", sound.patches)
    return Finding()


def _is_sound(file: BinaryIO, start: int, size: int, sound: Sound) -> bool:
    """Whether what follows the declared sound is neither a tag, nor a chunk, nor padding."""
    file.seek(start)
    if file.read(16).startswith(TAGS) or _chunk_at(file, start, size, sound):
        return False
    for look in range(LOOKS):
        file.seek(start + (size - start) * look // LOOKS)
        block = file.read(LOOK_BYTES)
        if block.count(0) < len(block):
            return True
    return False


def _chunk_at(file: BinaryIO, start: int, size: int, sound: Sound) -> bool:
    """Whether a chunk begins at ``start``: a name in letters and a length that fits in the file."""
    if not sound.chunk:
        return False
    step = struct.calcsize(sound.chunk)
    for at in (start, start + start % 2):
        file.seek(at)
        head = file.read(4 + step)
        if len(head) == 4 + step and all(32 <= sign < 127 for sign in head[:4]):
            length = struct.unpack(sound.chunk, head[4:])[0]
            if 0 <= length <= size - at - 4 - step + 1:
                return True
    return False


def _find(file: BinaryIO, size: int) -> Sound | None:
    """The sound of a file of a known container; None where it is another or has no sound. Raises struct.error."""
    head = file.read(40)
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
        return _riff(file, "<" if head[:4] == b"RIFF" else ">", head)
    if head[:4] in (b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _rf64(file, size)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(file, head)
    if head[:4] in (b".snd", b"dns."):
        order = ">" if head[:4] == b".snd" else "<"
        start, declared = struct.unpack(f"{order}II", head[4:12])
        patch = {8: struct.pack(f"{order}I", AU_UNKNOWN)}
        return Sound(start, declared, None, patch, chunk="")
    if head[:4] == b"caff":
        return _caf(file, size)
    if head[:4] == b"riff" and head[24:28] == b"wave":
        return _w64(file, head)
    return None


def _chunks(file: BinaryIO, at: int, layout: str) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset of its contents, length) of each chunk from ``at`` on; chunks have even lengths."""
    step = struct.calcsize(layout)
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(4 + step)
        if len(head) < 4 + step:
            return
        length = struct.unpack(layout, head[4:])[0]
        yield head[:4], at + 4 + step, length
        if not 0 <= length <= FARTHEST:
            return
        at += 4 + step + length + (length % 2 if step == 4 else 0)


def _riff(file: BinaryIO, order: str, head: bytes) -> Sound | None:
    for name, at, length in _chunks(file, 12, f"{order}I"):
        if name == b"data":
            # With these two libsndfile takes it for a file that was not closed, and reads beyond 4 GiB, too.
            patches = {4: struct.pack(f"{order}I", 8), at - 4: bytes(4)}
            end_of_form = struct.unpack(f"{order}I", head[4:8])[0] + 8
            return Sound(at, length, end_of_form, patches, chunk=f"{order}I")
    return None


def _rf64(file: BinaryIO, size: int) -> Sound | None:
    sizes_at, form, declared = 0, 0, 0
    for name, at, length in _chunks(file, 12, "<I"):
        if name == b"ds64":
            sizes_at = at
            file.seek(at)
            form, declared = struct.unpack("<QQ", file.read(16))
        if name == b"data":
            if not sizes_at:
                return None
            patches = {
                sizes_at: struct.pack("<QQQ", size - 8, size - at, 0),
                at - 4: struct.pack("<I", 0xFFFF_FFFF),
            }
            return Sound(at, declared if length == 0xFFFF_FFFF else length, form + 8, patches)
    return None


def _aiff(file: BinaryIO, head: bytes) -> Sound | None:
    for name, at, length in _chunks(file, 12, ">I"):
        if name == b"SSND":
            file.seek(at)
            offset = struct.unpack(">I", file.read(4))[0]  # before the first sample, beside the 8 bytes of two fields
            start = at + 8 + offset
            end_of_form = struct.unpack(">I", head[4:8])[0] + 8
            return Sound(start, max(0, length - 8 - offset), end_of_form, {at - 4: bytes(4)}, chunk=">I")
    return None


def _caf(file: BinaryIO, size: int) -> Sound | None:
    for name, at, length in _chunks(file, 8, ">q"):
        if name == b"data":  # four bytes count edits; -1 is defined as: to the end of the file
            declared = WRAP * WRAP if length < 0 else max(0, length - 4)
            return Sound(at + 4, declared, None, {at - 8: struct.pack(">q", size - at)}, chunk=">q")
    return None


def _w64(file: BinaryIO, head: bytes) -> Sound | None:
    """libsndfile reads these to the end whatever the header says; only the note is needed."""
    at = 40
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        name, length = struct.unpack("<16sQ", file.read(24))
        if name == W64_SOUND:
            return Sound(at + 24, max(0, length - 24), struct.unpack("<Q", head[16:24])[0], chunk="")
        if not 24 <= length <= FARTHEST:
            return None
        at += length + -length % 8
    return None


class PatchedFile(io.RawIOBase):
    """A file to read, some of whose bytes are others. An error of the disk reads as the end of the file."""

    def __init__(self, source: Path, patches: dict[int, bytes]) -> None:
        super().__init__()
        self._file = source.open("rb", buffering=0)
        self._patches = patches

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: "memoryview", /) -> int:  # type: ignore[override]
        at = self._file.tell()
        view = memoryview(buffer)
        try:
            count = self._file.readinto(view) or 0
        except OSError:
            return 0
        for place, data in self._patches.items():
            first, last = max(place, at), min(place + len(data), at + count)
            if first < last:
                view[first - at : last - at] = data[first - place : last - place]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

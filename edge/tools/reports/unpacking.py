"""Compressed data unpacked in pieces, with a bound on what comes out: a few kilobytes may unpack to a terabyte."""

import bz2
import importlib
import lzma
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Protocol

from edge import files

PIECE_BYTES = 1 << 20
MEMORY_BYTES = 128 << 20
"""For the dictionary of xz; its strongest preset needs 65 MiB."""
MOST_LAYERS = 2
"""Of compression inside compression."""


class Damaged(Exception):
    """The rest of the data cannot be read; the text says why and completes a sentence that begins with its name."""


class Decompressor(Protocol):
    """What ``bz2``, ``lzma`` and ``compression.zstd`` have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """The same for gzip."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail and not self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def unpacked(chunks: Iterable[bytes], most_bytes: int, layers: int = MOST_LAYERS) -> Iterator[bytes]:
    """``chunks`` unpacked if their first bytes say that they are compressed, else as they are; at most ``most_bytes``.

    Raises Damaged.
    """
    source = iter(chunks)
    first = b""
    while len(first) < 8 and (chunk := next(source, b"")):
        first += chunk
    source = chain([first] if first else [], source)
    made = _decompressor(first) if layers else None
    if made is None:
        yield from source
    else:
        yield from unpacked(_bounded(_pieces(source, first, made), most_bytes), most_bytes, layers - 1)


def _decompressor(first: bytes) -> Decompressor | None:
    if first.startswith(b"\x1f\x8b"):
        return _Gzip()
    if first.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_BYTES)
    if first.startswith(b"BZh"):
        return bz2.BZ2Decompressor()
    if first.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd()
    return None


def _zstd() -> Decompressor:
    try:
        library: Any = importlib.import_module("compression.zstd")  # from Python 3.14 on
    except ImportError:
        raise Damaged("is compressed with zstd; unpack it first with zstd -d, or pack it with gzip or xz") from None
    made: Decompressor = library.ZstdDecompressor()
    return made


def _pieces(source: Iterable[bytes], first: bytes, current: Decompressor) -> Iterator[bytes]:
    """Several files packed one behind the other count as one, as for gunzip."""
    try:
        for chunk in source:
            data = chunk
            while data or not current.needs_input:
                if current.eof:
                    data = (current.unused_data + data).lstrip(b"\0")  # the padding of tapes
                    if (made := _decompressor(data)) is None:
                        break
                    current = made
                yield current.decompress(data, PIECE_BYTES)
                data = b""
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise Damaged(f"is damaged: {error}") from None
    except MemoryError:
        raise Damaged("needs too much memory to be unpacked") from None
    if not current.eof:
        raise Damaged("ends too early: the copy was interrupted")


def _bounded(pieces: Iterator[bytes], most_bytes: int) -> Iterator[bytes]:
    left = most_bytes
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise Damaged(f"unpacks to more than {files.in_bytes(most_bytes)}; export fewer hours")
        if piece:
            yield piece

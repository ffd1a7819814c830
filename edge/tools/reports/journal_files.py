"""Records of the journal out of a file that somebody made with journalctl or with an exporter, whatever its form.

JSON objects in any arrangement (json, json-pretty, json-sse, json-seq, arrays, objects around them) and the export
format (systemd.io/JOURNAL_EXPORT_FORMATS); plain or as gzip, xz, bzip2 or, with Python 3.14, zstd; in UTF-8, UTF-16 or
UTF-32. Everything is read in pieces: memory and time are bounded for any input.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from edge import files
from edge.tools.reports.journal_reader import UNIT, NoHistory
from edge.tools.reports.unpacking import Damaged, unpacked

MOST_BYTES = 256 << 20
"""Of an export of the journal, packed and unpacked; a day has some 4 MB."""
MOST_RECORD = 1 << 18
"""Characters of a record; ours have 2500."""
MOST_DAMAGED = 10_000
"""Places that begin as a record and are none: with more, this is no export."""
MOST_OBJECTS = 1_000_000
MOST_LINES = 10_000_000
"""Of the export format. Both are more than MOST_BYTES of usual records have, and half a minute on a PC."""
MOST_WRAPPERS = 100
"""Objects longer than the buffer that are entered; each costs the time to parse the buffer."""
MOST_DEPTH = 4
"""Objects and arrays that an exporter may have put around the records."""
CHUNK_BYTES = 1 << 20
HEAD_BYTES = 4096
"""Looked at to recognise the form."""

STAMP = "__REALTIME_TIMESTAMP"
"""Every record has it (systemd.journal-fields(7)); µs since 1970."""
FIELD = re.compile(rb"_{0,2}[A-Z][A-Z0-9_]{0,63}(=|\r?$)")
"""What a line of the export format begins with."""
KNOWN = {
    b"LPKSHHRH": f"is a journal file of systemd itself: journalctl --file FILE -u {UNIT} -o json > j.json",
    b"PK\x03\x04": "is a zip archive; unpack it first",
    b"7z\xbc\xaf": "is a 7z archive; unpack it first",
    b"\x04\x22\x4d\x18": "is compressed with lz4; unpack it first: lz4 -d FILE",
    b"<!DOCTYPE": "is an HTML page, not an export of the journal",
}
"""First bytes of what is often given instead."""
SHORT = re.compile(
    r"(\w{3} [ \d]\d [\d:]{8}|(\w{3} )?\d{4}-\d\d-\d\d[T ][\d:.,+-]+|\[ *\d+\.\d+\]|\d{9,11}\.\d+)"
    r"( [A-Z]{3,5})? \S+ [^:]{1,80}: "
)
VERBOSE = re.compile(r"\w{3} \d{4}-\d\d-\d\d [\d:.]+ \S+ \[s=")
FORMS = "json, json-pretty, json-sse, json-seq, a JSON array, export; plain or as gzip, xz or bzip2"


class Export:
    """The records of one export, oldest first as they lie there."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        """``name`` stands in front of what is wrong."""
        self._name = name
        self._stream = stream
        self.records = 0
        self.damaged = 0
        self.cut = ""
        """Why the rest of the file could not be read; empty if it was read to its end."""
        self._head = b""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Each record with its fields by the journal's names. Raises NoHistory, OSError."""
        try:
            for record in self._all():
                self.records += 1
                yield record
        except Damaged as error:
            self.cut = str(error)
        if not self.records:
            raise NoHistory(f"{self._name} {self._unreadable()}")

    def _all(self) -> Iterator[Mapping[str, Any]]:
        pieces = _Pieces(_utf8(_Pieces(self._sound_part(unpacked(self._bounded(), MOST_BYTES)))))
        self._head = pieces.peek(HEAD_BYTES)
        first = self._head.lstrip().partition(b"\n")[0]
        if FIELD.match(first) and b"=" in first:
            yield from _export_format(pieces)
        else:
            yield from self._objects(pieces)

    def _sound_part(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from chunks
        except Damaged as error:
            self.cut = str(error)

    def _bounded(self) -> Iterator[bytes]:
        left = MOST_BYTES
        while chunk := self._stream.read(CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise NoHistory(f"{self._name} has more than {files.in_bytes(MOST_BYTES)}; export fewer hours")
            yield chunk

    def _objects(self, pieces: "_Pieces") -> Iterator[Mapping[str, Any]]:
        """Every JSON object with a time stamp, wherever it stands."""
        decoder = json.JSONDecoder()
        text = _Text(pieces)
        wrappers = objects = 0
        while text.seek("{"):
            if (objects := objects + 1) > MOST_OBJECTS:
                raise Damaged(f"has more than {MOST_OBJECTS} records; export fewer hours, and only -u {UNIT}")
            try:
                found, end = decoder.raw_decode(text.held, text.at)
            except RecursionError:
                text.skip_line()
            except ValueError as error:
                position = getattr(error, "pos", None)
                if position is not None and position - text.at > MOST_RECORD and wrappers < MOST_WRAPPERS:
                    wrappers += 1
                    text.at += 1  # longer than a record: what an exporter has put around them
                    continue
                self.damaged += 1
                if self.damaged > MOST_DAMAGED:
                    raise Damaged(f"has more than {MOST_DAMAGED} damaged records") from None
                text.skip_damage(position, str(error))
            else:
                size, text.at = end - text.at, end
                if size <= MOST_RECORD or STAMP not in found:
                    yield from _records_in(found)

    def _unreadable(self) -> str:
        """What is in the file, if no records are, and what to do."""
        if self.cut:
            return self.cut
        head = self._head
        for first, what in KNOWN.items():
            if head.startswith(first):
                return what.replace("FILE", self._name)
        if head[257:262] == b"ustar":
            return "is a tar archive; unpack it first"
        lines = [line for line in head.decode(errors="replace").splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith("-- ")] or lines[:1]
        again = f"write it with `journalctl -u {UNIT} -o json`"
        if not lines:
            return f"is empty; {again}"
        if lines[0].startswith("-- "):
            return f'has no records ("{lines[0][:60]}"); {again} --since=-1d'
        if VERBOSE.match(lines[0]):
            return f"is journalctl's verbose text; {again}"
        if SHORT.match(lines[0]):
            return f"is journalctl's short text, which has no figures; {again}"
        if "\ufffd" in lines[0] or "\0" in lines[0]:
            return f"is neither text nor compressed text ({FORMS} can be read)"
        return f"has no records of the journal; {again} ({FORMS} can be read)"


class _Pieces:
    """Bytes that come in chunks, taken in other amounts."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = b""
        self._at = 0

    def peek(self, count: int) -> bytes:
        """The next ``count`` bytes, fewer at the end; they stay."""
        while len(self._held) - self._at < count and self._more():
            pass
        return self._held[self._at : self._at + count]

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes, fewer at the end."""
        taken = self.peek(count)
        self._at += len(taken)
        return taken

    def line(self, most: int) -> bytes | None:
        """The next line without its end, of a longer one the first ``most`` bytes; None at the end."""
        kept: bytes | None = None
        while (end := self._held.find(b"\n", self._at)) < 0:
            rest = self.take(len(self._held) - self._at)
            kept = ((kept or b"") + rest)[:most] if rest else kept
            if not self._more():
                return kept
        rest = self.take(end - self._at)
        self._at += 1
        return ((kept or b"") + rest)[:most]

    def _more(self) -> bool:
        if not (chunk := next(self._chunks, b"")):
            return False
        self._held, self._at = self._held[self._at :] + chunk, 0
        return True

    def skip(self, count: int) -> None:
        """Drop bytes without holding them."""
        while count > 0 and (dropped := self.take(min(count, CHUNK_BYTES))):
            count -= len(dropped)

    def chunks(self) -> Iterator[bytes]:
        """The rest."""
        held, self._held = self._held[self._at :], b""
        self._at = 0
        if held:
            yield held
        yield from self._chunks


class _Text:
    """The text in which objects are looked for: at least ``MOST_RECORD`` characters from ``at`` on, fewer at the end.

    So whatever does not parse is damaged, not cut off by the buffer.
    """

    def __init__(self, pieces: _Pieces) -> None:
        self._chunks = pieces.chunks()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.held = ""
        self.at = 0

    def seek(self, sign: str) -> bool:
        """Move ``at`` to the next ``sign``; False at the end."""
        while True:
            if (found := self.held.find(sign, self.at)) >= 0:
                self.at = found
                while len(self.held) - self.at < MOST_RECORD and self._more():
                    pass
                return True
            self.at = len(self.held)
            if not self._more():
                return False

    def skip_line(self) -> None:
        """Move ``at`` behind the next end of a line."""
        while (found := self.held.find("\n", self.at)) < 0:
            self.at = len(self.held)
            if not self._more():
                return
        self.at = found + 1

    def skip_damage(self, position: int | None, reason: str) -> None:
        """Move ``at`` to where the parser stopped; behind the line where it did not say so or read to the end."""
        if position is None or reason.startswith("Unterminated"):
            self.skip_line()
        else:
            self.at = max(self.at + 1, position)

    def _more(self) -> bool:
        if not (chunk := next(self._chunks, b"")):
            return False
        self.held, self.at = self.held[self.at :] + self._decoder.decode(chunk), 0
        return True


def _records_in(found: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The object, or those that an exporter has put into it."""
    if isinstance(found, dict) and STAMP in found:
        yield found
    elif depth < MOST_DEPTH and isinstance(found, dict | list):
        for inner in found.values() if isinstance(found, dict) else found:
            yield from _records_in(inner, depth + 1)


def _export_format(pieces: _Pieces) -> Iterator[Mapping[str, Any]]:
    """Fields as NAME=VALUE, or NAME, 8 bytes of length and the value; an empty line ends a record. Of a field that is
    there twice the first counts."""
    fields: dict[str, Any] = {}
    for name, value in _export_fields(pieces):
        if name:
            fields.setdefault(name, value)
            continue
        if STAMP in fields:
            yield fields
        fields = {}


def _export_fields(pieces: _Pieces) -> Iterator[tuple[str, str]]:
    """(name, value); a name that is empty ends a record."""
    for _ in range(MOST_LINES):
        if (line := pieces.line(MOST_RECORD)) is None:
            break
        plain = line.rstrip(b"\r")
        if not plain:
            yield "", ""
        elif not FIELD.match(plain):
            continue
        elif b"=" in plain:
            name, _, value = plain.partition(b"=")
            yield name.decode(errors="replace"), value.decode(errors="replace")
        else:
            size = int.from_bytes(pieces.take(8), "little")
            value = pieces.take(size) if size <= MOST_RECORD else b""
            pieces.skip(size - len(value) + 1)
            yield plain.decode(errors="replace"), value.decode(errors="replace")
    else:
        raise Damaged(f"has more than {MOST_LINES} lines; export fewer hours")
    yield "", ""


def _utf8(pieces: _Pieces) -> Iterator[bytes]:
    """The same text as UTF-8 without a byte-order mark; what is no text passes as it is."""
    head = pieces.peek(64)
    encoding = _encoding(head)
    if not encoding:
        pieces.skip(3 if head.startswith(codecs.BOM_UTF8) else 0)
        yield from pieces.chunks()
        return
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    for chunk in pieces.chunks():
        if text := decoder.decode(chunk):
            yield text.lstrip("\ufeff").encode(errors="replace")


def _encoding(head: bytes) -> str:
    """UTF-16 or 32 by its mark, or by the zeros that ASCII has there; else empty."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = head[::2], head[1::2]
    if len(head) >= 16 and not any(odd) and all(even):
        return "utf-16-le"
    return "utf-16-be" if len(head) >= 16 and not any(even) and all(odd) else ""

"""Every form in which people export a journal is read, what cannot be is named in one line, nothing is unbounded."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import resource
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report_page import line, quietbox

from edge import UserError
from edge.tools.reports import journal_files, unpacking
from edge.tools.reports.report import entries, from_file
from edge.tools.reports.timeline import Entry

RECORDS = [
    json.loads(line(60 * number, f'minute {number}: "\u00fc" {{x}} [y]', "statistics", queue_ms=number))
    | {"_BOOT_ID": "ab" * 16, "__MONOTONIC_TIMESTAMP": str(number * 60_000_000), "SYSLOG_TIMESTAMP": None}
    for number in range(40)
]
LINES = "".join(f"{json.dumps(record)}\n" for record in RECORDS)
EXPECTED = entries(LINES)


def in_export_format(records: list[dict[str, object]], end: bytes = b"\n") -> bytes:
    out = bytearray()
    for record in records:
        for name, value in sorted(record.items(), key=lambda item: item[0] == "MESSAGE"):
            data = str(value).encode()
            out += name.encode() + (b"=" + data + end if name != "MESSAGE" else b"\n" + len(data).to_bytes(8, "little"))
            out += data + b"\n" if name == "MESSAGE" else b""
        out += end
    return bytes(out)


def pretty(records: list[dict[str, object]]) -> str:
    return "\n".join(json.dumps(record, indent="\t") for record in records)


FORMS = {
    "json": LINES,
    "CRLF": LINES.replace("\n", "\r\n"),
    "json-pretty": pretty(RECORDS),
    "json-sse": "".join(f"data: {json.dumps(record)}\n\n" for record in RECORDS),
    "json-seq": "".join(f"\x1e{json.dumps(record)}\n" for record in RECORDS),
    "array": json.dumps(RECORDS),
    "array over lines": json.dumps(RECORDS, indent=2, ensure_ascii=False),
    "array of a record a line": "[\n" + ",\n".join(json.dumps(record) for record in RECORDS) + "\n]\n",
    "objects around a list": json.dumps({"took": 3, "hits": {"hits": [{"_source": record} for record in RECORDS]}}),
    "without line ends": "".join(json.dumps(record) for record in RECORDS),
    "reboots and other lines": f"-- Journal begins --\n{LINES}-- No more --\n",
    "export": in_export_format(RECORDS).decode("latin-1"),
    "export with CRLF": in_export_format(RECORDS, b"\r\n").decode("latin-1"),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "gzip in pieces": lambda data: gzip.compress(data[:5000]) + gzip.compress(data[5000:]) + b"\0" * 512,
    "xz in gzip": lambda data: gzip.compress(lzma.compress(data)),
}
ENCODINGS = {
    "utf-8": "utf-8",
    "utf-8-sig": "utf-8-sig",
    "PowerShell": "utf-16",
    "utf-16-le": "utf-16-le",
    "utf-16-be": "utf-16-be",
    "utf-32": "utf-32",
}


def read(data: bytes, name: str = "-") -> tuple[list[Entry], list[str]]:
    return from_file(name, io.BytesIO(data))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str) -> None:
    assert read(FORMS[form].encode("latin-1" if form.startswith("export") else "utf-8")) == (EXPECTED, [])


@pytest.mark.parametrize("packer", PACKERS)
def test_every_compression_is_read(packer: str) -> None:
    assert read(PACKERS[packer](LINES.encode())) == (EXPECTED, [])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_read(encoding: str) -> None:
    text = "".join(f"{json.dumps(record, ensure_ascii=False)}\r\n" for record in RECORDS)
    assert read(text.encode(ENCODINGS[encoding])) == (EXPECTED, [])
    twice = text.encode(ENCODINGS[encoding]) * 2  # > x, then >> x writes a second mark
    assert read(twice) == (EXPECTED * 2, [])


def test_chunks_of_any_size_make_no_difference() -> None:
    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 7))

    for data in (LINES.encode(), gzip.compress(LINES.encode()), in_export_format(RECORDS), LINES.encode("utf-16")):
        assert from_file("-", Dribble(data)) == (EXPECTED, [])


def test_a_long_export_of_an_exporter_is_read_whole() -> None:
    """One line of several MB, longer than any buffer."""
    many = RECORDS * 200
    for around in (many, {"logs": many}, [{"stream": {}, "values": many}]):
        data = json.dumps(around).encode()
        assert len(data) > 2 * journal_files.CHUNK_BYTES
        assert read(data) == (EXPECTED * 200, [])


KILOBYTE = b"\x00\x01\xff" * 400
UNREADABLE = {
    "empty": (b"", "is empty; write it with `journalctl -u quietbox -o json`"),
    "blank": (b"\n\n \r\n", "is empty"),
    "no entries": (b"-- No entries --\n", 'has no records ("-- No entries --")'),
    "short": (b"Dec 01 16:10:32 desk-1 quietbox[612]: state: running\n", "is journalctl's short text"),
    "short-full": (b"Tue 2026-12-01 16:10:32 UTC desk-1 quietbox[612]: x\n", "is journalctl's short text"),
    "short-iso-precise": (b"2026-12-01T16:10:32.123456+0000 desk-1 quietbox[612]: x\n", "is journalctl's short text"),
    "short-monotonic": (b"[   12.345678] desk-1 quietbox[612]: x\n", "is journalctl's short text"),
    "short, UTF-16": ("Dec 01 16:10:32 desk-1 quietbox[612]: x\r\n".encode("utf-16"), "is journalctl's short text"),
    "short, gzip": (gzip.compress(b"Dec 01 16:10:32 desk-1 quietbox[612]: x\n"), "is journalctl's short text"),
    "verbose": (b"Tue 2026-12-01 16:10:32.1 UTC [s=ab;i=1]\n    PRIORITY=6\n", "is journalctl's verbose text"),
    "cat": (b"state: running\n", "has no records of the journal; write it with"),
    "journal file": (b"LPKSHHRH" + KILOBYTE, "journalctl --file standard input -u quietbox -o json > j.json"),
    "zip": (b"PK\x03\x04" + KILOBYTE, "is a zip archive; unpack it first"),
    "tar.gz": (gzip.compress(b"a" * 257 + b"ustar\0" + KILOBYTE), "is a tar archive; unpack it first"),
    "lz4": (b"\x04\x22\x4d\x18" + KILOBYTE, "is compressed with lz4"),
    "picture": (b"\x89PNG\r\n\x1a\n" + KILOBYTE, "is neither text nor compressed text"),
    "page": (b"<!DOCTYPE html>\n<html>", "is an HTML page"),
    "our settings": (b"[gate]\non = true\n", "has no records of the journal"),
    "JSON of something else": (b'{"a": [1, {"b": 2}]}\n', "has no records of the journal"),
    "gzip cut in its header": (gzip.compress(LINES.encode())[:8], "ends too early: the copy was interrupted"),
    "damaged gzip": (gzip.compress(LINES.encode())[:10] + KILOBYTE, "is damaged: "),
    "damaged xz": (lzma.compress(LINES.encode())[:30] + KILOBYTE, "is damaged: "),
    "others' records": (
        b'{"__REALTIME_TIMESTAMP": "1", "MESSAGE": "x"}\n' * 3,
        "has 3 records, but none of the box with its figures",
    ),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_is_named_in_one_line(what: str) -> None:
    data, said = UNREADABLE[what]
    with pytest.raises(UserError) as caught:
        read(data)
    assert str(caught.value).startswith("standard input ") and said in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_zstd_is_read_or_the_fix_is_named(tmp_path: Path) -> None:
    packed = tmp_path / "a.zst"
    try:
        subprocess.run(["zstd", "-q", "-o", packed], input=LINES.encode(), check=True)
    except FileNotFoundError:
        packed.write_bytes(b"\x28\xb5\x2f\xfd" + KILOBYTE)
    try:
        import compression.zstd  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"is compressed with zstd; unpack it first with zstd -d"):
            from_file(str(packed), io.BytesIO())
    else:
        assert from_file(str(packed), io.BytesIO()) == (EXPECTED, [])


def test_a_copy_that_was_interrupted_shows_what_there_is() -> None:
    found, notes = read(gzip.compress(LINES.encode())[:-300])
    assert found == EXPECTED[: len(found)] and 0 < len(found) < 40
    assert notes[0] == (
        f"standard input ends too early: the copy was interrupted; the {len(found)} records before that are shown"
    )
    assert read(LINES.encode()[:-20]) == (EXPECTED[:-1], ["standard input: 1 damaged records are left out"])
    cut = json.dumps(RECORDS).encode()[:-300]
    assert read(cut)[0] == EXPECTED[:-1]
    assert read(in_export_format(RECORDS)[:-300])[0][:38] == EXPECTED[:38]


def test_a_damaged_record_costs_itself_only() -> None:
    for damage in (
        '{"a": "b',
        '{"a": }',
        "{",
        '{"__REALTIME_TIMESTAMP": "1", "A": "x\n"}',
        "}}}",
        '{"a": ' * 5000,
    ):
        text = LINES.replace("\n", f"\n{damage}\n", 1)
        assert [entry.sentence for entry in read(text.encode())[0]] == [entry.sentence for entry in EXPECTED], damage


def test_two_machines_in_one_file_are_reported() -> None:
    two = [record | {"_MACHINE_ID": name * 32} for name in "ab" for record in RECORDS]
    _, notes = read("".join(f"{json.dumps(record)}\n" for record in two).encode())
    assert notes == ["standard input mixes 2 machines; `journalctl _HOSTNAME=NAME` selects one"]


class Endless(io.RawIOBase):
    """A stream that never ends."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self.parts, self.taken = parts, 0

    def read(self, size: int = -1) -> bytes:
        self.taken += 1
        return next(self.parts)


def deflated_zeros(megabytes: int) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


ENDLESS: dict[str, Callable[[], Iterator[bytes]]] = {
    "one line": lambda: itertools.repeat(b"x" * (1 << 20)),
    "one string": lambda: itertools.chain([b'{"a": "'], itertools.repeat(b"x" * (1 << 20))),
    "one list": lambda: itertools.chain([b'{"a": ['], itertools.repeat(b"1," * (1 << 19))),
    "one field": lambda: itertools.chain([b"__CURSOR=1\nMESSAGE\n" + b"\xff" * 8], itertools.repeat(bytes(1 << 20))),
    "fields": lambda: itertools.repeat(b"A=" + b"x" * (1 << 20)),
    "brackets": lambda: itertools.repeat(b"[" * (1 << 20)),
    "objects": lambda: itertools.repeat(b'{"a":' * (1 << 17)),
    "braces": lambda: itertools.repeat(b"{" * (1 << 20)),
    "empty lines": lambda: itertools.repeat(b"\n" * (1 << 20)),
    "bomb": lambda: iter([deflated_zeros(40), b""]),
    "bomb in a bomb": lambda: iter([gzip.compress(gzip.compress(deflated_zeros(40))), b""]),
    "bombs": lambda: itertools.repeat(deflated_zeros(8)),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_what_never_ends_ends_here(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds are 32 MB here instead of 256, to save time."""
    monkeypatch.setattr(journal_files, "MOST_BYTES", 32 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, stream = time.monotonic(), Endless(ENDLESS[kind]())
    with pytest.raises(UserError) as caught:
        from_file("-", stream)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 60 and stream.taken < 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_a_bomb_names_its_bound() -> None:
    with pytest.raises(unpacking.Damaged, match="unpacks to more than 1 MiB; export fewer hours"):
        list(unpacking.unpacked([deflated_zeros(2)], 1 << 20))


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device"])
def test_a_path_that_is_no_file_never_blocks(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "j"
    {"FIFO": os.mkfifo, "folder": os.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[kind](path)
    with pytest.raises(UserError, match=f"is a {kind}; a regular file is needed, or - for standard input"):
        from_file(str(path), io.BytesIO())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([*b'{}[]",:\n\r\x1e \\aA=_1\xff\x00', *range(256)]), max_size=200).map(bytes)
    | st.binary(max_size=300),
    st.sampled_from(list(PACKERS)),
    st.booleans(),
)
def test_any_bytes_are_records_or_one_line(junk: bytes, packer: str, in_front: bool) -> None:
    data = PACKERS[packer](junk + b"\n" + LINES.encode() if in_front else junk)
    try:
        found, notes = read(data)
        assert found and all("\n" not in note for note in notes)
    except UserError as error:
        assert "\n" not in str(error)


def test_the_command_reports_what_it_left_out(tmp_path: Path) -> None:
    (tmp_path / "day.json.gz").write_bytes(gzip.compress(LINES.encode("utf-16"))[:-30])
    done = quietbox("--file", str(tmp_path / "day.json.gz"), "-o", str(tmp_path / "a.html"))
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "the copy was interrupted" in done.stderr
    assert "<h2>Latency and queue" in (tmp_path / "a.html").read_text()


def test_the_number_of_records_and_lines_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_files, "MOST_OBJECTS", 30)
    monkeypatch.setattr(journal_files, "MOST_LINES", 100)
    found, notes = read(LINES.encode())
    assert found == EXPECTED[:30] and "has more than 30 records; export fewer hours, and only -u quietbox" in notes[0]
    found, notes = read(in_export_format(RECORDS))
    assert found and found == EXPECTED[: len(found)] and "has more than 100 lines; export fewer hours" in notes[0]


def test_a_week_in_the_export_format_takes_seconds() -> None:
    week = in_export_format(RECORDS * 250)
    began = time.monotonic()
    assert read(week) == (EXPECTED * 250, [])
    assert time.monotonic() - began < 60

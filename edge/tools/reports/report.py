"""`quietbox report`: the last day as one HTML page, drawn from the journal or from an export of it."""

import io
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from edge import files
from edge.files import atomic
from edge.journal import PREFIX
from edge.tools.reports.journal_files import MOST_BYTES, STAMP, Export
from edge.tools.reports.journal_reader import MOST_RECORDS, UNIT, NoHistory
from edge.tools.reports.report_page import page
from edge.tools.reports.timeline import Entry


def from_file(name: str, standard_input: BinaryIO) -> tuple[list[Entry], list[str]]:
    """(The box's records in the order of the file, what else there is to say): of an export of the journal in any form
    that ``journal_files`` reads, or of ``standard_input`` where the name is "-".

    Raises UserError, OSError.
    """
    shown = "standard input" if name == "-" else name
    with _opened(name, standard_input) as stream:
        export = Export(stream, shown)
        found = deque(_entries(export), MOST_RECORDS)
        if not found:
            raise NoHistory(
                f"{shown} has {export.records} records, but none of the box with its figures: write it with "
                f"`journalctl -u {UNIT} -o json`, without --output-fields"
            )
    return list(found), list(_notes(export, found, shown))


def entries(text: str) -> list[Entry]:
    """The box's records of what `journalctl -o json` printed, in the order of the journal; the rest is skipped."""
    try:
        return list(_entries(Export(io.BytesIO(text.encode(errors="surrogateescape")), "the journal")))
    except NoHistory:
        return []


def write(records: Iterable[Entry], target: Path) -> None:
    """Draw the records into ``target``, whole or not; raises NoHistory, OSError."""
    atomic.write(target, page(list(records)).encode(errors="backslashreplace"))


@contextmanager
def _opened(name: str, standard_input: BinaryIO) -> Iterator[BinaryIO]:
    if name == "-":
        yield standard_input
        return
    try:
        descriptor = files.open_regular(Path(name))
    except files.BadFile as error:
        raise NoHistory(f"{error}, or - for standard input") from None
    with open(descriptor, "rb") as stream:
        if (size := os.fstat(descriptor).st_size) > MOST_BYTES:
            most = files.in_bytes(MOST_BYTES)
            raise NoHistory(f"{name} has {files.in_bytes(size)}, at most {most} are read; export fewer hours")
        yield stream


def _notes(export: Export, found: deque[Entry], name: str) -> Iterator[str]:
    if export.cut:
        yield f"{name} {export.cut}; the {export.records} records before that are shown"
    if (damaged := export.damaged - bool(export.cut)) > 0:  # the last one is where it was cut
        yield f"{name}: {damaged} damaged records are left out"
    if len(found) == MOST_RECORDS:
        yield f"{name}: only the last {MOST_RECORDS} records are shown"
    machines = {entry.boot.partition("/")[0] for entry in found} - {""}
    if len(machines) > 1:
        yield f"{name} mixes {len(machines)} machines; `journalctl _HOSTNAME=NAME` selects one"


def _entries(records: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
    return (entry for record in records if (entry := _entry(record)) is not None)


def _entry(raw: Mapping[str, Any]) -> Entry | None:
    try:
        at_s = int(_text(raw[STAMP])) / 1e6
        priority = int(_text(raw.get("PRIORITY", 6)))
        time.localtime(at_s)
        fields = {
            sys.intern(key.removeprefix(PREFIX).lower()): _text(value)  # a year has 500 000 times the same names
            for key, value in raw.items()
            if key.startswith(PREFIX)
        }
        if "event" not in fields:
            return None
        boot = _text(raw.get("_BOOT_ID"))
        machine = f"{_text(raw.get('_MACHINE_ID'))}/{boot}" if boot else ""
        since_s = int(_text(raw["__MONOTONIC_TIMESTAMP"])) / 1e6 if "__MONOTONIC_TIMESTAMP" in raw else None
        return Entry(at_s, fields.pop("event"), _text(raw.get("MESSAGE")), priority, fields, machine, since_s)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, OSError):
        return None


def _text(value: Any) -> str:
    """journalctl writes bytes that are no text as a list of numbers, a repeated field as a list, a huge one as null."""
    if isinstance(value, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in value):
        return bytes(value).decode(errors="replace")
    return "" if value is None else str(value[0] if isinstance(value, list) and value else value)

"""Reading the journal back: the box's records of the last hours, its last warning; and whether systemd runs here.

systemd's own library (systemd-python) where it is installed, else journalctl. Only for commands: each call into the
library holds Python's lock while it waits, so nothing here belongs into the process that plays.
"""

import json
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from edge import UserError
from edge.journal import PREFIX, WARNING
from edge.tools.reports.timeline import STEP_S

UNIT = "quietbox"
OF_THE_UNIT = {"_SYSTEMD_UNIT": f"{UNIT}.service"}
"""journald writes this field itself: no other program can claim to be the box."""
MOST_RECORDS = 150_000
"""What is read of the journal at most, the newest: a hundred days of statistics."""
MOST_OLDER = 1000
"""So many records in a row from before the time asked for, and there are no newer ones below them."""
ASK_S = 10.0
"""How long `quietbox doctor` waits for journalctl; a journal of gigabytes on a slow card takes seconds."""

Match = Mapping[str, str]


class NoHistory(UserError):
    """No record to draw; the text says why and the way out."""


def booted() -> bool:
    """Whether systemd is this machine's service manager (sd_booted(3))."""
    try:
        import systemd.daemon as daemon  # optional, see the extra `systemd`
    except ImportError:
        return Path("/run/systemd/system").is_dir()
    return bool(daemon.booted())


def from_journal(hours: float, match: Match = OF_THE_UNIT) -> str:
    """The box's records of the last ``hours``, a JSON object a line as `journalctl -o json` prints them, oldest first.

    ``match``: fields that select them, for the library. Raises NoHistory if the journal may not be read.
    """
    since_s = max(0.0, time.time() - 3600 * hours)
    records = [*_read(match, since_s)]
    if records:
        return "".join(f"{json.dumps(record)}\n" for record in reversed(records))
    return _from_journalctl(since_s)  # also where the library found nothing: journalctl says why


def last_warning(match: Match = OF_THE_UNIT) -> str:
    """The newest warning or error of the box since this boot, in one line; empty if there is none to be read."""
    for record in _read(match, this_boot=True):
        if int(record["PRIORITY"]) <= WARNING:
            return record["MESSAGE"].partition("\n")[0]
    order = ["journalctl", "-u", UNIT, "-b", "-p", "warning", "-n", "1", "-o", "cat", "--no-pager", "-q"]
    try:
        done = subprocess.run(order, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip().partition("\n")[0]


def _read(match: Match, since_s: float = 0.0, this_boot: bool = False) -> Iterator[dict[str, str]]:
    """Records since ``since_s`` (Unix time), newest first, through systemd's library; none where it is not installed or
    may not read. A Pi has no clock of its own and starts with a time of the past: records of such a time are read where
    they stand between others, or belong to a boot that has others."""
    try:
        import systemd.journal as journal  # optional, see the extra `systemd`
    except ImportError:
        return
    try:
        with journal.Reader(flags=journal.LOCAL_ONLY) as reader:
            for field, value in match.items():
                reader.add_match(**{field: value})
            if this_boot:
                reader.this_boot()
            reader.seek_tail()
            yield from _since(map(_plain, _newest_first(reader)), since_s)
    except OSError:
        return


def _newest_first(reader: Any) -> Iterator[Mapping[str, Any]]:
    for _ in range(MOST_RECORDS):
        if not (fields := reader.get_previous()):
            return
        yield fields


def _since(records: Iterable[dict[str, str]], since_s: float) -> Iterator[dict[str, str]]:
    """Of records in the journal's order, newest first, those since ``since_s``; it ends after MOST_OLDER others."""
    older: list[dict[str, str]] = []
    last: dict[str, str] = {}
    for record in records:
        if int(record["__REALTIME_TIMESTAMP"]) >= since_s * 1e6:
            yield from older
            yield record
            older, last = [], record
        elif len(older) < MOST_OLDER:
            older.append(record)
        else:
            break
    if "__MONOTONIC_TIMESTAMP" not in last:
        return
    for record in older:  # the clock of the oldest boot may have been set within the time asked for
        if record.get("_BOOT_ID") != last.get("_BOOT_ID") or "__MONOTONIC_TIMESTAMP" not in record:
            return
        set_by_s = _power_on_s(last) - _power_on_s(record)
        if abs(set_by_s) <= STEP_S or int(record["__REALTIME_TIMESTAMP"]) / 1e6 + set_by_s < since_s:
            return
        yield record


def _power_on_s(record: Mapping[str, str]) -> float:
    """By the clock at that record."""
    return (int(record["__REALTIME_TIMESTAMP"]) - int(record["__MONOTONIC_TIMESTAMP"])) / 1e6


def _plain(fields: Mapping[str, Any]) -> dict[str, str]:
    """A record of the library as `journalctl -o json` has it: what the report reads of it, as text."""
    stamps = {"__REALTIME_TIMESTAMP": str(round(fields["__REALTIME_TIMESTAMP"].timestamp() * 1e6))}
    if "__MONOTONIC_TIMESTAMP" in fields:
        since = fields["__MONOTONIC_TIMESTAMP"].timestamp
        stamps["__MONOTONIC_TIMESTAMP"] = str(round(since / timedelta(microseconds=1)))
    for name in ("_BOOT_ID", "_MACHINE_ID"):
        if name in fields:
            stamps[name] = fields[name].hex
    found = {name: _text(value) for name, value in fields.items() if name.startswith(PREFIX) or name == "MESSAGE"}
    priority = str(fields.get("PRIORITY", 6))
    return {"MESSAGE": "", **found, "PRIORITY": priority, **stamps}


def _text(value: object) -> str:
    """The library leaves bytes that are not text as they are, and a repeated field as a list."""
    if isinstance(value, list) and value:
        value = value[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _from_journalctl(since_s: float) -> str:
    since = f"--since=@{since_s:.0f}"
    command = ["journalctl", "-u", UNIT, "-o", "json", "--no-pager", "-q", "-n", str(MOST_RECORDS), since]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        complaint = "" if done.stdout else _may_not_read()
    except OSError as error:
        raise NoHistory(
            f"journalctl does not run ({error.strerror}); on another machine give --file, the output of "
            f"`journalctl -u {UNIT} -o json`"
        ) from None
    if complaint:
        raise NoHistory(complaint)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise NoHistory(f"journalctl failed: {lines[-1]}")
    return done.stdout.decode(errors="replace")


def _may_not_read() -> str:
    """Nothing was found: because we may not see it? journalctl hints at that only where -q does not stop it."""
    command = ["journalctl", "-u", UNIT, "-n", "1", "--no-pager"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if b"systemd-journal" in done.stderr or b"insufficient permissions" in done.stderr:
        return (
            "no permission to read the system's journal; use sudo, or `sudo adduser $USER systemd-journal` and log in "
            "again"
        )
    return ""

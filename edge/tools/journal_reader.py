"""Reading the journal back: the box's records of the last hours, its last warning; and whether systemd runs here.

systemd's own library (systemd-python) where it is installed, else journalctl. Only for commands: each call into the
library holds Python's lock while it waits, so nothing here belongs into the process that plays.
"""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edge import UserError
from edge.journal import PREFIX, WARNING

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
    since_s = time.time() - 3600 * hours
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
    may not read. Older ones in between are skipped: a Pi has no clock of its own and starts with a time of the past."""
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
            older = read = 0
            while read < MOST_RECORDS and older < MOST_OLDER and (fields := reader.get_previous()):
                at_s = fields["__REALTIME_TIMESTAMP"].timestamp()
                read, older = read + 1, older + 1 if at_s < since_s else 0
                if not older:
                    yield _plain(fields, at_s)
    except OSError:
        return


def _plain(fields: Mapping[str, Any], at_s: float) -> dict[str, str]:
    """A record of the library as `journalctl -o json` has it: what the report reads of it, as text."""
    found = {name: _text(value) for name, value in fields.items() if name.startswith(PREFIX) or name == "MESSAGE"}
    priority = str(fields.get("PRIORITY", 6))
    return {"MESSAGE": "", **found, "PRIORITY": priority, "__REALTIME_TIMESTAMP": str(round(at_s * 1e6))}


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

"""What the box tells: records in journald's own words, the same to a real journald, and what if nobody hears."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_socket import JOURNALD, Listener, decoded, with_private_journald
from machine import with_namespaces

from edge import journal
from edge.journal import FIELDS, KINDS, Journal, datagram, markdown, notify, record

ROOT = Path(__file__).parents[2]
KEYS = {field.key for field in FIELDS}


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    return Listener(str(tmp_path / "socket"))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.from_regex(r"\A[A-Z][A-Z0-9_]{0,20}\Z"), st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_survives_the_protocol(fields: dict[str, str]) -> None:
    assert decoded(datagram(fields)) == fields if fields else datagram(fields) == b"\n"


def test_half_a_character_costs_that_character_only() -> None:
    assert decoded(datagram({"MESSAGE": "a\udcffb"})) == {"MESSAGE": "a?b"}


def test_a_record_arrives_with_its_fields(tmp_path: Path, listener: Listener) -> None:
    reported = Journal(str(tmp_path / "socket"))
    reported.report("last minute: fine", "statistics", state="running", queue_ms=20.5, temperature_c=None)
    reported.report("two\nlines", "waiting")
    reported.finish()
    first, second = map(decoded, listener.until(2))
    assert first == {
        "MESSAGE": "last minute: fine",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "quietbox",
        "QUIETBOX_EVENT": "statistics",
        "QUIETBOX_STATE": "running",
        "QUIETBOX_QUEUE_MS": "20.5",
    }
    assert second["MESSAGE"] == "two\nlines" and second["PRIORITY"] == "4"


def test_the_tables_name_each_thing_once_and_in_journalds_alphabet() -> None:
    assert len(KEYS) == len(FIELDS) and len({kind.name for kind in KINDS}) == len(KINDS)
    for key in KEYS:
        assert re.fullmatch(r"QUIETBOX_[A-Z0-9_]{1,55}", key)
    for row in (*FIELDS, *KINDS):
        assert row.meaning and "|" not in row.meaning


def test_the_readme_has_the_tables_of_the_code() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "edge.journal"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == markdown()
    assert all(f"| `{key}` |" in markdown() for key in KEYS)


def test_every_kind_that_the_code_tells_is_in_the_table() -> None:
    known = {kind.name for kind in KINDS}
    for name in ("box", "service"):
        text = (ROOT / "edge" / f"{name}.py").read_text()
        reported = re.findall(r"health\.event\(\s*\"([a-z]+)\"", text)
        assert reported or name == "service"
        assert {*reported} <= known


class Unspeakable:
    def __str__(self) -> str:
        raise ValueError("not today")


def test_what_is_not_in_the_tables_is_left_out_and_said_once(tmp_path: Path, listener: Listener) -> None:
    """A field added in a hurry must not end the service's main thread."""
    reported = Journal(str(tmp_path / "socket"))
    for _ in range(3):
        reported.report("x", "state", state="running", stat="running", event="mine")
    reported.report("y", "no such kind")
    reported.finish()
    heard = [decoded(data) for data in listener.until(6)]
    told_of = [fields["MESSAGE"] for fields in heard]
    assert told_of[:2] == ["x", "not in the tables of edge/journal.py, left out: field 'stat', field 'event'"]
    assert told_of[2:] == ["x", "x", "y", "not in the tables of edge/journal.py, left out: event 'no such kind'"]
    assert {fields["QUIETBOX_EVENT"] for fields in heard} == {"state", "journal"}
    assert all({*fields} <= {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", *KEYS} for fields in heard)


@pytest.mark.parametrize("value", ["nul\0", "bell\x07 \x1b[2J", "\x9b31m", Unspeakable(), b"\xff", object(), "\udcff"])
def test_any_value_becomes_text_that_steers_no_terminal(value: object, capfd: pytest.CaptureFixture[str]) -> None:
    fields = record(f"{value}" if isinstance(value, str) else "x", "state", state=value)
    assert decoded(datagram(fields)).keys() == fields.keys()
    for text in fields.values():
        assert all(sign.isprintable() or sign in "\n\t\udcff" for sign in text)
    reported = Journal()
    reported.report("two\nlines", "state", state=value)
    reported.finish()
    assert capfd.readouterr().err == "two\\x0alines\n"


def test_without_a_journal_it_is_a_plain_line(capfd: pytest.CaptureFixture[str]) -> None:
    reported = Journal()
    reported.report("state: running", "state", state="running")
    reported.finish()
    assert capfd.readouterr().err == "state: running\n"


def test_a_journald_that_is_away_costs_the_fields_and_not_the_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reported = Journal(str(tmp_path / "nobody"))
    reported.report("state: running", "state", state="running")
    reported.finish()
    assert capfd.readouterr().err == "state: running\n"


def test_a_journald_that_takes_nothing_stops_nobody_and_the_loss_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SEND_S", 0.01)
    deaf = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    deaf.bind(str(tmp_path / "deaf"))
    reported = Journal(str(tmp_path / "deaf"))
    worst_s = 0.0
    for number in range(5 * journal.RECORDS_KEPT):
        began = time.monotonic()
        reported.report(f"record {number}", "state")
        worst_s = max(worst_s, time.monotonic() - began)
    over = time.monotonic() + 20
    said = ""
    while "records were lost" not in said:
        assert time.monotonic() < over, said[-500:]
        time.sleep(0.05)
        said += capfd.readouterr().err
    assert worst_s < 1.0
    kept = said.count("record ") + 2 * int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    lost = int(re.findall(r"(\d+) records were lost", said)[0])
    assert lost > 0 and lost + kept >= 5 * journal.RECORDS_KEPT


def test_systemd_hears_what_it_is_told(tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "socket"))
    assert notify("READY=1", "STATUS=läuft")
    assert listener.until(1) == ["READY=1\nSTATUS=läuft".encode()]
    abstract = f"quietbox-test-{os.getpid()}"
    second = Listener("\0" + abstract)
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + abstract)
    assert notify("WATCHDOG=1")
    assert second.until(1) == [b"WATCHDOG=1"]


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "vsock:2:1234", "relative", "@" + "x" * 500])
def test_a_systemd_that_does_not_listen_is_no_trouble(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("READY=1")


def test_a_systemd_that_takes_nothing_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    deaf.bind(str(tmp_path / "deaf"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "deaf"))
    began = time.monotonic()
    assert not all([notify("WATCHDOG=1") for _ in range(2000)])
    assert time.monotonic() - began < 5


# A real journald, on a /run of its own.

REAL = """
$PYTHON -c '
from edge.journal import Journal, SOCKET
sent = Journal(SOCKET)
sent.report("last minute: fine", "statistics", state="running", queue_ms=20.5, throttling="")
sent.report("two\\nlines", "waiting")
sent.join(0.5); sent.finish()
'
for i in $(seq 100); do [ "$(journalctl -q QUIETBOX_EVENT=waiting -o cat | wc -l)" = 2 ] && break; sleep 0.1; done
journalctl -q -o json SYSLOG_IDENTIFIER=quietbox
kill $journald
"""


@pytest.fixture(scope="module")
def real_records() -> Iterator[list[dict[str, str]]]:
    if not JOURNALD.exists() or not shutil.which("journalctl"):
        pytest.skip("needs systemd-journald: apt-get install systemd")
    done = with_private_journald(REAL, ROOT)
    assert done.returncode == 0, done.stderr
    yield [json.loads(line) for line in done.stdout.splitlines()]


@with_namespaces
def test_a_real_journald_understands_us(real_records: list[dict[str, str]]) -> None:
    first, second = real_records
    assert first["MESSAGE"] == "last minute: fine" and first["_TRANSPORT"] == "journal"
    assert first["QUIETBOX_EVENT"] == "statistics" and first["QUIETBOX_QUEUE_MS"] == "20.5"
    assert first["QUIETBOX_THROTTLING"] == ""
    assert second["MESSAGE"] == "two\nlines" and second["PRIORITY"] == "4"

"""Reading the journal back, with systemd's own library and without it."""

import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from journal_socket import JOURNALD, with_private_journald

from edge.journal import notify
from edge.tools.doctor import service
from edge.tools.reports import journal_reader, report

ROOT = Path(__file__).parents[2]
SCRIPT = """
$PYTHON -c '
from edge.journal import Journal, SOCKET
from hw.board import gpio
sent = Journal(SOCKET)
sent.report("last minute: fine", "statistics", state="running", queue_ms=20.5, throttling="")
sent.report("two\\nlines", "waiting")
sent.report("not \\udcff text", "state")
sent.join(0.5); sent.finish()
try: raise ValueError("a loose wire")
except ValueError as fault: gpio._report(fault)
'
for i in $(seq 100); do [ "$(journalctl -q QUIETBOX_EVENT=panel -o cat | wc -l)" -ge 1 ] && break; sleep 0.1; done
journalctl -q -o json SYSLOG_IDENTIFIER=quietbox > /run/journalctl
forms="json json-pretty json-sse json-seq export short short-iso short-unix short-monotonic verbose cat with-unit"
for form in $forms; do
    journalctl -q -o $form SYSLOG_IDENTIFIER=quietbox > /run/$form
done
forms="$forms" $PYTHON -c '
import io, json, os
from edge import UserError
from edge.tools.reports import journal_reader, report
def of_form(form):
    try: return report.from_file(f"/run/{form}", io.BytesIO()) == (entries[1], [])
    except UserError as error: return str(error)
ours = {"SYSLOG_IDENTIFIER": "quietbox"}
entries = [report.entries(text) for text in (journal_reader.from_journal(1, ours), open("/run/journalctl").read())]
later = [entry.event for entry in report.entries(journal_reader.from_journal(1, {**ours, "QUIETBOX_EVENT": "waiting"}))]
print(json.dumps({
    "read": [entry.event for entry in entries[0]],
    "same": entries[0] == entries[1],
    "forms": {form: of_form(form) for form in os.environ["forms"].split()},
    "boots": [len({entry.boot for entry in entries[0]}), all(entry.monotonic_s for entry in entries[0])],
    "panel": entries[0][-1].sentence,
    "filtered": later,
    "warning": journal_reader.last_warning({**ours, "QUIETBOX_EVENT": "waiting"}),
    "nothing": journal_reader.last_warning({"SYSLOG_IDENTIFIER": "nobody"}),
}))
'
kill $journald
"""


def hide_library(folder: Path) -> None:
    """Put a module into ``folder`` in whose place systemd's library is not found."""
    (folder / "systemd.py").write_text("raise ImportError('not installed')\n")


def test_a_real_journal_read_by_the_library_is_what_journalctl_prints() -> None:
    if os.getuid() or not JOURNALD.exists() or not shutil.which("unshare") or not shutil.which("journalctl"):
        pytest.skip("needs root, unshare and systemd-journald: apt-get install systemd")
    pytest.importorskip("systemd.journal")
    done = with_private_journald(SCRIPT, ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["read"] == ["statistics", "waiting", "state", "panel"] and found["same"]
    assert found["boots"] == [1, True]
    for form in ("json", "json-pretty", "json-sse", "json-seq", "export"):
        assert found["forms"][form] is True
    for form in ("short", "short-iso", "short-unix", "short-monotonic", "with-unit"):
        assert "is journalctl's short text, which has no figures; write it with" in found["forms"][form]
    assert "is journalctl's verbose text; write it with" in found["forms"]["verbose"]
    assert "has no records of the journal; write it with" in found["forms"]["cat"]
    assert found["panel"].startswith("panel: the GPIO process failed") and "a loose wire" in found["panel"]
    assert found["filtered"] == ["waiting"]
    assert (found["warning"], found["nothing"]) == ("two", "")


@pytest.mark.parametrize("hidden", [False, True], ids=["with the library", "without it"])
def test_journalctl_is_asked_where_the_library_finds_nothing(
    hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps({"__REALTIME_TIMESTAMP": "1795000000000000", "MESSAGE": "x", "QUIETBOX_EVENT": "start"})
    (tmp_path / "journalctl").write_text(f"#!/bin/sh\necho '{line}'\n")
    (tmp_path / "journalctl").chmod(0o755)
    if hidden:
        hide_library(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        for name in [name for name in sys.modules if name.partition(".")[0] == "systemd"]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    nobody = {"SYSLOG_IDENTIFIER": "nobody-of-this-name"}
    assert [entry.event for entry in report.entries(journal_reader.from_journal(1, nobody))] == ["start"]
    assert journal_reader.last_warning(nobody) == line
    assert journal_reader.booted() == Path("/run/systemd/system").is_dir()


def test_a_failed_service_says_its_last_warning() -> None:
    unit = {"LoadState": "loaded", "ActiveState": "failed", "SubState": "failed", "Result": "watchdog"}
    finding = service._service_state(unit, lambda: "no microphone")
    assert finding.found.endswith("its result was watchdog; its last warning: no microphone")
    assert service._service_state(unit).found.endswith("its result was watchdog")


def test_a_systemd_that_does_not_read_stops_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd's library waits here with Python's lock held; the sender of our own does neither."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unread:
        unread.bind(f"{folder}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        sender = threading.Thread(target=lambda: [notify("WATCHDOG=1") for _ in range(2000)], daemon=True)
        began = time.monotonic()
        sender.start()
        sender.join(30)
        assert not sender.is_alive() and time.monotonic() - began < 20
        assert not notify("WATCHDOG=1")  # full, and said so

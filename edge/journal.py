"""What the box reports: one table of fields and events, and the connections to journald and systemd.

``python -m edge.journal`` prints both tables as they stand in the README.

Records go to journald in its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), one datagram each. The C call
behind systemd-python does the same but keeps the interpreter while it waits: a journald that paused for 3 s stopped
the sound for 3 s. A socket of our own lets go, and needs no compiler on the board.
"""

import contextlib
import os
import queue
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge.console import journal_reads_stderr, printable, run_main

PREFIX = "QUIETBOX_"
SOCKET = "/run/systemd/journal/socket"
RECORDS_KEPT = 200
RECENT_KEPT = 8
"""Sentences kept for whoever watches the box."""
SEND_S = 1.0
"""How long journald may make a record wait before the plain line on stderr has to do."""
FINISH_S = 0.2
ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6
"""syslog's priorities."""


@dataclass(frozen=True)
class Field:
    """One field of a record; ``name`` is what `quietbox status --json` calls it."""

    name: str
    unit: str
    meaning: str

    @property
    def key(self) -> str:
        """What the journal calls it."""
        return PREFIX + self.name.upper()


@dataclass(frozen=True)
class Kind:
    """One kind of record, the value of QUIETBOX_EVENT."""

    name: str
    priority: int
    meaning: str


FIELDS = (
    Field("event", "", "kind of record, see the next table; in every record"),
    Field("state", "", "waiting, running, bypass, muted, degraded or fault"),
    Field("engine", "", "active noise suppressor"),
    Field("source", "", "source of a command: button, signal, knob, usb (the PC at the cable) or order (the FIFO)"),
    Field("seconds", "s", "duration of sound that this record covers"),
    Field("level_in_dbfs", "dBFS", "mean level of the microphone"),
    Field("level_out_dbfs", "dBFS", "mean level of the output, volume included"),
    Field("volume_db", "dB", "headphone volume of the settings, 0 is full scale; absent where only the cable plays"),
    Field("mixer", "", "the output card's own volume as read back, or why it was not set (status only)"),
    Field("speech_share", "0..1", "share of time with speech"),
    Field(
        "noise_removed_db",
        "dB",
        "noise reduction in speech pauses; bypass and mute excluded; absent if nothing was measured",
    ),
    Field("feedforward_db", "dB", "of it by high-pass, hum canceller and reference microphone"),
    Field("feedback_db", "dB", "of it by the suppressor"),
    Field(
        "noise_floor_in_dbfs", "dBFS", "noise floor of the microphone: minimum power over one second, speech included"
    ),
    Field("noise_floor_out_dbfs", "dBFS", "noise floor of the cleaned sound, before the volume"),
    Field(
        "snr_in_db", "dB", "estimated SNR of speech over that floor; absent with too little speech or too low an SNR"
    ),
    Field("snr_out_db", "dB", "estimated SNR of the cleaned sound"),
    Field("voice_kept_db", "dB", "change of the speech level by the same estimate; 0: speech unchanged"),
    Field("sleep_share", "0..1", "share of time in which the network slept because there was no speech"),
    Field("reference_db", "dB", "attenuation by the reference microphone's canceller now; absent without one"),
    Field("reference_state", "", "state of that canceller: adapting, frozen, or off and why"),
    Field("reference_resets", "", "how often it diverged and was reset"),
    Field("antinoise_tones_hz", "Hz", "tones cancelled at the ear now"),
    Field("antinoise_db", "dB", "attenuation of these tones"),
    Field("howl_events", "", "feedback loops detected (the microphone hears the output again)"),
    Field("howl_drop_db", "dB", "gain reduction in force because of feedback"),
    Field("xruns_in", "", "overruns of the microphone's buffer"),
    Field("xruns_out", "", "underruns of the output"),
    Field("dropped_hops", "", "hops dropped because the output's queue was full"),
    Field("clips", "", "samples at full scale"),
    Field("queue_ms", "ms", "duration of sound in the output's queue"),
    Field("drift_ppm", "ppm", "clock of the output relative to the microphone's; positive: faster"),
    Field("latency_ms", "ms", "microphone to jack, calculated"),
    Field("hop_p50_us", "us", "median time to process a hop of 5 ms"),
    Field("hop_p99_us", "us", "99th percentile of that time"),
    Field("hop_max_us", "us", "maximum of that time"),
    Field("late_hops", "", "hops whose processing took longer than 5 ms"),
    Field("mains_hz", "Hz", "frequency of the cancelled mains hum; 0: none"),
    Field("temperature_c", "°C", "processor temperature; absent if the board does not report it"),
    Field("throttling", "", "under-voltage, throttling or heat in words; empty when all is well"),
    Field("memory_mb", "MB", "resident memory of the service"),
    Field("cpu_share", "1 = one core", "processor time of the service, without the process of LED and button"),
    Field("microphone", "", "the device as opened"),
    Field("output", "", "the device as opened"),
    Field("remote_answered", "", "hops answered by the remote engine since it was opened; absent without one"),
    Field("remote_filled", "", "hops processed by the local network instead"),
    Field("remote_switches", "", "switches between the two"),
    Field("remote_late", "", "answers that arrived too late"),
    Field("remote_lost", "", "hops without an answer"),
    Field("cable_state", "", "state of the output for other programs: waiting, unread or playing; absent without one"),
    Field("cable_xruns", "", "its underruns since the start"),
    Field("cable_dropped", "", "hops dropped because it was full although a program reads it, since the start"),
    Field("cable_failures", "", "how often it could not be opened or was lost, since the start"),
    Field("cable_queue_ms", "ms", "duration of sound in its queue"),
    Field("cable_drift_ppm", "ppm", "its clock relative to the microphone's; positive: faster"),
    Field("realtime", "", "SCHED_FIFO, or no"),
    Field("speaking", "", "true while speech is detected (status only)"),
    Field("pid", "", "process id (status only)"),
)

KINDS = (
    Kind("start", NOTICE, "the box has started"),
    Kind("stop", NOTICE, "the box has stopped"),
    Kind("statistics", INFO, "once a minute: the figures of that minute"),
    Kind("total", INFO, "at the end: the figures of the whole run"),
    Kind("state", NOTICE, "the state has changed"),
    Kind(
        "order",
        NOTICE,
        "bypass, mute, volume, limit or engine was changed, or an order refused; QUIETBOX_SOURCE: by what",
    ),
    Kind("devices", INFO, "a device was opened, with its format"),
    Kind("mixer", WARNING, "the output card's own volume could not be set, or was changed by another program"),
    Kind("waiting", WARNING, "a device is missing, busy or lost"),
    Kind("engine", WARNING, "an engine failed, was too slow, or is tried again"),
    Kind("reference", WARNING, "the reference microphone is ignored, and why; or it is used again"),
    Kind("xrun", WARNING, "the first xrun; further ones are counted in the statistics"),
    Kind("realtime", WARNING, "a privilege was refused: priority or locked memory"),
    Kind("settings", NOTICE, "the settings were read again, or are wrong"),
    Kind("panel", INFO, "LED, button and knob: which library drives them, or why they do not work"),
    Kind("cable", INFO, "the output for other programs"),
    Kind("board", WARNING, "under-voltage or throttling has begun or ended"),
    Kind("status", WARNING, "the status file cannot be written"),
    Kind("hang", ERROR, "a sound device hangs while the box stops"),
    Kind(
        "journal",
        WARNING,
        "records were lost because journald did not accept them, or contained fields that these tables do not list",
    ),
)

_KEYS = {field.name: field.key for field in FIELDS}
_PRIORITIES = {kind.name: kind.priority for kind in KINDS}


def record(sentence: str, kind: str, priority: int | None = None, **fields: Any) -> dict[str, str]:
    """The fields of one record, without control characters but line ends and tabs; never raises.

    Names and kinds are those of the tables: a field that is not there is left out, a kind that is not there becomes
    "journal" (``unnamed`` lists which). A value of None is left out.
    """
    known = kind if isinstance(kind, str) and kind in _PRIORITIES else "journal"
    entry = {
        "MESSAGE": _text(sentence),
        "PRIORITY": str(_PRIORITIES[known] if priority is None else priority),
        "SYSLOG_IDENTIFIER": "quietbox",
        _KEYS["event"]: known,
    }
    known_fields = {name: value for name, value in fields.items() if name in _KEYS and name != "event"}
    return entry | {_KEYS[name]: _text(value) for name, value in known_fields.items() if value is not None}


def unnamed(kind: str, fields: Mapping[str, object]) -> list[str]:
    """What in a record the tables do not name, in words."""
    kinds = [] if isinstance(kind, str) and kind in _PRIORITIES else [f"event {kind!r}"]
    return [*kinds, *(f"field {name!r}" for name in fields if name not in _KEYS or name == "event")]


def _text(value: object) -> str:
    try:
        return "\n".join("\t".join(map(printable, line.split("\t"))) for line in str(value).split("\n"))
    except Exception as fault:  # a value's own __str__
        return f"a {type(value).__name__} that cannot be written ({type(fault).__name__})"


def datagram(fields: Mapping[str, str]) -> bytes:
    """One record in journald's native protocol: ``KEY=value``, or key, length and value where the value has lines."""
    parts = []
    for key, value in fields.items():
        data = value.encode(errors="replace")
        if b"\n" in data:
            parts.append(key.encode() + b"\n" + len(data).to_bytes(8, "little") + data)
        else:
            parts.append(key.encode() + b"=" + data)
    return b"\n".join(parts) + b"\n"


class Journal(threading.Thread):
    """Records for the journal, or lines for the terminal, sent by a thread of their own: a reader that is slow or gone
    must not stop the box. What does not fit any more is lost and counted."""

    def __init__(self, path: str = "") -> None:
        """``path`` is journald's socket; the default is the system's if stderr belongs to it, else plain lines."""
        super().__init__(name="journal", daemon=True)
        self._under_journal = journal_reads_stderr()
        self._path = path or (SOCKET if self._under_journal else "")
        self._waiting: queue.Queue[dict[str, str] | None] = queue.Queue(RECORDS_KEPT)
        self.recent: deque[tuple[float, str]] = deque(maxlen=RECENT_KEPT)
        """The newest records but the statistics, oldest first: (seconds since the epoch, sentence)."""
        self._lost = 0
        self._reported: set[str] = set()
        """Names missing from the tables that were already reported."""
        self.start()

    def report(self, sentence: str, kind: str = "start", priority: int | None = None, **fields: Any) -> None:
        """Send one record; never blocks. ``kind`` and ``fields`` are names of the tables, the default of ``priority``
        is the kind's; what the tables do not name is left out, and reported once. Not to be called from a signal
        handler."""
        entry = record(sentence, kind, priority, **fields)
        if kind not in ("statistics", "total"):
            self.recent.append((time.time(), entry["MESSAGE"]))
        self._put(entry)
        fresh = [name for name in unnamed(kind, fields) if name not in self._reported]
        if fresh:
            self._reported.update(fresh)
            self._put(record(f"not in the tables of edge/journal.py, left out: {', '.join(fresh)}", "journal"))

    def _put(self, entry: dict[str, str] | None) -> None:
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            self._lost += 1

    def run(self) -> None:
        while (entry := self._waiting.get()) is not None:
            self._write(entry)
            if self._lost and self._waiting.empty():
                lost, self._lost = self._lost, 0
                self._write(record(f"{lost} records were lost: journald did not accept them in time", "journal"))

    def _write(self, entry: dict[str, str]) -> None:
        if self._path:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.settimeout(SEND_S)
                connection.sendto(datagram(entry), self._path)
                return
        mark = f"<{entry['PRIORITY']}>" if self._under_journal else ""
        with contextlib.suppress(OSError, ValueError):
            print(mark + printable(entry["MESSAGE"]), file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Send the rest, within ``FINISH_S``."""
        self._put(None)
        self.join(FINISH_S)


def notify(*lines: str) -> bool:
    """Notify systemd (sd_notify(3)): ``notify("READY=1", "STATUS=...")``. False if it does not listen; never blocks.

    ``systemd.daemon.notify`` is not used here for the reason of ``Journal``: once its socket was full, it waited with
    Python's lock held until the reader came back after 3 s; every other thread, the sound too, waited with it.
    """
    where = os.environ.get("NOTIFY_SOCKET", "")
    if not where.startswith(("/", "@")):
        return False
    address = "\0" + where[1:] if where.startswith("@") else where
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.setblocking(False)
            connection.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True


def markdown() -> str:
    """Both tables for the README."""
    lines = ["| field | unit | meaning |", "|---|---|---|"]
    lines += [f"| `{field.key}` | {field.unit} | {field.meaning} |" for field in FIELDS]
    lines += ["", "| `QUIETBOX_EVENT` | priority | meaning |", "|---|---|---|"]
    names = {ERROR: "error", WARNING: "warning", NOTICE: "notice", INFO: "info"}
    lines += [f"| `{kind.name}` | {names[kind.priority]} | {kind.meaning} |" for kind in KINDS]
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(lambda: print(markdown()), "journal")

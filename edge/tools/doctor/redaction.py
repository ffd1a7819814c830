"""What a bug report must not hold: keys, addresses, and the names of people, machines and networks."""

import re
import socket
from typing import Any

from edge.files.toml_edit import HEADER

PRIVATE_KEYS = {
    ("remote", "server"),
    ("remote", "server_key"),
    ("remote", "key_file"),
    ("bridge", "host"),
    ("bridge", "key_file"),
    ("bridge", "clients_file"),
}
"""Settings whose value says where somebody is or what opens a door."""
RECORD_FIELDS = (
    "__REALTIME_TIMESTAMP",
    "__MONOTONIC_TIMESTAMP",
    "_BOOT_ID",
    "PRIORITY",
    "MESSAGE",
    "SYSLOG_IDENTIFIER",
)
"""Of a journal record, beside our own fields."""
PATTERNS = (
    (re.compile(r"\b(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\b"), "[MAC]"),
    (re.compile(r"(?<![\w.])(?!127\.|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"), "[ADDRESS]"),
    (re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){4,7}[0-9A-Fa-f]{0,4}(?![\w:])"), "[ADDRESS]"),
    (re.compile(r"(?<![\w:])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4})*::(?:[0-9A-Fa-f]{1,4}:?)+(?![\w:])"), "[ADDRESS]"),
    (re.compile(r"(/home/|/Users/|/media/)[^/\s\"']+"), r"\1[USER]"),
    (re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"), "[EMAIL]"),
    (re.compile(r"(?<![^\s\"'])[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}(?![^\s\"',;])"), "[KEY]"),  # Z85, 32 bytes
    (re.compile(r"\b[0-9a-f]{32,64}\b"), "[ID]"),  # machine and boot ids, digests
)
"""What is taken out of every text, in this order."""


def text(given: str, host: str | None = None) -> str:
    """Any text without addresses, ids, keys, e-mail addresses, users' folders, and this machine's name."""
    for pattern, instead in PATTERNS:
        given = pattern.sub(instead, given)
    name = (host if host is not None else socket.gethostname()).split(".")[0]
    if len(name) > 1 and name not in ("localhost", "quietbox", "raspberrypi"):
        given = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "[HOST]", given)
    return given


def settings(given: str) -> str:
    """A settings file, line by line, without the values of ``PRIVATE_KEYS``; also where it is not valid."""
    section, lines = "", list[str]()
    for line in given.splitlines():
        if header := HEADER.fullmatch(line):
            section = header[1]
        name, equals, _ = line.partition("=")
        words = name.strip("# \t").split(".")
        path = (words[0], words[1]) if len(words) == 2 else (section, words[0])
        inline = any(f"{key}" in line for _, key in PRIVATE_KEYS) and "{" in line
        if equals and (path in PRIVATE_KEYS or inline):
            line = f"{name}{equals} [TAKEN OUT]"
        lines.append(text(line))
    return "\n".join(lines) + "\n"


def record(given: dict[str, Any]) -> dict[str, Any]:
    """A journal record with our own fields, time, priority and message; boots are numbered by whoever calls."""
    kept = {name: value for name, value in given.items() if name in RECORD_FIELDS or name.startswith("QUIETBOX_")}
    return {name: value if name == "_BOOT_ID" else text(str(value)) for name, value in kept.items()}

"""Orders to a running box: their words, and the FIFO in the runtime folder that carries them. No socket.

Root and the box's group may write to the FIFO, a line an order, with this module (`quietbox volume -20`) or without it
(``echo bypass on > /run/quietbox/orders``). The service reads it off the audio thread, a bounded number of bytes at a
time, and answers in its status.
"""

import contextlib
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import UserError, engines, runtime
from edge.config_rules import checked, complaint, key

NAME = "orders"
"""The FIFO's, in the runtime folder."""
MODE = 0o620
"""Its owner reads, the group writes."""
MOST_LINE_BYTES = 200
"""The longest order has 40."""
MOST_BYTES_AT_ONCE = 4096
"""Read at a time; what somebody writes beyond that waits in the kernel's 64 KiB, and then its writer waits."""
STEP_DB = 3.0
"""Of ``volume up`` and ``down``: clearly louder, yet no jump."""
ANSWER_S, ENGINE_ANSWER_S = 3.0, 60.0
"""How long an answer may take; an engine may have to be built on a slow board first."""
LOOK_S = 0.02
NOT_RUNNING = "quietbox is not running: systemctl start quietbox"

SWITCHES = ("on", "off", "toggle")
SETTINGS = {"limit": ("suppress", "limit_db"), "volume": ("playback", "volume_db")}
"""Order -> the setting it changes, a number."""
VERBS = ("bypass", "mute", *SETTINGS, "engine")
WATCH = "watch"
"""What `quietbox watch` writes, no order for people: the answer is the page of figures (``edge.meters``), and nothing
of it stands in status or journal."""
LINE = re.compile(r"(?P<words>[^#]*)(?:#(?P<token>[0-9a-f]{1,32}))?\s*")


class BadOrder(UserError):
    """What was written is not an order; the text names it and what is one."""


class NotObeyed(UserError):
    """The box runs and does not do it, or there is none; the text says why and what helps."""


@dataclass(frozen=True)
class Order:
    """One order that can be obeyed."""

    verb: str
    """One of ``VERBS``, or ``WATCH``."""
    value: str | float
    """``on``, ``off`` or ``toggle``; dB; ``up`` or ``down``; the name of an engine; nothing to ``watch``."""
    token: str = ""
    """Returned with the answer, so that whoever asked knows it for theirs."""

    def __str__(self) -> str:
        return f"{self.verb} {self.value if isinstance(self.value, str) else f'{self.value:g}'}"


def parse(line: str) -> Order:
    """The order that a line holds: ``VERB VALUE [#TOKEN]``. Raises BadOrder."""
    found = LINE.fullmatch(line) if len(line) <= MOST_LINE_BYTES else None
    words = found["words"].split() if found else []
    if not found or len(words) not in (1, 2) or words[0] not in (*VERBS, WATCH):
        raise BadOrder(f"{_shown(line)} is not an order; there are: {', '.join(VERBS)}")
    verb, value, token = words[0], words[1] if len(words) == 2 else "", found["token"] or ""
    if verb in ("bypass", "mute"):
        return Order(verb, _choice(verb, value or "toggle", SWITCHES), token)
    if verb == WATCH and not value:
        return Order(verb, "", token)
    if verb == WATCH:
        raise BadOrder(f"{_shown(line)} is not an order; {WATCH} takes no value")
    if verb == "engine":
        return Order(verb, _choice(verb, value, engines.CHOICES), token)
    if verb == "volume" and value in ("up", "down"):
        return Order(verb, value, token)
    return Order(verb, _number(verb, value), token)


def token_of(line: str) -> str:
    """The token of a line that may be no order; empty if it has none."""
    found = LINE.fullmatch(line) if len(line) <= MOST_LINE_BYTES else None
    return (found["token"] or "") if found else ""


def _choice(verb: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise BadOrder(
            f"{verb} {_shown(value) if value else 'alone'} is not an order; say one of: {', '.join(choices)}"
        )
    return value


def _number(verb: str, value: str) -> float:
    """A number within the range of the setting."""
    section, name = SETTINGS[verb]
    entry = key(section, name)
    try:
        return float(checked(entry, float(value)))
    except ValueError:
        try:
            why = complaint(section, entry, float(value))
        except ValueError:
            rule = entry.metadata
            why = f"{verb} takes a number from {rule['low']:g} to {rule['high']:g} dB, not {_shown(value)}"
        raise BadOrder(why) from None


def _shown(text: str) -> str:
    """What others wrote, short and with nothing in it that controls a terminal."""
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")


class Fifo:
    """The service's end: lines that others wrote."""

    def __init__(self, folder: Path) -> None:
        """Make it anew in ``folder``, whoever left what there. Raises OSError."""
        self.path = folder / NAME
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        os.mkfifo(self.path, 0o600)
        # Open for writing as well: with the last writer gone, a reader alone would meet the end of the file for ever.
        self._end = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.fchmod(self._end, MODE)
        self._rest = b""

    def lines(self) -> list[str]:
        """What has come since the last time, of the next ``MOST_BYTES_AT_ONCE``. Never waits."""
        try:
            data = os.read(self._end, MOST_BYTES_AT_ONCE)
        except BlockingIOError:
            return []
        *whole, rest = (self._rest + data).split(b"\n")
        self._rest = rest[: MOST_LINE_BYTES + 1]  # one too long stays too long, whatever follows
        return [line[: MOST_LINE_BYTES + 1].decode("utf-8", "replace") for line in whole if line.strip()]

    def close(self) -> None:
        """Nobody's orders are taken any more."""
        os.close(self._end)
        with contextlib.suppress(OSError):
            self.path.unlink()


def is_running() -> bool:
    """Whether there is a box to obey."""
    return runtime.running_folder() is not None


def send(order: Order) -> str:
    """Give a running box an order and wait for what it answers. Raises NotObeyed."""
    folder = runtime.running_folder()
    if folder is None:
        raise NotObeyed(NOT_RUNNING)
    token = secrets.token_hex(8)
    _write(folder / NAME, f"{order} #{token}\n".encode())
    over_s = time.monotonic() + (ENGINE_ANSWER_S if order.verb == "engine" else ANSWER_S)
    while time.monotonic() < over_s:
        time.sleep(LOOK_S)
        for entry in _answers(runtime.read_status()):
            if entry.get("token") == token:
                if not entry.get("done"):
                    raise NotObeyed(str(entry.get("answer")))
                return str(entry.get("answer"))
    raise NotObeyed("the box did not answer; see journalctl -u quietbox")


def ask_for_figures() -> Path:
    """Have the running box fill its page for some seconds (``metering.ASKED_S``); returns the folder where it lies.
    Raises NotObeyed."""
    folder = runtime.running_folder()
    if folder is None:
        raise NotObeyed(NOT_RUNNING)
    _write(folder / NAME, f"{WATCH}\n".encode())
    return folder


def _answers(status: dict[str, Any] | None) -> list[dict[str, Any]]:
    found = (status or {}).get("orders")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _write(path: Path, line: bytes) -> None:
    """One write of less than PIPE_BUF bytes, which the kernel never mixes with another's. Raises NotObeyed."""
    try:
        end = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY)
    except PermissionError:
        raise NotObeyed(
            f"{path} takes orders from root and the group {_group(path)}: run it with sudo, or "
            f"`sudo usermod -aG {_group(path)} $USER` and log in again"
        ) from None
    except OSError as error:
        raise NotObeyed(f"the running box takes no orders ({path}: {error.strerror}); restart it") from None
    try:
        if not stat.S_ISFIFO(os.fstat(end).st_mode):
            raise NotObeyed(f"{path} is not the box's FIFO; restart the box")
        os.write(end, line)
    except BlockingIOError:
        raise NotObeyed("too many orders are waiting; try again") from None
    finally:
        os.close(end)


def _group(path: Path) -> str:
    import grp  # of a message only

    try:
        return grp.getgrgid(path.stat().st_gid).gr_name
    except (OSError, KeyError):
        return "quietbox"

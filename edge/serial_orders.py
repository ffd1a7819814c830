"""Orders from the PC that holds the USB cable: a serial port beside the USB microphone, ``[cable] usb_orders``.

The PC writes a line (``volume -20``) to its /dev/ttyACM0 or COM port and reads one: ``ok volume -20 dB`` or ``error``
and why. ``status`` gives the line of `quietbox status`. Words in, words out; no sound passes here.

The other end is the kernel's /dev/ttyGS0, which ``hw.board.gadget`` makes. Whoever plugs in a PC writes to it, so it is
read without waiting, a bounded number of bytes and orders at a time; what is beyond that waits in the PC. An answer
that the PC does not fetch is dropped.
"""

import contextlib
import errno
import os
import secrets
import termios
import threading
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path

from edge.control import Control
from edge.net.budget import Budget
from edge.net.log_limit import LogLimit, printable
from edge.orders import MOST_BYTES_AT_ONCE, MOST_LINE_BYTES, BadOrder, parse
from hw.board.gadget import is_plugged_in

PORT = Path("/dev/ttyGS0")
"""The kernel's first serial gadget (u_serial); 60-quietbox.rules gives it to the group quietbox."""
LOOK_EVERY_S = 1.0
MISSING_S = 30.0
"""A port that cannot be opened for so long with a PC there is reported; its permissions may come a moment later."""
ORDERS_PER_S, ORDERS_AT_ONCE = 10.0, 20.0
"""As fast as somebody moves a slider; the rest waits in the PC."""
MOST_ANSWER = 400
"""Characters of an answer; the status has some 200."""
DONE, REFUSED = "ok ", "error "
"""How an answer begins. A terminal that echoes (every Linux one before ``stty raw -echo``) sends it back as a line,
which is ignored: an answer to it would be echoed, too, without end."""


class Port:
    """The serial port, raw: no echo, no signals, no translation of line ends."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if it is missing, forbidden or not a terminal."""
        self._end = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            tty.setraw(self._end, termios.TCSANOW)
        except termios.error as error:
            os.close(self._end)
            raise OSError(*error.args) from None
        self._rest = b""
        self._line_end = b"\n"
        self._cut = False

    def lines(self) -> list[str]:
        """What has come since the last time, of the next ``MOST_BYTES_AT_ONCE``, without blank lines and our own
        answers. A line ends in CR, LF or both. Never waits; raises OSError when the cable is unplugged."""
        try:
            data = os.read(self._end, MOST_BYTES_AT_ONCE)
        except BlockingIOError:
            return []
        if not data:  # how a terminal that was hung up reads
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        whole = (self._rest + data).splitlines(keepends=True)
        self._rest = b""
        if not whole[-1].endswith((b"\r", b"\n")):
            self._rest = whole.pop()[: MOST_LINE_BYTES + 1]  # one too long stays too long, whatever follows
        return [text for line in whole if (text := self._text(line))]

    def _text(self, line: bytes) -> str:
        text = line.rstrip(b"\r\n")[: MOST_LINE_BYTES + 1].decode("utf-8", "replace").strip(" \t")
        if not text or text.startswith((DONE, REFUSED)):
            return ""
        # PuTTY and the like send CR for the return key, and need CR LF to begin a new line.
        self._line_end = b"\r\n" if b"\r" in line[-2:] else b"\n"
        return text

    def answer(self, text: str) -> None:
        """One line of printable ASCII, dropped where there is no room for it. Never waits; raises OSError."""
        words = printable(text.replace("µ", "u"), MOST_ANSWER).encode("ascii", "replace") + self._line_end
        if self._cut:
            words = self._line_end + words
        with contextlib.suppress(BlockingIOError):
            self._cut = os.write(self._end, words) < len(words)

    def close(self) -> threading.Thread:
        """In the thread that is returned: the kernel waits up to 15 s for a PC to fetch many answers (u_serial.c,
        gs_close), and whoever opens the port meanwhile waits, too."""
        thread = threading.Thread(target=os.close, args=(self._end,), name="serial_close", daemon=True)
        thread.start()
        return thread


class SerialOrders:
    """Obeys what comes through the port, one order after the other, and answers each."""

    def __init__(
        self,
        control: Control,
        status: Callable[[], str],
        report: Callable[[str], None],
        path: Path = PORT,
        root: Path = Path("/"),
    ) -> None:
        """``control`` obeys these orders only, so that a PC can neither fill the queue of other orders nor displace
        their answers. ``status`` returns the line of `quietbox status`; ``report`` takes lines for the journal,
        ``root`` is ``/`` or a folder that stands for it where the USB device controllers are looked for."""
        self.path, self.root = path, root
        self._control, self._status, self._report = control, status, report
        self._complain = LogLimit(report)
        self._budget = Budget(ORDERS_PER_S, ORDERS_AT_ONCE)
        self._port: Port | None = None
        self._closing: threading.Thread | None = None
        self._lines: deque[str] = deque()
        self._pending = ""
        """The token of the order that has no answer yet, while an engine is built."""
        self._next_look_s = 0.0
        self._missing_since_s: float | None = None
        self._reported: set[str] = set()

    def take(self, now_s: float, wanted: bool) -> bool:
        """Obey what has come; whether anything was obeyed. ``now_s`` is monotonic time, ``wanted`` the setting."""
        obeyed = self._control.take([])
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + LOOK_EVERY_S
            self._look(now_s, wanted)
        if self._port is None:
            return obeyed
        try:
            return self._work(self._port) or obeyed
        except OSError:
            self.close()
            return obeyed

    def close(self) -> None:
        """Forget the PC and what it waits for."""
        self._lines.clear()
        self._pending = ""
        if self._port:
            self._closing = self._port.close()
            self._port = None

    def _look(self, now_s: float, wanted: bool) -> None:
        """Open the port if a PC is there, and close it if not: as long as it is open the kernel does not remove the
        gadget (u_serial.c, gserial_free_port)."""
        if not wanted or not is_plugged_in(self.root):
            self.close()
            self._missing_since_s = None
        elif self._port is None and not (self._closing and self._closing.is_alive()):
            try:
                self._port = Port(self.path)
            except OSError as error:
                self._missing(now_s, error)
            else:
                self._missing_since_s = None
                self._report_once("a PC at the USB port may give orders")

    def _missing(self, now_s: float, error: OSError) -> None:
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        elif now_s - self._missing_since_s >= MISSING_S:
            self._report_once(
                f"no orders through USB ({self.path}: {error.strerror}); sound continues; "
                "`sudo systemctl restart quietbox-gadget` makes the port"
            )

    def _report_once(self, sentence: str) -> None:
        if sentence not in self._reported:
            self._reported.add(sentence)
            self._report(sentence)

    def _work(self, port: Port) -> bool:
        """Read only when nothing is left of the last time: the rest waits in the PC, not here."""
        if not self._lines:
            self._lines.extend(port.lines())
        obeyed = False
        self._answer_pending(port)
        while self._lines and not self._pending and self._budget.take():
            obeyed |= self._obey(port, self._lines.popleft())
        return obeyed

    def _obey(self, port: Port, line: str) -> bool:
        """One line; whether there is news for the status."""
        if line == "status":
            port.answer(DONE + self._status())
            return False
        try:
            order = parse(line)
        except BadOrder as error:
            self._complain(f"order through USB refused: {error}")
            port.answer(f"{REFUSED}{error}")
            return False
        self._pending = secrets.token_hex(8)
        obeyed = self._control.take([f"{order} #{self._pending}"])
        self._answer_pending(port)
        return obeyed

    def _answer_pending(self, port: Port) -> None:
        if not self._pending:
            return
        for entry in self._control.answers:
            if entry["token"] == self._pending:
                self._pending = ""
                port.answer(f"{DONE if entry['done'] else REFUSED}{entry['answer']}")
                return

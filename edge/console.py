"""How every command of ours ends: one line or silence on a lost output, whatever the terminal or the pipe is.

``run_main`` stands at every ``if __name__ == "__main__"``. Needs nothing but Python.
"""

import codecs
import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from edge import UserError

PLAIN = {
    "\u00b5": "u",
    "\u03bc": "u",
    "\u00b0": "deg ",
    "\u00b1": "+-",
    "\u00d7": "x",
    "\u2192": "->",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u2013": "-",
    "\u2014": "-",
    "\u2026": "...",
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
}
"""Signs of our texts (micro, degree, plus-minus, dashes, an ellipsis ...) for an output whose encoding lacks them."""
PLAIN_ERRORS = "quietbox.plain"
"""The name of ``_plain`` among Python's handlers of encoding errors."""
INTERRUPTED = 130
"""Exit status of a shell's child that SIGINT ended."""


class _Step:
    """The line that ``step`` shows."""

    shown = False


def step(text: str) -> None:
    """What a command that takes seconds does just now, on a terminal's stderr; the next replaces it, "" removes it.

    No thread: a measurement would feel one.
    """
    if not text and not _Step.shown:
        return
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None and sys.stderr.isatty():
            print(f"\r\033[K{printable(text)}", end="", file=sys.stderr, flush=True)
            _Step.shown = bool(text)


def run_main(main: Callable[[], int | None], name: str, if_lost: int = 1) -> NoReturn:
    """``guarded``, and leave with its status. A command of a package with ``NEEDS_CHECKOUT = True`` ends with status 1
    where only the wheel is installed."""
    if _lacks_checkout():
        complain("needs a checkout of the project (its recordings, units and scripts), not only its wheel", name)
        sys.exit(1)
    sys.exit(guarded(main, name, if_lost))


def _lacks_checkout() -> bool:
    if (Path(__file__).parents[1] / "pyproject.toml").is_file():
        return False
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    parts = spec.parent.split(".") if spec and spec.parent else []
    packages = (sys.modules.get(".".join(parts[: count + 1])) for count in range(len(parts)))
    return any(getattr(package, "NEEDS_CHECKOUT", False) for package in packages)


def guarded(main: Callable[[], int | None], name: str = "quietbox", if_lost: int = 1) -> int:
    """``main``'s exit status (None is 0), or non-zero after at most one line ``NAME: what is wrong`` on stderr
    (a settings file has one for each fault).

    1 for a UserError, an OSError and where output was lost (closed stdout, full disk; a closed pipe in silence), 130
    after Ctrl-C. What the terminal's encoding lacks is written as in ``PLAIN``, else as \\xNN or \\uNNNN. SystemExit
    (argparse) passes where no output was lost; so do other exceptions, which are faults of ours. ``if_lost`` is the
    status where nothing but output was lost: 0 for what the box must not fail to start for.
    """
    _open_missing()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN_ERRORS)
    status, flushing = 1, False
    try:
        try:
            status = int(main() or 0)
        except SystemExit:
            sys.stdout.flush()
            raise
        flushing = True
        sys.stdout.flush()
        return status
    except UserError as error:
        complain_of(error, name)
    except BrokenPipeError:
        pass
    except OSError as error:
        complain(_why(error), name)
    except KeyboardInterrupt:
        complain("interrupted", name)
        status = INTERRUPTED
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush_or_drop(stream)
    return status or (if_lost if flushing else 1)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The first sign that cannot be encoded, as others write it; handler of encoding errors."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    if sign in PLAIN:
        return PLAIN[sign], error.start + 1
    replaced, _ = codecs.backslashreplace_errors(
        UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    )
    return str(replaced), error.start + 1


codecs.register_error(PLAIN_ERRORS, _plain)


def complain(text: str, name: str = "quietbox") -> None:
    """``NAME: text`` on stderr, as one line; a lost stderr is ignored."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{name}: {printable(text)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """One line: control characters, which file names may hold, as \\xNN, so that they cannot steer the terminal; so,
    too, the bytes of a name that is no UTF-8 (PEP 383)."""
    return "".join(_printable(ord(sign)) for sign in text)


def _printable(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    elif not (code < 32 or 127 <= code < 160):
        return chr(code)
    return f"\\x{code:02x}"


def describe(error: BaseException) -> str:
    """An exception as one line of at most 160 characters: its kind and its text."""
    line = printable(f"{type(error).__name__}: {' '.join(str(error).split())}")
    return line if len(line) <= 160 else f"{line[:157]}..."


def complain_of(error: UserError, name: str = "quietbox") -> None:
    """Each of the error's lines; for the journal all in one, which a service that is started again and again would
    flood."""
    for line in (str(error),) if journal_reads_stderr() else error.lines:
        complain(line, name)


def journal_reads_stderr() -> bool:
    """Whether systemd has tied stderr to the journal: JOURNAL_STREAM names its device and inode."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def leave_on_signals(name: str = "quietbox") -> None:
    """SIGTERM, and SIGHUP unless it is ignored (nohup), end the command by SystemExit(128 + number) after one line, so
    that half-written files are removed before it ends.
    """

    def leave(number: int, _: FrameType | None) -> None:
        for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(other, signal.SIG_IGN)  # what is being removed must not be left by a second signal
        complain(f"ended by {signal.Signals(number).name}", name)
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)


def _why(error: OSError) -> str:
    if error.filename is None and error.errno == errno.EBADF:
        return "standard output is closed"
    where = "output" if error.filename is None else os.fsdecode(error.filename)
    return f"{where}: {error.strerror or error}"


def _open_missing() -> None:
    """Give a closed stdin, stdout or stderr (``>&-``) something to be: else the first file opened would become it, and
    what is printed would go there. stdout becomes a thing that cannot be written, so that a loss is noticed.
    """
    flags = {0: os.O_RDONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}
    for number, how in flags.items():
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, how)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = _stream(0, "r")
    if sys.stdout is None:
        sys.stdout = _stream(1, "w")
    if sys.stderr is None:
        sys.stderr = _stream(2, "w")


def _stream(number: int, mode: str) -> IO[str]:
    return open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)


def _flush_or_drop(stream: IO[str]) -> None:
    """Drop the rest of a lost output, or Python would try again at its end and print a traceback."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)

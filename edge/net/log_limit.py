"""Log lines that others can cause: printable text, and a limited number of them."""

import time
import unicodedata
from collections.abc import Callable

from edge.net.budget import Budget

LINES_PER_S, LINES_AT_ONCE = 1 / 15, 20.0
"""Four lines a minute after the first twenty: some 6 000 a day at most, under a megabyte of journal."""
SUMMARY_S = 60.0


def printable(text: str | bytes, most: int = 80) -> str:
    """Text from others, for journal and terminal: nothing in it controls either of them, and it is short.

    Control and format characters, line separators, surrogates and private characters (Unicode's categories C, Zl, Zp)
    are dropped.
    """
    if isinstance(text, bytes):
        text = text[: 4 * most].decode(errors="replace")
    return "".join(sign for sign in text if unicodedata.category(sign)[0] != "C" and sign not in "\u2028\u2029")[:most]


class LogLimit:
    """Passes lines on up to a rate, and reports how many it left out."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._budget = Budget(LINES_PER_S, LINES_AT_ONCE)
        self._left_out = 0
        self._reported_s = time.monotonic()

    def __call__(self, sentence: str) -> None:
        if not self._budget.take():
            self._left_out += 1
            return
        if self._left_out and time.monotonic() - self._reported_s > SUMMARY_S:
            self._log(f"{self._left_out} more lines like these were left out")
            self._left_out, self._reported_s = 0, time.monotonic()
        self._log(sentence)

"""TOML that a user may have written, parsed in bounded time and memory.

``tomllib`` needs time for every part of a dotted key times all parts before it: 32 000 of them take minutes. No setting
has more than two, so a line with many dots is refused before it is parsed. Needs nothing but Python.
"""

import re
import tomllib
from typing import Any

MOST_BYTES = 64 << 10
"""Of a settings file: seven times the shipped one, which holds every key with a comment. The worst text that fits and
passes ``_check_lines`` keeps a PC's processor busy for half a second."""
MOST_DOTS = 16
"""In a line, outside of quotes and comments; an inline table with every key of the longest section has fewer."""
TOKENS = re.compile(r'"""|\'\'\'|"(?:[^"\\\n]|\\[^\n])*"?|\'[^\'\n]*\'?|#[^\n]*|\.|\n')
"""What hides a dot, a dot, and the end of a line. Every alternative always matches, so that it takes linear time."""


class BadToml(Exception):
    """The text is invalid or not accepted TOML; one line states why."""


def parse(text: str) -> dict[str, Any]:
    """The tables of a text of at most MOST_BYTES; raises BadToml."""
    if len(text) > MOST_BYTES:
        raise BadToml(f"has more than {MOST_BYTES >> 10} KiB")
    _check_lines(text)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise BadToml("not valid TOML: hundreds of nested brackets") from None
    except Exception as error:  # TOMLDecodeError, or ValueError for a number of 5000 digits
        raise BadToml(f"not valid TOML: {_short(str(error))}") from None


def decode(data: bytes) -> str:
    """The text of a settings file, without the byte-order mark and the line ends of Notepad; raises BadToml."""
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise BadToml("this is not a text file (not UTF-8)") from None


def _check_lines(text: str) -> None:
    line, dots = 1, 0
    for found in TOKENS.finditer(text):
        token = found[0]
        if token == "\n":
            line, dots = line + 1, 0
        elif token == ".":
            dots += 1
            if dots > MOST_DOTS:
                raise BadToml(f"line {line} has more than {MOST_DOTS} dots; a key here has at most one")
        elif token in ('"""', "'''"):
            raise BadToml(f"line {line}: a multi-line string ({token}); settings have none")


def _short(text: str) -> str:
    """At most 80 characters on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."

"""TOML that a user may have written, parsed in bounded time and memory; every fault with its line.

A settings file is made of lines: no value in it spans two. So a file that is invalid as a whole is parsed line by line,
which finds all its faults, not only the first, and what the sound lines say. ``tomllib`` needs time for every part of a
dotted key times all parts before it: 32 000 of them take minutes. No setting has more than two, so a line with many
dots is refused before it is parsed. Needs nothing but Python.
"""

import codecs
import re
import tomllib
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edge.files import lookalikes
from edge.files.toml_syntax import syntax_fault

MOST_BYTES = 64 << 10
"""Of a settings file: seven times the shipped one, which holds every key with a comment. The worst text that fits and
passes ``_check_lines`` keeps a PC's processor busy for half a second."""
MOST_DOTS = 16
"""In a line, outside of quotes and comments; an inline table with every key of the longest section has fewer."""
MOST_FAULTS = 20
"""So many are worded; the others are counted."""
ONE_LINE = 340
"""Characters of several faults in one line: what a record of the journal has room for beside file and consequence."""
TOKENS = re.compile(r'"""|\'\'\'|"(?:[^"\\\n]|\\[^\n])*"?|\'[^\'\n]*\'?|#[^\n]*|\.|\n')
"""What hides a dot, a dot, and the end of a line. Every alternative always matches, so that it takes linear time."""
BOMS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
"""Of the encodings that Notepad ("Unicode") and PowerShell's > write; UTF-32 stands first, it begins as UTF-16 does."""

Path = tuple[str, ...]
"""Section and key, or what else a line names."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong; ``line`` is 0 where no single line is to blame."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


class Faults:
    """Everything wrong with a text: the first ``MOST_FAULTS`` lines in words, and how many faults there are."""

    def __init__(self) -> None:
        self.count = 0
        self.shown = list[Fault]()
        """In the order of their lines."""

    def add(self, line: int, text: str | Callable[[], str]) -> None:
        """A function is called only if it is shown: a suggestion costs a millisecond, a file may need thousands."""
        self.count += 1
        if len(self.shown) < MOST_FAULTS or line < self.shown[-1].line:
            insort(self.shown, Fault(line, text if isinstance(text, str) else text()), key=lambda fault: fault.line)
            del self.shown[MOST_FAULTS:]

    def in_one_line(self, name: str = "") -> str:
        """``NAME, line 3: ...`` for one fault, ``NAME: 3 errors: line 3: ...; line 9: ...; 1 more`` for several."""
        first, *others = self.shown
        if self.count == 1:
            comma = ", " if name and first.line else ": " if name else ""
            return f"{name}{comma}{first}"
        parts = [str(first)]
        for fault in others:
            if sum(map(len, parts)) + len(str(fault)) > ONE_LINE:
                break
            parts.append(str(fault))
        more = [f"{self.count - len(parts)} more"] if self.count > len(parts) else []
        return f"{name}{': ' if name else ''}{self.count} errors: {'; '.join(parts + more)}"

    def in_lines(self, name: str) -> tuple[str, ...]:
        """A line for each fault, and one that counts those not shown."""
        parts = [f"{name}{', ' if fault.line else ': '}{fault}" for fault in self.shown]
        more = [f"{name}: {self.count - len(parts)} more errors"] if self.count > len(parts) else []
        return (*parts, *more)


class BadToml(Exception):
    """The text is invalid or not accepted TOML; one line states why."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(faults.in_one_line())
        self.faults = faults


@dataclass
class Document:
    """What a text says, and where."""

    tables: dict[str, Any] = field(default_factory=dict)
    """As ``tomllib`` gives them; of a text with faults, what its sound lines say."""
    lines: dict[Path, int] = field(default_factory=dict)
    """Path of a section or key -> the line, counted from 1, that names it first."""
    broken: set[Path] = field(default_factory=set)
    """What lines with a fault seem to set."""
    faults: Faults = field(default_factory=Faults)

    def line(self, *path: str) -> int:
        """Where a section or a key stands, or else what contains it (an inline table); 0 if no line says it."""
        return self.lines.get(path) or self.lines.get(path[:-1], 0)


def parse(text: str) -> dict[str, Any]:
    """The tables of a text of at most MOST_BYTES; raises BadToml."""
    document = read(text)
    if document.faults.count:
        raise BadToml(document.faults)
    return document.tables


def read(text: str) -> Document:
    """Everything a text says and everything that is wrong with it; never raises for what the text holds."""
    document = Document()
    if len(text) > MOST_BYTES:
        document.faults.add(0, f"has more than {MOST_BYTES >> 10} KiB")
        return document
    refused = dict(_refused_lines(text))
    whole, error = _loaded(text) if not refused else ({}, "")
    _read_lines(text, document, refused if refused or error else None)
    if not refused and not error:
        document.tables = whole
    elif not document.faults.count:
        at = re.search(r" \(at line (\d+), column \d+\)$| \(at end of document\)$", error)
        line, said = (int(at[1] or 0), error[: at.start()]) if at else (0, error)
        document.faults.add(line, f"not valid TOML: {_short(said)}")
    return document


def decode(data: bytes) -> str:
    """The text of a settings file, without the byte-order mark and the line ends of Notepad; raises BadToml.

    UTF-8, or UTF-16 or 32 with a byte-order mark.
    """
    for mark, encoding in BOMS:
        if data.startswith(mark):
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                text = ""
            if not text:
                raise _no_text() from None
            return _plain_ends(text)
    try:
        return _plain_ends(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        if b"\0" in data:
            raise _no_text() from None
        raise BadToml(_bytes_faults(data)) from None


def _no_text() -> BadToml:
    faults = Faults()
    faults.add(0, "this is not a text file (not UTF-8)")
    return BadToml(faults)


def _bytes_faults(data: bytes) -> Faults:
    """Every line that is not UTF-8; what Windows' own encoding would make of it may be a look-alike."""
    faults = Faults()
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            byte = line[error.start : error.start + 1]
            sign = lookalikes.named(byte.decode("cp1252", errors="ignore"))
            meant = f": {sign}" if sign else "; save the file as UTF-8"
            faults.add(number, f"not UTF-8 (byte 0x{byte.hex()}){meant}")
    return faults


def _plain_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _loaded(text: str) -> tuple[dict[str, Any], str]:
    """(the tables, why there are none)."""
    try:
        return tomllib.loads(text), ""
    except RecursionError:
        return {}, "hundreds of nested brackets"
    except Exception as error:  # TOMLDecodeError, or ValueError for a number of 5000 digits
        return {}, str(error) or "it cannot be read"


def _refused_lines(text: str) -> Iterator[tuple[int, str]]:
    """(line, why) of those that must not be parsed."""
    line, dots = 1, 0
    for found in TOKENS.finditer(text):
        token = found[0]
        if token == "\n":
            line, dots = line + 1, 0
        elif token == ".":
            dots += 1
            if dots == MOST_DOTS + 1:
                yield line, f"has more than {MOST_DOTS} dots; a key here has at most one"
        elif token in ('"""', "'''"):
            yield line, f"holds a multi-line string ({token}); settings have none"


def _read_lines(text: str, document: Document, refused: dict[int, str] | None) -> None:
    """Fill ``lines``; and, of a text that is invalid as a whole (``refused`` is given), ``tables`` and ``faults``."""
    section: Path = ()
    for number, line in enumerate(text.split("\n"), 1):
        if not (stripped := line.strip(" \t")) or stripped[0] == "#":
            continue
        if refused is not None and number in refused:
            document.faults.add(number, refused[number])
            continue
        said, error = _loaded(line)
        is_header = stripped[0] == "["
        if error:
            if refused is None:  # one line of a value that spans several: only its first has the name
                said, error = _loaded(f"{line.partition('=')[0]} = 0")
            else:
                document.faults.add(number, partial(syntax_fault, line, error))
                section, name = _guess(stripped, section)
                document.broken.add((*section, name))
                continue
        path, value = _innermost(said, is_header)
        if is_header:
            section, path = path, ()
        full: Path = (*section, *path)
        before = document.lines.get(full, 0)
        for depth in range(1, len(full) + 1):
            document.lines.setdefault(full[:depth], number)
        if refused is not None and not _put(document.tables, full, value):
            document.faults.add(number, partial(_twice, full, before))


def _innermost(said: dict[str, Any], is_header: bool) -> tuple[Path, Any]:
    """The dotted path that one line names, and its value. An inline table is a value, or keys like any others."""
    path, value = list[str](), said
    while isinstance(value, dict) and len(value) == 1 and (is_header or len(path) < 2):
        ((name, value),) = value.items()
        path.append(name)
    return tuple(path), value


def _put(tables: dict[str, Any], path: Path, value: Any) -> bool:
    """Enter a value; False if that name has one."""
    if not path:
        return True
    for name in path[:-1]:
        tables = tables.setdefault(name, {})
        if not isinstance(tables, dict):
            return False
    if path[-1] in tables:
        return False
    tables[path[-1]] = value
    return True


def _twice(path: Sequence[str], before: int) -> str:
    name = f"[{path[0]}]" if len(path) == 1 else ".".join(path)
    return f"{_short(name)} is there twice{f', first in line {before}' if before else ''}; remove one"


def _guess(line: str, section: Path) -> tuple[Path, str]:
    """(section, key) that a broken line seems to set; the key is empty for a broken header."""
    words = re.findall(r"[\w-]+", lookalikes.replaced(line[:200])) or [""]
    return ((words[0],), "") if line[0] in "[\uff3b" else (section, words[0])


def _short(text: str) -> str:
    """At most 80 characters on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."

"""config.txt as the firmware reads it: sections, included files, the long and short names of keys. Pure text in.

Source: Raspberry Pi documentation, "config.txt" (include, conditional filters) and "Device Trees, overlays, and
parameters" (scope of a parameter; an empty dtoverlay).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from hw.board import models

NAME = "config.txt"
MOST_FILES = 32
"""A file that includes itself ends here."""
KEYS = {"device_tree_param": "dtparam", "device_tree_overlay": "dtoverlay"}
LINE = re.compile(r"(dtparam|device_tree_param|dtoverlay|device_tree_overlay|gpio)\s*=\s*(.*)")
INCLUDE = re.compile(r"include\s+(\S+)")

ReadFile = Callable[[str], str]
"""Name of an included file, beside config.txt -> its text; empty where there is none."""


def no_files(name: str) -> str:
    return ""


@dataclass(frozen=True)
class Setting:
    """One line about device trees or pins that this board obeys, or may obey."""

    key: str
    """"dtparam", "dtoverlay" or "gpio"."""
    value: str
    file: str
    number: int
    """Of its line, from 1."""
    line: str
    section: str = ""
    """The filters above it that cannot be judged here, as "[gpio4=1]"; empty: it is obeyed for certain."""

    @property
    def where(self) -> str:
        return f"{self.file} line {self.number}"


@dataclass(frozen=True)
class Overlay:
    """An overlay with its parameters: those on its line and those of the dtparam lines in its scope."""

    name: str
    """Without folder, ending and board ("-pi5"); empty: a line that ends the scope of the one before."""
    params: dict[str, str]
    setting: Setting


def settings(text: str, model: str, read: ReadFile = no_files) -> Iterator[Setting]:
    """The lines that the board ``model`` (line of its device tree; empty: not known) obeys or may obey, in order."""
    yield from _Reader(model, read).lines(text, NAME)


def obeyed(text: str, model: str, read: ReadFile = no_files) -> list[Setting]:
    """Those obeyed for certain."""
    return [setting for setting in settings(text, model, read) if not setting.section]


def overlays(found: list[Setting]) -> list[Overlay]:
    """The overlays among ``found``, in order."""
    result: list[Overlay] = []
    for setting in found:
        if setting.key == "dtoverlay":
            name, params = _split(setting.value)
            result.append(Overlay(name, params, setting))
        elif setting.key == "dtparam" and result:
            result[-1].params.update(_params(setting.value))
    return result


def eeprom_disabled(found: list[Setting]) -> bool:
    """Whether the overlay in a HAT's EEPROM is not loaded: an empty dtoverlay stands above everything else."""
    first = next((setting for setting in found if setting.key in ("dtoverlay", "dtparam")), None)
    return first is not None and first.key == "dtoverlay" and not first.value and not first.section


class _Reader:
    """The filters in force move on from an included file to the line after it."""

    def __init__(self, model: str, read: ReadFile) -> None:
        self._row = models.by_model_line(model)
        self._read = read
        self._files = 0
        self._board: str | None = ""
        """The filter of board models: empty where it applies, None where it does not, its header if not known."""
        self._others: list[str] = []

    def lines(self, text: str, file: str) -> Iterator[Setting]:
        for number, line in enumerate((line.strip() for line in text.split("\n")), 1):
            if re.fullmatch(r"\[.*\]", line):
                self._filter(line)
            elif self._board is None:
                continue
            elif match := LINE.fullmatch(line):
                key = KEYS.get(match[1], match[1])
                yield Setting(key, match[2], file, number, line, "".join([self._board, *self._others]))
            elif match := INCLUDE.fullmatch(line):
                yield from self._included(match[1])

    def _included(self, name: str) -> Iterator[Setting]:
        self._files += 1
        if self._files <= MOST_FILES and ".." not in PurePosixPath(name).parts and not name.startswith("/"):
            yield from self.lines(self._read(name), name)

    def _filter(self, line: str) -> None:
        header = line[1:-1].strip().lower()
        if header == "all":
            self._board, self._others = "", []
        elif header == "none":
            self._board = None
        elif re.fullmatch(r"pi\d.*|cm\d.*|board-type=.*", header):
            self._board = line if self._row is None else "" if self._applies(header) else None
        else:
            self._others.append(line)

    def _applies(self, header: str) -> bool:
        assert self._row
        code = re.fullmatch(r"board-type=(0x[0-9a-f]{1,4})", header)
        return int(code[1], 16) == self._row.type_code if code else header in self._row.filters


def _split(value: str) -> tuple[str, dict[str, str]]:
    """The name of an overlay and its parameters, of ``name,a=1,b`` or ``name:a=1``."""
    name, _, rest = (part.strip() for part in re.sub(r"[,:]", "\0", value, count=1).partition("\0"))
    words = name.split() or [""]
    plain = re.sub(r"(\.dtbo?|-overlay\.dtb)$", "", words[0].rsplit("/", 1)[-1].lower())
    return re.sub(r"(-overlay|-pi4|-pi5)+$", "", plain), _params(rest)


def _params(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}

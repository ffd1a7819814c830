"""The settings file: read, checked at once, and documented.

``load`` returns a ``Config`` or raises ``BadConfig``, which names the file, and for everything wrong in it the line,
the key and the nearest right one. ``python -m edge.config`` prints ``documented``, which ships as
``edge/quietbox.toml``.
"""

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from edge import UserError, files
from edge.config import SECTIONS, Config
from edge.config_names import for_section, instead_of_key, instead_of_section
from edge.config_rules import checked, complaint, conflicts, expected, key, short
from edge.console import run_main
from edge.files import toml

SYSTEM_FILE = Path("/etc/quietbox/quietbox.toml")


class BadConfig(UserError):
    """Settings that a user can fix: the text is one line of a bounded length that names each, its place and the fix."""

    def __init__(self, name: str, faults: toml.Faults) -> None:
        super().__init__(faults.in_one_line(name))
        self._lines = faults.in_lines(name)

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each thing wrong, at most ``toml.MOST_FAULTS`` and one."""
        return self._lines


def find(path: Path | None) -> Config:
    """The file named, else the system's, else the defaults."""
    if path is not None:
        return load(path)
    return load(SYSTEM_FILE) if SYSTEM_FILE.exists() else Config()


def load(path: Path) -> Config:
    """Read and check one file; raises BadConfig."""
    try:
        text = toml.decode(files.read_bounded(path, toml.MOST_BYTES))
    except toml.BadToml as error:
        raise BadConfig(str(path), error.faults) from None
    except files.BadFile as error:
        raise _unreadable(str(path), str(error).removeprefix(str(path)).lstrip(": ")) from None
    except OSError as error:
        raise _unreadable(str(path), f"cannot be read: {error.strerror}") from None
    return parse(text, str(path))


def parse(text: str, name: str = "config") -> Config:
    """Check the text of a settings file; raises BadConfig with everything wrong in it."""
    document = toml.read(text)
    sections = {}
    for section, values in document.tables.items():
        if section in SECTIONS and isinstance(values, dict):
            sections[section] = SECTIONS[section](**_right_ones(document, section, section, values))
        else:
            _refuse(document, section, values)
    config = Config(**sections)
    for keys, text_of_conflict in conflicts(config):
        places = [tuple(each.split(".")) for each in keys]
        if document.broken.isdisjoint(places):
            document.faults.add(max(document.lines.get(place, 0) for place in places), text_of_conflict)
    if document.faults.count:
        raise BadConfig(name, document.faults)
    return config


def _right_ones(document: toml.Document, written: str, section: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values that are right of one section, in the file ``written``; what is wrong goes into ``faults`` and
    ``broken``."""
    right = {}
    for name, value in values.items():
        line = document.line(written, name)
        try:
            right[name] = checked(entry := key(section, name), value)
        except KeyError:
            document.faults.add(line, partial(_unknown_key, name, section))
        except ValueError:
            document.faults.add(line, partial(complaint, section, entry, value))
            document.broken.add((section, name))
    return right


def _refuse(document: toml.Document, name: str, values: Any) -> None:
    """What is no section of ours: an unknown one, with everything wrong in it, or a key without its section."""
    line = document.line(name)
    if name in SECTIONS:
        document.faults.add(line, f"{name} is a section; write [{name}] on a line of its own")
    elif isinstance(values, dict):
        document.faults.add(line, lambda: f"unknown section {_quote(name)}{instead_of_section(name)}")
        if document.faults.count <= toml.MOST_FAULTS and (meant := for_section(name)):
            _right_ones(document, name, meant, values)
    else:
        document.faults.add(line, lambda: f"unknown key {_quote(name)} outside of a section{instead_of_key(name, '')}")


def _unknown_key(name: str, section: str) -> str:
    return f"unknown key {_quote(name)} in [{section}]{instead_of_key(name, section)}"


def _unreadable(name: str, why: str) -> BadConfig:
    faults = toml.Faults()
    faults.add(0, why)
    return BadConfig(name, faults)


def _quote(name: str) -> str:
    return json.dumps(short(name), ensure_ascii=False)


def documented() -> Iterator[str]:
    """The lines of the shipped file: every key with meaning, unit, range and default."""
    yield "# Quietbox settings. Every key is optional; each line shows its default."
    yield (
        "# After a change: `systemctl reload quietbox` (or SIGHUP). All that is wrong is reported with its "
        "line, and the old settings stay."
    )
    for section, made in SECTIONS.items():
        yield ""
        yield f"[{section}]  # {made.__doc__}"
        for entry in dataclasses.fields(made):
            default = entry.default
            literal = f'"{default}"' if isinstance(default, str) else str(default).lower()
            yield f"{entry.name} = {literal}  # {entry.metadata['text']} ({expected(entry)})"


if __name__ == "__main__":
    run_main(lambda: print("\n".join(documented())), "config")

"""One key in the text of a settings file changed in place: every other line, comment and blank stays. Needs nothing but
Python.
"""

import json
import re

HEADER = re.compile(r"\s*\[\s*([\w-]+)\s*\]\s*(?:#.*)?")
"""The line of a section; its name is the first group."""
VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^#"']*?)"""


def literal(value: str | float) -> str:
    """A value as TOML writes it."""
    if isinstance(value, str | bool):
        return json.dumps(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def with_key(text: str, section: str, name: str, value: str) -> str:
    """The text with that key set to ``value``, which is as TOML writes it (``literal``).

    In its own line, else below its commented line, else below the section's header, else in a new section at the end.
    """
    lines = text.split("\n")
    written = f"{name} = {value}"
    begin, end = _section(lines, section)
    if begin is None:
        gap = ["", ""] if lines[-1].strip() else [""] if len(lines) > 1 else []
        return "\n".join([*lines[: None if lines[-1].strip() else -1], *gap[:1], f"[{section}]", written, ""])
    for number in range(begin + 1, end):
        found = re.fullmatch(rf"(\s*){re.escape(name)}\s*=\s*{VALUE}(\s*#.*|\s*)", lines[number])
        if found:
            lines[number] = f"{found[1]}{written}{found[2]}"
            return "\n".join(lines)
    commented = re.compile(rf"\s*#\s*{re.escape(name)}\s*=")
    below = next((number for number in range(begin + 1, end) if commented.match(lines[number])), begin)
    return "\n".join([*lines[: below + 1], written, *lines[below + 1 :]])


def _section(lines: list[str], section: str) -> tuple[int | None, int]:
    """(its header's place, where the next section begins); (None, 0) if it is not there."""
    begin = None
    for number, line in enumerate(lines):
        if header := HEADER.fullmatch(line):
            if begin is not None:
                return begin, number
            if header[1] == section:
                begin = number
    return begin, len(lines) if begin is not None else 0

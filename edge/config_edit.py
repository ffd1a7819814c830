"""Keys of a settings file changed in place: every other line, comment and blank stays as somebody wrote it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from edge import UserError, config_file, files
from edge.files import atomic, toml

HEADER = re.compile(r"\s*\[\s*([\w-]+)\s*\]\s*(?:#.*)?")
VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^#"']*?)"""


class NotKept(UserError):
    """The file cannot be changed so; the text names it and what to do by hand."""


def keep(path: Path, section: str, name: str, value: str | float) -> None:
    """Set ``[section] name`` in the settings file ``path``, which is made if it is missing. The rest must be right
    before and after. Raises UserError."""
    keep_all(path, {(section, name): value})


def keep_all(path: Path, values: Mapping[tuple[str, str], str | float]) -> None:
    """The same for several keys, all or none."""
    if not values:
        return
    by_hand = "set " + ", ".join(
        f"{name} = {_literal(value)} in [{section}]" for (section, name), value in values.items()
    )
    if path.is_symlink():
        raise NotKept(f"not kept for the next start: {path} is a link to {path.readlink()}; {by_hand} where it is made")
    try:
        text = toml.decode(files.read_bounded(path, toml.MOST_BYTES)) if path.exists() else ""
    except (OSError, UserError, toml.BadToml) as error:
        raise NotKept(f"not kept for the next start: {path} cannot be read ({error}); {by_hand} yourself") from None
    config_file.parse(text, str(path))
    for (section, name), value in values.items():
        text = with_key(text, section, name, value)
    try:
        config = config_file.parse(text, str(path))
    except config_file.BadConfig as error:
        raise NotKept(f"not kept for the next start: {error}") from None
    if any(getattr(getattr(config, section), name) != value for (section, name), value in values.items()):
        raise NotKept(f"not kept for the next start: {path} sets it in a way of its own; {by_hand} yourself")
    try:
        atomic.write(path, text.encode())
    except OSError as error:
        raise NotKept(
            f"not kept for the next start: {path} cannot be written ({error.strerror}); run it with sudo"
        ) from None


def with_key(text: str, section: str, name: str, value: str | float) -> str:
    """The text with that key set: in its own line, else below its commented line, else below the section's header,
    else in a new section at the end."""
    lines = text.split("\n")
    written = f"{name} = {_literal(value)}"
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


def _literal(value: str | float) -> str:
    return json.dumps(value) if isinstance(value, str | bool) else f"{value:g}"

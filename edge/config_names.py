"""Which section or key somebody meant who wrote another one."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping

from edge.config import SECTIONS

KEYS: Mapping[str, tuple[str, ...]] = {
    section: tuple(entry.name for entry in dataclasses.fields(made)) for section, made in SECTIONS.items()
}
CLOSE = 0.6
"""``difflib``'s similarity from which a name may be a misspelling of another: its own default."""
CLOSE_HERE = 0.5
"""The same inside the section that was named, where few keys come into question."""
ALMOST = 0.8
"""From here on a key that another section has may as well be a misspelling: ``channels`` in [capture]."""
PREFER_HERE = 0.1
"""A key of another section has to be so much more similar."""


def owners(key: str) -> list[str]:
    """The sections that have this key."""
    return [section for section, keys in KEYS.items() if key in keys]


def for_section(name: str) -> str:
    """The section meant by ``name``; empty if it is none's misspelling."""
    return _closest(_plain(name), KEYS, CLOSE_HERE)[0]


def instead_of_section(name: str) -> str:
    """`` (did you mean [...]?)`` for a section that does not exist; else the list of those that do."""
    if close := for_section(name):
        return f" (did you mean [{close}]?)"
    return _key_elsewhere(_plain(name), CLOSE)[0] or f" (there are: {', '.join(f'[{known}]' for known in KEYS)})"


def instead_of_key(name: str, section: str) -> str:
    """`` (did you mean "..." in [...]?)`` for a key that ``section`` does not have; with every section that has it.

    ``section`` is empty for a key that stands before the first section.
    """
    plain = _plain(name)
    here, likeness_here = _closest(plain, KEYS.get(section, ()), CLOSE_HERE)
    if likeness_here == 1:  # only capitals or hyphens differ
        return f' (did you mean "{here}"?)'
    if named := _with_section_in_front(plain):
        return f' (did you mean "{named[1]}" in [{named[0]}]?)'
    there, likeness_there = _key_elsewhere(plain, CLOSE)
    if likeness_there == 1 and likeness_here >= ALMOST:
        return f' (did you mean "{here}", or "{plain}" in {joined(owners(plain))}?)'
    if likeness_there < 1 and here and likeness_here + PREFER_HERE >= likeness_there:
        return f' (did you mean "{here}"?)'
    close_section, likeness_section = _closest(plain, () if section else KEYS, CLOSE)
    if close_section and likeness_section > likeness_there:
        return f" (did you mean [{close_section}]?)"
    known = KEYS[section] if section else [f"[{each}]" for each in KEYS]
    return there or f" (there are: {', '.join(known)})"


def instead_of_choice(value: str, choices: Iterable[object]) -> str:
    """`` (did you mean "..."?)`` for a word that a key does not take; may be empty."""
    close, _ = _closest(value.lower(), [choice for choice in choices if isinstance(choice, str)], CLOSE)
    return f' (did you mean "{close}"?)' if close else ""


def joined(sections: Iterable[str]) -> str:
    """``[a], [b] or [c]``."""
    *first, last = [f"[{section}]" for section in sections]
    return f"{', '.join(first)} or {last}" if first else last


def _key_elsewhere(plain: str, least: float) -> tuple[str, float]:
    """(the suggestion with all sections that have the most similar key, its similarity)."""
    close, likeness = _closest(plain, {key for keys in KEYS.values() for key in keys}, least)
    return (f' (did you mean "{close}" in {joined(owners(close))}?)', likeness) if close else ("", 0.0)


def _with_section_in_front(plain: str) -> tuple[str, str] | None:
    """(section, key) of ``suppress_limit_db`` or ``suppress.limit_db``."""
    for section, keys in KEYS.items():
        if plain.startswith((f"{section}_", f"{section}.")) and plain[len(section) + 1 :] in keys:
            return section, plain[len(section) + 1 :]
    return None


def _closest(name: str, known: Iterable[str], least: float) -> tuple[str, float]:
    """(the most similar name, its similarity from 0 to 1); empty and 0 if none has at least ``least``."""
    best, most = "", least
    matcher = difflib.SequenceMatcher(b=name[:80])
    for candidate in sorted(known):
        matcher.set_seq1(candidate)
        likeness = matcher.ratio()
        if likeness > most or (likeness == most and not best):
            best, most = candidate, likeness
    return (best, most) if best else ("", 0.0)


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")

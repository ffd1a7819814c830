"""Why a line of a settings file is no TOML, in the words of whoever wrote it. Needs nothing but Python."""

import re

from edge.files import lookalikes

HIDDEN = re.compile(r'"(?:[^"\\]|\\.)*"?|\'[^\']*\'?|#.*')
"""Strings, closed or not, and comments. It never tries a position twice, so that it takes linear time."""
KEY = re.compile(r"[A-Za-z0-9_.-]+")
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
AT = re.compile(r" \(at line 1, column ")
WORDS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}
"""What people write for a switch; "off" is also a word that some keys take."""


def syntax_fault(line: str, error: str) -> str:
    """What is wrong with ``line``, of which tomllib says ``error``; at most 200 characters."""
    if found := lookalikes.named(_visible(line)):
        return f"holds {found}"
    bare = line.strip()[:2000]
    hint = _header_fault(bare) if bare[:1] == "[" else _pair_fault(bare)
    return f"not valid TOML: {hint or _short(AT.sub(' (column ', error))}"


def _header_fault(line: str) -> str:
    name = re.match(r"\[\s*([\w .-]*)", line)
    end = _visible(line).rstrip()
    if name and "]" not in end:
        return f"the ] is missing: [{_short(name[1].strip())}]"
    if name and not end.endswith("]"):
        return f"[{_short(name[1].strip())}] needs a line of its own"
    return ""


def _pair_fault(line: str) -> str:
    key, equals, rest = line.partition("=")
    key, value = key.strip(), _without_comment(rest)
    if not equals:
        return _without_equals(line)
    if line.startswith((";", "//")):
        return "a comment begins with #"
    if not key:
        return "the key is missing before ="
    if not KEY.fullmatch(key) and key[0] not in "\"'":
        return f'"{_short(key)}" is not a valid key: letters, digits and _ only'
    return _value_fault(key, value)


def _without_equals(line: str) -> str:
    if line.startswith((";", "//", "--")):
        return "a comment begins with #"
    if found := re.match(r"([\w.-]+)\s*:\s*(.+)", line):
        return f"= in place of : is needed: {_short(f'{found[1]} = {found[2]}')}"
    if found := re.match(r"([\w.-]+)\s+(.+)", line):
        return f"the = is missing: {_short(f'{found[1]} = {found[2]}')}"
    return "neither a [section] nor key = value"


def _value_fault(key: str, value: str) -> str:
    if not value:
        return f"{_short(key)} has no value"
    if value[0] in "\"'":
        return _string_fault(value)
    if re.fullmatch(r"[+-]?\d+,\d+", value):
        return f"the decimal sign is a point: {_short(key)} = {_short(value.replace(',', '.'))}"
    number = NUMBER.match(value)
    if number and re.fullmatch(r"\s*[^\W\d_%.]{1,8}[\w%]*|\s*%", value[number.end() :]):
        return f"a number is written without its unit: {_short(key)} = {_plain(number[0])}"
    if number and number[0] == value and len(value) < 40:
        return f"a number is written with digits around its point and without leading zeros: {_plain(value)}"
    if (truth := WORDS.get(value.lower())) and value != truth:
        either = f' or "{value.lower()}" in quotes' if value.lower() == "off" else ""
        return f"write {truth}{either}"
    if re.fullmatch(r"[A-Za-z_/.~][^\"'\[\]{}]*", value):
        return f'text needs quotes: {_short(key)} = "{_short(value)}"'
    return ""


def _string_fault(value: str) -> str:
    if value[0] == '"' and re.match(r'"[^"]*\\[^btnfruU"\\]', value):
        return "\\ in double quotes begins an escape; use single quotes"
    text = HIDDEN.match(value)
    if text is None or not _is_closed(text[0]):
        return f"the closing {value[0]} is missing"
    rest = value[text.end() :].strip()
    return f"{_short(rest)} stands behind the closing quote" if rest else ""


def _visible(line: str) -> str:
    """The line without closed strings and comments, which may hold any character."""
    return HIDDEN.sub(lambda found: "" if found[0][0] == "#" or _is_closed(found[0]) else found[0], line)


def _is_closed(text: str) -> bool:
    """Whether a string of ``HIDDEN`` has its closing quote: then one more is not part of it."""
    return len(text) > 1 and text[-1] == text[0] and HIDDEN.fullmatch(text + text[0]) is None


def _without_comment(text: str) -> str:
    """The value without what follows a # outside of quotes."""
    for found in HIDDEN.finditer(text):
        if found[0][0] == "#":
            return text[: found.start()].strip()
    return text.strip()


def _plain(number: str) -> str:
    """A number as TOML writes it: ``+.5`` as 0.5, ``007`` as 7, ``5.`` as 5.0."""
    sign, digits = ("-" if number[0] == "-" else ""), number.lstrip("+-")
    whole, point, part = digits.partition(".")
    return f"{sign}{whole.lstrip('0') or '0'}" + (f".{part or '0'}" if point else "")


def _short(text: str) -> str:
    """At most 60 characters on one line."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."

"""Text that people read uses the field's terms (docs/glossary.md), not words that only this project understands."""

import ast
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

REJECTED = {
    r"circles?": "feedback loop",
    r"mend(s|ed|ing)?": "fix",
    r"unsound|(is|are|was|were|that are) no numbers?": "invalid; NaN or infinite",
    r"knock(s|ed)?": "rejected a client",
    r"dice": "random numbers",
    r"glints?": "short flash",
    r"ladders?|rungs?": "fallback chain, level",
    r"hurry": "real-time priority",
    r"spared": "skipped",
    r"upside down|turned over": "phase-inverted",
    r"told by|not told|nobody told": "reported",
    r"the way back|go round through": "feedback path",
    r"lives until|until it lives": "until it delivers sound",
    r"astray": "diverged",
    r"anew": "again",
    r"made of air|panel of air": "simulated",
    r"die[sd]? of|starved of": "ended by, lacks",
    r"goes? on with(?!out)|gone on with": "continue, resume",
    r"(do|does|did) not say (why|which|rightly)|no word of why": "gave no reason, has no ...",
    r"(?<!there )is no (?!longer|more|hearing protection|less)[a-z]+": "is not a ...",
    r"wanted is|--[a-z-]+ wants|: wants": "expected, needs",
    r"by the budget": "calculated",
    r"in all:|quietbox ends": "total:, stopped",
    r"other people's": "third-party",
    r"(box|program) has (come|gone)": "connected, disconnected",
    r"as asked|in so many": "as requested, every n-th",
    r"where (the|what) [a-z ]* go(es)?": "output folder or file",
}
"""Rejected words, as a regular expression between word boundaries, and what to write."""

ANY = re.compile(rf"\b(?:{'|'.join(REJECTED)})(?!\w)", re.IGNORECASE)

ALLOWED = (
    "--circles",  # the former name of an option, still accepted
)

UNREAD = {"glossary.md", "training-diary.md"}
"""The glossary explains words, the diary is history."""

Text = tuple[str, str]
"""Place and text."""


def strings(path: Path) -> Iterator[Text]:
    """String literals with a space, f-strings with ``{}`` for their values; docstrings are for programmers, but those
    of the settings sections are printed into the settings file, which is read as a page."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            text = "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if " " in text:
            yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def lines(path: Path) -> Iterator[Text]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        yield f"{path.relative_to(ROOT)}:{number}", line


def picture(path: Path) -> Iterator[Text]:
    for element in ET.parse(path).iter():
        if element.text and element.text.strip():
            yield str(path.relative_to(ROOT)), element.text


def everything() -> Iterator[Text]:
    for package in ("edge", "hw", "quant", "models"):
        for path in sorted(ROOT.glob(f"{package}/**/*.py")):
            yield from strings(path)
    pages = [ROOT / "README.md", ROOT / "edge/quietbox.toml", ROOT / "install.sh"]
    pages += [path for path in sorted(ROOT.glob("docs/*.md")) if path.name not in UNREAD]
    for folder in ("systemd", "hw/image/files/etc/systemd/system", "hw/fleet/roles"):
        pages += [path for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    for path in pages:
        yield from lines(path)
    for path in sorted(ROOT.glob("docs/pictures/*.svg")):
        yield from picture(path)


def rejected(text: str) -> Iterator[str]:
    for name in ALLOWED:
        text = text.replace(name, "")
    if not ANY.search(text):
        return
    for words, better in REJECTED.items():
        for found in re.finditer(rf"(?<!\w)(?:{words})(?!\w)", text, re.IGNORECASE):
            yield f'"{found[0]}": write {better}'


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a key that is not in the list knocked", 1),
        ("it is ignored until it delivers sound", 0),
        ("mend that line", 1),
        ("recommended amendment", 0),
        ("python -m hw.rooms.feedback_loop --loops 24", 0),
        ("two circles", 1),
        ("/x is no folder", 1),
        ("there is no folder /x", 0),
        ("A glint every 3 s, upside down", 2),
    ],
)
def test_the_words_are_found(text: str, count: int) -> None:
    assert len([*rejected(text)]) == count


def test_people_read_the_terms_of_the_field() -> None:
    texts = [*everything()]
    assert len(texts) > 3000
    found = [f"{place}: {fault}" for place, text in texts for fault in rejected(text)]
    assert not found, "\n".join([f"{len(found)} rejected words", *found])

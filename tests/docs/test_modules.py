"""Modules that text and generated code name exist: a string is not looked at by any importer until somebody runs it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("edge", "hw", "models", "quant", "systemd", "tests", "docs", ".github")
TEXTS = {".py", ".md", ".sh", ".toml", ".yml", ".yaml", ".service", ".conf", ""}
PACKAGES = "edge|hw|models|quant"
COMMAND = re.compile(rf"-m ((?:{PACKAGES})(?:\.[a-z_]\w*)*)")
IMPORT = re.compile(rf"from ((?:{PACKAGES})(?:\.\w+)*) import ([a-z_]\w*)")
PAST = {"docs/training-diary.md"}
"""Pages that say what was run then."""


def texts() -> Iterator[tuple[str, str]]:
    """(name, text) of every file that people or programs read commands from."""
    top = [path for path in ROOT.iterdir() if path.is_file()]
    for path in [*top, *(path for place in PLACES for path in sorted((ROOT / place).rglob("*")))]:
        name = str(path.relative_to(ROOT))
        if path.is_file() and path.suffix in TEXTS and "__pycache__" not in name and name not in PAST:
            yield name, path.read_text(errors="replace")


def source(module: str) -> Path | None:
    """The file of a module or package."""
    path = ROOT / module.replace(".", "/")
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


def unknown(text: str) -> list[str]:
    """Modules that ``text`` runs or imports from and that are not there, or lack the imported name."""
    found = [name for name in COMMAND.findall(text) if source(name) is None]
    for module, name in IMPORT.findall(text):
        holder = source(module)
        inside = holder is not None and re.search(rf"\b{name}\b", holder.read_text()) is not None
        if not inside and source(f"{module}.{name}") is None:
            found.append(f"{module}.{name}")
    return found


def test_every_module_that_is_named_exists() -> None:
    missing = {
        name: names for name, text in texts() if name != "tests/docs/test_modules.py" and (names := unknown(text))
    }
    assert not missing


@pytest.mark.parametrize("text", ['code = "from hw import nowhere; nowhere.serve()"', "`python -m hw.nowhere --bare`"])
def test_a_module_that_is_gone_is_found(text: str) -> None:
    assert unknown(text) == ["hw.nowhere"]

"""A row of the table: the check, its verdict, what was found, the fix."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """``warn`` still works; ``fail`` does not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


OK, WARN, FAIL = Verdict


@dataclass(frozen=True)
class Finding:
    """One row."""

    check: str
    verdict: Verdict
    found: str
    fix: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

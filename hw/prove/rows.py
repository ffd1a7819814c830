"""One check of a proof as one line of its output."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One check: what, the verdict, and what was found."""

    what: str
    verdict: str
    """"ok", "FAIL", or "runs" and "not" of an ONNX Runtime, which is a finding and no fault of the product."""
    found: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.verdict:<4} {self.what:<44} {self.seconds:6.1f} s  {self.found}"


def verdict(good: bool) -> str:
    return "ok" if good else "FAIL"

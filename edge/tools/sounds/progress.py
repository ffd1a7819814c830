"""How far a command with many files is: a bar on a terminal, a line now and then elsewhere, nothing beside JSON.

Progress goes to stderr, results to stdout. The bar counts all files together, each by its size, since how long a sound
lasts is known only when it is read.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from edge.console import complain, printable

LINE_S = 30.0
"""Where there is no terminal, a line at most so often."""


class Quiet:
    """Shows nothing; a context manager around the work, as the others are."""

    def __enter__(self) -> "Quiet":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def at(self, source: Path, share: float) -> None:
        """``share`` of this file is done, 0..1."""

    def done(self, source: Path) -> None:
        """This file is finished, well or not."""

    def say(self, line: str) -> None:
        """A result on stdout, at once."""
        print(line, flush=True)


class _Counting(Quiet):
    """Knows how much of everything is done."""

    def __init__(self, sources: Sequence[Path]) -> None:
        self._sizes = {source: _size(source) for source in sources}
        self._total = sum(self._sizes[source] for source in sources)
        self._shares: dict[Path, float] = {}
        self._finished = 0.0
        self.files = len(sources)
        self.files_done = 0

    @property
    def share(self) -> float:
        """How much of everything is done, 0..1."""
        begun = sum(self._sizes[source] * share for source, share in self._shares.items())
        return (self._finished + begun) / self._total if self._total else 1.0

    def at(self, source: Path, share: float) -> None:
        self._shares[source] = share

    def done(self, source: Path) -> None:
        self._shares.pop(source, None)
        self._finished += self._sizes[source]
        self.files_done += 1


class Bar(_Counting):
    """One bar on a terminal for all files, with the name of the one last heard of."""

    def __init__(self, sources: Sequence[Path], screen: Console) -> None:
        super().__init__(sources)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=screen, redirect_stdout=False)
        self._task = self._bar.add_task("", total=1.0)

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def at(self, source: Path, share: float) -> None:
        super().at(source, share)
        self._show(source)

    def done(self, source: Path) -> None:
        super().done(source)
        self._show(source)

    def say(self, line: str) -> None:
        """Above the bar where stdout is the terminal, too; a file or pipe gets it untouched."""
        if sys.stdout.isatty():
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            super().say(line)

    def _show(self, source: Path) -> None:
        which = f"{min(self.files_done + 1, self.files)}/{self.files} " if self.files > 1 else ""
        self._bar.update(self._task, completed=self.share, description=f"{which}{printable(source.name)}")


class Lines(_Counting):
    """A line on stderr every ``LINE_S``, for logs."""

    def __init__(self, sources: Sequence[Path], clock_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__(sources)
        self._clock_s = clock_s
        self._began_s = self._shown_s = clock_s()

    def at(self, source: Path, share: float) -> None:
        super().at(source, share)
        self._show()

    def done(self, source: Path) -> None:
        super().done(source)
        self._show()

    def _show(self) -> None:
        now_s, share = self._clock_s(), self.share
        if now_s - self._shown_s < LINE_S or not 0 < share < 1:
            return
        self._shown_s = now_s
        left_min = (now_s - self._began_s) * (1 - share) / share / 60
        left = f"about {left_min:.0f} min" if left_min >= 1 else "less than a minute"
        complain(f"{self.files_done} of {self.files} files done, {share:.0%} of all, {left} left")


def progress_of(sources: Sequence[Path], *, quiet: bool) -> Quiet:
    """What suits the output: ``quiet`` (JSON), a terminal on stderr, or neither."""
    if quiet:
        return Quiet()
    screen = Console(stderr=True)
    return Bar(sources, screen) if screen.is_terminal else Lines(sources)


def _size(source: Path) -> int:
    """In bytes, at least 1: an empty file or a pipe counts, too."""
    try:
        return max(source.stat().st_size, 1)
    except OSError:
        return 1

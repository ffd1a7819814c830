"""A run's log, curve and progress bar."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from models.train.trainer import Trainer


def draw_curve(log: Path, picture: Path) -> None:
    """Loss and development figures over audio heard, from the run's log; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    learned, heard = [row for row in rows if "loss" in row], [row for row in rows if "dev" in row]
    names = sorted({name for row in heard for name in row["dev"] if name != "pairs"})
    figure, axes = pyplot.subplots(1, 1 + len(names), figsize=(4 * (1 + len(names)), 3), layout="constrained")
    axes = np.atleast_1d(axes)
    axes[0].plot([row["audio_hours"] for row in learned], [row["loss"] for row in learned])
    axes[0].set(title="training loss", xlabel="hours of audio")
    for axis, name in zip(axes[1:], names, strict=True):
        shown = [row for row in heard if name in row["dev"]]
        axis.plot([row["audio_hours"] for row in shown], [row["dev"][name] for row in shown], "o-")
        axis.set(title=f"development set: {name}", xlabel="hours of audio")
    figure.savefig(picture, dpi=90)
    pyplot.close(figure)


class TrainingLog:
    """The run's log (log.jsonl), curve picture, progress bar and, away from a terminal, a line a minute."""

    def __init__(self, folder: Path, trainer: Trainer, leads: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.folder, self.trainer, self.leads = folder, trainer, leads
        self.console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.1f} %"))
        self.bar = Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[left]} left"), console=self.console)
        self.bar.disable = not (leads and self.console.is_terminal)
        self.task = self.bar.add_task("training", total=1.0, left="?")
        self._began, self._from = time.monotonic(), trainer.progress
        self._said, self._sums, self._count = 0.0, dict[str, float](), 0

    def left(self) -> str:
        """Time left at the pace so far."""
        gained = self.trainer.progress - self._from
        if gained <= 0:
            return "?"
        seconds = (time.monotonic() - self._began) / gained * (1 - self.trainer.progress)
        return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"

    def note(self, terms: dict[str, float]) -> None:
        """Collect a step's terms; every 50 steps a line of means in the log."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        trainer, now = self.trainer, time.monotonic()
        mean = self._sums["loss"] / self._count
        text = f"step {trainer.step}, {trainer.audio_hours:.1f} h of audio, loss {mean:.4f}"
        self.bar.update(self.task, completed=trainer.progress, description=text, left=self.left())
        if self.leads and self.bar.disable and now - self._said > 60:
            self._said = now
            print(f"{100 * trainer.progress:.1f} %  {text}, rate {trainer.rate:.2e}, {self.left()} left", flush=True)
        if self._count == 50:
            self.write({name: round(value / self._count, 6) for name, value in self._sums.items()})
            self._sums, self._count = {}, 0

    def write(self, row: dict[str, Any]) -> None:
        if not self.leads:
            return
        trainer = self.trainer
        head = {"step": trainer.step, "minutes": round(trainer.seconds / 60, 2)}
        head |= {"audio_hours": round(trainer.audio_hours, 3), "rate": trainer.rate}
        with open(self.folder / "log.jsonl", "a") as log:
            log.write(json.dumps(head | row) + "\n")

    def dev(self, means: dict[str, float]) -> None:
        self.write({"dev": means})
        figures = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        self.bar.console.print(
            f"step {self.trainer.step}, {self.trainer.audio_hours:.1f} h: {figures}", highlight=False
        )
        draw_curve(self.folder / "log.jsonl", self.folder / "curve.png")

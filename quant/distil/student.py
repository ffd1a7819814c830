"""The student's training, and how similar to the teacher it became."""

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from edge.dsp.spectrum import DELAY_SAMPLES
from edge.files import atomic
from models.command import BadRequest
from models.measures import si_sdr_db
from models.network import Network
from models.train.checkpoint import read_weights
from models.train.loop import train
from models.train.start import new_trainer, shape_of
from models.train.trainer import Trainer, device_named
from quant.distil.pairs import TABLES, DistillationPairs, gathered
from quant.distil.teacher import teacher_named, through
from quant.export.network import read_network
from quant.graph import write_whole
from quant.history import KEY, longer, step


def similarity_db(pairs: DistillationPairs, student: Network | None) -> float:
    """Mean SI-SDR of the student's output towards the teacher's on what was kept apart; None stands for no student."""
    found = []
    for noisy, target in pairs.held_out():
        output = noisy if student is None else through(student, noisy)[DELAY_SAMPLES : DELAY_SAMPLES + len(noisy)]
        found.append(si_sdr_db(target, output))
    return float(np.mean(found)) if found else float("nan")


def train_student(student: Trainer, pairs: DistillationPairs, out: Path, most_steps: int = 0) -> None:
    """Run the student's plan, or ``most_steps`` of it, with everything that a training leaves in ``out``."""
    train(student, pairs, out, most_steps=most_steps)


def record(weights: Path, earlier: str, teacher: str, sources: list[Path], init: Path | None) -> None:
    """Write into ``weights`` what made them, after ``earlier``: the teacher's files, the student's first weights."""
    content = read_weights(weights)
    files: list[Path | None] = [*sources] or [None]
    lines = [step("distil", file, f"teacher {teacher}") for file in files]
    lines += [step("distil", init, "student")] if init else []
    content[KEY] = longer(earlier, "\n".join(lines))
    write_whole(weights, lambda file: torch.save(content, file))


def check(asked: argparse.Namespace) -> None:
    """Raises BadRequest or Refused for what would fail later."""
    for name in ("minutes", "steps", "items", "rate", "threads", "mixture_minutes"):
        value = getattr(asked, name)
        if value is not None and not 0 < value < float("inf"):
            raise BadRequest(f"--{name.replace('_', '-')} {value}: needs a number above zero")
    if asked.trust is not None and not (asked.data and 0 <= asked.trust <= 1):
        raise BadRequest("--trust needs a number from 0 to 1, and --data: recordings alone have no clean reference")
    if asked.data and not all((asked.data / name).is_file() for name in TABLES):
        raise BadRequest(f"{asked.data}: needs {' and '.join(TABLES)} in it; give noisy recordings with --noisy")
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise BadRequest("--device cuda: PyTorch finds no such device here")
    if asked.out.exists() and not asked.out.is_dir():
        raise BadRequest(f"{asked.out} is a file; --out needs a folder")
    if asked.resume and asked.init:
        raise BadRequest("--resume continues a run, --init starts a new one: give only one of them")
    if (asked.out / "checkpoint.pt").exists() and not asked.resume:
        raise BadRequest(f"{asked.out} holds a checkpoint already: add --resume, or choose another --out")
    if not asked.resume and not asked.init and asked.shape == "{}":
        raise BadRequest("no student: give --init (its weights) or --shape (the sizes of a new one)")
    shape_of(asked)
    for name in ("checkpoint.pt", "weights.pt", "pairs.npz"):
        sources = [asked.init, Path(asked.teacher)]
        atomic.refuse_overwriting(asked.out / name, sources, "--out")
    if asked.init:
        read_network(asked.init)


def student_of(asked: argparse.Namespace) -> Trainer:
    """As training makes it; raises BadRequest for a checkpoint that is none."""
    try:
        return new_trainer(asked, torch.device(asked.device), 1)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRequest(f"{asked.out / 'checkpoint.pt'}: cannot be resumed ({type(error).__name__})") from None


def run(asked: argparse.Namespace) -> int:
    """Trains, then prints the similarity before and after. Raises UserError; the options are ``quant.distil``'s."""
    asked.device = str(device_named(asked.device))
    torch.set_num_threads(asked.threads)
    check(asked)
    teacher, weights = teacher_named(asked.teacher)
    student = student_of(asked)
    pairs = gathered(asked, teacher, weights)
    trust = 0.5 if asked.trust is None else asked.trust
    rows = (None if row is None else row.to(asked.device) for row in (pairs.noisy, pairs.target, pairs.clean))
    noisy, target, clean = rows
    assert noisy is not None and target is not None
    pairs = DistillationPairs(noisy, target, clean, pairs.lengths, trust, student.plan.seed)
    before = similarity_db(pairs, student.averaged_network())
    started = asked.init or (asked.out / "weights.pt" if asked.resume else None)
    earlier = str(read_weights(started).get(KEY, "")) if started and started.is_file() else ""
    train_student(student, pairs, asked.out)
    record(asked.out / "weights.pt", earlier, asked.teacher, weights, asked.init)
    title = f"similarity to {asked.teacher} on {len(pairs.held_out())} held-out segments"
    table = Table("heard", title=title, title_justify="left")
    table.add_column("SI-SDR dB towards the teacher", justify="right")
    table.add_row("the noisy recording", f"{similarity_db(pairs, None):.2f}")
    table.add_row("student before this run", f"{before:.2f}")
    table.add_row("student now", f"{similarity_db(pairs, student.averaged_network()):.2f}")
    console = Console()
    console.print(table)
    console.print(f"{asked.out / 'weights.pt'}: the student; quant.export exports it", soft_wrap=True)
    return 0

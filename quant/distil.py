"""A student of ours learns from a teacher: any engine, somebody else's suppressor, or a larger network of ours.

    python -m quant.distil --teacher dfn3 --noisy DIR --init models/quietbox/weights.pt --out RUN --minutes 60
    python -m quant.distil --teacher large/weights.pt --noisy DIR --shape '{"channels": 24}' --out RUN --minutes 600
    python -m quant.distil --teacher gtcrn --data DIR --trust 0.5 --init weights.pt --out RUN --minutes 60

Nobody need know what the clean sound was: the teacher hears every recording once, from beginning to end; its lag, the
median over all recordings, is taken off, and what it made of them is what the student shall play (teaching by outputs:
Hinton, Vinyals & Dean 2015, arXiv 1503.02531). The pairs lie in RUN/lessons.npz, so that ``--resume`` begins at once.
Segments are cut from them at random and learnt as in ``models.train``, whose loss, schedule, averaged weights and
checkpoints these are; when somebody speaks, too, is told from the teacher's output. The student works at 10 ms whatever
the teacher's look-ahead: it cannot copy what it has yet to hear, and learns the best guess.

With ``--data`` (recordings as for training) mixtures take the recordings' place, and the clean sound is known: then
``--trust`` is the chance that a segment's target is the teacher's output and not the clean file, which in the mean is
``trust`` times one loss plus ``1 - trust`` times the other.

The end of every recording, a fifth of it up to 20 s, is kept apart: there the student's output is held against the
teacher's (SI-SDR towards it), before and after.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from edge import HOP_SAMPLES, RATE_HZ, UserError
from edge.console import run_main
from edge.dsp.spectrum import BINS, DELAY_SAMPLES, WINDOW_SAMPLES, Floats
from edge.files import atomic
from models.measures import lag_samples, si_sdr_db, without_lag
from models.mix import Batch, Mixer, NoRecordings, open_mixer, read_mono
from models.network import Network, Spectrum
from models.train import Refused, Trainer, new_student, shape_of, train
from quant.calibrate import find, progress
from quant.evaluate import FILE, BadRequest, engine_named
from quant.export import read_network

LIMIT_DB = 60.0
"""A teacher of ours attenuates as far as it wants."""
LEAST_S = 1.0
HELD_SHARE, HELD_MOST_S = 0.2, 20.0
BLOCK_HOPS = 4000
"""Long recordings go through a network in stretches of 20 s."""
MIXTURE_S, MIXTURES_AT_ONCE = 10, 4
TABLES = ("speech.tsv", "noise.tsv")
SILENT = 1e-8
"""Mean power, -80 dBFS: nothing to come nearer to."""

Hear = Callable[[Floats], Floats]
"""float32, 16 kHz mono -> what a teacher makes of it, late by any constant lag."""


# --- the teacher ---------------------------------------------------------------------------------------------------


def teacher_named(name: str) -> tuple[Hear, list[Path]]:
    """An engine by its name in quant.evaluate, or a weights.pt; and the files it works from. Raises UserError."""
    file = Path(name)
    if not name.startswith(FILE) and (file.suffix == ".pt" or file.is_file()):
        return partial(through, read_network(file)), [file]
    if name == "noisy":
        raise BadRequest("--teacher noisy changes nothing; choose another teacher")
    engine = engine_named(name)
    return lambda samples: engine(samples, LIMIT_DB), engine.weights()


@torch.no_grad()
def through(network: Network, samples: Floats) -> Floats:
    """A whole recording through a network of ours, DELAY_SAMPLES late and that much longer; any length fits."""
    spectrum, state, pieces = Spectrum(), network.fresh_state(), []
    padded = np.zeros(-(-(len(samples) + DELAY_SAMPLES) // HOP_SAMPLES) * HOP_SAMPLES, np.float32)
    padded[: len(samples)] = samples
    wave, last = torch.from_numpy(padded).unsqueeze(0), torch.zeros(1, 1, BINS, dtype=torch.complex64)
    for start in range(0, wave.shape[1], BLOCK_HOPS * HOP_SAMPLES):
        lead = min(start, WINDOW_SAMPLES - HOP_SAMPLES)  # what the first frame of a stretch sees of the one before
        bins = spectrum.analyse(wave[:, start - lead : start + BLOCK_HOPS * HOP_SAMPLES])[:, lead // HOP_SAMPLES :]
        gains, _, state = network(spectrum.features(bins), state)
        weighed = torch.cat([last, spectrum.weigh(bins, gains)], 1)
        pieces.append(spectrum.synthesise(weighed)[0, HOP_SAMPLES:])
        last = weighed[:, -1:]
    return torch.cat(pieces).numpy()


def outputs_of(teacher: Hear, recordings: Sequence[Floats], tick: Callable[[], object] = lambda: None) -> list[Floats]:
    """What the teacher makes of every recording, lined up with it and as long. Raises BadRequest for no teacher."""
    late, lags = list[Floats](), list[int]()
    for recording in recordings:
        late.append(teacher(recording.copy()))
        if not np.isfinite(late[-1]).all():
            raise BadRequest("the teacher's output holds NaN or infinite samples; choose another teacher")
        if power(late[-1]) > SILENT:
            lags.append(lag_samples(recording, late[-1]))
        tick()
    if not lags:
        raise BadRequest(
            "the teacher returns only silence for these recordings; choose another teacher or other recordings"
        )
    lag = int(np.median(lags))
    return [without_lag(output, lag, len(recording)) for output, recording in zip(late, recordings, strict=True)]


def power(samples: Floats) -> float:
    """Mean square; 0 of nothing."""
    return float(np.square(samples, dtype=np.float64).mean()) if len(samples) else 0.0


# --- the lessons ---------------------------------------------------------------------------------------------------


def held(length: int) -> int:
    """How many samples at the end of a recording of ``length`` are kept apart."""
    return min(int(HELD_SHARE * length), round(HELD_MOST_S * RATE_HZ))


def to_int16(waves: Sequence[Floats]) -> NDArray[np.int16]:
    """End to end in one row."""
    return np.concatenate([np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16) for wave in waves])


@dataclass(frozen=True)
class Lessons:
    """Recordings and what the teacher made of them, end to end; ``batch`` cuts segments as models.mix.Mixer does."""

    noisy: Tensor
    taught: Tensor
    clean: Tensor | None
    """int16 (samples,) each; ``clean`` only where it is known."""
    lengths: tuple[int, ...]
    """Samples of every recording."""
    trust: float = 1.0
    """How often the teacher's output is the target where there is a clean file."""
    seed: int = 1

    def batch(self, step: int, items: int, samples: int) -> Batch:
        """``items`` segments from anywhere but the ends kept apart; a pure function of ``seed`` and ``step``.

        A long recording is drawn more often, a short one goes round. ``clean`` of the batch is the target.
        """
        device = self.noisy.device
        rng = torch.Generator(device)
        rng.manual_seed(self.seed * 1_000_003 + step)
        ends = torch.tensor(self.lengths, device=device)
        starts = ends.cumsum(0) - ends
        usable = torch.tensor([length - held(length) for length in self.lengths], device=device)
        part = torch.multinomial(usable.double(), items, replacement=True, generator=rng)
        room = (usable[part] - samples).clamp(min=0) + 1
        offset = (torch.rand(items, generator=rng, device=device) * room).long().unsqueeze(1)
        place = offset + torch.arange(samples, device=device)
        place = place % usable[part].unsqueeze(1) + starts[part].unsqueeze(1)
        noisy, target = (row[place].float() / 32768 for row in (self.noisy, self.taught))
        if self.clean is not None:
            own = torch.rand(items, 1, generator=rng, device=device) < self.trust
            target = torch.where(own, target, self.clean[place].float() / 32768)
        unknown = torch.full((items,), float("nan"), device=device)
        return Batch(noisy, target, unknown, torch.zeros(items, dtype=torch.long, device=device))

    def held_out(self) -> list[tuple[Floats, Floats]]:
        """(noisy, teacher's output) of the ends kept apart in which the teacher left anything."""
        pairs = []
        for end, length in zip(np.cumsum(self.lengths), self.lengths, strict=True):
            noisy, taught = (
                (row[int(end) - held(length) : int(end)].float() / 32768).cpu().numpy()
                for row in (self.noisy, self.taught)
            )
            if power(taught) > SILENT:
                pairs.append((noisy, taught))
        return pairs


def made(
    teacher: Hear,
    noisy: Sequence[Floats],
    clean: Sequence[Floats] | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Lessons:
    """Lessons of these recordings; ``tick`` once for each."""
    rows = [noisy, outputs_of(teacher, noisy, tick), *([clean] if clean else [])]
    stored = [torch.from_numpy(to_int16(waves)) for waves in rows]
    return Lessons(stored[0], stored[1], stored[2] if clean else None, tuple(map(len, noisy)))


def save(lessons: Lessons, about: str, file: Path) -> None:
    """All of it or nothing; ``about`` says what it was made of."""
    clean = torch.zeros(0, dtype=torch.int16) if lessons.clean is None else lessons.clean
    lengths, made_of = np.array(lessons.lengths), np.array(about)
    with atomic.part_beside(file) as (descriptor, _), os.fdopen(descriptor, "wb", closefd=False) as content:
        noisy, taught = lessons.noisy.numpy(), lessons.taught.numpy()
        np.savez(content, about=made_of, noisy=noisy, taught=taught, clean=clean.numpy(), lengths=lengths)


def load(file: Path, about: str) -> Lessons | None:
    """What ``save`` wrote of the same ``about``; None for anything else."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["about"]) != about:
                return None
            noisy, taught, clean = (torch.from_numpy(stored[row]) for row in ("noisy", "taught", "clean"))
            return Lessons(noisy, taught, clean if len(clean) else None, tuple(map(int, stored["lengths"])))
    except Exception:  # no file, or a broken archive in any of a dozen ways: it is made again
        return None


# --- the recordings ------------------------------------------------------------------------------------------------


def read(file: Path) -> Floats:
    """The whole recording, float32 mono at 16 kHz; raises NoRecordings or BadRequest."""
    samples = read_mono(file)
    if len(samples) < LEAST_S * RATE_HZ or not np.isfinite(samples).all():
        raise BadRequest(f"{file}: shorter than a second, or it holds NaN or infinite samples")
    return np.clip(samples, -1, 1)


def drawn(mixer: Mixer, minutes: float, tick: Callable[[], object]) -> tuple[list[Floats], list[Floats]]:
    """Mixtures of MIXTURE_S: noisy and clean; the first steps of the mixer, one ``tick`` each."""
    noisy, clean = list[Floats](), list[Floats]()
    for step in range(batches_of(minutes)):
        batch = mixer.batch(step, MIXTURES_AT_ONCE, MIXTURE_S * RATE_HZ)
        noisy += [*batch.noisy.numpy()]
        clean += [*batch.clean.numpy()]
        tick()
    return noisy, clean


def batches_of(minutes: float) -> int:
    return max(round(minutes * 60 / MIXTURE_S / MIXTURES_AT_ONCE), 1)


def gathered(asked: argparse.Namespace, teacher: Hear, weights: list[Path]) -> Lessons:
    """The lessons as the command line wants them: those in RUN if they are the same, else the teacher's new ones."""
    source = [asked.data] if asked.data else find(asked.noisy)
    files = [asked.data / name for name in TABLES] if asked.data else source
    stamps = [[str(file.absolute()), file.stat().st_size, file.stat().st_mtime] for file in [*files, *weights]]
    about = json.dumps([asked.teacher, asked.mixture_minutes if asked.data else 0, asked.seed, stamps])
    store = asked.out / "lessons.npz"
    found = load(store, about)
    if found:
        return found
    recordings = [] if asked.data else [read(file) for file in source]
    mixer = open_mixer(asked.data, asked.out / "cache", asked.seed) if asked.data else None
    asked.out.mkdir(parents=True, exist_ok=True)
    with progress() as bar:
        clean = None
        if mixer:
            task = bar.add_task("mixing", total=batches_of(asked.mixture_minutes))
            recordings, clean = drawn(mixer, asked.mixture_minutes, lambda: bar.advance(task))
        task = bar.add_task(f"{asked.teacher} processes {len(recordings)} recordings", total=len(recordings))
        lessons = made(teacher, recordings, clean, lambda: bar.advance(task))
    save(lessons, about, store)
    return lessons


# --- how near ------------------------------------------------------------------------------------------------------


def nearness_db(lessons: Lessons, student: Network | None) -> float:
    """Mean SI-SDR of the student's output towards the teacher's on what was kept apart; None stands for no student."""
    found = []
    for noisy, taught in lessons.held_out():
        output = noisy if student is None else through(student, noisy)[DELAY_SAMPLES : DELAY_SAMPLES + len(noisy)]
        found.append(si_sdr_db(taught, output))
    return float(np.mean(found)) if found else float("nan")


def teach(student: Trainer, lessons: Lessons, out: Path, most_steps: int = 0) -> None:
    """Run the student's plan, or ``most_steps`` of it, with everything that a training leaves in ``out``."""
    train(student, lessons, out, most_steps=most_steps)


# --- the command ---------------------------------------------------------------------------------------------------


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m quant.distil", description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", required=True, help="an engine by its name in quant.evaluate, or a weights.pt")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--noisy", type=Path, nargs="+", metavar="DIR", help="folders of noisy recordings")
    source.add_argument("--data", type=Path, metavar="DIR", help="speech.tsv, noise.tsv and rir/, to mix from")
    parser.add_argument(
        "--trust", type=float, help="with --data: weight of the teacher's output in the target, 0 to 1 (default 0.5)"
    )
    parser.add_argument("--mixture-minutes", type=float, default=30.0, help="with --data (default %(default)g)")
    parser.add_argument("--init", type=Path, metavar="F.pt", help="initial weights of the student")
    parser.add_argument("--shape", default="{}", metavar="JSON", help='a new student, e.g. {"channels": 24}')
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="output folder for checkpoint.pt and weights.pt"
    )
    parser.add_argument("--resume", action="store_true", help="continue from RUN/checkpoint.pt")
    parser.add_argument("--minutes", type=float, help="planned time over all resumptions (default 120)")
    parser.add_argument("--steps", type=int, help="plan steps instead of minutes")
    parser.add_argument("--items", type=int, default=16, help="segments of 1.5 s a step (default %(default)s)")
    parser.add_argument("--rate", type=float, help="highest learning rate (default 2e-3, with --init 3e-4)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


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
    if asked.init:
        read_network(asked.init)


def student_of(asked: argparse.Namespace) -> Trainer:
    """As training makes it; raises BadRequest for a checkpoint that is none."""
    try:
        return new_student(asked, torch.device(asked.device), 1)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRequest(f"{asked.out / 'checkpoint.pt'}: cannot be resumed ({type(error).__name__})") from None


def run(asked: argparse.Namespace) -> Table:
    """Everything; returns the table of before and after. Raises UserError, Refused, NoRecordings or OSError."""
    torch.set_num_threads(asked.threads)
    check(asked)
    teacher, weights = teacher_named(asked.teacher)
    student = student_of(asked)
    lessons = gathered(asked, teacher, weights)
    trust = 0.5 if asked.trust is None else asked.trust
    rows = (None if row is None else row.to(asked.device) for row in (lessons.noisy, lessons.taught, lessons.clean))
    noisy, taught, clean = rows
    assert noisy is not None and taught is not None
    lessons = Lessons(noisy, taught, clean, lessons.lengths, trust, student.plan.seed)
    before = nearness_db(lessons, student.averaged_network())
    teach(student, lessons, asked.out)
    title = f"similarity to {asked.teacher} on {len(lessons.held_out())} held-out segments"
    table = Table("heard", title=title, title_justify="left")
    table.add_column("SI-SDR dB towards the teacher", justify="right")
    table.add_row("the noisy recording", f"{nearness_db(lessons, None):.2f}")
    table.add_row("student before this run", f"{before:.2f}")
    table.add_row("student now", f"{nearness_db(lessons, student.averaged_network()):.2f}")
    return table


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    asked = arguments(argv)
    try:
        table = run(asked)
    except (UserError, Refused, NoRecordings, OSError) as error:
        print(f"distil: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("distil: stopped; continue with --resume once there is a checkpoint", file=sys.stderr)
        return 130
    console = Console()
    console.print(table)
    console.print(f"{asked.out / 'weights.pt'}: the student; quant.export exports it", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_main(main, "distil")

"""Many sound files through engines that are opened once: in this process, or in several at once.

The unit of work is ``Enhancer.enhance``: one file through an open engine, to an ``Outcome`` that holds what happened to
it. ``outcomes`` yields one for every job, in the order in which they finish. A worker process holds one engine and
works on one file at a time, so the memory needed does not depend on the number of files; a worker that is killed costs
its file and is replaced.
"""

import contextlib
import multiprocessing
import os
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

from edge import UserError
from edge.config import Config
from edge.console import describe
from edge.files import atomic
from edge.suppress import open_named
from edge.tools.sounds.enhance import Enhanced, enhance_file
from edge.tools.sounds.sound_kinds import NoSound
from edge.tools.sounds.sound_targets import written_to

REPORT_S = 0.2
"""A worker reports its progress at most so often."""
END_S = 10.0
"""A worker that is told to end finishes the block at hand and removes its file in the making; then it is killed."""


@dataclass(frozen=True)
class Request:
    """What is done to every file."""

    config: Config
    channel: int = 0
    reference: int = 0


@dataclass(frozen=True)
class Job:
    """One file."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What happened to one file: ``result``, or the line ``error`` that says why there is none."""

    job: Job
    result: Enhanced | None
    error: str = ""
    no_sound: bool = False
    """Whether there was none in the file."""

    @property
    def good(self) -> bool:
        """Whether the file was processed by the engine asked for from its beginning to its end."""
        return self.result is not None and not self.result.degraded


Progress = Callable[[Job, float], None]
"""Called with a job in work and the share of it that is done, 0..1."""


class Enhancer:
    """An open engine, and files through it one after the other."""

    def __init__(self, request: Request) -> None:
        """Raises BadModel where the engine named in the settings cannot be opened."""
        self._request = request
        self.engine = open_named(request.config)

    def enhance(self, job: Job, progress: Progress, token: str = "") -> Outcome:
        """One file, as if it were the only one. ``token`` names the file in the making (``atomic.part_of``)."""

        def report(done: int, total: int) -> None:
            progress(job, min(done / max(total, 1), 1.0))

        asked = self._request
        try:
            result = enhance_file(
                job.source,
                job.target,
                asked.config,
                channel=asked.channel,
                reference=asked.reference,
                progress=report,
                engine=self.engine,
                token=token,
            )
        except UserError as error:
            return Outcome(job, None, str(error), isinstance(error, NoSound))
        except MemoryError:
            return Outcome(job, None, f"{job.source}: not enough memory to process it")
        except Exception as fault:  # one file of many must not end the rest
            return Outcome(job, None, f"{job.source}: unexpected fault, please report it ({describe(fault)})")
        return Outcome(job, result)


def outcomes(
    request: Request, jobs: Sequence[Job], processes: int, progress: Progress, note: Callable[[str], None]
) -> Generator[Outcome, None, None]:
    """Every job's outcome, as it finishes, by so many processes (1: this one).

    ``note`` gets each sentence that the engine has about itself, once. Raises UserError where the engine cannot be
    opened, OSError where no process can be started. Whatever ends the iteration ends the processes, too, and leaves no
    file in the making.
    """
    processes = min(processes, len(jobs))
    if processes > 1:
        yield from _Pool(request, jobs, processes, progress, note).run()
        return
    enhancer = Enhancer(request)
    for sentence in enhancer.engine.notes:
        note(sentence)
    for job in jobs:
        yield enhancer.enhance(job, progress)


# --- the worker's side ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Opened:
    """A worker is ready for its first job."""

    notes: list[str]


@dataclass(frozen=True)
class _Refused:
    """A worker cannot open the engine."""

    why: str


def _work(pipe: "Connection[Any, Any]", request: Request, parent: int) -> None:
    """The life of a worker: open the engine, then a job (and its token) in, its outcome out, until the pipe closes."""

    def leave(*_: int | FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is being removed must not be left by a second signal
        sys.exit(1)

    signal.signal(signal.SIGTERM, leave)
    reported_s = 0.0

    def report(_: Job, share: float) -> None:
        nonlocal reported_s
        if os.getppid() != parent:  # killed: nobody wants the rest
            leave()
        if (now_s := time.monotonic()) - reported_s >= REPORT_S:
            reported_s = now_s
            with contextlib.suppress(OSError):
                pipe.send(share)

    with contextlib.suppress(EOFError, OSError):  # the other end has gone
        try:
            enhancer = Enhancer(request)
        except UserError as refusal:
            pipe.send(_Refused(str(refusal)))
            return
        pipe.send(_Opened(enhancer.engine.notes))
        while True:
            job, token = pipe.recv()
            pipe.send(enhancer.enhance(job, report, token))


# --- the side of the one that distributes the work -------------------------------------------------------------------


class _Worker:
    """A process and what it is working on."""

    def __init__(self, request: Request) -> None:
        """Raises OSError where no process can be started."""
        context = multiprocessing.get_context("spawn")  # a fork would inherit the threads of libraries as locks
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, request, os.getpid()), daemon=True)
        self.job: Job | None = None
        self._token = ""
        resource_tracker.ensure_running()  # its own start would let the signals through
        with _leaving_signals_to_us():
            self.process.start()
        theirs.close()  # so that the worker's end is the last, and its death ends the pipe

    def give(self, job: Job) -> None:
        self.job, self._token = job, secrets.token_hex(6)
        with contextlib.suppress(OSError):  # it has just died, which is noticed when it is listened to
            self.pipe.send((job, self._token))

    def bury(self) -> str:
        """How it ended, in words, once its pipe has ended; nothing is left of its file in the making."""
        self.process.join(END_S)
        self._remove_part()
        code = self.process.exitcode or 0
        known = {number.value: number.name for number in signal.Signals}
        return f"was ended by {known.get(-code, -code)}" if code < 0 else f"ended with status {code}"

    def end(self, deadline_s: float) -> None:
        """After SIGTERM: wait for it, or kill it."""
        self.process.join(max(0.0, deadline_s - time.monotonic()))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.pipe.close()
        self._remove_part()

    def _remove_part(self) -> None:
        if self.job:
            with contextlib.suppress(OSError):
                atomic.part_of(written_to(self.job.target), self._token).unlink()


class _Pool:
    """So many workers, each with a job, until there are none."""

    def __init__(
        self,
        request: Request,
        jobs: Sequence[Job],
        processes: int,
        progress: Progress,
        note: Callable[[str], None],
    ) -> None:
        self._request, self._progress, self._note = request, progress, note
        self._waiting = deque(jobs)
        self._processes = processes
        self._workers: list[_Worker] = []
        self._noted: set[str] = set()

    def run(self) -> Iterator[Outcome]:
        try:
            for _ in range(self._processes):
                self._start()
            while self._workers:
                ready = wait([worker.pipe for worker in self._workers])
                for worker in [worker for worker in self._workers if worker.pipe in ready]:
                    yield from self._listen(worker)
        finally:
            self._end()

    def _start(self) -> None:
        """One worker more; where the machine allows no more, those there are go on."""
        try:
            self._workers.append(_Worker(self._request))
        except OSError:
            if not self._workers:
                raise

    def _listen(self, worker: _Worker) -> Iterator[Outcome]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            yield from self._replace(worker)
            return
        if isinstance(message, _Refused):
            raise UserError(message.why)
        if isinstance(message, float):
            if worker.job:
                self._progress(worker.job, message)
            return
        if isinstance(message, _Opened):
            for sentence in message.notes:
                if sentence not in self._noted:
                    self._noted.add(sentence)
                    self._note(sentence)
        worker.job = None
        if self._waiting:
            worker.give(self._waiting.popleft())
        else:
            worker.pipe.close()  # and so it ends
            self._workers.remove(worker)
            worker.process.join(END_S)
        if isinstance(message, Outcome):
            yield message

    def _replace(self, worker: _Worker) -> Iterator[Outcome]:
        """It has died: that is its file's failure; another one goes on with the rest."""
        self._workers.remove(worker)
        how = worker.bury()
        worker.pipe.close()
        if worker.job is None:
            if not self._workers and self._waiting:
                raise UserError(f"a process for the files {how} before it could begin: try a smaller --jobs")
            return
        yield Outcome(worker.job, None, f"{worker.job.source}: the process that worked on it {how}{_likely(how)}")
        if self._waiting:
            self._start()

    def _end(self) -> None:
        """Ends what still works; nothing is left of the files in the making."""
        with _leaving_signals_to_us():  # a second Ctrl-C must not stop the removing
            for worker in self._workers:
                worker.process.terminate()
            deadline_s = time.monotonic() + END_S
            for worker in self._workers:
                worker.end(deadline_s)


def _likely(how: str) -> str:
    return " (the kernel does so when memory runs out; a smaller --jobs needs less)" if "SIGKILL" in how else ""


@contextlib.contextmanager
def _leaving_signals_to_us() -> Iterator[None]:
    """What the terminal sends to all of its processes is held back; a process started meanwhile never gets it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

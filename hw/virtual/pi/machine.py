"""One boot of the machine: a disk, a folder shared with the host, a job in it, and the power switch."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge import UserError

MEMORY = "1024M"
CARDS = ("Microphone", "Headphones", "Cable")
"""Loop-back cards the kernel starts with: device 0 is the product's side, device 1 the world's."""
SHM = Path("/dev/shm")
POWER_OFF_S = 20.0
"""One boot in six prints everything and then never ends: it is killed so long after the job's status."""
LOOK_S = 0.25
FIRST = 90
"""SCHED_FIFO priority of the machine on the host: above that of a box which a test runs there (50)."""
OWN_TIME = "time-travel=inf-cpu"
"""Kernel word for a clock of the machine's own (arch/um/kernel/time.c, CONFIG_UML_TIME_TRAVEL_SUPPORT): it stands still
while a process computes, and jumps to the next timer when all of them wait. Whatever else the host does, it makes no
sound late in there, and ten minutes take as long as their computing. It says nothing of speed; a busy loop in the
machine would stop the clock for good."""


@dataclass(frozen=True)
class Boot:
    """What became of one boot."""

    status: int | None
    """Exit status of the job; None if it never ended."""
    seconds: float
    hung: bool
    """Whether the machine had to be killed: its known flake at power-off, or a job that ran out of time."""


def boot(
    kernel: Path,
    disk: Path,
    layer: Path,
    share: Path,
    *,
    limit_s: float,
    words: tuple[str, ...] = (),
    busy: bool = False,
    own_time: bool = False,
    seen: Callable[[], None] = lambda: None,
) -> Boot:
    """Boot, run ``share/job`` inside, power off. What is written to the disk goes to ``layer`` (made if missing).

    ``words`` are added to the kernel's command line; ``busy`` means that the job keeps the machine busy all the time;
    ``own_time`` gives it a clock of its own (``OWN_TIME``); ``seen`` is called a few times a second while it runs.
    """
    for name in ("status", "stdout", "stderr", "journal"):
        (share / name).unlink(missing_ok=True)
    began_s = time.monotonic()
    with (share / "console").open("wb") as console:
        machine = subprocess.Popen(
            command(kernel, disk, layer, share, words, busy, own_time),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(memory_folder(share))},
        )
        try:
            hung = _watch(machine, share / "status", began_s + limit_s, seen)
        finally:
            _cut_power(machine)
    seen()
    try:
        status: int | None = int((share / "status").read_text())
    except (OSError, ValueError):
        status = None
    return Boot(status, time.monotonic() - began_s, hung)


def command(
    kernel: Path, disk: Path, layer: Path, share: Path, words: tuple[str, ...], busy: bool, own_time: bool = False
) -> list[str]:
    """The command that is the machine; the arguments are those of ``boot``."""
    count = len(CARDS)
    return [
        *([] if own_time else punctual(busy)),
        str(kernel),
        f"mem={MEMORY}",
        f"ubd0={layer},{disk}",
        "root=/dev/ubda",
        *(words if "ro" in words else ("rw", *words)),
        "con=null",
        "con0=fd:0,fd:1",
        "console=tty0",
        "quiet",
        "loglevel=3",
        f"snd_aloop.enable={','.join('1' * count)}",
        f"snd_aloop.id={','.join(CARDS)}",
        f"snd_aloop.pcm_substreams={','.join('1' * count)}",
        f"pi.share={share}",
        *([OWN_TIME] if own_time else []),
    ]


def _watch(machine: subprocess.Popen[bytes], status: Path, over_s: float, seen: Callable[[], None]) -> bool:
    """Wait until it ends by itself; whether it has to be killed, at ``over_s`` or some time after the job's end."""
    ended_s = None
    while machine.poll() is None:
        time.sleep(LOOK_S)
        seen()
        now_s = time.monotonic()
        if ended_s is None and status.exists():
            ended_s = now_s
        if now_s > over_s or (ended_s is not None and now_s - ended_s > POWER_OFF_S):
            return True
    return False


def memory_folder(share: Path) -> Path:
    """Where the machine keeps its memory, which is a file: on a disk it would stand still whenever that writes back."""
    try:
        quick = not os.statvfs(SHM).f_flag & os.ST_NOEXEC and os.access(SHM, os.W_OK)
    except OSError:
        quick = False
    return SHM if quick else share


def punctual(busy: bool) -> list[str]:
    """What runs the machine before everything else on the host, where that is allowed: a guest whose clock stumbles
    loses sound that no box could save. On one processor, since the guest's kernel and its processes take turns: where
    they wake each other across two, a boot took half as long again. Only a busy one may have all of them: Linux
    takes a processor away for 50 ms from whoever held it in real time for 950."""
    pin = [] if busy else ["taskset", "-c", str(max(os.sched_getaffinity(0)))]
    first = [*pin, "chrt", "--fifo", str(FIRST)]
    with contextlib.suppress(OSError):
        if subprocess.run([*first, "true"], stderr=subprocess.DEVNULL).returncode == 0:
            return first
    return []


def copy_layer(layer: Path, target: Path) -> None:
    """A copy that stays sparse. Raises UserError if the layer is gone or the disk is full."""
    done = subprocess.run(["cp", "--sparse=always", str(layer), str(target)], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"the installed disk cannot be copied: {last}")


def job(share: Path, text: str) -> None:
    """Put a shell script where the machine looks for its job."""
    path = share / "job"
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def _cut_power(machine: subprocess.Popen[bytes]) -> None:
    """Kill the kernel and every process it keeps for its own: they share its session."""
    if machine.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(machine.pid, signal.SIGKILL)
    machine.wait()

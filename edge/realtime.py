"""Real-time operation: memory that is never paged out, real-time priority, no garbage collection meanwhile."""

import contextlib
import ctypes
import gc
import os
import sys

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
"""mlockall(2): pages mapped now, pages mapped later, and of both only those ever touched (a third of the memory)."""
SWITCH_INTERVAL_S = 0.0005
"""How long another thread may keep the interpreter while the audio thread waits; Python's own 5 ms are a hop."""
HOUSEKEEPING_PRIORITY = 1
"""SCHED_FIFO for the threads beside the audio thread. One that holds the interpreter while ordinary programs keep it
off the processor would make the audio thread wait for those programs (priority inversion)."""


def lock_memory_and_freeze_gc() -> list[str]:
    """Lock memory and freeze the garbage collector; returns one sentence for each thing refused."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.disable()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT):
        reason = os.strerror(ctypes.get_errno())
        return [f"memory is not locked ({reason}); give the service LimitMEMLOCK=infinity"]
    return []


def request_realtime_priority(priority: int) -> list[str]:
    """Ask SCHED_FIFO for the calling thread; returns one sentence if it is refused. 0 asks for nothing."""
    if not priority:
        return []
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError as error:
        return [f"no real-time priority ({error.strerror}); give the service LimitRTPRIO={priority} or more"]
    return []


def ordinary_children() -> None:
    """Processes and threads that the calling thread starts from now on get no real-time priority by inheritance.

    A Python that loads at SCHED_FIFO keeps a processor for as long as that takes. On a board with one, the kernel's
    own threads (ksoftirqd, at ordinary priority) then do not run, timers and sound cards stand still, and the box
    calls its microphone stalled.
    """
    policy = os.sched_getscheduler(0)
    if policy in (os.SCHED_FIFO, os.SCHED_RR):
        with contextlib.suppress(OSError):  # then they inherit it, as they would without this
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, os.sched_getparam(0))

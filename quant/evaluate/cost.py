"""What an engine costs: latency, size, time and memory, each in a process of its own on one thread."""

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge import RATE_HZ
from edge.dsp.spectrum import Floats
from edge.tools import bench
from quant.evaluate.engines import block_latency_ms, engine_named
from quant.evaluate.processes import pool_of


@dataclass(frozen=True)
class Cost:
    """What one engine costs; NaN where it is not known."""

    latency_ms: float
    weights_kb: float
    real_time_factor: float
    """Processor seconds for one second of sound, on one thread."""
    against_first: float
    """The same as a multiple of the first engine's that is one; ``noisy`` does nothing and is not compared."""
    measured_ms: float = float("nan")
    """The latency of an engine in the box, found by correlating a voice with what becomes of it."""
    hop_p50_us: float = float("nan")
    hop_p99_us: float = float("nan")
    """Of an engine in the box, a hop of 5 ms; other people's blocks of more make some hops dear and most cheap."""
    memory_mb: float = float("nan")
    """How much more a fresh process holds after a second of sound."""


NOISY = "noisy"
"""The engine that only hands the sound on."""

COSTS: dict[str, tuple[str, int]] = {
    "latency_ms": ("algorithmic latency ms", 1),
    "measured_ms": ("measured ms", 1),
    "weights_kb": ("weights KB", 1),
    "real_time_factor": ("real-time factor", 4),
    "against_first": ("relative CPU time", 2),
    "hop_p50_us": ("hop p50 µs", 0),
    "hop_p99_us": ("hop p99 µs", 0),
    "memory_mb": ("memory MB", 0),
}
"""Every figure of ``Cost``: heading and digits."""


def costs(
    engines: list[str], sound: Floats, limit_db: float, ticks: Callable[[], object] = lambda: None
) -> dict[str, Cost]:
    """Every engine's cost on ``sound``, one after the other, each in a fresh process; ``ticks`` is called for each."""
    found: dict[str, dict[str, float]] = {}
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in threads}
    os.environ.update(dict.fromkeys(threads, "1"))  # read when the process loads its libraries
    try:
        for engine in engines:
            with pool_of(1, multiprocessing.get_context("spawn")) as pool:
                found[engine] = pool.submit(_spent, engine, sound, limit_db).result()
            ticks()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    first = next((spent["real_time_factor"] for engine, spent in found.items() if engine != NOISY), 0.0)
    return {
        engine: Cost(
            latency_ms=engine_named(engine).latency_ms(),
            weights_kb=sum(path.stat().st_size for path in engine_named(engine).weights()) / 1000 or float("nan"),
            against_first=_ratio(spent["real_time_factor"], first, engine),
            **spent,
        )
        for engine, spent in found.items()
    }


def _ratio(real_time_factor: float, first: float, engine: str) -> float:
    """NaN where either costs nothing."""
    return real_time_factor / first if first > 0 and engine != NOISY else float("nan")


def _spent(engine: str, sound: Floats, limit_db: float) -> dict[str, float]:
    """What only a run can show of an engine, in a process that has run nothing yet."""
    before_mb = bench.resident_mb()
    engine_named(engine)(np.resize(sound, RATE_HZ), limit_db)
    spent = {"memory_mb": bench.resident_mb() - before_mb}
    if opened := engine_named(engine).opened:
        times = bench.timed(engine, opened(limit_db).process, np.resize(sound, 10 * RATE_HZ))
        spent |= {"hop_p50_us": times.p50_us, "hop_p99_us": times.p99_us}
        spent["measured_ms"] = block_latency_ms(bench.measured_delay(opened(bench.NO_LIMIT_DB)))
    return spent | {"real_time_factor": _real_time_factor(engine, sound, limit_db)}


def _real_time_factor(engine: str, sound: Floats, limit_db: float) -> float:
    """The best of three differences between seven seconds and one: what starting costs is in both."""
    short, long = (np.resize(sound, seconds * RATE_HZ) for seconds in (1, 7))

    def seconds(samples: Floats) -> float:
        began = time.process_time()
        engine_named(engine)(samples.copy(), limit_db)
        return time.process_time() - began

    seconds(short)
    return max(min(seconds(long) for _ in range(3)) - min(seconds(short) for _ in range(3)), 0.0) / 6

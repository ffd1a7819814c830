"""How long a hop takes on this machine, engine by engine and stage by stage."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.chain import Chain
from edge.config import Config
from edge.spectrum import Floats
from edge.suppress import BUILDERS

WARM_UP_HOPS = 200


@dataclass(frozen=True)
class HopTimes:
    """Microseconds a hop, and the share of real time."""

    name: str
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    real_time_factor: float


def bench_engines(config: Config, seconds: float) -> list[HopTimes]:
    """The whole chain once with every engine that can be opened."""
    signal = speech_like(seconds)
    rows = []
    for name in BUILDERS:
        chain = Chain(replace(config, suppress=replace(config.suppress, engine=name)))
        if chain.engine.name == name:
            rows.append(_timed(f"whole chain, {name}", chain.process, signal))
    return rows


def bench_stages(config: Config, seconds: float) -> list[HopTimes]:
    """Every stage of the configured chain by itself."""
    signal = speech_like(seconds)
    chain = Chain(config)
    stages: dict[str, Callable[[Floats], object]] = {
        "feedforward": chain.feedforward.process,
        f"suppress, {chain.engine.name}": chain.engine.process,
        "equaliser": chain.eq.process,
        "limiter": chain.limiter.process,
    }
    if gate := chain.gate:
        stages["gate"] = lambda hop: gate.process(hop, False)
    return [_timed(name, process, signal) for name, process in stages.items()]


def speech_like(seconds: float) -> Floats:
    """float32: noise at -30 dBFS with louder bursts four times a second, so that every branch is walked."""
    hops = max(1, round(seconds * RATE_HZ / HOP_SAMPLES))
    noise = np.random.default_rng(1).standard_normal(hops * HOP_SAMPLES).astype(np.float32) * 0.03
    bursts = (np.sin(2 * np.pi * 4 * np.arange(len(noise)) / RATE_HZ) > 0.3) * np.float32(4) + np.float32(1)
    return noise * bursts


def _timed(name: str, process: Callable[[Floats], object], signal: Floats) -> HopTimes:
    hops = signal.reshape(-1, HOP_SAMPLES).copy()
    for hop in hops[:WARM_UP_HOPS].copy():
        process(hop)
    took_us = np.empty(len(hops))
    for number, hop in enumerate(hops):
        began = time.perf_counter_ns()
        process(hop)
        took_us[number] = (time.perf_counter_ns() - began) / 1000
    p50, p99, p999 = np.percentile(took_us, (50, 99, 99.9))
    return HopTimes(name, p50, p99, p999, took_us.max(), took_us.mean() / (1000 * HOP_MS))

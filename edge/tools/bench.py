"""How long a hop takes on this machine, engine by engine and stage by stage; and engines side by side."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ, UserError, engines
from edge.chain import Chain
from edge.config import Config, with_engine
from edge.console import step
from edge.dsp.spectrum import Floats
from edge.engines import Family
from edge.suppress import BadModel, files_of, open_configured, open_named
from edge.suppress.engine import Engine

WARM_UP_HOPS = 200
VOICE_S = 4
NO_LIMIT_DB = 100.0
"""No dry sound in the output, which would be found at the delay that it was given."""
MOST_LAG_SAMPLES = RATE_HZ // 2


@dataclass(frozen=True)
class HopTimes:
    """Microseconds a hop, and the share of real time."""

    name: str
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    real_time_factor: float


@dataclass(frozen=True)
class Examined(HopTimes):
    """One engine beside others; the times are the whole chain's."""

    latency_ms: float
    """As the engine reports it: the hop, its own delay and what fitting its blocks into hops takes."""
    measured_ms: float
    """The same as found by correlating a voice with what the engine made of it."""
    weights_kb: float
    """Its files; NaN where it has none or does not report them."""
    memory_mb: float
    """How much more a fresh process holds once the chain runs, our engines below another one's included."""


def bench_engines(config: Config, seconds: float, names: Sequence[str] | None = None) -> list[HopTimes]:
    """The whole chain once with each engine of ``names`` that can be opened, in their order.

    Without ``names`` all of ours, and before them the configured one if it is somebody else's.
    """
    signal = speech_like(seconds)
    if names is None:
        theirs = [name for name in engines.names(Family.THIRD_PARTY) if name == config.suppress.engine]
        names = [*theirs, *engines.names(Family.OURS, Family.NONE)]
    rows = []
    for name in names:
        chosen = with_engine(config, name)
        step(f"timing the whole chain with {name} ...")
        with contextlib.suppress(BadModel):
            rows.append(timed(f"whole chain, {name}", Chain(chosen, open_named(chosen)).process, signal))
    step("")
    return rows


def engines_named(text: str) -> list[str]:
    """``all``, or names with commas between -> names; raises UserError."""
    known = [*engines.names(Family.OURS, Family.NONE, Family.THIRD_PARTY)]
    names = [*dict.fromkeys(name.strip() for name in text.split(",") if name.strip())]
    if names == ["all"]:
        return known
    for name in names:
        if name not in known:
            raise UserError(f"no engine is called {name}; known: all, {', '.join(known)}")
    if not names:
        raise UserError(f"--engines names none; known: all, {', '.join(known)}")
    return names


def examine_engines(config: Config, seconds: float, names: Sequence[str]) -> Iterator[tuple[str, Examined | str]]:
    """Each name with its figures, or with the reason why there are none; each in a process of its own."""
    for name in names:
        step(f"timing {name} ...")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            try:
                found = fresh.submit(_examine, config, seconds, name).result()
            except BrokenProcessPool:
                found = f"engine {name} ends the process that runs it"
        step("")
        yield name, found


def _examine(config: Config, seconds: float, name: str) -> Examined | str:
    before_mb = resident_mb()
    chosen = with_engine(config, name)
    try:
        chain = Chain(chosen, open_named(chosen))
    except BadModel as refusal:
        return str(refusal)
    times = timed(name, chain.process, speech_like(seconds))
    memory_mb = resident_mb() - before_mb
    if chain.engine.level:
        return f"engine {name} failed while it was timed ({chain.engine.failure})"
    engine = open_configured(replace(chosen, suppress=replace(chosen.suppress, limit_db=NO_LIMIT_DB)))
    return Examined(
        **asdict(times),
        latency_ms=HOP_MS * (1 + engine.delay_samples / HOP_SAMPLES),
        measured_ms=HOP_MS * (1 + measured_delay(engine) / HOP_SAMPLES),
        weights_kb=sum(path.stat().st_size for path in files_of(name, chosen.suppress.model)) / 1000 or float("nan"),
        memory_mb=memory_mb,
    )


def resident_mb() -> float:
    """Resident memory of this process (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measured_delay(engine: Engine) -> int:
    """Delay from input to output in samples: the peak of the correlation of a voice with the engine's output for it."""
    voice = voice_like(VOICE_S)
    output = voice.copy()
    for hop in output.reshape(-1, HOP_SAMPLES):
        engine.process(hop)
    size = 2 * len(voice)
    correlation = np.fft.irfft(np.fft.rfft(output, size) * np.conj(np.fft.rfft(voice, size)), size)
    return int(np.argmax(correlation[:MOST_LAG_SAMPLES]))


def voice_like(seconds: int) -> Floats:
    """float32: what engines take for a voice: gliding pitch, moving formants, three syllables a second."""
    t = np.arange(seconds * RATE_HZ) / RATE_HZ
    pitch_hz = 125 + 30 * np.sin(2 * np.pi * 0.45 * t) + 10 * np.sin(2 * np.pi * 1.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    voice = np.zeros(len(t))
    for number in range(1, 24):
        at_hz = number * pitch_hz
        level = np.zeros(len(t))
        for formant_hz, sway_hz, width_hz in ((550, 200, 120), (1500, 500, 200), (2500, 200, 300)):
            centre_hz = formant_hz + sway_hz * np.sin(2 * np.pi * 1.1 * t + formant_hz)
            level += 1 / (1 + ((at_hz - centre_hz) / width_hz) ** 2)
        voice += level / number**0.5 * np.sin(number * phase)
    voice *= np.clip(np.sin(2 * np.pi * 3 * t) + 0.6, 0, 1)
    return (0.3 * voice / np.abs(voice).max()).astype(np.float32)


def with_optional_stages(config: Config) -> Config:
    """The settings with reference and howl guard on; anti-noise stays as it is, since it needs a calibration."""
    reference = config.reference
    return replace(
        config,
        reference=reference if reference.channel else replace(reference, channel=2),
        howl=replace(config.howl, on=True),
    )


def bench_stages(config: Config, seconds: float) -> list[HopTimes]:
    """Every stage of the configured chain by itself; reference and howl guard even where the settings have none."""
    signal = speech_like(seconds)
    chain = Chain(with_optional_stages(config))
    stages: dict[str, Callable[[Floats], object]] = {
        "feedforward": chain.feedforward.process,
        f"suppress, {chain.engine.name}": chain.engine.process,
        "equaliser": chain.eq.process,
        "limiter": chain.limiter.process,
    }
    if gate := chain.gate:
        stages["gate"] = lambda hop: gate.process(hop, False)
    reference, howl = chain.reference, chain.howl
    assert reference and howl
    other = np.roll(signal, 3)[:HOP_SAMPLES].copy()
    stages[f"reference, {config.reference.path_ms:g} ms, adapting"] = lambda hop: reference.process(hop, other, 0.0)

    def guard(hop: Floats) -> None:
        howl.hear(hop)
        howl.process(hop)
        howl.played(hop)

    stages["howl guard, watching"] = guard
    if antinoise := chain.antinoise:
        stages["anti-noise"] = lambda hop: antinoise.process(hop, True)
    rows = []
    for name, process in stages.items():
        step(f"timing {name} ...")
        rows.append(timed(name, process, signal))
    step("")
    return rows


def speech_like(seconds: float) -> Floats:
    """float32: noise at -30 dBFS with louder bursts four times a second, so that every branch runs."""
    hops = max(1, round(seconds * RATE_HZ / HOP_SAMPLES))
    noise = np.random.default_rng(1).standard_normal(hops * HOP_SAMPLES).astype(np.float32) * 0.03
    bursts = (np.sin(2 * np.pi * 4 * np.arange(len(noise)) / RATE_HZ) > 0.3) * np.float32(4) + np.float32(1)
    return noise * bursts


def timed(name: str, process: Callable[[Floats], object], signal: Floats) -> HopTimes:
    """``process`` hop by hop on a copy of ``signal``."""
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

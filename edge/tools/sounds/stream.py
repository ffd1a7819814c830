"""The chain on a stream of any rate and length: what goes in comes out in its place.

The stream is converted to 16 kHz by the live converter, processed hop by hop by the chain and converted back. The known
delay is removed at the front, so that the output lines up with the input and has its length.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.chain import Chain
from edge.config import Config
from edge.console import describe
from edge.dsp.peak import PeakLimiter
from edge.dsp.resample import Resampler
from edge.dsp.spectrum import Floats
from edge.health import quieter_db
from edge.suppress.engine import Engine
from edge.tools.sounds.sound_files import BLOCK_FRAMES


class Stream:
    """The chain on a stream of any rate: ``push`` samples, get those that are ready, late by ``delay_samples``.

    With ``[reference] channel`` set it takes two channels, (samples, 2): the voice and the reference; else one.
    What comes out holds ``limiter.peak_dbfs`` at every rate.
    """

    def __init__(self, config: Config, rate_hz: int, engine: Engine | None = None) -> None:
        """``engine``: an open one, instead of the one that ``config`` names; it is restarted."""
        # In a file nothing that is played is heard again.
        no_loop = replace(config, antinoise=replace(config.antinoise, on=False), howl=replace(config.howl, on=False))
        if engine:
            engine.restart()
        self.chain = Chain(no_loop, engine)
        self.rate_hz = rate_hz
        self.channels = 2 if self.chain.reference else 1
        self._in = Resampler(rate_hz, RATE_HZ, BLOCK_FRAMES)
        self._other_in = Resampler(rate_hz, RATE_HZ, BLOCK_FRAMES) if self.chain.reference else None
        self._out = Resampler(RATE_HZ, rate_hz, HOP_SAMPLES)
        self.peak_dbfs = peak_dbfs = config.limiter.peak_dbfs
        self._peak = None if self._out.untouched else PeakLimiter(rate_hz, self._out.max_out, peak_dbfs)
        self._waiting = np.zeros((0, self.channels), np.float32)
        delay_ms = self._in.delay_ms + 1000 * self.chain.delay_samples / RATE_HZ + self._out.delay_ms
        self.delay_samples = round(delay_ms * rate_hz / 1000) + (self._peak.delay_samples if self._peak else 0)
        self.pauses_in = self.pauses_out = 0.0
        """Sum of the mean squares of the hops without speech, before and after."""
        self.hops = self.spoken = self.pauses = 0
        """Hops in all, with speech, and without it as far as they are fit for statistics."""
        self._failures: list[str] = []
        self._working = self.chain.engine.name
        self._invalid_before = self.chain.engine.invalid
        self.padding = False
        """Whether zeros are being pushed after the end of the sound; they are not counted."""

    @property
    def noise_removed_db(self) -> float | None:
        """How much quieter the pauses became so far; None where nobody paused."""
        return quieter_db(self.pauses_in, self.pauses_out, self.pauses)

    @property
    def degraded(self) -> str:
        """What failed inside the engine so far, in words; empty where nothing did."""
        engine = self.chain.engine
        invalid = engine.invalid - self._invalid_before
        passed = [f"{invalid} results of the engine were invalid, there the sound passed as it was"] if invalid else []
        return "; ".join([*self._failures, *passed])

    def push(self, samples: Floats) -> Floats:
        """float32, any number of samples in; what has become ready out, one channel."""
        frames = samples.reshape(len(samples), self.channels)
        pieces = [np.zeros(0, np.float32)]
        for start in range(0, len(frames), BLOCK_FRAMES):
            block = frames[start : start + BLOCK_FRAMES]
            ready = [self._in.process(block[:, 0])]
            if self._other_in:
                ready.append(self._other_in.process(block[:, 1]))
            self._waiting = np.concatenate([self._waiting, np.stack(ready, 1)])
            whole = len(self._waiting) // HOP_SAMPLES * HOP_SAMPLES
            for at in range(0, whole, HOP_SAMPLES):
                ready_hop = self._out.process(self._hop(self._waiting[at : at + HOP_SAMPLES]))
                pieces.append((self._peak.process(ready_hop) if self._peak else ready_hop).copy())
            self._waiting = self._waiting[whole:]
        return np.concatenate(pieces)

    def _hop(self, frames: Floats) -> Floats:
        hop = np.ascontiguousarray(frames[:, 0])
        self.chain.process(hop, np.ascontiguousarray(frames[:, 1]) if self._other_in else None)
        if self.chain.engine.failure is not None:
            self._note_failure()
        if self.padding:
            return hop
        self.hops += 1
        if self.chain.voice.speaking:
            self.spoken += 1
        elif self.chain.counts:
            self.pauses += 1
            self.pauses_in += self.chain.power_in
            self.pauses_out += self.chain.power_clean
        return hop

    def _note_failure(self) -> None:
        """At most once a level of the fallback chain."""
        engine = self.chain.engine
        failure, engine.failure = engine.failure, None
        assert failure is not None
        seconds = self.hops * HOP_MS / 1000
        self._failures.append(
            f"engine {self._working} failed after {seconds:.1f} s ({describe(failure)}), {engine.name} took over"
        )
        self._working = engine.name


def aligned(stream: Stream, blocks: Iterable[Floats]) -> Iterator[Floats]:
    """The stream's output without its delay: in all as many samples as ``blocks`` hold, each in its place."""
    skip, owed = stream.delay_samples, 0

    def cut(ready: Floats) -> Floats:
        nonlocal skip, owed
        dropped = min(skip, len(ready))
        skip -= dropped
        kept = ready[dropped : dropped + owed]
        owed -= len(kept)
        return kept

    for block in blocks:
        owed += len(block)
        yield cut(stream.push(block))
    stream.padding = True
    hop = math.ceil(HOP_SAMPLES * stream.rate_hz / RATE_HZ)
    while owed:
        yield cut(stream.push(np.zeros((min(skip + owed + hop, BLOCK_FRAMES), stream.channels), np.float32)))

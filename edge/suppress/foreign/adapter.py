"""Makes an engine of the box of a third-party core: 5 ms hops at 16 kHz, attenuation limit, bypass, fallback chain.

The core keeps its own block and rate (``foreign.core``); ``suppress.blocks`` carries the stream through them with one
exactly known delay. Our own engines lie below it, at the same delay, for when it fails.
"""

import math

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.power import ABSURD_POWER
from edge.dsp.spectrum import DELAY_SAMPLES, WINDOW_SAMPLES, Floats, Transform
from edge.suppress.blocks import Blocks
from edge.suppress.engine import Engine
from edge.suppress.foreign.core import Core
from edge.suppress.mask import MaskEngine
from edge.suppress.wiener import Wiener

INVALID_LIMIT = 10
"""The core has failed after so many invalid blocks without a valid one between them."""


class Adapter(Engine):
    """A core as an engine of the box: 80 samples at 16 kHz in place, ``delay_samples`` late, and never silent.

    Work falls due when a block is full, so some hops cost next to nothing and others a whole block's work: DTLN's 8 ms
    blocks fill in five hops of eight, GTCRN's of 16 ms in five of sixteen. What such a hop takes beyond its 5 ms the
    output's queue has to bridge; whoever judges whether hops are late must know ``burst_hops``.

    Below the core lies the fallback chain of our own engines. They get the sound late, so that theirs is the same
    delay: a change to and fro is a cross-fade of one hop between two sounds that are aligned.
    """

    invalid = 0

    def __init__(self, core: Core, below: MaskEngine, limit_db: float) -> None:
        """``below``: our engines, which take over. ``limit_db``: as much of the dry sound stays as -limit_db."""
        super().__init__()
        self.notes = [*core.notes]
        self._core = core
        self._below = below
        size = core.block_samples
        self._blocks = Blocks(self._clean, core.rate_hz, size, core.delay_samples, least_delay_samples=DELAY_SAMPLES)
        self.delay_samples = delay = self._blocks.delay_samples
        self._share_wet = 1 - 10 ** (-limit_db / 20)
        self._mixed = self._share_wet  # how much of the core's sound the last hop ended with
        self._history = np.zeros(delay + WINDOW_SAMPLES, np.float32)
        self._cleaned, self._ramp, self._blend = np.zeros((3, HOP_SAMPLES), np.float32)
        self._ramp[:] = np.arange(1, HOP_SAMPLES + 1) / HOP_SAMPLES

        self._past = np.zeros(core.delay_samples + size, np.float32)  # the core's input, to pass dry in its place
        self._rise = (np.arange(1, size + 1) / size).astype(np.float32)
        self._settle_blocks = math.ceil(core.delay_samples / size) + 1
        self._settling_blocks = 0  # blocks until a core that was reset amid sound is used again
        self._invalid_blocks = 0

        self._working = True
        self._core_share = 1.0  # 0: the output is that of the engines below, 1: the core's
        self._return_hops = 0
        self._warm = False  # whether the engines below have processed the last hops

        self._core_speech: float | None = None
        self._transform = Transform()
        self._listener = Wiener()
        self._unused = np.zeros(64, np.float32)

    @property
    def limit_db(self) -> float:
        return self._below.limit_db

    @limit_db.setter
    def limit_db(self, limit_db: float) -> None:
        self._below.limit_db = limit_db
        self._share_wet = 1 - 10 ** (-limit_db / 20)

    @property
    def name(self) -> str:
        """The engine at work."""
        return self._core.name if self._working else self._below.name

    @property
    def level(self) -> int:
        """0 is the core; our engines follow from 1 on."""
        return 0 if self._working else 1 + self._below.level

    @property
    def burst_hops(self) -> int:
        """How many hops of sound one piece of work is for: what it takes may come in one of them."""
        core = self._core
        return math.ceil(core.block_samples * RATE_HZ / core.rate_hz / HOP_SAMPLES) if self._working else 1

    @property
    def lowest(self) -> bool:
        """Whether there is no further engine to fall back to."""
        return not self._working and self._below.lowest

    @property
    def band_gains(self) -> Floats | None:
        """Those of our own engines while they work; a core has none."""
        return None if self._working else self._below.band_gains

    def process(self, hop: Floats) -> float:
        """Clean float32, 80 samples in place; returns the speech probability of what has just come in.

        Where the core reports none, the Wiener filter does, from the same input.
        """
        history = self._history
        history[:-HOP_SAMPLES] = history[HOP_SAMPLES:]
        history[-HOP_SAMPLES:] = hop
        speech = 0.0
        if self._working or self._core_share:
            speech = self._by_core(hop)
        if self._return_hops:
            self._return_hops -= 1
        before, after = self._core_share, float(self._working and not self._return_hops)
        if before == after == 1:
            hop[:] = self._cleaned
            return speech
        speech = self._by_those_below(hop)
        if before != after:
            self._cross(hop, self._cleaned, before, after)
            self._core_share = after
            if after:
                self._below.step_up()
                self._warm = False
        return speech

    def step_down(self) -> bool:
        """Let the next engine work; False if there is none."""
        if self._working:
            self._working = False
            self._return_hops = 0
            return True
        return self._below.step_down()

    def step_up(self) -> None:
        """Try the core again; those below are used until it has filled its delay."""
        if self._working:
            return
        self._working = True
        self._return_hops = math.ceil(self.delay_samples / HOP_SAMPLES) + 1 if not self._core_share else 0
        if self._return_hops:
            self._blocks.reset()
            self._start_core()

    def reset(self) -> None:
        """Forget the signal, keep which engine works."""
        self._blocks.reset()
        self._start_core()
        self._below.reset()
        if self._working:
            self._below.step_up()
        self._transform.reset()
        self._listener.reset()
        self._history.fill(0)
        self._core_share = float(self._working)
        self._mixed = self._share_wet * self.wet
        self._return_hops = 0
        self._warm = not self._working

    def _by_core(self, hop: Floats) -> float:
        """``_cleaned`` becomes the hop that is due, by the core and within the limit; returns the probability."""
        cleaned = self._cleaned
        cleaned[:] = hop
        self._blocks.process(cleaned)
        dry = self._history[-HOP_SAMPLES - self.delay_samples :][:HOP_SAMPLES]
        before, self._mixed = self._mixed, self._share_wet * self.wet
        blend = self._blend
        np.multiply(self._ramp, self._mixed - before, out=blend)
        blend += before
        cleaned -= dry
        cleaned *= blend
        cleaned += dry
        if self._core_speech is not None:
            return self._core_speech
        return self._listener.estimate(self._transform.analyse(hop), self._unused)

    def _by_those_below(self, hop: Floats) -> float:
        """``hop`` becomes the one that is due, by our own engines; returns their probability."""
        below = self._below
        start = len(self._history) - self.delay_samples - HOP_SAMPLES + below.delay_samples
        below.wet = self.wet
        if not self._warm:
            below.reset()
            for at in range(start - WINDOW_SAMPLES, start, HOP_SAMPLES):
                hop[:] = self._history[at : at + HOP_SAMPLES]
                below.process(hop)
            self._warm = True
        hop[:] = self._history[start : start + HOP_SAMPLES]
        speech = below.process(hop)
        if below.failure is not None:
            self.failure, below.failure = below.failure, None
        return speech

    def _cross(self, hop: Floats, other: Floats, before: float, after: float) -> None:
        """Cross-fade: the share of ``other`` goes linearly from ``before`` to ``after`` over the hop."""
        blend = self._blend
        np.multiply(self._ramp, after - before, out=blend)
        blend += before
        other -= hop
        other *= blend
        hop += other

    def _clean(self, block: Floats) -> None:
        """One block through the core, or dry at the core's delay where it cannot."""
        past, size = self._past, len(block)
        past[:-size] = past[size:]
        past[-size:] = block
        dry = past[:size]
        if not self._working:
            block[:] = dry
            return
        try:
            self._core_speech = self._core.process(block)
        except Exception as error:  # as with our own estimators: a failing core must never silence the wearer
            self._fail(error)
            block[:] = dry
            return
        if not float(np.vdot(block, block)) < ABSURD_POWER * size:
            self._replace_invalid(block, dry)
        elif self._settling_blocks:
            self._settling_blocks -= 1
            if self._settling_blocks:
                block[:] = dry
            else:
                block -= dry
                block *= self._rise
                block += dry
        else:
            self._invalid_blocks = 0

    def _replace_invalid(self, block: Floats, dry: Floats) -> None:
        """What came out is invalid: the block passes dry and the core starts afresh."""
        self.invalid += 1
        self._invalid_blocks += 1
        self._core_speech = None
        block[:] = dry
        if self._invalid_blocks >= INVALID_LIMIT:
            self._fail(ArithmeticError(f"{self._core.name} outputs only NaN or infinite samples"))
            return
        self._reset_core()
        self._settling_blocks = self._settle_blocks

    def _start_core(self) -> None:
        """As new, amid silence."""
        self._past.fill(0)
        self._settling_blocks = self._invalid_blocks = 0
        self._core_speech = None
        if self._working:
            self._reset_core()

    def _reset_core(self) -> None:
        try:
            self._core.reset()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._core_speech = None
        self.step_down()

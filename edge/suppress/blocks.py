"""A stream of samples through work that wants blocks of another length and another sample rate, at one exact delay."""

import math
from collections.abc import Callable

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.resample import Resampler
from edge.dsp.spectrum import Floats


class Blocks:
    """A stream through ``work`` that wants blocks of another length and rate: as many samples out as in, in order.

    With work that leaves its blocks as they are, the stream is delayed by ``delay_samples`` and nothing else (up to
    7 kHz where rates are converted: ``edge.dsp.bandwidth.band_edges_hz``). Nothing starts anew at a block's border,
    and positions are whole numbers, so no sample is ever lost or added.
    """

    def __init__(
        self,
        work: Callable[[Floats], object],
        rate_hz: int,
        block_samples: int,
        delay_samples: int = 0,
        *,
        outer_hz: int = RATE_HZ,
        grain_samples: int = HOP_SAMPLES,
        most_samples: int = HOP_SAMPLES,
        least_delay_samples: int = 0,
    ) -> None:
        """``work`` changes float32, ``block_samples`` at ``rate_hz``, in place, ``delay_samples`` of that rate late.

        The caller's stream is at ``outer_hz``; each call brings a multiple of ``grain_samples`` (1: any length), at
        most ``most_samples``. ``least_delay_samples``: the stream is delayed by at least so much.
        """
        self._work = work
        self._to = Resampler(outer_hz, rate_hz, most_samples)
        late = (2 * self._to.delay_ms / 1000 + delay_samples / rate_hz) * outer_hz
        whole = math.floor(late + 1e-6)
        ahead = max(0.0, late - whole) * rate_hz / outer_hz
        self._back = _ReadAhead(rate_hz, outer_hz, block_samples, ahead)
        held = held_samples(rate_hz, block_samples, outer_hz, grain_samples)
        self._lead = max(math.floor((held + ahead) * outer_hz / rate_hz + 1e-6), least_delay_samples - whole)
        self.delay_samples = self._lead + whole
        """How far a sample leaves behind the one that comes in with it, at ``outer_hz``."""
        room = block_samples + self._to.max_out
        self._block = np.zeros(block_samples, np.float32)
        self._waiting = np.zeros(room, np.float32)
        self._ready = np.zeros(self._lead + math.ceil(room * outer_hz / rate_hz) + 4, np.float32)
        self._waits = self._stands = 0
        self.reset()

    def process(self, samples: Floats) -> None:
        """float32 at ``outer_hz``, in place: what was due comes out for what goes in."""
        fresh = self._to.process(samples)
        waiting, ready, block = self._waiting, self._ready, self._block
        waiting[self._waits : self._waits + len(fresh)] = fresh
        self._waits += len(fresh)
        taken = 0
        while self._waits - taken >= len(block):
            block[:] = waiting[taken : taken + len(block)]
            taken += len(block)
            self._work(block)
            done = self._back.process(block)
            ready[self._stands : self._stands + len(done)] = done
            self._stands += len(done)
        if taken:
            waiting[: self._waits - taken] = waiting[taken : self._waits]
            self._waits -= taken
        count = len(samples)
        assert self._stands >= count, "held_samples is wrong"
        samples[:] = ready[:count]
        self._stands -= count
        ready[: self._stands] = ready[count : count + self._stands]

    def reset(self) -> None:
        """Forget the signal."""
        self._to.reset()
        self._back.reset()
        self._waits, self._stands = 0, self._lead
        self._ready[: self._lead] = 0


def held_samples(rate_hz: int, block_samples: int, outer_hz: int, grain_samples: int) -> float:
    """The most input, in samples at ``rate_hz``, that still waits for the rest of its block when a call ends.

    After k grains of g samples, x = k g rate / outer samples have come (the converter gives the next whole number) and
    x mod block of them wait. x is k p / q in lowest terms, so x mod block walks through all multiples of
    gcd(p, block) / q; the largest that is not yet rounded up to a whole block is at most block - 1.
    """
    common = math.gcd(grain_samples * rate_hz, outer_hz)
    p, q = grain_samples * rate_hz // common, outer_hz // common
    step = math.gcd(p, block_samples)
    return (block_samples - 1) * q // step * step / q


class _ReadAhead(Resampler):
    """Reads every output ``ahead_samples`` of its input later in the sound, to make a delay of parts a whole one."""

    def __init__(self, rate_in_hz: int, rate_out_hz: int, max_in: int, ahead_samples: float) -> None:
        super().__init__(rate_in_hz, rate_out_hz, max_in)
        self._start = round(ahead_samples * self._unit)
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._position = self._start

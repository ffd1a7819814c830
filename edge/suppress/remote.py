"""The engine on another machine: hops go to its `quietbox serve --boxes`, cleaned ones come back.

The latency is fixed beforehand (``budget_ms``). Our own network runs beside it in lock-step, on the same input and
with the same total latency. An answer that is not there in time is replaced by our own hop at once; when answers have
been in time for a while the server's are used again. Every change is a cross-fade of one hop, for which the answer
after the one that is due must be there, too: so an answer has to be one hop earlier than the sound needs it.

The audio thread touches no socket: ``link`` is the thread that does.
"""

import random
import weakref

import numpy as np

from edge import HOP_SAMPLES, UserError
from edge.config import RemoteConfig
from edge.dsp.spectrum import Floats
from edge.suppress.engine import Engine
from edge.suppress.link import Link
from edge.suppress.mask import MaskEngine
from edge.suppress.shipped import BadModel

RING_HOPS = 256
"""Answers are kept, and asked for, this long: 1.3 s, more than twice the largest budget."""
REPORTED = ("answered", "filled", "switches", "late", "lost")
"""Counts of the ``Tally`` that go into the status file and the journal."""
RETURN_HOPS = 40
"""The server is used again once 200 ms of answers were in time without a gap."""


def open_remote(settings: RemoteConfig, limit_db: float, below: MaskEngine, priority: int = 0) -> "RemoteEngine":
    """``below`` is our own engine, which fills in; ``priority`` the link's, below the audio thread's. Raises BadModel.

    A server that does not answer is no error: it may come later, and the engine's ``news`` report it.
    """
    try:
        return RemoteEngine(Link(settings, priority), limit_db, below)
    except UserError as error:
        raise BadModel(str(error)) from None


class RemoteEngine(Engine):
    """A hop in, a clean one out, ``delay_samples`` late, whichever machine cleaned it."""

    def __init__(self, link: "Link", limit_db: float, below: MaskEngine) -> None:
        super().__init__()
        self._link = link
        self._below = below
        self.notes = below.notes
        self.news = link.news
        self.tally = link.tally
        self.delay_samples = delay = link.delay_samples
        self._share_wet = 1 - 10 ** (-limit_db / 20)
        self._mixed = self._share_wet
        self._input = np.zeros(delay + HOP_SAMPLES, np.float32)
        self._own = np.zeros(delay - below.delay_samples + HOP_SAMPLES, np.float32)
        self._ring = np.zeros(RING_HOPS * HOP_SAMPLES, np.float32)
        self._holds = [-1] * RING_HOPS  # which hop's answer each place of the ring holds
        self._asked = [-1] * RING_HOPS  # which hop was sent and is not answered yet
        self._clean, self._blend, self._ramp = np.zeros((3, HOP_SAMPLES), np.float32)
        self._ramp[:] = np.arange(1, HOP_SAMPLES + 1) / HOP_SAMPLES
        self._epoch = random.getrandbits(31)
        self._seq = 0
        self._lead = 0  # the server's own delay
        self._playing = False
        self._in_time = 0
        weakref.finalize(self, link.stop)
        link.start()

    @property
    def limit_db(self) -> float:
        return self._below.limit_db

    @limit_db.setter
    def limit_db(self, limit_db: float) -> None:
        self._below.limit_db = limit_db
        self._share_wet = 1 - 10 ** (-limit_db / 20)

    @property
    def name(self) -> str:
        """The engine whose output is played."""
        return "remote" if self._playing else self._below.name

    @property
    def level(self) -> int:
        """0 while the server's answers are played; our engines follow from 1 on."""
        return 0 if self._playing else 1 + self._below.level

    @property
    def lowest(self) -> bool:
        return self._below.lowest

    @property
    def failure(self) -> Exception | None:
        """The last exception of our own engines, which run all the time."""
        return self._below.failure

    @failure.setter
    def failure(self, failure: Exception | None) -> None:
        self._below.failure = failure

    @property
    def band_gains(self) -> Floats | None:
        """Those of our own engine while it is played; the server sends none."""
        return None if self._playing else self._below.band_gains

    @property
    def invalid(self) -> int:
        return self._below.invalid

    def counters(self) -> dict[str, int]:
        """How the connection fares, counted since it was opened."""
        return {f"remote_{name}": getattr(self.tally, name) for name in REPORTED}

    def step_down(self) -> bool:
        """Ours do less; the server costs this box next to nothing."""
        return self._below.step_down()

    def step_up(self) -> None:
        self._below.step_up()

    def close(self) -> None:
        """Leave the server; the local network takes over."""
        self._link.stop()

    def reset(self) -> None:
        """Forget the signal, here and on the server."""
        self._below.reset()
        self._epoch = (self._epoch + 1) % 2**31
        self._seq = self._in_time = 0
        self._set_playing(False)
        for past in (self._input, self._own):
            past.fill(0)
        self._holds[:] = self._asked[:] = [-1] * RING_HOPS

    def process(self, hop: Floats) -> float:
        """Clean float32, 80 samples in place; returns the speech probability of what has just come in (ours)."""
        self._send(hop)
        self._receive()
        _push(self._input, hop)
        self._below.wet = self.wet
        speech = self._below.process(hop)
        _push(self._own, hop)
        hop[:] = self._own[:HOP_SAMPLES]

        first = self._first
        self._in_time = self._in_time + 1 if self._has(first, 2 * HOP_SAMPLES) else 0
        before, after = self._playing, self._in_time > 0 and (self._playing or self._in_time >= RETURN_HOPS)
        if before or after:
            self._read(first)
            if before != after:
                self._cross(self._ramp if after else self._ramp[::-1], hop)
            else:
                hop[:] = self._clean
        self._set_playing(after)
        self.tally.answered += after
        self.tally.filled += not after
        self._seq += 1
        return speech

    @property
    def _first(self) -> int:
        """The sample of the server's output that is due first in this hop."""
        return self._seq * HOP_SAMPLES - self.delay_samples + self._lead

    def _set_playing(self, playing: bool) -> None:
        self.tally.switches += playing != self._playing
        self._playing = self._link.in_use = playing

    def _send(self, hop: Floats) -> None:
        place = self._seq % RING_HOPS
        self.tally.lost += self._asked[place] >= 0
        self._asked[place] = -1
        if self._link.send(self._epoch, self._seq, hop):
            self._asked[place] = self._seq

    def _receive(self) -> None:
        """Sorts the answers that have come, in any order, into the ring."""
        while self._link.answers:
            answer = self._link.answers.popleft()
            age = self._seq - answer.seq
            if answer.epoch != self._epoch or not 0 <= age < RING_HOPS:
                continue
            place = answer.seq % RING_HOPS
            if self._asked[place] == answer.seq:
                self._asked[place] = -1
            if answer.delay_samples != self._lead:
                if self._playing:
                    continue  # another engine works there now: first a cross-fade away from the one in use
                self._lead = answer.delay_samples
                self._holds[:] = [-1] * RING_HOPS
            if answer.seq * HOP_SAMPLES < self._first + HOP_SAMPLES:  # the hop before this one asked for it already
                self.tally.late += 1
            samples = answer.hop
            if samples is None:
                self.tally.refused += 1
                continue
            self._ring[place * HOP_SAMPLES :][:HOP_SAMPLES] = samples
            self._holds[place] = answer.seq

    def _has(self, first: int, count: int) -> bool:
        """Whether the server's output from sample ``first`` on is there."""
        hops = range(first // HOP_SAMPLES, (first + count - 1) // HOP_SAMPLES + 1)
        return first >= 0 and all(self._holds[seq % RING_HOPS] == seq for seq in hops)

    def _read(self, first: int) -> None:
        """``_clean`` becomes the server's hop from sample ``first`` on, mixed with the dry one."""
        clean, blend, size = self._clean, self._blend, len(self._ring)
        start = first % size
        head = min(HOP_SAMPLES, size - start)
        clean[:head] = self._ring[start : start + head]
        clean[head:] = self._ring[: HOP_SAMPLES - head]
        dry = self._input[:HOP_SAMPLES]
        before, self._mixed = self._mixed, self._share_wet * self.wet
        np.multiply(self._ramp, self._mixed - before, out=blend)
        blend += before
        clean -= dry
        clean *= blend
        clean += dry

    def _cross(self, share: Floats, hop: Floats) -> None:
        """Cross-fade: ``share`` of the server's hop, the rest of ours."""
        self._clean -= hop
        self._clean *= share
        hop += self._clean


def _push(past: Floats, hop: Floats) -> None:
    past[:-HOP_SAMPLES] = past[HOP_SAMPLES:]
    past[-HOP_SAMPLES:] = hop

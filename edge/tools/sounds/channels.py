"""One channel out of many: the mean of all channels, or fewer of them where the mean would lose the voice.

The mean of two channels in opposite phase is silence, and the mean of eight of which one is live is 18 dB quieter.
``Downmix`` looks at windows of ``WINDOW_S`` before it mixes them, so memory stays bounded, a pipe can be read, and a
recording may change on the way. A file whose mean is sound gets the mean, sample for sample.
"""

import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from edge import RATE_HZ
from edge.dsp.spectrum import Floats

Chosen = tuple[int, ...]
"""Channels, counted from 0, whose mean is taken."""

WINDOW_S = 3.0
"""About two sentences: over one vowel, two microphones a metre apart may cancel by 10 dB, over a sentence by 3 to 5."""
MOST_SAMPLES = 4_000_000
"""Most samples of all channels that are held at once: 16 MB."""
PART_S = 0.5
"""The loss of a window is the median of its parts, by energy, so that a change inside it is not hidden."""
SHORTEST_WINDOW_S = 0.5
"""The rest of a file that is shorter is mixed as what came before it."""
MAX_LOSS_DB = 8.0
"""Most that mixing may lose against the loudest channel. One live channel of two loses 6 dB, two unrelated channels
3 dB; a second channel that is inverted and 14 dB weaker, 7.9 dB.
"""
RETURN_LOSS_DB = 6.5
"""All are mixed again below this, so that a recording near the limit does not change its level every window."""
UNRELATED_MARGIN_DB = 5.0
"""The mean of n unrelated channels loses 10 lg n dB; n channels cancel if it loses so much more."""
LIVE_DB = 20.0
"""Channels further below the loudest are not live."""
PREFER_CURRENT_DB = 3.0
"""The channel in use is kept while it is no further below the loudest."""
SILENCE = 1e-10
"""Mean square of a window in which there is nothing to decide from: -100 dBFS."""
FADE_S = 0.02
WEIGHTING_RATE_HZ = RATE_HZ // 2
HIGHPASS_SAMPLES = 32
"""4 ms: 50 Hz is 24 dB weaker, 200 Hz 2 dB."""
DEEPEST_LOSS_DB = 120.0


class Downmix:
    """(frames, channels) float32 in, the mono of it out, late by at most one window; ``flush`` gives the rest."""

    def __init__(self, channels: int, rate_hz: int) -> None:
        self.all: Chosen = tuple(range(channels))
        self.frames: Counter[Chosen] = Counter()
        """How many frames were made of which channels."""
        self.loss_db = 0.0
        """The most that mixing all channels would have lost in a window that was mixed otherwise."""
        self._rate_hz = rate_hz
        self._window = max(1, min(round(WINDOW_S * rate_hz), MOST_SAMPLES // channels))
        self._held: list[Floats] = []
        self._current = self.all
        self._started = False

    def push(self, block: Floats) -> Floats:
        """The mono that is ready, possibly none. The block is kept: do not change it."""
        if len(self.all) == 1:
            self.frames[self.all] += len(block)
            return np.ascontiguousarray(block[:, 0])
        self._held.append(block)
        if sum(map(len, self._held)) < self._window:
            return np.zeros(0, np.float32)
        return self._mix()

    def flush(self) -> Floats:
        """What is still held; call it at the end of the file."""
        return self._mix() if self._held else np.zeros(0, np.float32)

    def _mix(self) -> Floats:
        frames = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
        self._held.clear()
        before = self._current
        if not self._started or len(frames) >= SHORTEST_WINDOW_S * self._rate_hz:
            self._choose(_weighted(frames, self._rate_hz))
        mono = _mean(frames, self._current)
        if self._started and self._current != before:
            fade = min(len(frames), round(FADE_S * self._rate_hz))
            rising = np.linspace(0, 1, fade, dtype=np.float32)
            mono[:fade] = rising * mono[:fade] + (1 - rising) * _mean(frames[:fade], before)
        self._started = True
        self.frames[self._current] += len(frames)
        return mono

    def _choose(self, weighted: NDArray[np.float64]) -> None:
        """Decide for the window; ``weighted`` is what ``_weighted`` made of it."""
        powers = np.mean(np.square(weighted), axis=(0, 1)) if weighted.size else np.zeros(len(self.all))
        loudest = float(powers.max())
        if loudest < SILENCE:
            return
        loss_db = _loss_db(weighted, self.all)
        if loss_db <= (MAX_LOSS_DB if self._current == self.all else RETURN_LOSS_DB):
            self._current = self.all
            return
        live = tuple(int(number) for number in np.flatnonzero(powers >= loudest * 10 ** (-LIVE_DB / 10)))
        limit_db = max(MAX_LOSS_DB, 10 * math.log10(len(live)) + UNRELATED_MARGIN_DB)
        if _loss_db(weighted, live) > limit_db:
            kept = len(self._current) == 1 and powers[self._current[0]] >= loudest * 10 ** (-PREFER_CURRENT_DB / 10)
            live = self._current if kept else (int(powers.argmax()),)
        self._current = live
        if live != self.all:
            self.loss_db = max(self.loss_db, loss_db)

    @property
    def seconds(self) -> dict[str, float]:
        """How long the mono was made of which channels, counted from 1: {"all": 57.0, "2": 3.0}."""
        return {
            "all" if chosen == self.all else "+".join(str(number + 1) for number in chosen): round(
                frames / self._rate_hz, 3
            )
            for chosen, frames in self.frames.items()
        }

    @property
    def note(self) -> str:
        """What was mixed otherwise, and why; empty where all channels were mixed all the time."""
        fewer = [(chosen, frames) for chosen, frames in self.frames.most_common() if chosen != self.all]
        if not fewer:
            return ""
        why = f"mixing all {len(self.all)} would lose {'over ' if self.loss_db >= DEEPEST_LOSS_DB else 'up to '}"
        why += f"{self.loss_db:.0f} dB"
        if len(self.frames) == 1:
            return f"{_name(fewer[0][0])} only ({why})"
        spans = [f"{_name(chosen)} only for {frames / self._rate_hz:.1f} s" for chosen, frames in fewer[:3]]
        others = ["others at other times"] if len(fewer) > 3 else []
        return f"{', '.join(spans + others)} ({why})"


def _name(chosen: Chosen) -> str:
    return f"channel{'s' if len(chosen) > 1 else ''} {'+'.join(str(number + 1) for number in chosen)}"


def _mean(frames: Floats, chosen: Chosen) -> Floats:
    if len(chosen) == frames.shape[1]:
        return frames.mean(axis=1)
    return frames[:, chosen[0]].copy() if len(chosen) == 1 else frames[:, list(chosen)].mean(axis=1)


def _weighted(frames: Floats, rate_hz: int) -> NDArray[np.float64]:
    """(parts, samples, channels): the frames between about 150 Hz and 4 kHz, so that hum and rumble, which both
    channels may share, do not decide about a voice that cancels.

    Low-pass: the means of neighbours down to 8 kHz; high-pass: less the moving mean over ``HIGHPASS_SAMPLES``.
    """
    step = max(1, rate_hz // WEIGHTING_RATE_HZ)
    whole = len(frames) // step * step
    low = frames[:whole].reshape(-1, step, frames.shape[1]).mean(axis=1, dtype=np.float64)
    if len(low) <= HIGHPASS_SAMPLES:
        return low[None]
    sums = np.cumsum(low, axis=0)
    half = HIGHPASS_SAMPLES // 2
    high = low[half:-half] - (sums[HIGHPASS_SAMPLES:] - sums[:-HIGHPASS_SAMPLES]) / HIGHPASS_SAMPLES
    parts = max(1, round(len(frames) / rate_hz / PART_S))
    length = len(high) // parts
    return high[: parts * length].reshape(parts, length, -1)


def _loss_db(weighted: NDArray[np.float64], chosen: Chosen) -> float:
    """How much quieter than the loudest channel the mean of the chosen ones is: median over the parts, by energy."""
    loudest = np.mean(np.square(weighted), axis=1).max(axis=1)
    power = np.mean(np.square(weighted[:, :, list(chosen)].mean(axis=2)), axis=1)
    losses_db = 10 * np.log10(np.maximum(loudest, 1e-30) / np.maximum(power, 1e-30))
    order = np.argsort(losses_db)
    energy = np.cumsum(loudest[order])
    return float(min(DEEPEST_LOSS_DB, losses_db[order][np.searchsorted(energy, energy[-1] / 2)]))

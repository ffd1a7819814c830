"""The last stage before the samples leave: nothing is handed to a device or a file above the peak.

The chain's limiter holds the peak at 16 kHz. Converted to another rate the wave between those samples becomes samples
too, and it may be higher: by up to 6.95 dB for the converter's taps, by 1 to 3 dB for speech that was clipped at 16 kHz
(true peak, ITU-R BS.1770-5, annex 2). ``PeakLimiter`` works behind the converter, at the rate of the device.
"""

import math

import numpy as np

from edge.dsp.spectrum import Floats


class PeakLimiter:
    """float32 mono, +-1.0, at ``rate_hz``, in place and ``delay_samples`` late; no sample leaves above the peak.

    Look-ahead limiter in the usual form (Giannoulis, Massberg & Reiss 2012, "Digital dynamic range compressor design",
    J. AES 60(6), section 2; Zoelzer, "DAFX", 2nd ed., section 4.2.2). With D the look-ahead in samples, c the ceiling
    and r the release exp(-1 / (``RELEASE_MS`` x rate)):

    - highest level in sight ``m[n] = max(|x[n-D]| ... |x[n]|)``,
    - envelope ``e[n] = max(m[n], r e[n-1])``, gain wanted ``t[n] = min(1, c / e[n])``,
    - gain ``g[n]`` = weighted mean of ``t[n-D] ... t[n]`` (Hann weights), output ``x[n-D] g[n]``.

    Every ``t`` in that mean knows of ``x[n-D]`` and is at most ``c / |x[n-D]|``, so their mean is, too: no sample is
    left to the hard clip behind it, which only catches rounding. The gain moves along a raised cosine of 0.25 ms and
    comes back by 8.7 dB in ``RELEASE_MS``.

    While nothing in sight is above the ceiling, samples pass with their bits. NaN and Inf become
    silence. Nothing is allocated while it runs.
    """

    LOOKAHEAD_MS = 0.25
    """The attack time of the chain's limiter (the default of ``limiter.attack_ms``)."""
    RELEASE_MS = 60.0
    """As the chain's limiter: longer than a pitch period of 100 Hz, so that the gain does not follow the voice."""

    def __init__(self, rate_hz: int, max_samples: int, peak_dbfs: float) -> None:
        """``max_samples``: the most that one call of ``process`` brings. ``peak_dbfs``: at most 0."""
        assert rate_hz > 0 and max_samples > 0
        self.delay_samples = ahead = max(1, round(rate_hz * self.LOOKAHEAD_MS / 1000))
        """How far a sample leaves behind the one that comes in with it."""
        self.delay_ms = 1000 * ahead / rate_hz
        self.limited_samples = 0
        """Samples that left with less gain than 1, so far."""
        self._max_samples = max_samples
        self.set_peak(peak_dbfs)
        room = ahead + max_samples
        decay = math.exp(-1000 / (self.RELEASE_MS * rate_hz))
        self._shrink = decay ** np.arange(room + 1.0)
        self._grow = 1 / self._shrink
        self._weights = np.hanning(ahead + 3)[1:-1] / np.hanning(ahead + 3).sum()
        self._line = np.zeros(ahead + room, np.float32)
        """The last 2 D samples, then the new ones."""
        self._level = np.zeros((2, ahead + room))
        self._envelope = np.zeros(room + 1)
        """Element 0 is the value before; the rest begins D samples before the new ones."""
        self._wanted = np.ones(room)
        self._windows = np.lib.stride_tricks.sliding_window_view(self._wanted, ahead + 1)
        self._gain = np.ones(max_samples)
        self._mask = np.zeros(max_samples, np.bool_)

    @property
    def peak_dbfs(self) -> float:
        return self._peak_dbfs

    def set_peak(self, peak_dbfs: float) -> None:
        """From the next call on; at most 0 dBFS."""
        assert peak_dbfs <= 0
        self._peak_dbfs = peak_dbfs
        self._ceiling = ceiling(peak_dbfs)

    def process(self, samples: Floats) -> Floats:
        """float32, at most ``max_samples``, in place; returns ``samples``."""
        count, ahead, line = len(samples), self.delay_samples, self._line
        assert count <= self._max_samples
        new = line[2 * ahead :][:count]
        new[:] = samples
        sight = line[: 2 * ahead + count]
        highest = max(float(sight.max()), -float(sight.min()))
        if not highest < math.inf:
            self._silence_nonfinite(new)
            highest = float(np.abs(sight).max())
        samples[:] = sight[ahead : ahead + count]
        if highest > self._ceiling or self._envelope[0] > self._ceiling:
            self._limit(samples, sight)
        else:
            self._envelope[0] = 0.0
        line[: 2 * ahead] = line[count : count + 2 * ahead]
        return samples

    def _limit(self, samples: Floats, sight: Floats) -> None:
        count, ahead, limit = len(samples), self.delay_samples, self._ceiling
        envelope = self._envelope[: count + ahead + 1]
        envelope[1:] = self._highest_in_sight(sight)
        envelope *= self._grow[: len(envelope)]
        np.maximum.accumulate(envelope, out=envelope)
        envelope *= self._shrink[: len(envelope)]
        wanted = self._wanted[: count + ahead]
        np.maximum(envelope[1:], limit, out=wanted)
        np.divide(limit, wanted, out=wanted)
        gain = self._gain[:count]
        np.einsum("ij,j->i", self._windows[:count], self._weights, out=gain)
        np.minimum(gain, 1, out=gain)
        np.multiply(samples, gain, out=samples, casting="same_kind")
        np.minimum(samples, limit, out=samples)
        np.maximum(samples, -limit, out=samples)
        self.limited_samples += int(np.count_nonzero(np.less(gain, 1, out=self._mask[:count])))
        before_next = float(envelope[count])
        self._envelope[0] = before_next if before_next > limit else 0.0

    def _highest_in_sight(self, sight: Floats) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """max(|x[n-D]| ... |x[n]|) for every n that has D samples before it, by doubling the reach."""
        held, other = self._level
        held, other = held[: len(sight)], other[: len(sight)]
        np.abs(sight, out=held)
        reach, wanted = 1, self.delay_samples + 1
        while reach < wanted:
            step = min(reach, wanted - reach)
            size = len(held) - step
            other = other[:size]
            np.maximum(held[step:], held[:size], out=other)
            held, other = other, held
            reach += step
        return held

    def _silence_nonfinite(self, new: Floats) -> None:
        mask = self._mask[: len(new)]
        np.isfinite(new, out=mask)
        np.logical_not(mask, out=mask)
        np.copyto(new, 0, where=mask)

    def reset(self) -> None:
        """Forget the signal; the peak and the count stay."""
        self._line.fill(0)
        self._envelope.fill(0)


def ceiling(peak_dbfs: float) -> float:
    """The highest float32 that is not above ``peak_dbfs``."""
    peak = 10 ** (peak_dbfs / 20)
    nearest = np.float32(peak)
    return float(nearest if float(nearest) <= peak else np.nextafter(nearest, np.float32(0)))

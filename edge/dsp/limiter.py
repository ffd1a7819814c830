"""The limiter, always last: no sample leaves above the peak, whatever comes in.

``python -m edge.dsp.limiter`` prints how fast it is.
"""

import math
from time import perf_counter

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.config import LimiterConfig
from edge.console import run_main
from edge.dsp.biquad import silence_nonfinite
from edge.dsp.peak import ceiling
from edge.dsp.spectrum import Doubles, Floats


class Limiter:
    """The peak limiter: float32 block of any length, changed in place, finite or not.

    It caps samples. The level at the ear depends on output and headphone, so this is no hearing protection.

    With t the threshold (linear), f_r and f_a the release and attack factors exp(-1 / (time x rate)):

    - envelope ``e[n] = max(|s[n]|, e[n-1] f_r)`` of the signal before the delay,
    - target 1 where e <= t, otherwise ``1 + t - e``, floored at 0 (e > 1 + t: what is far beyond full scale is muted
      until the envelope has fallen again),
    - gain ``g[n] = g[n-1] f_a + target[n] (1 - f_a)``, output ``s[n - delay] g[n]``.

    A steady level e leaves as e (1 + t - e): full scale leaves at t, and nothing steady leaves above (1 + t)^2 / 4.
    A hard ceiling follows: no sample ever leaves above ``peak_dbfs``. NaN and Inf become silence at the input.

    The defaults: -2 dBFS leaves all but the loudest speech alone (-6 dBFS took 3 dB of SI-SDR from a voice whose peaks
    reach full scale); the delay is four attack times, so the gain is within 2 % of its target when the sample that
    caused it leaves; what still overshoots ends at -1 dBFS; 60 ms of release keep the gain from following a 100 Hz
    voice.

    The two recursions run without a per-sample loop. The envelope is ``f_r^n max_k |s[k]| f_r^-k``, a running maximum;
    the gain is one product with the lower triangle f_a^(n-k). Both in float64, at most 128 samples at a time, so that
    0.01^-128 x 3.4e38 still fits.
    """

    _CHUNK_SAMPLES = 128
    _STEEP = 1e-2
    """Release factors below it overflow f_r^-128; they take another form of the running maximum."""
    _FLUSHED = 1e-30
    """Envelope and gain below it are set to 0."""

    def __init__(self, config: LimiterConfig) -> None:
        assert config.threshold_dbfs <= 0 and config.peak_dbfs <= 0
        assert min(config.delay_ms, config.attack_ms, config.release_ms) >= 0
        self.delay_samples = round(config.delay_ms * RATE_HZ / 1000)
        self.nonfinite_samples = 0
        """NaN or Inf received so far."""
        self.limited_samples = 0
        """Samples that left with a gain below 0.99."""
        self.ceiling_samples = 0
        """Samples that only the hard ceiling stopped."""
        threshold, peak = 10 ** (config.threshold_dbfs / 20), 10 ** (config.peak_dbfs / 20)
        # constants as arrays of no dimension: NumPy takes them faster than Python numbers, which counts at 2 samples
        self._one_plus_threshold = np.array(1.0 + threshold)
        self._one, self._zero, self._audible = np.array(1.0), np.array(0.0), np.array(0.99)
        highest = np.float32(ceiling(config.peak_dbfs))
        self._ceiling, self._lowest = np.array(highest), np.array(-highest)
        self.steady_levels = min(threshold, peak), min((1 + threshold) ** 2 / 4, peak)
        """(lowest, highest) level, 0..1, at which a steady sound leaves that is limited and within full scale."""
        release, attack = decay_per_sample(config.release_ms), decay_per_sample(config.attack_ms)
        chunk = self._CHUNK_SAMPLES
        # element 0 of both is the value before the chunk
        self._envelope_buffer = np.zeros(chunk + 1)
        self._target_buffer = np.ones(chunk + 1)
        self._steep_release = release if release < self._STEEP else None
        shrink = np.ones(chunk + 1) if self._steep_release is not None else release ** np.arange(chunk + 1.0)
        self._shrink_table, self._grow_table = shrink, 1 / shrink
        self._smoothing_table = smoothing_matrix(attack, chunk)
        self._gain_buffer, self._fine_gain_buffer = np.ones(chunk), np.ones(chunk, np.float32)
        self._below_buffer = np.zeros(chunk, bool)
        self._loudness_buffer = np.zeros(chunk, np.float32)
        self._line = np.zeros(self.delay_samples + chunk, np.float32)
        self._cut(chunk)
        self.reset()

    def reset(self) -> None:
        """Empty delay line, open gain; the counters stay."""
        self._line.fill(0)
        self._envelope_buffer.fill(0)
        self._target_buffer.fill(1)

    def process(self, block: Floats) -> None:
        """float32, any number of samples, in place and ``delay_samples`` late."""
        samples = block.shape[0]
        if samples <= self._CHUNK_SAMPLES:
            if samples:
                self._limit(block, samples)
            return
        for start in range(0, samples, self._CHUNK_SAMPLES):
            piece = block[start : start + self._CHUNK_SAMPLES]
            self._limit(piece, piece.shape[0])

    def _cut(self, samples: int) -> None:
        """Views for this block length; kept, because live blocks all have one length."""
        self._samples = samples
        self._envelope = self._envelope_buffer[: samples + 1]
        self._level = self._envelope_buffer[1 : samples + 1]
        self._grow, self._shrink = self._grow_table[: samples + 1], self._shrink_table[: samples + 1]
        self._target = self._target_buffer[1 : samples + 1]
        self._carried_target = self._target_buffer[: samples + 1]
        self._smoothing = self._smoothing_table[:samples, : samples + 1]
        self._gain, self._fine_gain = self._gain_buffer[:samples], self._fine_gain_buffer[:samples]
        self._below = self._below_buffer[:samples]
        self._loudness = self._loudness_buffer[:samples]
        self._line_in, self._line_out = self._line[self.delay_samples :][:samples], self._line[:samples]
        self._line_kept, self._line_left = self._line[: self.delay_samples], self._line[samples:][: self.delay_samples]

    def _limit(self, block: Floats, samples: int) -> None:
        if samples != self._samples:
            self._cut(samples)
        envelope, level, target, gain = self._envelope, self._level, self._target, self._gain
        level[:] = block
        if not math.isfinite(np.dot(level, level)):
            self.nonfinite_samples += silence_nonfinite(block)
            level[:] = block
        np.absolute(level, out=level)
        if self._steep_release is None:
            np.multiply(envelope, self._grow, out=envelope)
            np.maximum.accumulate(envelope, out=envelope)
            np.multiply(envelope, self._shrink, out=envelope)
        else:
            self._running_maximum(envelope, self._steep_release)
        np.subtract(self._one_plus_threshold, level, out=target)
        np.minimum(target, self._one, out=target)
        np.maximum(target, self._zero, out=target)
        np.dot(self._smoothing, self._carried_target, out=gain)
        self._carry(float(envelope[samples]), float(gain[samples - 1]))

        self._line_in[:] = block
        self._fine_gain[:] = gain
        np.multiply(self._line_out, self._fine_gain, out=block)
        self._line_kept[:] = self._line_left
        self.limited_samples += int(np.count_nonzero(np.less(gain, self._audible, out=self._below)))
        np.absolute(block, out=self._loudness)
        beyond = int(np.count_nonzero(np.greater(self._loudness, self._ceiling, out=self._below)))
        if beyond:
            self.ceiling_samples += beyond
            np.minimum(block, self._ceiling, out=block)
            np.maximum(block, self._lowest, out=block)

    def _carry(self, envelope: float, gain: float) -> None:
        """Flush tiny values: an endless decay ends in subnormal numbers, which are many times slower to compute."""
        self._envelope_buffer[0] = envelope if envelope > self._FLUSHED else 0.0
        self._target_buffer[0] = gain if gain > self._FLUSHED else 0.0

    def _running_maximum(self, envelope: Doubles, release: float) -> None:
        """The running maximum by doubling, for releases so short that f_r^-n would overflow: 0.01^32 leaves nothing."""
        for step in (1, 2, 4, 8, 16):
            if step < envelope.shape[0]:
                np.maximum(envelope[step:], envelope[:-step] * release**step, out=envelope[step:])


def decay_per_sample(time_ms: float) -> float:
    """exp(-1 / samples): the factor per sample of a decay to 1/e in ``time_ms``, 0 for 0 ms."""
    samples = time_ms * RATE_HZ / 1000
    return math.exp(-1 / samples) if samples > 0 else 0.0


def smoothing_matrix(keep: float, samples: int) -> Doubles:
    """float64, (samples, samples + 1): times [g before, targets] it is g[n] = g[n-1] keep + target[n] (1 - keep).

    Column 0 holds keep^(n+1), the others (1 - keep) keep^(n-k) on and below the diagonal.
    """
    exponents = np.subtract.outer(np.arange(samples), np.arange(samples))
    triangle = np.where(exponents >= 0, (1 - keep) * float(keep) ** np.maximum(exponents, 0), 0.0)
    return np.hstack([float(keep) ** np.arange(1, samples + 1)[:, None], triangle])


def limiter_speed(seconds: float = 0.5) -> list[tuple[int, float, float]]:
    """Rows (block samples, microseconds a block, times faster than real time), on loud noise."""
    rows = []
    noise = np.random.default_rng(1).normal(0, 0.5, RATE_HZ).astype(np.float32)
    for samples in (2, 4, HOP_SAMPLES, 1024):
        blocks = noise[: RATE_HZ // samples * samples].reshape(-1, samples)[:100]
        limiter, block = Limiter(LimiterConfig()), np.empty(samples, np.float32)
        spent_s, best_s = 0.0, math.inf
        while spent_s < seconds:  # the best round of several: other programs only ever add time
            begin = perf_counter()
            for source in blocks:
                block[:] = source
                limiter.process(block)
            took_s = perf_counter() - begin
            spent_s, best_s = spent_s + took_s, min(best_s, took_s / len(blocks))
        rows.append((samples, best_s * 1e6, samples / RATE_HZ / best_s))
    return rows


def main() -> None:
    print("limiter, 16 kHz mono   us/block   real time us   times faster")
    for samples, block_us, times in limiter_speed():
        print(f"{samples:6d} samples {block_us:16.1f} {samples / RATE_HZ * 1e6:14.0f} {times:14.1f}")


if __name__ == "__main__":
    run_main(main, "limiter")

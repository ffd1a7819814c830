"""The end of the chain, just before somebody's ear: voice body, soft gate, mute, limiter. Read in that order.

``python -m edge.dsp.guard`` prints how fast the limiter is.
"""

import math
from time import perf_counter

import numpy as np

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.console import run_main
from edge.dsp.feedforward import Doubles, HopFilter, biquad, prewarped, silence_nonfinite
from edge.dsp.spectrum import Floats


class VoiceBodyEq:
    """Raises (or lowers) the body of a voice, 100 Hz to 1 kHz, by ``gain_db``; 0 dB passes every bit unchanged.

    ``H = 1 + (g - 1) B`` with B a first-order Butterworth band-pass: the classic peaking equaliser (gain exactly g and
    no phase shift at the geometric centre, 1 far outside), wide enough to span the band. The stated edges are B's
    -3 dB points.
    """

    delay_samples = 0

    def __init__(self, gain_db: float = 0.0, low_hz: float = 100.0, high_hz: float = 1000.0) -> None:
        assert 0 < low_hz < high_hz < RATE_HZ / 2 and abs(gain_db) <= 24
        self._filter: HopFilter | None = None
        if gain_db != 0.0:
            low, high = prewarped(low_hz), prewarped(high_hz)
            below = (1.0, high - low, low * high)
            self._filter = HopFilter(biquad((1.0, 10 ** (gain_db / 20) * (high - low), low * high), below))

    def process(self, hop: Floats) -> None:
        if self._filter is not None:
            silence_nonfinite(hop)
            self._filter.process(hop)

    def reset(self) -> None:
        if self._filter is not None:
            self._filter.reset()


class SoftGate:
    """Turns down what is too quiet to be speech, by at most ``depth_db``, never in a way that is heard as switching.

    A hop's level is the RMS of its loudest quarter (1.25 ms) in dBFS, so a consonant that starts late in a hop still
    opens that hop. Below ``floor_dbfs`` the gain is -depth, above ``ceiling_dbfs`` 0 dB, in between a straight line in
    dB. A hop above the ceiling, or one the voice decision calls speech, opens the gate and holds it open for
    ``hold_ms`` more. Opening cross-fades over the first millisecond of the same hop; closing falls at
    ``closing_db_per_s``.
    """

    delay_samples = 0
    _QUARTERS = 4
    _OPENING_SAMPLES = RATE_HZ // 1000

    def __init__(
        self,
        floor_dbfs: float = -70.0,
        ceiling_dbfs: float = -48.0,
        hold_ms: float = 800.0,
        depth_db: float = 30.0,
        closing_db_per_s: float = 100.0,
    ) -> None:
        assert floor_dbfs < ceiling_dbfs and hold_ms >= 0 and depth_db >= 0 and closing_db_per_s > 0
        self._floor_dbfs, self._ceiling_dbfs, self._depth_db = floor_dbfs, ceiling_dbfs, depth_db
        self._hold_hops = round(hold_ms / HOP_MS)
        self._closing_db = closing_db_per_s * HOP_MS / 1000
        self._opening = np.ones(HOP_SAMPLES)
        self._opening[: self._OPENING_SAMPLES] = np.arange(1, self._OPENING_SAMPLES + 1) / self._OPENING_SAMPLES
        self._closing = np.arange(1, HOP_SAMPLES + 1) / HOP_SAMPLES
        self._quarters = np.zeros((self._QUARTERS, HOP_SAMPLES // self._QUARTERS))
        self._powers = np.zeros(self._QUARTERS)
        self._ramp = np.zeros(HOP_SAMPLES)
        self._hold_left = 0
        self.gain_db: float = -depth_db

    def process(self, hop: Floats, speaking: bool = False) -> None:
        level_dbfs = self._level_dbfs(hop)
        if speaking or level_dbfs >= self._ceiling_dbfs:
            self._hold_left, wanted_db = self._hold_hops, 0.0
        elif self._hold_left > 0:
            self._hold_left, wanted_db = self._hold_left - 1, 0.0
        else:
            wanted_db = self.curve_db(level_dbfs)
        before_db, self.gain_db = self.gain_db, max(wanted_db, self.gain_db - self._closing_db)
        if before_db == self.gain_db == 0.0:
            return
        before, after = 10 ** (before_db / 20), 10 ** (self.gain_db / 20)
        np.multiply(self._opening if after > before else self._closing, after - before, out=self._ramp)
        self._ramp += before
        np.multiply(hop, self._ramp, out=hop, casting="same_kind")

    def curve_db(self, level_dbfs: float) -> float:
        """The gain a steady level settles at, -depth_db..0."""
        share = (self._ceiling_dbfs - level_dbfs) / (self._ceiling_dbfs - self._floor_dbfs)
        return -self._depth_db * min(1.0, max(0.0, share))

    def _level_dbfs(self, hop: Floats) -> float:
        quarters = self._quarters
        quarters.reshape(-1)[:] = hop
        np.einsum("ij,ij->i", quarters, quarters, out=self._powers)
        power = float(self._powers.max()) / quarters.shape[1]
        # -200 also for NaN: the limiter silences it, and the gate must not carry it into the next hop
        return 10 * math.log10(power) if power > 1e-20 else -200.0

    def reset(self) -> None:
        """Closed, as after a long silence."""
        self._hold_left = 0
        self.gain_db = -self._depth_db


class Fader:
    """Mute: set ``target`` to 0 or 1 and the gain walks there in a straight line, ``fade_ms`` for the whole way.

    At 1 the hop passes bit for bit, at 0 it is exact silence; the delay never changes.
    """

    delay_samples = 0

    def __init__(self, fade_ms: float = 20.0, start: float = 1.0) -> None:
        assert fade_ms > 0 and 0 <= start <= 1
        self._start = start
        self._steps = np.arange(1, HOP_SAMPLES + 1) / (fade_ms * RATE_HZ / 1000)
        self._gains = np.zeros(HOP_SAMPLES)
        self.target = start
        self.gain = start

    def process(self, hop: Floats) -> None:
        target, gain, gains = self.target, self.gain, self._gains
        if gain == target:
            if target == 0.0:
                hop.fill(0)  # not a product: 0 x NaN is NaN
            elif target != 1.0:
                np.multiply(hop, np.float32(target), out=hop)
            return
        if target > gain:
            np.add(gain, self._steps, out=gains)
            np.minimum(gains, target, out=gains)
        else:
            np.subtract(gain, self._steps, out=gains)
            np.maximum(gains, target, out=gains)
        np.multiply(hop, gains, out=hop, casting="same_kind")
        self.gain = float(gains[-1])

    def reset(self) -> None:
        self.target = self.gain = self._start


class Limiter:
    """The peak limiter, always last: float32 block of any length, changed in place, any finite or broken content.

    It caps samples. How loud that is at the ear is decided by output and headphone: it is no hearing protection.

    With t the threshold (linear), f_r and f_a the release and attack factors exp(-1 / (time x rate)):

    - envelope ``e[n] = max(|s[n]|, e[n-1] f_r)`` of the signal before the delay,
    - target 1 where e <= t, otherwise ``1 + t - e``, floored at 0 (e > 1 + t: what is far beyond full scale is muted
      until the envelope has fallen again),
    - gain ``g[n] = g[n-1] f_a + target[n] (1 - f_a)``, output ``s[n - delay] g[n]``.

    A steady level e leaves as e (1 + t - e): full scale leaves at t, and nothing steady leaves above (1 + t)^2 / 4.
    A hard ceiling follows: no sample ever leaves above ``peak_dbfs``. NaN and Inf become silence on the way in.

    The defaults: -2 dBFS leaves all but the loudest speech alone (-6 dBFS took 3 dB of SI-SDR from a voice whose peaks
    reach full scale); the delay is four attack times, so the gain has covered 98 % of its way when the sample that
    caused it leaves; what still overshoots ends at -1 dBFS; 60 ms of release keep the gain from following a 100 Hz
    voice.

    The two recursions run without a per-sample loop. The envelope is ``f_r^n max_k |s[k]| f_r^-k``, a running maximum;
    the gain is one product with the lower triangle f_a^(n-k). Both in float64, at most 128 samples at a time, so that
    0.01^-128 x 3.4e38 still fits.
    """

    _CHUNK_SAMPLES = 128
    _STEEP = 1e-2
    _HUSH = 1e-30

    def __init__(
        self,
        threshold_dbfs: float = -2.0,
        peak_dbfs: float = -1.0,
        delay_ms: float = 1.0,
        attack_ms: float = 0.25,
        release_ms: float = 60.0,
    ) -> None:
        assert threshold_dbfs <= 0 and peak_dbfs <= 0 and min(delay_ms, attack_ms, release_ms) >= 0
        self.delay_samples = round(delay_ms * RATE_HZ / 1000)
        self.nonfinite_samples = 0
        """NaN or Inf that came in."""
        self.limited_samples = 0
        """Samples that left with a gain below 0.99."""
        self.ceiling_samples = 0
        """Samples that only the hard ceiling stopped."""
        # constants as arrays of no dimension: NumPy takes them faster than Python numbers, which counts at 2 samples
        self._one_plus_threshold = np.array(1.0 + 10 ** (threshold_dbfs / 20))
        self._one, self._zero, self._audible = np.array(1.0), np.array(0.0), np.array(0.99)
        peak = 10 ** (peak_dbfs / 20)
        ceiling = np.float32(peak)
        if float(ceiling) > peak:
            ceiling = np.nextafter(ceiling, np.float32(0))
        self._ceiling, self._lowest = np.array(ceiling), np.array(-ceiling)
        threshold = 10 ** (threshold_dbfs / 20)
        self.steady_levels = min(threshold, peak), min((1 + threshold) ** 2 / 4, peak)
        """(lowest, highest) level, 0..1, at which a steady sound leaves that is limited and within full scale."""
        release, attack = decay_per_sample(release_ms), decay_per_sample(attack_ms)
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
            self._follow_steeply(envelope, self._steep_release)
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
        """What decays for ever would end in subnormal numbers, many times slower to compute."""
        self._envelope_buffer[0] = envelope if envelope > self._HUSH else 0.0
        self._target_buffer[0] = gain if gain > self._HUSH else 0.0

    def _follow_steeply(self, envelope: Doubles, release: float) -> None:
        """The running maximum by doubling, for releases so short that f_r^-n would overflow: 0.01^32 leaves nothing."""
        for step in (1, 2, 4, 8, 16):
            if step < envelope.shape[0]:
                np.maximum(envelope[step:], envelope[:-step] * release**step, out=envelope[step:])


def decay_per_sample(time_ms: float) -> float:
    """exp(-1 / samples): what is left after one sample of a decay to 1/e in ``time_ms``; 0 ms leaves nothing."""
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
        limiter, block = Limiter(), np.empty(samples, np.float32)
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
    run_main(main, "guard")

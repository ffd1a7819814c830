"""Everything between a device's samples and our hops: sample formats, sample rates, two clocks.

``Decoder`` -> ``Resampler`` on the way in, ``Resampler`` -> ``Encoder`` on the way out; where microphone and jack run
on two crystals, ``DriftControl`` reads the playback queue and tells the outgoing ``Resampler`` how far to steer.

``python -m edge.tools.response`` measures the conversion as it runs.
"""

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge import HOP_MS, RATE_HZ
from edge.dsp.lowpass import FIRST_HALF
from edge.dsp.spectrum import Floats

SAMPLE_BYTES = {"S16_LE": 2, "S24_LE": 4, "S24_3LE": 3, "S32_LE": 4}
"""ALSA's names of the formats we read and write, and what one sample takes: S24_LE is the low 24 bits of a word."""

STEER_LIMIT_PPM = 1000.0
"""Two crystals are 10-100 ppm apart, bad ones a few hundred; more than this is a wrong rate, not drift."""


class BadSampleFormat(ValueError):
    """The device's format is not one of ``SAMPLE_BYTES``, or it has no such channel."""


def _check(sample_format: str, channels: int) -> None:
    if sample_format not in SAMPLE_BYTES:
        raise BadSampleFormat(f"sample format {sample_format!r} is not one of {', '.join(SAMPLE_BYTES)}")
    if channels < 1:
        raise BadSampleFormat(f"a device with {channels} channels delivers no sound")


class Decoder:
    """Interleaved device bytes -> float32 mono, +-1.0, at the device's rate.

    ``channel`` counts from 0; None takes the mean of all. ``gain_db`` is the microphone's fixed gain; what it pushes
    beyond +-1.0 is limited there. ``clips`` counts samples that reached full scale before or after the gain (before
    the mean is taken, so a clipping microphone cannot hide behind a quiet one). At 0 dB a 16-bit sample decoded here
    and encoded by ``Encoder`` has the same bits again.
    """

    def __init__(
        self, sample_format: str, channels: int, channel: int | None, max_frames: int, gain_db: float = 0.0
    ) -> None:
        _check(sample_format, channels)
        if channel is not None and not 0 <= channel < channels:
            raise BadSampleFormat(f"channel {channel} of a device whose channels are 0 to {channels - 1}")
        self.clips = 0
        self.frame_bytes = SAMPLE_BYTES[sample_format] * channels
        self._format = sample_format
        self._channels = channels
        self._max_frames = max_frames
        self._lanes = slice(None) if channel is None else slice(channel, channel + 1)
        lanes = channels if channel is None else 1
        gain = 10 ** (gain_db / 20)
        full_scale = 2.0**15 if sample_format == "S16_LE" else 2.0**31
        self._scale = np.float32(gain / full_scale)
        # 24-bit microphones in 32-bit words stop short of the word's end: one 16-bit step below it is full scale.
        self._clip_level = np.float32(min(1.0, gain * (1 - 2.0**-15)))
        self._words = np.zeros((max_frames, lanes), np.int32)
        self._word_bytes = self._words.view(np.uint8).reshape(max_frames, lanes, 4)
        self._samples = np.zeros((max_frames, lanes), np.float32)
        self._level = np.zeros((max_frames, lanes), np.float32)
        self._clipped = np.zeros((max_frames, lanes), np.bool_)
        self._mono = np.zeros(max_frames, np.float32)

    def decode(self, raw: bytes | bytearray | memoryview) -> Floats:
        """Whole frames of ``raw`` (bytes, at most ``max_frames``; a torn last frame is dropped) -> float32 view, valid
        until the next call.
        """
        frames = len(raw) // self.frame_bytes
        assert frames <= self._max_frames
        samples = self._samples[:frames]
        np.multiply(self._integers(raw, frames), self._scale, out=samples, casting="same_kind", dtype=np.float32)
        self._limit(samples, frames)
        if samples.shape[1] == 1:
            return samples[:, 0]
        return np.mean(samples, axis=1, out=self._mono[:frames])

    def _integers(self, raw: bytes | bytearray | memoryview, frames: int) -> NDArray[Any]:
        """(frames, lanes): the chosen channels as integers; everything wider than 16 bits left-aligned in 32."""
        count = frames * self._channels
        words = self._words[:frames]
        if self._format == "S16_LE":
            return np.frombuffer(raw, "<i2", count).reshape(frames, self._channels)[:, self._lanes]
        if self._format == "S24_3LE":
            packed = np.frombuffer(raw, np.uint8, 3 * count).reshape(frames, self._channels, 3)
            self._word_bytes[:frames, :, 1:] = packed[:, self._lanes]
            return words
        whole = np.frombuffer(raw, "<i4", count).reshape(frames, self._channels)[:, self._lanes]
        if self._format == "S32_LE":
            return whole
        return np.left_shift(whole, 8, out=words)  # the top byte may be a sign or rubbish; the shift drops it

    def _limit(self, samples: Floats, frames: int) -> None:
        clipped = self._clipped[:frames]
        np.abs(samples, out=self._level[:frames])
        np.greater_equal(self._level[:frames], self._clip_level, out=clipped)
        clips = int(np.count_nonzero(clipped))
        if clips:
            self.clips += clips
            np.clip(samples, -1.0, 1.0, out=samples)


class Encoder:
    """float32 mono, +-1.0 -> interleaved device bytes, the same sample in every channel.

    Rounds to the nearest step, saturates beyond full scale (Inf too), writes NaN as silence. No step above
    ``peak_dbfs`` is written: where the nearest one would be, it is the one below.
    """

    def __init__(self, sample_format: str, channels: int, max_frames: int, peak_dbfs: float = 0.0) -> None:
        _check(sample_format, channels)
        self.frame_bytes = SAMPLE_BYTES[sample_format] * channels
        bits = {"S16_LE": 16, "S32_LE": 32}.get(sample_format, 24)
        self._max_frames = max_frames
        self._full_scale = 2.0 ** (bits - 1)
        self.set_peak(peak_dbfs)
        self._scaled = np.zeros(max_frames, np.float64)  # float32 has no 2^31 - 1
        self._nan = np.zeros(max_frames, np.bool_)
        self._words = np.zeros((max_frames, 1), np.int32)
        self._packed: NDArray[Any]
        self._source: NDArray[Any] = self._words
        if sample_format == "S24_3LE":
            self._source = self._words.view(np.uint8).reshape(max_frames, 1, 4)[:, :, :3]
            self._packed = np.zeros((max_frames, channels, 3), np.uint8)
        else:
            self._packed = np.zeros((max_frames, channels), "<i2" if bits == 16 else "<i4")
        self._bytes = memoryview(self._packed.reshape(-1).view(np.uint8).data)

    def set_peak(self, peak_dbfs: float) -> None:
        """From the next call on; at most 0 dBFS."""
        steps = math.floor(self._full_scale * 10 ** (peak_dbfs / 20))
        self._lowest, self._highest = -steps, min(steps, self._full_scale - 1)

    def encode(self, samples: Floats) -> memoryview:
        """float32, at most ``max_frames`` -> bytes, a view valid until the next call."""
        frames = len(samples)
        assert frames <= self._max_frames
        scaled, nan = self._scaled[:frames], self._nan[:frames]
        np.multiply(samples, self._full_scale, out=scaled, dtype=np.float64)
        np.isnan(scaled, out=nan)
        np.copyto(scaled, 0.0, where=nan)
        np.rint(scaled, out=scaled)
        np.clip(scaled, self._lowest, self._highest, out=scaled)
        np.copyto(self._words[:frames, 0], scaled, casting="unsafe")
        np.copyto(self._packed[:frames], self._source[:frames], casting="unsafe")
        return self._bytes[: frames * self.frame_bytes]


PROTOTYPE_TAPS = 135
"""Equiripple low-pass at three times the lower rate (48 kHz): 2.8 ms long, 0.12 dB ripple, 70 dB, 1 kHz transition."""
BRIDGE_SAMPLES = 4
"""Reach, to each side, of the windowed sinc that reads the prototype between its taps; 40 kHz away it is 90 dB down."""
LEAST_PHASES = 256
"""Phases per input sample: read in between by a straight line, the error is (pi / phases)^2 / 8, under -94 dB."""
MOST_PHASES = 1024
"""Pairs of rates with few common factors (44101 Hz is prime) would need a phase for every output of a second, at
192 kHz a table of gigabytes; above this they get ``LEAST_PHASES`` and every output is interpolated between two."""
FRACTION_BITS = 24
"""Read position between two phases: steering resolves 0.0001 ppm and never rounds twice the same way for long."""
ROWS = 512
"""Outputs computed at once; bounds the scratch of a long block."""


def band_edges_hz(rate_in_hz: int, rate_out_hz: int) -> tuple[float, float]:
    """(pass-band's end, stop-band's start): 7 and 8 kHz wherever the lower of the two rates is 16 kHz.

    The stop-band starts at half the lower rate, so nothing at all folds or mirrors into the band. Below 16 kHz the
    transition stays 1 kHz wide, which keeps the delay; above, it widens with the rate.
    """
    lower = min(rate_in_hz, rate_out_hz)
    return lower / 2 - max(1000.0, lower / 16), lower / 2


@cache
def _prototype(lower_hz: int) -> tuple[NDArray[np.float64], float]:
    """(taps, their rate) of the low-pass that every phase is read from."""
    if lower_hz == RATE_HZ:
        return np.array(FIRST_HALF + FIRST_HALF[-2::-1]), 3.0 * RATE_HZ
    return design(lower_hz)


def design(lower_hz: int) -> tuple[NDArray[np.float64], float]:
    """(taps, their rate) of an equiripple low-pass for ``band_edges_hz``."""
    from scipy.signal import remez

    rate_hz = 3.0 * max(lower_hz, RATE_HZ)
    pass_hz, stop_hz = band_edges_hz(lower_hz, lower_hz)
    taps = remez(PROTOTYPE_TAPS, [0, pass_hz, stop_hz, rate_hz / 2], [1, 0], weight=[1, 50], fs=rate_hz)
    return taps, rate_hz


def _impulse_response(lower_hz: int, t_seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The prototype as a continuous function of time, zero outside 0 ... 2 x delay."""
    taps, rate_hz = _prototype(lower_hz)
    reach = BRIDGE_SAMPLES
    place = t_seconds * rate_hz - reach
    first = np.floor(place).astype(int) - reach + 1
    total = np.zeros_like(place)
    for k in range(2 * reach):
        tap = first + k
        distance = place - tap
        bridge = np.sinc(distance) * np.i0(8.0 * np.sqrt(np.maximum(0, 1 - (distance / reach) ** 2))) / np.i0(8.0)
        inside = (tap >= 0) & (tap < len(taps))
        total += np.where(inside, taps[np.clip(tap, 0, len(taps) - 1)] * bridge, 0.0)
    return total


def _grid(exact_phases: int) -> tuple[int, int]:
    """(phases in the table per input sample, positions per phase) for outputs at multiples of 1/``exact_phases``.

    Their product is a multiple of ``exact_phases``, so the step from one output to the next is an integer whatever the
    rates; only how many positions have a row of their own in the table is bounded.
    """
    if exact_phases <= MOST_PHASES:
        return exact_phases * math.ceil(LEAST_PHASES / exact_phases), 1 << FRACTION_BITS
    missing = exact_phases // math.gcd(exact_phases, LEAST_PHASES)
    return LEAST_PHASES, missing * max(1, (1 << FRACTION_BITS) // missing)


class Resampler:
    """float32 mono at ``rate_in_hz`` -> float32 mono at ``rate_out_hz``, streaming, ``delay_ms`` late, steerable.

    One mechanism for every pair of rates: output k reads the input through the prototype low-pass placed at position
    k x rate_in / rate_out. The position is an integer count of a fraction of an input sample, so it is exact: in ten
    minutes no sample is lost or added, and N inputs have given ceil(N x rate_out / rate_in) outputs. Steering changes
    the step from one output to the next and never the position, so there is nothing to hear where it changes.

    Pass-band and stop-band: ``band_edges_hz``. Delay 1.48 ms. Equal rates pass through untouched with no delay,
    unless ``steered`` says that ``steer`` will be called.
    """

    def __init__(self, rate_in_hz: int, rate_out_hz: int, max_in: int, steered: bool = False) -> None:
        assert rate_in_hz > 0 and rate_out_hz > 0 and max_in > 0
        self.rate_in_hz, self.rate_out_hz = rate_in_hz, rate_out_hz
        self.untouched = rate_in_hz == rate_out_hz and not steered
        """True where samples pass through with their bits."""
        lower = min(rate_in_hz, rate_out_hz)
        _, prototype_hz = _prototype(lower)
        span_s = (PROTOTYPE_TAPS - 1 + 2 * BRIDGE_SAMPLES) / prototype_hz
        self.delay_ms = 0.0 if self.untouched else 1000 * span_s / 2
        self.max_out = max_in if self.untouched else math.ceil(max_in * rate_out_hz / rate_in_hz * 1.0011) + 1
        """The most that one call can return."""
        self.ppm = 0.0
        self._max_in = max_in
        self._out = np.zeros(self.max_out, np.float32)
        self._phases, self._fine = _grid(rate_out_hz // math.gcd(rate_in_hz, rate_out_hz))
        self._unit = self._phases * self._fine  # of position, in one input sample
        self._plain_step = self._unit * rate_in_hz // rate_out_hz  # without a remainder, see _grid
        self._step = self._plain_step
        self._position = 0  # of the next output, counted from the first sample of the next block
        self._build_tables(lower, math.ceil(span_s * rate_in_hz) + 1)
        self._allocate()

    def _build_tables(self, lower_hz: int, taps: int) -> None:
        """(phases + 1, taps) each: the low-pass at every phase, oldest sample first, and the step to the next phase."""
        self._taps = taps
        phase = np.arange(self._phases + 1)[:, None] / self._phases
        age = np.arange(taps - 1, -1, -1)[None, :]
        table = _impulse_response(lower_hz, (phase + age) / self.rate_in_hz)
        table /= table[:-1].sum() / self._phases  # one gain for all: evening out the phases at DC costs stop-band
        self._table: Floats = table.astype(np.float32)
        self._slope: Floats = np.diff(table, axis=0).astype(np.float32)

    def _allocate(self) -> None:
        rows, taps = min(ROWS, self.max_out), self._taps
        self._history = np.zeros(taps - 1 + self._max_in, np.float32)
        self._windows = np.lib.stride_tricks.sliding_window_view(self._history, taps)
        self._count = np.arange(rows, dtype=np.int64)
        self._where = np.zeros(rows, np.int64)
        self._phase = np.zeros(rows, np.int64)
        self._sample = np.zeros(rows, np.int64)
        self._between = np.zeros(rows, np.float32)
        self._low_pass = np.zeros((rows, taps), np.float32)
        self._correction = np.zeros(rows, np.float32)

    def steer(self, ppm: float) -> None:
        """From the next call on make ``ppm`` millionths more outputs per input (fewer where negative); +-1000 at most.

        A queue that runs low asks for a positive figure.
        """
        assert not self.untouched or ppm == 0, "say steered=True where equal rates are to be steered"
        self.ppm = min(max(ppm, -STEER_LIMIT_PPM), STEER_LIMIT_PPM)
        self._step = round(self._plain_step / (1 + self.ppm * 1e-6)) if self.ppm else self._plain_step

    def process(self, x: Floats) -> Floats:
        """float32, at most ``max_in`` samples -> float32, the outputs now due (at most ``max_out``), a view valid
        until the next call.
        """
        n = len(x)
        assert n <= self._max_in
        out = self._out
        if self.untouched:
            out[:n] = x
            return out[:n]
        keep = self._taps - 1
        self._history[keep : keep + n] = x
        due = max(0, -(-(n * self._unit - self._position) // self._step))
        for start in range(0, due, ROWS):
            stop = min(start + ROWS, due)
            self._read(out[start:stop])
            self._position += (stop - start) * self._step
        self._position -= n * self._unit
        self._history[:keep] = self._history[n : n + keep]
        return out[:due]

    def _read(self, out: Floats) -> None:
        """Fill ``out`` from the current position on."""
        rows = len(out)
        where, phase, sample = self._where[:rows], self._phase[:rows], self._sample[:rows]
        np.multiply(self._count[:rows], self._step, out=where)
        where += self._position
        np.floor_divide(where, self._fine, out=phase)
        np.multiply(phase, self._fine, out=sample)
        where -= sample  # what lies beyond that phase
        np.floor_divide(phase, self._phases, out=sample)
        phase -= sample * self._phases
        windows = self._windows[sample]
        low_pass = self._low_pass[:rows]
        np.take(self._table, phase, axis=0, out=low_pass, mode="clip")
        np.einsum("ij,ij->i", windows, low_pass, out=out)
        if self._step % self._fine or self._position % self._fine:
            between = self._between[:rows]
            np.multiply(where, np.float32(1 / self._fine), out=between, casting="unsafe")
            np.take(self._slope, phase, axis=0, out=low_pass, mode="clip")
            correction = self._correction[:rows]
            np.einsum("ij,ij->i", windows, low_pass, out=correction)
            correction *= between
            out += correction

    def reset(self) -> None:
        """Forget the past samples and the fraction of a position; keep the steering."""
        self._history.fill(0)
        self._position = 0


class DriftControl:
    """Playback queue (ms) in, steering (ppm) out: holds the queue at ``target_ms`` between two free-running clocks.

    What the queue does beyond what our steering explains is the drift between the clocks. An observer with two equal
    poles at ``observe_s`` learns both, the queue and the drift, from readings as coarse as they come (the jack's
    position moves in 10 ms steps, so the reading saws between 0 and 10 ms above what is really queued: the target is
    held by the saw's mean). The steering is the learned drift plus what returns the queue in ``return_s``, limited to
    +-1000 ppm and to ``SLEW_PPM_PER_S``. The observer is told the steering really applied, so a limit winds nothing up.
    Pure: time is told in hops. After camilladsp's rate adjust, which steers by the averaged queue alone.

    From knowing nothing, 300 ppm apart, the queue is within +-2 ms of the target after 40 s and stays. Clocks less than
    100 ppm apart leave up to 3.1 ms: 10 ms steps seen every 5 ms do not tell where in 5 ms the queue is until the
    clocks have slid past each other. A drift of 1000 ppm leaves no steering to spare and is only
    kept from growing worse.
    """

    SLEW_PPM_PER_S = 60.0

    def __init__(
        self, target_ms: float, hop_ms: float = HOP_MS, observe_s: float = 12.0, return_s: float = 8.0
    ) -> None:
        self.target_ms = target_ms
        self.queue_ms = target_ms
        """The observer's queue: the mean of the saw, without its teeth."""
        self.learned_ppm = 0.0
        """How much faster playback runs than capture, as far as known."""
        self.ppm = 0.0
        """What to steer the outgoing ``Resampler`` by."""
        self._hop_s = hop_ms / 1000
        self._observe_s = observe_s
        self._return_s = return_s
        self._seen_s = 0.0

    def update(self, queue_ms: float, hops: int = 1) -> float:
        """One reading of the queue, ``hops`` hops after the last one, always taken at the same place of the loop
        -> ``ppm``.
        """
        elapsed_s = hops * self._hop_s
        self._observe(queue_ms, elapsed_s)
        wanted = self.learned_ppm + 1000 * (self.target_ms - self.queue_ms) / self._return_s
        step = self.SLEW_PPM_PER_S * elapsed_s
        self.ppm = _within(_within(wanted, self.ppm - step, self.ppm + step), -STEER_LIMIT_PPM, STEER_LIMIT_PPM)
        return self.ppm

    def _observe(self, queue_ms: float, elapsed_s: float) -> None:
        """Predict the queue from drift and steering (1 ppm moves it 0.001 ms a second), then correct both."""
        self._seen_s += elapsed_s
        self.queue_ms += 1e-3 * (self.ppm - self.learned_ppm) * elapsed_s
        surprise_ms = queue_ms - self.queue_ms
        share = elapsed_s / self._observe_s
        self.queue_ms += surprise_ms * min(1.0, max(2 * share, elapsed_s / self._seen_s))  # at first the plain mean
        if self._seen_s > 1.0:
            learned = self.learned_ppm - 1000 * surprise_ms * min(share, 1.0) / self._observe_s
            self.learned_ppm = _within(learned, -STEER_LIMIT_PPM, STEER_LIMIT_PPM)

    def reset(self, keep_ppm: bool = True) -> None:
        """The queue was filled anew (start, xrun): forget its level; keep the drift, which belongs to the crystals."""
        self.queue_ms = self.target_ms
        self._seen_s = 0.0
        if not keep_ppm:
            self.learned_ppm = 0.0
        self.ppm = self.learned_ppm


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)

"""Sample rate conversion, hop by hop, between a device's rate and 16 kHz; ``steer`` follows a clock that drifts.

``python -m edge.tools.response`` measures the conversion as it runs.
"""

import math
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from edge import RATE_HZ
from edge.dsp.bandwidth import band_edges_hz
from edge.dsp.lowpass import FIRST_HALF
from edge.dsp.spectrum import Floats

STEER_LIMIT_PPM = 1000.0
"""Two crystals are 10-100 ppm apart, bad ones a few hundred; more than this is a wrong rate, not drift."""
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
TABLES_KEPT = 8
"""Tables of so many pairs of rates, of at most 2 MB each, are kept: many files mostly have one rate."""


@cache
def _prototype(lower_hz: int) -> tuple[NDArray[np.float64], float]:
    """(taps, their rate) of the low-pass that every phase is read from."""
    if half := FIRST_HALF.get(lower_hz):
        return np.array(half + half[-2::-1]), 3.0 * RATE_HZ
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


@lru_cache(maxsize=TABLES_KEPT)
def _tables(lower_hz: int, rate_in_hz: int, phases: int, taps: int) -> tuple[Floats, Floats]:
    """float32 (phases + 1, taps) and (phases, taps), read only: the low-pass at every phase, oldest sample first, and
    the step to the next phase.
    """
    phase = np.arange(phases + 1)[:, None] / phases
    age = np.arange(taps - 1, -1, -1)[None, :]
    table = _impulse_response(lower_hz, (phase + age) / rate_in_hz)
    table /= table[:-1].sum() / phases  # one gain for all: evening out the phases at DC costs stop-band
    found: tuple[Floats, Floats] = (table.astype(np.float32), np.diff(table, axis=0).astype(np.float32))
    for values in found:
        values.flags.writeable = False
    return found


class Resampler:
    """float32 mono at ``rate_in_hz`` -> float32 mono at ``rate_out_hz``, streaming, ``delay_ms`` late, steerable.

    One mechanism for every pair of rates: output k reads the input through the prototype low-pass placed at position
    k x rate_in / rate_out. The position is an integer count of a fraction of an input sample, so it is exact: in ten
    minutes no sample is lost or added, and N inputs have given ceil(N x rate_out / rate_in) outputs. Steering changes
    the step from one output to the next and never the position, so a change is inaudible.

    Pass-band and stop-band: ``band_edges_hz``. Delay 1.48 ms. Equal rates pass through untouched with no delay,
    unless ``steered``, which allows ``steer``.
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
        self._taps = math.ceil(span_s * rate_in_hz) + 1
        self._table, self._slope = _tables(lower, rate_in_hz, self._phases, self._taps)
        self._allocate()

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
        assert not self.untouched or ppm == 0, "steering equal rates needs steered=True"
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

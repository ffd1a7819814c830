"""The response of the rate converters, measured through the code that runs, as a table and a picture.

python -m edge.tools.response --picture FILE.png
"""

import math
import sys
import timeit

import numpy as np
from numpy.typing import NDArray

from edge import HOP_MS, command_for
from edge.console import run_main
from edge.dsp.bandwidth import band_edges_hz
from edge.dsp.resample import Resampler

DEVICE_RATES_HZ = (48_000, 44_100, 96_000, 32_000, 24_000, 22_050, 88_200, 192_000, 176_400, 8_000)
RATE_PAIRS = [(rate, 16_000) for rate in DEVICE_RATES_HZ]
RATE_PAIRS += [(16_000, rate) for rate in DEVICE_RATES_HZ] + [(16_000, 16_000)]
"""What devices offer, to and from our rate; the equal pair is the steered one."""


def measure_response(rate_in_hz: int, rate_out_hz: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(Hz, dB) of the path as it runs: impulses put into ``process`` at every distance from the output grid, the
    answers interleaved by that distance, and their spectrum up to half the rates' least common multiple.
    """
    common = math.gcd(rate_in_hz, rate_out_hz)
    grid = rate_out_hz // common  # outputs fall on multiples of 1 / grid input sample ...
    stride = rate_in_hz // common  # ... this many of them apart
    span = math.ceil(0.004 * rate_in_hz)
    answers = np.zeros(span * grid)
    resampler = Resampler(rate_in_hz, rate_out_hz, span + stride, steered=True)
    for start in range(stride):
        resampler.reset()
        x = np.zeros(span + stride, np.float32)
        x[start] = 1.0
        y = resampler.process(x)
        when = np.arange(len(y)) * stride - start * grid
        kept = (when >= 0) & (when < len(answers))
        answers[when[kept]] = y[kept]
    size = 1 << math.ceil(math.log2(len(answers) * 8))
    level = np.abs(np.fft.rfft(answers, size)) / grid
    db: NDArray[np.float64] = 20 * np.log10(level + 1e-12)
    hz: NDArray[np.float64] = np.fft.rfftfreq(size, 1 / (grid * rate_in_hz)).astype(np.float64)
    return hz, db


def _pair_figures(rate_in_hz: int, rate_out_hz: int) -> tuple[float, float, float, float]:
    """Delay (ms), worst pass-band deviation (dB), worst stop-band level (dB), time per 5 ms hop (µs, steered)."""
    pass_hz, stop_hz = band_edges_hz(rate_in_hz, rate_out_hz)
    hz, db = measure_response(rate_in_hz, rate_out_hz)
    n = round(rate_in_hz * HOP_MS / 1000)
    resampler = Resampler(rate_in_hz, rate_out_hz, n, steered=True)
    resampler.steer(123.4)
    hop = np.zeros(n, np.float32)
    hop_us = 1e6 * min(timeit.repeat(lambda: resampler.process(hop), number=200, repeat=5)) / 200
    return resampler.delay_ms, float(np.max(np.abs(db[hz <= pass_hz]))), float(np.max(db[hz >= stop_hz])), hop_us


def draw_responses(path: str) -> None:
    """Write the picture of every pair's response."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    whole, close = figure.subplots(2, 1)
    for rate_in_hz, rate_out_hz in RATE_PAIRS:
        hz, db = measure_response(rate_in_hz, rate_out_hz)
        for axes in (whole, close):
            shown = hz <= 50_000
            axes.plot(hz[shown] / 1000, db[shown], linewidth=0.8, label=f"{rate_in_hz} to {rate_out_hz} Hz")
    whole.set(xlim=(0, 50), ylim=(-130, 5), ylabel="dB", title="Rate conversion, measured through process()")
    close.set(xlim=(0, 9), ylim=(-1, 1), ylabel="dB", xlabel="kHz")
    for axes in (whole, close):
        axes.grid(alpha=0.3)
    whole.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=120)


def main(arguments: list[str]) -> int:
    """``[--picture FILE.png]``: print the table of rate pairs, draw the picture if asked for."""
    if arguments and (len(arguments) != 2 or arguments[0] != "--picture"):
        print("usage: python -m edge.tools.response [--picture FILE.png]", file=sys.stderr)
        return 2
    print("    in Hz    out Hz  delay ms  pass to Hz  within dB  stop from Hz  at most dB  µs per 5 ms hop")
    for rate_in_hz, rate_out_hz in RATE_PAIRS:
        pass_hz, stop_hz = band_edges_hz(rate_in_hz, rate_out_hz)
        delay_ms, ripple_db, stop_db, hop_us = _pair_figures(rate_in_hz, rate_out_hz)
        print(
            f"{rate_in_hz:9d} {rate_out_hz:9d} {delay_ms:9.3f} {pass_hz:11.0f} {ripple_db:10.3f} "
            f"{stop_hz:13.0f} {'-' if rate_in_hz == rate_out_hz else f'{stop_db:.1f}':>11} {hop_us:16.0f}"
        )
    if arguments:
        try:
            draw_responses(arguments[1])
        except ImportError:
            print(f"the picture needs matplotlib: {command_for('pictures')}", file=sys.stderr)
            return 1
        print(f"drawn: {arguments[1]}")
    return 0


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1:]), "response")

"""What a latency allows: oracle masks, through the box's transform and through slower ones.

    python -m quant.bound --pairs DIR

Every mask is the Wiener gain of the true powers of speech and noise, each averaged over 45 ms, for no network knows
them to the instant; so the rows differ in nothing but the transform. What a network does not reach of its row is its
own fault; what one row lies below another is the price of the latency, or of the bands.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from rich.table import Table
from scipy.ndimage import uniform_filter1d

from edge import HOP_SAMPLES, RATE_HZ
from edge.console import run_main
from edge.dsp.spectrum import WINDOW_SAMPLES, Floats, Spectra, analysis_window, band_weights, synthesis_window
from edge.tools.tables import show
from models.command import need, status_of
from models.measures import pesq_wb, si_sdr_db, stoi
from quant.calibrate import progress
from quant.evaluate.sounds import Sound, read_pairs

POWER_AVERAGE_MS = 45
"""The oracle mask's powers are averaged over so long."""


@dataclass(frozen=True)
class OverlapTransform:
    """A transform: frames of ``analysis``, the last samples of each through ``synthesis``, overlapped to one."""

    name: str
    analysis: Floats
    synthesis: Floats
    hop_samples: int
    bands: Floats | None = None
    """(bands, bins), as ``band_weights``; None: every bin has a gain of its own."""

    @property
    def latency_ms(self) -> float:
        """Of the algorithm: what is overlapped must have been heard whole."""
        return 1000 * len(self.synthesis) / RATE_HZ

    def spectra(self, wave: Floats) -> Spectra:
        """(samples,) -> (frames, bins); the first frame ends with the first hop, the last begins behind the end."""
        padded = np.pad(wave, (len(self.analysis) - self.hop_samples, len(self.analysis) + self.hop_samples))
        frames = sliding_window_view(padded, len(self.analysis))[:: self.hop_samples]
        return np.fft.rfft(frames * self.analysis).astype(np.complex64)

    def wave(self, spectra: Spectra, samples: int) -> Floats:
        """(frames, bins) -> (samples,), in time with what was analysed."""
        length, hop = len(self.synthesis), self.hop_samples
        frames = np.fft.irfft(spectra, len(self.analysis))[:, -length:] * self.synthesis
        whole = np.zeros(len(frames) * hop + length)
        for at, frame in enumerate(frames):
            whole[at * hop : at * hop + length] += frame
        return whole[length - hop :][:samples].astype(np.float32)

    def masked(self, noisy: Floats, clean: Floats) -> Floats:
        """``noisy`` through the oracle mask."""
        heard, speech = self.spectra(noisy), self.spectra(clean)
        frames = max(1, round(POWER_AVERAGE_MS * RATE_HZ / 1000 / self.hop_samples))
        wanted, other = (uniform_filter1d(np.abs(part) ** 2, frames, axis=0) for part in (speech, heard - speech))
        if self.bands is not None:
            wanted, other = wanted @ self.bands.T, other @ self.bands.T
        gains = wanted / (wanted + other + 1e-12)
        return self.wave(heard * (gains if self.bands is None else gains @ self.bands), len(noisy))


def overlapping(window_samples: int, name: str) -> OverlapTransform:
    """An ordinary transform with root-Hann windows, four of them over each other."""
    window = np.sin(np.pi * (np.arange(window_samples) + 0.5) / window_samples)
    return OverlapTransform(name, window.astype(np.float32), (window / 2).astype(np.float32), window_samples // 4)


def transforms() -> list[OverlapTransform]:
    """The box's own, the same with a gain for every bin, and those of other latencies."""
    ours = analysis_window(), synthesis_window(), HOP_SAMPLES
    return [
        OverlapTransform("the box's, 64 bands", *ours, band_weights()),
        OverlapTransform("the box's, every bin", *ours),
        overlapping(2 * HOP_SAMPLES, "10 ms windows, every bin"),
        overlapping(WINDOW_SAMPLES, "20 ms windows, every bin"),
        overlapping(512, "32 ms windows, every bin"),
    ]


def measured(transform: OverlapTransform, sound: Sound) -> tuple[float, float, float]:
    """PESQ, STOI and SI-SDR improvement of one pair."""
    assert sound.clean is not None
    out = transform.masked(sound.noisy, sound.clean)
    gain_db = si_sdr_db(sound.clean, out) - si_sdr_db(sound.clean, sound.noisy)
    return pesq_wb(sound.clean, out), stoi(sound.clean, out), gain_db


def table_of(rows: Iterable[tuple[OverlapTransform, list[tuple[float, float, float]]]]) -> Table:
    """Means over the pairs."""
    table = Table(title=f"oracle masks, averaged over {POWER_AVERAGE_MS} ms", title_justify="left")
    for heading in ("transform", "latency", "PESQ-WB", "STOI", "SI-SDR improvement"):
        table.add_column(heading, justify="left" if heading == "transform" else "right")
    for transform, found in rows:
        pesq, intelligible, gain_db = np.nanmean(np.array(found), axis=0)
        table.add_row(
            transform.name, f"{transform.latency_ms:.0f} ms", f"{pesq:.3f}", f"{intelligible:.3f}", f"{gain_db:+.2f} dB"
        )
    return table


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser("python -m quant.bound", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--pairs", type=Path, required=True, metavar="DIR", help="folder with clean/ and noisy/ of the same names"
    )
    asked = parser.parse_args(argv)
    return status_of(lambda: run(asked.pairs), "bound")


def run(folder: Path) -> None:
    """Every transform on every pair of ``folder``, and the table; raises BadRequest."""
    need("evaluate", "pesq", "pystoi")
    sounds = read_pairs(folder)
    with progress() as bar:
        task = bar.add_task(f"{len(sounds)} pairs", total=len(sounds) * len(transforms()))
        rows = []
        for transform in transforms():
            found = []
            for sound in sounds:
                found.append(measured(transform, sound))
                bar.advance(task)
            rows.append((transform, found))
    show(table_of(rows))


if __name__ == "__main__":
    run_main(main, "bound")

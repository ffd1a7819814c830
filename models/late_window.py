"""The transform of ``models.twin``: root-Hann windows of 30 ms, so that sound leaves 30 ms late, and its trainer."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import band_centres_hz
from edge.suppress.network import Shape
from models.network import Network, Spectrum, enhance
from models.train.trainer import Trainer

WINDOW_SAMPLES = 480
"""30 ms: the whole of it must have been heard before the last hop over it is known."""

LAYERS = WINDOW_SAMPLES // HOP_SAMPLES
"""Windows over each sample."""

SHAPE = Shape(rounds=4)


class LateSpectrum(Spectrum):
    """Root-Hann windows of 480 samples on both sides, a hop of 80; the box's 64 bands over 241 bins."""

    delay_samples = WINDOW_SAMPLES - HOP_SAMPLES

    def __init__(self) -> None:
        nn.Module.__init__(self)
        window = torch.hann_window(WINDOW_SAMPLES, dtype=torch.float64).sqrt()
        bins_hz = np.arange(WINDOW_SAMPLES // 2 + 1) * RATE_HZ / WINDOW_SAMPLES
        rows = [np.interp(bins_hz, band_centres_hz(), row) for row in np.eye(len(band_centres_hz()))]
        self.register_buffer("analysis", window.float())
        self.register_buffer("synthesis", (window / (LAYERS / 2)).float())  # squared Hann roots add up to that
        self.register_buffer("bands", torch.tensor(np.array(rows), dtype=torch.float32))

    def analyse(self, wave: Tensor) -> Tensor:
        """(batch, samples), samples a multiple of 80 -> complex64 (batch, hops, 241)."""
        frames = nn.functional.pad(wave, (self.delay_samples, 0)).unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)
        return torch.fft.rfft(frames * self.analysis)

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """complex64 (batch, hops, 241) -> (batch, samples), five hops behind the wave that was analysed."""
        parts = (torch.fft.irfft(spectrum, WINDOW_SAMPLES) * self.synthesis).unflatten(2, (LAYERS, HOP_SAMPLES))
        wave = parts[:, :, 0]
        for late in range(1, LAYERS):
            wave = wave + nn.functional.pad(parts[:, :-late, late], (0, 0, late, 0))
        return wave.flatten(1)


class TwinTrainer(Trainer):
    """``models.train.Trainer`` behind the late transform."""

    transform = LateSpectrum

    @staticmethod
    @torch.no_grad()
    def enhanced_by(network: Network, waves: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Each wave at once, its delay removed: nothing here must stream."""
        spectrum, late, outputs = LateSpectrum(), LateSpectrum.delay_samples, []
        for wave in waves:
            hops = -(-(len(wave) + late) // HOP_SAMPLES)
            padded = np.pad(wave, (0, hops * HOP_SAMPLES - len(wave)))
            output, _ = enhance(network, spectrum, torch.from_numpy(padded)[None])
            outputs.append(output[0, late : late + len(wave)].numpy())
        return outputs

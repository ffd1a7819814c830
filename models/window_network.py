"""The U-Net of ``engine = "window"``: 200 ms of log-magnitude spectrogram in, a mask of the same shape out.

Encoder, decoder and skips (Ronneberger et al. 2015), halving frequency four times and time once; the sizes 241, 121,
61, 31, 16 halve and double without a remainder. It keeps no state, so each window stands alone. The recipe is that of
``models.train``: the same mixtures, schedule, averaged weights, checkpoints and spectral terms of the loss, with SI-SDR
(Le Roux et al. 2019) added. In training windows lie end to end; the engine overlaps them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge.suppress.foreign.window import Geometry, analysis_taper, synthesis_taper
from models.mix.mixer import Batch
from models.train.loss import Loss

WINDOWS = 8
"""Windows of a segment, 1.46 s."""

SI_SDR_SHARE = 0.02
"""What a decibel of SI-SDR weighs beside the spectral terms."""

BEST_DB = 30.0
"""SI-SDR beyond this teaches no more: clean items would drown the others."""


@dataclass(frozen=True)
class Widths:
    """Channels after each halving and in the middle."""

    levels: tuple[int, ...] = (12, 16, 24, 32)
    middle: int = 48

    def check(self) -> None:
        """Raises ValueError for sizes that make no network."""
        if len(self.levels) != len(STRIDES) or not all(1 <= width <= 512 for width in (*self.levels, self.middle)):
            raise ValueError(f"expected {len(STRIDES)} levels of 1 to 512 channels, and a middle")


STRIDES = ((2, 1), (2, 2), (2, 1), (2, 1))
"""(frequency, time) of each level."""

LEAST = 4
"""Channels at full resolution, where each costs most."""


class UNet(nn.Module):
    """Log magnitudes (windows, 1, 241, 18) -> mask of the same shape, 0..1; the level of a window plays no part."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        levels = widths.levels
        halvings = [*zip((1, *levels[:-1]), levels, STRIDES, strict=True)]
        self.down = nn.ModuleList(nn.Conv2d(before, after, 3, stride, 1) for before, after, stride in halvings)
        self.middle = nn.ModuleList(
            [nn.Conv2d(levels[-1], widths.middle, 3, 1, 1), nn.Conv2d(widths.middle, levels[-1], 3, 1, 1)]
        )
        self.up = nn.ModuleList(  # of 9 frames the time stride makes 17, and one more
            nn.ConvTranspose2d(2 * after, max(before, LEAST), 3, stride, 1, (0, stride[1] - 1))
            for before, after, stride in reversed(halvings)
        )
        self.last = nn.Conv2d(LEAST + 1, 1, 3, 1, 1)
        for name, value in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(value)
            else:
                nn.init.kaiming_normal_(
                    value, nonlinearity="relu", mode="fan_out" if name.startswith("up") else "fan_in"
                )

    def forward(self, magnitudes: Tensor) -> Tensor:
        x = magnitudes - magnitudes.mean((2, 3), keepdim=True)
        kept = [x]
        for part in self.down:
            x = torch.relu(part(x))
            kept.append(x)
        for part in self.middle:
            x = torch.relu(part(x))
        for part in self.up:
            x = torch.relu(part(torch.cat([x, kept.pop()], 1)))
        return torch.sigmoid(self.last(torch.cat([x, kept.pop()], 1)))

    def settle(self) -> None:
        """A window has nothing before it: there is no state to find."""


class Frames(nn.Module):
    """The engine's short-time transform for batches, with gradients."""

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.register_buffer("analysis", torch.from_numpy(analysis_taper(geometry)))
        self.register_buffer("synthesis", torch.from_numpy(synthesis_taper(geometry)))

    def analyse(self, wave: Tensor) -> Tensor:
        """(items, samples) -> complex64 (items, frames, bins): the first frame begins with the first sample."""
        return torch.fft.rfft(wave.unfold(1, self.geometry.fft_samples, self.geometry.hop_samples) * self.analysis)

    def synthesise(self, spectra: Tensor) -> Tensor:
        """complex64 (items, frames, bins) -> (items, frames x hop): the wave that ``analyse`` saw, but its end.

        The first fft - hop samples lack frames before them.
        """
        hop = self.geometry.hop_samples
        parts = (torch.fft.irfft(spectra, self.geometry.fft_samples) * self.synthesis).unflatten(2, (-1, hop))
        wave = parts[:, :, 0]
        for late in range(1, parts.shape[2]):
            wave = wave + nn.functional.pad(parts[:, :-late, late], (0, 0, late, 0))
        return wave.flatten(1)

    def magnitudes(self, spectra: Tensor) -> Tensor:
        """complex64 -> what the network reads."""
        size = (spectra.real.square() + spectra.imag.square() + 1e-12).sqrt()
        return torch.log10(size + self.geometry.log_floor)


class WindowLossBatch(nn.Module):
    """Network, transform and loss as one module."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network, self.frames, self.loss = network, Frames(Geometry()), Loss()

    def enhance(self, wave: Tensor) -> Tensor:
        """(items, samples) -> as many whole windows of it as there are, end to end: (items, windows x 18 x 160)."""
        seen = self.frames.geometry.frames
        spectra = self.frames.analyse(wave)
        spectra = spectra[:, : spectra.shape[1] // seen * seen]
        items, frames, bins = spectra.shape
        windows = self.frames.magnitudes(spectra).reshape(items * frames // seen, 1, seen, bins).transpose(2, 3)
        mask = self.network(windows).transpose(2, 3).reshape(items, frames, bins)
        return self.frames.synthesise(spectra * mask)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        output = self.enhance(batch.noisy)
        whole = slice(self.frames.geometry.fft_samples - self.frames.geometry.hop_samples, output.shape[1])
        cut = Batch(batch.noisy[:, whole], batch.clean[:, whole], batch.snr_db, batch.kind)
        unsaid = torch.zeros(len(output), 1, device=output.device)
        terms: dict[str, Tensor] = self.loss(output[:, whole], unsaid, cut, unsaid)
        del terms["speech"]  # a mask reports no speech probability
        return terms | {"si_sdr": SI_SDR_SHARE * below_best_db(output[:, whole], cut.clean)}


def below_best_db(output: Tensor, clean: Tensor) -> Tensor:
    """By how many dB SI-SDR stays below BEST_DB, the mean over items in which somebody speaks; a soft end at the best.

    models.measures.si_sdr_db with gradients.
    """
    output, clean = output - output.mean(1, keepdim=True), clean - clean.mean(1, keepdim=True)
    power = clean.square().sum(1)
    target = clean * ((output * clean).sum(1) / (power + 1e-8)).unsqueeze(1)
    wanted, rest = target.square().sum(1), (output - target).square().sum(1)
    lost_db = 10 * torch.log10((rest + 10 ** (-BEST_DB / 10) * wanted + 1e-8) / (wanted + 1e-8)) + BEST_DB
    spoken = (power > 1e-4).float()
    return (lost_db * spoken).sum() / spoken.sum().clamp(min=1)

"""What listeners' models mind, as losses with gradients: disturbance after PESQ, envelopes after STOI.

Both follow the published measures in what they compare and leave out what training does not need: PESQ's alignment in
time and its search for bad intervals, STOI's removal of silent frames (frames are weighed by their level instead). They
are lessons, not measures: ``models.measures`` measures.
"""

import math

import torch
from torch import Tensor, nn

from edge import RATE_HZ

FFT_SAMPLES, STEP_SAMPLES = 512, 256
BINS_HZ = torch.linspace(0, RATE_HZ / 2, FFT_SAMPLES // 2 + 1)


class Disturbance(nn.Module):
    """How far a wave is from clean speech in loudness, as PESQ judges it: what it takes off the best mark of 4.5.

    After ITU-T P.862 (2001) and Martin-Donas et al. 2018, "A deep learning loss function based on the perceptual
    evaluation of the speech quality", IEEE Signal Processing Letters 25: power in bands of half a Bark (Traunmueller
    1990), loudness above the threshold of hearing (Zwicker's law, exponent 0.23; threshold after Terhardt 1979), a dead
    zone of a quarter of the softer of the two, and what is added weighs more than what is lost.
    """

    bands: Tensor
    threshold: Tensor
    width: Tensor
    window: Tensor

    LEVEL_DB = 79.0
    """Speech is presented at so many dB SPL."""
    EXPONENT = 0.23
    SYMMETRIC, ASYMMETRIC = 0.1, 0.0309
    LOUDNESS = 0.1866

    def __init__(self) -> None:
        super().__init__()
        bark = 26.81 * BINS_HZ / (1960 + BINS_HZ) - 0.53
        edges = torch.arange(0.5, float(bark[-1]), 0.5)
        low, high = edges[:-1].unsqueeze(1), edges[1:].unsqueeze(1)
        bands = ((bark >= low) & (bark < high)).float()
        held = bands.sum(1) > 0
        centre_khz = ((bands * BINS_HZ).sum(1) / bands.sum(1).clamp(min=1))[held] / 1000
        threshold_db = (
            3.64 * centre_khz**-0.8 - 6.5 * torch.exp(-0.6 * (centre_khz - 3.3).square()) + 1e-3 * centre_khz**4
        )
        self.register_buffer("bands", bands[held].T.contiguous())
        self.register_buffer("threshold", 10 ** (threshold_db / 10))
        self.register_buffer("width", torch.full((int(held.sum()),), 0.5))
        self.register_buffer("window", torch.hann_window(FFT_SAMPLES))

    def forward(self, output: Tensor, clean: Tensor) -> Tensor:
        """Waves (items, samples), the clean ones not silent -> (items,): 0 is perfect, noisy speech 2 to 3."""
        level = 10 ** (self.LEVEL_DB / 20) / (clean.square().mean(1, keepdim=True).sqrt() + 1e-5)
        heard, meant = self.power(output * level), self.power(clean * level)
        audible = meant * (meant > self.threshold)
        spoken = (audible.sum(2, keepdim=True) > 1e4).float()
        frames = spoken.sum(1, keepdim=True).clamp(min=1)
        colour = ((heard * spoken).sum(1, keepdim=True) / frames + 1e3) / (
            (meant * spoken).sum(1, keepdim=True) / frames + 1e3
        )
        meant = meant * colour.detach().clamp(0.01, 100)
        gain = (meant.sum(2, keepdim=True) + 5e3) / (heard.sum(2, keepdim=True) + 5e3)
        heard = heard * gain.detach().clamp(3e-4, 5)
        loud, wanted = self.loudness(heard), self.loudness(meant)
        gap = ((loud - wanted).abs() - 0.25 * torch.minimum(loud, wanted)).clamp(min=0)
        added = ((heard + 50) / (meant + 50)) ** 1.2
        added = torch.where(added < 3, 0.0, added.clamp(max=12)).detach()
        emphasis = ((meant.sum(2) + 1e5) / 1e7) ** 0.04
        total = self.width.sum()
        even = total * ((gap * self.width).square().sum(2) / (total * self.width.max()) + 1e-9).sqrt() / emphasis
        uneven = (gap * added * self.width).sum(2) / emphasis
        return self.SYMMETRIC * self.over_time(even) + self.ASYMMETRIC * self.over_time(uneven)

    def power(self, wave: Tensor) -> Tensor:
        """(items, samples) -> (items, frames, bands): an SPL of 0 dB is 1."""
        bins = torch.stft(wave, FFT_SAMPLES, STEP_SAMPLES, window=self.window, return_complex=True)
        scale = 2 / (FFT_SAMPLES * float(self.window.square().sum()))
        return (torch.view_as_real(bins).square().sum(3) * scale).transpose(1, 2) @ self.bands

    def loudness(self, power: Tensor) -> Tensor:
        """Sone a Bark of band powers."""
        ratio = power / self.threshold
        scale = self.LOUDNESS * (self.threshold / 0.5) ** self.EXPONENT
        return scale * ((0.5 + 0.5 * ratio) ** self.EXPONENT - 1).clamp(min=0)

    @staticmethod
    def over_time(disturbance: Tensor) -> Tensor:
        """(items, frames) -> (items,): bad stretches of 0.3 s count for more than their share (L6), then L2."""
        stretches = disturbance.clamp(max=45).unfold(1, min(20, disturbance.shape[1]), 10)
        worst = (stretches**6).mean(2).clamp(min=1e-9) ** (1 / 6)
        return worst.square().mean(1).clamp(min=1e-9).sqrt()


class Envelopes(nn.Module):
    """1 less STOI's correlation: envelopes of third octaves over stretches of 0.38 s (Taal et al. 2011, "An algorithm
    for intelligibility prediction of time-frequency weighted noisy speech", IEEE TASLP 19).
    """

    bands: Tensor
    window: Tensor

    BANDS, LOWEST_HZ = 15, 150.0
    STRETCH_FRAMES = 24
    CLIP = 1 + 10 ** (15 / 20)

    def __init__(self) -> None:
        super().__init__()
        centre = self.LOWEST_HZ * 2 ** (torch.arange(self.BANDS).unsqueeze(1) / 3)
        inside = (centre * 2 ** (-1 / 6) <= BINS_HZ) & (centre * 2 ** (1 / 6) > BINS_HZ)
        self.register_buffer("bands", inside.float().T.contiguous())
        self.register_buffer("window", torch.hann_window(FFT_SAMPLES))

    def forward(self, output: Tensor, clean: Tensor) -> Tensor:
        """Waves (items, samples), the clean ones not silent -> (items,), 0 to 2: noisy speech 0.1 to 0.4."""
        heard, meant = self.stretches(output), self.stretches(clean)
        size = (meant.square().sum(3, keepdim=True) + 1e-9).sqrt()
        heard = torch.minimum(heard * size / (heard.square().sum(3, keepdim=True) + 1e-9).sqrt(), self.CLIP * meant)
        alike = (centred(heard) * centred(meant)).sum(3).mean(2)
        loud = meant.square().sum((2, 3))
        weight = (loud > loud.amax(1, keepdim=True) * 10**-2.5).float()
        return 1 - (alike * weight).sum(1) / weight.sum(1).clamp(min=1)

    def stretches(self, wave: Tensor) -> Tensor:
        """(items, samples) -> (items, stretches, bands, frames)."""
        bins = torch.stft(wave, FFT_SAMPLES, STEP_SAMPLES, window=self.window, return_complex=True)
        power = torch.view_as_real(bins).square().sum(3).transpose(1, 2) @ self.bands
        frames = min(self.STRETCH_FRAMES, power.shape[1])
        return (power + 1e-9).sqrt().unfold(1, frames, self.STRETCH_FRAMES // 4)


def centred(envelope: Tensor) -> Tensor:
    """Less its mean over frames, at length 1."""
    envelope = envelope - envelope.mean(3, keepdim=True)
    return envelope / (envelope.square().sum(3, keepdim=True) + 1e-6).sqrt()


def si_sdr_loss_db(output: Tensor, clean: Tensor) -> Tensor:
    """(items, samples) -> (items,): SI-SDR with its sign turned (Le Roux et al. 2019), never better than 30 dB."""
    wanted = clean * ((output * clean).sum(1, keepdim=True) / (clean.square().sum(1, keepdim=True) + 1e-6))
    rest = (output - wanted).square().sum(1)
    kept = wanted.square().sum(1)
    return 10 / math.log(10) * torch.log((rest + 1e-3 * kept + 1e-6) / (kept + 1e-6))

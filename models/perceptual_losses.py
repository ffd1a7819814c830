"""Perceptual measures as losses with gradients: disturbance after PESQ, envelopes after STOI, the score of DNSMOS.

The first two follow the published measures in what they compare and leave out what training does not need: PESQ's
alignment in time and its search for bad intervals, STOI's removal of silent frames (frames are weighed by their level
instead). They are losses, not measurements: ``models.measures`` measures.
"""

import importlib.util
import math

import torch
from torch import Tensor, nn

from edge import RATE_HZ
from models.measures import DNSMOS_POLYNOMIALS, dnsmos_file
from models.mix.waves import power

FFT_SAMPLES, STEP_SAMPLES = 512, 256
BINS_HZ = torch.linspace(0, RATE_HZ / 2, FFT_SAMPLES // 2 + 1)


class Disturbance(nn.Module):
    """How far a wave is from clean speech in loudness, as PESQ weighs it: what it takes off the best score of 4.5.

    After ITU-T P.862 (2001) and Martin-Donas et al. 2018, "A deep learning loss function based on the perceptual
    evaluation of the speech quality", IEEE Signal Processing Letters 25: power in bands of half a Bark (Traunmueller
    1990), loudness above the threshold of hearing (Zwicker's law, exponent 0.23; threshold after Terhardt 1979), a dead
    zone of a quarter of the softer of the two, and what is added weighs more than what is lost.
    """

    bands: Tensor
    threshold: Tensor
    window: Tensor

    LEVEL_DB = 79.0
    """Speech is presented at so many dB SPL."""
    WIDTH_BARK = 0.5
    EXPONENT = 0.23
    SYMMETRIC, ASYMMETRIC = 0.1, 0.0309
    LOUDNESS = 0.1866

    def __init__(self) -> None:
        super().__init__()
        bark = 26.81 * BINS_HZ / (1960 + BINS_HZ) - 0.53
        edges = torch.arange(0.5, float(bark[-1]), self.WIDTH_BARK)
        low, high = edges[:-1].unsqueeze(1), edges[1:].unsqueeze(1)
        bands = ((bark >= low) & (bark < high)).float()
        held = bands.sum(1) > 0
        centre_khz = ((bands * BINS_HZ).sum(1) / bands.sum(1).clamp(min=1))[held] / 1000
        threshold_db = (
            3.64 * centre_khz**-0.8 - 6.5 * torch.exp(-0.6 * (centre_khz - 3.3).square()) + 1e-3 * centre_khz**4
        )
        self.register_buffer("bands", bands[held].T.contiguous())
        self.register_buffer("threshold", 10 ** (threshold_db / 10))
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
        width = self.WIDTH_BARK * gap.shape[2]
        even = width * (self.WIDTH_BARK * gap.square().sum(2) / width + 1e-9).sqrt() / emphasis
        uneven = self.WIDTH_BARK * (gap * added).sum(2) / emphasis
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


class Opinion(nn.Module):
    """The overall mark of DNSMOS P.835 (Reddy, Gopal & Cutler 2022), 1 to 5: its own network, read from the package
    speechmos, with the convolutions in bfloat16 where that is quick. It judges without the clean speech and can be
    talked round, so it is only ever one voice of several.
    """

    FRAME_SAMPLES, FRAME_STEP_SAMPLES = 320, 160
    CONVOLUTIONS, POOLED = 7, (3, 4, 5)
    LEVEL_DBFS = -26.0
    """DNSMOS depends on the level, too: waves of level 1 are presented at this one."""
    LEAST_S = 5.0
    """It was trained on nine seconds; of less than this it knows little."""

    def __init__(self) -> None:
        super().__init__()
        import onnx

        for stored in onnx.load(str(dnsmos_file())).graph.initializer:
            name = stored.name.split("/ReadVariableOp")[0].removeprefix("mos_estimator_logpow/")
            values = torch.from_numpy(onnx.numpy_helper.to_array(stored).copy())
            self.register_buffer(name.split(":")[0].replace("/", "_").replace("-", "_"), values, persistent=False)

    @staticmethod
    def found() -> bool:
        """Whether the packages are installed."""
        return all(importlib.util.find_spec(package) for package in ("speechmos", "onnx"))

    def forward(self, output: Tensor) -> Tensor:
        """Waves (items, samples) whose speech has level 1 -> (items,)."""
        frames = (output * 10 ** (self.LEVEL_DBFS / 20)).unfold(1, self.FRAME_SAMPLES, self.FRAME_STEP_SAMPLES)
        turns = (self.get_buffer(f"time2freq_stft_{part}_kernel").squeeze(2).T for part in ("real", "imag"))
        real, imaginary = (frames @ turn for turn in turns)
        x = torch.log10((real.square() + imaginary.square()).clamp(min=1e-12)).unsqueeze(1)
        with torch.autocast(output.device.type, torch.bfloat16, enabled=quick_in_bfloat16(output.device)):
            x = x.to(memory_format=torch.channels_last)
            for index in range(self.CONVOLUTIONS):
                layer = f"conv2d_{index}" if index else "conv2d"
                kernel, bias = self.get_buffer(f"{layer}_kernel"), self.get_buffer(f"{layer}_bias")
                x = torch.relu(nn.functional.conv2d(x, kernel, bias, padding=1))
                if index in self.POOLED:
                    x = nn.functional.max_pool2d(x, 2)
        x = x.float().amax((2, 3))
        for layer in ("dense", "dense_1"):
            x = torch.relu(x @ self.get_buffer(f"{layer}_MatMul") + self.get_buffer(f"{layer}_BiasAdd"))
        raw = (x @ self.get_buffer("dense_3_MatMul") + self.get_buffer("dense_3_BiasAdd"))[:, 2]
        square, slope, start = DNSMOS_POLYNOMIALS["OVRL"]
        return (square * raw + slope) * raw + start


def quick_in_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself; a processor without AVX-512 BF16 takes a hundred times as long."""
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()


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


def left_db(output: Tensor, noisy: Tensor) -> Tensor:
    """(items, samples) -> (items,): what is left of noise without speech, for which there is no SI-SDR; 0 to -20."""
    return 10 * torch.log10((power(output) + 1e-8) / (power(noisy) + 1e-8) + 0.01)

"""What training minimises: distances between enhanced and clean speech, and the speech decision."""

import torch
from torch import Tensor, nn

from edge import RATE_HZ
from models.mix.mixer import Batch
from models.mix.waves import active_power, power
from models.network import Network, Spectrum, enhance
from models.perceptual_losses import Disturbance, Envelopes, Opinion, left_db, si_sdr_loss_db

COMPRESSION = 0.3


class Loss(nn.Module):
    """The training loss, per item at equal level: compressed spectra of the synthesised wave, the wave itself, the
    speech decision, and the perceptual losses of ``models.perceptual_losses``.

    The spectra are those of the synthesised output (an ordinary 512/256 transform), so inconsistency of the gained
    short-time spectrum costs as well. Comparing complex values teaches gains that follow the phase error.
    """

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(512))
        self.disturbance, self.envelopes = Disturbance(), Envelopes()
        self.opinion = Opinion() if Opinion.found() else None

    def forward(self, output: Tensor, speech: Tensor, batch: Batch, spoken: Tensor) -> dict[str, Tensor]:
        """Output waves aligned with ``batch.clean``, speech logits and labels (items, hops) -> named terms."""
        loud = torch.maximum(active_power(batch.clean).sqrt(), 0.3 * power(batch.noisy).sqrt()) + 1e-5
        out, clean = output / loud.unsqueeze(1), batch.clean / loud.unsqueeze(1)
        out_size, out_bins = self.compressed(out)
        clean_size, clean_bins = self.compressed(clean)
        gap = clean_size - out_size
        spoken_to = (batch.kind != 2).float()
        share = spoken_to / spoken_to.sum().clamp(min=1)
        terms = {
            "size": 0.3 * gap.square().mean(),
            "bins": 0.4 * torch.view_as_real(clean_bins - out_bins).square().mean(),
            "lost": 0.45 * gap.clamp(min=0).square().mean(),
            "wave": 0.3 * (out - clean).abs().mean(),
            "disturbance": 0.07 * (self.disturbance(out, clean) * share).sum(),
            "envelopes": 1.2 * (self.envelopes(out, clean) * share).sum(),
            "ratio": 0.2 * (si_sdr_loss_db(out, clean) * share).sum(),
            "left": 0.2 * (left_db(output, batch.noisy) * (1 - spoken_to)).mean(),
            "speech": 0.05 * nn.functional.binary_cross_entropy_with_logits(speech, spoken),
        }
        if self.opinion and out.shape[1] >= Opinion.LEAST_S * RATE_HZ:
            terms["opinion"] = 1.6 * ((5 - self.opinion(out)) * share).sum()
        return terms

    def compressed(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Magnitudes to the power 0.3, alone and with the phase."""
        bins = torch.stft(wave, 512, 256, window=self.window, return_complex=True)
        size = torch.log(torch.view_as_real(bins).square().sum(3) + 1e-8)
        return torch.exp(COMPRESSION / 2 * size), bins * torch.exp((COMPRESSION - 1) / 2 * size)


def speech_labels(spectrum: Spectrum, batch: Batch) -> Tensor:
    """float32 (items, hops): one where the clean frame lies within 33 dB of the item's loudest and is no silence."""
    bins = spectrum.analyse(batch.clean)
    energy = (bins.real.square() + bins.imag.square()).sum(2)
    loudest = energy.amax(1, keepdim=True)
    return ((energy > loudest * 10**-3.3) & (loudest > 1e-4)).float()


class LossBatch(nn.Module):
    """Network and transform as one module, so that the distributed wrapper has one ``forward`` to follow."""

    def __init__(self, network: Network, spectrum: Spectrum) -> None:
        super().__init__()
        self.network, self.spectrum, self.loss = network, spectrum, Loss()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        output, speech = enhance(self.network, self.spectrum, batch.noisy)
        late = self.spectrum.delay_samples
        keep = batch.clean.shape[1] - late
        aligned = Batch(batch.noisy[:, :keep], batch.clean[:, :keep], batch.snr_db, batch.kind)
        terms: dict[str, Tensor] = self.loss(output[:, late:], speech, aligned, speech_labels(self.spectrum, batch))
        return terms

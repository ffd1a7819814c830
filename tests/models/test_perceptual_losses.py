"""The losses of models.perceptual_losses against the measures they stand for, on shipped recordings."""

import numpy as np
import pytest
import soundfile
import torch
from signals import SOUNDS

from edge import RATE_HZ
from models.measures import dnsmos, pesq_wb, si_sdr_db, stoi
from models.perceptual_losses import Disturbance, Envelopes, Opinion, left_db, si_sdr_loss_db

PAIRS = sorted(path.name for path in (SOUNDS / "noisy").glob("*.flac") if (SOUNDS / "clean" / path.name).is_file())


def pair(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    noisy, clean = (
        torch.from_numpy(soundfile.read(SOUNDS / part / name, dtype="float32")[0]).unsqueeze(0)
        for part in ("noisy", "clean")
    )
    return noisy, clean


def steps(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(5, samples): the same words with less and less of the noise; and the clean ones for each."""
    noisy, clean = pair(name)
    shares = torch.tensor([1.0, 0.5, 0.25, 0.1, 0.0]).unsqueeze(1)
    return clean + shares * (noisy - clean), clean.expand(5, -1)


@pytest.mark.parametrize("name", PAIRS)
def test_every_loss_follows_its_measure(name: str) -> None:
    waves, clean = steps(name)
    disturbance, envelopes, ratio = Disturbance()(waves, clean), Envelopes()(waves, clean), si_sdr_loss_db(waves, clean)
    for loss in (disturbance, envelopes, ratio):
        assert (loss[:-1] > loss[1:]).all(), "less noise is always better"
    heard = [(wave.numpy(), word.numpy()) for wave, word in zip(waves[:4], clean[:4], strict=True)]
    for loss, measure in ((disturbance, pesq_wb), (envelopes, stoi), (ratio, si_sdr_db)):
        measured = [measure(word, wave) for wave, word in heard]
        assert np.corrcoef(measured, loss[:4])[0, 1] < -0.85
    assert ratio[0] == pytest.approx(-si_sdr_db(heard[0][1], heard[0][0]), abs=0.2)


def test_clean_speech_is_perfect_at_any_level() -> None:
    _, clean = pair(PAIRS[0])
    for gain in (1.0, 0.1):
        assert Disturbance()(gain * clean, clean).item() < 0.5
        assert Envelopes()(gain * clean, clean).item() < 0.02
        assert si_sdr_loss_db(gain * clean, clean).item() < -29


def test_residual_noise_is_in_decibels() -> None:
    noise = torch.randn(1, 24_000, generator=torch.Generator().manual_seed(1))
    for gain_db in (0, -6, -10):
        assert left_db(10 ** (gain_db / 20) * noise, noise).item() == pytest.approx(gain_db, abs=0.5)
    assert left_db(0 * noise, noise).item() == pytest.approx(-20, abs=0.1)
    assert abs(left_db(0 * noise, 0 * noise).item()) < 0.1, "silence stays silence"


def test_silence_and_noise_have_finite_gradients() -> None:
    rng = torch.Generator().manual_seed(1)
    clean = torch.randn(3, 24_000, generator=rng) * torch.tensor([[0.0], [1e-4], [0.3]])
    output = (torch.randn(3, 24_000, generator=rng) * torch.tensor([[0.1], [0.0], [0.3]])).requires_grad_()
    for loss in (Disturbance(), Envelopes(), si_sdr_loss_db, left_db):
        (gradient,) = torch.autograd.grad(loss(output, clean).sum(), output)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", PAIRS)
def test_the_score_is_that_of_dnsmos(name: str) -> None:
    """On the same nine seconds, but for the last hundredth; what it sees of the samples' level is put right."""
    noisy, _ = pair(name)
    nine = noisy.tile(1, 9 * RATE_HZ // noisy.shape[1] + 1)[:, : 9 * RATE_HZ]
    mark = Opinion()(nine * 10 ** (-Opinion.LEVEL_DBFS / 20)).item()
    assert mark == pytest.approx(dnsmos(np.pad(nine[0].numpy(), (0, 160)))[2], abs=0.03)


def test_the_score_has_a_useful_gradient() -> None:
    """A few steps of gain over time along its gradient raise the mark."""
    noisy, _ = pair(PAIRS[0])
    noisy = noisy[:, : 5 * RATE_HZ] / noisy.std()
    gain = torch.ones(1, noisy.shape[1] // 800).requires_grad_()
    opinion, marks = Opinion(), []
    for _ in range(5):
        mark = opinion(noisy * gain.repeat_interleave(800, 1))
        (gradient,) = torch.autograd.grad(mark.sum(), gain)
        assert torch.isfinite(gradient).all()
        marks.append(mark.item())
        gain = (gain + 0.3 * gradient / gradient.abs().max()).clamp(0, 1).detach().requires_grad_()
    assert marks[-1] > marks[0]

"""The network streams as it trains, and sees the same spectra as the box."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge import HOP_SAMPLES  # noqa: E402
from edge.dsp.spectrum import BANDS, DELAY_SAMPLES, Transform, band_weights  # noqa: E402
from edge.suppress.network import SLOWEST, Shape  # noqa: E402
from models.network import Network, Spectrum, enhance, features_of  # noqa: E402
from models.recurrence import build_folder, remember  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(params=[Shape(), Shape(stride_bands=4, channels=12, squeeze=4, hidden=24, rounds=1, past_hops=3)])
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(3)
    return Network(request.param).eval()


@torch.no_grad()
def test_step_is_forward(network: Network) -> None:
    features = torch.randn(2, 150, BANDS)
    gains, speech, last = network(features)
    state = network.fresh_state(2)
    for hop in range(features.shape[1]):
        gain, voice, state = network.step(features[:, hop], state)
        assert torch.allclose(gain, gains[:, hop], atol=1e-5)
        assert torch.allclose(voice, speech[:, hop], atol=1e-5)
    assert torch.allclose(state, last, atol=1e-5)


@torch.no_grad()
def test_a_sequence_may_be_cut_anywhere(network: Network) -> None:
    features = torch.randn(1, 90, BANDS)
    whole, _, _ = network(features)
    first, _, state = network(features[:, :1])
    second, _, state = network(features[:, 1:38], state)
    third, _, _ = network(features[:, 38:], state)
    assert torch.allclose(torch.cat([first, second, third], 1), whole, atol=1e-5)


@torch.no_grad()
def test_a_long_sequence_goes_in_blocks() -> None:
    network, features = Network(Shape(channels=4, squeeze=2, hidden=4, rounds=1)), torch.randn(1, 3300, BANDS)
    first, _, state = network(features[:, :700])
    rest, _, _ = network(features[:, 700:], state)
    assert torch.allclose(torch.cat([first, rest], 1), network(features)[0], atol=1e-5)


@torch.no_grad()
def test_is_causal_and_looks_back_far(network: Network) -> None:
    features = torch.randn(1, 120, BANDS)
    changed = features.clone()
    changed[:, 60] += 3
    difference = (network(changed)[0] - network(features)[0]).abs().amax(2)[0]
    assert difference[:60].max() == 0
    assert difference[60] > 1e-4
    assert difference[80] > 1e-7  # a memory, not a window of past hops


@torch.no_grad()
def test_sizes_and_ranges(network: Network) -> None:
    state = network.fresh_state(5)
    assert state.shape == (5, network.state_size)
    assert sum(network.state_sizes) == network.state_size
    gains, speech, after = network.step(torch.full((5, BANDS), 100.0), state)
    assert gains.shape == (5, BANDS) and speech.shape == (5,) and after.shape == state.shape
    assert ((gains >= 0) & (gains <= 1)).all() and ((speech >= 0) & (speech <= 1)).all()


def test_default_fits_the_budget() -> None:
    network = Network(Shape())
    assert sum(weight.numel() for weight in network.parameters()) < 95_000  # int8, with room for scales and graph


@torch.no_grad()
def test_every_group_sees_every_other(network: Network) -> None:
    features = torch.randn(1, 40, BANDS)
    changed = features.clone()
    changed[:, :, -1] += 3
    difference = (network(changed)[0] - network(features)[0]).abs().amax(1)[0]
    assert (difference > 1e-7).all()


@torch.no_grad()
def test_states_stay_bounded_on_a_long_stream() -> None:
    """Ten minutes of silence, shouting and clipping: memories are averages of values in +-1, they cannot drift."""
    network, state = Network(Shape()).eval(), Network(Shape()).fresh_state()
    for value in (-2.5, 4.0, -2.5, 0.0):
        _, _, state = network(torch.full((1, 3000, BANDS), value), state)
        memories = state[:, sum(network.state_sizes[:2]) :]
        assert memories.abs().max() <= 1.0 + 1e-5


@torch.no_grad()
def test_level_changes_nothing(network: Network) -> None:
    """Twice the sound is 0.3 more in every log-power feature; gains must not move."""
    features = torch.randn(1, 50, BANDS)
    assert torch.allclose(network(features)[0], network(features + 0.3)[0], atol=5e-5)


@torch.no_grad()
def test_a_long_pause_is_a_fresh_start(network: Network) -> None:
    for part in (*network.groups, *network.full):
        part.gates.bias[:8] = -40  # cells that would rather keep what they hold
    network.settle()
    _, _, state = network(torch.randn(1, 200, BANDS) * 2)
    assert (state - network.fresh_state()).abs().max() > 0.1
    _, _, state = network(features_of(torch.zeros(1, 24_000, BANDS)), state)
    assert torch.allclose(state, network.fresh_state(), atol=2e-3)
    features = torch.randn(1, 100, BANDS)
    assert torch.allclose(network(features, state)[0], network(features)[0], atol=1e-3)


def test_memory_forms_agree() -> None:
    """Loop (or scan, without a compiler), doubling scan and a plain recursion: values and gradients."""
    torch.manual_seed(0)
    size = torch.logspace(0, 2.5, 37)[:, None, None, None]  # up to +-1000: saturated gates must stay finite
    gates = (torch.randn(2, 37, 3, 3, 5) * size).requires_grad_()
    start = torch.randn(2, 3, 5, requires_grad=True)

    def plain(gates: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        held, shown = start, []
        for hop in gates.unbind(1):
            z, candidate, shutter = hop.unbind(2)
            z = torch.where(z > SLOWEST, z, SLOWEST).sigmoid()
            held = (1 - z) * held + z * candidate.tanh()
            shown.append(shutter.sigmoid() * held)
        return torch.stack(shown, 1), held

    results = []
    for form in (plain, lambda g, s: remember(g, s, True), lambda g, s: remember(g, s, False)):
        shown, last = form(gates, start)
        slopes = torch.autograd.grad(shown.sin().sum() + last.square().sum(), [gates, start])
        results.append((shown, last, *slopes))
    for result in results[1:]:
        for ours, reference in zip(result, results[0], strict=True):
            assert torch.allclose(ours, reference, atol=5e-6)


def test_spectrum_is_the_boxes_transform() -> None:
    wave = np.random.default_rng(1).standard_normal((2, 30 * HOP_SAMPLES)).astype(np.float32) * 0.1
    spectrum = Spectrum()
    bins = spectrum.analyse(torch.from_numpy(wave))
    gains = torch.rand(2, 30, BANDS)
    back = spectrum.synthesise(spectrum.weigh(bins, gains)).numpy()
    for row in range(2):
        transform, hop = Transform(), np.zeros(HOP_SAMPLES, np.float32)
        for index in range(30):
            at = slice(index * HOP_SAMPLES, (index + 1) * HOP_SAMPLES)
            assert np.allclose(transform.analyse(wave[row, at]), bins[row, index].numpy(), atol=1e-5)
            power = np.abs(transform.spectrum) ** 2 @ band_weights().T
            ours = features_of(torch.from_numpy(power)).numpy()
            assert np.allclose(ours, spectrum.features(bins[row, index]).numpy(), atol=1e-4)
            transform.spectrum *= gains[row, index].numpy() @ band_weights()
            transform.synthesise(hop)
            assert np.allclose(hop, back[row, at], atol=1e-6)


def test_unity_gains_are_a_pure_delay() -> None:
    wave = torch.randn(1, 50 * HOP_SAMPLES) * 0.3
    spectrum = Spectrum()
    back = spectrum.synthesise(spectrum.weigh(spectrum.analyse(wave), torch.ones(1, 50, BANDS)))
    assert torch.allclose(back[:, DELAY_SAMPLES:], wave[:, :-DELAY_SAMPLES], atol=1e-5)
    assert (back[:, :DELAY_SAMPLES].abs() < 1e-6).all()


def test_silence_and_full_scale_give_finite_output_and_gradients() -> None:
    network, spectrum = Network(Shape()), Spectrum()
    wave = torch.cat([torch.zeros(1, 20 * HOP_SAMPLES), torch.ones(1, 20 * HOP_SAMPLES), -torch.ones(1, 1600)], 1)
    output, speech = enhance(network, spectrum, wave)
    (output.square().sum() + speech.sum()).backward()
    assert output.isfinite().all()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in network.parameters())


@pytest.mark.parametrize(("age_s", "stays"), [(1.0, True), (1e4, False)])
def test_a_lock_that_a_killed_build_left_behind_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, stays: bool
) -> None:
    """PyTorch would wait for it without end."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = build_folder() / "lock"
    lock.touch()
    os.utime(lock, (time.time() - age_s,) * 2)
    assert build_folder() == lock.parent and lock.exists() is stays

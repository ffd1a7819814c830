"""The networks on the box: NumPy and ONNX Runtime compute what PyTorch computes."""
# ruff: noqa: F811  (fixtures are imported and then named as arguments)

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from network_files import ODD, SMALL, TRAINED, fresh_trials, quantised, settled, spectra, wandering, whole, write_model  # noqa: E402, F401

from edge import HOP_SAMPLES  # noqa: E402
from edge.dsp.spectrum import BANDS, BINS, Features  # noqa: E402
from edge.suppress import probe  # noqa: E402
from edge.suppress.mask import MaskEngine, Unity  # noqa: E402
from edge.suppress.network import NumpyNetwork, Shape  # noqa: E402
from edge.suppress.shipped import Model  # noqa: E402
from edge.tools.bench import speech_like  # noqa: E402
from models.network import Network, Spectrum  # noqa: E402
from models.train.checkpoint import load_network  # noqa: E402
from quant.export.network import build  # noqa: E402
from quant.quantize.compact import compact, numbers, pack  # noqa: E402


def test_the_states_have_the_sizes_of_the_definition() -> None:
    ours = Shape()
    assert ours.state_sizes == Network(Shape()).state_sizes


def test_features_are_those_of_the_training() -> None:
    features, theirs = Features(), Spectrum()
    for frame in [*spectra(20), *spectra(5, 1e-4), np.zeros(BINS, np.complex64)]:
        wanted = theirs.features(torch.from_numpy(frame)).numpy()
        np.testing.assert_allclose(features.of(frame), wanted, atol=2e-6)


@torch.no_grad()
@pytest.mark.parametrize("which", ["trained", "small", "odd"])
def test_numpy_is_step(which: str) -> None:
    network = load_network(TRAINED).eval() if which == "trained" else settled({"small": SMALL, "odd": ODD}[which])
    weights = quantised(network)
    ours = NumpyNetwork("network", network.shape, weights)
    gains, state = np.zeros(BANDS, np.float32), network.fresh_state()
    worst = spread = 0.0
    for row in wandering(2000 if which == "trained" else 500):
        theirs, speech, state = network.step(torch.from_numpy(row)[None], state)
        said = ours.step(row, gains)
        worst = max(worst, float(np.abs(gains - theirs.numpy()[0]).max()), abs(said - float(speech[0])))
        spread = max(spread, float(np.ptp(gains)))
    assert worst < 1e-4
    assert spread > 0.05  # else nothing was compared


def test_a_clamped_gate_forgets_as_slowly_as_the_definition_allows() -> None:
    network = settled(SMALL)
    with torch.no_grad():
        for part in (*network.groups, *network.full):
            part.gates.bias[: part.gates.out_features // 3] = -30
    weights = quantised(network)
    ours = NumpyNetwork("network", SMALL, weights)
    gains, state = np.zeros(BANDS, np.float32), network.fresh_state()
    with torch.no_grad():
        for row in wandering(400):
            theirs, _, state = network.step(torch.from_numpy(row)[None], state)
            ours.step(row, gains)
    np.testing.assert_allclose(gains, theirs.numpy()[0], atol=1e-4)


def test_one_scale_for_a_whole_matrix_is_as_good() -> None:
    network = settled(SMALL)
    weights = quantised(network)
    for name in [name for name in weights if name.endswith(".scale")]:
        weights[name] = np.array(0.01, np.float32)
    shape = SMALL
    one = NumpyNetwork("network", shape, weights)
    for name in [name for name in weights if name.endswith(".scale")]:
        weights[name] = np.full(len(weights[name.removesuffix("scale") + "bias"]), 0.01, np.float32)
    each = NumpyNetwork("network", shape, weights)
    gains, other_gains = np.zeros((2, BANDS), np.float32)
    for row in wandering(20):
        assert one.step(row, gains) == each.step(row, other_gains)
    np.testing.assert_array_equal(gains, other_gains)


@pytest.mark.parametrize("shape", [SMALL, Shape()])
def test_onnx_is_numpy(shape: Shape, tmp_path: Path) -> None:
    from edge.suppress.onnx import OnnxNetwork

    model = Model(str(write_model(tmp_path / "mine", settled(shape))))
    ours, theirs = model.weights("network"), OnnxNetwork("network", model)
    gains, other_gains = np.zeros((2, BANDS), np.float32)
    for frame in spectra(600):
        speech, other_speech = ours.estimate(frame, gains), theirs.estimate(frame, other_gains)
        assert abs(speech - other_speech) < 1e-5
        np.testing.assert_allclose(gains, other_gains, atol=1e-5)


def test_what_quantize_writes_runs_on_both(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    exact = build(settled(Shape()))
    (folder / "mine.onnx").write_bytes(compact(exact).SerializeToString())
    (folder / "mine.npz").write_bytes(pack(numbers(exact)))
    model = Model(str(folder))
    assert probe.failure(model) == ""
    ours, theirs = both(model)
    gains, other_gains = np.zeros((2, BANDS), np.float32)
    for frame in spectra(300):
        assert abs(ours.estimate(frame, gains) - theirs.estimate(frame, other_gains)) < 2e-3
        np.testing.assert_allclose(gains, other_gains, atol=2e-3)


def both(model: Model) -> list[Any]:
    from edge.suppress.onnx import OnnxNetwork

    return [model.weights("network"), OnnxNetwork("network", model)]


def test_reset_is_a_fresh_start_exactly(whole: Path) -> None:
    for estimator in both(Model(str(whole))):
        frames, gains = spectra(101), np.zeros((3, 101, BANDS), np.float32)
        for run in range(3):
            said = [estimator.estimate(frame, row) for frame, row in zip(frames, gains[run], strict=True)]
            assert all(0 <= speech <= 1 for speech in said)
            if run == 1:
                estimator.estimate(np.full(BINS, np.nan, np.complex64), gains[2, 0])
                assert np.isnan(gains[2, 0]).any()  # the engine above counts it and starts afresh
            estimator.reset()
        np.testing.assert_array_equal(gains[0], gains[1])
        np.testing.assert_array_equal(gains[0], gains[2])
        assert gains.min() >= 0 and gains.max() <= 1


def test_absurd_frames_give_gains_or_a_fresh_start(whole: Path) -> None:
    for estimator in both(Model(str(whole))):
        box = MaskEngine([estimator, Unity()], 60)
        sound = speech_like(1.0).reshape(-1, HOP_SAMPLES)
        for number, hop in enumerate(sound.copy()):
            hop *= [0.0, 1.0, 1e2, 1e-20, 1e6][number // 20 % 5]
            assert 0 <= box.process(hop) <= 1
        box.reset()
        after, wanted = sound.copy(), sound.copy()
        other = MaskEngine([Model(str(whole)).weights("network"), Unity()], 60)
        for hop, same in zip(after, wanted, strict=True):
            box.process(hop)
            other.process(same)
        np.testing.assert_allclose(after, wanted, atol=1e-5)
        assert box.level == 0


def test_the_limit_holds_on_the_gains_of_a_network(whole: Path) -> None:
    """With a limit of 0 dB nothing changes at all; with 12 dB no hop comes out quieter than that."""
    sound = speech_like(2.0)
    for limit_db in (0.0, 12.0):
        for estimator in both(Model(str(whole))):
            box = MaskEngine([estimator], limit_db)
            got = sound.reshape(-1, HOP_SAMPLES).copy()
            for hop in got:
                box.process(hop)
            late = sound[: -box.delay_samples]
            out = got.reshape(-1)[box.delay_samples :]
            assert (out @ out) / (late @ late) > 10 ** (-(limit_db + 0.1) / 10)
            if limit_db == 0:
                np.testing.assert_allclose(out, late, atol=1e-5)
            else:
                assert (out @ out) / (late @ late) < 0.9


def test_no_hop_leaves_memory_behind(whole: Path) -> None:
    gains = np.zeros(BANDS, np.float32)
    for estimator in both(Model(str(whole))):
        frames = spectra(500)
        for frame in frames[:100]:
            estimator.estimate(frame, gains)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for frame in frames[100:]:
                estimator.estimate(frame, gains)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 2048

"""The shipped networks do their work: thresholds below what was measured, on real recordings, through the live engine.

The figures measured when the thresholds were set stand in models/quietbox/CARD.md.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pesq import pesq
from pystoi import stoi
from signals import SOUNDS

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import DELAY_SAMPLES, Floats
from edge.suppress import open_engine
from edge.suppress.mask import MaskEngine
from models.measures import roc_auc, si_sdr_db, spoken
from models.network import Spectrum, enhance
from models.train.checkpoint import load_network

NAMES = sorted(file.name for file in (SOUNDS / "noisy").iterdir())
LIMIT_DB = 60.0

GATE = {
    "network": {"pesq": 0.4, "stoi": 0.025, "si_sdr_db": 6.0},
    "rnn": {"pesq": 0.38, "stoi": 0.015, "si_sdr_db": 5.5},
}
"""The least mean improvement over the noisy recordings."""
NOISE_REMOVED_DB = {"network": 10, "rnn": 5}
"""The least from noise alone; among the recordings are people talking in another room."""


def sound(part: str, name: str) -> Floats:
    samples, _ = soundfile.read(SOUNDS / part / name, dtype="float32")
    return np.asarray(samples[: len(samples) // HOP_SAMPLES * HOP_SAMPLES])


def through(engine: MaskEngine, samples: Floats) -> tuple[Floats, Floats]:
    """The whole signal and the speech probability of each hop; the engine keeps its state."""
    out = np.concatenate([samples, np.zeros(DELAY_SAMPLES, np.float32)])
    speech = np.array([engine.process(out[at : at + HOP_SAMPLES]) for at in range(0, len(out), HOP_SAMPLES)])
    return out[DELAY_SAMPLES:], speech.astype(np.float32)


def improvements(enhance: Callable[[Floats], Floats]) -> dict[str, float]:
    """Mean over the recordings of what each measure gains."""
    rows = []
    for name in NAMES:
        clean, noisy = sound("clean", name), sound("noisy", name)
        rows.append([[pesq(RATE_HZ, clean, x, "wb"), stoi(clean, x, RATE_HZ), si_sdr_db(clean, x)]
                     for x in (noisy, enhance(noisy))])  # fmt: skip
    before, after = np.mean(rows, axis=0)
    return dict(zip(("pesq", "stoi", "si_sdr_db"), (after - before).tolist(), strict=True))


def passes(gained: dict[str, float], gate: dict[str, float]) -> bool:
    return all(gained[measure] >= least for measure, least in gate.items())


@pytest.fixture(params=["network", "rnn"])
def engine(request: pytest.FixtureRequest) -> MaskEngine:
    opened = open_engine(request.param, LIMIT_DB)
    assert opened.name == request.param and not opened.notes
    return opened


def test_the_shipped_network_passes_its_gate(engine: MaskEngine) -> None:
    gained = improvements(lambda noisy: through(engine, noisy)[0])
    assert passes(gained, GATE[engine.name]), gained


def test_a_worse_network_fails_the_gate() -> None:
    worse = open_engine("rnn", LIMIT_DB)
    estimator = worse._levels[0]
    estimate = estimator.estimate
    dull = np.zeros(64, np.float32)

    def late(spectrum: np.ndarray, gains: Floats) -> float:
        speech = estimate(spectrum, gains)
        now = gains.copy()
        gains[:] = dull
        dull[:] = 0.9 * dull + 0.1 * now
        return speech

    estimator.estimate = late  # type: ignore[method-assign]
    assert not passes(improvements(lambda noisy: through(worse, noisy)[0]), GATE["rnn"])


def test_int8_is_as_good_as_float() -> None:
    network = load_network(Path(__file__).parents[2] / "models" / "quietbox" / "weights.pt")

    def in_float(noisy: Floats) -> Floats:
        with torch.no_grad():
            wave = torch.from_numpy(np.concatenate([noisy, np.zeros(DELAY_SAMPLES, np.float32)]))
            return np.asarray(enhance(network, Spectrum(), wave[None])[0][0, DELAY_SAMPLES:])

    whole = improvements(in_float)
    engine = open_engine("network", LIMIT_DB)
    small = improvements(lambda noisy: through(engine, noisy)[0])
    assert small["pesq"] > whole["pesq"] - 0.05
    assert small["si_sdr_db"] > whole["si_sdr_db"] - 0.2


def test_the_level_of_clean_speech_is_kept(engine: MaskEngine) -> None:
    for name in NAMES:
        clean = sound("clean", name)
        out, _ = through(engine, clean)
        assert abs(10 * np.log10((out @ out) / (clean @ clean))) < 1


def test_noise_alone_is_taken_away(engine: MaskEngine) -> None:
    least_db = NOISE_REMOVED_DB[engine.name]
    for name in NAMES:
        noise = sound("noisy", name) - sound("clean", name)
        out, _ = through(engine, noise)
        settled = slice(RATE_HZ, None)
        assert 10 * np.log10((noise[settled] @ noise[settled]) / (out[settled] @ out[settled])) > least_db, name


def test_speech_is_told_from_noise(engine: MaskEngine) -> None:
    for name in NAMES:
        truth = spoken(sound("clean", name))
        _, said = through(engine, sound("noisy", name))
        assert roc_auc(said[: len(truth)], truth) > 0.95, name


@pytest.mark.slow
def test_ten_minutes_leave_no_trace(engine: MaskEngine) -> None:
    rng = np.random.default_rng(3)
    clean, noisy = sound("clean", NAMES[0]), sound("noisy", NAMES[0])
    fresh, _ = through(engine, noisy)
    engine.reset()
    voices = sum(np.resize(sound("clean", name)[i * 7000 :], 60 * RATE_HZ) for i, name in enumerate(NAMES))
    minute = 60 * RATE_HZ
    for part in (
        np.zeros(2 * minute, np.float32),
        np.resize(sound("noisy", NAMES[1]), minute),
        np.clip(40 * np.resize(sound("noisy", NAMES[2]), 2 * minute), -1, 1),
        np.asarray(voices, np.float32) * 0.5,
        rng.normal(0, 0.3, 2 * minute).astype(np.float32),
        np.zeros(2 * minute, np.float32),
    ):
        out, _ = through(engine, part)
        assert np.isfinite(out).all() and np.abs(out).max() < 4
    later, _ = through(engine, noisy)
    assert abs(si_sdr_db(clean, later) - si_sdr_db(clean, fresh)) < 0.1

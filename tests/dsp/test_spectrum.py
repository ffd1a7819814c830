"""The transform: perfect reconstruction, 10 ms, bands that add up to one."""

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import (
    BANDS,
    BINS,
    DELAY_SAMPLES,
    FADE_SAMPLES,
    Transform,
    analysis_window,
    band_centres_hz,
    band_weights,
    synthesis_window,
)


def walk(transform: Transform, sound: np.ndarray) -> np.ndarray:
    hops = sound.reshape(-1, HOP_SAMPLES).copy()
    for hop in hops:
        transform.analyse(hop)
        transform.synthesise(hop)
    return hops.reshape(-1)


def test_unity_gains_are_a_pure_delay_of_one_hop() -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, 200 * HOP_SAMPLES).astype(np.float32)
    got = walk(Transform(), sound)
    np.testing.assert_allclose(got[DELAY_SAMPLES:], sound[:-DELAY_SAMPLES], atol=1e-6)


def test_the_windows_overlap_to_one_in_double_precision() -> None:
    product = analysis_window()[-2 * HOP_SAMPLES :].astype(float) * synthesis_window()
    np.testing.assert_allclose(product[:HOP_SAMPLES] + product[HOP_SAMPLES:], 1, atol=1e-6)


def test_the_newest_frame_says_all_but_the_first_moment_of_a_hop() -> None:
    transform, sound = Transform(), np.random.default_rng(2).uniform(-1, 1, (9, HOP_SAMPLES)).astype(np.float32)
    played = np.zeros(HOP_SAMPLES, np.float32)
    for hop in sound[:-1]:
        transform.analyse(hop)
        transform.synthesise(played)
    transform.analyse(sound[-1])
    transform.spectrum[:] = 0
    transform.synthesise(played)
    assert (played[FADE_SAMPLES:] == 0).all()
    fading = np.cos(np.pi / 2 * (np.arange(FADE_SAMPLES) + 0.5) / FADE_SAMPLES) ** 2
    np.testing.assert_allclose(played[:FADE_SAMPLES], sound[-2][:FADE_SAMPLES] * fading, atol=1e-6)


def test_the_delay_with_its_hop_is_ten_milliseconds() -> None:
    assert 1000 * (HOP_SAMPLES + DELAY_SAMPLES) / RATE_HZ == 10


def test_bands_share_out_every_bin_exactly_once() -> None:
    weights = band_weights()
    assert weights.shape == (BANDS, BINS) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(0), 1, atol=1e-6)
    assert (weights.max(1) > 0.5).all()
    centres = band_centres_hz()
    assert centres[0] == 0 and abs(centres[-1] - RATE_HZ / 2) < 1e-3
    assert (np.diff(centres) > 49.99).all()


def test_reset_forgets() -> None:
    used, fresh = Transform(), Transform()
    rng = np.random.default_rng(1)
    walk(used, rng.standard_normal(800).astype(np.float32))
    used.reset()
    sound = rng.standard_normal(800).astype(np.float32)
    np.testing.assert_array_equal(walk(used, sound), walk(fresh, sound))

"""The bound: its transforms give back what they were given, and knowing more or hearing longer never makes it worse."""

from pathlib import Path

import numpy as np
import pytest
from signals import SOUNDS

pytest.importorskip("pesq")

from edge import RATE_HZ
from models.measures import si_sdr_db
from quant import bound
from quant.bound import OverlapTransform


@pytest.mark.parametrize("transform", bound.transforms(), ids=lambda transform: transform.name)
def test_a_transform_alone_changes_nothing(transform: OverlapTransform) -> None:
    wave = np.random.default_rng(1).normal(0, 0.1, 7777).astype(np.float32)
    assert np.allclose(transform.wave(transform.spectra(wave), len(wave)), wave, atol=1e-5)


@pytest.mark.parametrize("transform", bound.transforms(), ids=lambda transform: transform.name)
def test_no_output_depends_on_what_comes_later_than_the_latency(transform: OverlapTransform) -> None:
    wave = np.random.default_rng(2).normal(0, 0.1, 8000).astype(np.float32)
    other = wave.copy()
    other[4000:] = 0
    late = round(transform.latency_ms * RATE_HZ / 1000)
    gains = np.random.default_rng(3).uniform(size=transform.spectra(wave).shape).astype(np.float32)
    one, two = (transform.wave(transform.spectra(sound) * gains, 8000) for sound in (wave, other))
    assert np.allclose(one[: 4000 - late], two[: 4000 - late], atol=1e-6)
    assert not np.allclose(one[4000 - late // 2 : 4000], two[4000 - late // 2 : 4000], atol=1e-4)


def test_masks_improve_and_a_gain_for_every_bin_more_than_one_for_a_band() -> None:
    sound = bound.read_pairs(SOUNDS)[0]
    assert sound.clean is not None
    before = si_sdr_db(sound.clean, sound.noisy)
    bands, bins, *_, slow = (
        si_sdr_db(sound.clean, transform.masked(sound.noisy, sound.clean)) for transform in bound.transforms()
    )
    assert before + 3 < bands < bins < slow


def test_a_run_prints_every_transform(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("clean", "noisy"):
        (tmp_path / part).mkdir()
        file = min((SOUNDS / part).iterdir())
        (tmp_path / part / file.name).write_bytes(file.read_bytes())
    assert bound.main(["--pairs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert all(transform.name in said for transform in bound.transforms()) and "32 ms" in said


def test_no_pairs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bound.main(["--pairs", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("bound: ") and str(tmp_path) in said and said.count("\n") == 1

"""The pure parts of the arm64 check; the check itself needs root, an emulator and minutes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from hw.prove import arm64 as proof
from hw.prove.rows import Row, verdict
from hw.virtual import arm64


def test_what_the_board_needs_is_split_into_wheels_and_what_is_compiled() -> None:
    wanted = arm64.needed()
    ready, compiled = arm64.split(wanted)
    assert sorted(one.name for one in ready + compiled) == sorted(one.name for one in wanted)
    assert {one.name for one in compiled} == set(arm64.BUILT_THERE)
    (numpy,) = [one for one in ready if one.name == "numpy"]
    assert numpy.version.startswith("2.4.") and not numpy.marker, "the one for Python 3.11, whatever runs here"
    assert all(one.hashes for one in wanted)
    assert not any(one.name == "onnxruntime" for one in wanted)  # tried apart, version by version


def test_every_part_of_the_product_is_there() -> None:
    assert all((arm64.REPOSITORY / part).exists() for part in arm64.PRODUCT)


def test_wheels_are_asked_for_the_other_processor_only() -> None:
    asked = arm64.foreign()
    assert "--only-binary=:all:" in asked and "--python-version=3.11" in asked
    platforms = [word for word in asked if word.startswith("--platform=")]
    assert platforms and all(word.endswith("_aarch64") for word in platforms)


def test_likeness_tells_equal_near_and_wrong(tmp_path: Path) -> None:
    x = np.random.default_rng(1).uniform(-0.5, 0.5, 16_000)
    cases = {"a": x, "near": x * (1 + 1e-3), "wrong": np.roll(x, 40), "short": x[:-1]}
    for name, samples in cases.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="DOUBLE")
    a = tmp_path / "a.wav"
    assert proof.likeness_db(a, a) == np.inf
    assert proof.likeness_db(a, tmp_path / "near.wav") == pytest.approx(60, abs=0.1)
    assert proof.likeness_db(a, tmp_path / "wrong.wav") < 0
    assert proof.likeness_db(a, tmp_path / "short.wav") == -np.inf


def test_a_finding_is_not_a_failure_and_a_failure_shows() -> None:
    assert str(Row("a", verdict(False), "why", 1.0)).startswith("FAIL a")
    assert str(Row("a", "not", "died", 1.0)).startswith("not  a")

"""Constants of the stages: each has a unit, a meaning and a source, and is used."""

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from edge.dsp.adaptive_path import PathThresholds
from edge.dsp.antinoise_thresholds import AntiNoiseThresholds
from edge.dsp.howl_thresholds import HowlThresholds
from edge.dsp.reference_thresholds import ReferenceThresholds
from edge.dsp.thresholds import SOURCES, hops, threshold

STAGES = (PathThresholds, HowlThresholds, ReferenceThresholds, AntiNoiseThresholds)
SUFFIXES = {"1": "", "ms": "_ms", "Hz": "_hz", "dB": "_db", "dB/s": "_db_s"}
SOURCE_TEXT = "".join(file.read_text() for file in (Path(__file__).parents[2] / "edge" / "dsp").glob("*.py"))


@pytest.mark.parametrize("stage", STAGES)
def test_every_threshold_has_unit_meaning_and_source(stage: type) -> None:
    for each in fields(stage):
        unit, meaning, source = (each.metadata[key] for key in ("unit", "meaning", "source"))
        assert each.name.endswith(SUFFIXES[unit]), each.name
        assert len(meaning) > 5 and source.startswith(SOURCES) and len(source) > 15, each.name
        assert not source.startswith("tuned: ") or re.search("`(pytest|python -m) .*`", source), each.name


@pytest.mark.parametrize("stage", STAGES)
def test_every_threshold_is_used_and_none_can_be_changed(stage: type) -> None:
    limits = stage()
    for each in fields(stage):
        assert re.search(rf"limits\.{each.name}\b", SOURCE_TEXT), each.name
        with pytest.raises(FrozenInstanceError):
            setattr(limits, each.name, 0)


def test_a_threshold_without_a_source_is_refused() -> None:
    with pytest.raises(AssertionError):
        threshold(1.0, "ms", "anything", "by experience")


def test_times_are_rounded_to_whole_hops() -> None:
    assert [hops(time_ms) for time_ms in (0, 5, 12.4, 1000)] == [0, 1, 2, 200]

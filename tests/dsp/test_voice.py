"""The voice decision: where it switches, and for exactly how many hops it holds."""

import pytest

from edge.config import VoiceConfig
from edge.dsp.voice import VoiceDecision


def run(voice: VoiceDecision, *probabilities: float) -> list[bool]:
    return [voice.decide(p) for p in probabilities]


def test_silent_until_the_upper_threshold() -> None:
    assert run(VoiceDecision(VoiceConfig(on=0.6, off=0.4)), 0.0, 0.5, 0.59, 0.6) == [False, False, False, True]


@pytest.mark.parametrize(("hold_ms", "hops"), [(0, 0), (5, 1), (100, 20), (750, 150)])
def test_holds_for_exactly_that_many_hops(hold_ms: float, hops: int) -> None:
    voice = VoiceDecision(VoiceConfig(hold_ms=hold_ms))
    voice.decide(1.0)
    assert run(voice, *[0.0] * (hops + 3)) == [True] * hops + [False] * 3


def test_default_hold_is_750_ms() -> None:
    voice = VoiceDecision(VoiceConfig())
    voice.decide(1.0)
    assert sum(run(voice, *[0.0] * 400)) == 150


def test_between_the_thresholds_speech_goes_on_and_renews_the_hold() -> None:
    voice = VoiceDecision(VoiceConfig(on=0.6, off=0.4, hold_ms=10))
    assert run(voice, 0.9, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0) == [True] * 6 + [False]
    assert run(voice, 0.5, 0.59) == [False, False], "a new start needs the upper threshold again"


def test_during_the_hold_the_lower_threshold_is_enough() -> None:
    voice = VoiceDecision(VoiceConfig(on=0.6, off=0.4, hold_ms=10))
    assert run(voice, 0.7, 0.1, 0.4, 0.1, 0.1, 0.1) == [True] * 5 + [False]


def test_nan_is_no_speech() -> None:
    nan = float("nan")
    voice = VoiceDecision(VoiceConfig(hold_ms=10))
    assert run(voice, nan, nan) == [False, False]
    assert run(voice, 1.0, nan, nan, nan, 1.0) == [True, True, True, False, True]


def test_property_says_the_last_decision_and_reset_is_fresh() -> None:
    voice = VoiceDecision(VoiceConfig())
    assert not voice.speaking
    assert voice.decide(1.0) is voice.speaking is True
    voice.reset()
    assert not voice.speaking
    assert run(voice, 0.5, 0.0) == [False, False], "no hold is left after a reset"


@pytest.mark.parametrize("wrong", [{"on": 0.3, "off": 0.5}, {"on": 1.5}, {"off": -0.1}, {"hold_ms": -1}])
def test_nonsense_is_our_own_mistake(wrong: dict[str, float]) -> None:
    with pytest.raises(AssertionError):
        VoiceDecision(VoiceConfig(**wrong))

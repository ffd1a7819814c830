"""The sleeping network: it costs less, misses nothing, and is itself again soon after it woke."""

import tracemalloc
from functools import cache

import numpy as np
import pytest

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.chain import Chain
from edge.config import Config
from edge.dsp.spectrum import Features, Floats, Spectra, Transform
from edge.suppress.mask import MaskEngine, Unity
from edge.suppress.shipped import Model
from edge.suppress.sleep import AWAKE_HOPS, CHECK_HOPS, STEADY_RISE, Network, Onset, Sleeper, noise_rise
from hw.prove import sleep_cost
from models.measures import level_change_db

SLEEP_S = 2.0
SLEEP_HOPS = round(1000 * SLEEP_S / HOP_MS)


class Counting(Network):
    """A network that gives the probability it was set to, and counts."""

    name = "counting"

    def __init__(self) -> None:
        self.runs = 0
        self.speech = 0.0

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        raise AssertionError("the sleeper has the features")

    def step(self, features: Floats, gains: Floats) -> float:
        self.runs += 1
        gains.fill(0.25)
        return self.speech

    def reset(self) -> None:
        self.runs = 0


def steady(seconds: float, level: float = 0.003, seed: int = 1) -> Floats:
    """White noise, (hops, 80)."""
    hops = round(1000 * seconds / HOP_MS)
    return np.random.default_rng(seed).normal(0, level, (hops, HOP_SAMPLES)).astype(np.float32)


def engine_of(network: Network, sleep_s: float = SLEEP_S) -> MaskEngine:
    return MaskEngine([Sleeper(network, sleep_s), Unity()], 30)


def walk(engine: MaskEngine, hops: Floats) -> tuple[Floats, list[bool]]:
    """What came out, and in which hops the network slept."""
    out, skipped = hops.copy(), []
    for hop in out:
        engine.process(hop)
        skipped.append(engine.skipped)
    return out, skipped


@cache
def sentence() -> Floats:
    """1.5 s of somebody speaking at -20 dBFS or so, from its first hop on."""
    found = sleep_cost.sentences(1.5)[1]
    return found.reshape(-1, HOP_SAMPLES)


def shipped() -> Network:
    return Model("quietbox").weights("network")


# --- when it sleeps ------------------------------------------------------------------------------------------------


def test_it_sleeps_after_the_time_set_and_looks_now_and_then() -> None:
    network = Counting()
    engine = engine_of(network)
    _, skipped = walk(engine, steady(10))
    assert not any(skipped[:SLEEP_HOPS])
    late = skipped[SLEEP_HOPS + AWAKE_HOPS :]
    assert 0.4 < np.mean(late) <= 1 - 1 / CHECK_HOPS
    assert network.runs == skipped.count(False)
    assert max(len(run) for run in "".join(".#"[asleep] for asleep in skipped).split(".")) < CHECK_HOPS


def test_somebody_who_speaks_keeps_it_awake_whatever_else_is_heard() -> None:
    network = Counting()
    network.speech = 0.7
    engine = engine_of(network)
    assert not any(walk(engine, steady(5))[1])
    network.speech = 0.0
    assert any(walk(engine, steady(5))[1])
    network.speech = 0.7  # it finds out at the next look
    _, skipped = walk(engine, steady(1))
    assert sum(skipped) < CHECK_HOPS and not any(skipped[CHECK_HOPS:])


def test_silence_is_slept_through_and_the_first_sound_is_not() -> None:
    engine = engine_of(Counting())
    _, skipped = walk(engine, np.zeros((800, HOP_SAMPLES), np.float32))
    assert np.mean(skipped[SLEEP_HOPS + 1 :]) > 0.8
    assert not any(walk(engine, steady(0.05))[1])


def test_in_a_restless_place_it_hardly_sleeps() -> None:
    sound = steady(10)
    for at in range(SLEEP_HOPS, len(sound), 20):
        sound[at] += 0.1 * sound[at] / np.abs(sound[at]).max()
    _, skipped = walk(engine_of(Counting()), sound)
    assert np.mean(skipped[SLEEP_HOPS:]) < 0.2


@pytest.mark.parametrize("level_db", [-65, -40, -10])
@pytest.mark.parametrize("tilt_db", [-20, 0, 20])
def test_steady_noise_of_any_level_and_colour_begins_nothing(level_db: float, tilt_db: float) -> None:
    white = steady(5, 1.0).reshape(-1)
    sound = np.fft.irfft(np.fft.rfft(white) * 10 ** (np.linspace(0, tilt_db, len(white) // 2 + 1) / 20))
    sound *= 10 ** (level_db / 20) / np.sqrt(np.mean(sound**2))
    onset, features, transform = Onset(), Features(), Transform()
    hops = sound.astype(np.float32).reshape(-1, HOP_SAMPLES)
    begins = [onset.detect(features.of(transform.analyse(hop))) for hop in hops]
    assert np.mean(begins[60:]) < 0.06


def test_the_stored_rise_of_steady_noise_is_what_is_computed() -> None:
    np.testing.assert_allclose(STEADY_RISE, noise_rise(), rtol=1e-5)


# --- when it wakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_level", [0.0, 1e-4, 1e-3, 1e-2])
def test_a_word_after_a_pause_is_met_awake_and_loses_nothing(noise_level: float) -> None:
    quiet = np.zeros((800, HOP_SAMPLES), np.float32)
    voice = np.concatenate([quiet, sentence()])
    sound = voice + steady(len(voice) * HOP_MS / 1000, noise_level)
    asleep, awake = sleep_cost.Tape(Sleeper(shipped(), SLEEP_S)), sleep_cost.Tape(shipped())
    for tape in (asleep, awake):
        sleep_cost.walked(tape, sound.reshape(-1))
    clean = voice.reshape(-1)
    kept, wanted = (sleep_cost.walked(sleep_cost.Played(tape.gains), clean) for tape in (asleep, awake))
    begins = sleep_cost.onsets(clean)[-1]
    first = slice(begins * HOP_SAMPLES, (begins + 20) * HOP_SAMPLES)
    assert asleep.skipped_hops > 100
    assert level_change_db(wanted[first], kept[first]) > -0.5
    after = slice(begins + 20, None)
    apart = np.abs(np.array(asleep.gains[after]) - np.array(awake.gains[after])).mean(axis=1)
    assert apart[20:].mean() < 0.02 and apart[60:].mean() < 0.01, "soon it is as if it had never slept"


def test_awake_it_is_the_network_itself() -> None:
    sound = np.concatenate([sentence(), sentence()])[: SLEEP_HOPS - 1]
    slept, awake = walk(engine_of(shipped()), sound)[0], walk(MaskEngine([shipped()], 30), sound)[0]
    np.testing.assert_array_equal(slept, awake)


def test_a_noise_that_ends_wakes_it() -> None:
    sound = steady(10)
    sound[1200:] *= 0.4
    _, skipped = walk(engine_of(Counting()), sound)
    assert any(skipped[1100:1200]) and not any(skipped[1205:1500])


def test_reset_and_a_new_try_wake_it() -> None:
    engine = engine_of(Counting())

    def try_again() -> None:
        engine.step_down()
        engine.step_up()

    for wake in (engine.reset, try_again):
        assert any(walk(engine, steady(6))[1])
        wake()
        assert not any(walk(engine, steady(1.9))[1])


def test_no_number_wakes_it_and_is_forgotten() -> None:
    engine = engine_of(shipped())
    walk(engine, steady(6))
    with np.errstate(invalid="ignore"):
        walk(engine, np.full((1, HOP_SAMPLES), np.nan, np.float32))
    assert not engine.skipped and engine.invalid
    engine.reset()
    assert any(walk(engine, steady(6))[1])


def test_below_the_network_nothing_sleeps() -> None:
    engine = engine_of(Counting())
    walk(engine, steady(6))
    engine.step_down()
    assert engine.name == "off" and not any(walk(engine, steady(6))[1])


def test_a_slept_hop_leaves_no_memory_behind() -> None:
    engine = engine_of(shipped())
    walk(engine, steady(6))
    hop = steady(0.005)[0]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(400):
            engine.process(hop)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2048


# --- in the chain, and the day -------------------------------------------------------------------------------------


def test_the_chain_says_when_it_sleeps_and_with_0_it_never_does() -> None:
    for sleep_s in (Config().suppress.sleep_s, 0.0):
        chain = sleep_cost.live("numpy", sleep_s)
        slept = 0
        for hop in steady(6):
            chain.process(hop)
            slept += chain.skipped
        assert (slept > 100) == bool(sleep_s)
        chain.silent = True
        chain.process(np.zeros(HOP_SAMPLES, np.float32))
        assert not chain.skipped
    assert not Chain(Config(), MaskEngine([Unity()], 30)).skipped


def test_an_office_day_has_its_tenth_of_speech() -> None:
    day = sleep_cost.office(4.0)
    assert len(day) == 4 * 60 * RATE_HZ and np.abs(day).max() < 1
    voice = sleep_cost.talk(4.0).reshape(-1, HOP_SAMPLES)
    assert np.mean(np.abs(voice).max(axis=1) > 0) == pytest.approx(0.1, abs=0.03)


def test_what_goes_on_wakes_it_for_good_and_a_click_does_not() -> None:
    for lasts_hops, awake_s in ((1, 0.5), (60, 1.9)):
        sound = steady(12)
        sound[1500 : 1500 + lasts_hops] *= 100
        _, skipped = walk(engine_of(Counting()), sound)
        after = skipped[1500 + lasts_hops + 4 :][: round(1000 * awake_s / HOP_MS)]
        assert any(after) == (lasts_hops == 1)


def test_a_day_is_measured_on_both_chains() -> None:
    day = sleep_cost.measure_day(steady(5).reshape(-1), "rnn", SLEEP_S)
    assert 0.2 < day.asleep_share < 0.9 and day.mean_us < day.awake_mean_us and 0 < day.saved < 1


def test_too_short_a_day_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert sleep_cost.main(["--minutes", "0.1"]) == 2
    assert "0.5 or more" in capsys.readouterr().err

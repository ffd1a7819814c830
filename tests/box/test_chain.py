"""The walk of a hop: pure delay when nothing is to be done, and no failure of a stage reaches the ear."""

import ast
import inspect
import textwrap
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from signals import hops_of_noise

from edge import HOP_SAMPLES, RATE_HZ, dsp
from edge.chain import Chain
from edge.config import Config, FeedforwardConfig, GateConfig, LimiterConfig, SuppressConfig
from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import BANDS, Floats, Spectra
from edge.suppress import open_engine
from edge.suppress.mask import MaskEngine, Unity

UNTOUCHED = Config(
    feedforward=FeedforwardConfig(highpass_hz=0, mains="off"),
    suppress=SuppressConfig(engine="off"),
    gate=GateConfig(on=False),
    limiter=LimiterConfig(threshold_dbfs=-0.2, peak_dbfs=-0.1),
)


def walk(chain: Chain, sound: Floats) -> Floats:
    hops = sound.reshape(-1, HOP_SAMPLES).copy()
    for hop in hops:
        chain.process(hop)
    return hops.reshape(-1)


def tone(hops: int, level: float = 0.3) -> Floats:
    return (level * np.sin(2 * np.pi * 440 * np.arange(hops * HOP_SAMPLES) / RATE_HZ)).astype(np.float32)


class Half(Estimator):
    """An estimator whose doings are known: every band at one gain, then whatever a test makes it do."""

    name = "half"

    def __init__(self, gain: float = 0.5) -> None:
        self.gain = gain
        self.fails = False

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        if self.fails:
            raise RuntimeError("on purpose")
        gains.fill(self.gain)
        return 1.0

    def reset(self) -> None:
        pass


def with_half(gain: float = 0.5, limit_db: float = 60) -> tuple[Chain, Half]:
    half = Half(gain)
    return Chain(UNTOUCHED, MaskEngine([half, Unity()], limit_db)), half


def test_with_everything_off_it_is_a_pure_delay() -> None:
    chain = Chain(UNTOUCHED)
    sound = hops_of_noise(300)
    got = walk(chain, sound)
    delay = chain.delay_samples
    np.testing.assert_allclose(got[delay:], sound[:-delay], atol=2e-6)
    assert chain.latency_ms == pytest.approx(10 + UNTOUCHED.limiter.delay_ms)


def test_gains_are_applied_and_limited() -> None:
    sound = hops_of_noise(100)
    for gain, limit_db, want in ((0.5, 60, 0.5), (0.0, 20, 0.1), (1.0, 0, 1.0), (0.0, 0, 1.0)):
        chain, _ = with_half(gain, limit_db)
        got = walk(chain, sound)
        np.testing.assert_allclose(got[chain.delay_samples :], want * sound[: -chain.delay_samples], atol=3e-6)


def test_bypass_fades_without_a_click_and_keeps_the_delay() -> None:
    chain, _ = with_half(0.1)
    sound = tone(120)
    hops = sound.reshape(-1, HOP_SAMPLES).copy()
    for number, hop in enumerate(hops):
        chain.bypass = 40 <= number < 80
        chain.process(hop)
    got = hops.reshape(-1)
    delay = chain.delay_samples
    late = np.concatenate([np.zeros(delay, np.float32), sound[:-delay]])
    steady = slice(50 * HOP_SAMPLES, 80 * HOP_SAMPLES)
    np.testing.assert_allclose(got[steady], late[steady], atol=2e-6)
    np.testing.assert_allclose(got[95 * HOP_SAMPLES :], 0.1 * late[95 * HOP_SAMPLES :], atol=2e-6)
    assert np.abs(np.diff(got[10 * HOP_SAMPLES :])).max() < 1.05 * np.abs(np.diff(sound)).max()


def test_bypass_takes_every_stage_but_the_limiter_out() -> None:
    chain = Chain(replace(Config(), limiter=UNTOUCHED.limiter))
    chain.bypass = True
    sound = hops_of_noise(200, 0.0005) + np.float32(0.01)  # DC and a level at which the gate would close
    got = walk(chain, sound)
    settled = slice(20 * HOP_SAMPLES, None)
    late = np.concatenate([np.zeros(chain.delay_samples, np.float32), sound[: -chain.delay_samples]])
    np.testing.assert_allclose(got[settled], late[settled], atol=2e-6)


def test_mute_is_exact_silence_after_its_fade() -> None:
    chain = Chain(Config())
    walk(chain, hops_of_noise(50))
    chain.mute.target = 0.0
    got = walk(chain, hops_of_noise(60))
    assert np.abs(got[20 * HOP_SAMPLES :]).max() == 0


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e38])
def test_a_bad_sample_is_gone_at_once(poison: float) -> None:
    chain = Chain(Config())
    clean = walk(Chain(Config()), hops_of_noise(400))
    sound = hops_of_noise(400)
    sound[100 * HOP_SAMPLES + 7] = poison
    got = walk(chain, sound)
    assert np.isfinite(got).all() and np.abs(got).max() <= 10 ** (Config().limiter.peak_dbfs / 20) + 1e-6
    assert chain.invalid == 1
    assert np.abs(got[300 * HOP_SAMPLES :] - clean[300 * HOP_SAMPLES :]).max() < 0.02


def test_a_failing_engine_is_followed_by_the_next_in_the_same_hop() -> None:
    chain, half = with_half(0.5)
    before = walk(chain, tone(20))
    half.fails = True
    after = walk(chain, tone(20))
    assert chain.engine.level == 1 and chain.degraded and chain.working == "high-pass only"
    assert isinstance(chain.engine.failure, RuntimeError)
    assert (
        np.abs(np.diff(np.concatenate([before, after]))[10 * HOP_SAMPLES :]).max()
        < 0.3 * 2 * np.pi * 440 / RATE_HZ * 1.6
    )
    half.fails = False
    chain.step_up()
    assert not chain.degraded and chain.working == "half"


def test_gains_that_are_no_numbers_pass_the_sound_and_are_counted() -> None:
    chain, half = with_half(np.nan)
    got = walk(chain, tone(20))
    assert chain.engine.invalid == 20
    np.testing.assert_allclose(got[chain.delay_samples :], tone(20)[: -chain.delay_samples], atol=2e-6)
    half.gain = 0.5
    walk(chain, tone(5))
    assert chain.engine.invalid == 20


def test_the_ladder_goes_down_to_silence_and_back() -> None:
    chain = Chain(replace(Config(), suppress=SuppressConfig(engine="dsp")))
    names = [chain.working]
    for _ in range(4):
        chain.step_down()
        names.append(chain.working)
    assert names == ["dsp", "high-pass only", "bypass", "silence", "silence"]
    assert not walk(chain, hops_of_noise(5)).any()
    chain.step_up()
    assert chain.working == "dsp" and not chain.degraded


def test_engine_off_is_no_degradation() -> None:
    chain = Chain(UNTOUCHED)
    assert chain.working == "high-pass only" and not chain.degraded


def test_reset_forgets_everything() -> None:
    used = Chain(Config())
    walk(used, hops_of_noise(100, 0.3, 1))
    used.reset()
    np.testing.assert_array_equal(walk(used, hops_of_noise(300)), walk(Chain(Config()), hops_of_noise(300)))


def test_the_same_sound_gives_the_same_output() -> None:
    np.testing.assert_array_equal(walk(Chain(Config()), hops_of_noise(300)), walk(Chain(Config()), hops_of_noise(300)))


def test_no_hop_leaves_memory_behind() -> None:
    chain = Chain(Config())
    hops = hops_of_noise(2400).reshape(-1, HOP_SAMPLES)
    for hop in hops[:400]:
        chain.process(hop)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for hop in hops[400:]:
            chain.process(hop)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4096


def test_engines_open_by_name_with_their_fallbacks_below() -> None:
    assert open_engine("off", 30).lowest
    assert open_engine("dsp", 30).name == "dsp" and not open_engine("dsp", 30).lowest
    assert open_engine("auto", 30).level == 0
    assert open_engine("off", 30).process(np.zeros(HOP_SAMPLES, np.float32)) == 0.0
    assert BANDS == 64


def test_the_order_of_a_hop_is_the_one_that_is_written_down() -> None:
    (body,) = (node for node in ast.parse(textwrap.dedent(inspect.getsource(Chain.process))).body)
    calls = [
        (node.lineno, f"{node.func.value.attr}.{node.func.attr}")
        for node in ast.walk(body)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Attribute)
        and not isinstance(node.func.value.value, ast.Attribute)
    ]
    silent = [(call, line) for line, call in sorted(calls) if call in ("howl.played", "line.silence")][:2]
    assert [call for call, _ in silent] == ["howl.played", "line.silence"]  # of a hop that is silenced
    after = max(line for _, line in silent)
    assert tuple(call for line, call in sorted(calls) if line > after) == dsp.ORDER

"""Other rates and blocks in our hops: nothing is lost, the delay is what it says, and no failure is heard as a jump."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import HOP_SAMPLES, RATE_HZ
from edge.chain import Chain
from edge.config import Config, EqConfig, FeedforwardConfig, GateConfig
from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import Floats, Spectra
from edge.suppress.blocks import Blocks, held_samples
from edge.suppress.foreign.adapter import INVALID_LIMIT, Adapter
from edge.suppress.foreign.core import Core
from edge.suppress.mask import MaskEngine, Unity
from edge.suppress.wiener import Wiener

SHAPES = [(16_000, 128), (16_000, 160), (16_000, 256), (48_000, 480), (44_100, 512)]
PASS_BAND_HZ = 6500
RIPPLE_DB = -26
"""Two converters ripple by up to 0.2 dB each, which is 5 % of the sound; a shift by one sample makes -6 dB of noise."""


class Tape(Core):
    """A core that gives back what it heard ``delay_samples`` ago, in the way that its test wants."""

    name = "tape"

    def __init__(self, rate_hz: int, block_samples: int, delay_samples: int = 0) -> None:
        self.rate_hz, self.block_samples, self.delay_samples = rate_hz, block_samples, delay_samples
        self.speech: float | None = None
        self.spoil: Callable[[Floats], object] = lambda block: None
        self.blocks = self.resets = 0
        self._tape = np.zeros(delay_samples + block_samples, np.float32)

    def process(self, block: Floats) -> float | None:
        assert block.dtype == np.float32 and block.shape == (self.block_samples,) and block.flags.c_contiguous
        size = self.block_samples
        self.blocks += 1
        self._tape[:-size] = self._tape[size:]
        self._tape[-size:] = block
        block[:] = self._tape[:size]
        self.spoil(block)
        return self.speech

    def reset(self) -> None:
        self.resets += 1
        self._tape.fill(0)


class Broken(Exception):
    pass


def breaks(block: Floats) -> None:
    raise Broken("the engine broke")


def noise(samples: int, level: float = 0.1) -> Floats:
    """Below 6.5 kHz, where converting changes nothing."""
    wide = np.fft.rfft(np.random.default_rng(5).standard_normal(samples))
    wide[np.fft.rfftfreq(samples, 1 / RATE_HZ) > PASS_BAND_HZ] = 0
    return (level * np.fft.irfft(wide, samples)).astype(np.float32)


def walk(engine: Adapter | Chain, sound: Floats, each: Callable[[int], object] = lambda number: None) -> Floats:
    out = sound[: len(sound) // HOP_SAMPLES * HOP_SAMPLES].copy()
    for number, hop in enumerate(out.reshape(-1, HOP_SAMPLES)):
        each(number)
        engine.process(hop)
    return out


def adapted(core: Tape, limit_db: float = 100, below: MaskEngine | None = None) -> Adapter:
    return Adapter(core, below or MaskEngine([Unity()], limit_db), limit_db)


def error_db(wanted: Floats, found: Floats) -> float:
    return float(10 * np.log10(np.square(found - wanted).sum() / np.square(wanted).sum() + 1e-20))


def late(sound: Floats, samples: int) -> Floats:
    return np.concatenate([np.zeros(samples, np.float32), sound])[: len(sound)]


def tolerance_db(core: Tape) -> float:
    """What single precision leaves, or converters."""
    return -90 if core.rate_hz == RATE_HZ else RIPPLE_DB


# --- blocks -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    rate_hz=st.sampled_from([8000, 11025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000]),
    outer_hz=st.sampled_from([16_000, 44_100]),
    block=st.integers(1, 700),
    grain=st.integers(1, 200),
)
def test_held_samples_is_the_most_that_ever_waits(rate_hz: int, outer_hz: int, block: int, grain: int) -> None:
    held = held_samples(rate_hz, block, outer_hz, grain)
    period = outer_hz * block // math.gcd(outer_hz * block, grain * rate_hz)
    calls = np.arange(min(period, 400_000) + 1, dtype=np.int64)
    came = calls * grain * rate_hz  # in 1 / outer_hz of an inner sample
    converted = -(-came // outer_hz)
    waiting = (came - converted // block * block * outer_hz) / outer_hz
    assert waiting.max() <= held + 1e-9
    if period <= 400_000:
        assert waiting.max() == pytest.approx(held)


@settings(max_examples=12, deadline=None)
@given(
    shape=st.sampled_from([*SHAPES, (24_000, 77), (16_000, 1), (8000, 80)]),
    delay=st.integers(0, 700),
    outer_hz=st.sampled_from([16_000, 44_100, 48_000]),
    sizes=st.lists(st.integers(1, 1536), max_size=8),
)
def test_any_rate_block_and_call_is_a_pure_delay(
    shape: tuple[int, int], delay: int, outer_hz: int, sizes: list[int]
) -> None:
    rate_hz, block = shape
    core = Tape(rate_hz, block, delay)
    blocks = Blocks(core.process, rate_hz, block, delay, outer_hz=outer_hz, grain_samples=1, most_samples=1536)
    length = 2 * blocks.delay_samples + 6000
    t = np.arange(length) / outer_hz
    sound = (0.5 * np.sin(2 * np.pi * 310 * t) * np.sin(2 * np.pi * 3 * t)).astype(np.float32)
    out, at = sound.copy(), 0
    while at < length:
        for size in [*sizes, 1536]:
            blocks.process(out[at : at + size])
            at += size
    assert error_db(late(sound, blocks.delay_samples), out) < (-100 if rate_hz == outer_hz else RIPPLE_DB)


@pytest.mark.slow
@pytest.mark.parametrize(("minutes", "shape"), [(10, (16_000, 128)), (1, (48_000, 480)), (10, (44_100, 512))])
def test_ten_minutes_of_random_calls_lose_and_add_nothing(minutes: int, shape: tuple[int, int]) -> None:
    """A tone tells where every sample is: what comes out after ten minutes is what went in ``delay_samples`` before."""
    rate_hz, block = shape
    seen = 0

    def count(samples: Floats) -> None:
        nonlocal seen
        seen += len(samples)

    blocks = Blocks(count, rate_hz, block, grain_samples=1, most_samples=16_000)
    draw = np.random.default_rng(3)
    tone_hz = 100  # 160 samples are a whole period: a sample too many or few turns it by 2.25 degrees
    t = np.arange(160 * 200)
    table = (0.5 * np.sin(2 * np.pi * tone_hz * t / RATE_HZ)).astype(np.float32)
    length, at = 60 * minutes * RATE_HZ, 0
    last = np.zeros(0, np.float32)
    while at < length:
        size = min(int(draw.choice([1, 7, 80, 441, 1536, 9000, 16_000])), length - at)
        last = table[at % 160 :][:size].copy()
        blocks.process(last)
        at += size
    size = 1600
    final = table[at % 160 :][:size].copy()
    blocks.process(final)
    wanted = table[(at - blocks.delay_samples) % 160 :][:size]
    assert error_db(wanted, final) < (-100 if rate_hz == RATE_HZ else RIPPLE_DB)
    held = (at + size) * rate_hz / RATE_HZ - seen
    assert held + 1 >= 0 and held < block


def test_a_reset_is_a_fresh_start_exactly() -> None:
    sound = noise(8000)
    for rate_hz, block in SHAPES:
        core = Tape(rate_hz, block, 100)
        engine = adapted(core)
        first = walk(engine, sound)
        walk(engine, noise(4000, 0.5))
        engine.reset()
        np.testing.assert_array_equal(walk(engine, sound), first)


# --- the engine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 37, 480])
@pytest.mark.parametrize("shape", [*SHAPES, (16_000, 80), (16_000, 16), (16_000, 7)])
def test_an_engine_that_does_nothing_is_its_delay(shape: tuple[int, int], delay: int) -> None:
    core = Tape(*shape, delay)
    engine = adapted(core)
    sound = noise(2 * RATE_HZ)
    assert error_db(late(sound, engine.delay_samples), walk(engine, sound)) < tolerance_db(core)
    assert engine.delay_samples >= HOP_SAMPLES, "our own engines need so much"


def test_the_delays_of_the_known_shapes() -> None:
    """What waits for the rest of its block, the core's own delay, and 2.96 ms of two converters."""
    found = [adapted(Tape(rate_hz, block)).delay_samples for rate_hz, block in SHAPES]
    assert found == [112, 80, 240, 80 + 47, 185 + 47]


def test_work_comes_in_bursts_of_a_block() -> None:
    """A hop that works on a block of four hops' sound may take as long as they do; one of our own may not."""
    engines = [adapted(Tape(rate_hz, block)) for rate_hz, block in SHAPES]
    assert [engine.burst_hops for engine in engines] == [2, 2, 4, 2, 3]
    for engine, (rate_hz, block) in zip(engines, SHAPES, strict=True):
        core = engine._core
        assert isinstance(core, Tape)
        busy = 0
        for _ in range(1600):
            before = core.blocks
            engine.process(np.zeros(HOP_SAMPLES, np.float32))
            assert core.blocks - before <= 1
            busy += core.blocks - before
        assert abs(busy - 1600 * HOP_SAMPLES * rate_hz / RATE_HZ / block) <= 1
        engine.step_down()
        assert engine.burst_hops == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_the_limit_keeps_so_much_of_the_dry_sound_in_its_place(shape: tuple[int, int]) -> None:
    core = Tape(*shape, 100)
    core.spoil = lambda block: block.fill(0)
    sound = noise(RATE_HZ)
    for limit_db in (0, 12, 30):
        engine = adapted(core, limit_db)
        wanted = 10 ** (-limit_db / 20) * late(sound, engine.delay_samples)
        np.testing.assert_allclose(walk(engine, sound), wanted, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_bypass_is_the_dry_sound_at_the_same_delay_and_comes_without_a_jump(shape: tuple[int, int]) -> None:
    core = Tape(*shape, 200)
    core.spoil = lambda block: np.negative(block, out=block)
    engine = adapted(core)
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    sound = (0.5 * np.sin(2 * np.pi * 200 * t)).astype(np.float32)

    def each(number: int) -> None:
        engine.wet = float(np.clip((150 - number) / 4, 0, 1))

    out = walk(engine, sound, each)
    delayed = late(sound, engine.delay_samples)
    np.testing.assert_array_equal(out[160 * HOP_SAMPLES :], delayed[160 * HOP_SAMPLES :])
    middle = slice(50 * HOP_SAMPLES, 140 * HOP_SAMPLES)
    assert error_db(-delayed[middle], out[middle]) < tolerance_db(core)
    assert np.abs(np.diff(out[middle.start :])).max() < 1.5 * np.abs(np.diff(sound)).max()


@pytest.mark.parametrize("delay", [0, 384])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_failure_and_a_return_are_not_heard(shape: tuple[int, int], delay: int) -> None:
    """A core that does nothing, over engines that do nothing: whoever works, it is one pure delay."""
    core = Tape(*shape, delay)
    engine = adapted(core)
    names, levels = set(), set()

    def each(number: int) -> None:
        core.spoil = breaks if number == 60 else lambda block: None
        if number in (100, 170):
            engine.step_up()
        if number == 150:
            assert engine.step_down()
        if number >= 60:
            names.add(engine.name)
            levels.add(engine.level)

    def keep_breaking(number: int) -> None:
        each(number)
        if 60 <= number < 90:
            core.spoil = breaks

    sound = noise(2 * RATE_HZ)
    out = walk(engine, sound, keep_breaking)
    assert isinstance(engine.failure, Broken)
    assert names == {"tape", "off"} and levels == {0, 1}
    assert engine.name == "tape" and engine.level == 0
    assert error_db(late(sound, engine.delay_samples), out) < tolerance_db(core)


def test_a_core_that_fails_while_it_returns_is_not_heard_either() -> None:
    core = Tape(48_000, 480, 480)
    engine = adapted(core)

    def each(number: int) -> None:
        core.spoil = breaks if number in (60, 61, 62) or 105 <= number < 112 else lambda block: None
        if number == 100:
            engine.step_up()

    sound = noise(RATE_HZ)
    out = walk(engine, sound, each)
    assert engine.name == "off" and engine.lowest and not engine.step_down()
    assert error_db(late(sound, engine.delay_samples), out) < tolerance_db(core)


def test_the_ladder_is_walked_to_its_end_and_from_the_top_again() -> None:
    class Half(Estimator):
        name = "half"

        def estimate(self, spectrum: Spectra, gains: Floats) -> float:
            gains.fill(0.5)
            return 0.75

        def reset(self) -> None:
            pass

    core = Tape(16_000, 128, 384)
    engine = adapted(core, below=MaskEngine([Half(), Unity()], 100))
    sound = noise(RATE_HZ)
    delayed = late(sound, engine.delay_samples)
    assert not engine.lowest and engine.step_down() and engine.name == "half" and engine.level == 1
    np.testing.assert_allclose(walk(engine, sound)[400:], 0.5 * delayed[400:], atol=1e-5)
    assert engine.process(sound[:HOP_SAMPLES].copy()) == 0.75
    assert engine.step_down() and engine.name == "off" and engine.level == 2 and engine.lowest
    assert not engine.step_down()
    engine.reset()
    np.testing.assert_allclose(walk(engine, sound), delayed, atol=1e-5)
    engine.step_up()
    assert engine.name == "tape" and engine.level == 0
    engine.reset()
    np.testing.assert_allclose(walk(engine, sound), delayed, atol=2e-6)
    assert engine.step_down() and engine.name == "half", "a return begins the fallback chain again"


def test_our_engine_takes_over_warm() -> None:
    """The hops before are already in its window: its first hop is as good as its hundredth."""
    core = Tape(48_000, 480, 960)
    engine = adapted(core)
    sound = noise(RATE_HZ)
    out = walk(engine, sound, lambda number: number == 100 and engine.step_down())
    delayed = late(sound, engine.delay_samples)
    for number in range(101, 106):
        part = slice(number * HOP_SAMPLES, (number + 1) * HOP_SAMPLES)
        assert error_db(delayed[part], out[part]) < -80


# --- what is no sound ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_block_that_is_no_sound_passes_dry_and_the_core_starts_afresh(shape: tuple[int, int], rubbish: float) -> None:
    core = Tape(*shape, 300)
    engine = adapted(core)
    engine.reset()
    before = core.resets
    broken = 1 + 50 * HOP_SAMPLES * shape[0] // RATE_HZ // shape[1]

    def spoil(block: Floats) -> None:
        if core.blocks == broken:
            block[3] = rubbish

    core.spoil = spoil
    sound = noise(RATE_HZ)
    out = walk(engine, sound)
    assert engine.invalid == 1 and core.resets == before + 1
    assert engine.failure is None and engine.level == 0
    assert error_db(late(sound, engine.delay_samples), out) < tolerance_db(core)


def test_a_core_that_gives_nothing_but_rubbish_has_failed() -> None:
    core = Tape(16_000, 160)
    core.spoil = lambda block: block.fill(np.nan)
    engine = adapted(core)
    sound = noise(RATE_HZ)
    out = walk(engine, sound)
    assert engine.invalid == INVALID_LIMIT and engine.name == "off" and "NaN or infinite" in str(engine.failure)
    assert error_db(late(sound, engine.delay_samples), out) < -80


def test_a_core_that_cannot_even_be_reset_has_failed() -> None:
    class Stuck(Tape):
        def reset(self) -> None:
            raise Broken("stuck")

    engine = adapted(Stuck(16_000, 160))
    engine.reset()
    assert engine.name == "off" and isinstance(engine.failure, Broken)
    sound = noise(RATE_HZ // 2)
    out = walk(engine, sound)
    assert error_db(late(sound, engine.delay_samples), out) < -80
    engine.failure = None
    engine.step_up()
    assert engine.name == "off" and isinstance(engine.failure, Broken)


def test_a_failure_below_is_told_too() -> None:
    class Fails(Unity):
        name = "fails"

        def estimate(self, spectrum: Spectra, gains: Floats) -> float:
            raise Broken("below")

    engine = adapted(Tape(16_000, 128), below=MaskEngine([Fails(), Unity()], 100))
    engine.step_down()
    sound = noise(RATE_HZ // 2)
    out = walk(engine, sound)
    assert isinstance(engine.failure, Broken) and engine.name == "off"
    assert error_db(late(sound, engine.delay_samples)[800:], out[800:]) < -80


# --- speech -------------------------------------------------------------------------------------------------------


def test_a_cores_own_probability_is_kept_until_its_next_block() -> None:
    core = Tape(48_000, 480)
    engine = adapted(core)
    said = []
    for number in range(20):
        core.speech = number / 20
        said.append(engine.process(np.zeros(HOP_SAMPLES, np.float32)))
    assert said[1::2] == [number / 20 for number in range(1, 20, 2)]
    assert said[2::2] == said[1:-1:2]


def test_where_a_core_says_none_signal_processing_does() -> None:
    sound = noise(RATE_HZ, 0.01)
    sound[8000:] += (np.sin(2 * np.pi * 150 * np.arange(8000) / RATE_HZ) ** 9).astype(np.float32)
    engine, ours = adapted(Tape(16_000, 128, 384)), MaskEngine([Wiener()], 100)
    hops = sound.reshape(-1, HOP_SAMPLES)
    said = [engine.process(hop.copy()) for hop in hops]
    assert said == [ours.process(hop.copy()) for hop in hops]
    assert max(said[20:100]) < 0.5 < min(said[110:])


# --- in the chain -------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(orders=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=25), shape=st.sampled_from(SHAPES))
def test_no_order_of_events_shifts_the_sound_or_makes_it_jump(
    orders: list[tuple[int, int]], shape: tuple[int, int]
) -> None:
    core = Tape(*shape, 123)
    bare = Config(
        feedforward=FeedforwardConfig(highpass_hz=0, mains="off"), gate=GateConfig(on=False), eq=EqConfig(gain_db=0)
    )
    chain = Chain(bare, adapted(core))
    script, at = {}, 0
    for wait, order in orders:
        at += wait + 1
        script[at] = order

    def each(number: int) -> None:
        core.spoil = {3: breaks, 4: lambda block: block.fill(np.nan)}.get(script.get(number, -1), lambda block: None)
        match script.get(number):
            case 0:
                chain.step_down()
            case 1:
                chain.step_up()
            case 2:
                chain.bypass = not chain.bypass
            case 5:
                chain.engine.wet = 0.3

    sound = noise(3 * RATE_HZ, 0.05)
    delay = chain.delay_samples
    silent = False

    def watched(number: int) -> None:
        nonlocal silent
        each(number)
        silent = silent or chain.silent

    out = walk(chain, sound, watched)
    if not silent:
        assert error_db(late(sound, delay), out) < tolerance_db(core)
    assert chain.delay_samples == delay

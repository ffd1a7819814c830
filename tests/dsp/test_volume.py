"""The headphone volume: what the ear gets and nothing else, smooth, under the limiter's peak, changed while it runs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from boxes import SETTINGS, Cup, Rig
from signals import NAMES, level_db, speech

from edge import HOP_SAMPLES, RATE_HZ
from edge.box import Box
from edge.chain import Chain
from edge.config import (
    AntinoiseConfig,
    CableConfig,
    Config,
    EqConfig,
    FeedforwardConfig,
    GateConfig,
    PlaybackConfig,
    SuppressConfig,
)
from edge.devices.cable import CableState
from edge.devices.fake import tone
from edge.dsp.spectrum import Floats
from edge.dsp.volume import Volume
from edge.health import summary
from edge.sections import VOLUME_DB
from edge.tools import calibrate
from hw.rooms.feedback_loop import feedback_path, settings, simulate

pytestmark = pytest.mark.usefixtures("quick_cable", "short_sweep")

OFF = replace(Config(), suppress=SuppressConfig(engine="off"), gate=GateConfig(on=False))
PEAK = 10 ** (Config().limiter.peak_dbfs / 20)


def noise(hops: int, level: float = 0.1) -> Floats:
    return (level * np.random.default_rng(1).standard_normal((hops, HOP_SAMPLES))).astype(np.float32)


def played(chain: Chain, hops: Floats, before: Callable[[int], object] = lambda number: None) -> tuple[Floats, Floats]:
    """What the jack and the line get; ``before`` each hop something may be ordered."""
    jack, line = [], []
    for number, hop in enumerate(hops.copy()):
        before(number)
        chain.process(hop)
        jack.append(hop)
        line.append(chain.line.hop.copy() if chain.line else np.zeros(0, np.float32))
    return np.concatenate(jack), np.concatenate(line)


def test_at_0_db_every_bit_passes_and_below_it_is_a_factor() -> None:
    hop = noise(1)[0]
    for volume_db, factor in ((0.0, 1.0), (-20.0, 0.1), (-60.0, 0.001)):
        out = hop.copy()
        Volume(volume_db).process(out)
        np.testing.assert_array_equal(out, hop * np.float32(factor))


@pytest.mark.parametrize(("before_db", "after_db"), [(-20, 0), (0, -20), (-60, -40), (-60, 0), (-20, -20.4)])
def test_a_change_is_a_smooth_way_and_ends_exactly(before_db: float, after_db: float) -> None:
    volume = Volume(before_db)
    volume.target_db = after_db
    hops = np.ones((round(abs(after_db - before_db)) + 3, HOP_SAMPLES), np.float32)
    for hop in hops:
        volume.process(hop)
    gains_db = 20 * np.log10(hops.ravel().astype(np.float64))
    steps_db = np.diff(gains_db) * np.sign(after_db - before_db)
    assert steps_db.min() > -1e-4 and steps_db.max() < 0.02, "dB from one sample to the next"
    assert gains_db[-1] == pytest.approx(after_db, abs=1e-4) and volume.gain == 10 ** (after_db / 20)
    out = noise(1)[0]
    wanted = out * np.float32(10 ** (after_db / 20))
    volume.process(out)
    np.testing.assert_array_equal(out, wanted)


def test_the_jack_is_turned_down_and_files_and_other_programs_are_not() -> None:
    """Whoever makes a chain without a volume (enhance, serve, bench) gets full level, whatever the settings say."""
    full, _ = played(Chain(OFF), noise(200))
    assert OFF.playback.volume_db == VOLUME_DB < 0
    soft, _ = played(Chain(OFF, volume_db=-20), noise(200))
    np.testing.assert_allclose(soft[800:], full[800:] / 10, atol=1e-7)


def test_the_peak_holds_after_the_volume() -> None:
    chain = Chain(replace(OFF, eq=EqConfig(gain_db=6)), volume_db=-1, line_out=True)
    jack, line = played(chain, np.clip(noise(200, 0.2), -1, 1))
    assert 0.7 * PEAK < np.abs(jack).max() <= PEAK and 0.7 * PEAK < np.abs(line).max() <= PEAK
    assert chain.limiter.limited_samples > 0


def test_the_line_is_what_a_jack_at_0_db_gets_muted_and_bypassed_as_it() -> None:
    def order(chain: Chain) -> Callable[[int], None]:
        def at(number: int) -> None:
            chain.mute.target = float(not 60 <= number < 100)
            chain.bypass = 150 <= number < 200

        return at

    config = replace(Config(), suppress=SuppressConfig(engine="dsp"))
    full, both = Chain(config), Chain(config, volume_db=-20, line_out=True)
    wanted, _ = played(full, noise(300), order(full))
    jack, line = played(both, noise(300), order(both))
    np.testing.assert_array_equal(line, wanted)
    assert np.abs(line[70 * HOP_SAMPLES : 100 * HOP_SAMPLES]).max() == 0 < np.abs(line).max()
    assert np.abs(jack).max() < 0.2 * np.abs(line).max()
    both.silent = both.resting = True
    assert not played(both, noise(2))[1].any()
    both.silent = False
    played(both, noise(4))
    both.reset()
    assert both.line is not None and not both.line.hop.any(), "a fault lets nothing out"


def test_anti_noise_keeps_its_own_level_and_stays_out_of_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hum:
        """0.05 added to every sample, as anti-noise adds its tones."""

        def hear(self, hop: Floats) -> None: ...

        def process(self, hop: Floats, on: bool = True) -> None:
            hop += np.float32(0.05)

        def reset(self) -> None: ...

    chain = Chain(OFF, volume_db=-40, line_out=True)
    chain.antinoise = Hum()  # type: ignore[assignment]
    jack, line = played(chain, np.zeros((20, HOP_SAMPLES), np.float32))
    assert jack[-1] == pytest.approx(0.05) and not line.any()


def test_a_cable_instead_of_the_jack_carries_no_anti_noise() -> None:
    chain = Chain(replace(OFF, playback=PlaybackConfig(device="off"), antinoise=AntinoiseConfig(on=True)))
    assert chain.antinoise is None and any("no anti-noise" in note and "cable" in note for note in chain.notes)


def test_the_howl_guard_judges_the_loop_and_not_the_volume() -> None:
    """A path 20 dB louder at a volume of -20 dB is the same loop; the same path at -20 dB is none."""
    sound = np.concatenate([speech(NAMES[1], 1.5, 1.5), np.zeros(RATE_HZ // 2, np.float32)])
    sound += 1e-4 * np.random.default_rng(1).standard_normal(len(sound)).astype(np.float32)
    response = feedback_path(1, 6.0)
    loop = simulate(settings(guarded=True), sound, 10 * response, volume_db=-20)
    assert loop.chain.howl is not None and loop.chain.howl.events >= 1 and loop.dropped_s() < 0.5
    assert level_db(loop.played[-RATE_HZ // 10 :]) < -45 - 20
    open_loop = simulate(settings(guarded=True), sound, response, volume_db=-20)
    assert open_loop.chain.howl is not None and open_loop.chain.howl.events == 0


def walked(config: Config, seconds: float = 2.0) -> Rig:
    rig = Rig(config, seconds=seconds)
    if config.cable.device != "off" and config.playback.device != "off":
        rig.at[0.1] = rig.until(CableState.PLAYING)
    rig.walk()
    return rig


def at(volume_db: float, config: Config = SETTINGS) -> Config:
    return replace(config, playback=replace(config.playback, volume_db=volume_db))


def test_the_statistics_do_not_take_the_volume_for_noise_removed() -> None:
    gated = replace(SETTINGS, cable=CableConfig(), suppress=SuppressConfig(engine="dsp"))
    full, soft = (summary(walked(at(volume_db, gated)).box.health.totals) for volume_db in (0.0, -20.0))
    assert soft["level_out_dbfs"] == pytest.approx(full["level_out_dbfs"] - 20, abs=0.2)
    for name in ("noise_removed_db", "noise_floor_out_dbfs", "feedback_db"):
        assert soft[name] == full[name], name


def test_jack_and_cable_together_each_at_its_own_level() -> None:
    rig = walked(at(-20.0))
    jack, cable = (level_db(card.played[24_000:]) for card in (rig.jack, rig.cable))
    assert cable - jack == pytest.approx(20, abs=0.3)
    alone = walked(replace(at(-20.0), playback=PlaybackConfig(device="off", volume_db=-20)))
    assert level_db(alone.cable.played[24_000:]) == pytest.approx(cable, abs=0.3)
    assert alone.box.chain.line is None, "nothing is worked out that nobody takes"
    assert walked(at(-20.0, replace(SETTINGS, cable=CableConfig())), 1).box.chain.line is None


def test_a_new_volume_alone_is_walked_to_without_a_gap() -> None:
    plain = replace(SETTINGS, cable=CableConfig(), gate=GateConfig(on=False), feedforward=FeedforwardConfig(0, "off"))
    rig = Rig(at(-20.0, plain), seconds=3)
    rig.mic.source = rig._source(tone(437.5, 0.2), 3)
    chain, opened = rig.box.chain, rig.jack.opened
    rig.at[2.0] = lambda: rig.box.reload(at(-6.0, rig.box.config))
    sound = rig.walk()
    assert rig.box.chain is chain and rig.jack.opened == opened + 1 and rig.box.config.playback.volume_db == -6
    levels_db = [level_db(part) for part in sound[48_000:134_400].reshape(-1, 480)]
    assert np.diff(levels_db).min() > -0.5, "it never becomes softer on its way up"
    assert levels_db[-1] - levels_db[0] == pytest.approx(14, abs=0.2)
    step = np.abs(np.diff(sound)).max() / np.abs(sound).max()
    assert step < 1.1 * 2 * np.pi * 437.5 / 48_000, "no steeper than the tone itself"


def test_a_volume_ordered_while_other_settings_change_over_is_not_lost() -> None:
    rig = Rig(at(-20.0, replace(SETTINGS, cable=CableConfig())), seconds=2)
    other = replace(rig.box.config, eq=EqConfig(gain_db=3))

    def twice() -> None:
        rig.box.reload(other)
        rig.box.reload(at(-6.0, other))

    rig.at |= {0.5: twice, 1.0: lambda: rig.box.reload(at(-10.0, other)), 1.5: lambda: rig.box.reload(at(-12.0, other))}
    opened = rig.jack.opened
    rig.walk()
    assert rig.box.config == at(-12.0, other) and rig.box.chain.volume.gain == pytest.approx(10 ** (-12 / 20))
    assert rig.jack.opened == opened + 1, "a volume opens no device again"


def test_calibrate_plays_its_own_level_whatever_the_volume() -> None:
    """The anti-noise, which is measured for, does not follow the volume either."""
    cup = Cup(0.3)
    config = replace(
        Config(),
        capture=replace(Config().capture, device="Ear", mute_ms=0, fade_ms=0, periods=60),
        playback=PlaybackConfig(device="Cup", clock="shared", volume_db=-40),
    )
    path, _ = calibrate._measure(Box(config, cup.door()), -20.0)
    assert float(np.abs(np.fft.rfft(path.response, RATE_HZ))[1000]) == pytest.approx(0.3, abs=0.02)

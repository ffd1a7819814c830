"""Figures of noise and voice tell what the chain does while it is at work: nothing of bypass, mute, fades, padding."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ, cli, journal, runtime, status
from edge.box import Box
from edge.chain import Chain
from edge.config import CaptureConfig, Config, HowlConfig, LimiterConfig, PlaybackConfig, SuppressConfig
from edge.devices.fake import FakeCard, VirtualClock, opener
from edge.devices.pcm import Capabilities
from edge.dsp.spectrum import Floats
from edge.health import Counters, summary
from edge.tools.reports import report
from edge.tools.sounds.enhance import enhance_file

CONFIG = Config(
    capture=CaptureConfig(device="Mic", mute_ms=300, fade_ms=100),
    suppress=SuppressConfig(engine="dsp"),
    playback=PlaybackConfig(device="Jack", volume_db=0),
)
MONO = Capabilities(("S16_LE",), (RATE_HZ,), False, (1,))
SECONDS = 7.0
QUALITY = ("noise_removed_db", "feedforward_db", "feedback_db", "noise_floor_in_dbfs", "noise_floor_out_dbfs")

Order = Callable[[Box], None]


def run(orders: dict[float, Order], config: Config = CONFIG, seconds: float = SECONDS) -> tuple[Box, Counters]:
    """A whole box hears steady noise; each order is given at its second. The counters are those after the third."""
    clock, draw = VirtualClock(), np.random.default_rng(1)
    left = sorted(orders.items())
    marks: list[Counters] = []

    def source(frames: NDArray[np.int64], rate_hz: int) -> Floats:
        at_s = frames[0] / rate_hz if len(frames) else 0.0
        while left and at_s >= left[0][0]:
            left.pop(0)[1](box)
        if at_s >= 3 and not marks:
            marks.append(box.health.totals.copy())
        if at_s >= seconds:
            box.stop()
        return (0.02 * draw.standard_normal(len(frames))).astype(np.float32)

    microphone = FakeCard("Mic", clock, capture=MONO, source=source)
    box = Box(config, opener(microphone, FakeCard("Jack", clock, playback=MONO)))
    box.open()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge.box.LATE_LOAD_LIMIT", math.inf)  # a busy machine must not bring an engine down here
        try:
            assert box._stream() == ""
        finally:
            box.close()
    return box, box.health.totals.since(marks[0])


def switch(name: str, value: bool) -> Order:
    return lambda box: setattr(box, name, value)


def fail(times: int) -> Order:
    """Down the fallback chain, as after failures: below the last engine lie bypass and silence."""

    def step(box: Box) -> None:
        for _ in range(times):
            box.chain.step_down()

    return step


def drop(box: Box) -> None:
    assert box.chain.howl is not None
    box.chain.howl.gain_drop_db = 15.0
    box.chain.howl.margin.db = 15.0


@pytest.fixture(scope="module")
def plain() -> dict[str, float | None]:
    return summary(run({})[1])


INTERRUPTIONS: dict[str, dict[float, Order]] = {
    "bypass": {4.0: switch("bypass", True), 6.0: switch("bypass", False)},
    "mute": {4.0: switch("muted", True), 6.0: switch("muted", False)},
    "many mutes": {4.0 + 0.1 * k: switch("muted", k % 2 == 0) for k in range(20)},
    "new settings": {4.0: lambda box: box.reload(replace(CONFIG, limiter=LimiterConfig(-4.0, -3.0)))},
    "resting": {4.0: fail(2), 6.0: lambda box: box.chain.step_up()},
    "silence": {4.0: fail(3), 6.0: lambda box: box.chain.step_up()},
}


@pytest.mark.parametrize("kind", INTERRUPTIONS)
def test_what_interrupts_the_chain_changes_no_figure_of_it(kind: str, plain: dict[str, float | None]) -> None:
    box, counters = run(INTERRUPTIONS[kind])
    reported = summary(counters)
    for name in QUALITY:
        assert reported[name] == pytest.approx(plain[name], abs=1.0), name
    assert reported["seconds"] == plain["seconds"], "time goes on"
    assert counters.pauses + counters.voice < counters.hops - 10
    assert not box.chain.silent and box.chain.counts is (kind != "many mutes" or not box.muted)


def test_a_box_that_plays_lower_against_feedback_removes_no_more_noise(plain: dict[str, float | None]) -> None:
    config = replace(CONFIG, howl=HowlConfig(on=True))
    reported = summary(run({3.5: drop}, config)[1])
    for name in QUALITY:
        assert reported[name] == pytest.approx(plain[name], abs=1.0), name
    assert reported["level_out_dbfs"] is not None and plain["level_out_dbfs"] is not None
    assert reported["level_out_dbfs"] < plain["level_out_dbfs"] - 5, "the level is the output's"


def test_the_microphone_that_settles_is_no_pause_and_no_floor(plain: dict[str, float | None]) -> None:
    """The first 400 ms are muted and faded in by us."""
    box, _ = run({}, seconds=3.5)
    reported = summary(box.health.totals)
    assert reported["noise_floor_in_dbfs"] == pytest.approx(plain["noise_floor_in_dbfs"], abs=0.5)
    assert box.health.totals.hops - box.health.totals.pauses - box.health.totals.voice >= 80


def test_a_hop_counts_only_when_all_that_was_bypassed_or_faded_has_left() -> None:
    chain, hop = Chain(CONFIG), np.zeros(HOP_SAMPLES, np.float32)

    def counts(hops: int) -> list[bool]:
        said = []
        for _ in range(hops):
            hop[:] = 0.01
            chain.process(hop)
            said.append(chain.counts)
        return said

    late = -(-chain.delay_samples // HOP_SAMPLES) + 1
    assert counts(20) == [False] * late + [True] * (20 - late)
    for begin, end in (
        (lambda: setattr(chain, "bypass", True), lambda: setattr(chain, "bypass", False)),
        (lambda: setattr(chain.mute, "target", 0.0), lambda: setattr(chain.mute, "target", 1.0)),
        (lambda: setattr(chain, "silent", True), lambda: setattr(chain, "silent", False)),
        (chain.reset, lambda: None),
        (chain.unsettle, lambda: None),
    ):
        begin()
        assert counts(1) == [False]
        end()
        said = counts(30)
        assert not any(said[: late - 1]) and all(said[-10:])
    hop[:] = np.nan
    chain.process(hop)
    assert not chain.counts


def test_a_minute_without_anything_measured_tells_nothing_of_noise(capsys: pytest.CaptureFixture[str]) -> None:
    box, counters = run({1.0: switch("bypass", True)}, seconds=4.0)
    reported = summary(counters)
    assert (
        reported["noise_removed_db"] is None
        and reported["feedback_db"] is None
        and "noise_floor_in_dbfs" not in reported
    )
    assert reported["level_out_dbfs"] is not None and reported["level_out_dbfs"] > -50
    shown = {"pid": 1, "state": "bypass", "engine": "dsp", **status.moment(box), **status.counts(box), **reported}
    assert "noise removed" not in runtime.in_words(shown) and "speech" in runtime.in_words(shown)
    more = {"hop_max_us": 1, **shown}
    assert "noise removed not measured" in status.in_words(more)
    assert json.loads(json.dumps(shown))["noise_removed_db"] is None
    record = journal.record("x", "statistics", **{name: reported[name] for name in reported})
    assert "QUIETBOX_NOISE_REMOVED_DB" not in record and "QUIETBOX_SECONDS" in record
    rows = [{**record, "__REALTIME_TIMESTAMP": str(60_000_000 * k)} for k in (1, 2)]
    page = report.page(report.entries("\n".join(json.dumps(row) for row in rows)))
    assert "Level" in page and "<h2>Noise removed" not in page, "a figure that is not known is not drawn as nought"
    assert "<th>Noise removed</th><td>not known</td>" in page


def talk(seconds: float) -> Floats:
    """Speech without a pause: one loud syllable after the other, from the first sample to the last."""
    sound, _ = soundfile.read(Path(__file__).parents[1] / "sounds/clean/rain_en_5dB.flac", dtype="float32")
    start = int(np.argmax(np.abs(sound) > 0.1))
    return np.resize(sound[start : start + RATE_HZ // 4], round(seconds * RATE_HZ))


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 48_000])
def test_a_file_without_pauses_has_none(rate_hz: int, tmp_path: Path) -> None:
    """The silence that pushes the last samples out of the chain is no pause, and no time in which nobody speaks."""
    source = tmp_path / "talk.wav"
    soundfile.write(source, np.repeat(talk(3.0), rate_hz // RATE_HZ), rate_hz)
    result = enhance_file(source, tmp_path / "out.wav", Config())
    assert result.noise_removed_db is None
    assert result.speech_share > 0.9


def test_a_file_too_short_for_a_pause_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "short.wav"
    soundfile.write(source, 0.1 * np.ones(100, np.float32), RATE_HZ)
    assert cli.main(["enhance", str(source), "-o", str(tmp_path / "out.wav"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["noise_removed_db"] is None
    assert cli.main(["enhance", str(source), "-o", str(tmp_path / "out.wav")]) == 0
    assert "no pauses" in capsys.readouterr().out


def test_the_padding_does_not_dilute_the_pauses_of_a_short_file(tmp_path: Path) -> None:
    """Half a second of noise is as much quieter as ten seconds of it, once the suppressor knows it."""
    draw = np.random.default_rng(2)
    removed = []
    for seconds in (4.0, 10.0):
        source = tmp_path / f"{seconds}.wav"
        soundfile.write(source, 0.02 * draw.standard_normal(round(seconds * RATE_HZ)), RATE_HZ)
        removed.append(enhance_file(source, tmp_path / "out.wav", CONFIG).noise_removed_db)
    assert removed[0] is not None and removed[1] is not None
    assert removed[0] < removed[1] + 1

"""Which parameters a device is opened with, and what is reported where there are none: real libasound beside fakes."""

import errno
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from alsa_cards import RealCards
from machine import put

from edge import HOP_SAMPLES, RATE_HZ, cli
from edge.config import CaptureConfig
from edge.devices import cards
from edge.devices.capture import Capture
from edge.devices.cards import list_cards, resolve
from edge.devices.fake import FakeCard, VirtualClock, one_live_channel, tone
from edge.devices.negotiation import capture_needs, negotiate, outlook, playback_needs
from edge.devices.pcm import (
    Capabilities,
    DeviceBusy,
    DeviceMissing,
    DeviceRefused,
    Direction,
    Event,
    Pcm,
    StreamParams,
)
from edge.devices.playback import Playback
from edge.dsp.bandwidth import lost_band
from edge.dsp.spectrum import Floats
from edge.tools import probe_process
from edge.tools.doctor import sound
from edge.tools.probe_process import ProbeFailure

NEW_RATES_HZ = (8_000, 22_050, 24_000, 50_000, 88_200, 176_400, 192_000)
LIVE = 8000 / 32768 * 4 / np.pi
"""Fundamental of the plugin's square wave on its live channel."""


def record(capture: Capture, hops: int) -> Floats:
    """float32: so many hops of a device with a real clock."""
    hop, heard = np.zeros(HOP_SAMPLES, np.float32), []
    for _ in range(hops):
        assert capture.read(hop) < Event.STALLED
        heard.append(hop.copy())
    return np.concatenate(heard)


def play(playback: Playback, sound: Floats) -> None:
    """In real time, as the microphone would pace it."""
    began_s = time.monotonic()
    for number, start in enumerate(range(0, len(sound), HOP_SAMPLES)):
        time.sleep(max(0.0, began_s + number * 0.005 - time.monotonic()))
        assert playback.write(sound[start : start + HOP_SAMPLES]) < Event.STALLED


def amplitude(x: Floats, frequency_hz: float, rate_hz: int) -> float:
    """Of the best 20 ms: on a busy machine there may be a gap somewhere."""
    turning = np.exp(-2j * np.pi * frequency_hz / rate_hz * np.arange(rate_hz // 50))
    pieces = np.lib.stride_tricks.sliding_window_view(x, len(turning))[:: rate_hz // 400]
    return float(2 * np.abs(pieces @ turning).max() / len(turning))


def microphone(name: str, channel: int | str = "auto") -> Capture:
    capture = Capture(name, channel=channel, mute_ms=0, fade_ms=0)
    capture.open()
    return capture


# Channel counts, through libasound.


@pytest.mark.parametrize("count", [3, 5, 6, 10, 12, 16, 18])
def test_a_microphone_with_any_channel_count_opens_on_each_of_its_channels(count: int) -> None:
    with RealCards() as rig:
        mic = rig.add("many", rates="48000", channels=str(count), formats="S32_LE", live=count)
        for channel in (count, 1):
            capture = microphone(mic, channel)
            heard = record(capture, 24)[800:]
            capture.close()
            assert f"got 48000 Hz {count} channels S32_LE 240x8, channel {channel} of {count}" in capture.granted
            expected = LIVE if channel == count else LIVE / 100
            assert amplitude(heard, 500, RATE_HZ) == pytest.approx(expected, rel=0.1)


def test_auto_finds_the_live_one_of_eighteen() -> None:
    with RealCards() as rig:
        capture = microphone(rig.add("many", rates="48000", channels="18", formats="S32_LE", live=17))
        heard = record(capture, 90)[-800:]
        capture.close()
    assert capture.channel == "17 of 18 (the live one)"
    assert amplitude(heard, 500, RATE_HZ) == pytest.approx(LIVE, rel=0.05)


@pytest.mark.parametrize("count", [3, 4, 6, 8])
@pytest.mark.parametrize(("channels", "playing"), [("all", slice(None)), (2, slice(1, 3))])
def test_an_output_with_many_channels_plays_on_all_or_on_two(count: int, channels: int | str, playing: slice) -> None:
    with RealCards() as rig:
        spk = rig.add("amp", rates="48000", channels=str(count), formats="S16_LE")
        playback = Playback(spk, channels=channels, same_clock=True)
        playback.open()
        play(playback, np.full(12 * HOP_SAMPLES, 0.25, np.float32))
        playback.close()
        heard = rig.heard(spk, count)
    peaks = np.abs(heard).max(axis=0)
    assert peaks[playing] == pytest.approx(peaks.max()) and peaks.max() > 8000
    assert not np.delete(peaks, np.arange(count)[playing]).any()
    words = "the same on all" if channels == "all" else f"on channels 2 and 3 of {count}"
    assert words in playback.granted


def test_the_last_channel_of_a_pair_may_be_missing_and_fewest_channels_are_taken() -> None:
    offered = Capabilities(("S16_LE",), (48_000,), False, (1, 2, 4, 8))
    for pair, count in ((0, 2), (1, 2), (2, 4), (3, 4), (4, 8), (8, 8)):
        needs = playback_needs(False, pair, period_ms=10, periods=4)
        assert next(each for each in needs.requests(offered) if offered.covers(each)).channels == count
    for channel, count in ((1, 1), (2, 2), (3, 4), (5, 8)):
        needs = capture_needs(True, channel, "", period_ms=5, periods=8)
        assert next(each for each in needs.requests(offered) if offered.covers(each)).channels == count


def test_a_device_that_hides_its_counts_is_asked_for_each() -> None:
    """A plugin claims any count; of {3, 5} it grants 3 to whoever asks for something else."""
    with RealCards() as rig:
        mic = rig.add("hidden", rates="16000", channels="3 5", formats="S16_LE")
        for channel, count in ((1, 3), (3, 3), (4, 5), (5, 5)):
            capture = microphone(mic, channel)
            capture.close()
            assert f"channel {channel} of {count}" in capture.granted


# Rates, through libasound.


@pytest.mark.parametrize("rate_hz", NEW_RATES_HZ)
def test_a_microphone_with_only_one_rate_is_converted(rate_hz: int) -> None:
    with RealCards() as rig:
        capture = microphone(rig.add("odd", rates=str(rate_hz), channels="1", formats="S16_LE"))
        heard = record(capture, 30)[800:]
        capture.close()
    assert f"got {rate_hz} Hz mono S16_LE" in capture.granted
    assert amplitude(heard, 500, RATE_HZ) == pytest.approx(LIVE, rel=0.1)
    assert ("nothing above" in capture.granted) == (rate_hz < RATE_HZ)


@pytest.mark.parametrize("rate_hz", NEW_RATES_HZ)
def test_an_output_with_only_one_rate_is_converted_and_holds_the_peak(rate_hz: int) -> None:
    sound = np.sign(np.sin(2 * np.pi * 500 / RATE_HZ * (np.arange(24 * HOP_SAMPLES) + 0.5))).astype(np.float32)
    with RealCards() as rig:
        spk = rig.add("odd", rates=str(rate_hz), channels="1", formats="S16_LE")
        playback = Playback(spk, same_clock=True, peak_dbfs=-6)
        playback.open()
        play(playback, sound)
        playback.close()
        heard = rig.heard(spk, 1)[:, 0] / 32768
    assert f"got {rate_hz} Hz mono" in playback.granted
    assert np.abs(heard).max() <= 10 ** (-6 / 20)
    assert amplitude(heard, 500, rate_hz) > 0.3
    assert ("nothing above" in playback.granted) == (rate_hz < RATE_HZ)


def test_rates_that_carry_less_come_last_and_no_loss_comes_unnamed() -> None:
    needs = capture_needs(True, 1, "", period_ms=5, periods=8)
    order = list(dict.fromkeys(each.rate_hz for each in needs.requests(Capabilities(rates_hz=(11_025, 37_800)))))
    assert order[0] == RATE_HZ and order[-2:] == [11_025, 8_000] and order[-3] == 37_800
    assert [rate for rate in order if lost_band(rate)] == [11_025, 8_000]
    assert "above 4 kHz" in lost_band(8_000) and "to 3 kHz" in lost_band(8_000)
    assert "above 5.5125 kHz" in lost_band(11_025)


def test_a_rate_outside_the_library_list_is_found_at_the_ends_of_the_range() -> None:
    """pyalsaaudio tests a fixed list of rates, which has no 24 kHz."""
    with RealCards() as rig:
        capture = microphone(rig.add("wide", rates="8000 24000", channels="1", formats="S16_LE"))
        capture.close()
    assert "got 24000 Hz" in capture.granted


# Refusals.

NARROW = {"rates": "48000", "channels": "1", "formats": "S16_LE"}


@pytest.mark.parametrize(
    ("keys", "kind", "obstacle", "found", "fix"),
    [
        ({"channels": "40"}, DeviceRefused, "channels", ("1 to 32 channels", "40 channel"), '"plug:card"'),
        ({"rates": "4000"}, DeviceRefused, "rate", ("at 8 to 384 kHz", "4000 Hz"), '"plug:card"'),
        ({"formats": "FLOAT_LE"}, DeviceRefused, "format", ("16, 24 or 32 bits", "FLOAT_LE"), '"plug:card"'),
        ({"rates": "4000", "formats": "U8"}, DeviceRefused, "rate", ("384 kHz and in 16", "U8 at 4000"), '"plug:card"'),
        ({"planes": 1}, DeviceRefused, "format", ("non-interleaved",), '"plug:card"'),
        ({"refuse": errno.EACCES}, DeviceRefused, "permission", ("permission denied",), "DeviceAllow="),
        ({"refuse": errno.ENOSPC}, DeviceRefused, "system", ("no bandwidth left",), "another port"),
        ({"refuse": errno.EINVAL}, DeviceRefused, "parameters", ("Invalid argument",), "asound.conf"),
        ({"refuse": errno.ECONNREFUSED}, DeviceRefused, "system", ("sound server does not run",), "start that server"),
        ({"refuse": errno.EBUSY}, DeviceBusy, "", ("in use by another process",), "stop it"),
        ({"refuse": errno.ENODEV}, DeviceMissing, "", ("no sound card or ALSA device 'card'",), ""),
    ],
)
def test_a_refusal_names_what_is_in_the_way_and_its_fix(
    keys: dict[str, str | int], kind: type[Exception], obstacle: str, found: tuple[str, ...], fix: str
) -> None:
    with RealCards() as rig:
        rig.add("card", **(NARROW | keys))
        for side in (Capture("card"), Playback("card")):
            with pytest.raises(kind) as refusal:
                side.open()
            error = refusal.value
            assert getattr(error, "obstacle", "") == obstacle
            assert all(words in str(error) for words in found) and "\n" not in str(error)
            assert fix in str(error) and "sudo" not in str(error)


def test_a_channel_beyond_those_there_are_names_the_setting_and_the_counts() -> None:
    with RealCards() as rig:
        rig.add("card", rates="48000", channels="3 5", formats="S16_LE")
        for side, words in (
            (Capture("card", channel=6), "[capture] channel to at most 5"),
            (Capture("card", channel=1, reference=7), "[reference] channel to at most 5, or to 0 for none"),
            (Playback("card", channels=6), "[playback] channels to at most 5"),
        ):
            with pytest.raises(DeviceRefused, match=r"3/5 channel\(s\)") as refusal:
                side.open()
            assert words in refusal.value.fix and refusal.value.obstacle == "channels"


def test_the_converting_device_that_a_refusal_names_does_open() -> None:
    with RealCards() as rig:
        rig.add("card", rates="4000", channels="40", formats="FLOAT_LE")
        with pytest.raises(DeviceRefused) as refusal:
            Capture("card").open()
        converting = refusal.value.fix.split('"')[1]
        capture = microphone(converting)
        capture.close()
        assert "got 16000 Hz mono S16_LE" in capture.granted


def test_the_doctor_gives_the_fix_of_the_obstacle() -> None:
    """Through the device probe's own process; a hardware card gets ALSA's plughw."""
    with RealCards() as rig:
        rig.add("card", rates="4000", channels="1", formats="S16_LE")
        failure = probe_process.microphone_in_child(CaptureConfig(device="card"), 1)
    assert isinstance(failure, ProbeFailure) and failure.kind == "rate"
    found = sound.judge_failure("microphone", failure)
    assert "at 8 to 384 kHz" in found.found and '"plug:card"' in found.fix and "sudo" not in found.fix
    assert found.fix not in found.found and found.figures["obstacle"] == "rate"
    listed = Capabilities(("S16_LE",), (48_000,), False, (64,))
    assert 'set the device to "plughw:CARD=Big,DEV=1"' in outlook("capture", listed, "hw:CARD=Big,DEV=1")


def test_what_a_listed_device_loses() -> None:
    telephone = Capabilities(("S16_LE",), (8_000,), False, (1,))
    for direction in ("capture", "playback"):
        assert "nothing above 4 kHz" in outlook(direction, telephone, "hw:CARD=Sco,DEV=0")
        assert not outlook(direction, Capabilities(("S16_LE",), (8_000, 16_000), False, (1,)), "hw:CARD=A,DEV=0")
        assert not outlook(direction, Capabilities(("S16_LE",), (8_000, 48_000), True, (1,)), "hw:CARD=A,DEV=0")
        assert not outlook(direction, Capabilities(), "hw:CARD=A,DEV=0")


def test_devices_names_what_a_card_loses_or_lacks_and_auto_takes_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of USB cards, as their driver prints it, without opening them."""
    names = ("Sco", "Big", "Full")
    listed = "".join(f" {number} [{name:15}]: USB-Audio - {name}\n" for number, name in enumerate(names, 1))
    put(tmp_path / "asound/cards", listed.encode())
    for number, rate_hz, channels in ((1, 8_000, 1), (2, 48_000, 64), (3, 48_000, 1)):
        put(tmp_path / f"asound/card{number}/pcm0c/info", b"name: USB Audio\n")
        stream = f"Capture:\n  Interface 1\n    Format: S16_LE\n    Channels: {channels}\n    Rates: {rate_hz}\n"
        put(tmp_path / f"asound/card{number}/stream0", stream.encode())
    found = list_cards(proc=tmp_path)
    monkeypatch.setattr(cards, "list_cards", lambda **_: found)
    assert cli.main(["devices"]) == 0
    said = capsys.readouterr().out
    assert resolve("auto", "capture", tmp_path) == "hw:CARD=Full,DEV=0"
    assert "Sco,0 capture: 8 kHz sampling: nothing above 4 kHz passes" in said
    assert 'Big,0 capture: no capture with 1 to 32 channels; set the device to "plughw:CARD=Big,DEV=0"' in said


# What fakes can show.


class Fussy:
    """Grants only whole combinations, and else the first of them, as a USB card with several altsettings does."""

    def __init__(self, *combinations: StreamParams, listed: Capabilities) -> None:
        self.combinations, self.listed, self.opened = combinations, listed, 0

    def open(self, device: str, direction: str, params: StreamParams) -> object:
        self.opened += 1
        granted = next((each for each in self.combinations if each.same_samples(params)), self.combinations[0])
        offered = Capabilities((granted.sample_format,), (granted.rate_hz,), False, (granted.channels,))
        card = FakeCard("Usb", VirtualClock(), capture=offered)
        pcm = card.open_pcm(device, "capture", params)
        pcm.capabilities = lambda: self.listed  # type: ignore[method-assign]
        return pcm


def test_a_card_whose_rates_and_channels_depend_on_each_other_is_opened_on_what_it_grants() -> None:
    listed = Capabilities(("S16_LE",), (44_100, 48_000), False, (2, 10))
    ten = StreamParams(44_100, 10, "S16_LE", 220, 8)
    usb = Fussy(ten, StreamParams(48_000, 2, "S16_LE", 240, 8), listed=listed)
    needs = capture_needs(True, 1, "", period_ms=5, periods=8)
    pcm, _ = negotiate(usb.open, "Usb", "hw:CARD=Usb", "capture", needs)  # type: ignore[arg-type]
    assert pcm.granted.rate_hz == 48_000 and pcm.granted.channels == 2
    needs = capture_needs(True, 3, "[capture] channel", period_ms=5, periods=8)
    pcm, _ = negotiate(usb.open, "Usb", "hw:CARD=Usb", "capture", needs)  # type: ignore[arg-type]
    assert pcm.granted == ten
    assert usb.opened < 12


def test_a_rate_that_alsa_rejects_outright_does_not_hide_the_others() -> None:
    card = FakeCard("Mic", VirtualClock(), capture=Capabilities(("S16_LE",), (44_100,), False, (2,)))
    asked = []

    def strict(device: str, direction: Direction, params: StreamParams) -> Pcm:
        asked.append(params.rate_hz)
        if params.rate_hz != 44_100:
            raise DeviceRefused("Mic does not open for capture: Invalid argument", "", "parameters")
        return card.open_pcm(device, direction, params)

    needs = capture_needs(True, 1, "", period_ms=5, periods=8)
    pcm, _ = negotiate(strict, "Mic", "hw:CARD=Mic", "capture", needs)
    assert pcm.granted.rate_hz == 44_100 and asked[:3] == [16_000, 48_000, 44_100]
    asked.clear()
    with pytest.raises(DeviceRefused, match="Invalid argument"):
        negotiate(strict, "Mic", "hw:CARD=Mic", "capture", replace(needs, rates_hz=needs.rates_hz[3:]))
    assert len(asked) == 4


def test_a_card_with_a_gap_in_its_list_is_opened_as_granted() -> None:
    """Neither 50 kHz nor 9 channels is on any list; it is what the card grants."""
    odd = StreamParams(50_000, 9, "S24_3LE", 250, 8)
    usb = Fussy(odd, listed=Capabilities(("S24_3LE",)))
    needs = capture_needs(True, 1, "", period_ms=5, periods=8)
    pcm, request = negotiate(usb.open, "Usb", "hw:CARD=Usb", "capture", needs)  # type: ignore[arg-type]
    assert pcm.granted == odd and request.same_samples(odd) and usb.opened <= 50


# Delays, budget and the two clocks.


def phase_delay_s(x: Floats, rate_hz: int, frequency_hz: float) -> float:
    """How late ``x`` is against sin(2 pi f t), within one period."""
    t = np.arange(len(x)) / rate_hz
    phase = np.angle(np.mean(x * np.exp(-2j * np.pi * frequency_hz * t)))
    return float((-np.pi / 2 - phase) % (2 * np.pi) / (2 * np.pi * frequency_hz))


@pytest.mark.parametrize("rate_hz", [44_100, 8_000, 11_025, 22_050, 192_000])
def test_the_stated_delay_of_a_microphone_is_the_measured_one(rate_hz: int) -> None:
    """The phase of a tone gives the converter's part, the clock at each hop what waits for the card's period."""
    clock = VirtualClock()
    offered = Capabilities(("S16_LE",), (rate_hz,), False, (1,))
    card = FakeCard("Mic", clock, capture=offered, source=tone(50, 0.5))
    capture = Capture("Mic", mute_ms=0, fade_ms=0, open_pcm=card.open_pcm)
    capture.open()
    hop, heard, waited_s = np.zeros(HOP_SAMPLES, np.float32), [], []
    for number in range(1, 4 * 441 + 1):  # 441 hops of 22.05 kHz go through every distance from its periods
        assert capture.read(hop) is Event.OK
        heard.append(hop.copy())
        waited_s.append(clock.now() - number * HOP_SAMPLES / RATE_HZ)
    sound = np.concatenate(heard)[-16_000:]
    measured_ms = 1000 * (phase_delay_s(sound, RATE_HZ, 50) + float(np.mean(waited_s)))
    assert capture.latency_ms == pytest.approx(measured_ms, abs=0.12)
    assert capture.latency_ms < 5


@pytest.mark.parametrize("rate_hz", [48_000, 8_000, 22_050, 192_000])
def test_the_stated_delay_of_an_output_is_the_measured_one(rate_hz: int) -> None:
    clock = VirtualClock()
    offered = Capabilities(("S16_LE",), (rate_hz,), False, (1,))
    card = FakeCard("Dac", clock, playback=offered, record=True)
    playback = Playback("Dac", same_clock=True, open_pcm=card.open_pcm)
    playback.open()
    sound = (0.5 * np.sin(2 * np.pi * 25 * np.arange(2 * RATE_HZ) / RATE_HZ)).astype(np.float32)
    for number, start in enumerate(range(0, len(sound), HOP_SAMPLES)):
        clock.wait_until(number * 0.005)
        assert playback.write(sound[start : start + HOP_SAMPLES]) is Event.OK
    heard = card.played[rate_hz : rate_hz * 180 // 100]
    assert playback.latency_ms == pytest.approx(1000 * phase_delay_s(heard, rate_hz, 25), abs=0.3)


def test_two_clocks_are_held_together_at_the_new_rates() -> None:
    """300 ppm apart for 50 s of the card's time: the queue settles at its target, and no sample is lost."""
    clock = VirtualClock()
    offered = [Capabilities(("S16_LE",), (rate_hz,), False, (1,)) for rate_hz in (22_050, 8_000)]
    mic = FakeCard("Mic", clock, capture=offered[0], clock_error_ppm=-150)
    out = FakeCard("Dac", clock, playback=offered[1], clock_error_ppm=150)
    capture = Capture("Mic", open_pcm=mic.open_pcm)
    playback = Playback("Dac", open_pcm=out.open_pcm)
    capture.open()
    playback.open()
    for resampler in (capture._resampler, playback._resampler):
        resampler._read = lambda out: None  # type: ignore[method-assign]  # counting alone decides here
    hop, queue_ms = np.zeros(HOP_SAMPLES, np.float32), []
    for _ in range(10_000):
        assert capture.read(hop) is Event.OK and playback.write(hop) is Event.OK
        queue_ms.append(playback.queue_ms)
    assert capture.xruns == playback.xruns == playback.dropped == 0
    held_ms = np.convolve(queue_ms[8000:], np.full(441, 1 / 441), "valid")  # a period is a little less than a hop
    assert np.abs(held_ms - playback.target_ms).max() < 2
    assert playback._drift.learned_ppm == pytest.approx(300, abs=60)


def test_a_narrow_microphone_and_the_channels_of_an_array_reach_the_box_together() -> None:
    card = FakeCard(
        "Array",
        VirtualClock(),
        capture=Capabilities(("S24_3LE",), (8_000,), False, (6,)),
        source=one_live_channel(4, 6, tone(500, 0.25)),
    )
    capture = Capture("Array", mute_ms=0, fade_ms=0, open_pcm=card.open_pcm)
    capture.open()
    heard = record(capture, 200)
    assert capture.channel == "5 of 6 (the live one)"
    assert amplitude(heard[-8000:], 500, RATE_HZ) == pytest.approx(0.25, rel=0.05)

"""Verdicts on what the probes of microphone and output, and the output's volume controls, have shown."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from edge.config import CaptureConfig, PlaybackConfig
from edge.devices import mixer
from edge.devices.channel_choice import LIVE_RATIO
from edge.devices.mixer import Level
from edge.dsp.bandwidth import lost_band
from edge.tools import device_probe
from edge.tools.device_probe import ChannelLevels, MicrophoneProbe, OutputProbe
from edge.tools.doctor.finding import FAIL, OK, WARN, Finding
from edge.tools.probe_process import ProbeFailure

RATE_TOLERANCE = 0.02
"""Crystals are off by 0.1 % at worst; a larger deviation is a wrong rate, or lost samples."""
QUIET_DBFS = -50.0
"""A syllable below this, with the gain of the settings, is too quiet to separate speech from noise well."""
SPEECH_DBFS = -20.0
"""Where the loudest syllables shall lie."""
GAIN_MAX_DB = 60.0
OFFSET = 0.1
"""An offset of a tenth of full scale reduces the headroom; the high-pass removes smaller ones."""
FAINT_DB = -50.0
"""There speech of usual level comes to 44 dB SPL in sensitive headphones (``sections.VOLUME_DB``): a whisper."""
LONG_PERIOD_MS = 50.0
"""The longest [capture] period_ms; a longer one is the card's own choice."""
LOUD = f"{device_probe.LOUD_MS} ms"


def judge_microphone(probe: MicrophoneProbe, settings: CaptureConfig) -> Iterator[Finding]:
    """Whether a microphone delivers sound, its level and its rate."""
    alive = _alive(probe, settings)
    yield alive
    if probe.channels and alive.verdict is not FAIL:
        yield _level(probe, settings)
    if not probe.lost:
        yield _rate("microphone rate", probe.rate_hz, probe.measured_hz, probe.xruns)


def judge_output(probe: OutputProbe) -> Finding:
    """Whether an output takes samples, and its rate."""
    if probe.lost:
        fix = "check the plug; if it fails again, the card is broken or lacks power"
        return Finding("output", FAIL, f"the output {probe.lost} ({probe.granted})", fix)
    if "clockless" in probe.granted:
        return Finding("output", OK, f"opens and accepts sound, but has no clock to measure ({probe.granted})")
    rate = _rate("output", probe.rate_hz, probe.measured_hz, probe.xruns)
    return dataclasses.replace(rate, found=f"{rate.found} ({probe.granted})")


def judge_bandwidth(word: str, rate_hz: int) -> Iterator[Finding]:
    """A rate that does not carry the whole of the speech; nothing where it does."""
    lost = lost_band(rate_hz)
    if lost:
        profile = "mSBC (wide-band speech)" if word == "microphone" else "A2DP, or mSBC (wide-band speech),"
        article = "a" if word == "microphone" else "an"
        fix = f"use {article} {word} with 16 kHz or more; Bluetooth: choose {profile} in its sound server"
        yield Finding(f"{word} bandwidth", WARN, lost, fix, {"rate_hz": rate_hz})


def judge_buffer(probe: MicrophoneProbe | OutputProbe) -> Iterator[Finding]:
    """A microphone that delivers sound in long blocks, an output that holds too little; nothing of others."""
    if isinstance(probe, MicrophoneProbe) and probe.period_ms > LONG_PERIOD_MS:
        found = f"delivers sound every {probe.period_ms:.0f} ms only, which delays it by as much"
        fix = "use another microphone, or the card itself instead of a plugin or sound server before it"
        yield Finding("microphone delay", WARN, found, fix, {"period_ms": probe.period_ms})
    elif isinstance(probe, OutputProbe) and probe.queue_ms < probe.requested_ms:
        found = f"the card's buffer holds a queue of {probe.queue_ms:g} ms, not {probe.requested_ms:g}"
        fix = "expect gaps while the system is busy: use another output, or set a shorter [playback] period_ms"
        figures = {"queue_ms": probe.queue_ms, "requested_ms": probe.requested_ms}
        yield Finding("output queue", WARN, found, fix, figures)


def judge_volume(settings: PlaybackConfig, levels: list[Level] | ProbeFailure, running: dict[str, Any]) -> Finding:
    """The volume of the settings, the mixer's levels and the status of the box that plays, if one does."""
    figures: dict[str, Any] = {"volume_db": settings.volume_db, "mixer": settings.mixer, "controls": []}
    found = f"volume_db {settings.volume_db:g} dB"
    if isinstance(levels, ProbeFailure):
        fix = 'unplug the card and plug it in again; or set [playback] mixer = "off", then it is not used'
        return Finding("volume", WARN, f"{found}; the card's mixer could not be read: {levels.text}", fix, figures)
    name = "auto" if settings.mixer == "off" else settings.mixer
    mine = mixer.chosen(levels, name)
    off = [level for level in mine if not mixer.as_wanted(level)]
    figures["controls"] = [dataclasses.asdict(level) for level in mine]
    found += f"; mixer {mixer.in_words(mine)}" if mine else "; the card has no mixer"
    plays_db = running.get("volume_db", settings.volume_db)
    if plays_db != settings.volume_db:
        found = f"the box plays at {plays_db:g} dB, not as the settings say: {found}"
        return Finding("volume", WARN, found, "systemctl reload quietbox", figures)
    if not mine and name != "auto":
        there = ", ".join(dict.fromkeys(f'"{level.control}"' for level in levels))
        found = f'volume_db {settings.volume_db:g} dB; [playback] mixer = "{name}" is not a control of this card'
        return Finding("volume", WARN, found, f'set mixer = "auto"{f", or one of {there}" if there else ""}', figures)
    if settings.mixer == "off" and any(level.muted for level in off):
        fix = 'unmute it with `alsamixer`, or set [playback] mixer = "auto"'
        return Finding("volume", WARN, f"{found}, which the box does not change", fix, figures)
    if off and running and settings.mixer != "off":
        fix = "systemctl restart quietbox sets it again; find the program that changed it"
        aim = mixer.in_words([mixer.wanted(level) for level in off])
        return Finding("volume", WARN, f"{found}, but the box set {aim}", fix, figures)
    if settings.volume_db <= FAINT_DB:
        fix = "raise [playback] volume_db by 3 at a time, each time with systemctl reload quietbox"
        return Finding("volume", WARN, f"{found}: almost inaudible", fix, figures)
    if settings.mixer == "off":
        found += ", which the box does not change"
    elif off:
        found += f"; the box sets {mixer.in_words([mixer.wanted(level) for level in off])} at its start"
    return Finding("volume", OK, found, figures=figures)


def _alive(probe: MicrophoneProbe, settings: CaptureConfig) -> Finding:
    figures = {"granted": probe.granted, "seconds": probe.seconds, "lost": probe.lost}
    if probe.lost or not probe.channels:
        fix = "check plug, cable and wiring; if it fails again, the card is broken or lacks power"
        found = f"the microphone {probe.lost or 'delivered too little sound to judge'} ({probe.granted})"
        return Finding("microphone", FAIL, found, fix, figures)
    mine = _chosen(probe, settings)
    best = max(range(len(probe.channels)), key=lambda channel: _loudness(probe.channels[channel]))
    channel = probe.channels[mine]
    other = f'set [capture] channel = {best + 1}, or "auto"'
    if channel.constant and not probe.channels[best].constant:
        found = f"wrong channel: {mine + 1} is dead, {best + 1} is live"
        return Finding("microphone", FAIL, found, other, figures)
    if channel.constant:
        wiring = "I2S: check 3.3 V, data on GPIO 20 and the L/R strap; USB: its switch and `alsamixer`"
        stuck = f"stuck at {channel.dc:+.3f}" if channel.dc else "silent: only zeros"
        return Finding("microphone", FAIL, f"the microphone is {stuck} ({probe.granted})", wiring, figures)
    ahead_db = probe.channels[best].level_dbfs - channel.level_dbfs
    if settings.channel != "mean" and 10 ** (ahead_db / 10) > LIVE_RATIO:
        found = f"probably the wrong channel: {best + 1} is {ahead_db:.0f} dB louder than {mine + 1}"
        return Finding("microphone", WARN, found, other, figures)
    return Finding("microphone", OK, f"alive ({probe.granted})", figures=figures)


def _level(probe: MicrophoneProbe, settings: CaptureConfig) -> Finding:
    channel, gain_db = probe.channels[_chosen(probe, settings)], settings.gain_db
    clips = max(each.clips for each in probe.channels) if settings.channel == "mean" else channel.clips
    peak_dbfs, loudest_dbfs = channel.peak_dbfs + gain_db, channel.loudest_dbfs + gain_db
    figures: dict[str, Any] = {
        "gain_db": gain_db,
        "level_dbfs": round(channel.level_dbfs + gain_db, 1),
        "loudest_dbfs": round(loudest_dbfs, 1),
        "peak_dbfs": round(peak_dbfs, 1),
        "dc": channel.dc,
        "clips": clips,
        "channels_dbfs": [each.level_dbfs for each in probe.channels],
    }
    found = (
        f"mean {figures['level_dbfs']:g} dBFS, loudest {LOUD} {loudest_dbfs:.1f}, peak {peak_dbfs:.1f}, "
        f"offset {channel.dc:+.4f}, gain {gain_db:g} dB"
    )
    if clips:
        fix = "turn the card's own capture level down (`alsamixer`), or stay farther from the microphone"
        return Finding("level", WARN, f"clipping, {clips} samples at full scale: {found}", fix, figures)
    if peak_dbfs > 0:
        less = max(-20.0, gain_db - peak_dbfs - 6)
        fix = f"set [capture] gain_db = {less:.0f}"
        return Finding("level", WARN, f"the gain makes peaks clip: {found}", fix, figures)
    if loudest_dbfs < QUIET_DBFS:
        more = min(GAIN_MAX_DB, gain_db + SPEECH_DBFS - loudest_dbfs)
        fix = f"if you spoke just now: set [capture] gain_db = {more:.0f}; if not, try again and speak"
        return Finding("level", WARN, f"very quiet: {found}", fix, figures)
    if abs(channel.dc) > OFFSET:
        fix = "a large offset reduces the headroom: use another microphone or a cleaner supply"
        return Finding("level", WARN, f"large offset: {found}", fix, figures)
    return Finding("level", OK, found, figures=figures)


def _rate(check: str, rate_hz: int, measured_hz: float, xruns: int) -> Finding:
    figures = {"rate_hz": rate_hz, "measured_hz": measured_hz, "xruns": xruns}
    lost = f", {xruns} xruns" if xruns else ""
    if not measured_hz:
        fix = "give it more time with --seconds"
        return Finding(check, WARN, f"{rate_hz} Hz nominal, too little sound to measure it{lost}", fix, figures)
    off = measured_hz / rate_hz - 1
    found = f"{rate_hz} Hz nominal, {measured_hz:.0f} Hz measured ({off:+.2%}){lost}"
    if abs(off) <= RATE_TOLERANCE:
        return Finding(check, OK, found, figures=figures)
    if xruns and off < 0:  # what is lost makes a rate look lower, never higher
        return Finding(check, WARN, found, "samples are lost: stop other programs and try again", figures)
    return Finding(
        check, FAIL, found, "the card's clock differs from its nominal rate: restart, or use another card", figures
    )


def rate_off(probe: MicrophoneProbe | OutputProbe) -> bool:
    return bool(probe.measured_hz) and abs(probe.measured_hz / probe.rate_hz - 1) > RATE_TOLERANCE


def _chosen(probe: MicrophoneProbe, settings: CaptureConfig) -> int:
    """The channel the box would use, from 0; of a mean the loudest."""
    if isinstance(settings.channel, int):
        return min(settings.channel, len(probe.channels)) - 1
    return max(range(len(probe.channels)), key=lambda channel: _loudness(probe.channels[channel]))


def _loudness(channel: ChannelLevels) -> tuple[bool, float]:
    return not channel.constant, channel.level_dbfs

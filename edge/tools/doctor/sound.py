"""What the sound cards do: microphone and output, probed in a process of their own, and the output's volume."""

import dataclasses
from collections.abc import Iterator

from edge.devices import cards
from edge.devices.pcm import Direction
from edge.tools.device_probe import MicrophoneProbe, OutputProbe
from edge.tools.doctor.cards import SERVERS, absent, find_card, stop_server
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import FAIL, OK, Finding
from edge.tools.doctor.running import running_side
from edge.tools.doctor.verdicts import (
    judge_bandwidth,
    judge_buffer,
    judge_microphone,
    judge_output,
    judge_volume,
    rate_off,
)
from edge.tools.probe_process import ProbeFailure

PLAY_S = 2.5


def no_sound(context: Context) -> Iterator[Finding]:
    yield Finding("sound", OK, "skipped, as requested")


def microphone(context: Context) -> Iterator[Finding]:
    yield from check_device(context, "capture", context.config.capture.device)


def output(context: Context) -> Iterator[Finding]:
    yield from check_device(context, "playback", context.config.output)


def volume(context: Context) -> Iterator[Finding]:
    """How loud it plays: by the settings, and by the card's own mixer."""
    if context.config.playback.device == "off":
        yield Finding("volume", OK, "the cable plays at full level; volume_db is for the jack")
    else:
        clock = cards.clock_of(context.config.output, "playback", context.proc)
        levels = context.read_mixer(clock) if context.here else []
        running = context.running if context.cards_in_use else {}
        yield judge_volume(context.config.playback, levels, running)


def check_device(context: Context, direction: Direction, device: str) -> Iterator[Finding]:
    """The card, then what it does."""
    word = "microphone" if direction == "capture" else "output"
    card = find_card(context, direction, device)
    if context.cards_in_use:
        yield card
        yield running_side(context.running, word, context.heard_enough)
        return
    if card.verdict is FAIL:
        yield card
        return
    result = _probe(context, direction, device)
    if not isinstance(result, ProbeFailure) and rate_off(result):
        result = _probe(context, direction, device)  # a busy moment looks like a wrong clock, but it passes
    if isinstance(result, ProbeFailure) and result.kind == "missing":
        yield dataclasses.replace(card, verdict=FAIL, found=result.text, fix=absent(context, direction, device))
        return
    yield card
    if isinstance(result, MicrophoneProbe):
        settings = dataclasses.replace(context.config.capture, channel=context.config.voice_channel)
        yield from judge_microphone(result, settings)
    else:
        yield judge_failure(word, result) if isinstance(result, ProbeFailure) else judge_output(result)
    if not isinstance(result, ProbeFailure):
        yield from judge_bandwidth(word, result.rate_hz)
        yield from judge_buffer(result)


def _probe(context: Context, direction: Direction, device: str) -> MicrophoneProbe | OutputProbe | ProbeFailure:
    if direction == "capture":
        settings = dataclasses.replace(context.config.capture, channel=context.config.voice_channel)
        return context.probe_microphone(settings, context.seconds)
    return context.probe_output(dataclasses.replace(context.config.playback, device=device), PLAY_S)


def judge_failure(word: str, failure: ProbeFailure) -> Finding:
    """Why a device could not be probed, and what to do."""
    server = next((name for name in SERVERS if f"{name} (" in failure.text), "")
    fix = {
        "busy": stop_server(server) if server else "stop that program, or choose another card in the settings",
        "hangs": "unplug the card and plug it in again, or restart: its driver does not respond",
        "died": "please report it",
    }.get(failure.kind, failure.fix or "choose another device of `quietbox devices`")
    found = f"the {word} {failure.text}" if failure.kind == "hangs" else failure.text
    return Finding(word, FAIL, found, fix, {"obstacle": failure.kind})

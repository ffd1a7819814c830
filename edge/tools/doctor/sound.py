"""What the sound cards do: microphone and output tried in a process of their own, and the output's volume."""

import dataclasses
from collections.abc import Iterator

from edge.devices import cards
from edge.devices.pcm import Direction
from edge.tools.device_probe import MicrophoneProbe, OutputProbe, ProbeFailure
from edge.tools.doctor.cards import SERVERS, absent, find_card, stop_server
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import FAIL, OK, Finding
from edge.tools.doctor.running import running_side
from edge.tools.doctor.verdicts import judge_microphone, judge_output, judge_volume, rate_off

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
        levels = context.mixer(clock) if context.here else []
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
    told = _probe(context, direction, device)
    if not isinstance(told, ProbeFailure) and rate_off(told):
        told = _probe(context, direction, device)  # a busy moment looks like a wrong clock, but it passes
    if isinstance(told, ProbeFailure) and told.kind == "missing":
        yield dataclasses.replace(card, verdict=FAIL, found=told.text, fix=absent(context, direction, device))
        return
    yield card
    if isinstance(told, MicrophoneProbe):
        hears = dataclasses.replace(context.config.capture, channel=context.config.voice_channel)
        yield from judge_microphone(told, hears)
    else:
        yield judge_failure(word, told) if isinstance(told, ProbeFailure) else judge_output(told)


def _probe(context: Context, direction: Direction, device: str) -> MicrophoneProbe | OutputProbe | ProbeFailure:
    if direction == "capture":
        hears = dataclasses.replace(context.config.capture, channel=context.config.voice_channel)
        return context.listen(hears, context.seconds)
    return context.play(dataclasses.replace(context.config.playback, device=device), PLAY_S)


def judge_failure(word: str, trouble: ProbeFailure) -> Finding:
    """Why a device could not be tried, and what to do."""
    server = next((name for name in SERVERS if f"{name} (" in trouble.text), "")
    fix = {
        "busy": stop_server(server) if server else "stop that program, or choose another card in the settings",
        "refused": "run it with sudo; or choose another device of `quietbox devices`",
        "hangs": "unplug the card and plug it in again, or restart: its driver does not respond",
    }.get(trouble.kind, "please report it")
    if trouble.kind == "refused" and "group audio" in trouble.text:
        fix = "sudo usermod -aG audio YOU and log in again, or run it with sudo"
    return Finding(word, FAIL, f"the {word} {trouble.text}" if trouble.kind == "hangs" else trouble.text, fix)

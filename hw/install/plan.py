"""The plan of an install: the steps that are not done yet, what to know before, and doing them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from edge import UserError
from edge.devices import cards
from edge.devices.pcm import Direction
from hw.board import boards, bootconfig
from hw.install import firmware, i2s, program, settings, sound_cards, system, wheels
from hw.install.places import COMMAND, CURRENT, RELEASE, SERVICE
from hw.install.target import Step, Target, do_steps, list_steps, read_text, say

SOUND_SERVERS = ("pipewire", "wireplumber", "pulseaudio", "jackd", "jackdbus")


def install(target: Target) -> int:
    if target.options.usb_microphone and target.board.is_pi and target.board.kind.usb_device is False:
        raise UserError(
            f"the {target.board.model} has no USB port with device mode, so --usb-microphone is not possible"
        )
    if target.live and not target.board.is_pi and not target.options.board and not target.options.dry_run:
        raise UserError("this is not a Raspberry Pi; use --board to install the service anyway")
    target.i2s = i2s.decide(target)
    for line in boards.in_words(target.board) if target.live else [f"installing below {target.root}"]:
        say(line)
    for line in remarks(target):
        say(line)
    steps = plan(target)
    list_steps(steps)
    if target.options.dry_run:
        return 0
    target.check_root()
    with target.alone():
        if steps:
            target.ledger.begin()
        do_steps(steps)
        target.ledger.settle()
    say("installed" if steps else "nothing to do: everything is up to date")
    if target.reboot:
        say("config.txt changed: reboot so that the cards appear (sudo reboot)")
    ask_doctor(target)
    return 0


def plan(target: Target) -> list[Step]:
    """The steps that are not done yet, in the order in which the old version stays whole until the new one is."""
    folder, built = program.folder_of(target)
    steps = [*program.steps(target, folder, built), *settings.steps(target), *program.entering(target, folder)]
    steps += [*program.command(target), *system.steps(target), *system.account(target), *system.enabling(target)]
    steps += [*firmware.steps(target), *system.release_cards(target)]
    if target.systemd and (steps or target.ledger.pending or not system.active()):
        steps.append(Step(f"start {SERVICE}, now and at every power-on", lambda: system.start(target)))
    steps += [*program.old_versions(target, folder)]
    return steps


def remarks(target: Target) -> Iterator[str]:
    """What the plan cannot fix and the user should know."""
    if target.ledger.pending:
        yield "an earlier run was interrupted; this run completes it"
    outputs = sound_cards.labels(target, "playback")
    if target.board.kind.jack is False:
        there = f"outputs found: {', '.join(outputs)}" if outputs else "no output is plugged in yet"
        yield f"no headphone jack on this board: {there}; use a USB headset, a USB dongle or an I2S DAC"
    directions: tuple[tuple[str, Direction], ...] = (("microphones", "capture"), ("outputs", "playback"))
    for kind, direction in directions:
        names = sound_cards.labels(target, direction)
        if len(names) > 1:
            best = cards.best_card(target.cards, direction)
            port = cards.best_port(best, direction) if best else None
            taken = cards.label(best, port) if best and port else "none"
            yield (f"several {kind}: {', '.join(names)}; auto selects {taken}; name another in the settings if needed")
    package, why = boards.gpio_package(target.board)
    yield f"LED and button through {package}: {why}"
    text = read_text(path) if (path := bootconfig.find(target.root)) else ""
    if target.board.kind.jack and bootconfig.audio(text, target.board.model) is False:
        yield f"{target.named(path) if path else 'config.txt'} switches the jack off (dtparam=audio=off)"
    yield from i2s.remarks(target)
    lacking = wheels.without(target.at(CURRENT))
    if lacking and not target.options.again:
        yield f"installed without {', '.join(lacking)}; try again with --again"
    servers = sorted(set(_sound_servers(target.at("proc"))))
    if servers and not target.at(RELEASE).exists():
        yield (
            f"{', '.join(servers)} may occupy the cards; ./install.sh --release-cards prevents it (the desktop "
            "then has no sound on them)"
        )


def ask_doctor(target: Target) -> None:
    """The last word is the doctor's; what it finds missing does not undo the install."""
    if not target.systemd:
        return
    say("quietbox doctor")
    try:
        status = subprocess.run([f"/{COMMAND}", "doctor"], cwd="/", timeout=300).returncode
    except (OSError, subprocess.TimeoutExpired):
        status = 1
    say("the box works" if status == 0 else "installed, but the box does not work yet: see the doctor's rows above")


def _sound_servers(proc: Path) -> Iterator[str]:
    for name in proc.glob("[0-9]*/comm"):
        try:
            if (called := name.read_text().strip()) in SOUND_SERVERS:
                yield called
        except OSError:  # ended meanwhile
            continue

"""`quietbox doctor`: every check in its order, as a table or as JSON."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from edge.console import printable, step
from edge.tools.doctor import cards, i2s, machine, service, settings, sound
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import FAIL, OK, WARN, Finding

Check = Callable[[Context], Iterator[Finding]]
MACHINE: tuple[Check, ...] = (
    machine.board_in_words,
    i2s.bus,
    machine.power_and_heat,
    machine.governor,
    machine.storage,
)
PROGRAM: tuple[Check, ...] = (
    settings.settings,
    service.service,
    service.real_time,
    settings.model,
    settings.engine,
)
SOUND: tuple[Check, ...] = (cards.sound_servers, sound.microphone, sound.output, sound.volume, cards.cable)


def examine(context: Context, report: Callable[[Finding], None] = lambda finding: None) -> list[Finding]:
    """Every check; ``report`` gets each finding as soon as it is made. Never raises."""
    found = []
    for check in checks(context.sound):
        step(f"checking: {check.__name__.replace('_', ' ')} ...")
        try:
            findings = list(check(context))
        except Exception as fault:  # broken machines are what this is for
            name = check.__name__.replace("_", " ")
            error = " ".join(f"{type(fault).__name__}: {fault}".split())[:200]
            findings = [Finding(name, WARN, f"this check failed with an error ({error})", "please report it")]
        for finding in findings:
            report(finding)
        found += findings
    step("")
    return found


def checks(use_sound: bool) -> tuple[Check, ...]:
    """In their order: the settings come before what depends on them, the service before what it may hold."""
    return (*MACHINE, *PROGRAM, *(SOUND if use_sound else (sound.no_sound,)), i2s.pins, machine.panel)


def collect(config_path: Path | None, target: Path, *, seconds: float, sound: bool, clip_s: float | None) -> int:
    """Examine this machine and write an archive for a bug report; returns 0 once it is written. Raises UserError."""
    from edge import config_file
    from edge.files import atomic
    from edge.tools.doctor import bundle

    atomic.refuse_overwriting(target, [config_path], "--bundle")
    recording = None
    if clip_s is not None:
        bundle.ask_for_consent(clip_s)
        recording = bundle.clip(config_file.find(config_path).capture, clip_s)
    findings = examine(Context(config_path, seconds=seconds, sound=sound))
    for line in bundle.write(target, config_path, findings, recording):
        print(line)
    print(f"{target}: look through it before you send it; nothing was sent")
    return 0


def show(config_file: Path | None, *, seconds: float, as_json: bool, sound: bool) -> int:
    """Examine this machine and print the table, or JSON; returns 0 if the box would work here, else 1."""
    if sound and sys.stderr.isatty():
        print(f"listening for {seconds:g} s; please speak normally", file=sys.stderr)
    findings = examine(Context(config_file, seconds=seconds, sound=sound))
    failed = list(dict.fromkeys(finding.check for finding in findings if finding.verdict is FAIL))
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2, default=str))
    else:
        _print_table(findings)
        works = "The box works here." if sound else "Nothing is wrong so far; the sound cards were not tried."
        print(f"The box would not work: {', '.join(failed)}." if failed else works)
    return 1 if failed else 0


def _print_table(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from edge.tools import tables

    table = Table()
    for name in ("check", "verdict", "found", "fix"):
        table.add_column(name)
    colours = {OK: "green", WARN: "yellow", FAIL: "bold red"}
    for finding in findings:
        verdict = Text(finding.verdict, style=colours[finding.verdict])
        words = (Text(printable(text)) for text in (finding.found, finding.fix))
        table.add_row(Text(finding.check), verdict, *words)
    tables.show(table)

"""What the box would run with: the settings file, the model's files, the engine and the time it takes."""

import dataclasses
import os
from collections.abc import Iterator

from edge.config_file import SYSTEM_FILE, BadConfig, load
from edge.files import changeable_by_others
from edge.tools import probe_process
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import FAIL, OK, WARN, Finding
from edge.tools.doctor.running import HOP_US, TIGHT_US, running_engine
from edge.tools.probe_process import ProbeFailure

BENCH_S = 1.0
ENGINES_LIMIT_S = 90.0
"""The test of ONNX Runtime in a process of its own may alone take 30 s on a slow board."""


def settings(context: Context) -> Iterator[Finding]:
    file = context.config_file or context.root / SYSTEM_FILE.relative_to("/")
    if context.config_file is None and not os.path.lexists(file):
        yield Finding("settings", OK, f"no {file}: all settings have their defaults")
    elif file.exists() and not file.is_file():
        yield Finding("settings", FAIL, f"{file} is not a file", "write the settings there or remove it")
    else:
        try:
            context.config = load(file)
        except BadConfig as error:
            for line in error.lines:
                yield Finding("settings", FAIL, line, "fix that line; the rows below use the defaults")
            return
        risk = changeable_by_others(file, file.stat()) if context.config_file is None else ""
        if risk:
            found, _, fix = risk.rpartition(": ")
            yield Finding("settings", WARN, f"{file} is valid, but {found}", fix)
        else:
            yield Finding("settings", OK, f"{file} is valid")


def model(context: Context) -> Iterator[Finding]:
    from edge.suppress.open import BadModel, files_with_cards

    refused, checked = [], []
    for model, suffix in files_with_cards(context.config.suppress.engine, context.config.suppress.model):
        try:
            model.read(suffix)
            checked.append(model.file(suffix).name)
        except BadModel as error:
            refused.append(str(error))
    figures = {"checked": checked}
    if refused:
        yield Finding("model", WARN, "; ".join(refused), "the next engine takes over; reinstall Quietbox", figures)
    else:
        yield Finding(
            "model", OK, f"as listed on the model card: {', '.join(checked) or 'none needed'}", figures=figures
        )


def engine(context: Context) -> Iterator[Finding]:
    if context.cards_in_use:
        yield running_engine(context.running, context.heard_enough)
        return
    settings = context.config.suppress
    arguments = {"suppress": dataclasses.asdict(settings), "priority": context.config.box.priority, "seconds": BENCH_S}
    answer = probe_process.run_in_child("engines", arguments, limit_s=ENGINES_LIMIT_S)
    if isinstance(answer, ProbeFailure):
        yield Finding("engine", FAIL, f"no engine could be run: {answer.text}", "reinstall Quietbox")
        return
    times, ours, notes = answer["times"], answer["times"][answer["engine"]], answer["notes"]
    figures = {name: round(row["p99_us"]) for name, row in times.items()}
    found = f"{answer['engine']}: {ours['p50_us']:.0f} µs a hop, p99 {ours['p99_us']:.0f} µs of {HOP_US:.0f}"
    found += f" ({'; '.join(notes)})" if notes else ""
    quick = [name for name, row in times.items() if row["p99_us"] < TIGHT_US and name != "off"]
    if ours["p99_us"] < TIGHT_US:
        broken = [note for note in notes if "is not installed" not in note]
        fix = "reinstall Quietbox; until then the engine shown is used" if broken else ""
        yield Finding("engine", WARN if broken else OK, found, fix, figures)
    elif times["off"]["real_time_factor"] >= 1:
        yield Finding("engine", FAIL, f"{found}: no engine is fast enough here", "use a faster board", figures)
    else:
        fix = f'set [suppress] engine = "{quick[0]}"' if quick else "stop other programs, or use a faster board"
        yield Finding("engine", WARN, f"{found}: too slow: the box would fall back to a simpler engine", fix, figures)

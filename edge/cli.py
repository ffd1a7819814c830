"""The command `quietbox`: one function a verb. Every trouble a user can mend is one line and a non-zero exit.

What a verb needs is imported when it runs: SciPy takes seconds on a Pi, and `status` needs none of it.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import UserError, config
from edge.config import Config

if TYPE_CHECKING:
    from rich.table import Table

    from edge.cards import Card
    from edge.enhance import Enhanced


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 it could not be done, 2 the call was wrong."""
    options = _parser().parse_args(arguments)
    try:
        status = int(options.verb(options))
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"quietbox: {error}", file=sys.stderr)
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        _drop_output()
        print(f"quietbox: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("quietbox: interrupted", file=sys.stderr)
        return 130
    return 1


def run(options: argparse.Namespace) -> int:
    """Microphone to jack until SIGTERM."""
    return _serve(lambda: _config(options), options.seconds)


def passthrough(options: argparse.Namespace) -> int:
    """The same with every stage off but the limiter: does the sound get through at all?"""

    def bare() -> Config:
        chosen = _config(options)
        return replace(
            chosen,
            feedforward=replace(chosen.feedforward, highpass_hz=0, mains="off"),
            suppress=replace(chosen.suppress, engine="off"),
            eq=replace(chosen.eq, gain_db=0.0),
            gate=replace(chosen.gate, on=False),
        )

    return _serve(bare, options.seconds)


def _serve(load: Callable[[], Config], seconds: float | None) -> int:
    for early in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(early, signal.SIG_IGN)  # a button pressed while we still start must not end us
    from edge.service import Service

    return Service(load).run(seconds)


def devices(options: argparse.Namespace) -> int:
    """What sound cards there are."""
    from rich.console import Console

    from edge import cards

    found = cards.list_cards()
    named = {direction: cards.list_pcms(direction) for direction in ("capture", "playback")}
    if options.json:
        print(json.dumps({"cards": [dataclasses.asdict(card) for card in found], "named": named}, indent=2))
        return 0
    if found:
        Console().print(_devices_table(found))
    else:
        print("no sound cards: the kernel knows none (/proc/asound is empty or missing)")
    for direction, names in named.items():
        print(f"further ALSA names for {direction}: {', '.join(names) or 'none'}")
    return 0


def enhance_files(options: argparse.Namespace) -> int:
    """Clean sound files through the live chain."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from edge import enhance

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # on the way out, half-written files are removed
    chosen = _config(options)
    jobs = enhance.find_sounds([Path(name) for name in options.inputs], Path(options.output))
    done: list[enhance.Enhanced] = []
    failed = 0
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        for source, target in jobs:
            task = bar.add_task(source.name, total=1.0)

            def progress(frames: int, total: int, task: Any = task) -> None:
                bar.update(task, completed=frames / max(total, 1))

            try:
                done.append(enhance.enhance_file(source, target, chosen, channel=options.channel, progress=progress))
            except enhance.BadSound as error:
                failed += 1
                print(f"quietbox: {error}", file=sys.stderr)
            bar.remove_task(task)
    if done:
        _tell_notes(chosen, chosen.suppress.engine)
    if options.json:
        print(json.dumps([dataclasses.asdict(result) for result in done], indent=2))
    else:
        for result in done:
            print(_in_words(result))
    return 1 if failed else 0


def _in_words(result: "Enhanced") -> str:
    unsound = f", {result.unsound_samples} samples were no numbers" if result.unsound_samples else ""
    speed = 1 / max(result.real_time_factor, 1e-9)
    return (
        f"{result.target}: {result.seconds:g} s, level {result.level_in_dbfs:g} -> {result.level_out_dbfs:g} dBFS, "
        f"pauses {result.noise_removed_db:g} dB quieter, {speed:.0f} x real time{unsound}"
    )


def measure_latency(options: argparse.Namespace) -> int:
    """The delay from microphone to jack, measured and by the budget."""
    from rich.console import Console
    from rich.table import Table

    from edge import latency

    result = latency.measure(_config(options))
    if options.json:
        print(json.dumps({**dataclasses.asdict(result), "budget_ms": result.budget_ms}, indent=2))
        return 0
    table = Table(title="microphone to jack", title_justify="left")
    table.add_column("part")
    table.add_column("ms", justify="right")
    for name in ("capture", "hop", "transform", "limiter", "playback"):
        table.add_row(name, f"{getattr(result, f'{name}_ms'):.1f}")
    table.add_row("budget", f"{result.budget_ms:.1f}", style="bold")
    table.add_row("measured", f"{result.measured_ms:.1f}", style="bold")
    table.add_row("spread of the chirps", f"{result.spread_ms:.1f}")
    Console().print(table)
    if result.xruns:
        print(f"{result.xruns} xruns while measuring: the figure may be off")
    return 0


def measure_speed(options: argparse.Namespace) -> int:
    """Time per hop."""
    from rich.console import Console
    from rich.table import Table

    from edge import bench

    chosen = _config(options)
    _tell_notes(chosen, "auto")
    rows = bench.bench_engines(chosen, options.seconds) + bench.bench_stages(chosen, options.seconds)
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return 0
    table = Table(title=f"time per 5 ms hop, {options.seconds:g} s of sound", title_justify="left")
    table.add_column("what")
    for name in ("p50 us", "p99 us", "p99.9 us", "max us", "of real time"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = (row.p50_us, row.p99_us, row.p999_us, row.max_us)
        table.add_row(row.name, *(f"{figure:.0f}" for figure in figures), f"{row.real_time_factor:.2%}")
    Console().print(table)
    return 0


def status(options: argparse.Namespace) -> int:
    """What the running box says of itself."""
    from edge import runtime

    found = runtime.read_status()
    if options.json:
        print(json.dumps(found))
    elif found is None:
        print("quietbox is not running")
    else:
        print(runtime.in_words(found))
    return 0 if found else 1


def report(options: argparse.Namespace) -> int:
    """The last day as a page to look at."""
    from edge import history

    if options.file is None:
        text = history.from_journal(options.hours)
    elif options.file == "-":
        text = sys.stdin.buffer.read().decode(errors="replace")
    else:
        text = Path(options.file).read_text(encoding="utf-8", errors="replace")
    history.write(text, options.output)
    print(options.output)
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Would the box work here?"""
    from edge import doctor

    return doctor.show(options.config, seconds=options.seconds, as_json=options.json, sound=not options.no_sound)


def _config(options: argparse.Namespace) -> Config:
    """The settings file, with what the command line says on top."""
    chosen = config.find(options.config)
    if getattr(options, "engine", None):
        chosen = replace(chosen, suppress=replace(chosen.suppress, engine=options.engine))
    if getattr(options, "limit_db", None) is not None:
        chosen = replace(chosen, suppress=replace(chosen.suppress, limit_db=options.limit_db))
    return chosen


def _tell_notes(chosen: Config, engine: str) -> None:
    """Why an engine is not what one might expect, on stderr."""
    from edge.suppress import open_engine

    for note in open_engine(engine, chosen.suppress.limit_db, chosen.suppress.model).notes:
        print(f"quietbox: {note}", file=sys.stderr)


def _drop_output() -> None:
    """Nobody reads it any more, and Python must not try to flush it at the end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _devices_table(found: "list[Card]") -> "Table":
    from rich.table import Table

    table = Table()
    for name in ("card", "direction", "looks like", "formats", "rates Hz", "channels", "held by"):
        table.add_column(name)
    for card in found:
        for port in card.ports:
            rates = (" to " if port.any_rate_between else " ").join(str(rate) for rate in port.rates_hz)
            channels = " ".join(str(count) for count in port.channels)
            held = port.held_by or port.note
            table.add_row(card.id, port.direction, port.looks_like, " ".join(port.formats), rates, channels, held)
    return table


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is no length of time in seconds")
    return value


def _listening(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 60 s")
    return value


def _hours(text: str) -> float:
    value = float(text)
    if not 0 < value <= 24 * 366:
        raise argparse.ArgumentTypeError(f"{text} is no length of time in hours, at most a year")
    return value


def _limit_db(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100 dB")
    return value


def _channel(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("channels count from 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quietbox", description="Removes noise from speech in real time.")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, function: Any, text: str, *, as_json: bool = False) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.set_defaults(verb=function)
        made.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default: {config.SYSTEM_FILE})")
        if as_json:
            made.add_argument("--json", action="store_true", help="print JSON instead of words")
        return made

    for name, function, text in (
        (
            "run",
            run,
            "microphone to jack until SIGTERM; SIGUSR1 toggles bypass, SIGUSR2 mutes, SIGHUP reads the settings",
        ),
        ("passthrough", passthrough, "microphone to jack with nothing in between but the limiter"),
    ):
        made = verb(name, function, text)
        made.add_argument("--seconds", type=_seconds, metavar="N", help="stop after N seconds")
    verb("devices", devices, "sound cards by id: formats, rates, what they look like, who holds them", as_json=True)
    made = verb("enhance", enhance_files, "clean sound files exactly as the live box would", as_json=True)
    made.add_argument("inputs", nargs="+", metavar="IN", help="sound files, or folders of them")
    made.add_argument("-o", "--output", required=True, metavar="OUT", help="a file for one input, else a folder")
    made.add_argument("--engine", choices=config.ENGINES, help="which suppressor")
    made.add_argument("--limit-db", type=_limit_db, metavar="N", help="the most that noise is turned down")
    made.add_argument(
        "--channel", type=_channel, default=0, metavar="N", help="take channel N (from 1); default: mix all"
    )
    verb("latency", measure_latency, "plays chirps, hears them again, prints measured and budgeted delay", as_json=True)
    made = verb("bench", measure_speed, "time per hop of each engine and stage on this machine", as_json=True)
    made.add_argument("--seconds", type=_seconds, default=20.0, metavar="N", help="how much sound to process (20)")
    verb("status", status, "what the running box is doing", as_json=True)
    made = verb("report", report, "the last day from the journal as one HTML page")
    made.add_argument("--hours", type=_hours, default=24.0, metavar="N", help="how far back (24)")
    made.add_argument(
        "-o", "--output", type=Path, default=Path("quietbox-report.html"), metavar="OUT", help="quietbox-report.html"
    )
    made.add_argument("--file", metavar="JSON", help="what `journalctl -u quietbox -o json` wrote; - is standard input")
    made = verb("doctor", doctor, "checks everything the box needs and says how to mend what is wrong", as_json=True)
    made.add_argument("--seconds", type=_listening, default=5.0, metavar="N", help="how long to listen (5; 1 to 60)")
    made.add_argument("--no-sound", action="store_true", help="leave the sound cards alone")
    return parser


if __name__ == "__main__":
    sys.exit(main())

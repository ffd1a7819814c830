"""The command `quietbox`: one function a verb. Every trouble a user can mend is one line and a non-zero exit.

What a verb needs is imported when it runs: SciPy takes seconds on a Pi, and `status` needs none of it.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import UserError, config_file, console, engines
from edge.config import Config

if TYPE_CHECKING:
    from rich.table import Table

    from edge.devices.cards import Card
    from edge.tools.enhance import Enhanced


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 it could not be done, 2 the call was wrong."""

    def verb() -> int:
        options = _parser().parse_args(arguments)
        return int(options.verb(options))

    return console.guarded(verb)


def run(options: argparse.Namespace) -> int:
    """Microphone to jack until SIGTERM."""
    return _serve(lambda: _config(options), options.seconds)


def passthrough(options: argparse.Namespace) -> int:
    """The same with every stage off but the limiter: does the sound get through at all?"""

    def bare() -> Config:
        chosen = _config(options)
        return replace(
            chosen,
            capture=replace(chosen.capture, channel=chosen.voice_channel),
            reference=replace(chosen.reference, channel=0),
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

    from edge.devices import alsa, cards

    found = cards.list_cards(open_device=alsa.open_pcm)
    named = {direction: alsa.list_pcms(direction) for direction in ("capture", "playback")}
    if options.json:
        print(json.dumps({"cards": [dataclasses.asdict(card) for card in found], "named": named}, indent=2))
        return 0
    if found:
        Console().print(_devices_table(found))
    else:
        print("no sound cards: the kernel lists none (/proc/asound is empty or missing)")
    for direction, names in named.items():
        print(f"further ALSA names for {direction}: {', '.join(names) or 'none'}")
    return 0


def enhance_files(options: argparse.Namespace) -> int:
    """Clean sound files through the live chain."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from edge.tools import enhance

    console.leave_on_signals()  # on the way out, half-written files are removed
    chosen = _config(options)
    if chosen.suppress.engine == "remote":
        raise UserError(
            "a file is processed faster than it can be sent: run `quietbox enhance` on the other machine, or add "
            "--engine"
        )
    jobs = enhance.find_sounds([Path(name) for name in options.inputs], Path(options.output))
    done: list[enhance.Enhanced] = []
    failed = 0
    screen = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as bar:
        for source, target in jobs:
            task = bar.add_task(console.printable(source.name), total=1.0)

            def progress(frames: int, total: int, task: Any = task) -> None:
                bar.update(task, completed=frames / max(total, 1))

            try:
                done.append(
                    enhance.enhance_file(
                        source,
                        target,
                        chosen,
                        channel=options.channel,
                        reference=options.reference,
                        progress=progress,
                    )
                )
            except enhance.BadSound as error:
                failed += 1
                console.complain(str(error))
            bar.remove_task(task)
    if done:
        _tell_notes(chosen)
    if options.json:
        print(json.dumps([dataclasses.asdict(result) for result in done], indent=2))
    else:
        for result in done:
            print(console.printable(_in_words(result)))
    return 1 if failed else 0


def _in_words(result: "Enhanced") -> str:
    unsound = f", {result.unsound_samples} samples were NaN or infinite" if result.unsound_samples else ""
    speed = 1 / max(result.real_time_factor, 1e-9)
    reference = ""
    if result.reference:
        reference = f", reference {result.reference}, {result.reference_removed_db:g} dB of it"
    removed = (
        "no pauses" if result.noise_removed_db is None else (f"noise in pauses {result.noise_removed_db:g} dB lower")
    )
    return (
        f"{result.target}: {result.seconds:g} s, level {result.level_in_dbfs:g} -> {result.level_out_dbfs:g} dBFS, "
        f"{removed}{reference}, {speed:.0f} x real time{unsound}"
    )


def measure_latency(options: argparse.Namespace) -> int:
    """The delay from microphone to jack, measured and by the budget."""
    from rich.console import Console
    from rich.table import Table

    from edge.tools import latency

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
    table.add_row("spread between chirps", f"{result.spread_ms:.1f}")
    Console().print(table)
    if result.xruns:
        print(f"{result.xruns} xruns while measuring: the figure may be off")
    return 0


def calibrate_path(options: argparse.Namespace) -> int:
    """The way from output to microphone, for the anti-noise."""
    from edge.tools import calibrate

    chosen = _config(options)
    file = Path(options.output or chosen.antinoise.calibration)
    level_dbfs = min(options.level_dbfs, calibrate.highest_level_dbfs(chosen))
    if not options.json:
        if level_dbfs < options.level_dbfs:
            print(f"limiter.peak_dbfs is {chosen.limiter.peak_dbfs:g}, so the sweeps are played at {level_dbfs:g} dBFS")
        print(f"{calibrate.SWEEPS} sweeps at {level_dbfs:g} dBFS; wear microphone and headphone as in use")
    found = calibrate.calibrate(chosen, file, level_dbfs)
    if options.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return 0
    print(
        f"{found.file}: heard after {found.delay_ms:.1f} ms (spread {found.spread_ms:.1f} ms), "
        f"{found.signal_to_noise_db:.0f} dB above the noise, loudest at {found.loudest_hz:.0f} Hz "
        f"with {found.gain_db:.0f} dB"
    )
    if not chosen.antinoise.on:
        print("anti-noise is off; if the microphone is at the ear, set on = true in [antinoise]")
    return 0


def measure_speed(options: argparse.Namespace) -> int:
    """Time per hop."""
    from rich.console import Console
    from rich.table import Table

    from edge.tools import bench

    chosen = _config(options)
    if options.engines:
        return _compare_engines(options, chosen)
    _tell_notes(_with_engine(chosen, "auto"))
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


def _compare_engines(options: argparse.Namespace, chosen: Config) -> int:
    """Engines side by side; what cannot be opened is a line on stderr."""
    from rich.console import Console
    from rich.table import Table

    from edge.tools import bench

    rows: list[bench.Examined] = []
    for _, found in bench.examine_engines(chosen, options.seconds, bench.engines_named(options.engines)):
        if isinstance(found, str):
            print(f"quietbox: {found}", file=sys.stderr)
        else:
            rows.append(found)
    if options.json:
        told = [
            {key: None if figure != figure else figure for key, figure in dataclasses.asdict(row).items()}
            for row in rows
        ]
        print(json.dumps(told, indent=2))
        return 0 if rows else 1
    table = Table(title=f"engines, {options.seconds:g} s of sound each in 5 ms hops", title_justify="left")
    table.add_column("engine")
    for name in ("latency ms", "measured ms", "p50 us", "p99 us", "max us", "of real time", "weights KB", "memory MB"):
        table.add_column(name, justify="right")
    for row in rows:
        times = (f"{row.p50_us:.0f}", f"{row.p99_us:.0f}", f"{row.max_us:.0f}", f"{row.real_time_factor:.2%}")
        weights = f"{row.weights_kb:.0f}" if row.weights_kb == row.weights_kb else "-"
        table.add_row(
            row.name, f"{row.latency_ms:.2f}", f"{row.measured_ms:.2f}", *times, weights, f"{row.memory_mb:.0f}"
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0 if rows else 1


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
    from edge.files import atomic
    from edge.tools import report

    records = Path(options.file) if options.file not in (None, "-") else None
    atomic.refuse_overwriting(options.output, [records, options.config])
    if options.file is None:
        text = report.from_journal(options.hours)
    else:
        text = report.from_file(options.file, sys.stdin.buffer)
    report.write(text, options.output)
    if not atomic.is_special(options.output):  # the page itself may have gone to standard output
        print(options.output)
    return 0


def serve(options: argparse.Namespace) -> int:
    """The noise suppressor for another program, or for other boxes."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # our matrices are small: more threads take longer, as in the service's unit
    from edge.serve import bridge

    chosen = _config(options)
    given = {"host": options.host, "rate_hz": options.rate, "key_file": options.key, "clients_file": options.clients}
    chosen = replace(
        chosen, bridge=replace(chosen.bridge, **{name: value for name, value in given.items() if value is not None})
    )
    if chosen.suppress.engine == "remote":
        raise UserError("serve cannot forward to another server; choose another --engine than remote")
    if options.bench:
        return _bench_bridge(options, chosen)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.seconds is not None:
        timer = threading.Timer(options.seconds, stop.set)
        timer.daemon = True
        timer.start()

    def say(sentence: str) -> None:
        print(f"quietbox: {sentence}", file=sys.stderr, flush=True)

    if options.boxes:
        bridge.serve_boxes(chosen, say, stop)
    else:
        bridge.serve(chosen, say, stop, options.chain)
    return 0


def _bench_bridge(options: argparse.Namespace, chosen: Config) -> int:
    from edge.serve import bridge_bench

    seconds = 600.0 if options.seconds is None else options.seconds
    result = bridge_bench.bench(chosen, seconds, options.config)
    if options.json:
        print(json.dumps(dataclasses.asdict(result), indent=2))
    else:
        print(
            f"{result.engine}: {result.chunks} chunks of {bridge_bench.CHUNK_SAMPLES} samples at "
            f"{chosen.bridge.rate_hz} Hz in {result.seconds:g} s, {result.dropped} dropped "
            f"({result.dropped / result.chunks:.2%}), {result.late} later than {bridge_bench.LATE_MS:g} ms; "
            f"round trip {result.p50_ms:g} ms (p50), {result.p99_ms:g} (p99), {result.max_ms:g} (max)"
        )
    return 1 if result.dropped or result.wrong_length else 0


def make_keys(options: argparse.Namespace) -> int:
    """A CURVE key pair: the secret one into a file, the public one to see."""
    from edge.net import keys

    print(keys.make(options.file))
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Would the box work here?"""
    from edge.tools.doctor.command import show

    return show(options.config, seconds=options.seconds, as_json=options.json, sound=not options.no_sound)


def _config(options: argparse.Namespace) -> Config:
    """The settings file, with what the command line says on top."""
    chosen = config_file.find(options.config)
    if getattr(options, "engine", None):
        chosen = _with_engine(chosen, options.engine)
    if getattr(options, "limit_db", None) is not None:
        chosen = replace(chosen, suppress=replace(chosen.suppress, limit_db=options.limit_db))
    return chosen


def _with_engine(chosen: Config, engine: str) -> Config:
    return replace(chosen, suppress=replace(chosen.suppress, engine=engine))


def _tell_notes(chosen: Config) -> None:
    """Why an engine is not what one might expect, on stderr."""
    from edge.suppress import open_configured

    for note in open_configured(chosen).notes:
        print(f"quietbox: {note}", file=sys.stderr)


def _devices_table(found: "list[Card]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("card", "direction", "looks like", "formats", "rates Hz", "channels", "held by"):
        table.add_column(name)
    for card in found:
        for port in card.ports:
            rates = (" to " if port.any_rate_between else " ").join(str(rate) for rate in port.rates_hz)
            channels = " ".join(str(count) for count in port.channels)
            held = port.held_by or port.note
            cells = (card.id, port.direction, port.looks_like, " ".join(port.formats), rates, channels, held)
            table.add_row(*(Text(console.printable(cell)) for cell in cells))  # a process may have any name
    return table


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a duration in seconds")
    return value


def _listening(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 60 s")
    return value


def _hours(text: str) -> float:
    value = float(text)
    if not 0 < value <= 24 * 366:
        raise argparse.ArgumentTypeError(f"{text} is not a duration in hours of at most a year")
    return value


def _limit_db(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100 dB")
    return value


def _rate(text: str) -> int:
    value = int(text)
    if not 8000 <= value <= 192_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 8000 and 192000 Hz")
    return value


def _level_dbfs(text: str) -> float:
    value = float(text)
    if not -60 <= value <= -6:
        raise argparse.ArgumentTypeError(f"{text} is not between -60 and -6 dBFS")
    return value


def _channel(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("channels are numbered from 1")
    return value


class _Version(argparse.Action):
    """Read when it is asked for: the package's metadata take 20 ms, and more on a Pi."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        try:
            print(f"quietbox {metadata.version('quietbox')}")
        except metadata.PackageNotFoundError:
            print("quietbox, run from a folder in which it is not installed")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="quietbox", description="Removes noise from speech in real time.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, function: Any, text: str, *, as_json: bool = False) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.set_defaults(verb=function)
        made.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default: {config_file.SYSTEM_FILE})")
        if as_json:
            made.add_argument("--json", action="store_true", help="print JSON instead of text")
        return made

    for name, function, text in (
        (
            "run",
            run,
            "microphone to jack until SIGTERM; SIGUSR1 toggles bypass, SIGUSR2 mutes, SIGHUP reads the settings",
        ),
        ("passthrough", passthrough, "microphone to jack through the limiter only"),
    ):
        made = verb(name, function, text)
        made.add_argument("--seconds", type=_seconds, metavar="N", help="stop after N seconds")
    verb("devices", devices, "lists sound cards by id: formats, rates, kind, which process uses them", as_json=True)
    made = verb("enhance", enhance_files, "cleans sound files with the same processing as the live box", as_json=True)
    made.add_argument("inputs", nargs="+", metavar="IN", help="sound files, or folders of them")
    made.add_argument("-o", "--output", required=True, metavar="OUT", help="a file for one input, else a folder")
    made.add_argument("--engine", choices=engines.CHOICES, help="suppressor to use")
    made.add_argument("--limit-db", type=_limit_db, metavar="N", help="maximum attenuation of noise")
    made.add_argument(
        "--channel", type=_channel, default=0, metavar="N", help="use channel N (from 1); default: mix all"
    )
    made.add_argument(
        "--reference",
        type=_channel,
        default=0,
        metavar="CHANNEL",
        help="channel (from 1) of the reference microphone; the voice is the first other channel unless --channel "
        "names one",
    )
    verb("latency", measure_latency, "plays chirps, records them, prints measured and calculated latency", as_json=True)
    made = verb(
        "calibrate", calibrate_path, "plays sweeps and stores the measured path to the microphone", as_json=True
    )
    made.add_argument("-o", "--output", metavar="FILE", help="output file (default: antinoise.calibration)")
    made.add_argument(
        "--level-dbfs", type=_level_dbfs, default=-20.0, metavar="N", help="level in dBFS, -60 to -6 (default: -20)"
    )
    made = verb("bench", measure_speed, "time per hop of each engine and stage on this machine", as_json=True)
    made.add_argument("--seconds", type=_seconds, default=20.0, metavar="N", help="seconds of sound to process (20)")
    made.add_argument(
        "--engines",
        metavar="NAMES",
        help="compare these engines instead: all, or comma-separated names, third-party ones too",
    )
    verb("status", status, "prints what the running box does", as_json=True)
    made = verb("report", report, "writes the last day of the journal as one HTML page")
    made.add_argument("--hours", type=_hours, default=24.0, metavar="N", help="hours to report (24)")
    made.add_argument(
        "-o", "--output", type=Path, default=Path("quietbox-report.html"), metavar="OUT", help="quietbox-report.html"
    )
    made.add_argument("--file", metavar="JSON", help="output of `journalctl -u quietbox -o json`; - is standard input")
    made = verb(
        "serve", serve, "serves the noise suppressor to another program (ZeroMQ), or to other boxes", as_json=True
    )
    made.add_argument("--engine", choices=engines.CHOICES, help="suppressor to use")
    made.add_argument("--rate", type=_rate, metavar="HZ", help="sample rate of the program's chunks (44100)")
    made.add_argument("--chain", action="store_true", help="run the box's whole chain, not the suppressor alone")
    made.add_argument("--boxes", action="store_true", help="serve boxes with engine = remote instead of a program")
    made.add_argument("--host", metavar="ADDRESS", help="address to listen on (127.0.0.1)")
    made.add_argument("--key", metavar="FILE", help="with --boxes: this machine's secret key")
    made.add_argument(
        "--clients", metavar="FILE", help="with --boxes: the public keys of the accepted boxes, one a line"
    )
    made.add_argument(
        "--bench", action="store_true", help="simulate the program in real time; prints drops and latency"
    )
    made.add_argument("--seconds", type=_seconds, metavar="N", help="stop after N seconds (with --bench 600)")
    made = verb("keys", make_keys, "makes a secret key for serve --boxes or for a box, prints its public key")
    made.add_argument("file", type=Path, metavar="FILE", help="file for the secret key; an existing one is kept")
    made = verb("doctor", doctor, "checks everything the box needs and reports how to fix what is wrong", as_json=True)
    made.add_argument("--seconds", type=_listening, default=5.0, metavar="N", help="how long to listen (5; 1 to 60)")
    made.add_argument("--no-sound", action="store_true", help="do not test the sound cards")
    return parser


if __name__ == "__main__":
    sys.exit(main())

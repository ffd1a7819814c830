"""The command `quietbox`: one function a verb. Every fault that a user can fix is one line and a non-zero exit status.

What a verb needs is imported when it runs, to save start-up time: SciPy takes seconds on a Pi, and `status` needs none
of it.
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

from edge import UserError, config_file, console, engines
from edge.arguments import Arguments, Verb
from edge.config import Config, with_engine


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 failed, 2 wrong arguments."""

    def verb() -> int:
        parser = Arguments(VERBS).parser
        options = parser.parse_args(arguments)
        if options.verb is None:
            parser.print_help(sys.stderr)
            return 2
        return int(options.verb(options))

    return console.guarded(verb)


def run(options: argparse.Namespace) -> int:
    """Microphone to jack until SIGTERM."""
    return _serve(lambda: _config(options), options.seconds)


def passthrough(options: argparse.Namespace) -> int:
    """The same with the limiter only, to check that the sound gets through at all."""

    return _serve(lambda: _config(options).limiter_only, options.seconds)


def _serve(load: Callable[[], Config], seconds: float | None) -> int:
    for early in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(early, signal.SIG_IGN)  # a button pressed during the start must not end the process
    from edge.service import Service

    return Service(load).run(seconds)


def devices(options: argparse.Namespace) -> int:
    """List the sound cards."""
    from edge.devices import alsa, cards
    from edge.tools import tables

    found = cards.list_cards(open_device=alsa.open_pcm)
    named = {direction: alsa.list_pcms(direction) for direction in ("capture", "playback")}
    if options.json:
        print(json.dumps({"cards": [dataclasses.asdict(card) for card in found], "named": named}, indent=2))
        return 0
    if found:
        tables.show(tables.devices(found))
        for name, limits in tables.limits(found):
            print(f"{name}: {limits}")
    else:
        print("no sound cards: the kernel lists none (/proc/asound is empty or missing)")
    for direction, names in named.items():
        print(f"further ALSA names for {direction}: {', '.join(names) or 'none'}")
    return 0


def order(options: argparse.Namespace) -> int:
    """Change something while the box runs; with --keep for the next start, too."""
    from edge.tools import ordering

    answer = ordering.order(options.order, options.value, options.config if options.keep else None, keep=options.keep)
    print(json.dumps({"order": options.order, "answer": answer}) if options.json else answer)
    return 0


def preset(options: argparse.Namespace) -> int:
    """Sets of settings for a place."""
    from edge.tools import preset, tables

    if options.action == "list":
        found = [preset.read(path) for path in preset.known().values()]
    elif not options.name:
        raise UserError(f"preset {options.action} needs a name: {', '.join(preset.known())}")
    else:
        found = [preset.load(options.name)]
    if options.action == "use":
        answer = preset.use(found[0], options.config or config_file.SYSTEM_FILE)
        print(json.dumps({"preset": found[0].name, "answer": answer}) if options.json else answer)
    elif options.json:
        print(json.dumps([preset.as_json(entry) for entry in found], indent=2))
    elif options.action == "list":
        tables.show(tables.presets(found))
    else:
        print("\n".join(preset.in_words(found[0])))
    return 0


def enhance_files(options: argparse.Namespace) -> int:
    """Clean sound files through the live chain."""
    _one_thread()
    from edge.tools.sounds import enhance_command, enhance_jobs, sound_paths

    console.leave_on_signals()  # a signal then removes half-written files
    chosen = _config(options)
    if chosen.suppress.engine == "remote":
        raise UserError(
            "a file is processed faster than it can be sent: run `quietbox enhance` on the other machine, or add "
            "--engine"
        )
    found = sound_paths.find_sounds(options.inputs, options.output)
    request = enhance_jobs.Request(chosen, options.channel, options.reference)
    return enhance_command.enhance(request, found, options.jobs, as_json=options.json)


def _one_thread() -> None:
    """Before NumPy is loaded: our matrices are small, more threads take longer."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def measure_latency(options: argparse.Namespace) -> int:
    """The delay from microphone to jack, measured and by the budget."""
    from edge.tools import latency, tables

    result = latency.measure(_config(options))
    if options.json:
        print(json.dumps({**dataclasses.asdict(result), "budget_ms": result.budget_ms}, indent=2))
        return 0
    tables.show(tables.latency(result))
    for note in result.notes:
        console.complain(note)
    if result.xruns:
        print(f"{result.xruns} xruns while measuring: the figure may be off")
    return 0


def calibrate_path(options: argparse.Namespace) -> int:
    """Measure the path from output to microphone, for the anti-noise."""
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
    from edge.suppress import open_configured, open_named
    from edge.tools import bench, tables

    chosen = _config(options)
    if options.engines:
        return _compare_engines(options, chosen)
    named = open_named(chosen)
    named.close()
    for note in dict.fromkeys([*named.notes, *open_configured(with_engine(chosen, engines.AUTO)).notes]):
        console.complain(note)
    rows = bench.bench_engines(chosen, options.seconds) + bench.bench_stages(chosen, options.seconds)
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return 0
    tables.show(tables.hop_times(rows, options.seconds))
    return 0


def _compare_engines(options: argparse.Namespace, chosen: Config) -> int:
    """Engines side by side; what cannot be opened is a line on stderr and, unless ``all`` were asked for, a failure."""
    from edge.tools import bench, tables

    rows: list[bench.Examined] = []
    asked = bench.engines_named(options.engines)
    for _, found in bench.examine_engines(chosen, options.seconds, asked):
        if isinstance(found, str):
            console.complain(found)
        else:
            rows.append(found)
    status = 0 if rows and (len(rows) == len(asked) or options.engines.strip() == "all") else 1
    if options.json:
        known = [
            {key: None if figure != figure else figure for key, figure in dataclasses.asdict(row).items()}
            for row in rows
        ]
        print(json.dumps(known, indent=2))
        return status
    tables.show(tables.engines(rows, options.seconds))
    return status


def status(options: argparse.Namespace) -> int:
    """What the running box reports."""
    from edge import runtime

    found = runtime.read_status()
    if options.json:
        print(json.dumps(found))
    elif found is None:
        print("quietbox is not running")
    else:
        print(runtime.in_words(found))
    return 0 if found else 1


def watch(options: argparse.Namespace) -> int:
    """The running box, live."""
    from edge.tools import watch

    return watch.watch(options.record, options.seconds)


def report(options: argparse.Namespace) -> int:
    """The last day as an HTML page."""
    from edge.files import atomic
    from edge.tools.reports import journal_reader, report

    source = Path(options.file) if options.file not in (None, "-") else None
    atomic.refuse_overwriting(options.output, [source, options.config])
    if options.file is None:
        records = report.entries(journal_reader.from_journal(options.hours))
    else:
        records, notes = report.from_file(options.file, sys.stdin.buffer)
        for note in notes:
            console.complain(note)
    report.write(records, options.output)
    if not atomic.is_special(options.output):  # the page itself may have gone to standard output
        print(options.output)
    return 0


def serve(options: argparse.Namespace) -> int:
    """The noise suppressor for another program, or for other boxes."""
    _one_thread()
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
    if options.engine:
        from edge.suppress import open_named

        open_named(chosen)  # the one named is used, or none; what the settings name falls back as in the box
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.seconds is not None:
        timer = threading.Timer(options.seconds, stop.set)
        timer.daemon = True
        timer.start()

    def report(sentence: str) -> None:
        print(f"quietbox: {sentence}", file=sys.stderr, flush=True)

    if options.boxes:
        bridge.serve_boxes(chosen, report, stop)
    else:
        bridge.serve(chosen, report, stop, options.chain)
    return 0


def _bench_bridge(options: argparse.Namespace, chosen: Config) -> int:
    from edge.serve import bench as bridge_bench

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
    """A CURVE key pair: the secret key into a file, the public one printed."""
    from edge.net import keys

    print(keys.create(options.file))
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Check everything the box needs."""
    from edge.tools.doctor.command import collect, show

    if options.clip is not None and options.bundle is None:
        raise UserError("--clip goes into the archive: add --bundle FILE.zip")
    if options.bundle is not None:
        return collect(
            options.config, options.bundle, seconds=options.seconds, sound=not options.no_sound, clip_s=options.clip
        )
    return show(options.config, seconds=options.seconds, as_json=options.json, sound=not options.no_sound)


def completion(options: argparse.Namespace) -> int:
    """The completion of this command for a shell."""
    from edge.tools import completion

    print(completion.shipped(options.shell), end="")
    return 0


def _config(options: argparse.Namespace) -> Config:
    """The settings file, overridden by the command line."""
    chosen = config_file.find(options.config)
    if getattr(options, "engine", None):
        chosen = with_engine(chosen, options.engine)
    if getattr(options, "limit_db", None) is not None:
        chosen = replace(chosen, suppress=replace(chosen.suppress, limit_db=options.limit_db))
    return chosen


VERBS: dict[str, Verb] = {
    "run": run,
    "passthrough": passthrough,
    "devices": devices,
    **dict.fromkeys(("bypass", "mute", "limit", "volume", "engine"), order),
    "preset": preset,
    "enhance": enhance_files,
    "latency": measure_latency,
    "calibrate": calibrate_path,
    "bench": measure_speed,
    "status": status,
    "watch": watch,
    "report": report,
    "serve": serve,
    "keys": make_keys,
    "doctor": doctor,
    "completion": completion,
}


if __name__ == "__main__":
    sys.exit(main())

"""The arguments of `quietbox`: every verb with its options and their ranges; what a verb does stands in ``cli``."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge import config_file, engines
from edge.files import lookalikes

Verb = Callable[[argparse.Namespace], int]
MOST_BENCH_S = 600.0
"""Ten minutes of sound in memory are 120 MB with all copies."""


def between(low: float, high: float, what: str, kind: type = float) -> Callable[[str], Any]:
    """A type for argparse: a number from ``low`` to ``high``; ``what`` completes the sentence about any other."""

    def number(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not {what}")
        return value

    number.__name__ = kind.__name__  # argparse names it where the text is no number
    return number


def positive(high: float, what: str) -> Callable[[str], Any]:
    """The same for a number above 0."""
    return between(sys.float_info.min, high, what)


SECONDS = positive(1e9, "a duration in seconds")
BENCH_SECONDS = positive(MOST_BENCH_S, f"a duration of at most {MOST_BENCH_S:g} s")
LISTENING_SECONDS = between(1, 60, "between 1 and 60 s")
HOURS = positive(24 * 366, "a duration in hours of at most a year")
LIMIT_DB = between(0, 100, "between 0 and 100 dB")
LEVEL_DBFS = between(-60, -6, "between -60 and -6 dBFS")
JOBS = between(1, 256, "a number of processes from 1 to 256", int)
RATE_HZ = between(8000, 192_000, "between 8000 and 192000 Hz", int)


def channel(text: str) -> int:
    """A channel number, from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("channels are numbered from 1")
    return value


class Version(argparse.Action):
    """Read only when asked for: the metadata of packages take 20 ms, and more on a Pi."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from edge.version import NAME, version

        print(NAME, version())
        parser.exit()


class Parser(argparse.ArgumentParser):
    """Names what argparse would take for a word: an option whose dash a word processor or a web page has replaced."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; ends with status 2 at such an option, unless a file has that name."""
        for word in sys.argv[1:] if args is None else args:
            if word[:1] in tuple(lookalikes.DASHES) and not os.path.lexists(word):
                self.error(f"{word} begins with {lookalikes.named(word[0])} or --")
        return super().parse_known_args(args, namespace)


class Arguments:
    """The parser of the whole command, built verb by verb in the order of its help."""

    def __init__(self, verbs: Mapping[str, Verb]) -> None:
        """``verbs``: what to call for each verb; ends up in ``options.verb``, which is None without a verb."""
        self.parser = Parser(prog="quietbox", description="Removes noise from speech in real time.")
        self.parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
        self.parser.set_defaults(verb=None)
        self._functions = verbs
        self._verbs = self.parser.add_subparsers(metavar="COMMAND")
        self._add_box()
        self._add_control()
        self._add_enhance()
        self._add_measurements()
        self._add_records()
        self._add_serve()
        self._add_doctor()
        self._add_completion()

    def _verb(self, name: str, text: str, *, as_json: bool = False) -> argparse.ArgumentParser:
        made = self._verbs.add_parser(name, help=text, description=text)
        made.set_defaults(verb=self._functions[name])
        made.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default: {config_file.SYSTEM_FILE})")
        if as_json:
            made.add_argument("--json", action="store_true", help="print JSON instead of text")
        return made

    def _add_box(self) -> None:
        for name, text in (
            (
                "run",
                "microphone to jack until SIGTERM; SIGUSR1 toggles bypass, SIGUSR2 mutes, SIGHUP reads the settings",
            ),
            ("passthrough", "microphone to jack through the limiter only"),
        ):
            made = self._verb(name, text)
            made.add_argument("--seconds", type=SECONDS, metavar="N", help="stop after N seconds")
        self._verb("devices", "lists sound cards by id: formats, rates, kind, which process uses them", as_json=True)

    def _add_control(self) -> None:
        """Orders to the running box; ``orders`` checks the words, so that they are the same wherever they come from."""
        for name, value, text in (
            ("bypass", "on|off|toggle", "noise removal off (bypass on) or on again, while the box runs"),
            ("mute", "on|off|toggle", "silence, or sound again, while the box runs"),
            ("limit", "DB", "the most that noise is turned down, while the box runs"),
            ("volume", "DB", "headphone volume from -60 to 0 dB, or up or down by 3 dB, while the box runs"),
            ("engine", "NAME", "another noise suppressor, while the box runs"),
        ):
            made = self._verb(name, text, as_json=True)
            may_toggle = "|" in value
            made.add_argument("value", metavar=value, nargs="?" if may_toggle else None, default="")
            made.add_argument(
                "--keep", action="store_true", help="write it into the settings file as well, for the next start"
            )
            made.set_defaults(order=name)

        made = self._verb(
            "preset", "lists, shows or uses sets of settings for a place: office, street ...", as_json=True
        )
        made.add_argument("action", choices=("list", "show", "use"), help="use writes it into the settings file")
        made.add_argument("name", nargs="?", default="", metavar="NAME", help="which preset, for show and use")

    def _add_enhance(self) -> None:
        made = self._verb("enhance", "cleans sound files with the same processing as the live box", as_json=True)
        made.add_argument("inputs", nargs="+", metavar="IN", help="sound files, or folders of them")
        made.add_argument("-o", "--output", required=True, metavar="OUT", help="a file for one input, else a folder")
        made.add_argument("--engine", choices=engines.CHOICES, help="suppressor to use")
        made.add_argument("--limit-db", type=LIMIT_DB, metavar="N", help="maximum attenuation of noise")
        made.add_argument(
            "--jobs",
            type=JOBS,
            default=1,
            metavar="N",
            help="files processed at the same time, each by a process of its own: at most one a core (1)",
        )
        made.add_argument(
            "--channel", type=channel, default=0, metavar="N", help="use channel N (from 1); default: mix all"
        )
        made.add_argument(
            "--reference",
            type=channel,
            default=0,
            metavar="CHANNEL",
            help="channel (from 1) of the reference microphone; the voice is the first other channel unless --channel "
            "names one",
        )

    def _add_measurements(self) -> None:
        self._verb("latency", "plays chirps, records them, prints measured and calculated latency", as_json=True)
        made = self._verb("calibrate", "plays sweeps and stores the measured path to the microphone", as_json=True)
        made.add_argument("-o", "--output", metavar="FILE", help="output file (default: antinoise.calibration)")
        made.add_argument(
            "--level-dbfs", type=LEVEL_DBFS, default=-20.0, metavar="N", help="level in dBFS, -60 to -6 (default: -20)"
        )
        made = self._verb("bench", "time per hop of each engine and stage on this machine", as_json=True)
        made.add_argument(
            "--seconds", type=BENCH_SECONDS, default=20.0, metavar="N", help="seconds of sound to process (20)"
        )
        made.add_argument(
            "--engines",
            metavar="NAMES",
            help="compare these engines instead: all, or comma-separated names, third-party ones too",
        )

    def _add_records(self) -> None:
        self._verb("status", "prints what the running box does", as_json=True)
        made = self._verb("watch", "shows the running box live: levels, noise, gains, delay, hop times, events")
        made.add_argument(
            "--record", type=Path, metavar="FILE.html", help="leave a page that replays the last 5 minutes shown"
        )
        made.add_argument("--seconds", type=SECONDS, metavar="N", help="stop after N seconds (default: at Ctrl-C)")
        made = self._verb("report", "writes the last day of the journal as one HTML page")
        made.add_argument("--hours", type=HOURS, default=24.0, metavar="N", help="hours to report (24)")
        made.add_argument(
            "-o",
            "--output",
            type=Path,
            default=Path("quietbox-report.html"),
            metavar="OUT",
            help="quietbox-report.html",
        )
        made.add_argument(
            "--file",
            metavar="FILE",
            help="an export of the journal: `journalctl -u quietbox -o json`; - is standard input",
        )

    def _add_serve(self) -> None:
        made = self._verb(
            "serve", "serves the noise suppressor to another program (ZeroMQ), or to other boxes", as_json=True
        )
        made.add_argument("--engine", choices=engines.CHOICES, help="suppressor to use")
        made.add_argument("--rate", type=RATE_HZ, metavar="HZ", help="sample rate of the program's chunks (44100)")
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
        made.add_argument("--seconds", type=SECONDS, metavar="N", help="stop after N seconds (with --bench 600)")
        made = self._verb("keys", "makes a secret key for serve --boxes or for a box, prints its public key")
        made.add_argument("file", type=Path, metavar="FILE", help="file for the secret key; an existing one is kept")

    def _add_doctor(self) -> None:
        made = self._verb(
            "doctor", "checks everything the box needs and reports how to fix what is wrong", as_json=True
        )
        made.add_argument(
            "--seconds", type=LISTENING_SECONDS, default=5.0, metavar="N", help="how long to listen (5; 1 to 60)"
        )
        made.add_argument("--no-sound", action="store_true", help="do not test the sound cards")
        made.add_argument(
            "--bundle", type=Path, metavar="FILE", help="write a ZIP archive for a bug report, without keys and names"
        )
        made.add_argument(
            "--clip",
            type=LISTENING_SECONDS,
            metavar="N",
            help="with --bundle: add a recording of N s from the microphone, once you have confirmed it",
        )

    def _add_completion(self) -> None:
        made = self._verb("completion", "prints the completion of this command for a shell")
        made.add_argument("shell", choices=("bash", "zsh"), help="bash: source <(quietbox completion bash)")

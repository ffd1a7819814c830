"""Boot a board that is none, install the product on it, and prove what it promises. One table, one row a proof.

    python -m hw.prove.pi                     all proofs; the first run builds kernel, disk and wheels into the cache
    python -m hw.prove.pi enhanced button     these only
    python -m hw.prove.pi --prepare           build only, so that the next run proves at once
    python -m hw.prove.pi --quick             ten minutes of drift become one
    python -m hw.prove.pi --hour              memory and processor time over an hour

Needs root and Debian 12; what else is missing is named before anything is built. Whatever failed or never ended is
repeated in a fresh boot, up to three times in all, and the table says so: the machine hangs at power-off in some boots,
and on a busy host its clock stumbles. ``drift`` and ``stalled`` count every xrun, so they run on a clock of the
machine's own (``machine.OWN_TIME``); ``load`` is the proof in real time.
"""

import argparse
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge import UserError
from edge.console import run_main
from hw.prove import needs
from hw.virtual.pi import image, kernel, machine, product

TRIES = 3
BOOT_S, PROOF_S = 180.0, 240.0
"""How long a boot, and a proof of no special length, may take on a busy host."""
BOX_FIRST = """n=0
until grep -qs '"state": "running"' /run/quietbox/status.json || [ $n -ge 60 ]; do sleep 0.5; n=$((n + 1)); done"""
"""The machine has one processor, and the proofs load NumPy and SciPy: begun with the box, they would double the time
that the box takes to sound. In a boot without a microphone it never runs, so it is waited for 30 s at most."""
SOUNDS = product.CHECKOUT / "tests" / "sounds"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Session:
    """Proofs that share a boot."""

    names: tuple[str, ...]
    words: tuple[str, ...] = ()
    """For the kernel's command line."""
    seconds: float = 0.0
    """How long its proof takes by nature."""
    busy: bool = False
    """Whether it keeps the machine busy all the time."""
    own_time: bool = False
    """Whether the machine's clock stands still while its processor works (see ``machine.OWN_TIME``)."""
    installs: bool = False
    """Whether the installer, and all it needs, lies in the shared folder."""


@dataclass
class Row:
    """What became of one proof."""

    name: str
    passed: bool = False
    words: str = "never ended"
    tries: int = 0
    seconds: float = 0.0
    earlier: list[str] = field(default_factory=list)
    """What the tries before the last one found."""


def sessions(quick: bool, hour: bool) -> list[Session]:
    """Every proof, by boot."""
    return [
        Session(("boots", "security", "enhanced", "led_follows", "button", "orders", "journal_fields", "doctor")),
        Session(("microphone_unplugged", "jack_unplugged", "watchdog", "killed", "busy_card")),
        Session(("cable", "cable_only", "gadget")),
        Session(("bad_model", "bad_settings", "full_disk")),
        Session(("no_microphone",), ("pi.unplug=snd_aloop.0",)),
        Session(("read_only",), ("ro",)),
        Session(("load",), seconds=30 if quick else 120, busy=True),
        Session(("drift", "stalled"), seconds=60 if quick else 600, own_time=True),
        Session(("way_back", "cut_off", "upgraded", "uninstalled"), seconds=60, installs=True),
        Session(("upkeep",), seconds=3600 if hour else 60 if quick else 300),
    ]


def main() -> int:
    options = _parser().parse_args()
    plan = sessions(options.quick, options.hour)
    known = [name for session in plan for name in session.names]
    if unknown := [name for name in options.proofs if name not in known]:
        print(f"no proof is called {unknown[0]}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    wanted = options.proofs or known
    try:
        options.cache = options.cache.resolve()
        collects = not options.prepare and any(set(session.names) & set(wanted) for session in plan if session.installs)
        needs.check(needs.virtual_pi(options.cache / "virtual", options.kernel, collects=collects))
        if options.prepare:
            *_, account = prepare(options.kernel, options.cache)
            say(f"ready: install.sh --board --wheels: {account}")
            return 0
        rows = prove(plan, wanted, options.kernel, options.cache, options.keep)
    except UserError as error:
        print(f"virtual Pi: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"virtual Pi: {error.filename or 'the machine'}: {error.strerror}; run it again", file=sys.stderr)
        return 1
    Console().print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0 if all(row.passed for row in rows) else 1


def prepare(given: Path | None, cache: Path) -> tuple[Path, Path, Path, str]:
    """Build what is missing: kernel program, disk, the disk's layer with the product, and how its installation went.

    Raises UserError.
    """
    cache = cache.resolve() / "virtual"
    cache.mkdir(parents=True, exist_ok=True)
    say(f"kernel, disk and product: what is not in {cache} yet is built, which takes a while")
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one that comes meanwhile waits and finds everything built
        program = given.resolve() if given else kernel.kernel(cache)
        disk = image.disk(cache)
        layer, account = product.installed(cache, program, disk)
    return program, disk, layer, account


def prove(plan: list[Session], wanted: Iterable[str], given: Path | None, cache: Path, keep: Path | None) -> list[Row]:
    """Build what is missing, then boot as often as it takes. Raises UserError."""
    program, disk, layer, account = prepare(given, cache)
    rows = {name: Row(name) for name in wanted}
    installed = Row("install", True, f"install.sh --board --wheels: {account}", 1)
    lengths = {name: session.seconds for session in plan for name in session.names}
    for session in plan:
        names = [name for name in session.names if name in rows]
        while pending := [name for name in names if not rows[name].passed and rows[name].tries < TRIES]:
            say(f"boot for {', '.join(pending)}")
            limit_s = BOOT_S + sum(PROOF_S + 1.5 * lengths[name] for name in pending)
            with shared_folder(keep) as share:
                machine.copy_layer(layer, share / "layer")
                ended = boot(program, disk, share, pending, session, limit_s)
                note(rows, pending, share / "results.jsonl", ended)
    return [installed, *rows.values()]


def inside() -> list[Path]:
    """The files beside this one that run inside the machine."""
    return sorted(path for path in HERE.glob("*.py") if not path.name.startswith("__"))


def boot(program: Path, disk: Path, share: Path, names: list[str], session: Session, limit_s: float) -> machine.Boot:
    """One boot with these proofs as its job."""
    for path in inside():
        shutil.copy(path, share)
    shutil.copytree(SOUNDS, share / "sounds")
    if session.installs:
        product.wheels(share)
    machine.job(
        share,
        f"{BOX_FIRST}\nexport PI_SECONDS={session.seconds:g} PYTHONDONTWRITEBYTECODE=1\n"
        f"/opt/quietbox/current/bin/python proofs.py {' '.join(names)}",
    )
    reporter = _Reporter(share / "results.jsonl")
    return machine.boot(
        program,
        disk,
        share / "layer",
        share,
        limit_s=limit_s,
        words=session.words,
        busy=session.busy,
        own_time=session.own_time,
        seen=reporter.report,
    )


def note(rows: dict[str, Row], names: list[str], results: Path, ended: machine.Boot) -> None:
    """Put a boot's results into the rows; the proof at which it hung counts as tried, those after it do not."""
    found = {entry["name"]: entry for entry in read(results)}
    for name in names:
        row = rows[name]
        if name not in found:
            row.tries += 1
            row.earlier += [row.words] if row.tries > 1 else []
            row.passed, row.words = False, f"the machine {'hung' if ended.hung else 'ended'} in the middle"
            break
        row.earlier += [row.words] if row.tries else []
        row.tries += 1
        row.passed, row.words, row.seconds = found[name]["passed"], found[name]["words"], found[name]["seconds"]


def read(results: Path) -> list[dict[str, Any]]:
    """Whole lines of a result file; a machine that was killed may leave half of one."""
    try:
        lines = results.read_text().splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


class _Reporter:
    """Prints each result as it comes."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._reported = 0

    def report(self) -> None:
        for entry in (found := read(self._results))[self._reported :]:
            say(f"  {entry['name']}: {'holds' if entry['passed'] else 'FAILED'}: {entry['words']}")
        self._reported = len(found)


class shared_folder:
    """A folder for one boot; kept below ``keep`` if given."""

    def __init__(self, keep: Path | None) -> None:
        self._keep = keep

    def __enter__(self) -> Path:
        if self._keep:
            self._keep.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="virtual-pi-", dir=self._keep))
        return self._folder

    def __exit__(self, *_: object) -> None:
        if self._keep:
            (self._folder / "layer").unlink(missing_ok=True)
        else:
            shutil.rmtree(self._folder, ignore_errors=True)


def table(rows: list[Row]) -> Table:
    """The result for a reader."""
    failed = sum(not row.passed for row in rows)
    again = sum(row.tries > 1 for row in rows)
    title = f"virtual Pi: {len(rows) - failed} of {len(rows)} hold, {again} of them tried more than once"
    made = Table(title=title, title_justify="left", show_lines=True)
    for name in ("proof", "result", "measured", "tries"):
        made.add_column(name, no_wrap=name != "measured")
    for row in rows:
        words = row.words + "".join(f"\nbefore: {text}" for text in row.earlier)
        made.add_row(row.name, "holds" if row.passed else "FAILED", words, str(row.tries))
    return made


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hw.prove.pi", description="Tests on a virtual board (User-Mode Linux)."
    )
    parser.add_argument("proofs", nargs="*", metavar="PROOF", help="which (default: all)")
    parser.add_argument("--quick", action="store_true", help="a minute instead of ten for the long ones")
    parser.add_argument("--hour", action="store_true", help="memory and processor time over an hour")
    parser.add_argument("--prepare", action="store_true", help="build kernel, disk and installation, prove nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the table's content as JSON, too")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="a kernel built elsewhere")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the output of each boot: sounds, journal, console"
    )
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quietbox"
    parser.add_argument("--cache", type=Path, default=default, metavar="DIR", help=f"where builds are kept ({default})")
    return parser


if __name__ == "__main__":
    run_main(main, "virtual Pi")

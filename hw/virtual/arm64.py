"""The product on the Pi's own processor family: an arm64 Debian 12 through qemu-user, installed and run.

    sudo python -m hw.virtual.arm64 [--cache DIR] [--onnxruntime VERSION ...] [--sound FILE] [--seconds N]

Builds a root file system (once, about 15 minutes on two cores), makes a folder of wheels that installs there without a
network (``DIR/wheels``, what ``install.sh --wheels`` wants on a board), installs the product from it, and runs every
engine on a noisy recording, ``doctor``, each version of ONNX Runtime on the instruction sets of a Pi 3 or Zero 2
(Cortex-A53), a Pi 4 (A72) and a Pi 5 (A76), and a stand-in for ONNX Runtime that dies of SIGILL. What is heard is
compared with what the same engine gives on this machine.

Emulated is the processor, not the board: nothing here tells how fast a Pi is. QEMU's cores refuse instructions that
the real ones lack: ONNX Runtime 1.21.0, which dies of SIGILL on a real Pi 4, does so here on the A53 and A72 and runs
on the A76. A SIGSEGV may be the emulator's own.
Needs root and the Debian packages mmdebstrap and qemu-user-static.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.console import run_main
from hw.install import lockfile

REPOSITORY = Path(__file__).parents[2]
SOUND = REPOSITORY / "tests/sounds/noisy/rain_en_5dB.flac"
CACHE = Path.home() / ".cache/quietbox-arm64"
SUITE, PYTHON = "bookworm", "3.11"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = [
    *("python3", "python3-venv", "python3-dev", "gcc", "libc6-dev", "pkg-config"),
    "libasound2-dev",
]
BUILT_THERE = ("pyalsaaudio",)
"""No wheels anywhere: compiled in the arm64 root itself."""
PLATFORMS = [*(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)), "manylinux2014_aarch64"]
"""Wheels that glibc 2.36 of Debian 12 takes."""
PRODUCT = ("edge", "hw", "models", "quant", "pyproject.toml", "README.md", "LICENSE")
PLACE = "/opt/quietbox"
RUNTIMES = ("1.20.1", "1.21.0", "1.23.2", "latest")
"""1.21.0 is the control: it dies of SIGILL on a real Pi 4 (microsoft/onnxruntime#23957)."""
CORES = {"cortex-a53": "Pi 3, Zero 2", "cortex-a72": "Pi 4", "cortex-a76": "Pi 5"}
NEWEST_CORE = "cortex-a76"
TRIAL_S = 240
"""An emulated import of ONNX Runtime is tens of times slower than a real one."""
SAME_DB = 60.0
"""Two processors round differently; what differs by less than this is one and the same sound."""

BINFMT = Path("/proc/sys/fs/binfmt_misc")
RECIPE = (
    r":quietbox-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{qemu}:OCF"
)
"""Magic and mask of an aarch64 ELF file (QEMU's scripts/qemu-binfmt-conf.sh); F: works inside a chroot."""

TRIAL = f"""
from edge.suppress import probe
from edge.suppress.shipped import Model
print(probe.trouble(Model("quietbox"), {TRIAL_S}) or "runs")
"""
STAND_IN = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"


class Missing(Exception):
    """Something on this machine is missing; the text names it."""


@dataclass(frozen=True)
class Row:
    """One check: what, the verdict, and what was found."""

    what: str
    verdict: str
    """"ok", "FAIL", or "runs" and "not" of an ONNX Runtime, which is a finding and no fault of the product."""
    found: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.verdict:<4} {self.what:<44} {self.seconds:6.1f} s  {self.found}"


def verdict(good: bool) -> str:
    return "ok" if good else "FAIL"


# The root file system.


@contextlib.contextmanager
def emulation() -> Iterator[None]:
    """Let this kernel start arm64 programs; afterwards as before."""
    qemu = shutil.which("qemu-aarch64-static")
    if os.geteuid() != 0:
        raise Missing("building and entering another root needs root: run it with sudo")
    if not qemu or not shutil.which("mmdebstrap"):
        raise Missing("apt install mmdebstrap qemu-user-static")
    mounted = not (BINFMT / "register").exists()
    if mounted and subprocess.run(["mount", "-t", "binfmt_misc", "none", BINFMT], check=False).returncode:
        raise Missing("the kernel has no binfmt_misc, which starts programs of another processor")
    ours = not list(BINFMT.glob("*aarch64"))
    if ours:
        (BINFMT / "register").write_text(RECIPE.format(qemu=qemu))
    try:
        yield
    finally:
        if ours:
            (BINFMT / "quietbox-aarch64").write_text("-1")
        if mounted:
            subprocess.run(["umount", BINFMT], check=False)


def debian(cache: Path) -> Path:
    """An arm64 Debian 12 with what builds our two C extensions; from the cache if it is there."""
    root = cache / f"root-{_short_hash(SUITE, *PACKAGES)}"
    if root.exists():
        return root
    say(f"building {root} (once; 10 to 20 minutes)")
    part = root.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    bare = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale")]
    how = ["--quiet", "--variant=minbase", "--mode=root", "--architectures=arm64", "--skip=output/dev,check/qemu"]
    how += ['--aptopt=Apt::Install-Recommends "false"', *bare, f"--include={','.join(PACKAGES)}"]
    run(["mmdebstrap", *how, SUITE, str(part), MIRROR])
    part.rename(root)
    return root


def there(
    root: Path, command: Sequence[str], variables: dict[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command in the arm64 root, without any network, with /proc, /dev and /sys, which vanish with it.

    ONNX Runtime looks for processors in /sys: without it 1.20 and 1.23 abort on import, and 1.31 does not crash.
    """
    mounts = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount -t sysfs -o ro sysfs "$0/sys"'
    prepare = f'{mounts} && exec chroot "$0" "$@"'
    given = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    given |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **(variables or {})}
    words = ["unshare", "--mount", "--net", "sh", "-c", prepare, str(root), *command]
    return run(words, given, check=check)


def run(
    command: Sequence[str], variables: dict[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run and keep what it says; a failure ends everything with its last lines."""
    done = subprocess.run(
        command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if check and done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise Missing(f"{' '.join(command)[:200]} failed ({done.returncode}):\n{last}")
    return done


# The wheels.


def needed() -> list[lockfile.Locked]:
    """What the product asks for on a 64-bit board, by requirements.lock."""
    return lockfile.for_python(lockfile.subset(["board"]), PYTHON)


def split(packages: Sequence[lockfile.Locked]) -> tuple[list[lockfile.Locked], list[lockfile.Locked]]:
    """(to download as wheels, to compile there)."""
    compiled = [one for one in packages if one.name in BUILT_THERE]
    return [one for one in packages if one not in compiled], compiled


def wheels(cache: Path, root: Path) -> Path:
    """A folder from which pip installs the product on arm64 Debian 12 without a network."""
    wanted = needed()
    folder = cache / "wheels"
    stamp = folder / ".complete"
    if not stamp.exists() or stamp.read_text() != lockfile.text(wanted):
        say(f"collecting wheels in {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        ready, compiled = split(wanted)
        tools = lockfile.for_python(lockfile.build_tools(compiled), PYTHON)
        fetch([*ready, *tools], folder, *foreign())
        fetch(compiled, folder, "--no-binary=:all:", "--no-build-isolation")
        _compile(root, folder)
        stamp.write_text(lockfile.text(wanted))
    return folder


def fetch(packages: Sequence[lockfile.Locked], folder: Path, *how: str) -> None:
    """The files that the lock pins, into ``folder``. Raises Missing."""
    part = folder / "part.lock"
    part.write_text(lockfile.text(packages))
    run([*pip("download", folder), "--no-deps", "--require-hashes", *how, "-r", str(part)])
    part.unlink()


def pip(verb: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", "-d", str(folder)]


def foreign() -> list[str]:
    """pip's options for packages of the arm64 root instead of this machine's."""
    choice = ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
    return choice + [f"--platform={name}" for name in PLATFORMS]


def _compile(root: Path, folder: Path) -> None:
    """Source archives in ``folder`` -> arm64 wheels there."""
    workshop = root / "build"
    shutil.rmtree(workshop, ignore_errors=True)
    shutil.copytree(folder, workshop)
    there(root, ["python3", "-m", "venv", "/build/venv"])
    offline = ["--quiet", "--no-index", "--find-links=/build"]
    there(root, ["/build/venv/bin/pip", "install", "--no-compile", *offline, "--upgrade", "setuptools"])
    for source in sorted(workshop.glob("*.tar.gz")):
        say(f"compiling {source.name} for arm64")
        command = [
            "wheel",
            *offline,
            "--no-deps",
            "--no-build-isolation",
            "--use-pep517",
            "-w",
            "/build/made",
            f"/build/{source.name}",
        ]
        there(root, ["/build/venv/bin/pip", *command, f"/build/{source.name}"])
        (folder / source.name).unlink()
    for wheel in (workshop / "made").glob("*.whl"):
        shutil.copy(wheel, folder)
    shutil.rmtree(workshop)


def install(root: Path, folder: Path) -> None:
    """The product, from this checkout, into /opt/quietbox of the root."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "source")
        source.mkdir()
        for part in PRODUCT:
            whole = REPOSITORY / part
            skip = shutil.ignore_patterns("__pycache__", "*.pt")
            shutil.copytree(whole, source / part, ignore=skip) if whole.is_dir() else shutil.copy(whole, source)
        for old in folder.glob("quietbox-*.whl"):
            old.unlink()
        run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(source)])
    shutil.rmtree(root / "wheels", ignore_errors=True)
    shutil.copytree(folder, root / "wheels")
    if not (root / PLACE[1:] / "bin/pip").exists():
        there(root, ["python3", "-m", "venv", PLACE])
    offline = ["--quiet", "--no-compile", "--no-index", "--find-links=/wheels"]
    there(root, [f"{PLACE}/bin/pip", "install", *offline, "quietbox[board]"])
    there(root, [f"{PLACE}/bin/pip", "install", *offline, "--force-reinstall", "--no-deps", "quietbox"])
    shutil.rmtree(root / "wheels")


def runtime(root: Path, version: str) -> str:
    """One version of ONNX Runtime in a folder of its own, by its path in the root; empty if there is no wheel of it."""
    target = root / "opt/onnxruntime" / version
    if not target.exists():
        which = "onnxruntime" if version == "latest" else f"onnxruntime=={version}"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        if run([*command, *foreign(), "--target", str(target), which], check=False).returncode:
            shutil.rmtree(target, ignore_errors=True)
            return ""
    return f"/opt/onnxruntime/{version}"


# The checks.


def enhance_there(root: Path, engine: str, paths: str = "", core: str = NEWEST_CORE) -> tuple[Path | None, str]:
    """(what came out, what was said on the way); nothing came out if the command failed."""
    out = root / "tmp/out.wav"
    out.unlink(missing_ok=True)
    command = [f"{PLACE}/bin/quietbox", "enhance", "/tmp/in.wav", "-o", "/tmp/out.wav", "--engine", engine]
    done = there(root, command, {"PYTHONPATH": paths, "QEMU_CPU": core}, check=False)
    said = " ".join(done.stderr.split())
    return (out if done.returncode == 0 and out.exists() else None), said or f"exit status {done.returncode}"


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
    ways = [("dsp", "", ""), ("rnn", "", ""), ("network", "", "not installed")]
    ways += [("network", path, f"onnxruntime {name}") for name, path in runtimes.items()]
    ways += [("network", "/opt/onnxruntime/dying", "an onnxruntime that is ended by SIGILL")]
    for engine, path, about in ways:
        began_s = time.monotonic()
        out, said = enhance_there(root, engine, path)
        took_s = time.monotonic() - began_s
        same_db = likeness_db(here[engine], out) if out else -np.inf
        by = "" if engine != "network" else ", by NumPy: " + said[:110] if "NumPy runs" in said else ", by ONNX Runtime"
        survived = "SIGILL" not in about or "SIGILL" in said
        heard = f"as here to {same_db:.0f} dB{by}" if out else said[:150]
        yield Row(f"enhance, {engine} {about}".strip(), verdict(same_db > SAME_DB and survived), heard, took_s)


def check_runtimes(root: Path, runtimes: dict[str, str]) -> Iterator[Row]:
    """Whether each ONNX Runtime works on each kind of core; a trial that gives no answer at all is a failure."""
    for version, path in runtimes.items():
        for core, boards in CORES.items():
            began_s = time.monotonic()
            done = there(
                root, [f"{PLACE}/bin/python", "-c", TRIAL], {"PYTHONPATH": path, "QEMU_CPU": core}, check=False
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


def say(sentence: str) -> None:
    print(sentence, flush=True)


def _short_hash(*words: str) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:12]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hw.virtual.arm64", description="The product on emulated arm64.")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"where roots are kept ({CACHE})")
    parser.add_argument("--onnxruntime", nargs="*", default=RUNTIMES, metavar="VERSION", help="versions to try")
    parser.add_argument("--sound", type=Path, default=SOUND, metavar="FILE", help="the noisy recording")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="N", help="how much of it (4)")
    options = parser.parse_args(arguments)
    rows = []
    try:
        with emulation(), tempfile.TemporaryDirectory() as folder:
            cache = options.cache.resolve()
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
    except Missing as trouble:
        print(f"arm64: {trouble}", file=sys.stderr)
        return 1
    failed = sum(row.verdict == "FAIL" for row in rows)
    say(f"{len(rows)} checks, {failed} failed; wheels for boards: {options.cache / 'wheels'}")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main, "arm64")

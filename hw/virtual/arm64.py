"""The Pi's processor family without a Pi: an arm64 Debian 12 whose programs run here through qemu-user.

A root file system (built once, in about 15 minutes on two cores), a folder of wheels that installs there without a
network (what ``install.sh --wheels`` wants on a board), and the product installed from it. Emulated is the processor,
not the board: nothing here shows how fast a Pi is. Needs root, mmdebstrap and qemu-user-static; ``hw.prove.arm64`` runs
the checks.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge import UserError
from hw.install import lockfile

REPOSITORY = Path(__file__).parents[2]
CACHE = Path.home() / ".cache/quietbox-arm64"
SUITE, PYTHON = "bookworm", "3.11"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = [
    *("python3", "python3-venv", "python3-dev", "gcc", "libc6-dev", "pkg-config"),
    "libasound2-dev",
    "libsystemd-dev",
]
BUILT_THERE = ("pyalsaaudio", "systemd-python")
"""No wheels anywhere: compiled in the arm64 root itself."""
PLATFORMS = [*(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)), "manylinux2014_aarch64"]
"""Wheels that glibc 2.36 of Debian 12 takes."""
PRODUCT = ("edge", "hw", "models", "quant", "pyproject.toml", "README.md", "LICENSE")
PLACE = "/opt/quietbox"
BINFMT = Path("/proc/sys/fs/binfmt_misc")
RECIPE = (
    r":quietbox-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{qemu}:OCF"
)
"""Magic and mask of an aarch64 ELF file (QEMU's scripts/qemu-binfmt-conf.sh); F: works inside a chroot."""


class Missing(UserError):
    """Something on this machine is missing; the text names it."""


def root_path(cache: Path) -> Path:
    """Where the root file system lies once it is built."""
    return cache / f"root-{_short_hash(SUITE, *PACKAGES)}"


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
    root = root_path(cache)
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
    """Run and keep the output; a failure ends everything with its last lines."""
    done = subprocess.run(
        command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if check and done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise Missing(f"{' '.join(command)[:200]} failed ({done.returncode}):\n{last}")
    return done


def needed() -> list[lockfile.Locked]:
    """What the product asks for on a 64-bit board, by requirements.lock."""
    return lockfile.for_python(lockfile.subset(["board", "systemd"]), PYTHON)


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
    there(root, [f"{PLACE}/bin/pip", "install", *offline, "quietbox[board,systemd]"])
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


def say(sentence: str) -> None:
    print(sentence, flush=True)


def _short_hash(*words: str) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:12]

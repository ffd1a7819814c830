"""The machine's disk: Debian 12 as a file, made without loop devices, with what a Pi's kernel would have set up."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from hw.virtual.pi.kernel import BuildFailed

GUEST = Path(__file__).parent / "guest"
"""Laid over Debian: the GPIO chip, the sound cards, the job."""
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
DISK_MIB = 2000
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "libpam-systemd",
    "udev",
    "dbus",
    "kmod",
    "procps",
    "python3",
    "python3-venv",
    "alsa-utils",
    "libasound2",
    "libsndfile1",
    "libsystemd0",
    "openssh-client",
)
UNWANTED = ("doc", "man", "locale")


def debian_path(cache: Path) -> Path:
    """Where Debian's tar file lies once it is made."""
    return cache / f"debian-{hashlib.sha256(repr((PACKAGES, UNWANTED)).encode()).hexdigest()[:12]}.tar"


def disk_path(cache: Path) -> Path:
    """Where the disk lies once it is made."""
    content = [(str(path.relative_to(GUEST)), path.read_bytes()) for path in sorted(GUEST.rglob("*")) if path.is_file()]
    name = hashlib.sha256(repr((debian_path(cache).name, content, DISK_MIB)).encode()).hexdigest()[:12]
    return cache / f"board-{name}.ext4"


def debian(cache: Path) -> Path:
    """Debian 12 as a tar file in ``cache``. Needs root and a mirror the first time. Raises BuildFailed."""
    tar = debian_path(cache)
    if tar.exists():
        return tar
    if shutil.which("mmdebstrap") is None:
        raise BuildFailed("building the disk needs mmdebstrap: apt-get install mmdebstrap")
    sources = next((path for path in SOURCES if path.exists() and path.read_text().strip()), None)
    if sources is None:
        raise BuildFailed(f"no Debian mirror is named in {' or '.join(map(str, SOURCES))}")
    part = tar.with_suffix(".part.tar")
    with sources.open() as mirrors:
        _run(
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            "--mode=root",
            "--skip=output/dev",
            '--aptopt=Apt::Install-Recommends "false"',
            '--aptopt=Acquire::Languages "none"',
            *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in UNWANTED),
            f"--include={','.join(PACKAGES)}",
            "bookworm",
            str(part),
            "-",
            stdin=mirrors,
        )
    part.rename(tar)
    return tar


def disk(cache: Path) -> Path:
    """The disk of a fresh board, nothing of the product on it. Raises BuildFailed."""
    made = disk_path(cache)
    if made.exists():
        return made
    tar = debian(cache)
    part = made.with_suffix(".part")
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        root = Path(folder)
        root.chmod(0o755)
        _run("tar", "xf", str(tar), "-C", folder)
        _run("cp", "-a", "--no-preserve=ownership", f"{GUEST}/.", folder)
        (root / "share").mkdir(exist_ok=True)
        (root / "etc" / "hostname").write_text("virtual-pi\n")
        (root / "etc" / "fstab").write_text("")
        (root / "etc" / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        part.unlink(missing_ok=True)
        with part.open("wb") as empty:
            empty.truncate(DISK_MIB << 20)
        _run("mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum", "-d", folder, str(part))
    part.rename(made)
    return made


def _run(*command: str, stdin: object = subprocess.DEVNULL) -> None:
    done = subprocess.run(["nice", *command], stdin=stdin, capture_output=True, text=True)  # type: ignore[call-overload]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BuildFailed(f"{command[0]} failed: {last}")

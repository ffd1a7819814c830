"""What a proof needs of this machine, checked before it builds anything; all that is missing is named in one line."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge import UserError
from hw.install import packages
from hw.virtual.pi import image, kernel, product

SOURCES = image.SOURCES
APT_HELPER = Path("/usr/lib/apt/apt-helper")
NETWORK_S = 15
"""How long a mirror or package index may take to answer."""
BUILD_MB, RUN_MB = 5000, 1500
"""Space for the kernel's source and objects, disk and wheels of the virtual Pi; for what one run keeps."""
ARM64_MB, CARD_MB = 3000, 3500
"""Space for an arm64 root with its wheels; for a card of 2 GiB and the copies of its partitions."""
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where commands lie that a user's own PATH may lack."""

EMULATOR = {"mmdebstrap": "mmdebstrap", "qemu-aarch64-static": "qemu-user-static", "unshare": "util-linux"}
CARD_TOOLS = {"debugfs": "e2fsprogs", "e2fsck": "e2fsprogs", "mke2fs": "e2fsprogs", "ssh-keygen": "openssh-client"}
MACHINE = {"taskset": "util-linux", "chrt": "util-linux", "cp": "coreutils"}
FAT_TOOLS = {"mcopy": "mtools", "mformat": "mtools"}
PI_3 = {"qemu-system-aarch64": "qemu-system-arm", "fdtput": "device-tree-compiler", **FAT_TOOLS, **CARD_TOOLS}


@dataclass(frozen=True)
class Needs:
    """What has to be there."""

    commands: Mapping[str, str] = field(default_factory=dict)
    """Command -> the Debian package that has it."""
    installed: tuple[str, ...] = ()
    """Debian packages that no command shows: headers and the like."""
    root: bool = False
    debian: int = 0
    """The release that it must run on; 0: any."""
    space_mb: Mapping[Path, int] = field(default_factory=dict)
    """Folder, made or not -> free space."""
    paths: tuple[Path, ...] = ()
    """Files and folders of the user's that must be there."""
    mirror: bool = False
    """Whether packages are fetched from Debian's mirror."""
    index: bool = False
    """Whether packages are fetched from Python's package index."""

    def __or__(self, other: "Needs") -> "Needs":
        """Both."""
        space = {
            folder: self.space_mb.get(folder, 0) + other.space_mb.get(folder, 0)
            for folder in (*self.space_mb, *other.space_mb)
        }
        return Needs(
            {**self.commands, **other.commands},
            (*self.installed, *other.installed),
            self.root or other.root,
            self.debian or other.debian,
            space,
            (*self.paths, *other.paths),
            self.mirror or other.mirror,
            self.index or other.index,
        )


def check(needs: Needs) -> None:
    """Raises UserError whose one line names everything that is missing, and the command that installs packages."""
    faults = [*_faults(needs)]
    if names := missing_packages(needs):
        faults.append(f"missing packages, run: sudo apt-get install {' '.join(names)}")
    if faults:
        raise UserError("; ".join(faults))


def missing_packages(needs: Needs) -> list[str]:
    """The Debian packages to install, sorted, each once."""
    found = {package for command, package in needs.commands.items() if not command_path(command)}
    if needs.installed and shutil.which("dpkg-query"):
        found |= {*packages.missing(list(needs.installed))}
    return sorted(found)


def command_path(name: str) -> str:
    """Where a command lies; those of root's PATH are found as well. Empty if there is none."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}") or ""


def _faults(needs: Needs) -> Iterable[str]:
    if needs.root and os.geteuid() != 0:
        yield "this needs root (sudo)"
    if needs.debian and (found := _release()) != f"Debian {needs.debian}":
        yield f"this needs Debian {needs.debian}, this machine runs {found}"
    for path in needs.paths:
        if not path.exists():
            yield f"there is no {path}"
    for folder, wanted_mb in needs.space_mb.items():
        if (free_mb := _free_mb(folder)) < wanted_mb:
            yield f"{folder} has {free_mb} MB free, {wanted_mb} MB are needed"
    if needs.mirror and (fault := mirror_fault()):
        yield fault
    if needs.index and (fault := index_fault()):
        yield fault


def _release() -> str:
    """ "Debian 12", or whatever this machine runs."""
    try:
        found = platform.freedesktop_os_release()
    except OSError:
        return "an unknown system"
    if found.get("ID") == "debian":
        return f"Debian {found.get('VERSION_ID', 'of no version')}"
    return found.get("PRETTY_NAME", "an unknown system")


def _free_mb(folder: Path) -> int:
    """Of the file system on which the folder lies or will lie; 0 if that cannot be found out."""
    there = next((one for one in (folder, *folder.parents) if one.is_dir()), Path("/"))
    try:
        return shutil.disk_usage(there).free >> 20
    except OSError:
        return 0


def mirror_fault() -> str:
    """Why nothing can be fetched from Debian's mirror, through apt with its own settings; empty if it can."""
    lines = [line for path in SOURCES if path.is_file() for line in path.read_text(errors="replace").splitlines()]
    words = " ".join(line for line in lines if not line.lstrip().startswith("#")).split()
    mirror = next((word for word in words if word.startswith(("http://", "https://"))), "")
    if not mirror:
        return f"no Debian mirror is named in {' or '.join(map(str, SOURCES))}"
    if not APT_HELPER.is_file():
        return ""
    patience = ["-o", f"Acquire::http::Timeout={NETWORK_S}", "-o", "Acquire::Retries=0"]
    with tempfile.TemporaryDirectory() as folder:
        url = f"{mirror.rstrip('/')}/dists/bookworm/Release"
        command = [str(APT_HELPER), *patience, "download-file", url, f"{folder}/Release"]
        return "" if _succeeds(command) else f"the Debian mirror {mirror} does not answer"


def index_fault() -> str:
    """Why nothing can be fetched from Python's package index, through pip with its own settings; empty if it can."""
    with tempfile.TemporaryDirectory() as folder:
        how = ["--quiet", "--no-deps", "--no-cache-dir", "--retries=0", f"--timeout={NETWORK_S}", "-d", folder]
        command = [sys.executable, "-m", "pip", "download", *how, "wheel"]
        return "" if _succeeds(command) else "Python's package index does not answer (pip download failed)"


def _succeeds(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=3 * NETWORK_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


# What each kind of proof needs: less where the cache has something already.


def virtual_pi(cache: Path, given: Path | None, installed: bool = True, collects: bool = False) -> Needs:
    """The User-Mode-Linux machine. ``cache``: its folder; ``given``: a kernel built elsewhere; ``installed``: with the
    product on it; ``collects``: whether wheels are collected even if it is installed already.
    """
    disk, system, program = image.disk_path(cache), image.debian_path(cache), given or kernel.path(cache)
    space = {cache: RUN_MB, Path(tempfile.gettempdir()): RUN_MB}
    found = Needs(MACHINE, root=True, space_mb=space, paths=() if given is None else (given,))
    if not program.exists():
        found |= Needs(kernel.TOOLS, ("libc6-dev",), debian=12, mirror=True, space_mb={cache: BUILD_MB - RUN_MB})
    if not system.exists() and not (installed and disk.exists()):
        found |= Needs({"mmdebstrap": "mmdebstrap"}, debian=12, mirror=True)
    if not disk.exists():
        found |= Needs({"mke2fs": "e2fsprogs", "tar": "tar"})
    if collects or (installed and not product.layer_path(cache, disk).exists()):
        found |= Needs(installed=("python3-venv", *packages.TO_BUILD), debian=12, index=True)
    return found


def arm64(cache: Path, root: Path, wheels: Path) -> Needs:
    """The emulated arm64 system. ``root`` and ``wheels``: where its root and its wheels lie once they are made."""
    found = Needs(EMULATOR, root=True, space_mb={cache: RUN_MB})
    if not root.exists():
        found |= Needs(installed=("debian-archive-keyring",), mirror=True, space_mb={cache: ARM64_MB - RUN_MB})
    if not (wheels / ".complete").exists():
        found |= Needs(index=True)
    return found


def pi3(card: Path, work: Path) -> Needs:
    """The emulated Raspberry Pi 3 with a copy of ``card``, in the folder ``work``."""
    return Needs({**PI_3, "ssh": "openssh-client"}, space_mb={work: CARD_MB}, paths=(card,))


def quick_image(cache: Path, given: Path | None, wheels: Path, work: Path) -> Needs:
    """The card image's machinery on the User-Mode-Linux machine."""
    tools = Needs({**CARD_TOOLS, "tar": "tar", "env": "coreutils"}, space_mb={work: CARD_MB}, paths=(wheels,))
    return virtual_pi(cache, given, installed=False) | tools


def stock_image(cache: Path, given: Path | None, work: Path) -> Needs:
    """A customised Raspberry Pi OS on the User-Mode-Linux machine."""
    found = virtual_pi(cache, given, installed=False, collects=True)
    return found | Needs({**CARD_TOOLS, **FAT_TOOLS, "dd": "coreutils"}, space_mb={work: 2 * CARD_MB})


def fleet(cache: Path, given: Path | None) -> Needs:
    """The roll-out on the User-Mode-Linux machine, with Ansible from the package index."""
    return virtual_pi(cache, given) | Needs(index=True)

"""Debian's arm64 packages -> a file tree that starts, without running a single arm64 program.

apt resolves and checks the packages (signed lists, keyring of this machine), in a folder of its own; they are unpacked,
not installed: their scripts would need an emulated processor, and what those scripts do for a headset box is little
(accounts, merged /usr, enabled units) and done here. There is no dpkg on the card; a box is updated as a whole.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge import UserError

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
SECTIONS = "main non-free-firmware"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
WANTED = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "util-linux", "mount", "sed", "grep", "findutils"),
    *("gzip", "tar", "hostname", "libc-bin", "ncurses-base", "procps", "netbase", "e2fsprogs", "dosfstools"),
    *("systemd", "systemd-sysv", "udev", "kmod", "python3", "alsa-utils", "busybox-static"),
    *("libstdc++6", "zlib1g"),  # NumPy, SciPy and ONNX Runtime lean on them
    *("linux-image-arm64", "raspi-firmware"),
    "openssh-client",  # ssh-keygen checks the signatures of updates
    *("openssh-server", "wpasupplicant", "wireless-regdb", "firmware-brcm80211", "iproute2"),  # off until asked for
    "systemd-resolved",  # multicast DNS, with Wi-Fi only
)
UNUSED: tuple[str, ...] = (
    "perl",
    "libperl",
    "debconf",
    "usrmerge",
    "lib.*-perl$",
    "adduser",
    "ucf$",
    "initramfs-tools",
    "klibc",
    "libklibc",
)
UNUSED += ("linux-base", "runit-helper", "sensible-utils", "cpio", "lsb-base", "media-types", "passwd$", "libsemanage")
UNUSED += ("libsepol", "linux-image-arm64$", "logsave", "libdb5", "libgdbm", "dbus")
"""Dependencies of scripts that never run here, by how their names begin."""
BARE: tuple[str, ...] = (
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bug",
)
BARE += ("usr/share/alsa/speaker-test", "usr/share/sounds", "usr/lib/python3.11/test", "usr/share/initramfs-tools")
BARE += ("etc/kernel", "etc/init.d", "etc/cron.daily", "etc/cron.weekly", "usr/share/bash-completion", "usr/share/zsh")
MERGED = ("bin", "sbin", "lib")
LOCKED = "/usr/sbin/nologin"
GROUPS = ("input", "kvm", "render", "sgx")
"""What udev's rules name and its package's script would make."""
ALTERNATIVES = {name: f"{name}-debian" for name in ("regulatory.db", "regulatory.db.p7s")}
"""Links in /usr/lib/firmware that wireless-regdb's script makes (update-alternatives): without them the kernel has no
country's limits for the radio, and ``country=`` of wifi.conf changes nothing."""

DRIVERS = (
    *("arch", "crypto", "fs/ext4", "fs/jbd2", "fs/fat", "fs/nls", "fs/configfs", "fs/mbcache.ko", "fs/overlayfs"),
    *("drivers/mmc", "drivers/gpio", "drivers/i2c", "drivers/spi", "drivers/pinctrl", "drivers/staging/vc04_services"),
    *("drivers/usb", "drivers/regulator", "drivers/reset", "drivers/clk", "drivers/dma", "drivers/pwm", "drivers/soc"),
    *("drivers/thermal", "drivers/hwmon", "drivers/watchdog", "drivers/char/hw_random", "drivers/leds", "drivers/base"),
    *("drivers/net/wireless/broadcom", "drivers/net/usb", "drivers/net/mdio", "drivers/net/phy", "drivers/bcma"),
    *("drivers/net/ethernet/broadcom/genet", "drivers/firmware", "drivers/mailbox", "drivers/cpufreq", "drivers/ssb"),
    *("drivers/net/mii.ko", "drivers/nvmem", "drivers/mfd", "drivers/input", "drivers/rtc", "drivers/phy"),
    *("net/wireless", "net/mac80211", "net/rfkill", "net/ipv6", "net/802", "net/llc"),
    *(
        "net/packet",
        "net/core",
        "net/unix",
        "lib",
        "sound/core",
        "sound/soc/bcm",
        "sound/soc/codecs",
        "sound/soc/generic",
    ),
    *("sound/soc/snd-soc-core.ko", "sound/usb", "sound/ac97_bus.ko", "sound/soundcore.ko", "sound/drivers", "mm"),
)
"""Folders and files of the kernel's modules that a Pi with a headset has a use for."""


@dataclass(frozen=True)
class Package:
    """One Debian package as it was fetched."""

    name: str
    version: str
    sha256: str
    path: Path

    @property
    def used(self) -> bool:
        return not any(re.match(name, self.name) for name in UNUSED)


def fetch(cache: Path, mirror: str = MIRROR, security: str = SECURITY) -> list[Package]:
    """All packages of ``WANTED`` and what they lean on, sorted by name. Raises UserError."""
    apt = cache / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "none/partial", "etc/apt.conf.d", "etc/preferences.d"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").write_text("")
    if not KEYRING.exists():
        raise UserError(f"there is no {KEYRING}: apt-get install debian-archive-keyring")
    places = ((mirror, SUITE), (mirror, f"{SUITE}-updates"), (security, f"{SUITE}-security"))
    lines = [f"deb [arch=arm64 signed-by={KEYRING}] {place} {suite} {SECTIONS}\n" for place, suite in places]
    (apt / "sources.list").write_text("".join(lines))
    call = ["apt-get", "-q", *_options(apt)]
    _run([*call, "update"], "the package lists cannot be fetched; is there a network?")
    none = f"Dir::Cache::archives={apt}/none"  # else those that are there already are not listed
    listing = _run([*call, "-o", none, "-y", "--print-uris", "install", *WANTED], "the packages cannot be resolved")
    names = re.findall(r"^'[^']+' (\S+\.deb) \d+", listing, re.MULTILINE)
    _run([*call, "-y", "--download-only", "install", *WANTED], "the packages cannot be fetched")
    return sorted((_package(apt / "cache/archives" / name) for name in names), key=lambda one: one.name)


def _options(apt: Path) -> list[str]:
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Dir::Etc": apt / "etc",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _package(path: Path) -> Package:
    name, version, _ = path.stem.split("_", 2)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Package(name, version.replace("%3a", ":"), digest, path)


def tree(packages: Iterable[Package], root: Path) -> None:
    """Unpack into the empty folder ``root``, with merged /usr, accounts and the links that package scripts make."""
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    out = ["tar", "-x", "-C", str(root), "--keep-directory-symlink", "--same-owner", "--numeric-owner"]
    out += [f"--exclude=./{folder}/*" for folder in BARE]
    for package in packages:
        if package.used:
            unpack(package, out)
    keep_copyright(root / "usr/share/doc")
    for name in ("passwd", "group"):
        shutil.copyfile(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    accounts(root)
    for target in ("nsswitch.conf", "profile"):
        kept = root / "usr/share/base-files" / target
        if kept.exists():
            shutil.copyfile(kept, root / "etc" / target)
    (root / "usr/bin/awk").unlink(missing_ok=True)
    (root / "usr/bin/awk").symlink_to("busybox")
    link_alternatives(root)
    strip_drivers(root)


def link_alternatives(root: Path) -> None:
    """The links of ``ALTERNATIVES``. Raises UserError where a package no longer has what they point to."""
    for name, target in ALTERNATIVES.items():
        link = root / "usr/lib/firmware" / name
        if not (link.parent / target).is_file():
            raise UserError(f"wireless-regdb has no {target}; correct ALTERNATIVES in hw/image/debian.py")
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def keep_copyright(folder: Path) -> None:
    """Of a folder like /usr/share/doc only the copyright files, and links to a folder that has one."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_symlink():
            keep = path.parent == folder or path.name == "copyright"
        else:
            keep = any(path.iterdir()) if path.is_dir() else path.name == "copyright"
        if not keep:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def unpack(package: Package, out: Sequence[str]) -> None:
    """Write a package's files with the ``tar`` command ``out``. Raises UserError."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package.path], stdout=subprocess.PIPE) as source:
        done = subprocess.run(out, stdin=source.stdout, capture_output=True, text=True)
    if done.returncode or source.returncode:
        raise UserError(
            f"{package.path.name} cannot be unpacked: {done.stderr.strip()[-200:]}; remove it and run this again"
        )


def accounts(root: Path) -> None:
    """Every account that a sysusers file asks for; no account has a password, and none can get one typed in."""
    path = root / "etc/passwd"
    path.write_text(re.sub(r"(?m)^(root):[^:]*:", r"\1:x:", path.read_text()))
    (root / "etc/sysusers.d").mkdir(parents=True, exist_ok=True)
    groups = "".join(f"g {name} - -\n" for name in GROUPS)
    (root / "etc/sysusers.d/card.conf").write_text(f'{groups}u sshd - "ssh" /run/sshd {LOCKED}\n')
    _run(["systemd-sysusers", f"--root={root}"], "the accounts cannot be made")
    names = [line.split(":")[0] for line in path.read_text().splitlines()]
    shadow = root / "etc/shadow"
    shadow.write_text("".join(f"{name}:*:1::::::\n" for name in names))  # "*": no password fits, keys do
    shadow.chmod(0o640)
    (root / "etc/gshadow").unlink(missing_ok=True)
    for name in ("passwd-", "group-", "shadow-", "gshadow-", ".pwd.lock"):
        (root / "etc" / name).unlink(missing_ok=True)


def kernel_version(root: Path) -> str:
    """The one kernel in the tree, as "6.1.0-56-arm64"."""
    return min(path.name for path in (root / "usr/lib/modules").iterdir())


def strip_drivers(root: Path) -> None:
    """Remove the modules that no Pi of ours needs, and index the rest."""
    version = kernel_version(root)
    top = root / "usr/lib/modules" / version / "kernel"
    needed = with_dependencies(root, (path for path in modules(top) if _wanted(str(path.relative_to(top)))))
    for path in list(modules(top)):
        if path not in needed:
            path.unlink()
    for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    _run(["depmod", "-b", str(root), version], "the kernel's modules cannot be indexed")


def with_dependencies(root: Path, wanted: Iterable[Path]) -> set[Path]:
    """The modules and all that they lean on."""
    version = kernel_version(root)
    _run(["depmod", "-b", str(root), version], "the kernel's modules cannot be indexed")
    top = root / "usr/lib/modules" / version
    leans = {}
    for line in (top / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        leans[top / name] = [top / one for one in rest.split()]
    return {path for one in wanted for path in (one, *leans.get(one, []))}


def modules(top: Path) -> Iterator[Path]:
    yield from sorted(path for path in top.rglob("*.ko*") if stat.S_ISREG(path.lstat().st_mode))


def _wanted(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}/") for one in DRIVERS)


def _run(command: list[str], failed: str) -> str:
    """What it printed. Raises UserError."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed: the image is built on a Debian 12 or 13") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["it gave no reason"])[-1]
        raise UserError(f"{failed} ({last[:200]})")
    return done.stdout

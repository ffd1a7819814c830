"""The machine's kernel: Debian's Linux 6.1 as a User-Mode-Linux program, with loop-back sound cards and simulated GPIO.

No KVM, no emulation: the kernel is an ordinary process, and boots Debian in seconds. Built once, in some 10 CPU
minutes, from the package linux-source-6.1; after that it lies in the cache.
"""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from edge import UserError

PACKAGE = "linux-source-6.1"
TOOLS = {
    **{name: name for name in ("bc", "bison", "flex", "gcc", "make", "tar")},
    **{"apt-get": "apt", "dpkg-deb": "dpkg", "strip": "binutils", "xz": "xz-utils"},
}
"""Command -> the Debian package that has it."""

EDITS = (
    # ALSA is fenced off from User-Mode Linux for want of memory-mapped devices; the virtual cards need none.
    ("sound/Kconfig", r"^if !UML$", "if UML || !UML"),
    ("sound/Kconfig", r"depends on HAS_IOMEM \|\| INDIRECT_IOMEM$", "depends on HAS_IOMEM || INDIRECT_IOMEM || UML"),
    # The loop-back card moves in jiffies: at the usual 100 Hz the sound would come in steps of 10 ms and more.
    ("arch/um/Kconfig", r"(?<=^config HZ\n\tint\n\tdefault )100$", "1000"),
    # The USB controller without a cable hides its isochronous endpoints, over which it can send nothing; without one an
    # audio gadget does not even begin.
    ("drivers/usb/gadget/udc/dummy_hcd.c", r"^/\*\n(?=\tEP_INFO\(\"ep3in-iso\")", ""),
    ("drivers/usb/gadget/udc/dummy_hcd.c", r"(?<=\n)\*/\n(?=\tEP_INFO\(\"ep5in-int\")", ""),
    # Processors with AMX keep 11008 bytes of vector registers a thread, and take all of them back or none; here there
    # is room for 2696, so the first process died. Nobody in here uses AMX: its part is handed back as zeros.
    ("arch/x86/um/os-Linux/registers.c", r"^#include <errno.h>$", "#include <errno.h>\n#include <string.h>"),
    (
        "arch/x86/um/os-Linux/registers.c",
        r"iov\.iov_base = fp_regs;\n\t\tiov\.iov_len = FP_SIZE \* sizeof\(unsigned long\);\n"
        r"(?=\t\tif \(ptrace\(PTRACE_SET)",
        "static unsigned long whole[4096];\n\t\tmemcpy(whole, fp_regs, FP_SIZE * sizeof(unsigned long));\n"
        "\t\tiov.iov_base = whole;\n\t\tiov.iov_len = sizeof(whole);\n",
    ),
)
ON = """
    VIRTIO_UML UML_PCI_OVER_VIRTIO HIGH_RES_TIMERS NO_HZ_IDLE POSIX_TIMERS PREEMPT_VOLUNTARY EXPERT DEBUG_INFO_NONE
    HOSTFS BLK_DEV_UBD EXT4_FS TMPFS TMPFS_POSIX_ACL TMPFS_XATTR DEVTMPFS DEVTMPFS_MOUNT CONFIGFS_FS DEBUG_FS
    CGROUPS MEMCG CGROUP_SCHED FAIR_GROUP_SCHED CGROUP_PIDS CGROUP_FREEZER CGROUP_CPUACCT CGROUP_BPF BPF_SYSCALL
    NAMESPACES UTS_NS IPC_NS USER_NS PID_NS NET_NS FHANDLE EPOLL SIGNALFD TIMERFD EVENTFD INOTIFY_USER AUTOFS_FS
    SECCOMP SECCOMP_FILTER NET UNIX
    UML_TIME_TRAVEL_SUPPORT
    SOUND SND SND_TIMER SND_PCM SND_HRTIMER SND_PCM_TIMER SND_PROC_FS SND_VERBOSE_PROCFS SND_DRIVERS SND_ALOOP
    GPIOLIB GPIO_CDEV GPIO_SIM IRQ_SIM
    USB_SUPPORT USB USB_GADGET USB_DUMMY_HCD USB_CONFIGFS USB_CONFIGFS_F_UAC1 SND_USB SND_USB_AUDIO
"""
OFF = """
    VMAP_STACK MODULES DEBUG_INFO DEBUG_KERNEL KASAN WERROR INET NETDEVICES ETHTOOL_NETLINK UML_NET WIRELESS WLAN HID
    HID_SUPPORT INPUT REISERFS_FS ISO9660_FS WATCHDOG MD IOSCHED_BFQ MQ_IOSCHED_KYBER MEDIA_SUPPORT I2C HWMON THERMAL
    POWER_SUPPLY REGULATOR DRM FB RTC_CLASS NLS MISC_FILESYSTEMS NETWORK_FILESYSTEMS SND_PCI SND_SOC
"""
# VMAP_STACK is off because an interrupt that meets a stack not mapped yet faults for ever: the machine then spins.
NEEDED = (
    "SND_ALOOP",
    "GPIO_SIM",
    "HOSTFS",
    "EXT4_FS",
    "CGROUP_BPF",
    "SECCOMP_FILTER",
    "HIGH_RES_TIMERS",
    "UML_TIME_TRAVEL_SUPPORT",
)
"""Options whose absence would only show much later."""


class BuildFailed(UserError):
    """The machine cannot be built here; the text names what is missing or where the log lies."""


def path(cache: Path) -> Path:
    """Where the kernel program of this recipe lies once it is built."""
    recipe = hashlib.sha256(repr((PACKAGE, EDITS, tuple(ON.split()), tuple(OFF.split()))).encode()).hexdigest()[:12]
    return cache / f"linux-{recipe}"


def kernel(cache: Path) -> Path:
    """The kernel program in ``cache``, built there if this recipe was not built yet. Raises BuildFailed."""
    built = path(cache)
    if built.exists():
        return built
    missing = [package for command, package in TOOLS.items() if shutil.which(command) is None]
    if missing:
        raise BuildFailed(f"building the kernel needs {', '.join(missing)}: apt-get install {' '.join(missing)}")
    work = cache / f"{built.name}.work"
    source = work / PACKAGE
    log = cache / f"{built.name}.log"
    if not (work / "unpacked").exists():
        _unpack(cache, work, source, log)
    _configure(source, log)
    _quietly(["make", "-j2", "linux"], source, log)
    part = built.with_suffix(".part")
    _quietly(["strip", "-o", str(part), "linux"], source, log)
    part.rename(built)
    shutil.rmtree(work)
    return built


def _unpack(cache: Path, work: Path, source: Path, log: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    archives = sorted(cache.glob(f"{PACKAGE}_*.deb"))
    if not archives:
        _quietly(["apt-get", "download", PACKAGE], cache, log)
        archives = sorted(cache.glob(f"{PACKAGE}_*.deb"))
    _quietly(["dpkg-deb", "-x", str(archives[-1]), str(work)], work, log)
    _quietly(["tar", "xf", str(work / "usr" / "src" / f"{PACKAGE}.tar.xz")], work, log)
    for name, pattern, replacement in EDITS:
        file = source / name
        text, count = re.subn(pattern, replacement, file.read_text(), flags=re.MULTILINE)
        if not count:
            raise BuildFailed(f"{file} does not look as expected: no {pattern}; is this still {PACKAGE}?")
        file.write_text(text)
    (work / "unpacked").touch()


def _configure(source: Path, log: Path) -> None:
    _quietly(["make", "defconfig"], source, log)
    options = [word for name in ON.split() for word in ("-e", name)] + [
        word for name in OFF.split() for word in ("-d", name)
    ]
    _quietly(["scripts/config", *options, "--set-val", "UML_PCI_OVER_VIRTIO_DEVICE_ID", "-1"], source, log)
    _quietly(["make", "olddefconfig"], source, log)
    granted = (source / ".config").read_text().splitlines()
    refused = [name for name in NEEDED if f"CONFIG_{name}=y" not in granted]
    if refused:
        raise BuildFailed(f"the kernel's configuration refuses {', '.join(refused)}; see {source}/.config")


def _quietly(command: list[str], folder: Path, log: Path) -> None:
    """Run it, its words into ``log``."""
    with log.open("a") as out:
        done = subprocess.run(
            command,
            cwd=folder,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"ARCH": "um"},
        )
    if done.returncode:
        raise BuildFailed(f"{' '.join(command[:3])} failed; see {log}")

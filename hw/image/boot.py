"""The card's first partition: the Pi's firmware, kernel, device trees, a small initial root, and the user's files."""

import gzip
import io
import shutil
import stat
import subprocess
from pathlib import Path

from edge import UserError
from edge.config_file import documented
from hw.board import models
from hw.image import debian

HERE = Path(__file__).parent
FIRMWARE = ("bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat")
EARLY = (
    *("ext4", "crc32c_generic", "mmc_block", "sdhci-iproc", "bcm2835", "sdhci-pltfm", "gpio-regulator"),
    *("reset-raspberrypi", "raspberrypi-exp-gpio", "gpio-raspberrypi-exp", "clk-raspberrypi", "bcm2835-dma"),
    *("crc32-arm64", "usb-storage", "sd_mod", "uas", "xhci-pci", "pcie-brcmstb", "dwc2"),
)
"""Drivers that may stand between power-on and the root; those that are built in, or not there, are no loss."""
CONFIG = """# Read by the Pi's firmware. The box's own settings are in quietbox.toml.
arm_64bit=1
upstream_kernel=1
kernel=vmlinuz
initramfs initrd.gz followkernel
# A microphone on the I2S bus. Remove the line where a sound HAT is on the header: the bus can have one card.
dtoverlay=quietbox-microphone
"""
CMDLINE = "console=tty0 console=ttyAMA0,115200 root=UUID={root} rootfstype=ext4 ro rootwait quiet loglevel=3 cma=64M "
CMDLINE += "net.ifnames=0 fsck.repair=preen panic=10 systemd.condition-needs-update=no systemd.show_status=no"
INIT = """#!/bin/sh
# Finds the root, gives the board its own name, and steps aside.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o mode=0755 run /run
uuid= init=/sbin/init
for word in $(cat /proc/cmdline); do
    case $word in root=UUID=*) uuid=${word#root=UUID=} ;; init=*) init=${word#init=} ;; esac
done
modprobe -a $(cat /drivers) 2>/dev/null
tries=0
until card=$(findfs UUID=$uuid 2>/dev/null) && mount -t ext4 -o ro,noatime $card /root 2>/dev/null; do
    tries=$((tries + 1))
    if [ $tries -gt 300 ]; then
        echo "quietbox: no card with the root $uuid; is it this card's own image?" >/dev/console
        sleep 30
        reboot -f
    fi
    sleep 0.1
done
# One board, one name, on whatever card: from the serial number, where there is none from the card's.
serial=$(tr -d '\\000' 2>/dev/null </proc/device-tree/serial-number)
card=${card#/dev/}
case ${serial:-0} in *[!0]*) ;; *) serial=$(cat /sys/block/${card%p*}/device/cid 2>/dev/null) ;; esac
name=$(echo "quietbox $serial" | sha256sum)
echo ${name%${name#????????????????????????????????}} >/run/machine-id
echo quietbox-${name%${name#????}} >/run/hostname
chmod 444 /run/machine-id /run/hostname
mount -o bind /run/machine-id /root/etc/machine-id
mount -o bind /run/hostname /root/etc/hostname
umount /proc /sys
mount -o move /dev /root/dev
mount -o move /run /root/run
exec switch_root /root $init
"""
HELP = """This card turns a Raspberry Pi into a Quietbox.

quietbox.toml         the settings: remove the # of a line and change it. Invalid settings are rejected: the LED
                      blinks fast for some seconds after power-on, and the last good settings are used.
                      volume_db sets the volume: set it before you put the headphones on, raise it by 3 at a time.
ssh/authorized_keys   add your public key here (create the folder) to log in by SSH as root
wifi.conf             Wi-Fi: the code of your country, then one line for each network:
                          country=DE
                          network={ ssid="NAME" psk="PASSWORD" }
                      Add scan_ssid=1 before the } if the network hides its name; write key_mgmt=NONE instead of psk
                      if it has no password. The box then has the name quietbox-XXXX.local.
update.quietbox       an update, made and signed by hw/image/update --make; it is installed at the next power-on

Whoever holds this card can read wifi.conf and change everything on it.
Without the last three files the box has no password, no network and no open port.
"""


def fill(folder: Path, root: Path, root_id: str) -> None:
    """Everything of the first partition into the empty ``folder``; the kernel leaves ``root``. Raises UserError."""
    version = debian.kernel_version(root)
    for name in FIRMWARE:
        shutil.copyfile(root / "usr/lib/raspi-firmware" / name, folder / name)
    shutil.copyfile(root / f"boot/vmlinuz-{version}", folder / "vmlinuz")
    trees = root / f"usr/lib/linux-image-{version}/broadcom"
    for name in models.image_trees():
        shutil.copyfile(trees / name, folder / name)
    (folder / "overlays").mkdir()
    for source in sorted((HERE / "overlays").glob("*.dts")):
        _compile(source, folder / "overlays" / f"{source.stem}.dtbo")
    (folder / "initrd.gz").write_bytes(initial_root(root))
    (folder / "config.txt").write_text(CONFIG)
    (folder / "cmdline.txt").write_text(CMDLINE.format(root=root_id) + "\n")
    (folder / "quietbox.toml").write_text(settings())
    (folder / "README.txt").write_text(HELP.replace("\n", "\r\n"))
    for name in ("usr/lib/raspi-firmware", f"usr/lib/linux-image-{version}", "boot"):
        shutil.rmtree(root / name)
    (root / "boot/firmware").mkdir(parents=True)


def settings() -> str:
    """The documented settings, every key commented out: the box finds out what is not set, or takes its default."""
    return "".join(f"# {line}\n" if line and line[0] not in "#[" else f"{line}\n" for line in documented())


def _compile(source: Path, target: Path) -> None:
    try:
        done = subprocess.run(
            ["dtc", "-@", "-q", "-I", "dts", "-O", "dtb", "-o", target, source], capture_output=True, text=True
        )
    except FileNotFoundError:
        raise UserError("dtc is not installed: apt-get install device-tree-compiler") from None
    if done.returncode:
        raise UserError(f"{source.name} cannot be compiled: {done.stderr.strip()[-200:]}")


def initial_root(root: Path) -> bytes:
    """The initial root as the kernel wants it (newc archive, gzip): busybox, drivers of the card, one script."""
    version = debian.kernel_version(root)
    drivers = root / "usr/lib/modules" / version
    files: dict[str, bytes | None] = {name: None for name in ("bin", "proc", "sys", "dev", "run", "root", "lib")}
    files |= {"lib/modules": None, f"lib/modules/{version}": None}
    files["bin/busybox"] = (root / "usr/bin/busybox").read_bytes()
    files["init"] = INIT.encode()
    files["drivers"] = " ".join(EARLY).encode()
    named = {path.name.split(".")[0].replace("_", "-"): path for path in debian.modules(drivers / "kernel")}
    wanted = [named[name] for driver in EARLY if (name := driver.replace("_", "-")) in named]
    for path in sorted(debian.with_dependencies(root, wanted)):
        name = f"lib/modules/{version}/{path.relative_to(drivers)}"
        for folder in list(Path(name).parents)[::-1]:
            if str(folder) != ".":
                files.setdefault(str(folder), None)
        files[name] = path.read_bytes()
    for name in ("modules.dep", "modules.alias", "modules.softdep", "modules.builtin"):
        if (drivers / name).exists():
            files[f"lib/modules/{version}/{name}"] = (drivers / name).read_bytes()
    links = {"bin/sh": "busybox"}
    return gzip.compress(archive(files, links), 9, mtime=0)


def archive(files: dict[str, bytes | None], links: dict[str, str]) -> bytes:
    """A newc archive (kernel's Documentation/driver-api/early-userspace/buffer-format.rst); None is a folder."""
    out = io.BytesIO()
    entries = [
        (name, stat.S_IFDIR | 0o755 if data is None else stat.S_IFREG | 0o755, data or b"")
        for name, data in files.items()
    ]
    entries += [(name, stat.S_IFLNK | 0o777, target.encode()) for name, target in links.items()]
    entries.append(("TRAILER!!!", 0, b""))
    for inode, (name, mode, data) in enumerate(entries, 1):
        numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out.write(b"070701" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0")
        out.write(b"\0" * (-out.tell() % 4))
        out.write(data)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()

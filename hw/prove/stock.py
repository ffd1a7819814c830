"""The first boot of a customised image, proven in the virtual machine: cut off in the middle, then finished offline.

    sudo python -m hw.prove.stock [--cache DIR] [--kernel FILE] [--cut SECONDS]

A card is laid out as Raspberry Pi OS lays it out, its root being the Debian 12 of ``hw.prove.pi``'s board (for a PC's
processor), customised by ``hw.image.stock``, and booted with real systemd and no network: once until the power is
cut after some seconds, once to its end, once more to see that nothing of the step is left. Not proven by it:
Raspberry Pi OS itself, its own first-boot steps, an ARM processor, the reboot after a change of config.txt.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from edge import UserError
from edge.console import run_main
from hw.image import partitions, stock
from hw.prove import needs
from hw.virtual.pi import image, kernel, machine, product

MIB = 1 << 20
BOOT_AT, BOOT_SIZE = 4 * MIB, 64 * MIB
ROOT_AT = BOOT_AT + BOOT_SIZE
CUT_S, LIMIT_S = 20.0, 600.0
FINISHED = f"""
for _ in $(seq 500); do [ -e {stock.PLACE} ] || break; sleep 1; done
echo "--- install log"; cat /boot/firmware/quietbox-install.log
echo "--- left"; ls -d {stock.PLACE} {stock.UNITS}/{stock.UNIT} {stock.UNITS}/multi-user.target.wants/{stock.UNIT}
echo "--- box"
for _ in $(seq 60); do systemctl is-active --quiet quietbox.service && break; sleep 1; done
quietbox status
! [ -e {stock.PLACE} ] && ! [ -e {stock.UNITS}/{stock.UNIT} ] && [ -x /usr/local/src/quietbox/install.sh ] &&
    grep -q 'Quietbox is installed' /boot/firmware/quietbox-install.log && systemctl is-active quietbox.service
"""
AGAIN = f"""
for _ in $(seq 60); do systemctl is-active --quiet quietbox.service && break; sleep 1; done
quietbox status
systemctl is-active quietbox.service && ! systemctl cat {stock.UNIT} 2>/dev/null
"""


def card(path: Path, disk: Path) -> None:
    """A card image at ``path`` with ``disk`` as its root."""
    size = disk.stat().st_size
    entries = ((0x0C, BOOT_AT, BOOT_SIZE), (0x83, ROOT_AT, size))
    table = b"".join(
        bytes(4) + bytes([kind]) + bytes(3) + (at // 512).to_bytes(4, "little") + (length // 512).to_bytes(4, "little")
        for kind, at, length in entries
    )
    with path.open("wb") as out:
        out.write((bytes(446) + table).ljust(510, b"\0") + b"\x55\xaa")
        out.truncate(ROOT_AT + size)
    partitions.run("dd", f"if={disk}", f"of={path}", "bs=1M", f"seek={ROOT_AT // MIB}", "conv=notrunc,sparse")
    partitions.run("mformat", "-i", f"{path}@@{BOOT_AT}", "-F", "-T", str(BOOT_SIZE // 512), "::")
    boot = partitions.Fat(path, partitions.Partition(0x0C, BOOT_AT, BOOT_SIZE))
    root = partitions.Ext4(path, partitions.Partition(0x83, ROOT_AT, size))
    for name in ("config.txt", "cmdline.txt"):
        boot.put(name, b"# as on a card\n")
    root.make_folder("/boot/firmware")
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("a card of the virtual Pi\n")
        file.flush()
        root.put(Path(file.name), "/etc/rpi-issue")
        root.put(Path(file.name), "/boot/firmware/config.txt")


def prove(cache: Path, given: Path | None, cut_s: float, work: Path) -> bool:
    """Whether all three boots went as they should; prints their output. Raises UserError."""
    program = given.resolve() if given else kernel.kernel(cache)
    share = work / "share"
    share.mkdir()
    product.wheels(share)
    (share / "quietbox.toml").write_text(product.SETTINGS)
    plain, made, layer = work / "card.img", work / "made.img", work / "layer"
    card(plain, image.disk(cache))
    stock.customise(plain, made, share / "wheels", settings=share / "quietbox.toml")
    held = True
    for name, text, limit_s in (
        ("cut off", "sleep 600", cut_s),
        ("to its end", FINISHED, LIMIT_S),
        ("the boot after", AGAIN, LIMIT_S),
    ):
        machine.job(share, text)
        ended = machine.boot(program, made, layer, share, limit_s=limit_s, words=("root=/dev/ubda2",))
        good = ended.hung if name == "cut off" else ended.status == 0
        held = held and good
        stock.say(f"{name}: {'holds' if good else 'FAILED'}, {ended.seconds:.0f} s, status {ended.status}")
        if (share / "stdout").exists() and name != "cut off":
            print((share / "stdout").read_text())
    return held


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hw.prove.stock", description="Proves the first boot.")
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quietbox"
    parser.add_argument("--cache", type=Path, default=default, metavar="DIR", help=f"as in hw.prove.pi ({default})")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="a kernel built elsewhere")
    parser.add_argument(
        "--cut", type=float, default=CUT_S, metavar="SECONDS", help=f"when the power is cut ({CUT_S:g})"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep images and console output there")
    options = parser.parse_args()
    work = options.keep or Path(tempfile.mkdtemp(prefix="stock-proof-"))
    try:
        cache = options.cache.resolve() / "virtual"
        needs.check(needs.stock_image(cache, options.kernel, work.resolve()))
        work.mkdir(parents=True, exist_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        return 0 if prove(cache, options.kernel, options.cut, work.resolve()) else 1
    except UserError as error:
        print(f"stock proof: {error}", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    run_main(main, "stock proof")

"""The image's own machinery in minutes: same root, services, updates and power cuts on a User-Mode-Linux machine.

    python -m hw.prove.image --wheels DIR [--cuts N] [--cache DIR] [--kernel FILE] [--keep DIR]

An emulated Pi boots in many minutes, this one in seconds, so here is where the power is cut often. What stands on the
card is what ``hw/image/build`` puts there (``card.equip``): units, read-only root, data partition that grows, version,
settings, rollback. Different are the processor (this machine's Debian and wheels), the first partition (ext4, since
this kernel knows no FAT) and how the root is found (no initial root, so no name from the serial number).
``hw.prove.pi3`` boots the image itself. Needs root and what ``hw.prove.pi`` needs; what is missing is named before
anything is built.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge import UserError
from edge.console import run_main
from hw.image import boot, card, disk, owner, product, table
from hw.install import ledger
from hw.prove import emulated, needs, pi3, probe
from hw.prove.rows import Row, verdict
from hw.virtual.pi import image, kernel

CACHE = Path.home() / ".cache/quietbox/virtual"
MACHINE_ID = "0123456789abcdef0123456789abcdef"
MEMORY = "768M"
CARD_MIB = 2048
LIMIT_S = 240.0
GOOD = "9.9.9-good"
BOOT_MIB = 400


def made(work: Path, cache: Path, wheels: Path, epoch: int = card.EPOCH) -> tuple[emulated.Card, Path]:
    """A card for this machine, and the folder of its product. Raises UserError."""
    place = work / "product"
    ledger.remove_tree(place)
    place.mkdir()
    product.make(["--no-index", "--no-deps", *(str(path) for path in product.used(wheels))], place, epoch)
    return put_together(work, cache, place, epoch), place


def put_together(work: Path, cache: Path, place: Path, epoch: int) -> emulated.Card:
    """The card with the product in ``place``. Raises UserError."""
    root, first, data = work / "root", work / "first", work / "data"
    for folder in (root, first, data):
        ledger.remove_tree(folder)
        folder.mkdir()
    emulated.run(["tar", "-x", "-f", str(image.debian(cache)), "-C", str(root), "--numeric-owner"])
    ids = disk.Ids("prove")
    key = work / "update-key"
    if not key.exists():
        emulated.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    signers = owner.allowed_signers(owner.public_of(key))
    card.equip(root, place, {name: ids.of(name) for name in ("root", "data", "boot")}, epoch, signers)
    fstab = root / "etc/fstab"
    fstab.write_text(fstab.read_text().replace("vfat   ro,umask=0077", "ext4   ro"))
    for name in ("dev", "proc", "sys", "run", "tmp"):
        (root / name).mkdir(exist_ok=True)
    for name in ("quietbox/versions", "settings", "journal", "state"):
        (data / name).mkdir(parents=True)
    (first / "quietbox.toml").write_text(boot.settings())
    parts = []
    sizes = {"boot": BOOT_MIB << 20, "root": disk.bytes_needed(root), "data": disk.DATA_MIB << 20}
    for (label, size), folder in zip(sizes.items(), (first, root, data), strict=True):
        path = work / f"{label}.ext4"
        more = [f"resize={disk.DATA_MOST_BYTES // disk.BLOCK}"] if label == "data" else []
        disk.ext4(folder, path, size, label, ids.of(label), epoch, *more)
        parts.append((table.FAT if label == "boot" else table.LINUX, path))
    out = work / "card.img"
    disk.card(parts, out, ids.disk)
    os.truncate(out, CARD_MIB << 20)
    for _, path in parts:
        path.unlink()
    with out.open("rb") as file:
        return emulated.Card(out, table.read(file.read(table.SECTOR)))


def into_first(held: emulated.Card, files: dict[str, Path], work: Path) -> None:
    """Replace files of the first partition, as a PC with a card reader would."""
    part = held.parts[0]
    copy = work / "first.img"
    emulated.copy_range(held.path, copy, part)
    lines = [line for name, path in files.items() for line in (f"rm /{name}", f"write {path} /{name}")]
    script = work / "debugfs"
    script.write_text("\n".join(lines) + "\n")
    emulated.run(["debugfs", "-w", "-f", str(script), str(copy)])
    with copy.open("rb") as source, held.path.open("r+b") as target:
        target.seek(part.start * table.SECTOR)
        shutil.copyfileobj(source, target, 1 << 22)
    copy.unlink()


class Machine:
    """How this machine is switched on."""

    def __init__(self, cache: Path, given: Path | None) -> None:
        self.kernel = given or kernel.kernel(cache)

    def __call__(self, held: emulated.Card, work: Path) -> list[str]:
        words = f"mem={MEMORY} ubd0={held.path} root=/dev/ubda2 ro con=null con0=fd:0,fd:1 console=tty0 quiet"
        words += f" loglevel=3 systemd.condition-needs-update=no systemd.machine_id={MACHINE_ID} fsck.repair=preen"
        script = f'exec "$0" $1 >{work}/console.log 2>&1'
        return ["env", f"TMPDIR={work}", "sh", "-c", script, str(self.kernel), f"{words} {emulated.ALOUD}"]


def checks(held: emulated.Card, place: Path, work: Path, machine: Machine, cuts: int, seed: int) -> Iterator[Row]:
    """Everything, in the order in which a card lives."""
    update = work / "unsigned.quietbox"
    product.pack(place, "9.9.9-unsigned", update, card.EPOCH, card.EPOCH)
    into_first(held, {"update.quietbox": update}, work)
    yield from pi3.check_boot(held, work, machine, LIMIT_S, False)
    facts = probe.answers((work / "console.log").read_text(errors="replace"))
    refused = "is not signed" in facts.get("settings", "") and "in use shipped" in facts.get("version", "")
    yield Row("an update without a signature is refused", verdict(refused), facts.get("settings", "no output"), 0)
    settings = work / "quietbox.toml"
    settings.write_text("[limiter]\nthreshold_dbfs = 40\n")
    into_first(held, {"quietbox.toml": settings, "update.quietbox": pi3.broken_update(work, work / "update-key")}, work)
    yield from pi3.check_fallback(held, work, machine, LIMIT_S)
    settings.write_text("[suppress]\nlimit_db = 12.0\n")
    update = work / "good.quietbox"
    product.pack(place, GOOD, update, card.EPOCH, card.EPOCH)
    owner.sign(update, work / "update-key")
    into_first(held, {"quietbox.toml": settings, "update.quietbox": update}, work)
    if cuts:
        yield from pi3.check_cuts(held, work, machine, cuts, 40.0, seed)
    yield from pi3.check_boot(held, work, machine, LIMIT_S, False)
    facts = probe.answers((work / "console.log").read_text(errors="replace"))
    version = facts.get("version", "no output")
    ran = f"in use {GOOD}, good {GOOD}" in version
    yield Row("the good update is in use, after all cuts", verdict(ran), version, 0)
    boots = facts.get("boots", "0")
    yield Row("earlier boots are in the journal", verdict(int(boots or 0) > 2), f"{boots} boots", 0)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 if every check was passed."""
    parser = argparse.ArgumentParser(prog="python -m hw.prove.image", description="The image's machinery, quickly.")
    parser.add_argument("--wheels", type=Path, required=True, metavar="DIR", help="wheels for this machine")
    parser.add_argument("--cuts", type=int, default=20, metavar="N", help="cut the power at N random moments (20)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"of hw.prove.pi ({CACHE})")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="a User-Mode-Linux kernel, not to build one")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR and leave console and card there")
    options = parser.parse_args(arguments)
    os.umask(0o022)
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory() as name:
            work = (options.keep or Path(name)).resolve()
            cache = options.cache.resolve()
            needs.check(needs.quick_image(cache, options.kernel, options.wheels, work))
            for folder in (cache, work):
                folder.mkdir(parents=True, exist_ok=True)
            machine = Machine(cache, options.kernel and options.kernel.resolve())
            held, place = made(work, cache, options.wheels.resolve())
            probe.add_probe(held, work, True)
            for row in checks(held, place, work, machine, options.cuts, options.seed):
                rows.append(row)
                print(row, flush=True)
    except UserError as error:
        print(f"prove: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"prove: {error.filename or 'the machine'}: {error.strerror}", file=sys.stderr)
        return 1
    failed = sum(row.verdict == "FAIL" for row in rows)
    print(
        f"{len(rows)} checks, {failed} failed. Not tested here: arm64, firmware, initial root, FAT, LED, speed, jack."
    )
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main, "prove")

"""Makes the card image: ``hw/image/build [OUT] [--signer FILE] [--cache DIR] [--wheels DIR] [--as MANIFEST]``.

Steps whose inputs did not change are taken from the cache. Beside the image lie a bill of materials with
the licences of all that is in it (OUT.cdx.json) and a manifest with version and sha256 of every input; ``--as
MANIFEST`` refuses to build from others. The same inputs give the same image, byte for byte.
The public key in ``--signer FILE`` goes onto the card: a box takes only updates that are signed with that key.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge import UserError
from edge.console import run_main
from edge.files import atomic
from hw.image import boot, bundle, debian, disk, libraries, owner, product, sbom, signature, table
from hw.install import ledger, places, wheels

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache/quietbox-image"
OUT = Path("quietbox-arm64.img")
EPOCH = 1_735_689_600
"""1 January 2025: the time of every file on the card, unless SOURCE_DATE_EPOCH sets another."""
MASKED = (
    *("getty.target", "getty@.service", "serial-getty@.service", "console-getty.service", "ctrl-alt-del.target"),
    *(
        "systemd-vconsole-setup.service",
        "e2scrub_reap.service",
        "e2scrub_all.timer",
        "fstrim.timer",
        "alsa-state.service",
        "alsa-restore.service",
    ),
    *("systemd-rfkill.service", "systemd-rfkill.socket", "ssh.service", "ssh.socket", "sshd.service"),
    *("wpa_supplicant.service", "systemd-firstboot.service", "systemd-machine-id-commit.service", "ldconfig.service"),
    *("systemd-networkd-wait-online.service", "systemd-network-generator.service", "systemd-pcrphase.service"),
    *("dpkg-db-backup.timer", "apt-daily.timer", "systemd-hwdb-update.service", "systemd-update-done.service"),
)
"""No login, no network, nothing that wants to write to the root or keeps house where nothing changes; and nobody beside
the box who sets the output's mixer."""


class Build:
    """One run: its folders, its clock, and what it used."""

    def __init__(self, cache: Path, given: Path | None, signers: str = "") -> None:
        """``signers``: the allowed-signers file of the image; empty: it takes no updates."""
        self.cache, self.given, self.signers = cache, given, signers
        self.number = product.build_number()
        self.epoch = int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH))
        self.began_s = time.monotonic()
        self.bill = ""
        """The bill of materials of the image that was built."""

    def say(self, text: str) -> None:
        print(f"==> {text} ({time.monotonic() - self.began_s:.0f} s)", flush=True)

    def image(self, out: Path, wanted: Path | None) -> dict[str, Any]:
        """Build; returns the manifest. Raises UserError."""
        sbom.check_tool()
        self.cache.mkdir(parents=True, exist_ok=True)
        self.say("Debian's packages")
        packages = debian.fetch(self.cache)
        folder = product.collect(self.cache, self.given)
        version, place = self.version(folder)
        inputs = self.inputs(packages, folder, version)
        if wanted is not None:
            _compare(json.loads(wanted.read_text())["inputs"], inputs)
        ids = disk.Ids(hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest())
        with tempfile.TemporaryDirectory(dir=self.cache) as name:
            work = Path(name)
            parts = self.parts(work, packages, place, ids)
            disk.card(parts, out, ids.disk)
        held = [one for one in packages if one.used]
        self.bill = sbom.bill(version, held, self.system(packages), product.used(folder), self.epoch)
        self.say(f"{out}")
        return {"image": {"bytes": out.stat().st_size, "sha256": _digest(out)}, "version": version, "inputs": inputs}

    def version(self, folder: Path) -> tuple[str, Path]:
        """The product as it will run, from the cache if checkout and wheels are the same as then."""
        marks = [f"{path.name} {_digest(path)}" for path in product.used(folder)]
        marks += [f"{path} {_digest(path)}" for path in product.sources()]
        key = hashlib.sha256("\n".join([*marks, str(self.epoch)]).encode()).hexdigest()[:12]
        place, name_file = self.cache / f"product-{key}", self.cache / f"product-{key}.name"
        if not name_file.exists():
            self.say("the product for arm64")
            ledger.remove_tree(place)
            place.mkdir()
            name_file.write_text(product.make(product.for_arm64(folder), place, self.epoch))
        return name_file.read_text(), place

    def system(self, packages: Iterable[debian.Package]) -> Path:
        """Debian's tree, unpacked once for one set of packages and one recipe."""
        marks = [one.sha256 for one in packages] + [_digest(HERE / "debian.py"), str(self.epoch)]
        root = self.cache / f"root-{hashlib.sha256(' '.join(marks).encode()).hexdigest()[:12]}"
        if not root.exists():
            self.say("unpacking Debian")
            part = root.with_suffix(".part")
            ledger.remove_tree(part)
            part.mkdir()
            debian.tree(packages, part)
            product.compile_ahead(part / f"usr/lib/python{bundle.PYTHON}", self.epoch)
            part.rename(root)
        return root

    def parts(self, work: Path, packages: list[debian.Package], place: Path, ids: disk.Ids) -> list[tuple[int, Path]]:
        """The three partitions as files in ``work``."""
        root, first, data = work / "root", work / "first", work / "data"
        shutil.copytree(self.system(packages), root, symlinks=True, copy_function=_copy)
        first.mkdir()
        self.say("kernel and firmware")
        boot.fill(first, root, ids.of("root"))
        self.say("product and services")
        equip(root, place, {"root": ids.of("root"), "data": ids.of("data"), "boot": ids.fat}, self.number, self.signers)
        for library, files in sorted(libraries.missing(root, "opt/quietbox").items()):
            raise UserError(f"{files[0]} needs {library}, which no package of debian.WANTED contains; add it there")
        for name in ("quietbox/versions", "settings", "journal", "state"):
            (data / name).mkdir(parents=True)
        user = next(line for line in (root / "etc/passwd").read_text().splitlines() if line.startswith("quietbox:"))
        os.chown(data / "state", int(user.split(":")[2]), int(user.split(":")[3]))
        made = [work / name for name in ("1.img", "2.img", "3.img")]
        self.say("three partitions")
        disk.fat(first, made[0], disk.BOOT_MIB, ids.fat, self.epoch)
        disk.ext4(root, made[1], disk.bytes_needed(root), "root", ids.of("root"), self.epoch)
        most = f"resize={disk.DATA_MOST_BYTES // disk.BLOCK}"
        disk.ext4(data, made[2], disk.DATA_MIB << 20, "data", ids.of("data"), self.epoch, most)
        return list(zip((table.FAT, table.LINUX, table.LINUX), made, strict=True))

    def inputs(self, packages: list[debian.Package], folder: Path, version: str) -> dict[str, Any]:
        """Version and sha256 of everything that goes in."""
        return {
            "debian": {one.name: {"version": one.version, "sha256": one.sha256} for one in packages if one.used},
            "wheels": {path.name: _digest(path) for path in product.used(folder)},
            "quietbox": version,
            "build": self.number,
            "update signers": self.signers,
            "recipe": {str(path): _digest(wheels.SOURCE / path) for path in recipe()},
            "epoch": self.epoch,
        }


def recipe() -> list[Path]:
    """The files of this folder and of ``systemd/`` that an image is made by or holds."""
    tops = [HERE, wheels.SOURCE / "systemd"]
    paths = (path for top in tops for path in sorted(top.rglob("*")) if "__pycache__" not in path.parts)
    return [path.relative_to(wheels.SOURCE) for path in paths if path.is_file()]


def equip(root: Path, place: Path, ids: dict[str, str], build: int = 0, signers: str = "") -> None:
    """The product with its build number, its services and accounts, who may sign updates, and a root that nothing
    needs to write to."""
    shipped = root / "opt/quietbox/shipped"
    shutil.copytree(place, shipped, symlinks=True)
    bundle.stamp(shipped, build)
    (root / "opt/quietbox/current").symlink_to("/run/quietbox-version")
    (root / places.COMMAND).parent.mkdir(parents=True, exist_ok=True)
    (root / places.COMMAND).symlink_to(f"/{places.CURRENT}/bin/quietbox")
    for source in sorted((wheels.SOURCE / "systemd").iterdir()):
        if where := places.place_of(source.name):
            (root / where).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, root / where)
    files = HERE / "files"
    for source in sorted(path for path in files.rglob("*") if path.is_file()):
        target = root / source.relative_to(files)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if target.parent.name == "sbin" else 0o644)
    fstab = root / "etc/fstab"
    fstab.write_text(fstab.read_text().format(**ids))
    debian.accounts(root)
    _enable(root)
    (root / "etc/quietbox").mkdir()
    if signers:
        (root / signature.SIGNERS.relative_to("/")).write_text(signers)
    (root / places.SETTINGS).symlink_to("/run/quietbox-settings/quietbox.toml")
    for name in ("data", "boot/firmware", "home", "srv"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/hostname").write_text("quietbox\n")
    (root / "etc/machine-id").write_text("")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/mtab").unlink(missing_ok=True)
    (root / "etc/mtab").symlink_to("../proc/self/mounts")
    shutil.rmtree(root / "var")
    (root / "var").mkdir()


def _enable(root: Path) -> None:
    """What starts at power-on, by the units' own words, and what never does."""
    units = root / "etc/systemd/system"
    for unit in sorted(units.glob("*.service")):
        for line in unit.read_text().splitlines():
            if line.startswith("WantedBy="):
                wants = units / f"{line.removeprefix('WantedBy=').strip()}.wants"
                wants.mkdir(exist_ok=True)
                link = wants / unit.name
                link.unlink(missing_ok=True)
                link.symlink_to(f"/etc/systemd/system/{unit.name}")
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")


def _copy(source: str, target: str) -> str:
    """A copy with its owner, which the cached tree holds and ``shutil`` drops."""
    shutil.copy2(source, target, follow_symlinks=False)
    found = os.lstat(source)
    os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    if not os.path.islink(source):
        os.chmod(target, found.st_mode & 0o7777)  # chown takes the bits of set-uid programs away
    return target


def _compare(wanted: dict[str, Any], held: dict[str, Any]) -> None:
    """Raises UserError with the first input that differs."""
    for kind in wanted:
        if wanted[kind] != held.get(kind):
            names = wanted[kind] if isinstance(wanted[kind], dict) else {}
            other = next((name for name in names if held[kind].get(name) != names[name]), "")
            raise UserError(f"inputs differ from that manifest: {kind} {other}; the image would not be the same")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="hw/image/build", description="Makes the card image. Needs root.")
    parser.add_argument("out", type=Path, nargs="?", default=OUT, help=f"the image ({OUT})")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"cache of build steps ({CACHE})")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="arm64 wheels collected before, no network for them")
    parser.add_argument(
        "--signer",
        metavar="FILE",
        help=f"public keys that sign this image's updates ({owner.public_of(owner.default_key())}, if it is there); "
        f"{owner.NONE}: it accepts no updates",
    )
    parser.add_argument(
        "--as", type=Path, dest="wanted", metavar="MANIFEST", help="build only from exactly these inputs"
    )
    options = parser.parse_args(arguments)
    os.umask(0o022)
    try:
        if os.geteuid() != 0:
            raise UserError("the files on the card belong to root: run it as root (sudo)")
        signers, who = owner.chosen_signers(options.signer)
        build = Build(options.cache.resolve(), options.wheels and options.wheels.resolve(), signers)
        made = build.image(options.out, options.wanted)
        manifest = options.out.with_suffix(".manifest.json")
        atomic.write(manifest, (json.dumps(made, indent=1, sort_keys=True) + "\n").encode())
        licences = options.out.with_suffix(".cdx.json")
        atomic.write(licences, build.bill.encode())
    except UserError as error:
        print(f"hw/image/build: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"hw/image/build: {error.filename or 'the disk'}: {error.strerror}", file=sys.stderr)
        return 1
    size = options.out.stat()
    build.say(f"{size.st_size >> 20} MiB, {size.st_blocks >> 11} MiB of them used; inputs in {manifest}")
    build.say(f"versions and licences of all that is in it: {licences}")
    build.say(who)
    return 0


if __name__ == "__main__":
    run_main(main, "hw/image/build")

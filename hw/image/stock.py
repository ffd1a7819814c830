"""The product in a stock Raspberry Pi OS Lite image, for boards and systems that our own image does not fit.

    hw/image/customise IMAGE --wheels DIR [-o OUT] [--microphone i2s|usb] [--i2s-card keep|replace] [--settings FILE]

Works on a copy, OUT, without loop devices and without root: mtools writes to the FAT partition, debugfs to the ext4
one. Into the root go one archive (this checkout, the wheels, Debian packages lying beside them) and a unit that runs
``install.sh --board --wheels`` at the first boot, without a network, and then removes itself; onto the FAT partition a
note, and after the first boot ``quietbox-install.log``. The same input gives the same image, and an image that was
customised before is brought up to date.

DIR is filled on a board with the same system by ``./install.sh --collect-wheels DIR``. For 64-bit Debian 12 systems a
PC does as well: ``python -m hw.prove.arm64 --cache CACHE`` leaves CACHE/wheels, and the quicker engine is added by
``pip download --only-binary=:all: --python-version 3.11 --platform manylinux_2_28_aarch64 -d CACHE/wheels
'onnxruntime==1.23.2'``.
PyPI has no NumPy for 32-bit ARM, so a 32-bit folder can only come from a board (its pip asks piwheels.org).
Debian packages that the image lacks (python3-venv, alsa-utils; 32-bit also libsndfile1, libopenblas0, libgfortran5) are
wanted as .deb files in DIR. Needs the Debian packages mtools and e2fsprogs.
"""

import argparse
import hashlib
import io
import os
import re
import shutil
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge import UserError, config_file
from edge.console import complain_of, run_main
from edge.files import atomic
from hw.board import i2s
from hw.image.partitions import MADE_S, Ext4, Fat, call, check_tools, look, run
from hw.install import packages, places, wheels

HERE = Path(__file__).parent
PLACE = "/usr/lib/quietbox-first-boot"
UNITS = f"/{places.UNITS}"
UNIT = "quietbox-first-boot.service"
NOTE = "quietbox.txt"
SHIPPED: tuple[str, ...] = ("edge", "hw", "models", "quant", "systemd", "pyproject.toml", "requirements.lock")
SHIPPED += ("README.md", "LICENSE", "install.sh")
"""What of this checkout the installer needs."""
SPARE_MB = 16
GLIBC = {"bookworm": 36, "trixie": 41}
"""The minor version of glibc 2 in each Debian that has Python from 3.11 on."""


@dataclass(frozen=True)
class Processor:
    """What an image's programs are made for."""

    name: str
    """As wheels call it."""
    debian: str
    bits: int


PROCESSORS = {
    183: Processor("aarch64", "arm64", 64),
    40: Processor("armv7l", "armhf", 32),
    62: Processor("x86_64", "amd64", 64),  # no Pi: the virtual machine in which ``hw.prove.stock`` boots
}
"""By ``e_machine`` of an ELF file."""


@dataclass(frozen=True)
class System:
    """What an image holds."""

    name: str
    release: str
    python: str
    """Its version, as 3.11."""
    processor: Processor
    packages: frozenset[str]
    """The installed Debian packages, and what they provide."""
    free_mb: int


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 made, 1 not."""
    options = _parser().parse_args(arguments)
    image, folder, settings = (
        (options.called_from / path).resolve() if path else None
        for path in (options.image, options.wheels, options.settings)
    )
    assert image and folder
    default = image.with_name(f"{image.name.removesuffix('.img').removesuffix('-quietbox')}-quietbox.img")
    out = (options.called_from / options.out).resolve() if options.out else default
    try:
        customise(image, out, folder, options.microphone, settings, options.i2s_card or "")
    except UserError as error:
        complain_of(error, "customise")
    except OSError as error:
        print(f"customise: {error.filename or image}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        print("customise: interrupted; IMAGE is as it was", file=sys.stderr)
    else:
        return 0
    return 1


def customise(
    image: Path, out: Path, folder: Path, microphone: str = "keep", settings: Path | None = None, i2s_card: str = ""
) -> System:
    """Write ``out``: ``image`` with the product and its first-boot step, packages from ``folder``. What ``image`` was
    is returned; it stays as it is. Raises UserError.
    """
    check_tools()
    if out.exists() and not out.is_file():
        raise UserError(
            f"{out} is not a plain file; name another with -o (cards are written afterwards, from the image)"
        )
    atomic.refuse_overwriting(out, [image, settings])
    if not folder.is_dir():
        raise UserError(f"--wheels {folder}: there is no such folder; ./install.sh --collect-wheels fills one")
    if settings:
        config_file.load(settings)
    boot, root = look(image)
    system = examine(Fat(image, boot), Ext4(image, root))
    check_bus(Fat(image, boot), microphone, i2s_card)
    say(f"{image.name}: {system.name}, {system.processor.name}, Python {system.python}, {system.free_mb} MB free")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".quietbox-") as name:
        work = Path(name)
        archive = pack(
            work, folder, system, [*_option("microphone", microphone), *_option("i2s-card", i2s_card)], settings
        )
        size_mb = archive.stat().st_size >> 20
        held_mb = Ext4(image, root).size(f"{PLACE}/{archive.name}") >> 20
        if system.free_mb + held_mb < size_mb + SPARE_MB:
            raise UserError(f"{image} has {system.free_mb} MB free in its root, the product needs {size_mb + SPARE_MB}")
        with atomic.part_beside(out) as (_, part):
            run("cp", "--sparse=always", "--reflink=auto", str(image), str(part))
            part.chmod(0o644)
            put(work, archive, Fat(part, boot), Ext4(part, root), microphone)
    say(f"{out}: {size_mb} MB added; write it to a card")
    say(
        "the first boot installs without a network, within minutes; its log is quietbox-install.log on the FAT "
        "partition"
    )
    return system


def examine(boot: Fat, root: Ext4) -> System:
    """What system the partitions hold. Raises UserError if it is not one we know."""
    fields = dict(re.findall(r'(?m)^(\w+)="?(.*?)"?$', root.read("/usr/lib/os-release").decode(errors="replace")))
    name, release = fields.get("PRETTY_NAME", "an unknown system"), fields.get("VERSION_CODENAME", "")
    if not root.size("/etc/rpi-issue"):
        raise UserError(f"{root.image} holds {name}, no Raspberry Pi OS (there is no /etc/rpi-issue in it)")
    if missing := [file for file in ("config.txt", "cmdline.txt") if not boot.has(file)]:
        raise UserError(f"{root.image}: {missing[0]} is missing on its FAT partition; is that Raspberry Pi OS?")
    if release not in GLIBC:
        raise UserError(f"{root.image} holds {name}; known are {' and '.join(GLIBC)}")
    python = root.link("/usr/bin/python3").removeprefix("python")
    if not re.fullmatch(r"3\.\d+", python):
        raise UserError(f"{root.image} has no /usr/bin/python3")
    program = root.read(f"/usr/bin/python{python}")
    machine = int.from_bytes(program[18:20], "little") if program[:4] == b"\x7fELF" else 0
    if machine not in PROCESSORS:
        known = " or ".join(processor.name for processor in PROCESSORS.values() if processor.name != "x86_64")
        raise UserError(f"{root.image} is for another processor (ELF machine {machine}); expected {known}")
    packages = frozenset(_installed(root.read("/var/lib/dpkg/status").decode(errors="replace")))
    return System(f"{name}, Raspberry Pi OS", release, python, PROCESSORS[machine], packages, root.free_mb())


def check_bus(boot: Fat, microphone: str, i2s_card: str) -> None:
    """Raises UserError where the installer at the first boot would have to ask, and nobody would be there to answer."""
    claims = i2s.claims(boot.read("config.txt"), "", boot.read)
    if i2s.decide(microphone, False, i2s_card, claims).open:
        choice = "--i2s-card keep or --i2s-card replace decides"
        raise UserError(f"{i2s.in_one_line(claims)}; one I2S bus has one card: {choice}")


def _option(name: str, value: str) -> list[str]:
    return [f"--{name}", value] if value not in ("", "keep") or (name, value) == ("i2s-card", "keep") else []


def pack(work: Path, folder: Path, system: System, options: list[str], settings: Path | None) -> Path:
    """The archive of everything the first boot needs; ``options`` are the installer's. Raises UserError if
    something is missing in ``folder``."""
    ready, debs = work / "wheels", packages_wanted(folder, system)
    ready.mkdir()
    for wheel in sorted(folder.glob("*.whl")):
        if not wheel.name.startswith("quietbox-"):
            shutil.copy(wheel, ready)
    shutil.copy(program(folder, work), ready)
    check_wheels(ready, folder, system)
    archive = work / "product.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sources():
            _add(tar, f"checkout/{path.relative_to(wheels.SOURCE)}", path.read_bytes(), os.access(path, os.X_OK))
        for place, files in (("wheels", sorted(ready.iterdir())), ("debs", debs)):
            for path in files:
                _add(tar, f"{place}/{path.name}", path.read_bytes())
        _add(tar, "options", "".join(f"{word}\n" for word in options).encode())
        if settings:
            _add(tar, "quietbox.toml", settings.read_bytes())
    return archive


def sources() -> Iterator[Path]:
    """Every file of the checkout that goes onto the card."""
    for name in SHIPPED:
        top = wheels.SOURCE / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pt":
                yield path


def program(folder: Path, work: Path) -> Path:
    """The program's own wheel: the one in ``folder`` if it was made of just this checkout, else made now."""
    try:
        return wheels.wheel_in(folder)
    except UserError:
        pass
    copy, made = work / "source", work / "made"
    for path in sources():
        target = copy / path.relative_to(wheels.SOURCE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    _pip("wheel", "--no-deps", "--wheel-dir", str(made), str(copy), failed="the program's wheel could not be made")
    return next(made.glob("quietbox-*.whl"))


def check_wheels(ready: Path, folder: Path, system: System) -> None:
    """Let pip choose as it will on the board. Raises UserError for what the box cannot do without, prints what else is
    missing. Conditions on the processor in foreign packages are judged by this machine's, not the board's.
    """
    name = system.processor.name
    tags = [f"manylinux_2_{minor}_{name}" for minor in range(17, GLIBC[system.release] + 1)]
    tags += [f"manylinux2014_{name}", f"linux_{name}"]
    choice = ["--no-index", "--find-links", str(ready), "--only-binary=:all:", "--implementation=cp"]
    choice += [f"--python-version={system.python}", *(f"--platform={tag}" for tag in tags)]
    dry = ["install", "--dry-run", "--target", str(ready.parent / "nowhere"), *choice]
    board = f"Python {system.python} on {name}"
    wanted = tomllib.loads((wheels.SOURCE / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = {wanted["board"][0]: "LED and button"}
    if system.processor.bits == 64:
        extras[wanted["onnx"][0]] = "ONNX Runtime (NumPy runs the network)"
    if not _pip(*dry, "quietbox", *extras):
        return
    if missing := _pip(*dry, "quietbox"):
        how = "./install.sh --collect-wheels on a board with this system fills it"
        raise UserError(f"{folder} has no wheel of {missing} for {board}; {how}")
    for requirement, lost in extras.items():
        if missing := _pip(*dry, "quietbox", requirement):
            say(f"the box will lack {lost}: {folder} has no {missing} for {board}")


def packages_wanted(folder: Path, system: System) -> list[Path]:
    """The Debian packages to bring along: every .deb in ``folder`` if the image lacks any that the installer asks for.
    Raises UserError if some are still missing then.
    """
    needed = [*packages.NEEDED, *(packages.NEEDED_32 if system.processor.bits == 32 else ())]
    lacking = [name for name in needed if name not in system.packages]
    if not lacking:
        return []
    debs = sorted(folder.glob("*.deb"))
    there = set(system.packages)
    depends: list[str] = []
    for deb in debs:
        control = run("dpkg-deb", "-f", str(deb), "Package", "Provides", "Architecture", "Depends", "Pre-Depends")
        fields = dict(re.findall(r"(?m)^([\w-]+): (.*)$", control))
        if fields["Architecture"] not in ("all", system.processor.debian):
            raise UserError(f"{deb} is for {fields['Architecture']}, the image is {system.processor.debian}")
        there.update([fields["Package"], *_names(fields.get("Provides", ""))])
        depends += [text for name in ("Depends", "Pre-Depends") if (text := fields.get(name))]
    wanted = [[name] for name in lacking] + [_names(group, "|") for text in depends for group in text.split(",")]
    missing = sorted({group[0] for group in wanted if not there.intersection(group)})
    if missing:
        raise UserError(
            f"{system.name} lacks the Debian packages {', '.join(missing)}; put their .deb files for "
            f"{system.processor.debian} into {folder} (apt-get download, on a board with this system)"
        )
    return debs


def put(work: Path, archive: Path, boot: Fat, root: Ext4, microphone: str) -> None:
    """Write the archive, the first-boot step and the note. Raises UserError if the image is not sound afterwards."""
    with archive.open("rb") as file:
        made = hashlib.file_digest(file, "sha256").hexdigest()
    (work / "product.sha256").write_text(f"{made}  {archive.name}\n")
    for folder in (PLACE, f"{UNITS}/multi-user.target.wants"):
        root.make_folder(folder)
    root.put(archive, f"{PLACE}/{archive.name}")
    root.put(work / "product.sha256", f"{PLACE}/product.sha256")
    root.put(HERE / "first-boot", f"{PLACE}/run", executable=True)
    root.put(HERE / "first-boot.service", f"{UNITS}/{UNIT}")
    root.put_link(f"{UNITS}/multi-user.target.wants/{UNIT}", f"{UNITS}/{UNIT}")
    if hashlib.sha256(root.read(f"{PLACE}/{archive.name}")).hexdigest() != made:
        raise UserError(f"{root.image}: verification failed after writing; is the disk full?")
    root.check()
    boot.put(
        NOTE,
        f"Quietbox {tomllib.loads((wheels.SOURCE / 'pyproject.toml').read_text())['project']['version']} is on this "
        f"card; its first boot installs it.\r\nIts log is quietbox-install.log.\r\n"
        f"microphone: {microphone}\r\nproduct.tar: {made}\r\n".encode(),
    )


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def _installed(status: str) -> Iterator[str]:
    """The names in a dpkg status file that are installed, and what they provide."""
    for entry in status.split("\n\n"):
        fields = dict(re.findall(r"(?m)^(Package|Status|Provides): (.*)$", entry))
        if fields.get("Status", "").endswith("ok installed"):
            yield fields["Package"]
            yield from _names(fields.get("Provides", ""))


def _names(text: str, between: str = ",") -> list[str]:
    """The packages in a list of dependencies, without versions."""
    return [re.split(r"[ (:]", one.strip())[0] for one in text.split(between) if one.strip()]


def _add(tar: tarfile.TarFile, name: str, data: bytes, executable: bool = False) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(data), MADE_S, 0o755 if executable else 0o644
    tar.addfile(entry, io.BytesIO(data))


def _pip(*words: str, failed: str = "") -> str:
    """Run pip; the package it misses, empty if all went well. Raises UserError, with ``failed``, for anything else."""
    done = call(sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check")
    if done.returncode == 0:
        return ""
    output = (done.stdout + done.stderr).decode(errors="replace")
    if missing := re.search(r"No matching distribution found for ([^\s(]+)", output):
        return missing[1]
    last = output.strip().splitlines() or ["pip failed and gave no reason"]
    raise UserError(f"{failed or 'the wheels could not be tried'}: {last[-1][:200]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hw/image/customise",
        description="Puts Quietbox into a copy of a Raspberry Pi OS Lite image; the first boot installs it offline.",
        allow_abbrev=False,
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the unpacked image; it is not changed")
    parser.add_argument(
        "--wheels",
        type=Path,
        required=True,
        metavar="DIR",
        help="packages for it (install.sh --collect-wheels)",
    )
    parser.add_argument("-o", "--out", type=Path, metavar="OUT", help="the new image (default: IMAGE-quietbox.img)")
    parser.add_argument("--microphone", choices=("i2s", "usb", "keep"), default="keep", help="as in install.sh")
    parser.add_argument("--i2s-card", choices=("keep", "replace"), help="as in install.sh")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="initial quietbox.toml")
    parser.add_argument("--called-from", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    run_main(main, "customise")

"""The product as one folder that runs wherever it lies: what an image ships and what an update brings.

Made on any machine, for an arm64 board with Debian's Python: pip unpacks wheels of the other processor, and the three
files that make a virtual environment of them are written here. A bundle is the same folder as one file, with the
sha256 of everything in it.
"""

import gzip
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge import UserError
from hw import traced
from hw.image import bundle
from hw.install import lockfile, wheels
from hw.virtual import arm64

PACKAGES = f"lib/python{bundle.PYTHON}/site-packages"
ALWAYS_HERE = ("hw/image", "hw/virtual/__init__.py")
"""Folders that the box needs beside what the wheel holds."""
SKIPPED = shutil.ignore_patterns("__pycache__", "*.pt", "files", "overlays", "build", "update")


def collect(cache: Path, given: Path | None) -> Path:
    """A folder of arm64 wheels: ``given``, or one in ``cache``, fetched and compiled once (root, qemu-user-static).

    Raises UserError.
    """
    folder = given or _fetched(cache)
    if not any(folder.glob("numpy-*.whl")):
        raise UserError(f"{folder} holds no arm64 wheels; python -m hw.prove.arm64 --cache DIR makes DIR/wheels")
    if strange := lockfile.strangers(used(folder)):
        raise UserError(f"{strange[0]} is not the file that requirements.lock pins; collect the wheels again")
    return folder


def _fetched(cache: Path) -> Path:
    try:
        with arm64.emulation():
            folder = arm64.wheels(cache, arm64.debian(cache))
        if not any(folder.glob("onnxruntime-*.whl")):
            arm64.fetch(runtime(), folder, *arm64.foreign())
    except arm64.Missing as error:
        raise UserError(f"the wheels cannot be collected: {error}") from None
    return folder


def runtime() -> list[lockfile.Locked]:
    """The ONNX Runtime that boards take, by requirements.lock; without what it asks for (protobuf, sympy), which
    converts models and is not imported where they run."""
    return [package for package in lockfile.read() if package.name == "onnxruntime"]


def used(folder: Path) -> list[Path]:
    """The wheels that go into the product, sorted; the product itself is taken from this checkout."""
    tools = ("quietbox-", "setuptools-", "wheel-")
    return sorted(path for path in folder.glob("*.whl") if not path.name.startswith(tools))


def for_arm64(folder: Path) -> list[str]:
    """pip's words for the wheels of an arm64 board in ``folder``."""
    how = ["--no-deps", "--no-index", *arm64.foreign(), "--platform=linux_aarch64"]
    return [*how, *(str(path) for path in used(folder))]


def make(wanted: Sequence[str], place: Path, epoch: int) -> str:
    """Fill the empty folder ``place`` with this checkout and what pip installs for ``wanted``; returns the
    version's name.

    All times in it are ``epoch``; the same checkout and wheels give the same bytes. Raises UserError.
    """
    packages = place / PACKAGES
    packages.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        ours = _wheel(Path(name), epoch)
        for words in (wanted, ["--no-deps", "--no-index", str(ours)]):
            _pip([*words, "--no-compile", "--target", str(packages)])
    for part in ALWAYS_HERE:
        source, target = wheels.SOURCE / part, packages / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=SKIPPED, dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    if reporting := traced.unexpected_libraries(packages):
        library, calls = next(iter(reporting.items()))
        raise UserError(f"{library} has no reason to use a network but can ({', '.join(calls)}): examine that version")
    _tidy(packages)
    compile_ahead(place, epoch)
    bundle.dress(place)
    for path in [place, *place.rglob("*")]:
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    version = tomllib.loads((wheels.SOURCE / "pyproject.toml").read_text())["project"]["version"]
    total = hashlib.sha256(json.dumps(bundle.digests(place), sort_keys=True).encode())
    return f"{version}-{total.hexdigest()[:10]}"


def _pip(words: Sequence[str]) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
    environment = os.environ | {"PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UserError(f"pip: {(done.stderr.strip().splitlines() or ['it gave no reason'])[-1][:200]}")


def _tidy(packages: Path) -> None:
    """Remove what is only for developers, and what depends on the machine that built it."""
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for pattern in ("*/tests", "*/*/tests", "*/*/*/tests"):
        for path in packages.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
    for pattern in ("*.dist-info/RECORD", "*.dist-info/direct_url.json", "*.dist-info/REQUESTED"):
        for path in packages.glob(pattern):
            path.unlink()
    for path in packages.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)


def compile_ahead(folder: Path, epoch: int) -> bool:
    """Byte code for all of ``folder``, since a read-only root cannot keep any later. Only a Python of the board's own
    version can make it; returns whether this machine has one.
    """
    ours = shutil.which(f"python{bundle.PYTHON}")
    if ours is None:
        return False
    for path in folder.rglob("*.py"):
        os.utime(path, (epoch, epoch))
    # unchecked: the box trusts it without a look at the source, which cannot change there
    how = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", "/"]
    call = [ours, "-I", "-m", "compileall", *how, str(folder)]
    subprocess.run(call, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "0"})
    return True


def _wheel(work: Path, epoch: int) -> Path:
    """The wheel of this checkout; building it leaves nothing in the checkout."""
    source = work / "source"
    source.mkdir()
    for part in arm64.PRODUCT:
        whole = wheels.SOURCE / part
        skip = shutil.ignore_patterns("__pycache__", "*.pt")
        shutil.copytree(whole, source / part, ignore=skip) if whole.is_dir() else shutil.copy(whole, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "-w", str(work), str(source)],
        capture_output=True,
        text=True,
        env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)},
    )
    if done.returncode:
        raise UserError(f"the product's wheel cannot be built: {done.stderr.strip()[-200:]}")
    return next(work.glob("quietbox-*.whl"))


def build_number() -> int:
    """Of this checkout, in seconds since 1970: the time of its commit, or of its newest file where that was changed
    since or is no git checkout. The same sources give the same number, later ones a greater one.
    """
    git = ["git", "-c", "safe.directory=*", "-C", str(wheels.SOURCE)]
    answers = []
    for words in (["status", "--porcelain", "--", *arm64.PRODUCT], ["log", "-1", "--format=%ct"]):
        try:
            done = subprocess.run([*git, *words], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            break
        answers.append(done.stdout.strip() if done.returncode == 0 else "unknown")
    if len(answers) == 2 and not answers[0] and answers[1].isdecimal():
        return int(answers[1])
    return int(min(max(path.stat().st_mtime for path in sources()), time.time()))


def sources() -> list[Path]:
    """The checkout's files that the product is made of."""
    found = []
    for part in arm64.PRODUCT:
        top = wheels.SOURCE / part
        found += [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
    return [path for path in found if "__pycache__" not in path.parts and path.suffix != ".pt"]


def pack(place: Path, name: str, out: Path, epoch: int, build: int, older: bool = False) -> None:
    """The version in ``place`` with the build number ``build`` as the bundle ``out``, not yet signed; all times in it
    are ``epoch``. ``older``: boxes take it although they run a later one."""
    listing: dict[str, Any] = {"name": name, "build": build, "python": bundle.PYTHON, "machine": bundle.MACHINE}
    listed = bundle.digests(place)
    total = sum((place / name_there).stat().st_size for name_there in listed)
    listing |= {"bytes": total, "files": listed} | ({"older": True} if older else {})
    with tempfile.TemporaryDirectory() as folder:
        head = Path(folder, bundle.CONTENTS)
        head.write_text(json.dumps(listing, sort_keys=True, indent=1))
        with (
            out.open("wb") as raw,
            gzip.GzipFile("", "wb", 6, raw, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for path, name_there in [(head, bundle.CONTENTS), *_members(place)]:
                info = tarfile.TarInfo(name_there)
                info.size, info.mtime = path.stat().st_size, epoch
                info.mode = 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644
                with path.open("rb") as file:
                    tar.addfile(info, file)


def _members(place: Path) -> Iterator[tuple[Path, str]]:
    for name in sorted(bundle.digests(place)):
        yield place / name, name

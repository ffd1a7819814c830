"""What ``requirements.lock`` pins: every Python package that the installer, the image and the tests install, by hash.

One lock for all extras of pyproject.toml, for Python from 3.11 on, on x86-64 and 64-bit ARM, made by uv.
pip installs a part of it with ``--no-deps --require-hashes``: the part is complete, since the lock notes after each
package who asked for it, and ``subset`` follows that from the extras that are wanted. Needs nothing but Python.

    python -m hw.install.lockfile pictures,bridge    # the part of the lock for two extras, for pip install --no-deps -r
    python -m hw.install.lockfile --build train      # what the packages of an extra that come as source are built with
    python -m hw.install.lockfile --torch            # which PyTorch build pip would install here, and its download size
    python -m hw.install.lockfile --renew            # renew the lock (uv, network); newer versions only with --upgrade
"""

import argparse
import contextlib
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from edge import UserError
from edge.console import run_main

SOURCE = Path(__file__).resolve().parents[2]
LOCK = SOURCE / "requirements.lock"
RENEW = "python -m hw.install.lockfile --renew"
OLDEST_PYTHON = "3.11"
CUDA_ONLY = re.compile(r"(nvidia|cuda)-|triton$")
"""Packages that PyTorch's CUDA build needs and its CPU build does not."""
BUILD = "build"
"""The extra of what packages that come as source are built with."""
BUILT_WITH = {"pesq": ("cython", "numpy")}
"""Package that comes as source -> what building it needs beside setuptools."""
CPU_MB, CUDA_MB = 200, 2700
"""What PyTorch 2.13 loads: its CPU build; its CUDA build with the libraries of NVIDIA (x86-64)."""


@dataclass(frozen=True)
class Locked:
    """One package of the lock; a package may be there twice, for different versions of Python."""

    name: str
    """Normalised as in PEP 503: lower case, hyphens."""
    version: str
    marker: str
    """PEP 508, empty if the line holds everywhere."""
    hashes: tuple[str, ...]
    """As "sha256:...", one for each file that may be taken."""
    asked_by: tuple[str, ...]
    """Packages that depend on it; the project itself is "quietbox"."""

    def line(self) -> str:
        marker = f" ; {self.marker}" if self.marker else ""
        return " \\\n".join([f"{self.name}=={self.version}{marker}", *(f"    --hash={one}" for one in self.hashes)])


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(path: Path = LOCK) -> list[Locked]:
    """The packages in a lock, in its order. Raises UserError."""
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {RENEW} makes it") from None
    found = []
    for block in re.split(r"(?m)^(?=[a-zA-Z0-9])", text)[1:]:
        head = re.match(r"([\w.-]+)==([^\s;\\]+)(?:\s*;\s*([^\\\n]+?))?\s*\\?\n", block)
        hashes = re.findall(r"--hash=(sha256:[0-9a-f]{64})", block)
        if not head or not hashes:
            raise UserError(f"{path}: {block.splitlines()[0][:60]!r} is not a pin with hashes; {RENEW} makes it again")
        _, _, via = block.partition("# via")
        asked_by = [normal(word) for word in re.findall(r"(?m)^\s*#?\s*([\w.-]+)(?: \(.*\))?$", via)]
        found.append(Locked(normal(head[1]), head[2], head[3] or "", tuple(hashes), tuple(asked_by)))
    return found


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((SOURCE / "pyproject.toml").read_text())


def asked(extras: Iterable[str] = ()) -> list[str]:
    """The requirements of the program and of ``extras``, as pyproject.toml states them. Raises UserError."""
    settings = project()
    known: dict[str, list[str]] = settings["project"]["optional-dependencies"]
    more: dict[str, list[str]] = settings["tool"]["quietbox"]["extras"]
    found = [*settings["project"]["dependencies"]]
    left, seen = [*extras], set[str]()
    while left:
        extra = left.pop().strip()
        if extra in seen or not extra:
            continue
        seen.add(extra)
        if extra not in known and extra not in more:
            raise UserError(f"there is no extra {extra!r}; there are {', '.join(sorted({*known, *more}))}")
        for requirement in [*known.get(extra, []), *more.get(extra, [])]:
            if ours := re.fullmatch(r"quietbox\[(.*)\]", requirement):
                left += ours[1].split(",")
            else:
                found.append(requirement)
    return found


def brought_by(extra: str) -> list[str]:
    """The requirements that ``extra`` adds to the program's own. Raises UserError."""
    return asked([extra])[len(project()["project"]["dependencies"]) :]


def weights_alone() -> set[str]:
    """Packages that are read for their weights: what they depend on is not installed."""
    return {normal(entry["name"]) for entry in project()["tool"]["uv"]["dependency-metadata"]}


def name_of(requirement: str) -> str:
    """The normalised name of the package in a requirement."""
    return normal(re.split(r"[<>=!~ \[;]", requirement)[0])


def subset(extras: Iterable[str], cuda: bool = False, path: Path = LOCK) -> list[Locked]:
    """The part of the lock that the program with ``extras`` needs; with ``cuda`` also what only that build of PyTorch
    does. Raises UserError."""
    return closure([name_of(requirement) for requirement in asked(extras)], cuda, path)


def closure(names: Sequence[str], cuda: bool = False, path: Path = LOCK) -> list[Locked]:
    """These packages and all that they depend on. Raises UserError."""
    packages = read(path)
    held = {package.name for package in packages}
    if missing := sorted({*names} - held):
        raise UserError(f"{path} does not hold {', '.join(missing)}; {RENEW} brings it up to date")
    wanted, size = {*names}, -1
    while len(wanted) > size:
        size = len(wanted)
        wanted |= {package.name for package in packages if wanted.intersection(package.asked_by)}
    return [package for package in packages if package.name in wanted and (cuda or not CUDA_ONLY.match(package.name))]


def build_tools(packages: Iterable[Locked], path: Path = LOCK) -> list[Locked]:
    """What has to be installed before those of ``packages`` that come as source are built. Raises UserError."""
    names = [name_of(requirement) for requirement in project()["tool"]["quietbox"]["extras"][BUILD]]
    for package in packages:
        names += BUILT_WITH.get(package.name, ())
    return closure(names, path=path)


def for_python(packages: Iterable[Locked], version: str) -> list[Locked]:
    """Those that hold for Python ``version`` ("3.11"), without that condition: pip judges markers by the Python that it
    runs with, even if it fetches for another one."""
    found = []
    wanted = tuple(int(part) for part in version.split("."))
    for package in packages:
        condition = re.fullmatch(r"python_full_version (<|>=) '(\d+)\.(\d+)'", package.marker)
        if condition is None:
            found.append(package)
        elif (wanted < (int(condition[2]), int(condition[3]))) == (condition[1] == "<"):
            found.append(replace(package, marker=""))
    return found


def strangers(wheels: Iterable[Path], path: Path = LOCK) -> list[Path]:
    """Those wheels that are no file of the lock: another version, or other bytes. A wheel that was compiled from its
    source (its platform is then plain ``linux_...``, which the package index does not take) has to have the version."""
    packages = read(path)
    found = []
    for wheel in wheels:
        name, version, *_, platforms = wheel.name.removesuffix(".whl").split("-")
        same = [package for package in packages if (package.name, package.version) == (normal(name), version)]
        digest = f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
        compiled = re.fullmatch(r"linux_\w+", platforms) is not None
        if not any(compiled or digest in package.hashes for package in same):
            found.append(wheel)
    return found


def holds_here() -> bool:
    """Whether the lock has packages for this system. 32-bit ARM has its wheels at piwheels.org, whose hashes are not
    in the package index."""
    return sys.maxsize > 2**32


def text(packages: Iterable[Locked]) -> str:
    """A requirements file for ``pip install --no-deps --require-hashes -r``."""
    return "".join(f"{package.line()}\n" for package in packages)


def cpu_build(packages: Iterable[Locked]) -> list[Locked]:
    """``packages`` with the CPU build of PyTorch alone, where its hash for this Python and processor is known. (Told
    both files' hashes, pip prefers the package index, which holds the CUDA build.)"""
    known = project()["tool"]["quietbox"]["hashes"]
    tag = f"-cp{sys.version_info[0]}{sys.version_info[1]}-"
    fits = {name: digest for name, digest in known.items() if tag in name and platform.machine() in name}
    found = []
    for package in packages:
        ours = {file: digest for file, digest in fits.items() if file.startswith(f"{package.name}-{package.version}+")}
        if ours:
            version = next(iter(ours)).split("-")[1]
            package = replace(package, version=version, hashes=tuple(ours.values()))
        found.append(package)
    return found


def torch_here(python: str = sys.executable) -> str:
    """What pip will take for PyTorch and how much it loads, in words; "cpu" or "cuda" is its first word."""
    wanted = next(package for package in read() if package.name == "torch")
    (cpu,) = cpu_build([wanted])
    with contextlib.suppress(metadata.PackageNotFoundError):
        if metadata.version("torch") == cpu.version:
            return "cpu: nothing, it is there"
    asked_pip = [python, "-m", "pip", "index", "versions", "--disable-pip-version-check", "torch"]
    output = subprocess.run(asked_pip, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
    if cpu != wanted and re.search(rf"(?<![\w.]){re.escape(cpu.version)}(?![\w.])", output):
        return f"cpu: about {CPU_MB} MB, the CPU build of PyTorch {wanted.version}"
    return (
        f"cuda: about {CUDA_MB} MB, since the package index holds the CUDA build of PyTorch {wanted.version} alone"
        " (PIP_EXTRA_INDEX_URL may name an index with a CPU build, about 200 MB)"
    )


def renew(upgrade: bool = False, path: Path = LOCK) -> None:
    """Make the lock anew by pyproject.toml; what still fits stays at its version. Raises UserError."""
    if not shutil.which("uv"):
        raise UserError("uv is not installed: .venv/bin/python -m pip install uv, then PATH=.venv/bin:$PATH")
    settings = project()["tool"]["quietbox"]
    with tempfile.TemporaryDirectory() as folder:
        more, made = Path(folder, "more.in"), Path(folder, path.name)
        more.write_text("".join(f"{one}\n" for requirements in settings["extras"].values() for one in requirements))
        if path.exists():
            shutil.copy(path, made)
        how = ["--universal", "--generate-hashes", "--no-header", "--quiet", f"--python-version={OLDEST_PYTHON}"]
        how += ["--all-extras", "--output-file", str(made), *(["--upgrade"] if upgrade else [])]
        done = subprocess.run(["uv", "pip", "compile", *how, "pyproject.toml", str(more)], cwd=SOURCE)
        if done.returncode:
            raise UserError("uv could not resolve the packages; see its output above")
        made.write_text(re.sub(rf"-r {re.escape(str(more))}", "pyproject.toml", made.read_text()))
        packages = read(made)
        lines = made.read_text()
    for file, digest in settings["hashes"].items():
        name = normal(file.split("-")[0])
        version = next(package.version for package in packages if package.name == name)
        if file.split("-")[1].split("+")[0] != version:
            raise UserError(f"[tool.quietbox.hashes] of pyproject.toml is of {file}, but the lock has {name} {version}")
        if digest in lines:
            continue
        lines = re.sub(rf"(?m)^({name}=={re.escape(version)}.*)$", rf"\1\n    --hash={digest} \\", lines)
    path.write_text(f"# Made by `{RENEW}` of pyproject.toml; hw/install/lockfile.py says how it is used.\n{lines}")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hw.install.lockfile", description="Parts of requirements.lock for pip."
    )
    parser.add_argument("extras", nargs="?", default="", help="extras of pyproject.toml, comma-separated")
    parser.add_argument("--cuda", action="store_true", help="with the libraries of PyTorch's CUDA build")
    parser.add_argument(
        "--cpu", action="store_true", help="with PyTorch's CPU build, if its hash is known for this Python"
    )
    parser.add_argument("--build", action="store_true", help="only what packages that come as source are built with")
    parser.add_argument(
        "--torch", action="store_true", help="which PyTorch build pip would install here, and its download size"
    )
    parser.add_argument("--renew", action="store_true", help="write the lock again; needs uv and a network")
    parser.add_argument("--upgrade", action="store_true", help="with --renew: use newer versions")
    options = parser.parse_args(arguments)
    extras = options.extras.split(",")
    try:
        if options.renew:
            renew(options.upgrade)
        elif options.torch:
            print(torch_here())
        else:
            chosen = subset(extras, options.cuda)
            chosen = cpu_build(chosen) if options.cpu else chosen
            print(text(build_tools(chosen) if options.build else chosen), end="")
    except UserError as error:
        print(f"locked: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_main(main, "locked")

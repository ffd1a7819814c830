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
from hw import ledger

SOURCE = Path(__file__).resolve().parent.parent
"""The checkout this file lies in."""
STAMP = "complete.json"
CHECK_S = 120.0
"""A program's first start from a slow card takes seconds; one that takes this long hangs."""
TRY_S = 60.0
"""The trial itself gives up after 30 s."""
RPI_GPIO = "RPi.GPIO>=0.7.1"  # 0.7.1 is the first that builds with Python from 3.10 on

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


def extras(gpio_package: str, bits: int) -> list[Extra]:
    """What to install beside the program on a board with ``bits``-bit programs, by pyproject.toml."""
    wanted = _project()["optional-dependencies"]
    found = [Extra(RPI_GPIO if gpio_package == "RPi.GPIO" else wanted["board"][0], "LED and button")]
    if bits == 64:  # onnxruntime has no wheel for 32-bit systems and is not built on a board
        found.append(Extra(wanted["onnx"][0], "ONNX Runtime (NumPy runs the network)"))
    return found


def name_of(gpio_package: str) -> str:
    """The name of the folder for this checkout and this Python: version and a hash of all that decides its content."""
    total = hashlib.sha256()
    for path in _program():
        total.update(f"{path.relative_to(SOURCE)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    total.update(f"{python} {sysconfig.get_platform()} {gpio_package}".encode())
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
    ledger.remove_tree(folder)
    work = folder / ".build"
    _call([sys.executable, "-m", "venv", str(folder)], "no virtual environment could be made")
    work.mkdir()
    pip = [str(folder / "bin/python"), "-I", "-m", "pip"]
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    _pip([*pip, "install", *source, str(ready or _build_wheel(pip, work))], work, wheels)
    lacking: dict[str, str] = {}
    for extra in wanted:
        try:
            _pip([*pip, "install", *source, extra.requirement], work, wheels)
        except UserError as error:
            lacking[extra.name] = str(error)
            say(f"goes without {extra.lost}: {error}")
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
        pip = [str(work / "venv/bin/python"), "-I", "-m", "pip"]
        for old in target.glob("quietbox-*.whl"):
            old.unlink()
        _pip([*pip, "wheel", "--wheel-dir", str(target), str(_stage(work))], work, None)
        for extra in wanted:
            try:
                _pip([*pip, "wheel", "--wheel-dir", str(target), extra.requirement], work, None)
            except UserError as error:
                say(f"goes without {extra.lost}: {error}")
    finally:
        ledger.remove_tree(work)


def settings_fault(folder: Path, settings: Path) -> str:
    """Why the program in ``folder`` would refuse the settings file; empty if it takes it. Also where the program does
    not run at all.
    """
    check = (
        "import sys; from pathlib import Path; from edge import UserError, config\n"
        "try: config.load(Path(sys.argv[1]))\n"
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
    said = done.stderr.decode(errors="replace").strip().splitlines() or [f"the check ended with {done.returncode}"]
    return said[-1][:400] if done.returncode else ""


def _try_engine(folder: Path) -> None:
    """Try ONNX Runtime now, so that no start has to; what does not pass here is tried, and reported, by the box."""
    order = [str(folder / "bin/python"), "-I", "-m", "edge.suppress.probe"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(order, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=TRY_S)


def _project() -> dict[str, Any]:
    return dict(tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"])


def _program() -> Iterator[Path]:
    """The files of the checkout that the wheel is made of."""
    told = tomllib.loads((SOURCE / "pyproject.toml").read_text())["tool"]["setuptools"]
    yield SOURCE / "pyproject.toml"
    for package in told["packages"]:
        yield from sorted((SOURCE / package.replace(".", "/")).glob("*.py"))
    for package, patterns in told["package-data"].items():
        for pattern in patterns:
            yield from sorted((SOURCE / package).glob(pattern))


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
    raise UserError(f"{wheels} has no quietbox made of this checkout; fill it anew with --collect-wheels")


def _stage(work: Path) -> Path:
    """A copy of what the wheel is made of, so that building it leaves nothing in the checkout."""
    copy = work / "source"
    for path in [*_program(), SOURCE / "README.md", SOURCE / "LICENSE"]:
        target = copy / path.relative_to(SOURCE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return copy


def _build_wheel(pip: list[str], work: Path) -> Path:
    made = work / "made"
    _pip([*pip, "wheel", "--no-deps", "--wheel-dir", str(made), str(_stage(work))], work, None)
    return next(made.glob("quietbox-*.whl"))


def _pip(command: list[str], work: Path, wheels: Path | None) -> None:
    """Raises UserError with one line that names the package."""
    # /tmp is small memory on Debian 13, and a board's own card has no room for a cache.
    told = {"TMPDIR": str(work), "PIP_NO_CACHE_DIR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    told["PYPI"] = "1"  # where lgpio must be compiled: with its C library inside, since Debian has none
    done = subprocess.run(
        [*command, "--quiet", "--use-pep517"],  # Debian 12's own way of building needs a package it does not bring
        env={**os.environ, **told, "PIP_ROOT_USER_ACTION": "ignore"},
        cwd=work,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return
    said = f"{done.stdout}\n{done.stderr}"
    python = f"Python {sys.version_info.major}.{sys.version_info.minor} on {os.uname().machine}"
    if missing := re.search(r"No matching distribution found for ([^\s(]+)", said):
        if wheels:
            raise UserError(f"{wheels} has no wheel of {missing[1]} for {python}; fill it with --collect-wheels there")
        raise UserError(f"no {missing[1]} to be had for {python}; is there a network? (--wheels DIR does without)")
    if built := re.search(r"Failed (?:building wheel for|to build) ([\w.-]+)", said):
        reasons = re.findall(
            r"(?m)^\W*((?:fatal )?error: (?!subprocess|command|metadata).+|.+: fatal error: .+)$", said
        )
        raise UserError(f"{built[1]} could not be built for {python}{f': {reasons[-1][:160]}' if reasons else ''}")
    errors = [line for line in said.splitlines() if line.strip().startswith("ERROR:")]
    last = (errors or said.strip().splitlines() or ["pip failed and did not say why"])[-1].strip()
    raise UserError(f"pip: {last[:200]}")


def _call(command: list[str], failed: str) -> None:
    done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines() or ["it did not say why"]
        raise UserError(f"{failed}: {last[-1][:200]}")


def _move_on_paper(folder: Path, root: Path) -> None:
    """Write the paths in a virtual environment as they will be once ``root`` is the root."""
    old, new = os.fsencode(folder), os.fsencode(Path("/") / folder.relative_to(root))
    for path in [*(folder / "bin").iterdir(), folder / "pyvenv.cfg"]:
        if path.is_file() and not path.is_symlink() and old in (data := path.read_bytes()):
            ledger.write(path, data.replace(old, new), path.stat().st_mode & 0o777)

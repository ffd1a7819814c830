"""The wheel as somebody gets it: built of a copy of the checkout, run in an environment that has what it asks for and
nothing else, far from the checkout."""

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from packaging.requirements import Requirement

CHECKOUT = Path(__file__).parents[2]
NOISY = CHECKOUT / "tests/sounds/noisy/rain_en_5dB.flac"
PARTS = ("edge", "hw", "models", "quant", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the front end that people use; wheel and source archive, the wheel made of the archive."""
    copy = tmp_path_factory.mktemp("copy") / "quietbox"
    copy.mkdir()
    for name in PARTS:
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.pt"))
        else:
            shutil.copy(CHECKOUT / name, copy / name)
    out = copy.parent / "dist"
    call = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(list(out.glob("quietbox-*.tar.gz"))) == 1
    (made,) = out.glob("quietbox-*.whl")
    return made


def asked_by(found: metadata.Distribution, extras: tuple[str, ...] = ()) -> Iterator[str]:
    """Distributions that one asks for with ``extras``, here and on this Python."""
    for requirement in map(Requirement, found.requires or ()):
        if any(requirement.marker is None or requirement.marker.evaluate({"extra": one}) for one in ("", *extras)):
            yield requirement.name


def link(site: Path, needed: list[str]) -> None:
    """Put these distributions and all that they ask for into ``site``, as links to those of this environment."""
    seen: set[str] = set()
    while needed:
        name = needed.pop().lower()
        if name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        needed += asked_by(found)
        for top in {path.parts[0] for path in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))


def environment(folder: Path, wheel: Path, extras: tuple[str, ...] = ()) -> Path:
    """A virtual environment with the wheel and what it asks for; returns its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin/python")]
    call = [*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (site,) = folder.glob("lib/python*/site-packages")
    link(site, [*asked_by(metadata.Distribution.at(next(site.glob("quietbox-*.dist-info"))), extras)])
    return folder / "bin"


@pytest.fixture(scope="module")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("plain") / "venv", wheel)


@pytest.fixture(scope="module")
def with_onnx(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("onnx") / "venv", wheel, ("onnx",))


def run(programs: Path, name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """One of its programs with an empty environment and nothing of the checkout in sight."""
    surroundings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(cwd), "LANG": "C.UTF-8", "COLUMNS": "200"}
    return subprocess.run(
        [str(programs / name), *arguments], cwd=cwd, env=surroundings, capture_output=True, text=True, timeout=120
    )


def test_every_package_says_that_it_is_typed_and_no_file_is_missing(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{package}/py.typed" for package in ("edge", "hw", "models", "quant")} <= held
    ours = {str(path.relative_to(CHECKOUT)) for name in PARTS[:4] for path in (CHECKOUT / name).rglob("*.py")}
    assert ours <= held, sorted(ours - held)
    assert not any(name.startswith(("tests", "docs")) for name in held)


def test_it_cleans_a_file_with_either_runtime(plain: Path, with_onnx: Path, tmp_path: Path) -> None:
    cut, rate_hz = soundfile.read(NOISY, frames=3 * 16_000, dtype="float32")
    soundfile.write(tmp_path / "in.wav", cut, rate_hz)
    sounds = []
    for programs, missing in ((plain, True), (with_onnx, False)):
        done = run(programs, "quietbox", "enhance", "in.wav", "-o", f"{programs.parent.parent.name}.wav", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert ("ONNX Runtime is not installed" in done.stderr) == missing, done.stderr
        assert not missing or "pip install 'FILE[onnx]'" in done.stderr
        found = re.search(r"noise in pauses ([\d.]+) dB lower", done.stdout)
        assert found and float(found[1]) > 10, done.stdout
        sounds.append(soundfile.read(tmp_path / f"{programs.parent.parent.name}.wav", dtype="float32")[0])
    difference, level = (float(np.square(sound).mean()) for sound in (sounds[0] - sounds[1], sounds[0]))
    assert difference < 1e-4 * level  # one network with the same INT8 weights


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["devices"], ["doctor", "--no-sound"]])
def test_its_commands_run(plain: Path, tmp_path: Path, arguments: list[str]) -> None:
    done = run(plain, "quietbox", *arguments, cwd=tmp_path)
    assert done.returncode in ((0, 1) if arguments[0] == "doctor" else (0,)), done.stderr
    assert done.stdout and "Traceback" not in done.stderr
    if arguments == ["--version"]:
        project = (CHECKOUT / "pyproject.toml").read_text()
        assert f'version = "{done.stdout.split()[1]}"' in project


@pytest.mark.parametrize("module", ["hw.install", "hw.install.lockfile", "hw.prove.pi", "hw.rooms.acoustics"])
def test_commands_that_need_a_checkout_say_so(plain: Path, tmp_path: Path, module: str) -> None:
    done = run(plain, "python", "-m", module, cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "needs a checkout of the project" in done.stderr

"""The lock: it agrees with pyproject.toml, a part of it is complete, and nothing else is installed."""

import hashlib
import importlib.metadata as metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from wheelhouse import make_wheel

from edge import UserError
from hw.install import lockfile, wheels
from hw.install.lockfile import CUDA_ONLY, RENEW, SOURCE, Locked, asked, closure, name_of, read, strangers, subset

PROJECT = lockfile.project()
EXTRAS = sorted({*PROJECT["project"]["optional-dependencies"], *PROJECT["tool"]["quietbox"]["extras"]})
PYTHONS = ("3.11", "3.12", "3.13")


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_the_lock_agrees_with_pyproject(extra: str) -> None:
    held = read()
    for text in asked([extra]):
        wanted = Requirement(text)
        found = [package for package in held if package.name == name_of(text)]
        assert found, f"{text} is not in requirements.lock; run {RENEW}"
        for package in found:
            assert wanted.specifier.contains(package.version), f"{text}: the lock has {package.version}; run {RENEW}"


def test_what_builds_this_project_is_in_the_lock() -> None:
    (build,) = lockfile.project()["build-system"]["requires"]
    assert asked(["build"])[-1] == build


def test_every_version_of_python_has_one_version_of_each_package() -> None:
    for python in PYTHONS:
        names = [package.name for package in lockfile.for_python(subset(EXTRAS), python)]
        assert len(names) == len(set(names)) > 60


def test_a_part_is_complete() -> None:
    """By the installed packages' own metadata: whatever one of them asks for here is in the part."""
    part = {package.name for package in subset(EXTRAS, cuda=True)}
    looked = 0
    for name in sorted(part - lockfile.weights_alone()):
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        looked += 1
        for text in requires:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({**default_environment(), "extra": ""}):
                assert name_of(requirement.name) in part, f"{name} asks for {text}; run {RENEW}"
    assert looked > 40


def test_the_cuda_build_s_libraries_are_asked_for_apart() -> None:
    assert not any(CUDA_ONLY.match(package.name) for package in subset(["train"]))
    assert sum(bool(CUDA_ONLY.match(package.name)) for package in subset(["train"], cuda=True)) > 10


def test_the_cpu_build_is_pinned_by_its_own_version_and_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told both hashes, pip prefers the index's file, and so loads gigabytes that nobody asked for."""
    both = closure(["torch"])
    monkeypatch.setattr(lockfile.sys, "version_info", (3, 11, 7))
    monkeypatch.setattr(lockfile.platform, "machine", lambda: "x86_64")
    (cpu,) = [package for package in lockfile.cpu_build(both) if package.name == "torch"]
    (index,) = [package for package in both if package.name == "torch"]
    assert cpu.version == f"{index.version}+cpu" and len(cpu.hashes) == 1 and cpu.hashes[0] in index.hashes
    monkeypatch.setattr(lockfile.platform, "machine", lambda: "aarch64")
    assert lockfile.cpu_build(both) == both, "its hash is not known there"


def test_the_runtime_is_the_version_that_was_examined() -> None:
    assert [package.version for package in closure(["onnxruntime"]) if package.name == "onnxruntime"] == ["1.23.2"]


def test_an_extra_brings_what_it_needs_and_no_more() -> None:
    plain, bridge = ({package.name for package in subset(extras)} for extras in ([], ["bridge"]))
    assert bridge - plain == {"pynacl", "pyzmq"} and "numpy" in plain and "torch" not in plain
    with pytest.raises(UserError, match="there is no extra 'bridges'"):
        subset(["bridges"])


def test_a_lock_that_pins_less_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "requirements.lock"
    with pytest.raises(UserError, match=f"No such file or directory; {RENEW} makes it"):
        read(path)
    for text in ("numpy==2.4.6\n", "numpy>=2 \\\n    --hash=sha256:" + "0" * 64 + "\n", "numpy==2.4.6 --hash=md5:00\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"is not a pin with hashes"):
            read(path)
    path.write_text("numpy==2.4.6 \\\n    --hash=sha256:" + "0" * 64 + "\n    # via scipy\n")
    with pytest.raises(UserError, match=r"does not hold scipy"):
        closure(["scipy"], path=path)


def pinned(path: Path, wheel: Path) -> Path:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    path.write_text(f"rich==15.0.0 \\\n    --hash=sha256:{digest}\n    # via quietbox (pyproject.toml)\n")
    return path


@pytest.mark.slow
def test_pip_takes_the_pinned_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made = tmp_path / "index", tmp_path / "made"
    folder.mkdir()
    make_wheel(folder, "rich", "15.0.0", {"rich/__init__.py": b""})
    (wheel,) = folder.glob("*.whl")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    pip = wheels.Pip([sys.executable, "-m", "pip"], tmp_path, None, made)
    with pytest.raises(UserError, match=r"^rich==15\.0\.0 is not the file that requirements\.lock pins"):
        pip._run("wheel", [*pip._pinned(closure(["rich"])[-1:]), "--wheel-dir", str(made)])
    assert not list(made.glob("*.whl"))
    lock = pinned(tmp_path / "requirements.lock", wheel)
    pip._run("wheel", [*pip._pinned(closure(["rich"], path=lock)), "--wheel-dir", str(made)])
    assert [path.name for path in made.glob("*.whl")] == [wheel.name]


def test_a_wheel_that_the_lock_does_not_know_is_a_stranger(tmp_path: Path) -> None:
    make_wheel(tmp_path, "rich", "15.0.0", {"rich/__init__.py": b""})
    (wheel,) = tmp_path.glob("*.whl")
    lock = pinned(tmp_path / "requirements.lock", wheel)
    built = tmp_path / "rich-15.0.0-cp311-cp311-linux_aarch64.whl"
    other = tmp_path / "rich-14.0.0-cp311-cp311-linux_aarch64.whl"
    evil = tmp_path / "rich-15.0.0-py3-none-manylinux_2_28_aarch64.whl"
    for path in (built, other, evil):
        path.write_bytes(b"else")
    assert strangers([wheel, built, other, evil], lock) == [other, evil]
    assert strangers([wheel]) == [wheel]


def test_collected_wheels_that_changed_are_refused(tmp_path: Path) -> None:
    make_wheel(tmp_path, "rich", "15.0.0", {"rich/__init__.py": b""})
    wheels.check_sums(tmp_path)  # filled otherwise: no list
    (wheel,) = tmp_path.glob("*.whl")
    (tmp_path / wheels.SUMS).write_text(f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n")
    wheels.check_sums(tmp_path)
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"rich-15\.0\.0\S+ is not the file that was collected"):
        wheels.check_sums(tmp_path)


def test_advice_names_a_command_of_this_checkout() -> None:
    """There is no package quietbox in the index, so no text may tell to install it from there."""
    texts = [path for top in ("edge", "hw", "quant", "models", "tests") for path in (SOURCE / top).rglob("*.py")]
    texts += [path for top in ("edge", "hw", "models", "docs") for path in (SOURCE / top).rglob("*.md")]
    texts += [SOURCE / "README.md", SOURCE / "pyproject.toml"]
    wrong = re.compile(r"pip install ['\"]?quietbox")
    assert [str(path) for path in texts if wrong.search(path.read_text()) and path != Path(__file__)] == []
    for extra in set(re.findall(r"install\.sh --setup ([a-z,]+)", "".join(path.read_text() for path in texts))):
        assert not {*extra.split(",")} - {*EXTRAS}, extra


def test_the_command_prints_a_part_and_refuses_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hw.install.lockfile", "--build", "evaluate"], capture_output=True, text=True
    )
    named = {line.split("==")[0] for line in done.stdout.splitlines() if "==" in line}
    assert named == {"setuptools", "cython", "numpy"}
    done = subprocess.run([sys.executable, "-m", "hw.install.lockfile", "nothing"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("locked: there is no extra 'nothing'; there are ")
    assert Locked("a", "1", "", ("sha256:0",), ()).line() == "a==1 \\\n    --hash=sha256:0"


PIP_REFUSES = """ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the
    pynacl==1.6.2 from https://files.example/pynacl-1.6.2.whl (from -r .venv/part.lock (line 2)):
        Expected sha256 00
             Got        11
"""


@pytest.mark.parametrize("extra", ["bridge", "onnx"], ids=["what was asked for", "what one can do without"])
def test_setup_ends_in_one_line_where_a_file_is_not_the_one_that_is_pinned(tmp_path: Path, extra: str) -> None:
    """Whatever pip says, and whatever the setup could do without: other bytes than the lock's are never "not there"."""
    shutil.copy(SOURCE / "install.sh", tmp_path)
    for name in ("pyproject.toml", "requirements.lock", "pip.txt"):
        (tmp_path / name).write_text(PIP_REFUSES)
    fakes = tmp_path / "fakes"
    (tmp_path / ".venv/bin").mkdir(parents=True)
    fakes.mkdir()
    (fakes / "dpkg-query").write_text("#!/bin/sh\necho install ok installed\n")
    (tmp_path / ".venv/bin/python").write_text(
        '#!/bin/sh\ncase "$*" in\n'
        "*import\\ edge.cli*) exit 1 ;;\n"
        f"'-m hw.install.lockfile {extra}') echo >.venv/refuse ;;\n"
        "*'pip install'*) [ ! -e .venv/refuse ] || { cat pip.txt >&2; exit 1; } ;;\n"
        "esac\n"
    )
    for program in (fakes / "dpkg-query", tmp_path / ".venv/bin/python"):
        program.chmod(0o755)
    path = f"{fakes}:{os.environ['PATH']}"
    command = [str(tmp_path / "install.sh"), "--setup", "bridge"]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "pynacl==1.6.2 is not the file that requirements.lock pins" in done.stderr
    assert not list(tmp_path.glob(".venv/.installed*")), "the next run tries again"

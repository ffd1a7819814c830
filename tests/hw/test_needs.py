"""A proof that lacks something says so at once: everything, in one line, and builds nothing."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge import UserError
from hw.install import packages
from hw.prove import needs
from hw.prove.needs import Needs
from hw.virtual import arm64
from hw.virtual.pi import image, kernel, machine, product

BUILDS = {"bc", "bison", "flex", "gcc", "make", "mmdebstrap", "e2fsprogs"}
PROOFS = [
    ("hw.prove.pi.__main__", ["--cache", "{empty}"], BUILDS | {"libasound2-dev", "python3-venv"}),
    ("hw.prove.fleet", ["--cache", "{empty}"], BUILDS | {"libasound2-dev", "python3-venv"}),
    ("hw.prove.stock", ["--cache", "{empty}"], BUILDS | {"mtools", "libasound2-dev"}),
    ("hw.prove.image", ["--cache", "{empty}", "--wheels", "{empty}/none"], BUILDS | {"openssh-client"}),
    ("hw.prove.arm64", ["--cache", "{empty}"], {"mmdebstrap", "qemu-user-static", "debian-archive-keyring"}),
    ("hw.prove.pi3", ["{empty}/none"], {"qemu-system-arm", "mtools", "device-tree-compiler", "e2fsprogs"}),
]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has nothing, and on which nothing may be started."""

    def refused(*words: object, **_: object) -> None:
        raise AssertionError(f"started {words}")

    monkeypatch.setattr(needs.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(needs, "command_path", lambda name: "")
    monkeypatch.setattr(packages, "missing", lambda wanted: wanted)
    monkeypatch.setattr(needs, "_release", lambda: "Debian 13")
    monkeypatch.setattr(needs, "_free_mb", lambda folder: 10)
    monkeypatch.setattr(needs, "mirror_fault", lambda: "the Debian mirror does not answer")
    monkeypatch.setattr(needs, "index_fault", lambda: "the package index does not answer")
    monkeypatch.setattr(subprocess, "Popen", refused)


@pytest.mark.parametrize(("module", "words", "wanted"), PROOFS, ids=[name.split(".")[2] for name, _, _ in PROOFS])
def test_all_that_is_missing_is_named_in_one_line_before_anything_starts(
    bare: None,
    module: str,
    words: list[str],
    wanted: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [module, *(word.format(empty=tmp_path) for word in words)])
    main = importlib.import_module(module).main
    assert (main() if main.__code__.co_argcount == 0 else main(sys.argv[1:])) == 1
    (line,) = capsys.readouterr().err.splitlines()
    found = re.search(r"missing packages, run: sudo apt-get install (.*)$", line)
    assert found and wanted <= set(found[1].split()), line
    assert found[1].split() == sorted(set(found[1].split()))
    assert "MB free" in line
    if module != "hw.prove.pi3":
        assert "needs root (sudo)" in line and "mirror does not answer" in line
    if module not in ("hw.prove.pi3", "hw.prove.arm64"):
        assert "needs Debian 12, this machine runs Debian 13" in line
    assert ("none" in line) == any("none" in word for word in words), "what the user named and is not there"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_machine_that_has_everything_passes(tmp_path: Path) -> None:
    needs.check(Needs({"sh": "dash"}, space_mb={tmp_path / "later": 1}, paths=(tmp_path,)))


def test_what_the_cache_has_is_not_asked_for_again(tmp_path: Path) -> None:
    whole = needs.virtual_pi(tmp_path, None)
    assert whole.mirror and whole.index and {"bison", "mmdebstrap"} <= whole.commands.keys()
    disk = image.disk_path(tmp_path)
    for path in (kernel.path(tmp_path), disk, product.layer_path(tmp_path, disk)):
        path.touch()
    cached = needs.virtual_pi(tmp_path, None)
    assert cached.root and not cached.mirror and not cached.index and not cached.installed
    assert not {"bison", "mmdebstrap", "mke2fs"} & cached.commands.keys()
    assert needs.virtual_pi(tmp_path, None, collects=True).index
    root = arm64.root_path(tmp_path)
    root.mkdir()
    assert not needs.arm64(tmp_path, root, tmp_path / "wheels").mirror


def test_two_needs_are_both_kept(tmp_path: Path) -> None:
    both = Needs({"a": "a"}, root=True, space_mb={tmp_path: 1}) | Needs({"b": "b"}, index=True, space_mb={tmp_path: 2})
    assert both == Needs({"a": "a", "b": "b"}, root=True, index=True, space_mb={tmp_path: 3})


def test_a_mirror_and_an_index_that_do_not_answer_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "debian.sources"
    sources.write_text("# http://elsewhere/\nTypes: deb\nURIs: http://127.0.0.1:9/debian\nSuites: bookworm\n")
    monkeypatch.setattr(needs, "SOURCES", (sources,))
    if needs.APT_HELPER.is_file():
        assert needs.mirror_fault() == "the Debian mirror http://127.0.0.1:9/debian does not answer"
    monkeypatch.setattr(needs, "SOURCES", (tmp_path / "none",))
    assert needs.mirror_fault() == f"no Debian mirror is named in {tmp_path / 'none'}"
    for name in ("PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert needs.index_fault() == "Python's package index does not answer (pip download failed)"


def test_a_cache_that_loses_its_files_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the installed disk cannot be copied"):
        machine.copy_layer(tmp_path / "gone.cow", tmp_path / "layer")

"""`quietbox --version`: from a checkout, from installed packages, and where neither says anything."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edge import cli, version

ROOT = version.FOLDER
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_command_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"quietbox {version.version()}\n"


def test_a_checkout_adds_its_commit(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "quietbox"\nversion = "9.8.7"\n')
    assert version.version(tmp_path) == "9.8.7"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"], ["tag", "-a", "v1", "-m", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    assert re.fullmatch(r"9\.8\.7 \(commit [0-9a-f]{10}\)", version.version(tmp_path))
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "quietbox"\nversion = "9.8.8"\n')
    assert re.fullmatch(r"9\.8\.8 \(commit [0-9a-f]{10}-dirty\)", version.version(tmp_path))


def test_a_folder_of_packages_states_its_own_version(tmp_path: Path) -> None:
    """As on a card image: the package and its metadata in one folder, and no pyproject.toml."""
    (tmp_path / "quietbox-7.0.1.dist-info").mkdir()
    (tmp_path / "quietbox-7.0.1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: quietbox\nVersion: 7.0.1\n"
    )
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\nversion = "1"\n')
    assert version.version(tmp_path) == "7.0.1"


def test_without_git_or_metadata_it_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version.version(ROOT) == DECLARED
    copied = "import sys; sys.path[:] = [sys.argv[1]] + [p for p in sys.path if 'site-packages' not in p]"
    (tmp_path / "edge").mkdir()
    for name in ("__init__.py", "version.py"):
        (tmp_path / "edge" / name).write_text((ROOT / "edge" / name).read_text())
    code = f"{copied}; from edge.version import version; print(version())"
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "unknown\n"

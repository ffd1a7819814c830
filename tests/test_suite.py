"""The suite's own promise: where everything can be installed, a skipped test fails under its name."""

import os
import subprocess
import sys
from pathlib import Path

import conftest
import pytest

TESTS = Path(__file__).parent
SAMPLE = """
import pytest

def test_runs(): pass

def test_is_skipped(): pytest.skip("no such tool")

@pytest.mark.xfail
def test_is_expected_to_fail(): assert False

@pytest.mark.only_where(False, "another machine")
def test_elsewhere(): assert False
"""
MODULE = "import pytest\npytest.importorskip('no_such_package')\n"


def run(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    (folder / "test_sample.py").write_text(SAMPLE)
    (folder / "test_module.py").write_text(MODULE)
    order = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", *options, str(folder)]
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    return subprocess.run(order, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.only_where(conftest.is_tested_completely(), "root, Debian 12 and Python 3.11")
def test_a_skip_fails_by_name(tmp_path: Path) -> None:
    done = run(tmp_path, "--no-skips")
    assert done.returncode == 2 and "no_such_package" in done.stdout  # a module that cannot be collected
    done = run(tmp_path, "--no-skips", "--ignore", str(tmp_path / "test_module.py"))
    assert done.returncode == 1 and "test_sample.py::test_is_skipped" in done.stdout and "no such tool" in done.stdout
    assert "1 failed, 1 passed, 1 deselected, 1 xfailed" in done.stdout


def test_without_the_option_a_skip_is_one_and_tests_for_other_machines_are_named(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0 and "1 passed, 2 skipped, 1 deselected, 1 xfailed" in done.stdout
    assert "test_elsewhere: needs another machine" in done.stdout

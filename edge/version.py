"""Which version this is: for `quietbox --version`, and for whoever reads a report of a fault."""

import contextlib
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

NAME = "quietbox"
FOLDER = Path(__file__).resolve().parent.parent
"""Holds the package: a checkout, or a folder of installed packages."""
GIT_S = 5.0
"""A repository on a slow disk may keep git waiting."""


def version(folder: Path = FOLDER) -> str:
    """One line: ``0.1.0``, in a checkout ``0.1.0 (commit 09aa0d5e12)``, with ``-dirty`` if files were changed.

    In a checkout pyproject.toml states the version, elsewhere the metadata that pip installs beside the package, which
    a card image holds, too. ``unknown`` if somebody copied the package alone.
    """
    found = _declared(folder)
    if found is None:
        return _installed(folder) or "unknown"
    commit = _commit(folder)
    return f"{found} (commit {commit})" if commit else found


def _declared(folder: Path) -> str | None:
    """The version in a checkout's pyproject.toml; None where there is none of ours."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == NAME:
            return str(project["version"])
    return None


def _installed(folder: Path) -> str | None:
    """The version of the distribution in ``folder``, else of the one that Python finds."""
    for found in metadata.distributions(name=NAME, path=[str(folder)]):
        return found.version
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(NAME)
    return None


def _commit(folder: Path) -> str:
    """The commit that is checked out; empty without a repository of our own, or without git."""
    if not (folder / ".git").exists():
        return ""
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GIT_S)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

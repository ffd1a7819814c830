"""Debian's part: the packages that the box needs, and getting them."""

import os
import shutil
import subprocess
import sys

from edge import UserError

NEEDED = ("python3-venv", "alsa-utils")
NEEDED_32 = ("libsndfile1", "libopenblas0", "libgfortran5")  # 32-bit wheels of soundfile, NumPy and SciPy need these
TO_BUILD = ("gcc", "python3-dev", "pkg-config", "libasound2-dev", "libsystemd-dev")
if sys.version_info >= (3, 13):
    TO_BUILD += ("swig",)  # lgpio has no wheel for Debian 13's Python


def missing(wanted: list[str]) -> list[str]:
    """Those that are not installed. Raises UserError where there is no dpkg."""
    if not shutil.which("dpkg-query"):
        raise UserError(
            "this is not a Debian system (no dpkg): Quietbox installs on Raspberry Pi OS and Debian 12 and 13"
        )
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Status}\n", *wanted], capture_output=True, text=True
    ).stdout.splitlines()
    there = {line.split()[0] for line in asked if line.endswith("ok installed")}
    return [name for name in wanted if name not in there]


def install(names: list[str]) -> None:
    """By apt-get; raises UserError if that fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    failed = f"apt-get could not install {' '.join(names)}; is there a network?"
    for command in (
        ["dpkg", "--configure", "-a"],  # what a power cut left half configured
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *names],
    ):
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL)
        if done.returncode and command[1] != "update":
            raise UserError(failed)

"""Quietbox's runtime. Read the files in the order a sample travels:

capture -> convert -> feedforward -> reference -> spectrum + suppress -> voice -> guard -> antinoise -> howl -> convert
-> playback; ``chain`` joins the signal part, ``box`` is the one loop around it, ``cable`` a second output, ``health``
counts, ``journal`` tells, ``service`` is the process, ``cli`` the door; ``doctor`` examines a machine, with ``trial``
for its devices, ``history`` draws its day, ``calibrate`` measures what ``antinoise`` has to know. ``bridge`` serves
another program (``bridgebench`` times it), ``boxes`` other boxes, in the format of ``wire`` and to those whom ``keys``
lets in. ``console`` is how every command ends, ``atomic`` how files are written: whole, never over an input.
"""

import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# Recent releases of ONNX Runtime (1.32.0 was examined) carry a client that reports to their maker and is on by default:
# importing it fills ~/.cache/Microsoft/DeveloperTools/.onnxruntime, and nine seconds later it looks up a host of its
# maker. Every entry imports this package before any library, and child processes inherit the variable. It is set
# whatever the user's environment says, since 0 leaves the client on. What shows it: python -m hw.privacy.

RATE_HZ = 16_000
"""Sample rate of everything between the two converters."""

HOP_SAMPLES = 80
"""One hop: 5 ms at 16 kHz. Two hops fill one 10 ms period of the Pi's jack exactly."""

HOP_MS = 1000 * HOP_SAMPLES / RATE_HZ


class UserError(Exception):
    """What a user can mend: its text is one line that names the thing and the way out."""


def command_for(extra: str) -> str:
    """What a user calls in the checkout to get ``extra``, one of pyproject.toml's: on a board the installer, elsewhere
    what makes .venv. There is no package of ours in the package index."""
    if not sys.prefix.startswith("/opt/quietbox/"):
        return f"./install.sh --setup {extra}"
    return "./install.sh --again" if extra == "onnx" else f"./install.sh --with {extra}"

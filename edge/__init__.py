"""Quietbox's runtime.

The running box lies here: ``box`` is the one loop, ``chain`` the signal path inside it, ``service`` the process around
it with its ``status``, ``cli`` the command with its ``arguments`` and ``version``. ``config`` holds the settings,
``sections`` defines their keys, ``config_file`` reads them by ``config_rules`` and ``config_names``, ``engines`` lists
what can suppress noise, ``health`` counts, ``journal`` reports, ``runtime`` claims the cards, ``realtime`` asks for
priority, ``console`` ends every command. ``orders`` carries what people ask of a running box, ``serial_orders`` brings
it from the PC at the USB cable, ``control`` obeys it, ``config_edit`` keeps it for the next start. ``meters`` is the
page of figures for whoever watches, ``metering`` fills it. The packages, each importing only from those after it:

    serve, tools   what people call: a server for other boxes and programs; files, measurements, the doctor, the report
    suppress       the engines that suppress noise; ``foreign`` holds other people's networks
    devices        sound cards through ALSA, and their stand-ins for tests
    net            frames, keys and sockets between a box and another machine
    dsp            pure signal processing, one hop at a time
    files          reading and writing files that somebody else may have made, with bounds

`lint-imports` (pyproject.toml) checks these arrows, and ``edge.dsp`` gives the order in which a hop meets its stages.
"""

import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# Recent releases of ONNX Runtime (1.32.0 was examined) carry a client that reports to their maker and is on by default:
# importing it fills ~/.cache/Microsoft/DeveloperTools/.onnxruntime, and nine seconds later it looks up a host of its
# maker. Every entry imports this package before any library, and child processes inherit the variable. It is set
# whatever the user's environment says, since 0 leaves the client on. What shows it: python -m hw.prove.privacy.

RATE_HZ = 16_000
"""Sample rate of everything between the two converters."""

HOP_SAMPLES = 80
"""One hop: 5 ms at 16 kHz. Two hops fill one 10 ms period of the Pi's jack exactly."""

HOP_MS = 1000 * HOP_SAMPLES / RATE_HZ


class UserError(Exception):
    """A fault that a user can fix: its text is one line that names it and the fix."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The same for a terminal, where several faults have a line each."""
        return (str(self),)


def command_for(extra: str, pin: str = "") -> str:
    """What a user calls to get ``extra``, one of pyproject.toml's: on a board the installer, in a checkout what makes
    .venv, elsewhere pip with the wheel. There is no package of ours in the package index. ``pin`` (name==version): the
    package of that extra that is wanted, without those around it, which a wheel's extra cannot leave out."""
    if not sys.prefix.startswith("/opt/quietbox/"):
        if not os.path.exists(os.path.join(os.path.dirname(__path__[0]), "pyproject.toml")):
            if pin:
                return f"{sys.executable} -m pip install --no-deps {pin}"
            return f"pip install 'FILE[{extra}]', FILE being the wheel that was installed"
        return f"./install.sh --setup {extra}"
    return "./install.sh --again" if extra == "onnx" else f"./install.sh --with {extra}"

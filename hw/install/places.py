"""Where everything of the product goes on a board, below the root that is installed to."""

from pathlib import Path

OPT = "opt/quietbox"
CURRENT = f"{OPT}/current"
PREVIOUS = f"{OPT}/previous"
MANIFEST = f"{OPT}/manifest.json"
COMMAND = "usr/local/bin/quietbox"
COMPLETION = "usr/local/share/bash-completion/completions/quietbox"
"""bash-completion looks there for what no Debian package brings (its README, "Where should I put it?")."""
SETTINGS = "etc/quietbox/quietbox.toml"
UNITS = "etc/systemd/system"
SERVICE = "quietbox.service"
RELEASE = "etc/udev/rules.d/61-quietbox-cards.rules"
PLACES = {
    ".service": UNITS,
    ".socket": UNITS,
    ".timer": UNITS,
    ".sysusers": "etc/sysusers.d",
    ".tmpfiles": "etc/tmpfiles.d",
    ".rules": "etc/udev/rules.d",
    ".modules": "etc/modules-load.d",
    ".modprobe": "etc/modprobe.d",
}
"""Where a file of ``systemd/`` goes, by its suffix; the ``.d`` folders take NAME.conf, but udev its own suffix."""


def place_of(name: str) -> str:
    """Where a file of ``systemd/`` belongs on the board; empty for one that is no system file."""
    path = Path(name)
    place = PLACES.get(path.suffix)
    if place is None:
        return ""
    return f"{place}/{name}" if place == UNITS or path.suffix == ".rules" else f"{place}/{path.stem}.conf"

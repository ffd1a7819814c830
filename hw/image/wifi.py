"""``wifi.conf`` on the card's first partition: checked, and written out for wpa_supplicant.

    python -m hw.image.wifi                  on the box, before wpa_supplicant starts
    python -m hw.image.wifi --check FILE     on a PC; changes nothing

The format is that of wpa_supplicant.conf(5), reduced to what joins a network. A block may stand on one line, which
wpa_supplicant itself refuses, and the file may have the line ends, byte-order mark or UTF-16 of Windows' editors. A
block that names no ``key_mgmt`` gets WPA2 and WPA3: the best that router, radio and wpa_supplicant have in common.
No message contains a password.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge import UserError, files
from edge.console import run_main
from edge.files import toml
from hw.image.versions import warn
from hw.install import ledger

CARD = Path("/boot/firmware/wifi.conf")
OUT = Path("/run/quietbox-wifi.conf")
"""What wpa_supplicant reads; in memory, root's alone."""
MOST_BYTES, MOST_LINE = 1 << 14, 1000
PERSONAL = "WPA-PSK WPA-PSK-SHA256 SAE"
"""WPA2, WPA2 with protected management frames, WPA3. wpa_supplicant takes those that the radio's driver offers."""
PERSONAL_HEX = "WPA-PSK WPA-PSK-SHA256"
"""SAE starts from the passphrase; a key in hexadecimal is already derived from it (IEEE 802.11-2020, 12.4 and J.4)."""
HEAD = "pmf=1\nsae_pwe=2\n"
"""Protected management frames where both sides have them, both SAE password elements: wpa_supplicant.conf(5)."""
MOST_SSID_BYTES = 32
"""IEEE 802.11-2020, 9.4.2.2."""
PASSPHRASE_BYTES = range(8, 64)
"""IEEE 802.11-2020, J.4.1."""
NO_GAIN = ("ctrl_interface", "ctrl_interface_group", "update_config", "ap_scan", "fast_reauth", "eapol_version")
"""Settings of files from Raspberry Pi OS that change nothing here; they are left out."""
TYPOGRAPHIC = "\u201c\u201d\u201e\u00ab\u00bb\u2018\u2019"
QUOTED = re.compile(r'P?"(.*)"')

Check = Callable[[str], str]
"""A value as it was typed -> what is wrong with it, without the value; empty if nothing."""


def _ssid(value: str) -> str:
    if found := QUOTED.fullmatch(value):
        size = len(found[1].encode())
        if not 1 <= size <= MOST_SSID_BYTES and not value.startswith("P"):
            return f"has {size} bytes; a network's name has 1 to {MOST_SSID_BYTES}"
        return ""
    good = re.fullmatch(r"(?:[0-9a-fA-F]{2}){1,32}", value)
    return "" if good else 'is not in quotes: ssid="NAME"'


def _psk(value: str) -> str:
    if re.fullmatch(r"[0-9a-fA-F]{64}", value):
        return ""
    if not (found := re.fullmatch(r'"(.*)"', value)):
        return 'is not in quotes: psk="PASSWORD"'
    size = len(found[1].encode())
    least, most = PASSPHRASE_BYTES.start, PASSPHRASE_BYTES.stop - 1
    return "" if size in PASSPHRASE_BYTES else f"has {size} bytes; a WPA password has {least} to {most}"


def _quoted(value: str) -> str:
    return "" if re.fullmatch(r'".+"', value) else "is not in quotes, or empty"


def _any(value: str) -> str:
    return "" if value.strip('"') else "is empty"


def _number(least: int, most: int) -> Check:
    def check(value: str) -> str:
        good = re.fullmatch(r"[0-9]{1,3}", value) and least <= int(value) <= most
        return "" if good else f"is not a number from {least} to {most}"

    return check


def _words(*known: str) -> Check:
    def check(value: str) -> str:
        return "" if value.split() and {*value.split()} <= {*known} else f"is not one of {', '.join(known)}"

    return check


NETWORK: Mapping[str, Check] = {
    "ssid": _ssid,
    "psk": _psk,
    "sae_password": _quoted,
    "scan_ssid": _number(0, 1),
    "priority": _number(0, 255),
    "disabled": _number(0, 1),
    "ieee80211w": _number(0, 2),
    "key_mgmt": _words(
        *("NONE", "WPA-PSK", "WPA-PSK-SHA256", "SAE", "OWE", "FT-PSK", "FT-SAE", "WPA-EAP", "WPA-EAP-SHA256", "FT-EAP")
    ),
    "proto": _words("RSN", "WPA2", "WPA"),
    "pairwise": _words("CCMP", "GCMP", "TKIP"),
    "group": _words("CCMP", "GCMP", "TKIP"),
    "auth_alg": _words("OPEN"),
    "eap": _words("PEAP", "TTLS", "TLS", "PWD"),
    **dict.fromkeys(("identity", "anonymous_identity", "phase1", "phase2", "ca_cert", "client_cert"), _quoted),
    **dict.fromkeys(("private_key", "private_key_passwd", "domain_suffix_match", "id_str"), _quoted),
    "password": _any,
    "bssid": lambda value: "" if re.fullmatch(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", value) else "is not an address",
}
"""Settings of a network that are accepted: wpa_supplicant.conf(5)."""

SETTING = re.compile(r"([a-zA-Z0-9_]+)[ \t]*=[ \t]*")
WORD = rf'[^\s"{{}}#{TYPOGRAPHIC}]'
ALONE = re.compile(r'P?"(?:(?!"[ \t]+[a-zA-Z0-9_]+[ \t]*=).)*"[ \t]*$')
"""A quoted text that ends its line reaches to the line's last quote, as in wpa_supplicant."""
VALUE = re.compile(rf'P?".*?"(?=[\s}}]|$)|{WORD}+(?:[ \t]+(?:(?!=){WORD})+(?!{WORD}*[ \t]*=))*')
"""A quoted text up to the quote before a space, a brace or the line's end; else words up to the next setting."""


class BadWifi(UserError):
    """``wifi.conf`` cannot be used; one line that names the line and the fix."""


@dataclass
class Network:
    """One block."""

    line: int
    values: dict[str, str] = field(default_factory=dict)

    def add(self, line: int, name: str, value: str) -> None:
        """Raises BadWifi."""
        if name not in NETWORK:
            raise _bad(line, f"unknown setting {name!r} in network={{ }}; usual are ssid, psk, scan_ssid, key_mgmt")
        if name in self.values:
            raise _bad(line, f"{name} stands twice in one network: is a }} missing before it?")
        if fault := NETWORK[name](value):
            raise _bad(line, f"{name} {fault}")
        self.values[name] = value

    def complete(self) -> None:
        """Add what the user need not know; raises BadWifi where the block cannot join a network."""
        if "ssid" not in self.values:
            raise _bad(self.line, 'the network has no name: ssid="NAME"')
        secrets = {"psk", "sae_password", "eap"} & {*self.values}
        if "key_mgmt" not in self.values:
            if not secrets:
                raise _bad(self.line, 'the network has no password: psk="PASSWORD", or key_mgmt=NONE for an open one')
            self.values["key_mgmt"] = self._default()
        methods = self.values["key_mgmt"].split()
        if not secrets and {*methods} - {"NONE", "OWE"}:
            raise _bad(self.line, f'key_mgmt={self.values["key_mgmt"]} needs a password: psk="PASSWORD"')

    def _default(self) -> str:
        if "eap" in self.values:
            return "WPA-EAP"
        if "psk" not in self.values:
            return "SAE"
        return PERSONAL if self.values["psk"].startswith('"') else PERSONAL_HEX

    @property
    def only_wpa3(self) -> bool:
        return {*self.values["key_mgmt"].split()} <= {"SAE", "FT-SAE"}


@dataclass
class Wifi:
    """What ``wifi.conf`` says."""

    country: str = ""
    """ISO 3166-1 alpha-2, "00" for the world; empty: not given."""
    networks: list[Network] = field(default_factory=list)

    def text(self) -> str:
        """As wpa_supplicant reads it."""
        parts = [HEAD, f"country={self.country}\n" if self.country else ""]
        for network in self.networks:
            lines = "".join(f"\t{name}={value}\n" for name, value in network.values.items())
            parts.append(f"network={{\n{lines}}}\n")
        return "".join(parts)

    def notes(self) -> Iterator[str]:
        """What is allowed and may surprise, one line each."""
        if not self.country:
            yield "no country=: add country=DE (your own code); without it the radio keeps to what all countries allow"
        for network in self.networks:
            if network.only_wpa3:
                yield (
                    f"line {network.line}: WPA3 only. wpa_supplicant 2.10 of this image has no use for the WPA3 of a "
                    "Pi's own radio: let the router offer WPA2 beside it"
                )


def parse(data: bytes) -> Wifi:
    """Raises BadWifi."""
    try:
        text = toml.decode(data)
    except toml.BadToml as error:
        raise BadWifi(f"wifi.conf: {str(error).splitlines()[0]}") from None
    found = Wifi()
    block: Network | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MOST_LINE:
            raise _bad(number, f"more than {MOST_LINE} characters")
        if sign := next((sign for sign in line if not sign.isprintable() and sign != "\t"), ""):
            raise _bad(number, f"control character {ord(sign):#04x}; write the line again")
        if block is None:
            block, line = _outside(found, number, line.strip())
        if block is not None and _inside(block, number, line):
            found.networks.append(block)
            block = None
    if block is not None:
        raise _bad(block.line, "this network={ has no } at its end")
    if not found.networks:
        raise BadWifi('wifi.conf names no network: network={ ssid="NAME" psk="PASSWORD" }')
    return found


def _outside(found: Wifi, number: int, line: str) -> tuple[Network | None, str]:
    """A line outside all blocks: (the block that begins there, the rest of the line)."""
    if not line or line.startswith("#"):
        return None, ""
    if begin := re.match(r"network[ \t]*=[ \t]*\{", line):
        return Network(number), line[begin.end() :]
    name, equals, value = (part.strip() for part in line.partition("="))
    value = value.split("#")[0].strip()
    if name == "country" and equals:
        found.country = _country(number, value)
    elif not (equals and name in NO_GAIN):
        if name in NETWORK:
            raise _bad(number, f"{name} stands outside of network={{ }}")
        raise _bad(number, 'neither country=CODE nor network={ ssid="NAME" psk="PASSWORD" }')
    return None, ""


def _country(number: int, value: str) -> str:
    code = value.strip('"').upper()
    if code == "UK":
        raise _bad(number, "the code of the United Kingdom is GB")
    if not re.fullmatch(r"[A-Z]{2}|00", code):
        raise _bad(number, "country is not a code of two letters (ISO 3166), for example country=DE")
    return code


def _inside(block: Network, number: int, line: str) -> bool:
    """A line, or its rest, within a block; returns whether the block ends there."""
    at, after = 0, ""
    while rest := line[at:].lstrip():
        at = len(line) - len(rest)
        if rest.startswith("#"):
            return False
        if rest.startswith("}"):
            if rest[1:].split("#")[0].strip():
                raise _bad(number, "nothing may follow the }; begin a new line")
            block.complete()
            return True
        name = SETTING.match(rest)
        if not name:
            raise _bad(number, f"cannot be read{after}; write NAME=VALUE, a value with spaces in quotes")
        value = ALONE.match(rest, name.end()) or VALUE.match(rest, name.end())
        if not value:
            raise _bad(number, f"{name[1]} {_why_unread(rest[name.end() :])}")
        block.add(number, name[1], value[0].strip())
        at, after = at + value.end(), f" after {name[1]}"
    return False


def _why_unread(value: str) -> str:
    if value[:1] and value[0] in TYPOGRAPHIC:
        return 'is in typographic quotes; write plain ones: "'
    return "has no closing quote, or something directly behind it" if value.startswith(('"', 'P"')) else "has no value"


def _bad(line: int, why: str) -> BadWifi:
    return BadWifi(f"wifi.conf line {line}: {why}")


def read(path: Path) -> Wifi:
    """Raises BadWifi."""
    try:
        return parse(files.read_bounded(path, MOST_BYTES))
    except OSError as error:
        raise BadWifi(f"{path} cannot be read: {error.strerror}") from None
    except files.BadFile as error:
        raise BadWifi(str(error)) from None


def prepare(card: Path = CARD, out: Path = OUT) -> bool:
    """Write ``out`` from ``card``; returns False, with one line in the journal, where that cannot be used."""
    try:
        found = read(card)
        ledger.write(out, found.text().encode(), 0o600)
    except UserError as error:
        out.unlink(missing_ok=True)
        warn(f"Wi-Fi stays off: {error}")
        return False
    for note in found.notes():
        warn(note)
    count = len(found.networks)
    print(f"Wi-Fi: {count} network{'s' * (count > 1)}, country {found.country or 'not given'}", flush=True)
    return True


def check(path: Path) -> None:
    """Print what ``path`` says and what may surprise in it; raises BadWifi."""
    found = read(path)
    for note in found.notes():
        print(f"note: {note}")
    for network in found.networks:
        hidden = ", also if its name is hidden" if network.values.get("scan_ssid") == "1" else ""
        print(f"network {network.values['ssid']}: {network.values['key_mgmt']}{hidden}")
    print(f"{path.name} can be used; country {found.country or 'not given'}")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status; 1 keeps the unit from starting (ExecCondition=)."""
    parser = argparse.ArgumentParser(prog="python -m hw.image.wifi", description="Checks wifi.conf of the card image.")
    parser.add_argument("--check", type=Path, metavar="FILE", help="only check FILE")
    options = parser.parse_args(arguments)
    if options.check is not None:
        check(options.check)
        return 0
    return 0 if prepare() else 1


if __name__ == "__main__":
    run_main(main, "wifi.conf")

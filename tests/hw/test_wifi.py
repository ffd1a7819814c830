"""wifi.conf of the card: what people write, what wpa_supplicant gets, and one line for what cannot be used."""

import re
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import UserError
from hw.image import boot, card, debian, wifi

FILES = card.HERE / "files/etc/systemd"
SECRET = "correct horse"


def blocks(text: str) -> list[dict[str, str]]:
    """The networks of a file as wpa_supplicant reads it: a block's lines begin after ``network={`` and end with ``}``,
    a quoted text reaches to the last quote of its line (wpa_supplicant/config_file.c, src/utils/common.c)."""
    found: list[dict[str, str]] = []
    inside = False
    for line in (one.strip() for one in text.splitlines()):
        if line == "network={":
            inside = True
            found.append({})
        elif line == "}":
            inside = False
        elif inside:
            name, _, value = line.partition("=")
            found[-1][name] = value
        else:
            assert re.fullmatch(r"(pmf=1|sae_pwe=2|country=[A-Z0-9]{2}|)", line), line
    assert not inside
    return found


def test_the_example_on_the_card_joins_a_network() -> None:
    """wpa_supplicant itself refuses a block on one line: "Invalid configuration line 'network={ ssid=...'"."""
    lines = [line.strip() for line in boot.HELP.splitlines()]
    example = "\n".join(line for line in lines if line.startswith(("country=", "network={")))
    found = wifi.parse(example.encode())
    assert found.country == "DE" and not [*found.notes()]
    (network,) = blocks(found.text())
    assert network == {"ssid": '"NAME"', "psk": '"PASSWORD"', "key_mgmt": wifi.PERSONAL}


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_raspberry_pi_os_is_taken_with_the_line_ends_of_any_editor(ends: str, encoding: str) -> None:
    lines = ["ctrl_interface=DIR=/var/run/wpa_supplicant GROUP=netdev", "update_config=1", "country=gb", ""]
    lines += ["network={", '\tssid="Café #1"', "\tscan_ssid=1   # hidden", f'\tpsk="{SECRET}"', "}"]
    lines += ["network={", "ssid=4e616d65", f"psk={'0f' * 32}", "priority=2", "}"]
    lines += ['network={ ssid="a}b" key_mgmt=NONE }', 'network={ ssid="x" key_mgmt=SAE WPA-PSK psk="a"b#c=d1" }', ""]
    found = wifi.parse(ends.join(lines).encode(encoding))
    assert found.country == "GB"
    first, second, third, fourth = blocks(found.text())
    assert first == {"ssid": '"Café #1"', "scan_ssid": "1", "psk": f'"{SECRET}"', "key_mgmt": wifi.PERSONAL}
    assert second["key_mgmt"] == wifi.PERSONAL_HEX and second["ssid"] == "4e616d65"
    assert third == {"ssid": '"a}b"', "key_mgmt": "NONE"}
    assert fourth["key_mgmt"] == "SAE WPA-PSK" and fourth["psk"] == '"a"b#c=d1"'


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 0, "names no network"),
        ("country=DE\n# nothing else\n", 0, "names no network"),
        ('ssid="x"\n', 1, "outside of network"),
        ("hello\n", 1, "neither country=CODE nor network="),
        ("country=UK\n", 1, "United Kingdom is GB"),
        ("country=Germany\n", 1, "two letters"),
        ('network={\nssid="x"\npsk="correct horse"\n', 1, "has no }"),
        ('network={\nssid="x"\npsk="correct horse"\nnetwork={\n', 4, "network is not in quotes|unknown setting|has no"),
        ('network={ ssid="x" psk="correct horse" } network={\n', 1, "nothing may follow"),
        ('network={ ssid="x" }\n', 1, "has no password"),
        ('network={ psk="correct horse" }\n', 1, "has no name"),
        ('network={ ssid="x" key_mgmt=WPA-PSK }\n', 1, "needs a password"),
        ('network={\nssid=x\npsk="correct horse"\n}\n', 2, "ssid is not in quotes"),
        ('network={\nssid="x"\npsk=correct\n}\n', 3, "psk is not in quotes"),
        ('network={ ssid="x" psk="short" }\n', 1, "psk has 5 bytes; a WPA password has 8 to 63"),
        (f'network={{ ssid="x" psk="{"s" * 64}" }}\n', 1, "psk has 64 bytes"),
        (f'network={{ ssid="{"ü" * 17}" psk="correct horse" }}\n', 1, "ssid has 34 bytes"),
        ('network={ ssid="x" psk="correct horse }\n', 1, "psk has no closing quote"),
        ("network={ ssid=\u201cx\u201d psk=\u201ccorrect horse\u201d }\n", 1, "typographic quotes"),
        ('network={ ssid="x" passwort="correct horse" }\n', 1, "unknown setting 'passwort'"),
        ('network={ ssid="x" ssid="y" psk="correct horse" }\n', 1, "stands twice"),
        ('network={ ssid="x" psk="correct horse" scan_ssid=yes }\n', 1, "scan_ssid is not a number"),
        ('network={ ssid="x" psk="correct horse" key_mgmt=WPA2 }\n', 1, "key_mgmt is not one of"),
        ('network={ ssid="x" psk="correct\x07horse" }\n', 1, "control character 0x07"),
        ('network={ ssid="x" psk="correct horse"' + " " * 2000 + "}", 1, "more than 1000 characters"),
    ],
)
def test_what_cannot_be_used_is_one_line_without_the_password(text: str, line: int, why: str) -> None:
    with pytest.raises(wifi.BadWifi, match=why) as caught:
        wifi.parse(text.encode())
    said = str(caught.value)
    assert said.startswith(f"wifi.conf line {line}: " if line else "wifi.conf ") and "\n" not in said
    assert not re.search("correct|horse|short|sss", said)


def test_a_file_in_windows_own_encoding_is_one_line(tmp_path: Path) -> None:
    windows = 'network={\nssid="Müller"\npsk="correct hörse"\n}'.encode("cp1252")
    for data in (windows, b"\xff\xfe\x00", b"\0" * 50):
        with pytest.raises(wifi.BadWifi, match=r"UTF-8|control character") as caught:
            wifi.parse(data)
        assert "\n" not in str(caught.value) and "horse" not in str(caught.value)
    large = tmp_path / "wifi.conf"
    large.write_bytes(b"#" * (wifi.MOST_BYTES + 1))
    for path in (large, tmp_path, tmp_path / "none"):
        with pytest.raises(wifi.BadWifi, match=re.escape(str(path))):
            wifi.read(path)


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=8, max_size=15), st.booleans())
def test_any_password_arrives_as_it_was_typed(password: str, one_line: bool) -> None:
    if one_line and '"}' in password:
        password = "p" * 8  # one with "} in it needs a line of its own
    space = " " if one_line else "\n"
    text = space.join(["network={", 'ssid="x"', f'psk="{password}"', "}"])
    (network,) = blocks(wifi.parse(text.encode()).text())
    assert network["psk"] == f'"{password}"'


@given(st.binary(max_size=200) | st.text('network={} ssidpk"#\n\r\t', max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = wifi.parse(data)
    except wifi.BadWifi as error:
        assert "\n" not in str(error)
    else:
        assert blocks(found.text())


def test_the_box_gets_a_file_that_only_root_reads_and_a_bad_one_leaves_none(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "wifi.conf", tmp_path / "out.conf"
    source.write_text('network={ ssid="x" psk="correct horse" }')
    assert wifi.prepare(source, out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600 and len(blocks(out.read_text())) == 1
    shown = capfd.readouterr()
    assert "Wi-Fi: 1 network, country not given" in shown.out and "<4>no country=" in shown.err
    source.write_text('network={ ssid="x" psk="horse" }')
    assert not wifi.prepare(source, out)
    assert not out.exists()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("<4>Wi-Fi stays off: wifi.conf line 1: psk has 5 bytes")


def test_the_file_is_checked_on_a_pc_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "wifi.conf"
    source.write_text('country=FR\nnetwork={ ssid="x" psk="correct horse" key_mgmt=SAE scan_ssid=1 }')
    assert wifi.main(["--check", str(source)]) == 0
    note, network, end = capsys.readouterr().out.splitlines()
    assert note.startswith("note: line 2: WPA3 only.")
    assert network == 'network "x": SAE, also if its name is hidden' and end == "wifi.conf can be used; country FR"
    source.write_text("country=FR")
    with pytest.raises(UserError, match="names no network"):
        wifi.main(["--check", str(source)])


# The units: what starts with Wi-Fi, and only with it.


def conditions(path: Path) -> set[str]:
    return set(re.findall(r"(?m)^ConditionFileNotEmpty=(\S+)$", path.read_text()))


def test_the_network_starts_only_with_a_file_on_the_card_that_asks_for_it() -> None:
    """A unit's condition does not keep what it wants from starting (systemd.unit(5)), so those have their own."""
    units = FILES / "system"
    asking = {path.name: conditions(path) for path in (units / "quietbox-wifi.service", units / "quietbox-ssh.service")}
    wanted = {name: (units / name).read_text() for name in asking}
    assert "systemd-resolved.service" in wanted["quietbox-wifi.service"]
    assert "systemd-resolved" not in wanted["quietbox-ssh.service"]
    service, socket = (units / f"systemd-networkd.{kind}.d/quietbox.conf" for kind in ("service", "socket"))
    assert conditions(service) == {f"|{path}" for files in asking.values() for path in files}
    assert conditions(socket) == conditions(service), "a listening socket would start the service over and over"
    assert conditions(units / "systemd-resolved.service.d/quietbox.conf") == asking["quietbox-wifi.service"]
    for path in (service, socket, units / "systemd-resolved.service.d/quietbox.conf"):
        assert "After=boot-firmware.mount" in path.read_text()


def test_wpa_supplicant_reads_what_was_checked() -> None:
    text = (FILES / "system/quietbox-wifi.service").read_text()
    assert "ExecCondition=/opt/quietbox/shipped/bin/python -m hw.image.wifi\n" in text
    assert f"-c {wifi.OUT}\n" in text and f"ConditionFileNotEmpty={wifi.CARD}\n" in text


def test_the_kernel_finds_the_countries_limits_without_the_package_s_script(tmp_path: Path) -> None:
    """Packages are unpacked, not installed: nobody runs update-alternatives."""
    firmware = tmp_path / "usr/lib/firmware"
    firmware.mkdir(parents=True)
    for name in ("regulatory.db-debian", "regulatory.db.p7s-debian", "regulatory.db-upstream"):
        (firmware / name).write_text(name)
    for _ in range(2):
        debian.link_alternatives(tmp_path)
    assert (firmware / "regulatory.db").read_text() == "regulatory.db-debian"
    assert (firmware / "regulatory.db.p7s").read_text() == "regulatory.db.p7s-debian"
    (firmware / "regulatory.db-debian").unlink()
    with pytest.raises(UserError, match=r"wireless-regdb has no regulatory\.db-debian"):
        debian.link_alternatives(tmp_path)


def test_a_board_without_a_usable_radio_is_named(tmp_path: Path) -> None:
    """Debian 12 lacks brcmfmac43430b0-sdio.bin, the firmware of some Zero 2 W."""
    text = (FILES / "system/quietbox-wifi.service").read_text()
    script = re.search(r"(?m)^ExecStartPre=/bin/sh -c '(.*)'$", text)
    assert script
    radio = tmp_path / "wlan0"
    command = script[1].replace("/sys/class/net/wlan0", str(radio)).replace("sleep 1", ":")
    for there in (False, True):
        if there:
            radio.mkdir()
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
        assert done.returncode == (0 if there else 1)
        assert [line[:20] for line in done.stdout.splitlines()] == ([] if there else ["there is no wlan0: t"])

"""What the card image's own units and mounts forbid, and that they leave what the programs in them need."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hw.image import card

TOP = Path(__file__).parents[2]
UNITS = card.HERE / "files/etc/systemd/system"
MOST_EXPOSED = {
    UNITS / "quietbox-boot.service": 1.2,
    UNITS / "quietbox-look.service": 1.0,
    UNITS / "quietbox-grow.service": 1.5,
    UNITS / "quietbox-wifi.service": 3.5,
    TOP / "systemd/quietbox-governor.service": 1.5,
    TOP / "systemd/quietbox-gadget.service": 1.5,
}
"""By ``systemd-analyze security``, 0 to 10; each was 9.5 or more before its sandbox. quietbox-ssh has none: a login is
root's, and does what root does."""
SECRETS = {"/boot/firmware/wifi.conf", "/run/quietbox-wifi.conf", "/boot/firmware/ssh", "/data/ssh", "/etc/shadow"}


def settings(unit: Path) -> dict[str, list[str]]:
    """Setting -> the words of all its lines, each without "-"."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"(?m)^(\w+)=(.*)$", unit.read_text()):
        found.setdefault(name, []).extend(word.removeprefix("-") for word in value.split())
    return found


def mounts() -> dict[str, set[str]]:
    """Mount point -> its options, by the card's fstab."""
    lines = (card.HERE / "files/etc/fstab").read_text().splitlines()
    fields = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(line) == 6 for line in fields)
    return {line[1]: set(line[3].split(",")) for line in fields}


@pytest.mark.parametrize("unit", MOST_EXPOSED, ids=lambda unit: unit.stem)
def test_no_unit_of_ours_is_exposed_more_than_its_work_needs(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not installed here: systemd-analyze")
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "offline" in done.stderr:
        pytest.skip(f"this systemd cannot judge a file: {done.stderr.strip()}")
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure) <= MOST_EXPOSED[unit], done.stdout


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda unit: unit.stem)
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not installed here: systemd-analyze")
    judged = tmp_path / unit.name
    judged.write_text(re.sub(r"(?m)^(Exec\w+=)(/opt|/usr/sbin|/sbin)/\S+", r"\1/bin/true", unit.read_text()))
    command = ["systemd-analyze", "verify", "--man=no", str(judged)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and unit.name not in done.stderr, done.stderr


def test_every_unit_of_the_image_is_judged() -> None:
    assert {path.name for path in UNITS.glob("*.service")} == {
        *(path.name for path in MOST_EXPOSED if path.parent == UNITS),
        "quietbox-ssh.service",
    }


def test_units_that_read_the_card_do_not_see_its_secrets() -> None:
    for name in ("quietbox-boot.service", "quietbox-look.service"):
        hidden = settings(UNITS / name)["InaccessiblePaths"]
        for secret in SECRETS:
            assert any(Path(secret).is_relative_to(path) for path in hidden), (name, secret)
    wifi = settings(UNITS / "quietbox-wifi.service")["InaccessiblePaths"]
    assert {"/boot/firmware/ssh", "/data"} <= {*wifi}


def test_what_the_units_need_is_left_to_them() -> None:
    boot, look, grow, wifi = (settings(UNITS / f"quietbox-{name}.service") for name in ("boot", "look", "grow", "wifi"))
    assert {"/run", "/data"} <= {*boot["ReadWritePaths"]} and "char-gpiochip" in boot["DeviceAllow"]  # the LED
    assert boot["UMask"] == ["0022"], "the service reads versions and settings that this unit writes"
    assert look["ReadWritePaths"] == ["/data/settings"] and "AF_UNIX" in look["RestrictAddressFamilies"]  # udevadm
    assert "ProcSubset" not in look, "/proc/asound, /proc/device-tree"
    for unit in (boot, look):
        assert "PrivateTmp" not in unit, "/var/tmp is not there so early"
        assert unit["CapabilityBoundingSet"] == []
    assert grow["CapabilityBoundingSet"] == ["CAP_SYS_ADMIN"] and "block-*" in grow["DeviceAllow"]
    assert {"CAP_NET_ADMIN", "CAP_NET_RAW"} == {*wifi["CapabilityBoundingSet"]}
    assert {"AF_NETLINK", "AF_PACKET", "AF_UNIX"} <= {*wifi["RestrictAddressFamilies"]}


def test_what_was_put_on_the_card_cannot_become_a_program_of_root_s() -> None:
    table = mounts()
    assert {"nosuid", "nodev"} <= table["/data"] and "noexec" not in table["/data"], "versions run from there"
    assert {"nosuid", "nodev", "noexec", "ro", "umask=0077"} <= table["/boot/firmware"]
    for place in ("/var", "/tmp"):
        assert {"nosuid", "nodev"} <= table[place]
    for place, options in table.items():
        assert "bind" not in options or "x-systemd.requires=data.mount" in options, place


SCRIPTS = card.HERE / "files/usr/sbin"


@pytest.mark.parametrize("name, words", [("quietbox-trial", ["begin"]), ("quietbox-versions", ["show"])])
def test_root_imports_nothing_from_the_folder_it_is_called_in(tmp_path: Path, name: str, words: list[str]) -> None:
    """quietbox-trial runs as root in /run/quietbox, which belongs to the service's user: a module there would be code
    that root runs."""
    shipped, theirs = tmp_path / "shipped", tmp_path / "theirs"
    for folder, said in ((tmp_path / "ours", "ours"), (theirs, "theirs")):
        (folder / "hw/image").mkdir(parents=True)
        for package in ("hw", "hw/image"):
            (folder / package / "__init__.py").touch()
        (folder / "hw/image/versions.py").write_text(f"import sys\nprint({said!r}, file=sys.stderr)\n")
    (theirs / "runpy.py").write_text("raise SystemExit('theirs')\n")
    (shipped / "bin").mkdir(parents=True)
    python = shipped / "bin/python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/ours exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    script = tmp_path / name
    text = (SCRIPTS / name).read_text().replace("/opt/quietbox/shipped", str(shipped))
    script.write_text(text.replace("/run/", f"{tmp_path}/").replace("/data/", f"{tmp_path}/data/"))
    done = subprocess.run(["sh", script, *words], cwd=theirs, capture_output=True, text=True, timeout=60)
    assert done.stderr == "ours\n"


def test_a_power_cut_while_the_host_key_is_made_does_not_end_ssh_for_good(tmp_path: Path) -> None:
    """ssh-keygen asks before it writes over a file, and nobody is there to answer."""
    made = re.search(r"(?m)^ExecStartPre=/bin/sh -c '(.*ssh-keygen.*)'$", (UNITS / "quietbox-ssh.service").read_text())
    assert made
    folder = tmp_path / "ssh"
    folder.mkdir()
    for name in ("part", "part.pub"):
        (folder / name).touch()
    for _ in range(2):
        script = made[1].replace("/data/ssh", str(folder))
        subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, check=True, timeout=60)
    assert {path.name for path in folder.iterdir()} == {"key", "key.pub"}
    assert subprocess.run(["ssh-keygen", "-l", "-f", folder / "key"], capture_output=True).returncode == 0

"""The files of ``systemd/``, judged by systemd's own tools where they are installed."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

FILES = Path(__file__).parents[2] / "systemd"
UNITS = sorted(path.name for path in FILES.glob("*.service"))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    if not shutil.which(str(command[0])):
        pytest.skip(f"there is no {command[0]} here")
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"LC_ALL": "C"}
    )


def settings(name: str, folder: Path = FILES) -> dict[str, list[str]]:
    """key -> its values, in their order."""
    found: dict[str, list[str]] = {}
    for line in (folder / name).read_text().splitlines():
        if not line.startswith(("#", "[")) and "=" in line:
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    for unit in UNITS:
        text = re.sub(r"=/opt/quietbox/\S+", "=/bin/true", (FILES / unit).read_text())
        (tmp_path / unit).write_text(text)
    done = run("systemd-analyze", "verify", "--man=no", tmp_path / name)
    assert done.returncode == 0
    assert name not in done.stderr, done.stderr


@pytest.mark.parametrize("name", [name for name in UNITS if name != "quietbox.service"])
def test_the_box_waits_for_no_unit_that_comes_late(name: str) -> None:
    """A unit with systemd's default dependencies comes after basic.target; the box shall not come after it."""
    orders = " ".join(settings(name).get("Before", []))
    assert "quietbox.service" not in orders.split() or settings(name).get("DefaultDependencies") == ["no"]


def test_the_box_is_exposed_no_more_than_it_must_be() -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", FILES / "quietbox.service")
    if "offline" in done.stderr:
        pytest.skip(f"this systemd cannot judge a file: {done.stderr.strip()}")
    (exposure,) = re.findall(r"Overall exposure level for quietbox\.service: ([\d.]+)", done.stdout)
    assert float(exposure) <= 1.5, done.stdout


SERVE = FILES.parent / "systemd/optional/quietbox-serve.service"


def test_the_unit_of_the_bigger_machine(tmp_path: Path) -> None:
    """systemd takes it, it is always restarted, it can reach little, and it is bounded."""
    (tmp_path / SERVE.name).write_text(re.sub(r"=/opt/quietbox/\S+", "=/bin/true", SERVE.read_text()))
    done = run("systemd-analyze", "verify", "--man=no", tmp_path / SERVE.name)
    assert done.returncode == 0 and SERVE.name not in done.stderr, done.stderr
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", SERVE)
    (exposure,) = re.findall(r"Overall exposure level for quietbox-serve\.service: ([\d.]+)", done.stdout)
    assert float(exposure) <= 2.0, done.stdout
    unit = settings(SERVE.name, SERVE.parent)
    assert unit["Restart"] == ["always"] and unit["StartLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize("path", [FILES / "quietbox.service", SERVE], ids=["box", "serve"])
def test_memory_tasks_and_descriptors_have_a_bound(path: Path) -> None:
    """Twice what real use needs, at least, and less than a board has."""
    unit = settings(path.name, path.parent)
    memory_mb = {"512M": 512, "1G": 1024}[unit["MemoryMax"][0]]
    assert 2 * 205 < memory_mb <= 1024
    assert 30 <= int(unit["TasksMax"][0]) <= 128 and 100 <= int(unit["LimitNOFILE"][0]) <= 256


def test_it_comes_back_whatever_happens() -> None:
    unit = settings("quietbox.service")
    assert unit["Type"] == ["notify"] and unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["RestartSec"] == ["200ms"]
    # An attempt at a missing card takes over a second, and its result is looked at once a second.
    assert unit["WatchdogSec"] == ["5"] and unit["WatchdogSignal"] == ["SIGKILL"]


def test_nothing_that_the_box_needs_is_forbidden() -> None:
    unit = settings("quietbox.service")
    assert "RestrictRealtime" not in unit and "CPUSchedulingPolicy" not in unit
    assert "PrivateDevices" not in unit and "ProcSubset" not in unit
    assert int(unit["LimitRTPRIO"][0]) >= 95 and unit["LimitMEMLOCK"] == ["infinity"]
    assert {"char-alsa rw", "char-gpiochip rw", "char-ttyGS rw"} <= {*unit["DeviceAllow"]}
    assert {"audio", "gpio"} <= {*unit["SupplementaryGroups"][0].split()}
    assert "AF_UNIX" in unit["RestrictAddressFamilies"]
    assert unit["RuntimeDirectoryPreserve"] == ["restart"], "a trial that passed is remembered over a crash"
    assert unit["RuntimeDirectory"] == ["quietbox"] and unit["WorkingDirectory"] == ["/run/quietbox"]
    allowed: set[str] = set()
    for line in unit["SystemCallFilter"]:
        calls = {call for word in line.removeprefix("~").split() for call in expanded(word)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    for call in ("sched_setscheduler", "mlockall", "ioctl", "poll", "mmap", "clone3", "execve", "sendto", "flock"):
        assert call in allowed, call
    assert not allowed & {"mount", "ptrace", "bpf", "reboot", "settimeofday", "init_module", "setuid"}


def expanded(word: str) -> set[str]:
    """A set of system calls -> its members."""
    if not word.startswith("@"):
        return {word}
    done = run("systemd-analyze", "syscall-filter", "--no-pager", word)
    names = re.findall(r"^ {4}(@?[a-z0-9_-]+)$", done.stdout, re.MULTILINE)
    return {call for name in names for call in expanded(name)}


@pytest.mark.parametrize("gpio", ["", "gpio:x:986:\n"])
def test_the_account_is_made_with_its_groups(gpio: str, tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (etc / "group").write_text(f"root:x:0:\naudio:x:29:\n{gpio}")
    done = run("systemd-sysusers", f"--root={tmp_path}", FILES / "quietbox.sysusers")
    assert done.returncode == 0, done.stderr
    groups = {line.split(":")[0]: line.split(":") for line in (etc / "group").read_text().splitlines()}
    assert groups["audio"][2:] == ["29", "quietbox"] and groups["gpio"][3] == "quietbox"
    assert not gpio or groups["gpio"][2] == "986"
    (user,) = [line for line in (etc / "passwd").read_text().splitlines() if line.startswith("quietbox:")]
    assert user.split(":")[3] == groups["quietbox"][2] and user.endswith(":/run/quietbox:/usr/sbin/nologin")
    before = (etc / "group").read_text()
    assert run("systemd-sysusers", f"--root={tmp_path}", FILES / "quietbox.sysusers").returncode == 0
    assert (etc / "group").read_text() == before


def test_the_governor_is_set_where_there_is_one(tmp_path: Path) -> None:
    (rule,) = [line for line in (FILES / "quietbox.tmpfiles").read_text().splitlines() if line.startswith("w ")]
    command = ("systemd-tmpfiles", "--create", f"--root={tmp_path}", FILES / "quietbox.tmpfiles")
    done = run(*command)
    assert (done.returncode, done.stderr) == (0, "")
    governors = []
    for policy in ("policy0", "policy4"):
        governors.append(tmp_path / rule.split()[1].lstrip("/").replace("policy*", policy))
        governors[-1].parent.mkdir(parents=True)
        governors[-1].write_text("ondemand\n")
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert [path.read_text()[:11] for path in governors] == ["performance"] * 2


def udevadm_commands() -> list[str]:
    if not shutil.which("udevadm"):
        return []
    return subprocess.run(["udevadm", "--help"], capture_output=True, text=True, timeout=60).stdout.splitlines()


RULES = [line for line in (FILES / "60-quietbox.rules").read_text().splitlines() if line and line[0] != "#"]


@pytest.mark.only_where(
    any(line.split()[:1] == ["verify"] for line in udevadm_commands()),
    "`udevadm verify`, which systemd has from 254 on (Debian 13)",
)
def test_udev_finds_nothing_wrong() -> None:
    done = run("udevadm", "verify", "--resolve-names=never", FILES / "60-quietbox.rules")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_is_made_of_matches_and_assignments() -> None:
    part = re.compile(r'[A-Z]+(\{\w+\})?(==|!=|\+=|=)"[^"]*"')
    for rule in RULES:
        assert all(part.fullmatch(word) for word in re.split(r", (?=[A-Z])", rule)), rule


def test_the_port_for_orders_is_the_box_groups_and_allowed_once_it_is_there() -> None:
    """Only the first one: a serial console of somebody else stays theirs. The number of its driver is not known when
    the box starts, so systemd is asked to apply the list again."""
    (rule,) = [rule for rule in RULES if "ttyGS" in rule]
    assert rule == 'SUBSYSTEM=="tty", KERNEL=="ttyGS0", GROUP="quietbox", MODE="0660"'
    (after,) = settings("quietbox-gadget.service")["ExecStartPost"]
    (allowed,) = [line for line in settings("quietbox.service")["DeviceAllow"] if "ttyGS" in line]
    prefix, command = after.split("/", 1)
    assert sorted(prefix) == ["+", "-"] and f'quietbox.service "DeviceAllow={allowed}"' in command
    script = shlex.split("/" + command)[2]
    asked = run("/bin/sh", "-c", script.replace("systemctl", "echo").replace("/dev/ttyGS0", "/dev/null"))
    assert asked.stdout == f"set-property --runtime quietbox.service DeviceAllow={allowed}\n"
    nothing = run("/bin/sh", "-c", script.replace("systemctl", "echo").replace("/dev/ttyGS0", "/dev/nowhere"))
    assert (nothing.returncode, nothing.stdout) == (0, "")


@pytest.mark.parametrize(
    ("port", "name"), [("1-1", "usb1-1"), ("1-1.3", "usb1-1_3"), ("3-1.4.4.4.4.4", "usb3-1_4_4_4_4_")]
)
def test_a_card_named_by_its_port_has_a_name_the_kernel_takes(port: str, name: str) -> None:
    (program,) = [found[1] for rule in RULES if (found := re.search(r'PROGRAM="([^"]*)"', rule))]
    done = run(*shlex.split(program.replace("$id", port)))
    assert done.stdout.strip() == name
    # snd_card id_store() in sound/core/init.c: letters, digits, _ and -, at most 15 of them.
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,15}", name)

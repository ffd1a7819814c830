"""Nothing reports to anybody: the environment that libraries get, and processes as the kernel sees them."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

from edge import UserError
from hw.prove import privacy
from hw.prove.privacy import ENTRIES, SOURCE, Entry, examine, faults
from hw.traced import (
    CAN_USE_A_NETWORK,
    LIBRARY_FOLDERS,
    NEVER_ON_A_BOX,
    network_libraries,
    read_trace,
    unexpected_libraries,
)

SWITCH = "ORT_DISABLE_TELEMETRY"
PROJECT = tomllib.loads((SOURCE / "pyproject.toml").read_text())
PACKAGES = find_packages(str(SOURCE), include=PROJECT["tool"]["setuptools"]["packages"]["find"]["include"])
UNITS = sorted(path for folder in ("systemd", "hw") for path in (SOURCE / folder).rglob("*.service"))

# strace's lines of a process that imported ONNX Runtime 1.32.0 without the switch, shortened
REPORTING = """
1 mkdir("/home/me/.cache/Microsoft", 0700) = 0
1 openat(AT_FDCWD</work>, "/home/me/.cache/Microsoft/DeveloperTools/.onnxruntime/onnxruntime.db", O_RDWR|O_CREAT) = 3
1 openat(6</home/me/.cache/Microsoft/DeveloperTools/.onnxruntime>, "deviceid.tmp.98", O_WRONLY|O_CREAT|O_EXCL) = 7
2 socket(AF_INET6, SOCK_DGRAM, IPPROTO_IP <unfinished ...>
1 openat(AT_FDCWD</work>, "/nowhere", O_RDWR|O_CREAT) = -1 ENOENT (No such file or directory)
2 <... socket resumed>) = 8<UDPv6:[97]>
3 socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0) = 8<UNIX-STREAM:[98]>
3 openat(AT_FDCWD</work>, "/etc/resolv.conf", O_RDONLY|O_CLOEXEC) = 8</etc/resolv.conf>
3 connect(9<UDP:[99]>, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("192.0.2.53")}, 16) = 0
3 bind(9<TCP:[99]>, {sa_family=AF_INET6, sin6_port=htons(80), inet_pton(AF_INET6, "::1", &sin6_addr)}, 28) = 0
3 renameat(6</home/me/a>, "b", AT_FDCWD</work>, "c" <unfinished ...>
"""


def environment_of(order: str, **variables: str) -> str:
    """The switch as a fresh process has it after ``order``."""
    without = {name: value for name, value in os.environ.items() if name != SWITCH}
    code = f"{order}\nimport ctypes\ngetenv = ctypes.CDLL(None).getenv\ngetenv.restype = ctypes.c_char_p\n"
    code += f"print((getenv({SWITCH.encode()!r}) or b'').decode())"  # as native code sees it
    done = subprocess.run(
        [sys.executable, "-c", code], env=without | variables, capture_output=True, text=True, cwd=SOURCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1] if done.stdout.split() else ""


@pytest.mark.parametrize("package", sorted({name.split(".")[0] for name in PACKAGES}))
def test_every_package_switches_reports_off(package: str) -> None:
    assert environment_of("import sys") == "", "the check sees an unset variable"
    assert environment_of(f"import {package}") == "1"
    assert environment_of(f"import {package}", **{SWITCH: "0"}) == "1", "0 leaves ONNX Runtime's client on"


def test_no_module_imports_the_runtime_without_such_a_package() -> None:
    """Where a module lies in one of our packages, the package is imported before it."""
    held = {name.split(".")[0] for name in PACKAGES} | {"tests"}
    users = set()
    tops = [top for top in SOURCE.iterdir() if not top.name.startswith(".") and top.name not in ("build", "out")]
    for path in [path for top in tops for path in (top.rglob("*.py") if top.is_dir() else [])]:
        text = path.read_text()
        if "onnxruntime" not in text and "speechmos" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.split(".")[0] for name in names} & {"onnxruntime", "speechmos"}:
                users.add(path.relative_to(SOURCE).parts[0])
    assert "edge" in users and users <= held


def test_every_unit_that_starts_python_switches_reports_off() -> None:
    starting = [unit for unit in UNITS if "/bin/python" in unit.read_text() or "/bin/quietbox" in unit.read_text()]
    assert len(starting) >= 4
    for unit in starting:
        assert f"{SWITCH}=1" in unit.read_text(), unit


def test_a_trace_is_read_for_what_it_means() -> None:
    seen = read_trace(REPORTING.splitlines())
    assert seen.sockets == ["socket(AF_INET6, SOCK_DGRAM, IPPROTO_IP) = 8<UDPv6:[97]>"]
    assert seen.remote == ["192.0.2.53:53"] and seen.local == ["::1:80"] and seen.look_ups == ["/etc/resolv.conf"]
    kept = "/home/me/.cache/Microsoft"
    below = [f"{kept}/DeveloperTools/.onnxruntime/{name}" for name in ("onnxruntime.db", "deviceid.tmp.98")]
    assert [*map(str, seen.written)] == [kept, *below, "/home/me/a/b", "/work/c"]
    assert [*map(str, seen.outside([Path(kept)]))] == ["/home/me/a/b", "/work/c"]
    assert len(faults(Entry("any"), seen, Path("/elsewhere"))) == 9
    assert not seen.outside([Path("/home"), Path("/work")])


REPORTER = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one: one.sendto(b"a", ("127.0.0.1", 9))
(Path.home() / "id").write_text("1")
"""


def test_a_process_that_reports_is_caught(tmp_path: Path) -> None:
    (result,) = examine([Entry("reporter", REPORTER)], tmp_path, 0)
    socket_call, address, written = result.faults
    assert socket_call.startswith("opened a network socket: socket(AF_INET, SOCK_DGRAM")
    assert address == "used 127.0.0.1:9" and written == "wrote ~/id"
    assert len(faults(Entry("server", loopback=True), result.seen, tmp_path)) == 2, "a server may only take streams"


@pytest.mark.slow
def test_the_program_itself_reports_to_nobody(tmp_path: Path) -> None:
    """Service, server, command and a quantisation script, for longer than ONNX Runtime 1.32 takes to report."""
    chosen = [entry for entry in ENTRIES if entry.name in ("run", "serve", "enhance", "quant")]
    results = examine(chosen, tmp_path)
    assert [(result.entry.name, result.faults) for result in results] == [(entry.name, []) for entry in chosen]
    for name in ("run", "serve", "enhance", "quant"):
        assert "onnxruntime_pybind" in (tmp_path / name / "trace").read_text(), f"{name} did not use ONNX Runtime"
    (served,) = [result for result in results if result.entry.loopback]
    assert len(set(served.seen.local)) == 2 and all(place.startswith("127.0.0.1:") for place in served.seen.local)
    assert any(path.name == "status.json" for path in results[0].seen.written)


def test_no_library_can_use_a_network_without_a_reason() -> None:
    import numpy

    packages = Path(numpy.__file__).parents[1]
    assert unexpected_libraries(packages, also=NEVER_ON_A_BOX) == {}
    tops = {name.split("/")[0] for name in unexpected_libraries(packages)}
    assert {LIBRARY_FOLDERS.get(top, top) for top in tops} <= NEVER_ON_A_BOX.keys()
    named = network_libraries(packages, without={"torch", *CAN_USE_A_NETWORK})
    assert any(name.startswith("pyzmq.libs/") for name in named), "the check finds the one that does"


def test_what_cannot_be_traced_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^ends failed \(2\): no way$"):
        examine([Entry("ends", "import sys; print('no way'); sys.exit(2)")], tmp_path / "one", 0)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="apt-get install strace"):
        examine([Entry("any", "pass")], tmp_path / "two", 0)
    with pytest.raises(SystemExit) as wrong:
        privacy.main(["nonsense"])
    assert wrong.value.code == 2

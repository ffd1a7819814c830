"""What a process does to the network and to the file system, as the kernel sees it.

``Traced`` runs a command under strace with all its children: native code does not pass through Python's audit hooks, so
only the system calls show. ``network_libraries`` asks the native libraries themselves, without running them, whether
they can open a socket at all.
"""

import mmap
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge import UserError

CALLS = (
    *("socket", "connect", "bind", "sendto", "sendmsg", "sendmmsg"),
    *("openat", "openat2", "?open", "?creat", "?mkdir", "mkdirat", "?rename", "renameat", "renameat2"),
    *("?link", "linkat", "?symlink", "symlinkat", "?unlink", "unlinkat", "?mknod", "mknodat", "truncate"),
)
"""A question mark: processors like ARM's have no such call."""
HARMLESS_FAMILIES = ("AF_UNIX", "AF_LOCAL", "AF_NETLINK", "AF_ALG")
"""Sockets that never leave the machine; by netlink a program asks the kernel for the machine's own addresses."""
LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|::1|::ffff:127\.\d+\.\d+\.\d+")
ALWAYS_WRITABLE = ("/dev/", "/proc/self/", "/proc/thread-self/")
RESOLVER_FILES = ("/etc/resolv.conf",)
"""Only a program that looks up a host name reads it."""
SOCKET_CALLS = ("socket", "getaddrinfo", "gethostbyname", "res_query", "__res_query")

CAN_USE_A_NETWORK = {
    "zmq": "simulates the other program in `quietbox serve --bench`",
    "torch": "training on several machines, which nothing here starts",
    "_lgpio": "its C library is also that of a network daemon, rgpiod, which nothing here starts",
    "PIL": "its copy of libxcb takes pictures of a remote screen, which nothing here asks for",
}
"""Packages whose native libraries have a reason to call socket()."""
NEVER_ON_A_BOX = {
    "cryptography": "of ansible-core, on the PC that looks after boxes; its OpenSSL has sockets",
    "av": "FFmpeg for `quietbox enhance` on a PC, in a process of its own whose decoder is told to open files alone",
}
"""The same, of packages that only a developer's environment holds."""
LIBRARY_FOLDERS = {"pyzmq.libs": "zmq", "pillow.libs": "PIL", "av.libs": "av"}
"""Folders of libraries that wheels bring -> their package."""


@dataclass
class Seen:
    """What a traced process did; each entry is a line of the trace, shortened, in the order in which they came."""

    sockets: list[str] = field(default_factory=list)
    """Sockets that can leave the machine, by ``socket(...)``."""
    local: list[str] = field(default_factory=list)
    """Loopback addresses that were bound, connected or sent to, as "127.0.0.1:5555"."""
    remote: list[str] = field(default_factory=list)
    """All other addresses that were."""
    look_ups: list[str] = field(default_factory=list)
    """Files of the host name resolver that were read."""
    written: list[Path] = field(default_factory=list)
    """Files and folders that were made, opened for writing, renamed or removed."""

    def outside(self, places: Iterable[Path]) -> list[Path]:
        """What was written in none of ``places`` and neither in /dev nor in the process's own /proc."""
        held = [os.path.realpath(place) for place in places]
        return [
            path
            for path in self.written
            if not any(_below(str(path), place) for place in held) and not str(path).startswith(ALWAYS_WRITABLE)
        ]


class Traced:
    """A command that runs under strace until it ends, or until ``end`` ends it."""

    def __init__(self, command: Sequence[str], folder: Path, environment: dict[str, str], start_in: Path) -> None:
        """Writes ``trace`` (strace's lines) and ``log`` (the command's output) into ``folder``. Raises UserError."""
        if not shutil.which("strace"):
            raise UserError("strace is not installed: apt-get install strace")
        self.trace, self.log = folder / "trace", folder / "log"
        calls = f"trace={','.join(CALLS)}"
        how = ["strace", "-f", "-qq", "-y", "--seccomp-bpf", "-s", "200", "-e", "signal=none", "-e", calls]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*how, "-o", str(self.trace), *command],
                cwd=start_in,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> int | None:
        """The command's exit status; None if it still runs after so long."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def count(self, library: str) -> int:
        """How often a library of this name has been loaded so far, by the command or its children."""
        if not self.trace.exists():  # strace is still starting
            return 0
        return len(re.findall(rf"openat\([^\n]*{re.escape(library)}[^\n]*\.so", self.trace.read_text(errors="replace")))

    def end(self) -> int:
        """Ask the command to end (SIGTERM), kill it if it has not after 10 s; returns its exit status."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)  # strace itself waits for the command
                self.wait(10)
        return self.process.wait()

    def seen(self) -> Seen:
        return read_trace(self.trace.read_text(errors="replace").splitlines())

    def output(self) -> str:
        return self.log.read_text(errors="replace")


def read_trace(lines: Iterable[str]) -> Seen:
    """The output of ``strace -f -y`` -> what it means. Calls that failed count if they concern the network."""
    seen = Seen()
    for call in _whole_calls(lines):
        name, _, rest = call.partition("(")
        if name == "socket":
            if not rest.startswith(HARMLESS_FAMILIES):
                seen.sockets.append(call)
        elif name in ("connect", "bind", "sendto", "sendmsg", "sendmmsg"):
            _note_addresses(call, seen)
        elif " = -1 " not in call:
            _note_files(name, rest, seen)
    return seen


def _whole_calls(lines: Iterable[str]) -> Iterator[str]:
    """Each call as one line without its process id; strace tears apart what another thread interrupts."""
    torn: dict[str, str] = {}
    for line in lines:
        found = re.match(r"\s*(\d+)\s+(.*)", line)
        if not found:
            continue
        process, call = found[1], found[2]
        if call.endswith("<unfinished ...>"):
            torn[process] = call.removesuffix("<unfinished ...>").rstrip()
        elif resumed := re.match(r"<\.\.\. \w+ resumed>\s*(.*)", call):
            yield torn.pop(process, "") + resumed[1]
        else:
            yield call
    yield from torn.values()  # a call in which the process was killed


def _note_addresses(call: str, seen: Seen) -> None:
    pattern = r'(?:sin6?_port=htons\((\d+)\).*?)(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")'
    for port, four, six in re.findall(pattern, call):
        address = four or six
        (seen.local if LOOPBACK.fullmatch(address) else seen.remote).append(f"{address}:{port}")


def _note_files(name: str, rest: str, seen: Seen) -> None:
    paths = [
        Path(os.path.normpath(os.path.join(folder or "/", path)))
        for folder, path in re.findall(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"', rest)
    ]
    if name in ("open", "openat", "openat2", "creat"):
        if name == "creat" or re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC)", rest):
            seen.written += paths[:1]
        elif paths and str(paths[0]) in RESOLVER_FILES:
            seen.look_ups.append(str(paths[0]))
    elif name in ("symlink", "symlinkat"):
        seen.written += paths[1:]
    else:
        seen.written += paths


def _below(path: str, place: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")


def network_libraries(folder: Path, without: Container[str] = ()) -> dict[str, list[str]]:
    """Native library below ``folder`` (its relative path) -> the network functions it takes from the C library.

    One that is not among them can open no network socket by itself. Works for any processor's libraries.
    ``without``: names of folders right below ``folder`` that are left out. Raises UserError where ``readelf`` is
    missing.
    """
    found = {}
    for path in sorted(folder.rglob("*.so*")):
        if path.relative_to(folder).parts[0] in without:
            continue
        if path.is_file() and not path.is_symlink() and _mentions(path, SOCKET_CALLS):
            calls = sorted(set(SOCKET_CALLS).intersection(_taken_from_others(path)))
            if calls:
                found[str(path.relative_to(folder))] = calls
    return found


def unexpected_libraries(packages: Path, also: Container[str] = ()) -> dict[str, list[str]]:
    """Native libraries below ``packages`` (a site-packages folder) that can open a socket and have no reason to.

    ``also``: further packages that may, ``NEVER_ON_A_BOX`` in a developer's environment.
    """
    found = {}
    for name, calls in network_libraries(packages, without=CAN_USE_A_NETWORK).items():
        top = name.split("/")[0]
        package = LIBRARY_FOLDERS.get(top, top.split(".")[0])
        if package not in CAN_USE_A_NETWORK and package not in also:
            found[name] = calls
    return found


def _mentions(path: Path, names: Sequence[str]) -> bool:
    """Whether an ELF file holds one of ``names`` as a string. (readelf takes seconds for a large one.)"""
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(b"\0%s\0" % name.encode()) >= 0 for name in names)


def _taken_from_others(path: Path) -> list[str]:
    """The symbols that an ELF file asks other libraries for, without their versions."""
    if not shutil.which("readelf"):
        raise UserError("readelf is not installed: apt-get install binutils")
    command = ["readelf", "--dyn-syms", "--wide", str(path)]
    output = subprocess.run(command, capture_output=True, text=True, errors="replace").stdout
    return re.findall(r"(?m)\bUND (\w+)(?:@.*)?$", output)

"""What a program, an admitted box, a stranger or the bigger machine can do to the real server and to the box.

Each attack runs against the real command in a process of its own; what is looked at is its memory, its file
descriptors, whether it lives, and the sound of the one beside it that behaves well.
"""

import contextlib
import itertools
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest
import zmq
from machine import free_port, until

from edge import HOP_SAMPLES
from edge.config import RemoteConfig
from edge.dsp.spectrum import Floats
from edge.net import keys
from edge.net.connection import Connection, Gone
from edge.net.curve import CurveClient, CurveServer
from edge.net.log_limit import LINES_AT_ONCE, LogLimit, printable
from edge.net.wire import MOST_BYTES, Kind, Message, pack
from edge.net.zmtp import COMMAND, MORE, Mechanism, Null, Peer, frame, greeting
from edge.suppress.link import Link

GROWTH_MB = 25.0
"""What an attack may cost; the old server took on 100 times as much in two seconds."""
ATTACK_S = float(os.environ.get("ATTACK_S", "0.8"))
"""How long a flood lasts; `ATTACK_S=20 pytest tests/net/test_hostile.py` for a longer look."""


class Serve:
    """`quietbox serve` as it is."""

    def __init__(self, folder: Path, *arguments: str, most_boxes: int = 4) -> None:
        self.noisy, self.clean, self.boxes = free_port(), free_port(), free_port()
        settings = folder / "serve.toml"
        settings.write_text(
            f"[bridge]\nnoisy_port = {self.noisy}\nclean_port = {self.clean}\nboxes_port = {self.boxes}\n"
            f"most_boxes = {most_boxes}\n"
        )
        command = [sys.executable, "-m", "edge.cli", "serve", "--config", str(settings), "--engine", "off", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert until(lambda: any("receives noisy" in line or "serves boxes" in line for line in self.said), 60), (
            self.said
        )
        self.began_mb = self.memory_mb

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said.append(line)

    @property
    def memory_mb(self) -> float:
        """The most it ever had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def unharmed(self) -> None:
        """It lives, and has grown by no more than an attack may cost."""
        assert self.process.poll() is None, self.said[-5:]
        assert self.memory_mb < self.began_mb + GROWTH_MB

    def __enter__(self) -> "Serve":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait(20)
        assert self.process.stderr
        self._reader.join(10)
        self.process.stderr.close()
        assert error or self.process.returncode == 0, self.said[-5:]


class Raw:
    """A peer that may do what no library does."""

    def __init__(self, place: int | socket.socket, mechanism: Mechanism, accepts: bytes) -> None:
        way = socket.create_connection(("127.0.0.1", place)) if isinstance(place, int) else place
        self.connection = Connection(way, Peer(mechanism, (accepts,), 1 << 23), 1000)
        self.heard: list[bytes] = []
        over = time.monotonic() + 10
        while not self.connection.peer.ready and time.monotonic() < over:
            self.turn()
            time.sleep(0.002)
        self.turn()

    def turn(self) -> None:
        self.connection.write()
        self.heard += self.connection.read()

    def send(self, message: bytes) -> None:
        self.connection.send(message)
        self.turn()

    def flood(self, data: Callable[[], bytes], seconds: float) -> bool:
        """Write as much as is taken; False if the other side hung up."""
        way, over = self.connection.socket, time.monotonic() + seconds
        way.settimeout(0.2)
        waits = b""
        while time.monotonic() < over:
            waits = waits or data()
            try:
                waits = waits[way.send(waits) :]
            except TimeoutError:
                continue
            except OSError:
                return False
        return True

    def close(self) -> None:
        self.connection.close()


def parts(mechanism: Mechanism) -> bytes:
    """Some of the parts of a message that never ends."""
    return b"".join(frame(*mechanism.seal(MORE, b"ab")) for _ in range(500))


class Program:
    """An audio engine over libzmq that behaves well, and checks every sample it gets."""

    def __init__(self, served: Serve) -> None:
        self._context = zmq.Context()
        self._push, self._pull = self._context.socket(zmq.PUSH), self._context.socket(zmq.PULL)
        self._push.connect(f"tcp://127.0.0.1:{served.noisy}")
        self._pull.connect(f"tcp://127.0.0.1:{served.clean}")
        self.chunks = 0
        self.answered = False
        self.silent = 0
        """Samples of silence after the beginning."""

    def chunk(self) -> None:
        self._push.send(np.full(1536, 0.1, "<f4").tobytes())
        assert self._pull.poll(5000), "nothing came back"
        back = np.frombuffer(self._pull.recv(), "<f4")
        assert len(back) == 1536
        if self.chunks:
            self.silent += int(np.sum(np.abs(back) < 0.01))
        self.chunks += 1

    def push_all(self) -> None:
        """Send without waiting for what comes back."""
        with contextlib.suppress(zmq.Again):
            self._push.send(np.full(15360, 0.1, "<f4").tobytes(), zmq.NOBLOCK)
        self.answered |= bool(self._pull.poll(0))

    def play(self, seconds: float) -> None:
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            self.chunk()
            time.sleep(0.035)

    def close(self) -> None:
        self._context.destroy(linger=0)


class Box:
    """The box's own link, sending a hop every 5 ms."""

    def __init__(self, settings: RemoteConfig) -> None:
        self.link = Link(settings)
        self.link.start()
        self.sent = self.answered = 0
        self.longest_s = 0.0
        """The longest time without an answer."""
        self._last_s = 0.0

    def open(self) -> bool:
        return until(lambda: self.link._open)

    def play(self, seconds: float) -> None:
        hop = np.full(HOP_SAMPLES, 0.1, np.float32)
        over, self._last_s = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < over:
            self.link.send(7, self.sent, hop)
            self.sent += 1
            time.sleep(0.005)
            self._count()
        until(lambda: self._count() or self.answered >= self.sent, 1)

    def _count(self) -> None:
        while self.link.answers:
            self.link.answers.popleft()
            self.answered += 1
            now_s = time.monotonic()
            self.longest_s = max(self.longest_s, now_s - self._last_s)
            self._last_s = now_s

    def unharmed(self) -> None:
        assert self.answered > 0.9 * self.sent and self.longest_s < 1.0, (self.answered, self.sent, self.longest_s)

    def close(self) -> None:
        self.link.stop()


@contextlib.contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Something again and again, in a thread."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, Gone):
                work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)


@pytest.fixture
def known(tmp_path: Path) -> dict[str, str]:
    """Keys of a server, two boxes in its list, and a stranger."""
    made = {name: keys.create(tmp_path / name) for name in ("server", "box", "rogue", "stranger")}
    (tmp_path / "list").write_text(f"{made['box']} kitchen\n{made['rogue']} hall\n")
    return made


def keyed(folder: Path, known: dict[str, str], name: str) -> CurveClient:
    secret = keys.z85_decode(keys.read_secret(folder / name), name)
    return CurveClient(b"DEALER", secret, keys.z85_decode(known["server"].encode(), "server"))


def with_keys(folder: Path, most_boxes: int = 4) -> Serve:
    arguments = ("--boxes", "--key", str(folder / "server"), "--clients", str(folder / "list"))
    return Serve(folder, *arguments, most_boxes=most_boxes)


def box_of(folder: Path, known: dict[str, str], served: Serve) -> Box:
    settings = RemoteConfig(
        server=f"127.0.0.1:{served.boxes}", server_key=known["server"], key_file=str(folder / "box"), budget_ms=200
    )
    return Box(settings)


# Programs on this machine.


def test_connecting_and_hanging_up_breaks_nobodys_stream(tmp_path: Path) -> None:
    """Bare connects, half a greeting, and whole handshakes without a word; 20 a second each, at both ports."""
    with Serve(tmp_path) as served:
        program = Program(served)
        program.chunk()

        def knock() -> None:
            for port, kind, accepts in ((served.noisy, b"PUSH", b"PULL"), (served.clean, b"PULL", b"PUSH")):
                socket.create_connection(("127.0.0.1", port)).close()
                with socket.create_connection(("127.0.0.1", port)) as way:
                    way.sendall(greeting(Null(b"PUSH"))[:30])
                Raw(port, Null(kind), accepts).close()
            time.sleep(0.05)

        with meanwhile(knock):
            program.play(ATTACK_S)
        assert program.chunks > 10 and program.silent == 0
        assert len(served.said) < LINES_AT_ONCE + 5, "the log grows with every connection"
        served.unharmed()
        program.close()


def test_another_program_neither_mixes_in_nor_takes_the_clean_sound_away(tmp_path: Path) -> None:
    with Serve(tmp_path) as served:
        program = Program(served)
        program.chunk()
        loud, thief = Raw(served.noisy, Null(b"PUSH"), b"PULL"), Raw(served.clean, Null(b"PULL"), b"PUSH")
        silence = np.zeros(100, "<f4").tobytes()

        with meanwhile(lambda: (loud.send(silence), time.sleep(0.002))):
            program.play(1.0)
        assert program.silent == 0
        program.close()
        # Once it has gone the other one is served.
        assert until(lambda: any("the program has disconnected" in line for line in served.said))
        thief.heard.clear()
        loud.send(np.full(1000, 0.1, "<f4").tobytes())
        assert until(lambda: thief.turn() or any(len(chunk) == 4000 for chunk in thief.heard))
        for one in (loud, thief):
            one.close()


def test_a_chunk_of_endless_parts_costs_the_bridge_no_memory(tmp_path: Path) -> None:
    """While a program is served, and by the program that has the stream itself."""
    with Serve(tmp_path) as served:
        program, rogue = Program(served), Raw(served.noisy, Null(b"PUSH"), b"PULL")
        program.chunk()
        with meanwhile(lambda: rogue.flood(lambda: parts(Null(b"PUSH")), 0.2)):
            program.play(ATTACK_S)
        assert program.silent == 0
        program.close()
        rogue.close()
        owner = Raw(served.noisy, Null(b"PUSH"), b"PULL")
        owner.send(np.zeros(100, "<f4").tobytes())
        assert owner.flood(lambda: parts(Null(b"PUSH")), ATTACK_S)
        served.unharmed()
        owner.close()


def test_programs_that_only_hold_places_keep_no_program_out(tmp_path: Path) -> None:
    """They are connected, send nothing and read nothing."""
    with Serve(tmp_path) as served:
        held = [Raw(served.noisy, Null(b"PUSH"), b"PULL") for _ in range(4)]
        held += [Raw(served.clean, Null(b"PULL"), b"PUSH") for _ in range(4)]
        program = Program(served)
        assert until(lambda: program.push_all() or program.answered)
        for _ in range(3):
            program.push_all()
        served.unharmed()
        program.close()
        for one in held:
            one.close()


def test_huge_chunks_and_fetchers_that_do_not_read_are_bounded(tmp_path: Path) -> None:
    with Serve(tmp_path) as served:
        lazy = [Raw(served.clean, Null(b"PULL"), b"PUSH") for _ in range(3)]
        rogue = Raw(served.noisy, Null(b"PUSH"), b"PULL")
        chunk = frame(0, bytes(1 << 22))
        assert rogue.flood(lambda: chunk, ATTACK_S)
        assert served.process.poll() is None
        # Both queues hold one such chunk, the reader a part of one, the engine works on one, and each that fetches has
        # one in its buffer.
        assert served.memory_mb < served.began_mb + 25 * 4.2
        assert not rogue.flood(lambda: b"\x02" + (1 << 23).to_bytes(8, "big") + bytes(1 << 16), 5), "too long a chunk"
        for one in (*lazy, rogue):
            one.close()


# Boxes.


def test_two_connections_with_one_name_end_nothing(tmp_path: Path) -> None:
    """libzmq's ROUTER ended the whole process with an assertion."""
    ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x04same"
    hello = frame(0, pack(Kind.HELLO))
    with Serve(tmp_path, "--boxes") as served:
        twins = []
        for _ in range(2):
            way = socket.create_connection(("127.0.0.1", served.boxes))
            way.sendall(greeting(Null(b"DEALER")).replace(b"\x7f\x03\x01", b"\x7f\x03\x00"))
            time.sleep(0.1)
            way.sendall(frame(COMMAND, ready))
            time.sleep(0.1)
            way.sendall(hello)
            time.sleep(0.3)
            twins.append(way)
        with contextlib.suppress(OSError):
            twins[0].sendall(hello)
        time.sleep(0.3)
        for way in twins:
            way.close()
        time.sleep(1.2)  # the assertion failed at its next heartbeat
        box = Box(RemoteConfig(server=f"127.0.0.1:{served.boxes}", budget_ms=200))
        assert box.open()
        box.play(0.5)
        box.unharmed()
        served.unharmed()
        box.close()


def test_one_key_has_one_session_and_takes_no_other_boxs_place(known: dict[str, str], tmp_path: Path) -> None:
    with with_keys(tmp_path, most_boxes=2) as served:
        rogues = []
        for _ in range(6):
            rogues.append(Raw(served.boxes, keyed(tmp_path, known, "rogue"), b"ROUTER"))
            with contextlib.suppress(Gone):
                rogues[-1].send(pack(Kind.HELLO))
                until(lambda: rogues[-1].turn() or rogues[-1].heard, 2)

        def insist() -> None:
            for rogue in rogues:
                with contextlib.suppress(Gone):
                    rogue.send(pack(Kind.HELLO))
            time.sleep(0.05)

        with meanwhile(insist):
            box = box_of(tmp_path, known, served)
            assert box.open(), "all places are taken by one key"
            box.play(1.0)
        box.unharmed()
        assert sum("a box has connected" in line for line in served.said) == 2
        assert any(b"in use by another box" in message for rogue in rogues for message in rogue.heard)
        for one in (*rogues, box):
            one.close()


def test_a_box_whose_network_was_cut_comes_back_to_its_session(known: dict[str, str], tmp_path: Path) -> None:
    """Its old connection is still there, and silent."""
    with with_keys(tmp_path) as served:
        first = Raw(served.boxes, keyed(tmp_path, known, "box"), b"ROUTER")
        first.send(pack(Kind.HELLO))
        assert until(lambda: first.turn() or first.heard)
        second = Raw(served.boxes, keyed(tmp_path, known, "box"), b"ROUTER")

        def welcomed() -> bool:
            second.send(pack(Kind.HELLO))
            time.sleep(0.1)
            return any(message[3] == Kind.WELCOME for message in second.heard)

        assert until(welcomed)
        assert sum("a box has connected" in line for line in served.said) == 1
        for one in (first, second):
            one.close()


def test_an_admitted_box_harms_neither_the_server_nor_another_box(known: dict[str, str], tmp_path: Path) -> None:
    """Endless parts; more hops than real time, with and without gaps to fill; greetings, rubbish, heartbeats."""
    sound = np.full(HOP_SAMPLES, 0.1, "<f4").tobytes()
    count = itertools.count()
    attacks = ("parts", "hops", "gaps", "hellos", "rubbish", "pings")
    with (tmp_path / "list").open("a") as file:
        file.writelines(f"{keys.create(tmp_path / attack)} {attack}\n" for attack in attacks)
    with with_keys(tmp_path, most_boxes=8) as served:
        box = box_of(tmp_path, known, served)
        assert box.open()
        for attack in attacks:
            rogue = Raw(served.boxes, keyed(tmp_path, known, attack), b"ROUTER")
            rogue.send(pack(Kind.HELLO))
            assert until(lambda rogue=rogue: rogue.turn() or rogue.heard)
            peer = rogue.connection.peer
            data: dict[str, Callable[[], bytes]] = {
                "parts": lambda peer=peer: parts(peer.mechanism),
                "hops": lambda peer=peer: peer.encode(pack(Kind.HOP, 1, next(count), 0, sound)),
                "gaps": lambda peer=peer: peer.encode(pack(Kind.HOP, 1, 64 * next(count), 0, sound)),
                "hellos": lambda peer=peer: peer.encode(pack(Kind.HELLO)),
                "rubbish": lambda peer=peer: peer.encode(os.urandom(random.randrange(MOST_BYTES))),
                "pings": lambda peer=peer: frame(*peer.mechanism.seal(COMMAND, b"\x04PING\0\0")),
            }
            before_s = cpu_s(served)
            with meanwhile(lambda rogue=rogue, data=data[attack]: rogue.flood(data, 0.1) or time.sleep(0.1)):
                box.play(ATTACK_S)
            # Its budget allows it a sixth of a core or so; generous, because a slow machine needs more for the same.
            assert cpu_s(served) - before_s < 0.9 * (ATTACK_S + 1), attack
            rogue.close()
        box.unharmed()
        served.unharmed()
        box.close()


def cpu_s(served: Serve) -> float:
    fields = Path(f"/proc/{served.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Strangers.


def test_strangers_by_the_hundred_keep_no_box_out(known: dict[str, str], tmp_path: Path) -> None:
    """Slow and half handshakes, unknown keys, random bytes, huge frames, hang-ups, all at once."""
    chance = random.Random(1)
    held: list[socket.socket] = []
    most_descriptors = 0
    with with_keys(tmp_path) as served:
        box = box_of(tmp_path, known, served)
        assert box.open()

        def knock() -> None:
            nonlocal most_descriptors
            way = socket.create_connection(("127.0.0.1", served.boxes))
            way.settimeout(0.5)
            what = chance.randrange(5)
            with contextlib.suppress(OSError, Gone):
                if what == 0:
                    way.sendall(os.urandom(chance.randrange(2000)))
                elif what == 1:
                    way.sendall(greeting(keyed(tmp_path, known, "stranger"))[: chance.randrange(64)])
                elif what == 2:
                    way.sendall(greeting(keyed(tmp_path, known, "stranger")) + b"\x06" + b"\xff" * 8 + bytes(60_000))
                elif what == 3:
                    Raw(served.boxes, keyed(tmp_path, known, "stranger"), b"ROUTER").close()
            held.append(way)
            if len(held) > 300:
                held.pop(0).close()
            most_descriptors = max(most_descriptors, served.descriptors)

        with meanwhile(knock):
            box.play(ATTACK_S)
            late = Raw(served.boxes, keyed(tmp_path, known, "rogue"), b"ROUTER")
            assert late.connection.peer.ready, "an admitted box is kept out"
        box.unharmed()
        served.unharmed()
        assert most_descriptors < 60
        assert len(served.said) < 2 * LINES_AT_ONCE + 5
        for one in (*held, late, box):
            one.close()


# The bigger machine, seen from the box.

BOX = """
import sys, time
import numpy as np
from edge.config import RemoteConfig
from edge.suppress.mask import MaskEngine, Unity
from edge.suppress.remote import open_remote
port, key, file, seconds = sys.argv[1:]
settings = RemoteConfig(server=f"127.0.0.1:{port}", server_key=key, key_file=file)
remote = open_remote(settings, 30, MaskEngine([Unity()], 30))
def memory_mb():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
began_s, before_mb, hop, longest_s = time.monotonic(), None, np.zeros(80, np.float32), 0
while time.monotonic() - began_s < float(seconds):
    before_s = time.monotonic()
    remote.process(hop)
    longest_s = max(longest_s, time.monotonic() - before_s)
    if before_mb is None and time.monotonic() - began_s > 0.3:
        before_mb = memory_mb()
    time.sleep(0.005)
print(memory_mb() - before_mb, time.process_time() / float(seconds), 1000 * longest_s)
"""


def test_a_hostile_machine_costs_the_box_neither_memory_nor_its_sound(known: dict[str, str], tmp_path: Path) -> None:
    """It has the key that the box trusts; with each connection it does something else."""
    secret = keys.z85_decode(keys.read_secret(tmp_path / "server"), "server")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    attacks = itertools.cycle(["parts", "answers", "huge"])
    tried = set()

    def hostile() -> None:
        way, _ = listener.accept()
        attack = next(attacks)
        mechanism = CurveServer(b"ROUTER", secret, lambda _: True)
        rogue = Raw(way, mechanism, b"DEALER")
        assert until(lambda: rogue.turn() or rogue.heard, 5)
        tried.add(attack)
        if attack == "parts":
            rogue.flood(lambda: parts(mechanism), ATTACK_S)
        elif attack == "answers":
            answer = pack(Kind.CLEAN, 1, 1, 80, bytes(4 * HOP_SAMPLES))
            rogue.flood(lambda: rogue.connection.peer.encode(answer), ATTACK_S)
        else:
            rogue.flood(lambda: b"\x02" + (1 << 40).to_bytes(8, "big") + bytes(1 << 16), ATTACK_S)
        rogue.close()

    with meanwhile(hostile):
        seconds = str(3 * ATTACK_S + 2)
        arguments = [str(listener.getsockname()[1]), known["server"], str(tmp_path / "box"), seconds]
        command = [sys.executable, "-c", BOX, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    listener.close()
    assert done.returncode == 0, done.stderr
    growth_mb, share, longest_ms = map(float, done.stdout.split())
    assert len(tried) == 3 and growth_mb < GROWTH_MB and share < 0.9 and longest_ms < 500


def test_a_machine_that_names_its_engine_with_control_characters_rules_no_terminal() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    link = Link(RemoteConfig(server=f"127.0.0.1:{listener.getsockname()[1]}"))
    link.start()
    rogue = Raw(listener.accept()[0], Null(b"ROUTER"), b"DEALER")
    rogue.send(pack(Kind.WELCOME, delay_samples=9999, body="\x1b[2J\x07new\nline\u202e\x9b31m".encode()))
    assert until(lambda: "needs a [remote] budget_ms" in link._refusal)
    assert link._refusal.startswith("its engine [2Jnewline31m needs")
    rogue.send(pack(Kind.FULL, body=b"\x1b]0;full\r\n"))
    assert until(lambda: link._refusal == "]0;full")
    link.stop()
    rogue.close()
    listener.close()


# What is written of them.


def test_text_from_others_is_harmless() -> None:
    assert printable(b"\x1b]0;owned\x07\r\nname\x00\xff\xc2\x85") == "]0;ownedname\ufffd"
    assert printable("a\u2028b\u202ec\x7fd\ud800e") == "abcde"
    assert printable("ä\u4e2d" * 100, 6) == "ä中ä中ä中"


def test_the_log_takes_so_many_lines_and_says_how_many_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    lines: list[str] = []
    log = LogLimit(lines.append)
    for _ in range(1000):
        log("a box has connected")
    assert len(lines) == LINES_AT_ONCE
    now_s[0] += 3600
    log("another hour")
    assert lines[-2:] == ["980 more lines like these were left out", "another hour"]


def test_a_message_is_a_message_still() -> None:
    """What the tests above flood with is what a box really sends."""
    sound: Floats = np.full(HOP_SAMPLES, 0.1, np.float32)
    hop = Message(Kind.HOP, 1, 5, 0, sound.tobytes()).hop
    assert hop is not None and np.array_equal(hop, sound)

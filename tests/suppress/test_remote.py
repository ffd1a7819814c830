"""The engine on another machine: whatever the network does, every hop is the machine's, ours, or a fade between."""

import dataclasses
import heapq
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import free_port, until, with_namespaces
from signals import hops_of_noise

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ, UserError
from edge.chain import Chain
from edge.config import BridgeConfig, Config, RemoteConfig
from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import Floats, Spectra
from edge.net.wire import HEAD, MOST_BYTES, Kind, Message, pack, unpack
from edge.realtime import SWITCH_INTERVAL_S
from edge.suppress import open_configured, open_engine
from edge.suppress.mask import MaskEngine, Unity
from edge.suppress.shipped import BadModel

zmq = pytest.importorskip("zmq", reason="pyzmq is not installed; ./install.sh --setup bridge")

from edge.net import keys  # noqa: E402
from edge.serve.box_server import BoxServer  # noqa: E402
from edge.suppress.link import Link, Tally  # noqa: E402
from edge.suppress.remote import RETURN_HOPS, RING_HOPS, RemoteEngine, open_remote  # noqa: E402

noise = partial(hops_of_noise, seed=3)
UNLIMITED = 140.0
"""The limit that leaves nothing of the dry sound, in single precision."""


@pytest.fixture(autouse=True)
def quick_threads() -> Iterator[None]:
    """As in the running box: no thread keeps the interpreter for a whole hop."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    yield
    sys.setswitchinterval(before)


def off() -> MaskEngine:
    """Our own network's stand-in that leaves the sound as it is, 80 samples late."""
    return MaskEngine([Unity()], UNLIMITED)


class Half(Estimator):
    """An estimator whose doings are known; no memory, so that after a gap all is soon as if there had been none."""

    name = "half"

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        gains.fill(0.5)
        return 1.0

    def reset(self) -> None:
        pass


def half() -> MaskEngine:
    return MaskEngine([Half()], UNLIMITED)


def engine(name: str) -> MaskEngine:
    opened = open_engine(name, UNLIMITED)
    assert isinstance(opened, MaskEngine)
    return opened


def late_by(sound: Floats, samples: int) -> Floats:
    return np.concatenate([np.zeros(samples, np.float32), sound])[: len(sound)]


def dry(sound: Floats, delay_samples: int) -> Floats:
    """What ``off`` makes of it."""
    return through(off(), sound, delay_samples)


def through(treat: MaskEngine, sound: Floats, delay_samples: int) -> Floats:
    """What an engine makes of the sound, at this total delay."""
    hops = sound.reshape(-1, HOP_SAMPLES).copy()
    for hop in hops:
        treat.process(hop)
    return late_by(hops.reshape(-1), delay_samples - treat.delay_samples)


def whose(played: Floats, ours: Floats, theirs: Floats) -> list[str]:
    """Each hop's maker: "ours", "theirs", or "to ours" and "to theirs" for the fades; anything else fails."""
    up = np.arange(1, HOP_SAMPLES + 1, dtype=np.float32) / HOP_SAMPLES
    p, o, t = (sound.reshape(-1, HOP_SAMPLES) for sound in (played, ours, theirs))
    choices = {"ours": o, "theirs": t, "to theirs": o + (t - o) * up, "to ours": o + (t - o) * up[::-1]}
    fits = np.array([np.abs(p - wanted).max(1) < 1e-5 for wanted in choices.values()])
    assert fits.any(0).all(), f"hop {fits.any(0).argmin()} is nobody's"
    return [[*choices][which] for which in fits.argmax(0)]


class Line:
    """A link without a network: a test decides what comes back and when."""

    def __init__(self, delay_samples: int, takes: bool = True) -> None:
        self.delay_samples = delay_samples
        self.answers: deque[Message] = deque(maxlen=64)
        self.news: deque[str] = deque()
        self.tally = Tally()
        self.in_use = False
        self.sent: list[Message] = []
        self.takes = takes

    def send(self, epoch: int, seq: int, hop: Floats) -> bool:
        if self.takes:
            self.sent.append(Message(Kind.HOP, epoch, seq, 0, hop.tobytes()))
        return self.takes

    def start(self) -> None: ...

    def stop(self) -> None: ...


def inverted(message: Message, history: dict[int, Floats], lead: int) -> Message:
    """What a machine answers whose engine inverts the phase of the sound, ``lead`` samples late."""
    heard = message.hop
    assert heard is not None
    history[message.seq] = heard
    first = message.seq * HOP_SAMPLES - lead
    flat = np.concatenate([history.get(seq, np.zeros(HOP_SAMPLES, np.float32)) for seq in _hops(first)])
    out = -flat[first % HOP_SAMPLES :][:HOP_SAMPLES]
    return Message(Kind.CLEAN, message.epoch, message.seq, lead, out.tobytes())


def _hops(first: int) -> tuple[int, int]:
    return first // HOP_SAMPLES, first // HOP_SAMPLES + 1


fates = st.lists(st.one_of(st.integers(0, 12), st.just(400)), min_size=20, max_size=90)


@settings(max_examples=20, deadline=None)
@given(fates=fates, lead=st.integers(0, 400), budget=st.integers(500, 1500), twice=st.booleans(), calm=st.booleans())
def test_whatever_becomes_of_the_answers_no_hop_is_missing(
    fates: list[int], lead: int, budget: int, twice: bool, calm: bool
) -> None:
    """Each answer is late by so many hops, or lost; thereby they also pass one another. Then all is well again."""
    line = Line(budget)
    remote = RemoteEngine(line, UNLIMITED, off())  # type: ignore[arg-type]
    fates = ([] if calm else [0] * 60) + fates + [0] * 70
    sound = noise(len(fates))
    played, history = [], {}
    coming: list[tuple[int, int, Message]] = []
    order = itertools.count()
    for number, hop in enumerate(sound.reshape(-1, HOP_SAMPLES).copy()):
        while coming and coming[0][0] <= number:
            line.answers.append(heapq.heappop(coming)[2])
        remote.process(hop)
        played.append(hop.copy())
        answer = inverted(line.sent[-1], history, lead)
        for _ in range(1 + twice):
            heapq.heappush(coming, (number + 1 + fates[number], next(order), answer))
    ours = late_by(sound, budget)
    makers = whose(np.concatenate(played), ours, -ours)
    changes = [maker for maker in makers if maker.startswith("to ")]
    assert remote.tally.switches == len(changes)
    for before, after in itertools.pairwise(makers):
        if {before, after} == {"ours", "theirs"}:
            raise AssertionError("a change without a fade")
    room = (budget - lead) // HOP_SAMPLES
    if room >= 3:
        assert remote.name == "remote" and makers[-1] == "theirs", "it does not come back"
    assert remote.tally.answered + remote.tally.filled == len(fates)


def test_the_totals_say_what_came_late_and_what_never_came() -> None:
    line = Line(560)
    remote = RemoteEngine(line, UNLIMITED, off())  # type: ignore[arg-type]
    history: dict[int, Floats] = {}
    held = []
    for number, hop in enumerate(noise(600).reshape(-1, HOP_SAMPLES).copy()):
        remote.process(hop)
        answer = inverted(line.sent[-1], history, 80)
        if number == 100:
            continue
        held += [answer] if 200 <= number < 210 else []
        if number == 220:
            line.answers.extend(held)
        if not 200 <= number < 210:
            line.answers.append(answer)
    assert (remote.tally.lost, remote.tally.late) == (1, 10)
    assert remote.tally.switches == 5  # to theirs, then twice to ours and back


def test_an_answer_that_is_no_sound_is_no_answer() -> None:
    line = Line(560)
    remote = RemoteEngine(line, UNLIMITED, off())  # type: ignore[arg-type]
    sound, played = noise(200), []
    for number, hop in enumerate(sound.reshape(-1, HOP_SAMPLES).copy()):
        remote.process(hop)
        played.append(hop.copy())
        bad = np.full(HOP_SAMPLES, [np.nan, np.inf, 1e9, -1e30][number % 4], np.float32)
        line.answers.append(Message(Kind.CLEAN, line.sent[-1].epoch, number, 80, bad.tobytes()))
    assert np.array_equal(np.concatenate(played), dry(sound, 560))
    assert remote.tally.refused == 199


def test_limit_and_bypass_work_on_what_comes_back_too() -> None:
    """6 dB of limit: half of the dry sound stays; bypass: all of it. Both at the one delay."""
    line = Line(560)
    remote = RemoteEngine(line, 20 * np.log10(2), off())  # type: ignore[arg-type]
    sound, played, history = noise(300), [], {}
    for number, hop in enumerate(sound.reshape(-1, HOP_SAMPLES).copy()):
        remote.wet = 1.0 if number < 200 else 0.0
        remote.process(hop)
        played.append(hop.copy())
        silent = inverted(line.sent[-1], history, 80)
        line.answers.append(replace(silent, body=np.zeros(HOP_SAMPLES, np.float32).tobytes()))
    whole, out = late_by(sound, 560), np.concatenate(played)
    assert np.allclose(out[100 * 80 : 200 * 80], whole[100 * 80 : 200 * 80] / 2, atol=1e-6)
    assert np.allclose(out[201 * 80 :], whole[201 * 80 :], atol=1e-6)


def test_a_reset_forgets_the_sound_here_and_there() -> None:
    line = Line(560)
    remote = RemoteEngine(line, UNLIMITED, off())  # type: ignore[arg-type]
    for hop in noise(20).reshape(-1, HOP_SAMPLES).copy():
        remote.process(hop)
    before = line.sent[-1].epoch
    remote.reset()
    hop = np.zeros(HOP_SAMPLES, np.float32)
    for _ in range(10):
        remote.process(hop)
        assert not hop.any()
    assert line.sent[-1].epoch != before and line.sent[-10].seq == 0


def test_our_own_engine_goes_on_when_nobody_answers() -> None:
    line = Line(960, takes=False)
    chain = Chain(Config(), RemoteEngine(line, 30, engine("rnn")))  # type: ignore[arg-type]
    assert chain.engine.delay_samples == 960 and chain.working == "rnn" and chain.degraded
    sound = noise(300)
    remote = RemoteEngine(line, 30, engine("rnn"))  # type: ignore[arg-type]
    hops = sound.reshape(-1, HOP_SAMPLES).copy()
    for hop in hops:
        remote.process(hop)
    assert np.array_equal(hops.reshape(-1), through(engine("rnn"), sound, 960))


@given(st.binary(max_size=MOST_BYTES + 10))
@settings(max_examples=200, deadline=None)
def test_no_frame_breaks_the_reader(frame: bytes) -> None:
    unpack(frame)
    unpack(b"QB\x01" + frame)


@given(kind=st.sampled_from(Kind), epoch=st.integers(0, 2**32 - 1), seq=st.integers(0, 2**63 - 1))
def test_what_is_packed_is_unpacked(kind: Kind, epoch: int, seq: int) -> None:
    body = b"\0" * 320
    assert unpack(pack(kind, epoch, seq, 7, body)) == Message(kind, epoch, seq, 7, body)
    assert HEAD.size == 20 and unpack(pack(Kind.HOP, epoch, seq, 7, body + b"1")) is None


# With a real network.


class Server:
    """A real one in a thread."""

    def __init__(self, build: Callable[[], Any] = lambda: engine("dsp"), **changes: Any) -> None:
        self.settings = replace(BridgeConfig(boxes_port=free_port()), **changes)
        self.said: list[str] = []
        self.boxes = BoxServer(self.settings, build, self.said.append)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.boxes.serve, args=(self._stop,))
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.settings.boxes_port}"

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def remote_at(address: str, below: MaskEngine | None = None, **changes: Any) -> RemoteEngine:
    return open_remote(replace(RemoteConfig(server=address, budget_ms=200), **changes), UNLIMITED, below or off())


def play(
    remote: RemoteEngine, sound: Floats, pace_s: float = 0.0, each: Callable[[int], object] = lambda _: 0
) -> Floats:
    """Hop after hop; without a pace each waits for its answer, if one may come."""
    link = remote._link
    hops = sound.reshape(-1, HOP_SAMPLES).copy()
    for number, hop in enumerate(hops):
        each(number)
        remote.process(hop)
        if pace_s:
            time.sleep(pace_s)
        elif link._open:
            until(lambda: link.answers, 0.5)
    return hops.reshape(-1)


def test_what_is_heard_is_what_the_machine_makes(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # A slow machine reports first that the server does not answer yet, and then nothing for REPORT_S.
    monkeypatch.setattr("edge.suppress.link.REPORT_S", 0.0)
    remote = remote_at(server.address)
    assert until(lambda: remote._link._open)
    sound = noise(300)
    played = play(remote, sound)
    theirs = through(engine("dsp"), sound, remote.delay_samples)
    makers = whose(played, dry(sound, remote.delay_samples), theirs)
    assert makers[-200:] == ["theirs"] * 200
    assert remote.name == "remote" and remote.level == 0 and remote.tally.switches == 1
    assert (remote.tally.late, remote.tally.lost, remote.tally.refused) == (0, 0, 0)
    assert until(lambda: any("dsp on 127.0.0.1" in news and "is in use" in news for news in remote.news))
    remote.close()


class Proxy:
    """Between box and server: ``fate`` gives each message's delay in s, or None to lose it."""

    def __init__(self, address: str, fate: Callable[[], float | None]) -> None:
        self.fate = fate
        self.port = free_port()
        self._target = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        context = zmq.Context()
        front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
        front.bind(f"tcp://127.0.0.1:{self.port}")
        back.connect(f"tcp://{self._target}")
        box, held, order = b"", [], itertools.count()
        poller = zmq.Poller()
        poller.register(front, zmq.POLLIN)
        poller.register(back, zmq.POLLIN)
        while not self._stop.is_set():
            for way, _ in poller.poll(1):
                *sender, frame = way.recv_multipart()
                box = sender[0] if sender else box
                wait_s = self.fate()
                if wait_s is not None:
                    heapq.heappush(held, (time.monotonic() + wait_s, next(order), way is front, frame))
            while held and held[0][0] <= time.monotonic():
                *_, outward, frame = heapq.heappop(held)
                back.send(frame) if outward else front.send_multipart((box, frame))
        context.destroy(linger=0)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)


def test_delay_loss_reordering_and_an_outage_are_never_heard_as_a_gap() -> None:
    chance = np.random.default_rng(1)
    weather = {"loss": 0.0, "delay_s": 0.0, "out": False}

    def fate() -> float | None:
        if weather["out"] or chance.random() < weather["loss"]:
            return None
        return float(chance.random() * weather["delay_s"])

    server = Server(half)
    proxy = Proxy(server.address, fate)
    remote = remote_at(f"127.0.0.1:{proxy.port}")
    try:
        assert until(lambda: remote._link._open)
        stages = {
            200: {"delay_s": 0.03},  # answers pass one another
            350: {"delay_s": 0.0, "loss": 0.02},
            600: {"loss": 0.0, "out": True},
            700: {"out": False},
        }
        sound = noise(900)
        played = play(remote, sound, 0.002, lambda number: weather.update(stages.get(number, {})))
        ours = dry(sound, remote.delay_samples)
        makers = whose(played, ours, ours / 2)
        assert sum(maker.startswith("to ") for maker in makers) == remote.tally.switches >= 3
        assert {*makers[660:690]} == {"ours"}, "the outage is not ours"
        assert remote.tally.lost > 0 or remote.tally.late > 0
        for hop in noise(400).reshape(-1, HOP_SAMPLES):
            remote.process(hop)
            time.sleep(0.004)
        assert remote.name == "remote", "it does not come back by itself"
    finally:
        remote.close()
        proxy.stop()
        server.stop()


def test_a_server_that_dies_and_comes_back() -> None:
    first = Server()
    remote = remote_at(first.address)
    assert until(lambda: remote._link._open)
    sound = noise(200)
    play(remote, sound)
    assert remote.name == "remote"
    first.stop()
    before = remote.tally.switches
    out = play(remote, sound, 0.005)
    assert remote.name == "off" and remote.tally.switches == before + 1
    assert np.array_equal(out[-80 * 80 :], dry(sound, remote.delay_samples)[-80 * 80 :])
    second = Server(boxes_port=first.settings.boxes_port)
    assert until(lambda: not play(remote, noise(10), 0.005).any() or remote.name == "remote", 15)
    assert any("heard" in news for news in remote.news) or until(lambda: remote._link.in_use)
    remote.close()
    second.stop()


def test_nobody_there_is_said_once_and_costs_no_time() -> None:
    remote = remote_at(f"127.0.0.1:{free_port()}")
    sound = noise(200)
    began = time.perf_counter()
    assert np.array_equal(play(remote, sound), dry(sound, remote.delay_samples))
    assert time.perf_counter() - began < 5 * 200 * HOP_MS / 1000
    assert until(lambda: remote.news, 8) and "cannot be used (" in remote.news[0] and len(remote.news) == 1
    remote.close()


def test_an_engine_slower_than_the_budget_is_not_asked(server: Server) -> None:
    remote = remote_at(server.address, budget_ms=25)
    assert until(lambda: remote._link._open), "10 ms of room are enough"
    remote.close()
    slow = Server(lambda: SimpleNamespace(name="slow", delay_samples=960, notes=[], reset=lambda: None))
    remote = remote_at(slow.address, budget_ms=60)
    assert until(lambda: "slow needs a [remote] budget_ms of 75 or more" in remote._link._refusal)
    assert not remote._link._open
    remote.close()
    slow.stop()


def test_no_more_boxes_than_allowed() -> None:
    small = Server(most_boxes=1)
    first = remote_at(small.address)
    assert until(lambda: first._link._open)
    second = remote_at(small.address)
    assert until(lambda: "its maximum number of boxes" in second._link._refusal)
    assert not second._link._open and first._link._open
    for box in (first, second):
        box.close()
    small.stop()


def test_rubbish_is_counted_and_harms_nobody(server: Server) -> None:
    remote = remote_at(server.address)
    assert until(lambda: remote._link._open)
    (friend,) = server.boxes.sessions
    context = zmq.Context()
    vandal = context.socket(zmq.DEALER)
    vandal.connect(f"tcp://{server.address}")
    bad = [b"", b"x" * 300, pack(Kind.CLEAN, body=b"\0" * 320), pack(Kind.HOP)[:-1], b"QB\x02" + b"\0" * 337]
    for frame in bad:
        vandal.send(frame)
    vandal.send_multipart([b"a", b"b"])
    assert until(lambda: server.boxes.refused == len(bad) + 1)
    vandal.send(pack(Kind.HELLO))
    assert vandal.poll(5000)
    session = next(s for s in server.boxes.sessions.values() if s is not server.boxes.sessions[friend])
    vandal.send(pack(Kind.HOP, 1, 0, 0, np.full(80, np.nan, "<f4").tobytes()))
    assert until(lambda: session.refused == 1)
    play(remote, noise(100))
    assert remote.name == "remote"
    remote.close()
    context.destroy(linger=0)


# Keys.


@pytest.fixture
def known(tmp_path: Path) -> dict[str, str]:
    """Key files and public keys of a server and two boxes, and the list with the first of them."""
    made = {name: keys.create(tmp_path / name) for name in ("server", "box", "stranger")}
    (tmp_path / "list").write_text(f"# those let in\n\n{made['box']} kitchen\n")
    return made


def test_keys_are_private_files_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "key"
    public = keys.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.create(path) == public == keys.public(keys.read_secret(path))
    path.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        keys.read_secret(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(UserError, match="holds no secret key"):
        keys.read_secret(path)
    with pytest.raises(UserError, match="is missing"):
        keys.read_secret(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be written"):
        keys.create(tmp_path / "no" / "folder")


@pytest.mark.parametrize("text", ["", "# nothing\n", "too-short\n", "x" * 41, "é" * 40])
def test_a_list_of_clients_that_makes_no_sense(text: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(UserError):
        keys.read_clients(tmp_path / "list")


def test_only_known_keys_come_in(known: dict[str, str], tmp_path: Path) -> None:
    server = Server(key_file=str(tmp_path / "server"), clients_file=str(tmp_path / "list"))
    try:
        friend = remote_at(server.address, server_key=known["server"], key_file=str(tmp_path / "box"))
        assert until(lambda: friend._link._open)
        play(friend, noise(100))
        assert friend.name == "remote"

        stranger = remote_at(server.address, server_key=known["server"], key_file=str(tmp_path / "stranger"))
        plain = remote_at(server.address)
        fooled = remote_at(server.address, server_key=known["stranger"], key_file=str(tmp_path / "box"))
        assert until(lambda: "rejects this box's key" in stranger._link._refusal)
        assert server.boxes.allowed is not None and server.boxes.allowed.refused >= 1
        assert until(lambda: any("unknown key" in said for said in server.said))
        time.sleep(1.5)
        assert not any(box._link._open for box in (stranger, plain, fooled))
        assert len(server.boxes.sessions) == 1 and friend._link._open
        for box in (friend, stranger, plain, fooled):
            box.close()
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"server": "192.0.2.1:5557"}, "must be encrypted"),
        ({"server": "example.org:5557"}, "must be encrypted"),
        ({"server": "nonsense"}, "is not an address"),
        ({"server": "10.0.0.1:99999"}, "is not an address"),
        ({"server_key": "x" * 40}, "needs both"),
        ({"server_key": "x" * 39, "key_file": "/none"}, "is not a public key"),
        ({"server_key": "x" * 40, "key_file": "/none"}, "/none is missing"),
    ],
)
def test_a_box_refuses_settings_that_would_leak_or_cannot_work(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadModel) as caught:
        open_remote(RemoteConfig(**changes), 30, off())
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_a_server_is_not_open_to_others_without_keys(host: str) -> None:
    with pytest.raises(UserError, match="boxes need keys"):
        Server(host=host)


def test_a_port_that_is_taken_is_named(server: Server) -> None:
    with pytest.raises(UserError, match=f"{server.settings.boxes_port} cannot be opened.*boxes_port"):
        Server(boxes_port=server.settings.boxes_port)


def test_without_pynacl_there_is_one_line(
    known: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = RemoteConfig(server_key=known["server"], key_file=str(tmp_path / "box"))
    monkeypatch.setitem(sys.modules, "nacl", None)
    with pytest.raises(BadModel, match=r"^PyNaCl is not installed; \./install\.sh --setup bridge$"):
        open_remote(settings, 30, off())


def test_what_cannot_work_leaves_our_own_engine_and_a_note() -> None:
    chosen = replace(Config(), suppress=replace(Config().suppress, engine="remote"))
    opened = open_configured(replace(chosen, remote=RemoteConfig(server="192.0.2.1:5557")))
    assert isinstance(opened, MaskEngine) and "remote cannot be used" in opened.notes[-1]
    opened = open_configured(chosen)
    assert isinstance(opened, RemoteEngine) and opened.delay_samples == 880
    opened.close()


FORBID_INTERNET = """
import ctypes, errno, os, platform, struct
call = {"x86_64": 41, "aarch64": 198}[platform.machine()]
ALLOW, DENY = 0x7fff0000, 0x00050000 | errno.EAFNOSUPPORT
steps = [(0x20, 0, 0, 0), (0x15, 0, 4, call), (0x20, 0, 0, 16), (0x15, 1, 0, 2), (0x15, 0, 1, 10), (6, 0, 0, DENY)]
program = b"".join(struct.pack("HBBI", *step) for step in [*steps, (6, 0, 0, ALLOW)])
libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
wanted = Filter(len(program) // 8, ctypes.addressof(buffer))
assert not libc.prctl(38, 1, 0, 0, 0) and not libc.prctl(22, 2, ctypes.byref(wanted), 0, 0)
"""
"""What RestrictAddressFamilies=AF_UNIX does, in this process: seccomp(2) lets no socket of the internet be made."""


def test_where_the_unit_forbids_the_network_the_box_says_so_and_goes_on() -> None:
    code = f"""{FORBID_INTERNET}
import time
import numpy as np
from edge.config import Config, RemoteConfig
from edge.suppress.mask import MaskEngine, Unity
from edge.suppress.remote import open_remote
os.environ["INVOCATION_ID"] = "as under systemd"
remote = open_remote(RemoteConfig(server="127.0.0.1:5557"), 30, MaskEngine([Unity()], 30))
over = time.monotonic() + 20
while not remote.news and time.monotonic() < over:
    remote.process(np.zeros(80, np.float32))
    time.sleep(0.005)
print(*remote.news, remote.name, remote.tally.filled > 100)
"""
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the number of the system call is not known here")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "install systemd/optional/quietbox-remote.conf" in done.stdout and done.stdout.endswith("off True\n"), (
        done.stderr
    )


def test_the_drop_in_opens_the_network_and_nothing_else(tmp_path: Path) -> None:
    """systemd's own tools read it, and the unit alone has no network."""
    root = Path(keys.__file__).parents[2]
    drop_in = root / "systemd/optional/quietbox-remote.conf"
    settings = [line for line in drop_in.read_text().splitlines() if line and line[0] not in "#["]
    assert {line.partition("=")[0] for line in settings} == {
        "PrivateNetwork", "RestrictAddressFamilies", "IPAddressAllow"
    }  # fmt: skip
    unit = (root / "systemd/quietbox.service").read_text()
    assert all(f"\n{line}\n" in unit for line in ("PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX"))
    assert "\nIPAddressDeny=any\n" in unit
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze here")
    (tmp_path / "quietbox.service.d").mkdir()
    (tmp_path / "quietbox.service").write_text(re.sub(r"=/opt/quietbox/\S+", "=/bin/true", unit))
    (tmp_path / "quietbox.service.d/remote.conf").write_text(drop_in.read_text())
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "quietbox.service")]
    assert "quietbox" not in subprocess.run(command, capture_output=True, text=True).stderr


def test_the_box_loads_no_encryption_before_it_is_asked_to() -> None:
    code = "import sys, edge.config as c, edge.box as b; b.Box(c.Config()); print({'zmq', 'nacl'} & {*sys.modules})"
    reported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert reported.stdout.strip() == "set()"


def test_an_engine_nobody_holds_any_more_ends_its_thread(server: Server) -> None:
    remote = remote_at(server.address)
    link = remote._link
    assert until(lambda: link._open)
    del remote
    assert until(lambda: not link.is_alive())


# Two machines.


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True).returncode == 0


@pytest.fixture
def other_machine() -> Iterator[str]:
    """A network namespace with an address of its own, 10.213.x.2, while this one has 10.213.x.1."""
    if not shutil.which("ip"):
        pytest.skip("needs iproute2, for a network namespace")
    name, net = f"qb{os.getpid()}", os.getpid() % 250
    made = ip("netns", "add", name) and ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
    made = made and ip("link", "set", f"{name}b", "netns", name)
    made = made and ip("addr", "add", f"10.213.{net}.1/24", "dev", f"{name}a") and ip("link", "set", f"{name}a", "up")
    made = made and ip("-n", name, "addr", "add", f"10.213.{net}.2/24", "dev", f"{name}b")
    made = made and ip("-n", name, "link", "set", f"{name}b", "up")
    try:
        assert made, "a pair of virtual network cards could not be made"
        yield f"{name} 10.213.{net}.2"
    finally:
        ip("link", "del", f"{name}a")
        ip("netns", "del", name)


@with_namespaces
def test_a_cable_pulled_out_and_put_back(other_machine: str, known: dict[str, str], tmp_path: Path) -> None:
    """The real command in another network namespace, over an encrypted line that is cut for a second."""
    name, address = other_machine.split()
    command = ["ip", "netns", "exec", name, sys.executable, "-m", "edge.cli", "serve", "--boxes", "--engine", "dsp"]
    command += ["--host", address, "--key", str(tmp_path / "server"), "--clients", str(tmp_path / "list")]
    serving = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert serving.stderr
    try:
        said = serving.stderr.readline()
        assert "serves boxes at" in said, said + serving.stderr.read()
        remote = remote_at(f"{address}:5557", server_key=known["server"], key_file=str(tmp_path / "box"))
        assert until(lambda: remote._link._open, 20)
        sound = noise(600)
        device = f"{name}a"
        cut = {150: "down", 350: "up"}
        played = play(remote, sound, 0.004, lambda n: ip("link", "set", device, cut[n]) if n in cut else None)
        ours = dry(sound, remote.delay_samples)
        assert remote.tally.switches >= 2
        assert np.array_equal(played[250 * 80 : 340 * 80], ours[250 * 80 : 340 * 80])
        power = np.square(played).reshape(-1, HOP_SAMPLES).mean(1)
        assert power[40:].min() > 0.002 * np.square(ours).mean()

        def back() -> bool:
            play(remote, noise(10), 0.004)
            return remote.name == "remote"

        assert until(back, 15)
        remote.close()
    finally:
        serving.terminate()
        serving.wait(10)


def test_budget_is_the_latency() -> None:
    for budget_ms in (25.0, 60.0, 500.0):
        link = Link(RemoteConfig(budget_ms=budget_ms))
        assert (link.delay_samples + HOP_SAMPLES) / RATE_HZ * 1000 == budget_ms
    assert {field.name for field in dataclasses.fields(Tally)} >= {"switches", "late", "lost"}
    assert RETURN_HOPS < RING_HOPS

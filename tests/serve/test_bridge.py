"""The bridge: chunks of any length in, as many samples out, in order, whatever the program on the other side does."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine import until
from signals import noise

from edge import HOP_SAMPLES, RATE_HZ, UserError, cli
from edge.config import BridgeConfig, Config, SuppressConfig
from edge.dsp.spectrum import Floats
from edge.suppress import open_engine

zmq = pytest.importorskip("zmq", reason="pyzmq is not installed; ./install.sh --setup bridge")

from edge.serve.bridge import PIECE_SAMPLES, QUEUE_CHUNKS, Bridge, Stream  # noqa: E402

OFF = Config(suppress=SuppressConfig(engine="off"))


@pytest.fixture(autouse=True)
def unhurried() -> Iterator[None]:
    """The server asks for real-time priority; the tests after it shall not keep it."""
    yield
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


lengths = st.lists(
    st.one_of(st.integers(0, 400), st.sampled_from([1, 80, 441, 1536, PIECE_SAMPLES + 1, 9000])), max_size=15
)


@settings(max_examples=12, deadline=None)
@given(lengths=lengths, rate_hz=st.sampled_from([16_000, 44_100, 48_000]))
def test_the_length_of_chunks_changes_nothing(lengths: list[int], rate_hz: int) -> None:
    sound = noise(sum(lengths))
    pieces, at_once = Stream(OFF, rate_hz), Stream(OFF, rate_hz)
    whole, start = sound.copy(), 0
    at_once.process(whole)
    for length in lengths:
        chunk = sound[start : start + length].copy()
        pieces.process(chunk)
        assert np.array_equal(chunk, whole[start : start + length])
        start += length


@pytest.mark.parametrize("tone_hz", [300, 1500])
@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
def test_the_delay_is_as_stated(rate_hz: int, tone_hz: int) -> None:
    """By the phase of a tone, to a thousandth of a sample; its level moves by the converters' ripple only."""
    stream = Stream(OFF, rate_hz)
    turns = tone_hz * np.arange(rate_hz) / rate_hz
    tone = (0.3 * np.sin(2 * np.pi * turns)).astype(np.float32)
    out = tone.copy()
    for start in range(0, len(out), 1536):
        stream.process(out[start : start + 1536])
    steady = slice(rate_hz // 4, rate_hz * 3 // 4)
    wave = np.exp(-2j * np.pi * turns[steady])
    gain = np.vdot(wave.conj(), out[steady]) / np.vdot(wave.conj(), tone[steady])
    turned = gain * np.exp(2j * np.pi * tone_hz * stream.delay_samples / rate_hz)
    assert abs(np.angle(turned)) / (2 * np.pi * tone_hz) * rate_hz < 1e-3
    assert abs(20 * np.log10(abs(gain))) < 0.6
    assert stream.delay_samples / rate_hz < 0.016


def test_at_16_khz_the_suppressor_alone_works_to_the_bit() -> None:
    sound = noise(RATE_HZ)
    stream = Stream(Config(suppress=SuppressConfig(engine="dsp")), RATE_HZ)
    out, hops = sound.copy(), sound.copy()
    for start in range(0, len(out), 333):
        stream.process(out[start : start + 333])
    engine = open_engine("dsp", SuppressConfig().limit_db)
    for hop in hops.reshape(-1, HOP_SAMPLES):
        engine.process(hop)
    lead = stream.delay_samples - engine.delay_samples
    assert np.array_equal(out[lead:], hops[:-lead])


def free_ports() -> tuple[int, int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    noisy, clean = (int(probe.getsockname()[1]) for probe in probes)
    for probe in probes:
        probe.close()
    return noisy, clean


class Served:
    """A real bridge in a thread."""

    def __init__(self, config: Config = OFF, rate_hz: int = RATE_HZ) -> None:
        noisy, clean = free_ports()
        self.settings = BridgeConfig(noisy_port=noisy, clean_port=clean, rate_hz=rate_hz)
        self.said: list[str] = []
        self.stream = Stream(config, rate_hz)
        self.bridge = Bridge(self.settings, self.stream, self.said.append)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.bridge.serve, args=(self._stop,))
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)


class Program:
    """The other side, as an audio engine has it."""

    def __init__(self, settings: BridgeConfig) -> None:
        self._context = zmq.Context()
        self.push, self.pull = self._context.socket(zmq.PUSH), self._context.socket(zmq.PULL)
        self.push.connect(f"tcp://127.0.0.1:{settings.noisy_port}")
        self.pull.connect(f"tcp://127.0.0.1:{settings.clean_port}")

    def clean(self, chunk: Floats) -> Floats:
        self.push.send(chunk.astype("<f4").tobytes())
        return self.fetch()

    def fetch(self) -> Floats:
        assert self.pull.poll(10_000), "nothing came back"
        return np.frombuffer(self.pull.recv(), "<f4")

    def leave(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.stop()


def test_over_the_wire_comes_what_the_stream_makes() -> None:
    served = Served(Config(suppress=SuppressConfig(engine="dsp")), 44_100)
    program = Program(served.settings)
    random = np.random.default_rng(7)
    expected = Stream(Config(suppress=SuppressConfig(engine="dsp")), 44_100)
    try:
        for number, length in enumerate([1536, 0, 1, *random.integers(0, 5000, 60)]):
            chunk = noise(int(length), seed=number)
            back = program.clean(chunk)
            expected.process(chunk)
            assert np.array_equal(back, chunk)
        assert until(lambda: served.bridge.counts.sent == 63) and served.bridge.counts.received == 63
    finally:
        program.leave()
        served.stop()


def test_what_is_no_chunk_is_refused_and_counted(served: Served) -> None:
    program = Program(served.settings)
    bad = [noise(100).tobytes()[:-1], b"x", b"\0" * 4097]
    for value in (np.nan, np.inf, -np.inf, 1e30):
        sound = noise(100)
        sound[50] = value
        bad.append(sound.tobytes())
    for message in bad:
        program.push.send(message)
    program.push.send_multipart([noise(10).tobytes(), noise(10).tobytes()])
    sound = noise(2000)
    back = program.clean(sound)
    assert len(back) == 2000 and np.isfinite(back).all()
    counts = served.bridge.counts
    assert until(lambda: counts.sent == 1) and counts.refused == len(bad) + 1
    assert sum("refused a chunk" in said for said in served.said) == 1, "logged once, then counted"
    expected = Stream(OFF, RATE_HZ)
    expected.process(sound)
    assert np.array_equal(back, sound), "a refused chunk has left something behind"
    program.leave()


def test_a_flood_drops_the_oldest_and_counts_them() -> None:
    """The engine is held up; of what comes meanwhile the newest chunks are cleaned, in order."""
    served = Served()
    program = Program(served.settings)
    hold, held, process = threading.Event(), threading.Event(), served.stream.process

    def slow(chunk: Floats) -> None:
        held.set()
        assert hold.wait(20)
        process(chunk)

    try:
        for number in range(3):  # connected, both ways
            assert program.clean(np.full(80, number / 100, np.float32)).size == 80
        served.stream.process = slow  # type: ignore[method-assign]
        program.push.send(noise(80).tobytes())
        assert held.wait(10)
        for number in range(1, 31):
            program.push.send(np.full(80 + number, 0.01, np.float32).tobytes())
        time.sleep(0.5)
        hold.set()
        assert until(lambda: served.bridge.counts.received == 34)
        back = [len(program.fetch()) for _ in range(34 - 3 - served.bridge.counts.dropped_in)]
        assert back[-1] == 110 and back == sorted(back), "the newest is there, and all in order"
        assert served.bridge.counts.dropped_in == 30 - (len(back) - 1) >= 30 - 2 * QUEUE_CHUNKS
    finally:
        hold.set()
        program.leave()
        served.stop()


def test_a_program_that_does_not_fetch_holds_up_nothing(served: Served) -> None:
    """Clean chunks wait for it up to a bound; then the oldest go."""
    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    push.connect(f"tcp://127.0.0.1:{served.settings.noisy_port}")
    for number in range(1, 41):
        push.send(np.full(80 + number, 0.01, np.float32).tobytes())
        assert until(lambda number=number: served.bridge.counts.received == number)  # type: ignore[misc]
    assert until(lambda: served.bridge.counts.dropped_out == 40 - QUEUE_CHUNKS)
    pull = context.socket(zmq.PULL)
    pull.connect(f"tcp://127.0.0.1:{served.settings.clean_port}")
    for number in range(41 - QUEUE_CHUNKS, 41):
        assert pull.poll(5000) and len(pull.recv()) == 4 * (80 + number)
    context.destroy(linger=0)


def test_a_program_that_returns_gets_nothing_of_the_old_sound(served: Served) -> None:
    for seed in range(3):
        program = Program(served.settings)
        sound = noise(4000, seed=seed)
        assert until(lambda seed=seed: sum("has connected" in said for said in served.said) == seed + 1)  # type: ignore[misc]
        back = program.clean(sound)
        expected = Stream(OFF, RATE_HZ)
        expected.process(sound)
        assert np.array_equal(back, sound)
        for _ in range(5):
            program.push.send(noise(500).tobytes())  # and goes without waiting for the answers
        assert until(lambda seed=seed: served.bridge.counts.received == 6 * (seed + 1))  # type: ignore[misc]
        program.leave()
        assert until(lambda seed=seed: sum("has disconnected" in said for said in served.said) == seed + 1)  # type: ignore[misc]


def test_a_second_program_is_told_of(served: Served) -> None:
    programs = [Program(served.settings) for _ in range(2)]
    assert until(lambda: any("the other's chunks are refused" in said for said in served.said))
    for program in programs:
        program.leave()


def test_a_port_that_is_taken_is_named(served: Served) -> None:
    with pytest.raises(UserError, match=r"cannot be opened.*noisy_port"):
        Bridge(served.settings, served.stream, print)
    settings = replace(served.settings, host="192.0.2.77")
    with pytest.raises(UserError, match=r"192\.0\.2\.77.*host"):
        Bridge(settings, served.stream, print)


# The commands.


def config_file(tmp_path: Path) -> Path:
    noisy, clean = free_ports()
    path = tmp_path / "q.toml"
    path.write_text(f"[bridge]\nnoisy_port = {noisy}\nclean_port = {clean}\n")
    return path


def test_the_bench_plays_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config_file(tmp_path)
    cli.main(["serve", "--config", str(path), "--engine", "off", "--bench", "--seconds", "1", "--json"])
    reported = json.loads(capsys.readouterr().out)
    assert reported["engine"] == "off" and reported["chunks"] == 29 and reported["wrong_length"] == 0
    assert 0 < reported["p50_ms"] <= reported["p99_ms"] <= reported["max_ms"]


def test_serve_ends_with_its_totals(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge.cli", "serve", "--config", str(config_file(tmp_path)), "--engine", "off"]
    serving = subprocess.Popen([*command, "--chain"], stderr=subprocess.PIPE, text=True)
    assert serving.stderr
    assert "44100 Hz" in serving.stderr.readline()
    serving.send_signal(signal.SIGTERM)
    assert "0 chunks in, 0 out, 0 dropped, 0 refused" in serving.stderr.read()
    assert serving.wait(10) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--engine", "remote"], "cannot forward to another server"),
        (["serve", "--boxes", "--host", "0.0.0.0"], "boxes need keys"),
        (["serve", "--boxes", "--key", "/none"], "give both"),
        (["serve", "--boxes", "--key", "/none", "--clients", "/none"], "/none is missing"),
        (["keys", "/none/key"], "cannot be written"),
    ],
)
def test_a_wrong_call_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 1
    reported = capsys.readouterr().err
    assert says in reported and reported.count("\n") == 1


def test_keys_prints_the_public_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    for _ in range(2):
        assert cli.main(["keys", str(path)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and len(first) == 40
    assert path.stat().st_mode & 0o777 == 0o600 and first in path.read_text()


def test_without_a_package_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Programs and boxes on this machine are served without any."""
    path = tmp_path / "key"
    cli.main(["keys", str(path)])
    (tmp_path / "list").write_text(capsys.readouterr().out)
    for package, command in (
        ("zmq", ["serve", "--bench"]),
        ("nacl", ["keys", os.devnull + "x"]),
        ("nacl", ["serve", "--boxes", "--key", str(path), "--clients", str(tmp_path / "list")]),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            assert cli.main(command) == 1
        name = {"zmq": "pyzmq", "nacl": "PyNaCl"}[package]
        assert capsys.readouterr().err == f"quietbox: {name} is not installed; ./install.sh --setup bridge\n"

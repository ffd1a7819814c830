"""Our own ZMTP and CURVE against libzmq's, both ways round, and against whatever else comes over a wire."""

import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from edge import UserError
from edge.net import keys
from edge.net.budget import Budget
from edge.net.connection import Connection, Gone
from edge.net.curve import CurveClient, CurveServer, sodium
from edge.net.transport import Limits, Listener, Loop
from edge.net.zmtp import COMMAND, HANDSHAKE_BYTES, MORE, Mechanism, Null, Peer, ProtocolError, Refused, frame, greeting

MOST = 1024
SIZES = (0, 1, 255, 256, 700, MOST)


def pair() -> tuple[bytes, bytes]:
    public, secret = sodium().crypto_box_keypair()
    return public, secret


SERVER, CLIENT, STRANGER = pair(), pair(), pair()


def server_side(keyed: bool) -> Peer:
    mechanism: Mechanism = Null(b"ROUTER")
    if keyed:
        mechanism = CurveServer(b"ROUTER", SERVER[1], lambda key: key == CLIENT[0])
    return Peer(mechanism, (b"DEALER",), MOST)


def client_side(keyed: bool, secret: bytes = CLIENT[1], server: bytes = SERVER[0]) -> Peer:
    mechanism: Mechanism = CurveClient(b"DEALER", secret, server) if keyed else Null(b"DEALER")
    return Peer(mechanism, (b"ROUTER",), MOST)


def carry(source: Peer, target: Peer, piece: int = 1 << 20) -> list[bytes]:
    """What waits in one is brought to the other; the messages that were in it."""
    data, source.out = bytes(source.out), bytearray()
    return [message for at in range(0, len(data), piece) for message in target.receive(data[at : at + piece])[0]]


def shaken(keyed: bool, piece: int = 1 << 20) -> tuple[Peer, Peer]:
    """Two peers after their handshake."""
    client, server = client_side(keyed), server_side(keyed)
    for _ in range(4):
        carry(client, server, piece)
        carry(server, client, piece)
    assert client.ready and server.ready
    return client, server


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("keyed", [False, True])
def test_messages_pass_whole_and_in_order_however_the_bytes_are_cut(keyed: bool, piece: int) -> None:
    client, server = shaken(keyed, piece)
    messages = [os.urandom(size) for size in SIZES]
    for source, target in ((client, server), (server, client)):
        source.out += b"".join(source.encode(message) for message in messages)
        assert carry(source, target, piece) == messages
    client.ping()
    carry(client, server)
    assert b"PONG" in server.out or (keyed and server.out)
    assert carry(server, client) == []
    assert server.mechanism.key == (CLIENT[0] if keyed else b"")


@pytest.mark.parametrize("keyed", [False, True])
def test_a_message_of_endless_parts_is_never_collected(keyed: bool) -> None:
    client, server = shaken(keyed)
    for _ in range(2000):
        part = frame(*client.mechanism.seal(MORE, b"x" * 100))
        assert server.receive(part)[0] == [] and server.held_bytes == 0
    assert server.refused == 1
    client.out += frame(*client.mechanism.seal(0, b"its end")) + client.encode(b"the next")
    assert carry(client, server) == [b"the next"]


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("length", [MOST + 100, 1 << 30, (1 << 63) - 1, (1 << 64) - 1])
def test_a_frame_is_refused_by_the_length_it_announces(keyed: bool, length: int) -> None:
    _, server = shaken(keyed)
    with pytest.raises(ProtocolError, match="a frame of more than"):
        server.receive(b"\x02" + length.to_bytes(8, "big"))


def test_a_peer_that_only_pings_and_reads_nothing_is_dropped() -> None:
    _, server = shaken(False)
    ping = frame(COMMAND, b"\x04PING\0\0" + b"x" * 16)
    with pytest.raises(ProtocolError, match="reads nothing"):
        for _ in range(1000):
            server.receive(ping)
    assert len(server.out) < 10_000


def test_only_a_key_in_the_list_comes_in_and_hears_why_not() -> None:
    server, stranger = server_side(True), client_side(True, STRANGER[1])
    with pytest.raises(ProtocolError, match="not in the list"):
        for _ in range(4):
            carry(stranger, server)
            carry(server, stranger)
    with pytest.raises(Refused, match=r"^400$"):
        carry(server, stranger)
    assert not server.ready and not stranger.ready


def test_a_server_with_another_key_than_the_box_was_given_learns_nothing() -> None:
    server, fooled = server_side(True), client_side(True, server=STRANGER[0])
    with pytest.raises(ProtocolError, match="cannot be decrypted"):
        for _ in range(4):
            carry(fooled, server)
            carry(server, fooled)
    assert not fooled.ready


@pytest.mark.parametrize("client_keyed", [False, True])
def test_with_keys_on_one_side_alone_there_is_no_handshake(client_keyed: bool) -> None:
    client, server = client_side(client_keyed), server_side(not client_keyed)
    with pytest.raises(ProtocolError, match="mechanism"):
        carry(client, server)
    with pytest.raises(ProtocolError, match="mechanism"):
        carry(server, client)


def test_a_message_in_clear_ends_a_connection_with_keys() -> None:
    _, server = shaken(True)
    with pytest.raises(ProtocolError, match="an unencrypted message"):
        server.receive(frame(0, b"hello"))


def test_nothing_is_heard_twice() -> None:
    client, server = shaken(True)
    sealed = client.encode(b"once")
    assert server.receive(sealed)[0] == [b"once"]
    with pytest.raises(ProtocolError, match="a replayed message"):
        server.receive(sealed)


def test_a_recorded_handshake_is_of_no_use_with_another_server_process() -> None:
    client, server, other = client_side(True), server_side(True), server_side(True)
    record = bytearray()
    for _ in range(4):
        record += client.out
        carry(client, server)
        carry(server, client)
    record += client.encode(b"hop")
    with pytest.raises(ProtocolError):
        other.receive(bytes(record))
    assert not other.ready


@settings(max_examples=100, deadline=None)
@given(turn=st.integers(0, 5), where=st.floats(0, 0.9999), change=st.integers(1, 255))
def test_whoever_changes_a_byte_on_the_way_changes_no_message(turn: int, where: float, change: int) -> None:
    client, server = client_side(True), server_side(True)
    heard: list[bytes] = []
    try:
        for number in range(6):
            source, target = (client, server) if number % 2 == 0 else (server, client)
            if number >= 4:
                source.out += source.encode(b"a hop of sound")
            if number == turn and source.out:
                source.out[int(where * len(source.out))] ^= change
            heard += carry(source, target)
    except ProtocolError:
        pass
    assert {*heard} <= {b"a hop of sound"}


def test_nothing_is_encrypted_before_the_handshake_has_ended() -> None:
    with pytest.raises(ProtocolError, match="before the end of the handshake"):
        client_side(True).encode(b"a hop of sound")


def test_every_byte_in_a_box_is_guarded() -> None:
    for at in range(len(shaken(True)[0].encode(b"hop")) - 2):
        client, server = shaken(True)
        sealed = bytearray(client.encode(b"hop"))
        sealed[2 + at] ^= 1
        with pytest.raises(ProtocolError):
            server.receive(bytes(sealed))


@settings(max_examples=300, deadline=None)
@given(
    keyed=st.booleans(),
    client=st.booleans(),
    stage=st.sampled_from(["start", "greeted", "ready"]),
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.builds(frame, st.integers(0, 7), st.binary(max_size=400)),
            st.builds(
                lambda name, rest: frame(COMMAND, bytes([len(name)]) + name + rest),
                st.sampled_from([b"READY", b"HELLO", b"WELCOME", b"INITIATE", b"ERROR", b"PING", b"PONG", b"MESSAGE"]),
                st.binary(max_size=300),
            ),
        ),
        max_size=12,
    ),
)
def test_no_bytes_do_more_than_end_their_own_connection(
    keyed: bool, client: bool, stage: str, pieces: list[bytes]
) -> None:
    victim = client_side(keyed) if client else server_side(keyed)
    if stage == "ready":
        pairs = shaken(keyed)
        victim = pairs[0] if client else pairs[1]
    elif stage == "greeted":
        victim.receive(greeting(victim.mechanism))
    try:
        for piece in pieces:
            victim.receive(piece)
            assert victim.held_bytes <= HANDSHAKE_BYTES + MOST + 100
    except ProtocolError:
        pass


# Against libzmq.


@pytest.fixture
def context() -> Iterator[zmq.Context]:
    made = zmq.Context()
    yield made
    made.destroy(linger=0)


class Echo:
    """Our side as a server, in a thread: what comes goes back."""

    def __init__(self, keyed: bool, limits: Limits | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.listener = Listener("127.0.0.1", self.port, "port", lambda: server_side(keyed), limits or Limits(4, 64))
        self.loop = Loop(self.listener)
        self.listener.on_message = self._back
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _back(self, connection: Connection, message: bytes) -> None:
        connection.send(message)
        self.loop.flush(self.listener, connection)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.loop.turn(0.05)
        self.loop.close()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)


def keyed_socket(made: zmq.Socket, secret: bytes, server: bytes) -> None:
    made.curve_secretkey, made.curve_serverkey = z85.encode(secret), z85.encode(server)
    made.curve_publickey = zmq.curve_public(z85.encode(secret))


@pytest.mark.parametrize("keyed", [False, True])
def test_a_client_of_libzmq_is_understood(keyed: bool, context: zmq.Context) -> None:
    """Names, heartbeats, messages of every length, a message of many parts in between."""
    echo = Echo(keyed)
    client = context.socket(zmq.DEALER)
    client.setsockopt(zmq.ROUTING_ID, b"a name of its own")
    client.setsockopt(zmq.HEARTBEAT_IVL, 50)
    client.setsockopt(zmq.HEARTBEAT_TIMEOUT, 500)
    if keyed:
        keyed_socket(client, CLIENT[1], SERVER[0])
    events = client.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    client.connect(f"tcp://127.0.0.1:{echo.port}")
    try:
        for round_ in range(2):
            for size in SIZES:
                message = os.urandom(size)
                client.send(message)
                assert client.poll(10_000) and client.recv() == message
            if not round_:
                client.send_multipart([b"part"] * 40)
                time.sleep(0.8)  # heartbeats
        assert parse_monitor_message(events.recv_multipart())["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
        assert not events.poll(0), "the connection broke"
        assert echo.listener.peers[0].peer.refused == 1
    finally:
        echo.stop()


def test_a_client_of_libzmq_hears_that_its_key_is_not_let_in(context: zmq.Context) -> None:
    echo = Echo(True)
    client = context.socket(zmq.DEALER)
    keyed_socket(client, STRANGER[1], SERVER[0])
    events = client.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    client.connect(f"tcp://127.0.0.1:{echo.port}")
    try:
        assert events.poll(10_000) and parse_monitor_message(events.recv_multipart())["value"] == 400
    finally:
        echo.stop()


@pytest.mark.parametrize("keyed", [False, True])
def test_a_server_of_libzmq_is_understood(keyed: bool, context: zmq.Context) -> None:
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.HEARTBEAT_IVL, 50)
    router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 500)
    if keyed:
        router.curve_server = True
        router.curve_secretkey, router.curve_publickey = z85.encode(SERVER[1]), z85.encode(SERVER[0])
    port = router.bind_to_random_port("tcp://127.0.0.1")
    ours = Connection(socket.create_connection(("127.0.0.1", port)), client_side(keyed), 64)

    def until(found: object = None, seconds: float = 10.0) -> list[bytes]:
        over = time.monotonic() + seconds
        heard: list[bytes] = []
        while time.monotonic() < over and not heard:
            ours.write()
            heard += ours.read()
            if (found == "ready" and ours.peer.ready) or (found == "routed" and router.poll(0)):
                break
            time.sleep(0.002)
        return heard

    until("ready")
    assert ours.peer.ready
    for size in SIZES:
        message = os.urandom(size)
        ours.send(message)
        ours.peer.ping()
        until("routed")
        name, came = router.recv_multipart()
        assert came == message
        router.send_multipart([name, message])
        assert until() == [message]
    until(seconds=0.8)
    ours.send(b"still there")
    until("routed")
    assert router.poll(1000) and router.recv_multipart()[1] == b"still there"
    ours.close()


def test_keys_are_written_as_libzmq_writes_them() -> None:
    for public, secret in (SERVER, CLIENT, STRANGER, (bytes(32), b"\xff" * 32)):
        assert keys.z85_encode(public) == z85.encode(public) and keys.z85_decode(z85.encode(secret), "x") == secret
    assert keys.public(z85.encode(CLIENT[1])).encode() == zmq.curve_public(z85.encode(CLIENT[1]))
    with pytest.raises(UserError, match="list is not a key"):
        keys.z85_decode(b"#" * 40, "list")


# Sockets.


def test_handshakes_in_progress_are_few_and_the_busiest_address_gives_way() -> None:
    echo = Echo(False, Limits(4, 64, handshakes=8))
    idle = [socket.create_connection(("127.0.0.1", echo.port)) for _ in range(28)]
    other = socket.socket()
    other.bind(("127.0.0.2", 0))
    other.connect(("127.0.0.1", echo.port))
    idle += [socket.create_connection(("127.0.0.1", echo.port)) for _ in range(12)]
    try:
        over = time.monotonic() + 10
        while time.monotonic() < over and echo.listener.failed < 30:
            time.sleep(0.01)
        pending = [*echo.listener.pending]
        assert len(pending) <= 9 and [one.address for one in pending].count("127.0.0.2") == 1
    finally:
        for one in (*idle, other):
            one.close()
        echo.stop()


def test_a_handshake_has_its_time_and_a_silent_peer_too() -> None:
    echo = Echo(False, Limits(4, 64, handshake_s=0.3, silence_s=0.3))
    slow, silent = (socket.create_connection(("127.0.0.1", echo.port)) for _ in range(2))
    client = client_side(False)
    silent.sendall(bytes(client.out))
    carried = silent.recv(200)
    client.out.clear()
    client.receive(carried)
    silent.sendall(bytes(client.out))
    for one in (slow, silent):
        one.settimeout(10)
        while one.recv(1000):
            pass
        one.close()
    echo.stop()


def test_a_peer_with_a_budget_is_read_no_faster() -> None:
    echo = Echo(False)
    echo.listener.budget = lambda: Budget(20_000, 2_000)
    came = itertools.count()
    total = [0]

    def count(_: Connection, message: bytes) -> None:
        total[0] = next(came)

    echo.listener.on_message = count
    client = Connection(socket.create_connection(("127.0.0.1", echo.port)), client_side(False), 10_000)
    over = time.monotonic() + 10
    while not client.peer.ready and time.monotonic() < over:
        client.write()
        client.read()
    for _ in range(5000):
        client.send(b"")
    began = time.monotonic()
    while time.monotonic() - began < 1.0:
        client.write()
        time.sleep(0.01)
    taken = total[0]
    client.close()
    echo.stop()
    # A read of 16 KB holds 8 000 of them: the first is taken whole, and then nothing for a long time.
    assert 0 < taken < 10_000 and echo.listener.budget is not None


def test_who_does_not_read_costs_a_short_queue() -> None:
    left, right = socket.socketpair()
    connection = Connection(left, shaken(False)[1], 8, queue_bytes=5000)
    with pytest.raises(Gone):
        for _ in range(100_000):
            connection.send(b"x" * 1000)
            connection.write()
            assert len(connection._queue) <= 5 and len(connection._out) < 20_000
            if connection.dropped > 100:
                right.close()
    assert connection.dropped > 100
    left.close()

"""Orders from the PC at the USB cable, a pseudo-terminal in place of the cable: its other end is the PC."""

import os
import random
import select
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boxes import SETTINGS

from edge import orders, serial_orders
from edge.box import Box
from edge.control import Control
from edge.serial_orders import MISSING_S, ORDERS_AT_ONCE, ORDERS_PER_S, Port, SerialOrders

WITHIN_S = 20


class Desk:
    """A box that does not run, and a PC at its cable."""

    def __init__(self, root: Path) -> None:
        self.controller = root / "sys/class/udc/3f980000.usb"
        self.controller.mkdir(parents=True)
        (self.controller / "function").write_text("configfs-gadget.quietbox\n")
        self.see("configured")
        self.journal: list[str] = []
        self.done: list[str] = []
        self.later: list[Callable[[], None]] = []
        self.box = Box(SETTINGS)
        self.control = Control(
            self.box, self.done.append, self.journal.append, self.later.append, lambda: bool(self.later)
        )
        self.pc, self.end = os.openpty()
        self.now_s = 0.0
        self.serial = SerialOrders(
            self.control, lambda: "running, hop p99 90 µs", self.journal.append, Path(os.ttyname(self.end)), root
        )
        self.heard = b""

    def see(self, state: str) -> None:
        """What the kernel says of the cable."""
        (self.controller / "state").write_text(f"{state}\n")

    def take(self, wanted: bool = True) -> bool:
        self.now_s += 1.0
        return self.serial.take(self.now_s, wanted)

    def write(self, data: bytes) -> int:
        """As much as there is room for; the rest would keep the PC waiting."""
        os.set_blocking(self.pc, False)
        written = 0
        while written < len(data):
            try:
                written += os.write(self.pc, data[written : written + 1024])
            except BlockingIOError:
                break
        return written

    def hears(self, count: int = 1) -> list[bytes]:
        """The next lines that the PC receives, each with its end."""
        over_s = time.monotonic() + WITHIN_S
        while self.heard.count(b"\n") < count:
            assert time.monotonic() < over_s, (self.heard, self.journal)
            self.take()
            if select.select([self.pc], [], [], 0.01)[0]:
                self.heard += os.read(self.pc, 65536)
        *lines, self.heard = self.heard.split(b"\n", count)
        return [line + b"\n" for line in lines]

    def hears_nothing(self) -> bool:
        for _ in range(10):
            self.take()
            if select.select([self.pc], [], [], 0.02)[0]:
                return False
        return not self.heard

    def plug_in_again(self) -> None:
        os.close(self.pc)
        os.close(self.end)
        self.take()
        self.pc, self.end = os.openpty()
        self.serial.path = Path(os.ttyname(self.end))
        while not self.serial._port:
            self.take()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    made.take()
    yield made
    made.serial.close()
    os.close(made.pc)
    os.close(made.end)


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (b"volume -20\n", b"ok volume -20 dB\n"),
        (b"  bypass on \n", b"ok bypass on\n"),
        (b"mute on\r", b"ok mute on\r\n"),
        (b"limit 12\r\n", b"ok limit 12 dB\r\n"),
        (b"\n\r\n \nbypass\n", b"ok bypass on\n"),
        (b"volume -20 #abc\n", b"ok volume -20 dB\n"),
        (b"status\n", b"ok running, hop p99 90 us\n"),
        (b"volume 3\n", b"error [playback] volume_db = 3.0 is not a number from -60 to 0 dB\n"),
        (b"reboot\n", b"error 'reboot' is not an order; there are: bypass, mute, limit, volume, engine\n"),
    ],
)
def test_a_line_gets_a_line(desk: Desk, written: bytes, answer: bytes) -> None:
    desk.write(written)
    assert desk.hears() == [answer]
    assert desk.hears_nothing()


def test_it_does_what_it_says_and_reports_it(desk: Desk) -> None:
    desk.write(b"volume -33\nbypass on\nvolume 9\n")
    assert [line[:3] for line in desk.hears(3)] == [b"ok ", b"ok ", b"err"]
    assert (desk.box.latest.playback.volume_db, desk.box.bypass) == (-33, True)
    assert desk.done == ["volume -33 dB", "bypass on"]
    assert len(desk.journal) == 2  # that a PC may give orders, and the one that was refused


def test_a_line_in_pieces_is_one_line(desk: Desk) -> None:
    for piece in (b"vol", b"ume -", b"7\r"):
        desk.write(piece)
        desk.take()
    assert desk.hears() == [b"ok volume -7 dB\r\n"]
    desk.write(b"\nmute\n")  # the second half of CR LF is no line
    assert desk.hears() == [b"ok mute on\n"]


def test_the_port_is_raw(desk: Desk) -> None:
    flags = termios.tcgetattr(desk.end)
    assert not flags[3] & (termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
    assert not flags[1] & termios.OPOST and not flags[0] & (termios.ICRNL | termios.IXON)
    desk.write(b"\x03\x04\x1a\x13mute\n")
    assert b"is not an order" in desk.hears()[0]


def test_a_pc_that_echoes_answers_starts_no_conversation_with_itself(desk: Desk) -> None:
    desk.write(b"volume -20\nvolume 9\nstatus\n")
    for line in desk.hears(3):
        desk.write(line.replace(b"\n", b"\r\n"))
    assert desk.hears_nothing()
    assert len(desk.journal) == 2
    desk.write(b"mute on\n")
    assert desk.hears() == [b"ok mute on\n"]


def test_answers_come_in_order_while_an_engine_is_built(desk: Desk) -> None:
    desk.write(b"engine dsp\nstatus\nmute on\n")
    assert desk.hears_nothing()
    desk.later[0]()
    desk.later.clear()
    assert desk.hears(3) == [b"ok engine dsp\n", b"ok running, hop p99 90 us\n", b"ok mute on\n"]


def test_an_endless_line_costs_bounded_memory_and_no_order_after_it(desk: Desk) -> None:
    for _ in range(60):
        desk.write(b"x" * 4000)
        desk.take()
        assert desk.serial._port and len(desk.serial._port._rest) <= orders.MOST_LINE_BYTES + 1
        assert not desk.serial._lines
    while not desk.write(b"\nmute on\n"):
        desk.take()
    assert desk.hears(2)[1] == b"ok mute on\n"
    assert len(desk.journal) == 2


def test_noise_is_answered_in_printable_words(desk: Desk) -> None:
    noise = random.Random(0).randbytes(1500)
    desk.write(noise + b"\nmute on\n")
    lines = [b""]
    while lines[-1] != b"ok mute on":
        lines += [line.rstrip() for line in desk.hears()]
    assert all(line.decode("ascii").isprintable() for line in lines)
    assert all(sentence.isprintable() and len(sentence) < 400 for sentence in desk.journal)


@pytest.mark.parametrize("line", [b"bypass on\n", b"nonsense\n"])
def test_a_flood_waits_in_the_pc_and_fills_no_journal(desk: Desk, line: bytes) -> None:
    began_s = time.monotonic()
    flood = line * 20_000
    assert desk.write(flood) < len(flood)
    answers = b""
    while time.monotonic() - began_s < 1:
        desk.take()
        desk.write(flood)
        assert len(desk.serial._lines) <= orders.MOST_BYTES_AT_ONCE
        if select.select([desk.pc], [], [], 0.01)[0]:
            answers += os.read(desk.pc, 65536)
    most = ORDERS_AT_ONCE + ORDERS_PER_S * (time.monotonic() - began_s + 1)
    assert 1 < answers.count(b"\n") <= most and len(desk.done) <= most
    assert len(desk.journal) < 25


def test_a_pc_that_reads_nothing_does_not_stop_the_box(desk: Desk) -> None:
    port = desk.serial._port
    assert port
    for _ in range(2000):
        port.answer("x" * 400)
    time.sleep(0.1)  # the kernel hands over what there is room for
    for _ in range(200):
        port.answer("x" * 400)
    port.answer("lost")
    read = b""
    while select.select([desk.pc], [], [], 0.1)[0]:
        read += os.read(desk.pc, 65536)
    assert 400 < len(read) < 700_000 and read.startswith(b"x" * 400 + b"\n") and b"lost" not in read
    desk.write(b"mute on\n")
    while (line := desk.hears()[0]) == b"\n":
        pass
    assert line == b"ok mute on\n"


def test_after_the_plug_was_pulled_it_goes_on(desk: Desk) -> None:
    desk.write(b"mute o")
    desk.take()
    for _ in range(3):
        desk.plug_in_again()
        desk.write(b"bypass off\n")
        assert desk.hears() == [b"ok bypass off\n"]
    assert len(desk.journal) == 1, "that a PC may give orders is reported once"


def test_it_is_off_unless_it_is_wanted(desk: Desk) -> None:
    desk.take(wanted=False)
    desk.journal.clear()
    desk.write(b"bypass on\n")
    for _ in range(5):
        assert not desk.take(wanted=False)
    assert (desk.serial._port, desk.journal, desk.box.bypass) == (None, [], False)
    assert desk.hears() == [b"ok bypass on\n"]


@pytest.mark.parametrize("state", ["not attached", "powered", "", "configured but nobody drives it"])
def test_the_port_is_open_only_while_a_pc_is_there(desk: Desk, state: str) -> None:
    """As long as it is open the kernel does not let the gadget go: `systemctl restart quietbox-gadget` would hang."""
    assert desk.serial._port
    if "nobody" in state:
        (desk.controller / "function").write_text("\n")
    else:
        desk.see(state)
    desk.write(b"mute on\n")
    desk.take()
    desk.take()
    assert desk.serial._port is None and not desk.box.muted
    (desk.controller / "function").write_text("g_audio\n")
    desk.see("suspended")
    assert desk.hears() == [b"ok mute on\n"]


def test_an_answer_is_one_printable_line_of_bounded_length(desk: Desk) -> None:
    assert desk.serial._port
    desk.serial._port.answer("a\nb\x1b[2J\0\u202e" + "c" * 10_000)
    (line,) = desk.hears()
    assert line.startswith(b"ab[2Jc") and len(line) == serial_orders.MOST_ANSWER + 1


@pytest.mark.parametrize("kind", ["missing", "file", "folder", "link", "fifo"])
def test_a_port_that_cannot_be_used_is_reported_once_and_looked_for_again(
    desk: Desk, tmp_path: Path, kind: str
) -> None:
    desk.serial.close()
    desk.journal.clear()
    good, bad = desk.serial.path, tmp_path / "ttyGS0"
    {
        "missing": lambda: None,
        "file": lambda: bad.write_text("mute on\n"),
        "folder": bad.mkdir,
        "link": lambda: bad.symlink_to("/dev/null"),
        "fifo": lambda: os.mkfifo(bad),
    }[kind]()
    desk.serial.path = bad
    for _ in range(round(MISSING_S)):
        assert not desk.take()
    assert not desk.journal, "at power-on the port comes after the box"
    for _ in range(100):
        desk.take()
    assert len(desk.journal) == 1 and str(bad) in desk.journal[0] and "quietbox-gadget" in desk.journal[0]
    assert not desk.box.muted
    desk.serial.path = good
    desk.write(b"mute on\n")
    assert desk.hears() == [b"ok mute on\n"]


def test_a_port_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="ioctl"):
            Port(tmp_path / "file")
    assert len(os.listdir("/proc/self/fd")) == before

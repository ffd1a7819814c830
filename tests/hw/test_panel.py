"""LED and button: every look differs, every press counts once, and no GPIO, however broken, holds anything up."""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machine import wait_for as until

from edge.config import Config, PanelConfig
from edge.config_file import BadConfig, parse
from edge.tools.doctor import machine
from edge.tools.doctor.context import Context
from hw.board import led, panel, pins
from hw.board.button import Button
from hw.board.led import LedPattern, brightness
from hw.board.models import TAKEN_PINS
from hw.board.panel import TICK_S, Panel
from hw.board.pins import FakePins, PanelError, PinsApart

ROOT = Path(__file__).resolve().parents[2]
WIRING = ROOT / "docs/wiring.md"
DRAWING = ROOT / "docs/pictures/wiring.svg"


# What the eye sees.


def seen(look: LedPattern) -> list[float]:
    """Six seconds of a look."""
    return [brightness(look, tick * TICK_S) for tick in range(round(6 / TICK_S))]


def test_every_look_can_be_told_from_every_other() -> None:
    shares = {look: sum(seen(look)) / len(seen(look)) for look in LedPattern}
    changes = {look: sum(a != b for a, b in zip(seen(look), seen(look)[1:], strict=False)) for look in LedPattern}
    assert shares[LedPattern.OFF] == 0 and changes[LedPattern.OFF] == 0
    assert shares[LedPattern.LIT] == 1
    assert 0.05 < shares[LedPattern.DIM] < 0.3 and changes[LedPattern.DIM] == 0
    assert 0 < shares[LedPattern.DARK] < 0.05, "a short flash shows that it is on, and is not a blinking"
    assert 4 <= changes[LedPattern.SLOW] <= 6 and 50 < changes[LedPattern.FAST] <= 60
    for blinking in (LedPattern.SLOW, LedPattern.FAST):
        assert seen(blinking)[0] == 1 and 0.4 < shares[blinking] < 0.6


@given(st.sampled_from(LedPattern), st.floats(0, 1e7))
def test_brightness_is_a_share(look: LedPattern, since_s: float) -> None:
    assert 0 <= brightness(look, since_s) <= 1


# What the finger does.


def presses(readings: list[bool], long_press_ms: float = 800) -> list[str]:
    button = Button(long_press_ms)
    return [press for tick, reading in enumerate(readings) if (press := button.read(reading, tick * TICK_S))]


def held(seconds: float) -> list[bool]:
    return [True] * round(seconds / TICK_S)


UP = [False] * 10


def test_short_on_release_and_long_while_held() -> None:
    assert presses(UP + held(0.2)) == []
    assert presses(UP + held(0.2) + UP) == ["short"]
    assert presses(UP + held(0.9)) == ["long"]
    assert presses(UP + held(5) + UP) == ["long"], "letting go after a long press is not a short one"
    assert presses(UP + held(0.9) + UP + held(0.1) + UP) == ["long", "short"]
    assert presses(UP + held(0.9) + UP, long_press_ms=2000) == ["short"]


def test_a_button_held_at_the_start_means_nothing_until_let_go() -> None:
    assert presses(held(10)) == []
    assert presses(held(10) + UP) == []
    assert presses(held(0.1) + UP + held(0.1) + UP) == ["short"]


def test_a_reading_that_the_next_does_not_confirm_is_no_press() -> None:
    assert presses([*UP, True, *UP, True, *UP]) == []
    assert presses(UP + held(0.3) + [False] + held(0.3) + UP) == ["short"], "a flaw in the contact does not let go"


bounce = st.lists(st.booleans(), max_size=1)
one_press = st.tuples(bounce, st.floats(0.1, 3), bounce, st.integers(5, 50))


@given(st.lists(one_press, max_size=8))
def test_every_press_counts_once_however_it_bounces(wanted: list[tuple[list[bool], float, list[bool], int]]) -> None:
    readings = list(UP)
    for before, down_s, after, pause in wanted:
        readings += [*before, *held(down_s), *after, *[False] * pause]
    got = presses(readings)
    assert len(got) == len(wanted)
    for press, (_, down_s, _, _) in zip(got, wanted, strict=True):
        if abs(down_s - 0.8) > 3 * TICK_S:
            assert press == ("long" if down_s > 0.8 else "short")


@given(st.lists(st.booleans(), max_size=300))
def test_noise_on_the_pin_never_gives_more_presses_than_it_has_edges(readings: list[bool]) -> None:
    edges = sum(a != b for a, b in zip([False, *readings], readings, strict=False))
    assert len(presses(readings)) <= (edges + 1) // 2


# The thread, on the shipped fake.


class Bench:
    """A panel with everything around it made visible."""

    def __init__(self, settings: PanelConfig, **more: object) -> None:
        self.look = LedPattern.LIT
        self.pressed: list[str] = []
        self.said: list[str] = []
        self.turns: list[int] = []
        self.panel = Panel(
            settings,
            lambda: self.look,
            lambda: self.pressed.append("short"),
            lambda: self.pressed.append("long"),
            self.said.append,
            turn=self.turns.append,
            **more,  # type: ignore[arg-type]
        )

    def __enter__(self) -> "Bench":
        self.panel.start()
        return self

    def __exit__(self, *_: object) -> None:
        began = time.monotonic()
        self.panel.stop()
        assert time.monotonic() - began < 2

    @property
    def fake(self) -> FakePins:
        until(lambda: self.panel.pins)
        assert isinstance(self.panel.pins, FakePins)
        return self.panel.pins


FAKE = PanelConfig(backend="fake", long_press_ms=300)


def test_the_fake_shows_and_obeys() -> None:
    with Bench(FAKE) as bench:
        fake = bench.fake
        until(lambda: fake.log)
        bench.look = LedPattern.DIM
        until(lambda: fake.log[-1][1] == led.DIM)
        bench.look = LedPattern.FAST
        until(lambda: [share for _, share in fake.log.copy()].count(1.0) > 3)
        fake.press()
        time.sleep(0.15)
        fake.release()
        until(lambda: bench.pressed == ["short"])
        fake.press()
        until(lambda: bench.pressed == ["short", "long"])
        fake.release()
    assert fake.closed and fake.log[-1][1] == 0
    assert bench.said == ["panel: LED on GPIO 17, button on GPIO 27, through nothing: simulated for tests"]


def test_pins_that_fail_are_said_once_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "RETRY_S", 0.05)
    with Bench(FAKE) as bench:
        for _ in range(3):
            fake = bench.fake
            fake.fail("the solder cracked")
            until(lambda broken=fake: broken.closed and bench.panel.pins not in (None, broken))  # type: ignore[misc]
        until(lambda: bench.fake.log)
    assert bench.said[1:] == ["panel: no LED and no button, the solder cracked"]


def test_an_order_that_raises_does_not_end_the_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "RETRY_S", 0.05)

    def look() -> LedPattern:
        looked.append(1)
        if len(looked) < 4:
            raise ValueError("box\nbroken")
        return LedPattern.LIT

    looked: list[int] = []
    said: list[str] = []
    here = Panel(FAKE, look, lambda: None, lambda: None, said.append)
    here.start()
    until(lambda: len(looked) > 6)
    here.stop()
    assert len(said) == 2 and "ValueError: box broken" in said[1]


def test_a_stuck_button_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "STUCK_S", 0.5)
    with Bench(FAKE) as bench:
        bench.fake.press()
        until(lambda: len(bench.said) > 1)
        time.sleep(0.2)
    assert "stuck" in bench.said[1] and len(bench.said) == 2


def test_the_fake_has_a_knob_even_without_led_and_button() -> None:
    with Bench(PanelConfig(backend="fake", led="off", button="off", knob="limit")) as bench:
        bench.fake.turn(3)
        until(lambda: bench.turns == [3])
        bench.fake.turn(-1)
        until(lambda: bench.turns == [3, -1])
    assert bench.said == [
        "panel: no LED, no button, limit knob on GPIO 24 and 25, through nothing: simulated for tests"
    ]


@pytest.mark.parametrize("settings", [PanelConfig(backend="off"), PanelConfig(led="off", button="off")])
def test_nothing_wanted_nothing_started(settings: PanelConfig) -> None:
    with Bench(settings) as bench:
        pass
    assert bench.said == [] and bench.panel.pins is None


# The real thing, with a library that does what the test says.

LIBRARY = """
import ctypes, os, pathlib, threading, time
HERE = pathlib.Path(__file__).parent
BCM, OUT, IN, PUD_DOWN, PUD_UP, BOTH = 11, 0, 1, 21, 22, 33
VERSION = "9.9"
def ordered(what):
    file = HERE / what
    return file.read_text() if file.exists() else ""
def log(*words):
    with (HERE / "log").open("a") as file:
        print(*words, file=file)
def trouble(where):
    match ordered("trouble").split(":"):
        case [place, "hang"] if place == where:
            ctypes.PyDLL(None).sleep(1000)  # PyDLL keeps the interpreter's lock, as lgpio does
        case [place, "crash"] if place == where:
            os.kill(os.getpid(), 4)
        case [place, text] if place == where:
            raise RuntimeError(text)
trouble("import")
log("pid", os.getpid(), os.getcwd())
def setwarnings(on): pass
def setmode(mode): assert mode == BCM
def setup(pin, way, initial=None, pull_up_down=None):
    trouble("setup")
    log("setup", pin, *(("out", initial) if way == OUT else ("in", "up" if pull_up_down == PUD_UP else "down")))
level = None
def output(pin, value):
    global level
    trouble("output")
    if value != level:
        log("level", value)
    level = value
def input(pin):
    trouble("input")
    if pin in (24, 25):
        return int((ordered("contacts") or "11")[pin - 24])
    return int(ordered("pin") or 1)
def add_event_detect(pin, edge, callback):
    trouble("edges")
    log("edges", pin)
    def watch():
        while True:
            if ordered("contacts") != seen[0]:
                seen[0] = ordered("contacts")
                callback(pin)
            time.sleep(0.001)
    seen = [""]
    threading.Thread(target=watch, daemon=True).start()
class PWM:
    def __init__(self, pin, hz): self.hz = hz
    def start(self, duty):
        global level
        level = None
        log("pwm", self.hz, round(duty))
    def stop(self): output(17, 0)
def cleanup(): log("cleanup")
"""


class Library:
    """A stand-in for the package RPi.GPIO in the GPIO process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "RPi"
        self.folder.mkdir()
        (self.folder / "__init__.py").touch()
        (self.folder / "GPIO.py").write_text(LIBRARY)

    def order(self, name: str, text: str) -> None:
        part = self.folder / f"{name}.part"
        part.write_text(text)
        part.replace(self.folder / name)

    def log(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []

    def pid(self) -> int:
        return int(next(line for line in reversed(self.log()) if line.startswith("pid")).split()[1])


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    device = tmp_path / "gpiochip0"
    device.touch()
    monkeypatch.setattr(pins, "DEVICES", (str(device),))
    monkeypatch.setattr(panel, "RETRY_S", 0.1)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return made


def test_led_and_button_through_the_library(library: Library, tmp_path: Path) -> None:
    with Bench(PanelConfig()) as bench:
        until(lambda: library.log()[-1:] == ["level 1"])
        bench.look = LedPattern.DIM
        until(lambda: library.log()[-1] == "pwm 100 15")
        bench.look = LedPattern.OFF
        until(lambda: library.log()[-1] == "level 0")
        library.order("pin", "0")
        time.sleep(0.3)
        library.order("pin", "1")
        until(lambda: bench.pressed == ["short"])
        library.order("pin", "0")
        until(lambda: bench.pressed == ["short", "long"])
        bench.look = LedPattern.LIT
        until(lambda: library.log()[-1] == "level 1")
    assert library.log()[-2:] == ["level 0", "cleanup"], "the LED is left dark"
    assert library.log()[1:3] == ["setup 17 out 0", "setup 27 in up"]
    assert library.log()[0].endswith(f" {tmp_path}"), "lgpio's pipe goes to the runtime folder"
    assert bench.said[0].startswith("panel: LED on GPIO 17, button on GPIO 27, through RPi.GPIO 9.9 (")
    assert len(bench.said) == 1


def test_the_other_polarity(library: Library) -> None:
    library.order("pin", "0")
    with Bench(PanelConfig(led=22, led_lit="low", button=23, button_pull="down")) as bench:
        until(lambda: library.log()[-1:] == ["level 0"])
        bench.look = LedPattern.DIM
        until(lambda: library.log()[-1] == "pwm 100 85")
        library.order("pin", "1")
        until(lambda: bench.pressed == ["long"])
    assert library.log()[1:3] == ["setup 22 out 1", "setup 23 in down"]
    assert library.log()[-2:] == ["level 1", "cleanup"]


def test_only_one_of_the_two(library: Library) -> None:
    with Bench(PanelConfig(button="off")) as bench:
        until(lambda: "level 1" in library.log())
    assert not any(line.startswith("setup 27") for line in library.log())
    with Bench(PanelConfig(led="off")) as bench:
        until(lambda: "setup 27 in up" in library.log())
        library.order("pin", "0")
        time.sleep(0.2)
    assert bench.said[0].startswith("panel: no LED, button on GPIO 27")


@pytest.mark.parametrize("trouble", ["", "edges:Failed to add edge detection"])
def test_a_knob_through_the_library_with_edges_and_without(library: Library, trouble: str) -> None:
    library.order("trouble", trouble)
    with Bench(PanelConfig(knob="volume")) as bench:
        until(lambda: library.log()[-1:] == ["level 1"])
        for levels in ("01", "00", "10", "11", "01", "00", "01", "11", "10", "00", "01", "11", "10", "00", "01", "11"):
            library.order("contacts", levels)
            time.sleep(0.03)  # a busy machine
        until(lambda: len(bench.turns) >= 3 or sum(bench.turns) == -1)
        assert bench.turns == [1, -1, -1]
        library.order("pin", "0")
        until(lambda: bench.pressed == ["long"])
    assert [line for line in library.log() if line.startswith("setup 2")][-2:] == ["setup 24 in up", "setup 25 in up"]
    assert bench.said[0].startswith("panel: LED on GPIO 17, button on GPIO 27, volume knob on GPIO 24 and 25, through")
    assert len(bench.said) == 1


def test_a_knob_whose_pin_fails_is_named(library: Library) -> None:
    library.order("trouble", "input:unplugged")
    with Bench(PanelConfig(button="off", knob="volume")) as bench:
        until(lambda: len(bench.said) > 1)
    assert bench.said[1] == "panel: no LED, no button and no knob, GPIO 24 or 25 fails (unplugged)"


@pytest.mark.parametrize("where", ["setup", "input"])
def test_a_library_that_never_returns_holds_up_nothing(
    library: Library, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It even keeps the interpreter's lock, which inside this process would stop the sound for good."""
    monkeypatch.setattr(pins, "OPEN_S", 3.0)
    monkeypatch.setattr(pins, "SILENCE_S", 1.0)
    library.order("trouble", f"{where}:hang")
    gaps_s: list[float] = []
    done = threading.Event()

    def audio() -> None:
        before_s = time.monotonic()
        while not done.wait(0.005):
            now_s = time.monotonic()
            gaps_s.append(now_s - before_s)
            before_s = now_s

    thread = threading.Thread(target=audio, daemon=True)
    thread.start()
    with Bench(PanelConfig()) as bench:
        until(lambda: any("hangs" in line for line in bench.said))
        time.sleep(1)
        library.order("trouble", "")
        until(lambda: library.log()[-1:] == ["level 1"])
    done.set()
    thread.join()
    assert sum("hangs" in line for line in bench.said) == 1
    assert max(gaps_s) < 1


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ("import:No access to /dev/mem.  Try running as root!", "add this user to the group gpio"),
        ("import:This module can only be run on a Raspberry Pi!", "this board does not identify itself as one"),
        ("setup:'GPIO busy'", "GPIO 17 is refused for the LED ('GPIO busy': another program"),
        ("output:unplugged", "GPIO 17 fails (unplugged)"),
        ("input:crash", "the GPIO process ended with SIGILL"),
    ],
)
def test_each_trouble_is_said_once_and_mends_itself(library: Library, trouble: str, says: str) -> None:
    library.order("trouble", trouble)
    with Bench(PanelConfig()) as bench:
        until(lambda: any(says in line for line in bench.said))
        time.sleep(0.3)
        library.order("trouble", "")
        until(lambda: library.log()[-1:] == ["level 1"])
    assert sum(says in line for line in bench.said) == 1
    assert sum("no LED" in line for line in bench.said) == 1
    assert all("\n" not in line for line in bench.said)


def test_signals_for_the_box_do_not_reach_the_pins(library: Library) -> None:
    """systemd sends SIGTERM to every process of a service, and `systemctl kill` the signal that it was given."""
    with Bench(PanelConfig()) as bench:
        until(lambda: library.log()[-1:] == ["level 1"])
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT):
            os.kill(library.pid(), number)
        bench.look = LedPattern.OFF
        until(lambda: library.log()[-1] == "level 0")
    assert len(bench.said) == 1


def test_a_box_that_is_killed_leaves_no_light(library: Library, tmp_path: Path) -> None:
    box = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys, time; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
            "from hw.board import led, panel, pins; from edge.config import PanelConfig\n"
            f"pins.DEVICES = {pins.DEVICES!r}\n"
            "panel.Panel(PanelConfig(), lambda: led.LedPattern.LIT, print, print, print).start()\n"
            "time.sleep(60)",
        ]
    )
    until(lambda: library.log()[-1:] == ["level 1"], 20)
    box.kill()
    box.wait()
    until(lambda: library.log()[-1] == "cleanup")
    assert library.log()[-2] == "level 0"


def test_a_machine_without_gpio(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpiochip0").unlink()
    with Bench(PanelConfig()) as bench:
        until(lambda: bench.said)
        time.sleep(0.3)
        assert len(bench.said) == 1 and "this kernel offers no GPIO" in bench.said[0]
        (tmp_path / "gpiochip0").touch()  # the driver came late
        until(lambda: library.log()[-1:] == ["level 1"])
    monkeypatch.setattr(os, "access", lambda path, mode: "gpiochip" not in str(path))
    with Bench(PanelConfig()) as bench:
        until(lambda: bench.said)
    assert "add the user to the group gpio" in bench.said[0]


@pytest.mark.parametrize("backend", ["auto", "gpio"])
def test_a_machine_without_the_library(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "RETRY_S", 0.05)
    monkeypatch.setattr(pins.importlib.util, "find_spec", lambda name: None)
    with Bench(PanelConfig(backend=backend)) as bench:
        until(lambda: bench.said)
        time.sleep(0.2)
        assert bench.panel._thread.is_alive() == (backend == "gpio"), (
            "auto does not look again for what install.sh brings"
        )
    assert bench.said == [
        "panel: no LED and no button, no GPIO library is installed here; on a Raspberry Pi run ./install.sh"
    ]


# The real thing, all of it: the kernel's simulated GPIO under rpi-lgpio.

CONFIGFS = Path("/sys/kernel/config")
with contextlib.suppress(OSError):
    subprocess.run(["modprobe", "-q", "gpio-sim"], check=False, stderr=subprocess.DEVNULL)
on_gpio_sim = pytest.mark.only_where(
    (CONFIGFS / "gpio-sim").is_dir() and importlib.util.find_spec("RPi") is not None,
    "a kernel with gpio-sim, and the extra `board`; python -m hw.prove.pi led_follows button has them",
)


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in sysfs that shows and pulls the lines of a simulated chip."""
    chip = CONFIGFS / "gpio-sim" / f"quietbox{os.getpid()}"
    lines = [chip / "bank0" / f"line{pin}" for pin in (17, 27)]
    chip.mkdir()
    (chip / "bank0").mkdir()
    (chip / "bank0" / "num_lines").write_text("54")
    for line in lines:
        line.mkdir()
        (line / "name").write_text(line.name)
    (chip / "live").write_text("1")
    name = (chip / "bank0" / "chip_name").read_text().strip()
    monkeypatch.setenv("RPI_LGPIO_CHIP", name.removeprefix("gpiochip"))
    monkeypatch.setenv("RPI_LGPIO_REVISION", "c03114")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(panel, "RETRY_S", 0.2)
    yield Path("/sys/devices/platform", (chip / "dev_name").read_text().strip(), name)
    (chip / "live").write_text("0")
    for folder in (*lines, chip / "bank0", chip):
        folder.rmdir()


@on_gpio_sim
def test_led_and_button_of_a_simulated_chip(simulated: Path) -> None:
    def level() -> str:
        return (simulated / "sim_gpio17" / "value").read_text().strip()

    def pull(way: str) -> None:
        (simulated / "sim_gpio27" / "pull").write_text(f"pull-{way}")

    pull("up")
    with Bench(PanelConfig()) as bench:
        until(lambda: level() == "1", 20)
        bench.look = LedPattern.DIM
        time.sleep(0.2)
        lit = sum(level() == "1" for _ in range(300) if not time.sleep(0.0037))
        assert 10 < lit < 100
        bench.look = LedPattern.OFF
        time.sleep(0.2)
        assert {level() for _ in range(100)} == {"0"}
        pull("down")
        time.sleep(0.3)
        pull("up")
        until(lambda: bench.pressed == ["short"])
        pull("down")
        until(lambda: bench.pressed == ["short", "long"])
        pull("up")
        bench.look = LedPattern.LIT
        until(lambda: level() == "1")
    assert level() == "0"
    assert bench.said[0].startswith("panel: LED on GPIO 17, button on GPIO 27, through rpi-lgpio")
    assert len(bench.said) == 1


@on_gpio_sim
def test_pins_held_by_somebody_else(simulated: Path) -> None:
    with Bench(PanelConfig()) as first:
        until(lambda: first.said, 20)
        with Bench(PanelConfig()) as second:
            until(lambda: second.said, 20)
            assert "GPIO 17 is refused for the LED" in second.said[0] and "gpioinfo" in second.said[0]
            first.panel.stop()
            until(lambda: len(second.said) > 1, 20)
    assert second.said[1].startswith("panel: LED on GPIO 17")


# The settings.


@pytest.mark.parametrize("which", ["led", "button", "knob_clk", "knob_dt"])
@pytest.mark.parametrize("pin", range(-1, 60))
def test_a_pin_is_either_free_or_refused_in_one_line(which: str, pin: int) -> None:
    others = {"led": '"off"', "button": '"off"', "knob_clk": 3 if pin != 3 else 4, "knob_dt": 5 if pin != 5 else 6}
    text = "\n".join(
        ["[panel]", 'knob = "volume"', *(f"{key} = {value}" for key, value in (others | {which: pin}).items())]
    )
    if 2 <= pin <= 27 and pin not in (12, 13, 16, 18, 19, 20, 21):
        assert getattr(parse(text).panel, which) == pin
        return
    with pytest.raises(BadConfig) as caught:
        parse(text)
    assert f"{which} = {pin}" in str(caught.value) and "\n" not in str(caught.value)


def test_two_cannot_share_a_pin_but_both_can_be_off() -> None:
    with pytest.raises(BadConfig, match=r"panel.led and panel.button are both 22"):
        parse("[panel]\nled = 22\nbutton = 22")
    assert parse('[panel]\nled = "off"\nbutton = "off"').panel.led == "off"
    with pytest.raises(BadConfig, match=r"panel.button and panel.knob_dt are both 25"):
        parse('[panel]\nbutton = 25\nknob = "limit"')
    with pytest.raises(BadConfig, match=r"panel.knob_clk and panel.knob_dt are both 22"):
        parse('[panel]\nknob = "limit"\nknob_clk = 22\nknob_dt = 22')
    assert parse("[panel]\nbutton = 25").panel.button == 25, "without a knob its pins are free"


# The drawing and its text.


def table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of wiring.md."""
    text = WIRING.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def header_pin(gpio: int) -> int:
    """Where a GPIO lies on the 40-pin header."""
    rows = {2: 3, 3: 5, 4: 7, 14: 8, 15: 10, 17: 11, 18: 12, 27: 13, 22: 15, 23: 16, 24: 18, 10: 19, 9: 21, 25: 22}
    return (rows | {11: 23, 8: 24, 7: 26, 5: 29, 6: 31, 12: 32, 13: 33, 19: 35, 16: 36, 26: 37, 20: 38, 21: 40})[gpio]


GROUNDS, VOLTS = {6, 9, 14, 20, 25, 30, 34, 39}, {1, 17}


def test_the_wiring_table_is_right_and_agrees_with_the_settings() -> None:
    wires = {(part, terminal): (int(pin), name) for part, terminal, pin, name, *_ in table("Wires")}
    for pin, name in wires.values():
        if found := re.match(r"GPIO (\d+)", name):
            assert header_pin(int(found[1])) == pin, name
        else:
            assert (name == "ground" and pin in GROUNDS) or (name == "3.3 V" and pin in VOLTS), (name, pin)
    assert len({pin for pin, _ in wires.values()}) == len(wires), "one wire a pin"
    settings = PanelConfig()
    by_part = [
        (part, name) for (part, _), (_, name) in wires.items() if name.startswith("GPIO") and part != "microphone"
    ]
    led, button, clk, dt = settings.led, settings.button, settings.knob_clk, settings.knob_dt
    assert by_part == [
        ("LED", f"GPIO {led}"),
        ("button", f"GPIO {button}"),
        *(("knob", f"GPIO {n}") for n in (clk, dt)),
    ]
    assert wires["knob", "CLK"][1] == f"GPIO {clk}"


def test_the_taken_pins_are_those_the_settings_refuse() -> None:
    listed = {
        int(pin) for pins, refused, *_ in table("Pins that are taken") if refused == "yes" for pin in pins.split(",")
    }
    assert listed == set(TAKEN_PINS)


def test_the_drawing_shows_the_wires_of_the_table() -> None:
    drawing = ElementTree.parse(DRAWING).getroot()
    texts = ["".join(node.itertext()).strip() for node in drawing.iter() if node.tag.endswith("}text")]
    for _part, _terminal, pin, name, *_ in table("Wires"):
        if name.startswith("GPIO"):
            assert name.split(" (")[0] in texts, name
        assert pin in texts
    drawn = {node.get("id") for node in drawing.iter() if (node.get("id") or "").startswith("wire-")}
    assert drawn == {f"wire-{pin}" for _part, _terminal, pin, *_ in table("Wires")}


def test_pins_of_the_real_back_end_close_without_having_opened(library: Library) -> None:
    library.order("trouble", "import:no")
    with pytest.raises(PanelError, match="does not load"):
        PinsApart(PanelConfig())


def test_the_gpio_process_is_no_real_time_process() -> None:
    """Loading at SCHED_FIFO it kept a board's only processor from the kernel's timers, and the microphone stood."""
    reported: list[int] = []
    ask = [sys.executable, "-S", "-c", "import os; print(os.sched_getscheduler(0))"]

    def open_pins(settings: PanelConfig) -> FakePins:
        reported.append(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
        reported.append(int(subprocess.run(ask, capture_output=True, check=True).stdout))
        return FakePins(settings)

    panel = Panel(PanelConfig(), lambda: LedPattern.DARK, lambda: None, lambda: None, lambda sentence: None, open_pins)

    def start() -> None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        panel.start()

    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
    over = time.monotonic() + 20
    while len(reported) < 2 and time.monotonic() < over:
        time.sleep(0.02)
    panel.stop()
    assert reported == [os.SCHED_FIFO, os.SCHED_OTHER]


def test_the_doctor_tries_a_knob_even_without_led_and_button(library: Library) -> None:
    context = Context()
    context.board = replace(context.board, is_pi=True)
    context.config = replace(Config(), panel=PanelConfig(led="off", button="off", knob="volume"))
    (row,) = machine.panel(context)
    assert row.found.startswith("no LED, no button, volume knob on GPIO 24 and 25, through RPi.GPIO 9.9")
    context.config = replace(Config(), panel=PanelConfig(led="off", button="off"))
    (row,) = machine.panel(context)
    assert row.found == "switched off in the settings"

"""Every key of the settings reaches the stage it is for: another value changes what is built, or what it does.

``SEEN`` names for each section what is built of it; a section or key without a row there fails.
"""

import dataclasses
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from snapshot import differing, snapshot

from edge import box as box_module
from edge.box import Box
from edge.chain import Chain
from edge.config import SECTIONS, Config
from edge.dsp.secondary_path import SecondaryPath
from edge.net import keys
from edge.serve import bridge
from edge.serve.box_server import BoxServer
from edge.suppress import remote
from edge.suppress.foreign import window
from edge.tools import bench
from hw.board import panel
from hw.board.gadget import Gadget
from hw.board.pins import FakePins, open_pins_for, wiring

KEYS = [(section, entry) for section, made in SECTIONS.items() for entry in dataclasses.fields(made)]
OTHER: dict[str, Any] = {
    "capture.device": "Microphone",
    "capture.channel": 3,
    "suppress.engine": "off",
    "suppress.model": "/nowhere/model",
    "window.fft_samples": 1024,
    "window.hop_samples": 64,
    "window.step_frames": 3,
    "window.wait_frames": 1,
    "voice.off": 0.2,
    "gate.floor_dbfs": -80.0,
    "playback.device": "Headphones",
    "playback.mixer": "PCM",
    "cable.device": "hw:Other",
    "remote.server": "127.0.0.2:5558",
    "panel.backend": "fake",
    "bridge.host": "127.0.0.2",
    "bridge.rate_hz": 48_000,
}
"""Values for keys whose range does not tell a sensible other one."""


def with_key(config: Config, section: str, name: str, value: object) -> Config:
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})


def other(config: Config, section: str, entry: "dataclasses.Field[Any]") -> object:
    """A valid value that is neither the one in ``config`` nor the default."""
    now, rule = getattr(getattr(config, section), entry.name), entry.metadata
    if f"{section}.{entry.name}" in OTHER:
        return OTHER[f"{section}.{entry.name}"]
    if isinstance(entry.default, bool):
        return not now
    if rule["low"] < rule["high"]:
        number = now if isinstance(now, (int, float)) else rule["low"]
        found = (number + rule["high"]) / 2 if number < rule["high"] else rule["low"]
        return int(found) if entry.type in (int, int | str) else float(found)
    return next(choice for choice in rule["choices"] if choice not in (now, entry.default))


class OnesNetwork:
    """In place of a window network's file: the same shapes."""

    def __init__(self, settings: Any) -> None:
        self.geometry = window.geometry_of(settings)
        self.file = Path("ones.onnx")
        self.mask = np.ones((self.geometry.bins, self.geometry.frames), np.float32)
        self.seen = np.zeros_like(self.mask)

    def run(self) -> None:
        self.mask.fill(1)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two calibrations, two key pairs and two lists of clients."""
    made = {}
    for name, delay in (("one", 700), ("two", 701)):
        response = np.zeros(1000, np.float32)
        response[delay] = 0.5
        SecondaryPath(response, 0.0, 40.0).save(tmp_path / f"{name}.npz")
        made[f"{name}.npz"] = str(tmp_path / f"{name}.npz")
        made[f"{name}.key"] = str(tmp_path / f"{name}.key")
        made[f"{name}.public"] = keys.create(tmp_path / f"{name}.key")
        (tmp_path / f"{name}.clients").write_text(f"{made[f'{name}.public']}\n")
        made[f"{name}.clients"] = str(tmp_path / f"{name}.clients")
    return made


@pytest.fixture
def everything(files: dict[str, str]) -> Config:
    """All stages on, with the engine that builds fastest."""
    config = Config()
    for section, name, value in (
        ("reference", "channel", 2),
        ("suppress", "engine", "dsp"),
        ("eq", "gain_db", 6.0),
        ("antinoise", "on", True),
        ("antinoise", "calibration", files["one.npz"]),
        ("howl", "on", True),
        ("cable", "device", "Loopback"),
        ("panel", "knob", "volume"),
        ("remote", "server_key", files["one.public"]),
        ("remote", "key_file", files["one.key"]),
        ("bridge", "key_file", files["one.key"]),
        ("bridge", "clients_file", files["one.clients"]),
        ("bridge", "noisy_port", free_port()),
        ("bridge", "clean_port", free_port()),
        ("bridge", "boxes_port", free_port()),
    ):
        config = with_key(config, section, name, value)
    return config


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_other_values_are_valid_and_new(everything: Config) -> None:
    for section, entry in KEYS:
        if f"{section}.{entry.name}" in FILES:
            continue
        value = other(everything, section, entry)
        assert value != getattr(getattr(everything, section), entry.name), f"{section}.{entry.name}"


# --- what is built of the settings


def of_box(config: Config) -> dict[str, object]:
    return snapshot(Box(config))


def of_engine(name: str) -> Callable[[Config], dict[str, object]]:
    def built(config: Config) -> dict[str, object]:
        return snapshot(Chain(with_key(config, "suppress", "engine", name)).engine)

    return built


def of_clock(config: Config) -> dict[str, object]:
    """``playback.clock`` is asked when the devices are open."""
    box = Box(config)
    box.capture.clock = "card"
    return {"one clock": box._one_clock()}


def of_usb(config: Config) -> dict[str, object]:
    return snapshot(Box(with_key(config, "cable", "device", "off")).cable)


def of_gadget(config: Config) -> dict[str, object]:
    """What the command that makes the USB port a device writes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "sys/class/udc/one.usb").mkdir(parents=True)
        (root / "sys/kernel/config/usb_gadget").mkdir(parents=True)
        Gadget(root, wait_s=0).up(serial=config.cable.usb_orders)
        return snapshot(sorted(str(path.relative_to(root)) for path in root.rglob("*")))


def of_panel(config: Config) -> dict[str, object]:
    settings = config.panel
    return snapshot([wiring(settings), FakePins(settings), open_pins_for(settings).__name__, panel.describe(settings)])


def of_button(config: Config) -> dict[str, object]:
    """The panel's thread opens the button when it starts."""
    made: list[float] = []
    opened = threading.Event()

    class Button(panel.Button):
        def __init__(self, long_press_ms: float) -> None:
            super().__init__(long_press_ms)
            made.append(long_press_ms)
            opened.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panel, "Button", Button)
        real = panel.Panel(
            replace(config.panel, backend="fake"),
            pattern=lambda: panel.LedPattern.DARK,
            short=lambda: None,
            long=lambda: None,
            report=lambda _: None,
        )
        real.start()
        assert opened.wait(20)
        real.stop()
    return snapshot(made)


def of_bridge(config: Config) -> dict[str, object]:
    """What `quietbox serve` reports once it listens."""
    said: list[str] = []
    stop = threading.Event()
    stop.set()
    bridge.serve(config, said.append, stop)
    return snapshot(said)


def of_boxes(config: Config) -> dict[str, object]:
    served = BoxServer(config.bridge, lambda: Chain(config).engine, lambda _: None)
    try:
        found = snapshot([served, served.allowed])
        found["port"] = served._listener.socket.getsockname()
        return found
    finally:
        served._close()


def of_priority(config: Config) -> dict[str, object]:
    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_module, "request_realtime_priority", lambda priority: asked.append(priority) or [])
        box = Box(config)
        box.stop()
        box.run()
    return snapshot(asked)


Built = Callable[[Config], dict[str, object]]
SEEN: dict[str, Built] = {
    **dict.fromkeys(SECTIONS, of_box),
    "window": of_engine("window"),
    "remote": of_engine("remote"),
    "panel": of_panel,
    "bridge": of_bridge,
    "suppress.model": of_engine("network"),
    "suppress.sleep_s": of_engine("rnn"),
    "playback.clock": of_clock,
    "cable.usb": of_usb,
    "cable.usb_orders": of_gadget,
    "box.priority": of_priority,
    "panel.long_press_ms": of_button,
    **dict.fromkeys(("bridge.boxes_port", "bridge.most_boxes", "bridge.key_file", "bridge.clients_file"), of_boxes),
}
"""Section or key -> what is built of it."""
FILES = {
    "antinoise.calibration": "two.npz",
    "remote.server_key": "two.public",
    "remote.key_file": "two.key",
    "bridge.key_file": "two.key",
    "bridge.clients_file": "two.clients",
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_reaches_its_stage(
    section: str, everything: Config, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "open_core", lambda _, settings: window.WindowCore(OnesNetwork(settings), settings))
    monkeypatch.setattr(remote.Link, "start", lambda _: None)
    before: dict[Built, tuple[dict[str, object], set[str]]] = {}
    for entry in dataclasses.fields(SECTIONS[section]):
        name = f"{section}.{entry.name}"
        build = SEEN.get(name, SEEN[section])
        if build not in before:
            found = build(everything)
            before[build] = found, differing(found, build(everything))  # what changes by itself proves nothing
        value = files[FILES[name]] if name in FILES else other(everything, section, entry)
        now = build(with_key(everything, section, entry.name, value))
        found, restless = before[build]
        assert differing(found, now) - restless, f"{name} = {value!r} changes nothing"


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("howl.span_ms", "howl guard, watching"),
        ("playback.queue_ms", "howl guard, watching"),
        ("eq.gain_db", "howl guard, watching"),
        ("limiter.threshold_dbfs", "howl guard, watching"),
        ("reference.path_ms", "reference"),
        ("feedforward.highpass_hz", "reference"),
    ],
)
def test_bench_measures_the_configured_stages(name: str, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that are off, which it switches on."""
    stages: dict[str, object] = {}
    monkeypatch.setattr(bench, "timed", lambda name, process, _: stages.update({name.split(",")[0]: process}))

    def measured(config: Config) -> dict[str, object]:
        stages.clear()
        bench.bench_stages(config, 0.1)
        return snapshot(stages[stage.split(",")[0]])

    config = with_key(Config(), "suppress", "engine", "dsp")
    section, key = name.split(".")
    entry = next(entry for entry in dataclasses.fields(SECTIONS[section]) if entry.name == key)
    assert not differing(measured(config), measured(config))
    assert differing(measured(config), measured(with_key(config, section, key, other(config, section, entry))))

"""Cards whose directions lie on different devices, or that have several: found, named, opened and locked as such."""

from pathlib import Path

import pytest

from edge import service
from edge.config import CaptureConfig, Config, PlaybackConfig
from edge.devices import alsa, cards
from edge.devices.cards import clock_of, holder, is_jack, list_cards, missing, port_of, resolve, shown
from edge.devices.names import PcmName, parse
from edge.tools.doctor.cards import find_card
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import FAIL, OK

BELL = "bell"
CARDS = {
    # id: (driver, {pcm folder: (the driver's name of it, subdevices)})
    BELL: ("bell", {"pcm0c": ("mic", 1), "pcm1p": ("speaker", 1)}),
    "Rubix": ("USB-Audio", {"pcm0p": ("USB Audio", 1), "pcm1c": ("USB Audio #1", 1), "pcm2c": ("USB Audio #2", 1)}),
    "PCH": ("HDA-Intel", {"pcm3p": ("HDMI 0", 1), "pcm0p": ("ALC Digital", 1), "pcm10p": ("ALC Analog", 1)}),
    "Loopback": ("Loopback", {"pcm0p": ("Loopback PCM", 2), "pcm1p": ("Loopback PCM", 2)}),
    "USB-Mic": ("USB-Audio", {"pcm0c": ("USB Audio", 1)}),
}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """/proc with ``CARDS``."""
    root = tmp_path / "proc"
    lines = []
    for number, (identity, (driver, ports)) in enumerate(CARDS.items()):
        folder = root / "asound" / f"card{number}"
        lines.append(f" {number} [{identity:<15}]: {driver} - {identity}\n                      {identity}\n")
        for name, (text, subdevices) in ports.items():
            for subdevice in range(subdevices):
                (folder / name / f"sub{subdevice}").mkdir(parents=True)
                (folder / name / f"sub{subdevice}" / "status").write_text("closed\n")
            (folder / name / "info").write_text(f"card: {number}\nname: {text}\n")
        (folder / "id").write_text(f"{identity}\n")
    (root / "asound" / "cards").write_text("".join(lines))
    (root / "77").mkdir()
    (root / "77" / "comm").write_text("aplay\n")
    return root


def hold(proc: Path, number: int, name: str, subdevice: int) -> None:
    (proc / "asound" / f"card{number}" / name / f"sub{subdevice}" / "status").write_text("owner_pid : 77\n")


def only(proc: Path, identity: str) -> None:
    """Unplug all other cards."""
    path = proc / "asound" / "cards"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if f"[{identity} " in line))


@pytest.mark.parametrize(
    ("device", "direction", "name"),
    [
        (BELL, "capture", "hw:CARD=bell,DEV=0"),
        (BELL, "playback", "hw:CARD=bell,DEV=1"),
        ("bell,1", "playback", "hw:CARD=bell,DEV=1"),
        ("Rubix", "capture", "hw:CARD=Rubix,DEV=1"),
        ("Rubix,2", "capture", "hw:CARD=Rubix,DEV=2"),
        ("Rubix,DEV=2", "capture", "hw:CARD=Rubix,DEV=2"),
        ("PCH", "playback", "hw:CARD=PCH,DEV=10"),  # neither HDMI nor the digital line, nor by the order of texts
        ("Loopback,1,1", "playback", "hw:CARD=Loopback,DEV=1,SUBDEV=1"),
        ("USB-Mic", "capture", "hw:CARD=USB-Mic,DEV=0"),
        # ALSA's device 0 would not be there
        ("hw:bell", "playback", "hw:CARD=bell,DEV=1"),
        ("plughw:CARD=Rubix", "capture", "plughw:CARD=Rubix,DEV=1"),
        # as they stand: everything is said, or it is not ours
        ("hw:CARD=PCH", "playback", "hw:CARD=PCH"),
        ("hw:Rubix,2", "capture", "hw:Rubix,2"),
        ("hw:CARD=bell,DEV=0", "playback", "hw:CARD=bell,DEV=0"),
        ("Nobody,1", "capture", "Nobody,1"),
        ("dsnoop:CARD=Rubix", "capture", "dsnoop:CARD=Rubix"),
    ],
)
def test_a_name_means_the_device_that_has_the_direction(
    proc: Path, device: str, direction: cards.Direction, name: str
) -> None:
    assert resolve(device, direction, proc) == name


def test_auto_takes_both_devices_of_one_card(proc: Path) -> None:
    only(proc, BELL)
    assert resolve("auto", "capture", proc) == "hw:CARD=bell,DEV=0"
    assert resolve("auto", "playback", proc) == "hw:CARD=bell,DEV=1"
    assert shown("auto", "playback", proc) == "auto (bell,1)"
    assert clock_of("auto", "capture", proc) == clock_of("auto", "playback", proc) == BELL


def test_open_pcm_opens_that_device(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(alsa, "resolve", lambda device, direction: resolve(device, direction, proc))
    monkeypatch.setattr(alsa, "AlsaPcm", lambda name, direction, params: opened.append(name))
    params = cards.StreamParams(48_000, 2, "S16_LE", 480, 4)
    for device in (BELL, "bell,1", "hw:bell"):
        alsa.open_pcm(device, "playback", params)
    assert opened == ["hw:CARD=bell,DEV=1"] * 3


ALSA_CONF = """
pcm.hw {
    @args [ CARD DEV SUBDEV ]
    @args.CARD { type string }
    @args.DEV { type integer default 0 }
    @args.SUBDEV { type integer default -1 }
    type empty
    slave.pcm { @func concat strings [ "device" $DEV ] }
}
pcm.device0 { type asym capture.pcm { type null } }
pcm.device1 { type asym playback.pcm { type null } }
"""
"""``hw`` of a card with capture on device 0 and playback on device 1."""


def test_libasound_reads_these_names(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened by libasound itself: each direction on its device, and neither on the other."""
    conf = proc / "asound.conf"
    conf.write_text(ALSA_CONF)
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(conf))
    monkeypatch.setattr(alsa, "resolve", lambda device, direction: resolve(device, direction, proc))
    params = cards.StreamParams(48_000, 2, "S16_LE", 480, 4)
    directions: tuple[cards.Direction, ...] = ("capture", "playback")
    for direction in directions:
        for name in (BELL, "bell,0" if direction == "capture" else "bell,1", "bell,1,0", "hw:bell"):
            if name != "bell,1,0" or direction == "playback":
                pcm = alsa.open_pcm(name, direction, params)
                assert pcm.granted == params
                pcm.close()
    for name, wrong in (("bell,1", directions[0]), ("hw:CARD=bell,DEV=0", directions[1])):
        with pytest.raises(cards.DeviceError):
            alsa.open_pcm(name, wrong, params)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hw:0", PcmName("hw", "0")),
        ("hw:0,1", PcmName("hw", "0", 1)),
        ("plughw:CARD=X,DEV=1,SUBDEV=2", PcmName("plughw", "X", 1, 2)),
        ("hw:DEV=1,CARD=X", PcmName("hw", "X", 1)),
        ("X,1", PcmName("", "X", 1)),
        ("X, 1", PcmName("", "X", 1)),
        ("X,-1", None),
        ("X,a", None),
        ("X,1,2,3", None),
        ("X,1,DEV=2", None),
        ("hw:DEV=1", None),
        ("hw:", None),
        ("", None),
        ("front:CARD=X,DEV=0", None),
        ("plug:hw:0", None),
        ("plug:'hw:0,1'", None),
    ],
)
def test_names_are_read_as_alsa_reads_them(name: str, parts: PcmName | None) -> None:
    assert parse(name) == parts
    if parts:
        again = parse(str(parts))
        assert again and (again.card, again.device, again.subdevice) == (parts.card, parts.device, parts.subdevice)


def test_one_lock_for_all_names_of_a_pcm_and_one_for_each_device(proc: Path) -> None:
    same = {port_of(name, "playback", proc) for name in (BELL, "bell,1", "hw:0,1", "plughw:CARD=bell,DEV=1", "hw:bell")}
    assert same == {"bell,1"}
    assert port_of("Rubix,1", "capture", proc) != port_of("Rubix,2", "capture", proc)
    assert port_of("Loopback,0,0", "playback", proc) != port_of("Loopback,0,1", "playback", proc)
    assert port_of("mic", "capture", proc) == "pcm:mic"
    assert clock_of("Rubix,2", "capture", proc) == clock_of("hw:1,0", "playback", proc) == "Rubix"


def test_the_claim_names_the_devices(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "port_of", lambda device, direction: port_of(device, direction, proc))
    config = Config(capture=CaptureConfig(device=BELL), playback=PlaybackConfig(device=BELL))
    assert service._devices(config) == ["capture:bell,0", "playback:bell,1"]


def test_a_holder_is_that_of_the_device_and_subdevice(proc: Path) -> None:
    hold(proc, 0, "pcm1p", 0)
    hold(proc, 3, "pcm0p", 1)
    assert holder(BELL, "playback", proc) == holder("hw:CARD=bell,DEV=1", "playback", proc) == "aplay (process 77)"
    assert holder("bell,0", "capture", proc) == ""
    assert holder("Loopback,0,0", "playback", proc) == ""
    assert holder("Loopback,0,1", "playback", proc) == "aplay (process 77)"
    held = {(card.id, port.device): port.held_by for card in list_cards(proc=proc) for port in card.ports}
    assert held[BELL, 1] == "aplay (process 77)"
    assert held["Loopback", 0] == ""  # its other subdevice is free


@pytest.mark.parametrize(
    ("device", "direction", "words"),
    [
        ("bell,0", "playback", "bell,0 has no playback (cards with playback: bell,1, Rubix,0, PCH"),
        ("Rubix,7", "capture", "Rubix,7 has no capture (cards with capture: bell,0, Rubix,1, Rubix,2, USB-Mic)"),
        ("Rubbix,2", "capture", "did you mean Rubix?"),
        ("PCH", "capture", "PCH has no capture (cards"),
        ("bell", "playback", "bell has no playback there; is it plugged in?"),
    ],
)
def test_errors_name_the_devices_there_are(proc: Path, device: str, direction: cards.Direction, words: str) -> None:
    assert words in str(missing(device, direction, proc))


def test_auto_with_hdmi_alone_says_that_there_is_a_card(proc: Path) -> None:
    only(proc, "Loopback")
    with pytest.raises(
        cards.DeviceMissing, match=r"auto takes no .*Loopback,0, Loopback,1\); name one in the settings"
    ):
        resolve("auto", "playback", proc)


def test_the_doctor_finds_the_device(proc: Path) -> None:
    context = Context(root=proc.parent)
    found = find_card(context, "playback", BELL)
    assert found.verdict is OK and found.found.startswith("hw:CARD=bell,DEV=1 (cards: bell,1, Rubix,0, ")
    assert find_card(context, "playback", "bell,0").verdict is FAIL
    assert find_card(context, "capture", "hw:CARD=Rubix,DEV=3").verdict is FAIL


@pytest.mark.parametrize(
    ("device", "direction", "words"),
    [
        (BELL, "playback", "bell,1"),
        ("hw:CARD=bell,DEV=1", "playback", "hw:CARD=bell,DEV=1"),
        ("USB-Mic", "capture", "USB-Mic"),
        ("Loopback,0,1", "playback", "Loopback,0,1"),
        ("mic", "capture", "mic"),
    ],
)
def test_messages_show_the_device(proc: Path, device: str, direction: cards.Direction, words: str) -> None:
    assert shown(device, direction, proc) == words


def test_the_jack_is_known_by_every_name_of_it(proc: Path) -> None:
    for name in ("Headphones", "Headphones,0", "hw:Headphones", "plughw:CARD=Headphones,DEV=0"):
        assert is_jack(name, proc)
    assert not is_jack("bell,1", proc) and not is_jack("default", proc)

"""The card list on a made-up Pi 4: jack, I2S microphone, USB microphone, HDMI; and the words for a wrong name."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from edge.devices import cards
from edge.devices.cards import best_card, clock_of, holder, is_jack, list_cards, missing, resolve
from edge.devices.fake import I2S_CAPABILITIES, JACK_CAPABILITIES, FakeCard, VirtualClock, opener
from edge.devices.pcm import DeviceMissing

CARDS = """\
 0 [Headphones     ]: bcm2835_headpho - bcm2835 Headphones
                      bcm2835 Headphones
 1 [sndrpigooglevoi]: RPi-simple - snd_rpi_googlevoicehat_soundcar
                      snd_rpi_googlevoicehat_soundcard
 2 [Device         ]: USB-Audio - USB PnP Sound Device
                      C-Media Electronics Inc. USB PnP Sound Device at usb-0000:01:00.0-1.3, full speed
 3 [vc4hdmi0       ]: vc4-hdmi - vc4-hdmi-0
                      vc4-hdmi-0
"""
USB_STREAM = """\
C-Media Electronics Inc. USB PnP Sound Device at usb-0000:01:00.0-1.3, full speed : USB Audio

Capture:
  Status: Stop
  Interface 2
    Altset 1
    Format: S16_LE
    Channels: 1
    Endpoint: 0x82 (2 IN) (ASYNC)
    Rates: 48000, 44100
    Bits: 16
"""


def port(root: Path, card: int, name: str, text: str, owner: int = 0) -> None:
    folder = root / "asound" / f"card{card}" / name / "sub0"
    folder.mkdir(parents=True)
    (folder.parent / "info").write_text(f"card: {card}\ndevice: 0\nname: {text}\n")
    (folder / "status").write_text(f"state: RUNNING\nowner_pid   : {owner}\n" if owner else "closed\n")


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    """A /proc of a Pi 4 on which a player (thread 311 of process 310) holds the jack."""
    root = tmp_path / "proc"
    (root / "asound").mkdir(parents=True)
    (root / "asound" / "cards").write_text(CARDS)
    for number, identity in enumerate(("Headphones", "sndrpigooglevoi", "Device", "vc4hdmi0")):
        (root / "asound" / f"card{number}").mkdir()
        (root / "asound" / f"card{number}" / "id").write_text(identity + "\n")
    port(root, 0, "pcm0p", "bcm2835 Headphones", owner=311)
    port(root, 1, "pcm0p", "Google voiceHAT SoundCard HiFi voicehat-hifi-0")
    port(root, 1, "pcm0c", "Google voiceHAT SoundCard HiFi voicehat-hifi-0")
    port(root, 2, "pcm0c", "USB Audio")
    port(root, 3, "pcm0p", "MAI PCM i2s-hifi-0")
    (root / "asound" / "card2" / "stream0").write_text(USB_STREAM)
    for number, name in ((310, "mpv"), (311, "mpv/ao"), (500, "arecord")):
        (root / str(number) / "fd").mkdir(parents=True)
        (root / str(number) / "comm").write_text(name + "\n")
        (root / str(number) / "status").write_text(f"Name:\t{name}\nTgid:\t{310 if number == 311 else number}\n")
    return root


@pytest.fixture
def found(pi: Path, tmp_path: Path) -> list[cards.Card]:
    clock = VirtualClock()
    door = opener(
        FakeCard("sndrpigooglevoi", clock, capture=I2S_CAPABILITIES),
        FakeCard("Headphones", clock, playback=JACK_CAPABILITIES),
    )
    return list_cards(proc=pi, dev=tmp_path / "dev", open_device=door)


def test_every_card_with_its_ports_and_looks(found: list[cards.Card]) -> None:
    looks = {(card.id, port.direction): port.looks_like for card in found for port in card.ports}
    assert looks == {
        ("Headphones", "playback"): "jack",
        ("sndrpigooglevoi", "capture"): "microphone",
        ("sndrpigooglevoi", "playback"): "output",
        ("Device", "capture"): "microphone",
        ("vc4hdmi0", "playback"): "",
    }
    assert [card.number for card in found] == [0, 1, 2, 3]


def test_offers_by_asking_by_reading_or_the_reason_why_not(found: list[cards.Card]) -> None:
    ports = {(card.id, port.direction): port for card in found for port in card.ports}
    asked = ports["sndrpigooglevoi", "capture"]
    assert (asked.formats, asked.rates_hz, asked.channels) == (("S24_LE", "S32_LE"), (48_000,), (2,))
    usb = ports["Device", "capture"]
    assert (usb.formats, usb.rates_hz, usb.channels) == (("S16_LE",), (44_100, 48_000), (1,))
    assert "no sound card" in ports["vc4hdmi0", "playback"].note


def test_holder_is_the_process_behind_the_thread(found: list[cards.Card], pi: Path) -> None:
    assert found[0].ports[0].held_by == "mpv (process 310)"
    assert found[0].ports[0].note == "in use"
    assert holder("hw:CARD=Headphones", "playback", pi) == "mpv (process 310)"
    assert holder("hw:0,0", "playback", pi) == "mpv (process 310)"
    assert holder("hw:CARD=Device", "capture", pi, pi / "nodev") == ""
    assert holder("mic", "capture", pi) == ""


def test_holder_by_open_files_where_the_card_does_not_say(pi: Path, tmp_path: Path) -> None:
    node = tmp_path / "dev" / "snd" / "pcmC2D0c"
    node.parent.mkdir(parents=True)
    node.touch()
    os.symlink(node, pi / "500" / "fd" / "3")
    assert holder("hw:CARD=Device", "capture", pi, tmp_path / "dev") == "arecord (process 500)"


def test_list_is_json(found: list[cards.Card]) -> None:
    again = json.loads(json.dumps([dataclasses.asdict(card) for card in found]))
    assert again[1]["id"] == "sndrpigooglevoi" and again[1]["ports"][0]["formats"]


def test_no_sound_at_all_is_an_empty_list(tmp_path: Path) -> None:
    assert list_cards(proc=tmp_path) == []
    with pytest.raises(DeviceMissing, match="plug one in"):
        resolve("auto", "capture", tmp_path)
    assert str(missing("Headphones", "playback", tmp_path)).endswith("(this machine has no card with playback)")


def test_auto_takes_the_i2s_microphone_and_the_jack(pi: Path) -> None:
    assert resolve("auto", "capture", pi) == "hw:CARD=sndrpigooglevoi,DEV=0"
    assert resolve("auto", "playback", pi) == "hw:CARD=Headphones,DEV=0"


def test_hdmi_and_loopback_are_never_taken_by_themselves(pi: Path) -> None:
    (pi / "asound" / "cards").write_text(
        CARDS.split(" 1 [")[0].replace("Headphones", "Loopback").replace("bcm2835", "x")
    )
    with pytest.raises(DeviceMissing):
        resolve("auto", "playback", pi)
    assert best_card([], "capture") is None


def test_names(pi: Path) -> None:
    assert resolve("Device", "capture", pi) == "hw:CARD=Device,DEV=0"
    assert resolve("hw:CARD=Device,DEV=0", "capture", pi) == "hw:CARD=Device,DEV=0"
    assert resolve("mic", "capture", pi) == "mic"
    assert is_jack("hw:CARD=Headphones", pi) and is_jack("Headphones", pi) and is_jack("hw:0", pi)
    assert not is_jack("hw:CARD=Device", pi) and not is_jack("spk", pi)


def test_one_clock_for_both_sides_of_a_card(pi: Path) -> None:
    assert clock_of("sndrpigooglevoi", "capture", pi) == clock_of("hw:1,0", "playback", pi) == "sndrpigooglevoi"
    assert clock_of("auto", "capture", pi) != clock_of("auto", "playback", pi)
    assert clock_of("mic", "capture", pi) == "pcm:mic"


@pytest.mark.parametrize(
    ("wrong", "near"), [("hw:CARD=sndrpigooglevoicehat", "sndrpigooglevoi"), ("device", "Device"), ("Devise", "Device")]
)
def test_wrong_name_gets_the_nearest_right_one(pi: Path, wrong: str, near: str) -> None:
    text = str(missing(wrong, "capture", pi))
    assert f"did you mean {near}?" in text
    assert "cards with capture: sndrpigooglevoi, Device" in text and "\n" not in text


def test_right_card_without_that_direction(pi: Path) -> None:
    text = str(missing("Headphones", "capture", pi))
    assert text == "Headphones has no capture (cards with capture: sndrpigooglevoi, Device)"

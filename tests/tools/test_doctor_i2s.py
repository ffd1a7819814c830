"""The doctor's rows about the one I2S bus and about taken pins of LED and button."""

from pathlib import Path

import pytest
from test_doctor import write

from edge.config import Config, PanelConfig
from edge.tools.doctor import cards, i2s
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import OK, WARN

OURS = "dtoverlay=googlevoicehat-soundcard\n"
WM8960 = "dtoverlay=wm8960-soundcard\n"


def pi(root: Path, text: str, product: str = "") -> Context:
    write(root, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    write(root, "proc/device-tree/compatible", "raspberrypi,4-model-b\0brcm,bcm2711\0")
    write(root, "proc/asound/cards", "")
    write(root, "boot/firmware/config.txt", text)
    write(root, "boot/firmware/more.txt", "dtoverlay=hifiberry-dac\n")
    if product:
        write(root, "proc/device-tree/hat/product", f"{product}\0")
    return Context(root=root)


@pytest.mark.parametrize(
    ("text", "product", "verdict", "words"),
    [
        ("", "", OK, "no overlay uses it"),
        (OURS, "", OK, "googlevoicehat-soundcard has it"),
        (OURS, "Google Voice HAT", OK, "has it"),
        (WM8960, "", OK, "/boot/firmware/config.txt line 1: dtoverlay=wm8960-soundcard"),
        (WM8960 + OURS, "", WARN, "one of the two cards is missing"),
        (OURS + "include more.txt\n", "", WARN, "/boot/firmware/more.txt line 1"),
        (OURS, "Raspberry Pi Codec Zero", WARN, "EEPROM"),
        (WM8960 + "dtoverlay=max98357a\n", "", WARN, "max98357a"),
        ("dtoverlay=rpi-codeczero\n", "Raspberry Pi Codec Zero", OK, "Codec Zero"),
        (f"dtoverlay=\n{OURS}", "Raspberry Pi Codec Zero", OK, "has it"),
    ],
)
def test_who_has_the_bus(text: str, product: str, verdict: str, words: str, tmp_path: Path) -> None:
    (found,) = i2s.bus(pi(tmp_path, text, product))
    assert found.verdict is verdict and words in found.found and bool(found.fix) == (verdict is WARN)


def test_no_row_where_there_is_no_such_bus(tmp_path: Path) -> None:
    assert not list(i2s.bus(Context(root=tmp_path))) and not list(i2s.pins(Context(root=tmp_path)))


def test_pins_of_light_and_button(tmp_path: Path) -> None:
    context = pi(tmp_path, WM8960)
    (found,) = i2s.pins(context)
    assert found.check == "pin of the led" and "GPIO 17 is taken by Waveshare" in found.found
    context.config = Config(panel=PanelConfig(led=22, button=17))
    assert not list(i2s.pins(context)), "the board's own button is the box's to use"
    context.config = Config(panel=PanelConfig(led="off", button="off"))
    assert not list(i2s.pins(context))


def test_pins_of_the_knob(tmp_path: Path) -> None:
    context = pi(tmp_path, "dtoverlay=rotary-encoder,pin_a=24,pin_b=25\n")
    assert not list(i2s.pins(context)), "without a knob its pins are anybody's"
    context.config = Config(panel=PanelConfig(knob="volume"))
    clk, dt = i2s.pins(context)
    assert (clk.check, dt.check) == ("pin of the knob_clk", "pin of the knob_dt")
    assert "GPIO 24 is taken by dtoverlay=rotary-encoder" in clk.found
    assert (clk.fix, dt.fix) == ("set [panel] knob_clk = 22", "set [panel] knob_dt = 23")
    context = pi(tmp_path, "dtoverlay=sdio\ndtoverlay=smi\n")
    context.config = Config(panel=PanelConfig(led="off", button="off", knob="volume"))
    assert {row.fix for row in i2s.pins(context)} == {'set [panel] knob = "off"'}


def test_a_missing_microphone_names_the_card_that_has_the_bus(tmp_path: Path) -> None:
    fix = cards.find_card(pi(tmp_path, WM8960), "capture", "auto").fix
    assert "line 1: dtoverlay=wm8960-soundcard" in fix and 'device = "wm8960soundcard"' in fix
    fix = cards.find_card(pi(tmp_path, "dtoverlay=hifiberry-dac\n"), "capture", "auto").fix
    assert "plug in a USB microphone" in fix and "--i2s-card replace" in fix
    assert "overlay is missing" in cards.find_card(pi(tmp_path, "\n"), "capture", "auto").fix

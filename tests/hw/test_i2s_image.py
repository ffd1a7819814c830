"""The card image's first start and the customised stock image, where a sound board is on the header."""

from pathlib import Path

import pytest
from test_install import make_root
from test_stock import image, parts  # noqa: F401

from edge import UserError
from hw.image import boot, found, stock
from hw.image.partitions import Fat

MEMS = " 0 [quietboxmic    ]: simple-card - quietboxmic\n"
HAT = " 0 [Zero           ]: RPi_Codec_Zero - RPi Codec Zero\n"


def card(root: Path, asound: str, product: str = "", more: str = "") -> Path:
    make_root(root, "Raspberry Pi 4 Model B Rev 1.5", asound)
    (root / "boot/firmware/config.txt").write_text(boot.CONFIG + more)
    if product:
        (root / "proc/device-tree/hat").mkdir()
        (root / "proc/device-tree/hat/product").write_text(f"{product}\0")
    return root


def test_a_bare_microphone_is_chosen_and_nothing_conflicts(tmp_path: Path) -> None:
    root = card(tmp_path / "root", MEMS)
    assert found.look(root) == {"capture": {"device": "quietboxmic", "gain_db": 24.0}}
    assert found.conflict(root) == ""


def test_a_hat_with_a_microphone_is_chosen_with_its_light_and_button(tmp_path: Path) -> None:
    root = card(tmp_path / "root", HAT, "Raspberry Pi Codec Zero")
    assert found.look(root) == {"capture": {"device": "Zero"}, "panel": {"led": 23, "button": 27}}
    assert "EEPROM" in found.conflict(root) and "remove dtoverlay=quietbox-microphone" in found.conflict(root)
    assert "\n" not in found.conflict(root)


def test_the_voice_hat_keeps_its_pins_and_a_line_of_the_owner_is_named(tmp_path: Path) -> None:
    root = card(tmp_path / "voice", MEMS, "Google Voice HAT")
    assert found.look(root)["panel"] == {"led": 25, "button": 23} and found.conflict(root) == ""
    root = card(tmp_path / "line", MEMS, more="dtoverlay=merus-amp\n")
    assert found.look(root)["panel"] == {"led": 22, "button": 27}
    assert "dtoverlay=merus-amp" in found.conflict(root)


def test_a_stock_image_whose_config_txt_has_another_card_needs_a_choice(
    image: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    whole = tmp_path / "dac.img"
    whole.write_bytes(image.read_bytes())
    fat: Fat = parts(whole)[0]
    fat.put("config.txt", b"dtparam=audio=on\ninclude more.txt\n")
    fat.put("more.txt", b"[pi4]\ndtoverlay=hifiberry-dac\n")
    with pytest.raises(UserError, match=r"more\.txt line 2 under \[pi4\].*--i2s-card keep or --i2s-card replace"):
        stock.check_bus(fat, "i2s", "")
    for microphone, choice in (("i2s", "keep"), ("i2s", "replace"), ("usb", ""), ("keep", "")):
        stock.check_bus(fat, microphone, choice)
    fat.put("more.txt", b"dtoverlay=wm8960-soundcard\n")
    stock.check_bus(fat, "i2s", "")
    assert stock._option("microphone", "keep") == []
    assert stock._option("i2s-card", "keep") == ["--i2s-card", "keep"] and stock._option("i2s-card", "") == []

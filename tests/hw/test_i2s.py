"""One I2S bus, one card: what config.txt, EEPROMs and modules put on it, what the installer asks, and what it leaves
alone.
"""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_install import USB, make_root, snapshot

from edge import UserError
from edge.sections import PanelConfig
from hw.board import bootconfig, configtxt, hats, i2s
from hw.board.bootconfig import JACK, MICROPHONE, OFF, SCOPE, Wish
from hw.board.pins_taken import BUTTON, FREE_FIRST, LED
from hw.install import command, firmware, settings
from hw.install import i2s as choice
from hw.install.target import Target

PI4 = "Raspberry Pi 4 Model B Rev 1.5"
PI5 = "Raspberry Pi 5 Model B Rev 1.0"
DAC = "dtparam=audio=on\ndtoverlay=hifiberry-dac\n"
WM8960 = "dtparam=audio=on\ndtoverlay=wm8960-soundcard,alsaname=hat\n"


def board(root: Path, text: str, model: str = PI4, product: str = "", asound: str = USB) -> Path:
    make_root(root, model, asound)
    (root / "boot/firmware/config.txt").write_text(text)
    if product:
        (root / "proc/device-tree/hat").mkdir()
        (root / "proc/device-tree/hat/product").write_text(f"{product}\0")
    return root


def target(root: Path, *arguments: str) -> Target:
    """What the installer makes of a root and of its arguments, up to the plan."""
    made = Target(command._parser().parse_args(["--root", str(root), *arguments]))
    made.i2s = choice.decide(made)
    return made


def config(root: Path) -> str:
    return (root / "boot/firmware/config.txt").read_text()


def install(root: Path, *arguments: str) -> Target:
    made = target(root, *arguments)
    for step in firmware.steps(made):
        step.do()
    return made


# What claims the bus.


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("dtoverlay=hifiberry-dac", [1]),
        ("#dtoverlay=hifiberry-dac\n #dtoverlay=max98357a", []),
        ("\n[pi5]\ndtoverlay=pisound\n[pi4]\ndtoverlay=pisound-pi5,x", [5]),
        ("[none]\ndtoverlay=pisound\n[all]\ndtoverlay=hifiberry-dacplus:slave", [4]),
        ("[gpio4=1]\ndtoverlay=wm8960-soundcard", [2]),
        ("[pi5]\n[gpio4=1]\ndtoverlay=wm8960-soundcard", []),
        ("[board-type=0x11]\ndtoverlay=max98357a\n[board-type=0x17]\ndtoverlay=pibell", [2]),
        ("dtparam=i2s=on\ndtoverlay=i2s-mmap\ndtparam=audio=on", []),
        ("dtoverlay=rpi-i2s-mems\ndtoverlay=seeed-4mic-voicecard\r\n", [1, 2]),
        ("dtoverlay=some-unheard-of-soundcard", [1]),
        ("dtoverlay=vc4-kms-v3d,noaudio\ndtoverlay=gpio-fan\ndtoverlay=i2c-rtc,ds3231\ndtoverlay=ramoops", []),
        ("device_tree_overlay=overlays/hifiberry-digi-overlay.dtb", [1]),
        (f"{MICROPHONE}\ndtoverlay=quietbox-microphone", []),
        ("dtoverlay=spi1-1cs\ndtoverlay=spi0-1cs", [1]),
        ("dtoverlay=gpio-ir\ndtoverlay=gpio-ir,gpio_pin=22", [1]),
        ("dtoverlay=gpio-led\ndtparam=gpio=22\ndtoverlay=gpio-led,gpio=18", [3]),
        ("dtoverlay=gpio-fan\ndtparam=gpiopin=18\ndtoverlay=\ndtparam=audio=on", [1]),
        ("dtoverlay=gpio-fan\ndtoverlay=\ndtparam=gpiopin=18", []),
        ("dtoverlay=audremap\ndtoverlay=audremap,pins_18_19", [2]),
        ("gpio=18-21=a0\ngpio=25=op,dh\ngpio=17,19-20=op,dl", [3]),
        ("dtoverlay=i2s-gpio28-31", [1]),
        ("include more.txt\ndtoverlay=pibell", [1, 2]),
        ("include ../more.txt\ninclude /more.txt\ninclude none.txt", []),
    ],
)
def test_what_claims_the_bus(text: str, lines: list[int]) -> None:
    def read(name: str) -> str:
        return "dtoverlay=hifiberry-amp2\ninclude more.txt" if name == "more.txt" else ""

    found = i2s.claims(text, PI4, read)
    if "include more" in text:
        assert len(found) == configtxt.MOST_FILES + 1 and found[0].where == "more.txt line 1"
    else:
        assert [claim.setting.number for claim in found if claim.setting] == lines


def test_on_an_unknown_board_every_section_may_count() -> None:
    (found,) = i2s.claims("[pi5]\ndtoverlay=pisound\n[none]\ndtoverlay=pibell", "")
    assert found.setting and found.setting.section == "[pi5]" and "under [pi5]" in str(found)


def test_a_section_of_an_included_file_goes_on_after_it() -> None:
    text = "include a.txt\ndtoverlay=pibell\n[all]\ndtoverlay=pisound"
    assert [claim.what for claim in i2s.claims(text, PI4, lambda name: "[pi5]")] == ["dtoverlay=pisound"]


def test_eeprom_modules_and_the_line_that_keeps_an_eeprom_out(tmp_path: Path) -> None:
    root = board(tmp_path / "root", "", product="Raspberry Pi Codec Zero")
    assert target(root).i2s.claims[0].hats == hats.by_overlay("rpi-codeczero")
    (root / "boot/firmware/config.txt").write_text("dtoverlay=\ndtparam=audio=on\n")
    assert not target(root).i2s.claims
    (root / "boot/firmware/config.txt").write_text("dtparam=audio=on\ndtoverlay=\n")
    assert len(target(root).i2s.claims) == 1
    (root / "etc/modules-load.d").mkdir()
    (root / "etc/modules-load.d/snd-i2smic-rpi.conf").write_text("# microphone\nsnd-i2smic-rpi\n")
    assert [claim.where for claim in target(root).i2s.claims] == [
        "the HAT's EEPROM",
        "/etc/modules-load.d/snd-i2smic-rpi.conf",
    ]


@pytest.mark.parametrize("product", ["Sense HAT", "PoE+ HAT", "Unicorn Lamp HAT", "Google Voice HAT", "Digital IO"])
def test_other_hats_and_the_one_with_our_overlay_are_no_claim(product: str, tmp_path: Path) -> None:
    assert target(board(tmp_path / "root", "", product=product)).i2s.claims == ()


def test_our_empty_overlay_never_keeps_an_eeprom_out() -> None:
    """`dtoverlay=` above everything else tells the firmware not to load the overlay of a HAT."""
    for text in ("", "# nothing\n", "[pi5]\ndtoverlay=vc4-kms-v3d\n", "hdmi_drive=2\n"):
        edited = bootconfig.edit(text, Wish(jack=True), PI4)
        assert JACK in edited and not configtxt.eeprom_disabled(configtxt.obeyed(edited, PI4)), text
    assert SCOPE in bootconfig.edit("dtoverlay=gpio-fan\n", Wish(jack=True), PI4).split("\n")


LINES = """\
dtoverlay= | dtoverlay=hifiberry-dac | dtoverlay=wm8960-soundcard,x | dtoverlay=spi1-2cs,cs0_pin=18 | dtoverlay=gpio-led
[all] | [pi4] | [gpio4=1] | [none] | include a.txt | dtparam=gpio=18 | gpio=18-=op | gpio=99-1=op | dtoverlay=:,,=["""
configs = st.lists(st.sampled_from(re.split(r" \| |\n", LINES)) | st.text(max_size=20)).map("\n".join)


@given(configs, configs, st.sampled_from(["", PI4, PI5]))
def test_whatever_stands_in_config_txt_switching_off_and_back_changes_nothing(
    text: str, other: str, model: str
) -> None:
    found = i2s.claims(text, model, lambda name: other, ["\xff DAC"])
    assert all("\n" not in str(claim) for claim in found)
    off = tuple(claim.setting for claim in found if claim.setting)
    changed = bootconfig.switch_off(text, off)
    assert bootconfig.restore(changed) == text
    left = [claim.setting for claim in i2s.claims(changed, model, lambda name: other) if claim.setting]
    moved = "dtparam" in text + other  # a parameter whose overlay is off belongs to the one before
    assert moved or all(setting.file != configtxt.NAME for setting in left)
    i2s.header(text, model, found, lambda name: other).panel()


# The choice.


def test_a_second_overlay_stops_an_install_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = board(tmp_path / "root", DAC)
    before = snapshot(root)
    for more in ([], ["--dry-run"]):
        assert command.main(["--root", str(root), "--microphone", "i2s", *more]) == 1
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and "--i2s-card keep or --i2s-card replace" in said
        assert "/boot/firmware/config.txt line 2: dtoverlay=hifiberry-dac" in said and "output only" in said
    assert snapshot(root) == before


@pytest.mark.parametrize(
    ("arguments", "ours", "off"),
    [
        (["--microphone", "i2s", "--i2s-card", "keep"], False, False),
        (["--microphone", "i2s", "--i2s-card", "replace"], True, True),
        (["--microphone", "usb"], False, False),
        ([], False, False),
        (["--i2s-card", "replace"], False, False),
    ],
)
def test_what_each_choice_writes_and_that_uninstall_undoes_it(
    arguments: list[str], ours: bool, off: bool, tmp_path: Path
) -> None:
    root = board(tmp_path / "root", DAC)
    made = install(root, *arguments)
    text = config(root)
    assert (MICROPHONE in bootconfig.block(text), f"{OFF}dtoverlay=hifiberry-dac" in text) == (ours, off)
    assert text.startswith(DAC) or off
    assert not list(firmware.steps(target(root, *arguments))), "a second run has nothing to do"
    assert not list(firmware.steps(target(root))), "an upgrade keeps the choice"
    firmware.restore(made, root / "boot/firmware/config.txt")
    assert config(root) == DAC


def test_back_from_replace_to_the_other_card(tmp_path: Path) -> None:
    root = board(tmp_path / "root", DAC)
    install(root, "--microphone", "i2s", "--i2s-card", "replace")
    install(root, "--microphone", "usb")
    assert config(root) == DAC


def test_a_conflict_that_an_older_version_made_is_named_and_decided_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = bootconfig.add(DAC, [MICROPHONE])
    root = board(tmp_path / "root", old)
    assert command.main(["--root", str(root), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "line 2: dtoverlay=hifiberry-dac" in said and "one of the two is missing" in said
    assert not list(firmware.steps(target(root)))
    install(root, "--i2s-card", "keep")
    assert config(root) == DAC
    (root / "boot/firmware/config.txt").write_text(old)
    install(root, "--i2s-card", "replace")
    assert OFF in config(root) and MICROPHONE in bootconfig.block(config(root))


@pytest.mark.parametrize("model", [PI4, PI5])
@pytest.mark.parametrize(
    ("text", "product", "card"),
    [
        (WM8960, "", "wm8960soundcard"),
        ("dtoverlay=seeed-2mic-voicecard\n", "", "seeed2micvoicec"),
        ("", "Raspberry Pi Codec Zero", "Zero"),
        ("dtoverlay=pisound\n", "pisound", "pisound"),
    ],
)
def test_a_board_with_both_directions_is_used_as_it_is(
    text: str, product: str, card: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = board(tmp_path / "root", text, model, product)
    assert command.main(["--root", str(root), "--microphone", "i2s", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "of its own: it is used" in said
    assert f'[capture] device = "{card}"' in said and f'[playback] device = "{card}"' in said
    install(root, "--microphone", "i2s")
    assert MICROPHONE not in config(root)


def test_a_renamed_card_and_an_array_without_output(tmp_path: Path) -> None:
    there = USB + " 2 [hat            ]: hat - hat\n"
    root = board(tmp_path / "root", WM8960, asound=there)
    assert '[capture] device = "hat"' in settings.made(target(root, "--microphone", "i2s"))[1]
    root = board(tmp_path / "array", "dtoverlay=seeed-4mic-voicecard\n")
    about = settings.made(target(root, "--microphone", "i2s"))[1]
    assert '[capture] device = "seeed4micvoicec"' in about and '[playback] device = "Headphones"' in about


def test_what_no_line_of_config_txt_switches_off_is_refused(tmp_path: Path) -> None:
    arguments = ("--microphone", "i2s", "--i2s-card", "replace")
    with pytest.raises(UserError, match=r"EEPROM.*cannot switch it off.*dtoverlay= above every other"):
        target(board(tmp_path / "a", "", product="HiFiBerry DAC+"), *arguments)
    root = board(tmp_path / "b", "include more.txt\n")
    (root / "boot/firmware/more.txt").write_text("dtoverlay=hifiberry-dac\n")
    with pytest.raises(UserError, match=r"/boot/firmware/more\.txt line 1.*switch that line off yourself"):
        target(root, *arguments)


@pytest.mark.parametrize(
    ("answers", "kept"), [(["keep"], True), (["maybe", "Replace "], False), ([""], None), (["x"] * 9, None), ([], None)]
)
def test_at_a_terminal_it_asks(
    answers: list[str], kept: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    given = iter(answers)

    def answer(prompt: str) -> str:
        for one in given:
            return one
        raise EOFError

    monkeypatch.setattr("builtins.input", answer)
    root = board(tmp_path / "root", DAC)
    if kept is None:
        with pytest.raises(UserError, match="--i2s-card"):
            target(root, "--microphone", "i2s")
    else:
        assert target(root, "--microphone", "i2s").i2s.microphone is not kept
        assert next(given, None) is None


def test_our_overlay_plays_to_a_passive_converter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = board(tmp_path / "root", DAC)
    assert command.main(["--root", str(root), *["--microphone", "i2s", "--i2s-card", "replace", "--dry-run"]]) == 0
    assert "plays to this converter as well" in capsys.readouterr().out


# LED and button.


@pytest.mark.parametrize(
    ("text", "product", "led", "button"),
    [
        ("", "", 17, 27),
        ("", "Google Voice HAT", 25, 23),
        ("", "Raspberry Pi Codec Zero", 23, 27),
        ("dtoverlay=seeed-2mic-voicecard", "", 27, 17),
        ("dtoverlay=cirrus-wm5102", "", 23, 24),
        ("dtoverlay=audioinjector-addons", "", 17, 25),
        ("dtoverlay=hifiberry-dac", "", 17, 27),
        ("dtoverlay=spi1-2cs", "", 22, 27),
        ("dtoverlay=gpio-fan,gpiopin=27", "", 17, 22),
        ("dtoverlay=dpi24", "", "off", "off"),
    ],
)
def test_light_and_button_go_where_they_are_free(
    text: str, product: str, led: int | str, button: int | str, tmp_path: Path
) -> None:
    made = target(board(tmp_path / "root", text, product=product))
    assert choice.on_header(made).panel() == (led, button)
    panel = tomllib.loads(settings.made(made)[0])["panel"]
    assert (panel["led"], panel["button"]) == (led, button)
    noted = " ".join(choice.remarks(made))
    assert ("LED's GPIO 17 is taken" in noted) == (led != 17 and product == "")


def test_settings_that_collide_are_named(tmp_path: Path) -> None:
    root = board(tmp_path / "root", "dtoverlay=wm8960-soundcard")
    (root / "etc/quietbox").mkdir()
    (root / "etc/quietbox/quietbox.toml").write_text("[panel]\nled = 22\nbutton = 27\n")
    assert "GPIO" not in " ".join(choice.remarks(target(root)))
    (root / "etc/quietbox/quietbox.toml").write_text("[panel]\nled = 17\n")
    assert re.search(
        r"LED's GPIO 17 is taken by Waveshare WM8960 Audio HAT \(button\): set \[panel\] led = \d+ in /etc/quietbox/",
        " ".join(choice.remarks(target(root))),
    )
    (root / "etc/quietbox/quietbox.toml").write_bytes(b"\xff[panel")
    assert list(choice.remarks(target(root)))


# The table.


@pytest.mark.parametrize("hat", hats.HATS, ids=lambda hat: hat.name)
def test_a_row_does_not_contradict_itself(hat: hats.Hat) -> None:
    assert hat.inputs or hat.outputs
    assert hat.overlays and hat.rates and hat.source and hat.codec
    assert all(0 <= pin <= 27 for pin in hat.takes) and not set(hat.takes) & {*hats.I2S_PINS, 2, 3}
    for own in (hat.led, hat.button):
        assert own is None or own in hat.takes
    assert len(hat.card) <= 15
    assert hat.eeprom == hats.letters(hat.eeprom)
    assert not hat.passive or not hat.inputs
    assert not set(hat.overlays) & (hats.PLAYS_ONLY | hats.RECORDS)


def test_the_pins_that_boards_are_compared_with_are_the_settings_defaults() -> None:
    assert (PanelConfig().led, PanelConfig().button) == (LED, BUTTON) == FREE_FIRST[:2]

"""Which pins of the header are in use by overlays and boards, and which are left for LED and button.

Source: README of the overlays (raspberrypi/linux, boot/dts/overlays), default and name of each parameter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from hw.board import models
from hw.board.configtxt import Overlay
from hw.board.hats import Hat

LED, BUTTON = 17, 27
"""The settings' defaults (``edge.sections.PanelConfig``), which this package may not import; a test compares them."""
FREE_FIRST = (LED, BUTTON, 22, 23, 24, 25, 5, 6, 26)
"""Pins without a second use, the box's own first; 5 and 6 are pulled up at power-on."""

FIXED: Mapping[str, tuple[int, ...]] = {
    "sdio": (22, 23, 24, 25, 26, 27),
    "smi": tuple(range(2, 26)),
    "gc9a01": (8, 10, 11, 18, 25, 27),
    "vga666": tuple(range(2, 22)),
    "dpi18": tuple(range(22)),
    "dpi18cpadhi": (*range(10), *range(12, 18), *range(20, 26)),
    "dpi24": tuple(range(28)),
    "vc4-kms-dpi-generic": tuple(range(22)),
    "i2s-gpio28-31": (18, 19, 20, 21),  # it takes the bus off the header
    **dict.fromkeys(("spi1-1cs", "spi1-2cs", "spi1-3cs"), (19, 20, 21)),
    **dict.fromkeys(("spi6-1cs", "spi6-2cs"), (19, 20, 21)),
    **dict.fromkeys(("spi0-0cs", "spi0-1cs", "spi0-2cs"), (9, 10, 11)),
}
"""Overlay -> GPIO numbers (BCM) that it always takes."""
BY_PARAMETER: Mapping[str, Mapping[str, int]] = {
    "pwm": {"pin": 18},
    "pwm-2chan": {"pin": 18, "pin2": 19},
    "pwm-ir-tx": {"gpio_pin": 18},
    "gpio-ir": {"gpio_pin": 18},
    "gpio-ir-tx": {"gpio_pin": 18},
    "pps-gpio": {"gpiopin": 18},
    "gpio-led": {"gpio": 19},
    "gpio-key": {"gpio": 3},
    "gpio-fan": {"gpiopin": 12},
    "gpio-hog": {"gpio": 26},
    "gpio-poweroff": {"gpiopin": 26},
    "gpio-shutdown": {"gpio_pin": 3},
    "act-led": {"gpio": -1},
    "rotary-encoder": {"pin_a": 4, "pin_b": 17},
    "hd44780-lcd": {"pin_d4": 6, "pin_d5": 13, "pin_d6": 19, "pin_d7": 26, "pin_en": 21, "pin_rs": 20, "pin_bl": -1},
    "goodix": {"interrupt": 4, "reset": 17},
    "hdmi-backlight-hwhack-gpio": {"gpio_pin": 17},
    "wittypi": {"led_gpio": 17},
    "si446x-spi0": {"int_pin": 17, "reset_pin": 27},
    "w1-gpio": {"gpiopin": 4},
    "i2c-gpio": {"i2c_gpio_sda": 23, "i2c_gpio_scl": 24},
    "i2c-rtc-gpio": {"i2c_gpio_sda": 23, "i2c_gpio_scl": 24},
    "dht11": {"gpiopin": 4},
    "max98357a": {"sdmode-pin": 4},
    "spi1-1cs": {"cs0_pin": 18},
    "spi1-2cs": {"cs0_pin": 18, "cs1_pin": 17},
    "spi1-3cs": {"cs0_pin": 18, "cs1_pin": 17, "cs2_pin": 16},
    "spi6-1cs": {"cs0_pin": 18},
    "spi6-2cs": {"cs0_pin": 18, "cs1_pin": 27},
    "adafruit18": {"dc_pin": 24, "reset_pin": 25, "led_pin": 18},
    "adafruit-st7735r": {"dc_pin": 24, "reset_pin": 25, "led_pin": 18},
    "fbtft": {"dc_pin": -1, "reset_pin": -1, "led_pin": -1},
    "mipi-dbi-spi": {"dc-gpio": -1, "reset-gpio": -1, "backlight-gpio": -1},
}
"""Overlay -> its parameters that name a pin, with the defaults; -1: none."""
BY_CHOICE: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "audremap": {"pins_12_13": (12, 13), "pins_18_19": (18, 19)},
    "uart0": {"ctsrts": (16, 17)},
}
"""Overlay -> parameters that choose a set of pins by their mere presence."""


def of_overlay(overlay: Overlay) -> set[int]:
    """The GPIO numbers (BCM) that an overlay takes, as far as it is in the tables above."""
    taken = set(FIXED.get(overlay.name, ()))
    for name, default in BY_PARAMETER.get(overlay.name, {}).items():
        taken.add(_number(overlay.params.get(name, ""), default))
    for name, pins in BY_CHOICE.get(overlay.name, {}).items():
        taken.update(pins if name in overlay.params else ())
    return taken - {-1}


def of_gpio_line(value: str) -> set[int]:
    """The pins that a line ``gpio=18,20-21=op,dh`` makes plain inputs or outputs."""
    pins, _, state = value.partition("=")
    if not {word.strip() for word in state.split(",")} & {"op", "ip"}:
        return set()
    taken: set[int] = set()
    for part in pins.split(","):
        if match := re.fullmatch(r"(\d{1,2})(?:-(\d{1,2}))?", part.strip()):
            taken.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return taken


@dataclass(frozen=True)
class Header:
    """What is on the header. A group holds the rows of the table that one board may be."""

    groups: tuple[tuple[Hat, ...], ...] = ()
    overlays: tuple[Overlay, ...] = ()
    DEFAULTS: ClassVar = (LED, BUTTON)
    """LED and button of the shipped settings."""

    def taken(self) -> dict[int, str]:
        """GPIO number (BCM) -> what uses it, in words; of boards that cannot be told apart, what all of them use."""
        found: dict[int, str] = {}
        for overlay in self.overlays:
            found |= dict.fromkeys(sorted(of_overlay(overlay)), overlay.setting.line)
        for group in self.groups:
            common = set.intersection(*(set(hat.takes) for hat in group))
            found |= {pin: f"{group[0].name} ({group[0].takes[pin]})" for pin in sorted(common)}
        return found

    def panel(self, led: int | str = 17, button: int | str = 27) -> tuple[int | str, int | str]:
        """(LED, button) to use: the board's own, else those given if they are free, else the first free pin, else
        "off".
        """
        own_led, own_button = self._own("led"), self._own("button")
        free = self.free()
        first = own_led or _free(led, free, own_button or button)
        return first, own_button or _free(button, free, first)

    def free(self) -> list[int]:
        """The pins that nothing uses, whichever boards these are, the best first."""
        rows = [hat for group in self.groups for hat in group]
        used = set(self.taken()) | {pin for hat in rows for pin in hat.takes} | set(models.TAKEN_PINS)
        return [pin for pin in FREE_FIRST if pin not in used]

    def collisions(self, led: int | str, button: int | str, **others: int | str) -> dict[str, str]:
        """The names of those that are taken, "led" and "button" among them -> what has the pin; the board's own LED and
        button are the box's to use.
        """
        taken = self.taken()
        pins = {"led": led, "button": button, **others}
        return {
            name: taken[pin]
            for name, pin in pins.items()
            if isinstance(pin, int) and pin in taken and (name in others or pin != self._own(name))
        }

    def _own(self, name: str) -> int | None:
        """The pin of the LED or button that every board of a group has."""
        for group in self.groups:
            pins: set[int | None] = {getattr(hat, name) for hat in group}
            if len(pins) == 1 and None not in pins:
                return pins.pop()
        return None


def _free(wanted: int | str, free: list[int], other: int | str) -> int | str:
    if wanted == "off" or (wanted in free and wanted != other):
        return wanted
    return next((pin for pin in free if pin != other), "off")


def _number(text: str, default: int) -> int:
    return int(text) if re.fullmatch(r"\d{1,2}", text) else default

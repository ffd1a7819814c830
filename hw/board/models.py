"""One row a Raspberry Pi model. What the product knows of a model stands here, every other table is derived.

Sources: Raspberry Pi documentation ("Revision codes", "Model filters" of config.txt, "GPIO and the 40-pin header") and
the device trees of Linux. Nothing here was read off a board.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """What follows from the model alone. ``None`` where the carrier board of a Compute Module decides."""

    name: str
    """What this product calls it, as "3B+"; empty: not known."""
    begins: str
    """How the device tree's model line begins after "Raspberry Pi "."""
    type_code: int
    """Bits 4 to 11 of a new-style revision code."""
    generation: int
    """1 to 5, by processor; 0: not known."""
    jack: bool | None
    """Whether it has a headphone jack."""
    usb_device: bool | None
    """Whether a USB port meant for it supports device mode."""
    filters: tuple[str, ...]
    """The sections of config.txt that apply to it, beside ``[all]``."""
    image_tree: str = ""
    """Its device tree in the card image, without ".dtb": one that Debian 12's arm64 kernel has and its firmware can
    start; empty: the image does not support it.
    """

    @property
    def gpio_by_registers(self) -> bool:
        """Whether the package RPi.GPIO, which writes the processor's registers, can reach its pins; on a Pi 5 they are
        on a chip behind PCI Express.
        """
        return 1 <= self.generation <= 4


PI1, PI2, PI3, PI4, PI5 = ("pi1",), ("pi2",), ("pi3",), ("pi4",), ("pi5",)

MODELS = (
    Model("1A", "Model A", 0x00, 1, True, False, PI1),
    Model("1B", "Model B", 0x01, 1, True, False, PI1),
    Model("1A+", "Model A Plus", 0x02, 1, True, False, PI1),
    Model("1B+", "Model B Plus", 0x03, 1, True, False, PI1),
    Model("2B", "2 Model B", 0x04, 2, True, False, PI2),
    Model("CM1", "Compute Module", 0x06, 1, None, None, (*PI1, "cm1")),
    Model("3B", "3 Model B", 0x08, 3, True, False, PI3, "bcm2837-rpi-3-b"),
    Model("Zero", "Zero", 0x09, 1, False, True, ("pi0",)),
    Model("CM3", "Compute Module 3", 0x0A, 3, None, None, (*PI3, "cm3"), "bcm2837-rpi-cm3-io3"),
    Model("Zero W", "Zero W", 0x0C, 1, False, True, ("pi0", "pi0w")),
    Model("3B+", "3 Model B Plus", 0x0D, 3, True, False, (*PI3, "pi3+"), "bcm2837-rpi-3-b-plus"),
    Model("3A+", "3 Model A Plus", 0x0E, 3, True, False, (*PI3, "pi3+"), "bcm2837-rpi-3-a-plus"),
    Model("CM3+", "Compute Module 3 Plus", 0x10, 3, None, None, (*PI3, "cm3", "cm3+"), "bcm2837-rpi-cm3-io3"),
    Model("4B", "4 Model B", 0x11, 4, True, True, PI4, "bcm2711-rpi-4-b"),
    Model("Zero 2 W", "Zero 2", 0x12, 3, False, True, ("pi0", "pi0w", "pi02"), "bcm2837-rpi-zero-2-w"),
    Model("400", "400", 0x13, 4, False, True, (*PI4, "pi400"), "bcm2711-rpi-400"),
    Model("CM4", "Compute Module 4", 0x14, 4, None, None, (*PI4, "cm4"), "bcm2711-rpi-cm4-io"),
    Model("CM4S", "Compute Module 4S", 0x15, 4, None, None, (*PI4, "cm4s")),
    Model("5", "5", 0x17, 5, False, True, PI5),
    Model("CM5", "Compute Module 5", 0x18, 5, None, None, (*PI5, "cm5")),
    Model("500", "500", 0x19, 5, False, True, (*PI5, "pi500")),
    Model("CM5 Lite", "Compute Module 5 Lite", 0x1A, 5, None, None, (*PI5, "cm5")),
)
UNKNOWN = Model("", "", -1, 0, None, None, ())
"""A Raspberry Pi of no listed model, or no Raspberry Pi."""

TAKEN_PINS = {
    **dict.fromkeys((12, 13), "the jack's PWM"),
    16: "the amplifier switch of the I2S overlay",
    **dict.fromkeys((18, 19, 20, 21), "I2S, the microphone"),
}
"""GPIO number (BCM) -> what uses it, the same on every model's header; no LED, button or knob may be there."""

_BY_CODE = {model.type_code: model for model in MODELS}
_LONGEST_FIRST = sorted(MODELS, key=lambda model: -len(model.begins))


def by_revision(code: int) -> Model | None:
    """The model of a revision code. Bit 23 marks a new-style code; for the twenty old ones the model line is used."""
    return _BY_CODE.get(code >> 4 & 0xFF) if code >> 23 & 1 else None


def by_model_line(line: str) -> Model | None:
    """The model that the device tree calls ``line``, as "Raspberry Pi 3 Model B Plus Rev 1.3"."""
    rest = line.removeprefix("Raspberry Pi ")
    return next((model for model in _LONGEST_FIRST if re.match(rf"{model.begins}\b", rest)), None)


def image_trees() -> tuple[str, ...]:
    """The file names of the device trees in the card image, each once, sorted."""
    return tuple(sorted({f"{model.image_tree}.dtb" for model in MODELS if model.image_tree}))

"""Names of the PCMs of sound cards: ALSA's ``hw:CARD=X,DEV=1`` and the settings' short form ``X,1``."""

import re
from dataclasses import dataclass, replace

HARDWARE = ("hw", "plughw")
"""ALSA's two names for the PCM of a card: bare, and with ALSA's own conversion."""
ARGUMENTS = ("CARD", "DEV", "SUBDEV")
"""Of both names, in this order where they are given without a key (alsa-lib, ``pcm.hw`` in alsa.conf)."""
CARD = r"[\w-]+"
"""A card's id (the kernel allows letters, digits, underscore and hyphen), or its number."""


@dataclass(frozen=True)
class PcmName:
    """One PCM of one card. ``kind`` is "hw", "plughw", or "" for the settings' short form."""

    kind: str
    card: str
    """Id or number."""
    device: int | None = None
    """None: not named, which ALSA takes for 0 and ``cards.resolve`` for the likeliest."""
    subdevice: int | None = None
    """None: not named; ALSA then takes the first free one."""

    def __str__(self) -> str:
        numbers = [f",DEV={self.device or 0}"] if self.device is not None or self.subdevice is not None else []
        numbers += [f",SUBDEV={self.subdevice}"] if self.subdevice is not None else []
        return f"{self.kind or 'hw'}:CARD={self.card}{''.join(numbers)}"

    def at(self, device: int) -> "PcmName":
        """The same on this device of the card."""
        return replace(self, device=device)


def parse(name: str) -> PcmName | None:
    """``hw:...``, ``plughw:...``, a card's id, ``X,1`` or ``X,1,0`` (card, device, subdevice); None for other names."""
    head, colon, rest = name.rpartition(":")
    if colon and head not in HARDWARE:
        return None
    values: dict[str, str] = {}
    for place, argument in enumerate(rest.split(",")):
        key, equals, value = argument.strip().rpartition("=")
        if not equals:
            key = ARGUMENTS[place] if place < len(ARGUMENTS) else ""
        if key not in ARGUMENTS or key in values:
            return None
        values[key] = value
    card, *numbers = (values.get(key) for key in ARGUMENTS)
    if card is None or not re.fullmatch(CARD, card):
        return None
    if not all(number is None or re.fullmatch(r"[0-9]{1,4}", number) for number in numbers):
        return None
    device, subdevice = (None if number is None else int(number) for number in numbers)
    return PcmName(head, card, device, subdevice)

"""Which of the sound cards that are plugged in is the microphone, which the output."""

from edge.devices import cards
from edge.devices.pcm import Direction
from hw.install.target import Target

MEMS_CARD = "sndrpigooglevoi"
"""The id of the card that googlevoicehat-soundcard makes."""


def microphone(target: Target) -> str:
    """The card to listen to; empty if it is not the only one."""
    if target.i2s.microphone:
        return MEMS_CARD
    if target.i2s.hat:
        return _card_of(target, "capture")
    found = {card.id for card in ports(target, "capture")}
    if target.options.microphone == "usb" or (target.i2s.microphone is False and not target.i2s.hat):
        found = {card.id for card in ports(target, "capture") if card.driver.lower().startswith("usb")}
    return found.pop() if len(found) == 1 else ""


def output(target: Target) -> str:
    """The card to play to; empty if it is not the only one."""
    if target.i2s.hat and target.i2s.hat.outputs:
        return _card_of(target, "playback")
    found = {card.id for card in ports(target, "playback")}
    if len(found) > 1:
        found.discard(MEMS_CARD)  # its output is always listed, whether or not an amplifier is wired to it
    return found.pop() if len(found) == 1 else ""


def ports(target: Target, direction: Direction) -> list[cards.Card]:
    """The cards that look like a microphone (capture) or a headphone output (playback)."""
    return [
        card for card in target.cards if any(port.direction == direction and port.looks_like for port in card.ports)
    ]


def labels(target: Target, direction: Direction) -> list[str]:
    """What the settings call each of their ports in this direction."""
    return sorted(
        cards.label(card, port)
        for card in ports(target, direction)
        for port in card.ports
        if port.direction == direction and port.looks_like
    )


def likely_cards(target: Target) -> set[str]:
    """The cards that the box would select itself."""
    directions: tuple[Direction, ...] = ("capture", "playback")
    return {best.id for one in directions if (best := cards.best_card(target.cards, one))}


def _card_of(target: Target, direction: Direction) -> str:
    """The card of the sound board on the header: the one that is there, else what the table calls it. A name given in
    config.txt wins over the table's.
    """
    hat = target.i2s.hat
    assert hat
    there = {card.id for card in ports(target, direction) if _may_be_i2s(card)}
    return hat.card if hat.card in there or len(there) != 1 else there.pop()


def _may_be_i2s(card: cards.Card) -> bool:
    words = f"{card.id} {card.driver}".lower()
    return card.id != MEMS_CARD and not any(word in words for word in ("usb", "bcm2835", "headphones", "hdmi"))

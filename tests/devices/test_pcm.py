"""Opening a device: ALSA's errors as one line each, and parameters that are really granted."""

import os

import pytest

from edge.devices import alsa
from edge.devices.fake import I2S_CAPABILITIES, FakeCard, VirtualClock
from edge.devices.negotiation import Needs, negotiate
from edge.devices.pcm import Capabilities, DeviceBusy, DeviceMissing, DeviceRefused, StreamParams, counts_in_words


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("No such file or directory [x]", DeviceMissing, "no sound card"),
        ("No such device [x]", DeviceMissing, "no sound card"),
        ("Device or resource busy [x]", DeviceBusy, "in use by another process"),
        ("Permission denied [x]", DeviceRefused, "group audio"),
        ("Invalid argument [x]", DeviceRefused, "Invalid argument"),
        ("No space left on device [x]", DeviceRefused, "USB port has no bandwidth left"),
        ("Connection refused [x]", DeviceRefused, "sound server does not run"),
        ("Input/output error [x]", DeviceRefused, "does not answer"),
        ("something new", DeviceRefused, "something new"),
    ],
)
def test_alsa_errors_become_one_line(
    text: str, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    error = alsa._explain("x", "x", "capture", Exception(text))
    assert type(error) is kind and words in str(error) and "\n" not in str(error)


def test_root_is_not_sent_to_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    error = alsa._explain("x", "x", "capture", Exception("Permission denied [x]"))
    assert "group" not in str(error) and "DeviceAllow=" in error.fix


def test_negotiation_trusts_only_what_was_granted() -> None:
    """ALSA grants 48 kHz when asked for 16: the first wish that is truly granted wins, and nothing stays open."""
    card = FakeCard("Mic", VirtualClock(), capture=I2S_CAPABILITIES)
    needs = Needs((16_000, 44_100, 48_000), ("S16_LE", "S32_LE"), lambda rate_hz: (1, 2), 5, 4)
    pcm, wish = negotiate(card.open_pcm, "Mic", "hw:CARD=Mic", "capture", needs)
    assert wish == pcm.granted == StreamParams(48_000, 2, "S32_LE", 240, 4)
    assert card.opened == 2  # 44.1 kHz was never tried: the card had said what it offers


def test_which_requests_are_worth_trying() -> None:
    capabilities = Capabilities(("S16_LE",), (8_000, 48_000), True, (2,))
    assert capabilities.covers(StreamParams(44_100, 2, "S16_LE", 441, 4))
    assert not capabilities.covers(StreamParams(96_000, 2, "S16_LE", 960, 4))
    assert not capabilities.covers(StreamParams(48_000, 1, "S16_LE", 480, 4))
    assert Capabilities().covers(StreamParams(1, 1, "S16_LE", 1, 1))
    assert str(capabilities) == "S16_LE at 8000 to 48000 Hz, 2 channel(s)"


def test_channel_counts_in_few_characters() -> None:
    for counts, words in (((), ""), ((1,), "1"), ((1, 2), "1/2"), ((3, 5), "3/5"), (tuple(range(1, 33)), "1 to 32")):
        assert counts_in_words(counts) == words
    assert counts_in_words((2, 4, 5, 6, 7, 18)) == "2/4 to 7/18"

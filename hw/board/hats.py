"""One row a sound board for the 40-pin header. What the product knows of such boards stands here, every other table is
derived: `python -m hw.board.hardware` prints them.

Sources: each row's ``source``, and the overlays of raspberrypi/linux (arch/arm/boot/dts/overlays, its README).
Nothing here was tried on a board.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

OVERLAY = "googlevoicehat-soundcard"
"""Ours for I2S MEMS microphones: part of every Raspberry Pi kernel."""
OURS = (OVERLAY, "quietbox-microphone")
"""The second is the card image's own, for Debian's kernel, which lacks the first."""
I2S_PINS = (18, 19, 20, 21)
"""GPIO numbers (BCM) of bit clock, word clock, sound in, sound out: one set of pins on every model, Pi 5 included."""


@dataclass(frozen=True)
class Hat:
    """A sound board. Rates are the codec's by its data sheet; a driver may offer fewer."""

    name: str
    overlays: tuple[str, ...]
    """The overlays that drive it; the first is today's name."""
    codec: str
    inputs: int
    """Channels of capture; 0: it cannot record."""
    outputs: int
    """Channels of playback; 0: it cannot play."""
    rates: str
    source: str
    takes: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """GPIO number (BCM) -> its use on the board, beside I2S and I2C."""
    led: int | None = None
    """Pin of an LED of its own that the box can drive: lit by a high level."""
    button: int | None = None
    """Pin of a button of its own that connects to ground."""
    card: str = ""
    """ALSA's id of the card; empty: not known."""
    eeprom: str = ""
    """What its EEPROM calls it, small letters and digits only; empty: it has none, or the name is not known."""
    passive: bool = False
    """Whether the converter has no control bus, so that our overlay drives it as well."""
    in_kernel: bool = True
    """Whether driver and overlay are part of Raspberry Pi's kernel."""
    line: bool = False
    """Whether its input is for line level, so that a microphone needs a preamplifier."""
    emulated: bool = False
    """Whether the tests run the box on an imitation of its card (``edge/devices/fake.py``)."""


def _gpio(text: str) -> Mapping[int, str]:
    """``"17 button, 5 6 LEDs"`` as GPIO -> use."""
    found = {}
    for part in text.split(", "):
        words = part.split()
        numbers = [word for word in words if word.isdecimal()]
        found.update({int(number): " ".join(words[len(numbers) :]) for number in numbers})
    return MappingProxyType(found)


_LINUX = "raspberrypi/linux, boot/dts/overlays"
_PI = "raspberrypi.com/documentation/accessories/audio.html"
_SEEED = "wiki.seeedstudio.com, github.com/respeaker/seeed-voicecard"
_STEREO = "44.1 to 192 kHz"
_SPI = "8 9 10 11 SPI"

HATS = (
    Hat(
        *("I2S MEMS microphone (INMP441, SPH0645, ICS-43434)", (OVERLAY,), "none", 2, 2, "48 kHz", _LINUX),
        takes=_gpio("16 amplifier switch"),
        card="sndrpigooglevoi",
        emulated=True,
    ),
    Hat(
        *("Google AIY Voice HAT", (OVERLAY,), "MAX98357A, ICS-43432", 2, 2, "48 kHz", "pinout.xyz/pinout/voice_hat"),
        takes=_gpio("16 amplifier switch, 23 button, 25 LED"),
        led=25,
        button=23,
        card="sndrpigooglevoi",
        eeprom="voicehat",
    ),
    Hat(
        *("RaspiAudio MIC+", (OVERLAY,), "I2S amplifier and microphone", 2, 2, "48 kHz"),
        source="pinout.xyz/pinout/audioplus_speakerplus_micplus",
        takes=_gpio("16 amplifier switch, 23 button, 25 LED"),
        led=25,
        button=23,
        card="sndrpigooglevoi",
    ),
    Hat(
        *("Google AIY Voice Bonnet", ("googlevoicebonnet-soundcard",), "RT5645", 2, 2, "48 kHz"),
        source="pinout.xyz/pinout/aiy_voice_bonnet",
        takes=_gpio("23 button"),
        button=23,
        eeprom="voicebonnet",
        in_kernel=False,
    ),
    Hat(
        *("ReSpeaker 2-Mics Pi HAT v1", ("seeed-2mic-voicecard", "seeed-voicecard"), "WM8960", 2, 2, "8 to 48 kHz"),
        source=_SEEED,
        takes=_gpio("17 button, 10 11 LEDs by SPI, 12 13 Grove socket"),
        button=17,
        card="seeed2micvoicec",
        in_kernel=False,
    ),
    Hat(
        *("ReSpeaker 2-Mics Pi HAT v2", ("respeaker-2mic-v2_0",), "TLV320AIC3104", 2, 2, "8 to 96 kHz"),
        source="github.com/Seeed-Studio/seeed-linux-dtoverlays",
        takes=_gpio("17 button, 10 11 LEDs by SPI, 12 13 Grove socket"),
        button=17,
        card="seeed2micvoicec",
        in_kernel=False,
    ),
    Hat(
        *("Adafruit Voice Bonnet", ("seeed-2mic-voicecard",), "WM8960", 2, 2, "8 to 48 kHz"),
        source="learn.adafruit.com/adafruit-voice-bonnet",
        takes=_gpio("17 button, 5 6 LEDs (DotStar)"),
        button=17,
        card="seeed2micvoicec",
        in_kernel=False,
    ),
    Hat(
        *("ReSpeaker 4-Mic Array", ("seeed-4mic-voicecard",), "AC108", 4, 0, "8 to 48 kHz", _SEEED),
        takes=_gpio("5 power of the LEDs, 10 11 LEDs by SPI, 12 13 Grove socket"),
        card="seeed4micvoicec",
        in_kernel=False,
    ),
    Hat(
        *("ReSpeaker 6-Mic Circular, 4-Mic Linear Array", ("seeed-8mic-voicecard",), "two AC108, AC101", 8, 8),
        rates="8 to 48 kHz",
        source=_SEEED,
        takes=_gpio("26 button, 5 power of the LEDs, 10 11 LEDs by SPI, 12 13 Grove socket"),
        button=26,
        card="seeed8micvoicec",
        in_kernel=False,
    ),
    Hat(
        *("Waveshare WM8960 Audio HAT", ("wm8960-soundcard",), "WM8960", 2, 2, "8 to 48 kHz"),
        source=f"waveshare.com/wiki/WM8960_Audio_HAT; {_LINUX}",
        takes=_gpio("17 button"),
        button=17,
        card="wm8960soundcard",
    ),
    Hat(
        *("Raspberry Pi Codec Zero, IQaudio Codec Zero", ("rpi-codeczero", "iqaudio-codec"), "DA7212", 2, 2),
        rates="8 to 96 kHz",
        source=_PI,
        takes=_gpio("23 green LED, 24 red LED, 27 button"),
        led=23,
        button=27,
        card="Zero",
        eeprom="picodec",
    ),
    Hat(
        *("PiBell", ("pibell",), "ICS-43432, S/PDIF transmitter", 2, 2, "8 to 192 kHz", _LINUX),
        card="PiBell",
        eeprom="pibell",
    ),
    Hat(
        *("AudioInjector Stereo, Zero", ("audioinjector-wm8731-audio",), "WM8731", 2, 2, "8 to 96 kHz", _LINUX),
        card="audioinjectorpi",
    ),
    Hat(
        *("AudioInjector Octo", ("audioinjector-addons",), "CS42448", 6, 8, "8 to 96 kHz", _LINUX),
        takes=_gpio("5 reset, 22 23 24 27 clock multiplier"),
        line=True,
    ),
    Hat(
        *("AudioInjector Ultra", ("audioinjector-ultra",), "CS4265", 2, 2, "8 to 192 kHz", _LINUX),
        takes=_gpio("5 reset"),
    ),
    Hat(*("Fe-Pi Audio Z", ("fe-pi-audio",), "SGTL5000", 2, 2, "8 to 96 kHz", _LINUX), eeprom="fepi"),
    Hat(
        *("Pisound", ("pisound",), "PCM5102A, ADC", 2, 2, "48, 96, 192 kHz", _LINUX),
        takes=_gpio(f"17 button, 12 24 reset, 13 16 26 rate, 25 MIDI, {_SPI}"),
        card="pisound",
        eeprom="pisound",
        line=True,
    ),
    Hat(
        *("Cirrus Logic Audio Card", ("cirrus-wm5102", "rpi-cirrus-wm5102"), "WM5102, WM8804", 2, 2, "8 to 192 kHz"),
        source=_LINUX,
        takes=_gpio(f"17 reset, 22 regulator, 27 interrupt, 7 chip select, {_SPI}"),
    ),
    Hat(
        *("HiFiBerry DAC+ ADC", ("hifiberry-dacplusadc",), "PCM5122, PCM1861", 2, 2, _STEREO, _LINUX),
        card="sndrpihifiberry",
        eeprom="dacadc",
        line=True,
    ),
    Hat(
        *("HiFiBerry DAC+ ADC Pro", ("hifiberry-dacplusadcpro",), "PCM5122, PCM1863", 2, 2, _STEREO, _LINUX),
        card="sndrpihifiberry",
        eeprom="dacadcpro",
    ),
    Hat(*("audioSense-Pi", ("audiosense-pi",), "TLV320AIC3204", 2, 2, "8 to 96 kHz", _LINUX), takes=_gpio("26 reset")),
    Hat(
        *("DACBerry 400", ("dacberry400",), "TLV320AIC3104", 2, 2, "8 to 96 kHz", _LINUX),
        takes=_gpio("26 reset"),
        eeprom="dacberry",
    ),
    Hat("MikroElektronika PROTO", ("proto-codec", "rpi-proto"), "WM8731", 2, 2, "8 to 96 kHz", _LINUX),
    Hat(
        *("PDM microphones with an ADAU7002 (Pirate Audio Dual Mic)", ("adau7002-simple",), "ADAU7002", 2, 0),
        rates="8 to 96 kHz",
        source=_LINUX,
        card="adau7002",
    ),
    Hat(
        *("HiFiBerry DAC, DAC Zero, pHAT DAC and others with a PCM5102A", ("hifiberry-dac", "i2s-dac", "rpi-dac")),
        codec="PCM5102A",
        inputs=0,
        outputs=2,
        rates=_STEREO,
        source=_LINUX,
        card="sndrpihifiberry",
        passive=True,
    ),
    Hat(
        *("Pimoroni Pirate Audio", ("hifiberry-dac",), "PCM5102A or MAX98357A", 0, 2, _STEREO),
        source="github.com/pimoroni/pirate-audio",
        takes=_gpio("5 6 16 24 buttons, 25 amplifier switch, 13 backlight, 7 9 10 11 display"),
        card="sndrpihifiberry",
        passive=True,
    ),
    Hat(
        *("MAX98357A amplifier", ("max98357a",), "MAX98357A", 0, 2, "8 to 96 kHz", _LINUX),
        takes=_gpio("4 amplifier switch"),
        card="MAX98357A",
        passive=True,
    ),
    Hat(
        *("HiFiBerry DAC+, DAC2", ("hifiberry-dacplus", "hifiberry-dacplus-std", "hifiberry-dacplus-pro")),
        codec="PCM5122",
        inputs=0,
        outputs=2,
        rates=_STEREO,
        source=_LINUX,
        card="sndrpihifiberry",
    ),
    Hat(
        *("Raspberry Pi DAC+, DAC Pro; IQaudio DAC+", ("rpi-dacplus", "rpi-dacpro", "iqaudio-dacplus", "iqaudio-dac")),
        codec="PCM5122, PCM5242",
        inputs=0,
        outputs=2,
        rates=_STEREO,
        source=_PI,
        eeprom="pidac",
    ),
    Hat(
        *("Raspberry Pi DigiAMP+", ("rpi-digiampplus", "iqaudio-digiampplus"), "PCM5122, TAS5756", 0, 2, _STEREO, _PI),
        takes=_gpio("22 amplifier switch"),
        eeprom="digiamp",
    ),
    Hat(*("JustBoom DAC, Amp", ("justboom-dac",), "PCM5122", 0, 2, _STEREO, _LINUX), eeprom="justboomdac"),
    Hat(
        *("Merus Amp", ("merus-amp",), "MA120x0P", 0, 2, "44.1, 48 kHz", _LINUX),
        takes=_gpio("14 enable, 15 mute, 17 booster, 23 error, 8 mode"),
        eeprom="merus",
    ),
)

PLAYS_ONLY = frozenset(
    (
        *("akkordion-iqdacplus", "allo-boss-dac-pcm512x-audio", "allo-boss2-dac-audio", "allo-digione"),
        *("allo-katana-dac-audio", "allo-piano-dac-pcm512x-audio", "allo-piano-dac-plus-pcm512x-audio"),
        *("applepi-dac", "chipdip-dac", "dionaudio-kiwi", "dionaudio-loco", "dionaudio-loco-v2", "ghost-amp"),
        *("hifiberry-amp", "hifiberry-amp100", "hifiberry-amp3", "hifiberry-amp4pro", "hifiberry-dac8x"),
        *("hifiberry-dacplushd", "hifiberry-digi", "hifiberry-digi-pro", "hifiberry-studio-dac8x"),
        *("i-sabre-q2m", "i2s-master-dac", "interludeaudio-digital", "iqaudio-digi-wm8804-audio"),
        *("justboom-both", "justboom-digi", "pifi-40", "pifi-dac-hd", "pifi-dac-zero", "pifi-mini-210"),
        *("rra-digidac1-wm8741-audio"),
    )
)
"""Overlays of further boards without a microphone input (README of the overlays, by product)."""
RECORDS = frozenset(
    (
        *("adau1977-adc", "draws", "hifiberry-adc", "hifiberry-adc8x", "mbed-dac", "superaudioboard"),
        *("tc358743-audio", "udrc", "ugreen-dabboard"),
    )
)
"""Overlays of further boards that record."""

NO_CARD = re.compile(r"audremap|i2s-mmap|.*(?:hdmi|usb|bluetooth|midi).*|vc4-.*|gpio-.*|seeed-can.*")
LOOKS_LIKE_SOUND = re.compile(
    r".*(?:i2s|mems|dac|codec|soundcard|voicecard|voicehat|voicebonnet|audio|sound|hifi|respeaker|(?:^|-)amp(?:-|$)"
    r"|wm8\d\d\d|pcm\d{4}|max98\d\d\d|tas\d{4}|tlv320|sgtl5000|cs42|ak4\d{3}|es8\d{3}|ics43|inmp441|sph0645)"
)
"""How overlays that are in no list are recognised, by their names; what a name alone says is only a suspicion."""
SOUND_PRODUCT = re.compile(r".*(?:dac|adc|(?<![lt])amp|codec|audio|sound|digi(?!t)|voice|mics|microphone)")
"""The same for names in EEPROMs, as ``letters`` writes them."""


def by_overlay(name: str) -> tuple[Hat, ...]:
    """The rows that ``name`` drives: boards that share an overlay cannot be told apart by it."""
    return tuple(hat for hat in HATS if name in hat.overlays)


def by_product(product: str) -> Hat | None:
    """The row of a name from an EEPROM, the longest match."""
    found = [hat for hat in HATS if hat.eeprom and hat.eeprom in letters(product)]
    return max(found, key=lambda hat: len(hat.eeprom), default=None)


def letters(text: str) -> str:
    """Small letters and digits, nothing else: ``Raspberry Pi Codec Zero`` as ``raspberrypicodeczero``."""
    return re.sub(r"[^a-z0-9]", "", text.lower())

"""The output card's own volume controls: at a known level and unmuted before anything is heard, whatever they were.

``[playback] volume_db`` sets the loudness only if the card's own amplifier is at the expected level. A jack
may come up muted, at -20 dB or at +4 dB, as the driver, `alsactl` or somebody at `alsamixer` left it.

Everything here knows mixers as ``Mixer`` objects, which ``Pcm.mixer`` returns: ``edge.devices.alsa_mixer`` of real
cards, ``edge.devices.fake`` of fake ones.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

WANTED_DB = 0.0
"""Nothing added by the card, nothing taken away; never above it, although the Pi's jack goes to +4 dB."""
WANTED_PERCENT = 75
"""Of a control without a dB scale: nobody knows what its top amplifies by, so a quarter stays in reserve."""
BELOW_DB = 3.0
"""A control with coarse steps may end so far below the requested level."""
BELOW_PERCENT = 10
LIMIT_S = 2.0
"""The sound waits no longer for a mixer, so that a driver that hangs cannot block it."""
CHECK_AGAIN_S = (1.0, 3.0, 10.0, 30.0)
"""When it is looked at again: `alsactl restore` runs at power-on and when a card is plugged in, at its own pace."""

OUTPUTS = re.compile(
    r"(master|pcm|digital|dac|analogue|headphones?|headset|speakers?|front|line ?out|output|playback)( playback)?", re.I
)
"""Controls in the path to the ear, by the names that drivers use: PCM (the Pi's jack, USB), Headphone (the Pi's
jack before Linux 5.4), Speaker, Master, Digital and Analogue (I2S DACs)."""
INPUTS = re.compile(r"mic|capture|input|line ?in|aux|cd|side ?tone|boost|bass|treble|tone|beep|loopback|iec958", re.I)
"""Not for an output: monitors of microphones, sound shapers."""


@dataclass(frozen=True)
class Level:
    """What one control is at, or is to be."""

    control: str
    index: int = 0
    """Of several with the same name."""
    db: float | None = None
    """Its loudest channel; None without a dB scale."""
    range_db: tuple[float, float] | None = None
    percent: int | None = None
    """The same of the range of the driver's numbers, 0..100; None if it is a switch only."""
    muted: bool | None = None
    """Whether any channel is; None without a switch."""

    def __str__(self) -> str:
        level = (
            f" {self.db:.1f} dB" if self.db is not None else f" {self.percent} %" if self.percent is not None else ""
        )
        switch = "" if self.muted is None else "muted" if self.muted else "unmuted"
        return f"{self.control}{level}{',' if level and switch else ''}{f' {switch}' if switch else ''}"


class Mixer(Protocol):
    """All volume controls of one card. Both may take their time, and raise OSError."""

    name: str

    def levels(self) -> list[Level]:
        """As they are now; empty if there are none, or no such card."""
        ...

    def put(self, wanted: Level) -> None:
        """Set one: the volume first, in dB if it has them, then the switch."""
        ...


# What is wanted.


def chosen(levels: Sequence[Level], name: str) -> list[Level]:
    """The controls that ``[playback] mixer = name`` means; for "auto" all between card and ear by their names, or else
    the only volume there is.
    """
    if name != "auto":
        return [level for level in levels if level.control == name]
    known = [level for level in levels if OUTPUTS.fullmatch(level.control)]
    others = [level for level in levels if level.percent is not None and not INPUTS.search(level.control)]
    return known or (others if len(others) == 1 else [])


def wanted(level: Level) -> Level:
    """The same control as it is to be."""
    muted = None if level.muted is None else False
    if level.range_db is not None:
        low_db, high_db = level.range_db
        return replace(level, db=max(low_db, min(WANTED_DB, high_db)), muted=muted)
    return replace(level, percent=None if level.percent is None else WANTED_PERCENT, muted=muted)


def as_wanted(level: Level) -> bool:
    """Whether it is where it is to be, as nearly as its steps allow."""
    aim = wanted(level)
    if level.muted:
        return False
    if level.db is not None and aim.db is not None:
        return -BELOW_DB <= level.db - aim.db < 0.05
    if level.percent is not None and aim.percent is not None:
        return -BELOW_PERCENT <= level.percent - aim.percent <= 1
    return True


def in_words(levels: Sequence[Level]) -> str:
    return "; ".join(str(level) for level in levels)


class OutputMixer:
    """Brings the mixer of the output to its known value whenever the output is opened, and reports the result.

    All of it happens in a thread of its own, for which the sound waits ``LIMIT_S`` at most.
    """

    def __init__(self, name: str, log: Callable[[str, str], None]) -> None:
        """``name`` is ``[playback] mixer``; ``log`` takes the kind of an event and a sentence, from any thread."""
        self.words = "left alone" if name == "off" else "not set yet"
        """What the status shows."""
        self._name = name
        self._log = log
        self._event = ("", "")
        """What ``report`` logs: kind and sentence."""
        self._held = False
        """Whether it is where it is to be."""
        self._last_logged = ""
        self._over = threading.Event()
        self._silent: threading.Thread | None = None
        """One that got no answer, and may still wait for it."""

    def settle(self, mixer: Mixer | None) -> None:
        """Set, unmute and read back; never raises. ``report`` logs the result."""
        self.release()
        self._held = False
        if self._name == "off" or (self._silent is not None and self._silent.is_alive()):
            return
        if mixer is None:
            self._found("devices", "output mixer: this output has none", "none")
            return
        self._over, done = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._work, args=(mixer, self._over, done), name="mixer", daemon=True)
        thread.start()
        if not done.wait(LIMIT_S):
            self._silent = thread
            failure = f"output mixer of {mixer.name} does not respond; its level is unchanged"
            self._found("mixer", failure, "does not answer")

    def release(self) -> None:
        """The output is closed: leave its mixer alone from now on. Returns at once."""
        self._over.set()

    def report(self) -> None:
        """Log the result of ``settle``; the same failure only once."""
        kind, sentence = self._event
        if kind and (self._held or sentence != self._last_logged):
            self._last_logged = sentence
            self._log(kind, sentence)

    def _found(self, kind: str, sentence: str, words: str) -> None:
        self._event, self.words = (kind, sentence), words

    # In a thread of its own.

    def _work(self, mixer: Mixer, over: threading.Event, done: threading.Event) -> None:
        began_s = time.monotonic()
        self._held = self._set(mixer)
        done.set()
        if time.monotonic() - began_s > LIMIT_S:
            self.report()
        for wait_s in CHECK_AGAIN_S if self._held else ():
            if over.wait(wait_s):
                return
            self._check_again(mixer)

    def _set(self, mixer: Mixer) -> bool:
        """Whether it is where it is to be."""
        try:
            levels = mixer.levels()
            mine = chosen(levels, self._name)
            if not mine:
                self._none_of(levels, mixer.name)
                return False
            now = self._put(mixer, mine)
        except OSError as error:
            why = error.strerror or str(error)
            self._found("mixer", f"output mixer of {mixer.name} cannot be set ({why}); sound continues", why)
            return False
        except Exception as fault:
            why = f"unexpected fault, please report it ({type(fault).__name__}: {fault})"
            self._found("mixer", f"output mixer of {mixer.name} cannot be set: {why}", "cannot be set")
            return False
        if all(as_wanted(level) for level in now):
            self._found("devices", f"output mixer of {mixer.name}: {in_words(now)}", in_words(now))
            return True
        aim = in_words([wanted(level) for level in mine])
        self._found("mixer", f"output mixer of {mixer.name} stays at {in_words(now)} instead of {aim}", in_words(now))
        return False

    def _put(self, mixer: Mixer, mine: list[Level]) -> list[Level]:
        """Set each of these even if others fail; returns the levels read back. Raises OSError if all failed."""
        failures = []
        for level in mine:
            try:
                mixer.put(wanted(level))
            except OSError as error:
                failures.append(error)
        if len(failures) == len(mine):
            raise failures[0]
        return chosen(mixer.levels(), self._name)

    def _none_of(self, levels: list[Level], card: str) -> None:
        if self._name == "auto":
            self._found("devices", f"output mixer of {card}: it has none", "none")
        else:
            there = ", ".join(dict.fromkeys(level.control for level in levels)) or "none"
            failure = f'[playback] mixer = "{self._name}" is not a control of {card} (it has {there}); nothing was set'
            self._found("mixer", failure, f"no control {self._name}")

    def _check_again(self, mixer: Mixer) -> None:
        try:
            other = [level for level in chosen(mixer.levels(), self._name) if not as_wanted(level)]
            if not other:
                return
            now = in_words(self._put(mixer, other))
        except OSError:  # the card is gone, which the sound will notice
            return
        self.words = now
        self._log(
            "mixer", f"another program set the output mixer of {mixer.name} to {in_words(other)}; set again to {now}"
        )

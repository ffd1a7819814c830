"""Would the box work here? One row a check: the verdict, what was found, the fix.

Nothing is changed, and whatever a check meets becomes a row: this command is for the moment when things are broken.
Sound devices are opened in a process of their own (``edge.tools.device_probe``). While the box itself runs it has the
cards, so its own figures are shown instead.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from edge import HOP_MS, runtime
from edge.config import USB_CARD, CaptureConfig, Config, PlaybackConfig
from edge.config_file import SYSTEM_FILE, BadConfig, load
from edge.console import printable
from edge.devices import cards, mixer
from edge.devices.capture import LIVE_RATIO
from edge.devices.cards import Card
from edge.devices.mixer import Level
from edge.devices.pcm import DeviceMissing, Direction
from edge.files import changeable_by_others
from edge.tools import device_probe
from edge.tools.device_probe import Heard, Lane, Played, Trouble
from hw.board import boards, bootconfig

RATE_TOLERANCE = 0.02
"""Crystals are off by 0.1 % at worst; what is off by more runs at another rate than it says, or loses sound."""
QUIET_DBFS = -50.0
"""A syllable below this, with the gain of the settings, is too quiet to tell speech from noise well."""
SPEECH_DBFS = -20.0
"""Where the loudest syllables shall lie."""
GAIN_MAX_DB = 60.0
OFFSET = 0.1
"""An offset of a tenth of full scale eats headroom; the high-pass takes smaller ones out."""
DEAD_DBFS = -100.0
"""Less than this over minutes is no living microphone."""
PLAY_S = 2.5
SETTLE_S = 6.0
"""From its start to its first second of sound a box takes less."""
HEARD_S = 2.0
"""So much sound after the silence of a start tells whether a microphone lives, and fills the times per hop."""
STATUS_LATE_S = 1.5
"""A running box writes its status once a second."""
BENCH_S = 1.0
ENGINES_LIMIT_S = 90.0
"""The trial of ONNX Runtime alone may take 30 s on a slow board."""
HOP_US = 1000 * HOP_MS
TIGHT_US = 0.8 * HOP_US
FAINT_DB = -50.0
"""There speech of usual level comes to 44 dB SPL in sensitive headphones (``config.VOLUME_DB``): a whisper."""
HOT_C = 75.0
FREE_MB = 100
SLOW_GOVERNORS = ("ondemand", "conservative", "powersave")
SERVERS = {
    "pipewire": "pipewire.socket pipewire pipewire-pulse.socket pipewire-pulse wireplumber",
    "wireplumber": "pipewire.socket pipewire pipewire-pulse.socket pipewire-pulse wireplumber",
    "pulseaudio": "pulseaudio.socket pulseaudio",
    "jackd": "",
    "jackdbus": "",
}
"""Sound servers by the name of their process, and the user's units that start them."""
UNIT = "quietbox.service"
UNIT_FACTS = ("LoadState", "UnitFileState", "ActiveState", "SubState", "Result", "LimitRTPRIO", "LimitMEMLOCK")
MOST_KB = 64


class Verdict(StrEnum):
    """``warn`` still works; ``fail`` does not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


OK, WARN, FAIL = Verdict


@dataclass(frozen=True)
class Finding:
    """One row."""

    check: str
    verdict: Verdict
    found: str
    fix: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


class Doctor:
    """Examines one machine."""

    def __init__(
        self,
        config_file: Path | None = None,
        *,
        seconds: float = 5.0,
        sound: bool = True,
        root: Path = boards.ROOT,
        listen: Callable[[CaptureConfig, float], Heard | Trouble] = device_probe.listen_in_child,
        play: Callable[[PlaybackConfig, float], Played | Trouble] = device_probe.play_in_child,
        mixer: Callable[[str], list[Level] | Trouble] = device_probe.mixer_in_child,
    ) -> None:
        """``sound`` False leaves the sound cards alone. ``root`` is where the files of the machine lie; other than /
        it has no service manager to ask. ``listen`` and ``play`` try the devices, ``mixer`` reads an output's volume.
        """
        self.root = root
        self.config = Config()
        self._config_file = config_file
        self._seconds = seconds
        self._sound = sound
        self._listen, self._play, self._mixer = listen, play, mixer
        self._here = root == boards.ROOT
        self._proc, self._dev = root / "proc", root / "dev"
        self._board = boards.this_board(root)
        self._running: dict[str, Any] = {}
        self._enough = False
        """Whether the running box has heard enough to be judged by its own figures."""
        self._unit: dict[str, str] = {}

    def examine(self, tell: Callable[[Finding], None] = lambda finding: None) -> list[Finding]:
        """Every check; ``tell`` hears of each finding as soon as it is made. Never raises."""
        found = []
        for check in self._checks():
            try:
                findings = list(check())
            except Exception as fault:  # broken machines are what this is for
                name = check.__name__.strip("_").replace("_", " ")
                said = " ".join(f"{type(fault).__name__}: {fault}".split())[:200]
                findings = [Finding(name, WARN, f"this check failed with an error ({said})", "please report it")]
            for finding in findings:
                tell(finding)
            found += findings
        return found

    def _checks(self) -> list[Callable[[], Iterator[Finding]]]:
        machine = [self._board_in_words, self._power_and_heat, self._governor, self._storage]
        program = [self._settings, self._service, self._real_time, self._model, self._engine]
        sound = (
            [self._sound_servers, self._microphone, self._output, self._volume, self._cable]
            if self._sound
            else [self._no_sound]
        )
        return [*machine, *program, *sound, self._panel]

    # The machine.

    def _board_in_words(self) -> Iterator[Finding]:
        yield Finding("board", OK, " ".join(boards.in_words(self._board)), figures=boards.facts(self.root))

    def _power_and_heat(self) -> Iterator[Finding]:
        trouble = boards.throttling(self.root, _firmware_bits() if self._here else None)
        warmth = boards.temperature_c(self.root)
        figures = {"temperature_c": warmth, "throttling": trouble}
        words = "temperature unknown" if warmth is None else f"{warmth:.0f} °C"
        if trouble:
            fix = "use the official power supply and a short thick cable" if "voltage" in trouble else "cool the board"
            yield Finding("power and heat", WARN, f"{words}, {trouble}", fix, figures)
        elif warmth is not None and warmth >= HOT_C:
            fix = "cool the board: it throttles from 80 °C"
            yield Finding("power and heat", WARN, words, fix, figures)
        else:
            yield Finding("power and heat", OK, f"{words}, the board reports no problem", figures=figures)

    def _governor(self) -> Iterator[Finding]:
        names = boards.governors(self.root)
        figures = {"governors": list(names)}
        if slow := [name for name in names if name in SLOW_GOVERNORS]:
            fix = "sudo systemctl restart quietbox-governor (install.sh brings it; it sets performance at every boot)"
            found = f"{', '.join(slow)}: the processor clock rises only after a hop is late"
            yield Finding("governor", WARN, found, fix, figures)
        else:
            yield Finding("governor", OK, ", ".join(names) or "none: the processor clock is fixed", figures=figures)

    def _storage(self) -> Iterator[Finding]:
        free_mb = shutil.disk_usage(self.root).free // 2**20
        folder = runtime.runtime_folder()
        there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
        figures = {"free_mb": free_mb, "runtime_folder": str(folder)}
        if not os.access(there, os.W_OK | os.X_OK):
            fix = "run it with sudo, or set RUNTIME_DIRECTORY"
            yield Finding(
                "storage", FAIL, f"{there} cannot be written; the box keeps its lock files there", fix, figures
            )
        elif free_mb < FREE_MB:
            fix = "free some space: updates and the journal need it"
            yield Finding("storage", WARN, f"only {free_mb} MB free", fix, figures)
        else:
            yield Finding("storage", OK, f"{free_mb} MB free, {folder} can be written", figures=figures)

    # The program.

    def _settings(self) -> Iterator[Finding]:
        file = self._config_file or self.root / SYSTEM_FILE.relative_to("/")
        if self._config_file is None and not os.path.lexists(file):
            yield Finding("settings", OK, f"no {file}: all settings have their defaults")
        elif file.exists() and not file.is_file():
            yield Finding("settings", FAIL, f"{file} is not a file", "write the settings there or remove it")
        else:
            try:
                self.config = load(file)
            except BadConfig as error:
                fix = "fix that line; the rows below use the defaults"
                yield Finding("settings", FAIL, str(error), fix)
                return
            risk = changeable_by_others(file, file.stat()) if self._config_file is None else ""
            if risk:
                found, _, fix = risk.rpartition(": ")
                yield Finding("settings", WARN, f"{file} is valid, but {found}", fix)
            else:
                yield Finding("settings", OK, f"{file} is valid")

    def _service(self) -> Iterator[Finding]:
        self._unit = _unit_facts() if self._here else {}
        if self._here:
            hears = self.config.capture
            enough_s = (hears.mute_ms + hears.fade_ms) / 1000 + HEARD_S
            started = self._unit.get("ActiveState") == "active"
            self._running, waited_s = _settled_status(started, enough_s)
            self._enough = _heard_s(self._running) >= enough_s
            if self._running:
                yield _running_box(self._running, waited_s)
        yield _service_state(self._unit)

    def _real_time(self) -> Iterator[Finding]:
        wanted = self.config.box.priority
        if self._unit.get("LoadState") == "loaded":
            limits = {name: self._unit.get(name, "") for name in ("LimitRTPRIO", "LimitMEMLOCK")}
            refused = [] if _number(limits["LimitRTPRIO"]) >= wanted else [f"LimitRTPRIO={max(wanted, 1)}"]
            if _number(limits["LimitMEMLOCK"]) < 2**30:
                refused.append("LimitMEMLOCK=infinity")
            if refused:
                fix = f"put {' and '.join(refused)} into [Service] (systemctl edit quietbox), or run install.sh again"
                yield Finding(
                    "real time", WARN, "the service may not use real-time priority or lock its memory", fix, limits
                )
            else:
                yield Finding("real time", OK, f"the service may use priority {wanted} and lock memory", "", limits)
            return
        told = device_probe.in_child("realtime", {"priority": wanted})
        if isinstance(told, Trouble):
            yield Finding("real time", WARN, f"could not be tried: {told.text}", "please report it")
        elif told:
            fix = "run the service, or run as root; without real-time priority the sound may drop out under load"
            yield Finding("real time", WARN, "; ".join(told), fix)
        else:
            yield Finding("real time", OK, f"priority {wanted} and locked memory are granted to this user")

    def _model(self) -> Iterator[Finding]:
        from edge.suppress.open import BadModel, files_with_cards

        refused, checked = [], []
        for model, suffix in files_with_cards(self.config.suppress.engine, self.config.suppress.model):
            try:
                model.read(suffix)
                checked.append(model.file(suffix).name)
            except BadModel as error:
                refused.append(str(error))
        figures = {"checked": checked}
        if refused:
            yield Finding("model", WARN, "; ".join(refused), "the next engine takes over; reinstall Quietbox", figures)
        else:
            yield Finding(
                "model", OK, f"as listed on the model card: {', '.join(checked) or 'none needed'}", figures=figures
            )

    def _engine(self) -> Iterator[Finding]:
        if self._running and self._running.get("state") != "waiting":
            yield _running_engine(self._running, self._enough)
            return
        settings = self.config.suppress
        words = {"suppress": dataclasses.asdict(settings), "priority": self.config.box.priority, "seconds": BENCH_S}
        told = device_probe.in_child("engines", words, limit_s=ENGINES_LIMIT_S)
        if isinstance(told, Trouble):
            yield Finding("engine", FAIL, f"no engine could be tried: {told.text}", "reinstall Quietbox")
            return
        times, ours, notes = told["times"], told["times"][told["engine"]], told["notes"]
        figures = {name: round(row["p99_us"]) for name, row in times.items()}
        found = f"{told['engine']}: {ours['p50_us']:.0f} us a hop, p99 {ours['p99_us']:.0f} us of {HOP_US:.0f}"
        found += f" ({'; '.join(notes)})" if notes else ""
        quick = [name for name, row in times.items() if row["p99_us"] < TIGHT_US and name != "off"]
        if ours["p99_us"] < TIGHT_US:
            mend = [note for note in notes if "is not installed" not in note]
            fix = "reinstall Quietbox; until then the engine shown is used" if mend else ""
            yield Finding("engine", WARN if mend else OK, found, fix, figures)
        elif times["off"]["real_time_factor"] >= 1:
            yield Finding("engine", FAIL, f"{found}: no engine is fast enough here", "use a faster board", figures)
        else:
            fix = f'set [suppress] engine = "{quick[0]}"' if quick else "stop other programs, or use a faster board"
            yield Finding(
                "engine", WARN, f"{found}: too slow: the box would fall back to a simpler engine", fix, figures
            )

    # The sound.

    def _no_sound(self) -> Iterator[Finding]:
        yield Finding("sound", OK, "skipped, as requested")

    def _sound_servers(self) -> Iterator[Finding]:
        found = {name: number for number, name in _processes(self._proc) if name in SERVERS}
        figures = {"processes": found}
        if not found:
            yield Finding("sound server", OK, "none is running; the cards are free for the box", figures=figures)
            return
        named = " and ".join(f"{name} (process {number})" for name, number in found.items())
        yield Finding("sound server", WARN, f"{named} may occupy the card", _stop_server(next(iter(found))), figures)

    def _microphone(self) -> Iterator[Finding]:
        yield from self._side("capture", self.config.capture.device)

    def _output(self) -> Iterator[Finding]:
        yield from self._side("playback", self.config.output)

    def _volume(self) -> Iterator[Finding]:
        """How loud it plays: by the settings, and by the card's own mixer."""
        if self.config.playback.device == "off":
            yield Finding("volume", OK, "the cable plays at full level; volume_db is for the jack")
        else:
            clock = cards.clock_of(self.config.output, "playback", self._proc)
            levels = self._mixer(clock) if self._here else []
            running = self._running if self._running.get("state") != "waiting" else {}
            yield judge_volume(self.config.playback, levels, running)

    def _cable(self) -> Iterator[Finding]:
        """The virtual cable beside the jack; without it the jack still plays."""
        if self.config.beside == USB_CARD and not any((self.root / "sys/class/udc").glob("*")):
            found = "the USB port of this board is not in device mode: the kernel has no device controller"
            fix = f"Zero 2, 4, 5: put {bootconfig.GADGET} into config.txt and restart; others: set [cable] usb = false"
            yield Finding("cable card", WARN, found, fix)
        elif self.config.beside:
            card = self._card("playback", self.config.beside)
            verdict = WARN if card.verdict is FAIL else card.verdict
            fix = "load snd-aloop, or see the USB gadget in README.md" if verdict is WARN else ""
            yield dataclasses.replace(card, check="cable card", verdict=verdict, fix=fix)

    def _side(self, direction: Direction, device: str) -> Iterator[Finding]:
        """The card, then what it does."""
        word = "microphone" if direction == "capture" else "output"
        card = self._card(direction, device)
        if self._running and self._running.get("state") != "waiting":
            yield card
            yield _running_side(self._running, word, self._enough)
            return
        if card.verdict is FAIL:
            yield card
            return
        told = self._try(direction, device)
        if not isinstance(told, Trouble) and _rate_off(told):
            told = self._try(direction, device)  # a busy moment looks like a wrong clock, but it passes
        if isinstance(told, Trouble) and told.kind == "missing":
            yield dataclasses.replace(card, verdict=FAIL, found=told.text, fix=self._absent(direction, device))
            return
        yield card
        if isinstance(told, Heard):
            hears = dataclasses.replace(self.config.capture, channel=self.config.voice_channel)
            yield from judge_heard(told, hears)
        else:
            yield in_trouble(word, told) if isinstance(told, Trouble) else judge_played(told)

    def _try(self, direction: Direction, device: str) -> Heard | Played | Trouble:
        if direction == "capture":
            hears = dataclasses.replace(self.config.capture, channel=self.config.voice_channel)
            return self._listen(hears, self._seconds)
        return self._play(dataclasses.replace(self.config.playback, device=device), PLAY_S)

    def _card(self, direction: Direction, device: str) -> Finding:
        """Whether the settings mean a card that is there."""
        word = "microphone" if direction == "capture" else "output"
        known = cards.list_cards(proc=self._proc, dev=self._dev)
        figures = {"cards": [dataclasses.asdict(card) for card in known if _has(card, direction)]}
        there = ", ".join(card.id for card in known if _has(card, direction)) or "none"
        try:
            name = cards.resolve(device, direction, self._proc)
            if not self._exists(name, direction, known):
                raise cards.missing(device, direction, self._proc)
        except DeviceMissing as error:
            return Finding(f"{word} card", FAIL, str(error), self._absent(direction, device), figures)
        jack = ", the headphone jack" if direction == "playback" and cards.is_jack(name, self._proc) else ""
        return Finding(f"{word} card", OK, f"{name}{jack} (cards: {there})", figures=figures | {"chosen": name})

    def _exists(self, name: str, direction: Direction, known: list[Card]) -> bool:
        """Whether an ALSA name can be there; what only ALSA knows counts as there until it is opened."""
        head, _, rest = name.partition(":")
        if head in ("hw", "plughw"):
            wanted = rest.split(",")[0].removeprefix("CARD=")
            return any(wanted in (card.id, str(card.number)) and _has(card, direction) for card in known)
        return True

    def _absent(self, direction: Direction, device: str) -> str:
        """What to do about a card that is not there."""
        board, config_txt = self._board, self._board.config_txt
        text = _text(config_txt) if config_txt else ""
        if direction == "capture":
            plug = "plug in a USB microphone"
            if not config_txt or (device != "auto" and "googlevoi" not in device):
                return f"{plug}, or choose one of `quietbox devices` as [capture] device"
            if bootconfig.sets(text, "dtoverlay", bootconfig.MICROPHONE.partition("=")[2], board.model):
                why = (
                    "the overlay is set but there is no card: restart, then check the wiring and `dmesg | grep -i "
                    "voice`"
                )
                return f"{why}; or {plug}"
            return f"the overlay is missing: add {bootconfig.MICROPHONE} to {config_txt} and restart; or {plug}"
        if board.kind.jack and config_txt:
            if bootconfig.audio(text, board.model):
                return "the jack is switched on but there is no card: restart and look at `dmesg | grep -i bcm2835`"
            return f"add {bootconfig.JACK} to {config_txt} and restart, or choose another [playback] device"
        none = "this board has no jack: " if board.kind.jack is False else ""
        return f"{none}plug in a USB headset or dongle, or an I2S DAC, and choose it as [playback] device"

    # Light and button.

    def _panel(self) -> Iterator[Finding]:
        from hw.board import panel, pins

        settings = self.config.panel
        package, why = boards.gpio_package(self._board)
        chips = sorted(chip.name for chip in self._dev.glob("gpiochip*"))
        figures: dict[str, Any] = {"package": package, "why": why, "chips": chips}
        check, without = "light and button", "the box works without light and button"
        if settings.backend == "off" or (settings.led, settings.button) == ("off", "off"):
            yield Finding(check, OK, "switched off in the settings", figures=figures)
        elif not chips and not self._board.is_pi:
            yield Finding(check, OK, f"no GPIO here; {without}", figures=figures)
        elif self._running or not self._here:
            held = "in use by the running box" if self._running else "not tried"
            yield Finding(check, OK, f"{panel.describe(settings)}: {held}", figures=figures)
        else:
            try:
                opened = pins.open_pins_for(settings)(settings)
            except pins.PanelError as trouble:
                fix = f"{package} fits this board ({why}): run install.sh again"
                yield Finding(check, WARN, f"{trouble}; {without}", fix, figures)
            else:
                opened.close()
                yield Finding(check, OK, f"{panel.describe(settings)}, through {opened.name}", figures=figures)


# Verdicts.


def judge_heard(heard: Heard, settings: CaptureConfig) -> Iterator[Finding]:
    """What some seconds of a microphone say of it: is it alive, its level, its rate."""
    alive = _alive(heard, settings)
    yield alive
    if heard.lanes and alive.verdict is not FAIL:
        yield _level(heard, settings)
    if not heard.lost:
        yield _rate("microphone rate", heard.rate_hz, heard.measured_hz, heard.xruns)


def judge_played(played: Played) -> Finding:
    """What some seconds of silence say of an output."""
    if played.lost:
        fix = "check the plug; if it fails again, the card is broken or lacks power"
        return Finding("output", FAIL, f"the output {played.lost} ({played.granted})", fix)
    if "clockless" in played.granted:
        return Finding("output", OK, f"opens and accepts sound, but has no clock to measure ({played.granted})")
    rate = _rate("output", played.rate_hz, played.measured_hz, played.xruns)
    return dataclasses.replace(rate, found=f"{rate.found} ({played.granted})")


def judge_volume(settings: PlaybackConfig, levels: list[Level] | Trouble, running: dict[str, Any]) -> Finding:
    """The volume of the settings, the mixer's levels and the status of the box that plays, if one does."""
    figures: dict[str, Any] = {"volume_db": settings.volume_db, "mixer": settings.mixer, "controls": []}
    found = f"volume_db {settings.volume_db:g} dB"
    if isinstance(levels, Trouble):
        fix = 'unplug the card and plug it in again; or set [playback] mixer = "off", then it is not used'
        return Finding("volume", WARN, f"{found}; the card's mixer could not be read: {levels.text}", fix, figures)
    name = "auto" if settings.mixer == "off" else settings.mixer
    mine = mixer.chosen(levels, name)
    off = [level for level in mine if not mixer.as_wanted(level)]
    figures["controls"] = [dataclasses.asdict(level) for level in mine]
    found += f"; mixer {mixer.in_words(mine)}" if mine else "; the card has no mixer"
    plays_db = running.get("volume_db", settings.volume_db)
    if plays_db != settings.volume_db:
        found = f"the box plays at {plays_db:g} dB, not as the settings say: {found}"
        return Finding("volume", WARN, found, "systemctl reload quietbox", figures)
    if not mine and name != "auto":
        there = ", ".join(dict.fromkeys(f'"{level.control}"' for level in levels))
        found = f'volume_db {settings.volume_db:g} dB; [playback] mixer = "{name}" is not a control of this card'
        return Finding("volume", WARN, found, f'set mixer = "auto"{f", or one of {there}" if there else ""}', figures)
    if settings.mixer == "off" and any(level.muted for level in off):
        fix = 'unmute it with `alsamixer`, or set [playback] mixer = "auto"'
        return Finding("volume", WARN, f"{found}, which the box does not change", fix, figures)
    if off and running and settings.mixer != "off":
        fix = "systemctl restart quietbox sets it again; find the program that changed it"
        aim = mixer.in_words([mixer.wanted(level) for level in off])
        return Finding("volume", WARN, f"{found}, but the box set {aim}", fix, figures)
    if settings.volume_db <= FAINT_DB:
        fix = "raise [playback] volume_db by 3 at a time, each time with systemctl reload quietbox"
        return Finding("volume", WARN, f"{found}: almost inaudible", fix, figures)
    if settings.mixer == "off":
        found += ", which the box does not change"
    elif off:
        found += f"; the box sets {mixer.in_words([mixer.wanted(level) for level in off])} at its start"
    return Finding("volume", OK, found, figures=figures)


def in_trouble(word: str, trouble: Trouble) -> Finding:
    """Why a device could not be tried, and what to do."""
    server = next((name for name in SERVERS if f"{name} (" in trouble.text), "")
    fix = {
        "busy": _stop_server(server) if server else "stop that program, or choose another card in the settings",
        "refused": "run it with sudo; or choose another device of `quietbox devices`",
        "hangs": "unplug the card and plug it in again, or restart: its driver does not respond",
    }.get(trouble.kind, "please report it")
    if trouble.kind == "refused" and "group audio" in trouble.text:
        fix = "sudo usermod -aG audio YOU and log in again, or run it with sudo"
    return Finding(word, FAIL, f"the {word} {trouble.text}" if trouble.kind == "hangs" else trouble.text, fix)


def _alive(heard: Heard, settings: CaptureConfig) -> Finding:
    figures = {"granted": heard.granted, "seconds": heard.seconds, "lost": heard.lost}
    if heard.lost or not heard.lanes:
        fix = "check plug, cable and wiring; if it fails again, the card is broken or lacks power"
        found = f"the microphone {heard.lost or 'delivered too little sound to judge'} ({heard.granted})"
        return Finding("microphone", FAIL, found, fix, figures)
    mine = _chosen(heard, settings)
    best = max(range(len(heard.lanes)), key=lambda lane: _loudness(heard.lanes[lane]))
    lane = heard.lanes[mine]
    other = f'set [capture] channel = {best + 1}, or "auto"'
    if lane.constant and not heard.lanes[best].constant:
        found = f"wrong channel: {mine + 1} is dead, {best + 1} is live"
        return Finding("microphone", FAIL, found, other, figures)
    if lane.constant:
        wiring = "I2S: check 3.3 V, data on GPIO 20 and the L/R strap; USB: its switch and `alsamixer`"
        stuck = f"stuck at {lane.dc:+.3f}" if lane.dc else "silent: only zeros"
        return Finding("microphone", FAIL, f"the microphone is {stuck} ({heard.granted})", wiring, figures)
    ahead_db = heard.lanes[best].level_dbfs - lane.level_dbfs
    if settings.channel != "mean" and 10 ** (ahead_db / 10) > LIVE_RATIO:
        found = f"probably the wrong channel: {best + 1} is {ahead_db:.0f} dB louder than {mine + 1}"
        return Finding("microphone", WARN, found, other, figures)
    return Finding("microphone", OK, f"alive ({heard.granted})", figures=figures)


def _level(heard: Heard, settings: CaptureConfig) -> Finding:
    lane, gain_db = heard.lanes[_chosen(heard, settings)], settings.gain_db
    clips = max(each.clips for each in heard.lanes) if settings.channel == "mean" else lane.clips
    peak_dbfs, loudest_dbfs = lane.peak_dbfs + gain_db, lane.loudest_dbfs + gain_db
    figures: dict[str, Any] = {
        "gain_db": gain_db,
        "level_dbfs": round(lane.level_dbfs + gain_db, 1),
        "loudest_dbfs": round(loudest_dbfs, 1),
        "peak_dbfs": round(peak_dbfs, 1),
        "dc": lane.dc,
        "clips": clips,
        "channels_dbfs": [each.level_dbfs for each in heard.lanes],
    }
    found = (
        f"mean {figures['level_dbfs']:g} dBFS, loudest {LOUD} {loudest_dbfs:.1f}, peak {peak_dbfs:.1f}, "
        f"offset {lane.dc:+.4f}, gain {gain_db:g} dB"
    )
    if clips:
        fix = "turn the card's own capture level down (`alsamixer`), or stay farther from the microphone"
        return Finding("level", WARN, f"clipping, {clips} samples at full scale: {found}", fix, figures)
    if peak_dbfs > 0:
        less = max(-20.0, gain_db - peak_dbfs - 6)
        fix = f"set [capture] gain_db = {less:.0f}"
        return Finding("level", WARN, f"the gain makes peaks clip: {found}", fix, figures)
    if loudest_dbfs < QUIET_DBFS:
        more = min(GAIN_MAX_DB, gain_db + SPEECH_DBFS - loudest_dbfs)
        fix = f"if you spoke just now: set [capture] gain_db = {more:.0f}; if not, try again and speak"
        return Finding("level", WARN, f"very quiet: {found}", fix, figures)
    if abs(lane.dc) > OFFSET:
        fix = "a large offset reduces the headroom: use another microphone or a cleaner supply"
        return Finding("level", WARN, f"large offset: {found}", fix, figures)
    return Finding("level", OK, found, figures=figures)


LOUD = f"{device_probe.LOUD_MS} ms"


def _rate(check: str, rate_hz: int, measured_hz: float, xruns: int) -> Finding:
    figures = {"rate_hz": rate_hz, "measured_hz": measured_hz, "xruns": xruns}
    lost = f", {xruns} xruns" if xruns else ""
    if not measured_hz:
        fix = "give it more time with --seconds"
        return Finding(check, WARN, f"{rate_hz} Hz nominal, too little sound to measure it{lost}", fix, figures)
    off = measured_hz / rate_hz - 1
    found = f"{rate_hz} Hz nominal, {measured_hz:.0f} Hz measured ({off:+.2%}){lost}"
    if abs(off) <= RATE_TOLERANCE:
        return Finding(check, OK, found, figures=figures)
    if xruns and off < 0:  # what is lost makes a rate look lower, never higher
        return Finding(check, WARN, found, "samples are lost: stop other programs and try again", figures)
    return Finding(
        check, FAIL, found, "the card's clock differs from its nominal rate: restart, or use another card", figures
    )


def _rate_off(tried: Heard | Played) -> bool:
    return bool(tried.measured_hz) and abs(tried.measured_hz / tried.rate_hz - 1) > RATE_TOLERANCE


def _chosen(heard: Heard, settings: CaptureConfig) -> int:
    """The channel the box would hear, from 0; of a mean the loudest."""
    if isinstance(settings.channel, int):
        return min(settings.channel, len(heard.lanes)) - 1
    return max(range(len(heard.lanes)), key=lambda lane: _loudness(heard.lanes[lane]))


def _loudness(lane: Lane) -> tuple[bool, float]:
    return not lane.constant, lane.level_dbfs


# The box that runs already.


def _settled_status(started: bool, enough_s: float) -> tuple[dict[str, Any], float]:
    """What the running box says, empty if none runs, and for how many seconds it was waited for.

    One that has only just ``started`` gets time to take its cards, and then to hear ``enough_s`` of sound: figures of
    no sound say nothing.
    """
    began, limit_s = time.monotonic(), SETTLE_S
    while True:
        status, waited_s = runtime.read_status() or {}, time.monotonic() - began
        if status and status.get("state") != "waiting":
            limit_s = SETTLE_S + enough_s + STATUS_LATE_S
        if waited_s >= limit_s or _settled(status, started, enough_s):
            return status, waited_s
        time.sleep(0.2)


def _settled(status: dict[str, Any], started: bool, enough_s: float) -> bool:
    if not status:
        return not started
    return status.get("state") != "waiting" and _heard_s(status) >= enough_s


def _heard_s(status: dict[str, Any]) -> float:
    """Seconds of sound since the box started."""
    return _figure(status, "seconds") or 0.0


def _running_box(status: dict[str, Any], waited_s: float = 0.0) -> Finding:
    state = str(status.get("state"))
    found = runtime.in_words(status)
    if waited_s >= 0.5:
        found += f" (just started: polled for {waited_s:.1f} s)"
    if state == "fault":
        return Finding(
            "running box", FAIL, found, "systemctl restart quietbox; look at `journalctl -u quietbox`", status
        )
    if state in ("waiting", "degraded"):
        fix = (
            "see the rows below, and `journalctl -u quietbox` for what it waits for or why it fell back to a simpler "
            "engine"
        )
        return Finding("running box", WARN, found, fix, status)
    return Finding("running box", OK, found, figures=status)


AGAIN = "run it again in a few seconds: quietbox doctor"


def _running_side(status: dict[str, Any], word: str, enough: bool = True) -> Finding:
    """The running box has the card; what it says of that side of it, if it has heard ``enough``."""
    held = f"in use by the running box: {status.get(word)}"
    xruns = status.get("xruns_in" if word == "microphone" else "xruns_out")
    if word == "output":
        queue, drift = _figure(status, "queue_ms"), _figure(status, "drift_ppm")
        figures = {"xruns": xruns, "queue_ms": queue, "drift_ppm": drift}
        parts = [held] if queue is None or drift is None else [f"{held}; queue {queue:g} ms", f"drift {drift:+g} ppm"]
        return Finding(word, OK, ", ".join([*parts, f"{xruns} xruns"]), "", figures)
    level = _figure(status, "level_in_dbfs")
    figures = {"level_dbfs": level, "xruns": xruns, "clips": status.get("clips")}
    counted = f"{xruns} xruns, {status.get('clips')} samples at full scale"
    if level is None or not enough:
        found = (
            f"{held}; {_heard_s(status):g} s of sound since its start, too little to judge the microphone; {counted}"
        )
        return Finding(word, WARN, found, AGAIN, figures)
    found = f"{held}; mean level {level:g} dBFS, {counted}"
    if level <= DEAD_DBFS:
        fix = "stop the box (systemctl stop quietbox) and run this again: it then records the microphone itself"
        return Finding(word, FAIL, f"silent: {found}", fix, figures)
    return Finding(word, OK, found, "", figures)


def _running_engine(status: dict[str, Any], enough: bool = True) -> Finding:
    """Timing a second chain would only disturb the one that runs."""
    p99_us, late = _figure(status, "hop_p99_us"), _figure(status, "late_hops")
    figures = {"hop_p99_us": p99_us, "late_hops": late}
    if p99_us is None or not enough:
        found = (
            f"{status.get('engine')} in the running box: {_heard_s(status):g} s of sound, too little to measure its "
            "time"
        )
        return Finding("engine", WARN, found, AGAIN, figures)
    found = f"{status.get('engine')} in the running box: p99 {p99_us:.0f} us of {HOP_US:.0f}"
    found += "" if late is None else f", {late:.0f} late hops"
    if p99_us < TIGHT_US:
        return Finding("engine", OK, found, figures=figures)
    return Finding("engine", WARN, found, "stop other programs, or set a faster [suppress] engine", figures)


def _service_state(unit: dict[str, str]) -> Finding:
    if not unit:
        return Finding("service", WARN, "no systemd here", "start the box by hand: quietbox run")
    active, sub, enabled = unit.get("ActiveState"), unit.get("SubState"), unit.get("UnitFileState")
    found = f"{active} ({sub}), {enabled or 'not enabled'}"
    if unit.get("LoadState") != "loaded":
        fix = "sudo ./install.sh, or start the box by hand: quietbox run"
        state = "not installed" if unit.get("LoadState") == "not-found" else unit.get("LoadState")
        return Finding("service", WARN, f"{UNIT} is {state}", fix, dict(unit))
    if active == "failed" or sub == "auto-restart":
        fix = "see journalctl -u quietbox"
        return Finding("service", FAIL, f"{found}: its result was {unit.get('Result')}", fix, dict(unit))
    if active not in ("active", "activating", "reloading"):
        return Finding("service", WARN, found, "sudo systemctl enable --now quietbox", dict(unit))
    if enabled != "enabled":
        return Finding(
            "service", WARN, found, "sudo systemctl enable quietbox, otherwise it does not start at the next boot", unit
        )
    return Finding("service", OK, found, figures=dict(unit))


# Asking the machine.


def _unit_facts() -> dict[str, str]:
    """What systemd says of the service; empty where there is none to ask."""
    if not Path("/run/systemd/system").is_dir():
        return {}
    order = ["systemctl", "show", UNIT, f"--property={','.join(UNIT_FACTS)}"]
    try:
        told = subprocess.run(order, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = told.stdout.decode(errors="replace").splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines) if name in UNIT_FACTS}


def _firmware_bits() -> int | None:
    """What `vcgencmd get_throttled` says ("throttled=0x50005"); None where there is no such command."""
    try:
        order = ["vcgencmd", "get_throttled"]
        told = subprocess.run(order, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
        return int(told.stdout.decode(errors="replace").strip().removeprefix("throttled="), 16)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def _processes(proc: Path) -> Iterator[tuple[int, str]]:
    for comm in sorted(proc.glob("[0-9]*/comm")):
        with contextlib.suppress(OSError, ValueError):
            yield int(comm.parent.name), _text(comm).strip()


def _stop_server(name: str) -> str:
    units = SERVERS.get(name)
    return f"systemctl --user mask --now {units}" if units else f"stop {name} while the box runs"


def _has(card: Card, direction: Direction) -> bool:
    return any(port.direction == direction for port in card.ports)


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        if path.is_file():
            with path.open("rb") as opened:
                return opened.read(MOST_KB * 1024).decode(errors="replace")
    return ""


def _number(limit: str) -> float:
    """A limit of systemd's; "infinity" is what it says."""
    try:
        return float(limit)
    except ValueError:
        return 0.0


def _figure(status: dict[str, Any], name: str) -> float | None:
    """None where the box has not measured it, or says no number."""
    value = status.get(name)
    return float(value) if isinstance(value, int | float) else None


# Showing it.


def show(config_file: Path | None, *, seconds: float, as_json: bool, sound: bool) -> int:
    """Examine this machine and print the table, or JSON; returns 0 if the box would work here, else 1."""
    if sound and sys.stderr.isatty():
        print(f"listening for {seconds:g} s; please speak normally", file=sys.stderr)
    findings = Doctor(config_file, seconds=seconds, sound=sound).examine()
    failed = [finding.check for finding in findings if finding.verdict is FAIL]
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2, default=str))
    else:
        _print_table(findings)
        print(f"The box would not work: {', '.join(failed)}." if failed else "The box works here.")
    return 1 if failed else 0


def _print_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("check", "verdict", "found", "fix"):
        table.add_column(name, overflow="fold")
    colours = {OK: "green", WARN: "yellow", FAIL: "bold red"}
    for finding in findings:
        verdict = Text(finding.verdict, style=colours[finding.verdict])
        words = (Text(printable(text)) for text in (finding.found, finding.fix))
        table.add_row(Text(finding.check), verdict, *words)
    Console().print(table)

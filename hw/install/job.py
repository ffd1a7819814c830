"""Installs the box on a board, brings it up to date, takes it off again; ``./install.sh`` is the door to it.

First the plan, a numbered list; then the same steps are done. A step that finds its work done is not in the plan. Cut
off at any moment, the next run finishes: files change by renaming, a new version is built beside the old one and
entered by swapping one link. Needs nothing but Python: it runs before anything is installed.

Exit status: 0 installed (even if ``quietbox doctor`` at the end finds something missing, which it names), 1 not done,
2 wrong call.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge import UserError, files
from edge.devices import cards
from edge.devices.pcm import Direction
from hw.board import boards, bootconfig
from hw.install import ledger, wheels
from hw.install.ledger import Ledger

OPT = "opt/quietbox"
CURRENT = f"{OPT}/current"
PREVIOUS = f"{OPT}/previous"
MANIFEST = f"{OPT}/manifest.json"
COMMAND = "usr/local/bin/quietbox"
SETTINGS = "etc/quietbox/quietbox.toml"
UNITS = "etc/systemd/system"
SERVICE = "quietbox.service"
RELEASE = "etc/udev/rules.d/61-quietbox-cards.rules"
PLACES = {
    ".service": UNITS,
    ".socket": UNITS,
    ".timer": UNITS,
    ".sysusers": "etc/sysusers.d",
    ".tmpfiles": "etc/tmpfiles.d",
    ".rules": "etc/udev/rules.d",
    ".modules": "etc/modules-load.d",
    ".modprobe": "etc/modprobe.d",
}
"""Where a file of ``systemd/`` goes, by its suffix; the ``.d`` folders take NAME.conf, but udev its own suffix."""

NEEDED = ("python3-venv", "alsa-utils")
MOST_TEXT_BYTES = 4 << 20
"""Of config.txt, /etc/passwd, /etc/group and their like."""
NEEDED_32 = ("libsndfile1", "libopenblas0", "libgfortran5")  # 32-bit wheels of soundfile, NumPy and SciPy lean on these
TO_BUILD = ("gcc", "python3-dev", "pkg-config", "libasound2-dev")
if sys.version_info >= (3, 13):
    TO_BUILD += ("swig",)  # lgpio has no wheel for Debian 13's Python
SPACE_MB = 500

MEMS_CARD = "sndrpigooglevoi"
"""The id of the card that googlevoicehat-soundcard makes."""
MEMS_GAIN_DB = 24.0
"""I2S MEMS microphones arrive 20 to 30 dB below what speech should have."""
SOUND_SERVERS = ("pipewire", "wireplumber", "pulseaudio", "jackd", "jackdbus")


@dataclass(frozen=True)
class Step:
    """One thing to be done: what is said before, and the doing."""

    says: str
    do: Callable[[], object]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parser().parse_args(arguments)
    os.umask(0o022)  # the service's own user reads what is made here
    try:
        _find_folders(options)
        if options.collect_wheels:
            return _collect(options)
        job = Job(options)
        return job.uninstall() if options.uninstall else job.install()
    except UserError as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{error.filename or 'the system'}: {error.strerror}; fix that and run this again")
    except KeyboardInterrupt:
        _complain("interrupted; run it again to continue")
        return 130
    return 1


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def _complain(text: str) -> None:
    print(f"install.sh: {text}", file=sys.stderr, flush=True)


class Job:
    """One run: what was asked for, what is there, and the steps between the two."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.root: Path = options.root
        self.live = self.root == Path("/")
        """Whether this is the system that runs here."""
        self.systemd = self.live and Path("/run/systemd/system").is_dir()
        self.board = boards.this_board(self.root)
        self.ledger = Ledger(self.root, MANIFEST)
        self.cards = cards.list_cards(proc=self.at("proc"), dev=self.at("dev"))
        self.extras: list[str] = self.ledger.extras if options.extras is None else options.extras
        """Of ``wheels.CHOICES``: what was asked for now, or last time."""
        self.reboot = False

    def at(self, place: str) -> Path:
        return self.root / place

    # Putting it on.

    def install(self) -> int:
        if self.options.usb_microphone and self.board.is_pi and self.board.kind.usb_device is False:
            raise UserError(
                f"the {self.board.model} has no USB port with device mode, so --usb-microphone is not possible"
            )
        if self.live and not self.board.is_pi and not self.options.board and not self.options.dry_run:
            raise UserError("this is not a Raspberry Pi; use --board to install the service anyway")
        for line in boards.in_words(self.board) if self.live else [f"installing below {self.root}"]:
            say(line)
        for line in self.remarks():
            say(line)
        steps = self.plan()
        _tell(steps)
        if self.options.dry_run:
            return 0
        self.allowed()
        with self.alone():
            if steps:
                self.ledger.begin()
            for number, step in enumerate(steps, 1):
                say(f"{number}/{len(steps)} {step.says}")
                step.do()
            self.ledger.settle()
        say("installed" if steps else "nothing to do: everything is up to date")
        if self.reboot:
            say("config.txt changed: reboot so that the cards appear (sudo reboot)")
        self.ask_doctor()
        return 0

    def plan(self) -> list[Step]:
        """The steps that are not done yet, in the order in which the old version stays whole until the new one is."""
        package, _ = boards.gpio_package(self.board)
        bits = self.board.userland_bits or (64 if sys.maxsize > 2**32 else 32)
        folder, built = self.choose_folder(wheels.name_of(package, self.extras))
        steps = [*self.packages()]
        if not built:
            extras = wheels.extras(package, bits, self.extras)
            names = ", ".join(extra.name for extra in extras)
            source = f"from {self.options.wheels}" if self.options.wheels else "from the network"
            steps.append(
                Step(
                    f"build the program in {self.said(folder)}, packages {source}, with {names} (takes some minutes)",
                    partial(self.build, folder, extras),
                )
            )
        steps += [*self.settings(folder)]
        if ledger.points_to(self.at(CURRENT)) != folder.name:
            steps.append(Step(f"check the settings, then enter {folder.name}", lambda: self.enter(folder)))
        steps += [*self.command(), *self.system_files(), *self.account(), *self.enabling()]
        steps += [*self.firmware(), *self.release_cards()]
        if self.systemd and (steps or self.ledger.pending or not self.active()):
            steps.append(Step(f"start {SERVICE}, now and at every power-on", self.start))
        steps += [*self.old_versions(folder)]
        return steps

    def choose_folder(self, name: str) -> tuple[Path, bool]:
        """Where this version lies or is to be built, and whether it is there already."""
        for number in range(1, 100):
            folder = self.at(f"{OPT}/{name}" + (f".{number}" if number > 1 else ""))
            stamped = (folder / wheels.STAMP).is_file()
            again = self.options.again and not self.ledger.pending
            if stamped and not again and wheels.complete(folder):
                return folder, True
            if not stamped:
                return folder, False
        raise UserError(
            f"{self.at(OPT)} contains too many versions that do not run; run --uninstall, then install again"
        )

    def packages(self) -> Iterator[Step]:
        """Debian's part; below another root it is for whoever makes that root."""
        if not self.live:
            return
        wanted = [*NEEDED, *(() if sys.maxsize > 2**32 else NEEDED_32), *(() if self.options.wheels else TO_BUILD)]
        missing = _missing_packages(wanted)
        if missing:
            yield Step(f"install the Debian packages {' '.join(missing)}", lambda: self.install_packages(missing))

    def install_packages(self, missing: list[str]) -> None:
        self.ledger.make_folder(self.at(OPT))
        self.ledger.packages += [name for name in missing if name not in self.ledger.packages]
        self.ledger.save()
        _install_packages(missing)

    def build(self, folder: Path, extras: list[wheels.Extra]) -> None:
        self.ledger.make_folder(folder.parent)
        free_mb = shutil.disk_usage(folder.parent).free >> 20
        if free_mb < SPACE_MB:
            raise UserError(
                f"{self.said(folder.parent)} has {free_mb} MB free, {SPACE_MB} MB are needed; free some space"
            )
        self.ledger.extras = self.extras
        self.ledger.save()
        wheels.build(folder, extras, self.options.wheels, self.root, say)

    def settings(self, folder: Path) -> Iterator[Step]:
        """The settings file; one that the user changed is never touched."""
        path = self.at(SETTINGS)
        text, about = self.made_settings()
        asked = self.options.microphone != "keep" or self.options.usb_microphone is not None
        untouched = ledger.digest(path) in self.ledger.settings
        if not path.exists():
            yield Step(f"make {self.said(path)}: {about}", lambda: self.put_settings(text))
        elif asked and untouched and path.read_text() != text:
            yield Step(f"write {self.said(path)} again (it was never edited): {about}", lambda: self.put_settings(text))
        elif asked and not untouched:
            say(f"{self.said(path)} was edited and is kept; for these options it should contain: {about}")

    def made_settings(self) -> tuple[str, str]:
        """The shipped settings with the cards of this board, and in words what differs from the shipped ones."""
        text = (wheels.SOURCE / "edge/quietbox.toml").read_text()
        words = []
        microphone, output = self.microphone(), self.output()
        for section, key, value in (
            ("capture", "device", f'"{microphone}"' if microphone else ""),
            ("capture", "gain_db", str(MEMS_GAIN_DB) if microphone == MEMS_CARD else ""),
            ("playback", "device", f'"{output}"' if output else ""),
            ("cable", "usb", "true" if self.options.usb_microphone else ""),
        ):
            if value:
                before, here, after = re.split(rf"(?ms)(^\[{section}\].*?^{key} = )", text, maxsplit=1)
                text = before + here + re.sub(r"^[^ \n]+", value, after)
                words.append(f"[{section}] {key} = {value}")
        return text, ", ".join(words) or "all settings at their defaults, the box selects the cards itself"

    def microphone(self) -> str:
        """The card to listen to; empty if it is not the only one."""
        if self.options.microphone == "i2s":
            return MEMS_CARD
        found = {card.id for card in self.ports("capture")}
        if self.options.microphone == "usb":
            found = {card.id for card in self.ports("capture") if card.driver.lower().startswith("usb")}
        return found.pop() if len(found) == 1 else ""

    def output(self) -> str:
        """The card to play to; empty if it is not the only one."""
        found = {card.id for card in self.ports("playback")}
        if len(found) > 1:
            found.discard(MEMS_CARD)  # its output is always listed, whether or not an amplifier is wired to it
        return found.pop() if len(found) == 1 else ""

    def ports(self, direction: Direction) -> list[cards.Card]:
        return [
            card for card in self.cards if any(port.direction == direction and port.looks_like for port in card.ports)
        ]

    def put_settings(self, text: str) -> None:
        path = self.at(SETTINGS)
        self.ledger.make_folder(path.parent)
        data = text.encode()
        made = hashlib.sha256(data).hexdigest()
        self.ledger.settings = [*(entry for entry in [ledger.digest(path)] if entry), made]
        self.ledger.save()
        ledger.write(path, data)
        self.ledger.settings = [made]
        self.ledger.save()

    def enter(self, folder: Path) -> None:
        """Swap ``current``, if the new version takes the settings."""
        fault = wheels.settings_fault(folder, self.at(SETTINGS))
        if fault:
            stays = ledger.points_to(self.at(CURRENT))
            raise UserError(f"{fault}; fix it and run this again ({stays or 'nothing'} stays in use)")
        before = ledger.points_to(self.at(CURRENT))
        if before and (self.at(OPT) / before).is_dir():
            self.ledger.put_link(self.at(PREVIOUS), before)
        self.ledger.put_link(self.at(CURRENT), folder.name)

    def command(self) -> Iterator[Step]:
        path = self.at(COMMAND)
        target = f"/{CURRENT}/bin/quietbox"
        if ledger.points_to(path) == target:
            return
        if path.exists() and COMMAND not in self.ledger.links:
            raise UserError(f"{path} exists and is not Quietbox's; move it away and run this again")
        yield Step(f"link the command {self.said(path)}", lambda: self.ledger.put_link(path, target))

    def system_files(self) -> Iterator[Step]:
        """Unit, account, folders, device names: what lies in ``systemd/``."""
        for source in sorted((wheels.SOURCE / "systemd").iterdir()):
            place = place_of(source.name)
            if place:
                yield from self.file(self.at(place), source.read_bytes())

    def file(self, path: Path, data: bytes) -> Iterator[Step]:
        if not path.is_file() or path.read_bytes() != data:
            verb = "write" if not path.exists() else "update"
            yield Step(f"{verb} {self.said(path)}", lambda: self.ledger.put_file(path, data))

    def account(self) -> Iterator[Step]:
        for source in sorted((wheels.SOURCE / "systemd").glob("*.sysusers")):
            text = source.read_text()
            users, groups = self.unknown_accounts(text)
            names = ", ".join([*(f"user {name}" for name in users), *(f"group {name}" for name in groups)])
            if names or not self.members(text):
                names = names or "the user's groups"
                yield Step(f"make {names}", partial(self.make_account, source.stem, text))

    def make_account(self, name: str, text: str) -> None:
        users, groups = self.unknown_accounts(text)
        self.ledger.users += [user for user in users if user not in self.ledger.users]
        self.ledger.groups += [group for group in groups if group not in self.ledger.groups]
        self.ledger.save()
        self.ledger.make_folder(self.at("etc"))
        _run(["systemd-sysusers", f"--root={self.root}", f"{name}.conf"])

    def unknown_accounts(self, text: str) -> tuple[list[str], list[str]]:
        """The users and groups of a sysusers file that are not there yet. A user brings a group of its name."""
        known = {place: _names(self.at(f"etc/{place}")) for place in ("passwd", "group")}
        lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        users = [words[1] for words in lines if words[0].startswith("u") and words[1] not in known["passwd"]]
        groups = [words[1] for words in lines if words[0].startswith("g")] + users
        groups += [words[2] for words in lines if words[0].startswith("m")]
        return users, [name for name in dict.fromkeys(groups) if name not in known["group"]]

    def members(self, text: str) -> bool:
        """Whether every user is in the groups that a sysusers file puts it into."""
        path = self.at("etc/group")
        held = {line.split(":")[0]: line.split(":")[-1].split(",") for line in _lines(path)}
        wanted = re.findall(r"^m\s+(\S+)\s+(\S+)", text, re.MULTILINE)
        return all(user in held.get(group, []) for user, group in wanted)

    def enabling(self) -> Iterator[Step]:
        """What starts at power-on: the links that ``systemctl enable`` would make."""
        for source in sorted((wheels.SOURCE / "systemd").glob("*.service")):
            for target in re.findall(r"^WantedBy=(.+)$", source.read_text(), re.MULTILINE):
                path = self.at(f"{UNITS}/{target.strip()}.wants/{source.name}")
                unit = f"/{UNITS}/{source.name}"
                if ledger.points_to(path) != unit:
                    yield Step(f"start {source.name} at power-on", partial(self.ledger.put_link, path, unit))

    def firmware(self) -> Iterator[Step]:
        """The lines in config.txt."""
        path = bootconfig.find(self.root)
        wish = bootconfig.Wish(
            microphone={"i2s": True, "usb": False, "keep": None}[self.options.microphone],
            gadget=self.options.usb_microphone,
            jack=self.board.kind.jack is True,
        )
        if path is None:
            if self.board.is_pi or wish.microphone or wish.gadget:
                say("there is no config.txt below /boot: the overlays are not changed")
            return
        now = _read(path)
        after = bootconfig.edit(now, wish, self.board.model)
        if after == now:
            return
        held = [line for line in bootconfig.block(after) if line in bootconfig.SETTINGS]
        yield Step(
            f"set in {self.said(path)}: {', '.join(held) or 'nothing more'} (needs a reboot)",
            lambda: self.put_config_txt(path, after),
        )

    def put_config_txt(self, path: Path, text: str) -> None:
        backup = path.with_name(bootconfig.BACKUP)
        self.ledger.config_txt = str(path.relative_to(self.root))
        self.ledger.save()
        if not backup.exists():
            ledger.write(backup, path.read_bytes())
        ledger.write(path, text.encode("utf-8", "surrogateescape"), path.stat().st_mode & 0o777)
        self.reboot = True

    def release_cards(self) -> Iterator[Step]:
        """A rule that keeps the desktop's sound server off the box's cards."""
        if not self.options.release_cards:
            return
        ids = sorted({card for card in (self.microphone(), self.output()) if card} or self.likely_cards())
        if not ids:
            raise UserError(
                "--release-cards: no microphone and no output are plugged in; plug them in and run it again"
            )
        # PipeWire's session manager heeds the first mark, PulseAudio the second.
        marks = 'ENV{ACP_IGNORE}="1", ENV{PULSE_IGNORE}="1"'
        rules = "".join(f'SUBSYSTEM=="sound", KERNEL=="card*", ATTR{{id}}=="{card}", {marks}\n' for card in ids)
        for step in self.file(self.at(RELEASE), f"# Sound servers leave Quietbox's cards alone.\n{rules}".encode()):
            yield Step(f"{step.says}: sound servers leave {', '.join(ids)} alone after the next reboot", step.do)

    def likely_cards(self) -> set[str]:
        directions: tuple[Direction, ...] = ("capture", "playback")
        return {best.id for way in directions if (best := cards.best_card(self.cards, way))}

    def start(self) -> None:
        """Load what changed and start the service; if it does not come up, go back to the version before."""
        _try(["udevadm", "control", "--reload"])
        _try(["udevadm", "trigger", "--action=change", "--subsystem-match=sound", "--subsystem-match=gpio"])
        for source in sorted((wheels.SOURCE / "systemd").glob("*.tmpfiles")):
            _try(["systemd-tmpfiles", "--create", f"/{place_of(source.name)}"])
        _run(["systemctl", "daemon-reload"])
        if _try(["systemctl", "restart", SERVICE]):
            return
        why = f"{SERVICE} does not start; see `journalctl -u quietbox -n 20`"
        before = ledger.points_to(self.at(PREVIOUS))
        now = ledger.points_to(self.at(CURRENT))
        if before and before != now and (self.at(OPT) / before / wheels.STAMP).is_file():
            self.ledger.put_link(self.at(CURRENT), before)
            back = _try(["systemctl", "restart", SERVICE])
            raise UserError(f"{why}. {before} {'runs again' if back else 'does not start either'}")
        raise UserError(why)

    def active(self) -> bool:
        return _try(["systemctl", "is-active", "--quiet", SERVICE])

    def old_versions(self, folder: Path) -> Iterator[Step]:
        """Everything but this version and the one before, to which one can go back."""
        before = ledger.points_to(self.at(CURRENT))
        if before == folder.name:
            before = ledger.points_to(self.at(PREVIOUS))
        opt = self.at(OPT)
        for old in sorted(opt.iterdir()) if opt.is_dir() else []:
            if old.is_dir() and not old.is_symlink() and old.name not in (folder.name, before):
                yield Step(f"remove the old version {old.name}", partial(ledger.remove_tree, old))

    # What to know before.

    def remarks(self) -> Iterator[str]:
        """What the plan cannot mend and the user should know."""
        if self.ledger.pending:
            yield "an earlier run was interrupted; this run completes it"
        outputs = {card.id for card in self.ports("playback")}
        if self.board.kind.jack is False:
            there = f"outputs found: {', '.join(sorted(outputs))}" if outputs else "no output is plugged in yet"
            yield f"no headphone jack on this board: {there}; use a USB headset, a USB dongle or an I2S DAC"
        for direction, found in (("microphones", self.ports("capture")), ("outputs", self.ports("playback"))):
            names = sorted({card.id for card in found})
            if len(names) > 1:
                way: Direction = "capture" if direction == "microphones" else "playback"
                best = cards.best_card(self.cards, way)
                taken = best.id if best else "none"
                yield (
                    f"several {direction}: {', '.join(names)}; auto selects {taken}; name another in the settings if "
                    "needed"
                )
        package, why = boards.gpio_package(self.board)
        yield f"LED and button through {package}: {why}"
        text = _read(path) if (path := bootconfig.find(self.root)) else ""
        if self.board.kind.jack and bootconfig.audio(text, self.board.model) is False:
            yield f"{self.said(path) if path else 'config.txt'} switches the jack off (dtparam=audio=off)"
        lacking = wheels.without(self.at(CURRENT))
        if lacking and not self.options.again:
            yield f"installed without {', '.join(lacking)}; try again with --again"
        servers = sorted(set(_sound_servers(self.at("proc"))))
        if servers and not self.at(RELEASE).exists():
            yield (
                f"{', '.join(servers)} may occupy the cards; ./install.sh --release-cards prevents it (the desktop "
                "then has no sound on them)"
            )

    def ask_doctor(self) -> None:
        """The last word is the doctor's; what it finds missing does not undo the install."""
        if not self.systemd:
            return
        say("quietbox doctor")
        try:
            status = subprocess.run([f"/{COMMAND}", "doctor"], cwd="/", timeout=300).returncode
        except (OSError, subprocess.TimeoutExpired):
            status = 1
        say("the box works" if status == 0 else "installed, but the box does not work yet: see the doctor's rows above")

    # Taking it off.

    def uninstall(self) -> int:
        steps = self.removal()
        _tell(steps)
        if self.options.dry_run:
            return 0
        self.allowed()
        with self.alone():
            for number, step in enumerate(steps, 1):
                say(f"{number}/{len(steps)} {step.says}")
                step.do()
        say("Quietbox has been removed" if steps else "nothing of Quietbox is installed here")
        return 0

    def removal(self) -> list[Step]:
        """Everything in the ledger, backwards."""
        if not self.at(OPT).is_dir():
            return [*self.settings_removal()] if self.options.purge else []
        steps = []
        units = [path for path in map(Path, self.ledger.files) if path.suffix == ".service"]
        if self.systemd and units:
            names = [path.name for path in units]
            steps.append(Step(f"stop {' '.join(names)}", partial(_try, ["systemctl", "stop", *names])))
        for name in [*self.ledger.links, *self.ledger.files]:
            path = self.at(name)
            if path.parent != self.at(OPT):
                steps.append(Step(f"remove {self.said(path)}", partial(self.ledger.drop, path)))
        if self.ledger.config_txt:
            path = self.at(self.ledger.config_txt)
            steps.append(Step(f"remove Quietbox's lines from {self.said(path)}", lambda: self.restore_config_txt(path)))
        steps += [*self.settings_removal()]
        accounts = [*self.ledger.users, *self.ledger.groups]
        if accounts:
            steps.append(Step(f"remove the accounts {' '.join(dict.fromkeys(accounts))}", self.remove_accounts))
        if self.systemd:
            steps.append(Step("reload systemd and udev", self.forget_units))
        if self.ledger.packages:
            say(f"these Debian packages were installed with it and are kept: {' '.join(self.ledger.packages)}")
        steps.append(Step(f"remove {self.said(self.at(OPT))}", self.remove_program))
        return steps

    def settings_removal(self) -> Iterator[Step]:
        path = self.at(SETTINGS)
        kept = path.with_name(f"{path.name}.kept")
        if self.options.purge:
            there = [place for place in (path, kept) if place.exists()]
            if there:
                yield Step(f"remove {' '.join(map(self.said, there))}", partial(_unlink, there))
        elif path.exists():
            yield Step(f"keep your settings as {self.said(kept)}", lambda: os.replace(path, kept))

    def restore_config_txt(self, path: Path) -> None:
        if path.is_file():
            now = _read(path)
            after = bootconfig.remove(now)
            if after != now:
                ledger.write(path, after.encode("utf-8", "surrogateescape"), path.stat().st_mode & 0o777)
                say("config.txt changed: it takes effect at the next reboot")
        path.with_name(bootconfig.BACKUP).unlink(missing_ok=True)
        ledger.part_of(path).unlink(missing_ok=True)
        self.ledger.config_txt = ""
        self.ledger.save()

    def remove_accounts(self) -> None:
        where = [] if self.live else ["--prefix", str(self.root)]
        for user in self.ledger.users:
            if user in _names(self.at("etc/passwd")):
                _run(["userdel", *where, user])
        for group in self.ledger.groups:
            if group in _names(self.at("etc/group")):
                _run(["groupdel", *where, group])
        self.ledger.users, self.ledger.groups = [], []
        self.ledger.save()

    def forget_units(self) -> None:
        _try(["systemctl", "daemon-reload"])
        _try(["systemctl", "reset-failed", SERVICE])
        _try(["udevadm", "control", "--reload"])

    def remove_program(self) -> None:
        """The ledger goes last, so that a run cut off here can be finished."""
        manifest = self.at(MANIFEST)
        for path in sorted(self.at(OPT).iterdir()):
            if path != manifest:
                ledger.remove_tree(path)
        self.ledger.remove_folders()
        self.ledger.forget()
        self.ledger.remove_folders()

    # Small change.

    def said(self, path: Path) -> str:
        """A path as it will be called on the board."""
        return f"/{path.relative_to(self.root)}"

    def allowed(self) -> None:
        if self.live and os.geteuid() != 0:
            raise UserError("this changes the system: run it as root (sudo)")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Only one installer at a time."""
        folder = self.at("etc") if self.at("etc").is_dir() else self.root
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise UserError("another run of the installer is active; wait for it to end") from None
        finally:
            os.close(descriptor)


def place_of(name: str) -> str:
    """Where a file of ``systemd/`` belongs on the board; empty for one that is no system file."""
    path = Path(name)
    place = PLACES.get(path.suffix)
    if place is None:
        return ""
    return f"{place}/{name}" if place == UNITS or path.suffix == ".rules" else f"{place}/{path.stem}.conf"


def _collect(options: argparse.Namespace) -> int:
    """Fill a folder with wheels for a board of this kind that has no network."""
    board = boards.this_board()
    extras = wheels.extras(boards.gpio_package(board)[0], 64 if sys.maxsize > 2**32 else 32, options.extras or [])
    target: Path = options.collect_wheels
    steps = []
    missing = _missing_packages([*NEEDED[:1], *TO_BUILD])
    if missing and os.geteuid() != 0 and not options.dry_run:
        raise UserError(f"Debian packages are missing; run: sudo apt-get install {' '.join(missing)}")
    if missing:
        steps.append(Step(f"install the Debian packages {' '.join(missing)}", lambda: _install_packages(missing)))
    names = ", ".join(extra.name for extra in extras)
    steps.append(
        Step(f"fill {target} with wheels of quietbox and {names}", lambda: wheels.collect(target, extras, say))
    )
    _tell(steps)
    if not options.dry_run:
        for step in steps:
            step.do()
        say(f"{len(list(target.glob('*.whl')))} wheels in {target}: ./install.sh --wheels FOLDER needs no network")
    return 0


def _tell(steps: list[Step]) -> None:
    if steps:
        say("planned steps:")
    for number, step in enumerate(steps, 1):
        print(f"    {number}. {step.says}", flush=True)


def _missing_packages(wanted: list[str]) -> list[str]:
    if not shutil.which("dpkg-query"):
        raise UserError(
            "this is not a Debian system (no dpkg): Quietbox installs on Raspberry Pi OS and Debian 12 and 13"
        )
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Status}\n", *wanted], capture_output=True, text=True
    ).stdout.splitlines()
    there = {line.split()[0] for line in asked if line.endswith("ok installed")}
    return [name for name in wanted if name not in there]


def _install_packages(missing: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    failed = f"apt-get could not install {' '.join(missing)}; is there a network?"
    for command in (
        ["dpkg", "--configure", "-a"],  # what a power cut left half configured
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing],
    ):
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL)
        if done.returncode and command[1] != "update":
            raise UserError(failed)


def _run(command: list[str]) -> None:
    """Raises UserError with the command's last line."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed: Quietbox installs on a Debian with systemd") from None
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines() or ["it gave no reason"]
        raise UserError(f"{' '.join(command)} failed: {last[-1]}")


def _try(command: list[str]) -> bool:
    """Whether the command went well."""
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()


def _names(path: Path) -> list[str]:
    """The accounts of a passwd or group file."""
    return [line.split(":")[0] for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    """The lines of a text file; none if it is not there."""
    return _read(path).splitlines() if path.is_file() else []


def _read(path: Path) -> str:
    """A text of unknown encoding, byte for byte."""
    return files.read_bounded(path, MOST_TEXT_BYTES).decode("utf-8", "surrogateescape")


def _sound_servers(proc: Path) -> Iterator[str]:
    for name in proc.glob("[0-9]*/comm"):
        try:
            if (called := name.read_text().strip()) in SOUND_SERVERS:
                yield called
        except OSError:  # ended meanwhile
            continue


def _find_folders(options: argparse.Namespace) -> None:
    """Make every folder of the call a full path; raises UserError."""
    for name in ("root", "wheels", "collect_wheels"):
        if folder := getattr(options, name):
            setattr(options, name, (options.called_from / folder).resolve())
    for name in ("root", "wheels"):
        if (folder := getattr(options, name)) and not folder.is_dir():
            raise UserError(f"--{name} {folder}: there is no such folder")
    if options.wheels and not any(options.wheels.glob("*.whl")):
        raise UserError(f"{options.wheels} holds no wheels; ./install.sh --collect-wheels {options.wheels} fills it")


def _extras(text: str) -> list[str]:
    """The argument of ``--with``."""
    names = sorted({name.strip() for name in text.split(",")} - {"none"})
    if unknown := [name for name in names if name not in wheels.CHOICES]:
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}; there are {', '.join(wheels.CHOICES)}, none")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="install.sh",
        description="Installs Quietbox as a service, or updates it. First lists what it will do.",
        epilog="Exit status: 0 installed, even if the doctor at the end finds the box not working yet; 1 failed; "
        "2 wrong arguments.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--board", action="store_true", help="install the service on a Debian that is not a Raspberry Pi, too"
    )
    parser.add_argument(
        "--microphone",
        choices=("i2s", "usb", "keep"),
        default="keep",
        help="i2s: enable the overlay for an I2S MEMS microphone; usb: disable it; keep (default): no change",
    )
    parser.add_argument(
        "--usb-microphone",
        action=argparse.BooleanOptionalAction,
        help="make the box a microphone for a PC on the board's USB port (Zero 2, 4, 5)",
    )
    parser.add_argument(
        "--release-cards", action="store_true", help="prevent the desktop's sound server from using the box's cards"
    )
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="take all packages from DIR, without a network")
    parser.add_argument(
        "--with",
        dest="extras",
        type=_extras,
        metavar="EXTRAS",
        help=f"also install {' or '.join(wheels.CHOICES)} (comma-separated; later runs keep them, none removes them)",
    )
    parser.add_argument("--again", action="store_true", help="build the program again, to add what was missing")
    parser.add_argument("--dry-run", action="store_true", help="list what would be done and stop")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="install below DIR (a card image)")
    parser.add_argument(
        "--uninstall", action="store_true", help="remove everything that was installed; settings are kept"
    )
    parser.add_argument("--purge", action="store_true", help="with --uninstall: remove the settings, too")
    parser.add_argument(
        "--collect-wheels",
        type=Path,
        metavar="DIR",
        help="fill DIR with the packages for --wheels, for boards like this",
    )
    parser.add_argument("--called-from", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)
    return parser

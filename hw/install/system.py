"""What systemd and udev know of the box: its files, its account, what starts at power-on, and the start itself."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from edge import UserError
from hw.install import ledger, sound_cards, wheels
from hw.install.places import COMPLETION, CURRENT, OPT, PREVIOUS, RELEASE, SERVICE, UNITS, place_of
from hw.install.target import Step, Target, attempt, lines, run


def steps(target: Target) -> Iterator[Step]:
    """Unit, account, folders, device names: what lies in ``systemd/``."""
    for source in sorted((wheels.SOURCE / "systemd").iterdir()):
        place = place_of(source.name)
        if place:
            yield from file(target, target.at(place), source.read_bytes())
    yield from file(target, target.at(COMPLETION), (wheels.SOURCE / "edge/completion/quietbox.bash").read_bytes())


def file(target: Target, path: Path, data: bytes) -> Iterator[Step]:
    if not path.is_file() or path.read_bytes() != data:
        verb = "write" if not path.exists() else "update"
        yield Step(f"{verb} {target.named(path)}", lambda: target.ledger.put_file(path, data))


def account(target: Target) -> Iterator[Step]:
    for source in sorted((wheels.SOURCE / "systemd").glob("*.sysusers")):
        text = source.read_text()
        users, groups = unknown_accounts(target, text)
        names = ", ".join([*(f"user {name}" for name in users), *(f"group {name}" for name in groups)])
        if names or not members(target, text):
            names = names or "the user's groups"
            yield Step(f"make {names}", partial(make_account, target, source.stem, text))


def make_account(target: Target, name: str, text: str) -> None:
    users, groups = unknown_accounts(target, text)
    target.ledger.users += [user for user in users if user not in target.ledger.users]
    target.ledger.groups += [group for group in groups if group not in target.ledger.groups]
    target.ledger.save()
    target.ledger.make_folder(target.at("etc"))
    run(["systemd-sysusers", f"--root={target.root}", f"{name}.conf"])


def unknown_accounts(target: Target, text: str) -> tuple[list[str], list[str]]:
    """The users and groups of a sysusers file that are not there yet. A user brings a group of its name."""
    known = {place: account_names(target.at(f"etc/{place}")) for place in ("passwd", "group")}
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    users = [words[1] for words in lines if words[0].startswith("u") and words[1] not in known["passwd"]]
    groups = [words[1] for words in lines if words[0].startswith("g")] + users
    groups += [words[2] for words in lines if words[0].startswith("m")]
    return users, [name for name in dict.fromkeys(groups) if name not in known["group"]]


def members(target: Target, text: str) -> bool:
    """Whether every user is in the groups that a sysusers file puts it into."""
    path = target.at("etc/group")
    held = {line.split(":")[0]: line.split(":")[-1].split(",") for line in lines(path)}
    wanted = re.findall(r"^m\s+(\S+)\s+(\S+)", text, re.MULTILINE)
    return all(user in held.get(group, []) for user, group in wanted)


def enabling(target: Target) -> Iterator[Step]:
    """What starts at power-on: the links that ``systemctl enable`` would make."""
    for source in sorted((wheels.SOURCE / "systemd").glob("*.service")):
        for wanted_by in re.findall(r"^WantedBy=(.+)$", source.read_text(), re.MULTILINE):
            path = target.at(f"{UNITS}/{wanted_by.strip()}.wants/{source.name}")
            unit = f"/{UNITS}/{source.name}"
            if ledger.points_to(path) != unit:
                yield Step(f"start {source.name} at power-on", partial(target.ledger.put_link, path, unit))


def release_cards(target: Target) -> Iterator[Step]:
    """A rule that keeps the desktop's sound server off the box's cards."""
    if not target.options.release_cards:
        return
    ids = sorted(
        {card for card in (sound_cards.microphone(target), sound_cards.output(target)) if card}
        or sound_cards.likely_cards(target)
    )
    if not ids:
        raise UserError("--release-cards: no microphone and no output are plugged in; plug them in and run it again")
    # PipeWire's session manager heeds the first mark, PulseAudio the second.
    marks = 'ENV{ACP_IGNORE}="1", ENV{PULSE_IGNORE}="1"'
    rules = "".join(f'SUBSYSTEM=="sound", KERNEL=="card*", ATTR{{id}}=="{card}", {marks}\n' for card in ids)
    for step in file(target, target.at(RELEASE), f"# Sound servers leave Quietbox's cards alone.\n{rules}".encode()):
        yield Step(f"{step.text}: sound servers leave {', '.join(ids)} alone after the next reboot", step.do)


def start(target: Target) -> None:
    """Load what changed and start the service; if it does not come up, go back to the version before."""
    attempt(["udevadm", "control", "--reload"])
    attempt(["udevadm", "trigger", "--action=change", "--subsystem-match=sound", "--subsystem-match=gpio"])
    for source in sorted((wheels.SOURCE / "systemd").glob("*.tmpfiles")):
        attempt(["systemd-tmpfiles", "--create", f"/{place_of(source.name)}"])
    run(["systemctl", "daemon-reload"])
    if attempt(["systemctl", "restart", SERVICE]):
        return
    why = f"{SERVICE} does not start; see `journalctl -u quietbox -n 20`"
    before = ledger.points_to(target.at(PREVIOUS))
    now = ledger.points_to(target.at(CURRENT))
    if before and before != now and (target.at(OPT) / before / wheels.STAMP).is_file():
        target.ledger.put_link(target.at(CURRENT), before)
        back = attempt(["systemctl", "restart", SERVICE])
        raise UserError(f"{why}. {before} {'runs again' if back else 'does not start either'}")
    raise UserError(why)


def active() -> bool:
    return attempt(["systemctl", "is-active", "--quiet", SERVICE])


def account_names(path: Path) -> list[str]:
    """The accounts of a passwd or group file."""
    return [line.split(":")[0] for line in lines(path)]

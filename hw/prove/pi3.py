"""The card image in an emulated Raspberry Pi 3: does it boot to the running box, and what does a power cut cost?

    python -m hw.prove.pi3 IMAGE [--cuts N] [--update] [--send UPDATE] [--keep DIR] [--limit SECONDS]

Takes a copy of the image, lets the card be larger than it, starts it in ``qemu-system-aarch64 -M raspi3b`` with the
kernel, the initial root and the device tree of its own first partition (which the Pi's firmware would read; the
emulator has none), and looks: from outside at the LED's pin and at the partitions, from inside through one more
service on the copy that looks at the system once the box runs and writes to the serial line. ``--cuts N`` kills the
emulator at N random moments, checks both file systems after each, and boots to the running box in the end.
``--update`` lays an update on the card that can never become ready, and sees the box go back. ``--send`` lays an SSH
key on the card and puts UPDATE into the running box, as ``hw/image/update UPDATE --host NAME`` does.

What it does not show: the speed of a Pi; the firmware's part of the boot; the jack, the microphone and any other sound
card, USB and Wi-Fi, none of which are emulated; the button pressed, since nothing here can pull its pin; how a real
card behaves when its power goes, since the emulator's file keeps everything it was given.

Needs qemu-system-arm, mtools, device-tree-compiler, e2fsprogs. A boot takes minutes.
"""

import argparse
import hashlib
import io
import itertools
import json
import random
import re
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edge import UserError
from edge.console import run_main
from hw.image import bundle, owner, update
from hw.prove import needs
from hw.prove.emulated import Card, Emulator, PowerOn, prepare, qemu, run
from hw.prove.probe import add_probe, answers
from hw.prove.rows import Row, verdict

MAC = "b8:27:eb:c0:ff:ee"
"""As Raspberry Pis have them; one that looks made up would give the wire another name in there."""
LED_PIN, BUTTON_PIN = 17, 27
LEVELS, FUNCTION_1, FUNCTION_2 = 0x3F200034, 0x3F200004, 0x3F200008
"""GPLEV0 and GPFSEL1, GPFSEL2 (BCM2835 ARM Peripherals, 6.1, at the Pi 3's address)."""
ONLY_A_PI = ("own name", "panel at work", "the service cannot read wifi.conf")
ONLY_DATA = r" /data ext4 \S*nosuid,nodev"
WATCH_S, ENOUGH = 120.0, 4
"""The LED is watched for so long, or until it has changed so often; an emulated second can be many."""
LIMIT_S = 1500.0


def check_boot(card: Card, work: Path, power_on: PowerOn, limit_s: float, whole: bool) -> Iterator[Row]:
    """Boot to the running box and look at it from outside and from inside."""
    sums = [card.sha256(1), card.sha256(2)]
    machine = Emulator(power_on(card, work), work)
    try:
        yield from _look(machine, limit_s, whole)
    finally:
        machine.cut()
    same = [card.sha256(1), card.sha256(2)] == sums
    yield Row("first and second partition unchanged", verdict(same), "sha256 before and after", 0)
    faults = card.data_faults(work)
    yield Row("data partition after the power cut", verdict(not faults), faults or "e2fsck finds nothing", 0)


def _look(machine: Emulator, limit_s: float, whole: bool) -> Iterator[Row]:
    running = machine.wait(lambda text: "quick" in answers(text), limit_s)
    facts = answers(machine.output())
    unit = facts.get("unit", "")
    yield Row("boots to the running service", verdict(running and "active" in unit), unit, machine.seconds)
    if not running:
        yield Row("console", "FAIL", " ".join(machine.output().split())[-400:], machine.seconds)
        return
    a_pi = machine.socket.exists()
    if a_pi:
        yield check_led(machine)
    tests: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
        ("no unit failed", "failed", lambda text: not text),
        ("root is read-only", "root", lambda text: text.startswith("read-only")),
        ("own name", "name", lambda text: bool(re.fullmatch(r"quietbox-[0-9a-f]{4} [0-9a-f]{32}", text))),
        ("data partition grown to the card", "data", lambda text: int((text.split() + ["0"] * 2)[1]) > 100),
        ("no set-uid program, no device from /data", "mounts", lambda text: bool(re.search(ONLY_DATA, text))),
        ("the service cannot read wifi.conf", "secrets", lambda text: "Permission denied" in text),
        ("no open port", "open", lambda text: text == "0"),
        ("no password", "password", lambda text: text == "*"),
        ("settings from the card", "settings", lambda text: "settings from the card" in text),
        ("journal fields", "field", lambda text: '"QUIETBOX_STATE"' in text),
        ("panel at work", "journal", lambda text: f"LED on GPIO {LED_PIN}, button on GPIO {BUTTON_PIN}" in text),
    )
    for what, key, good in tests if a_pi else [one for one in tests if one[0] not in ONLY_A_PI]:
        found = facts.get(key, "no output")
        shown = " ".join(re.findall(r'"QUIETBOX_(?:EVENT|STATE)":"[^"]*"', found)) or found
        yield Row(what, verdict(key in facts and good(found)), shown[:300], machine.seconds)
    if not whole:
        return
    machine.wait(lambda text: "done" in answers(text), limit_s)
    facts = answers(machine.output())
    doctor = facts.get("doctor", "no output")
    ended = bool(re.search(r"exit [01]$", doctor)) and "Traceback" not in doctor
    yield Row("doctor --no-sound", verdict(ended), doctor[-300:], machine.seconds)
    for engine in ("network", "rnn", "dsp"):
        found = facts.get(f"enhance-{engine}", "no output")
        yield Row(f"enhance, {engine}", verdict(found.startswith("exit 0")), found[:300], machine.seconds)


def check_led(machine: Emulator) -> Row:
    """The LED's level over some seconds, and what its pin and the button's are set to."""
    began_s = time.monotonic()
    levels = []
    changes = 0
    while changes < ENOUGH and time.monotonic() - began_s < WATCH_S:
        word = machine.words(LEVELS)
        if word is not None:
            levels.append(word >> LED_PIN & 1)
        changes = sum(a != b for a, b in itertools.pairwise(levels))
        time.sleep(0.05)
    took_s = time.monotonic() - began_s
    led = (machine.words(FUNCTION_1) or 0) >> 3 * (LED_PIN - 10) & 7
    button = (machine.words(FUNCTION_2) or 0) >> 3 * (BUTTON_PIN - 20) & 7
    found = f"{changes} changes in {took_s:.0f} s ({len(levels)} looks); pin {LED_PIN} is "
    found += f"{'an output' if led == 1 else 'no output'}, pin {BUTTON_PIN} {'an input' if button == 0 else 'no input'}"
    return Row("LED blinks, seen from outside", verdict(changes >= 2 and led == 1 and button == 0), found, took_s)


def check_cuts(card: Card, work: Path, power_on: PowerOn, count: int, longest_s: float, seed: int) -> Iterator[Row]:
    """Cut the power ``count`` times, at moments between power-on and ``longest_s``."""
    moments = random.Random(seed)
    sums = [card.sha256(1), card.sha256(2)]
    for number in range(1, count + 1):
        machine = Emulator(power_on(card, work), work)
        machine.wait(lambda text: False, moment_s := moments.uniform(2, longest_s))
        machine.cut()
        faults = card.data_faults(work)
        same = [card.sha256(1), card.sha256(2)] == sums
        found = faults or ("" if same else "the first or second partition changed") or "both file systems whole"
        yield Row(f"power cut {number} of {count}", verdict(not faults and same), found, moment_s)


def broken_update(work: Path, key: Path) -> Path:
    """A bundle that is well made, signed with ``key``, and can never become ready: it holds no program."""
    text = b"nothing in here runs\n"
    listing = {"name": "0.0.0-broken", "python": bundle.PYTHON, "machine": bundle.MACHINE, "build": bundle.MOST_BUILD}
    head = json.dumps(listing | {"files": {"note": hashlib.sha256(text).hexdigest()}}).encode()
    path = work / "update.quietbox"
    with tarfile.open(path, "w:gz") as tar:
        for name, data in ((bundle.CONTENTS, head), ("note", text)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    owner.sign(path, key)
    return path


def check_update(card: Card, work: Path, power_on: PowerOn, limit_s: float, key: Path) -> Iterator[Row]:
    """A broken update and a broken settings file on the card: the box goes back, and takes the last good settings."""
    card.to_boot(broken_update(work, key), "update.quietbox")
    settings = work / "quietbox.toml"
    settings.write_text("[limiter]\nthreshold_dbfs = 40\n")
    card.to_boot(settings, "quietbox.toml")
    yield from check_fallback(card, work, power_on, limit_s)


def check_fallback(card: Card, work: Path, power_on: PowerOn, limit_s: float) -> Iterator[Row]:
    """With both of them broken: what runs, and what the journal shows."""
    machine = Emulator(power_on(card, work), work)
    try:
        running = machine.wait(lambda text: "quick" in answers(text), limit_s)
        facts = answers(machine.output())
        unit = facts.get("unit", "no output")
        yield Row(
            "boots with a broken update", verdict(running and "ActiveState=active" in unit), unit, machine.seconds
        )
        version = facts.get("version", "no output")
        good = "in use shipped" in version and "refused 0.0.0-broken" in version
        yield Row("reverts by itself", verdict(good), version, machine.seconds)
        settled = facts.get("settings", "no output")
        good = "threshold_dbfs" in settled and "last good" in settled
        yield Row("broken settings refused", verdict(good), settled[:300], machine.seconds)
    finally:
        machine.cut()


def check_send(card: Card, work: Path, bundled: Path, limit_s: float, key: Path) -> Iterator[Row]:
    """With a key on the card: SSH answers that key alone, and takes an update that is then in use."""
    name = str(bundle.contents(bundled)["name"])
    keys = {who: work / f"key-{who}" for who in ("owner", "stranger")}
    for login in keys.values():
        login.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(login)])
    run(["mmd", "-D", "s", "-i", card.mtools(), "::ssh"], check=False)
    card.to_boot(keys["owner"].with_suffix(".pub"), "ssh/authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wire = (
        "-netdev",
        f"user,id=wire,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device",
        f"usb-net,netdev=wire,mac={MAC}",
    )
    how = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes"
    ssh = {
        who: f"ssh -F none -o IdentitiesOnly=yes -o ConnectTimeout=60 {how} -i {login}" for who, login in keys.items()
    }
    box = f"127.0.0.1:{port}"

    def ask(who: str, what: str) -> subprocess.CompletedProcess[str]:
        return run([*ssh[who].split(), f"ssh://root@{box}", what], check=False)

    machine = Emulator(qemu(card, work, wire), work)
    try:
        running = machine.wait(lambda text: "quick" in answers(text), limit_s)
        unit = answers(machine.output()).get("unit", "no output")
        yield Row("boots with a key on the card", verdict(running), unit, machine.seconds)
        while (answer := ask("owner", "hostname")).returncode and machine.seconds < limit_s:
            time.sleep(5)
        yield Row("SSH for the key's owner", verdict(not answer.returncode), _words(answer), machine.seconds)
        refused = ask("stranger", "hostname")
        good = refused.returncode != 0 and "Permission denied" in refused.stderr
        yield Row("nobody else", verdict(good), _words(refused), machine.seconds)
        try:
            sent, words = update.send(bundled, box, key, ssh["owner"]) == name, f"version {name}"
        except UserError as error:
            sent, words = False, str(error)
        yield Row("takes an update", verdict(sent), words, machine.seconds)
        shown, ready = "", f"in use {name}, good {name}"
        while sent and ready not in shown and machine.seconds < limit_s:
            time.sleep(5)
            shown = _words(ask("owner", "quietbox-versions show; systemctl is-active quietbox"))
        good = ready in shown and shown.endswith(" active")
        yield Row("runs it, and it is good", verdict(good), shown, machine.seconds)
    finally:
        machine.cut()


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())[-200:]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 if every check was passed."""
    parser = argparse.ArgumentParser(prog="python -m hw.prove.pi3", description="The card image in an emulated Pi 3.")
    parser.add_argument("image", type=Path, help="what hw/image/build made")
    parser.add_argument("--cuts", type=int, default=0, metavar="N", help="cut the power at N random moments")
    parser.add_argument("--longest", type=float, default=300.0, metavar="S", help="the latest such moment (300 s)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--update", action="store_true", help="with a broken update and broken settings on the card")
    parser.add_argument("--send", type=Path, metavar="UPDATE", help="put what hw/image/update --make wrote in by SSH")
    parser.add_argument(
        "--key", type=Path, default=owner.default_key(), metavar="FILE", help="the key that the image's updates need"
    )
    parser.add_argument("--quick", action="store_true", help="leave out doctor and file enhancement")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR and leave console and card there")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help=f"for one boot ({LIMIT_S:.0f} s)")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory() as name:
            work = options.keep or Path(name)
            needs.check(needs.pi3(options.image, work.resolve()))
            work.mkdir(parents=True, exist_ok=True)
            card = prepare(options.image, work)
            add_probe(card, work, options.quick)
            checks = [check_boot(card, work, qemu, options.limit, not options.quick)]
            if options.cuts:
                checks.append(check_cuts(card, work, qemu, options.cuts, options.longest, options.seed))
                checks.append(check_boot(card, work, qemu, options.limit, False))
            if options.update:
                checks.append(check_update(card, work, qemu, options.limit, options.key))
            if options.send:
                checks.append(check_send(card, work, options.send, options.limit, options.key))
            for check in checks:
                for row in check:
                    rows.append(row)
                    print(row, flush=True)
    except UserError as error:
        print(f"pi3: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"pi3: {error.filename or 'the machine'}: {error.strerror}", file=sys.stderr)
        return 1
    failed = sum(row.verdict == "FAIL" for row in rows)
    print(f"{len(rows)} checks, {failed} failed. Not tested: speed, firmware, jack, microphone, USB, Wi-Fi, a press.")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main, "pi3")

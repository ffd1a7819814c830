"""`quietbox doctor --bundle FILE`: one archive for a bug report, with what helps and nothing about whose box it is.

Nothing is sent. A recording is never part of it unless somebody asks for one and confirms that (``clip``); the service
records nothing.
"""

import io
import json
import platform
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ, UserError, config_file, files, runtime
from edge.config import CaptureConfig
from edge.console import describe
from edge.devices import alsa, cards
from edge.devices.capture import Capture
from edge.devices.pcm import DeviceError, Event, OpenPcm
from edge.files import atomic, toml
from edge.tools.doctor import redaction
from edge.tools.doctor.finding import Finding
from edge.tools.reports import journal_reader
from edge.version import version
from hw.board import boards

JOURNAL_H = 24.0
MOST_MEMBER_BYTES = 2 << 20
"""Of the journal the newest records; a day of statistics has about 1 MB."""
LIBRARIES = ("numpy", "onnxruntime", "pyalsaaudio", "rpi-lgpio", "RPi.GPIO", "systemd-python", "soundfile", "rich")
FIRMWARE = ("boot/firmware/config.txt", "boot/config.txt")
CLIP = "clip.wav"
CONSENT = "record"
"""What has to be typed before anything is recorded."""
README = """Quietbox: what `quietbox doctor --bundle` collected, to attach to a bug report.

Host name, users' names, addresses, keys and ids are taken out as far as they were recognised. Look through the files
before you send them: a message may hold something that only you know to be private.

doctor.json    every check of `quietbox doctor`
status.json    what the running box reported
settings.toml  the settings file, without keys and addresses
journal.jsonl  the service's records of the last day, newest records first to go if there are too many
cards.json     the sound cards and what they can do
versions.json  Quietbox, Python, libraries, kernel, board
config.txt     the lines of the Pi's firmware settings that concern sound, buses and pins
"""


class NoBundle(UserError):
    """It cannot be made; the text says why and what helps."""


def write(target: Path, config_path: Path | None, findings: list[Finding], clip: bytes | None = None) -> list[str]:
    """Put everything into the ZIP file ``target``, readable by its owner alone; returns a line for each member.

    Raises NoBundle.
    """
    made = io.BytesIO()
    lines = []
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _members(config_path, findings, clip):
            archive.writestr(name, data)
            lines.append(f"{name}: {files.in_bytes(len(data))}")
    try:
        with atomic.part_beside(target) as (descriptor, part):
            part.chmod(0o600)
            with open(descriptor, "wb", closefd=False) as out:
                out.write(made.getvalue())
    except OSError as error:
        raise NoBundle(f"{target} cannot be written: {error.strerror}") from None
    return lines


def _members(config_path: Path | None, findings: list[Finding], clip: bytes | None) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each; what cannot be collected says why in its place."""
    yield "README.txt", README.encode()
    yield "doctor.json", _json([asdict(finding) for finding in findings])
    yield "status.json", _json(runtime.read_status())
    yield "settings.toml", _guarded(lambda: redaction.settings(_settings_text(config_path)))
    yield "journal.jsonl", _guarded(_journal)
    yield "cards.json", _guarded(_cards)
    yield "versions.json", _json(_versions())
    yield "config.txt", _guarded(_firmware)
    if clip is not None:
        yield CLIP, clip


def _json(content: object) -> bytes:
    return redaction.text(json.dumps(content, indent=1, default=str)).encode()


def _guarded(make: Callable[[], str]) -> bytes:
    """Broken machines are what this is for: a part that fails is a line in the archive."""
    try:
        return make().encode("utf-8", "replace")[:MOST_MEMBER_BYTES]
    except Exception as error:
        return redaction.text(f"not collected: {describe(error)}\n").encode()


def _settings_text(path: Path | None) -> str:
    path = path or config_file.SYSTEM_FILE
    data = files.read_bounded(path, toml.MOST_BYTES)
    try:
        return toml.decode(data)
    except toml.BadToml:
        return data.decode("utf-8", "replace")


def _journal() -> str:
    """The newest records that fit, oldest first; boots by number instead of the kernel's id."""
    lines, size, boots = list[str](), 0, dict[str, str]()
    for line in reversed(journal_reader.from_journal(JOURNAL_H).splitlines()):
        record = redaction.record(json.loads(line))
        if boot := record.get("_BOOT_ID"):
            record["_BOOT_ID"] = boots.setdefault(str(boot), f"boot {len(boots)} before this one")
        lines.append(json.dumps(record))
        size += len(lines[-1]) + 1
        if size > MOST_MEMBER_BYTES:
            lines.pop()
            break
    return "".join(f"{line}\n" for line in reversed(lines))


def _cards() -> str:
    return redaction.text(json.dumps([asdict(card) for card in cards.list_cards(open_device=alsa.open_pcm)], indent=1))


def _versions() -> dict[str, Any]:
    found, board = {}, boards.this_board()
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {
        "quietbox": version(),
        "python": sys.version,
        "libraries": found,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "c library": " ".join(platform.libc_ver()),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "") if sys.platform == "linux" else "",
        "board": {name: getattr(board, name) for name in ("model", "kernel_bits", "userland_bits", "memory_mb")},
    }


def _firmware() -> str:
    """Of config.txt what decides about sound, buses and pins; nothing else of it leaves the board."""
    for name in FIRMWARE:
        path = boards.ROOT / name
        if path.is_file():
            lines = files.read_bounded(path, toml.MOST_BYTES).decode("utf-8", "replace").splitlines()
            wanted = ("dtoverlay", "dtparam", "[", "include", "gpio", "audio", "arm_")
            return redaction.text("\n".join(line for line in lines if line.strip().startswith(wanted))) + "\n"
    return "no config.txt: this is not a Raspberry Pi\n"


def clip(settings: CaptureConfig, seconds: float, open_pcm: OpenPcm = alsa.open_pcm) -> bytes:
    """A WAV file of what the microphone hears now, one channel at 16 kHz. Raises NoBundle."""
    import soundfile  # of this option only

    if runtime.read_status() is not None:
        raise NoBundle("the box holds its microphone: sudo systemctl stop quietbox, and start it again afterwards")
    channel = settings.channel
    capture = Capture.from_section(settings, channel=channel, open_pcm=open_pcm)
    hops = round(1000 * seconds / HOP_MS)
    sound = np.zeros(hops * HOP_SAMPLES, np.float32)
    try:
        capture.open()
        for start in range(0, len(sound), HOP_SAMPLES):
            if capture.read(sound[start : start + HOP_SAMPLES]) >= Event.STALLED:
                raise NoBundle("the microphone stopped delivering sound")
    except DeviceError as error:
        raise NoBundle(str(error)) from None
    finally:
        capture.close()
    made = io.BytesIO()
    soundfile.write(made, sound, RATE_HZ, format="WAV", subtype="PCM_16")
    return made.getvalue()


def ask_for_consent(seconds: float) -> None:
    """The second question, on a terminal. Raises NoBundle unless it is answered with ``CONSENT``."""
    if not sys.stdin.isatty():
        raise NoBundle("a recording has to be confirmed on a terminal; leave --clip out")
    print(
        f"--clip records {seconds:g} s of everything the microphone hears, voices too, into the archive.\n"
        f"Type {CONSENT} to begin, anything else to stop: ",
        end="",
        flush=True,
    )
    if sys.stdin.readline().strip() != CONSENT:
        raise NoBundle("nothing was recorded and no archive was written")

"""The archive for a bug report: what helps is in it, whose box it is is not, and nothing is recorded unasked."""

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge import RATE_HZ, runtime
from edge.cli import main
from edge.config import CaptureConfig
from edge.devices.fake import USB_CAPABILITIES, FakeCard, VirtualClock, noise, opener
from edge.tools.doctor import bundle, command, redaction
from edge.tools.doctor.bundle import NoBundle
from edge.tools.doctor.finding import OK, Finding
from edge.tools.reports import journal_reader

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
"""The public key of ZeroMQ's own documentation (zmq_curve(7))."""
SECRETS = f"""# call me at anna@example.org
[remote]
server = "192.168.17.4:5570"  # the hub in the cellar
server_key = "{KEY}"
key_file = "/home/anna/keys/box.secret"
[suppress]
model = "/home/anna/models/cafe"
limit_db = 25
[bridge]
host = "fd00::17:4"
# clients_file = "/srv/people.txt"
"""
PRIVATE = ("192.168", "fd00", KEY, "anna", "box.secret", "people.txt", "cellar", "annas-pi", "deadbeef")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings with secrets, a status and a journal that hold some more; no box runs."""
    settings = tmp_path / "quietbox.toml"
    settings.write_text(SECRETS)
    records = [
        {
            "__REALTIME_TIMESTAMP": str(number),
            "_BOOT_ID": "deadbeef" * 4,
            "_HOSTNAME": "annas-pi",
            "_CMDLINE": "/home/anna/bin/x",
            "MESSAGE": f"hub 192.168.17.4 is away, says annas-pi; {number}",
            "QUIETBOX_EVENT": "remote",
        }
        for number in range(3)
    ]
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    monkeypatch.setattr(journal_reader, "from_journal", lambda hours: lines)
    monkeypatch.setattr(runtime, "read_status", lambda: None)
    monkeypatch.setattr("socket.gethostname", lambda: "annas-pi.fritz.box")
    finding = Finding("settings", OK, f"{settings}: read on annas-pi", "")
    monkeypatch.setattr(command, "examine", lambda context: [finding])
    return settings


def collected(settings: Path, *options: str) -> dict[str, str]:
    target = settings.with_name("report.zip")
    assert main(["doctor", "--no-sound", "--config", str(settings), "--bundle", str(target), *options]) == 0
    assert target.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(target) as archive:
        return {name: archive.read(name).decode("utf-8", "replace") for name in archive.namelist()}


def test_it_holds_what_helps_and_nothing_private(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = collected(machine)
    assert set(members) == {
        *("README.txt", "doctor.json", "status.json", "settings.toml", "journal.jsonl", "cards.json"),
        *("versions.json", "config.txt"),
    }
    found = "\n".join(members.values())
    assert [word for word in PRIVATE if word in found] == []
    assert "limit_db = 25" in members["settings.toml"]
    assert json.loads(members["versions.json"])["libraries"]["numpy"]
    records = [json.loads(line) for line in members["journal.jsonl"].splitlines()]
    assert [record["MESSAGE"][-1] for record in records] == ["0", "1", "2"]
    assert records[0]["_BOOT_ID"] == "boot 0 before this one"
    assert {"check", "verdict", "found", "fix"} <= json.loads(members["doctor.json"])[0].keys()
    assert "nothing was sent" in capsys.readouterr().out
    assert len(members["README.txt"].splitlines()) > 10


@pytest.mark.parametrize(
    "text",
    [
        "2001:db8:85a3:8d3:1319:8a2e:370:7348",
        "fe80::1ff:fe23:4567:890a",
        "at b8:27:eb:12:34:56 now",
        "10.0.0.12",
        "/media/anna/card",
        "file:///home/anna",
        f'"{KEY}"',
        f"key {KEY}, please",
        "a" * 32,
        "ANNAS-PI".lower(),
    ],
)
def test_each_kind_is_recognised(text: str) -> None:
    shown = redaction.text(text, host="annas-pi")
    assert "[" in shown
    assert not any(part in shown for part in ("db8", "fe23", "b8:27", "10.0", "anna", KEY, "aaaa"))


@pytest.mark.parametrize(
    "text",
    [
        "hop p99 1.2.3 us at 16000 Hz, 12:34:56",
        "quietbox 0.1.0 (commit 09aa0d5e12)",
        "127.0.0.1 and 0.0.0.0",
        "hw:CARD=Headphones,DEV=0: channels 1 2",
        "/opt/quietbox/current/lib/python3.11/site-packages/edge/devices/capture.py",
        "an annas-pirate",
        "std::chrono",
    ],
)
def test_what_helps_stays(text: str) -> None:
    assert redaction.text(text, host="annas-pi") == text


def test_settings_that_are_no_toml_are_redacted_all_the_same(machine: Path) -> None:
    machine.write_text(f"[remote]\nserver_key = {KEY}\nserver 192.168.17.4\n[[\nremote = {{server_key = '{KEY}'}}\n")
    found = collected(machine)["settings.toml"]
    assert KEY not in found and "192.168" not in found
    assert "server_key = [TAKEN OUT]" in found


def test_a_part_that_fails_is_a_line_in_the_archive(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("no /proc/asound on annas-pi")

    monkeypatch.setattr(bundle.cards, "list_cards", broken)
    monkeypatch.setattr(journal_reader, "from_journal", broken)
    machine.unlink()
    members = collected(machine)
    assert members["cards.json"] == "not collected: RuntimeError: no /proc/asound on [HOST]\n"
    assert members["journal.jsonl"].startswith("not collected: ")
    assert members["settings.toml"].startswith("not collected: ")


def test_a_long_journal_is_bounded_and_the_newest_stay(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MOST_MEMBER_BYTES", 1000)
    lines = "".join(f'{{"MESSAGE": "{number}", "PRIORITY": "6"}}\n' for number in range(1000))
    monkeypatch.setattr(journal_reader, "from_journal", lambda hours: lines)
    records = [json.loads(line)["MESSAGE"] for line in collected(machine)["journal.jsonl"].splitlines()]
    assert records == [str(number) for number in range(1000 - len(records), 1000)]
    assert 10 < len(records) < 100


def test_the_settings_are_never_written_over(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--no-sound", "--config", str(machine), "--bundle", str(machine)]) == 1
    assert "would overwrite" in capsys.readouterr().err
    assert machine.read_text() == SECRETS


def test_a_place_that_cannot_be_written_is_one_line(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--no-sound", "--config", str(machine), "--bundle", "/nowhere/report.zip"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("quietbox: /nowhere/report.zip cannot be written")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def card() -> FakeCard:
    return FakeCard("Mic", VirtualClock(), capture=USB_CAPABILITIES, source=noise(0.1))


def test_a_clip_is_recorded_only_when_asked_twice(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded: list[float] = []

    def clip(settings: CaptureConfig, seconds: float) -> bytes:
        recorded.append(seconds)
        return b"RIFF"

    monkeypatch.setattr(bundle, "clip", clip)
    order = [
        "doctor",
        "--no-sound",
        "--config",
        str(machine),
        "--bundle",
        str(machine.with_name("r.zip")),
        "--clip",
        "2",
    ]
    assert main(order) == 1, "no terminal"
    for answer in ("", "y\n", "yes please\n"):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        assert main(order) == 1
    assert not recorded and not machine.with_name("r.zip").exists()
    assert "everything the microphone hears" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", Terminal("record\n"))
    assert main(order) == 0
    assert recorded == [2.0]
    with zipfile.ZipFile(machine.with_name("r.zip")) as archive:
        assert archive.read("clip.wav") == b"RIFF"
    assert main(["doctor", "--no-sound", "--clip", "2"]) == 1
    assert "add --bundle" in capsys.readouterr().err


def test_a_clip_is_what_the_microphone_hears(machine: Path) -> None:
    settings = CaptureConfig(device="Mic", mute_ms=0, fade_ms=0)
    sound, rate_hz = soundfile.read(io.BytesIO(bundle.clip(settings, 1.0, opener(card()))))
    assert rate_hz == RATE_HZ and len(sound) == RATE_HZ
    assert 0.03 < np.std(sound[RATE_HZ // 2 :]) < 0.3
    with pytest.raises(NoBundle, match="Mic"):
        bundle.clip(settings, 1.0, opener())


def test_a_running_box_keeps_its_microphone(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "read_status", lambda: {"pid": 1})
    with pytest.raises(NoBundle, match="systemctl stop quietbox"):
        bundle.clip(CaptureConfig(device="Mic"), 1.0, opener(card()))

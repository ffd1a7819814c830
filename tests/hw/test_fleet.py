"""Many boxes: the playbook against folders that stand for them, and the queries against records of the journal.

The extra ``fleet`` has Ansible; an ``ansible-playbook`` elsewhere is taken from PATH.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge import config_file, journal

CHECKOUT = Path(__file__).resolve().parents[2]
FLEET = CHECKOUT / "hw/fleet"
PATHS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
PLAYBOOK = shutil.which("ansible-playbook", path=PATHS)
with_ansible = pytest.mark.skipif(not PLAYBOOK, reason="no ansible-playbook here: ./install.sh --setup fleet")
with_jq = pytest.mark.skipif(not shutil.which("jq"), reason="no jq here: apt-get install jq")
pytestmark = pytest.mark.timeout(900)  # Ansible starts some twenty processes a run
SETTINGS = "[suppress]\nlimit_db = {{ limit_db | default(20) }}\n"


class Play:
    """Two boxes that are folders, and what the last run said of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.boxes = {name: folder / name for name in ("one", "two")}
        for root in self.boxes.values():
            (root / "etc/quietbox").mkdir(parents=True)
            (root / "etc/quietbox/quietbox.toml").write_text("[suppress]\nlimit_db = 30\n")
        hosts = {
            name: {"ansible_connection": "local", "limit_db": limit_db}
            for name, limit_db in zip(self.boxes, (18, 24), strict=True)
        }
        (folder / "inventory.json").write_text(json.dumps({"boxes": {"hosts": hosts}}))
        self.settings = folder / "settings.toml"
        self.settings.write_text(SETTINGS)

    def run(self, *words: str, **values: Any) -> tuple[int, dict[str, dict[str, int]], str]:
        """(exit status, box -> how many tasks were ok, changed, failed, ..., all that was said)."""
        reported = {
            # Given on the command line, nothing overrules it: these tests may run as root and must never reach "/".
            "quietbox_root": f"{self.folder}/{{{{ inventory_hostname }}}}",
            "quietbox_become": False,
            "quietbox_python": sys.executable,
            "ansible_python_interpreter": sys.executable,
            **values,
        }
        home = {"ANSIBLE_HOME": str(self.folder / ".ansible"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"}
        command = [str(PLAYBOOK), "-i", str(self.folder / "inventory.json"), str(FLEET / "rollout.yml")]
        done = subprocess.run(
            [*command, *words, "-e", json.dumps(reported)],
            env={**os.environ, **home, "PATH": PATHS, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
        )
        said = done.stdout + done.stderr
        counts = {
            match[1]: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", match[2])}
            for match in re.finditer(r"(?m)^(\w+) +: (ok=.*)$", done.stdout)
        }
        return done.returncode, counts, said

    def text(self, box: str, place: str = "etc/quietbox/quietbox.toml") -> str:
        return (self.boxes[box] / place).read_text()


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


@with_ansible
def test_syntax_of_playbook_and_example() -> None:
    example = FLEET / "inventory.example.yml"
    command = [str(PLAYBOOK), "--syntax-check", "-i", str(example), str(FLEET / "rollout.yml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.slow
@with_ansible
def test_settings_model_and_upload_roll_out_once(play: Play) -> None:
    given: dict[str, Any] = {
        "quietbox_settings": str(play.settings),
        "quietbox_models": [str(CHECKOUT / "models/quietbox")],
        "quietbox_journal_url": "https://collector.example:19532",
    }
    status, counts, said = play.run("--check", "--limit=one", **given)
    assert status == 0, said
    assert play.text("one") == "[suppress]\nlimit_db = 30\n" and not (play.boxes["one"] / "usr").exists()

    status, counts, said = play.run(**given)
    assert status == 0, said
    assert all(counts[box]["changed"] > 0 and counts[box]["failed"] == 0 for box in play.boxes)
    assert (play.text("one"), play.text("two")) == ("[suppress]\nlimit_db = 18\n", "[suppress]\nlimit_db = 24\n")
    assert config_file.load(play.boxes["one"] / "etc/quietbox/quietbox.toml").suppress.limit_db == 18
    model = play.boxes["two"] / "usr/local/share/quietbox/models/quietbox"
    assert sorted(path.name for path in model.iterdir()) == ["CARD.md", "quietbox.npz", "quietbox.onnx"]
    upload = play.text("two", "etc/systemd/journal-upload.conf.d/quietbox.conf")
    assert "URL=https://collector.example:19532\n" in upload and "TrustedCertificateFile=/etc/ssl" in upload

    status, counts, said = play.run(**given)
    assert status == 0 and all(counts[box]["changed"] == 0 for box in play.boxes), said

    status, counts, said = play.run("--limit=one")
    assert status == 0 and counts["one"]["changed"] == 1, said
    assert not (play.boxes["one"] / "etc/systemd/journal-upload.conf.d/quietbox.conf").exists()


@pytest.mark.slow
@with_ansible
def test_upload_is_off_by_default(play: Play) -> None:
    status, counts, said = play.run()
    assert status == 0 and all(counts[box]["changed"] == 0 for box in play.boxes), said
    assert not (play.boxes["one"] / "etc/systemd").exists()


@pytest.mark.slow
@with_ansible
def test_wrong_settings_stop_at_the_first_box_and_change_none(play: Play) -> None:
    play.settings.write_text("[suppress]\nlimt_db = 20\n")
    status, counts, said = play.run(quietbox_settings=str(play.settings))
    assert status != 0 and "limt_db" in said and "limit_db" in said
    assert "two" not in counts
    assert play.text("one") == play.text("two") == "[suppress]\nlimit_db = 30\n"


@pytest.mark.slow
@with_ansible
def test_a_broken_model_stops_before_the_settings(play: Play) -> None:
    broken = play.folder / "mine"
    shutil.copytree(CHECKOUT / "models/rnn", broken, ignore=shutil.ignore_patterns("*.pt"))
    (broken / "rnn.npz").rename(broken / "mine.npz")
    status, _, said = play.run(quietbox_settings=str(play.settings), quietbox_models=[str(broken)])
    assert status != 0 and "mine.npz" in said
    assert play.text("one") == play.text("two") == "[suppress]\nlimit_db = 30\n"


@pytest.mark.slow
@with_ansible
def test_a_box_made_of_our_card_image(play: Play) -> None:
    for root in play.boxes.values():
        (root / "usr/sbin").mkdir(parents=True)
        (root / "usr/sbin/quietbox-versions").touch()
        (root / "boot/firmware").mkdir(parents=True)
    given: dict[str, Any] = {
        "quietbox_settings": str(play.settings),
        "quietbox_models": [str(CHECKOUT / "models/rnn")],
    }
    status, _, said = play.run("--limit=one", **given)
    assert status == 0, said
    assert play.text("one", "boot/firmware/quietbox.toml") == "[suppress]\nlimit_db = 18\n"
    assert (play.boxes["one"] / "data/models/rnn/rnn.npz").exists()
    status, counts, said = play.run(**given, quietbox_journal_url="http://collector:19532")
    assert status != 0 and "no systemd-journal-upload" in said
    assert counts["one"]["changed"] == 0 and "two" not in counts


BEGIN_S = 1_763_000_000


def record(box: str, at_s: int, **fields: object) -> str:
    reported = journal.record("said", str(fields.pop("event", "statistics")), **fields)
    return json.dumps({"_HOSTNAME": box, "__REALTIME_TIMESTAMP": str((BEGIN_S + at_s) * 1_000_000), **reported})


RECORDS = [
    record("b", 0, state="running", engine="network", xruns_in=0, xruns_out=0, temperature_c=48.0),
    record("a", 60, state="running", engine="network", xruns_in=2, xruns_out=1, dropped_hops=1, temperature_c=50.0),
    record(
        "a",
        0,
        state="waiting",
        engine="dsp",
        xruns_in=1,
        xruns_out=0,
        late_hops=3,
        temperature_c=61.5,
        throttling="hot",
    ),
    record("a", 7200, state="bypass", engine="network", xruns_in=0, xruns_out=0),
    record("b", 10, event="waiting"),
    record("b", 20, event="waiting"),
    record("a", 5, event="start"),
]


def ask(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(FLEET / "dashboard"), *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, env={**os.environ, "TZ": "UTC"})


def rows(query: str) -> list[list[str]]:
    done = ask(query, "--json", "-", text="\n".join(RECORDS))
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@with_jq
def test_queries_count_by_box() -> None:
    assert rows("boxes")[1:] == [
        ["a", "2025-11-13 04:13:20", "bypass", "network", "0", "0", ""],
        ["b", "2025-11-13 02:13:20", "running", "network", "0", "0", "48"],
    ]
    assert rows("xruns")[1:] == [["a", "2025-11-13 02:00", "2", "3", "1", "1", "3"]]
    assert rows("temperature")[1:] == [["a", "50", "55.8", "61.5", "50", "hot"], ["b", "48", "48", "48", "48", ""]]
    assert rows("warnings")[1:] == [["b", "waiting", "2", "2025-11-13 02:13:40", "said"]]


@with_jq
def test_queries_read_nothing_and_the_journal() -> None:
    for query in ("boxes", "xruns", "temperature", "warnings"):
        assert len(ask(query, "--json", "-").stdout.splitlines()) == 1


@with_jq
def test_what_boxes_say_cannot_steer_the_terminal() -> None:
    reported = {"_HOSTNAME": "a\x1b[2J", "__REALTIME_TIMESTAMP": "0", "QUIETBOX_EVENT": "statistics", "PRIORITY": "4"}
    reported |= {"MESSAGE": "x\x1b]0;x\x07\x9b31m\ny", "QUIETBOX_STATE": "\x08", "QUIETBOX_THROTTLING": "\x1b"}
    reported |= {"QUIETBOX_XRUNS_IN": "1", "QUIETBOX_TEMPERATURE_C": "50"}
    for query in ("boxes", "xruns", "temperature", "warnings"):
        done = ask(query, "--json", "-", text=json.dumps(reported))
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 2
        assert not [sign for sign in done.stdout if sign not in "\t\n" and not sign.isprintable()]


@with_jq
@pytest.mark.skipif(not shutil.which("journalctl"), reason="no journalctl here")
def test_queries_take_a_folder_of_journals(tmp_path: Path) -> None:
    assert ask("xruns", "--dir", str(tmp_path)).stdout.startswith("box\thour")


def test_a_wrong_call_is_one_line() -> None:
    for words in (["nothing"], ["boxes", "--dir"], ["boxes", "--what", "x"], ["boxes", "--dir", "/nowhere"]):
        done = ask(*words)
        assert done.returncode == 2 and done.stderr.startswith("dashboard: ") and done.stderr.count("\n") == 1


def test_queries_ask_for_fields_that_there_are() -> None:
    text = (FLEET / "dashboard").read_text()
    asked = {*re.findall(r'(?:number|sum)\("(\w+)"\)', text), *re.findall(r"\.QUIETBOX_(\w+)", text)}
    assert asked <= {field.name.upper() for field in journal.FIELDS}

"""Tables on terminals of every width and encoding, and in pipes: no word is cut, and no sign is out of place."""

import io
import re
import sys
from itertools import pairwise

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge import console
from edge.devices.cards import Card, Port
from edge.tools import tables
from edge.tools.doctor import command
from edge.tools.doctor.finding import FAIL, OK, Finding

HOLDER = "systemd-journal (process 310)"
FOUND = [
    Card(
        "Headphones",
        0,
        "bcm2835_headpho",
        "bcm2835 Headphones",
        (Port("playback", 0, "", "jack", ("U8", "S16_LE"), (8000, 48000), True, (1, 2), HOLDER),),
    ),
    Card(
        "sndrpigooglevoi",
        1,
        "RPi-simple",
        "snd_rpi_googlevoicehat_soundcar",
        (
            Port("capture", 0, "", "microphone", ("S24_LE", "S32_LE"), (48000,), False, (2,)),
            Port("playback", 1, "", "output", (), (), False, (), "", "sndrpigooglevoi,1 is in use by another process"),
        ),
    ),
]
WORDS = {"Headphones,0", "sndrpigooglevoi,0", "sndrpigooglevoi,1", "systemd-journal", "(microphone)", "S24_LE"}


def printed(
    monkeypatch: pytest.MonkeyPatch, table: Table, columns: int | None, encoding: str = "utf-8", terminal: bool = False
) -> str:
    """What ``show`` prints with this width (None: a pipe), through the stream that every command has."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", str(columns))
    assert console.guarded(lambda: tables.show(table)) == 0
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("columns", [20, 40, 79, 80, 90, 100, 132, 300, None])
def test_no_id_is_cut_at_any_width(monkeypatch: pytest.MonkeyPatch, columns: int | None, encoding: str) -> None:
    text = printed(monkeypatch, tables.devices(FOUND), columns, encoding)
    assert set(text.split()) >= WORDS and "..." not in text and "\\" not in text and "\u2026" not in text
    if columns is not None and columns >= 40:
        assert max(map(len, text.splitlines())) <= columns


def test_a_pipe_has_a_row_on_a_line_each_and_a_terminal_keeps_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = printed(monkeypatch, tables.devices(FOUND[:1]), None)
    assert next(line for line in piped.splitlines() if "Headphones,0" in line).count(HOLDER) == 1
    text = printed(monkeypatch, tables.devices(FOUND), 100, terminal=True)
    assert set(re.sub(r"\x1b\[[0-9;]*m", "", text).split()) >= WORDS


def test_the_doctor_keeps_paths_and_ids_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/etc/quietbox/a-name-that-is-as-long-as-a-column/quietbox.toml"
    findings = [
        Finding("settings", FAIL, f"no {path}", "dtoverlay=googlevoicehat-soundcard"),
        Finding("output card", OK, "hw:CARD=sndrpigooglevoi,DEV=1 (cards: Headphones)"),
    ]
    shown: list[Table] = []
    with monkeypatch.context() as kept:
        kept.setattr(tables, "show", shown.append)
        command._print_table(findings)
    for columns in (50, 80, 100, 140, None):
        words = printed(monkeypatch, shown[0], columns).split()
        assert {path, "dtoverlay=googlevoicehat-soundcard", "hw:CARD=sndrpigooglevoi,DEV=1"} <= set(words)


def test_columns_get_their_longest_word_and_share_the_rest() -> None:
    assert tables._widths([3, 5, 4], [3, 50, 10], 100) == [3, 50, 10]
    assert tables._widths([3, 5, 4], [3, 50, 10], 30) == [3, 17, 10]
    assert tables._widths([3, 5, 4], [3, 50, 60], 32) == [3, 15, 14]
    for room, more in pairwise(range(12, 80)):
        assert sum(tables._widths([3, 5, 4], [3, 50, 10], room)) <= room
        assert sum(tables._widths([3, 5, 4], [3, 50, 10], more)) <= more


def test_a_narrow_list_keeps_colours_and_leaves_out_what_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("check", "verdict", "fix")
    table.add_row("a", Text("FAIL", style="red"), "")
    table.add_row("b", Text("ok"), "a sentence of several words that goes on")
    monkeypatch.setattr(tables, "Console", lambda: Console(force_terminal=True, width=24, color_system="standard"))
    text = printed(monkeypatch, table, None)
    assert "\x1b[31mFAIL" in text and text.count("fix") == 1 and "\n         several words" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "koi8-r"])
def test_signs_that_the_terminal_lacks_are_written_as_people_write_them(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    assert (
        console.guarded(lambda: print("\u03bcs \u2264 3 \u00d7 2 \u2026 \u2192 \u201cx\u201d \u2013 \U0001f600")) == 0
    )
    text = raw.getvalue().decode(encoding)
    assert "s " in text and '"x"' in text and "- \\U0001f600" in text
    if encoding == "ascii":
        assert text.startswith('us <= 3 x 2 ... -> "x" -')


def test_a_name_of_a_file_stays_recognizable(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    assert console.guarded(lambda: print("Gespr\u00e4ch.wav")) == 0
    assert raw.getvalue() == b"Gespr\\xe4ch.wav\n"

"""`quietbox report`: what the journal says is what the page shows, whatever else lies in the journal."""

import itertools
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.journal import FIELDS, record
from edge.tools.reports.journal_reader import NoHistory
from edge.tools.reports.report import entries
from edge.tools.reports.report_drawing import DRAWINGS, _ticks
from edge.tools.reports.report_page import page

ROOT = Path(__file__).parents[2]
BEGIN_S = 1_795_000_000
FIGURES = {
    "seconds": 60.0,
    "level_in_dbfs": -40.5,
    "level_out_dbfs": -60.0,
    "speech_share": 0.25,
    "noise_removed_db": 22.0,
    "feedforward_db": 1.5,
    "feedback_db": 18.0,
    "noise_floor_in_dbfs": -55.0,
    "noise_floor_out_dbfs": -80.5,
    "snr_in_db": 14.5,
    "snr_out_db": 40.0,
    "voice_kept_db": -0.5,
    "sleep_share": 0.6,
    "reference_db": 6.0,
    "howl_events": 1,
    "howl_drop_db": 3.0,
    "xruns_in": 0,
    "xruns_out": 2,
    "late_hops": 1,
    "queue_ms": 20.5,
    "latency_ms": 44.0,
    "hop_p50_us": 440.0,
    "hop_p99_us": 800.0,
    "hop_max_us": 1234,
    "drift_ppm": -12.5,
    "temperature_c": 61.5,
    "memory_mb": 77.0,
    "cpu_share": 0.1,
}


def line(after_s: float, sentence: str, kind: str, **fields: object) -> str:
    """One record as `journalctl -o json` prints it."""
    reported = record(sentence, kind, **fields) | {"__REALTIME_TIMESTAMP": str(int((BEGIN_S + after_s) * 1e6))}
    return json.dumps(reported)


def day() -> str:
    lines = [line(0, "quietbox has started", "start")]
    lines += [line(60 * minute, "last minute", "statistics", **FIGURES) for minute in range(1, 30)]
    lines += [line(60 * minute, "last minute", "statistics", **FIGURES) for minute in range(60, 90)]
    lines += [line(3000, "the microphone <b>is gone</b> & away", "waiting")]
    return "\n".join(lines)


def quietbox(*arguments: str, path: str = "", given: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PATH": path} if path else {}) | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "edge.cli", "report", *arguments],
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_quantity_is_drawn_from_a_field_of_the_table() -> None:
    known = {field.name for field in FIELDS}
    assert {name for drawing in DRAWINGS for name, _ in drawing.lines} <= known
    drawn = page(entries(day()))
    for drawing in DRAWINGS:
        assert f"<h2>{drawing.title} (" in drawn


def test_the_page_needs_nothing_else_and_lets_nothing_in() -> None:
    drawn = page(entries(day()))
    assert not re.search(r"<script|https?:|url\(|src=|href=|@import", drawn)
    assert "<b>" not in drawn and "&lt;b&gt;is gone&lt;/b&gt; &amp; away" in drawn
    xml.fromstring(drawn.removeprefix("<!DOCTYPE html>\n").replace('<meta charset="utf-8">', ""))


def test_the_summary_counts_what_happened() -> None:
    drawn = page(entries(day()))
    for name, value in (
        ("Sound processed", "0.98 h"),
        ("Speech", "25%"),
        ("Noise removed", "22.0 dB in the pauses (median of the minutes; 22.0 to 22.0 dB)"),
        ("Starts", "1"),
        ("Xruns in / out", "0 / 118"),
        ("Late hops", "59"),
        ("Hottest", "61.5 °C"),
        ("Power and heat", "no complaint"),
    ):
        assert f"<tr><th>{name}</th><td>{value}</td></tr>" in drawn


def test_a_line_breaks_where_the_box_was_off() -> None:
    drawn = page(entries(day()))
    (path,) = re.findall(r'<path class="l0"[^>]* d="([^"]*)"', drawn[drawn.index("<h2>Temperature") :])[:1]
    assert path.count("M") == 2 and path.count("L") == 59


def test_what_lies_outside_the_drawing_is_not_drawn() -> None:
    for number in map(float, re.findall(r"[ML]([-\d.]+) ", page(entries(day())))):
        assert 0 <= number <= 900


LETTER_PX = 6.6
"""Of a figure in 11 px sans-serif; the widest of usual fonts (Verdana, DejaVu Sans) has 7.0 and 6.4 in digits."""


@pytest.mark.parametrize("span_s", [60, 3600, 86_400, 5 * 86_400])
@pytest.mark.parametrize("value", [0, -40.123, 61.5, 1e-5, -0.00025, 123456.7, -987_654_321, 1e9])
def test_no_label_is_cut_or_there_twice(span_s: int, value: float) -> None:
    figures = [dict.fromkeys(FIGURES, figure) for figure in (value, value, value * 1.0001)]
    times = (0, span_s / 2, span_s)
    drawn = page(
        entries("\n".join(line(at_s, "x", "statistics", **each) for at_s, each in zip(times, figures, strict=True)))
    )
    for svg in re.findall("<svg.*?</svg>", drawn):
        labels = re.findall(r'<text x="([-\d.]+)" y="([-\d.]+)" text-anchor="(\w+)">([^<]+)</text>', svg)
        assert len(labels) > 3
        for x, y, anchor, label in labels:
            width = LETTER_PX * len(label)
            left = float(x) - (width if anchor == "end" else width / 2)
            assert left >= 0 and left + width <= 900 and 11 <= float(y) <= 147, label
        ticks = [label for _, _, anchor, label in labels if anchor == "end"]
        assert len(set(ticks)) == len(ticks) >= 2
        times_at = [float(x) for x, _, anchor, _ in labels if anchor == "middle"]
        assert all(right - left > 7 * LETTER_PX for left, right in itertools.pairwise(times_at))


def test_a_single_record_is_a_page_and_what_nobody_counted_is_no_nought() -> None:
    fresh = page(entries(line(0, "quietbox has started", "start")))
    assert "<svg" not in fresh
    for name in ("Sound processed", "Speech", "Noise removed", "Late hops", "Slowest hop", "Hottest"):
        assert f"<tr><th>{name}</th><td>not known</td></tr>" in fresh
    assert "<td>not known / not known</td>" in fresh
    assert "<svg" in page(entries(line(0, "last minute", "statistics", **FIGURES)))


def test_nothing_at_all_is_refused_with_a_reason() -> None:
    with pytest.raises(NoHistory, match="no records of the box"):
        page(entries(""))


@pytest.mark.parametrize(
    "rubbish",
    ["", "{", "[]", "null", "7", "[" * 100_000, '{"__REALTIME_TIMESTAMP": "x"}', '{"QUIETBOX_EVENT": "start"}', "\0"]
    + [json.dumps({"QUIETBOX_EVENT": "start", "__REALTIME_TIMESTAMP": stamp}) for stamp in ("9" * 40, None, [1], {})],
)
def test_lines_that_are_no_records_are_skipped(rubbish: str) -> None:
    assert len(entries(f"{rubbish}\n{line(0, 'quietbox has started', 'start')}\n{rubbish}")) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@example({"QUIETBOX_LEVEL_IN_DBFS": 1.5e308}, 0)
@given(st.dictionaries(st.sampled_from(["MESSAGE", "PRIORITY", *(field.key for field in FIELDS)]), JSON), st.integers())
def test_whatever_a_record_holds_the_page_is_sound(fields: dict[str, object], stamp: int) -> None:
    odd = json.dumps({"QUIETBOX_EVENT": "statistics", **fields, "__REALTIME_TIMESTAMP": str(stamp)})
    drawn = page(entries(f"{odd}\n{line(0, 'last minute', 'statistics', **FIGURES)}"))
    assert drawn.count("<svg") == drawn.count("</svg>") and "nan" not in re.findall(r'd="[^"]*"', drawn)


def test_bytes_that_are_no_text_come_as_a_list() -> None:
    (entry,) = entries(line(0, "", "start").replace('"MESSAGE": ""', '"MESSAGE": [104, 105, 255]'))
    assert entry.sentence == "hi\ufffd"


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_the_axis_spans_what_is_drawn(low: float, span: float) -> None:
    ticks = _ticks(low, low + span)
    width = max(span, 1e-6, 1e-9 * abs(low))
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + width / 100 and ticks[-1] >= low + span - width / 100
    assert ticks == sorted(set(ticks))


def test_the_command_reads_a_file_or_its_input(tmp_path: Path) -> None:
    (tmp_path / "day.json").write_text(day())
    done = quietbox("--file", str(tmp_path / "day.json"), "-o", str(tmp_path / "a.html"))
    assert (done.returncode, done.stderr) == (0, "")
    done = quietbox("--file", "-", "-o", str(tmp_path / "b.html"), given=day())
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()


def pretend(folder: Path, script: str) -> str:
    """A PATH whose journalctl is this script."""
    (folder / "journalctl").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "journalctl").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_it_asks_journalctl_for_the_hours_wanted(tmp_path: Path) -> None:
    (tmp_path / "day.json").write_text(day())
    path = pretend(tmp_path, f'echo "$@" > {tmp_path}/asked; cat {tmp_path}/day.json')
    done = quietbox("--hours", "2", "-o", str(tmp_path / "a.html"), path=path)
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text()
    assert re.search(r"-u quietbox -o json .*--since=@\d{10}\b", asked)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1", "adduser $USER systemd-j"),
        ("echo 'Users in groups adm, systemd-journal can see all' >&2", "adduser $USER systemd-journal"),
        ("echo 'Failed to open: Input/output error' >&2; exit 1", "journalctl failed: Failed to open"),
        ("exit 0", "no records of the box"),
        ("echo '-- No entries --'", "no records of the box"),
    ],
)
def test_a_refusal_is_one_line_with_a_way_out(script: str, said: str, tmp_path: Path) -> None:
    done = quietbox("-o", str(tmp_path / "a.html"), path=pretend(tmp_path, script))
    assert done.returncode == 1 and said in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "a.html").exists()


def test_without_journalctl_it_names_the_other_way(tmp_path: Path) -> None:
    done = quietbox(path=str(tmp_path))
    assert done.returncode == 1 and "--file" in done.stderr and done.stderr.count("\n") == 1


def test_hours_that_are_none_are_refused() -> None:
    for hours in ("0", "-1", "nan", "x", "1e9"):
        assert quietbox("--hours", hours).returncode == 2

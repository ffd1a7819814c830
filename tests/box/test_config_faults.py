"""Everything wrong in a settings file is reported at once, with its line and what was meant."""

import dataclasses
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import cli
from edge.arguments import Arguments
from edge.config import SECTIONS, Config
from edge.config_file import BadConfig, load, parse
from edge.files import lookalikes, toml
from edge.tools.doctor import settings as doctor_settings
from edge.tools.doctor.context import Context

KEYS = [(section, entry.name) for section, made in SECTIONS.items() for entry in dataclasses.fields(made)]
NAMES = sorted({name for _, name in KEYS})


def faults(text: str) -> tuple[str, ...]:
    """The lines about ``text``, without the name in front."""
    with pytest.raises(BadConfig) as caught:
        parse(text, "f")
    return tuple(line.removeprefix("f").lstrip(":, ") for line in caught.value.lines)


def owners(name: str) -> str:
    *first, last = [f"[{section}]" for section, key in KEYS if key == name]
    return f"{', '.join(first)} or {last}" if first else last


@pytest.mark.parametrize("name", NAMES)
def test_a_key_without_its_section_or_in_a_wrong_one_gets_every_right_one(name: str) -> None:
    said = f'"{name}" in {owners(name)}?)'
    assert faults(f"{name} = 1") == (f'line 1: unknown key "{name}" outside of a section (did you mean {said}',)
    for section in SECTIONS:
        if (section, name) not in KEYS:
            (fault,) = faults(f"[{section}]\n{name} = 1")
            assert fault.startswith(f'line 2: unknown key "{name}" in [{section}] (did you mean "')
            assert fault.endswith(said)


def test_a_misspelled_key_gets_the_one_that_was_meant() -> None:
    """One letter missing, in the right section and outside of any."""
    wrong = []
    for section, name in KEYS:
        for at in {1, len(name) // 2, len(name) - 1}:
            misspelled = name[:at] + name[at + 1 :]
            if len(misspelled) < 4 or misspelled in NAMES:
                continue
            if f'"{name}"' not in faults(f"[{section}]\n{misspelled} = 1")[0]:
                wrong.append(f"[{section}] {misspelled}")
            if f"[{section}]" not in faults(f"{misspelled} = 1")[0]:
                wrong.append(misspelled)
    assert not wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("supress = 1", "(did you mean [suppress]?)"),
        ("suppress_limit_db = 1", '(did you mean "limit_db" in [suppress]?)'),
        ("[gate]\nsuppress_limit_db = 1", '(did you mean "limit_db" in [suppress]?)'),
        ("[capture]\nchannels = 1", '(did you mean "channel", or "channels" in [playback]?)'),
        ("[suppress]\nlimit_dB = 1", '(did you mean "limit_db"?)'),
        ("[suppress]\nlimit-db = 1", '(did you mean "limit_db"?)'),
        ("[Playback]\nvolume_db = -9", "(did you mean [playback]?)"),
        ('[suppress]\nengine = "rnoise"', '(did you mean "rnnoise"?)'),
        ('[suppress]\nlimit_db = "12.5"', "; write it without quotes: 12.5"),
        ('[gate]\non = "True"', "; write it without quotes: true"),
        ('[capture]\ndevice = "a\u00a0b"', "; it holds a no-break space (U+00A0); use a space"),
    ],
)
def test_what_was_meant_is_named(text: str, said: str) -> None:
    (fault,) = faults(text)
    assert fault.endswith(said)


BROKEN = {
    "gain_db = \u201320": "holds a typographic dash (U+2013); use -",
    "gain_db = \u221220": "holds a typographic dash (U+2212); use -",
    "device = \u201cHeadset\u201d": 'holds a typographic quote (U+201C); use "',
    'device = "Headset\u201d': 'holds a typographic quote (U+201D); use "',
    "device = \u201eHeadset\u201c": 'holds a typographic quote (U+201E); use "',
    "device = \u2018Headset\u2019": 'holds a typographic quote (U+2018); use "',
    "device = \u00abHeadset\u00bb": 'holds a typographic quote (U+00AB); use "',
    "device = `Headset`": 'holds an accent in place of a quote (U+0060); use "',
    "gain_db\u00a0= 20": "holds a no-break space (U+00A0); use a space",
    "gain_db = 20\u3000": "holds a typographic space (U+3000); use a space",
    "gain_db =\u200b 20": "holds an invisible character (U+200B); remove it",
    "\ufeffgain_db = 20": "holds an invisible character (U+FEFF); remove it",
    "gain_db = 20\x0c": "holds a control character (U+000C); remove it",
    "gain_db \uff1d 20": 'holds a character that looks like "=" (U+FF1D); use =',
    "g\u0430in_db = 20": 'holds a character that looks like "a" (U+0430); use a',
    "gain_db = \u0662\u0660": "holds a digit that is none of 0 to 9 (U+0662); use 2",
    "gain_db = \u20132\u00a0# \u201c": "holds a typographic dash (U+2013); use -, and a no-break space (U+00A0); "
    "use a space",
    "gain_db = 12,5": "not valid TOML: the decimal sign is a point: gain_db = 12.5",
    "gain_db = 12 dB": "not valid TOML: a number is written without its unit: gain_db = 12",
    "gain_db = .5": "not valid TOML: a number is written with digits around its point and without leading zeros: 0.5",
    "gain_db = 007": "not valid TOML: a number is written with digits around its point and without leading zeros: 7",
    "gain_db: 20": "not valid TOML: = in place of : is needed: gain_db = 20",
    "gain_db 20": "not valid TOML: the = is missing: gain_db = 20",
    "gain_db =": "not valid TOML: gain_db has no value",
    "= 20": "not valid TOML: the key is missing before =",
    "gain db = 20": 'not valid TOML: "gain db" is not a valid key: letters, digits and _ only',
    "device = Headset # mine": 'not valid TOML: text needs quotes: device = "Headset"',
    'device = "Headset': 'not valid TOML: the closing " is missing',
    "device = 'Headset": "not valid TOML: the closing ' is missing",
    'device = "Head"set"': 'not valid TOML: set" stands behind the closing quote',
    r'device = "C:\sound"': r"not valid TOML: \ in double quotes begins an escape; use single quotes",
    "device = True": "not valid TOML: write true",
    "device = off": 'not valid TOML: write false or "off" in quotes',
    "; louder": "not valid TOML: a comment begins with #",
    "// louder = 1": "not valid TOML: a comment begins with #",
    "louder": "not valid TOML: neither a [section] nor key = value",
    "gain_db = 1\ngain_db = 2": "capture.gain_db is there twice, first in line 5; remove one",
    "[gate] on = true": "not valid TOML: [gate] needs a line of its own",
    "[gate": "not valid TOML: the ] is missing: [gate]",
    "device = " + "a." * 20: "has more than 16 dots; a key here has at most one",
    'device = """': 'holds a multi-line string ("""); settings have none',
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_line_says_what_is_wrong_and_hides_no_other_fault(line: str) -> None:
    text = f"[suppress]\nlimit_db = 101\n# \u201cquotes\u201d \u2013 comment\n[capture]\n{line}\n[voice]\nhold = 3\n"
    first, *middle, last = faults(text)
    assert first.startswith("line 2: [suppress] limit_db = 101 is not")
    assert middle == [f"line {5 + line.count(chr(10))}: {BROKEN[line]}"]
    assert last.startswith(f'line {7 + line.count(chr(10))}: unknown key "hold" in [voice] (did you mean "hold_ms"')


def test_look_alikes_are_no_fault_in_comments_and_file_names() -> None:
    assert parse('# \u201ca\u201d \u2013 b\u00a0c\n[suppress]\nmodel = "/n\u00e4he/a \u2013 \u201cb\u201d"')


def test_every_conflict_between_keys_is_reported_with_the_line_of_the_later_key() -> None:
    assert faults("[voice]\non = 0.3\n[eq]\nlow_hz = 500\nhigh_hz = 400\n[panel]\nled = 22\nbutton = 22") == (
        "line 2: voice.off (0.4) must be below voice.on (0.3)",
        "line 5: eq.low_hz (500) must be below eq.high_hz (400)",
        "line 8: panel.led and panel.button are both 22; give each a pin of its own",
    )


def test_a_key_that_is_wrong_is_no_conflict_by_its_default() -> None:
    assert len(faults("[voice]\non = 0.3\noff = 0,2")) == 1
    assert len(faults('[voice]\non = 0.3\noff = "0.2"')) == 1


def test_keys_of_a_misspelled_section_are_checked_too() -> None:
    assert faults("[supress]\nlimit_db = 101\nmodl = 3")[1:] == (
        "line 2: [suppress] limit_db = 101 is not a number from 0 to 100 dB",
        'line 3: unknown key "modl" in [suppress] (did you mean "model"?)',
    )


@pytest.mark.parametrize("form", ["[gate]\non = 3", "gate.on = 3", "gate = {on = 3}", "[ 'gate' ]\n\"on\" = 3"])
def test_every_way_to_write_a_key_has_its_line(form: str) -> None:
    assert faults(f"\n{form}") == (f"line {2 + form.count(chr(10))}: [gate] on = 3 is not true or false",)


def test_a_value_over_several_lines_has_its_first() -> None:
    assert faults('[capture]\ndevice = [\n "a",\n]\n[gate]\non = 1') == (
        "line 2: [capture] device = ['a'] is not a name in quotes",
        "line 6: [gate] on = 1 is not true or false",
    )


def test_a_file_of_faults_is_bounded_in_lines_length_and_time() -> None:
    for line in ("a{} = 1", "[a{}]", "a{} =", "a{} = '", 'a = "\\"{}'):
        began = time.monotonic()
        with pytest.raises(BadConfig) as caught:
            parse("\n".join(line.format(number) for number in range(4000)), "f")
        assert len(caught.value.lines) == toml.MOST_FAULTS + 1
        assert caught.value.lines[-1].endswith("more errors") and "000 errors: line " in str(caught.value) + "000"
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
        assert time.monotonic() - began < 20
    began = time.monotonic()
    assert len(faults('a = "' + '\\"' * 30_000)) == 1
    assert time.monotonic() - began < 20


def test_the_terminal_gets_a_line_each_and_the_journal_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[gate]\non = 1\n\nlimit_db = 3\n")
    assert cli.main(["latency", "--config", str(path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"quietbox: {path}, line 2: [gate] on = 1 is not true or false",
        f'quietbox: {path}, line 4: unknown key "limit_db" in [gate] (did you mean "limit_db" in [suppress]?)',
    ]
    monkeypatch.setattr("edge.console.journal_reads_stderr", lambda: True)
    assert cli.main(["latency", "--config", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"quietbox: {path}: 2 errors: line 2: [gate] on = 1 is not true or false; line 4: unknown")
    assert [finding.found for finding in doctor_settings.settings(Context(path))] == list(_lines(path))


def _lines(path: Path) -> tuple[str, ...]:
    with pytest.raises(BadConfig) as caught:
        load(path)
    return caught.value.lines


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_the_encodings_of_windows_are_read(encoding: str, tmp_path: Path) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""
    path = tmp_path / "a.toml"
    path.write_bytes(f'{mark}# f\u00fcr\r\n[suppress]\r\nlimit_db = 12\r\nmodel = "n\u00e4he"\r\n'.encode(encoding))
    assert (load(path).suppress.limit_db, load(path).suppress.model) == (12, "n\u00e4he")


def test_every_line_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes("# f\u00fcr mich\n[capture]\ndevice = \u201cHeadset\u201d\n".encode("cp1252"))
    assert _lines(path) == (
        f"{path}, line 1: not UTF-8 (byte 0xfc); save the file as UTF-8",
        f'{path}, line 3: not UTF-8 (byte 0x93): a typographic quote (U+201C); use "',
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*BROKEN, "[gate]", "on = true", "[gate]\non = false", "x.y = 1", ""]), max_size=6))
def test_lines_in_any_order_are_settings_or_faults(lines: list[str]) -> None:
    try:
        assert isinstance(parse("\n".join(lines), "f"), Config)
    except BadConfig as error:
        assert all(line.startswith("f") and "\n" not in line for line in (*error.lines, str(error)))


@given(st.text(max_size=60))
def test_a_text_without_its_look_alikes_has_none(text: str) -> None:
    assert not lookalikes.named(lookalikes.replaced(text).replace("\n", ""))


def test_a_typographic_dash_before_an_option_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for wrong in ("\u2013\u2013seconds", "\u2014seconds", "\u2212o"):
        with pytest.raises(SystemExit):
            cli.main(["bench", wrong, "3"])
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.endswith(f"{wrong} begins with a typographic dash (U+{ord(wrong[0]):04X}); use - or --")
    file = tmp_path / "\u2013.wav"
    file.touch()
    assert Arguments(cli.VERBS).parser.parse_args(["enhance", str(file), "-o", "x"]).inputs == [str(file)]

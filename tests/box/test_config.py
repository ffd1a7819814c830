"""The settings file: everything a user can get wrong gets one line that names it."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import config, config_file, config_rules
from edge.config import Config
from edge.config_file import BadConfig, load, parse

SHIPPED = Path(config.__file__).with_name("quietbox.toml")


def test_the_shipped_file_shows_every_key_with_its_default() -> None:
    assert SHIPPED.read_text() == "\n".join(config_file.documented()) + "\n"
    assert load(SHIPPED) == Config()


def test_nothing_written_means_the_defaults() -> None:
    assert parse("") == Config()


def test_values_arrive_where_they_belong() -> None:
    got = parse('[suppress]\nlimit_db = 12\nengine = "dsp"\n[capture]\nchannel = 2\nperiods = 3\n[gate]\non = false')
    assert got.suppress.limit_db == 12.0 and isinstance(got.suppress.limit_db, float)
    assert got.suppress.engine == "dsp"
    assert (got.capture.channel, got.capture.periods, got.gate.on) == (2, 3, False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[suppres]\nlimit_db = 1", 'line 1: unknown section "suppres" (did you mean [suppress]?)'),
        ("\n\n[suppress]\nlimit_bd = 1", 'line 4: unknown key "limit_bd" in [suppress] (did you mean "limit_db"?)'),
        ("[voice]\nlimit_db = 1", '(did you mean "limit_db" in [suppress]?)'),
        ("suppress.limit_bd = 1", 'line 1: unknown key "limit_bd"'),
        ("[voice]\nqqqq = 1", "(there are: on, off, hold_ms)"),
        (
            '[suppress]\n# a comment\nlimit_db = "12"',
            "line 3: [suppress] limit_db = '12' is not a number from 0 to 100 dB",
        ),
        ("[suppress]\nlimit_db = 101", "is not a number from 0 to 100 dB"),
        ("[suppress]\nlimit_db = nan", "is not a number from 0 to 100 dB"),
        ("[suppress]\nlimit_db = true", "is not a number"),
        ("[capture]\nperiods = 2.5", "is not a whole number from 2 to 64"),
        ("[capture]\nchannel = 33", 'is not a whole number from 1 to 32 or "auto" or "mean"'),
        ('[suppress]\nengine = "deepest"', 'is not "auto" or "network" or "rnn" or "dsp" or "off"'),
        ("[feedforward]\nhighpass_hz = 0.5", "is not a number from 1 to 400 Hz or 0"),
        ("[gate]\non = 1", "is not true or false"),
        ("[capture]\ndevice = ''", "is not a name in quotes"),
        ("suppress = 3", "is a section; write [suppress] on a line of its own"),
        ("[voice]\non = 0.3", "voice.off (0.4) must be below voice.on (0.3)"),
        ("[reference]\nchannel = 33", "[reference] channel = 33 is not a whole number from 1 to 32 or 0"),
        (
            "[capture]\nchannel = 2\n[reference]\nchannel = 2",
            "capture.channel and reference.channel are both 2; the reference needs a microphone of its own",
        ),
        ('[capture]\nchannel = "mean"\n[reference]\nchannel = 1', 'channel = "mean" mixes the reference in'),
        ("[suppress\n", "not valid TOML"),
        ("a = " + "[" * 2000, "not valid TOML"),
        ("[suppress]\nlimit_db = " + "9" * 5000, "not valid TOML"),
        ("[suppress]\nlimit_db = 0x" + "f" * 9000, "is not a number from 0 to 100 dB"),
        ('[capture]\ndevice = "a\\u0000b"', "is not a name in quotes"),
        ('"a\\nb" = 1', 'unknown key "a b"'),
    ],
)
def test_each_mistake_is_named(text: str, says: str) -> None:
    with pytest.raises(BadConfig) as caught:
        parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_voice_stands_beside_the_reference() -> None:
    for text, voice in (
        ("", "auto"),
        ("[reference]\nchannel = 2", 1),
        ("[reference]\nchannel = 1", 2),
        ("[capture]\nchannel = 4\n[reference]\nchannel = 1", 4),
    ):
        assert parse(text).voice_channel == voice


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    binary = tmp_path / "a.toml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    for path in (binary, tmp_path / "none.toml", tmp_path):
        with pytest.raises(BadConfig, match=path.name):
            load(path)


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        assert isinstance(parse(text), Config)
    except BadConfig as error:
        assert str(error)


values = st.one_of(st.integers(), st.floats(), st.booleans(), st.text("ab\"'", max_size=3), st.just([1]), st.just({}))


@given(st.sampled_from(list(config.SECTIONS)), st.data(), values)
def test_no_value_gets_past_its_range(section: str, data: st.DataObject, value: object) -> None:
    entry = data.draw(st.sampled_from(dataclasses.fields(config.SECTIONS[section])))
    try:
        got = config_rules.checked(entry, value)
    except ValueError:
        return
    rule = entry.metadata
    assert got in rule["choices"] or isinstance(got, (bool, str)) or rule["low"] <= got <= rule["high"]

"""The output card's own volume: known and unmuted whenever it is opened, and never in the way of the sound."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alsa_cards import compiled
from boxes import CONFIG, Bench
from machine import wait_for

from edge.box import Box, State
from edge.config import CableConfig, PlaybackConfig
from edge.devices import mixer
from edge.devices.alsa_mixer import AlsaMixer, alsa_mixer
from edge.devices.fake import FakeMixer, jack_mixer
from edge.devices.mixer import Level, OutputMixer, as_wanted, chosen, in_words, wanted
from edge.devices.playback import Playback
from edge.tools import probe_process
from edge.tools.doctor import settings, sound
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import OK, WARN
from edge.tools.doctor.verdicts import judge_volume
from edge.tools.probe_process import ProbeFailure
from hw.virtual.rigs import ExactRig

PCM = Level("PCM", db=-20.0, range_db=(-102.39, 4.0), percent=77, muted=True)
SPEAKER = Level("Speaker", percent=100, muted=False)
MIC = Level("Mic", db=-3.0, range_db=(-20.0, 10.0), percent=50, muted=True)
FINE = replace(PCM, db=0.0, muted=False)


@pytest.mark.parametrize(
    ("names", "mine"),
    [
        (["PCM"], ["PCM"]),  # the Pi's jack
        (["Headphone"], ["Headphone"]),  # the same before Linux 5.4
        (["Speaker", "Mic", "Auto Gain Control"], ["Speaker"]),  # a USB headset
        (["Headset", "Headset Capture", "Sidetone"], ["Headset"]),
        (["Master", "PCM", "Headphone", "Line", "Mic Boost", "Beep"], ["Master", "PCM", "Headphone"]),
        (["Digital", "Analogue", "Analogue Playback Boost"], ["Digital", "Analogue"]),  # a PCM512x on I2S
        (["UMC202HD 192k Output"], ["UMC202HD 192k Output"]),  # the only volume there is
        (["Room A", "Room B"], []),  # nobody knows
        (["Mic"], []),
        ([], []),
    ],
)
def test_controls_on_the_way_to_the_ear(names: list[str], mine: list[str]) -> None:
    levels = [Level(name, db=-9.0, range_db=(-60.0, 0.0), percent=50) for name in names]
    assert [level.control for level in chosen(levels, "auto")] == mine


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (PCM, "PCM 0.0 dB, unmuted"),
        (SPEAKER, "Speaker 75 %, unmuted"),
        (Level("Headphone", db=-64.0, range_db=(-64.0, -3.0), percent=0), "Headphone -3.0 dB"),
        (Level("Amp", db=40.0, range_db=(6.0, 40.0), percent=100), "Amp 6.0 dB"),
        (Level("Master", muted=True), "Master unmuted"),
    ],
)
def test_what_a_control_is_to_be(level: Level, words: str) -> None:
    assert str(wanted(level)) == words and as_wanted(wanted(level)) and not as_wanted(level)


def test_coarse_steps_end_below_and_nothing_ends_above() -> None:
    for db, fine in ((-2.5, True), (0.0, True), (0.5, False), (4.0, False), (-6.0, False)):
        assert as_wanted(replace(FINE, db=db)) is fine


class Told(list[tuple[str, str]]):
    """What an ``OutputMixer`` said."""

    def __call__(self, kind: str, text: str) -> None:
        self.append((kind, text))


def settled(card: mixer.Mixer | None, name: str = "auto") -> tuple[OutputMixer, Told]:
    reported = Told()
    output = OutputMixer(name, reported)
    output.settle(card)
    output.report()
    output.release()
    return output, reported


def test_only_the_control_that_is_named_is_set() -> None:
    card = FakeMixer("Dongle", PCM, SPEAKER, MIC)
    output, reported = settled(card, "Speaker")
    assert [level.control for level in card.written] == ["Speaker"] and output.words == "Speaker 75 %, unmuted"
    assert reported == [("devices", "output mixer of Dongle: Speaker 75 %, unmuted")]
    output, reported = settled(card, "Headphone")
    assert reported == [
        (
            "mixer",
            '[playback] mixer = "Headphone" is not a control of Dongle (it has PCM, Speaker, Mic); nothing was set',
        )
    ]
    card.written.clear()
    assert settled(card, "off")[1] == [] and not card.written


@pytest.mark.parametrize("card", [None, FakeMixer("Loopback"), FakeMixer("Mic", MIC)])
def test_an_output_without_a_mixer_is_no_trouble(card: FakeMixer | None) -> None:
    output, reported = settled(card)
    assert output.words == "none" and len(reported) == 1 and reported[0][0] == "devices" and "none" in reported[0][1]


def test_trouble_is_said_once_and_a_value_that_does_not_stick_is_named() -> None:
    card = FakeMixer("Dongle", PCM)
    card.error = PermissionError(1, "Operation not permitted")
    output, reported = settled(card)
    for _ in range(3):
        output.settle(card)
        output.report()
    assert reported == [("mixer", "output mixer of Dongle cannot be set (Operation not permitted); sound continues")]
    card.error, card.stuck = None, True
    output.settle(card)
    output.report()
    assert reported[1:] == [
        ("mixer", "output mixer of Dongle stays at PCM -20.0 dB, muted instead of PCM 0.0 dB, unmuted")
    ]
    card.stuck = False
    output.settle(card)
    output.report()
    assert reported[2:] == [("devices", "output mixer of Dongle: PCM 0.0 dB, unmuted")]


def test_one_control_that_fails_does_not_keep_the_others_from_being_set() -> None:
    class Half(FakeMixer):
        def put(self, wanted: Level) -> None:
            if wanted.control == "PCM":
                raise OSError(5, "Input/output error")
            super().put(wanted)

    card = Half("Dongle", PCM, replace(SPEAKER, muted=True))
    _, reported = settled(card)
    assert card.controls["Speaker", 0].muted is False and reported[0][0] == "mixer" and "stays at" in reported[0][1]


def test_what_another_program_does_just_after_is_set_right_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`alsactl restore` at power-on, or when a card is plugged in again."""
    monkeypatch.setattr(mixer, "CHECK_AGAIN_S", (0.2, 0.2, 600))
    card, reported = jack_mixer(), Told()
    output = OutputMixer("auto", reported)
    output.settle(card)
    card.controls["PCM", 0] = replace(PCM, db=4.0)
    wait_for(lambda: bool(reported), "a word of it")
    assert reported == [
        (
            "mixer",
            "another program set the output mixer of Headphones to PCM 4.0 dB, muted; set again to PCM 0.0 dB, unmuted",
        )
    ]
    assert in_words(card.levels()) == "PCM 0.0 dB, unmuted" and len(card.written) == 2
    output.release()


# In the box.


def bench(card: FakeMixer, playback: PlaybackConfig = CONFIG.playback) -> Bench:
    made = Bench(replace(CONFIG, playback=playback))
    made.jack.mixer = card
    return made


def test_the_jack_is_unmuted_before_it_is_heard_and_after_it_was_pulled_out() -> None:
    card = jack_mixer()
    with bench(card) as running:
        running.until(State.RUNNING)
        assert in_words(card.levels()) == running.box.mixer.words == "PCM 0.0 dB, unmuted"
        running.until_said("output mixer of Headphones: PCM 0.0 dB, unmuted")
        card.controls["PCM", 0] = PCM
        running.jack.gone = True
        running.until(State.WAITING)
        running.jack.gone = False
        running.until(State.RUNNING)
        assert in_words(card.levels()) == "PCM 0.0 dB, unmuted"


def test_a_mixer_that_never_answers_does_not_keep_the_sound_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixer, "LIMIT_S", 0.2)
    card = jack_mixer()
    card.answers.clear()
    with bench(card) as running:
        running.until(State.RUNNING)
        running.hops()
        assert running.loudness() > 0.001 and running.box.mixer.words == "does not answer"
        assert sum("does not respond" in text for text in running.hear()) == 1
        card.answers.set()
        running.until_said("PCM 0.0 dB, unmuted")


def test_measurements_find_the_mixer_where_the_running_box_has_it() -> None:
    """`calibrate` and `latency` open the devices as the box does."""
    card = jack_mixer()
    box = bench(card).box
    box.open()
    box.close()
    assert in_words(card.levels()) == "PCM 0.0 dB, unmuted"


def test_a_cable_instead_of_the_jack_has_no_volume_to_be_set() -> None:
    card = jack_mixer()
    made = Bench(replace(CONFIG, playback=PlaybackConfig(device="off"), cable=CableConfig(device="Headphones")))
    made.jack.mixer = card
    made.box.open()
    made.box.close()
    assert not card.written and made.box.mixer.words == "left alone"


# The doctor.


@pytest.mark.parametrize(
    ("settings", "levels", "running", "verdict", "found", "fix"),
    [
        ({}, [FINE], {}, OK, "volume_db -20 dB; mixer PCM 0.0 dB, unmuted", ""),
        ({}, [PCM], {}, OK, "PCM -20.0 dB, muted; the box sets PCM 0.0 dB, unmuted at its start", ""),
        ({}, [], {}, OK, "volume_db -20 dB; the card has no mixer", ""),
        ({}, [PCM], {"state": "running"}, WARN, "muted, but the box set PCM 0.0 dB, unmuted", "restart quietbox"),
        ({}, [FINE], {"volume_db": -6.0}, WARN, "plays at -6 dB, not as the settings say", "reload quietbox"),
        ({"mixer": "off"}, [PCM], {}, WARN, "which the box does not change", "unmute it"),
        ({"mixer": "off"}, [replace(FINE, db=-9.0)], {}, OK, "-9.0 dB, unmuted, which the box does not change", ""),
        ({"mixer": "Amp"}, [FINE, MIC], {}, WARN, '"Amp" is not a control', 'mixer = "auto", or one of "PCM", "Mic"'),
        ({"volume_db": -60.0}, [FINE], {}, WARN, "almost inaudible", "raise [playback] volume_db"),
        ({}, ProbeFailure("hangs", "gave no answer within 20 s"), {}, WARN, "no answer", 'mixer = "off"'),
    ],
)
def test_the_doctors_row(settings: Any, levels: Any, running: Any, verdict: Any, found: str, fix: str) -> None:
    row = judge_volume(PlaybackConfig(**settings), levels, running)
    assert row.check == "volume" and row.verdict is verdict and found in row.found
    assert fix in row.fix and bool(row.fix) is (verdict is WARN)


def test_the_doctor_asks_the_output_of_the_settings(tmp_path: Path) -> None:
    asked: list[str] = []

    def levels(clock: str) -> list[Level]:
        asked.append(clock)
        return [FINE]

    (tmp_path / "q.toml").write_text('[playback]\ndevice = "hw:CARD=Amp"\nvolume_db = -9\n')
    context = Context(tmp_path / "q.toml", read_mixer=levels)
    list(settings.settings(context))
    (row,) = sound.volume(context)
    assert asked == ["Amp"] and "volume_db -9 dB; mixer PCM 0.0 dB" in row.found


# Real ALSA: libasound's simple mixer over an external control plugin, compiled here.


@pytest.fixture
def levels() -> Iterator[Path]:
    """The levels of a card with the jack's PCM at -20 dB and muted on one side, as a file that anybody may write."""
    with ExactRig() as rig:
        found = rig.folder / "levels"
        found.write_text("-2000 -3000 0 1\n31 31 0 0\n3 3 0 0\n-6400 -6400 0 0\n")  # PCM, Speaker, Mic, Headphone
        with (rig.folder / "asound.conf").open("a") as conf:
            conf.write(
                f'ctl_type.quietbox {{ lib "{compiled("mixer_card")}" }}\nctl.spk {{ type quietbox state "{found}" }}\n'
            )
        yield found


def test_a_real_mixer_is_read_set_and_read_back(levels: Path) -> None:
    playback = Playback("spk")
    playback.open()
    card = playback.mixer()
    playback.close()
    assert isinstance(card, AlsaMixer)
    found = {level.control: level for level in card.levels()}
    assert str(found["PCM"]) == "PCM -20.0 dB, muted" and found["PCM"].range_db == (-102.39, 4.0)
    assert str(found["Speaker"]) == "Speaker 100 %, muted" and found["Speaker"].range_db is None
    assert str(found["Headphone"]) == "Headphone -64.0 dB"
    output, reported = settled(card)
    assert {*output.words.split("; ")} == {"PCM 0.0 dB, unmuted", "Speaker 74 %, unmuted", "Headphone -3.0 dB"}
    assert reported[0] == ("devices", f"output mixer of spk: {output.words}")
    assert levels.read_text().split("\n")[:4] == ["0 0 1 1", "23 23 1 1", "3 3 0 0", "-300 -300 0 0"]


def test_a_box_on_real_alsa_sets_it_and_the_doctor_reads_it(levels: Path) -> None:
    config = replace(CONFIG, capture=replace(CONFIG.capture, device="mic"), playback=PlaybackConfig(device="spk"))
    assert "PCM -20.0 dB, muted" in judge_volume(config.playback, probe_process.mixer_in_child("pcm:spk"), {}).found
    box = Box(config)
    box.open()
    box.close()
    assert "PCM 0.0 dB, unmuted" in box.mixer.words
    row = judge_volume(config.playback, probe_process.mixer_in_child("pcm:spk"), {"state": "running"})
    assert row.verdict is OK and "PCM 0.0 dB, unmuted" in row.found


def test_cards_and_names_without_a_mixer() -> None:
    with ExactRig():
        for clock in ("Nowhere", "pcm:spk"):
            card = alsa_mixer(clock)
            assert card is not None and card.levels() == []
    assert alsa_mixer("pcm:default") is None, "that is the sound server's volume"

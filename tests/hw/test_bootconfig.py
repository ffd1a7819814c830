"""config.txt: our block goes in under [all] and comes out without a trace, whatever else stands in the file."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hw.board import bootconfig
from hw.board.bootconfig import ALL, BEGIN, END, GADGET, GLUED, JACK, MICROPHONE, OURS, SCOPE, Wish

PI4 = "Raspberry Pi 4 Model B Rev 1.5"
PI5 = "Raspberry Pi 5 Model B Rev 1.0"

# The shape of the file that Raspberry Pi OS 12 ships, shortened.
SHIPPED = """\
# For more options and information see
# http://rptl.io/configtxt
#dtparam=i2c_arm=on
#dtparam=i2s=on

# Enable audio (loads snd_bcm2835)
dtparam=audio=on
camera_auto_detect=1
dtoverlay=vc4-kms-v3d
max_framebuffers=2

[cm4]
otg_mode=1

[cm5]
dtoverlay=dwc2,dr_mode=host

[all]
"""

LINES = (
    """[all] [pi4] [none] [gpio4=1] arm_64bit=1 dtparam=audio=on dtparam=audio=off dtoverlay=vc4-kms-v3d dtoverlay="""
)
lines = st.sampled_from([*LINES.split(), MICROPHONE, GADGET, f"#{MICROPHONE}", "", "  ", "\x0b", "a\rb", "ä\x85"])
ends = st.sampled_from(["\n", "\r\n", "\n", "\r"])
texts = st.lists(st.tuples(lines | st.text(max_size=12), ends)).map(
    lambda pairs: "".join(line + end for line, end in pairs)
) | st.text(max_size=60)
wishes = st.builds(Wish, st.sampled_from([None, True, False]), st.sampled_from([None, True, False]), st.booleans())
models = st.sampled_from(["", PI4, PI5, "Raspberry Pi Zero 2 W Rev 1.0"])
wanted = st.lists(st.sampled_from([MICROPHONE, JACK, GADGET]), unique=True)


def unmarked(text: str) -> bool:
    return not any(line.strip() in (BEGIN, GLUED) for line in text.split("\n"))


@given(texts.filter(unmarked), wanted)
@example("", [JACK])
@example("a", [JACK])
@example("a\r", [JACK])
@example("a\r\nb", [JACK])
@example("[pi4]\nx=1", [MICROPHONE])
def test_in_and_out_is_as_before(text: str, chosen: list[str]) -> None:
    assert bootconfig.remove(bootconfig.add(text, chosen)) == text


@given(texts, wishes, models)
def test_twice_is_once(text: str, wish: Wish, model: str) -> None:
    once = bootconfig.edit(text, wish, model)
    assert bootconfig.edit(once, wish, model) == once
    assert sum(line.strip() in (BEGIN, GLUED) for line in once.split("\n")) <= 1


@given(texts.filter(unmarked), wishes, wishes, models)
def test_a_change_of_mind_leaves_nothing_behind(text: str, first: Wish, second: Wish, model: str) -> None:
    changed = bootconfig.edit(bootconfig.edit(text, first, model), second, model)
    assert bootconfig.remove(changed) == text


@given(texts, st.lists(st.sampled_from([BEGIN, GLUED, END, ALL, MICROPHONE, JACK, "mine=1", "[pi4]", ""])), wanted)
def test_a_mangled_block_is_mended_and_foreign_lines_survive(text: str, junk: list[str], chosen: list[str]) -> None:
    mangled = text + "\n" + "\n".join(junk)
    repaired = bootconfig.add(mangled, chosen)
    assert bootconfig.add(repaired, chosen) == repaired
    clean = bootconfig.remove(repaired)
    assert unmarked(clean)

    def foreign(of: str) -> list[str]:
        return [line.strip() for line in of.split("\n") if line.strip() not in OURS | {""}]

    assert foreign(clean) == foreign(mangled)


@given(texts.filter(unmarked), wanted.filter(bool), st.lists(lines, min_size=1))
def test_lines_written_after_the_block_stay_and_apply_as_before(text: str, chosen: list[str], later: list[str]) -> None:
    added = bootconfig.add(text, chosen) + "\n".join(later) + "\n"
    removed = bootconfig.remove(added)
    assert removed.startswith(text) and removed.endswith("\n".join(later) + "\n")
    tail = "marker=1"
    marked = bootconfig.add(text, chosen) + f"dtparam={tail}\n"
    assert bootconfig.sets(bootconfig.remove(marked), "dtparam", tail, PI4)


def test_shipped_file_keeps_its_jack_and_gains_the_microphone() -> None:
    edited = bootconfig.edit(SHIPPED, Wish(microphone=True, jack=True), PI4)
    assert edited == f"{SHIPPED}{BEGIN}\n{ALL}\n{MICROPHONE}\n{END}\n"
    assert bootconfig.edit(edited, Wish(jack=True), PI4) == edited  # keep
    assert bootconfig.edit(edited, Wish(microphone=False, jack=True), PI4) == SHIPPED


@pytest.mark.parametrize(
    ("text", "model", "on"),
    [
        ("", PI4, None),
        ("dtparam=audio=on\n", PI4, True),
        ("dtparam=i2s=on,audio=on\r\n", PI4, True),
        ("dtparam=audio=on\ndtparam=audio=off\n", PI4, False),
        ("#dtparam=audio=on\n", PI4, None),
        ("[pi5]\ndtparam=audio=on\n", PI4, None),
        ("[pi4]\ndtparam=audio=on\n", PI4, True),
        ("[pi4]\ndtparam=audio=on\n", "", None),
        ("[gpio4=1]\n[pi4]\ndtparam=audio=on\n", PI4, None),
        ("[none]\nx=1\n[all]\ndtparam=audio=on\n", PI4, True),
        ("dtoverlay=vc4-kms-v3d\ndtparam=audio=off\n", PI4, None),  # that one is HDMI's
        ("dtoverlay=vc4-kms-v3d\ndtoverlay=\ndtparam=audio=off\n", PI4, False),
        ("dtoverlay=gpio-fan\ndtparam=audio=on\n", PI4, True),
    ],
)
def test_whether_the_jack_is_on(text: str, model: str, on: bool | None) -> None:
    assert bootconfig.audio(text, model) is on


def test_a_missing_jack_line_is_kept_out_of_the_screen_drivers_scope() -> None:
    text = "dtoverlay=vc4-kms-v3d\n"
    edited = bootconfig.edit(text, Wish(jack=True), PI4)
    assert edited.splitlines()[1:] == [BEGIN, ALL, SCOPE, JACK, END]
    assert bootconfig.audio(edited, PI4) is True


def test_what_the_user_wrote_is_not_written_twice() -> None:
    assert bootconfig.edit(f"{MICROPHONE}\n", Wish(microphone=True), PI4) == f"{MICROPHONE}\n"
    assert GADGET in bootconfig.edit("[cm5]\n" + GADGET + "\n", Wish(gadget=True), PI4).split("\n")[2:]
    assert bootconfig.edit("dtparam=audio=off\n", Wish(jack=True), PI4) == "dtparam=audio=off\n"


def test_where_it_lies(tmp_path: Path) -> None:
    assert bootconfig.find(tmp_path) is None
    for place in reversed(bootconfig.PLACES):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("")
        assert bootconfig.find(tmp_path) == tmp_path / place

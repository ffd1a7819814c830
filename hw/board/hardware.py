"""The tables of docs/hardware.md, drawn from ``models`` and ``hats``.

python -m hw.board.hardware              prints them
python -m hw.board.hardware --write FILE puts them between the marks in FILE
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from edge import UserError
from edge.console import run_main
from hw.board import hats, models
from hw.board.hats import Hat
from hw.board.models import Model
from hw.board.pins_taken import Header

DATASHEET, EMULATED, REAL = "by datasheet", "emulated", "tried on a real one"
"""How far a row has been tried."""
EMULATED_BOARDS = ("3B",)
"""Started whole, in QEMU: ``python -m hw.prove.pi3``."""
MARK = "<!-- {name}: python -m hw.board.hardware --write docs/hardware.md -->"
END = "<!-- end of {name} -->"


@dataclass(frozen=True)
class Usb:
    """A kind of USB sound device, or a model that stands for one. Nothing in config.txt is needed for any."""

    name: str
    inputs: int
    outputs: int
    rates: str
    remark: str
    source: str
    status: str = DATASHEET


USB = (
    Usb(
        "headset, USB audio class",
        *(1, 2, "44.1 or 48 kHz", "one clock for both directions: nothing drifts"),
        *("USB audio class 1.0", EMULATED),
    ),
    Usb(
        "microphone, USB audio class",
        1,
        0,
        "44.1 or 48 kHz",
        "beside the jack or a DAC",
        "USB audio class 1.0",
        EMULATED,
    ),
    Usb("adapter with two sockets (CM108 and the like)", 1, 2, "44.1, 48 kHz", "", "C-Media CM108 data sheet"),
    Usb("Blue Yeti", 2, 2, "48 kHz", "turn its own gain down", "manufacturer's manual"),
    Usb(
        "ReSpeaker USB Mic Array v2",
        *(6, 2, "16 kHz", "channel 1 is processed by the device: choose 2 to 5, the microphones"),
        "wiki.seeedstudio.com/ReSpeaker_Mic_Array_v2.0",
    ),
)


def boards() -> str:
    """One row a Raspberry Pi model."""
    heads = ("Raspberry Pi", "headphone jack", "microphone for a PC by USB", "card image", "status")
    return _table(heads, map(_board, models.MODELS))


def sound_boards() -> str:
    """One row a sound board for the header."""
    heads = ("sound board", "`dtoverlay=`", "codec", "in", "out", "rates", "pins it takes (GPIO)", "LED, button")
    return _table((*heads, "use", "status", "source"), map(_hat, hats.HATS))


def usb() -> str:
    """One row a kind of USB sound device."""
    rows = ((one.name, one.inputs, one.outputs, one.rates, one.remark, one.status, one.source) for one in USB)
    return _table(("USB device", "in", "out", "rates", "remark", "status", "source"), rows)


TABLES: dict[str, Callable[[], str]] = {"boards": boards, "sound boards": sound_boards, "USB devices": usb}


def written(page: str) -> str:
    """``page`` with each table between its marks. Raises UserError where a mark is missing."""
    for name, draw in TABLES.items():
        begin, end = f"{MARK.format(name=name)}\n", END.format(name=name)
        if page.count(begin) != 1 or page.partition(begin)[2].count(end) != 1:
            raise UserError(f"the page needs one place for the table of {name}, between {begin.strip()} and {end}")
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}{draw()}{end}{rest.partition(end)[2]}"
    return page


def _board(model: Model) -> tuple[object, ...]:
    words = {True: "yes", False: "no", None: "carrier board"}
    image = "yes" if model.image_tree else "no: `install.sh`"
    status = EMULATED if model.name in EMULATED_BOARDS else DATASHEET
    return model.name, words[model.jack], words[model.usb_device], image, status


def _hat(hat: Hat) -> tuple[object, ...]:
    overlays = ", ".join(f"`{name}`" for name in hat.overlays) + ("" if hat.in_kernel else " (driver by the vendor)")
    uses = dict.fromkeys(hat.takes.values())
    pins = ", ".join(f"{' '.join(str(pin) for pin in hat.takes if hat.takes[pin] == use)} {use}" for use in uses)
    led, button = Header(((hat,),)).panel()
    return (
        *(
            hat.name,
            overlays,
            hat.codec,
            hat.inputs,
            hat.outputs,
            hat.rates,
            pins or "none",
            f"{led}, {button}",
            _use(hat),
        ),
        *(EMULATED if hat.emulated else DATASHEET, hat.source),
    )


def _use(hat: Hat) -> str:
    if hat.overlays[0] in hats.OURS:
        return "microphone and output, by our overlay"
    if hat.line:
        return "line input (a microphone needs a preamplifier) and output"
    if hat.inputs:
        return "microphone and output" if hat.outputs else "microphone"
    return "output; with our overlay beside an I2S microphone, too" if hat.passive else "output, with a USB microphone"


def _table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |\n" for row in (heads, *rows)]
    return "".join([lines[0], "|---" * (lines[0].count("|") - 1) + "|\n", *lines[1:]])


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hw.board.hardware", description="The tables of boards, sound boards and USB devices."
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put them between the marks in FILE")
    page: Path | None = parser.parse_args(arguments).write
    if page:
        page.write_text(written(page.read_text()))
    else:
        print("\n".join(draw() for draw in TABLES.values()), end="")
    return 0


if __name__ == "__main__":
    run_main(main, "hardware")

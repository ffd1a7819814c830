"""docs/hardware.md shows what the tables of the product hold, and marks how far each row was tried."""

from pathlib import Path

import pytest

from edge import UserError
from hw.board import hardware, hats, models

PAGE = Path(__file__).resolve().parents[2] / "docs/hardware.md"


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in table.splitlines()]


def test_the_page_holds_the_tables_of_the_product() -> None:
    assert PAGE.read_text() == hardware.written(PAGE.read_text()), (
        "python -m hw.board.hardware --write docs/hardware.md"
    )


def test_every_row_is_there_whole_and_says_how_it_was_tried() -> None:
    for draw, count in zip(
        hardware.TABLES.values(), (len(models.MODELS), len(hats.HATS), len(hardware.USB)), strict=True
    ):
        head, _, *found = rows(draw())
        assert len(found) == count and {len(row) for row in found} == {len(head)}
        assert {row[head.index("status")] for row in found} == {hardware.DATASHEET, hardware.EMULATED}


def test_pins_that_a_board_takes_are_not_offered_for_light_and_button() -> None:
    head, _, *found = rows(hardware.sound_boards())
    for hat, row in zip(hats.HATS, found, strict=True):
        led, button = (int(pin) for pin in row[head.index("LED, button")].split(", "))
        assert led != button
        assert led == hat.led or led not in {**hat.takes, **models.TAKEN_PINS}
        assert button == hat.button or button not in {**hat.takes, **models.TAKEN_PINS}


def test_the_command_writes_the_page_and_refuses_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text().replace("by datasheet |", "| old |"))
    assert hardware.main(["--write", str(copy)]) == 0
    assert copy.read_text() == PAGE.read_text()
    copy.write_text("# Another page\n")
    with pytest.raises(UserError, match="one place for the table of boards"):
        hardware.main(["--write", str(copy)])
    assert copy.read_text() == "# Another page\n"
    assert hardware.main([]) == 0 and "wm8960-soundcard" in capsys.readouterr().out

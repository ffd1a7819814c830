"""The one table of boards: its rows agree with each other and with the pages that people read."""

import ast
import re
from pathlib import Path

import pytest

from hw.board import models
from hw.board.models import MODELS, UNKNOWN, Model, by_model_line, by_revision, image_trees

ROOT = Path(__file__).resolve().parents[2]
LEAVES = {"edge", "edge.console", "edge.realtime"}
"""What `hw/board` may use of `edge`: parts that themselves import nothing of ours but `edge`."""


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_revision_code_and_model_line_find_the_same_row(model: Model) -> None:
    assert by_revision(1 << 23 | model.type_code << 4) is model
    assert by_model_line(f"Raspberry Pi {model.begins} Rev 1.0") is model


def test_every_name_and_code_stands_once() -> None:
    for values in ([model.name for model in MODELS], [model.type_code for model in MODELS]):
        assert len(values) == len(set(values))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_row_does_not_contradict_itself(model: Model) -> None:
    on_a_carrier = model.name.startswith("CM")
    assert (model.jack is None) == (model.usb_device is None) == on_a_carrier
    family = {"0"} if model.name.startswith("Zero") else {str(model.generation)}
    assert {re.sub(r"^(?:pi|cm)(\d).*", r"\1", name) for name in model.filters} == family
    if model.image_tree:
        assert model.image_tree.startswith({3: "bcm2837-rpi-", 4: "bcm2711-rpi-"}[model.generation])
    assert model.gpio_by_registers == (model.generation < 5)


@pytest.mark.parametrize("line", ["", "Raspberry Pi ", "Raspberry Pi 7 Model Z", "Raspberry Pi 50", "ThinkPad"])
def test_what_is_in_no_row_is_not_known(line: str) -> None:
    assert by_model_line(line) is None
    assert by_revision(0xF0FFF0) is None and by_revision(0x0010) is None
    assert not UNKNOWN.gpio_by_registers and UNKNOWN.filters == ()


def test_the_image_supports_what_the_page_on_building_a_box_promises() -> None:
    supported = {model.name for model in MODELS if model.image_tree}
    assert {"3B", "3B+", "3A+", "4B", "400", "Zero 2 W"} <= supported
    assert "for Pi 3, 4, 400 and Zero 2" in " ".join((ROOT / "docs/build-a-box.md").read_text().split())
    assert len(image_trees()) == 8 and all(name.endswith(".dtb") for name in image_trees())
    assert not any(model.image_tree for model in MODELS if model.generation in (1, 2, 5))


def test_the_board_package_leans_on_nothing_of_the_box() -> None:
    """The installer asks it before anything is installed, and `edge.config` takes the pins from it."""
    for path in (ROOT / "hw/board").glob("*.py"):
        tree = ast.parse(path.read_text())
        froms = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        plain = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
        ours = {name for name in [*froms, *plain] if name.split(".")[0] in ("edge", "hw", "models", "quant")}
        assert {name for name in ours if not name.startswith("hw.board")} <= LEAVES, path.name
    assert models.TAKEN_PINS.keys() <= set(range(28))

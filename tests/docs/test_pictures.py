"""The pictures say what the program does, and the README has them all."""

import re
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from hw.board.led import DIM, LedPattern, brightness
from hw.prove import demo, spectrogram

PICTURES = Path(__file__).resolve().parents[2] / "docs/pictures"
SVG = "{http://www.w3.org/2000/svg}"
SHOWN_S = 6.0


@pytest.mark.parametrize("path", sorted(PICTURES.glob("*.svg")), ids=lambda path: path.name)
def test_pictures_stand_alone(path: Path) -> None:
    root = ET.parse(path).getroot()
    assert root.findtext(f"{SVG}title", "").startswith("Quietbox")
    assert not re.search(r"<(script|image|foreignObject)|href=", path.read_text())


@pytest.mark.parametrize("look", list(LedPattern))
def test_the_light_is_drawn_as_it_shines(look: LedPattern) -> None:
    """Hundredths of a second, but for the 40 ms of a short flash, which are drawn at their true width."""
    shapes = list(ET.parse(PICTURES / "light.svg").getroot())
    at = next(number for number, shape in enumerate(shapes) if shape.get("id") == look.name)
    strip, after = shapes[at], shapes[at + 1] if at + 1 < len(shapes) else None
    begin, width = float(strip.attrib["x"]), float(strip.attrib["width"])
    bars = list(after) if after is not None and after.tag == f"{SVG}g" else []
    share = float(after.get("fill-opacity", "1")) if after is not None and bars else 0.0
    for tick in range(round(SHOWN_S * 100)):
        at_s = (tick + 0.5) / 100
        x = begin + at_s / SHOWN_S * width
        lit = any(float(bar.attrib["x"]) <= x <= float(bar.attrib["x"]) + float(bar.attrib["width"]) for bar in bars)
        assert lit == (brightness(look, at_s) > 0)
    if look is LedPattern.DIM:
        assert share == pytest.approx(DIM ** (1 / 3), abs=0.01)  # the eye's response is about a cube root
    elif bars:
        assert share == 1


def test_the_packages_are_drawn_in_the_order_of_the_import_rule() -> None:
    shapes = ET.parse(PICTURES / "architecture.svg").iter(f"{SVG}text")
    drawn = {name: float(shape.attrib["y"]) for shape in shapes for name in re.split(r", |/", shape.text or "")}
    contracts = tomllib.loads((PICTURES.parents[1] / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract, least in (("edge", 12), ("hw", 7)):
        layers = next(one["layers"] for one in contracts if one["id"] == contract)
        rows = [{drawn[name] for name in re.split(r" [|:] ", layer) if name in drawn} for layer in layers]
        heights = [height for row in rows for height in row]
        assert heights == sorted(heights) and sum(map(len, rows)) >= least - 3


def test_the_demonstration_s_picture_is_the_one_that_it_draws() -> None:
    """Three rows and a caption, 750 pixels wide: 8 point letters are 11 pixels high on a phone."""
    from PIL import Image

    with Image.open(PICTURES / "before-after.png") as picture:
        assert picture.info["Description"] == demo.caption("rain_en_5dB")
        assert picture.width == round(spectrogram.WIDTH_IN * spectrogram.DOTS_PER_INCH) and picture.height > 600

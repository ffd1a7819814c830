"""The build guide counts the wires that the drawing has, and its prices make the sum that the README names."""

import re
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def table(heading: str) -> list[list[str]]:
    """The cells below the head of the table below a heading of wiring.md."""
    text = (DOCS / "wiring.md").read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def test_every_page_counts_the_wires_of_the_drawing() -> None:
    parts = [row[0] for row in table("Wires")]
    wires = COUNTS[len(parts) - parts.count("knob")]
    microphone, led, button = (COUNTS[parts.count(name)] for name in ("microphone", "LED", "button"))
    drawing = ElementTree.parse(DOCS / "pictures/wiring.svg").getroot()
    drawn = [node.get("id") or "" for node in drawing.iter() if (node.get("id") or "").startswith("wire-")]
    assert len(drawn) == len(parts)
    words = " ".join("".join(node.itertext()) for node in drawing.iter() if node.tag.endswith("}text"))
    assert f"{microphone} wires to the microphone, {led} to the LED, {button} to the button" in words
    pages = [ROOT / "README.md", DOCS / "wiring.md", DOCS / "build-a-box.md", DOCS / "pictures/parts.svg"]
    for page in pages:
        counted = re.findall(rf"\b({'|'.join(COUNTS[4:])}) (?:jumper )?wires", page.read_text().lower())
        assert counted and {*counted} == {wires}, page.name


def ends_at(path: str) -> tuple[float, float]:
    """Where an SVG path of absolute M, L, H and V ends."""
    x = y = 0.0
    for letter, numbers in re.findall(r"([MLHV])([\d. ]+)", path):
        values = [float(word) for word in numbers.split()]
        x, y = {"H": (values[0], y), "V": (x, values[0])}.get(letter, (values[0], values[-1]))
    return x, y


def test_every_wire_of_microphone_and_knob_ends_at_a_pad_of_its_own() -> None:
    """L/R was drawn as a dot on another wire: it is a wire of its own, and nobody leaves it out."""
    drawing = ElementTree.parse(DOCS / "pictures/wiring.svg").getroot()
    pins = [node for node in drawing.iter() if node.tag.endswith("}circle") and node.get("r") == "8"]
    pads = {(float(node.attrib["cx"]), float(node.attrib["cy"])) for node in pins}
    paths = {node.get("id"): node.attrib["d"] for node in drawing.iter() if node.get("id")}
    wires = [f"wire-{row[2]}" for row in table("Wires") if row[0] in ("microphone", "knob")]
    assert {ends_at(paths[wire]) for wire in wires} == pads and len(pads) == len(wires)


def test_the_prices_make_the_sum_of_the_readme() -> None:
    rows = [re.fullmatch(r"(\d+) to (\d+)", row[2]) for row in table("Parts")]
    assert len(rows) == 8 and all(rows)
    least, most = (sum(int(row[which]) for row in rows if row) for which in (1, 2))
    for page in (ROOT / "README.md", DOCS / "wiring.md"):
        assert f"bout {least} to {most} €" in page.read_text(), page.name

"""What each preset does to the three test recordings, measured: for `quietbox preset show` and the user guide.

    python -m quant.presets                  ours: writes edge/presets/figures.json, prints a table
    python -m quant.presets my-place.toml    one of yours: writes figures.json beside it

Nothing is tuned by these recordings: a preset's values follow from what the place needs (its first line), and these
figures say what that costs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import soundfile
from rich.table import Table

from edge import UserError, files
from edge.config import Config
from edge.console import run_main
from edge.files import atomic
from edge.tools import preset, tables
from edge.tools.sounds.enhance import enhance_samples
from models.command import need, status_of
from models.measures import dnsmos, level_change_db, pauses, pesq_wb, stoi

SOUNDS = Path(__file__).parents[1] / "tests" / "sounds"
# No SI-SDR: the high-pass of some presets turns the phase of low tones, which it counts as distortion and nobody hears.
FIGURES = ("PESQ", "STOI", "DNSMOS OVRL", "noise removed in pauses dB", "speech level dB")


def main() -> int:
    """0, or 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m quant.presets", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "presets", nargs="*", type=Path, metavar="FILE", help="presets of yours (default: those shipped)"
    )
    options = parser.parse_args()
    return status_of(lambda: run(options.presets), "presets")


def run(presets: list[Path]) -> None:
    """Measure, print, and put the figures beside the presets; raises UserError."""
    need("evaluate", "pesq", "pystoi", "speechmos", "onnxruntime")
    if not SOUNDS.is_dir():
        raise UserError(f"{SOUNDS} is missing: this runs in a checkout, where the test recordings lie")
    paths = presets or sorted(preset.SHIPPED.glob("*.toml"))
    table = Table(title="presets on the test recordings", title_justify="left")
    for name in ("preset", "recording", *FIGURES):
        table.add_column(name, justify="left" if name in ("preset", "recording") else "right")
    for path in paths:
        found = preset.read(path)
        figures = measured(found)
        for recording, values in figures.items():
            table.add_row(found.name, recording, *(f"{values[name]:g}" for name in FIGURES))
        keep(path, figures)
    tables.show(table)


def measured(chosen: preset.Preset) -> dict[str, dict[str, float]]:
    """Recording -> figures of the whole chain at full level with this preset."""
    config = chosen.apply(Config())
    found = {}
    for path in sorted((SOUNDS / "noisy").glob("*.flac")):
        noisy, clean = (soundfile.read(SOUNDS / kind / path.name, dtype="float32")[0] for kind in ("noisy", "clean"))
        out = enhance_samples(noisy, config)
        quiet = pauses(clean)
        values = (
            pesq_wb(clean, out),
            stoi(clean, out),
            dnsmos(out)[2],
            -level_change_db(noisy[quiet], out[quiet]),
            level_change_db(noisy[~quiet], out[~quiet]),
        )
        digits = (2, 3, 2, 1, 1)
        found[path.stem] = {
            name: round(float(value), count) for name, value, count in zip(FIGURES, values, digits, strict=True)
        }
    return found


def keep(path: Path, figures: dict[str, dict[str, float]]) -> None:
    """Put them into figures.json beside the preset, with the digest of the file that they hold for."""
    place = path.with_name(preset.FIGURES)
    known: dict[str, Any] = {}
    if place.exists():
        try:
            known = json.loads(files.read_bounded(place, preset.MOST_FIGURES_BYTES))
        except ValueError:
            raise UserError(f"{place} is not JSON; remove it, and run this again") from None
    known[path.stem] = {"sha256": preset.digest(path), "recordings": figures}
    atomic.write(place, (json.dumps(dict(sorted(known.items())), indent=1) + "\n").encode())


if __name__ == "__main__":
    run_main(main, "presets")

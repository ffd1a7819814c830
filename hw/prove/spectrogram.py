"""Spectrograms of a few sounds on one scale, readable at the width of a phone and in grey.

Needs the extra ``pictures``.
"""

import io
import textwrap
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edge import RATE_HZ
from edge.dsp.spectrum import Doubles, Floats
from edge.files import atomic

COLOURS = "magma"
"""From black to white with lightness that rises all the way, so that it reads the same in grey."""
RANGE_DB = 60.0
"""From the loudest cells down to black: about the range between loud speech and a quiet room."""
WINDOW_SAMPLES, STEP_SAMPLES = 512, 64
"""32 ms resolve the harmonics of a voice; every cell is the mean of several windows."""
CELLS_HIGH = 128
WIDTH_IN, DOTS_PER_INCH = 3.75, 200
"""375 CSS pixels, the width of a phone, hold 3.75 in at 100 dots per inch: 8 point are 11 pixels there."""
POINTS = 8.0
CAPTION_POINTS, CAPTION_SIGNS = 7.0, 68
"""Size of a caption inside a picture, and its signs a line."""
PALETTE = 80, 16
"""Colours in the file, of the map and greys of the letters; more look the same and make it larger."""
LOUDEST = 0.998
"""Quantile of the cells of a panel that counts as its loudest; a few clicks must not darken all the rest."""


def power_db(sound: Floats, columns: int) -> Doubles:
    """(CELLS_HIGH, columns): mean power of the cells in dB, 0 Hz to 8 kHz upwards; 0 dB is a sine of full scale.

    ``sound`` is mono at 16 kHz, (samples,), and at least ``columns`` steps of 4 ms long.
    """
    window = np.hanning(WINDOW_SAMPLES + 1)[:-1]
    padded = np.pad(sound.astype(float), WINDOW_SAMPLES // 2)
    frames = sliding_window_view(padded, WINDOW_SAMPLES)[::STEP_SAMPLES] * window
    power = np.abs(np.fft.rfft(frames)[:, : WINDOW_SAMPLES // 2]) ** 2 / (window.sum() / 2) ** 2
    starts = np.arange(columns) * len(power) // columns
    counts = np.diff(np.append(starts, len(power)))
    across = np.add.reduceat(power, starts, axis=0) / counts[:, np.newaxis]
    cells = across.reshape(columns, CELLS_HIGH, -1).mean(axis=2)
    return 10 * np.log10(cells.T + 1e-12)


def draw(path: Path, sounds: dict[str, Floats], caption: str, *, stacked: bool = False) -> None:
    """Write ``path`` (PNG, 750 pixels wide): a panel for each title of ``sounds``, side by side or ``stacked``.

    All panels share one scale that ends at the loudest cells of all. The caption is kept as the file's description, and
    drawn below stacked panels. Raises OSError.
    """
    from matplotlib.figure import Figure

    height_in = 0.87 * len(sounds) + 0.6 if stacked else 1.75
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DOTS_PER_INCH, layout="constrained")
    shape = (len(sounds), 1) if stacked else (1, len(sounds))
    panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    drawn = {title: power_db(sound, 400 if stacked else 120) for title, sound in sounds.items()}
    top_db = max(float(np.quantile(cells, LOUDEST)) for cells in drawn.values())
    for panel, (title, cells) in zip(panels, drawn.items(), strict=True):
        image = panel.imshow(
            cells - top_db,
            cmap=COLOURS,
            vmin=-RANGE_DB,
            vmax=0,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
            extent=(0, len(sounds[title]) / RATE_HZ, 0, RATE_HZ / 2000),
        )
        panel.set_title(title, fontsize=POINTS + 1, pad=3, loc="left" if stacked else "center")
        panel.tick_params(labelsize=POINTS, length=2, pad=2)
        panel.set_yticks([0, 4, 8])
        panel.set_xticks(np.arange(0, len(sounds[title]) / RATE_HZ + 0.1, 2))
    figure.supylabel("kHz", fontsize=POINTS)
    panels[-1 if stacked else len(sounds) // 2].set_xlabel("seconds", fontsize=POINTS, labelpad=1)
    bar = figure.colorbar(image, ax=list(panels), ticks=[-RANGE_DB, -RANGE_DB / 2, 0], fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=POINTS, length=2, pad=2)
    bar.ax.set_title("dB", fontsize=POINTS, pad=3)
    if stacked:
        lines = textwrap.fill(caption, CAPTION_SIGNS)
        figure.supxlabel(lines, fontsize=CAPTION_POINTS, x=0.02, ha="left")
    rendered = io.BytesIO()
    figure.savefig(rendered, format="png")
    atomic.write(path, _small(rendered, caption))


def _small(rendered: io.BytesIO, caption: str) -> bytes:
    """The picture as PNG with a palette, a third of the size, and with its caption."""
    from matplotlib import colormaps
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    map_colours, greys = PALETTE
    shades = np.concatenate(
        [colormaps[COLOURS](np.linspace(0, 1, map_colours))[:, :3], np.linspace([0] * 3, [1] * 3, greys)]
    )
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.round(shades * 255).astype(np.uint8).tobytes())
    about = PngInfo()
    about.add_text("Description", caption)
    written = io.BytesIO()
    picture = Image.open(rendered).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
    picture.save(written, "PNG", optimize=True, pnginfo=about)
    return written.getvalue()

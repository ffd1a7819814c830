"""One page to read, see and hear: engines side by side, in a single HTML file that needs no network.

    python -m quant.report --pairs DIR --engines noisy,dsp,rnnoise --out report.html
    python -m quant.report --pairs DIR --engines FLOAT,INT8 --compare FLOAT,INT8 --out report.html

The tables are those of quant.evaluate. Below them come a few files, before and after, as spectrograms (512-sample Hann
window, 80 dB of range) and as players: FLAC, so that what differs is the engines alone. ``--compare A,B`` adds what B
does worse or better than A, file by file, and then shows the files that suffer most.
"""

import argparse
import base64
import io
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from edge import RATE_HZ
from edge.console import run_main
from edge.dsp.spectrum import Floats
from models.command import BadRequest, need, status_of
from models.measures import without_lag
from quant.evaluate.engines import engine_named
from quant.evaluate.measures import MEASURES
from quant.evaluate.options import check, common_arguments, read
from quant.evaluate.run import Figures, Row, figures_of
from quant.evaluate.sounds import Sound
from quant.evaluate.tables import Lines, tables, write

SHOWN_SECONDS = 10
"""How much of a file is seen and heard; with FLAC about 0.2 MB for each engine and file."""
WORST_FILES = 10

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
.wide { overflow-x: auto }
.heard { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); gap: 1rem }
.heard figure { margin: 0 } .heard img, .heard audio { width: 100% }
img { max-width: 100% }
"""


# --- differences ---------------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """One file under two engines."""

    name: str
    values: dict[str, float]
    """Second engine less the first, in every measure."""


def changes(figures: Figures, first: str, second: str) -> list[Change]:
    """Every file's differences, those that lose most of the main measure first, those without one last."""
    before: dict[str, Row] = {row.name: row for row in figures.of(first)}
    found = [
        Change(row.name, {key: row[key] - before[row.name][key] for key in figures.measures})
        for row in figures.of(second)
    ]
    key = main_measure(figures)
    return sorted(found, key=lambda change: float(np.nan_to_num(change.values[key], nan=np.inf)))


def main_measure(figures: Figures) -> str:
    return "pesq_wb" if "pesq_wb" in figures.measures else "dnsmos_ovrl"


def change_tables(figures: Figures, found: list[Change], first: str, second: str) -> Iterator[Lines]:
    """The differences over all files, then the worst files."""
    lines = []
    for key in figures.measures:
        values = np.array([change.values[key] for change in found])
        values = values[np.isfinite(values)]
        if len(values):
            spread = (values.mean(), values.std(), values.min(), np.median(values), values.max())
            lines.append([MEASURES[key][0], *(_signed(float(value), key) for value in spread)])
    yield f"{second} less {first}", ["measure", "mean", "standard deviation", "least", "median", "most"], lines
    yield (
        f"The {min(WORST_FILES, len(found))} files with the largest loss of {MEASURES[main_measure(figures)][0]}",
        ["file", *(MEASURES[key][0] for key in figures.measures)],
        [[change.name, *(_signed(change.values[key], key) for key in figures.measures)]
         for change in found[:WORST_FILES]],
    )  # fmt: skip


def _signed(value: float, key: str) -> str:
    return f"{value:+.{MEASURES[key][1] + 1}f}" if np.isfinite(value) else "-"


# --- pictures and sounds -------------------------------------------------------------------------------------------


def _data(kind: str, raw: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def _picture(width: float, height: float, draw: Callable[[Any], None]) -> str:
    """What ``draw`` puts on a figure of so many inches, as a data URI."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=80, layout="constrained")
    draw(figure)
    raw = io.BytesIO()
    figure.savefig(raw, format="png")
    return _data("image/png", raw.getvalue())


def spectrogram(samples: Floats) -> str:
    """float32, 16 kHz -> a PNG as data URI, 0 to 8 kHz, from -90 to -10 dB of full scale in each bin."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, 256), 512)[::128]
        window = np.hanning(512).astype(np.float32)
        bins_db = 20 * np.log10(np.abs(np.fft.rfft(frames * window)) / window.sum() * 2 + 1e-6)
        extent = (0, len(samples) / RATE_HZ, 0, RATE_HZ / 2000)
        axes.imshow(bins_db.T, "magma", aspect="auto", origin="lower", extent=extent, vmin=-90, vmax=-10)
        axes.set(xlabel="s", ylabel="kHz")

    return _picture(5.4, 2.0, draw)


def histogram(found: list[Change], keys: list[str]) -> str:
    """How the files' differences are spread, one panel a measure, as a data URI."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(keys), squeeze=False)[0]
        for axes, key in zip(panels, keys, strict=True):
            values = np.array([change.values[key] for change in found])
            axes.hist(values[np.isfinite(values)], bins=25, color="#46a")
            axes.axvline(0, color="#222", linewidth=1)
            axes.set(title=MEASURES[key][0], xlabel="difference", ylabel="files")

    return _picture(4.2 * len(keys), 2.8, draw)


def sound(samples: Floats) -> str:
    """float32, 16 kHz -> 16-bit FLAC as data URI; what is beyond full scale is cut there."""
    raw = io.BytesIO()
    soundfile.write(raw, np.clip(samples, -1, 1), RATE_HZ, format="FLAC", subtype="PCM_16")
    return _data("audio/flac", raw.getvalue())


# --- the page ------------------------------------------------------------------------------------------------------


def html_table(title: str, headings: list[str], lines: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>\n" for line in lines)
    return f'<h3>{escape(title)}</h3>\n<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>\n'


def heard_html(one: Sound, figures: Figures) -> str:
    """One file: what went in, what should come out, what every engine made of it."""
    shown = [("noisy", one.noisy, "")]
    if one.clean is not None:
        shown.append(("clean", one.clean, ""))
    for engine in figures.engines:
        if engine == "noisy":
            continue
        row = next(row for row in figures.of(engine) if row.name == one.name)
        late = engine_named(engine)(one.noisy.copy(), figures.limit_db)
        keys = ("pesq_wb", "stoi", "si_sdr_improvement_db", "dnsmos_ovrl")
        marks = ", ".join(
            f"{MEASURES[key][0]} {row[key]:.{MEASURES[key][1]}f}" for key in keys if np.isfinite(row[key])
        )
        shown.append((engine, without_lag(late, figures.lags[engine], len(one.noisy)), marks))
    pieces = []
    for name, samples, marks in shown:
        cut = samples[: SHOWN_SECONDS * RATE_HZ]
        pieces.append(
            f"<figure><figcaption><b>{escape(name)}</b> {escape(marks)}</figcaption>"
            f'<img alt="spectrogram of {escape(name)}" src="{spectrogram(cut)}">'
            f'<audio controls preload="none" src="{sound(cut)}"></audio></figure>\n'
        )
    facts = [f"{one.snr_db:g} dB" if one.snr_db is not None else "", one.kind or ""]
    title = ", ".join([one.name, *(fact for fact in facts if fact)])
    return f'<h3>{escape(title)}</h3>\n<div class="heard">\n{"".join(pieces)}</div>\n'


def page(
    sounds: list[Sound], figures: Figures, files: int, compare: tuple[str, str] | None, source: str
) -> Iterator[str]:
    """The page in pieces. ``files``: how many of ``sounds`` are seen and heard."""
    yield f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(source)}</title>\n'
    yield f"<style>{STYLE}</style>\n<h1>Engines on {escape(source)}</h1>\n"
    for table in tables(figures):
        yield html_table(*table)
    order = [sounds[round(at)].name for at in np.linspace(0, len(sounds) - 1, min(files, len(sounds)))]
    if compare:
        found = changes(figures, *compare)
        yield f"<h2>{escape(compare[1])} against {escape(compare[0])}</h2>\n"
        for table in change_tables(figures, found, *compare):
            yield html_table(*table)
        keys = [key for key in figures.measures if key in ("pesq_wb", "si_sdr_db", "dnsmos_ovrl")]
        yield f'<img alt="histograms of the differences" src="{histogram(found, keys)}">\n'
        order = [change.name for change in found[:files]]
    if order:
        yield "<h2>Examples to see and hear</h2>\n"
    by_name = {one.name: one for one in sounds}
    for name in order:
        yield heard_html(by_name[name], figures)
    yield "</html>\n"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m quant.report", description="Engines side by side as one HTML page to read, see and hear."
    )
    common_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="F", help="output page, F.html")
    parser.add_argument("--files", type=int, default=6, help="number of examples, 0.3 MB per engine (default 6)")
    parser.add_argument("--compare", metavar="A,B", help="two of the engines: the difference of B to A, file by file")
    return parser.parse_args(argv)


def check_page(asked: argparse.Namespace, engines: list[str]) -> tuple[str, str] | None:
    """The two engines to compare, if any; raises BadRequest."""
    need("evaluate,pictures", "matplotlib")
    if asked.out.suffix.lower() not in (".html", ".htm"):
        raise BadRequest(f"{asked.out}: the page is HTML; use a name with .html")
    if not 0 <= asked.files <= 100:
        raise BadRequest(f"--files {asked.files}: 0 to 100")
    if asked.compare is None:
        return None
    named = [name.strip() for name in asked.compare.split(",")]
    if len(named) != 2 or named[0] == named[1] or not {*named} <= {*engines}:
        raise BadRequest(f"--compare {asked.compare}: needs two of the engines asked for: {', '.join(engines)}")
    return named[0], named[1]


def run(asked: argparse.Namespace) -> None:
    """Raises UserError."""
    engines = check(asked, asked.out)
    compare = check_page(asked, engines)
    sounds = read(asked)
    figures = figures_of(sounds, engines, asked.limit_db, asked.jobs)
    source = (asked.pairs or asked.noisy).resolve().name
    write(asked.out, "".join(page(sounds, figures, asked.files, compare, source)))
    print(f"{asked.out}: {len(sounds)} files, {len(engines)} engines, {asked.out.stat().st_size / 1e6:.1f} MB")


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    asked = arguments(argv)
    return status_of(lambda: run(asked), "report")


if __name__ == "__main__":
    run_main(main, "report")

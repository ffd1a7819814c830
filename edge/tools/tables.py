"""Results of the tools in text for a terminal: tables, and sentences."""

import os
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from edge.console import printable
from edge.devices.pcm import counts_in_words

if TYPE_CHECKING:  # a table of sound cards needs neither NumPy nor libsndfile
    from edge.devices.cards import Card
    from edge.tools.bench import Examined, HopTimes
    from edge.tools.latency import Latency
    from edge.tools.preset import Preset
    from edge.tools.sounds.enhance import Enhanced

PIPE_COLUMNS = 120
"""Where the output is no terminal a table may be so wide before it folds its cells."""


def devices(found: "Sequence[Card]") -> Table:
    """Sound cards, one row a direction of a device; the first column is a name for the settings."""
    table = Table()
    for name in ("card,device", "direction", "formats", "rates Hz", "channels", "held by"):
        table.add_column(name)
    for card in found:
        for port in card.ports:
            looks = f"{port.direction} ({port.looks_like})" if port.looks_like else port.direction
            rates = (" to " if port.any_rate_between else " ").join(str(rate) for rate in port.rates_hz)
            channels = counts_in_words(port.channels)
            cells = (f"{card.id},{port.device}", looks, " ".join(port.formats), rates, channels)
            held = port.held_by or port.note
            table.add_row(*(Text(printable(cell)) for cell in (*cells, held)))  # a process may have any name
    return table


def limits(found: "Sequence[Card]") -> list[tuple[str, str]]:
    """(port, what it will not do) of those that lose something of the sound or cannot be opened."""
    ports = [(card, port) for card in found for port in card.ports if port.limits]
    return [(f"{card.id},{port.device} {port.direction}", port.limits) for card, port in ports]


def presets(found: "Sequence[Preset]") -> Table:
    """Presets with what they are for and what they change."""
    table = Table()
    for name in ("preset", "for", "differs from the defaults in"):
        table.add_column(name)
    for entry in found:
        changed = ", ".join(f"{key} {value}" for key, value in entry.changed.items()) or "nothing"
        table.add_row(*(Text(printable(cell)) for cell in (entry.name, entry.text, changed)))
    return table


def latency(result: "Latency") -> Table:
    """Microphone to jack, part by part, calculated and measured."""
    table = Table(title="microphone to jack", title_justify="left")
    table.add_column("part")
    table.add_column("ms", justify="right")
    for name in ("capture", "hop", "transform", "limiter", "playback"):
        part = f"engine, {result.engine}" if name == "transform" else name
        table.add_row(part, f"{getattr(result, f'{name}_ms'):.1f}")
    table.add_row("budget", f"{result.budget_ms:.1f}", style="bold")
    table.add_row("measured", f"{result.measured_ms:.1f}", style="bold")
    table.add_row("spread between chirps", f"{result.spread_ms:.1f}")
    return table


def hop_times(rows: "Sequence[HopTimes]", seconds: float) -> Table:
    """Time per hop of ``seconds`` of sound."""
    table = Table(title=f"time per 5 ms hop, {seconds:g} s of sound", title_justify="left")
    table.add_column("what")
    for name in ("p50 µs", "p99 µs", "p99.9 µs", "max µs", "of real time"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = (row.p50_us, row.p99_us, row.p999_us, row.max_us)
        table.add_row(row.name, *(f"{figure:.0f}" for figure in figures), f"{row.real_time_factor:.2%}")
    return table


def engines(rows: "Sequence[Examined]", seconds: float) -> Table:
    """Engines side by side, each with ``seconds`` of sound."""
    table = Table(title=f"engines, {seconds:g} s of sound each in 5 ms hops", title_justify="left")
    table.add_column("engine")
    for name in ("latency ms", "measured ms", "p50 µs", "p99 µs", "max µs", "of real time", "weights KB", "memory MB"):
        table.add_column(name, justify="right")
    for row in rows:
        times = (f"{row.p50_us:.0f}", f"{row.p99_us:.0f}", f"{row.max_us:.0f}", f"{row.real_time_factor:.2%}")
        weights = f"{row.weights_kb:.0f}" if row.weights_kb == row.weights_kb else "-"
        table.add_row(
            row.name, f"{row.latency_ms:.2f}", f"{row.measured_ms:.2f}", *times, weights, f"{row.memory_mb:.0f}"
        )
    return table


def show(table: Table) -> None:
    """Print it with every word whole: where the terminal is too narrow for that, as a list of each row's cells.

    A pipe has no width: ``PIPE_COLUMNS``, or as many as the longest words need. COLUMNS sets the width of both.
    """
    screen = Console()
    cells = [[_text(cell) for cell in (column.header, *column.cells)] for column in table.columns]
    least = [max(cell_len(word) for cell in column for word in cell.plain.split() or [""]) for column in cells]
    whole = [max(cell_len(line) for cell in column for line in cell.plain.split("\n")) for column in cells]
    room = screen.width - 3 * len(cells) - 1  # a border and two blanks a column
    if not (screen.is_terminal or os.environ.get("COLUMNS", "").isdigit()):
        screen.width = 1 << 16
        room = max(PIPE_COLUMNS - 3 * len(cells) - 1, sum(least))
    if sum(least) <= room:
        for column, width in zip(table.columns, _widths(least, whole, room), strict=True):
            column.width = width
        screen.print(table)
        return
    if table.title:
        screen.print(table.title, soft_wrap=True)
    for row in zip(*(column[1:] for column in cells), strict=True):
        lines = _as_list([column[0].plain for column in cells], row, screen.width)
        screen.print(*lines, "", sep="\n", soft_wrap=True)


def _text(cell: RenderableType) -> Text:
    return cell if isinstance(cell, Text) else Text.from_markup(str(cell))


def _widths(least: Sequence[int], whole: Sequence[int], room: int) -> list[int]:
    """Width of each column: its longest word, and an equal share of the rest up to what it needs for one line."""
    widths, rest = list(least), room - sum(least)
    order = sorted(range(len(widths)), key=lambda column: whole[column] - least[column])
    for place, column in enumerate(order):
        more = min(whole[column] - least[column], rest // (len(order) - place))
        widths[column] += more
        rest -= more
    return widths


def _as_list(headers: Sequence[str], row: Iterable[Text], columns: int) -> list[Text]:
    """One line for each cell that is not empty, with its header; sentences go on below themselves."""
    margin = max(map(len, headers)) + 2
    lines = []
    for header, cell in zip(headers, row, strict=True):
        wrapped = textwrap.wrap(cell.plain, max(columns - margin, 16), break_long_words=False, break_on_hyphens=False)
        for place, words in enumerate(wrapped):
            lines.append(Text(f"{'' if place else header:<{margin}}").append(words, cell.style))
    return lines


def enhanced(result: "Enhanced") -> str:
    """One line about a cleaned file."""
    degraded = [f"degraded: {result.degraded}"] if result.degraded else []
    notes = "".join(f"; {note}" for note in [*result.notes, *degraded])
    speed = 1 / max(result.real_time_factor, 1e-9)
    reference = ""
    if result.reference:
        reference = f", reference {result.reference}, {result.reference_removed_db:g} dB of it"
    removed = (
        "no pauses" if result.noise_removed_db is None else f"noise in pauses {result.noise_removed_db:g} dB lower"
    )
    return (
        f"{result.target}: {result.seconds:g} s by engine {result.engine}, "
        f"level {result.level_in_dbfs:g} -> {result.level_out_dbfs:g} dBFS, "
        f"{removed}{reference}, {speed:.0f} x real time{notes}"
    )

"""Results of the tools in text for a terminal: tables, and sentences."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge.console import printable

if TYPE_CHECKING:  # a table of sound cards needs neither NumPy nor libsndfile
    from edge.devices.cards import Card
    from edge.tools.bench import Examined, HopTimes
    from edge.tools.enhance import Enhanced
    from edge.tools.latency import Latency

WIDE_COLUMNS = 120
"""Width of the widest table where the output is no terminal."""


def devices(found: "Sequence[Card]") -> Table:
    """Sound cards, one row a direction."""
    table = Table()
    for name in ("card", "direction", "looks like", "formats", "rates Hz", "channels", "held by"):
        table.add_column(name)
    for card in found:
        for port in card.ports:
            rates = (" to " if port.any_rate_between else " ").join(str(rate) for rate in port.rates_hz)
            channels = " ".join(str(count) for count in port.channels)
            held = port.held_by or port.note
            cells = (card.id, port.direction, port.looks_like, " ".join(port.formats), rates, channels, held)
            table.add_row(*(Text(printable(cell)) for cell in cells))  # a process may have any name
    return table


def latency(result: "Latency") -> Table:
    """Microphone to jack, part by part, calculated and measured."""
    table = Table(title=f"microphone to jack, engine {result.engine}", title_justify="left")
    table.add_column("part")
    table.add_column("ms", justify="right")
    for name in ("capture", "hop", "transform", "limiter", "playback"):
        table.add_row(name, f"{getattr(result, f'{name}_ms'):.1f}")
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


def show(table: Table, *, wide: bool = False) -> None:
    """Print it; ``wide`` keeps its columns where the output is no terminal."""
    Console(width=WIDE_COLUMNS if wide and not sys.stdout.isatty() else None).print(table)


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

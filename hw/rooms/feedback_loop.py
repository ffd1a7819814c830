"""Open headphones on a table: does the howl guard open the feedback loop within half a second, and keep it open?

    python -m hw.rooms.feedback_loop [--loops 24] [--gain-db 6] [--first 1000] [--closes-s 0] [--engine off]
    python -m hw.rooms.feedback_loop --without FOLDER [--engine off]     # no feedback loop

Every loop is another random ear cup or small room: its path from output to microphone, 6 dB above the limit of
stability where it is strongest, is closed from the start, or later, as when a headphone is taken off, and somebody
speaks. The open loop's gain is known here at each hop, as the path is: what returns less what the guard subtracts,
times the gain with which the box plays it. Below 0 dB at all frequencies the loop cannot howl, whatever its phase (the
small-gain theorem). The exit status is 1 if one rings or stands above 0 dB later than half a second after it was first
heard or first turned down, or is neither heard nor turned down at all.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.chain import Chain
from edge.config import Config, GateConfig, HowlConfig, SuppressConfig
from edge.console import run_main
from edge.dsp.howl import HowlGuard
from edge.dsp.spectrum import Floats
from edge.engines import CHOICES
from edge.suppress import open_named
from edge.tools.tables import show

SOUNDS = Path(__file__).parents[2] / "tests" / "sounds" / "clean"
STABLE_WITHIN_S = 0.5
WORN_DB = -26.0
"""So much less returns before the loop closes: the headphone is still on the ears."""
RINGS_DB = 3.0
"""So much louder than the same words without a loop, over 50 ms, is ringing."""
POINTS = 8192
"""Of the transform that looks for the strongest frequency."""
LEVEL_MS = 50


def feedback_path(seed: int, gain_db: float, room: bool = False) -> Floats:
    """From the output to the microphone, buffers included: the direct sound, early reflections, an exponential tail.

    An ear cup has faded by 60 dB after 30 ms, a small room after 250 ms; the speaker plays 250 Hz to 6 kHz. ``gain_db``
    is the open loop's where it is highest: above 0 it is unstable.
    """
    rng = np.random.default_rng(seed)
    delay, samples = 400 + 30 * (seed % 6), 1600
    response = np.zeros(delay + samples)
    fade = 10 ** (-3 * np.arange(samples) / RATE_HZ / (0.25 if room else 0.03))
    response[delay:] = (0.15 if room else 0.3) * rng.standard_normal(samples) * fade
    response[delay] = 1
    for _ in range(4):
        response[delay + rng.integers(3, 250 if room else 60)] += rng.uniform(-0.6, 0.6)
    hz = np.maximum(np.fft.rfftfreq(4096, 1 / RATE_HZ), 1)
    band = 1 / np.sqrt(1 + (250 / hz) ** 4) / np.sqrt(1 + (hz / 6000) ** 6)
    response = np.fft.irfft(np.fft.rfft(response, 4096) * band)[: delay + samples]
    return (response / np.abs(np.fft.rfft(response, 16_384)).max() * 10 ** (gain_db / 20)).astype(np.float32)


@dataclass
class Simulation:
    """What came out, hop by hop."""

    played: Floats
    chain: Chain
    gains_db: Floats
    """The open loop's at its strongest frequency, for every hop; empty unless asked for."""
    drops_db: Floats
    """How much lower than normal the box played."""

    def dropped_s(self, since_s: float = 0.0) -> float:
        """How long after ``since_s`` the output was turned down for the first time; infinity if never."""
        down = np.flatnonzero(self.drops_db[round(1000 * since_s / HOP_MS) :] > 0)
        return float(down[0]) * HOP_MS / 1000 if len(down) else float("inf")


def settings(guarded: bool, engine: str = "off") -> Config:
    """A box without gate, so that nothing but the guard works in the loop."""
    suppress = SuppressConfig(engine=engine)
    return Config(suppress=suppress, gate=GateConfig(on=False), howl=HowlConfig(on=guarded))


def simulate(
    config: Config,
    sound: Floats,
    response: Floats,
    gains: bool = False,
    closes_s: float = 0.0,
    volume_db: float = 0.0,
) -> Simulation:
    """Sound and what returns, clipped as a converter does, through the whole chain; with ``gains`` those, too.
    Before ``closes_s`` the feedback path is weaker by WORN_DB. ``volume_db``: what the box plays with.
    """
    chain = Chain(config, volume_db=volume_db)
    air = np.zeros(len(sound) + len(response) + HOP_SAMPLES, np.float32)
    air[: len(sound)] = sound
    played = np.zeros_like(sound)
    gains_db, drops_db = [], []
    returned = np.fft.rfft(np.concatenate([np.zeros(HOP_SAMPLES, np.float32), response]), POINTS)
    for start in range(0, len(sound), HOP_SAMPLES):
        hop = np.clip(air[start : start + HOP_SAMPLES], -1, 1)
        chain.process(hop)
        played[start : start + HOP_SAMPLES] = hop
        # played from the next hop on
        at = start + HOP_SAMPLES
        strength = 1.0 if start >= closes_s * RATE_HZ else 10 ** (WORN_DB / 20)
        echo = strength * np.convolve(response, hop)[: len(air) - at]
        air[at : at + len(echo)] += echo
        drops_db.append(chain.howl.gain_drop_db if chain.howl else 0.0)
        if gains:
            gains_db.append(open_loop_db(chain.howl, strength * returned))
    return Simulation(played, chain, np.array(gains_db, np.float32), np.array(drops_db, np.float32))


def open_loop_db(guard: HowlGuard | None, returned: np.ndarray) -> float:
    """The gain at the strongest frequency: ``returned`` (POINTS // 2 + 1) is the path's spectrum, from a played hop on.

    The notches and the high-pass can only lower it; they are not counted.
    """
    if guard is None:
        return float(20 * np.log10(np.abs(returned).max()))
    left = returned - np.fft.rfft(guard.subtracted(), POINTS)
    return float(20 * np.log10(np.abs(left).max() + 1e-9)) - guard.gain_drop_db


def levels_db(sound: Floats, block_ms: int = LEVEL_MS) -> Floats:
    """RMS in dBFS of each whole block."""
    block = block_ms * RATE_HZ // 1000
    power = np.mean(np.square(sound[: len(sound) // block * block].reshape(-1, block)), axis=1)
    return np.asarray(10 * np.log10(power + 1e-12), np.float32)


@dataclass(frozen=True)
class Row:
    """One feedback loop."""

    seed: int
    kind: str
    turned_down_s: float
    """After the loop closed."""
    gain_db: float
    """The open loop's highest gain later than STABLE_WITHIN_S."""
    unstable_s: float
    """How long it stood above 0 dB after that."""
    rang_s: float
    """How much of the time after that it was louder than without a loop, by RINGS_DB."""
    events: int
    lower_db: float
    """How much lower than normal it still played at the end."""


def speech(seed: int, seconds: float) -> Floats:
    """Sentences of a shipped recording from somewhere on, with a quiet hiss."""
    rng = np.random.default_rng(seed)
    files = sorted(SOUNDS.glob("*.flac"))
    sound, _ = soundfile.read(files[seed % len(files)], dtype="float32")
    samples = round(seconds * RATE_HZ) // HOP_SAMPLES * HOP_SAMPLES
    sound = np.tile(np.roll(sound, -int(rng.integers(len(sound)))), samples // len(sound) + 1)[:samples]
    return np.asarray(sound + 1e-4 * rng.standard_normal(samples), np.float32)


def measure(seed: int, gain_db: float, seconds: float, engine: str, closes_s: float = 0.0) -> Row:
    """One loop, with and without the feedback path; nothing before ``closes_s`` is counted but the events."""
    room = bool(seed % 2)
    sound, response = speech(seed, seconds), feedback_path(seed, gain_db, room)
    usual = levels_db(simulate(settings(False, engine), sound, 0 * response).played)
    found = simulate(settings(True, engine), sound, response, gains=True, closes_s=closes_s)
    louder = levels_db(found.played) > np.maximum(usual, usual.max() - 10) + RINGS_DB
    louder = louder[round(1000 * closes_s / LEVEL_MS) :]
    closed_hop = round(1000 * closes_s / HOP_MS)
    turned_down_s = found.dropped_s(closes_s)
    rings_s = float(np.argmax(louder)) * LEVEL_MS / 1000 if louder.any() else float("inf")
    first_s = min(rings_s, turned_down_s)
    begins_s = STABLE_WITHIN_S + (first_s if first_s < seconds else 0.0)
    late_db = found.gains_db[closed_hop + round(1000 * begins_s / HOP_MS) :]
    louder = louder[round(1000 * begins_s / LEVEL_MS) :]
    guard = found.chain.howl
    assert guard is not None
    return Row(
        seed,
        "room" if room else "cup",
        turned_down_s,
        float(late_db.max(initial=-np.inf)),
        float(np.count_nonzero(late_db > 0)) * HOP_MS / 1000,
        float(np.count_nonzero(louder)) * LEVEL_MS / 1000,
        guard.events,
        guard.gain_drop_db,
    )


@dataclass(frozen=True)
class Passage:
    """A recording of which nothing returns to the microphone."""

    name: str
    same: bool
    """Whether it passed as without a guard, bit by bit."""
    gain_drop_tests: int
    events: int
    lower_s: float
    """How long the box played lower."""


def passage(path: Path, engine: str) -> Passage:
    """One recording, 16 kHz mono, through a box with a guard and one without."""
    sounds, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    if rate_hz != RATE_HZ or sounds.shape[1] > 1:
        raise ValueError(f"{path}: {rate_hz} Hz, {sounds.shape[1]} channels; convert it to 16 kHz mono first")
    sound, nothing = sounds[: len(sounds) // HOP_SAMPLES * HOP_SAMPLES, 0], np.zeros(1600, np.float32)
    usual, found = (simulate(settings(on, engine), sound, nothing) for on in (False, True))
    guard = found.chain.howl
    assert guard is not None
    same = np.array_equal(usual.played, found.played)
    lower_s = float(np.count_nonzero(found.drops_db)) * HOP_MS / 1000
    return Passage(path.name, same, guard.gain_drop_tests, guard.events, lower_s)


def without(folder: Path, engine: str) -> None:
    """Every sound of a folder: prints those that the guard touched, and how many it did not."""
    files = sorted(path for path in folder.glob("*") if path.suffix in (".flac", ".wav"))
    if not files:
        raise ValueError(f"{folder}: no flac or wav in it")
    passages = [passage(path, engine) for path in track(files, "sounds", console=Console(stderr=True))]
    for each in passages:
        if not each.same:
            print(
                f"{each.name}: {each.gain_drop_tests} gain-drop tests, {each.events} events, {each.lower_s:.1f} s lower"
            )
    print(f"{len(passages)} sounds: {sum(each.same for each in passages)} passed bit by bit")


def tabulate(rows: Sequence[Row]) -> Table:
    """One row a loop."""
    table = Table(title=f"later than {STABLE_WITHIN_S} s after a feedback loop was detected or turned down")
    for name in ("seed", "path", "turned down, s", "open loop, dB", "above 0 dB, s", "rang, s", "events", "lower, dB"):
        table.add_column(name, justify="left" if name == "path" else "right")
    for row in rows:
        figures = (row.turned_down_s, row.gain_db, row.unstable_s, row.rang_s)
        table.add_row(
            str(row.seed), row.kind, *(f"{figure:.2f}" for figure in figures), str(row.events), f"{row.lower_db:.1f}"
        )
    return table


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 if all were and stayed stable, or nothing was to be."""
    parser = argparse.ArgumentParser(
        prog="python -m hw.rooms.feedback_loop", description="The howl guard in closed feedback loops."
    )
    parser.add_argument(
        "--loops", type=int, default=24, metavar="N", help="number of loops (24), ear cups and rooms in turn"
    )
    parser.add_argument("--circles", dest="loops", type=int, default=24, help=argparse.SUPPRESS)  # its former name
    parser.add_argument("--gain-db", type=float, default=6.0, metavar="DB", help="above the limit of stability (6)")
    parser.add_argument("--first", type=int, default=1000, metavar="SEED", help="of the first loop (1000)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="each lasts (10)")
    parser.add_argument(
        "--closes-s", type=float, default=0.0, metavar="S", help="seconds after the start at which the loop closes (0)"
    )
    parser.add_argument("--engine", default="off", choices=CHOICES, help="suppressor in the loop (off)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the table's content")
    parser.add_argument("--without", type=Path, metavar="FOLDER", help="sounds (16 kHz mono) instead of feedback loops")
    options = parser.parse_args(arguments)
    open_named(settings(False, options.engine)).close()  # the one named is measured, or none
    if options.without:
        try:
            without(options.without, options.engine)
        except (OSError, ValueError, soundfile.LibsndfileError) as error:
            parser.error(str(error))
        return 0
    if options.loops < 1 or not 0 <= options.closes_s <= options.seconds - 2:
        parser.error("needs at least one loop, closed for at least 2 s")
    seeds = range(options.first, options.first + options.loops)
    rows = [
        measure(seed, options.gain_db, options.seconds, options.engine, options.closes_s)
        for seed in track(seeds, "feedback loops", console=Console(stderr=True))
    ]
    show(tabulate(rows))
    rang = sum(row.rang_s > 0 for row in rows)
    unstable = sum(row.unstable_s > 0 for row in rows)
    print(f"{len(rows)} feedback loops: {rang} rang, {unstable} stood above 0 dB again, later than {STABLE_WITHIN_S} s")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 1 if rang or unstable else 0


if __name__ == "__main__":
    run_main(main, "feedback_loop")

"""Engines side by side on one folder of sounds: what each does to the same recordings, what it costs and needs.

    python -m quant.evaluate --pairs DIR --engines dsp,rnnoise,noisy    # DIR/clean and DIR/noisy, same names
    python -m quant.evaluate --noisy DIR --engines dsp,rnnoise,noisy    # no clean reference
    python -m quant.evaluate --pairs DIR --engines all                  # all that the settings can name

All sounds are 16 kHz mono. Every engine is fed hop by hop as if live; the median lag of its outputs over the whole set
is removed, then every file is measured. With a reference: PESQ-WB (ITU-T P.862.2), STOI (Taal 2011), ESTOI (Jensen &
Taal 2016), SI-SDR (Le Roux 2019) and its improvement, the level of clean speech kept (the engine run on the clean
file), the noise removed while nobody speaks and from the noise alone, and the area under the ROC curve of the speech
probability. Without: the noise removed where speech is least likely. Always: DNSMOS (Reddy 2022) on the first 9.01 s.

DIR/dev.tsv may name each file's SNR and kind of noise (columns name, snr_db, noise_kind): then come tables by both.
The cost is taken in a process of its own for each engine, on one thread, before anything else runs.
"""

import argparse
import csv
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ, UserError, command_for, config, engines
from edge.chain import Chain
from edge.console import run_main
from edge.dsp.spectrum import Floats
from edge.engines import Family
from edge.files import BadFile, atomic, check_regular
from edge.suppress import engine as contract
from edge.suppress import files_of, open_engine
from edge.suppress.mask import MaskEngine
from edge.suppress.shipped import BadModel, Model
from edge.tools import bench
from models.measures import (
    dnsmos,
    lag_samples,
    level_change_db,
    noise_alone,
    pauses,
    pesq_wb,
    roc_auc,
    si_sdr_db,
    spoken,
    stoi,
    without_lag,
)
from quant.peers import PEERS, Engine, Heard, in_hops

Found = TypeVar("Found")
LONGEST_S = 7200.0
"""Of a recording: as 16-bit FLAC an hour of silence is 100 KB, and 230 MB once it is read."""
SUFFIXES = {".flac", ".wav", ".ogg", ".opus"}


class BadRequest(UserError):
    """Something the user can mend; the text is one line."""


# --- the engines ---------------------------------------------------------------------------------------------------


def product(engine: str, *, model: str = "quietbox", whole: bool = False) -> Engine:
    """One of the box's engines, on ``model``, through the live chain, as `quietbox enhance` runs it.

    High-pass and hum canceller only take part if ``whole``: the other packages have none, and SI-SDR counts the
    phase that a high-pass turns in the lowest voice, which nobody hears, as distortion.
    """

    def opened(limit_db: float) -> contract.Engine:
        found = open_engine(engine, limit_db, model)
        if found.name != engine:
            raise BadRequest("; ".join(found.notes))
        return found

    def weights() -> list[Path]:
        opened(0)
        return files_of(engine, model)

    return _live(opened, weights, whole, lambda: opened(0).notes)


def network_file(path: Path) -> Engine:
    """A network of ours, float or quantized, from an ONNX file anywhere, by ONNX Runtime and through the live chain."""

    class Lone(Model):
        """Nothing lies beside it: no card, no weights for NumPy."""

        def file(self, suffix: str) -> Path:
            return path

        def read(self, suffix: str) -> bytes:
            return self._content(path)

        def refused(self, file: Path, why: str) -> BadModel:
            return BadModel(f"{file} {why}")

    def opened(limit_db: float) -> MaskEngine:
        from edge.suppress.onnx import OnnxNetwork

        return MaskEngine([OnnxNetwork(path.name, Lone(str(path.parent)))], limit_db)

    def weights() -> list[Path]:
        opened(0)
        return [path]

    return _live(opened, weights)


def _live(
    opened: Callable[[float], contract.Engine],
    weights: Callable[[], list[Path]],
    whole: bool = False,
    notes: Callable[[], list[str]] = list,
) -> Engine:
    """``opened`` (of the attenuation limit) in the live chain, with its speech probability."""

    def hear(samples: Floats, limit_db: float) -> Heard:
        engine = opened(limit_db)
        walk = Chain(_config(limit_db, whole), engine)
        speech: list[float] = []

        def process(hop: Floats) -> None:
            walk.process(hop)
            speech.append(walk.speech)

        walked = in_hops(samples, HOP_SAMPLES, walk.delay_samples, process)
        if engine.failure or engine.invalid:
            why = " ".join(str(engine.failure or "NaN or infinite gains").split())
            raise BadRequest(f"{engine.name} failed while processing: {why}")
        return Heard(walked[walk.delay_samples :], np.array(speech, np.float32))

    return Engine(hear, lambda: _latency_ms(opened(0).delay_samples), weights, notes, opened)


def _latency_ms(delay_samples: int) -> float:
    """Of an engine in the box: the hop that it waits for, and its delay."""
    return HOP_MS * (HOP_SAMPLES + delay_samples) / HOP_SAMPLES


def _config(limit_db: float, whole: bool) -> config.Config:
    shipped = config.Config()
    suppress = replace(shipped.suppress, limit_db=limit_db)
    feedforward = shipped.feedforward if whole else replace(shipped.feedforward, highpass_hz=0, mains="off")
    return replace(shipped, suppress=suppress, feedforward=feedforward)


NOISY = Engine(lambda samples, limit_db: Heard(samples), lambda: 0.0, list)
OURS = [*engines.names(Family.OURS)]
BOXED = {f"{name}-box" if name in PEERS else name: name for name in engines.names(Family.THIRD_PARTY)}
"""Other people's engines as the box runs them; where there is the peer by itself, too, with a suffix."""
ENGINES: dict[str, Engine] = {
    "noisy": NOISY,
    **{name: product(name) for name in OURS},
    **{f"{name}-whole": product(name, whole=True) for name in OURS},
    **PEERS,
    **{called: product(name) for called, name in BOXED.items()},
}
"""What went in, our engines, the same with everything before them, other people's by themselves and in the box."""
FILE = "file:"
KNOWN = f"{', '.join(ENGINES)}, {FILE}NETWORK.onnx, ENGINE:MODEL"
ALL = "all"
"""Every engine that a user can write into the settings, as the box runs it, as far as it can be had here."""


def engine_named(name: str) -> Engine:
    """Every engine a user can name; raises BadRequest."""
    if name.startswith(FILE):
        return network_file(Path(name.removeprefix(FILE)))
    called, _, model = name.partition(":")
    if model and called in engines.names(Family.OURS, Family.THIRD_PARTY):
        return product(called, model=model)
    if name not in ENGINES:
        raise BadRequest(f"no engine is called {name}; known: {ALL}, {KNOWN}")
    return ENGINES[name]


# --- the measures --------------------------------------------------------------------------------------------------


def removed_in_likely_pauses_db(noisy: Floats, estimate: Floats, share: float = 0.2) -> float:
    """How much quieter a sound without a clean reference became where speech is least likely; NaN if it is silent.

    The ``share`` of the 40 ms stretches that engine dsp gives the least speech probability, and of their changes the
    median, because some of them hold speech all the same.
    """
    speech = ENGINES["dsp"].hear(noisy, 60).speech
    assert speech is not None
    block_hops = 8
    blocks = len(noisy) // (block_hops * HOP_SAMPLES)
    likely = speech[: blocks * block_hops].reshape(blocks, block_hops).mean(axis=1)
    before, after = (
        np.square(x[: blocks * block_hops * HOP_SAMPLES].reshape(blocks, -1)).mean(axis=1) for x in (noisy, estimate)
    )
    sounding = before > 1e-10
    if not sounding.any():
        return float("nan")
    chosen = sounding & (likely <= np.quantile(likely[sounding], share))
    return float(np.median(10 * np.log10(before[chosen] / np.maximum(after[chosen], 1e-20))))


MEASURES: dict[str, tuple[str, int]] = {
    "pesq_wb": ("PESQ-WB", 3),
    "stoi": ("STOI", 3),
    "estoi": ("ESTOI", 3),
    "si_sdr_db": ("SI-SDR dB", 2),
    "si_sdr_improvement_db": ("SI-SDR improvement dB", 2),
    "dnsmos_sig": ("DNSMOS SIG", 2),
    "dnsmos_bak": ("DNSMOS BAK", 2),
    "dnsmos_ovrl": ("DNSMOS OVRL", 2),
    "clean_level_db": ("clean speech kept dB", 2),
    "noise_removed_db": ("noise removed in pauses dB", 1),
    "noise_alone_removed_db": ("removed from noise alone dB", 1),
    "speech_auc": ("VAD ROC-AUC", 3),
}
"""Every measure: heading and digits."""


def measure(clean: Floats | None, noisy: Floats, estimate: Floats) -> dict[str, float]:
    """What one output says by itself; signals of one length, lined up. Without ``clean`` only what needs none."""
    sig, bak, ovrl = dnsmos(estimate)
    marks = {"dnsmos_sig": sig, "dnsmos_bak": bak, "dnsmos_ovrl": ovrl}
    if clean is None:
        return marks | {"noise_removed_db": removed_in_likely_pauses_db(noisy, estimate)}
    quiet = pauses(clean)
    si_sdr = si_sdr_db(clean, estimate)
    return {
        "pesq_wb": pesq_wb(clean, estimate),
        "stoi": stoi(clean, estimate),
        "estoi": stoi(clean, estimate, extended=True),
        "si_sdr_db": si_sdr,
        "si_sdr_improvement_db": si_sdr - si_sdr_db(clean, noisy),
        "noise_removed_db": -level_change_db(noisy[quiet], estimate[quiet]),
        **marks,
    }


def probe(engine: Engine, clean: Floats, noisy: Floats, heard: Heard, limit_db: float) -> dict[str, float]:
    """What one engine does to the two halves of a mixture, and how well ``heard`` tells when somebody speaks."""
    noise = noise_alone(clean, noisy)
    truth = spoken(clean)
    return {
        "clean_level_db": level_change_db(clean, engine(clean.copy(), limit_db)),
        "noise_alone_removed_db": (
            float("nan") if noise is None else -level_change_db(noise, engine(noise.copy(), limit_db))
        ),
        "speech_auc": float("nan") if heard.speech is None else roc_auc(heard.speech[: len(truth)], truth),
    }


# --- what it costs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What one engine asks of the machine; NaN where nobody says."""

    latency_ms: float
    weights_kb: float
    real_time_factor: float
    """Processor seconds for one second of sound, on one thread."""
    against_first: float
    """The same as a multiple of the first engine's."""
    measured_ms: float = float("nan")
    """The latency of an engine in the box, found by correlating a voice with what becomes of it."""
    hop_p50_us: float = float("nan")
    hop_p99_us: float = float("nan")
    """Of an engine in the box, a hop of 5 ms; other people's blocks of more make some hops dear and most cheap."""
    memory_mb: float = float("nan")
    """How much more a fresh process holds after a second of sound."""


COSTS: dict[str, tuple[str, int]] = {
    "latency_ms": ("algorithmic latency ms", 1),
    "measured_ms": ("measured ms", 1),
    "weights_kb": ("weights KB", 1),
    "real_time_factor": ("real-time factor", 4),
    "against_first": ("relative CPU time", 2),
    "hop_p50_us": ("hop p50 us", 0),
    "hop_p99_us": ("hop p99 us", 0),
    "memory_mb": ("memory MB", 0),
}
"""Every figure of ``Cost``: heading and digits."""


def costs(
    engines: list[str], sound: Floats, limit_db: float, ticks: Callable[[], object] = lambda: None
) -> dict[str, Cost]:
    """Every engine's cost on ``sound``, one after the other, each in a fresh process; ``ticks`` is called for each."""
    found: dict[str, dict[str, float]] = {}
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in threads}
    os.environ.update(dict.fromkeys(threads, "1"))  # read when the process loads its libraries
    try:
        for engine in engines:
            with _pool(1, multiprocessing.get_context("spawn")) as pool:
                found[engine] = pool.submit(_spent, engine, sound, limit_db).result()
            ticks()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    first = found[engines[0]]["real_time_factor"]
    return {
        engine: Cost(
            latency_ms=engine_named(engine).latency_ms(),
            weights_kb=sum(path.stat().st_size for path in engine_named(engine).weights()) / 1000 or float("nan"),
            against_first=spent["real_time_factor"] / first if first > 0 else float("nan"),
            **spent,
        )
        for engine, spent in found.items()
    }


def _spent(engine: str, sound: Floats, limit_db: float) -> dict[str, float]:
    """What only a run can tell of an engine, in a process that has run nothing yet."""
    before_mb = bench.resident_mb()
    engine_named(engine)(np.resize(sound, RATE_HZ), limit_db)
    spent = {"memory_mb": bench.resident_mb() - before_mb}
    if opened := engine_named(engine).opened:
        times = bench.timed(engine, opened(limit_db).process, np.resize(sound, 10 * RATE_HZ))
        spent |= {"hop_p50_us": times.p50_us, "hop_p99_us": times.p99_us}
        spent["measured_ms"] = _latency_ms(bench.measured_delay(opened(bench.NO_LIMIT_DB)))
    return spent | {"real_time_factor": _real_time_factor(engine, sound, limit_db)}


def _real_time_factor(engine: str, sound: Floats, limit_db: float) -> float:
    """The best of three differences between seven seconds and one: what starting costs is in both."""
    short, long = (np.resize(sound, seconds * RATE_HZ) for seconds in (1, 7))

    def seconds(samples: Floats) -> float:
        began = time.process_time()
        engine_named(engine)(samples.copy(), limit_db)
        return time.process_time() - began

    seconds(short)
    return max(min(seconds(long) for _ in range(3)) - min(seconds(short) for _ in range(3)), 0.0) / 6


# --- the set -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sound:
    """One recording, its clean half if there is one, and its SNR and kind of noise if the set says them."""

    name: str
    clean: Floats | None
    noisy: Floats
    snr_db: float | None = None
    kind: str | None = None


def read_pairs(folder: Path) -> list[Sound]:
    """Every file that is in both ``folder``/clean and ``folder``/noisy, by name; raises BadRequest."""
    for part in (folder, folder / "clean", folder / "noisy"):
        if not part.is_dir():
            raise BadRequest(f"{part} is not a folder; --pairs needs a folder with clean/ and noisy/")
    names = [_sounds_in(folder / part) for part in ("clean", "noisy")]
    if lonely := sorted(names[0] ^ names[1]):
        raise BadRequest(f"{folder}: {lonely[0]} is in only one of clean/ and noisy/ ({len(lonely)} such files)")
    if not names[0]:
        raise BadRequest(f"{folder}: no sound files in clean/ and noisy/ ({', '.join(sorted(SUFFIXES))})")
    said = _said_of(folder / "dev.tsv")
    pairs = []
    for name in sorted(names[0]):
        clean, noisy = _read(folder / "clean" / name), _read(folder / "noisy" / name)
        if len(clean) != len(noisy):
            raise BadRequest(f"{folder}: {name} has {len(clean)} samples in clean/ and {len(noisy)} in noisy/")
        pairs.append(Sound(Path(name).stem, clean, noisy, *said.get(Path(name).stem, (None, None))))
    return pairs


def read_noisy(folder: Path) -> list[Sound]:
    """Every sound file in ``folder``, by name; raises BadRequest."""
    if not folder.is_dir():
        raise BadRequest(f"{folder} is not a folder; --noisy needs one that holds sound files")
    names = _sounds_in(folder)
    if not names:
        raise BadRequest(f"{folder}: no sound files ({', '.join(sorted(SUFFIXES))}); pairs are read with --pairs")
    said = _said_of(folder / "dev.tsv")
    stem = {name: Path(name).stem for name in sorted(names)}
    return [Sound(stem[name], None, _read(folder / name), *said.get(stem[name], (None, None))) for name in stem]


def _sounds_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}


def _said_of(table: Path) -> dict[str, tuple[float | None, str | None]]:
    """Name -> SNR in dB and kind of noise, as far as the table has the columns; nothing if there is no table.

    A kind called ``animals__owl`` counts as ``animals``.
    """
    if not table.is_file():
        return {}
    complaint = BadRequest(f"{table}: needs the columns name and snr_db or noise_kind, tab-separated")
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines, delimiter="\t"))
        if any(not row.keys() & {"snr_db", "noise_kind", "kind"} for row in rows):
            raise complaint
        found: dict[str, tuple[float | None, str | None]] = {}
        for row in rows:
            kind = row.get("noise_kind") or row.get("kind")
            snr_db = float(row["snr_db"]) if row.get("snr_db") else None
            found[row["name"]] = (snr_db, kind.partition("__")[0] if kind else None)
        return found
    except (KeyError, TypeError, ValueError, csv.Error):
        raise complaint from None


def _read(path: Path) -> Floats:
    try:
        check_regular(path)
        with soundfile.SoundFile(path) as sound:
            if sound.frames > LONGEST_S * sound.samplerate:
                raise BadRequest(f"{path} lasts longer than {LONGEST_S / 3600:g} h")
            samples, rate_hz = sound.read(dtype="float32", always_2d=True), sound.samplerate
    except BadFile as error:
        raise BadRequest(str(error)) from None
    except soundfile.LibsndfileError:
        raise BadRequest(f"{path} is not a sound file that libsndfile reads, or it is broken") from None
    if rate_hz != RATE_HZ or samples.shape[1] != 1:
        raise BadRequest(f"{path}: {samples.shape[1]} channels at {rate_hz} Hz; expected mono at {RATE_HZ} Hz")
    if len(samples) < RATE_HZ // 2 or not np.isfinite(samples).all():
        raise BadRequest(f"{path}: shorter than half a second, or it holds NaN or infinite samples")
    return np.ascontiguousarray(samples[:, 0])


# --- the run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One engine on one file."""

    engine: str
    name: str
    snr_db: float | None
    kind: str | None
    values: dict[str, float]

    def __getitem__(self, key: str) -> float:
        return self.values.get(key, float("nan"))


def evaluate(
    sounds: list[Sound], engines: list[str], limit_db: float, jobs: int, ticks: Callable[[], object] = lambda: None
) -> tuple[list[Row], dict[str, int]]:
    """All rows, and every engine's lag in samples. ``ticks`` is called twice for each file and engine."""
    tasks = [(engine, sound) for engine in engines for sound in sounds]
    with _pool(jobs) as pool:
        ran = _in_order(pool, ticks, (pool.submit(_run, engine, sound, limit_db) for engine, sound in tasks))
        found_lags: dict[str, list[int]] = {engine: [] for engine in engines}
        for (engine, _), (_, _, lag) in zip(tasks, ran, strict=True):
            found_lags[engine].append(lag)
        lags = {engine: int(np.median(found)) for engine, found in found_lags.items()}
        to_measure = (
            pool.submit(_measure, sound, estimate, lags[engine])
            for (engine, sound), (estimate, _, _) in zip(tasks, ran, strict=True)
        )
        measured = _in_order(pool, ticks, to_measure)
    rows = [
        Row(engine, sound.name, sound.snr_db, sound.kind, values | probed)
        for (engine, sound), values, (_, probed, _) in zip(tasks, measured, ran, strict=True)
    ]
    return rows, lags


def _run(engine: str, sound: Sound, limit_db: float) -> tuple[Floats, dict[str, float], int]:
    named = engine_named(engine)
    heard = named.hear(sound.noisy.copy(), limit_db)
    probed = {} if sound.clean is None else probe(named, sound.clean, sound.noisy, heard, limit_db)
    return heard.samples, probed, lag_samples(sound.noisy, heard.samples)


def _measure(sound: Sound, late: Floats, lag: int) -> dict[str, float]:
    return measure(sound.clean, sound.noisy, without_lag(late, lag, len(sound.noisy)))


def _pool(jobs: int, context: Any = None) -> ProcessPoolExecutor:
    """Processes that leave an interruption by the keyboard to the one that started them."""
    return ProcessPoolExecutor(jobs, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))


def _in_order(pool: ProcessPoolExecutor, ticks: Callable[[], object], futures: Iterable[Future[Found]]) -> list[Found]:
    """Every result, in the order of ``futures``; the first that fails stops the rest."""
    waiting = list(futures)
    try:
        for done in as_completed(waiting):
            done.result()
            ticks()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return [future.result() for future in waiting]


def means(rows: list[Row]) -> dict[str, float]:
    """The mean of every measure over the files that have one."""
    found = {key: np.array([row[key] for row in rows]) for key in MEASURES}
    return {key: float(np.nanmean(x)) if np.isfinite(x).any() else float("nan") for key, x in found.items()}


# --- the report ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Everything a run found."""

    engines: list[str]
    limit_db: float
    rows: list[Row]
    lags: dict[str, int]
    """Every engine's lag in samples, as found and removed."""
    costs: dict[str, Cost]

    @property
    def measures(self) -> list[str]:
        """The measures that at least one file has."""
        return [key for key in MEASURES if any(np.isfinite(row[key]) for row in self.rows)]

    def of(self, engine: str) -> list[Row]:
        return [row for row in self.rows if row.engine == engine]


Lines = tuple[str, list[str], list[list[str]]]
"""One table: title, headings, lines."""


def tables(figures: Figures) -> Iterator[Lines]:
    """The whole set, the costs, then the main measures at each SNR and for each kind of noise."""
    files = len({row.name for row in figures.rows})
    shown = figures.measures
    yield (
        f"{files} files, attenuation limit {figures.limit_db:g} dB",
        ["engine", *(MEASURES[key][0] for key in shown)],
        [[engine, *(_text(means(figures.of(engine))[key], key) for key in shown)] for engine in figures.engines],
    )
    yield (
        "Cost",
        ["engine", *(heading for heading, _ in COSTS.values())],
        [[name, *(_number(asdict(cost)[key], digits) for key, (_, digits) in COSTS.items())]
         for name, cost in figures.costs.items()],
    )  # fmt: skip
    yield from _by_snr(figures, [key for key in ("pesq_wb", "stoi", "si_sdr_improvement_db") if key in shown])
    yield from _by_kind(figures, "pesq_wb" if "pesq_wb" in shown else "dnsmos_ovrl")


def _by_snr(figures: Figures, keys: list[str]) -> Iterator[Lines]:
    snrs = sorted({row.snr_db for row in figures.rows if row.snr_db is not None})
    for key in keys if len(snrs) > 1 else ():
        lines = []
        for engine in figures.engines:
            at = [means([row for row in figures.of(engine) if row.snr_db == snr])[key] for snr in snrs]
            lines.append([engine, *(_text(value, key) for value in at)])
        yield f"{MEASURES[key][0]} by SNR", ["engine", *(f"{snr:g} dB" for snr in snrs)], lines


def _by_kind(figures: Figures, key: str) -> Iterator[Lines]:
    """One line a kind, the commonest first; kinds of a single file share the last line."""
    files = Counter(row.kind for row in figures.of(figures.engines[0]) if row.kind)
    if len(files) < 2:
        return
    single = {kind for kind, count in files.items() if count == 1}
    groups = [({kind}, kind) for kind, _ in sorted(files.items(), key=lambda item: (-item[1], item[0]))]
    groups = [group for group in groups if not group[0] <= single]
    lines = []
    for kinds, name in [*groups, (single, "kinds with one file")] if single else groups:
        own = [means([row for row in figures.of(engine) if row.kind in kinds])[key] for engine in figures.engines]
        lines.append([name, str(sum(files[kind] for kind in kinds)), *(_text(value, key) for value in own)])
    yield f"{MEASURES[key][0]} by kind of noise", ["kind", "files", *figures.engines], lines


def _text(value: float, key: str) -> str:
    return _number(value, MEASURES[key][1], "+" if key == "si_sdr_improvement_db" else "")


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value:{sign}.{digits}f}" if np.isfinite(value) else "-"


def markdown(figures: Figures) -> str:
    pieces = []
    for title, headings, lines in tables(figures):
        body = [headings, ["---"] * len(headings), *lines]
        text = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in body)
        pieces.append(f"{title}\n\n{text}\n")
    return "\n".join(pieces)


def as_json(figures: Figures) -> str:
    def sound(values: dict[str, float]) -> dict[str, float | None]:
        return {key: round(value, 5) if np.isfinite(value) else None for key, value in values.items()}

    report = {
        "limit_db": figures.limit_db,
        "lag_samples": figures.lags,
        "costs": {engine: sound(asdict(cost)) for engine, cost in figures.costs.items()},
        "means": {engine: sound(means(figures.of(engine))) for engine in figures.engines},
        "files": [
            {"engine": row.engine, "name": row.name, "snr_db": row.snr_db, "noise_kind": row.kind, **sound(row.values)}
            for row in figures.rows
        ],
    }
    return json.dumps(report, indent=1) + "\n"


def write(path: Path, text: str) -> None:
    """All of ``text`` or nothing."""
    try:
        atomic.write(path, text.encode(errors="backslashreplace"))
    except OSError as error:
        raise BadRequest(f"{path} cannot be written: {error.strerror}") from None


# --- the command ---------------------------------------------------------------------------------------------------


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """What to hear and with what; shared with the report."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pairs", type=Path, metavar="DIR", help="folder with clean/ and noisy/ of the same names")
    source.add_argument("--noisy", type=Path, metavar="DIR", help="folder of recordings without a clean reference")
    parser.add_argument("--engines", default="dsp,speexdsp,noisy", help=f"{ALL}, or comma-separated of: {KNOWN}")
    parser.add_argument("--limit-db", type=float, default=60.0, help="attenuation limit of our engines (default 60)")
    parser.add_argument("--jobs", type=int, default=2, help="parallel processes (default 2)")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m quant.evaluate", description="Engines side by side on a folder of recordings."
    )
    common_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures of every file to this file")
    parser.add_argument("--markdown", type=Path, metavar="F", help="write the tables to this file")
    return parser.parse_args(argv)


def need(*packages: str) -> None:
    """Raises BadRequest for packages that are not installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise BadRequest(f"{', '.join(missing)} not installed; {command_for('evaluate')}")


def check(asked: argparse.Namespace, *targets: Path | None) -> list[str]:
    """The engines asked for; raises UserError for whatever would fail later, before the work begins."""
    names = [name.strip() for name in asked.engines.split(",") if name.strip()]
    engines = [*dict.fromkeys(each for name in names for each in (_all_here() if name == ALL else [name]))]
    if not engines:
        raise BadRequest(f"--engines names none; known: {ALL}, {KNOWN}")
    for engine in engines:
        engine_named(engine)
    if asked.jobs < 1:
        raise BadRequest(f"--jobs {asked.jobs}: at least 1")
    if not 0 <= asked.limit_db <= 100:
        raise BadRequest(f"--limit-db {asked.limit_db:g}: 0 to 100")
    need("speechmos", "onnxruntime", *(["pesq", "pystoi"] if asked.pairs else []))
    for engine in engines:
        engine_named(engine).weights()
    for path in targets:
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise BadRequest(f"{path} cannot be written: it is a folder, or its folder does not exist")
    places = [atomic.place_of(path) for path in targets if path]
    if len({*places}) < len(places):
        raise BadRequest(f"{targets[0]} would be written twice; give --json and --markdown different files")
    return engines


def _all_here() -> list[str]:
    """``ALL`` in names; what cannot be had is a line on stderr."""
    here = ["noisy"]
    for name in [*OURS, *BOXED]:
        try:
            engine_named(name).weights()
            here.append(name)
        except UserError as missing:
            print(f"left out: {missing}", file=sys.stderr)
    return here


def read(asked: argparse.Namespace) -> list[Sound]:
    return read_pairs(asked.pairs) if asked.pairs else read_noisy(asked.noisy)


def figures_of(sounds: list[Sound], engines: list[str], limit_db: float, jobs: int) -> Figures:
    """The whole run with a bar on stderr; raises UserError."""
    for engine in engines:
        for note in engine_named(engine).notes():
            print(f"{engine}: {note}", file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        screen = Console(stderr=True)
        with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
            work = f"{len(sounds)} files, {len(engines)} engines"
            bar = progress.add_task(work, total=(2 * len(sounds) + 1) * len(engines))
            ticks = partial(progress.advance, bar)
            spent = costs(engines, max(sounds, key=lambda sound: len(sound.noisy)).noisy, limit_db, ticks)
            return Figures(engines, limit_db, *evaluate(sounds, engines, limit_db, jobs, ticks), spent)
    except BrokenProcessPool:
        raise BadRequest("a worker process ended early, perhaps for lack of memory; use fewer --jobs") from None


def main(argv: list[str] | None = None) -> int:
    asked = arguments(argv)
    try:
        engines = check(asked, asked.json, asked.markdown)
        figures = figures_of(read(asked), engines, asked.limit_db, asked.jobs)
        if asked.json:
            write(asked.json, as_json(figures))
        if asked.markdown:
            write(asked.markdown, markdown(figures))
    except UserError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    console = Console(width=None if sys.stdout.isatty() else 200)
    for title, headings, lines in tables(figures):
        table = Table(title=title, title_justify="left")
        for heading in headings:
            table.add_column(heading, justify="left" if heading in ("engine", "kind") else "right")
        for line in lines:
            table.add_row(*map(escape, line))
        console.print(table)
    unjudged = sum("pesq_wb" in row.values and not np.isfinite(row["pesq_wb"]) for row in figures.rows)
    if unjudged:
        console.print(f"{unjudged} outputs contain no utterance for PESQ; its mean excludes them")
    return 0


if __name__ == "__main__":
    run_main(main, "evaluate")

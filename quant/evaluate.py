"""Engines side by side on a folder of pairs: what each does to the same noisy recordings.

    python -m quant.evaluate --pairs DIR --engines dsp,speexdsp,noisy

DIR/clean and DIR/noisy hold files of the same names, 16 kHz mono. Every engine is fed hop by hop as if live; the
median lag of its outputs over the whole set is removed, then every file is measured: PESQ-WB (ITU-T P.862.2), STOI
(Taal 2011), ESTOI (Jensen & Taal 2016), SI-SDR (Le Roux 2019) and its improvement, DNSMOS (Reddy 2022) on the first
9.01 s, the level of clean speech kept (the engine run on the clean file) and the noise removed where nobody speaks.
"""

import argparse
import csv
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from edge import RATE_HZ
from edge.config import Config
from edge.spectrum import Floats

Found = TypeVar("Found")
SUFFIXES = {".flac", ".wav", ".ogg", ".opus"}


class BadRequest(Exception):
    """Something the user can mend; the text is one line."""


# --- the engines ---------------------------------------------------------------------------------------------------

Engine = Callable[[Floats, float], Floats]
"""(float32 16 kHz mono, attenuation limit in dB) -> enhanced, late by any constant lag, at least as long."""


def noisy(samples: Floats, limit_db: float) -> Floats:
    return samples


def product(engine: str, *, whole: bool = False) -> Engine:
    """One of our engines through the live chain, as `quietbox enhance` runs it.

    High-pass and hum canceller only take part if ``whole``: the other packages have none, and SI-SDR counts the
    phase that a 90 Hz high-pass turns in the lowest voice, which nobody hears, as distortion: 8 dB worse on average.
    """

    def run(samples: Floats, limit_db: float) -> Floats:
        from edge.enhance import enhance_samples

        return enhance_samples(samples, _config(engine, limit_db, whole))

    return run


def speexdsp(samples: Floats, limit_db: float) -> Floats:
    """SpeexDSP's preprocessor, 10 ms frames of int16 (its own limit: the wrapper cannot set one)."""
    import speexdsp_ns

    frame_samples = RATE_HZ // 100
    suppressor = speexdsp_ns.NoiseSuppression.create(frame_samples, RATE_HZ)

    def process(frame: Floats) -> None:
        raw = np.round(np.clip(frame, -1, 1) * 32767).astype(np.int16).tobytes()
        frame[:] = np.frombuffer(suppressor.process(raw), np.int16) / np.float32(32768)

    return _in_hops(samples, frame_samples, frame_samples, process)


ENGINES: dict[str, Engine] = {
    "noisy": noisy,
    "dsp": product("dsp"),
    "dsp-whole": product("dsp", whole=True),
    "speexdsp": speexdsp,
}
"""Every engine a user can name. A further one is one function more."""


def _in_hops(samples: Floats, hop_samples: int, lag_samples: int, process: Callable[[Floats], object]) -> Floats:
    """Walk ``samples`` in place-changing hops, long enough that nothing is lost to ``lag_samples``."""
    length = -(-(len(samples) + lag_samples) // hop_samples) * hop_samples
    walked = np.zeros(length, np.float32)
    walked[: len(samples)] = samples
    for at in range(0, length, hop_samples):
        process(walked[at : at + hop_samples])
    return walked


def _config(engine: str, limit_db: float, whole: bool) -> Config:
    shipped = Config()
    suppress = replace(shipped.suppress, engine=engine, limit_db=limit_db)
    feedforward = shipped.feedforward if whole else replace(shipped.feedforward, highpass_hz=0, mains="off")
    return replace(shipped, suppress=suppress, feedforward=feedforward)


# --- the measures --------------------------------------------------------------------------------------------------


def si_sdr_db(clean: Floats, estimate: Floats) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), zero-mean, dB."""
    reference = clean.astype(np.float64) - clean.mean(dtype=np.float64)
    heard = estimate.astype(np.float64) - estimate.mean(dtype=np.float64)
    target = reference * (heard @ reference / max(float(reference @ reference), 1e-20))
    rest = heard - target
    return float(10 * np.log10((target @ target + 1e-20) / (rest @ rest + 1e-20)))


def pesq_wb(clean: Floats, estimate: Floats) -> float:
    """1.0 to 4.64; NaN where P.862 finds no utterance to judge."""
    from pesq import PesqError, pesq

    try:
        return float(pesq(RATE_HZ, clean, estimate, "wb"))
    except PesqError:
        return float("nan")


def stoi(clean: Floats, estimate: Floats, extended: bool = False) -> float:
    from pystoi import stoi as measure

    return float(measure(clean, estimate, RATE_HZ, extended=extended))


@cache
def _dnsmos_session() -> Any:
    import onnxruntime

    spec = importlib.util.find_spec("speechmos")
    assert spec and spec.submodule_search_locations
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = Path(spec.submodule_search_locations[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def dnsmos(estimate: Floats) -> tuple[float, float, float]:
    """SIG, BAK, OVRL on the first 9.01 s; shorter sound is repeated, as Microsoft's dnsmos_local.py does.

    The polynomials are that script's, for the model that ships in the package speechmos.
    """
    window = int(9.01 * RATE_HZ)
    audio = np.tile(estimate, -(-window // max(len(estimate), 1)))[:window]
    raw = _dnsmos_session().run(None, {"input_1": np.clip(audio, -1, 1)[np.newaxis].astype(np.float32)})[0][0]
    sig = np.polyval([-0.08397278, 1.22083953, 0.0052439], raw[0])
    bak = np.polyval([-0.13166888, 1.60915514, -0.39604546], raw[1])
    ovrl = np.polyval([-0.06766283, 1.11546468, 0.04602535], raw[2])
    return float(sig), float(bak), float(ovrl)


def level_change_db(before: Floats, after: Floats) -> float:
    """How much louder ``after`` is, dB; NaN if either is silent."""
    power_in, power_out = float(before @ before), float(after @ after)
    return 10 * float(np.log10(power_out / power_in)) if power_in > 0 < power_out else float("nan")


def pauses(clean: Floats, below_peak_db: float = 45) -> NDArray[np.bool_]:
    """Which samples lie in a 40 ms stretch that is ``below_peak_db`` under the loudest one: nobody speaks there."""
    block = RATE_HZ // 25
    whole = len(clean) // block * block
    power = np.square(clean[:whole].reshape(-1, block)).mean(axis=1)
    quiet = power <= power.max(initial=0.0) * 10 ** (-below_peak_db / 10)
    mask = np.zeros(len(clean), bool)
    mask[:whole] = np.repeat(quiet, block)
    return mask


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
    "noise_removed_db": ("noise removed dB", 1),
}
"""Every measure: heading and digits."""


def measure(clean: Floats, noisy: Floats, estimate: Floats, clean_through: Floats) -> dict[str, float]:
    """All measures of one file; four signals of one length, lined up. ``clean_through``: the engine on ``clean``."""
    quiet = pauses(clean)
    sig, bak, ovrl = dnsmos(estimate)
    si_sdr = si_sdr_db(clean, estimate)
    return {
        "pesq_wb": pesq_wb(clean, estimate),
        "stoi": stoi(clean, estimate),
        "estoi": stoi(clean, estimate, extended=True),
        "si_sdr_db": si_sdr,
        "si_sdr_improvement_db": si_sdr - si_sdr_db(clean, noisy),
        "dnsmos_sig": sig,
        "dnsmos_bak": bak,
        "dnsmos_ovrl": ovrl,
        "clean_level_db": level_change_db(clean, clean_through),
        "noise_removed_db": -level_change_db(noisy[quiet], estimate[quiet]),
    }


# --- lining up -----------------------------------------------------------------------------------------------------


def lag_samples(reference: Floats, late: Floats, longest: int = 1600) -> int:
    """By how many samples ``late`` lies behind ``reference``: the peak of their cross-correlation, 0..100 ms."""
    size = 2 * max(len(reference), len(late))
    cross = np.fft.irfft(np.fft.rfft(late, size) * np.conj(np.fft.rfft(reference, size)), size)
    return int(np.argmax(cross[: longest + 1]))


def without_lag(late: Floats, lag: int, length: int) -> Floats:
    """``late`` moved ``lag`` samples forward and cut or filled with silence to ``length``."""
    moved = np.zeros(length, np.float32)
    kept = late[lag : lag + length]
    moved[: len(kept)] = kept
    return moved


# --- the set -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """One recording, clean and noisy, and its SNR if the set says it."""

    name: str
    clean: Floats
    noisy: Floats
    snr_db: float | None


def read_pairs(folder: Path) -> list[Pair]:
    """Every file that is in both ``folder``/clean and ``folder``/noisy, by name; raises BadRequest."""
    for part in (folder, folder / "clean", folder / "noisy"):
        if not part.is_dir():
            raise BadRequest(f"{part} is no folder; --pairs wants one that holds clean/ and noisy/")
    names = [{path.name for path in (folder / part).iterdir() if path.suffix.lower() in SUFFIXES}
             for part in ("clean", "noisy")]  # fmt: skip
    if lonely := sorted(names[0] ^ names[1]):
        raise BadRequest(f"{folder}: {lonely[0]} is in clean/ or in noisy/ but not in both ({len(lonely)} such files)")
    if not names[0]:
        raise BadRequest(f"{folder}: no sound files in clean/ and noisy/ ({', '.join(sorted(SUFFIXES))})")
    snr_db = _snr_of(folder / "dev.tsv")
    pairs = []
    for name in sorted(names[0]):
        clean, noisy = _read(folder / "clean" / name), _read(folder / "noisy" / name)
        if len(clean) != len(noisy):
            raise BadRequest(f"{folder}: {name} has {len(clean)} samples in clean/ and {len(noisy)} in noisy/")
        pairs.append(Pair(Path(name).stem, clean, noisy, snr_db.get(Path(name).stem)))
    return pairs


def _snr_of(table: Path) -> dict[str, float]:
    """Name -> SNR from the columns name and snr_db; nothing if there is no such table."""
    if not table.is_file():
        return {}
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    try:
        return {row["name"]: float(row["snr_db"]) for row in rows}
    except (KeyError, TypeError, ValueError):
        raise BadRequest(f"{table}: wants the columns name and snr_db, tab-separated") from None


def _read(path: Path) -> Floats:
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        raise BadRequest(f"{path} is no sound file that libsndfile reads, or it is broken") from None
    if rate_hz != RATE_HZ or samples.shape[1] != 1:
        raise BadRequest(f"{path}: {samples.shape[1]} channels at {rate_hz} Hz; wanted is mono at {RATE_HZ} Hz")
    if len(samples) < RATE_HZ // 2 or not np.isfinite(samples).all():
        raise BadRequest(f"{path}: shorter than half a second, or it holds samples that are no numbers")
    return np.ascontiguousarray(samples[:, 0])


# --- the run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One engine on one file."""

    engine: str
    name: str
    snr_db: float | None
    values: dict[str, float]


def evaluate(
    pairs: list[Pair], engines: list[str], limit_db: float, jobs: int, ticks: Callable[[], object] = lambda: None
) -> tuple[list[Row], dict[str, int]]:
    """All rows, and every engine's lag in samples. ``ticks`` is called twice for each file and engine."""
    tasks = [(engine, pair) for engine in engines for pair in pairs]
    with ProcessPoolExecutor(jobs) as pool:
        outputs = _in_order(ticks, (pool.submit(_run, engine, pair, limit_db) for engine, pair in tasks))
        lags = {
            engine: int(
                np.median([lag for (name, _), (_, _, lag) in zip(tasks, outputs, strict=True) if name == engine])
            )
            for engine in engines
        }
        jobs_left = (
            pool.submit(_measure, pair, estimate, through, lags[engine])
            for (engine, pair), (estimate, through, _) in zip(tasks, outputs, strict=True)
        )
        values = _in_order(ticks, jobs_left)
    rows = [Row(engine, pair.name, pair.snr_db, found) for (engine, pair), found in zip(tasks, values, strict=True)]
    return rows, lags


def _run(engine: str, pair: Pair, limit_db: float) -> tuple[Floats, Floats, int]:
    estimate = ENGINES[engine](pair.noisy.copy(), limit_db)
    return estimate, ENGINES[engine](pair.clean.copy(), limit_db), lag_samples(pair.noisy, estimate)


def _measure(pair: Pair, estimate: Floats, clean_through: Floats, lag: int) -> dict[str, float]:
    cut = partial(without_lag, lag=lag, length=len(pair.clean))
    return measure(pair.clean, pair.noisy, cut(estimate), cut(clean_through))


def _in_order(ticks: Callable[[], object], futures: Iterable[Future[Found]]) -> list[Found]:
    waiting = list(futures)
    for _ in as_completed(waiting):
        ticks()
    return [future.result() for future in waiting]


def means(rows: list[Row]) -> dict[str, float]:
    """The mean of every measure over the files that have one."""
    found = {key: np.array([row.values[key] for row in rows]) for key in MEASURES}
    return {key: float(np.nanmean(x)) if np.isfinite(x).any() else float("nan") for key, x in found.items()}


# --- the report ----------------------------------------------------------------------------------------------------


def by_engine(rows: list[Row], engines: list[str]) -> Iterator[tuple[str, list[Row]]]:
    for engine in engines:
        yield engine, [row for row in rows if row.engine == engine]


def tables(rows: list[Row], engines: list[str]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(title, headings, lines): the whole set, then PESQ, STOI and SI-SDR improvement at each SNR."""
    files = len({row.name for row in rows})
    yield (
        f"{files} pairs",
        ["engine", *(heading for heading, _ in MEASURES.values())],
        [[engine, *(_text(means(own)[key], key) for key in MEASURES)] for engine, own in by_engine(rows, engines)],
    )
    snrs = sorted({row.snr_db for row in rows if row.snr_db is not None})
    for key in ("pesq_wb", "stoi", "si_sdr_improvement_db") if len(snrs) > 1 else ():
        lines = []
        for engine, own in by_engine(rows, engines):
            at = [means([row for row in own if row.snr_db == snr])[key] for snr in snrs]
            lines.append([engine, *(_text(value, key) for value in at)])
        yield f"{MEASURES[key][0]} by SNR", ["engine", *(f"{snr:g} dB" for snr in snrs)], lines


def _text(value: float, key: str) -> str:
    sign = "+" if key == "si_sdr_improvement_db" else ""
    return f"{value:{sign}.{MEASURES[key][1]}f}"


def markdown(rows: list[Row], engines: list[str]) -> str:
    pieces = []
    for title, headings, lines in tables(rows, engines):
        body = [headings, ["---"] * len(headings), *lines]
        pieces.append(f"{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in body) + "\n")
    return "\n".join(pieces)


def as_json(rows: list[Row], engines: list[str], lags: dict[str, int], limit_db: float) -> str:
    def sound(values: dict[str, float]) -> dict[str, float | None]:
        return {key: round(value, 5) if np.isfinite(value) else None for key, value in values.items()}

    report = {
        "limit_db": limit_db,
        "lag_samples": lags,
        "means": {engine: sound(means(own)) for engine, own in by_engine(rows, engines)},
        "files": [{"engine": row.engine, "name": row.name, "snr_db": row.snr_db, **sound(row.values)} for row in rows],
    }
    return json.dumps(report, indent=1) + "\n"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m quant.evaluate", description="Engines side by side on a folder of clean and noisy pairs."
    )
    parser.add_argument("--pairs", type=Path, required=True, metavar="DIR", help="holds clean/ and noisy/, same names")
    parser.add_argument("--engines", default="dsp,speexdsp,noisy", help=f"comma-separated, of: {', '.join(ENGINES)}")
    parser.add_argument("--limit-db", type=float, default=60.0, help="attenuation limit of our engines (default 60)")
    parser.add_argument("--json", type=Path, metavar="F", help="write every file's figures there")
    parser.add_argument("--markdown", type=Path, metavar="F", help="write the tables there")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default 2)")
    return parser.parse_args(argv)


def check(asked: argparse.Namespace) -> list[str]:
    """The engines asked for; raises BadRequest for whatever would fail later, before the work begins."""
    engines = [*dict.fromkeys(name.strip() for name in asked.engines.split(",") if name.strip())]
    unknown = [name for name in engines if name not in ENGINES]
    if unknown or not engines:
        raise BadRequest(f"no engine is called {', '.join(unknown) or 'nothing'}; known: {', '.join(ENGINES)}")
    if asked.jobs < 1:
        raise BadRequest(f"--jobs {asked.jobs}: at least 1")
    if not 0 <= asked.limit_db <= 100:
        raise BadRequest(f"--limit-db {asked.limit_db:g}: 0 to 100")
    packages = ["pesq", "pystoi", "speechmos", "onnxruntime", *(["speexdsp_ns"] if "speexdsp" in engines else [])]
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise BadRequest(f"{', '.join(missing)} not installed; pip install 'quietbox[evaluate]'")
    for path in (asked.json, asked.markdown):
        if path and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise BadRequest(f"{path} cannot be written: it is a folder, or its folder does not exist")
    return engines


def main(argv: list[str] | None = None) -> int:
    asked = arguments(argv)
    try:
        engines = check(asked)
        pairs = read_pairs(asked.pairs)
    except BadRequest as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"{len(pairs)} pairs, {len(engines)} engines", total=2 * len(pairs) * len(engines))
        rows, lags = evaluate(pairs, engines, asked.limit_db, asked.jobs, lambda: progress.advance(bar))
    console = Console()
    for title, headings, lines in tables(rows, engines):
        table = Table(title=title, title_justify="left")
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "engine" else "right")
        for line in lines:
            table.add_row(*line)
        console.print(table)
    unjudged = sum(not np.isfinite(row.values["pesq_wb"]) for row in rows)
    if unjudged:
        console.print(f"{unjudged} outputs hold no utterance that PESQ could judge; its mean leaves them out")
    if asked.json:
        asked.json.write_text(as_json(rows, engines, lags, asked.limit_db))
    if asked.markdown:
        asked.markdown.write_text(markdown(rows, engines))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""An office day in a few minutes: what the sleeping network saves, and what it costs the ear.

    python -m hw.prove.sleep_cost [--minutes 6] [--engine network|numpy|rnn] [--sleep S] [--json FILE]

Somebody speaks a tenth of the time, in sentences with long pauses; the ventilation hums, keys click, somebody knocks at
the door. Two whole chains, one of which never sleeps, process it hop by hop in turn: processor time of the thread,
scaled to an hour. Then come sentences after long pauses in several noises: what is left of a sentence's first 100 ms
(the gains of either put onto the speech alone), PESQ and STOI, and how much more of the noise comes through.

Speech and three noises are the recordings of tests/sounds, the others are computed. The exit status is 1 where sleeping
takes more than 0.5 dB of the first 100 ms or 0.01 PESQ.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.chain import Chain
from edge.config import Config, SuppressConfig
from edge.console import run_main
from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import Floats, Spectra
from edge.suppress.mask import MaskEngine, Unity
from edge.suppress.shipped import Model
from edge.suppress.sleep import Network, Sleeper
from models.measures import level_change_db, pesq_wb, spoken, stoi

SOUNDS = Path(__file__).parents[2] / "tests" / "sounds"
SPEECH_SHARE = 0.1
LEVEL_DBFS = {"speech": -26.0, "ventilation": -52.0, "keys": -38.0, "door": -24.0}
"""RMS of speech and ventilation while they last, peaks of the others; a headset microphone in a quiet office."""
WARM_UP_HOPS = 200
ONSET_HOPS = 20
BURST_HOPS = 10
MOST_LOST_DB, MOST_LOST_PESQ = 0.5, 0.01
LIMIT_DB = SuppressConfig().limit_db


# --- sounds --------------------------------------------------------------------------------------------------------


def recordings(part: str) -> list[Floats]:
    """Each file of tests/sounds/``part``, float32 at 16 kHz, in order of the names."""
    return [soundfile.read(path, dtype="float32")[0] for path in sorted((SOUNDS / part).glob("*.flac"))]


def sentences(longest_s: float = 3.0) -> list[Floats]:
    """The clean recordings without what is silent before and after, cut into pieces, each of whole hops."""
    found = []
    for sound in recordings("clean"):
        hops = np.flatnonzero(spoken(sound))
        speech = sound[hops[0] * HOP_SAMPLES : (hops[-1] + 1) * HOP_SAMPLES]
        piece = round(longest_s * RATE_HZ) // HOP_SAMPLES * HOP_SAMPLES
        found += [speech[at : at + piece] for at in range(0, len(speech) - piece + 1, piece)]
    return found


def spaced(speech: Sequence[Floats], pauses_s: Sequence[float], before_s: float = 4.0) -> Floats:
    """Sentences with a pause after each and silence before them."""
    parts = [np.zeros(round(before_s * RATE_HZ), np.float32)]
    for sentence, pause_s in zip(speech, pauses_s, strict=True):
        parts += [sentence, np.zeros(round(pause_s * RATE_HZ) // HOP_SAMPLES * HOP_SAMPLES, np.float32)]
    return np.concatenate(parts)


def ventilation(samples: int, seed: int = 1) -> Floats:
    """Pink noise of power 1."""
    draw = np.random.default_rng(seed)
    bins = np.fft.rfft(draw.standard_normal(samples))
    sound = np.fft.irfft(bins / np.sqrt(np.maximum(np.arange(len(bins)), 1)), samples)
    return (sound / np.sqrt(np.mean(sound**2))).astype(np.float32)


def swelling(samples: int) -> Floats:
    """The same, 10 dB louder every other 2.5 s: it changes while the network sleeps."""
    loud = np.arange(samples) // round(2.5 * RATE_HZ) % 2
    return (ventilation(samples, 2) * 10 ** (loud / 2)).astype(np.float32)


def strokes(samples: int, every_s: float, decay_s: float, tones_hz: Sequence[float], seed: int) -> Floats:
    """Blows at odd moments, ``every_s`` in the mean: dying noise and the tones of what was hit, peak near 1."""
    draw = np.random.default_rng(seed)
    length = round(8 * decay_s * RATE_HZ)
    t = np.arange(length) / RATE_HZ
    ring = sum((np.sin(2 * np.pi * tone_hz * t) for tone_hz in tones_hz), np.zeros(length))
    sound = np.zeros(samples, np.float32)
    at = 0
    while (at := at + round(draw.uniform(0.3, 1.7) * every_s * RATE_HZ)) < samples - length:
        hit = np.exp(-t / decay_s) * (ring + 0.3 * draw.standard_normal(length))
        sound[at : at + length] += hit / max(1.0, len(tones_hz))
    return sound


def keys(samples: int) -> Floats:
    return strokes(samples, 0.2, 0.004, (), 3)


def door(samples: int) -> Floats:
    return strokes(samples, 0.9, 0.02, (180, 410), 4)


def noises(samples: int) -> dict[str, tuple[Floats, float]]:
    """Each noise by name, with the SNR in dB at which it is mixed."""
    brook, rain, tavern = (
        np.resize(noisy - clean, samples) for noisy, clean in zip(recordings("noisy"), recordings("clean"), strict=True)
    )
    bed = 0.02 * ventilation(samples)
    return {
        "ventilation, 30 dB": (ventilation(samples), 30),
        "ventilation, 5 dB": (ventilation(samples), 5),
        "swelling, 10 dB": (swelling(samples), 10),
        "door, 10 dB": (door(samples) + bed, 10),
        "keys, 10 dB": (keys(samples) + bed, 10),
        "rain, 5 dB": (rain, 5),
        "brook, 5 dB": (brook, 5),
        "tavern, 10 dB": (tavern, 10),
    }


def talk(minutes: float) -> Floats:
    """float32, whole hops: somebody who speaks a tenth of the time."""
    wanted = round(minutes * 60 * RATE_HZ) // HOP_SAMPLES * HOP_SAMPLES
    draw, speech = np.random.default_rng(7), sentences()
    chosen: list[Floats] = []
    pauses_s: list[float] = []
    length = 4.0
    while length < minutes * 60:
        chosen.append(speech[len(chosen) % len(speech)])
        seconds = len(chosen[-1]) / RATE_HZ
        pauses_s.append(draw.uniform(0.2, 1.8) * seconds * (1 / SPEECH_SHARE - 1))
        length += seconds + pauses_s[-1]
    voice = np.resize(spaced(chosen, pauses_s), wanted)
    voice *= _amplitude("speech") / np.sqrt(np.mean(np.concatenate(chosen) ** 2))
    return voice


def office(minutes: float) -> Floats:
    """float32, whole hops: the day."""
    voice = talk(minutes)
    wanted = len(voice)
    slow = np.clip(np.sin(2 * np.pi * np.arange(wanted) / (97 * RATE_HZ)) * 3, 0, 1).astype(np.float32)
    typing = keys(wanted) * (np.arange(wanted) // (20 * RATE_HZ) % 3 == 0)
    knocks = door(wanted) * (np.arange(wanted) // (3 * RATE_HZ) % 40 == 20)
    hum = ventilation(wanted) * (1 + slow)
    return (voice + _amplitude("ventilation") * hum + _amplitude("keys") * typing + _amplitude("door") * knocks).astype(
        np.float32
    )


def _amplitude(what: str) -> np.float32:
    return np.float32(10 ** (LEVEL_DBFS[what] / 20))


# --- power ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Day:
    """Processor time of the whole chain; ``awake`` never sleeps."""

    asleep_share: float
    """Of the hops, those in which the network slept."""
    awake_mean_us: float
    mean_us: float
    awake_p99_us: float
    p99_us: float
    awake_hour_s: float
    """Processor seconds an hour."""
    hour_s: float

    @property
    def saved(self) -> float:
        return 1 - self.hour_s / self.awake_hour_s


def network_of(name: str) -> Network:
    """``network`` is the shipped one on ONNX Runtime, ``numpy`` the same without, ``rnn`` the small one."""
    if name == "network":
        from edge.suppress.onnx import OnnxNetwork

        return OnnxNetwork(name, Model("quietbox"))
    return Model("quietbox" if name == "numpy" else name).weights(name)


def live(name: str, sleep_s: float) -> Chain:
    network = network_of(name)
    return Chain(Config(), MaskEngine([Sleeper(network, sleep_s) if sleep_s else network, Unity()], LIMIT_DB))


def measure_day(sound: Floats, name: str, sleep_s: float) -> Day:
    """Both chains on the same hops in turn."""
    chains = live(name, 0), live(name, sleep_s)
    hops = sound.reshape(-1, HOP_SAMPLES)
    took_us = np.zeros((len(hops), 2))
    skipped = 0
    work = np.zeros(HOP_SAMPLES, np.float32)
    for number, hop in enumerate(hops):
        for which, chain in enumerate(chains):
            work[:] = hop
            began_ns = time.thread_time_ns()
            chain.process(work)
            took_us[number, which] = (time.thread_time_ns() - began_ns) / 1000
        skipped += chains[1].skipped
    took_us = took_us[WARM_UP_HOPS:]
    mean, p99 = took_us.mean(axis=0), np.percentile(took_us, 99, axis=0)
    hour_s = mean * 3600 / HOP_MS / 1000
    return Day(skipped / len(hops), mean[0], mean[1], p99[0], p99[1], hour_s[0], hour_s[1])


# --- harm ----------------------------------------------------------------------------------------------------------


class Tape(Estimator):
    """An estimator that remembers the gains of another one, frame by frame."""

    def __init__(self, inner: Estimator) -> None:
        self.name = inner.name
        self.inner = inner
        self.gains: list[Floats] = []
        self.skipped_hops = 0

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        speech: float = self.inner.estimate(spectrum, gains)
        self.gains.append(gains.copy())
        self.skipped_hops += self.inner.skipped
        return speech

    def reset(self) -> None:
        self.inner.reset()


class Played(Estimator):
    """The estimator that repeats them for another sound."""

    name = "tape"

    def __init__(self, gains: list[Floats]) -> None:
        self._gains = iter(gains)

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        gains[:] = next(self._gains)
        return 0.0

    def reset(self) -> None:
        pass


def walked(estimator: Estimator, sound: Floats) -> Floats:
    """The sound through the suppressor, lined up with itself."""
    engine = MaskEngine([estimator], LIMIT_DB)
    hops = sound.reshape(-1, HOP_SAMPLES).copy()
    for hop in hops:
        engine.process(hop)
    return np.concatenate([hops.reshape(-1)[engine.delay_samples :], np.zeros(engine.delay_samples, np.float32)])


@dataclass(frozen=True)
class Harm:
    """The sleeping network against the one that never sleeps, on one noise."""

    noise: str
    asleep_share: float
    first_100ms_db: float
    """Level of the speech in the first 100 ms of a sentence, mean of the sentences; negative is lost."""
    first_100ms_worst_db: float
    pesq: float
    """Change."""
    stoi: float
    noise_db: float
    """How much louder the pauses are."""
    burst_db: float
    """The same of the loudest 50 ms in them."""


def onsets(clean: Floats) -> NDArray[np.int64]:
    """Hops in which somebody begins to speak who has not for two seconds and more."""
    speech = spoken(clean)
    last = np.maximum.accumulate(np.where(speech, np.arange(len(speech)), -(10**6)))
    return np.flatnonzero(speech[1:] & (np.arange(1, len(speech)) - last[:-1] > 2200 / HOP_MS)) + 1


def measure_harm(noise: str, clean: Floats, noisy: Floats, name: str, sleep_s: float) -> Harm:
    tapes = Tape(network_of(name)), Tape(Sleeper(network_of(name), sleep_s))
    awake, asleep = (walked(tape, noisy) for tape in tapes)
    voice_awake, voice_asleep = (walked(Played(tape.gains), clean) for tape in tapes)
    starts = [
        level_change_db(voice_awake[part], voice_asleep[part])
        for hop in onsets(clean)
        for part in [slice(hop * HOP_SAMPLES, (hop + ONSET_HOPS) * HOP_SAMPLES)]
    ]
    quiet = ~np.repeat(spoken(clean), HOP_SAMPLES)
    burst = BURST_HOPS * HOP_SAMPLES
    loudest = [
        float(np.square(sound * quiet)[: len(sound) // burst * burst].reshape(-1, burst).mean(axis=1).max())
        for sound in (awake, asleep)
    ]
    return Harm(
        noise,
        tapes[1].skipped_hops / len(tapes[1].gains),
        float(np.mean(starts)),
        min(starts),
        pesq_wb(clean, asleep) - pesq_wb(clean, awake),
        stoi(clean, asleep) - stoi(clean, awake),
        level_change_db(awake[quiet], asleep[quiet]),
        10 * float(np.log10(loudest[1] / loudest[0])),
    )


def harms(name: str, sleep_s: float) -> list[Harm]:
    """One row for each noise."""
    speech = sentences(1.5)[:5]
    clean = spaced(speech, [4.0, 6.0, 5.0, 3.0, 4.0])
    loud = np.sqrt(np.mean(np.concatenate(speech) ** 2))
    rows = []
    for noise, (sound, snr_db) in noises(len(clean)).items():
        level = loud / np.sqrt(np.mean(sound**2)) * 10 ** (-snr_db / 20)
        rows.append(measure_harm(noise, clean, (clean + level * sound).astype(np.float32), name, sleep_s))
    return rows


# --- what is shown -------------------------------------------------------------------------------------------------


def day_table(day: Day, name: str, minutes: float) -> Table:
    table = Table("", "never sleeps", "sleeps", title=f"{name}: an office day in {minutes:g} min, whole chain")
    table.add_row("hop, mean µs", f"{day.awake_mean_us:.0f}", f"{day.mean_us:.0f}")
    table.add_row("hop, p99 µs", f"{day.awake_p99_us:.0f}", f"{day.p99_us:.0f}")
    table.add_row("network asleep", "0 %", f"{day.asleep_share:.0%}")
    table.add_row("processor seconds an hour", f"{day.awake_hour_s:.1f}", f"{day.hour_s:.1f}")
    table.add_row("saved", "", f"{day.saved:.0%}")
    return table


def harm_table(rows: list[Harm]) -> Table:
    table = Table(
        "noise", "asleep", "first 100 ms dB (worst)", "PESQ", "STOI", "pauses dB", "loudest 50 ms dB",
        title="sleeping against never sleeping",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.noise,
            f"{row.asleep_share:.0%}",
            f"{row.first_100ms_db:+.2f} ({row.first_100ms_worst_db:+.2f})",
            f"{row.pesq:+.3f}",
            f"{row.stoi:+.4f}",
            f"{row.noise_db:+.2f}",
            f"{row.burst_db:+.2f}",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="officeday", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=6.0, help="how long the day is (default 6)")
    parser.add_argument("--engine", choices=("network", "numpy", "rnn"), default="network")
    parser.add_argument("--sleep", type=float, default=SuppressConfig().sleep_s, metavar="S", help="[suppress] sleep_s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures as JSON, too")
    chosen = parser.parse_args(arguments)
    if not (chosen.minutes >= 0.5 and chosen.sleep >= 0.5):
        print("--minutes and --sleep must be 0.5 or more", file=sys.stderr)
        return 2
    show = Console()
    day = measure_day(office(chosen.minutes), chosen.engine, chosen.sleep)
    show.print(day_table(day, chosen.engine, chosen.minutes))
    rows = harms(chosen.engine, chosen.sleep)
    show.print(harm_table(rows))
    if chosen.json:
        chosen.json.write_text(json.dumps({"day": asdict(day), "harm": [asdict(row) for row in rows]}, indent=1) + "\n")
    harmless = all(row.first_100ms_worst_db >= -MOST_LOST_DB and row.pesq >= -MOST_LOST_PESQ for row in rows)
    return 0 if harmless else 1


if __name__ == "__main__":
    run_main(main, "officeday")

"""Cleaner training targets: a teacher removes the noise floor of good recordings that are a little too noisy.

    python -m models.clean --data DIR --teacher ulunas_stream_simple.onnx --out CLEANED
    python -m models.train --data DIR --speech CLEANED ...

Speech with a floor of -45 to -35 dB is refused by ``models.mix``: a network would learn to keep that floor. UL-UNAS
(github.com/Xiaobin-Rong/ul-unas, MIT; the owners publish the weights there) removes it. Only what it changes little is
kept: where it takes away much, it may have taken speech. RNNoise 0.2 prepared its targets likewise.

OUT gets one folder a voice, FLAC, and ``cleaned.tsv`` with both floors and the change of every clip, kept or not.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge import RATE_HZ
from edge.console import run_main
from edge.suppress import BadModel, open_core
from models.command import BadRequest, need, status_of
from models.measures import si_sdr_db
from models.mix.recordings import WORST_FLOOR_DB, Clip, NoRecordings, listed_clips, read_mono

Wave = NDArray[np.float32]

WORST_CLEANABLE_DB = -35.0
"""Floors above this are left out: the teacher would have to change too much."""
GOOD_FLOOR_DB = -50.0
"""What a cleaned clip must reach: 5 dB below the worst that ``models.mix`` accepts as it is."""
LEAST_KEPT_DB = 15.0
"""SI-SDR of the cleaned clip against the original. A floor of -35 dB alone limits it to 35 dB; below 15 dB more than
3 % of the energy changed, which cannot have been the floor."""
LEAST_S = 1.0
FRAME_SAMPLES = RATE_HZ // 50
"""20 ms, for levels."""


class Teacher:
    """UL-UNAS as the box runs it, on whole waves."""

    def __init__(self, file: Path) -> None:
        """Raises NoRecordings if ``file`` is no such graph."""
        try:
            self._core = open_core("ulunas", str(file))
        except BadModel as reason:
            raise NoRecordings(str(reason)) from None

    def __call__(self, wave: Wave) -> Wave:
        """float32 mono at 16 kHz -> the same length, noise removed, aligned with the input."""
        core = self._core
        core.reset()
        late, size = core.delay_samples, core.block_samples
        walked = np.pad(wave, (0, late + -(len(wave) + late) % size))
        for block in walked.reshape(-1, size):
            core.process(block)
        return walked[late : late + len(wave)]


def floor_rel_db(wave: Wave) -> float:
    """The noise floor relative to speech, dB: the 5th percentile of the 20 ms powers against the mean of those within
    30 dB of the loudest."""
    whole = len(wave) // FRAME_SAMPLES * FRAME_SAMPLES
    powers = np.mean(wave[:whole].reshape(-1, FRAME_SAMPLES).astype(np.float64) ** 2, 1)
    active = powers[powers >= powers.max() * 1e-3]
    return float(10 * np.log10((np.percentile(powers, 5) + 1e-12) / (active.mean() + 1e-12)))


@dataclass(frozen=True)
class Cleaned:
    """What the teacher made of one clip."""

    clip: Clip
    wave: Wave
    floor_before_db: float
    floor_after_db: float
    kept_db: float
    """SI-SDR against the original."""

    @property
    def good(self) -> bool:
        return self.kept_db >= LEAST_KEPT_DB and self.floor_after_db <= GOOD_FLOOR_DB


def clean(teacher: Teacher, clips: list[Clip]) -> Iterator[Cleaned]:
    """Every clip through the teacher, in the order of their files."""
    file, wave = None, np.zeros(0, np.float32)
    for clip in sorted(clips, key=lambda clip: (str(clip.file), clip.start_s)):
        if clip.file != file:
            file, wave = clip.file, read_mono(clip.file)
        begin = round(clip.start_s * RATE_HZ)
        piece = wave[begin : begin + round(clip.seconds * RATE_HZ)]
        if len(piece) < LEAST_S * RATE_HZ or not np.any(piece):
            continue
        loud = 0.1 / (float(np.sqrt(np.mean(piece**2))) + 1e-9)  # the teacher learnt at ordinary levels
        better = teacher(piece * np.float32(loud)) / np.float32(loud)
        yield Cleaned(clip, better, floor_rel_db(piece), floor_rel_db(better), si_sdr_db(piece, better))


def cleanable(data: Path) -> list[Clip]:
    """The speech that ``models.mix`` refuses for its floor, up to WORST_CLEANABLE_DB."""
    table = data / "speech.tsv"
    accepted = {(clip.file, clip.start_s) for clip in listed_clips(table, data, WORST_FLOOR_DB)}
    return [clip for clip in listed_clips(table, data, WORST_CLEANABLE_DB) if (clip.file, clip.start_s) not in accepted]


def write(results: Iterator[Cleaned], out: Path) -> tuple[int, float]:
    """Write what is good below ``out``; returns how many clips, and their minutes."""
    out.mkdir(parents=True, exist_ok=True)
    count, seconds = 0, 0.0
    with open(out / "cleaned.tsv", "w", newline="") as table:
        rows = csv.writer(table, delimiter="\t", lineterminator="\n")
        rows.writerow(("file", "start_s", "seconds", "voice", "floor_before_db", "floor_after_db", "kept_db", "good"))
        for result in results:
            clip = result.clip
            figures = (result.floor_before_db, result.floor_after_db, result.kept_db)
            rows.writerow(
                (clip.file.name, clip.start_s, clip.seconds, clip.voice, *(f"{x:.1f}" for x in figures), result.good)
            )
            if result.good:
                voice = "".join(c if c.isalnum() or c in "-_" else "_" for c in clip.voice)
                (out / voice).mkdir(exist_ok=True)
                peak = max(1.0, float(np.abs(result.wave).max()) / 0.99)
                soundfile.write(out / voice / f"{count:05d}.flac", result.wave / peak, RATE_HZ, "PCM_16")
                count, seconds = count + 1, seconds + clip.seconds
    return count, seconds / 60


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser("python -m models.clean", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with speech.tsv")
    parser.add_argument("--teacher", type=Path, required=True, help="UL-UNAS's streaming graph, ONNX")
    parser.add_argument("--out", type=Path, required=True, help="folder for the cleaned recordings; must not exist")
    wanted = parser.parse_args(arguments)

    def work() -> None:
        need("onnx", "onnxruntime")
        if wanted.out.exists():
            raise NoRecordings(f"{wanted.out} exists already: name a new folder")
        try:
            clips = cleanable(wanted.data)
            count, minutes = write(clean(Teacher(wanted.teacher), clips), wanted.out)
        except OSError as reason:
            raise BadRequest(str(reason)) from None
        print(f"{wanted.out}: {count} of {len(clips)} clips, {minutes:.0f} minutes")

    return status_of(work, "clean")


if __name__ == "__main__":
    run_main(main, "clean")

"""Recordings for training: which stretches of which files may be cut, and whose voice or what noise they are."""

import csv
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge import RATE_HZ
from edge.console import complain
from edge.tools.sounds.sound_kinds import why_no_sound
from models.command import BadRequest

WORST_FLOOR_DB = -45.0
"""Speech recordings whose own noise floor lies above this are no target to learn."""


class NoRecordings(BadRequest):
    """A folder holds nothing to train on, or something that cannot be read; the message names which and why."""


@dataclass(frozen=True)
class Clip:
    """A stretch of one recording that may be cut anywhere."""

    file: Path
    start_s: float
    seconds: float
    voice: str
    """Speaker, or kind of noise: what is drawn before the clip is."""


def listed_clips(table: Path, folder: Path, worst_floor_db: float = WORST_FLOOR_DB) -> list[Clip]:
    """The clips of a TSV with columns file, start_s, seconds and (speaker, floor_rel_db) or (source, kind)."""
    clips = []
    with open(table, newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines, delimiter="\t")):
            try:
                if float(row.get("floor_rel_db") or -99) > worst_floor_db:
                    continue
                voice = row.get("speaker") or f"{row['source']}/{row['kind']}"
                if voice == "?":  # unlabelled crowd: five neighbours in a file count as one voice
                    voice = f"{row['file']}#{number // 5}"
                clips.append(Clip(folder / row["file"], float(row["start_s"]), float(row["seconds"]), voice))
            except (KeyError, ValueError) as reason:
                wanted = "file, start_s, seconds, and speaker or kind"
                raise NoRecordings(f"{table}, line {number + 2}: {reason}; want {wanted}") from None
    return clips


def found_clips(folder: Path, least_s: float = 0.2) -> list[Clip]:
    """Every file soundfile reads below a folder, one clip each; a sub-folder is a voice or a kind, else the file is.

    Sounds in other formats are named on stderr, since whoever recorded them believes them used.
    """
    if not folder.is_dir():
        raise NoRecordings(f"{folder}: no such folder")
    clips = []
    unread = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            seconds = soundfile.info(os.fsencode(file)).duration
        except (soundfile.SoundFileError, TypeError):  # TypeError: samples without a header
            unread += [] if why_no_sound(file) else [file]
            continue
        if seconds >= least_s:
            voice = file.parent.name if file.parent != folder else file.stem
            clips.append(Clip(file, 0.0, seconds, voice))
    if unread:
        some = ", ".join(file.name for file in unread[:3]) + (" ..." if len(unread) > 3 else "")
        complain(
            f"{folder}: {len(unread)} of its sounds cannot be read by libsndfile and are not used ({some}); "
            "`ffmpeg -i IN OUT.flac` converts one",
            "recordings",
        )
    if not clips:
        raise NoRecordings(f"{folder}: no file in it that libsndfile can read (WAV, FLAC, OGG, Opus ...)")
    return clips


def read_mono(file: Path) -> NDArray[np.float32]:
    """A whole file as float32 mono at 16 kHz."""
    try:
        samples, rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as reason:
        raise NoRecordings(f"{file}: {reason}") from None
    mono = samples.mean(1)
    if rate_hz != RATE_HZ:
        from scipy.signal import resample_poly

        common = math.gcd(rate_hz, RATE_HZ)
        mono = resample_poly(mono, RATE_HZ // common, rate_hz // common).astype(np.float32)
    return np.ascontiguousarray(mono, np.float32)

"""Recordings to measure on: folders of pairs, or of noisy speech alone."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from edge import RATE_HZ
from edge.dsp.spectrum import Floats
from edge.files import BadFile, check_regular
from models.command import BadRequest

LONGEST_S = 7200.0
"""Of a recording: as 16-bit FLAC an hour of silence is 100 KB, and 230 MB once it is read."""

SUFFIXES = {".flac", ".wav", ".ogg", ".opus"}


@dataclass(frozen=True)
class Sound:
    """One recording, its clean half if there is one, and its SNR and kind of noise if the set names them."""

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
    names = [sounds_in(folder / part) for part in ("clean", "noisy")]
    if lonely := sorted(names[0] ^ names[1]):
        raise BadRequest(f"{folder}: {lonely[0]} is in only one of clean/ and noisy/ ({len(lonely)} such files)")
    if not names[0]:
        raise BadRequest(f"{folder}: no sound files in clean/ and noisy/ ({', '.join(sorted(SUFFIXES))})")
    said = labels_in(folder / "dev.tsv")
    pairs = []
    for name in sorted(names[0]):
        clean, noisy = read_sound(folder / "clean" / name), read_sound(folder / "noisy" / name)
        if len(clean) != len(noisy):
            raise BadRequest(f"{folder}: {name} has {len(clean)} samples in clean/ and {len(noisy)} in noisy/")
        pairs.append(Sound(Path(name).stem, clean, noisy, *said.get(Path(name).stem, (None, None))))
    return pairs


def read_noisy(folder: Path) -> list[Sound]:
    """Every sound file in ``folder``, by name; raises BadRequest."""
    if not folder.is_dir():
        raise BadRequest(f"{folder} is not a folder; --noisy needs one that holds sound files")
    names = sounds_in(folder)
    if not names:
        raise BadRequest(f"{folder}: no sound files ({', '.join(sorted(SUFFIXES))}); pairs are read with --pairs")
    said = labels_in(folder / "dev.tsv")
    stem = {name: Path(name).stem for name in sorted(names)}
    return [Sound(stem[name], None, read_sound(folder / name), *said.get(stem[name], (None, None))) for name in stem]


def sounds_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}


def labels_in(table: Path) -> dict[str, tuple[float | None, str | None]]:
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


def read_sound(path: Path) -> Floats:
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

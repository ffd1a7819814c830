"""Recordings to measure on: folders of pairs, or of noisy speech alone.

Other rates are resampled to 16 kHz, of several channels the first counts, and of a pair whose halves differ in length
by up to half a second the longer is cut at its end; each is said once, on stderr.
"""

import csv
import math
import re
import sys
from collections import Counter
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

MOST_TRIMMED_S = 0.5
"""More than what a codec or a tool adds at the end is no rounding."""

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
    """Every recording with a half in each of ``folder``/clean and ``folder``/noisy; raises BadRequest.

    A half pairs with the one of the same name, whatever its suffix; then by the name less the words clean and noisy;
    then by the number after ``fileid_``, as the sets of the DNS Challenge do. The noisy half names the pair.
    """
    for part in (folder, folder / "clean", folder / "noisy"):
        if not part.is_dir():
            raise BadRequest(f"{part} is not a folder; --pairs needs a folder with clean/ and noisy/")
    said, changes = labels_in(folder / "dev.tsv"), Changes()
    pairs = []
    for clean_file, noisy_file in paired(folder):
        clean, noisy = read_sound(clean_file, changes), read_sound(noisy_file, changes)
        extra = len(clean) - len(noisy)
        if abs(extra) > MOST_TRIMMED_S * RATE_HZ:
            seconds = [f"{len(half) / RATE_HZ:.2f} s ({len(half)} samples)" for half in (clean, noisy)]
            raise BadRequest(
                f"{folder}: {noisy_file.name} lasts {seconds[0]} in clean/ and {seconds[1]} in noisy/; cut both to the "
                f"same stretch (only {MOST_TRIMMED_S:g} s are trimmed), or they are no pair"
            )
        if extra:
            changes["cut to the length of its other half"] += 1
        whole = min(len(clean), len(noisy))
        pairs.append(Sound(noisy_file.stem, clean[:whole], noisy[:whole], *said.get(noisy_file.stem, (None, None))))
    changes.show(folder)
    return pairs


class Changes(Counter[str]):
    """What was done to recordings so that they fit, and to how many."""

    def show(self, folder: Path) -> None:
        """A line on stderr for each."""
        for change, files in self.items():
            print(f"{folder}: {change}: {files} file{'s' if files > 1 else ''}", file=sys.stderr)


def paired(folder: Path) -> list[tuple[Path, Path]]:
    """Clean and noisy files of ``folder`` by the name of the noisy one; raises BadRequest."""
    clean, noisy = (sorted(sounds_in(folder / part)) for part in ("clean", "noisy"))
    if not clean and not noisy:
        raise BadRequest(f"{folder}: no sound files in clean/ and noisy/ ({', '.join(sorted(SUFFIXES))})")
    found: dict[str, str] = {}
    for key in (str, lambda name: Path(name).stem, plain_name, file_id):
        halves = [[name for name in names if name not in taken]
                  for names, taken in ((clean, found.values()), (noisy, found))]  # fmt: skip
        groups: list[dict[str, list[str]]] = [{}, {}]
        for group, names in zip(groups, halves, strict=True):
            for name in names:
                if named := key(name):
                    group.setdefault(named, []).append(name)
        for named in groups[0].keys() & groups[1].keys():
            both = [group[named] for group in groups]
            if [len(names) for names in both] != [1, 1]:
                several = max(both, key=len)
                raise BadRequest(f"{folder}: {' and '.join(several[:2])} would pair alike; rename or remove one")
            found[both[1][0]] = both[0][0]
    if lonely := sorted({*clean} - {*found.values()}) + sorted({*noisy} - found.keys()):
        where = "clean" if lonely[0] in clean and lonely[0] not in found.values() else "noisy"
        raise BadRequest(
            f"{folder}: {lonely[0]} is in only one of clean/ and noisy/ ({len(lonely)} such files); give it a partner "
            f"of the same name in {'noisy' if where == 'clean' else 'clean'}/, or move it out of {where}/"
        )
    return [(folder / "clean" / found[name], folder / "noisy" / name) for name in sorted(found)]


def plain_name(name: str) -> str:
    """``p1_clean.wav`` and ``noisy-p1.flac`` are both p1."""
    words = re.split(r"[^a-z0-9.+]+", Path(name).stem.lower())
    return " ".join(word for word in words if word not in ("clean", "noisy", ""))


def file_id(name: str) -> str:
    """``clean_fileid_7.wav`` is 7; nothing without one."""
    found = re.search(r"fileid_(\d+)", name.lower())
    return found[1] if found else ""


def read_noisy(folder: Path) -> list[Sound]:
    """Every sound file in ``folder``, by name; raises BadRequest."""
    if not folder.is_dir():
        raise BadRequest(f"{folder} is not a folder; --noisy needs one that holds sound files")
    names = sounds_in(folder)
    if not names:
        raise BadRequest(f"{folder}: no sound files ({', '.join(sorted(SUFFIXES))}); pairs are read with --pairs")
    said, changes = labels_in(folder / "dev.tsv"), Changes()
    stem = {name: Path(name).stem for name in sorted(names)}
    found = [
        Sound(stem[name], None, read_sound(folder / name, changes), *said.get(stem[name], (None, None)))
        for name in stem
    ]
    changes.show(folder)
    return found


def sounds_in(folder: Path) -> set[str]:
    """Names; hidden ones (``._a.wav`` of a Mac) are none."""
    return {path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."}


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


def read_sound(path: Path, changes: Changes | None = None) -> Floats:
    """float32 at 16 kHz: the first channel, resampled where need be; ``changes`` counts either. Raises BadRequest."""
    changes = Changes() if changes is None else changes
    try:
        check_regular(path)
        with soundfile.SoundFile(path) as file:
            if file.frames > LONGEST_S * file.samplerate:
                raise BadRequest(f"{path} lasts longer than {LONGEST_S / 3600:g} h")
            samples, rate_hz = file.read(dtype="float32", always_2d=True), file.samplerate
    except BadFile as error:
        raise BadRequest(str(error)) from None
    except soundfile.LibsndfileError:
        raise BadRequest(f"{path} is not a sound file that libsndfile reads, or it is broken") from None
    if samples.shape[1] > 1:
        changes[f"only the first of {samples.shape[1]} channels used"] += 1
    sound = np.ascontiguousarray(samples[:, 0])
    if not np.isfinite(sound).all():
        raise BadRequest(f"{path} holds NaN or infinite samples; write it again from its source")
    if rate_hz != RATE_HZ:
        changes[f"resampled from {rate_hz} Hz"] += 1
        sound = resampled(sound, rate_hz)
    if len(sound) < RATE_HZ // 2:
        raise BadRequest(f"{path}: shorter than half a second; join it with others or leave it out")
    return sound


def resampled(samples: Floats, rate_hz: int) -> Floats:
    """To 16 kHz, without delay."""
    from scipy.signal import resample_poly

    common = math.gcd(rate_hz, RATE_HZ)
    return np.asarray(resample_poly(samples, RATE_HZ // common, rate_hz // common), np.float32)

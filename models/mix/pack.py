"""A smaller copy of the training recordings, for a machine that must be reached in a small parcel."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge import RATE_HZ
from edge.files import atomic
from models.mix.recordings import Clip, NoRecordings, found_clips, listed_clips, read_mono

PACK_BYTES_A_SECOND = 3_800
"""Opus at about 30 kbit/s."""

PACK_FILE_S = 600.0


def pack(data: Path, out: Path, most_mb: float = 58.0) -> None:
    """A copy of a --data folder that fits a small parcel: every voice and kind, long ones cut, at 30 kbit/s."""
    if atomic.same(data, out):
        raise NoRecordings(f"{out}: --pack would overwrite --data; name another folder")
    speech, noise = listed_clips(data / "speech.tsv", data), listed_clips(data / "noise.tsv", data)
    room_files = [clip.file for clip in found_clips(data / "rir", least_s=0)] if (data / "rir").is_dir() else []
    out.mkdir(parents=True, exist_ok=True)
    (out / "rir").mkdir(exist_ok=True)
    for file in room_files:
        shutil.copy(file, out / "rir" / file.name)
    rooms_bytes = sum(file.stat().st_size for file in room_files)
    seconds = (0.95 * most_mb * 1e6 - rooms_bytes) / PACK_BYTES_A_SECOND
    if seconds < 20:
        raise NoRecordings(f"{most_mb} MB leave no room for recordings beside {rooms_bytes / 1e6:.1f} MB of rooms")
    for name, clips, share in (("speech", speech, 0.6), ("noise", noise, 0.4)):
        kept = fairly(clips, seconds * share)
        write_pack(kept, out, name)
        print(f"{name}: {sum(clip.seconds for clip in kept) / 60:.0f} of {sum(c.seconds for c in clips) / 60:.0f} min")


def fairly(clips: Sequence[Clip], most_s: float) -> list[Clip]:
    """Clips taken from every voice in turn until the seconds are used up, in the order of their files."""
    voices: dict[str, list[Clip]] = {}
    for clip in clips:
        voices.setdefault(clip.voice, []).append(clip)
    kept: list[Clip] = []
    for turn in range(max(map(len, voices.values()))):
        for own in voices.values():
            if turn < len(own) and own[turn].seconds <= most_s:
                kept.append(own[turn])
                most_s -= own[turn].seconds + 0.25
    return sorted(kept, key=lambda clip: (clip.voice, str(clip.file), clip.start_s))


def write_pack(clips: Sequence[Clip], out: Path, name: str) -> None:
    """Opus files of about ten minutes and their table, in the form ``open_mixer`` reads."""
    (out / name).mkdir(exist_ok=True)
    waves: dict[Path, NDArray[np.float32]] = {}
    rows = ["file\tstart_s\tseconds\tsource\t" + ("speaker" if name == "speech" else "kind")]
    part, pieces, length_s = 0, list[NDArray[np.float32]](), 0.0

    def finish() -> None:
        if pieces:
            with soundfile.SoundFile(
                out / name / f"{part:02d}.opus", "w", RATE_HZ, 1, "OPUS", format="OGG", compression_level=0.904
            ) as file:
                for piece in pieces:  # libsndfile's Opus writer wants small bites
                    file.write(piece)

    for clip in clips:
        if clip.file not in waves:
            waves = {clip.file: read_mono(clip.file)} if len(waves) > 40 else waves | {clip.file: read_mono(clip.file)}
        begin = round(clip.start_s * RATE_HZ)
        piece = waves[clip.file][begin : begin + round(clip.seconds * RATE_HZ)]
        source, _, kind = clip.voice.rpartition("/") if name == "noise" else ("", "", clip.voice)
        rows.append(f"{name}/{part:02d}.opus\t{length_s:.3f}\t{len(piece) / RATE_HZ:.3f}\t{source}\t{kind}")
        pieces += [piece, np.zeros(RATE_HZ // 4, np.float32)]
        length_s += len(piece) / RATE_HZ + 0.25
        if length_s > PACK_FILE_S:
            finish()
            part, pieces, length_s = part + 1, [], 0.0
    finish()
    (out / f"{name}.tsv").write_text("\n".join(rows) + "\n")

"""Sound files: creating them, and what of them is read.

Whatever a user can get wrong raises ``BadSound``, one line that names the file.
"""

import os
from pathlib import Path

import soundfile

from edge.tools.sound_kinds import BadSound

BLOCK_FRAMES = 16_384
RATES_HZ = (4_000, 192_000)


def create_sound(descriptor: int, suffix: str, rate_hz: int) -> soundfile.SoundFile:
    """16-bit samples where the container can hold them, else its own codec."""
    container = {".oga": "OGG", ".opus": "OGG", ".aif": "AIFF"}.get(suffix, suffix[1:].upper())
    codec = "OPUS" if suffix == ".opus" else None
    if codec is None and soundfile.check_format(container, "PCM_16"):
        codec = "PCM_16"
    try:
        return soundfile.SoundFile(descriptor, "w", rate_hz, 1, codec, format=container, closefd=False)
    except (ValueError, soundfile.LibsndfileError):
        raise BadSound(f"{suffix} cannot hold mono sound at {rate_hz} Hz; try .wav or .flac") from None


def check_whole(part: Path, target: Path, frames: int) -> None:
    """libsndfile 1.2 loses the end of an Opus file on a full disk without an error. Raises BadSound."""
    if target.suffix.lower() in (".ogg", ".oga", ".opus") and soundfile.info(os.fsencode(part)).frames < frames:
        raise BadSound(f"{target}: cannot be written: the disk may be full")


def one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "error_string", error)).split())

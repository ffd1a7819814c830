"""A sound file to write: mono, 16 bit where the container can, of any length; and what a full disk lacks."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge.tools.sounds.sound_files import one_line
from edge.tools.sounds.sound_kinds import BadSound

SAMPLE_BYTES = 2
HEADER_BYTES = 4096
"""More than any header here takes."""
MOST_BYTES = (1 << 32) - HEADER_BYTES
"""What a 32-bit length counts: 12.4 hours at 48 kHz."""
LIMITED = frozenset((".wav", ".aiff", ".aif"))
"""Containers with 32-bit lengths. (.au has them too, and a value for "to the end of the file".)"""
PLAIN = LIMITED | {".au", ".caf", ".w64", ".rf64"}
"""Containers whose samples take ``SAMPLE_BYTES`` each."""
UNSURE = 2
"""A length in a header is taken to be right within this factor: some are estimates (MP3)."""
SFC_RF64_AUTO_DOWNGRADE = 0x1210
"""libsndfile's command, which the package soundfile does not name: an RF64 file below 4 GiB becomes WAV."""
PROBE_BYTES = 1 << 20
PROBES = 4


class SoundOutput:
    """Writes to ``descriptor``, an empty file which stays open. A context manager; raises BadSound and OSError, whose
    text says how much is missing where the disk is full.

    ``suffix`` names the format. ``frames``: how many there will be by the source's header, 0 if it does not say.
    WAV is RF64 (EBU Tech 3306) where it becomes longer than a WAV header can say.
    """

    def __init__(self, descriptor: int, suffix: str, rate_hz: int, frames: int) -> None:
        self.frames = 0
        """Frames written."""
        self._descriptor, self._suffix, self._expected = descriptor, suffix, frames
        wide = suffix == ".wav" and (not frames or UNSURE * frames * SAMPLE_BYTES > MOST_BYTES)
        self._limited = suffix in LIMITED and not wide
        self._sound = self._create("RF64" if wide else _container(suffix), rate_hz)
        if wide:
            command = soundfile._snd.sf_command
            command(self._sound._file, SFC_RF64_AUTO_DOWNGRADE, soundfile._ffi.NULL, 1)

    def _create(self, container: str, rate_hz: int) -> soundfile.SoundFile:
        codec = "OPUS" if self._suffix == ".opus" else None
        if codec is None and soundfile.check_format(container, "PCM_16"):
            codec = "PCM_16"
        try:
            return soundfile.SoundFile(self._descriptor, "w", rate_hz, 1, codec, format=container, closefd=False)
        except (ValueError, soundfile.LibsndfileError):
            raise BadSound(f"{self._suffix} cannot hold mono sound at {rate_hz} Hz; try .wav or .flac") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        try:
            self._sound.close()
        except soundfile.LibsndfileError as failed:
            if error is None:
                raise self._why(failed) from None

    def write(self, samples: NDArray[np.int16]) -> None:
        """Flat."""
        if self._limited and (self.frames + len(samples)) * SAMPLE_BYTES > MOST_BYTES:
            raise _too_long(self._suffix)
        try:
            self._sound.write(samples)
        except soundfile.LibsndfileError as error:
            raise self._why(error) from None
        self.frames += len(samples)

    def _why(self, error: soundfile.LibsndfileError) -> OSError:
        """libsndfile does not report why it cannot write; the system does, as soon as nothing more fits."""
        written = os.fstat(self._descriptor).st_size
        try:
            for _ in range(PROBES):
                os.pwrite(self._descriptor, bytes(PROBE_BYTES), os.fstat(self._descriptor).st_size)
        except OSError as found:
            return OSError(found.errno, f"{found.strerror}{self._missing(written)}")
        return OSError(0, one_line(error))

    def _missing(self, written: int) -> str:
        """What the whole would take and what is missing of it, as far as the source's length is known."""
        done = self.frames if self._suffix not in PLAIN else written // SAMPLE_BYTES
        needed = written * self._expected // max(done, 1)
        if not done or needed <= written:
            return ""
        return f"; about {in_bytes(needed)} are needed, {in_bytes(needed - written)} more than there is room for"


def check_room(target: Path, folder: Path, frames: int) -> None:
    """Raises BadSound if ``target`` cannot be so long, which is better known before hours of work: there is no room on
    the file system, or the container's lengths do not count so far.

    ``folder``: where ``target`` lies in the end, if it is a link. Checked only where the size follows from the number
    of frames. An earlier result stays until the new one is whole.
    """
    suffix, needed = target.suffix.lower(), frames * SAMPLE_BYTES
    if suffix not in PLAIN:
        return
    if suffix in LIMITED and suffix != ".wav" and needed > MOST_BYTES:
        raise _too_long(suffix)
    found = os.statvfs(folder)
    free = found.f_frsize * (found.f_bfree if os.geteuid() == 0 else found.f_bavail)
    if found.f_blocks and free < needed:  # some network file systems report nothing
        missing = f"it needs {in_bytes(needed)}, {in_bytes(free)} are free: {in_bytes(needed - free)} are missing"
        raise BadSound(f"{target}: cannot be written: {missing}")


def check_whole(part: Path, target: Path, frames: int) -> None:
    """libsndfile 1.2 loses the end of an Opus file on a full disk without an error. Raises BadSound."""
    if (
        target.suffix.lower() in (".ogg", ".oga", ".opus")
        and (found := soundfile.info(os.fsencode(part)).frames) < frames
    ):
        share = f"{100 * found / frames:.0f} % fit"
        raise BadSound(f"{target}: cannot be written: the disk may be full ({share})")


def in_bytes(count: int) -> str:
    """In units of a thousand, as sizes of disks are given."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _too_long(suffix: str) -> BadSound:
    return BadSound(f"{suffix} holds no more than 4 GiB; name a .wav, .w64, .caf or .flac file")


def _container(suffix: str) -> str:
    return {".oga": "OGG", ".opus": "OGG", ".aif": "AIFF"}.get(suffix, suffix[1:].upper())

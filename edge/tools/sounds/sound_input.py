"""A sound file to read, as far as it can be read: unfinished headers, damage in the middle and cut ends included.

Whatever is not sound at all raises ``BadSound``, one line that names the file.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile

from edge.dsp.spectrum import Floats
from edge.tools.sounds import unfinished
from edge.tools.sounds.decoder_output import captured
from edge.tools.sounds.sound_files import BLOCK_FRAMES, RATES_HZ, one_line
from edge.tools.sounds.sound_kinds import HEADERLESS, BadSound

UNKNOWN_FRAMES = 1 << 62
"""libsndfile gives more where the length is not known: a stream, or a FLAC file that was not finished."""
PLACEHOLDER_BYTES = (1 << 31) - 8192
"""From here on, the length in the header of a pipe may be a placeholder (0x7FFFF000 and more)."""
WIDEST_BYTES = 4
"""A sample's, nearly always."""
PROVEN = frozenset(("WAV", "WAVEX", "AIFF", "AU", "CAF", "W64", "RF64"))
"""Containers whose lengths libsndfile compares with the size of the file."""
SKIP_FRAMES = 4096
"""About a frame of FLAC or four of MP3: after damage, reading goes on so far behind it, or twice, four times ..."""
SKIPS = 16
SHORTER_S = 1.0
"""Files whose length is estimated (MP3) may end so much, or ``SHORTER_SHARE``, earlier without being cut."""
SHORTER_SHARE = 0.02


class SoundInput:
    """A context manager; ``blocks`` may be called again after ``rewind``. Raises BadSound where nothing can be read."""

    def __init__(self, source: Path) -> None:
        _check_kind(source)
        self.source = source
        self._lines: list[str] = []
        """What the decoder wrote to the terminal."""
        self._finding = _examine(source)
        self._sound = self._open()
        self.rate_hz, self.channels, self.frames = self._sound.samplerate, self._sound.channels, self._sound.frames
        self._container, self.codec = self._sound.format, self._sound.subtype
        """libsndfile's name."""
        if not RATES_HZ[0] <= self.rate_hz <= RATES_HZ[1]:
            self._sound.close()
            raise BadSound(f"{source}: a rate of {self.rate_hz} Hz is outside {RATES_HZ[0]} to {RATES_HZ[1]} Hz")
        self.can_rewind = self._sound.seekable()
        self._forget()

    def _forget(self) -> None:
        self._read = self._silent = 0
        self._damage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._sound.close()

    @property
    def known_frames(self) -> int:
        """As in the header, possibly an estimate; 0 where it does not say."""
        placeholder = not self.can_rewind and self.frames * self.channels * WIDEST_BYTES >= PLACEHOLDER_BYTES
        return 0 if placeholder or self.frames >= UNKNOWN_FRAMES else self.frames

    @property
    def sure_frames(self) -> int:
        """As the size of the file proves; 0 where it does not."""
        return self.known_frames if self.can_rewind and self._container in PROVEN else 0

    def rewind(self) -> None:
        """To the first frame; only where ``can_rewind``."""
        if self._damage:
            self._sound.close()
            self._sound = self._open()
        self._sound.seek(0)
        self._forget()

    def blocks(self) -> Iterator[Floats]:
        """float32 (frames, channels), each at most ``BLOCK_FRAMES``, all in its place: damage is silence."""
        while True:
            block = np.full((BLOCK_FRAMES, self.channels), np.nan, np.float32)
            try:
                with captured(self._lines):
                    block = self._sound.read(out=block)
            except (soundfile.LibsndfileError, RuntimeError) as error:
                # What was decoded before the damage is in the block, but how much is not reported.
                written = np.flatnonzero(~np.isnan(block[:, 0]))
                block = block[: int(written[-1]) + 1 if len(written) else 0]
                self._damage = self._damage or f"{one_line(error)} after {self._seconds(self._read + len(block))} s"
                self._read += len(block)
                yield block
                gap = self._skip()
                if not gap:
                    break
                self._read += gap
                self._silent += gap
                yield from self._silence(gap)
                continue
            if not len(block):
                break
            self._read += len(block)
            yield block
        if self._damage and self._read == self._silent:
            raise BadSound(f"{self.source}: is broken: {self._damage}")

    def _skip(self) -> int:
        """Reopen behind the damage; returns how many frames are left out, 0 if nothing more can be read."""
        if not self.can_rewind:
            return 0
        for power in range(SKIPS):
            gap = SKIP_FRAMES << power
            if self._read + gap >= self.frames:
                break
            self._sound.close()
            try:
                self._sound = self._open()
                with captured(self._lines):
                    self._sound.seek(self._read + gap)
            except (BadSound, soundfile.LibsndfileError, RuntimeError):
                continue
            return gap
        return 0

    def _silence(self, frames: int) -> Iterator[Floats]:
        for start in range(0, frames, BLOCK_FRAMES):
            yield np.zeros((min(BLOCK_FRAMES, frames - start), self.channels), np.float32)

    def _open(self) -> soundfile.SoundFile:
        patches = self._finding.patches
        try:
            with captured(self._lines):
                name = unfinished.PatchedFile(self.source, patches) if patches else os.fsencode(self.source)
                return soundfile.SoundFile(name)  # names need not be UTF-8
        except (soundfile.LibsndfileError, OSError, TypeError, ValueError):
            raise BadSound(f"{self.source}: {_why_not_opened(self.source)}") from None

    def _seconds(self, frames: int) -> str:
        return f"{frames / self.rate_hz:.1f}"

    @property
    def notes(self) -> list[str]:
        """What is wrong with the file, once ``blocks`` has come to its end; usually nothing."""
        notes = [self._finding.note] if self._finding.note else []
        if self._silent:
            notes.append(f"damaged: {self._seconds(self._silent)} s became silence ({self._damage})")
        missing = (self.known_frames or self._read) - self._read
        if missing > max(SHORTER_S * self.rate_hz, SHORTER_SHARE * self.frames) or (missing > 0 and self._damage):
            cut = f"cut: {self._seconds(self._read)} s of the {self._seconds(self.frames)} s in its header can be read"
            notes += [] if self._finding.note else [cut]
        elif self._damage and not self._silent:
            notes.append(f"cut: can be read up to {self._seconds(self._read)} s")
        elif self._lines and not notes:
            notes.append(f"the decoder reports damage: {self._lines[0][:100]}")
        return notes


def _check_kind(source: Path) -> None:
    """Raises BadSound for what cannot be opened at all, or would be waited for."""
    try:
        mode = source.stat().st_mode
        if stat.S_ISREG(mode):
            os.close(os.open(source, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise BadSound(f"{source}: cannot be read: {error.strerror}") from None
    # A pipe that is open already (/dev/stdin) has a writer, or ends; opening a FIFO waits for one, perhaps for ever.
    if stat.S_ISFIFO(mode) and not os.path.realpath(source).startswith("/proc/"):
        raise BadSound(f"{source}: is a FIFO, to which nobody may ever write; name /dev/stdin and redirect it (< FIFO)")
    if stat.S_ISDIR(mode):
        raise BadSound(f"{source}: is a folder")
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise BadSound(f"{source}: is a device or a socket, not a file; name a file, or pipe one to /dev/stdin")


def _why_not_opened(source: Path) -> str:
    if source.is_fifo():
        return "is not a sound that libsndfile reads from a pipe; save it to a file, for which other decoders are tried"
    if source.is_file() and not source.stat().st_size:
        return "is empty"
    if source.suffix.lower() in HEADERLESS:
        return "holds samples without a header, so its rate and format are not known; convert it to .wav"
    return "is not a sound file that libsndfile reads, or it is broken"


def _examine(source: Path) -> unfinished.Finding:
    """A pipe has no size that the header could be compared with."""
    try:
        return unfinished.examine(source) if source.is_file() else unfinished.Finding()
    except OSError as error:
        raise BadSound(f"{source}: cannot be read: {error.strerror}") from None

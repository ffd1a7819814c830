"""The sound of a file in blocks of one or two channels, fit for the chain, and what had to be done to it."""

from collections.abc import Callable, Iterator

import numpy as np
import soundfile

from edge.dsp.spectrum import Floats
from edge.tools.channels import Downmix
from edge.tools.sound_files import read_block

LOUDEST = 100.0
"""Float files may hold any number; samples more than 40 dB above full scale are clipped there."""


class SoundReader:
    """``blocks`` gives the file once, from where it stands; afterwards the figures and ``notes`` are about all of it.

    ``chosen``: the channels wanted, counted from 1: [voice] or [voice, reference]; [0] mixes all of them
    (``edge.tools.channels``).
    """

    def __init__(self, sound: soundfile.SoundFile, chosen: list[int]) -> None:
        self.frames = 0
        """Frames that ``blocks`` gave."""
        self.energy = 0.0
        """Sum of the squares of the voice channel."""
        self.invalid = 0
        """NaN and infinite samples, which became silence."""
        self.channels = sound.channels
        self.rate_hz = sound.samplerate
        self._sound = sound
        self._columns = [number - 1 for number in chosen]
        self._downmix = None if chosen[0] else Downmix(sound.channels, sound.samplerate)

    def blocks(self, progress: Callable[[int, int], None] | None = None) -> Iterator[Floats]:
        """float32 (frames, len(chosen)), finite, at most ``LOUDEST``. Raises BadSound."""
        read = 0
        while len(frames := read_block(self._sound)):
            read += len(frames)
            if progress:
                progress(read, self._sound.frames)
            yield from self._ready(frames)
        if self._downmix:
            yield self._counted(self._downmix.flush()[:, None])

    def _ready(self, frames: Floats) -> Iterator[Floats]:
        invalid = ~np.isfinite(frames)
        self.invalid += int(invalid.sum())
        frames[invalid] = 0
        np.clip(frames, -LOUDEST, LOUDEST, out=frames)
        block = self._downmix.push(frames)[:, None] if self._downmix else np.ascontiguousarray(frames[:, self._columns])
        if len(block):
            yield self._counted(block)

    def _counted(self, block: Floats) -> Floats:
        self.frames += len(block)
        self.energy += energy(block[:, 0])
        return block

    @property
    def mixed_s(self) -> dict[str, float]:
        """Seconds that were made of which channels: {"all": 57.0, "2": 3.0}."""
        if self._downmix:
            return self._downmix.seconds
        return {str(self._columns[0] + 1): round(self.frames / self.rate_hz, 3)}

    @property
    def notes(self) -> list[str]:
        """What had to be done to the sound, one phrase each."""
        notes = [self._downmix.note if self._downmix else ""]
        if self.invalid:
            notes.append(f"{self.invalid} samples were NaN or infinite and became silence")
        return [note for note in notes if note]


def energy(block: Floats) -> float:
    """Sum of squares, in double precision: a float file may hold any number."""
    wide = block.astype(np.float64)
    return float(np.dot(wide, wide))

"""The sound of a file in blocks of one or two channels, fit for the chain, and what had to be done to it."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from edge.dsp.spectrum import Floats
from edge.tools.sounds.channels import MOST_SAMPLES, Downmix
from edge.tools.sounds.float_scale import FLOAT_CODECS, Levels, Scale, UnknownScale
from edge.tools.sounds.sound_kinds import BadSound
from edge.tools.sounds.sound_opening import Readable

LOUDEST = 100.0
"""Float files may hold any number; samples more than 40 dB above full scale are clipped there."""


class SoundReader:
    """``blocks`` gives the file once, from where it stands; afterwards the figures and ``notes`` are about all of it.

    ``chosen``: the channels wanted, counted from 1: [voice] or [voice, reference]; [0] mixes all of them
    (``edge.tools.sounds.channels``).
    """

    def __init__(self, sound: Readable, chosen: list[int]) -> None:
        self.frames = 0
        """Frames that ``blocks`` gave."""
        self.energy = 0.0
        """Sum of the squares of the voice channel."""
        self.invalid = 0
        """NaN and infinite samples, which became silence."""
        self.clipped = 0
        """Samples above ``LOUDEST``."""
        self.scale = Scale()
        self.channels = sound.channels
        self.rate_hz = sound.rate_hz
        self.known_frames = sound.known_frames
        """As in the file's header, 0 where it does not say."""
        self._sound = sound
        self._columns = [number - 1 for number in chosen]
        self._downmix = None if chosen[0] else Downmix(sound.channels, sound.rate_hz)

    def blocks(self, progress: Callable[[int, int], None] | None = None) -> Iterator[Floats]:
        """float32 (frames, len(chosen)), finite, at most ``LOUDEST``. Raises BadSound."""
        read = 0
        for frames in self._scaled() if self._sound.codec in FLOAT_CODECS else self._sound.blocks():
            read += len(frames)
            if progress:
                progress(read, self._sound.known_frames)
            yield from self._ready(frames)
        if self._downmix:
            yield self._counted(self._downmix.flush()[:, None])

    def _scaled(self) -> Iterator[Floats]:
        """Float samples in the scale +-1.0: found in a pass over the whole file, or in the first of a pipe."""
        levels, held = Levels(), []
        pipe = not self._sound.can_rewind
        for frames in self._sound.blocks():
            levels.add(frames)
            if pipe:
                held.append(frames)
                if sum(part.size for part in held) >= MOST_SAMPLES:
                    break
        self.scale = self._scale_of(levels)
        if not pipe:
            self._sound.rewind()
        for frames in itertools.chain(held, self._sound.blocks()):
            if pipe:
                levels.add(frames)
                if self._scale_of(levels).divisor > self.scale.divisor:
                    raise BadSound(
                        f"{self._sound.source}: its float samples have the scale of integers, which shows "
                        "too late in a pipe; save it to a file and name that"
                    )
            yield frames if self.scale.divisor == 1 else frames / np.float32(self.scale.divisor)

    def _scale_of(self, levels: Levels) -> Scale:
        try:
            return levels.scale()
        except UnknownScale as error:
            raise BadSound(f"{self._sound.source}: {error}") from None

    def _ready(self, frames: Floats) -> Iterator[Floats]:
        invalid = ~np.isfinite(frames)
        self.invalid += int(invalid.sum())
        frames[invalid] = 0
        self.clipped += int(np.count_nonzero(np.abs(frames) > LOUDEST))
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
        notes = [*self._sound.notes, self._downmix.note if self._downmix else "", self.scale.note]
        if self.invalid:
            notes.append(f"{self.invalid} samples were NaN or infinite and became silence")
        if self.clipped:
            notes.append(
                f"{self.clipped} samples were over {20 * math.log10(LOUDEST):.0f} dB too loud and were clipped"
            )
        return [note for note in notes if note]


def energy(block: Floats) -> float:
    """Sum of squares, in double precision: a float file may hold any number.

    Not ``np.dot``: OpenBLAS shares it among threads, which wait for each other 25 ms where other work holds the cores.
    """
    return float(np.square(block, dtype=np.float64).sum())

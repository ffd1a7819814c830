"""Opens a sound by whatever reads it: libsndfile, else a foreign decoder for what that may know."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edge.dsp.spectrum import Floats
from edge.tools.sounds.foreign_decoder import Foreign
from edge.tools.sounds.sound_input import SoundInput
from edge.tools.sounds.sound_kinds import BadSound, head_of, may_be_foreign


class Readable(Protocol):
    """A sound that is open for reading; a context manager."""

    source: Path
    rate_hz: int
    channels: int
    codec: str
    can_rewind: bool

    @property
    def known_frames(self) -> int:
        """As in the header, possibly an estimate; 0 where it does not say."""

    @property
    def sure_frames(self) -> int:
        """As the size of the file proves; 0 where it does not."""

    @property
    def notes(self) -> list[str]:
        """What is wrong with the file, once ``blocks`` has come to its end."""

    def blocks(self) -> Iterator[Floats]:
        """float32 (frames, channels). Raises BadSound."""

    def rewind(self) -> None:
        """To the first frame; only where ``can_rewind``."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def open_sound(source: Path) -> Readable:
    """Raises BadSound, naming what is wrong and, where a decoder is missing, the fix."""
    try:
        return SoundInput(source)
    except BadSound:
        try:
            foreign = may_be_foreign(head_of(source), source.suffix.lower())
        except OSError:
            foreign = False
        if not foreign:
            raise
    return Foreign(source)

"""What decides the gains of a hop: the contract of everything that looks at one spectrum and judges it."""

from typing import Protocol

from edge.dsp.spectrum import Floats, Spectra


class Estimator(Protocol):
    """What decides the gains."""

    name: str
    skipped: bool = False
    """Whether it had nothing to compute for the last spectrum; a network that sleeps sets it."""

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        """complex64[161] in, gains 0..1 written into float32[64]; returns the speech probability 0..1."""

    def reset(self) -> None:
        """Forget the signal."""

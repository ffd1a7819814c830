"""The box with each of its two paths switched on or off, and a sound through it."""

from dataclasses import dataclass, replace

import numpy as np

from edge import HOP_SAMPLES
from edge.chain import Chain
from edge.config import Config
from edge.dsp.spectrum import Floats


@dataclass(frozen=True)
class Mode:
    """Which of the two paths are switched on."""

    name: str
    feedforward: bool
    feedback: bool


MODES = (
    Mode("high-pass", False, False),
    Mode("feedforward", True, False),
    Mode("network", False, True),
    Mode("both", True, True),
)


def settings(mode: Mode, engine: str) -> Config:
    """As shipped, but without the gate, which would attenuate pauses in every mode alike."""
    shipped = Config()
    return replace(
        shipped,
        suppress=replace(shipped.suppress, engine=engine if mode.feedback else "off"),
        gate=replace(shipped.gate, on=False),
        reference=replace(shipped.reference, channel=2 if mode.feedforward else 0),
    )


def processed(chain: Chain, voice: Floats, reference: Floats | None) -> Floats:
    """Hop by hop through the chain, its delay taken out."""
    walked = np.concatenate([voice, np.zeros(-(-chain.delay_samples // HOP_SAMPLES) * HOP_SAMPLES, np.float32)])
    other = np.zeros_like(walked)
    if reference is not None:
        other[: len(reference)] = reference
    for at in range(0, len(walked), HOP_SAMPLES):
        now = slice(at, at + HOP_SAMPLES)
        chain.process(walked[now], other[now] if reference is not None else None)
    return walked[chain.delay_samples :][: len(voice)]

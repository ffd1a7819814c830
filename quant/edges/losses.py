"""What an engine took away from one recording of the set."""

from typing import NamedTuple

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import Floats
from models.measures import level_change_db, si_sdr_db
from quant.edges.cases import CLEAR_DB, Case, active_level, hop_powers

ONSET_SAMPLES = round(0.08 * RATE_HZ)
"""The first 80 ms of a word: its first consonant and the beginning of the vowel."""
LOUD_DB = 15
"""A stretch of 80 ms counts for the worst one if it is within so many dB of the active level."""
LEAST_DB = -100.0
"""Reported for silence."""


class Losses(NamedTuple):
    """Levels in dB against the clean speech, negative is lost; NaN where noise hides it."""

    onsets_db: list[float]
    """Level of the first 80 ms of each word."""
    worst_db: float
    """The same of the worst 80 ms anywhere in the speech."""
    level_db: float
    """The speech as a whole: the part of the output that correlates with the clean speech."""
    si_sdr_improvement_db: float


def losses(case: Case, estimate: Floats) -> Losses:
    """``estimate``: aligned with the case, of its length."""
    clear = case.snr_db >= CLEAR_DB
    stretches = [slice(at, at + ONSET_SAMPLES) for at in case.onsets] if clear else []
    share = float(estimate @ case.clean) / float(case.clean @ case.clean)
    return Losses(
        [change_db(case.clean[part], estimate[part]) for part in stretches],
        worst_stretch_db(case.clean, estimate) if clear else float("nan"),
        20 * float(np.log10(max(share, 10 ** (LEAST_DB / 20)))),
        si_sdr_db(case.clean, estimate) - si_sdr_db(case.clean, case.noisy),
    )


def change_db(before: Floats, after: Floats) -> float:
    """How much louder ``after`` is, at least ``LEAST_DB``."""
    return max(level_change_db(before, after), LEAST_DB) if after.any() else LEAST_DB


def worst_stretch_db(clean: Floats, estimate: Floats) -> float:
    """The greatest loss of a stretch of 80 ms that is no pause, over starts 5 ms apart."""
    before, after = (
        np.convolve(hop_powers(x.astype(float)), np.ones(ONSET_SAMPLES // HOP_SAMPLES), "valid")
        for x in (clean, estimate)
    )
    loud = active_level(clean.astype(float)) ** 2 * ONSET_SAMPLES / HOP_SAMPLES * 10 ** (-LOUD_DB / 10)
    chosen = before > loud
    ratio = after[chosen] / before[chosen]
    return max(10 * float(np.log10(max(ratio.min(), 1e-20))), LEAST_DB)

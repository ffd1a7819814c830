"""What is measured of one output."""

import numpy as np

from edge import HOP_SAMPLES
from edge.dsp.spectrum import Floats
from models.measures import (
    dnsmos,
    level_change_db,
    noise_alone,
    pauses,
    pesq_wb,
    roc_auc,
    si_sdr_db,
    spoken,
    stoi,
)
from quant.evaluate.engines import ENGINES
from quant.peers import Engine, Heard


def removed_in_likely_pauses_db(noisy: Floats, estimate: Floats, share: float = 0.2) -> float:
    """How much quieter a sound without a clean reference became where speech is least likely; NaN if it is silent.

    The ``share`` of the 40 ms stretches that engine dsp gives the least speech probability, and of their changes the
    median, because some of them hold speech all the same.
    """
    speech = ENGINES["dsp"].hear(noisy, 60).speech
    assert speech is not None
    block_hops = 8
    blocks = len(noisy) // (block_hops * HOP_SAMPLES)
    likely = speech[: blocks * block_hops].reshape(blocks, block_hops).mean(axis=1)
    before, after = (
        np.square(x[: blocks * block_hops * HOP_SAMPLES].reshape(blocks, -1)).mean(axis=1) for x in (noisy, estimate)
    )
    sounding = before > 1e-10
    if not sounding.any():
        return float("nan")
    chosen = sounding & (likely <= np.quantile(likely[sounding], share))
    return float(np.median(10 * np.log10(before[chosen] / np.maximum(after[chosen], 1e-20))))


MEASURES: dict[str, tuple[str, int]] = {
    "pesq_wb": ("PESQ-WB", 3),
    "stoi": ("STOI", 3),
    "estoi": ("ESTOI", 3),
    "si_sdr_db": ("SI-SDR dB", 2),
    "si_sdr_improvement_db": ("SI-SDR improvement dB", 2),
    "dnsmos_sig": ("DNSMOS SIG", 2),
    "dnsmos_bak": ("DNSMOS BAK", 2),
    "dnsmos_ovrl": ("DNSMOS OVRL", 2),
    "clean_level_db": ("clean speech kept dB", 2),
    "noise_removed_db": ("noise removed in pauses dB", 1),
    "noise_alone_removed_db": ("removed from noise alone dB", 1),
    "speech_auc": ("VAD ROC-AUC", 3),
}
"""Every measure: heading and digits."""


def measure(clean: Floats | None, noisy: Floats, estimate: Floats) -> dict[str, float]:
    """The measures of one output; signals of one length, aligned. Without ``clean`` only what needs none."""
    sig, bak, ovrl = dnsmos(estimate)
    marks = {"dnsmos_sig": sig, "dnsmos_bak": bak, "dnsmos_ovrl": ovrl}
    if clean is None:
        return marks | {"noise_removed_db": removed_in_likely_pauses_db(noisy, estimate)}
    quiet = pauses(clean)
    si_sdr = si_sdr_db(clean, estimate)
    return {
        "pesq_wb": pesq_wb(clean, estimate),
        "stoi": stoi(clean, estimate),
        "estoi": stoi(clean, estimate, extended=True),
        "si_sdr_db": si_sdr,
        "si_sdr_improvement_db": si_sdr - si_sdr_db(clean, noisy),
        "noise_removed_db": -level_change_db(noisy[quiet], estimate[quiet]),
        **marks,
    }


def probe(engine: Engine, clean: Floats, noisy: Floats, heard: Heard, limit_db: float) -> dict[str, float]:
    """What one engine does to speech and noise alone, and how well its speech probability agrees with the labels."""
    noise = noise_alone(clean, noisy)
    truth = spoken(clean)
    return {
        "clean_level_db": level_change_db(clean, engine(clean.copy(), limit_db)),
        "noise_alone_removed_db": (
            float("nan") if noise is None else -level_change_db(noise, engine(noise.copy(), limit_db))
        ),
        "speech_auc": float("nan") if heard.speech is None else roc_auc(heard.speech[: len(truth)], truth),
    }

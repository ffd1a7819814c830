"""What is measured of a sound: nearness to its clean reference, DNSMOS, levels, speech decisions, delay.

16 kHz mono float32 throughout. PESQ, STOI and DNSMOS come from the packages of the extra ``evaluate``, imported where
they are used.
"""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import WINDOW_SAMPLES, Floats, analysis_window


def si_sdr_db(clean: Floats, estimate: Floats) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), zero-mean, dB."""
    reference = clean.astype(np.float64) - clean.mean(dtype=np.float64)
    heard = estimate.astype(np.float64) - estimate.mean(dtype=np.float64)
    target = reference * (heard @ reference / max(float(reference @ reference), 1e-20))
    rest = heard - target
    return float(10 * np.log10((target @ target + 1e-20) / (rest @ rest + 1e-20)))


def pesq_wb(clean: Floats, estimate: Floats) -> float:
    """1.0 to 4.64; NaN where P.862 finds no utterance to judge."""
    from pesq import PesqError, pesq

    try:
        return float(pesq(RATE_HZ, clean, estimate, "wb"))
    except PesqError:
        return float("nan")


def stoi(clean: Floats, estimate: Floats, extended: bool = False) -> float:
    from pystoi import stoi as measure

    return float(measure(clean, estimate, RATE_HZ, extended=extended))


DNSMOS_POLYNOMIALS = {
    "SIG": (-0.08397278, 1.22083953, 0.0052439),
    "BAK": (-0.13166888, 1.60915514, -0.39604546),
    "OVRL": (-0.06766283, 1.11546468, 0.04602535),
}
"""From the model's three outputs to marks, highest power first: Microsoft's dnsmos_local.py has them."""


def dnsmos_file() -> Path:
    """The model in the package speechmos."""
    spec = importlib.util.find_spec("speechmos")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"


@cache
def _dnsmos_session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(dnsmos_file()), options, providers=["CPUExecutionProvider"])


def dnsmos(estimate: Floats) -> tuple[float, float, float]:
    """SIG, BAK, OVRL on the first 9.01 s; shorter sound is repeated, as Microsoft's dnsmos_local.py does."""
    window = int(9.01 * RATE_HZ)
    audio = np.tile(estimate, -(-window // max(len(estimate), 1)))[:window]
    raw = _dnsmos_session().run(None, {"input_1": np.clip(audio, -1, 1)[np.newaxis].astype(np.float32)})[0][0]
    sig, bak, ovrl = (float(np.polyval(p, x)) for p, x in zip(DNSMOS_POLYNOMIALS.values(), raw, strict=True))
    return sig, bak, ovrl


def level_change_db(before: Floats, after: Floats) -> float:
    """How much louder ``after`` is, dB; NaN if either is silent."""
    power_in, power_out = float(before @ before), float(after @ after)
    return 10 * float(np.log10(power_out / power_in)) if power_in > 0 < power_out else float("nan")


def pauses(clean: Floats, below_peak_db: float = 45) -> NDArray[np.bool_]:
    """Which samples lie in a 40 ms stretch that is ``below_peak_db`` under the loudest one: nobody speaks there."""
    block = RATE_HZ // 25
    whole = len(clean) // block * block
    power = np.square(clean[:whole].reshape(-1, block)).mean(axis=1)
    quiet = power <= power.max(initial=0.0) * 10 ** (-below_peak_db / 10)
    mask = np.zeros(len(clean), bool)
    mask[:whole] = np.repeat(quiet, block)
    return mask


def spoken(clean: Floats) -> NDArray[np.bool_]:
    """Every 5 ms hop of ``clean``: whether the frame that ends with it lies within 33 dB of the loudest one.

    The same frames and the same rule as the labels in training; nobody speaks in a file below -80 dBFS.
    """
    padded = np.concatenate([np.zeros(WINDOW_SAMPLES - HOP_SAMPLES, np.float32), clean])
    frames = sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES] * analysis_window()
    energy = np.square(frames, dtype=np.float64).sum(axis=1)
    loudest = energy.max(initial=0.0)
    return (energy > loudest * 10**-3.3) & (loudest > 1e-8 * WINDOW_SAMPLES)


def roc_auc(score: Floats, truth: NDArray[np.bool_]) -> float:
    """The chance that a true hop scores above a false one, ties counting half (Mann-Whitney); NaN if all are alike."""
    from scipy.stats import rankdata

    true, false = int(truth.sum()), int((~truth).sum())
    if not true or not false:
        return float("nan")
    return float((rankdata(score)[truth].sum() - true * (true + 1) / 2) / (true * false))


def noise_alone(clean: Floats, noisy: Floats) -> Floats | None:
    """What is in ``noisy`` beside ``clean``; None if that is nothing, or if speech is left in it."""
    rest = noisy - clean
    both = float(np.linalg.norm(rest)) * float(np.linalg.norm(clean))
    return rest if rest.any() and abs(float(rest @ clean)) <= 0.1 * both else None


def lag_samples(reference: Floats, late: Floats, longest: int = 1600) -> int:
    """By how many samples ``late`` lies behind ``reference``: the peak of their cross-correlation, 0..100 ms."""
    size = 2 * max(len(reference), len(late))
    cross = np.fft.irfft(np.fft.rfft(late, size) * np.conj(np.fft.rfft(reference, size)), size)
    return int(np.argmax(cross[: longest + 1]))


def without_lag(late: Floats, lag: int, length: int) -> Floats:
    """``late`` moved ``lag`` samples forward and cut or filled with silence to ``length``."""
    moved = np.zeros(length, np.float32)
    kept = late[lag : lag + length]
    moved[: len(kept)] = kept
    return moved

"""How far a quantized network lies from its float file, and which variant passes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from rich.table import Table

from edge import HOP_SAMPLES
from edge.dsp.spectrum import DELAY_SAMPLES, Floats, band_weights
from models.measures import pesq_wb
from quant.calibrate import Samples, hops_of
from quant.graph import open_session, silence_of
from quant.hops import Hops
from quant.quantize.weights import Array

MOST_PESQ_LOSS = 0.05

LEAST_SNR_DB = 25.0

MOST_SLOWER = 1.1

TIMED_HOPS = 1500


@dataclass(frozen=True)
class Figures:
    """What a variant of our network is like; differences are those from the float file."""

    variant: str
    size_bytes: int
    hop_us: float
    gain_most: float = 0.0
    gain_mean: float = 0.0
    snr_db: float = float("inf")
    pesq: float = float("nan")
    pesq_loss: float = float("nan")


@dataclass(frozen=True)
class Gate:
    """The limits of a variant."""

    most_bytes: int
    float_us: float

    def objections(self, found: Figures) -> list[str]:
        """Why a variant is refused; empty if it passes. A PESQ loss that was not measured does not object."""
        found_wrong = []
        if found.size_bytes > self.most_bytes:
            found_wrong.append(f"{found.size_bytes / 1000:.1f} KB are more than {self.most_bytes / 1000:g}")
        if not found.snr_db >= LEAST_SNR_DB:
            found_wrong.append(f"output only {found.snr_db:.1f} dB above its error")
        if found.pesq_loss > MOST_PESQ_LOSS:
            found_wrong.append(f"{found.pesq_loss:.3f} PESQ lost")
        if found.hop_us > MOST_SLOWER * self.float_us:
            found_wrong.append(f"{found.hop_us:.0f} µs a hop against {self.float_us:.0f} in float")
        return found_wrong


def enhance(hops: Hops, noisy: Floats) -> tuple[Floats, Floats]:
    """Through the box's transform: enhanced, lined up and as long as ``noisy``, and the gains [hops, 64]."""
    hops.reset()
    padded = np.concatenate([noisy, np.zeros(DELAY_SAMPLES + HOP_SAMPLES - len(noisy) % HOP_SAMPLES, np.float32)])
    spread, output, gains = band_weights(), np.zeros_like(padded), list[Floats]()
    for at, (transform, features) in zip(range(0, len(padded), HOP_SAMPLES), hops_of(padded), strict=True):
        gains.append(hops.step(features)[0])
        transform.spectrum *= gains[-1] @ spread
        transform.synthesise(output[at : at + HOP_SAMPLES])
    return output[DELAY_SAMPLES : DELAY_SAMPLES + len(noisy)], np.array(gains)


def hop_us(sessions: list[Any], samples: Samples) -> list[float]:
    """Median time of one hop of each, taken in turns on the same inputs, so that all see the same machine."""
    times: list[list[float]] = [[] for _ in sessions]
    for at in range(TIMED_HOPS):
        row = slice(at % len(samples.features), at % len(samples.features) + 1)
        feed = {"features": samples.features[row], "state": samples.state[row]}
        for session, taken in zip(sessions, times, strict=True):
            began = time.perf_counter()
            session.run(None, feed)
            taken.append(time.perf_counter() - began)
    return [1e6 * float(np.median(taken)) for taken in times]


def compare(
    models: dict[str, onnx.ModelProto],
    samples: Samples,
    sounds: list[tuple[Floats, Floats | None]],
    tick: Callable[[], object] = lambda: None,
) -> list[Figures]:
    """Every model's figures; the first is the float one. ``sounds``: noisy, and clean if PESQ is to be taken."""
    sessions = {variant: open_session(model) for variant, model in models.items()}
    streams = {variant: Hops(sessions[variant], silence_of(model)) for variant, model in models.items()}
    times = dict(zip(models, hop_us([*sessions.values()], samples), strict=True))
    pesq: dict[str, list[float]] = {variant: [] for variant in models}
    outputs: dict[str, list[Floats]] = {variant: [] for variant in models}
    gains: dict[str, list[Floats]] = {variant: [] for variant in models}
    first = next(iter(models))
    for noisy, clean in sounds:
        for variant, stream in streams.items():
            enhanced, applied = enhance(stream, noisy)
            outputs[variant].append(enhanced)
            gains[variant].append(applied)
            if clean is not None:
                pesq[variant].append(pesq_wb(clean, enhanced))
        tick()
    mean_pesq = {
        variant: float(np.nanmean(values)) if np.isfinite(values).any() else np.nan for variant, values in pesq.items()
    }
    apart = {variant: np.abs(np.concatenate(gains[variant]) - np.concatenate(gains[first])) for variant in models}
    return [
        Figures(
            variant=variant,
            size_bytes=models[variant].ByteSize(),
            hop_us=times[variant],
            gain_most=float(apart[variant].max()),
            gain_mean=float(apart[variant].mean()),
            snr_db=snr_db(np.concatenate(outputs[first]), np.concatenate(outputs[variant])),
            pesq=mean_pesq[variant],
            pesq_loss=mean_pesq[first] - mean_pesq[variant],
        )
        for variant in models
    ]


def choose(figures: list[Figures], most_bytes: int) -> tuple[Figures | None, str]:
    """The smallest variant that passes the gate, and one sentence why; None if none passes."""
    gate = Gate(most_bytes, figures[0].hop_us)
    objections = {found.variant: gate.objections(found) for found in figures[1:]}
    refused = "; ".join(f"{variant} does not pass: {', '.join(why)}" for variant, why in objections.items() if why)
    passing = sorted(
        (found for found in figures[1:] if not objections[found.variant]), key=lambda found: found.size_bytes
    )
    if not passing:
        return None, refused
    best = passing[0]
    cost = f"{best.size_bytes / 1000:.1f} KB, {best.hop_us:.0f} µs a hop"
    why = f"{best.variant} is chosen: the smallest that passes, {cost}"
    return best, f"{why}, output {best.snr_db:.1f} dB above its error" + (f"; {refused}." if refused else ".")


def table_of(figures: list[Figures], sounds: int) -> Table:
    table = Table(title=f"against float, {sounds} recordings", title_justify="left")
    for heading in ("variant", "bytes", "µs a hop", "largest gain error", "mean", "SNR dB", "PESQ", "PESQ loss"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    for found in figures:
        quality = (found.gain_most, found.gain_mean, found.snr_db, found.pesq, found.pesq_loss)
        texts = (f"{value:.{digits}f}" for value, digits in zip(quality, (3, 4, 1, 3, 3), strict=True))
        table.add_row(found.variant, str(found.size_bytes), f"{found.hop_us:.1f}", *texts)
    return table


def snr_db(wanted: Array, got: Array) -> float:
    """How far ``wanted`` lies above its difference from ``got``; infinite where they are equal."""
    signal, error = (float(np.square(x, dtype=np.float64).sum()) for x in (wanted, got - wanted))
    return 10 * float(np.log10(max(signal, 1e-300) / error)) if error else float("inf")

"""The measured delay from microphone to jack: play a chirp, record it through ALSA, compare with the budget.

The jack must reach the microphone: a cable, a headphone laid on the microphone, or a loop-back device. A chirp
passes the whole chain (in bypass, so that nothing takes it for noise), the output, the loop and the input; its position
in the recording, minus its position in the signal, is the delay that a wearer has.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import chirp, correlate

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.box import Box
from edge.config import Config
from edge.console import step
from edge.devices.alsa import open_pcm
from edge.devices.pcm import OpenPcm
from edge.dsp.spectrum import Floats
from edge.tools.loopback import NothingHeard, play_and_record

CHIRPS = 5
CHIRP_MS = 50.0
EVERY_MS = 600.0
"""Longer than any delay worth measuring, so that chirps are never confused."""
CLEAR = 8.0
"""A chirp is heard if its correlation peak stands this far above the median of the rest."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds; the budget's parts and what was measured."""

    capture_ms: float
    hop_ms: float
    transform_ms: float
    limiter_ms: float
    playback_ms: float
    measured_ms: float
    spread_ms: float
    xruns: int
    engine: str
    """The engine whose delay it is, as in the settings."""
    notes: list[str]
    """Why it is not the one that the settings name, if it is not."""

    @property
    def budget_ms(self) -> float:
        return self.capture_ms + self.hop_ms + self.transform_ms + self.limiter_ms + self.playback_ms


def measure(config: Config, opener: OpenPcm = open_pcm) -> Latency:
    """Raises DeviceError if a device cannot be opened, NothingHeard if no loop is there. Takes about five seconds."""
    box = Box(config, opener)
    capture = config.capture
    signal = chirps(1500 + capture.mute_ms + capture.fade_ms)
    box.chain.bypass = True
    step(f"playing chirps for {len(signal) / RATE_HZ:.0f} s ...")
    try:
        heard = play_and_record(box, signal, box.chain.process)
    finally:
        step("")
    lags = _lags(signal, heard)
    chain = box.chain
    return Latency(
        capture_ms=box.capture.latency_ms,
        hop_ms=HOP_MS,
        transform_ms=HOP_MS * chain.engine.delay_samples / HOP_SAMPLES,
        limiter_ms=HOP_MS * chain.limiter.delay_samples / HOP_SAMPLES,
        playback_ms=box.playback.latency_ms,
        measured_ms=1000 * float(np.median(lags)) / RATE_HZ,
        spread_ms=1000 * float(np.ptp(lags)) / RATE_HZ,
        xruns=box.capture.xruns + box.playback.xruns,
        engine=chain.engine.name,
        notes=chain.notes,
    )


def chirps(settle_ms: float) -> Floats:
    """float32, whole hops: silence while the microphone settles, then the chirps, 300 Hz to 6 kHz at -12 dBFS."""
    span = np.arange(round(CHIRP_MS * RATE_HZ / 1000)) / RATE_HZ
    sweep = 0.25 * chirp(span, 300, span[-1], 6000) * np.hanning(len(span))
    every = round(EVERY_MS * RATE_HZ / 1000)
    signal = np.zeros(round(settle_ms * RATE_HZ / 1000) + CHIRPS * every, np.float32)
    for number in range(CHIRPS):
        start = len(signal) - (CHIRPS - number) * every
        signal[start : start + len(sweep)] = sweep
    return np.concatenate([np.zeros(-len(signal) % HOP_SAMPLES, np.float32), signal])


def _lags(sent: Floats, recorded: Floats) -> list[float]:
    """Delay of each chirp in samples, to a fraction of a sample."""
    every = round(EVERY_MS * RATE_HZ / 1000)
    sweep = sent[-CHIRPS * every :][: round(CHIRP_MS * RATE_HZ / 1000)]
    lags = []
    for number in range(CHIRPS):
        start = len(sent) - (CHIRPS - number) * every
        correlation = np.abs(correlate(recorded[start : start + every], sweep, "valid"))
        peak = int(correlation.argmax())
        if correlation[peak] > CLEAR * np.median(correlation) and correlation[peak] > 1e-6:
            lags.append(peak + _vertex(correlation, peak))
    if len(lags) < 3:
        raise NothingHeard(
            "the microphone did not hear the chirp: connect the output to the microphone (a cable, or the headphone "
            "laid on it) and raise [playback] volume_db if it plays too softly"
        )
    return lags


def _vertex(values: Floats, peak: int) -> float:
    """Where between its neighbours a parabola through the peak has its top, -0.5 to 0.5."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    before, top, after = (float(values[peak + step]) for step in (-1, 0, 1))
    curve = before - 2 * top + after
    return 0.5 * (before - after) / curve if curve else 0.0

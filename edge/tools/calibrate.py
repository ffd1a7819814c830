"""`quietbox calibrate`: measure the secondary path (output to microphone) with sweeps, for the anti-noise.

An exponential sweep (Farina 2000, "Simultaneous measurement of impulse response and distortion with a swept-sine
technique") goes straight to the output, without the chain, and the spectrum of what the microphone records
meanwhile is divided by that of the sweep. The headphone must sit as it will be worn, the microphone where the ear is.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ, files
from edge.box import Box
from edge.config import Config
from edge.devices.alsa import open_pcm
from edge.devices.pcm import OpenPcm
from edge.dsp.secondary_path import SecondaryPath
from edge.dsp.spectrum import Floats
from edge.files import atomic
from edge.tools.loopback import NothingHeard, play_and_record

SWEEPS = 3
SWEEP_S = 3.0
PAUSE_S = 1.0
"""After each; what comes back later than this belongs to nothing."""
LOW_HZ, HIGH_HZ = 30.0, 7000.0
KEPT_S = 0.1
"""Of the response after its peak."""
HEARD_DB = 10.0
"""The response is there if it stands this far above the noise of its own measurement."""
HEADROOM_DB = 1.0
"""How far below the output's peak a sweep stays: the converter's ripple must not reach the limiter."""
FAINTEST = 1e-4
"""A path with 80 dB of loss is crosstalk of the converters, not a headphone."""


@dataclass(frozen=True)
class Calibrated:
    """What was measured, in words for the user."""

    delay_ms: float
    spread_ms: float
    """Between the sweeps; above 2 ms, tones over 100 Hz may be amplified until the box has adapted."""
    signal_to_noise_db: float
    loudest_hz: float
    gain_db: float
    """From output to microphone where that is most."""
    file: str


def calibrate(config: Config, file: Path, level_dbfs: float = -20.0, opener: OpenPcm = open_pcm) -> Calibrated:
    """Takes about 14 s. Raises DeviceError if a device cannot be opened, NothingHeard, and BadFile or OSError if the
    file cannot be written (before anything is played). The sweeps are played at ``level_dbfs`` or
    ``highest_level_dbfs``, whichever is lower.
    """
    level_dbfs = min(level_dbfs, highest_level_dbfs(config))
    file.parent.mkdir(parents=True, exist_ok=True)
    files.check_regular(file)
    atomic.can_write(file)
    found, delays_ms = _measure(Box(config, opener), level_dbfs)
    found.save(file)
    gains = np.abs(np.fft.rfft(found.response, RATE_HZ))[round(LOW_HZ) : round(HIGH_HZ)]
    return Calibrated(
        delay_ms=1000 * found.delay_samples / RATE_HZ,
        spread_ms=float(np.ptp(delays_ms)),
        signal_to_noise_db=found.signal_to_noise_db,
        loudest_hz=LOW_HZ + float(gains.argmax()),
        gain_db=20 * float(np.log10(gains.max())),
        file=str(file),
    )


def highest_level_dbfs(config: Config) -> float:
    """The loudest sweep that the output leaves as it is: a limited one would measure a path that is too quiet."""
    return config.limiter.peak_dbfs - HEADROOM_DB


def sweep(level_dbfs: float) -> Floats:
    """float32, 3 s: from 30 Hz to 7 kHz, every octave as long as the next, faded at both ends over 20 ms."""
    span = np.arange(round(SWEEP_S * RATE_HZ)) / RATE_HZ
    octaves = np.log(HIGH_HZ / LOW_HZ)
    phase = 2 * np.pi * LOW_HZ * SWEEP_S / octaves * np.expm1(span * octaves / SWEEP_S)
    fade = np.clip(np.minimum(span, span[::-1]) / 0.02, 0, 1)
    return (10 ** (level_dbfs / 20) * fade * np.sin(phase)).astype(np.float32)


def response_to(sent: Floats, heard: Floats) -> tuple[Floats, float]:
    """Impulse response (float32, from no delay on) and how far it stands above its noise, dB.

    ``heard`` is longer than ``sent`` by the latest that can come back. Where the sweep holds no power the division is
    damped, so nothing is made of noise there.
    """
    padded = len(heard) + len(sent)
    played = np.fft.rfft(sent.astype(np.float64), padded)
    power = np.abs(played) ** 2
    hz = np.fft.rfftfreq(padded, 1 / RATE_HZ)
    pink = power * np.maximum(hz, LOW_HZ)  # an exponential sweep holds 1/f
    inside = pink > 0.05 * np.median(pink[(hz > LOW_HZ) & (hz < HIGH_HZ)])
    damping = np.where(inside, 1e-3 * power, power.max())
    answer = np.fft.irfft(np.fft.rfft(heard.astype(np.float64), padded) * played.conj() / (power + damping), padded)
    late = len(heard) - len(sent)
    peak = int(np.abs(answer[:late]).argmax())
    kept = min(round(KEPT_S * RATE_HZ), late - peak)
    response = answer[: peak + kept].copy()
    fall = min(kept, RATE_HZ // 100)
    response[len(response) - fall :] *= np.linspace(1, 0, fall)
    # what a sweep cannot have caused: answers before it was sent
    noise = float(np.mean(answer[-len(sent) // 2 : -RATE_HZ // 10] ** 2)) + 1e-20
    near = answer[max(0, peak - 16) : peak + 64]
    ratio_db = 10 * float(np.log10((np.mean(near**2) + 1e-20) / noise))
    return response.astype(np.float32), ratio_db


def _measure(box: Box, level_dbfs: float) -> tuple[SecondaryPath, list[float]]:
    sent = sweep(level_dbfs)
    recordings = _record_sweeps(box, sent)
    if box.capture.xruns + box.playback.xruns:
        raise NothingHeard("the sound was interrupted during the measurement (the machine was busy); try again")
    best, best_db, delays_ms = np.zeros(0, np.float32), -np.inf, []
    for recording in recordings:
        response, ratio_db = response_to(sent, recording)
        if ratio_db < HEARD_DB or np.abs(np.fft.rfft(response)).max() < FAINTEST:
            continue
        delays_ms.append(1000 * int(np.abs(response).argmax()) / RATE_HZ)
        if ratio_db > best_db:
            best, best_db = response, ratio_db
    if len(delays_ms) < 2:
        raise NothingHeard(
            "the microphone did not hear the sweep: put the headphone on (or lay it on the microphone), turn it up, "
            "and check that the microphone works (`quietbox doctor`)"
        )
    return SecondaryPath(best, box.config.capture.gain_db, best_db), delays_ms


def _record_sweeps(box: Box, sent: Floats) -> list[Floats]:
    """The sweeps straight to the output; for each the recording until the end of the pause after it."""
    settings = box.config.capture
    settle = np.zeros(round((1.5 + (settings.mute_ms + settings.fade_ms) / 1000) * RATE_HZ), np.float32)
    pause = np.zeros(round(PAUSE_S * RATE_HZ), np.float32)
    signal = np.concatenate([settle, *[sent, pause] * SWEEPS])
    signal = np.concatenate([signal, np.zeros(-len(signal) % HOP_SAMPLES, np.float32)])
    recorded = play_and_record(box, signal)
    every = len(sent) + len(pause)
    return [recorded[len(settle) + number * every :][:every] for number in range(SWEEPS)]

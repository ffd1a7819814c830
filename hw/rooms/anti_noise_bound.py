"""How much anti-noise can remove with the delay of this box, by theory and by simulation.

    python -m hw.rooms.anti_noise_bound

Prints what the best linear prediction removes from noise bands of several widths, and what ``edge.dsp.antinoise``
removes from a tone whose frequency wanders, beside the formula.
"""

import math

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.config import AntinoiseConfig
from edge.console import run_main
from edge.dsp.antinoise import AntiNoise
from edge.dsp.secondary_path import SecondaryPath
from edge.dsp.spectrum import Complexes, Doubles
from edge.dsp.tone_finder import HOP_S


def attenuation_of(wander_hz: float, seconds: float = 14.0, seed: int = 0) -> float:
    """dB less of a 200 Hz tone whose frequency wanders by ``wander_hz`` (standard deviation, remembered for 1 s), with
    45 ms of delay and noise 24 dB below it, over the last half of the time.
    """
    rng = np.random.default_rng(seed)
    count = round(seconds / HOP_S)
    offset_hz, wandering = 0.0, np.zeros(count)
    for number, push in enumerate(rng.standard_normal(count)):
        offset_hz += -HOP_S * offset_hz + wander_hz * math.sqrt(2 * HOP_S) * push
        wandering[number] = offset_hz
    phase = 2 * np.pi * np.cumsum(200 + np.repeat(wandering, HOP_SAMPLES)) / RATE_HZ
    noise = 0.05 * np.sin(phase) + 0.0022 * rng.standard_normal(len(phase))
    response = np.zeros(800, np.float32)
    response[720] = 0.5
    stage = AntiNoise(SecondaryPath(response, 0.0, 40.0), AntinoiseConfig())
    heard, played = np.zeros_like(noise), np.zeros_like(noise)
    hop = np.zeros(HOP_SAMPLES, np.float32)
    for start in range(0, len(noise), HOP_SAMPLES):
        back = played[max(0, start - 720) : max(0, start - 720 + HOP_SAMPLES)]
        heard[start : start + HOP_SAMPLES] = noise[start : start + HOP_SAMPLES]
        heard[start : start + len(back)] += 0.5 * back
        stage.hear(heard[start : start + HOP_SAMPLES].astype(np.float32))
        hop.fill(0)
        stage.process(hop)
        played[start : start + HOP_SAMPLES] = hop
    line = np.exp(-1j * phase)[len(phase) // 2 :]
    alone, left = (_near(sound[len(phase) // 2 :], line) for sound in (noise, heard))
    return 10 * math.log10(alone / left)


def _near(sound: Doubles, line: Complexes) -> float:
    """Power within some Hz of the line."""
    blocks = len(sound) // 1600
    means = (sound * line)[: blocks * 1600].reshape(blocks, 1600).mean(axis=1)
    return float(np.mean(np.abs(means) ** 2))


def predictable_db(width_hz: float, ahead_ms: float, centre_hz: float = 150.0) -> float:
    """What the best linear forecast removes from noise in a second-order Butterworth band, with white noise 40 dB
    below its mean: Wiener's equations over 300 ms of past, at 2 kHz.
    """
    rate_hz, memory = 2000, 600
    hz = np.abs(np.fft.fftfreq(2**17, 1 / rate_hz))
    off = (hz**2 - centre_hz**2) / np.maximum(width_hz * hz, 1e-9)
    power = 1 / (1 + off**4)
    alike = np.fft.ifft(power / power.mean() + 1e-4).real
    lags = np.arange(memory)
    ahead = alike[round(ahead_ms * rate_hz / 1000) + lags]
    weights = np.linalg.solve(alike[np.abs(lags[:, None] - lags)], ahead)
    return -10 * math.log10(1 - float(weights @ ahead) / float(alike[0]))


def main() -> None:
    print("noise around 150 Hz, predicted by 0.5, 6 and 40 ms: dB less at best")
    for width_hz in (106.0, 20.0, 5.0, 1.0):
        figures = "".join(f"{predictable_db(width_hz, ahead_ms):8.1f}" for ahead_ms in (0.5, 6.0, 40.0))
        print(f"{width_hz:5.0f} Hz wide {figures}")
    delay_s = 0.135
    print("frequency moves in 135 ms, Hz   by the formula, dB less   measured, dB less")
    for wander_hz in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0, 3.0):
        moves_hz = wander_hz * math.sqrt(2 * delay_s)
        angle = 2 * math.pi * moves_hz * delay_s
        formula = f"{-20 * math.log10(2 * math.sin(angle / 2)):.1f}" if angle else "-"
        print(f"{moves_hz:29.3f} {formula:>25} {attenuation_of(wander_hz):19.1f}")


if __name__ == "__main__":
    run_main(main, "anti_noise_bound")

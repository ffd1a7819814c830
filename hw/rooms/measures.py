"""Attenuation of the noise and quality of the speech."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge import RATE_HZ
from edge.chain import Chain
from edge.config import ReferenceConfig
from edge.dsp.spectrum import Doubles, Floats
from hw.rooms.rendering import through
from hw.rooms.scenes import CHANGE_S, Sound
from models.measures import pauses, pesq_wb, si_sdr_db, stoi

BANDS_HZ = {"all": (0, 8001), "<250": (0, 250), "250-1k": (250, 1000), "1-4k": (1000, 4000), "4-8k": (4000, 8001)}
QUIETEST_BAND_DBFS = -68.0
"""A band with less noise holds mostly the microphone's own, which no reference can know."""
BEST_TAPS = round(ReferenceConfig().path_ms * RATE_HZ / 1000)
_FRAME = 640
"""40 ms: 25 Hz wide, and no longer than the shortest pause that ``pauses`` finds."""


@dataclass(frozen=True)
class ModeResult:
    """What one mode does to one scene."""

    attenuation_db: dict[str, float]
    """By band, in the pauses; NaN where the voice microphone hears hardly any noise."""
    pesq: float
    stoi: float
    si_sdr_db: float
    state: str
    """The canceller's state at the end."""
    resets: int
    course_db: list[float]
    """Second by second: noise in, against everything that is not the speech."""


def measure_mode(sound: Sound, plain: Floats, output: Floats, chain: Chain) -> ModeResult:
    """``plain``: the speech alone through the chain with nothing switched on."""
    begin = sound.lead_samples
    clean, heard = plain[begin:], output[begin:]
    return ModeResult(
        attenuation_db(sound, output),
        pesq_wb(clean, heard),
        stoi(clean, heard),
        si_sdr_db(clean, heard),
        chain.reference.state if chain.reference else "",
        chain.reference.resets if chain.reference else 0,
        [
            _ratio_db(sound.voice[at:to] - sound.clean[at:to], output[at:to] - plain[at:to])
            for at, to in ((at, at + RATE_HZ) for at in range(0, len(output) - RATE_HZ + 1, RATE_HZ))
        ],
    )


def attenuation_db(sound: Sound, output: Floats) -> dict[str, float]:
    """By band, the power at the voice microphone over that of the output, where nobody speaks (after the lead)."""
    quiet = pauses(sound.clean)
    quiet[: sound.lead_samples] = False
    before, after = quiet_power(sound.voice, quiet), quiet_power(output, quiet)
    hz = np.fft.rfftfreq(_FRAME, 1 / RATE_HZ)
    result = {}
    for name, (low, high) in BANDS_HZ.items():
        band = (hz >= low) & (hz < high)
        power_in, power_out = float(before[band].sum()), float(after[band].sum())
        loud = power_in > 10 ** (QUIETEST_BAND_DBFS / 10)
        result[name] = 10 * math.log10(power_in / max(power_out, 1e-20)) if loud else math.nan
    return result


def quiet_power(sound: Floats, quiet: NDArray[np.bool_]) -> Doubles:
    """float64, 321 bins: mean power of the frames that lie in ``quiet`` as a whole; their sum is the mean square."""
    window = np.hanning(_FRAME)
    chosen = sliding_window_view(quiet, _FRAME)[:: _FRAME // 2].all(axis=1)
    frames = sliding_window_view(sound, _FRAME)[:: _FRAME // 2][chosen] * window
    power = np.square(np.abs(np.fft.rfft(frames, axis=1))).sum(axis=0)
    return 2 * power / (max(int(chosen.sum()), 1) * _FRAME * float(window @ window))


def best_prediction(noise_at_voice: Floats, reference: Floats) -> Floats:
    """The reference through the best causal filter that never changes, as long as the canceller's may be.

    Least squares on the noise alone while nobody speaks and the noise under the speech, which no box can know: how
    much the reference could give at all. Wiener-Hopf equations by Levinson recursion.
    """
    from scipy.linalg import solve_toeplitz

    size = 1 << (2 * len(reference) - 1).bit_length()
    heard, wanted = np.fft.rfft(reference, size), np.fft.rfft(noise_at_voice, size)
    own = np.fft.irfft(np.abs(heard) ** 2, size)[:BEST_TAPS]
    cross = np.fft.irfft(wanted * np.conj(heard), size)[:BEST_TAPS]
    own[0] *= 1 + 1e-5
    return through(reference.astype(np.float64), solve_toeplitz(own, cross)).astype(np.float32)


def _ratio_db(before: Floats, after: Floats) -> float:
    return 10 * math.log10((float(before @ before) + 1e-12) / (float(after @ after) + 1e-12))


def recovery_s(course_db: Sequence[float]) -> float:
    """Whole seconds after the change until the attenuation is within 3 dB of the 3 s before it; or infinite."""
    change = int(CHANGE_S)
    before = float(np.mean(course_db[change - 3 : change]))
    back = [second for second, db in enumerate(course_db[change:]) if db >= before - 3]
    return back[0] if back else math.inf

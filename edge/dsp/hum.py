"""The hum canceller: finds the mains frequency and subtracts its harmonics, and nothing else."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.hum_thresholds import HumThresholds
from edge.dsp.spectrum import Complexes, Doubles, Floats

NOMINALS_HZ = {"auto": (50.0, 60.0), "50": (50.0,), "60": (60.0,), "off": ()}
"""``feedforward.mains`` -> the frequencies to search."""
HARMONICS = 32
"""Harmonics removed at most, up to 1.6 or 1.92 kHz."""
FRAME_SAMPLES = 3200
"""200 ms: bins of 5 Hz, so that every harmonic of 50 and 60 Hz lies at the centre of one."""
FRAME_HOPS = 20
"""Hops from one frame to the next, 100 ms: Hann windows overlap by half."""
FRAME_S = FRAME_HOPS * HOP_SAMPLES / RATE_HZ
BIN_HZ = RATE_HZ / FRAME_SAMPLES
BINS = 400
"""Bins kept of a frame, up to 2 kHz."""
NOISE_BINS = np.array([-4, -3, 3, 4])
"""Bins beside a harmonic, 15 to 20 Hz away, that show the power of everything else."""
SEARCH_FRAMES = 24
"""Frames that a search covers, 2.4 s."""
QUIETNESS_FRAMES = 50
"""Frames whose energies are kept, 5 s: the quietest of them is the measure."""
MIN_POWER = 1e-10
"""Of a frame or bin, -100 dBFS: keeps digital silence from dividing by 0."""
MAX_SAMPLE = 8.0
"""Samples are stored up to it, 18 dB above full scale, so that every spectrum is finite."""
INAUDIBLE = 1e-6
"""Amplitude, -120 dBFS, below which the subtraction ends."""
THRESHOLDS = HumThresholds()


class HumCanceller:
    """Finds 50 or 60 Hz mains (within 0.6 Hz) and subtracts the harmonics that are there, up to the 32nd.

    Analysis: every 100 ms the spectrum of the last 200 ms (Hann) gives each harmonic one phasor z and, from the bins
    15 to 20 Hz beside it, the power R of everything else. Mains is a *line*: turned back by the phase of one
    fundamental, its phasors keep their direction for seconds, in pauses of speech too. Voices and music do not.
    Frames are weighted by how quiet they are, and no phasor counts for more than 1, so loud speech neither hides hum
    nor is taken for it. What begins suddenly and loudly is observed for five seconds first (a sung note ends before),
    and lines above -30 dBFS together are not taken for hum.

    Subtraction: each harmonic's amplitude and phase is the average of its phasors weighted with 1 / R over 2.5 s
    (least squares: pauses decide, speech has little influence); a two-state Kalman filter tracks phase and frequency
    of the one fundamental. What is subtracted is synthesised from these, so nothing but those lines can change. While
    no mains is found, hops pass bit for bit.
    """

    delay_samples = 0

    def __init__(self, mains: str, thresholds: HumThresholds = THRESHOLDS) -> None:
        """``mains`` is a key of ``NOMINALS_HZ``."""
        self._nominals_hz = NOMINALS_HZ[mains]
        self._thresholds = thresholds
        self._orders = np.arange(1.0, HARMONICS + 1)
        window = np.hanning(FRAME_SAMPLES + 1)[:-1]
        self._window = (window * 2 / window.sum()).astype(np.float32)  # a line of amplitude a shows as |z| = a
        self._recent = np.zeros(FRAME_SAMPLES + FRAME_HOPS * HOP_SAMPLES, np.float32)
        self._windowed = np.zeros(FRAME_SAMPLES, np.float32)
        self._highest, self._lowest = np.array(MAX_SAMPLE, np.float32), np.array(-MAX_SAMPLE, np.float32)
        self._spectrum: NDArray[Any] = np.zeros(FRAME_SAMPLES // 2 + 1, np.complex64)
        # phases relative to the middle of the frame
        self._to_centre = np.where(np.arange(BINS) % 2, -1.0, 1.0).astype(np.float32)
        self._past = np.zeros((SEARCH_FRAMES, BINS), np.complex64)
        self._past_energy = np.zeros(QUIETNESS_FRAMES)
        self._ages_s = np.arange(SEARCH_FRAMES) * FRAME_S  # newest first
        steps = round(thresholds.search_range_hz / thresholds.search_step_hz)
        self._offsets_hz = np.arange(-steps, steps + 1) * thresholds.search_step_hz
        search = self._orders[: thresholds.search_harmonics]
        turns = self._offsets_hz[None, :, None] * search[:, None, None] * self._ages_s
        self._steering: Complexes = np.exp(2j * np.pi * turns)
        self._kept = thresholds.kept_per_frame(FRAME_S)
        self._waves = np.zeros((2 * HARMONICS, HOP_SAMPLES))
        self._weights = np.zeros((2, 2 * HARMONICS))
        self._two_hums = np.zeros((2, HOP_SAMPLES))
        self._hum = np.zeros(HOP_SAMPLES, np.float32)
        self._ramp = np.arange(1, HOP_SAMPLES + 1) / HOP_SAMPLES
        self.reset()

    @property
    def mains_hz(self) -> float:
        """The mains frequency as tracked, 0 when none is found."""
        return float(self._frequency_hz) if self._active.any() else 0.0

    @property
    def harmonics(self) -> int:
        """How many harmonics are being removed."""
        return int(np.count_nonzero(self._active))

    def reset(self) -> None:
        """Forget the signal and the mains frequency."""
        self._hops = 0
        self._frames = 0
        self._recent.fill(0)
        self._past.fill(0)
        self._past_energy.fill(0)
        self._subtracting = False
        self._steps: Iterator[None] = iter(())
        self._frequency_hz = 0.0
        self._release()
        self._amplitude_out = np.zeros(HARMONICS, np.complex128)
        self._phasors_out = np.zeros(HARMONICS, np.complex128)

    def process(self, hop: Floats) -> None:
        """Remove hum from float32, 80 samples, in place; a frame every 20 hops, evaluated in the hops after it."""
        if not self._nominals_hz:
            return
        place = self._hops % FRAME_HOPS
        start = FRAME_SAMPLES + place * HOP_SAMPLES
        stored = self._recent[start : start + HOP_SAMPLES]
        np.fmin(hop, self._highest, out=stored)  # also turns NaN into a finite sample
        np.fmax(stored, self._lowest, out=stored)
        if self._subtracting:
            self._subtract(hop)
        self._hops += 1
        if place == FRAME_HOPS - 1:
            self._take_frame()
            self._steps = self._steps_of_frame()
        else:
            next(self._steps, None)

    # --- analysis

    def _take_frame(self) -> None:
        """Transform the last 200 ms and put it before the remembered frames."""
        frame = FRAME_SAMPLES
        self._recent[:frame] = self._recent[-frame:]
        np.multiply(self._recent[:frame], self._window, out=self._windowed)
        np.fft.rfft(self._windowed, out=self._spectrum)
        self._past[1:] = self._past[:-1]
        self._past_energy[1:] = self._past_energy[:-1]
        np.multiply(self._spectrum[:BINS], self._to_centre, out=self._past[0])
        self._past_energy[0] = max(MIN_POWER, float(np.dot(self._windowed, self._windowed)) * frame)
        self._frames += 1

    def _steps_of_frame(self) -> Iterator[None]:
        """Evaluate the newest frame, one step per hop, so that no hop takes long; done well before the next frame."""
        t = self._thresholds
        if self._locked:
            yield from self._track()
        elif self._frames >= t.min_frames and not self._subtracting:
            quiet = self._quietness()
            if quiet.sum() < t.min_quiet_frames:
                return
            for nominal_hz in self._nominals_hz:
                yield
                offset_hz = self._search(nominal_hz, quiet)
                if offset_hz is not None:
                    yield
                    yield from self._lock_on(nominal_hz, nominal_hz + offset_hz, quiet)
                if self._locked:
                    return

    def _phasors(self, spectra: NDArray[np.complex64], frequency_hz: float, some: int) -> tuple[Complexes, Doubles]:
        """z and R of the first ``some`` harmonics, (..., some), from spectra (..., bins)."""
        at_bins = self._orders[:some] * (frequency_hz / BIN_HZ)
        bins = np.rint(at_bins).astype(int)
        away = at_bins - bins
        height = np.sinc(away) / (1 - away**2)  # Hann's main lobe
        z = spectra[..., bins] / height
        near = spectra[..., bins[:, None] + NOISE_BINS]
        noise = np.einsum("...i,...i->...", near.real, near.real) + np.einsum("...i,...i->...", near.imag, near.imag)
        return z, noise / len(NOISE_BINS) + 1e-3 * MIN_POWER

    def _search(self, nominal_hz: float, quiet: Doubles) -> float | None:
        """The offset in Hz at which at least two harmonics agree best over the remembered frames, if there is one."""
        t = self._thresholds
        z, noise = self._phasors(self._past, nominal_hz, t.search_harmonics)
        unit = quiet[:, None] * z / np.sqrt(z.real**2 + z.imag**2 + noise)
        agreement = np.abs(self._steering @ unit.T[:, :, None])[..., 0] ** 2 / quiet.sum() ** 2
        best = int(np.square(agreement).sum(axis=0).argmax())
        found = np.count_nonzero(agreement[:, best] > t.coherence_found**2) >= 2
        return float(self._offsets_hz[best]) if found else None

    def _quietness(self) -> Doubles:
        """float64, one weight per frame of a search: 1 for the quietest of 5 s, half the dB less for louder ones."""
        filled = self._past_energy > 0
        energy = np.where(filled, self._past_energy, np.inf)
        return np.where(filled, np.sqrt(energy.min() / energy), 0.0)[:SEARCH_FRAMES]

    def _turned_back(self, frequency_hz: float, some: int) -> tuple[Complexes, Doubles]:
        """z of the remembered frames turned to the newest frame's phase, and R."""
        z, noise = self._phasors(self._past, frequency_hz, some)
        first = np.exp(2j * np.pi * frequency_hz * self._ages_s)
        turn = np.multiply.accumulate(np.broadcast_to(first, (some, SEARCH_FRAMES)), axis=0)
        return z * turn.T, noise

    def _lock_on(self, nominal_hz: float, frequency_hz: float, quiet: Doubles) -> Iterator[None]:
        """Start tracking from the remembered frames, if every line in them behaves like hum."""
        t = self._thresholds
        low, half = t.search_harmonics, SEARCH_FRAMES // 2
        z, noise = self._turned_back(frequency_hz, low)
        z *= quiet[:, None] / noise
        # the phase difference of the newer and the older half refines the frequency
        turn = z[:half].sum(0) * z[half:].sum(0).conj()
        strength = np.abs(turn) * self._orders[:low]
        cycles = float((np.angle(turn) * strength).sum() / (strength * self._orders[:low]).sum()) / (2 * np.pi)
        frequency_hz += cycles / (half * FRAME_S)
        yield
        z, noise = self._turned_back(frequency_hz, HARMONICS)
        yield
        weight = quiet * self._kept ** np.arange(SEARCH_FRAMES)
        total = float(weight.sum())
        power_each = z.real**2 + z.imag**2
        unit = weight @ (z / np.sqrt(power_each + noise))
        mean, power, other = weight @ z / total, weight @ power_each / total, weight @ noise / total
        yield
        size = np.abs(mean) ** 2
        scatter = np.maximum(power - size - t.min_line_over_noise * other, 0.0)
        line = (
            (np.abs(unit) > t.coherence_found * total)
            & (scatter < t.max_scatter * size)
            & (size > t.min_line_over_noise * other)
        )
        if np.count_nonzero(line[:low]) < 2 or math.gcd(*(np.flatnonzero(line) + 1).tolist()) > 2:
            return
        if scatter[:low].sum() > t.max_scatter * power[:low].sum() or size[line].sum() / 2 > t.max_hum_power:
            return
        yield
        trust = weight[:, None] / (noise + t.unsteadiness * size)
        self._sum_z, self._sum_w = (trust * z).sum(0), trust.sum(0)
        self._amplitude = self._sum_z / self._sum_w
        self._sum_unit, self._sum_quiet = unit, total
        self._nominal_hz, self._frequency_hz, self._phase = nominal_hz, frequency_hz, 0.0
        self._variance = np.diag([t.initial_phase_variance, t.initial_frequency_variance])
        self._active = line
        yield
        self._amplitude_out.fill(0)
        self._phasors_out.fill(0)
        self._tune_oscillators()
        self._locked = self._subtracting = True

    # --- tracking

    def _track(self) -> Iterator[None]:
        """One frame later: correct phase and frequency, then amplitudes, then which harmonics are still there."""
        t = self._thresholds
        z, noise = self._phasors(self._past[0], self._frequency_hz, HARMONICS)
        yield
        turned = self._phase + 2 * np.pi * self._frequency_hz * FRAME_S
        z = z * np.exp(-1j * turned * self._orders)
        error = self._correct(z, noise)
        self._phase = (turned + error) % (2 * np.pi)
        yield
        z *= np.exp(-1j * error * self._orders)
        size, power = np.abs(self._amplitude), z.real**2 + z.imag**2
        # a line that has ended is forgotten fast; a voice may add to a line but cannot remove it
        gone = (power < t.gone_power * size**2) & (noise < t.gone_noise * size**2)
        keep = np.where(gone, t.gone_kept, self._kept)
        # a voice on the line shows as a larger amplitude; so does hum that grew, so the variance has a limit
        steady = noise + t.unsteadiness * size**2
        trust = 1 / np.minimum(steady + np.maximum(np.sqrt(power) - size, 0) ** 2, t.max_outlier * steady)
        self._sum_z = keep * self._sum_z + trust * z
        self._sum_w = keep * self._sum_w + trust
        self._amplitude = self._sum_z / self._sum_w
        yield
        quiet = float(self._quietness()[0])
        self._sum_unit = self._kept * self._sum_unit + quiet * z / np.sqrt(power + noise)
        self._sum_quiet = self._kept * self._sum_quiet + quiet
        coherence = np.abs(self._sum_unit) / self._sum_quiet
        self._active = coherence > np.where(self._active, t.coherence_lost, t.coherence_joins)
        if not self._active.any() or abs(self._frequency_hz - self._nominal_hz) > t.max_deviation_hz:
            self._release()
        yield
        self._tune_oscillators()

    def _correct(self, z: Complexes, noise: Doubles) -> float:
        """One Kalman step for frequency and phase of the fundamental; returns the phase correction, rad."""
        t = self._thresholds
        advance = 2 * np.pi * FRAME_S
        (a, b), (_, d) = self._variance
        a, b, d = (
            a + 2 * advance * b + advance**2 * d + t.phase_step_variance,
            b + advance * d,
            d + t.frequency_step_hz**2,
        )
        used = self._active
        orders, amplitude, z = self._orders[used], self._amplitude[used], z[used]
        size = np.abs(amplitude) + 1e-12
        # a voice on the line shows as a wrong amplitude: then the phase is uncertain
        noise = noise[used] + (np.abs(z) - size) ** 2
        trust = 2 * size**2 * orders**2 / noise
        total = float(trust.sum())
        error = float((trust * np.angle(z * amplitude.conj()) / orders).sum()) / total
        expected = a + 1 / total + t.phase_noise
        self._frequency_hz += b / expected * error
        covariance = b - a * b / expected
        self._variance = np.array([[a - a * a / expected, covariance], [covariance, d - b * b / expected]])
        return float(a / expected * error)

    def _release(self) -> None:
        """End tracking; the output fades out."""
        self._locked = False
        self._active = np.zeros(HARMONICS, bool)
        self._amplitude = np.zeros(HARMONICS, np.complex128)

    # --- subtraction

    def _tune_oscillators(self) -> None:
        """Oscillators of the next hops: phase and waves, extrapolated from the middle of the newest frame."""
        since_centre_s = (FRAME_SAMPLES / 2 + self._hops % FRAME_HOPS * HOP_SAMPLES) / RATE_HZ
        self._output_cycles = (self._phase / (2 * np.pi) + self._frequency_hz * since_centre_s) % 1.0
        first = np.exp(2j * np.pi * self._frequency_hz / RATE_HZ * np.arange(HOP_SAMPLES))
        waves = np.multiply.accumulate(np.broadcast_to(first, (HARMONICS, HOP_SAMPLES)), axis=0)
        self._waves[:HARMONICS], self._waves[HARMONICS:] = waves.real, -waves.imag
        self._over_hop = np.exp(2j * np.pi * self._frequency_hz * HOP_SAMPLES / RATE_HZ * self._orders)

    def _subtract(self, hop: Floats) -> None:
        """float32, 80 samples in place."""
        self._amplitude_out += self._thresholds.output_share * (self._active * self._amplitude - self._amplitude_out)
        if not self._locked and np.abs(self._amplitude_out).max() < INAUDIBLE:
            self._subtracting = False
        weights, half = self._weights, HARMONICS
        starting = self._amplitude_out * np.exp(2j * np.pi * self._output_cycles * self._orders)
        # linear from the last hop's amplitudes to this one's, so that corrections make no steps
        weights[0, :half], weights[0, half:] = self._phasors_out.real, self._phasors_out.imag
        weights[1, :half], weights[1, half:] = starting.real, starting.imag
        np.dot(weights, self._waves, out=self._two_hums)
        before, now = self._two_hums
        now -= before
        now *= self._ramp
        now += before
        self._hum[:] = now
        np.subtract(hop, self._hum, out=hop)
        self._phasors_out = starting * self._over_hop
        self._output_cycles = (self._output_cycles + self._frequency_hz * HOP_SAMPLES / RATE_HZ) % 1.0

"""What is known without looking at the result: no DC and no rumble, no mains hum. Runs in every mode but bypass.

Order of the path: ``HighPass``, ``HumCanceller``; ``Feedforward`` joins them.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import Floats

Doubles = NDArray[np.float64]
Complexes = NDArray[np.complex128]


def silence_nonfinite(block: Floats) -> int:
    """Turn NaN and Inf in float32 ``block`` into 0 in place; return how many there were."""
    finite = np.isfinite(block)
    broken = block.shape[0] - int(np.count_nonzero(finite))
    if broken:
        block[~finite] = 0
    return broken


def prewarped(frequency_hz: float) -> float:
    """The analogue frequency that ``biquad`` puts at ``frequency_hz``."""
    return math.tan(math.pi * frequency_hz / RATE_HZ)


def biquad(above: tuple[float, float, float], below: tuple[float, float, float]) -> Doubles:
    """The analogue (p s^2 + q s + r) / (u s^2 + v s + w) as (b0, b1, b2, a0 = 1, a1, a2), s = (1 - 1/z) / (1 + 1/z).

    The bilinear transform; SciPy's signal package does the same and takes ten seconds to import on a Pi 3.
    """
    sections = [(p + q + r, 2 * (r - p), p - q + r) for p, q, r in (above, below)]
    return np.array(sections).reshape(-1) / sections[1][0]


class HopFilter:
    """A biquad over one hop as one matrix: [80 outputs, new state] = M [80 inputs, old state], float64.

    M's columns are the answers of the plain recursion (direct form II, transposed) to unit vectors. Finite input only.
    """

    def __init__(self, coefficients: Doubles) -> None:
        b0, b1, b2, _, a1, a2 = coefficients
        inputs = np.eye(HOP_SAMPLES, HOP_SAMPLES + 2)
        first, second = np.eye(2, HOP_SAMPLES + 2, HOP_SAMPLES)
        rows = []
        for x in inputs:
            y = b0 * x + first
            first, second = b1 * x - a1 * y + second, b2 * x - a2 * y
            rows.append(y)
        self._matrix = np.array([*rows, first, second])
        self._into, self._out_of = np.zeros(HOP_SAMPLES + 2), np.zeros(HOP_SAMPLES + 2)
        self._input, self._state = self._into[:HOP_SAMPLES], self._into[HOP_SAMPLES:]
        self._output, self._new_state = self._out_of[:HOP_SAMPLES], self._out_of[HOP_SAMPLES:]

    def process(self, hop: Floats) -> None:
        self._input[:] = hop
        np.dot(self._matrix, self._into, out=self._out_of)
        hop[:] = self._output
        # there and back leaves nothing below 1e-36: a fading sound never becomes slow subnormal float32 numbers
        np.add(self._new_state, 1e-20, out=self._state)
        self._state -= 1e-20

    def reset(self) -> None:
        self._state.fill(0)


class HighPass:
    """Second-order Butterworth high-pass: -3 dB at ``cutoff_hz``, 12 dB an octave below, nothing left of DC.

    It stands far below the voice because it turns the phase up to ten times its cut-off, and nothing after it can turn
    that back; rumble above it is left to the suppressor, whose gains leave the phase alone.

    ``cutoff_hz=0`` switches it off; then only NaN and Inf are touched. Those become silence here, for everything that
    follows.
    """

    delay_samples = 0

    def __init__(self, cutoff_hz: float = 1.0) -> None:
        assert 0 <= cutoff_hz < RATE_HZ / 2
        self.nonfinite_samples = 0
        """NaN or Inf that came in."""
        self._filter: HopFilter | None = None
        if cutoff_hz > 0:
            edge = prewarped(cutoff_hz)
            self._filter = HopFilter(biquad((1, 0, 0), (1, math.sqrt(2) * edge, edge**2)))

    def process(self, hop: Floats) -> None:
        self.nonfinite_samples += silence_nonfinite(hop)
        if self._filter is not None:
            self._filter.process(hop)

    def reset(self) -> None:
        if self._filter is not None:
            self._filter.reset()


class HumCanceller:
    """Finds 50 or 60 Hz mains (within 0.6 Hz) and subtracts the harmonics that are there, up to the 32nd.

    Looking: every 100 ms the spectrum of the last 200 ms (Hann) gives each harmonic one phasor z and, from the bins
    15 to 20 Hz beside it, the power R of whatever else is there. Mains is a *line*: turned back by the phase of one
    fundamental, its phasors point the same way for seconds, in the pauses of speech too. Voices and music wander.
    Frames count by how quiet they are, and no phasor counts for more than 1, so loud speech neither hides hum nor
    looks like it. What begins suddenly and loudly is listened to for five seconds first (a sung note ends before), and
    lines above -30 dBFS together are nobody's hum.

    Subtracting: each harmonic's amplitude and phase is the average of its phasors weighted with 1 / R over 2.5 s
    (least squares: pauses decide, speech hardly moves it); a two-state Kalman filter follows phase and frequency of
    the one fundamental. What is subtracted is synthesised from these, so nothing but those lines can change. As long
    as no mains is found, hops pass bit for bit.
    """

    delay_samples = 0

    _HARMONICS = 32
    _TICK_HOPS = 20
    _TICK_S = _TICK_HOPS * HOP_SAMPLES / RATE_HZ
    _FRAME_SAMPLES = 3200
    _BIN_HZ = RATE_HZ / _FRAME_SAMPLES
    _BINS = 400
    _BESIDE = np.array([-4, -3, 3, 4])
    _QUIETEST = 1e-10

    # the search: the first ten harmonics over the last 2.4 s
    _FRAMES = 24
    _ENOUGH_FRAMES = 20
    _QUIET_FRAMES = 5.0
    _MEMORY_FRAMES = 50
    _SEARCH_HARMONICS = 10
    _OFFSETS_HZ = np.arange(-30, 31) * 0.02
    _COHERENT, _JOINING, _LOST = 0.7, 0.55, 0.4  # to find mains, to add a harmonic to it, to keep one
    _SCATTER = 0.03  # of a line's power: vibrato scatters more
    _LOUDEST = 10 ** (-30 / 10)

    # following: noise of the Kalman filter chosen on real speech with hum (real mains drifts by some mHz a second)
    _FREQUENCY_WALK_HZ = 0.0015
    _PHASE_DOUBT = 1e-6
    _FORGET = math.exp(-_TICK_S / 2.5)
    _FORGET_GONE = 0.3
    _UNSTEADY = 1e-3  # no line is steadier than -30 dB: keeps a very quiet frame from outvoting all others
    _OUTLIER = 30.0
    _OUTPUT_SLEW = 0.1  # a hop: harmonics come and go within 50 ms

    def __init__(self, mains: str | int = "auto") -> None:
        choices = {"auto": (50.0, 60.0), "50": (50.0,), "60": (60.0,), "0": (), "off": ()}
        assert str(mains) in choices, mains
        self._nominals_hz: tuple[float, ...] = choices[str(mains)]
        self._orders = np.arange(1.0, self._HARMONICS + 1)
        frame = self._FRAME_SAMPLES
        window = np.hanning(frame + 1)[:-1]
        self._window = (window * 2 / window.sum()).astype(np.float32)  # a line of amplitude a shows as |z| = a
        self._recent = np.zeros(frame + self._TICK_HOPS * HOP_SAMPLES, np.float32)
        self._windowed = np.zeros(frame, np.float32)
        self._top, self._bottom = np.array(8, np.float32), np.array(-8, np.float32)
        self._spectrum: NDArray[Any] = np.zeros(frame // 2 + 1, np.complex64)
        # phases as seen from the middle of the frame
        self._to_centre = np.where(np.arange(self._BINS) % 2, -1.0, 1.0).astype(np.float32)
        self._past = np.zeros((self._FRAMES, self._BINS), np.complex64)
        self._past_energy = np.zeros(self._MEMORY_FRAMES)
        self._ages = np.arange(self._FRAMES) * self._TICK_S  # newest first
        search = self._orders[: self._SEARCH_HARMONICS]
        turns = self._OFFSETS_HZ[None, :, None] * search[:, None, None] * self._ages
        self._steering: Complexes = np.exp(2j * np.pi * turns)
        self._waves = np.zeros((2 * self._HARMONICS, HOP_SAMPLES))
        self._weights = np.zeros((2, 2 * self._HARMONICS))
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
        self._hops = 0
        self._frames = 0
        self._recent.fill(0)
        self._past.fill(0)
        self._past_energy.fill(0)
        self._sounding = False
        self._thoughts: Iterator[None] = iter(())
        self._frequency_hz = 0.0
        self._let_go()
        self._shown = np.zeros(self._HARMONICS, np.complex128)
        self._ending = np.zeros(self._HARMONICS, np.complex128)

    def process(self, hop: Floats) -> None:
        """Remove hum from float32, 80 samples, in place; look once in 20 hops, and think a step a hop after that."""
        if not self._nominals_hz:
            return
        place = self._hops % self._TICK_HOPS
        start = self._FRAME_SAMPLES + place * HOP_SAMPLES
        heard = self._recent[start : start + HOP_SAMPLES]
        np.fmin(hop, self._top, out=heard)  # whatever comes, NaN too: what is remembered stays finite
        np.fmax(heard, self._bottom, out=heard)
        if self._sounding:
            self._subtract(hop)
        self._hops += 1
        if place == self._TICK_HOPS - 1:
            self._look()
            self._thoughts = self._think()
        else:
            next(self._thoughts, None)

    # --- looking

    def _look(self) -> None:
        frame = self._FRAME_SAMPLES
        self._recent[:frame] = self._recent[-frame:]
        np.multiply(self._recent[:frame], self._window, out=self._windowed)
        np.fft.rfft(self._windowed, out=self._spectrum)
        self._past[1:] = self._past[:-1]
        self._past_energy[1:] = self._past_energy[:-1]
        np.multiply(self._spectrum[: self._BINS], self._to_centre, out=self._past[0])
        self._past_energy[0] = max(self._QUIETEST, float(np.dot(self._windowed, self._windowed)) * frame)
        self._frames += 1

    def _think(self) -> Iterator[None]:
        """What follows from the newest frame, in steps of one hop each: all are done well before the next frame."""
        if self._locked:
            yield from self._follow()
        elif self._frames >= self._ENOUGH_FRAMES and not self._sounding:
            quiet = self._quietness()
            if quiet.sum() < self._QUIET_FRAMES:
                return
            for nominal_hz in self._nominals_hz:
                yield
                offset_hz = self._search(nominal_hz, quiet)
                if offset_hz is not None:
                    yield
                    yield from self._take_hold(nominal_hz, nominal_hz + offset_hz, quiet)
                if self._locked:
                    return

    def _phasors(self, spectra: NDArray[np.complex64], frequency_hz: float, some: int) -> tuple[Complexes, Doubles]:
        """z and R of the first ``some`` harmonics, (..., some), from spectra (..., bins)."""
        at_bins = self._orders[:some] * (frequency_hz / self._BIN_HZ)
        bins = np.rint(at_bins).astype(int)
        away = at_bins - bins
        height = np.sinc(away) / (1 - away**2)  # Hann's main lobe
        z = spectra[..., bins] / height
        near = spectra[..., bins[:, None] + self._BESIDE]
        beside = np.einsum("...i,...i->...", near.real, near.real) + np.einsum("...i,...i->...", near.imag, near.imag)
        return z, beside / len(self._BESIDE) + 1e-3 * self._QUIETEST

    def _search(self, nominal_hz: float, quiet: Doubles) -> float | None:
        """The offset in Hz at which at least two harmonics agree best over the remembered frames, if there is one."""
        z, beside = self._phasors(self._past, nominal_hz, self._SEARCH_HARMONICS)
        unit = quiet[:, None] * z / np.sqrt(z.real**2 + z.imag**2 + beside)
        agreement = np.abs(self._steering @ unit.T[:, :, None])[..., 0] ** 2 / quiet.sum() ** 2
        best = int(np.square(agreement).sum(axis=0).argmax())
        found = np.count_nonzero(agreement[:, best] > self._COHERENT**2) >= 2
        return float(self._OFFSETS_HZ[best]) if found else None

    def _quietness(self) -> Doubles:
        """How much each remembered frame counts: 1 for the quietest of 5 s, less by half the level above that."""
        filled = self._past_energy > 0
        energy = np.where(filled, self._past_energy, np.inf)
        return np.where(filled, np.sqrt(energy.min() / energy), 0.0)[: self._FRAMES]

    def _turned_back(self, frequency_hz: float, some: int) -> tuple[Complexes, Doubles]:
        """z of the remembered frames turned to the newest frame's phase, and R."""
        z, beside = self._phasors(self._past, frequency_hz, some)
        first = np.exp(2j * np.pi * frequency_hz * self._ages)
        turn = np.multiply.accumulate(np.broadcast_to(first, (some, self._FRAMES)), axis=0)
        return z * turn.T, beside

    def _take_hold(self, nominal_hz: float, frequency_hz: float, quiet: Doubles) -> Iterator[None]:
        """Start from the remembered frames, if what repeats in them looks like hum all through."""
        low, half = self._SEARCH_HARMONICS, self._FRAMES // 2
        z, beside = self._turned_back(frequency_hz, low)
        z *= quiet[:, None] / beside
        # the phase left between the newer and the older half refines the frequency
        turn = z[:half].sum(0) * z[half:].sum(0).conj()
        strength = np.abs(turn) * self._orders[:low]
        cycles = float((np.angle(turn) * strength).sum() / (strength * self._orders[:low]).sum()) / (2 * np.pi)
        frequency_hz += cycles / (half * self._TICK_S)
        yield
        z, beside = self._turned_back(frequency_hz, self._HARMONICS)
        yield
        weight = quiet * self._FORGET ** np.arange(self._FRAMES)
        total = float(weight.sum())
        power_each = z.real**2 + z.imag**2
        unit = weight @ (z / np.sqrt(power_each + beside))
        mean, power, other = weight @ z / total, weight @ power_each / total, weight @ beside / total
        yield
        size = np.abs(mean) ** 2
        scatter = np.maximum(power - size - 4 * other, 0.0)
        line = (np.abs(unit) > self._COHERENT * total) & (scatter < self._SCATTER * size) & (size > 4 * other)
        if np.count_nonzero(line[:low]) < 2 or math.gcd(*(np.flatnonzero(line) + 1).tolist()) > 2:
            return
        if scatter[:low].sum() > self._SCATTER * power[:low].sum() or size[line].sum() / 2 > self._LOUDEST:
            return
        yield
        trust = weight[:, None] / (beside + self._UNSTEADY * size)
        self._sum_z, self._sum_w = (trust * z).sum(0), trust.sum(0)
        self._amplitude = self._sum_z / self._sum_w
        self._sum_unit, self._sum_quiet = unit, total
        self._nominal_hz, self._frequency_hz, self._phase = nominal_hz, frequency_hz, 0.0
        self._variance = np.diag([1e-4, 0.01**2])
        self._active = line
        yield
        self._shown.fill(0)
        self._ending.fill(0)
        self._tune()
        self._locked = self._sounding = True

    # --- following

    def _follow(self) -> Iterator[None]:
        """One frame later: correct phase and frequency, then amplitudes, then which harmonics are still there."""
        z, beside = self._phasors(self._past[0], self._frequency_hz, self._HARMONICS)
        yield
        turned = self._phase + 2 * np.pi * self._frequency_hz * self._TICK_S
        z = z * np.exp(-1j * turned * self._orders)
        error = self._correct(z, beside)
        self._phase = (turned + error) % (2 * np.pi)
        yield
        z *= np.exp(-1j * error * self._orders)
        size, power = np.abs(self._amplitude), z.real**2 + z.imag**2
        # where a line is plainly gone, what was known of it goes too; a voice may add to a line, not take it away
        gone = (power < 0.25 * size**2) & (beside < 0.1 * size**2)
        keep = np.where(gone, self._FORGET_GONE, self._FORGET)
        # a voice on the line shows as a larger amplitude; hum that grew would too, so the doubt has a limit
        steady = beside + self._UNSTEADY * size**2
        trust = 1 / np.minimum(steady + np.maximum(np.sqrt(power) - size, 0) ** 2, self._OUTLIER * steady)
        self._sum_z = keep * self._sum_z + trust * z
        self._sum_w = keep * self._sum_w + trust
        self._amplitude = self._sum_z / self._sum_w
        yield
        quiet = float(self._quietness()[0])
        self._sum_unit = self._FORGET * self._sum_unit + quiet * z / np.sqrt(power + beside)
        self._sum_quiet = self._FORGET * self._sum_quiet + quiet
        coherence = np.abs(self._sum_unit) / self._sum_quiet
        self._active = coherence > np.where(self._active, self._LOST, self._JOINING)
        if not self._active.any() or abs(self._frequency_hz - self._nominal_hz) > 1.0:
            self._let_go()
        yield
        self._tune()

    def _correct(self, z: Complexes, beside: Doubles) -> float:
        """One Kalman step for frequency and phase of the fundamental; return the phase correction in rad."""
        advance = 2 * np.pi * self._TICK_S
        (a, b), (_, d) = self._variance
        a, b, d = a + 2 * advance * b + advance**2 * d + 1e-6, b + advance * d, d + self._FREQUENCY_WALK_HZ**2
        used = self._active
        orders, amplitude, z = self._orders[used], self._amplitude[used], z[used]
        size = np.abs(amplitude) + 1e-12
        # a voice on the line shows as a wrong amplitude: then the phase tells little
        noise = beside[used] + (np.abs(z) - size) ** 2
        trust = 2 * size**2 * orders**2 / noise
        total = float(trust.sum())
        error = float((trust * np.angle(z * amplitude.conj()) / orders).sum()) / total
        expected = a + 1 / total + self._PHASE_DOUBT
        self._frequency_hz += b / expected * error
        covariance = b - a * b / expected
        self._variance = np.array([[a - a * a / expected, covariance], [covariance, d - b * b / expected]])
        return float(a / expected * error)

    def _let_go(self) -> None:
        self._locked = False
        self._active = np.zeros(self._HARMONICS, bool)
        self._amplitude = np.zeros(self._HARMONICS, np.complex128)

    # --- subtracting

    def _tune(self) -> None:
        """Phase and waves of the next hop, counted from the middle of the newest frame."""
        since_centre_s = (self._FRAME_SAMPLES / 2 + self._hops % self._TICK_HOPS * HOP_SAMPLES) / RATE_HZ
        self._output_cycles = (self._phase / (2 * np.pi) + self._frequency_hz * since_centre_s) % 1.0
        first = np.exp(2j * np.pi * self._frequency_hz / RATE_HZ * np.arange(HOP_SAMPLES))
        waves = np.multiply.accumulate(np.broadcast_to(first, (self._HARMONICS, HOP_SAMPLES)), axis=0)
        self._waves[: self._HARMONICS], self._waves[self._HARMONICS :] = waves.real, -waves.imag
        self._over_hop = np.exp(2j * np.pi * self._frequency_hz * HOP_SAMPLES / RATE_HZ * self._orders)

    def _subtract(self, hop: Floats) -> None:
        self._shown += self._OUTPUT_SLEW * (self._active * self._amplitude - self._shown)
        if not self._locked and np.abs(self._shown).max() < 1e-6:
            self._sounding = False
        weights, half = self._weights, self._HARMONICS
        starting = self._shown * np.exp(2j * np.pi * self._output_cycles * self._orders)
        # from the last hop's amplitudes to this one's in a straight line: corrections make no steps
        weights[0, :half], weights[0, half:] = self._ending.real, self._ending.imag
        weights[1, :half], weights[1, half:] = starting.real, starting.imag
        np.dot(weights, self._waves, out=self._two_hums)
        before, now = self._two_hums
        now -= before
        now *= self._ramp
        now += before
        self._hum[:] = now
        np.subtract(hop, self._hum, out=hop)
        self._ending = starting * self._over_hop
        self._output_cycles = (self._output_cycles + self._frequency_hz * HOP_SAMPLES / RATE_HZ) % 1.0


class Feedforward:
    """The feedforward path as one stage: high-pass, then hum."""

    delay_samples = 0

    def __init__(self, highpass_hz: float = 1.0, mains: str | int = "auto") -> None:
        self.highpass = HighPass(highpass_hz)
        self.hum = HumCanceller(mains)

    def process(self, hop: Floats) -> None:
        self.highpass.process(hop)
        self.hum.process(hop)

    def reset(self) -> None:
        self.highpass.reset()
        self.hum.reset()

    @property
    def nonfinite_samples(self) -> int:
        return self.highpass.nonfinite_samples

    @property
    def mains_hz(self) -> float:
        return self.hum.mains_hz

    @property
    def harmonics(self) -> int:
        return self.hum.harmonics

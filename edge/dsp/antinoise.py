"""Anti-noise for steady tones: the headphone plays the hum of an engine, a fan or a transformer turned over.

**Why only tones.** Anti-noise must arrive with the noise. From the microphone to the ear sound needs 0.1 ms inside an
ear cup and 3 ms over a metre; this box needs 6 ms of hop and limiter, and with the buffers of its converters 40 ms and
more. So it can only play what it could foresee 40 ms ago. The best linear forecast of noise around 150 Hz, from a
record without end and with noise 40 dB below (``python -m edge.dsp.antinoise``), takes away

| width of the band | 0.5 ms ahead | 6 ms | 40 ms |
|---|---|---|---|
| an octave, 106 Hz | 14 dB | 1.1 dB | 0.0 dB |
| 20 Hz | 31 dB | 14 dB | 0.3 dB |
| 5 Hz | 37 dB | 28 dB | 8.8 dB |
| 1 Hz | 39 dB | 37 dB | 25 dB |

because sound of bandwidth B is like itself for about 1 / B. Chips in headphones work 0.01 ms behind; this box cannot
take away a broad band, only tones.

**Which tones.** A tone whose phase moves by ``angle`` during the delay T leaves 2 sin(angle / 2) of itself; a frequency
that moves by d Hz meanwhile makes angle = 2 pi d T. Here T is the loop (about 45 ms), half the window that measures the
tone (60 ms) and the time the output takes to follow (30 ms), 135 ms together: 20 dB less needs a frequency that moves
by no more than 0.12 Hz within that time, 10 dB 0.37 Hz, and beyond 1.2 Hz = 1 / (6 T) it would become louder; such a
tone is not taken for one. ``python -m edge.dsp.antinoise`` measures this: 30 dB less at 0.03 Hz and 21 dB at 0.1 Hz,
as the formula says; at 0.2 Hz the tone is lost now and then and little is left of the 15 dB; above that nothing is
played. Transformers and mains-driven fans qualify, an engine at constant speed does, one that changes gear or a voice
does not.

Tones above 200 Hz ask for one clock too (microphone and headphone on one card, ``playback.clock``): between two clocks
the output's queue wanders by up to 2 ms within 20 s, at 400 Hz most of a turn, and there nothing is gained.

**Which microphone.** It has to sit where the ear is (in the ear cup, or clipped to the cushion): what is cancelled is
the tone at the microphone, and a finger's breadth away from it (a tenth of the wavelength, 17 cm at 200 Hz). On a
microphone at the mouth nothing tells how loud the tone is in the ear, and this must stay off, as it is by default.

``AntiNoise`` is narrow-band filtered-x adaptation (Morgan 1980; Kuo & Morgan 1999, "Active noise control: a tutorial
review", Proc. IEEE 87) in its modified form: per tone a complex weight W for what is played and a complex model E = D +
S W of what is heard, D the tone without us, S the way from output to microphone. D and S are followed by a Kalman
filter that starts from the calibration (``edge.tools.calibrate``), W is -D / S. Following S too forgives a delay that
differs from the calibrated one by some milliseconds, as it does whenever the devices are opened.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ, UserError, files
from edge.console import run_main
from edge.dsp.spectrum import Complexes, Doubles, Floats
from edge.files import atomic
from edge.files.arrays import read_npz

HOP_S = HOP_MS / 1000
LONGEST_RESPONSE_SAMPLES = RATE_HZ
MOST_FILE_BYTES = 1 << 20
"""Of a stored path: the longest has 64 KB."""


class BadPath(UserError):
    """No calibration, or none that can be used."""


@dataclass(frozen=True)
class SecondaryPath:
    """From the samples handed to the output to the samples the microphone gives: float32, one a sample from 0 on."""

    response: Floats
    gain_db: float
    """``capture.gain_db`` while it was measured."""
    signal_to_noise_db: float

    @property
    def delay_samples(self) -> int:
        return int(np.abs(self.response).argmax())

    def save(self, file: Path) -> None:
        """Whole or not at all; raises OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(
            content,
            response=self.response,
            gain_db=self.gain_db,
            signal_to_noise_db=self.signal_to_noise_db,
            rate_hz=RATE_HZ,
        )
        atomic.write(file, content.getvalue())

    @classmethod
    def load(cls, file: Path) -> "SecondaryPath":
        """Raises BadPath."""
        again = "run `quietbox calibrate`"
        try:
            stored = read_npz(files.read_bounded(file, MOST_FILE_BYTES), MOST_FILE_BYTES)
            response = np.asarray(stored["response"], np.float32)
            gain_db, ratio_db = float(stored["gain_db"]), float(stored["signal_to_noise_db"])
            rate_hz = int(stored["rate_hz"])
        except FileNotFoundError:
            raise BadPath(f"{file}: there is no calibration; {again}") from None
        except files.BadFile as error:
            raise BadPath(f"{error}; {again}") from None
        except Exception as error:  # zipfile, zlib and NumPy have a dozen ways over a broken archive
            raise BadPath(f"{file}: this is not a calibration ({type(error).__name__}); {again}") from None
        fits = response.ndim == 1 and HOP_SAMPLES < len(response) <= LONGEST_RESPONSE_SAMPLES and rate_hz == RATE_HZ
        if not fits or not np.isfinite(response).all() or not response.any() or not math.isfinite(gain_db):
            raise BadPath(f"{file}: this calibration cannot be used; {again}")
        return cls(response, gain_db, ratio_db)


class ToneFinder:
    """Steady lines between ``lowest_hz`` and ``highest_hz``: every 250 ms a look at the last 512 ms.

    A line turns from look to look by the same angle; over 2 s the mean of those turns is as long as the mean power for
    a line, a sixth of it for noise (Hann frames that overlap by half), and about as short for voices; quiet looks
    count for more. It must stand ``_ABOVE_DB`` above its quieter side and be seen eight times running. The turn also
    tells its frequency, to some mHz.
    """

    _FRAME_SAMPLES = 8192
    _EVERY_HOPS = 50
    _SHARE = 1 / 8
    _COHERENT = 0.8
    _ABOVE_DB = 12.0
    _SEEN = 8
    _AROUND = 12
    _QUIETEST = 1e-8

    def __init__(self, lowest_hz: float, highest_hz: float) -> None:
        self._bin_hz = RATE_HZ / self._FRAME_SAMPLES
        first, last = round(lowest_hz / self._bin_hz), round(highest_hz / self._bin_hz)
        self._bins = np.arange(first - self._AROUND, last + self._AROUND + 1)
        window = np.hanning(self._FRAME_SAMPLES)
        self._window = (window * 2 / window.sum()).astype(np.float32)
        self._recent = np.zeros(self._FRAME_SAMPLES + self._EVERY_HOPS * HOP_SAMPLES, np.float32)
        self._windowed = np.zeros(self._FRAME_SAMPLES, np.float32)
        self._spectrum: NDArray[Any] = np.zeros(self._FRAME_SAMPLES // 2 + 1, np.complex64)
        self._frame: Complexes = np.zeros(len(self._bins), np.complex128)
        self._before: Complexes = np.zeros(len(self._bins), np.complex128)
        self._turn: Complexes = np.zeros(len(self._bins), np.complex128)
        self._power = np.zeros(len(self._bins))
        self._seen = np.zeros(len(self._bins), np.int64)
        self._beside = np.ones(self._AROUND - 3) / (self._AROUND - 3)
        self.reset()

    def reset(self) -> None:
        self._hops = 0
        self._weights = 0.0
        self._steps: Iterator[None] = iter(())
        for state in (self._recent, self._before, self._turn, self._power, self._seen):
            state.fill(0)
        self.found: list[tuple[float, float]] = []
        """(Hz, amplitude) of the lines of the last look, the loudest first."""

    def hear(self, hop: Floats) -> bool:
        """float32, 80 samples, left alone; True in the one hop in which ``found`` is new."""
        place = self._hops % self._EVERY_HOPS
        start = self._FRAME_SAMPLES + place * HOP_SAMPLES
        self._recent[start : start + HOP_SAMPLES] = hop
        self._hops += 1
        if place == self._EVERY_HOPS - 1:
            self._steps = self._look()
            self._recent[: self._FRAME_SAMPLES] = self._recent[-self._FRAME_SAMPLES :]
        else:
            next(self._steps, None)
        return place == 4

    def _look(self) -> Iterator[None]:
        """In steps of one hop each, so that no hop pays for all of it."""
        np.multiply(self._recent[: self._FRAME_SAMPLES], self._window, out=self._windowed)
        np.fft.rfft(self._windowed, out=self._spectrum)
        self._frame[:] = self._spectrum[self._bins]
        yield
        frame, before = self._frame, self._before
        power = (np.abs(frame) ** 2 + np.abs(before) ** 2) / 2
        weight = 1 / (float(power.sum()) + self._QUIETEST)
        self._weights += self._SHARE * (weight - self._weights)
        share = self._SHARE * weight / self._weights
        self._power += share * (power - self._power)
        self._turn += share * (frame * before.conj() - self._turn)
        before[:] = frame
        yield
        inner = slice(self._AROUND, -self._AROUND)
        beside = np.convolve(self._power, self._beside, "valid")
        power = self._power[inner]
        line = np.abs(self._turn[inner]) > self._COHERENT * power
        around = np.minimum(beside[: len(power)], beside[-len(power) :])
        line &= power > np.maximum(around * 10 ** (self._ABOVE_DB / 10), self._QUIETEST)
        line &= (power >= self._neighbours(self._power, -1)) & (power >= self._neighbours(self._power, 1))
        yield
        seen = self._seen
        near = np.maximum(np.maximum(self._neighbours(seen, -1), seen[inner]), self._neighbours(seen, 1))
        seen[inner] = np.where(line, near + 1, 0)
        places = np.flatnonzero(seen[inner] >= self._SEEN)
        loudest = places[np.argsort(power[places])[::-1]][:16]
        self.found = [(self._frequency(int(at) + self._AROUND), math.sqrt(power[at])) for at in loudest]

    def _neighbours(self, values: NDArray[Any], step: int) -> NDArray[Any]:
        """Of each bin that is looked at, the one ``step`` beside it."""
        return values[self._AROUND + step : len(values) - self._AROUND + step]

    def _frequency(self, at: int) -> float:
        """What the turn says, and the bin says how many whole turns there were in 250 ms."""
        every_s = self._EVERY_HOPS * HOP_S
        part = float(np.angle(self._turn[at])) / (2 * math.pi)
        whole = round(float(self._bins[at]) * self._bin_hz * every_s - part)
        return (whole + part) / every_s


class AntiNoise:
    """``hear`` the microphone's hop first, then ``process`` adds the anti-noise to the hop for the headphone."""

    delay_samples = 0

    _WINDOW_HOPS = 24
    _TICK_HOPS = 6
    _TICK_S = _TICK_HOPS * HOP_S
    _APART_HZ = 17.0
    """Nearer tones cannot be told apart within the window."""
    _LISTEN_TICKS = 12
    """A new tone is measured for so long before anything is played."""
    _FOLLOW = 0.15
    """Of the way to the wanted weight, each hop."""
    _TONE_WALK = 0.1
    _PATH_WALK = 0.06
    """How much of themselves tone and path may change from tick to tick."""
    _PATH_DOUBT = 0.5
    _RETURN = 0.98
    """Exponent: how slowly a louder or softer path returns to the calibrated one."""
    _STEADY = 0.02
    """No measurement is better than that share of the tone."""
    _TUNE = 0.05
    _LOST_TICKS = round(2.0 / _TICK_S)
    _WORSE_TICKS = round(1.0 / _TICK_S)
    _LOUDER = 2.0
    """A tone that has become 3 dB louder under our hands is left alone, whatever the model says of it."""
    _BANNED_TICKS = round(10.0 / _TICK_S)
    _FAINT = 10 ** (-80 / 20)

    def __init__(
        self,
        path: SecondaryPath,
        *,
        gain_db: float = 0.0,
        added_samples: int = 0,
        level_dbfs: float = -20.0,
        lowest_hz: float = 40.0,
        highest_hz: float = 500.0,
        tones: int = 4,
    ) -> None:
        """``gain_db`` is the microphone's now, ``added_samples`` what delays the output after ``process`` and did not
        when the path was measured (the limiter), ``level_dbfs`` the most that all tones together may reach.
        """
        self._finder = ToneFinder(lowest_hz, highest_hz)
        self._lowest_hz, self._highest_hz = lowest_hz, highest_hz
        self._most = 10 ** (level_dbfs / 20)
        self._grid_hz = 0.25
        padded = np.fft.rfft(path.response.astype(np.float64), round(RATE_HZ / self._grid_hz))
        padded = padded[: round((highest_hz + 5) / self._grid_hz)] * 10 ** ((gain_db - path.gain_db) / 20)
        turns = np.arange(len(padded)) * self._grid_hz * added_samples / RATE_HZ
        self._way: Complexes = padded * np.exp(-2j * np.pi * turns)
        self._lag_hops = (path.delay_samples + added_samples) / HOP_SAMPLES
        self._count = tones
        window = self._WINDOW_HOPS
        weights = np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2
        self._window = weights / weights.sum()
        whole, part = int(self._lag_hops), self._lag_hops % 1
        played = np.zeros(window + whole + 1)  # oldest first, the newest hop last
        played[1 : window + 1] += (1 - part) * self._window
        played[:window] += part * self._window
        self._played_window = played
        self._heard: Complexes = np.zeros((window, tones), np.complex128)
        self._played: Complexes = np.zeros((len(played), tones), np.complex128)
        self._waves = np.zeros((2 * tones, HOP_SAMPLES))
        self._both = np.zeros((2, 2 * tones))
        self._two = np.zeros((2, HOP_SAMPLES))
        self._ramp = np.arange(1, HOP_SAMPLES + 1) / HOP_SAMPLES
        self._samples = np.arange(HOP_SAMPLES)
        self._added = np.zeros(HOP_SAMPLES, np.float32)
        self._hop = np.zeros(HOP_SAMPLES)
        self.reset()

    @property
    def tones_hz(self) -> list[float]:
        """The tones worked on, in no order."""
        return [float(hz) for hz, on in zip(self._hz, self._active, strict=True) if on]

    @property
    def attenuation_db(self) -> float:
        """How much less of those tones the microphone hears than it would without us; 0 without tones."""
        alone, left = float(self._alone.sum()), float(self._remaining.sum())
        return 10 * math.log10(alone / max(left, 1e-12 * alone)) if alone > 0 else 0.0

    def reset(self) -> None:
        tones = self._count
        self._finder.reset()
        self._hops = self._untold_hops = 0
        self._heard.fill(0)
        self._played.fill(0)
        self._active = np.zeros(tones, bool)
        self._hz = np.zeros(tones)
        self._phase = np.zeros(tones)
        """Of each tone's oscillator where the current hop begins, rad."""
        self._wanted: Complexes = np.zeros(tones, np.complex128)
        self._weight: Complexes = np.zeros(tones, np.complex128)
        self._silence: Complexes = np.zeros(tones, np.complex128)
        self._tone: Complexes = np.zeros(tones, np.complex128)
        self._path: Complexes = np.ones(tones, np.complex128)
        self._tone_doubt, self._path_doubt = np.zeros(tones), np.zeros(tones)
        self._shared_doubt: Complexes = np.zeros(tones, np.complex128)
        self._noise = np.zeros(tones)
        self._ticks = np.zeros(tones, np.int64)
        self._lost, self._worse = np.zeros(tones, np.int64), np.zeros(tones, np.int64)
        self._alone, self._remaining = np.zeros(tones), np.zeros(tones)
        self._first = np.zeros(tones)
        """Power of each tone before anything was played against it."""
        self._banned: list[tuple[float, int]] = []
        self._tune()

    # --- hearing

    def hear(self, hop: Floats) -> None:
        """float32, 80 samples straight from the microphone, left alone."""
        if self._finder.hear(hop):
            self._take()
        if not self._active.any():
            return
        self._hop[:] = hop
        parts = self._waves @ self._hop * (2 / HOP_SAMPLES)
        tones = self._count
        self._heard[:-1] = self._heard[1:]
        np.multiply(parts[:tones] + 1j * parts[tones:], np.exp(-1j * self._phase), out=self._heard[-1])
        self._hops += 1
        if self._hops % self._TICK_HOPS == 0:
            if self._untold_hops == 0:
                self._follow()
            self._judge()
            self._tune()

    def _take(self) -> None:
        """What the finder has found and nobody works on."""
        for hz, amplitude in self._finder.found:
            taken = np.abs(self._hz[self._active] - hz) < self._APART_HZ
            banned = any(abs(hz - other) < self._APART_HZ for other, _ in self._banned)
            free = np.flatnonzero(~self._active & (np.abs(self._weight) < 1e-9))
            if not self._lowest_hz <= hz <= self._highest_hz or taken.any() or banned or not len(free):
                continue
            if amplitude > 2 * self._most * abs(self._way[round(hz / self._grid_hz)]):
                continue  # this headphone cannot play it loud enough to matter
            which = int(free[0])
            self._active[which] = True
            self._hz[which], self._phase[which] = hz, 0.0
            self._heard[:, which] = self._played[:, which] = 0
            self._tone[which], self._tone_doubt[which] = 0, amplitude**2
            self._path[which] = way = self._way[round(hz / self._grid_hz)]
            self._path_doubt[which] = (self._PATH_DOUBT * abs(way)) ** 2
            self._shared_doubt[which] = 0
            self._noise[which] = 0.1 * amplitude**2
            self._ticks[which] = self._lost[which] = self._worse[which] = 0
            self._alone[which] = self._remaining[which] = amplitude**2
        self._tune()

    def _follow(self) -> None:
        """One Kalman step for tone D and path S of all tones, then their frequencies and the wanted weights."""
        heard = self._window @ self._heard
        played = self._played_window @ self._played
        full = self._active & (self._ticks >= self._WINDOW_HOPS // self._TICK_HOPS)
        self._ticks += self._active
        tone, path = self._tone, self._path
        tone_power = np.abs(tone) ** 2
        dd = self._tone_doubt + self._TONE_WALK**2 * tone_power
        ss = self._path_doubt + (self._PATH_WALK * np.abs(path)) ** 2
        ds = self._shared_doubt
        surprise = heard - tone - path * played
        surprise_power = np.abs(surprise) ** 2
        noise = np.maximum(self._noise, surprise_power) + self._STEADY**2 * tone_power + 1e-14
        for_tone = dd + ds * played.conj()
        for_path = ds.conj() + ss * played.conj()
        expected = (for_tone + played * for_path).real + noise
        gain_tone, gain_path = for_tone / expected, for_path / expected
        gain_tone[~full] = gain_path[~full] = 0
        before = tone.copy()
        tone += gain_tone * surprise
        path += gain_path * surprise
        self._tone_doubt = np.where(full, dd - (gain_tone * for_tone.conj()).real, self._tone_doubt)
        self._path_doubt = np.where(full, ss - (gain_path * for_path.conj()).real, self._path_doubt)
        self._shared_doubt = np.where(full, ds - gain_tone * for_path.conj(), 0)
        self._noise += np.where(full, 0.1 * (surprise_power - self._noise), 0)

        sure = full & (np.abs(tone) ** 2 > 4 * self._noise) & (before != 0)
        turned = np.where(sure, np.angle(tone * before.conj()), 0.0)
        self._hz += self._TUNE * turned / (2 * np.pi * self._TICK_S)
        self._alone += 0.1 * self._active * (np.abs(tone) ** 2 - self._alone)
        self._remaining += 0.1 * self._active * (np.abs(heard) ** 2 - self._remaining)
        self._hold_on(played)

    def _hold_on(self, played: Complexes) -> None:
        """In silence D = -S W is all that is known, and both could fade or grow together: S returns to the calibrated
        loudness (a moved headphone changes it for seconds, not for good), and D goes with it.
        """
        size, usual = np.abs(self._path) + 1e-12, np.abs(self._calibrated())
        ratio = size / (usual + 1e-12)
        changed = self._path * (np.clip(ratio**self._RETURN, 1 / 3, 3) / ratio)
        self._tone += np.where(self._active, (self._path - changed) * played, 0)
        self._path[:] = np.where(self._active, changed, self._path)
        most = (self._PATH_DOUBT * usual) ** 2 + 1e-20
        less = np.minimum(1, most / np.maximum(self._path_doubt, 1e-20))
        self._path_doubt *= less
        self._shared_doubt *= np.sqrt(less)

    def _calibrated(self) -> Complexes:
        """S of the calibration at the frequencies of now."""
        at = np.rint(self._hz / self._grid_hz).astype(np.int64)
        return np.asarray(self._way[at.clip(0, len(self._way) - 1)])

    def _judge(self) -> None:
        """Which tones stay, and what is wanted of them."""
        self._banned = [(hz, left - 1) for hz, left in self._banned if left > 1]
        playing = self._active & (self._ticks > self._LISTEN_TICKS)
        size = np.abs(self._tone)
        faint = (size < self._FAINT) | (size**2 < self._noise)
        self._lost = np.where(playing & faint, self._lost + 1, 0)
        self._first = np.where(self._ticks == self._LISTEN_TICKS, size**2, self._first)
        louder = self._remaining > np.minimum(1.3 * self._alone, self._LOUDER * self._first)
        self._worse = np.where(playing & louder, self._worse + 1, 0)
        outside = (self._hz < self._lowest_hz - 2) | (self._hz > self._highest_hz + 2)
        gone = self._active & ((self._lost > self._LOST_TICKS) | outside)
        worse = self._active & (self._worse > self._WORSE_TICKS)
        self._banned += [(float(hz), self._BANNED_TICKS) for hz in self._hz[worse]][: 16 - len(self._banned)]
        self._active &= ~(gone | worse)
        self._alone *= self._active
        self._remaining *= self._active
        wanted = np.where(playing & self._active, -self._tone / self._safe_path(), 0)
        loudness = float(np.abs(wanted).sum())
        self._wanted[:] = wanted * min(1.0, self._most / loudness) if loudness > 0 else 0

    def _safe_path(self) -> Complexes:
        """S, but never so small that the answer becomes absurdly loud: not below a third of the calibrated one."""
        size = np.abs(self._path) + 1e-12
        return self._path / size * np.maximum(size, np.maximum(np.abs(self._calibrated()) / 3, 1e-4))

    def _tune(self) -> None:
        """The oscillators' waves over one hop."""
        turns = 2j * np.pi / RATE_HZ * self._hz[:, None] * self._samples
        waves = np.exp(turns)
        tones = self._count
        self._waves[:tones], self._waves[tones:] = waves.real, -waves.imag

    # --- playing

    def process(self, hop: Floats, on: bool = True) -> None:
        """Add the anti-noise to float32, 80 samples; ``on`` = False lets it fade out (mute, bypass)."""
        if not self._active.any() and not self._weight.any():
            return
        # what is faded out behind us is not what we think was played: until it has passed, nothing is learnt of it
        self._untold_hops = max(0, self._untold_hops - 1) if on else len(self._played)
        before = self._weight
        after = before + self._FOLLOW * ((self._wanted if on else self._silence) - before)
        after[np.abs(after) < 1e-9] = 0
        turn = np.exp(1j * self._phase)
        tones, both = self._count, self._both
        both[0, :tones], both[0, tones:] = (before * turn).real, (before * turn).imag
        both[1, :tones], both[1, tones:] = (after * turn).real, (after * turn).imag
        np.dot(both, self._waves, out=self._two)
        start, end = self._two
        end -= start
        end *= self._ramp
        end += start
        self._added[:] = end
        hop += self._added
        self._played[:-1] = self._played[1:]
        self._played[-1] = (before + after) / 2
        self._weight = after
        self._phase = (self._phase + 2 * np.pi * self._hz * HOP_S) % (2 * np.pi)


def attenuation_of(wander_hz: float, seconds: float = 14.0, seed: int = 0) -> float:
    """dB less of a 200 Hz tone whose frequency wanders by ``wander_hz`` (standard deviation, remembered for 1 s), with
    45 ms of delay and noise 24 dB below it, over the last half of the time.
    """
    rng = np.random.default_rng(seed)
    hops = round(seconds / HOP_S)
    offset_hz, wandering = 0.0, np.zeros(hops)
    for number, push in enumerate(rng.standard_normal(hops)):
        offset_hz += -HOP_S * offset_hz + wander_hz * math.sqrt(2 * HOP_S) * push
        wandering[number] = offset_hz
    phase = 2 * np.pi * np.cumsum(200 + np.repeat(wandering, HOP_SAMPLES)) / RATE_HZ
    noise = 0.05 * np.sin(phase) + 0.0022 * rng.standard_normal(len(phase))
    response = np.zeros(800, np.float32)
    response[720] = 0.5
    stage = AntiNoise(SecondaryPath(response, 0.0, 40.0))
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
    """What the best linear forecast takes away from noise in a second-order Butterworth band, with white noise 40 dB
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
    print("noise around 150 Hz, foreseen by 0.5, 6 and 40 ms: dB less at best")
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
    run_main(main, "antinoise")

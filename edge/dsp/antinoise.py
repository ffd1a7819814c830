"""Anti-noise for steady tones: the headphone plays the hum of an engine, a fan or a transformer phase-inverted.

**Why only tones.** Anti-noise must arrive with the noise. From the microphone to the ear sound needs 0.1 ms inside an
ear cup and 3 ms over a metre; this box needs 6 ms of hop and limiter, and with the buffers of its converters 40 ms and
more. So it can only play what it could predict 40 ms ago. The best linear forecast of noise around 150 Hz, from a
record without end and with noise 40 dB below (``python -m hw.rooms.anti_noise_bound``), removes

| width of the band | 0.5 ms ahead | 6 ms | 40 ms |
|---|---|---|---|
| an octave, 106 Hz | 14 dB | 1.1 dB | 0.0 dB |
| 20 Hz | 31 dB | 14 dB | 0.3 dB |
| 5 Hz | 37 dB | 28 dB | 8.8 dB |
| 1 Hz | 39 dB | 37 dB | 25 dB |

because sound of bandwidth B is correlated for about 1 / B. Chips in headphones work 0.01 ms behind; this box cannot
attenuate a broad band, only tones.

**Which tones.** A tone whose phase moves by ``angle`` during the delay T leaves 2 sin(angle / 2) of itself; a frequency
that moves by d Hz meanwhile makes angle = 2 pi d T. Here T is the loop (about 45 ms), half the window that measures the
tone (60 ms) and the time the output takes to follow (30 ms), 135 ms together: 20 dB less needs a frequency that moves
by no more than 0.12 Hz within that time, 10 dB 0.37 Hz, and beyond 1.2 Hz = 1 / (6 T) it would become louder; such a
tone is ignored. ``python -m hw.rooms.anti_noise_bound`` measures this: 30 dB less at 0.03 Hz and 21 dB at 0.1 Hz, as
the formula says; at 0.2 Hz the tone is lost now and then and little is left of the 15 dB; above that nothing is played.
Transformers and mains-driven fans qualify, an engine at constant speed does, one that changes gear or a voice does not.

Tones above 200 Hz ask for one clock too (microphone and headphone on one card, ``playback.clock``): between two clocks
the output's queue wanders by up to 2 ms within 20 s, at 400 Hz most of a turn, and there nothing is gained.

**Which microphone.** It has to sit where the ear is (in the ear cup, or clipped to the cushion): what is cancelled is
the tone at the microphone, and a finger's breadth away from it (a tenth of the wavelength, 17 cm at 200 Hz). On a
microphone at the mouth nothing shows how loud the tone is in the ear, and this must stay off, as it is by default.

``AntiNoise`` is narrow-band filtered-x adaptation (Morgan 1980; Kuo & Morgan 1999, "Active noise control: a tutorial
review", Proc. IEEE 87) in its modified form: per tone a complex weight W for what is played and a complex model E = D +
S W of what is heard, D the tone without us, S the secondary path from output to microphone. D and S are tracked by a
Kalman filter that starts from the calibration (``edge.tools.calibrate``), W is -D / S. Tracking S too tolerates a delay
that differs from the calibrated one by some milliseconds, as it does whenever the devices are opened.
"""

import math

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.config import AntinoiseConfig
from edge.dsp.antinoise_thresholds import AntiNoiseThresholds
from edge.dsp.secondary_path import SecondaryPath
from edge.dsp.spectrum import Complexes, Floats
from edge.dsp.thresholds import hops
from edge.dsp.tone_finder import HOP_S, ToneFinder
from edge.dsp.tone_tracker import ToneTracker


class AntiNoise:
    """``hear`` the microphone's hop first, then ``process`` adds the anti-noise to the hop for the headphone."""

    delay_samples = 0

    def __init__(
        self,
        path: SecondaryPath,
        config: AntinoiseConfig,
        *,
        gain_db: float = 0.0,
        added_samples: int = 0,
        limits: AntiNoiseThresholds | None = None,
    ) -> None:
        """``gain_db`` is the microphone's now, ``added_samples`` what delays the output after ``process`` and did not
        when the path was measured (the limiter).
        """
        self._limits = limits = limits or AntiNoiseThresholds()
        self._finder = ToneFinder(config.lowest_hz, config.highest_hz, limits)
        self._lowest_hz, self._highest_hz = config.lowest_hz, config.highest_hz
        self._highest_level = 10 ** (config.level_dbfs / 20)
        self._count = config.tones
        self._tracker = ToneTracker(
            path,
            gain_db=gain_db,
            added_samples=added_samples,
            highest_hz=config.highest_hz,
            tones=config.tones,
            limits=limits,
        )
        self._measure_hops = hops(limits.measure_ms)
        self._measure_s = self._measure_hops * HOP_S
        self._window_steps = hops(limits.window_ms) // self._measure_hops
        self._listen_steps, self._lost_steps, self._worse_steps, self._rejected_steps = (
            self._steps(time_ms) for time_ms in (limits.listen_ms, limits.lost_ms, limits.worse_ms, limits.rejected_ms)
        )
        self._create_windows(hops(limits.window_ms))
        self._create_buffers()
        self.reset()

    def _steps(self, time_ms: float) -> int:
        """The whole number of measurements nearest to a time."""
        return round(time_ms / 1000 / self._measure_s)

    def _create_windows(self, length: int) -> None:
        """Of the hops heard, and of those played before by the path's delay, oldest first."""
        weights = np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
        self._window = weights / weights.sum()
        whole, part = int(self._tracker.delay_hops), self._tracker.delay_hops % 1
        played = np.zeros(length + whole + 1)
        played[1 : length + 1] += (1 - part) * self._window
        played[:length] += part * self._window
        self._played_window = played

    def _create_buffers(self) -> None:
        tones = self._count
        self._heard: Complexes = np.zeros((len(self._window), tones), np.complex128)
        self._played: Complexes = np.zeros((len(self._played_window), tones), np.complex128)
        self._waves = np.zeros((2 * tones, HOP_SAMPLES))
        self._both = np.zeros((2, 2 * tones))
        self._two = np.zeros((2, HOP_SAMPLES))
        self._ramp = np.arange(1, HOP_SAMPLES + 1) / HOP_SAMPLES
        self._samples = np.arange(HOP_SAMPLES)
        self._added = np.zeros(HOP_SAMPLES, np.float32)
        self._hop = np.zeros(HOP_SAMPLES)

    @property
    def tones_hz(self) -> list[float]:
        """The tones worked on, in no order."""
        return [float(hz) for hz, on in zip(self._hz, self._active, strict=True) if on]

    @property
    def attenuation_db(self) -> float:
        """How much less of those tones the microphone hears than it would without us; 0 without tones."""
        without, left = float(self._power_without.sum()), float(self._power_with.sum())
        return 10 * math.log10(without / max(left, 1e-12 * without)) if without > 0 else 0.0

    def reset(self) -> None:
        """Forget the signal and all tones."""
        tones = self._count
        self._finder.reset()
        self._tracker.reset()
        self._hops = self._fading_hops = 0
        self._heard.fill(0)
        self._played.fill(0)
        self._active = np.zeros(tones, bool)
        self._hz = np.zeros(tones)
        self._phase = np.zeros(tones)
        """Of each tone's oscillator where the current hop begins, rad."""
        self._wanted: Complexes = np.zeros(tones, np.complex128)
        self._weight: Complexes = np.zeros(tones, np.complex128)
        self._silence: Complexes = np.zeros(tones, np.complex128)
        self._age_steps = np.zeros(tones, np.int64)
        self._faint_steps, self._louder_steps = np.zeros(tones, np.int64), np.zeros(tones, np.int64)
        self._power_without, self._power_with = np.zeros(tones), np.zeros(tones)
        self._first_power = np.zeros(tones)
        """Power of each tone before anything was played against it."""
        self._rejected: list[tuple[float, int]] = []
        """(Hz, measurements left) of tones that became louder."""
        self._update_waves()

    # --- hearing

    def hear(self, hop: Floats) -> None:
        """float32, 80 samples straight from the microphone, left alone."""
        if self._finder.hear(hop):
            self._accept_tones()
        if not self._active.any():
            return
        self._hop[:] = hop
        parts = self._waves @ self._hop * (2 / HOP_SAMPLES)
        tones = self._count
        self._heard[:-1] = self._heard[1:]
        np.multiply(parts[:tones] + 1j * parts[tones:], np.exp(-1j * self._phase), out=self._heard[-1])
        self._hops += 1
        if self._hops % self._measure_hops == 0:
            if self._fading_hops == 0:
                self._measure()
            self._judge_tones()
            self._update_waves()

    def _accept_tones(self) -> None:
        """What the finder has found and nothing works on yet."""
        limits, tracker = self._limits, self._tracker
        for hz, amplitude in self._finder.found:
            taken = np.abs(self._hz[self._active] - hz) < limits.apart_hz
            rejected = any(abs(hz - other) < limits.apart_hz for other, _ in self._rejected)
            free = np.flatnonzero(~self._active & (np.abs(self._weight) < 1e-9))
            if not self._lowest_hz <= hz <= self._highest_hz or taken.any() or rejected or not len(free):
                continue
            if amplitude > limits.too_loud_ratio * self._highest_level * abs(tracker.response_at(hz)):
                continue  # this headphone cannot play it loud enough to matter
            which = int(free[0])
            self._active[which] = True
            self._hz[which], self._phase[which] = hz, 0.0
            self._heard[:, which] = self._played[:, which] = 0
            tracker.start(which, hz, amplitude)
            self._age_steps[which] = self._faint_steps[which] = self._louder_steps[which] = 0
            self._power_without[which] = self._power_with[which] = amplitude**2
        self._update_waves()

    def _measure(self) -> None:
        """Update tone and path of all tones, then their frequencies and powers."""
        limits, tracker, active = self._limits, self._tracker, self._active
        heard = self._window @ self._heard
        played = self._played_window @ self._played
        full = active & (self._age_steps >= self._window_steps)
        self._age_steps += active
        rotation = tracker.update(heard, played, full)
        self._hz += limits.frequency_share * rotation / (2 * np.pi * self._measure_s)
        share = limits.noise_share
        self._power_without += share * active * (np.abs(tracker.tone) ** 2 - self._power_without)
        self._power_with += share * active * (np.abs(heard) ** 2 - self._power_with)
        tracker.return_to_calibration(played, active, self._hz)

    def _judge_tones(self) -> None:
        """Which tones stay, and what is wanted of them."""
        limits, tone = self._limits, self._tracker.tone
        self._rejected = [(hz, left - 1) for hz, left in self._rejected if left > 1]
        playing = self._active & (self._age_steps > self._listen_steps)
        size = np.abs(tone)
        faint = (size < limits.faintest) | (size**2 < self._tracker.noise)
        self._faint_steps = np.where(playing & faint, self._faint_steps + 1, 0)
        self._first_power = np.where(self._age_steps == self._listen_steps, size**2, self._first_power)
        allowed = np.minimum(limits.louder_ratio * self._power_without, limits.first_ratio * self._first_power)
        self._louder_steps = np.where(playing & (self._power_with > allowed), self._louder_steps + 1, 0)
        low_hz, high_hz = self._lowest_hz - limits.outside_hz, self._highest_hz + limits.outside_hz
        outside = (self._hz < low_hz) | (self._hz > high_hz)
        gone = self._active & ((self._faint_steps > self._lost_steps) | outside)
        worse = self._active & (self._louder_steps > self._worse_steps)
        room = 16 - len(self._rejected)
        self._rejected += [(float(hz), self._rejected_steps) for hz in self._hz[worse]][:room]
        self._active &= ~(gone | worse)
        self._power_without *= self._active
        self._power_with *= self._active
        wanted = np.where(playing & self._active, -tone / self._tracker.safe_path(self._hz), 0)
        loudness = float(np.abs(wanted).sum())
        self._wanted[:] = wanted * min(1.0, self._highest_level / loudness) if loudness > 0 else 0

    def _update_waves(self) -> None:
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
        # a later fader changes what is played meanwhile: until that has passed, nothing is learnt from it
        self._fading_hops = max(0, self._fading_hops - 1) if on else len(self._played)
        before = self._weight
        after = before + self._limits.follow_share * ((self._wanted if on else self._silence) - before)
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

"""The howl guard: an open headphone or a loudspeaker closes an acoustic feedback loop, which must not howl.

The box knows what it plays. ``FeedbackPath`` estimates all the time how that returns to the microphone, without
changing a sample. ``HowlGuard`` compares: where the microphone is explained by the box's own output, the loop may be
closing. Only a gain-drop test or a verification at low gain confirms that, which is an event: from then on the
estimated path is subtracted at the very front of the chain, a peak that returns gets a notch, and the level comes back
but for a margin. Without a test not one bit of the sound changes.

The phases and what ends them; ``reset`` returns to WATCHING from any of them:

| from | when | to | what happens |
|---|---|---|---|
| WATCHING | our output explains the microphone | TESTING | output ``drop_db`` lower, no learning |
| TESTING | the microphone follows the drop | WAITING | event |
| TESTING | it hears a sound from outside | WAITING | level back, longer pause |
| TESTING | neither, and first time | VERIFYING | output ``verification_drop_db`` lower, learning |
| VERIFYING | the path explains the microphone | WAITING | event |
| VERIFYING | it does not, or it is a tone | WAITING | level back, longer pause |
| WAITING | the pause is over | WATCHING | |

A test is unclear for the first time as long as nothing is subtracted and no two tests found nothing shortly before;
otherwise an unclear test counts as a sound from outside.
"""

import math
from enum import Enum, auto

import numpy as np

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.config import Config, HowlConfig
from edge.dsp.band_powers import BandPowers
from edge.dsp.feedback_path import FeedbackPath
from edge.dsp.gain_drop_test import GainDropTest, Verdict
from edge.dsp.howl_margin import Margin
from edge.dsp.howl_thresholds import HowlThresholds
from edge.dsp.notches import Notches
from edge.dsp.power import DifferencePower
from edge.dsp.spectrum import Floats
from edge.dsp.thresholds import hops


class Phase(Enum):
    """What the guard does just now; the table of transitions is in the module's docstring."""

    WATCHING = auto()
    """Learns the path and compares."""
    TESTING = auto()
    """Gain-drop test, some 0.1 s."""
    VERIFYING = auto()
    """Low-gain verification, up to ``rounds`` seconds of sound."""
    WAITING = auto()
    """Learns the path; no test until a pause is over."""


WATCHING, TESTING, VERIFYING, WAITING = Phase


class HowlGuard:
    """``hear`` the microphone's hop at the front, ``process`` the hop before the limiter, report what was ``played``.

    Suspicion: over the last 100 ms the box's own output explains ``explained_db`` of the microphone in the mean over
    all bands, and the microphone does not hear less than was played. That is little, but a voice without a loop
    resembles itself in some bands and never in all; and it is there long before anything howls, or where a suppressor
    holds the loop down. Or it howls already: one tone at the limiter, half of it explained.
    """

    delay_samples = 0

    _SPECTRUM_SAMPLES = 1024
    """64 ms, in which the peak for a notch is looked for."""

    def __init__(
        self,
        config: HowlConfig,
        *,
        soonest_ms: float,
        raised_db: float,
        steady_levels: tuple[float, float],
        limits: HowlThresholds | None = None,
    ) -> None:
        """``soonest_ms``: what is played cannot return sooner, for the buffers; what is searched below that would only
        be the voice itself. ``raised_db``: how much louder than it was heard the box plays some frequencies.
        ``steady_levels``: (lowest, highest) level, 0..1, at which a steady sound leaves the limiter.
        """
        self._limits = limits = limits or HowlThresholds()
        self._loud_level, self._highest_level = limits.loud_ratio * steady_levels[0], steady_levels[1]
        self._returned_ratio = limits.returned_ratio * 10 ** (-max(0.0, raised_db) / 10)
        skipped_hops = max(0, math.floor(soonest_ms / HOP_MS) - 1)
        partitions = max(2, round(config.span_ms / HOP_MS) - skipped_hops)
        self._queue = np.zeros((skipped_hops + 1, HOP_SAMPLES), np.float32)
        self.path = FeedbackPath(partitions, limits)
        self.notches = Notches(limits)
        self.margin = Margin(limits)
        self._test = GainDropTest(limits, len(self._queue) - 1, partitions)
        self.events = 0
        """Feedback loops found so far."""
        self.gain_drop_tests = 0
        """Tests so far; each that found no loop was a dip of about 0.1 s."""
        self._create_buffers()
        self._round_hops, self._idle_limit_hops = hops(limits.round_ms), hops(limits.idle_ms)
        self._shortest_retry_hops, self._longest_retry_hops = hops(limits.retry_ms), hops(limits.longest_retry_ms)
        self.reset()

    @classmethod
    def from_config(cls, config: Config, steady_levels: tuple[float, float]) -> "HowlGuard":
        """``steady_levels`` of the limiter that the box plays through."""
        return cls(
            config.howl,
            soonest_ms=config.playback.queue_ms / 2,
            raised_db=config.eq.gain_db,
            steady_levels=steady_levels,
        )

    def _create_buffers(self) -> None:
        memory_hops = hops(self._limits.memory_ms)
        self._left = np.zeros(HOP_SAMPLES, np.float32)
        self._power = DifferencePower().mean
        """Mean square of the differences between samples."""
        self._heard = np.zeros(2 * memory_hops)
        self._sent = np.zeros(2 * memory_hops)
        self._bands = BandPowers(2)
        self._recent_powers = np.zeros((memory_hops, *self._bands.shape), np.float32)
        """Of each hop of the last ``memory_ms``: heard, and not explained."""
        self._sums = np.zeros(self._bands.shape, np.float32)
        self._verified_powers = np.zeros(self._bands.shape, np.float32)
        """The same, summed over a verification."""
        self._gains = np.zeros(HOP_SAMPLES, np.float32)
        self._ramp = (np.arange(1, HOP_SAMPLES + 1) / HOP_SAMPLES).astype(np.float32)
        self._recent = np.zeros(self._SPECTRUM_SAMPLES, np.float32)
        self._window = np.hanning(self._SPECTRUM_SAMPLES).astype(np.float32)
        self._tilt = np.arange(self._SPECTRUM_SAMPLES // 2 + 1.0) ** 2

    @property
    def subtracting(self) -> bool:
        """Whether the estimated path is subtracted from the microphone: since an event."""
        return self._subtracting

    def subtracted(self) -> Floats:
        """What is subtracted from the microphone just now: the impulse response from what was played, counted from its
        own sample on; empty while nothing is. For simulations, not for the audio thread.
        """
        if not self._subtracting:
            return np.zeros(0, np.float32)
        return np.concatenate([np.zeros(self._queue.size, np.float32), self.path.subtracted_taps.ravel()])

    @property
    def delay_ms(self) -> float:
        """When most of what was played is back at the microphone, 0 before the first test."""
        return self._delay_hops * HOP_MS

    def reset(self) -> None:
        """Forget sound and path: devices opened again have another delay. The counts stay."""
        self.phase = WATCHING
        self.path.reset()
        self.notches.reset()
        self.margin.reset()
        self._bands.reset()
        self.gain_drop_db = self._applied_drop_db = self._drop_before_test_db = 0.0
        """How much lower than normal the box plays; applied to the last hop; before the last test."""
        self._subtracting = False
        self._idle_hops = self._delay_hops = 0
        self._wait_hops = self._verify_hops = 0
        self._retry_hops = float(self._shortest_retry_hops)
        for buffer in (self._queue, self._recent, self._heard, self._sent, self._recent_powers):
            buffer.fill(0)
        self._place = 0
        self._volume = 1.0
        """Of the last hop played."""
        self._excess = 1.0
        """Level of the last hop over the limiter's highest steady level."""

    # --- the microphone, at the front of the chain

    def hear(self, hop: Floats) -> None:
        """float32, 80 samples straight from the microphone; what our output adds to them is subtracted if known."""
        np.subtract(hop, self.path.predict(self._queue[0]), out=self._left)
        if self.phase is TESTING:
            self._test_hop(hop)
        else:
            self.path.learn(self._left, 1.0)
        if self._subtracting or self.phase is VERIFYING:
            self.path.average()
        if self._subtracting:
            self._subtract_path(hop)
        self._remember(hop)
        if self.phase is WATCHING:
            self._watch_hop()
        elif self.phase is VERIFYING:
            self._verify_hop(hop)
        elif self.phase is WAITING:
            self._wait_hop()

    def _subtract_path(self, hop: Floats) -> None:
        """In place; ends when nothing was left to subtract for long, as a path that has gone must add no ghost."""
        limits, before = self._limits, self._power(hop)
        hop -= self.path.steady_echo()
        useful = self._power(hop) < limits.useful_share * before
        self._idle_hops = 0 if useful else self._idle_hops + 1
        if self._idle_hops > self._idle_limit_hops:
            self._subtracting = False
        self.margin.cover(self.path.steady_db)

    def _remember(self, hop: Floats) -> None:
        self._heard[self._place] = self._power(hop)
        self._sent[self._place] = self._power(self._queue[0])
        if self.phase is not TESTING:
            self._recent_powers[self._place % len(self._recent_powers)] = self._bands.powers(hop, self._left)
        self._place = (self._place + 1) % len(self._heard)
        recent = self._recent
        recent[:-HOP_SAMPLES] = recent[HOP_SAMPLES:]
        recent[-HOP_SAMPLES:] = hop

    # --- one hop of each phase

    def _watch_hop(self) -> None:
        if self._suspicious():
            self._start_test()
        else:
            self._shorten_pause()

    def _test_hop(self, hop: Floats) -> None:
        if not self._test.observe(hop, self._left, self.path):
            self._shorten_pause()
            return
        verdict = self._test.verdict(self.path.quick_db, self._subtracting)
        patient = self._retry_hops > self._limits.patient_ratio * self._shortest_retry_hops
        if verdict is Verdict.LOOP:
            self.path.restart_average()
            self._confirm()
        elif verdict is Verdict.OUTSIDE or self._subtracting or patient:
            self._deny()
        else:
            self._start_verification()

    def _verify_hop(self, hop: Floats) -> None:
        """Counts only if it is a sound at all; decides after each round by all that was heard."""
        limits, path = self._limits, self.path
        if self._power(hop) < limits.quietest_power:
            return
        self._verify_hops += 1
        self._verified_powers += self._recent_powers[(self._place - 1) % len(self._recent_powers)]
        if self._verify_hops % self._round_hops:
            return
        rounds = self._verify_hops // self._round_hops
        explained_db = BandPowers.explained_db(self._verified_powers[0], self._verified_powers[1])
        unknown = explained_db < limits.unknown_db and (rounds > 1 or path.steady_db < 0)
        if path.steady_db > limits.tone_path_db:
            self._deny()
        elif explained_db > limits.known_db / rounds:
            self._confirm()
        elif rounds == limits.rounds or unknown:
            self._deny()
        else:
            path.restart_average()

    def _wait_hop(self) -> None:
        self._wait_hops -= 1
        if self._wait_hops == 0:
            self.phase = WATCHING

    # --- transitions

    def _suspicious(self) -> bool:
        limits, heard = self._limits, float(self._heard.sum())
        if heard < len(self._heard) * limits.quietest_power or heard < self._returned_ratio * float(self._sent.sum()):
            return False
        np.add.reduce(self._recent_powers, axis=0, out=self._sums)
        if self._loud and self._sums[0].sum() > limits.ringing_ratio * self._sums[1].sum():
            return True
        least_db = limits.explained_again_db if self._subtracting else limits.explained_db
        if BandPowers.explained_db(self._sums[0], self._sums[1]) < least_db:
            return False
        return self.path.quick_db > limits.faintest_path_db

    @property
    def _loud(self) -> bool:
        """Whether the last hop played stood at the limiter, or at the microphone's full scale before the volume."""
        limit = min(self._loud_level / self._volume, self._limits.clipping_level)
        return float(np.abs(self._queue[-1]).max()) > limit

    def _start_test(self) -> None:
        limits = self._limits
        self.phase = TESTING
        self.gain_drop_tests += 1
        self._delay_hops = len(self._queue) + self.path.delay_hops
        self._drop_before_test_db = self.gain_drop_db
        held_db = 20 * math.log10(self._excess)  # the limiter gives back so much before the sound becomes quieter
        self.gain_drop_db = min(self.gain_drop_db + limits.drop_db + held_db, limits.largest_drop_db)
        heard_drop_db = max(0.0, self.gain_drop_db - self._drop_before_test_db - held_db)
        self._test.start(heard_drop_db, float(self._heard.mean()))

    def _start_verification(self) -> None:
        limits = self._limits
        self.phase = VERIFYING
        self.path.restart_average()
        self._verified_powers.fill(0)
        self._verify_hops = 0
        self.gain_drop_db = min(self._drop_before_test_db + limits.verification_drop_db, limits.largest_drop_db)

    def _confirm(self) -> None:
        """An event: it is a feedback loop."""
        self.events += 1
        self._subtracting = True
        self._idle_hops = 0
        if self.margin.event_is_recent:  # subtraction alone was not enough
            self._place_notch()
        self.margin.add_event()
        self.gain_drop_db = max(self.gain_drop_db, self.margin.db)
        self._retry_hops = float(self._shortest_retry_hops)
        self._pause(len(self._heard))  # until what is remembered is younger than the drop

    def _deny(self) -> None:
        """A sound from outside: the level returns at once, and the next test comes later."""
        self.gain_drop_db = self._drop_before_test_db
        self._pause(round(self._retry_hops))
        self._retry_hops = min(2 * self._retry_hops, self._longest_retry_hops)

    def _pause(self, wait_hops: int) -> None:
        self.phase = WAITING
        self._wait_hops = wait_hops

    def _shorten_pause(self) -> None:
        """A hop in which nothing was denied."""
        self._retry_hops = max(self._retry_hops - self._limits.forgiven_share, self._shortest_retry_hops)

    def _place_notch(self) -> None:
        """At the highest peak of the last 64 ms, differences between samples, if it stands out."""
        power = np.abs(np.fft.rfft(self._recent * self._window)) ** 2 * self._tilt
        peak = int(power[4:-4].argmax()) + 4
        around = np.median(power[max(1, peak - 24) : peak + 25])
        if power[peak] > around * 10 ** (self._limits.peak_db / 10):
            low, top, high = np.log(power[peak - 1 : peak + 2] + 1e-30)
            offset = 0.5 * (low - high) / (low - 2 * top + high)
            self.notches.place((peak + offset) * RATE_HZ / self._SPECTRUM_SAMPLES)

    # --- the output, at the end of the chain

    def process(self, hop: Floats) -> None:
        """float32, 80 samples in place: notches and gain drop; bit for bit the same while there are none."""
        self.notches.process(hop)
        before_db, after_db = self._applied_drop_db, self.gain_drop_db
        self._applied_drop_db = after_db
        if before_db != 0.0 or after_db != 0.0:
            before, after = 10 ** (-before_db / 20), 10 ** (-after_db / 20)
            np.multiply(self._ramp, after - before, out=self._gains)
            self._gains += before
            hop *= self._gains
        self._excess = max(1.0, max(float(hop.max()), -float(hop.min())) / self._highest_level)
        self.margin.age()
        if self.phase in (WATCHING, WAITING):
            self.gain_drop_db = self.margin.release(self.gain_drop_db, self._subtracting)

    def played(self, hop: Floats, volume: float = 1.0) -> None:
        """float32, 80 samples: what really left the box, after the limiter. ``volume`` is the factor by which the box
        plays more softly than it hears: it counts as part of the path, whose gain then is the feedback loop's, 0 dB at
        the limit, at any volume.
        """
        self._queue[:-1] = self._queue[1:]
        self._volume = volume
        np.divide(hop, np.float32(volume), out=self._queue[-1])

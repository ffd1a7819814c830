"""The reference microphone: what it hears of the noise is predicted at the voice microphone and subtracted.

The prediction is ``AdaptivePath``'s; here it is decided when that learns, how much of it is subtracted, and whether the
channel can be trusted at all.
"""

import math

import numpy as np

from edge import HOP_MS, HOP_SAMPLES
from edge.config import ReferenceConfig
from edge.dsp.adaptive_path import AdaptivePath
from edge.dsp.channel_check import ChannelMonitor
from edge.dsp.estimator import Estimator
from edge.dsp.highpass import HighPass
from edge.dsp.near_talker import NearTalkerDetector
from edge.dsp.power import ABSURD_POWER, mean_square
from edge.dsp.reference_thresholds import ReferenceThresholds
from edge.dsp.spectrum import BANDS, Floats, Transform
from edge.dsp.thresholds import hops


class ReferenceCanceller:
    """Subtracts from the voice what the reference predicts of it: float32, 80 samples in place, no delay.

    The path is tracked in pauses and held while somebody speaks, unless it is lost: the reference hears the voice a
    little, and what was learnt from it would cancel it. What is subtracted is scaled by how well it has lately fitted,
    so that a reference of something else does no harm; a path that makes things worse is forgotten.

    It switches itself off where the reference is dead, where it is a copy of the voice channel, and where it hears
    speech better than the voice channel does (swapped); and on again when that is over.
    """

    delay_samples = 0

    def __init__(
        self,
        config: ReferenceConfig,
        highpass_hz: float,
        listener: Estimator | None = None,
        limits: ReferenceThresholds | None = None,
    ) -> None:
        """``highpass_hz`` as the voice has it: two equal filters leave the path alone. ``listener`` detects speech at
        the reference, to find swapped channels in noise; ``process`` is given the voice channel's probability, which
        should be from one as good.
        """
        self._limits = limits = limits or ReferenceThresholds()
        self._partitions = math.ceil(config.path_ms / HOP_MS)
        self._search_hops, self._worse_limit_hops = hops(limits.search_ms), hops(limits.worse_ms)
        self._expect_change_hops = hops(limits.expect_change_ms)
        self.resets = 0
        """How often a path was given up because it made things worse."""
        self.invalid_hops = 0
        """Reference hops that were NaN, infinite or absurdly loud; taken for silence."""
        self.trouble = ""
        """Why it is off: "dead", "copy", "swapped", or "listening" for signs of that; empty while it works."""
        self._path = AdaptivePath(self._partitions)
        self._highpass = HighPass(highpass_hz)
        self._monitor = ChannelMonitor(limits)
        self._near_talker = NearTalkerDetector(limits)
        self._listener = listener
        self._transform = Transform()
        self._gains = np.zeros(BANDS, np.float32)
        self._reference = np.zeros(HOP_SAMPLES, np.float32)
        self._error = np.zeros(HOP_SAMPLES, np.float32)
        self._scale = np.zeros(HOP_SAMPLES, np.float32)
        self._level = np.zeros(HOP_SAMPLES, np.float32)
        self._ramp = np.arange(1, HOP_SAMPLES + 1, dtype=np.float32) / HOP_SAMPLES
        self._clipped_hops = self._lost_hops = 0
        self._fit = 0.0
        """How much of the prediction is subtracted, 0 to 1."""
        self._power_before = self._power_after = 0.0
        self.reset()

    @property
    def state(self) -> str:
        """ "adapting", "frozen", or "off: " and the trouble."""
        if self.trouble:
            return f"off: {self.trouble}"
        return "frozen" if self._frozen else "adapting"

    @property
    def attenuation_db(self) -> float:
        """How much quieter the voice channel's pauses have become here, over the last second of them."""
        return 10 * math.log10((self._power_before + 1e-12) / (self._power_after + 1e-12))

    def process(self, hop: Floats, reference: Floats, speech: float, as_heard: Floats | None = None) -> None:
        """``reference``: float32, 80 samples of the same 5 ms, left as they are; ``speech``: probability, 0 to 1.

        ``as_heard`` is the voice before its high-pass and hum canceller, if there were any.
        """
        heard = self._sanitized(reference)
        voice = hop if as_heard is None else as_heard
        self.trouble = self._monitor.check(voice, heard, speech, self._reference_speech(heard))
        speech *= self._near_talker.of(voice, heard)
        self._clipped_hops = self._partitions if self._clips(heard) else max(self._clipped_hops - 1, 0)
        self._highpass.process(heard)
        if self.trouble and not self._fit:
            self._frozen = False
            self._power_after = self._power_before
            return
        predicted = self._path.predict(heard)
        if not mean_square(predicted) < ABSURD_POWER:
            self.resets += 1
            self._start_over()
            return
        np.subtract(hop, predicted, out=self._error)
        fit_before, power = self._fit, mean_square(hop)
        share = self._learning_share(hop, predicted, speech)
        self._frozen = not share > 0
        if self.trouble:
            self._fit = 0.0
        self._subtract(hop, predicted, fit_before, self._fit)
        if self.trouble:
            self._start_over()
        elif not self._frozen:
            self._count_attenuation(power, mean_square(hop))
            self._path.learn(self._error, share)
            self._check_path()

    def _sanitized(self, reference: Floats) -> Floats:
        """A copy; silence for what is NaN, infinite or absurdly loud."""
        heard = self._reference
        heard[:] = reference
        if not mean_square(heard) < ABSURD_POWER:
            self.invalid_hops += 1
            heard.fill(0)
        return heard

    def _reference_speech(self, heard: Floats) -> float | None:
        """The probability of speech at the reference, while that is needed. After a rest the listener begins with what
        it heard before, and is ignored at first.
        """
        if self._listener is None or not self._monitor.needs_reference_speech:
            return None
        return self._listener.estimate(self._transform.analyse(heard), self._gains)

    def _learning_share(self, hop: Floats, predicted: Floats, speech: float) -> float:
        """Share of the full step, 0 to 1: less towards speech, all of it while the path is lost, none on clipping."""
        limits = self._limits
        share = min(max((limits.held_speech - speech) / (limits.held_speech - limits.quiet_speech), 0.0), 1.0)
        self._judge_fit(hop, predicted, spoken=not share > 0)
        if self._lost:
            share = 1.0
        return 0.0 if self._clipped_hops or self._clips(hop) else share

    def _count_attenuation(self, before: float, after: float) -> None:
        if not self._lost:
            share = 1 - self._limits.attenuation_forgetting
            self._power_before += (before - self._power_before) * share
            self._power_after += (after - self._power_after) * share

    def reset(self) -> None:
        """Forget the signal and the path; keep the counts."""
        self.trouble = ""
        self._transform.reset()
        if self._listener is not None:
            self._listener.reset()
        self._monitor.reset()
        self._near_talker.reset()
        self._highpass.reset()
        self._path.reset()
        self._frozen = self._spoken = False
        self._clipped_hops = 0
        self._change_expected_hops = self._expect_change_hops
        """Until the step size may be restarted again."""
        self._power_before = self._power_after = 0.0
        self._start_over()

    def _start_over(self) -> None:
        self._path.forget()
        self._fit = 0.0
        self._correlation = self._predicted_power = self._power = 0.0
        self._worse_hops = 0
        self._lost = False

    def _clips(self, hop: Floats) -> bool:
        np.abs(hop, out=self._level)
        return bool(self._level.max() >= self._limits.clipped_level)

    def _judge_fit(self, hop: Floats, predicted: Floats, spoken: bool) -> None:
        """The scale at which the prediction has lately fitted best, 0 to 1 (least squares); and whether it is lost.

        A voice hides the fit, so it is judged for longer and then only shows whether the path has changed meanwhile.
        Nothing but that lets it be tracked in speech: the filter's own step control is coarser than a pause.
        """
        limits = self._limits
        if spoken and not self._spoken and self._fit > limits.lost_fit:
            self._correlation = self._predicted_power  # the voice's first hops, not yet known as such, misled it
        self._spoken = spoken
        share = 1 - (limits.fit_forgetting_speech if spoken else limits.fit_forgetting)
        self._power += (float(np.vdot(hop, hop)) - self._power) * share
        self._correlation += (float(np.vdot(hop, predicted)) - self._correlation) * share
        self._predicted_power += (float(np.vdot(predicted, predicted)) - self._predicted_power) * share
        fit = min(max(self._correlation / (limits.full_fit * self._predicted_power + 1e-12), 0.0), 1.0)
        self._lost_hops = self._lost_hops + 1 if self._lost else 0
        if not spoken:
            self._lost = False
        elif self._lost:
            self._lost = fit < limits.found_fit or self._lost_hops < self._search_hops
        else:
            self._lost = fit < limits.lost_fit and self._power < limits.masked_ratio * self._predicted_power
        if self._lost or not spoken:
            self._fit = fit

    def _subtract(self, hop: Floats, predicted: Floats, before: float, after: float) -> None:
        """From one hop's scale to the next, linearly."""
        scale = self._scale
        np.multiply(self._ramp, after - before, out=scale)
        scale += before
        scale *= predicted
        hop -= scale

    def _check_path(self) -> None:
        """Forget a path that adds more than it removes, and expect another one where it does not fit any more."""
        limits = self._limits
        change = self._predicted_power - 2 * self._correlation
        worse = not change <= (limits.worse_ratio - 1) * self._power + 1e-12
        self._worse_hops = self._worse_hops + 1 if worse else 0
        if self._worse_hops >= self._worse_limit_hops:
            self.resets += 1
            lost = self._lost
            self._start_over()
            self._lost = lost
        self._change_expected_hops = max(self._change_expected_hops - 1, 0)
        misfit = self._fit < limits.lost_fit and self._predicted_power > limits.relevant_share * self._power
        if misfit and not self._change_expected_hops:
            self._change_expected_hops = self._expect_change_hops
            self._path.expect_change()

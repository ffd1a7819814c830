"""Whether the two microphones are what the settings call them: dead, copied and swapped channels."""

import numpy as np

from edge.dsp.power import DifferencePower, mean_square
from edge.dsp.reference_thresholds import ReferenceThresholds
from edge.dsp.spectrum import Floats
from edge.dsp.thresholds import hops


class SpeechContrast:
    """How far speech stands out of the pauses, at the voice's microphone and at the reference: 1 is 3 dB."""

    def __init__(self, reach: int) -> None:
        """Averages reach ``reach`` measurements back."""
        self._reach = reach
        self.forget()

    def forget(self) -> None:
        """No measurement yet."""
        self.speech_count = self.pause_count = 0
        self._speech_voice = self._speech_reference = self._pause_voice = self._pause_reference = 0.0

    def add(self, voice: float, reference: float, speech: bool) -> None:
        """Two powers of one moment, and whether it is speech or a pause."""
        if speech:
            self.speech_count += 1
            share = 1 / min(self.speech_count, self._reach)
            self._speech_voice += (voice - self._speech_voice) * share
            self._speech_reference += (reference - self._speech_reference) * share
        else:
            self.pause_count += 1
            share = 1 / min(self.pause_count, self._reach)
            self._pause_voice += (voice - self._pause_voice) * share
            self._pause_reference += (reference - self._pause_reference) * share

    @property
    def voice(self) -> float:
        """Rise at the voice microphone, from 0."""
        return max(self._speech_voice / max(self._pause_voice, 1e-12) - 1, 0.0)

    @property
    def reference(self) -> float:
        """Rise at the reference, from 0."""
        return max(self._speech_reference / max(self._pause_reference, 1e-12) - 1, 0.0)


class LevelSwing:
    """How far one level comes and goes: its loud moments over its quiet ones, beside its average of 5 s."""

    def __init__(self, limits: ReferenceThresholds) -> None:
        self._limits = limits
        self.forget()

    def forget(self) -> None:
        """No measurement yet."""
        self._usual = 0.0
        self._means = [0.0, 0.0]
        self._counts = [0, 0]

    def add(self, power: float) -> None:
        """One moment's power."""
        limits = self._limits
        self._usual += (power - self._usual) * (limits.usual_share if self._usual else 1.0)
        if limits.quiet_ratio * self._usual < power < limits.loud_ratio * self._usual:
            return
        kind = int(power > self._usual)
        self._counts[kind] += 1
        self._means[kind] += (power - self._means[kind]) / min(self._counts[kind], 2 * limits.moments)

    @property
    def rise(self) -> float:
        """1 is 3 dB; 0 for a steady sound, and as long as too little was heard."""
        if min(self._counts) < self._limits.moments:
            return 0.0
        return max(self._means[1] / max(self._means[0], 1e-12) - 1, 0.0)


class VadComparison:
    """Who hears the speech: wherever a machine masks it at one microphone only, the other one is the wearer's.

    Compared are two speech probabilities, the voice channel's and the reference's, and counted is what one of them is
    sure of and the other denies. That works where levels do not: a voice 5 dB out of the noise moves them less than the
    noise moves itself. In quiet both hear everything, and nothing follows.
    """

    def __init__(self, limits: ReferenceThresholds) -> None:
        self._limits = limits
        self._settle_hops, self._least_hops = hops(limits.settle_ms), hops(limits.least_alone_ms)
        self._enough_hops = hops(limits.enough_ms)
        self._longest_hops, self._idle_hops = hops(limits.longest_listening_ms), hops(limits.idle_listening_ms)
        self.forget()

    def forget(self) -> None:
        """Listen again from the beginning."""
        self._hops = 0
        self._only_voice = self._only_reference = self._reference = 0

    def add(self, voice: float, reference: float) -> None:
        """One hop's speech probabilities."""
        limits = self._limits
        self._hops += 1
        if self._hops <= self._settle_hops:
            return
        self._reference += reference > limits.speech
        self._only_reference += reference > limits.speech and voice < limits.pause
        self._only_voice += voice > limits.speech and reference < limits.pause

    @property
    def swapped(self) -> bool:
        """Whether the reference hears the wearer and the voice channel does not."""
        limits = self._limits
        least = max(self._least_hops, limits.alone_ratio * self._only_voice, limits.alone_share * self._reference)
        return self._only_reference > least

    @property
    def heard_enough(self) -> bool:
        """Whether there was enough speech to acquit."""
        return self._heard_hops >= self._enough_hops

    @property
    def ended(self) -> bool:
        """Whether there is no point in listening on."""
        return self.heard_enough or self._hops >= (self._longest_hops if self._heard_hops else self._idle_hops)

    @property
    def _heard_hops(self) -> int:
        return self._reference + self._only_voice


class _Confirmed:
    """A condition that must hold for some hops before it counts, and must be absent as long before it ends."""

    def __init__(self, certain_hops: int) -> None:
        self._certain_hops = certain_hops
        self.reset()

    def reset(self) -> None:
        self.on = False
        self._present_hops = self._absent_hops = 0

    def add(self, present: bool) -> None:
        """One hop."""
        self._present_hops, self._absent_hops = (self._present_hops + 1, 0) if present else (0, self._absent_hops + 1)
        certain = self._certain_hops
        self.on = self._present_hops >= certain or (self.on and self._absent_hops < certain)


class ChannelMonitor:
    """Whether the reference can be trusted with the voice; one ``check`` a hop.

    Swapped channels show in noise where only the reference hears speech (``VadComparison``, for a while every now and
    then), and in quiet where speech stands further out at the reference. But a canceller that works on swapped
    channels removes the very speech by which they would be known. So where the reference's level comes and goes as
    speech does, and the voice's hardly, the canceller must pause for some seconds ("listening") until the speech
    probability has shown whether that is speech, or a machine that runs now and then.
    """

    def __init__(self, limits: ReferenceThresholds) -> None:
        self._limits = limits
        self._difference_power = DifferencePower()
        self._dead, self._copy = _Confirmed(hops(limits.certain_ms)), _Confirmed(hops(limits.certain_ms))
        self._least_speech, self._least_pause = hops(limits.least_speech_ms), hops(limits.least_pause_ms)
        self._comparison = VadComparison(limits)
        self._contrast = SpeechContrast(2 * self._least_speech)
        self._voice_swing, self._reference_swing = LevelSwing(limits), LevelSwing(limits)
        self._moment_limit_hops, self._pause_limit_hops = hops(limits.moment_ms), hops(limits.pause_for_speech_ms)
        self._first_trust_hops, self._longest_trust_hops = hops(limits.trust_ms), hops(limits.longest_trust_ms)
        self.reset()

    def reset(self) -> None:
        """Forget all that was heard."""
        for each in (self._dead, self._copy):
            each.reset()
        for measure in (self._comparison, self._contrast, self._voice_swing, self._reference_swing):
            measure.forget()
        self._swapped = self._swapped_in_noise = False
        self._rest_hops, self._next_rest_hops = 0, self._first_trust_hops
        """Until the reference is listened to again, and how long that is the next time."""
        self._moment_hops = 0
        self._voice_power = self._reference_power = 0.0
        """Sums over the current moment."""
        self._pause_hops = self._trust_hops = 0
        self._next_trust_hops = self._first_trust_hops

    @property
    def needs_reference_speech(self) -> bool:
        """Whether ``check`` needs the speech probability at the reference."""
        return not (self._rest_hops or self._dead.on or self._copy.on)

    def check(self, voice: Floats, reference: Floats, speech: float, reference_speech: float | None = None) -> str:
        """Both hops as they came, float32, 80 samples, and the probability of speech at the voice and, if it is known,
        the reference; returns "dead", "copy", "swapped", "listening" or, where all is well, nothing.
        """
        limits = self._limits
        if mean_square(voice) < limits.silent_power:  # muted at the start, or dead itself: nothing to compare with
            return self._verdict()
        dead = mean_square(reference) < limits.silent_power or float(reference.max()) == float(reference.min())
        self._dead.add(dead)
        if dead:
            return self._verdict()
        self._copy.add(bool(voice[0] == reference[0]) and np.array_equal(voice, reference))
        self._rest_hops = max(self._rest_hops - 1, 0)
        if reference_speech is not None and speech > 0:  # 0 itself: nothing decides about the voice just now
            self._compare_speech(speech, reference_speech)
        voice_level, reference_level = self._difference_power.of(voice), self._difference_power.of(reference)
        self._compare_swings(voice_level, reference_level)
        if speech > limits.speech or speech < limits.pause:
            self._contrast.add(voice_level, reference_level, speech > limits.speech)
            self._compare_contrast()
        return self._verdict()

    def _verdict(self) -> str:
        if self._dead.on or self._copy.on:
            return "dead" if self._dead.on else "copy"
        if self._swapped or self._swapped_in_noise:
            return "swapped"
        return "listening" if self._pause_hops else ""

    def _compare_speech(self, voice: float, reference: float) -> None:
        """Listen until enough was heard, then rest: longer each time that all was well."""
        comparison = self._comparison
        comparison.add(voice, reference)
        if comparison.swapped:
            self._swapped_in_noise = True
        elif not comparison.ended:
            return
        elif comparison.heard_enough:
            self._swapped_in_noise = False
            self._rest_hops, self._next_rest_hops = self._next_rest_hops, self._longer(self._next_rest_hops)
        else:
            self._rest_hops = self._first_trust_hops
        comparison.forget()

    def _compare_contrast(self) -> None:
        """By how far speech stands out at each microphone."""
        limits, contrast = self._limits, self._contrast
        if contrast.speech_count < self._least_speech or contrast.pause_count < self._least_pause:
            return
        limit = limits.right_ratio if self._swapped else limits.swapped_ratio
        rise = contrast.reference
        self._swapped = rise > limits.least_rise and rise > limit * contrast.voice

    def _compare_swings(self, voice: float, reference: float) -> None:
        """Pause where levels alone look swapped, and end the pause after a while."""
        if self._pause_hops:
            self._pause_hops -= 1
            if not self._pause_hops:
                self._trust_hops, self._next_trust_hops = self._next_trust_hops, self._longer(self._next_trust_hops)
        self._trust_hops = max(self._trust_hops - 1, 0)
        self._voice_power += voice
        self._reference_power += reference
        self._moment_hops += 1
        if self._moment_hops < self._moment_limit_hops:
            return
        self._voice_swing.add(self._voice_power)
        self._reference_swing.add(self._reference_power)
        self._moment_hops, self._voice_power, self._reference_power = 0, 0.0, 0.0
        if self._pause_hops or self._trust_hops or self._swapped:
            return
        limits, rise = self._limits, self._reference_swing.rise
        if rise > limits.swing and rise > limits.swing_ratio * self._voice_swing.rise:
            self._pause_hops = self._pause_limit_hops
            self._contrast.forget()

    def _longer(self, trust_hops: int) -> int:
        return min(2 * trust_hops, self._longest_trust_hops)

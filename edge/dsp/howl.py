"""The howl guard: an open headphone or a loudspeaker is heard by the microphone again, and the circle must not ring.

The box knows what it plays. ``FeedbackPath`` learns all the time how that comes back, unheard. ``HowlGuard`` compares:
where the microphone is explained by our own output, the circle may be closing. Then the output is turned down at once
and watched: a circle answers one round later by fading, a whistle or an organ does not. Only a circle makes an event:
from then on the learnt path is subtracted at the very front of the chain, a peak that comes again gets a notch, and the
level comes back, but for a margin. Without an event and a probe not one bit of the sound changes.
"""

import math

import numpy as np
from numpy.typing import NDArray

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.dsp.reference import BINS, FFT_SAMPLES, AdaptivePath
from edge.dsp.spectrum import Floats, Spectra


class FeedbackPath(AdaptivePath):
    """From what was played, some hops ago and earlier, to the microphone; beside the quick estimate a steady one.

    What we play is what we heard some 50 ms before, and a held vowel resembles itself that long: the quick estimate
    always explains a bit of the voice by itself, a different bit each time. Its average over two seconds does not, so
    that is what may be subtracted (the bias of closed-loop identification; van Waterschoot & Moonen 2011, "Fifty years
    of acoustic feedback control", Proc. IEEE 99).
    """

    _AVERAGE_HOPS = 400
    _EVEN_DOUBT = 0.1
    """The buffers decide when it comes back: no partition is likelier than another."""
    _DOUBT = 1e-4
    """Headphones are taken off at any time, also after an hour: never so sure as of a reference microphone's path."""
    _DEEP_HZ, _HIGH_HZ = 150.0, 300.0
    """Below no headphone closes a circle, and a voice's pitch resembles itself for longest: what seems to come back
    there is the voice, and is not subtracted; above it is."""
    _TAKE_OVER_HOPS = 40

    def __init__(self, partitions: int) -> None:
        self._steady: Spectra = np.zeros((partitions, BINS), np.complex64)
        self._difference: Spectra = np.zeros((partitions, BINS), np.complex64)
        self._steady_hops = 1
        self.highest_db = -np.inf
        """The gain of what would be subtracted, at the frequency where it is highest."""
        self._taken: Spectra = np.zeros((partitions, BINS), np.complex64)
        """The steady estimate above ``_DEEP_HZ``, and the same as an impulse response, a row a partition."""
        self.taken_taps = np.zeros((partitions, HOP_SAMPLES), np.float32)
        self._since_taken_hops = 0
        hz = np.fft.rfftfreq(2 * partitions * HOP_SAMPLES, 1 / RATE_HZ)
        self._believed = np.clip((hz - self._DEEP_HZ) / (self._HIGH_HZ - self._DEEP_HZ), 0, 1).astype(np.float32)
        self._echo = np.zeros(FFT_SAMPLES, np.float32)
        super().__init__(partitions)

    def settle(self) -> None:
        """The quick estimate is right just now: begin the average with it."""
        self._steady[:] = self.weights
        self._steady_hops = 1
        self._take_over()

    def follow(self) -> None:
        """One hop more for the average."""
        self._steady_hops = min(self._steady_hops + 1, self._AVERAGE_HOPS)
        np.subtract(self.weights, self._steady, out=self._difference)
        self._difference *= 1 / self._steady_hops
        self._steady += self._difference
        self._since_taken_hops += 1
        if self._since_taken_hops >= self._TAKE_OVER_HOPS:
            self._take_over()

    def _take_over(self) -> None:
        """Subtract by the steady estimate as it is now, without the deep."""
        self._since_taken_hops = 0
        spectrum = self._response(self._steady)
        self.highest_db = _highest_db(spectrum)
        taps = self.taken_taps
        taps[:] = np.fft.irfft(spectrum)[: taps.size].reshape(taps.shape)
        np.fft.rfft(taps, n=FFT_SAMPLES, axis=1, out=self._taken)  # type: ignore[arg-type]

    def _response(self, weights: Spectra) -> NDArray[np.complex128]:
        """Of the whole way, by frequency, without the deep."""
        taps = np.fft.irfft(weights, n=FFT_SAMPLES)[:, :HOP_SAMPLES]
        spectrum = np.fft.rfft(taps.ravel(), n=2 * taps.size)
        spectrum *= self._believed
        return spectrum

    @property
    def quick_db(self) -> float:
        """The gain of the quick estimate at the frequency where it is highest."""
        return _highest_db(self._response(self.weights))

    def steady_echo(self) -> Floats:
        """What the steady estimate expects of the same past as the last ``predict``: float32, 80; good until called
        again.
        """
        np.multiply(self._spectra, self._taken, out=self._difference)
        return self._heard()

    def louder_echo(self, hops: int, gain: float) -> Floats:
        """What ``predict`` would have said, had the last ``hops`` been played ``gain`` times as loud."""
        np.multiply(self._spectra, self.weights, out=self._difference)
        self._difference[:hops] *= np.float32(gain)
        return self._heard()

    def _heard(self) -> Floats:
        np.add.reduce(self._difference, axis=0, out=self._sum)
        np.fft.irfft(self._sum, n=FFT_SAMPLES, out=self._echo)  # type: ignore[arg-type]
        return self._echo[HOP_SAMPLES:]

    @property
    def delay_hops(self) -> int:
        """How many hops later than the first that ``predict`` was given most of it comes back."""
        parts = self.weights.view(np.float32)
        return int(np.einsum("ij,ij->i", parts, parts).argmax())

    def forget(self) -> None:
        super().forget()
        self._doubt.fill(self._EVEN_DOUBT)

    def reset(self) -> None:
        super().reset()
        self._steady.fill(0)
        self._taken.fill(0)
        self.taken_taps.fill(0)
        self._steady_hops = 1
        self.highest_db = -np.inf


def _highest_db(spectrum: NDArray[np.complex128]) -> float:
    return 10 * math.log10(float((spectrum.real**2 + spectrum.imag**2).max()) + 1e-12)


class Notches:
    """A few narrow band-stops, all allocated beforehand: hop minus what complex one-pole resonators find in it.

    With p = r e^(jw) a resonator is z[n] = p z[n-1] + (1 - r) x[n], over a hop p^n (p z_before + (1 - r) cumsum(x
    p^-n)); 2 Re z is the line at w with its surroundings of ``-ln(r) rate / pi`` Hz. A notch opens and closes over
    ``_FADE_HOPS``.
    """

    COUNT = 4
    _WIDTH = 1 / 12
    """Of its frequency: a third of an octave would be heard in the voice."""
    _LEAST_WIDTH_HZ = 50.0
    _FADE_HOPS = 10
    _KEPT_HOPS = round(20_000 / HOP_MS)

    def __init__(self) -> None:
        shape = (self.COUNT, HOP_SAMPLES)
        self.frequencies_hz = np.zeros(self.COUNT)
        self._grow: NDArray[np.complex128] = np.ones(shape, np.complex128)
        self._shrink: NDArray[np.complex128] = np.ones(shape, np.complex128)
        self._step: NDArray[np.complex128] = np.zeros(self.COUNT, np.complex128)
        self._take = np.zeros(self.COUNT)
        self._state: NDArray[np.complex128] = np.zeros(self.COUNT, np.complex128)
        self._found: NDArray[np.complex128] = np.zeros(shape, np.complex128)
        self._depth = np.zeros(self.COUNT)
        self._left_hops = np.zeros(self.COUNT, np.int64)
        self._line = np.zeros(HOP_SAMPLES)
        self._samples = np.arange(HOP_SAMPLES)

    def place(self, frequency_hz: float) -> None:
        """Notch it for 20 s; the notch already there, else the one nearest its end, is taken for it."""
        width_hz = max(self._LEAST_WIDTH_HZ, self._WIDTH * frequency_hz)
        near = np.abs(self.frequencies_hz - frequency_hz) < width_hz / 2
        near &= self._left_hops > 0
        which = int(near.argmax()) if near.any() else int(self._left_hops.argmin())
        self._left_hops[which] = self._KEPT_HOPS
        if near.any():
            return
        radius = math.exp(-math.pi * width_hz / RATE_HZ)
        step = radius * np.exp(2j * np.pi * frequency_hz / RATE_HZ)
        self.frequencies_hz[which] = frequency_hz
        self._step[which], self._take[which] = step, 1 - radius
        np.power(step, self._samples, out=self._grow[which])
        np.divide(1 - radius, self._grow[which], out=self._shrink[which])
        self._state[which] = self._depth[which] = 0

    def process(self, hop: Floats) -> None:
        """float32, 80 samples in place; untouched where no notch is open."""
        if not self._left_hops.any() and not self._depth.any():
            return
        np.maximum(self._left_hops - 1, 0, out=self._left_hops)
        self._depth += np.where(self._left_hops > 0, 1, -1) / self._FADE_HOPS
        np.clip(self._depth, 0, 1, out=self._depth)
        found = self._found
        np.multiply(self._shrink, hop, out=found)
        np.cumsum(found, axis=1, out=found)
        found += (self._step * self._state)[:, None]
        found *= self._grow
        self._state[:] = found[:, -1]
        np.dot(2 * self._depth, found.real, out=self._line)
        np.subtract(hop, self._line, out=hop, casting="same_kind")

    def reset(self) -> None:
        self._state.fill(0)
        self._depth.fill(0)
        self._left_hops.fill(0)


class Bands:
    """How much of a sound is explained, band by band: a way through the air explains a little of every one, a held tone
    all of its own and nothing else.
    """

    _BINS = slice(3, 72)
    """300 Hz to 7.1 kHz, 100 Hz each."""
    _MOST_DB = 6.0
    """No band counts for more."""
    _HUSH = 1e-9

    def __init__(self, signals: int) -> None:
        self.shape = signals, len(range(BINS)[self._BINS])
        self._frames = np.zeros((signals, FFT_SAMPLES), np.float32)
        self._windowed = np.zeros((signals, FFT_SAMPLES), np.float32)
        self._window = np.hanning(FFT_SAMPLES).astype(np.float32)
        self._powers = np.zeros(self.shape, np.float32)

    def powers(self, *hops: Floats) -> Floats:
        """A hop of each, float32, 80 samples -> float32, (signals, bands), over 10 ms; good until called again."""
        frames = self._frames
        frames[:, :HOP_SAMPLES] = frames[:, HOP_SAMPLES:]
        for frame, hop in zip(frames, hops, strict=True):
            frame[HOP_SAMPLES:] = hop
        np.multiply(frames, self._window, out=self._windowed)
        np.abs(np.fft.rfft(self._windowed, axis=1)[:, self._BINS], out=self._powers)
        np.square(self._powers, out=self._powers)
        return self._powers

    @classmethod
    def explained_db(cls, heard: Floats, left: Floats) -> float:
        """Powers of a sound and of what a prediction leaves of it, (bands,) -> the mean over the bands."""
        each_db = 10 * np.log10((heard + cls._HUSH) / (left + cls._HUSH))
        np.minimum(each_db, cls._MOST_DB, out=each_db)
        np.maximum(each_db, -cls._MOST_DB, out=each_db)
        return float(each_db.sum()) / len(each_db)

    def reset(self) -> None:
        self._frames.fill(0)


class HowlGuard:
    """``hear`` the microphone's hop at the front, ``process`` the hop before the limiter, say what was ``played``.

    Suspicion: over the last 100 ms our own output explains ``_EXPLAINED_DB`` of the microphone in the mean over all
    bands, and the microphone does not hear less than was played. That is little, but a voice without a circle resembles
    itself in some bands and never in all; and it is there long before anything rings, or where a suppressor holds the
    circle down. Or it rings already: one tone at the limiter, half of it explained.
    Probe: ``_DROP_DB`` down within a hop, learning stopped; from one round later, over ten hops in which nothing else
    is louder, two predictions stand against each other, ours and the one that knows nothing of the drop. A circle
    follows the first, a held tone the second.
    Doubt: if the microphone follows neither, the path is hardly known yet. Then the box plays ``_DOUBT_DB`` lower,
    which opens a circle 6 dB above the limit, and learns in peace; after each second of sound it judges by all of it.
    """

    delay_samples = 0

    _MEMORY_HOPS = 20
    _EXPLAINED_DB, _AGAIN_DB = 0.4, 1.0
    """To suspect a circle; and once something is subtracted, when what is left of the path still explains a little."""
    _RINGING = 2.0
    """Times the power that is not explained, where the output stands at the limiter."""
    _COMES_BACK = 0.9
    """Of what was played, as power, if the box raises nothing: an open circle is mostly quieter in the microphone."""
    _LOUD = 0.9
    """Of the lowest level at which the limiter lets a steady sound leave: what is louder stands at the limiter."""
    _CLIPS = 0.72
    """Of the microphone's full scale: what is louder stands at its end, where the volume keeps it from the limiter."""
    _QUIETEST = 1e-6
    """Mean square of the microphone's treble: -60 dBFS; nothing quieter is worth a probe."""
    _DROP_DB = 12.0
    _MOST_DROP_DB = 30.0
    _WATCH_HOPS = 10
    _REACHED = 0.3
    """A hop counts if so much of its prediction's power is owed to the drop, ..."""
    _TELLING = 0.5
    """... and that prediction is so much of what is heard: another sound's hops tell nothing."""
    _LONGEST_WATCH_HOPS = 20
    _FOLLOWS_DB, _AHEAD_DB = 0.4, 0.8
    """A circle: so much is explained by what was really played, and so much more than by what would have been."""
    _ENDED = 0.1
    """Of its power before: no more is left where a voice stopped, and an open circle rang out, during the probe."""
    _HOLD_HOPS = 20
    _DENIED_HOPS = round(200 / HOP_MS)
    _DENIED_MOST_HOPS = round(60_000 / HOP_MS)
    _FORGIVEN = 0.05
    """After a probe in vain the next one waits, each time twice as long; so much of a hop is forgiven with each hop."""
    _PATIENT_HOPS = 3 * _DENIED_HOPS
    """From then on, which is after two in vain, no doubt follows."""
    _DOUBT_DB, _DOUBT_HOPS, _LONGEST_DOUBT = 7.0, round(1000 / HOP_MS), 3
    _KNOWN_DB, _UNKNOWN_DB = 0.15, 0.03
    """Explained after one second of a doubt, the first half as much after two: the more was heard, the surer. Less than
    the second is nothing, but after one second only if the learnt path is open, too."""
    _TONE_DB, _OPEN_DB, _FAINT_DB = 10.0, -2.0, -3.0
    """Above the first the learnt path would have rung long since: that is a tone which the suppressor takes away. Below
    the second it cannot ring at all; below the third it is not even suspected."""
    _RELEASE_DB = 8.0 * HOP_MS / 1000
    _FIRST_KEPT_DB, _KEPT_STEP_DB, _MOST_KEPT_DB = 10.0, 3.0, 19.0
    """An event keeps the box so much lower, for what was learnt leaves up to 6 dB of the way at frequencies that were
    hardly heard yet; each further event soon after it a step more ..."""
    _ABOVE_DB = 1.0
    """... and never less at first than the learnt path's own gain and this; ..."""
    _FORGET_DB = 0.02 * HOP_MS / 1000
    """... for some minutes: so much of that is given back each hop, ..."""
    _LEAST_KEPT_DB = 3.0
    """... but this is kept as long as something is subtracted: the margin against ringing."""
    _CALM_HOPS = round(10_000 / HOP_MS)
    _IDLE_HOPS = round(60_000 / HOP_MS)
    """So long without anything to subtract, and nothing is subtracted any more."""
    _PEAK_DB = 15.0
    """A peak so far above its surroundings is given a notch."""
    _SPECTRUM_SAMPLES = 1024

    def __init__(
        self,
        span_ms: float = 100.0,
        least_ms: float = 10.0,
        raised_db: float = 0.0,
        limited: tuple[float, float] = (0.794, 0.805),
    ) -> None:
        """``span_ms``: the latest that what is played may come back; ``least_ms``: sooner it cannot, for the buffers.
        What is looked for below that would only be the voice itself. ``raised_db``: how much louder than it was heard
        the box plays some frequencies. ``limited``: between which levels, 0..1, a steady sound leaves the limiter
        (``Limiter.steady_levels``; the default is that of its defaults).
        """
        self._loud_level, self._most_level = self._LOUD * limited[0], limited[1]
        self._volume = 1.0  # of the last hop played
        skipped = max(0, math.floor(least_ms / HOP_MS) - 1)
        partitions = max(2, round(span_ms / HOP_MS) - skipped)
        self._queue = np.zeros((skipped + 1, HOP_SAMPLES), np.float32)
        self.path = FeedbackPath(partitions)
        self._comes_back = self._COMES_BACK * 10 ** (-max(0.0, raised_db) / 10)
        self._longest_hops = partitions + self._LONGEST_WATCH_HOPS
        self.notches = Notches()
        self.events = 0
        """Circles found so far."""
        self.suspicions = 0
        """Probes so far; each that found no circle was a dip of about 0.1 s."""
        self.gain_drop_db = 0.0
        """How much lower than normal the box plays just now."""
        self._left = np.zeros(HOP_SAMPLES, np.float32)
        self._scaled = np.zeros(HOP_SAMPLES, np.float32)
        self._treble = np.zeros(HOP_SAMPLES - 1, np.float32)
        self._heard = np.zeros(2 * self._MEMORY_HOPS)
        self._sent = np.zeros(2 * self._MEMORY_HOPS)
        self._bands = Bands(2)
        signals, bands = self._bands.shape
        self._lately = np.zeros((self._MEMORY_HOPS, signals, bands), np.float32)
        """Powers of the last 100 ms: heard, and not explained."""
        self._sums = np.zeros((signals, bands), np.float32)
        self._trial = Bands(3)
        self._tried = np.zeros(self._trial.shape, np.float32)
        """Their sums over a probe: heard, not explained by what was played, and not by what would have been; over a
        doubt the first two.
        """
        self._gains = np.zeros(HOP_SAMPLES, np.float32)
        self._ramp = (np.arange(1, HOP_SAMPLES + 1) / HOP_SAMPLES).astype(np.float32)
        self._recent = np.zeros(self._SPECTRUM_SAMPLES, np.float32)
        self._window = np.hanning(self._SPECTRUM_SAMPLES).astype(np.float32)
        self._tilt = np.arange(self._SPECTRUM_SAMPLES // 2 + 1.0) ** 2
        self.reset()

    @property
    def subtracting(self) -> bool:
        """Whether the learnt path is taken out of the microphone: since an event."""
        return self._subtracting

    def subtracted(self) -> Floats:
        """What is taken out of the microphone just now: the impulse response from what was played, counted from its
        own sample on; empty while nothing is. For simulations, not for the audio thread.
        """
        if not self._subtracting:
            return np.zeros(0, np.float32)
        return np.concatenate([np.zeros(self._queue.size, np.float32), self.path.taken_taps.ravel()])

    @property
    def delay_ms(self) -> float:
        """When most of what was played is back at the microphone, 0 before the first event."""
        return self._delay_hops * HOP_MS

    def reset(self) -> None:
        """Forget sound and path: devices opened anew have another delay. The counts stay."""
        self.path.reset()
        self.notches.reset()
        self.gain_drop_db = self._shown_db = self._drop_before_db = 0.0
        self._subtracting = False
        self._idle_hops = 0
        self._delay_hops = 0
        self._probe_hops, self._watched, self._doubt_hops = -1, 0, 0
        self._wait_hops = 0
        self._patience_hops = float(self._DENIED_HOPS)
        self._hold_hops = 0
        self._kept_db = 0.0
        self._calm_hops = 0
        self._queue.fill(0)
        self._recent.fill(0)
        self._heard.fill(0)
        self._sent.fill(0)
        self._bands.reset()
        self._lately.fill(0)
        self._place = 0
        self._ours = self._theirs = self._all = 0.0
        self._level = 0.0
        self._probe_drop_db = self._DROP_DB  # of the probe, as it is heard
        self._excess = 1.0  # how far the last hop stood above the limiter's highest steady level

    # --- at the front

    def hear(self, hop: Floats) -> None:
        """float32, 80 samples straight from the microphone; what our output adds to them is subtracted if known."""
        expected = self.path.predict(self._queue[0])
        left = self._left
        np.subtract(hop, expected, out=left)
        if self._probe_hops >= 0:
            self._watch(hop)
        else:
            self.path.learn(left, 1.0)
        if self._subtracting or self._doubt_hops:
            self.path.follow()
        if self._subtracting:
            before = self._treble_power(hop)
            hop -= self.path.steady_echo()
            self._judge(before, self._treble_power(hop))
            if self._calm_hops:
                self._kept_db = max(self._kept_db, min(self.path.highest_db + self._ABOVE_DB, self._MOST_KEPT_DB))
        self._remember(hop)
        if self._doubt_hops:
            self._judge_path(hop)
        elif self._probe_hops < 0 and self._wait_hops == 0 and self._suspicious():
            self.suspicions += 1
            self._probe_hops = self._watched = 0
            self._ours = self._theirs = self._all = 0.0
            self._tried.fill(0)
            self._trial.reset()
            self._level = float(self._heard.mean())
            self._delay_hops = len(self._queue) + self.path.delay_hops
            self._drop_before_db = self.gain_drop_db
            held_db = 20 * math.log10(self._excess)  # the limiter lets go of so much before the sound becomes quieter
            self.gain_drop_db = min(self.gain_drop_db + self._DROP_DB + held_db, self._MOST_DROP_DB)
            self._probe_drop_db = max(0.0, self.gain_drop_db - self._drop_before_db - held_db)
        elif self._wait_hops:
            self._wait_hops -= 1
        else:
            self._patience_hops = max(self._patience_hops - self._FORGIVEN, self._DENIED_HOPS)

    def _remember(self, hop: Floats) -> None:
        self._heard[self._place] = self._treble_power(hop)
        self._sent[self._place] = self._treble_power(self._queue[0])
        if self._probe_hops < 0:
            self._lately[self._place % self._MEMORY_HOPS] = self._bands.powers(hop, self._left)
        self._place = (self._place + 1) % len(self._heard)
        recent = self._recent
        recent[:-HOP_SAMPLES] = recent[HOP_SAMPLES:]
        recent[-HOP_SAMPLES:] = hop

    def _suspicious(self) -> bool:
        heard = float(self._heard.sum())
        if heard < len(self._heard) * self._QUIETEST or heard < self._comes_back * float(self._sent.sum()):
            return False
        np.add.reduce(self._lately, axis=0, out=self._sums)
        if self._loud and self._sums[0].sum() > self._RINGING * self._sums[1].sum():
            return True
        least_db = self._AGAIN_DB if self._subtracting else self._EXPLAINED_DB
        if Bands.explained_db(self._sums[0], self._sums[1]) < least_db:
            return False
        return self.path.quick_db > self._FAINT_DB

    @property
    def _loud(self) -> bool:
        """Whether the last hop played stood at the limiter, or at the microphone's full scale before the volume."""
        return float(np.abs(self._queue[-1]).max()) > min(self._loud_level / self._volume, self._CLIPS)

    def _watch(self, hop: Floats) -> None:
        """One hop of a probe: which prediction does the microphone follow? Only hops that the drop reaches count."""
        self._probe_hops += 1
        undropped = 10 ** (self._probe_drop_db / 20)
        louder = self.path.louder_echo(max(0, self._probe_hops - len(self._queue) + 1), undropped)
        np.subtract(hop, louder, out=self._scaled)
        powers = self._trial.powers(hop, self._left, self._scaled)
        heard, loudness, theirs = (self._treble_power(each) for each in (hop, louder, self._scaled))
        self._scaled -= self._left
        if loudness > self._TELLING * heard and self._treble_power(self._scaled) > self._REACHED * loudness:
            self._watched += 1
            self._all += heard
            self._ours += self._treble_power(self._left)
            self._theirs += theirs
            self._tried += powers
        if self._watched < self._WATCH_HOPS and self._probe_hops < self._longest_hops:
            return
        self._probe_hops = -1
        closed = self._verdict()
        if closed:
            self.path.settle()
            self._confirm()
        elif closed is False or self._subtracting or self._patience_hops > self._PATIENT_HOPS:
            self._deny()
        else:
            self.path.settle()
            self._tried.fill(0)
            self._doubt_hops = self._LONGEST_DOUBT * self._DOUBT_HOPS
            self.gain_drop_db = min(self._drop_before_db + self._DOUBT_DB, self._MOST_DROP_DB)

    def _verdict(self) -> bool | None:
        """What the probe says: True, a circle; False, a sound from outside; None, neither."""
        heard, left, unchanged = self._tried
        ours_db, theirs_db = Bands.explained_db(heard, left), Bands.explained_db(heard, unchanged)
        held = self._theirs < min(0.3 * self._all, self._ours)
        ended = self._all < self._ENDED * self._watched * self._level
        one_tone = self._ours < min(0.8 * self._all, self._theirs / 3) and ours_db > 0
        everywhere = ours_db > self._FOLLOWS_DB and ours_db - theirs_db > self._AHEAD_DB and not held
        everywhere = everywhere and self.path.quick_db > self._OPEN_DB  # else it is real, but cannot ring
        if (one_tone or everywhere) and not (ended and self._subtracting):
            return True
        return False if held and theirs_db < 0 else None

    def _judge_path(self, hop: Floats) -> None:
        """One hop of a doubt, if it is a sound at all."""
        if self._treble_power(hop) < self._QUIETEST:
            return
        self._doubt_hops -= 1
        self._tried[:2] += self._lately[(self._place - 1) % self._MEMORY_HOPS]
        if self._doubt_hops % self._DOUBT_HOPS:
            return
        path, rounds = self.path, self._LONGEST_DOUBT - self._doubt_hops // self._DOUBT_HOPS
        explained_db = Bands.explained_db(self._tried[0], self._tried[1])
        if path.highest_db > self._TONE_DB:
            self._deny()
        elif explained_db > self._KNOWN_DB / rounds:
            self._confirm()
        elif self._doubt_hops == 0 or (explained_db < self._UNKNOWN_DB and (rounds > 1 or path.highest_db < 0)):
            self._deny()
        else:
            path.settle()

    def _confirm(self) -> None:
        self.events += 1
        self._subtracting = True
        self._idle_hops = 0
        self._hold_hops = self._HOLD_HOPS
        self._wait_hops = 2 * self._MEMORY_HOPS  # until what is remembered is younger than the drop
        if self._calm_hops:  # again, and soon: subtracting alone does not do
            self._place_notch()
        self._kept_db = min(max(self._kept_db + self._KEPT_STEP_DB, self._FIRST_KEPT_DB), self._MOST_KEPT_DB)
        self.gain_drop_db = max(self.gain_drop_db, self._kept_db)
        self._calm_hops = self._CALM_HOPS
        self._doubt_hops = 0
        self._patience_hops = self._DENIED_HOPS

    def _deny(self) -> None:
        """A sound from outside: back at once, and do not ask again too soon."""
        self.gain_drop_db = self._drop_before_db
        self._doubt_hops = 0
        self._wait_hops = round(self._patience_hops)
        self._patience_hops = min(2 * self._patience_hops, self._DENIED_MOST_HOPS)

    def _judge(self, before: float, after: float) -> None:
        """Whether subtracting still takes something away; a path that is gone must not add a ghost."""
        self._idle_hops = 0 if after < 0.9 * before else self._idle_hops + 1
        if self._idle_hops > self._IDLE_HOPS:
            self._subtracting = False

    def _place_notch(self) -> None:
        """At the highest peak of the treble of the last 64 ms, if it stands alone."""
        power = np.abs(np.fft.rfft(self._recent * self._window)) ** 2 * self._tilt
        peak = int(power[4:-4].argmax()) + 4
        around = np.median(power[max(1, peak - 24) : peak + 25])
        if power[peak] > around * 10 ** (self._PEAK_DB / 10):
            low, top, high = np.log(power[peak - 1 : peak + 2] + 1e-30)
            offset = 0.5 * (low - high) / (low - 2 * top + high)
            self.notches.place((peak + offset) * RATE_HZ / self._SPECTRUM_SAMPLES)

    def _treble_power(self, hop: Floats) -> float:
        """Mean square of the first difference."""
        treble = self._treble
        np.subtract(hop[1:], hop[:-1], out=treble)
        return float(np.dot(treble, treble)) / HOP_SAMPLES

    # --- at the end

    def process(self, hop: Floats) -> None:
        """float32, 80 samples in place: notches and gain drop; bit for bit the same while there are none."""
        self.notches.process(hop)
        before_db, after_db = self._shown_db, self.gain_drop_db
        self._shown_db = after_db
        if before_db != 0.0 or after_db != 0.0:
            before, after = 10 ** (-before_db / 20), 10 ** (-after_db / 20)
            np.multiply(self._ramp, after - before, out=self._gains)
            self._gains += before
            hop *= self._gains
        self._excess = max(1.0, max(float(hop.max()), -float(hop.min())) / self._most_level)
        self._let_go()

    def _let_go(self) -> None:
        if self._calm_hops:
            self._calm_hops -= 1
        if self._probe_hops >= 0 or self._doubt_hops:
            return
        self._kept_db = max(self._LEAST_KEPT_DB if self._subtracting else 0.0, self._kept_db - self._FORGET_DB)
        if self._hold_hops:
            self._hold_hops -= 1
        elif self.gain_drop_db > 0.0:
            self.gain_drop_db = max(self._kept_db, self.gain_drop_db - self._RELEASE_DB)

    def played(self, hop: Floats, volume: float = 1.0) -> None:
        """float32, 80 samples: what really left the box, after the limiter. ``volume`` is the factor by which the box
        plays more softly than it hears: it counts as part of the path, whose gain then is the feedback loop's, 0 dB at
        the limit, at any volume.
        """
        self._queue[:-1] = self._queue[1:]
        self._volume = volume
        np.divide(hop, np.float32(volume), out=self._queue[-1])

"""The reference microphone: what it hears of the noise is predicted at the voice microphone and subtracted.

``ReferenceCanceller`` is a partitioned-block frequency-domain Kalman filter (Enzner & Vary 2006, "Frequency-domain
adaptive Kalman filter for acoustic echo control in hands-free telephones", Signal Processing 86; partitions after
Kuech, Mabande & Enzner 2014). Blocks are the hop itself and overlap-save yields the current hop's prediction from the
current hop's reference, so the voice is not delayed at all.
"""

import math

import numpy as np

from edge import HOP_MS, HOP_SAMPLES
from edge.dsp.estimator import Estimator
from edge.dsp.highpass import HighPass
from edge.dsp.spectrum import BANDS, Floats, Spectra, Transform

FFT_SAMPLES = 2 * HOP_SAMPLES
BINS = HOP_SAMPLES + 1
LONGEST_PATH_MS = 64.0
ABSURD_POWER = 1e4
"""40 dB above full scale: no microphone. Also what NaN is not below."""


class AdaptivePath:
    """The acoustic path from the reference to the voice microphone, followed bin by bin.

    Every partition (5 ms of path) and bin holds a complex weight and the variance of its error. The step of each
    follows from the two: large where the weight is doubtful and the reference strong, small where the error is full of
    what the reference does not explain (a voice, another noise).
    """

    _WALK = 1e-3
    """Share of a weight's power by which its doubt grows with each hop: paths move."""
    _DOUBT = 2e-6
    """And by this in any case, so that a path that was nothing for an hour can still become one."""
    _LEAK = 1e-4
    """Share of a weight that is forgotten with each hop of adaptation: 50 s; bins without sound must not drift."""
    _BEGIN = 0.3
    """Doubt at the start: a path about as strong as no path at all, 1 dB less with each 5 ms."""
    _SMOOTH = 0.85
    _QUIET = 1e-9
    """Added to a bin's power of the error, -110 dBFS: silence divided by silence is nothing."""

    def __init__(self, partitions: int) -> None:
        shape = (partitions, BINS)
        self.weights: Spectra = np.zeros(shape, np.complex64)
        self._begin = (self._BEGIN * 10 ** (-0.1 * np.arange(partitions)))[:, None].astype(np.float32)
        self._partitions = partitions
        self._recent = np.zeros(FFT_SAMPLES, np.float32)
        # twice as long as needed, so that the newest ``partitions`` spectra always lie in one piece, newest first
        self._past: Spectra = np.zeros((2 * partitions, BINS), np.complex64)
        self._past_power = np.zeros((2 * partitions, BINS), np.float32)
        self._at = 0
        self._doubt = np.zeros(shape, np.float32)
        self._products: Spectra = np.zeros(shape, np.complex64)
        self._shares = np.zeros(shape, np.float32)
        self._scratch = np.zeros(shape, np.float32)
        self._blocks = np.zeros((partitions, FFT_SAMPLES), np.float32)
        self._sum: Spectra = np.zeros(BINS, np.complex64)
        self._predicted = np.zeros(FFT_SAMPLES, np.float32)
        self._padded = np.zeros(FFT_SAMPLES, np.float32)
        self._error: Spectra = np.zeros(BINS, np.complex64)
        self._error_power = np.zeros(BINS, np.float32)
        self._unexplained = np.zeros(BINS, np.float32)
        self._expected = np.zeros(BINS, np.float32)
        self.reset()

    def predict(self, reference: Floats) -> Floats:
        """float32, 80 samples heard at the reference -> 80 samples expected at the voice microphone; good until the
        next call.
        """
        recent = self._recent
        recent[:HOP_SAMPLES] = recent[HOP_SAMPLES:]
        recent[HOP_SAMPLES:] = reference
        self._at = at = (self._at or self._partitions) - 1
        newest, power = self._past[at], self._past_power[at]
        np.fft.rfft(recent, out=newest)
        _power_of(newest, power, self._scratch[0])
        self._past[at + self._partitions] = newest
        self._past_power[at + self._partitions] = power
        np.multiply(self._spectra, self.weights, out=self._products)
        np.add.reduce(self._products, axis=0, out=self._sum)
        np.fft.irfft(self._sum, n=FFT_SAMPLES, out=self._predicted)  # type: ignore[arg-type]
        return self._predicted[HOP_SAMPLES:]

    @property
    def _spectra(self) -> Spectra:
        return self._past[self._at : self._at + self._partitions]

    def learn(self, error: Floats, share: float) -> None:
        """Follow the path by what ``predict`` left over: float32, 80 samples; ``share`` 0 to 1 of the full step."""
        self._padded[HOP_SAMPLES:] = error
        np.fft.rfft(self._padded, out=self._error)  # type: ignore[arg-type]
        _power_of(self._error, self._error_power, self._scratch[0])
        self._error_power += self._QUIET
        unexplained = self._unexplained
        unexplained *= self._SMOOTH
        self._error_power *= 1 - self._SMOOTH
        unexplained += self._error_power
        self._error_power *= 1 / (1 - self._SMOOTH)
        powers, doubt = self._past_power[self._at : self._at + self._partitions], self._doubt
        shares, expected = self._shares, self._expected
        np.multiply(powers, doubt, out=shares)
        np.add.reduce(shares, axis=0, out=expected)
        # a voice begins louder than the average of the past: no error counts for less than it is
        np.maximum(unexplained, self._error_power, out=self._error_power)
        self._error_power *= 2
        expected += self._error_power
        np.divide(share, expected, out=expected)
        self._error *= expected
        self._move(doubt)
        # what was learnt takes doubt away, what may have moved adds to it
        shares *= expected
        shares *= -0.5
        shares += 1
        doubt *= shares
        _power_of(self.weights, shares, self._scratch)
        shares *= self._WALK * share
        doubt += shares
        doubt += self._DOUBT * share
        np.minimum(doubt, self._begin, out=doubt)

    def _move(self, doubt: Floats) -> None:
        """weights += doubt x conj(reference) x error, the half of each block that overlap-save cannot use taken out."""
        products = self._products
        np.conjugate(self._spectra, out=products)
        products *= self._error
        products *= doubt
        np.fft.irfft(products, n=FFT_SAMPLES, axis=1, out=self._blocks)  # type: ignore[arg-type]
        self._blocks[:, HOP_SAMPLES:] = 0
        np.fft.rfft(self._blocks, axis=1, out=products)  # type: ignore[arg-type]
        self.weights *= 1 - self._LEAK
        self.weights += products

    def doubt(self) -> None:
        """The path may be another one now: be as ready to learn as at the start."""
        self._doubt[:] = self._begin

    def forget(self) -> None:
        """The path is another one now; the sound goes on."""
        self.weights.fill(0)
        self.doubt()
        self._unexplained.fill(0)

    def reset(self) -> None:
        self.forget()
        self._recent.fill(0)
        self._past.fill(0)
        self._past_power.fill(0)
        self._at = 0


class SpeechContrast:
    """How far something stands out of the rest, at the voice's microphone and at the reference: 1 is 3 dB."""

    def __init__(self, reach: int) -> None:
        """Averages reach ``reach`` measurements back."""
        self._reach = reach
        self.forget()

    def forget(self) -> None:
        self.risen = self.resting = 0
        """Measurements of either kind."""
        self._risen_here = self._risen_there = self._rest_here = self._rest_there = 0.0

    def add(self, here: float, there: float, risen: bool) -> None:
        """Two powers of one moment, and whether it is one that stands out."""
        if risen:
            self.risen += 1
            share = 1 / min(self.risen, self._reach)
            self._risen_here += (here - self._risen_here) * share
            self._risen_there += (there - self._risen_there) * share
        else:
            self.resting += 1
            share = 1 / min(self.resting, self._reach)
            self._rest_here += (here - self._rest_here) * share
            self._rest_there += (there - self._rest_there) * share

    @property
    def here(self) -> float:
        return max(self._risen_here / max(self._rest_here, 1e-12) - 1, 0.0)

    @property
    def there(self) -> float:
        return max(self._risen_there / max(self._rest_there, 1e-12) - 1, 0.0)


class LevelSwing:
    """How far one level comes and goes: its loud moments over its quiet ones, beside its average of 5 s."""

    MOMENTS = 20
    """Of either kind, 100 ms each, before it says anything; its averages reach twice as far back."""
    _LOUD, _QUIET = 1.2, 0.6

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._usual = 0.0
        self._means = [0.0, 0.0]
        self._counts = [0, 0]

    def add(self, power: float) -> None:
        """One moment's power."""
        self._usual += (power - self._usual) * (0.02 if self._usual else 1.0)
        if self._QUIET * self._usual < power < self._LOUD * self._usual:
            return
        kind = int(power > self._usual)
        self._counts[kind] += 1
        self._means[kind] += (power - self._means[kind]) / min(self._counts[kind], 2 * self.MOMENTS)

    @property
    def rise(self) -> float:
        """1 is 3 dB; 0 for a steady sound, and as long as too little was heard."""
        if min(self._counts) < self.MOMENTS:
            return 0.0
        return max(self._means[1] / max(self._means[0], 1e-12) - 1, 0.0)


class VadComparison:
    """Who hears the speech: wherever a machine drowns it at one microphone only, the other one is the wearer's.

    Told by two speech probabilities, the voice channel's and the reference's, and counted is what one of them is sure
    of and the other denies. That works where levels do not: a voice 5 dB out of the noise moves them less than the
    noise moves itself. In quiet both hear everything, and it says nothing.
    """

    _SETTLE_HOPS = 200
    """Nothing is believed within a second after the listening began."""
    _SURE, _DENIED = 0.8, 0.3
    _LEAST_HOPS = 600
    """3 s heard by the reference alone, ..."""
    _TIMES, _SHARE = 10, 0.2
    """... ten times what the voice channel heard alone, and a fifth of all that the reference heard."""
    _ENOUGH_HOPS = 3000
    _MOST_HOPS, _IDLE_HOPS = 12_000, 2000
    """After 15 s of speech, a minute of anything, or 10 s of nobody, it has listened long enough."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._hops = 0
        self._here_alone = self._there_alone = self._there = 0

    def add(self, here: float, there: float) -> None:
        """One hop's probabilities."""
        self._hops += 1
        if self._hops <= self._SETTLE_HOPS:
            return
        self._there += there > self._SURE
        self._there_alone += there > self._SURE and here < self._DENIED
        self._here_alone += here > self._SURE and there < self._DENIED

    @property
    def swapped(self) -> bool:
        alone = self._there_alone
        return alone > max(self._LEAST_HOPS, self._TIMES * self._here_alone, self._SHARE * self._there)

    @property
    def heard_enough(self) -> bool:
        return self._heard_hops >= self._ENOUGH_HOPS

    @property
    def ended(self) -> bool:
        return self.heard_enough or self._hops >= (self._MOST_HOPS if self._heard_hops else self._IDLE_HOPS)

    @property
    def _heard_hops(self) -> int:
        return self._there + self._here_alone


class ChannelMonitor:
    """Whether the reference can be trusted with the voice; one look a hop.

    Swapped channels show in noise where only the reference hears speech (``VadComparison``, for a while every now and
    then), and in quiet where speech stands further out at the reference. But a canceller that works on swapped
    channels removes the very speech by which they would be known. So where the reference's level comes and goes as
    speech does, and the voice's hardly, the canceller must pause for some seconds ("listening") until the speech
    probability has told whether that is speech, or a machine that runs now and then.
    """

    SURE_HOPS = 200
    """A second of the same: dead, or alive again; a copy, or none any more."""
    SILENT_POWER = 1e-11
    """-110 dBFS: below the last of 16 bits; a live microphone hisses above it."""
    _SPEECH, _PAUSE = 0.8, 0.3
    _SPEECH_HOPS, _PAUSE_HOPS = 300, 60
    """So much of either before the levels of speech and pauses are compared."""
    _SWAPPED, _RIGHT = 2.0, 1.0
    """By which factor speech rises more at the reference than at the voice: 3 dB condemns, 0 acquits."""
    _HEARD = 0.4
    """A rise of 1.5 dB, the least that is called one."""
    _BLOCK_HOPS = 20
    _DEEP, _DEEPER = 6.0, 1.8
    """Suspicious is a reference that comes and goes by 8.5 dB, and nearly twice as far as the voice does."""
    _LISTEN_HOPS = 1000
    _PATIENCE_HOPS, _MOST_PATIENCE_HOPS = 12_000, 720_000
    """After having listened in vain for 5 s, a minute without suspicion; twice as long each time, an hour at most."""

    def __init__(self) -> None:
        self._steps = np.zeros(HOP_SAMPLES - 1, np.float32)
        self._overheard = VadComparison()
        self._by_speech = SpeechContrast(2 * self._SPEECH_HOPS)
        self._here, self._there = LevelSwing(), LevelSwing()
        self.reset()

    def reset(self) -> None:
        self._dead = self._copy = self._swapped = self._swapped_in_noise = False
        self._rest_for, self._rest_hops = 0, self._PATIENCE_HOPS
        self._overheard.forget()
        self._dead_for = self._alive_for = self._same_for = self._other_for = 0
        self._by_speech.forget()
        self._here.forget()
        self._there.forget()
        self._block_hops = 0
        self._block_here = self._block_there = 0.0
        self._listen_for = self._trust_for = 0
        self._patience = self._PATIENCE_HOPS

    @property
    def overhears(self) -> bool:
        """Whether it wants to know the probability of speech at the reference."""
        return not (self._rest_for or self._dead or self._copy)

    def look(self, voice: Floats, reference: Floats, speech: float, speech_there: float | None = None) -> str:
        """Both hops as they came, and the probability of speech at the voice and, if anybody listens, the reference;
        returns "dead", "copy", "swapped", "listening" or, where all is well, nothing.
        """
        if _mean_square(voice) < self.SILENT_POWER:  # muted at the start, or dead itself: nothing to compare with
            return self._verdict()
        dead = _mean_square(reference) < self.SILENT_POWER or float(reference.max()) == float(reference.min())
        self._dead_for, self._alive_for = (self._dead_for + 1, 0) if dead else (0, self._alive_for + 1)
        self._dead = self._dead_for >= self.SURE_HOPS or (self._dead and self._alive_for < self.SURE_HOPS)
        if dead:
            return self._verdict()
        same = bool(voice[0] == reference[0]) and np.array_equal(voice, reference)
        self._same_for, self._other_for = (self._same_for + 1, 0) if same else (0, self._other_for + 1)
        self._copy = self._same_for >= self.SURE_HOPS or (self._copy and self._other_for < self.SURE_HOPS)
        self._rest_for = max(self._rest_for - 1, 0)
        if speech_there is not None and speech > 0:  # 0 itself: nobody decides about the voice just now
            self._overhear(speech, speech_there)
        here, there = self._level(voice), self._level(reference)
        self._suspect(here, there)
        if speech > self._SPEECH or speech < self._PAUSE:
            self._by_speech.add(here, there, speech > self._SPEECH)
            self._judge()
        return self._verdict()

    def _verdict(self) -> str:
        if self._dead or self._copy:
            return "dead" if self._dead else "copy"
        if self._swapped or self._swapped_in_noise:
            return "swapped"
        return "listening" if self._listen_for else ""

    def _overhear(self, here: float, there: float) -> None:
        """Listen until enough was heard, then rest: longer each time that all was well."""
        overheard = self._overheard
        overheard.add(here, there)
        if overheard.swapped:
            self._swapped_in_noise = True
        elif not overheard.ended:
            return
        elif overheard.heard_enough:
            self._swapped_in_noise = False
            self._rest_for, self._rest_hops = self._rest_hops, min(2 * self._rest_hops, self._MOST_PATIENCE_HOPS)
        else:
            self._rest_for = self._PATIENCE_HOPS
        overheard.forget()

    def _level(self, hop: Floats) -> float:
        """Power of the differences between samples: 6 dB less with every octave down, so that rumble hides no voice."""
        np.subtract(hop[1:], hop[:-1], out=self._steps)
        return float(np.vdot(self._steps, self._steps))

    def _judge(self) -> None:
        """By how far speech stands out at each microphone."""
        rise = self._by_speech
        if rise.risen < self._SPEECH_HOPS or rise.resting < self._PAUSE_HOPS:
            return
        limit = self._RIGHT if self._swapped else self._SWAPPED
        self._swapped = rise.there > self._HEARD and rise.there > limit * rise.here

    def _suspect(self, here: float, there: float) -> None:
        """Begin to listen where levels alone look swapped, and end it after a while."""
        if self._listen_for:
            self._listen_for -= 1
            if not self._listen_for:
                self._trust_for, self._patience = self._patience, min(2 * self._patience, self._MOST_PATIENCE_HOPS)
        self._trust_for = max(self._trust_for - 1, 0)
        self._block_here += here
        self._block_there += there
        self._block_hops += 1
        if self._block_hops < self._BLOCK_HOPS:
            return
        self._here.add(self._block_here)
        self._there.add(self._block_there)
        self._block_hops, self._block_here, self._block_there = 0, 0.0, 0.0
        if self._listen_for or self._trust_for or self._swapped:
            return
        if self._there.rise > self._DEEP and self._there.rise > self._DEEPER * self._here.rise:
            self._listen_for = self._LISTEN_HOPS
            self._by_speech.forget()


class NearTalkerDetector:
    """Whether a voice is the wearer's: theirs lifts the voice channel against the reference, a talker's at the noise's
    place does not.

    Compared are the powers of the samples' differences over 50 ms, which weighs up the highs, where speech stands out;
    the least ratio of the last 10 s is that of noise alone, so the microphones need no matched gains.
    """

    _SMOOTH = 0.1
    _FLOOR = 1e-9
    """Sum of 79 squared differences; -105 dBFS."""
    _SETTLE_HOPS = 10
    """At the very start one microphone hears already and the other does not yet."""
    _BLOCK_HOPS, _BLOCKS = 100, 20
    _LIFT_DB, _RANGE_DB = 3.0, 1.5
    """Lifted by so much it begins to be the wearer's, and by so much more it certainly is."""

    def __init__(self) -> None:
        self._steps = np.zeros(HOP_SAMPLES - 1, np.float32)
        self._least = [math.inf] * self._BLOCKS
        self.reset()

    def reset(self) -> None:
        """Forget the signal."""
        self._voice = self._other = self._FLOOR
        self._least[:] = [math.inf] * self._BLOCKS
        self._hops = 0

    def of(self, voice: Floats, reference: Floats) -> float:
        """0 (somebody else's) to 1, after these hops."""
        self._voice += (self._roughness(voice) - self._voice) * self._SMOOTH
        self._other += (self._roughness(reference) - self._other) * self._SMOOTH
        ratio_db = 10 * math.log10((self._voice + self._FLOOR) / (self._other + self._FLOOR))
        self._hops += 1
        if self._hops < self._SETTLE_HOPS:
            return 0.0
        block, place = divmod(self._hops - self._SETTLE_HOPS, self._BLOCK_HOPS)
        block %= self._BLOCKS
        self._least[block] = min(self._least[block], ratio_db) if place else ratio_db
        return min(max((ratio_db - min(self._least) - self._LIFT_DB) / self._RANGE_DB, 0.0), 1.0)

    def _roughness(self, hop: Floats) -> float:
        steps = np.subtract(hop[1:], hop[:-1], out=self._steps)
        return float(np.vdot(steps, steps))


class ReferenceCanceller:
    """Subtracts from the voice what the reference predicts of it: float32, 80 samples in place, no delay.

    The path is followed in pauses and held while somebody speaks, unless it is lost: the reference hears the voice a
    little, and what was learnt from it would cancel it. What is subtracted is scaled by how well it has lately fitted,
    so that a reference of something else does no harm; a path that makes things worse is forgotten.

    It switches itself off where the reference is dead, where it is a copy of the voice channel, and where it hears
    speech better than the voice channel does (swapped); and on again when that is over.
    """

    delay_samples = 0

    _STILL, _SPOKEN = 0.2, 0.5
    """Speech probability up to which the path is followed at full pace, and from which on it is held."""
    _CLIPPED = 0.999
    _FIT, _FIT_SPOKEN, _TOLD = 0.9, 0.985, 0.995
    """Forgetting of how well the prediction fits, 50 ms in pauses and 330 ms in speech; of the attenuation, 1 s."""
    _GOOD = 0.8
    """So much of a fit is taken for a full one: no estimate over a few hops is better."""
    _GONE, _BACK = 0.4, 0.9
    _SEARCH_HOPS = 400
    """A fit below this while somebody speaks says that the path has changed; above this, that it is found again, but
    not within 2 s: the little that is learnt first fits, too."""
    _BURIED = 10.0
    """10 dB below the voice a prediction is too weak for its fit to say anything."""
    _WORSE, _WORSE_HOPS = 1.25, 12
    """1 dB louder than without it, for 60 ms: that path is no path."""
    _WORTH = 0.1
    _DOUBT_HOPS = 400
    """What is predicted at 10 dB below the voice channel, and does not fit, is a path that has moved; every 2 s."""

    def __init__(
        self, path_ms: float = LONGEST_PATH_MS, highpass_hz: float = 1.0, listener: Estimator | None = None
    ) -> None:
        """``path_ms`` up to 64; ``highpass_hz`` as the voice has it: two equal filters leave the path alone.
        ``listener`` knows speech when it hears it, at the reference, to tell swapped channels in noise; for the voice
        channel ``process`` is told, and that should be by one as good.
        """
        assert 0 < path_ms <= LONGEST_PATH_MS
        self._partitions = math.ceil(path_ms / HOP_MS)
        self.resets = 0
        """How often a path was given up because it made things worse."""
        self.unsound = 0
        """Reference hops that were no sound, or absurdly loud; taken for silence."""
        self.trouble = ""
        """Why it is off: "dead", "copy", "swapped", or "listening" for signs of that; empty while it works."""
        self._path = AdaptivePath(self._partitions)
        self._highpass = HighPass(highpass_hz)
        self._watch = ChannelMonitor()
        self._nearness = NearTalkerDetector()
        self._listener = listener
        self._transform = Transform()
        self._gains = np.zeros(BANDS, np.float32)
        self._reference = np.zeros(HOP_SAMPLES, np.float32)
        self._error = np.zeros(HOP_SAMPLES, np.float32)
        self._scale = np.zeros(HOP_SAMPLES, np.float32)
        self._level = np.zeros(HOP_SAMPLES, np.float32)
        self._ramp = np.arange(1, HOP_SAMPLES + 1, dtype=np.float32) / HOP_SAMPLES
        self._fit = self._told_before = self._told_after = 0.0
        self._clipped_for = self._lost_for = self._doubted_for = 0
        self._frozen = self._lost = self._spoken = False
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
        return 10 * math.log10((self._told_before + 1e-12) / (self._told_after + 1e-12))

    def process(self, hop: Floats, reference: Floats, speech: float, as_heard: Floats | None = None) -> None:
        """``reference``: float32, 80 samples of the same 5 ms, left as they are; ``speech``: probability, 0 to 1.

        ``as_heard`` is the voice before its high-pass and hum canceller, if there were any.
        """
        heard = self._reference
        heard[:] = reference
        if not _mean_square(heard) < ABSURD_POWER:
            self.unsound += 1
            heard.fill(0)
        voice = hop if as_heard is None else as_heard
        self.trouble = self._watch.look(voice, heard, speech, self._overhear(heard))
        speech *= self._nearness.of(voice, heard)
        self._clipped_for = self._partitions if self._clips(heard) else max(self._clipped_for - 1, 0)
        self._highpass.process(heard)
        if self.trouble and not self._fit:
            self._frozen = False
            self._told_after = self._told_before
            return
        predicted = self._path.predict(heard)
        if not _mean_square(predicted) < ABSURD_POWER:
            self.resets += 1
            self._start_over()
            return
        np.subtract(hop, predicted, out=self._error)
        before, power = self._fit, _mean_square(hop)
        share = min(max((self._SPOKEN - speech) / (self._SPOKEN - self._STILL), 0.0), 1.0)
        self._judge(hop, predicted, spoken=not share > 0)
        if self._lost:
            share = 1.0
        if self._clipped_for or self._clips(hop):
            share = 0.0
        self._frozen = not share > 0
        if self.trouble:
            self._fit = 0.0
        self._subtract(hop, predicted, before, self._fit)
        if self.trouble:
            self._start_over()
            return
        if self._frozen:
            return
        if not self._lost:
            self._told_before += (power - self._told_before) * (1 - self._TOLD)
            self._told_after += (_mean_square(hop) - self._told_after) * (1 - self._TOLD)
        self._path.learn(self._error, share)
        self._mind()

    def _overhear(self, heard: Floats) -> float | None:
        """The probability of speech at the reference, while that is asked for. After a rest the listener begins with
        what it heard before, and is not believed at first.
        """
        if self._listener is None or not self._watch.overhears:
            return None
        return self._listener.estimate(self._transform.analyse(heard), self._gains)

    def reset(self) -> None:
        """Forget the signal and the path; keep the counts."""
        self.trouble = ""
        self._transform.reset()
        if self._listener is not None:
            self._listener.reset()
        self._watch.reset()
        self._nearness.reset()
        self._highpass.reset()
        self._path.reset()
        self._frozen = self._spoken = False
        self._clipped_for = 0
        self._doubted_for = self._DOUBT_HOPS
        self._told_before = self._told_after = 0.0
        self._start_over()

    def _start_over(self) -> None:
        self._path.forget()
        self._fit = 0.0
        self._likeness = self._predicted_power = 0.0
        self._power = 0.0
        self._worse_for = 0
        self._lost = False

    def _clips(self, hop: Floats) -> bool:
        np.abs(hop, out=self._level)
        return bool(self._level.max() >= self._CLIPPED)

    def _judge(self, hop: Floats, predicted: Floats, spoken: bool) -> None:
        """The scale at which the prediction has lately fitted best, 0 to 1 (least squares); and whether it is lost.

        A voice hides the fit, so it is judged for longer and then only says whether the path has changed meanwhile.
        Nothing but that lets it be followed in speech: the filter's own step control is coarser than a pause.
        """
        if spoken and not self._spoken and self._fit > self._GONE:
            self._likeness = self._predicted_power  # the voice's first hops, not yet known as such, told lies
        self._spoken = spoken
        share = 1 - (self._FIT_SPOKEN if spoken else self._FIT)
        self._power += (float(np.vdot(hop, hop)) - self._power) * share
        self._likeness += (float(np.vdot(hop, predicted)) - self._likeness) * share
        self._predicted_power += (float(np.vdot(predicted, predicted)) - self._predicted_power) * share
        fit = min(max(self._likeness / (self._GOOD * self._predicted_power + 1e-12), 0.0), 1.0)
        self._lost_for = self._lost_for + 1 if self._lost else 0
        if not spoken:
            self._lost = False
        elif self._lost:
            self._lost = fit < self._BACK or self._lost_for < self._SEARCH_HOPS
        else:
            self._lost = fit < self._GONE and self._power < self._BURIED * self._predicted_power
        if self._lost or not spoken:
            self._fit = fit

    def _subtract(self, hop: Floats, predicted: Floats, before: float, after: float) -> None:
        """From one hop's scale to the next in a straight line."""
        scale = self._scale
        np.multiply(self._ramp, after - before, out=scale)
        scale += before
        scale *= predicted
        hop -= scale

    def _mind(self) -> None:
        """Forget a path that adds more than it takes, and doubt one that does not fit any more."""
        change = self._predicted_power - 2 * self._likeness
        worse = not change <= (self._WORSE - 1) * self._power + 1e-12
        self._worse_for = self._worse_for + 1 if worse else 0
        if self._worse_for >= self._WORSE_HOPS:
            self.resets += 1
            lost = self._lost
            self._start_over()
            self._lost = lost
        self._doubted_for = max(self._doubted_for - 1, 0)
        if self._fit < self._GONE and not self._doubted_for and self._predicted_power > self._WORTH * self._power:
            self._doubted_for = self._DOUBT_HOPS
            self._path.doubt()


def _mean_square(hop: Floats) -> float:
    """Infinite or no number for what is no sound."""
    return float(np.vdot(hop, hop)) / HOP_SAMPLES


def _power_of(spectra: Spectra, out: Floats, scratch: Floats) -> None:
    """|z|^2."""
    np.square(spectra.real, out=out)
    np.square(spectra.imag, out=scratch)
    out += scratch

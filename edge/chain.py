"""The walk of one hop through the pure signal code: feedforward -> reference -> suppress -> voice -> guard -> volume.

The live box, ``enhance``, ``bench`` and the tests all run this one definition.
"""

import math
from pathlib import Path

import numpy as np

from edge import HOP_MS, HOP_SAMPLES
from edge.config import Config
from edge.dsp.antinoise import AntiNoise
from edge.dsp.eq import VoiceBodyEq
from edge.dsp.fader import Fader
from edge.dsp.feedforward import Feedforward
from edge.dsp.gate import SoftGate
from edge.dsp.howl import HowlGuard
from edge.dsp.limiter import Limiter
from edge.dsp.power import ABSURD_POWER
from edge.dsp.reference import ReferenceCanceller
from edge.dsp.secondary_path import BadPath, SecondaryPath
from edge.dsp.spectrum import Floats
from edge.dsp.voice import VoiceDecision
from edge.dsp.volume import LineOut, Volume
from edge.suppress import open_configured, open_listener
from edge.suppress.engine import Engine


class Chain:
    """One hop in, one hop out, in place: float32, 80 samples, ±1.0, 16 kHz."""

    def __init__(
        self, config: Config, engine: Engine | None = None, *, volume_db: float = 0.0, line_out: bool = False
    ) -> None:
        """``engine`` stands in for the configured one in tests and benchmarks. ``volume_db`` (at most 0) is for whoever
        plays at an ear: files and other programs get full level. ``line_out`` asks for ``line``.
        """
        self.feedforward = Feedforward(config.feedforward)
        self.reference: ReferenceCanceller | None = None
        """What works on the second microphone, if there is one."""
        if config.reference.channel:
            listener = open_listener(config.suppress.engine)
            self.reference = ReferenceCanceller(config.reference, config.feedforward.highpass_hz, listener)
        self.engine: Engine = engine or open_configured(config)
        self.voice = VoiceDecision(config.voice)
        self.eq = VoiceBodyEq(config.eq)
        self.gate = SoftGate(config.gate) if config.gate.on else None
        self.volume = Volume(volume_db)
        self.mute = Fader(config.box.fade_ms)
        self.line = LineOut(config.limiter, config.box.fade_ms) if line_out else None
        """The clean sound before the volume, if it is asked for."""
        self.limiter = Limiter(config.limiter)
        self.notes = list(self.engine.notes)
        """Why something is not what was wished for, one sentence each."""
        self.antinoise = self._new_antinoise(config) if config.antinoise.on else None
        self.howl = HowlGuard.from_config(config, self.limiter.steady_levels) if config.howl.on else None
        self.bypass = False
        """Whether the sound passes as it is, with the same delay and still limited."""
        self.resting = False
        """Whether the chain has stepped down to bypass by itself, below the last engine."""
        self.silent = False
        """Whether even that failed, so that nothing is played."""
        self.speech = 0.0
        """Speech probability of the last hop."""
        self.unsound = 0
        """Hops that came in with samples that are no numbers, or absurdly loud."""
        self.power_in = self.power_forward = self.power_feedback = self.power_clean = self.power_out = 0.0
        """Mean square of the last hop: before everything, after the feedforward and the feedback path, cleaned but not
        yet turned down by the volume, at the end."""
        self.counts = False
        """Whether the last hop is fit for statistics of noise and voice: the whole chain was at work on all that is in
        it, so it was neither bypassed nor muted, faded, silenced or the first after a start."""
        self._whole_hops = 0  # in a row in which nothing was bypassed or muted
        self._settle_hops = 1 + math.ceil(self.delay_samples / HOP_SAMPLES)  # until they have left
        self._wet = 1.0
        self._wet_step = HOP_MS / config.box.fade_ms
        self._ramp = np.arange(1, HOP_SAMPLES + 1, dtype=np.float32) / HOP_SAMPLES
        self._dry = np.zeros(HOP_SAMPLES, np.float32)
        self._blend = np.zeros(HOP_SAMPLES, np.float32)

    @property
    def delay_samples(self) -> int:
        """How far the output hop lies behind the input hop."""
        return self.engine.delay_samples + self.limiter.delay_samples

    @property
    def latency_ms(self) -> float:
        """From a sample's arrival in a hop to its departure: the hop, the transform, the limiter."""
        return HOP_MS * (HOP_SAMPLES + self.delay_samples) / HOP_SAMPLES

    @property
    def skipped(self) -> bool:
        """Whether the network skipped the last hop."""
        return not self.silent and self.engine.skipped

    @property
    def working(self) -> str:
        """What treats the sound just now, in words."""
        if self.silent:
            return "silence"
        if self.resting:
            return "bypass"
        return "high-pass only" if self.engine.name == "off" else self.engine.name

    @property
    def degraded(self) -> bool:
        """Whether something less than the configured engine works."""
        return self.resting or self.silent or self.engine.level > 0

    def step_down(self) -> None:
        """Fall back: next engine -> high-pass only -> bypass -> silence."""
        if self.engine.step_down():
            return
        self.silent, self.resting = self.resting, True

    def step_up(self) -> None:
        """Try the configured engine again."""
        self.silent = self.resting = False
        self.engine.step_up()

    def process(self, hop: Floats, reference: Floats | None = None) -> None:
        """Clean one hop in place; ``reference`` is the second microphone's, of the same 5 ms, and stays as it is."""
        self.counts = False  # and stays so if anything fails
        self.power_in = _power(hop)
        if not self.power_in < ABSURD_POWER:
            self._mend(hop)
        whole_hops, self._whole_hops = self._whole_hops, 0
        if self.silent:
            hop.fill(0)
            if self.howl:
                self.howl.played(hop)
            if self.line:
                self.line.silence()
            self.speech = 0.0
            self.power_forward = self.power_feedback = self.power_clean = self.power_out = 0.0
            return
        if self.antinoise:
            self.antinoise.hear(hop)
        if self.howl:
            self.howl.hear(hop)
        before = self._wet
        target = 0.0 if self.bypass or self.resting else 1.0
        self._wet = after = min(max(target, before - self._wet_step), before + self._wet_step)

        self._dry[:] = hop
        self.feedforward.process(hop)
        if self.reference and reference is not None:
            self.reference.process(hop, reference, self.speech, self._dry)
        self._mix(hop, before, after)
        self.power_forward = _power(hop)

        self.engine.wet = after
        self.speech = self.engine.process(hop)
        self.power_feedback = _power(hop)
        speaking = self.voice.decide(self.speech)

        self._dry[:] = hop
        self.eq.process(hop)
        if self.gate:
            self.gate.process(hop, speaking)
        self._mix(hop, before, after)
        clean = _power(hop)
        self.power_clean = clean if clean < ABSURD_POWER else 0.0  # the limiter makes silence of it, too

        whole = before == after == self.mute.gain == self.mute.target == 1
        if self.line:
            self.line.process(hop, self.mute)
        self.volume.process(hop)
        if self.antinoise:
            self.antinoise.process(hop, whole)
        self.mute.process(hop)
        if self.howl:
            self.howl.process(hop)
        self.limiter.process(hop)
        if self.howl:
            self.howl.played(hop, self.volume.gain)
        self.power_out = _power(hop)
        if whole:
            self._whole_hops = min(whole_hops, self._settle_hops) + 1
            self.counts = self._whole_hops > self._settle_hops

    def unsettle(self) -> None:
        """The next hop is not what the microphone heard: until all of it has left, no hop counts."""
        self._whole_hops = 0

    def reset(self) -> None:
        """Forget the signal, keep the settings and whether it is muted."""
        for stage in (self.feedforward, self.reference, self.engine, self.voice, self.eq, self.gate, self.limiter):
            if stage:
                stage.reset()
        if self.line:
            self.line.reset()
        self.speech = 0.0
        self.counts, self._whole_hops = False, 0
        for loop in (self.antinoise, self.howl):
            if loop:
                loop.reset()

    def _new_antinoise(self, config: Config) -> AntiNoise | None:
        """None, and a note, without a calibration or without an ear."""
        settings = config.antinoise
        if config.playback.device == "off":
            self.notes.append(
                'no anti-noise: [playback] device = "off" leaves only the cable, which carries no anti-noise'
            )
            return None
        try:
            path = SecondaryPath.load(Path(settings.calibration))
        except BadPath as error:
            self.notes.append(f"no anti-noise: {error}")
            return None
        return AntiNoise(path, settings, gain_db=config.capture.gain_db, added_samples=self.limiter.delay_samples)

    def _mend(self, hop: Floats) -> None:
        """What is no number becomes silence, what is absurdly loud full scale; none may stay in a filter."""
        self.unsound += 1
        self.unsettle()
        np.nan_to_num(hop, copy=False, nan=0, posinf=0, neginf=0)
        np.clip(hop, -1, 1, out=hop)
        self.power_in = _power(hop)

    def _mix(self, hop: Floats, before: float, after: float) -> None:
        """Cross-fade from the dry copy to the processed hop, linearly from ``before`` to ``after``."""
        if before == after == 1:
            return
        if before == after == 0:
            hop[:] = self._dry
            return
        blend = self._blend
        np.multiply(self._ramp, after - before, out=blend)
        blend += before
        hop -= self._dry
        hop *= blend
        hop += self._dry


def _power(hop: Floats) -> float:
    """Mean square; infinite for what is no sound."""
    return float(np.vdot(hop, hop)) / HOP_SAMPLES

"""The path of one hop through the pure signal code, in the order of ``edge.dsp.ORDER``.

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
from edge.dsp.power import ABSURD_POWER, mean_square
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
        """``engine`` replaces the configured one in tests and benchmarks. ``volume_db`` (at most 0) is for headphones:
        files and other programs get full level. ``line_out`` adds ``line``.
        """
        self.feedforward = Feedforward(config.feedforward)
        self.reference: ReferenceCanceller | None = None
        """The canceller of the second microphone, if there is one."""
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
        """The clean sound before the volume, if ``line_out`` asks for it."""
        self.limiter = Limiter(config.limiter)
        self.notes = list(self.engine.notes)
        """Why something differs from the settings, one sentence each."""
        self.antinoise = self._new_antinoise(config) if config.antinoise.on else None
        self.howl = HowlGuard.from_config(config, self.limiter.steady_levels) if config.howl.on else None
        self.bypass = False
        """Whether the sound passes unprocessed, with the same delay and still limited."""
        self.resting = False
        """Whether the chain itself has stepped down to bypass, below the last engine."""
        self.silent = False
        """Whether even that failed, so that nothing is played."""
        self.speech = 0.0
        """Speech probability of the last hop."""
        self.invalid = 0
        """Hops received with NaN, infinite or absurdly loud samples."""
        self.power_in = self.power_forward = self.power_feedback = self.power_clean = self.power_out = 0.0
        """Mean square of the last hop: before everything, after the feedforward and the feedback path, cleaned but not
        yet turned down by the volume, at the end."""
        self.counts = False
        """Whether the last hop is fit for statistics of noise and voice: the whole chain processed all that is in it,
        so it was neither bypassed nor muted, faded, silenced or the first after a start."""
        self._whole_hops = 0  # consecutive hops with nothing bypassed or muted
        self._settle_hops = 1 + math.ceil(self.delay_samples / HOP_SAMPLES)  # until all earlier ones have left
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
        """What processes the sound now, in words."""
        if self.silent:
            return "silence"
        if self.resting:
            return "bypass"
        return "high-pass only" if self.engine.name == "off" else self.engine.name

    @property
    def degraded(self) -> bool:
        """Whether the chain is below the first level of its fallback chain."""
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
        self.power_in = mean_square(hop)
        if not self.power_in < ABSURD_POWER:
            self._fix_invalid(hop)
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
        self.power_forward = mean_square(hop)

        self.engine.wet = after
        self.speech = self.engine.process(hop)
        self.power_feedback = mean_square(hop)
        speaking = self.voice.decide(self.speech)

        self._dry[:] = hop
        self.eq.process(hop)
        if self.gate:
            self.gate.process(hop, speaking)
        self._mix(hop, before, after)
        clean = mean_square(hop)
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
        self.power_out = mean_square(hop)
        if whole:
            self._whole_hops = min(whole_hops, self._settle_hops) + 1
            self.counts = self._whole_hops > self._settle_hops

    def unsettle(self) -> None:
        """The next hop is not what the microphone received: no hop counts until all of it has left."""
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
        """None, and a note, without a calibration or without headphones."""
        settings = config.antinoise
        if not config.has_headphones:
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

    def _fix_invalid(self, hop: Floats) -> None:
        """NaN and Inf become silence, what is absurdly loud full scale; neither may stay in a filter."""
        self.invalid += 1
        self.unsettle()
        np.nan_to_num(hop, copy=False, nan=0, posinf=0, neginf=0)
        np.clip(hop, -1, 1, out=hop)
        self.power_in = mean_square(hop)

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

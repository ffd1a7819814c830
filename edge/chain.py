"""The walk of one hop through the pure signal code: feedforward -> suppress -> voice -> guard.

The live box, ``enhance``, ``bench`` and the tests all run this one definition.
"""

import numpy as np

from edge import HOP_MS, HOP_SAMPLES
from edge.config import Config
from edge.feedforward import Feedforward
from edge.guard import Fader, Limiter, SoftGate, VoiceBodyEq
from edge.spectrum import Floats
from edge.suppress import open_engine
from edge.suppress.mask import MaskEngine
from edge.voice import VoiceDecision

ABSURD_POWER = 1e4
"""40 dB above full scale: no microphone, and too loud for single precision further down. Also what NaN is not below."""


class Chain:
    """One hop in, one hop out, in place: float32, 80 samples, ±1.0, 16 kHz."""

    def __init__(self, config: Config, engine: MaskEngine | None = None) -> None:
        """``engine`` stands in for the configured one in tests and benchmarks."""
        self.feedforward = Feedforward(config.feedforward.highpass_hz, config.feedforward.mains)
        self.engine = engine or open_engine(config.suppress.engine, config.suppress.limit_db, config.suppress.model)
        self.voice = VoiceDecision(config.voice.on, config.voice.off, config.voice.hold_ms)
        self.eq = VoiceBodyEq(config.eq.gain_db, config.eq.low_hz, config.eq.high_hz)
        gate = config.gate
        self.gate = SoftGate(gate.floor_dbfs, gate.ceiling_dbfs, gate.hold_ms, gate.depth_db) if gate.on else None
        self.mute = Fader(config.box.fade_ms)
        limiter = config.limiter
        self.limiter = Limiter(
            limiter.threshold_dbfs, limiter.peak_dbfs, limiter.delay_ms, limiter.attack_ms, limiter.release_ms
        )
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
        self.power_in = self.power_out = 0.0
        """Mean square of the last hop, before everything and after everything."""
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
        return self.resting or self.silent or self.engine.rung > 0

    def step_down(self) -> None:
        """Fall back: next engine -> high-pass only -> bypass -> silence."""
        if self.engine.step_down():
            return
        self.silent, self.resting = self.resting, True

    def step_up(self) -> None:
        """Try the configured engine again."""
        self.silent = self.resting = False
        self.engine.step_up()

    def process(self, hop: Floats) -> None:
        """Clean one hop in place."""
        self.power_in = _power(hop)
        if not self.power_in < ABSURD_POWER:
            self._mend(hop)
        if self.silent:
            hop.fill(0)
            self.speech = self.power_out = 0.0
            return
        before = self._wet
        target = 0.0 if self.bypass or self.resting else 1.0
        self._wet = after = min(max(target, before - self._wet_step), before + self._wet_step)

        self._dry[:] = hop
        self.feedforward.process(hop)
        self._mix(hop, before, after)

        self.engine.wet = after
        self.speech = self.engine.process(hop)
        speaking = self.voice.decide(self.speech)

        self._dry[:] = hop
        self.eq.process(hop)
        if self.gate:
            self.gate.process(hop, speaking)
        self._mix(hop, before, after)

        self.mute.process(hop)
        self.limiter.process(hop)
        self.power_out = _power(hop)

    def reset(self) -> None:
        """Forget the signal, keep the settings and whether it is muted."""
        for stage in (self.feedforward, self.engine, self.voice, self.eq, self.gate, self.limiter):
            if stage:
                stage.reset()

    def _mend(self, hop: Floats) -> None:
        """What is no number becomes silence, what is absurdly loud full scale; none may stay in a filter."""
        self.unsound += 1
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

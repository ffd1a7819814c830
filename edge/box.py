"""The box: one loop that reads a hop, processes it in the chain and plays it, and what it does when something fails.

The audio thread runs ``Box.run`` and nothing else. It is paced by the microphone. Commands (button, signals,
reload) reach it as plain attributes that it reads between two hops; what it reports goes into ``health``.
"""

import threading
import time
from enum import Enum

import numpy as np

from edge import HOP_MS, HOP_SAMPLES
from edge.chain import Chain
from edge.config import Config
from edge.console import describe
from edge.devices.alsa import open_pcm
from edge.devices.cable import Cable
from edge.devices.capture import Capture
from edge.devices.cards import clock_of
from edge.devices.mixer import OutputMixer
from edge.devices.pcm import DeviceError, Event, OpenPcm
from edge.devices.playback import Playback
from edge.dsp.spectrum import Floats
from edge.health import Health
from edge.realtime import request_realtime_priority

LATE_US = 1000 * HOP_MS
"""A hop that takes longer than it lasts is late, unless it did the work of several (``Engine.burst_hops``)."""
LATE_LOAD_LIMIT = 10.0
"""The engine steps down after so many late hops within about half a second."""
LATE_LOAD_KEPT = 0.99
RETRY_DEVICE_S = 1.0
STEADY_HOPS = round(10_000 / HOP_MS)
"""A device that delivered for 10 s works; one that is repeatedly lost sooner is tried less and less often."""
QUICK_LOSSES = 3
"""So many early losses in a row are still retried at once: a plug that is being wiggled."""
RETRY_DEVICE_MOST = 30
"""At most so many times ``RETRY_DEVICE_S``: three journal lines in half a minute at worst, instead of each second."""
REFERENCE_REPORTS = {
    "dead": "the reference microphone is dead (one constant value); it is ignored until it delivers sound",
    "copy": "the reference channel is a copy of the voice channel; it is ignored: choose another [reference] channel",
    "swapped": "the reference picks up more speech than the voice microphone; it is ignored: are "
    "[capture] channel and [reference] channel swapped?",
    "": "the reference microphone is used again",
}
"""``ReferenceCanceller.trouble`` and what is reported."""
LOST = {Event.STALLED: "delivers nothing", Event.GONE: "is gone", Event.END: "reached its end"}
LOST_OUTPUT = {**LOST, Event.STALLED: "takes no sound"}
RETRY_ENGINE_MAX_S = 600.0
SOON_HOPS = round(60_000 / HOP_MS)


class State(Enum):
    """What the box is doing; the LED and the journal show it."""

    WAITING = "waiting"
    RUNNING = "running"
    BYPASS = "bypass"
    MUTED = "muted"
    DEGRADED = "degraded"
    FAULT = "fault"


class Box:
    """Microphone to jack until stopped."""

    def __init__(self, config: Config, opener: OpenPcm = open_pcm) -> None:
        """``opener`` opens ALSA devices; tests pass the shipped fake."""
        self.health = Health()
        self.config = config
        self.chain = self._new_chain(config)
        self.muted = config.box.start == "muted"
        self.bypass = config.box.start == "bypass"
        self.has_realtime_priority = False
        """Whether the audio thread was granted real-time priority."""
        self.playing = False
        """Whether both devices are open and hops flow."""
        self.progress = 0
        """Grows with every hop and with every attempt at the devices that returned; the watchdog needs it to."""
        self._opener = opener
        self._stop = threading.Event()
        self.latest = config
        """The settings of the last ``reload``, in effect or not; for whoever calls ``reload``."""
        self._next: tuple[Config, Chain | None] | None = None
        """Settings to change to, and their chain; None if this chain can take them on."""
        self._hop = np.zeros(HOP_SAMPLES, np.float32)
        self._reference_hop = np.zeros(HOP_SAMPLES, np.float32)
        self._reference_trouble = ""
        self._load = self._behind_us = 0.0
        self._retry_s = config.box.retry_s
        self._retry_at_hop = -SOON_HOPS
        self._hops = 0
        self._reported: set[str] = set()
        self._early_losses = 0
        self.capture = self._new_capture(config)
        self.playback = self._new_playback(config)
        self.cable = self._new_cable(config)
        self.mixer = self._new_mixer(config)

    @property
    def state(self) -> State:
        """The state to show, the most severe first."""
        if not self.playing:
            return State.WAITING
        if self.chain.silent:
            return State.FAULT
        if self.muted:
            return State.MUTED
        if self.bypass:
            return State.BYPASS
        return State.DEGRADED if self.chain.degraded else State.RUNNING

    # Commands, from any thread.

    def stop(self) -> None:
        """End ``run`` after the current hop."""
        self._stop.set()

    def reload(self, config: Config) -> None:
        """Take new settings: the sound fades out, changes over and fades in. A new volume or limit alone needs no
        fade. Called from one thread at a time.
        """
        pending = self._next
        only_live = self.latest.without_live == config.without_live and (pending is None or pending[1] is None)
        self._next = (config, None if only_live else self._new_chain(config))
        self.latest = config

    # The audio thread.

    def run(self) -> None:
        """Run until stopped, through every failure of a device."""
        refusals = request_realtime_priority(self.config.box.priority)
        self.has_realtime_priority = bool(self.config.box.priority) and not refusals
        for refusal in refusals:
            self.health.event("realtime", refusal)
        while not self._stop.is_set():
            self._take_over()
            lost, before = "", self._hops
            try:
                self.open()
                lost = self._stream()
            except DeviceError as error:
                lost = str(error)
            except Exception as fault:
                lost = f"unexpected fault, please report it ({describe(fault)})"
            finally:
                self.close()
            self.progress += 1
            if lost:
                self._report_once(lost)
                self._wait_for_device(self._hops - before)
        self.cable.end()

    def _wait_for_device(self, hops: int) -> None:
        """Before the next attempt, after one that brought so many hops. A device that works for a moment and fails,
        repeatedly, must not fill the journal; the watchdog is fed meanwhile.
        """
        if hops >= STEADY_HOPS:
            self._early_losses = 0
        elif hops:
            self._early_losses += 1
        pauses = min(2 ** max(0, self._early_losses - QUICK_LOSSES), RETRY_DEVICE_MOST) if hops else 1
        for _ in range(pauses):
            if self._stop.wait(RETRY_DEVICE_S) or self._next:
                return
            self.progress += 1

    def _stream(self) -> str:
        """Hop after hop, until a device is lost (returns how) or must be opened again (returns nothing)."""
        hop, health = self._hop, self.health
        reference = self._reference_hop if self.config.reference.channel else None
        while not self._stop.is_set():
            heard = self.capture.read(hop, reference)
            if heard >= Event.STALLED:
                return f"the microphone {LOST[heard]}; waiting for it"
            began_ns = time.perf_counter_ns()
            self._process(hop, reference)
            took_us = (time.perf_counter_ns() - began_ns) / 1000
            played = self.playback.write(hop)
            if played >= Event.STALLED:
                return f"the output {LOST_OUTPUT[played]}; waiting for it"
            if not self.playing and self.playback.frames_written:
                self._announce()
            chain = self.chain
            self.cable.write(chain.line.hop if chain.line else hop)
            if chain.reference and chain.reference.trouble != self._reference_trouble:
                self._report_reference(chain.reference.trouble)
            late = self._is_late(took_us)
            health.hop(
                took_us,
                chain.power_in,
                chain.power_forward,
                chain.power_feedback,
                chain.power_clean,
                chain.power_out,
                counts=chain.counts,
                speaking=chain.voice.speaking,
                skipped=chain.skipped,
                late=late,
            )
            self._hops += 1
            self.progress += 1
            self._load = self._load * LATE_LOAD_KEPT + late
            if self._load > LATE_LOAD_LIMIT:
                self._reduce_load()
            elif self._hops == self._retry_at_hop:
                self._step_up()
            if self._next and self._change_over():
                break
        return ""

    def _is_late(self, took_us: float) -> bool:
        """An engine that works in blocks may be behind by all hops of a block but one, as long as it catches up."""
        self._behind_us = max(0.0, self._behind_us + took_us - LATE_US)
        return took_us > LATE_US and self._behind_us > LATE_US * (self.chain.engine.burst_hops - 1)

    def _process(self, hop: Floats, reference: Floats | None) -> None:
        """One hop through the chain; on any failure the output is silent at worst."""
        chain = self.chain
        chain.bypass = self.bypass
        if self.capture.altered:
            chain.unsettle()
        chain.mute.target = 0.0 if self.muted or self._fading else 1.0
        try:
            chain.process(hop, reference)
        except Exception as fault:
            hop.fill(0)
            chain.reset()
            self._step_down(f"failed ({describe(fault)})")
        if chain.engine.failure is not None:
            failure, chain.engine.failure = chain.engine.failure, None
            self._plan_retry()
            self.health.event("engine", f"an engine failed ({describe(failure)}); {chain.working} takes over")

    @property
    def _fading(self) -> bool:
        """Whether another chain waits for this one to fall silent."""
        pending = self._next
        return pending is not None and pending[1] is not None

    def _report_reference(self, trouble: str) -> None:
        """Report why the reference is no longer used, or that it is used again; a mere suspicion is not reported."""
        if trouble in REFERENCE_REPORTS:
            self._reference_trouble = trouble
            self.health.event("reference", REFERENCE_REPORTS[trouble])

    def _reduce_load(self) -> None:
        """Too many late hops: the next level down, but bypass at the lowest."""
        self._load = self._behind_us = 0.0
        if not self.chain.resting:
            self._step_down("is too slow: a hop takes longer than 5 ms to process")

    def _step_down(self, why: str) -> None:
        self._load = self._behind_us = 0.0
        before = self.chain.working
        self.chain.step_down()
        self._plan_retry()
        self.health.event(
            "engine", f"{before} {why}; {self.chain.working} takes over, next try in {self._retry_s:.0f} s"
        )

    def _step_up(self) -> None:
        self._load = self._behind_us = 0.0
        self.chain.step_up()
        self.health.event("engine", f"trying {self.chain.working} again")

    def _plan_retry(self) -> None:
        """Each failure soon after a try doubles the wait for the next one, up to ten minutes."""
        if self._hops < self._retry_at_hop:
            return
        soon = self._hops - self._retry_at_hop < SOON_HOPS
        self._retry_s = min(2 * self._retry_s, RETRY_ENGINE_MAX_S) if soon else self.config.box.retry_s
        self._retry_at_hop = self._hops + round(1000 * self._retry_s / HOP_MS)

    def open(self) -> None:
        """Both devices, with the output's own volume at its known value, or DeviceError."""
        self.capture.open()
        self.playback.same_clock = self._one_clock()
        for output in (self.playback, self.cable.output):
            if output:
                output.burst_ms = self.capture.period_ms
        self.playback.open()
        self.mixer.settle(self.playback.mixer())
        self.chain.reset()
        self._reference_trouble = ""

    def _announce(self) -> None:
        """The first hop has come and the output took it: only now is it certain that the devices work."""
        self.playing = True
        self._reported.clear()
        self.health.event("devices", f"microphone {self.capture.granted}")
        self.health.event("devices", f"output {self.playback.granted}")
        self.mixer.report()
        self.cable.open(self.capture.clock)

    def _one_clock(self) -> bool:
        """Whether microphone and output cannot drift apart."""
        settings = self.config.playback
        if settings.clock == "auto":
            return clock_of(self.config.output, "playback") == self.capture.clock
        return settings.clock == "shared"

    def close(self) -> None:
        self.playing = False
        self.mixer.release()
        self.capture.close()
        self.playback.close()
        self.cable.close()

    def _report_once(self, sentence: str) -> None:
        """Report each failure once, not every second."""
        if sentence not in self._reported:
            self._reported.add(sentence)
            self.health.event("waiting", sentence)

    def _change_over(self) -> bool:
        """Swap in the new chain once the old one has faded out; True if the devices must be opened again."""
        if self._fading and self.chain.mute.gain > 0 and not self.chain.silent:
            return False
        return self._take_over()

    def _take_over(self) -> bool:
        """Make the pending settings the current ones; True if they concern the devices."""
        if self._next is None:
            return False
        (config, chain), self._next = self._next, None
        old, self.config = self.config, config
        if chain is None:
            self.chain.volume.target_db = config.output_volume_db
            self.chain.engine.limit_db = config.suppress.limit_db
            return False
        chain.mute.gain = 0.0
        self.chain = chain
        for output in filter(None, (self.playback, self.cable.output)):
            output.peak_dbfs = config.limiter.peak_dbfs
        self._retry_at_hop = -SOON_HOPS
        self._reference_trouble = ""
        if _devices(old) == _devices(config):
            return False
        self.close()
        self.cable.end()
        self.capture = self._new_capture(config)
        self.playback = self._new_playback(config)
        self.cable = self._new_cable(config)
        self.mixer = self._new_mixer(config)
        return True

    def _new_chain(self, config: Config) -> Chain:
        chain = Chain(config, volume_db=config.output_volume_db, line_out=bool(config.second_output))
        for note in chain.notes:
            self.health.event("engine", note)
        return chain

    def _new_capture(self, config: Config) -> Capture:
        return Capture.from_section(
            config.capture,
            channel=config.voice_channel,
            reference=config.reference.channel,
            open_pcm=self._opener,
        )

    def _new_playback(self, config: Config) -> Playback:
        section = config.playback if config.has_headphones else config.cable
        return self._new_output(config, config.output, section.queue_ms)

    def _new_cable(self, config: Config) -> Cable:
        output = self._new_output(config, config.second_output, config.cable.queue_ms) if config.second_output else None
        return Cable(output, self.health.event, priority=config.box.priority)

    def _new_mixer(self, config: Config) -> OutputMixer:
        wanted = config.playback.mixer if config.has_headphones else "off"
        return OutputMixer(wanted, self.health.event)

    def _new_output(self, config: Config, device: str, queue_ms: float) -> Playback:
        settings = config.playback
        return Playback(
            device,
            queue_ms=queue_ms,
            period_ms=settings.period_ms,
            periods=settings.periods,
            channels=settings.channels if device == config.playback.device else "all",
            peak_dbfs=config.limiter.peak_dbfs,
            open_pcm=self._opener,
        )


def _devices(config: Config) -> tuple[object, ...]:
    """The settings that only newly opened devices take on."""
    return config.capture, config.reference.channel, config.without_volume.playback, config.cable

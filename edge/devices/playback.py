"""The jack: hops of 80 samples out, through a queue that is held at its target between two clocks."""

import errno
import math
import os

import numpy as np

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ
from edge.config import PlaybackConfig
from edge.devices.alsa import open_pcm
from edge.devices.cards import is_jack, resolve, shown
from edge.devices.drift import DriftControl
from edge.devices.mixer import Mixer
from edge.devices.negotiation import Needs, negotiate, playback_needs
from edge.devices.pcm import Event, OpenPcm, Pcm, StreamParams
from edge.devices.periods import period_ms, room_ms, stall_ms, with_room
from edge.devices.sample_format import Encoder
from edge.dsp.bandwidth import lost_band
from edge.dsp.peak import PeakLimiter
from edge.dsp.resample import Resampler
from edge.dsp.spectrum import Floats

SMOOTH_S = 2.0
BURST_MS = 40.0
"""Room in the card's buffer above the target: hops come in bursts, after a late wake-up several at once. A buffer
costs no delay, a full one costs a hop."""
EVEN_MS = 10.0
"""Hops that arrive in bursts of so long, and a position that moves in such steps, are what the target allows for."""
MOST_REFUSED = 8
"""Hops in a row of which the card took no frame though it had room: it has stalled, and only opening it anew helps."""
DRIFT_S = 30.0
"""The jack's coarse steps make the steering itself swing around the drift, by up to 150 ppm in 15 s."""


class Playback:
    """Hops of float32, +-1.0, 16 kHz mono -> an ALSA device.

    ``queue_ms`` is what shall still be queued when a hop arrives: it is the delay of the output, and what rides out a
    late hop. ``same_clock``: microphone and output run on one crystal, so nothing is steered; then a device
    that does 16 kHz gets every sample with its bits. ``channels``: "all", or the first of the two, from 1, that play;
    the others are silent. ``rates_hz`` and ``formats`` narrow what is requested.
    No sample handed to ALSA is above ``peak_dbfs`` (0 at most), at any rate and in any format.
    """

    def __init__(
        self,
        device: str,
        *,
        queue_ms: float = PlaybackConfig.queue_ms,
        period_ms: float = PlaybackConfig.period_ms,
        periods: int = PlaybackConfig.periods,
        channels: int | str = PlaybackConfig.channels,
        same_clock: bool = False,
        peak_dbfs: float = 0.0,
        rates_hz: tuple[int, ...] = (),
        formats: tuple[str, ...] = (),
        open_pcm: OpenPcm = open_pcm,
    ) -> None:
        self.device = device
        self.granted = "not open"
        """Requested and granted parameters, one line."""
        self.clock = f"pcm:{device}"
        self.error = ""
        """The system's error text when the device was last lost."""
        self.same_clock = same_clock
        self.peak_dbfs = peak_dbfs
        """May be set at any time, by any thread; it holds from the next hop on."""
        self.rate_hz = RATE_HZ
        self.burst_ms = 0.0
        """How much sound arrives at once: the microphone's period, to be set before ``open``. A long one raises the
        target, since the queue falls by it until the next one."""
        self.target_ms = queue_ms
        """What the queue is held at; less than requested where the card's buffer is too small."""
        self.queue_ms = 0.0
        """Sound queued when the last hop arrived."""
        self.drift_ppm = 0.0
        """Mean steering of the last half minute: how much faster the output's clock runs than the microphone's."""
        self.frames_written = 0
        """Frames at ``rate_hz`` since the last ``open``, without silence that filled the queue."""
        self.xruns = 0
        self.dropped = 0
        """Hops that found the queue full and were left out."""
        self.unread = False
        """Whether nothing is taken from the queue: a USB gadget without a PC, a card that hangs."""
        self._wanted_queue_ms = queue_ms
        self._period_ms, self._periods = period_ms, periods
        self._pair = 0 if isinstance(channels, str) else channels
        self._rates_hz, self._formats = rates_hz, formats
        self._open_pcm = open_pcm
        self._pcm: Pcm | None = None
        self._mean_queue_ms = 0.0
        self._delay_ms = 0.0
        self._rise = (0.5 - 0.5 * np.cos(np.pi * np.arange(1, HOP_SAMPLES + 1) / HOP_SAMPLES)).astype(np.float32)
        self._scratch = np.zeros(HOP_SAMPLES, np.float32)

    @property
    def latency_ms(self) -> float:
        """From a hop's arrival until its first sample is heard, by the queue as measured."""
        return self._mean_queue_ms + self._delay_ms

    @property
    def _swing_ms(self) -> float:
        """How far the queue falls between two bursts of hops, beyond what the target allows for."""
        return max(0.0, self.burst_ms - EVEN_MS)

    # Opening.

    def open(self) -> None:
        """Open the card and fill its queue with silence. Raises DeviceError."""
        self.close()
        name = resolve(self.device, "playback")
        pcm, request = negotiate(self._open_pcm, self.device, name, "playback", self._needs(name))
        swing_ms = self._swing_ms / 2
        queue_ms = self._wanted_queue_ms + swing_ms
        pcm = with_room(self._open_pcm, self.device, "playback", pcm, queue_ms + swing_ms + 2 * HOP_MS)
        params = pcm.granted
        self._unread_ms = stall_ms(params) + 2 * self._swing_ms
        self._coarsest_ms = period_ms(params)
        self._pcm, self.clock, self.rate_hz = pcm, pcm.clock, params.rate_hz
        self._buffer = params.buffer_frames
        self.target_ms = max(1.0, min(queue_ms, room_ms(params) - swing_ms - 2 * HOP_MS))
        self._primed_ms = max(1.0, self.target_ms - swing_ms)
        self._per_ms = params.rate_hz / 1000
        self._silence = bytes(self._buffer * Encoder(params.sample_format, params.channels, 1).frame_bytes)
        self._frame_bytes = len(self._silence) // self._buffer
        self._begun = False
        self._refused = 0
        self._dropping = False
        self._rising = False
        self._steered_hops = 0
        self._left_avail, self._still_hops, self._most_still_hops, self.unread = -1, 0, 0, False
        self.frames_written = 0
        self._prime()
        # A sink without a clock (ALSA's null and file plugins) swallows the silence at once: there is no queue to hold.
        self._clockless = pcm.avail() >= self._buffer
        self._steered = not (self.same_clock or self._clockless)
        self._resampler = Resampler(RATE_HZ, params.rate_hz, HOP_SAMPLES, steered=self._steered)
        peak_dbfs = self._peak_in_use_dbfs = self.peak_dbfs
        # what was not converted left the chain's limiter at its peak; the encoder rounds towards zero there
        self._peak = (
            None if self._resampler.untouched else PeakLimiter(params.rate_hz, self._resampler.max_out, peak_dbfs)
        )
        self._encoder = Encoder(params.sample_format, params.channels, self._resampler.max_out, peak_dbfs, self._pair)
        self._drift = DriftControl(self.target_ms)
        self._delay_ms = self._resampler.delay_ms + (self._peak.delay_ms if self._peak else 0.0)
        self._mean_queue_ms = 0.0 if self._clockless else self.target_ms
        steering = "clockless" if self._clockless else "one clock" if self.same_clock else "steered"
        described = f"asked {request}, got {params}, queue {self.target_ms:.0f} ms, {steering}"
        self.granted = f"{shown(self.device, 'playback')}: {described}{self._limits(params)}"

    def _needs(self, name: str) -> Needs:
        """What is asked of the device with this ALSA name."""
        filled_ms = self._wanted_queue_ms + self._swing_ms + BURST_MS
        return playback_needs(
            is_jack(name),
            self._pair,
            period_ms=self._period_ms,
            periods=max(self._periods, math.ceil(filled_ms / self._period_ms)),
            rates_hz=self._rates_hz,
            formats=self._formats,
        )

    def _limits(self, params: StreamParams) -> str:
        """What the device will not play, and on which channels it plays where there are more than two."""
        pair, lost = self._pair, lost_band(params.rate_hz)
        played = ""
        if pair and params.channels > 1:
            second = f" and {pair + 1}" if pair < params.channels else ""
            played = f", on channel{'s' if second else ''} {pair}{second} of {params.channels}"
        elif params.channels > 2:
            played = f", the same on all {params.channels} channels"
        return f"{played}{f'; {lost}' if lost else ''}"

    def close(self) -> None:
        """Give the card back at once, whatever is queued; harmless if it is not open."""
        if self._pcm is not None:
            self._pcm.close()
            self._pcm = None

    def mixer(self) -> Mixer | None:
        """The volume controls of the card that is open; None where there can be none."""
        return self._pcm.mixer() if self._pcm is not None else None

    # Writing.

    def write(self, hop: Floats) -> Event:
        """Queue 80 samples; never waits, never raises, leaves ``hop`` as it is.

        XRUN: the queue had run dry; it was filled anew and the hop follows. SHORT: the queue was full, the hop was
        left out, or the card took only a part of it. STALLED (it has room and takes nothing) and GONE require
        ``close`` and ``open``.
        """
        pcm = self._pcm
        if pcm is None:
            return Event.GONE
        if self._clockless:
            return self._queue(hop, self._buffer, Event.OK)
        event = Event.OK
        avail = pcm.avail()
        if avail == -errno.EPIPE or avail >= self._buffer:  # some plugins hide that they ran dry
            event = self._refill()
            avail = pcm.avail()
        elif avail >= 0 and not self._begun:
            self._top_up(avail)
            avail = pcm.avail()
        if avail < 0:
            return self._lost(avail)
        return self._queue(hop, avail, event)

    def _queue(self, hop: Floats, avail: int, event: Event) -> Event:
        pcm = self._pcm
        assert pcm is not None
        self.queue_ms = 0.0 if self._clockless else (self._buffer - avail) / self._per_ms
        self._mean_queue_ms += (self.queue_ms - self._mean_queue_ms) * HOP_MS / 1000 / SMOOTH_S
        self._check_reader(avail)
        if self._steered and not self.unread:
            ppm = self._drift.update(self.queue_ms)
            self._resampler.steer(ppm)
            self._steered_hops += 1
            share = max(1 / self._steered_hops, HOP_MS / 1000 / DRIFT_S)  # at first the plain mean
            self.drift_ppm += (ppm - self.drift_ppm) * share
        self._begun = True
        if self._rising:
            self._rising = False
            self._resampler.reset()  # it still holds what came before the gap
            if self._peak:
                self._peak.reset()
            hop = np.multiply(hop, self._rise, out=self._scratch)
        samples = self._resampler.process(hop)
        if self._peak_in_use_dbfs != self.peak_dbfs:
            self._take_peak(self.peak_dbfs)
        if self._peak:
            self._peak.process(samples)
        if self._leave_out(avail, len(samples)):
            return max(event, Event.SHORT)
        taken = pcm.write(self._encoder.encode(samples))
        if taken == -errno.EPIPE:
            return self._took_nothing(self._refill())
        if taken in (0, -errno.EINTR, -errno.EAGAIN):
            return self._took_nothing(max(event, Event.SHORT))
        if taken < 0:
            return self._lost(taken)
        self._refused = 0
        self.frames_written += taken
        self._left_avail -= taken
        return event if taken == len(samples) else max(event, Event.SHORT)

    def _took_nothing(self, event: Event) -> Event:
        """One hop is lost; so many in a row are a card that has stalled, whatever it answers."""
        self._refused += 1
        if event >= Event.STALLED or self._refused <= MOST_REFUSED:
            return event
        self.error = "takes no sound"
        return Event.STALLED

    def _take_peak(self, peak_dbfs: float) -> None:
        self._peak_in_use_dbfs = peak_dbfs
        self._encoder.set_peak(peak_dbfs)
        if self._peak:
            self._peak.set_peak(peak_dbfs)

    def _check_reader(self, avail: int) -> None:
        """A queue that stands still shows nothing about the two clocks, so the drift is not updated meanwhile."""
        self._still_hops = self._still_hops + 1 if avail == self._left_avail and not self._clockless else 0
        self._left_avail = avail
        if self.unread and not self._still_hops:
            self._drift.reset()
        self.unread = self._still_hops * HOP_MS >= self._unread_ms
        if self._still_hops > self._most_still_hops and self._begun and not self.unread:
            self._most_still_hops = self._still_hops
            step_ms = min(self._still_hops * HOP_MS, self._coarsest_ms)
            # the reading saws between 0 and one step above what is queued, and its mean is what is held
            self._drift.target_ms = self.target_ms + max(0.0, step_ms - EVEN_MS) / 2

    def _leave_out(self, avail: int, frames: int) -> bool:
        """Whether the queue is full: one cut down to the target rather than one every hop."""
        if self._dropping and self.queue_ms <= self.target_ms:
            self._dropping = False
        if avail < frames:
            self._dropping = True
        if self._dropping:
            self.dropped += not self.unread
            self._rising = True
        return self._dropping

    def _refill(self) -> Event:
        """The queue ran dry: fill it with silence again. Before the first hop this is no xrun."""
        playing = self._begun
        event = self._prime()
        if event is Event.GONE:
            return event
        self._rising = True
        self._drift.reset()
        if not playing:
            return Event.OK
        self.xruns += 1
        return Event.XRUN

    def _prime(self) -> Event:
        """Silence up to the target, less what the first burst of hops brings, in one write: the card starts with its
        first frame."""
        pcm = self._pcm
        assert pcm is not None
        frames = round(self._primed_ms * self._per_ms)
        for _ in range(3):  # the first write after a dry queue only reports it
            taken = pcm.write(memoryview(self._silence)[: frames * self._frame_bytes])
            if taken > 0:
                return Event.OK
            if taken < 0 and taken not in (-errno.EPIPE, -errno.EINTR):
                return self._lost(taken)
        return Event.OK

    def _top_up(self, avail: int) -> None:
        """What the queue lost between ``open`` and the first hop."""
        pcm = self._pcm
        assert pcm is not None
        short = round(self._primed_ms * self._per_ms) - (self._buffer - avail)
        if short > 0:
            pcm.write(memoryview(self._silence)[: short * self._frame_bytes])

    def _lost(self, code: int) -> Event:
        self.error = os.strerror(-code)
        return Event.GONE

"""The microphone: whatever the card gives, as hops of 80 samples. Its clock drives the box."""

import errno
import math
import os

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.config import CaptureConfig
from edge.devices.alsa import open_pcm
from edge.devices.cards import resolve, shown
from edge.devices.channel_choice import ChannelComparison
from edge.devices.negotiation import REFERENCE, Needs, capture_needs, negotiate
from edge.devices.pcm import Capabilities, Event, OpenPcm, Pcm, StreamParams
from edge.devices.periods import period_ms, stall_ms, with_room
from edge.devices.sample_format import Decoder
from edge.dsp.bandwidth import lost_band
from edge.dsp.resample import Resampler
from edge.dsp.spectrum import Floats

LATE_MS = 15.0
"""The card's buffer holds so much while the box is late; with less, longer periods are asked for."""
TRIES = 50
"""Wake-ups without a sample (a plugin wakes us twice a period, a source at its end for ever) before it is a stall."""
MOST_RESTARTS = 8
"""Overruns in a row without a whole hop between them: a card that restarting does not help has stalled. A box that is
late for its card gets at least a period after every restart."""
DC_S = 1.0
SILENT_HOPS = 200
"""One second of one and the same value is a dead microphone: a live one has noise."""


class Capture:
    """An ALSA device -> hops of float32, +-1.0, 16 kHz mono.

    ``device`` is a card's id, ``auto`` or any ALSA name. ``channel`` counts from 1; "mean" mixes all, "auto" takes the
    live one. Opened at 16 kHz mono if the card does that by itself, else at its own rate and converted here.
    ``reference`` is a second channel of the same frames, for a microphone beside the voice's; 0 is none.
    ``rates_hz`` and ``formats`` narrow what is requested.
    """

    def __init__(
        self,
        device: str,
        *,
        channel: int | str = CaptureConfig.channel,
        reference: int = 0,
        gain_db: float = CaptureConfig.gain_db,
        mute_ms: float = CaptureConfig.mute_ms,
        fade_ms: float = CaptureConfig.fade_ms,
        period_ms: float = CaptureConfig.period_ms,
        periods: int = CaptureConfig.periods,
        rates_hz: tuple[int, ...] = (),
        formats: tuple[str, ...] = (),
        open_pcm: OpenPcm = open_pcm,
    ) -> None:
        assert channel in ("auto", "mean") or (isinstance(channel, int) and channel >= 1)
        assert not reference or (isinstance(channel, int) and 1 <= reference != channel)
        self.device = device
        self.granted = "not open"
        """Requested and granted parameters, one line."""
        self.channel = "not known yet"
        """Which channel is used, in words."""
        self.clock = f"pcm:{device}"
        self.error = ""
        """The system's error text when the device was last lost."""
        self.rate_hz = RATE_HZ
        self.period_ms = 0.0
        """The card delivers sound this often, as granted."""
        self.latency_ms = 0.0
        """How far the newest sample of a hop lies behind the microphone on average; the hop's own 5 ms come on top."""
        self.frames_read = 0
        """Frames at ``rate_hz`` since the last ``open``; against a clock they give the card's true rate."""
        self.xruns = 0
        self.shorts = 0
        self.stalls = 0
        self.silent_hops = 0
        """Hops in a row that held one single value."""
        self.altered = False
        """Whether the last hop is not what the microphone delivered: muted or faded in after the start, or at a gap."""
        self.dc = 0.0
        """Mean of the last second, +-1.0."""
        self._wanted_channel = channel
        self._wanted_reference = reference
        self._gain_db = gain_db
        self._period_ms, self._periods = period_ms, periods
        self._rates_hz, self._formats = rates_hz, formats
        self._open_pcm = open_pcm
        self._pcm: Pcm | None = None
        self._clips_before = 0
        self._decoder: Decoder | None = None
        self._reference_decoder: Decoder | None = None
        self._mute_hops = math.ceil(mute_ms * RATE_HZ / 1000 / HOP_SAMPLES)
        self._fade = _rise(max(1, math.ceil(fade_ms * RATE_HZ / 1000 / HOP_SAMPLES)) * HOP_SAMPLES)
        self._fade_hops = len(self._fade) // HOP_SAMPLES if fade_ms > 0 else 0
        self._rise = _rise(HOP_SAMPLES)
        self._fall: Floats = np.ascontiguousarray(self._rise[::-1])

    @classmethod
    def from_section(
        cls, section: CaptureConfig, *, channel: int | str, reference: int = 0, open_pcm: OpenPcm = open_pcm
    ) -> "Capture":
        """The microphone that ``[capture]`` describes; ``channel`` may be another than the section's."""
        return cls(
            section.device,
            channel=channel,
            reference=reference,
            gain_db=section.gain_db,
            mute_ms=section.mute_ms,
            fade_ms=section.fade_ms,
            period_ms=section.period_ms,
            periods=section.periods,
            open_pcm=open_pcm,
        )

    @property
    def clips(self) -> int:
        """Samples that reached full scale, at the card or by our gain."""
        return self._clips_before + (self._decoder.clips if self._decoder else 0)

    @property
    def silent(self) -> bool:
        """True while the microphone gives one constant value: unplugged, dead, or switched off."""
        return self.silent_hops >= SILENT_HOPS

    # Opening.

    def open(self) -> None:
        """Open the card and get ready; it starts with the first ``read``. Raises DeviceError."""
        self.close()
        name = resolve(self.device, "capture")
        needs = self._needs(name.startswith("hw:"))
        pcm, _ = negotiate(self._open_pcm, self.device, name, "capture", needs)
        needed_ms = min(LATE_MS, (self._periods - 1) * self._period_ms)
        pcm = with_room(self._open_pcm, self.device, "capture", pcm, needed_ms)
        params = pcm.granted
        self._stall_ms = math.ceil(stall_ms(params))
        self.period_ms = period_ms(params)
        self._pcm, self.clock, self.rate_hz = pcm, pcm.clock, params.rate_hz
        self._shown = shown(self.device, "capture")
        self._opened_as = f"asked {next(needs.requests(Capabilities()))}, got {params}"
        self._period = params.period_frames
        self._resampler = Resampler(params.rate_hz, RATE_HZ, self._period)
        self._samples = np.zeros(HOP_SAMPLES + self._resampler.max_out, np.float32)
        if self._wanted_reference:
            self._reference_resampler = Resampler(params.rate_hz, RATE_HZ, self._period)
            self._reference_samples = np.zeros_like(self._samples)
        self._held = 0
        self._hops = 0
        self._bridged = False
        self._started = False
        self._heard = False
        self._restarts = 0
        self._last = 0.0
        self.frames_read = 0
        self.silent_hops = 0
        self._open_decoders(params)
        self.latency_ms = self._resampler.delay_ms + _waiting_ms(params)

    def _needs(self, native: bool) -> Needs:
        """What is asked of the device."""
        voice = self._wanted_channel if isinstance(self._wanted_channel, int) else 1
        return capture_needs(
            native,
            max(voice, self._wanted_reference),
            REFERENCE if self._wanted_reference > voice else "[capture] channel",
            period_ms=self._period_ms,
            periods=self._periods,
            rates_hz=self._rates_hz,
            formats=self._formats,
        )

    def _open_decoders(self, params: StreamParams) -> None:
        """The chosen channel's decoder, and one for each other channel while "auto" still compares them."""
        wanted, count = self._wanted_channel, params.channels
        self._comparison: ChannelComparison | None = None
        chosen: int | None = 0
        if wanted == "mean":
            chosen, self.channel = None, f"the mean of {count}"
        elif isinstance(wanted, int):
            chosen, self.channel = wanted - 1, f"{wanted} of {count}"
        elif count == 1:
            self.channel = "1 of 1"
        else:
            self.channel = f"1 of {count} until one has a signal"
            self._comparison = ChannelComparison(params, self._period)
            self._candidates = [self._new_decoder(params, channel) for channel in range(count)]
        self._decoder = self._new_decoder(params, chosen)
        if self._wanted_reference:
            self._reference_decoder = self._new_decoder(params, self._wanted_reference - 1)
            self.channel += f", reference {self._wanted_reference}"
        self._describe_granted()

    def _new_decoder(self, params: StreamParams, channel: int | None) -> Decoder:
        return Decoder(params.sample_format, params.channels, channel, self._period, self._gain_db)

    def _describe_granted(self) -> None:
        lost = lost_band(self.rate_hz)
        self.granted = f"{self._shown}: {self._opened_as}, channel {self.channel}{f'; {lost}' if lost else ''}"

    def close(self) -> None:
        """Give the card back; harmless if it is not open."""
        if self._pcm is not None:
            self._pcm.close()
            self._pcm = None
        self._clips_before, self._decoder, self._reference_decoder = self.clips, None, None

    # Reading.

    def read(self, hop: Floats, reference: Floats | None = None) -> Event:
        """Wait for the next 80 samples and put them into ``hop`` (silence where there are none). Never raises.

        Into ``reference`` go those of the reference channel, of the same moment and with the same delay.

        After OK, SHORT and XRUN reading goes on; STALLED and GONE require ``close`` and ``open``. An overrun before the
        first hop is no hop yet: the card is started again, ``MOST_RESTARTS`` times.
        """
        worst = Event.OK
        while self._held < HOP_SAMPLES:
            event = self._fetch()
            if event is Event.XRUN:
                self._restarts += 1
                if self._restarts > MOST_RESTARTS:
                    self.error, event = os.strerror(errno.EPIPE), Event.STALLED
                elif not self._heard:
                    self._restart_after_xrun()
                    continue
            if event >= Event.XRUN:
                self._bridge(hop, event)
                if reference is not None:
                    reference.fill(0)
                return event
            worst = max(worst, event)
        self._heard, self._restarts = True, 0
        hop[:] = self._samples[:HOP_SAMPLES]
        self._held -= HOP_SAMPLES
        self._samples[: self._held] = self._samples[HOP_SAMPLES : HOP_SAMPLES + self._held]
        self._monitor(hop)
        if self._reference_decoder:
            self._deliver_reference(reference)
        self._fade_in(hop)
        self._last = float(hop[-1])
        return worst

    def _fetch(self) -> Event:
        """One period of the card, converted, behind the samples already held."""
        pcm, decoder = self._pcm, self._decoder
        if pcm is None or decoder is None:
            return Event.GONE
        for _ in range(TRIES):
            # Reading before a whole period is there would return fragments; only the first read must not wait: it
            # starts the card.
            if self._started and not pcm.wait(self._stall_ms):
                break
            frames, raw = pcm.read()
            self._started = self._started or frames >= 0
            if frames > 0:
                return self._take(frames, raw, decoder)
            if frames == -errno.EPIPE:
                return Event.XRUN
            # EPERM: ALSA's file plugin returns it when a signal interrupts it.
            if frames < 0 and frames not in (-errno.EINTR, -errno.EAGAIN, -errno.EPERM):
                self.error = os.strerror(-frames)
                return Event.GONE
        return Event.STALLED

    def _take(self, frames: int, raw: bytes, decoder: Decoder) -> Event:
        self.frames_read += frames
        if self._comparison:
            self._compare_channels(self._comparison, raw)
            decoder = self._decoder or decoder
        converted = self._resampler.process(decoder.decode(raw))
        place = slice(self._held, self._held + len(converted))
        self._samples[place] = converted
        if self._reference_decoder:
            self._reference_samples[place] = self._reference_resampler.process(self._reference_decoder.decode(raw))
        self._held += len(converted)
        if frames == self._period:
            return Event.OK
        self.shorts += 1
        return Event.SHORT

    def _compare_channels(self, comparison: ChannelComparison, raw: bytes) -> None:
        """Compare the channels until one clearly has a signal, then use that one."""
        chosen = comparison.compare(raw)
        if chosen is None:
            return
        self.channel = comparison.in_words
        self._clips_before = self.clips
        self._decoder = self._candidates[chosen]
        self._comparison = None
        self._describe_granted()

    def _deliver_reference(self, reference: Floats | None) -> None:
        """The reference's next hop, silent while the voice is muted; there is no path between the two then."""
        samples = self._reference_samples
        if reference is not None:
            reference[:] = samples[:HOP_SAMPLES]
            if self._hops < self._mute_hops:
                reference.fill(0)
        samples[: self._held] = samples[HOP_SAMPLES : HOP_SAMPLES + self._held]

    def _monitor(self, hop: Floats) -> None:
        """Update what distinguishes a dead microphone from a quiet one."""
        self.dc += (float(hop.mean()) - self.dc) * HOP_SAMPLES / (DC_S * RATE_HZ)
        self.silent_hops = self.silent_hops + 1 if hop.max() == hop.min() else 0

    def _fade_in(self, hop: Floats) -> None:
        """Mute, then fade in after the start; fade in quickly after a gap."""
        place = self._hops - self._mute_hops
        self._hops += 1
        self.altered = place < self._fade_hops or self._bridged
        if place < 0:
            hop.fill(0)
        elif place < self._fade_hops:
            hop *= self._fade[place * HOP_SAMPLES : (place + 1) * HOP_SAMPLES]
        if self._bridged:
            self._bridged = False
            hop *= self._rise

    def _bridge(self, hop: Floats, event: Event) -> None:
        """A hop for the gap: from the last sample gently down to silence."""
        np.multiply(self._fall, self._last, out=hop)
        self._last = 0.0
        self._bridged = self.altered = True
        if self._pcm is None:
            return
        if event is Event.XRUN:
            self._restart_after_xrun()
            self._hops += 1
        elif event is Event.STALLED:
            self.stalls += 1

    def _restart_after_xrun(self) -> None:
        """After an overrun: what was read before it does not join what comes after it, and the card starts anew."""
        self._held = 0
        self._resampler.reset()
        if self._reference_decoder:
            self._reference_resampler.reset()
        self.xruns += 1
        self._started = False


def _rise(samples: int) -> Floats:
    """float32, raised cosine from just above 0 to 1."""
    return (0.5 - 0.5 * np.cos(np.pi * np.arange(1, samples + 1) / samples)).astype(np.float32)


def _waiting_ms(params: StreamParams) -> float:
    """How long samples wait on average because the card wakes us in other steps than a hop: 0 where the steps fit.

    What is left over after a hop runs evenly through the multiples of the greatest common step. At 22.05 kHz a hop is
    110.25 frames, so steps are counted in fractions of a frame.
    """
    fractions = RATE_HZ // HOP_SAMPLES
    step = math.gcd(params.rate_hz, params.period_frames * fractions) / fractions
    return 1000 * (params.period_frames - step) / 2 / params.rate_hz

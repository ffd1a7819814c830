"""The one place that opens ALSA devices, through pyalsaaudio; every failure becomes one line that names the fix."""

import errno
import functools
import os
import select
import time
from typing import Any

from edge.devices.alsa_mixer import alsa_mixer
from edge.devices.cards import card_id, holder, missing, resolve
from edge.devices.mixer import Mixer
from edge.devices.negotiation import conversion
from edge.devices.pcm import Capabilities, DeviceBusy, DeviceError, DeviceRefused, Direction, StreamParams


class AlsaPcm:
    """``Pcm`` over pyalsaaudio, in non-blocking mode (a blocking read cannot time out)."""

    def __init__(self, device: str, direction: Direction, params: StreamParams) -> None:
        alsa = _alsa()
        self._pcm = alsa.PCM(
            type=alsa.PCM_CAPTURE if direction == "capture" else alsa.PCM_PLAYBACK,
            mode=alsa.PCM_NONBLOCK,
            device=device,
            rate=params.rate_hz,
            channels=params.channels,
            format=getattr(alsa, f"PCM_FORMAT_{params.sample_format}"),
            periodsize=params.period_frames,
            periods=params.periods,
        )
        info = self._pcm.info()
        if "NONINTERLEAVED" in info["access_type"]:  # what is read and written here is interleaved
            self._pcm.close()
            found = f"{device} gives its channels in separate blocks (non-interleaved)"
            raise DeviceRefused(found, conversion(device), "format")
        period = info["period_size"]
        self.granted = StreamParams(
            info["rate"], info["channels"], info["format_name"], period, max(1, info["buffer_size"] // period)
        )
        self.clock = card_id(info["card_no"]) if info["card_no"] >= 0 else f"pcm:{device}"
        self._native = device.startswith("hw:")
        self._capturing = direction == "capture"
        self._fruitless = 0
        self._poll = select.poll()
        for descriptor, events in self._pcm.polldescriptors():
            self._poll.register(descriptor, events)

    def capabilities(self) -> Capabilities:
        rates = self._pcm.getrates()
        ranged = isinstance(rates, tuple)
        if isinstance(rates, list):  # of a fixed list, without 12 and 24 kHz: the device's lowest and highest may lack
            rates = sorted({*rates, *self._pcm.getratebounds()})
        rates = (rates,) if isinstance(rates, int) else tuple(rates)
        # A plugin claims every channel count up to 2^32 and getchannels() would try them all.
        channels = tuple(self._pcm.getchannels()) if self._native else ()
        return Capabilities(tuple(self._pcm.getformats()), rates, ranged, channels)

    def read(self) -> tuple[int, bytes]:
        try:
            frames, data = self._pcm.read()
        except _alsa().ALSAAudioError as error:
            return -_errno_of(error), b""
        self._fruitless = 0 if frames > 0 else self._fruitless + 1
        return frames, data

    def write(self, data: bytes | memoryview) -> int:
        try:
            return int(self._pcm.write(data))
        except _alsa().ALSAAudioError as error:
            return -_errno_of(error)

    def avail(self) -> int:
        return int(self._pcm.avail())

    def wait(self, timeout_ms: int) -> bool:
        if self._fruitless > 2:  # a source at its end polls as ready and delivers nothing: do not spin on it
            time.sleep(0.005)
        ready = self._poll.poll(timeout_ms)
        if ready:
            # Plugins use descriptors of their own; polldescriptors_revents() re-arms them.
            self._pcm.polldescriptors_revents(ready)
        return bool(ready)

    def mixer(self) -> Mixer | None:
        return alsa_mixer(self.clock)

    def close(self) -> None:
        if not self._capturing:
            try:
                self._pcm.drop()  # else close() waits for the queue to play out, or for ever on a dead card
            except _alsa().ALSAAudioError:
                pass
        self._pcm.close()


def open_pcm(device: str, direction: Direction, params: StreamParams) -> AlsaPcm:
    """Open an ALSA device. ``device`` is a card's id, ``auto``, or any ALSA name; raises DeviceError."""
    try:
        alsa = _alsa()
    except ImportError as error:
        fix = "install libasound2 and run install.sh again"
        raise DeviceRefused(f"pyalsaaudio does not load ({error})", fix, "library") from None
    name = resolve(device, direction)
    try:
        return AlsaPcm(name, direction, params)
    except alsa.ALSAAudioError as error:
        raise _explain(device, name, direction, error) from None


@functools.cache
def _alsa() -> Any:
    """pyalsaaudio, with libasound's own messages on stderr switched off: errors are reported in one line here."""
    import alsaaudio

    _silence_libasound()
    return alsaaudio


_silencer: Any = None


def _silence_libasound() -> None:
    """Give libasound an error handler that prints nothing (pyalsaaudio has no call for it)."""
    import ctypes

    global _silencer
    handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p)
    _silencer = handler(lambda *_: None)
    try:
        ctypes.CDLL("libasound.so.2").snd_lib_error_set_handler(_silencer)
    except (OSError, AttributeError):
        _silencer = None


_ERRNO_BY_TEXT = {os.strerror(number): number for number in errno.errorcode}


def _errno_of(error: Exception) -> int:
    """pyalsaaudio 0.11 raises only strerror's text, followed by the device's name in brackets."""
    return _ERRNO_BY_TEXT.get(str(error).rsplit(" [", 1)[0], errno.EIO)


def _explain(device: str, name: str, direction: Direction, error: Exception) -> DeviceError:
    """The error of an open as one line that names the fix."""
    number, said = _errno_of(error), str(error).rsplit(" [", 1)[0]
    if number in (errno.EBUSY, errno.EAGAIN):
        who = holder(name, direction)
        return DeviceBusy(f"{device} is in use by {who or 'another process'}", "stop it or choose another card")
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return missing(device, direction)
    if number in (errno.EACCES, errno.EPERM):
        return _forbidden(device)
    if number in SYSTEM_ERRORS:
        found, fix = SYSTEM_ERRORS[number]
        return DeviceRefused(f"{device} does not open for {direction}: {found} ({said})", fix)
    if number == errno.EINVAL:
        fix = f"if it is a device of your own in /etc/asound.conf, check its lines there; else {conversion(name)}"
        return DeviceRefused(f"{device} does not open for {direction}: {said}", fix, "parameters")
    fix = "look at the last lines of `dmesg`, then choose another device of `quietbox devices`"
    return DeviceRefused(f"{device} does not open for {direction}: {said}", fix)


SYSTEM_ERRORS = {
    errno.ENOSPC: (
        "the USB port has no bandwidth left",
        "unplug other USB sound cards and cameras, or use another port",
    ),
    errno.ECONNREFUSED: ("its sound server does not run", "start that server, or name a card of `quietbox devices`"),
    errno.EHOSTDOWN: ("its sound server does not run", "start that server, or name a card of `quietbox devices`"),
    errno.ENOMEM: ("the kernel has no memory for its buffer", "stop other programs, or restart"),
    errno.EIO: ("the card does not answer", "unplug it and plug it in again; look at `dmesg` for its power and cable"),
    errno.ETIMEDOUT: ("the card does not answer", "unplug it and plug it in again; look at `dmesg` for its power"),
    errno.EPROTO: ("the card does not answer", "unplug it and plug it in again; look at `dmesg` for its power"),
}
"""What an error of open(2) or of ALSA means for a sound card, and what to do."""


def _forbidden(device: str) -> DeviceRefused:
    if os.geteuid() == 0:
        found = f"{device} cannot be opened even by root (permission denied)"
        fix = "let the container or the service's DeviceAllow= in on /dev/snd"
    else:
        found = f"{device} cannot be opened by this user (permission denied)"
        fix = "add the user to the group audio (sudo usermod -aG audio YOU) and log in again, or run it with sudo"
    return DeviceRefused(found, fix, "permission")


def list_pcms(direction: Direction) -> list[str]:
    """Named ALSA devices beside the cards (from the asoundrc files), as far as they carry a hint."""
    try:
        alsa = _alsa()
        names = alsa.pcms(alsa.PCM_CAPTURE if direction == "capture" else alsa.PCM_PLAYBACK)
    except Exception:  # no ALSA configuration at all
        return []
    return [name for name in names if ":" not in name and name not in ("null", "default")]

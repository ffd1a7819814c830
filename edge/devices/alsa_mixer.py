"""The mixer of a real card, by libasound's simple mixer interface.

libasound is called itself: pyalsaaudio 0.11's Mixer does not report whether a control has a dB scale (it returns memory
that nobody wrote), drops the error of every write, and holds the interpreter's lock until the driver answers.
"""

import ctypes
import errno
import functools
import os
from dataclasses import replace
from typing import Any

from edge.devices.mixer import Level

CHANNELS = 32
"""SND_MIXER_SCHN_LAST + 1."""
SERVERS = ("default", "sysdefault", "pulse", "pipewire", "jack")
"""ALSA names behind which stands a sound server with a volume of its own, or nobody knows which card."""


def alsa_mixer(clock: str) -> "AlsaMixer | None":
    """The mixer of an opened device, by ``Pcm.clock``: of the card, or of the same ALSA name. None with a server."""
    if not clock.startswith("pcm:"):
        return AlsaMixer(clock, f"hw:CARD={clock}")
    name = clock.removeprefix("pcm:")
    return None if name.split(":")[0] in SERVERS else AlsaMixer(name, name)


class AlsaMixer:
    """``Mixer`` over libasound's simple mixer, opened anew each time: what is read comes from the driver."""

    def __init__(self, name: str, control_device: str) -> None:
        """``control_device`` is ALSA's name of it, as ``hw:CARD=Headphones``."""
        self.name = name
        self._device = control_device.encode()

    def levels(self) -> list[Level]:
        try:
            with _Opened(self._device) as opened:
                return [opened.level(element) for element in opened.elements()]
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                return []
            raise

    def put(self, wanted: Level) -> None:
        with _Opened(self._device) as opened:
            for element in opened.elements():
                if opened.named(element) == (wanted.control, wanted.index):
                    opened.put(element, wanted)
                    return
        raise OSError(errno.ENOENT, f"no control {wanted.control}")


@functools.cache
def _libasound() -> Any:
    """Calls release the interpreter's lock while they last. Raises OSError where it is missing."""
    library = ctypes.CDLL("libasound.so.2")
    pointer, number = ctypes.c_void_p, ctypes.c_int
    takes: dict[str, tuple[Any, ...]] = {
        "mixer_open": (pointer, number),
        "mixer_attach": (pointer, ctypes.c_char_p),
        "mixer_selem_register": (pointer, pointer, pointer),
        "mixer_load": (pointer,),
        "mixer_close": (pointer,),
        "mixer_first_elem": (pointer,),
        "mixer_elem_next": (pointer,),
        "mixer_selem_is_active": (pointer,),
        "mixer_selem_get_name": (pointer,),
        "mixer_selem_get_index": (pointer,),
        "mixer_selem_has_playback_channel": (pointer, number),
        "mixer_selem_set_playback_dB_all": (pointer, ctypes.c_long, number),
        "mixer_selem_set_playback_volume_all": (pointer, ctypes.c_long),
        "mixer_selem_set_playback_switch_all": (pointer, number),
    }
    for what in ("playback_volume", "common_volume", "playback_switch", "common_switch"):
        takes[f"mixer_selem_has_{what}"] = (pointer,)
    for what in ("playback_volume_range", "playback_dB_range"):
        takes[f"mixer_selem_get_{what}"] = (pointer, pointer, pointer)
    for what in ("playback_volume", "playback_dB", "playback_switch"):
        takes[f"mixer_selem_get_{what}"] = (pointer, number, pointer)
    for name, kinds in takes.items():
        function = getattr(library, f"snd_{name}")
        function.argtypes = kinds
        function.restype = number
    library.snd_mixer_first_elem.restype = library.snd_mixer_elem_next.restype = pointer
    library.snd_mixer_selem_get_name.restype = ctypes.c_char_p
    return library


def _checked(code: int) -> int:
    """The return value of a libasound call; raises OSError for -errno."""
    if code < 0:
        raise OSError(-code, os.strerror(-code))
    return code


class _Opened:
    """One visit to a mixer; elements are libasound's pointers, good until the end of it."""

    def __init__(self, device: bytes) -> None:
        self._library, self._handle = _libasound(), ctypes.c_void_p()
        _checked(self._library.snd_mixer_open(ctypes.byref(self._handle), 0))
        try:
            _checked(self._library.snd_mixer_attach(self._handle, device))
            _checked(self._library.snd_mixer_selem_register(self._handle, None, None))
            _checked(self._library.snd_mixer_load(self._handle))
        except BaseException:
            self._library.snd_mixer_close(self._handle)
            raise

    def __enter__(self) -> "_Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self._library.snd_mixer_close(self._handle)

    def elements(self) -> list[int]:
        """Every control that acts on what is played."""
        library, found = self._library, []
        element = library.snd_mixer_first_elem(self._handle)
        while element:
            if library.snd_mixer_selem_is_active(element) and (
                self._has(element, "volume") or self._has(element, "switch")
            ):
                found.append(element)
            element = library.snd_mixer_elem_next(element)
        return found

    def named(self, element: int) -> tuple[str, int]:
        library = self._library
        return library.snd_mixer_selem_get_name(element).decode(errors="replace"), library.snd_mixer_selem_get_index(
            element
        )

    def level(self, element: int) -> Level:
        control, index = self.named(element)
        found = Level(control, index)
        if self._has(element, "volume"):
            low, high = self._range(element, "volume")
            loudest = max(self._of_channels(element, "volume", ctypes.c_long), default=low)
            found = replace(found, percent=round(100 * (loudest - low) / max(high - low, 1)))
            found = replace(found, **self._decibels(element))
        if self._has(element, "switch"):
            on = self._of_channels(element, "switch", ctypes.c_int)
            found = replace(found, muted=not all(on))
        return found

    def _decibels(self, element: int) -> dict[str, Any]:
        """``db`` and ``range_db``; nothing for a control without a scale, or with one of no width."""
        try:
            low, high = self._range(element, "dB")
            loudest = max(self._of_channels(element, "dB", ctypes.c_long))
        except (OSError, ValueError):
            return {}
        return {"db": loudest / 100, "range_db": (low / 100, high / 100)} if low < high else {}

    def put(self, element: int, wanted: Level) -> None:
        library = self._library
        if wanted.range_db is not None and wanted.db is not None:
            rounded_down = -1
            _checked(library.snd_mixer_selem_set_playback_dB_all(element, round(100 * wanted.db), rounded_down))
        elif wanted.percent is not None:
            low, high = self._range(element, "volume")
            raw = low + (high - low) * wanted.percent // 100
            _checked(library.snd_mixer_selem_set_playback_volume_all(element, raw))
        if wanted.muted is not None:
            _checked(library.snd_mixer_selem_set_playback_switch_all(element, int(not wanted.muted)))

    def _has(self, element: int, what: str) -> bool:
        library = self._library
        return bool(
            getattr(library, f"snd_mixer_selem_has_playback_{what}")(element)
            or getattr(library, f"snd_mixer_selem_has_common_{what}")(element)
        )

    def _range(self, element: int, what: str) -> tuple[int, int]:
        low, high = ctypes.c_long(), ctypes.c_long()
        ask = getattr(self._library, f"snd_mixer_selem_get_playback_{what}_range")
        _checked(ask(element, ctypes.byref(low), ctypes.byref(high)))
        return low.value, high.value

    def _of_channels(self, element: int, what: str, kind: Any) -> list[int]:
        library, found = self._library, []
        for channel in range(CHANNELS):
            if library.snd_mixer_selem_has_playback_channel(element, channel):
                value = kind()
                ask = getattr(library, f"snd_mixer_selem_get_playback_{what}")
                _checked(ask(element, channel, ctypes.byref(value)))
                found.append(int(value.value))
        return found

"""The virtual cable: the clean microphone for other programs. Its failures do not affect the headphone output.

The audio thread writes each hop to the jack first and then here, without waiting. Whatever may block
(opening, closing, retrying) is done by a thread of the cable's own; the open device passes between the two threads
through queues, so exactly one of them owns it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum

from edge import HOP_MS
from edge.devices.cards import clock_of
from edge.devices.pcm import DeviceError, Event
from edge.devices.playback import Playback
from edge.dsp.spectrum import Floats
from edge.realtime import request_realtime_priority

RETRY_S = 2.0
"""Interval of retries while the cable is missing or busy."""
REST_S = 30.0
"""How long the cable is not used after it delayed the audio path."""
END_S = 0.5
SLOW_US = 1000 * HOP_MS / 2
"""A write does not wait, but it calls into a driver; longer than this delays the audio path."""
STRAIN_LIMIT = 10.0
STRAIN_KEPT = 0.99
"""About ten slow writes within half a second: the cable is released for ``REST_S``."""


class CableState(Enum):
    """What the cable is doing; the journal and the status show it."""

    OFF = "off"
    WAITING = "waiting"
    """Missing, busy or released; retried automatically."""
    UNREAD = "unread"
    """Open, and no program reads it."""
    PLAYING = "playing"


class Cable:
    """A second ``Playback`` whose failures stay its own."""

    def __init__(self, output: Playback | None, log: Callable[[str, str], None], *, priority: int = 0) -> None:
        """``output`` is the cable's device, None for no cable; ``log`` takes the kind of an event and a sentence, from
        any thread. ``priority`` is the audio thread's: opening a device holds the interpreter's lock, so that
        thread must not be preempted meanwhile.
        """
        self.output = output
        self.failures = 0
        """How often the cable could not be opened or was lost."""
        self._log = log
        self._priority = priority
        self._microphone_clock = ""
        self._last_logged = ""
        self._wanted = False
        self._strain = 0.0
        self._rest_until_s = 0.0
        self._unread_logged = False
        self._announced = False
        self._live: Playback | None = None
        """Owned by the audio thread."""
        self._opened: deque[Playback] = deque()
        """Queued for the audio thread."""
        self._returned: deque[Playback] = deque()
        """Returned, to be closed."""
        self._order = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> CableState:
        live = self._live
        if self.output is None:
            return CableState.OFF
        if live is None:
            return CableState.WAITING
        return CableState.UNREAD if live.unread else CableState.PLAYING

    @property
    def xruns(self) -> int:
        return self.output.xruns if self.output else 0

    @property
    def dropped(self) -> int:
        """Hops that found the cable full, though somebody reads it."""
        return self.output.dropped if self.output else 0

    @property
    def queue_ms(self) -> float:
        live = self._live
        return live.queue_ms if live else 0.0

    @property
    def drift_ppm(self) -> float:
        """How much faster the cable's clock runs than the microphone's."""
        return self.output.drift_ppm if self.output else 0.0

    # The audio thread.

    def open(self, microphone_clock: str) -> None:
        """Start opening the device; returns at once."""
        if self.output is None:
            return
        self._microphone_clock = microphone_clock
        self._wanted = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="cable", daemon=True)
            self._thread.start()
        self._order.set()

    def close(self) -> None:
        """Release the device; returns at once."""
        self._wanted = False
        self._give_back()
        self._order.set()

    def end(self) -> None:
        """Close for good, and wait a little for the device to be free again; harmless twice."""
        self._ending = True
        self.close()
        if self._thread is not None:
            self._thread.join(END_S)

    def write(self, hop: Floats) -> None:
        """Hand on 80 samples if the cable is open; never waits for it, never raises, leaves ``hop`` as it is."""
        live = self._live
        if live is None:
            if not self._opened:
                return
            live = self._live = self._picked_up()
            if live is None:
                return
        began_ns = time.perf_counter_ns()
        met = live.write(hop)
        slow = time.perf_counter_ns() - began_ns > 1000 * SLOW_US
        self._strain = self._strain * STRAIN_KEPT + slow
        if met >= Event.STALLED:
            self._lose(f"the cable is gone ({live.error})")
        elif self._strain > STRAIN_LIMIT:
            self._rest_until_s = time.monotonic() + REST_S
            self._lose(f"the virtual cable delays the audio path; it is not used for {REST_S:.0f} s")
        elif live.unread and not self._unread_logged:
            self._unread_logged = True
            self._log("cable", "no program reads the cable")
        if not self._announced and live.frames_written:
            self._announced, self._last_logged = True, ""
            self._log("cable", f"cable {live.granted}")

    def _picked_up(self) -> Playback | None:
        self._strain = 0.0
        try:
            return self._opened.popleft()
        except IndexError:  # the cable's thread has just taken it back
            return None

    def _give_back(self) -> None:
        if self._live is not None:
            self._returned.append(self._live)
            self._live = None

    def _lose(self, sentence: str) -> None:
        self._complain(f"{sentence}; everything else goes on")
        self._give_back()
        self._order.set()

    # The cable's own thread.

    def _serve(self) -> None:
        request_realtime_priority(self._priority)
        held = self.output
        while not self._ending or held is None:
            missing = self._wanted and held is not None
            self._order.wait(max(RETRY_S, self._rest_until_s - time.monotonic()) if missing else None)
            self._order.clear()
            if held is None:
                held = self._taken_back()
            if held is not None and self._wanted and not self._ending and time.monotonic() >= self._rest_until_s:
                held = self._try_to_open(held)

    def _taken_back(self) -> Playback | None:
        """The device, closed, if the audio thread returned it or no longer wants it."""
        device = None
        if self._returned:
            device = self._returned.popleft()
        elif not self._wanted and self._opened:
            try:
                device = self._opened.popleft()
            except IndexError:  # the audio thread has just picked it up, and gives it back
                return None
        if device is not None:
            device.close()
        return device

    def _try_to_open(self, device: Playback) -> Playback | None:
        """None once it is queued for the audio thread."""
        try:
            device.same_clock = clock_of(device.device, "playback") == self._microphone_clock
            device.open()
        except DeviceError as error:
            self._complain(f"no cable: {error}")
            return device
        except Exception as fault:
            self._complain(f"no cable: unexpected fault, please report it ({type(fault).__name__}: {fault})")
            return device
        self._unread_logged = self._announced = False  # it is announced once it has taken a hop
        self._opened.append(device)
        if not self._wanted:
            self._order.set()
        return None

    def _complain(self, sentence: str) -> None:
        """Log each failure once, not at every retry."""
        self.failures += 1
        if sentence != self._last_logged:
            self._last_logged = sentence
            self._log("cable", sentence.splitlines()[0])

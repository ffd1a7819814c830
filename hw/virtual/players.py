"""Threads that play to a virtual microphone and record a virtual output (``hw.virtual.rigs`` starts them)."""

import fcntl
import itertools
import os
import select
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
ATOMIC_BYTES = 4096
"""PIPE_BUF: a write of so much or less goes into a FIFO whole, so no read ends within a frame or a hop."""
PEER_PERIODS = 32
"""Whoever plays and records around the box has a long buffer: what is tested is the box."""


class Helper(threading.Thread):
    """A thread that can be stopped, and whose failure is not lost."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ending = threading.Event()
        self.done = threading.Event()
        """Set when everything was played or recorded."""
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:
            self.error = error
        finally:
            self.done.set()

    def work(self) -> None:
        raise AssertionError("a helper plays or records")

    def stop(self) -> None:
        self.ending.set()
        self.join(5)


class Feeder(Helper):
    """Writes samples into a FIFO."""

    def __init__(self, pipe: int, samples: NDArray[Any], rate_hz: int, paced: bool) -> None:
        super().__init__()
        self._pipe, self._rate_hz, self._paced = pipe, rate_hz, paced
        if paced:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, ATOMIC_BYTES)
        self._frame_bytes = samples.itemsize * (samples.shape[1] if samples.ndim == 2 else 1)
        self._data = memoryview(samples.tobytes())
        # A hop of 5 ms many times over: reads of whole hops then never meet a torn one.
        hop_bytes = self._frame_bytes * max(1, rate_hz // 200)
        self._chunk = hop_bytes * (1 if paced else max(1, ATOMIC_BYTES // hop_bytes))

    def work(self) -> None:
        try:
            began_s, sent = time.monotonic(), 0
            for start in itertools.count(0, self._chunk):
                part = self._data[start : start + self._chunk]
                if not part:
                    self.done.set()
                    part = memoryview(bytes(self._chunk))
                if self.ending.is_set() or not self._write(part):
                    return
                sent += len(part) // self._frame_bytes
                if self._paced:
                    self.ending.wait(max(0.0, began_s + sent / self._rate_hz - time.monotonic()))
        finally:
            os.close(self._pipe)

    def _write(self, part: memoryview) -> bool:
        """True once written; False if we are to end."""
        while part:
            select.select([], [self._pipe], [], 0.1)
            if self.ending.is_set():
                return False
            try:
                part = part[os.write(self._pipe, part) :]
            except BlockingIOError:
                continue
        return True


class PacedHelper(Helper):
    """A blocking ALSA device in a thread; ``ready`` once it is open (or has failed)."""

    def __init__(self, device: str, rate_hz: int, period: int) -> None:
        super().__init__()
        self.ready = threading.Event()
        self.xruns = 0
        self._device, self._rate_hz, self._period = device, rate_hz, period

    def run(self) -> None:
        super().run()
        self.ready.set()

    def _open(self, capture: bool) -> Any:
        import alsaaudio

        pcm = alsaaudio.PCM(
            type=alsaaudio.PCM_CAPTURE if capture else alsaaudio.PCM_PLAYBACK,
            device=self._device,
            rate=self._rate_hz,
            channels=1,
            format=alsaaudio.PCM_FORMAT_S16_LE,
            periodsize=self._period,
            periods=PEER_PERIODS,
        )
        self.ready.set()
        return pcm


class Player(PacedHelper):
    """Plays samples, then silence until stopped, so that the microphone never runs dry."""

    def __init__(self, device: str, rate_hz: int, period: int, samples: Samples) -> None:
        super().__init__(device, rate_hz, period)
        self._samples = np.ascontiguousarray(samples, np.int16)

    def work(self) -> None:
        pcm = self._open(capture=False)
        block = self._period * PEER_PERIODS // 2
        for start in itertools.count(0, block):
            part = np.zeros(block, np.int16)
            rest = self._samples[start : start + block]
            part[: len(rest)] = rest
            if len(rest) == 0:
                self.done.set()
            if self.ending.is_set():
                break
            while pcm.write(part.tobytes()) < 0:
                self.xruns += 1
        pcm.drop()
        pcm.close()


class Recorder(PacedHelper):
    """Records a given time, or until stopped."""

    def __init__(self, device: str, rate_hz: int, period: int, seconds: float) -> None:
        super().__init__(device, rate_hz, period)
        self._frames = round(seconds * rate_hz)
        self._parts: list[bytes] = []

    @property
    def samples(self) -> Samples:
        """int16 mono, what came so far."""
        return np.frombuffer(b"".join(self._parts), np.int16)[: self._frames]

    def work(self) -> None:
        pcm = self._open(capture=True)
        got = 0
        while got < self._frames and not self.ending.is_set():
            frames, data = pcm.read()
            if frames < 0:
                self.xruns += 1
                continue
            self._parts.append(data)
            got += frames
        pcm.close()

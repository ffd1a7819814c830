"""Sample formats: a device's interleaved bytes to mono float32 (``Decoder``) and back (``Encoder``)."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.dsp.spectrum import Floats

SAMPLE_BYTES = {"S16_LE": 2, "S24_LE": 4, "S24_3LE": 3, "S32_LE": 4}
"""ALSA's names of the formats we read and write, and what one sample takes: S24_LE is the low 24 bits of a word."""


class BadSampleFormat(ValueError):
    """The device's format is not one of ``SAMPLE_BYTES``, or it has no such channel."""


def _check(sample_format: str, channels: int) -> None:
    if sample_format not in SAMPLE_BYTES:
        raise BadSampleFormat(f"sample format {sample_format!r} is not one of {', '.join(SAMPLE_BYTES)}")
    if channels < 1:
        raise BadSampleFormat(f"a device with {channels} channels delivers no sound")


class Decoder:
    """Interleaved device bytes -> float32 mono, +-1.0, at the device's rate.

    ``channel`` counts from 0; None takes the mean of all. ``gain_db`` is the microphone's fixed gain; what it pushes
    beyond +-1.0 is limited there. ``clips`` counts samples that reached full scale before or after the gain (before
    the mean is taken, so a clipping microphone cannot hide behind a quiet one). At 0 dB a 16-bit sample decoded here
    and encoded by ``Encoder`` has the same bits again.
    """

    def __init__(
        self, sample_format: str, channels: int, channel: int | None, max_frames: int, gain_db: float = 0.0
    ) -> None:
        _check(sample_format, channels)
        if channel is not None and not 0 <= channel < channels:
            raise BadSampleFormat(f"channel {channel} of a device whose channels are 0 to {channels - 1}")
        self.clips = 0
        self.frame_bytes = SAMPLE_BYTES[sample_format] * channels
        self._format = sample_format
        self._channels = channels
        self._max_frames = max_frames
        self._chosen = slice(None) if channel is None else slice(channel, channel + 1)
        decoded = channels if channel is None else 1
        gain = 10 ** (gain_db / 20)
        full_scale = 2.0**15 if sample_format == "S16_LE" else 2.0**31
        self._scale = np.float32(gain / full_scale)
        # 24-bit microphones in 32-bit words stop short of the word's end: one 16-bit step below it is full scale.
        self._clip_level = np.float32(min(1.0, gain * (1 - 2.0**-15)))
        self._words = np.zeros((max_frames, decoded), np.int32)
        self._word_bytes = self._words.view(np.uint8).reshape(max_frames, decoded, 4)
        self._samples = np.zeros((max_frames, decoded), np.float32)
        self._level = np.zeros((max_frames, decoded), np.float32)
        self._clipped = np.zeros((max_frames, decoded), np.bool_)
        self._mono = np.zeros(max_frames, np.float32)

    def decode(self, raw: bytes | bytearray | memoryview) -> Floats:
        """Whole frames of ``raw`` (bytes, at most ``max_frames``; a torn last frame is dropped) -> float32 view, valid
        until the next call.
        """
        samples = self.decode_all(raw)
        if samples.shape[1] == 1:
            return samples[:, 0]
        return np.mean(samples, axis=1, out=self._mono[: len(samples)])

    def decode_all(self, raw: bytes | bytearray | memoryview) -> Floats:
        """As ``decode``, without the mean: (frames, channels), or (frames, 1) of a chosen channel."""
        frames = len(raw) // self.frame_bytes
        assert frames <= self._max_frames
        samples = self._samples[:frames]
        np.multiply(self._integers(raw, frames), self._scale, out=samples, casting="same_kind", dtype=np.float32)
        self._limit(samples, frames)
        return samples

    def _integers(self, raw: bytes | bytearray | memoryview, frames: int) -> NDArray[Any]:
        """(frames, chosen channels), integers; everything wider than 16 bits left-aligned in 32."""
        count = frames * self._channels
        words = self._words[:frames]
        if self._format == "S16_LE":
            return np.frombuffer(raw, "<i2", count).reshape(frames, self._channels)[:, self._chosen]
        if self._format == "S24_3LE":
            packed = np.frombuffer(raw, np.uint8, 3 * count).reshape(frames, self._channels, 3)
            self._word_bytes[:frames, :, 1:] = packed[:, self._chosen]
            return words
        whole = np.frombuffer(raw, "<i4", count).reshape(frames, self._channels)[:, self._chosen]
        if self._format == "S32_LE":
            return whole
        return np.left_shift(whole, 8, out=words)  # the top byte may be a sign or rubbish; the shift drops it

    def _limit(self, samples: Floats, frames: int) -> None:
        clipped = self._clipped[:frames]
        np.abs(samples, out=self._level[:frames])
        np.greater_equal(self._level[:frames], self._clip_level, out=clipped)
        clips = int(np.count_nonzero(clipped))
        if clips:
            self.clips += clips
            np.clip(samples, -1.0, 1.0, out=samples)


class Encoder:
    """float32 mono, +-1.0 -> interleaved device bytes, the same sample in every channel, or in two of them.

    ``pair`` is the first of these two, from 1; the other channels stay silent. 0 means all.

    Rounds to the nearest step, saturates beyond full scale (Inf too), writes NaN as silence. No step above
    ``peak_dbfs`` is written: where the nearest one would be, it is the one below.
    """

    def __init__(
        self, sample_format: str, channels: int, max_frames: int, peak_dbfs: float = 0.0, pair: int = 0
    ) -> None:
        _check(sample_format, channels)
        if not 0 <= pair <= channels:
            raise BadSampleFormat(f"channel {pair} of a device whose channels are 1 to {channels}")
        self.frame_bytes = SAMPLE_BYTES[sample_format] * channels
        bits = {"S16_LE": 16, "S32_LE": 32}.get(sample_format, 24)
        self._max_frames = max_frames
        self._full_scale = 2.0 ** (bits - 1)
        self.set_peak(peak_dbfs)
        self._scaled = np.zeros(max_frames, np.float64)  # float32 has no 2^31 - 1
        self._nan = np.zeros(max_frames, np.bool_)
        self._words = np.zeros((max_frames, 1), np.int32)
        self._packed: NDArray[Any]
        self._source: NDArray[Any] = self._words
        if sample_format == "S24_3LE":
            self._source = self._words.view(np.uint8).reshape(max_frames, 1, 4)[:, :, :3]
            self._packed = np.zeros((max_frames, channels, 3), np.uint8)
        else:
            self._packed = np.zeros((max_frames, channels), "<i2" if bits == 16 else "<i4")
        self._used = self._packed[:, pair - 1 : pair + 1] if pair else self._packed
        self._bytes = memoryview(self._packed.reshape(-1).view(np.uint8).data)

    def set_peak(self, peak_dbfs: float) -> None:
        """From the next call on; at most 0 dBFS."""
        steps = math.floor(self._full_scale * 10 ** (peak_dbfs / 20))
        self._lowest, self._highest = -steps, min(steps, self._full_scale - 1)

    def encode(self, samples: Floats) -> memoryview:
        """float32, at most ``max_frames`` -> bytes, a view valid until the next call."""
        frames = len(samples)
        assert frames <= self._max_frames
        scaled, nan = self._scaled[:frames], self._nan[:frames]
        np.multiply(samples, self._full_scale, out=scaled, dtype=np.float64)
        np.isnan(scaled, out=nan)
        np.copyto(scaled, 0.0, where=nan)
        np.rint(scaled, out=scaled)
        np.clip(scaled, self._lowest, self._highest, out=scaled)
        np.copyto(self._words[:frames, 0], scaled, casting="unsafe")
        np.copyto(self._used[:frames], self._source[:frames], casting="unsafe")
        return self._bytes[: frames * self.frame_bytes]

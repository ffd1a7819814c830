"""Mask networks on whole windows: any ONNX graph from a log-magnitude spectrogram to a mask of its shape.

U-Net denoisers work so: 200 ms of sound become a picture of ``frames`` spectra, the network returns a gain 0..1 for
every bin of every frame, and the window moves on by a part of itself. A frame lies in several windows; its gains are
the mean over them, which is the same as overlapping the windows' sounds, and with a mask of ones leaves nothing
but the delay.

A frame must wait for the windows that count, so the latency is that of the whole window, and one step more: the network
runs in a thread of its own while the next step's sound comes in, so that no hop ever lasts as long as a window takes to
compute. With 200 ms windows that move by 20 ms: 220 ms. ``wait_frames`` trades windows for latency.
"""

import dataclasses
import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edge import RATE_HZ
from edge.config import WindowConfig
from edge.dsp.spectrum import Floats, Spectra
from edge.suppress.foreign.assets import open_session
from edge.suppress.foreign.core import Core
from edge.suppress.shipped import FOLDER, MAJOR_VERSION, PACKAGED, BadModel, Model

OURS = "quietbox-window"
"""What our own files call themselves in their metadata."""
LEAST_OVERLAP = 0.1
"""Squares of the tapers that lie over one sample must sum to at least this share of the most: else no inverse."""
TOLERANCE = 1e-3
"""By how much a mask may leave 0..1; more is no mask."""
LARGEST = 4096
"""Frames or frequency bins beyond this are a mistake, and a window of seconds."""


# --- what a window is ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geometry:
    """What a window network sees; our own files carry it in their metadata. Sizes are in samples at 16 kHz."""

    fft_samples: int = 480
    hop_samples: int = 160
    frames: int = 18
    """Frames in a window: 480 + 17 x 160 samples = 200 ms."""
    step_frames: int = 2
    """By how much one window lies behind the one before, 20 ms."""
    taper: str = "sqrt-hann"
    logarithm: str = "log10"
    log_floor: float = 1e-3
    """Added to a magnitude before its logarithm; of the plain sum over a frame, so that hiss at -80 dBFS has 1.5e-3."""

    @property
    def bins(self) -> int:
        return self.fft_samples // 2 + 1

    @property
    def window_samples(self) -> int:
        return self.fft_samples + (self.frames - 1) * self.hop_samples

    @property
    def step_samples(self) -> int:
        return self.step_frames * self.hop_samples

    def check(self) -> None:
        """Raises ValueError for what is no geometry, or one without an inverse."""
        if self.taper not in TAPERS or self.logarithm not in LOGARITHMS or not 0 < self.log_floor < math.inf:
            raise ValueError(f"unknown taper, logarithm or floor: {self.taper}, {self.logarithm}, {self.log_floor:g}")
        if self.fft_samples % 2 or not 16 <= self.fft_samples <= 2 * LARGEST:
            raise ValueError(f"a frame of {self.fft_samples} samples; expected an even number from 16 to {2 * LARGEST}")
        if not 1 <= self.step_frames <= self.frames <= LARGEST:
            raise ValueError(f"windows of {self.frames} frames that move by {self.step_frames}")
        overlap = _overlap(self) if 1 <= self.hop_samples <= self.fft_samples else np.zeros(1)
        if overlap.min() < LEAST_OVERLAP * max(overlap.max(), 1e-9):
            raise ValueError(f"frames of {self.fft_samples} samples every {self.hop_samples} do not overlap enough")


TAPERS: dict[str, tuple[float, float, float]] = {
    "sqrt-hann": (0.5, 0.5, 0.5),
    "hann": (0.5, 0.5, 1.0),
    "hamming": (0.54, 0.46, 1.0),
}
"""(a - b cos)^power over one period."""
LOGARITHMS = {"ln": 1.0, "log10": 1 / math.log(10), "db": 20 / math.log(10)}
"""As a multiple of the natural one."""


def analysis_taper(geometry: Geometry) -> Floats:
    """float32, fft_samples: the periodic window that frames are weighed with, 0..1."""
    a, b, power = TAPERS[geometry.taper]
    turn = 2 * np.pi * np.arange(geometry.fft_samples) / geometry.fft_samples
    return ((a - b * np.cos(turn)) ** power).astype(np.float32)


def synthesis_taper(geometry: Geometry) -> Floats:
    """float32, fft_samples: analysis / (sum of its squares over all hops), so that their product overlaps to one.

    The least-squares inverse of a short-time transform (Griffin & Lim 1984).
    """
    return (analysis_taper(geometry) / _overlap(geometry)).astype(np.float32)


def _overlap(geometry: Geometry) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64, fft_samples: the sum of squared tapers over every sample of a frame."""
    size, hop = geometry.fft_samples, geometry.hop_samples
    squares = np.zeros(-(-size // hop) * hop)
    squares[:size] = analysis_taper(geometry).astype(np.float64) ** 2
    return np.resize(squares.reshape(-1, hop).sum(axis=0), size)


# --- the network ---------------------------------------------------------------------------------------------------


class WindowNetwork:
    """An ONNX graph on one thread and on buffers bound once: ``seen`` in, ``mask`` out."""

    def __init__(self, file: Path, settings: WindowConfig) -> None:
        """``settings``: the geometry of a file that is not ours. Raises BadModel, with what was wanted."""
        self.file = file
        self._session = open_session(file)
        stored = geometry_in(file, self._session.get_modelmeta().custom_metadata_map)
        self.geometry = stored or geometry_of(settings)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        kinds = ", ".join(f"{value.name} {value.type} {value.shape}" for value in (*inputs, *outputs))[:200]
        if len(inputs) != 1 or len(outputs) != 1 or any(v.type != "tensor(float)" for v in (*inputs, *outputs)):
            raise BadModel(f"{file} has other inputs and outputs than a mask network, one each of float32: {kinds}")
        self.bins = self._bins_of(inputs[0].shape)
        """One less than a spectrum has where the graph leaves out 8 kHz, to have a power of two."""
        shape = (1, 1, self.bins, self.geometry.frames)
        returned = self._tried(inputs[0].name, shape)
        self._seen, self._output = np.zeros(shape, np.float32), np.zeros(returned, np.float32)
        self.mask: Floats = self._output.reshape(self.bins, -1)
        """float32 (bins, frames) or (bins, 1): gains as the network returns them, or the last frame's alone."""
        self.seen: Floats = self._seen[0, 0]
        """float32 (bins, frames): log magnitudes, oldest frame first."""
        self._binding = self._session.io_binding()
        self._binding.bind_input(inputs[0].name, "cpu", 0, np.float32, shape, self._seen.ctypes.data)
        self._binding.bind_output(outputs[0].name, "cpu", 0, np.float32, returned, self._output.ctypes.data)

    def run(self) -> None:
        """``mask`` becomes the network's output for ``seen``."""
        self._session.run_with_iobinding(self._binding)

    def _bins_of(self, shape: list[Any]) -> int:
        """How many bins the graph takes, if its input fits the geometry; sizes left free do."""
        fixed = [size if isinstance(size, int) and size > 0 else 0 for size in shape]
        if len(shape) != 4 or fixed[0] > 1 or fixed[1] > 1:
            raise BadModel(f"{self.file} has an input of shape {shape}; expected [1, 1, bins, frames]")
        geometry = self.geometry
        bins, frames = fixed[2] or geometry.bins, fixed[3] or geometry.frames
        if bins not in (geometry.bins, geometry.bins - 1) or frames != geometry.frames:
            meant = dataclasses.replace(geometry, frames=frames, fft_samples=2 * (bins - bins % 2))
            raise BadModel(
                f"{self.file} has an input of {bins} bins x {frames} frames, its settings make {geometry.bins} x"
                f" {geometry.frames}; with a hop of {geometry.hop_samples} samples [window] fft_samples ="
                f" {meant.fft_samples} and window_ms = {1000 * meant.window_samples / RATE_HZ:g} would fit"
            )
        return bins

    def _tried(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the output, once it has shown on silence, faint and loud noise that it is a mask."""
        draw = np.random.default_rng(1)
        floor, scale = self.geometry.log_floor, LOGARITHMS[self.geometry.logarithm]
        output_shape: tuple[int, ...] = ()
        for loudness in (0.0, 0.1, 10.0):
            seen = scale * np.log(np.abs(draw.normal(0, loudness, shape)) + floor)
            try:
                mask = self._session.run(None, {name: seen.astype(np.float32)})[0]
            except Exception as error:  # a class of its own for every kind of fault
                why = " ".join(str(error).split())[-120:]
                raise BadModel(f"{self.file} rejects an input of shape {list(shape)} ({why})") from None
            output_shape = tuple(mask.shape)
            flat = tuple(size for size in output_shape if size != 1)
            if flat not in (tuple(size for size in shape if size != 1), shape[2:3]):
                raise BadModel(
                    f"{self.file} returns {list(output_shape)} for {list(shape)}; expected a mask of the same shape,"
                    f" or the last frame's, {[1, 1, shape[2], 1]}"
                )
            low, high = float(mask.min()), float(mask.max())
            if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):  # also what is no number
                raise BadModel(f"{self.file} returns values from {low:.3g} to {high:.3g}; a mask lies in 0 to 1")
        return output_shape


def geometry_of(settings: WindowConfig) -> Geometry:
    """What the settings say; raises BadModel for what has no inverse."""
    window_samples = round(settings.window_ms * RATE_HZ / 1000)
    geometry = Geometry(
        settings.fft_samples,
        settings.hop_samples,
        1 + max(0, window_samples - settings.fft_samples) // settings.hop_samples,
        settings.step_frames,
        settings.taper,
        settings.logarithm,
        settings.log_floor,
    )
    return _checked("the settings in [window] make", geometry)


def geometry_in(file: Path, about: Mapping[str, str]) -> Geometry | None:
    """The geometry in the metadata of one of our own files, None for anybody else's; raises BadModel."""
    if about.get("name") != OURS:
        return None
    try:
        major, rate_hz = int(about["version"].split(".")[0]), int(about["sample_rate_hz"])
        fields = {field.name: type(field.default) for field in dataclasses.fields(Geometry)}
        geometry = Geometry(**{name: kind(about[name]) for name, kind in fields.items()})  # type: ignore[misc]
    except (KeyError, ValueError) as error:
        raise BadModel(f"{file} has invalid metadata: {error}") from None
    if major != MAJOR_VERSION or rate_hz != RATE_HZ:
        raise BadModel(
            f"{file} is of version {about['version']} and {rate_hz} Hz; expected {MAJOR_VERSION}.x, {RATE_HZ} Hz"
        )
    return _checked(f"{file} says", geometry)


def _checked(who: str, geometry: Geometry) -> Geometry:
    try:
        geometry.check()
    except ValueError as error:
        raise BadModel(f"{who} {error}") from None
    return geometry


# --- the engine ----------------------------------------------------------------------------------------------------


class WindowCore(Core):
    """``engine = "window"``: a step of sound in place, ``step_frames`` hops of the network's own transform."""

    name = "window"
    rate_hz = RATE_HZ

    def __init__(self, network: WindowNetwork, settings: WindowConfig) -> None:
        """Raises BadModel for a ``wait_frames`` that the window has not."""
        self.network = network
        geometry = network.geometry
        if network.mask.shape[1] == 1:  # the last frame's gains are all there is: every frame is asked for
            geometry = dataclasses.replace(geometry, step_frames=1)
        self.geometry = geometry
        size, hop, step, bins = geometry.fft_samples, geometry.hop_samples, geometry.step_frames, geometry.bins
        longest = geometry.frames - step if network.mask.shape[1] > 1 else 0
        wait = longest if settings.wait_frames == "all" else int(settings.wait_frames)
        if wait > longest:
            raise BadModel(
                f"[window] wait_frames = {wait}: in {network.file.name} a frame can wait for at most {longest}"
            )
        self.block_samples = step * hop
        self.delay_samples = size + (step + wait - 1) * hop
        """A step is worked on while the next comes in; with that block the latency is the window's and one step."""
        self._first = geometry.frames - step - wait if longest else 0
        self._floor = np.float32(10 ** (-settings.floor_db / 20))
        self._log_floor, self._scale = np.float32(geometry.log_floor), np.float32(LOGARITHMS[geometry.logarithm])
        self._silence = self._scale * np.log(self._log_floor)

        self._analysis = analysis_taper(geometry) * np.float32(10 ** (settings.input_gain_db / 20))
        self._synthesis = synthesis_taper(geometry) * np.float32(10 ** (settings.output_gain_db / 20))
        self._history = np.zeros(size + (step - 1) * hop, np.float32)
        self._parts = sliding_window_view(self._history, size)[::hop]
        self._frames = np.zeros((step, size), np.float32)
        self._fresh: Spectra = np.zeros((step, bins), np.complex64)
        self._sizes = np.zeros((step, bins), np.float32)
        self._spectra: Spectra = np.zeros((step + wait, bins), np.complex64)  # what still waits for its gains
        self._sums = np.zeros((step + wait, bins), np.float32)  # of the gains returned so far, aligned with it
        seen_by = [(wait + step - 1 - place) // step + 1 for place in range(step)]
        self._share = (1 / np.array(seen_by, np.float32))[:, np.newaxis]
        self._gains = np.zeros((step, bins), np.float32)
        self._overlap = np.zeros_like(self._history)

        self._thread = ThreadPoolExecutor(1, "window")
        self._running: Future[None] | None = None
        self.reset()

    def process(self, block: Floats) -> None:
        """float32, one step of samples, in place; raises what ONNX Runtime raised in the thread."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
        self._apply_gains()
        self._analyse(block)
        self._synthesise(block)
        self._running = self._thread.submit(self.network.run)

    def reset(self) -> None:
        """Forget the signal."""
        if self._running is not None:
            self._running.exception()
            self._running = None
        for buffer in (self._history, self._spectra, self._sums, self._overlap, self.network.mask):
            buffer.fill(0)
        self.network.seen.fill(self._silence)

    def _apply_gains(self) -> None:
        """The last window's gains join the others'; the oldest step of spectra has all of its own and is overlapped."""
        sums, mask, step = self._sums, self.network.mask, len(self._fresh)
        np.clip(mask, self._floor, 1, out=mask)
        if len(sums) > step:
            sums[:-step] = sums[step:]
        sums[-step:] = 0
        known = self.network.bins
        sums[:, :known] += mask.T[self._first :]
        sums[:, known:] += mask[-1, self._first :, np.newaxis]
        np.multiply(sums[:step], self._share, out=self._gains)
        weighed, overlap, hop = self._spectra[:step], self._overlap, self.geometry.hop_samples
        np.multiply(weighed, self._gains, out=weighed)
        np.fft.irfft(weighed, n=self.geometry.fft_samples, out=self._frames)  # type: ignore[arg-type]
        np.multiply(self._frames, self._synthesis, out=self._frames)
        for place, frame in enumerate(self._frames):
            overlap[place * hop : place * hop + len(frame)] += frame

    def _analyse(self, block: Floats) -> None:
        """The frames that end in ``block`` join the picture and the spectra that wait."""
        step = len(self._fresh)
        history, seen, spectra = self._history, self.network.seen, self._spectra
        if len(history) > len(block):
            history[: -len(block)] = history[len(block) :]
        history[-len(block) :] = block
        np.multiply(self._parts, self._analysis, out=self._frames)
        np.fft.rfft(self._frames, out=self._fresh)  # type: ignore[arg-type]  # numpy's stubs know only doubles
        np.abs(self._fresh, out=self._sizes)
        np.add(self._sizes, self._log_floor, out=self._sizes)
        np.log(self._sizes, out=self._sizes)
        np.multiply(self._sizes, self._scale, out=self._sizes)
        if step < seen.shape[1]:
            seen[:, :-step] = seen[:, step:]
        seen[:, -step:] = self._sizes[:, : len(seen)].T
        if len(spectra) > step:
            spectra[:-step] = spectra[step:]
        spectra[-step:] = self._fresh

    def _synthesise(self, block: Floats) -> None:
        """``block`` becomes the step to which no later frame adds."""
        overlap = self._overlap
        block[:] = overlap[: len(block)]
        kept = len(overlap) - len(block)
        overlap[:kept] = overlap[len(block) :]
        overlap[kept:] = 0


def open_core(model: str, settings: WindowConfig | None = None) -> WindowCore:
    """``model``: "quietbox" is our own U-Net in models/unet, anything else an .onnx, or a folder like models/unet.

    ``settings``: the section [window] of the config; a file of ours says its geometry itself, and only waiting, floor
    and gains are taken from there. Raises BadModel.
    """
    settings = settings or WindowConfig()
    return WindowCore(WindowNetwork(files(model)[0], settings), settings)


def files(model: str) -> list[Path]:
    """The .onnx that ``model`` means; raises BadModel if its folder's card means another."""
    path = FOLDER / "unet" if model == PACKAGED else Path(model).absolute()
    if path.is_dir() or model == PACKAGED:
        folder = Model(str(path))
        folder.read(".onnx")
        path = folder.file(".onnx")
    return [path]

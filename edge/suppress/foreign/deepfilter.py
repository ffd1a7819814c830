"""DeepFilterNet3 (Schröter et al. 2023), 10 ms at a time at 48 kHz: its networks by ONNX Runtime, the rest in NumPy.

The published graphs keep no state: each call begins with empty memories. ``python -m quant.deepfilter`` makes the three
graphs that this file runs from the published ones, with every memory as an input and an output; the folder it writes
is the model. Nothing here needs the package ``onnx``.

A frame's path: 960-point spectrum -> features -> encoder -> 32 gains for all bins, a filter over five frames for the
lowest 96 -> overlap-add. Features and initial values are those of the owners' runtime, libdf, and the two give the
same sound (tests/suppress/test_deepfilter.py), except that here the decoders rest while nobody speaks.
"""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.dsp.spectrum import Floats, Spectra
from edge.suppress.foreign.assets import open_session
from edge.suppress.foreign.core import Core
from edge.suppress.shipped import PACKAGED, BadModel, Model

NAME = "deepfilternet3"
RATE_HZ = 48_000
HOP = 480
WINDOW = 2 * HOP
BINS = HOP + 1
BANDS, LEAST_BINS = 32, 2
FILTERED = 96
"""The lowest bins, up to 4.8 kHz, are filtered over time; the others only get a gain."""
TAPS = 5
AHEAD = 2
"""What leaves is the frame before the last two: the networks and the filter have looked at these as well."""

NORM_HOLD = np.float32(0.99)
"""exp(-10 ms / 1 s) to three digits, as the networks were trained."""
LEVELS_DB = (-60.0, -90.0)
"""The bands' mean levels to begin with, lowest and highest band, a straight line between."""
MAGNITUDES = (0.001, 0.0001)
"""The filtered bins' mean magnitudes to begin with, in the same way."""
SPREAD_DB = np.float32(40)
POWER_FLOOR = np.float32(1e-10)

SILENCE = 1e-10
"""Mean square, -100 dBFS, a 16-bit converter's rounding: after ``SILENT_FRAMES`` of less nothing is computed any more.
After minutes of zeros the mean magnitudes would be zero, too, and divide."""
SILENT_FRAMES = 5
NOISE_DB = -14.0
"""The encoder estimates every frame's local SNR, -15..35 dB; below this, nobody speaks in it."""
REST_FRAMES = 75
"""After 750 ms of noise alone the decoders rest and silence leaves. At once, as libdf can, would cost 0.2 PESQ: the
decoders' memories then miss what led to the next word. libdf's thresholds for speech that is clean enough to do with
less (20 and 30 dB) cost as much again; they are not used here."""
SPEECH_DB = 10.0
"""The local SNR from which on somebody speaks."""

Shapes = dict[str, tuple[int, ...]]
SEEN: Shapes = {
    "e0": (1, 64, 1, 32),
    "e1": (1, 64, 1, 16),
    "e2": (1, 64, 1, 8),
    "e3": (1, 64, 1, 8),
    "emb": (1, 1, 512),
    "c0": (1, 64, 1, FILTERED),
}
"""What the decoders read of the encoder."""
STAGES: Mapping[str, tuple[Shapes, Shapes, Shapes]] = {
    "enc": (
        {"feat_erb": (1, 1, 1, BANDS), "feat_spec": (1, 2, 1, FILTERED)},
        {**SEEN, "lsnr": (1, 1, 1)},
        {"past_feat_erb": (1, 1, 2, BANDS), "past_feat_spec": (1, 2, 2, FILTERED), "memory_1": (1, 1, 256)},
    ),
    "erb_dec": (
        {name: SEEN[name] for name in ("emb", "e3", "e2", "e1", "e0")},
        {"m": (1, 1, 1, BANDS)},
        {"memory_1": (1, 1, 256), "memory_2": (1, 1, 256)},
    ),
    "df_dec": (
        {name: SEEN[name] for name in ("emb", "c0")},
        {"coefs": (1, 1, FILTERED, 2 * TAPS)},
        {"past_c0": (1, 64, 4, FILTERED), "memory_1": (1, 1, 256), "memory_2": (1, 1, 256)},
    ),
}
"""The three graphs: inputs, outputs, and memories, each of which is an input and, as ``<name>_out``, an output."""


def places() -> list[Path]:
    """Where the model called ``quietbox`` is looked for, in this order: the machine's place, then the user's own."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [Path("/var/lib/quietbox", NAME), Path(cache, "quietbox", NAME)]


def files(model: str = PACKAGED) -> list[Path]:
    """The three graphs in ``model``, a folder that ``quant.deepfilter`` wrote, or in the first of ``places``.

    Raises BadModel. ``open_stages`` checks each graph against the folder's card.
    """
    make = f"python -m quant.deepfilter --out {places()[0]}"
    if model == PACKAGED:
        found = [place for place in places() if os.path.isdir(place)]
        if not found:
            raise BadModel(f"DeepFilterNet3 is neither in {' nor in '.join(map(str, places()))}; {make}")
        model = str(found[0])
    elif not os.path.isdir(model):
        raise BadModel(f"{model} is not a folder that quant.deepfilter wrote; {make}")
    folder = Model(model)
    if not os.path.isfile(folder.folder / "CARD.md"):
        raise folder.refused(folder.folder / "CARD.md", "is missing")
    return [folder.file(f".{stage}.onnx") for stage in STAGES]


class Stage:
    """One graph on bound buffers; its states alternate between two of each."""

    def __init__(self, session: Any, values: Mapping[str, Floats], shapes: tuple[Shapes, Shapes, Shapes]) -> None:
        """``values``: the buffers of all inputs and outputs but the memories; ``shapes``: one of ``STAGES``."""
        inputs, outputs, memories = shapes
        self._session = session
        self._values = values  # the bindings hold addresses only
        self._memories = [{name: np.zeros(shape, np.float32) for name, shape in memories.items()} for _ in range(2)]
        self._next = 0
        self._bindings = []
        for before, after in (self._memories, self._memories[::-1]):
            binding = session.io_binding()
            for name, x in [*((name, values[name]) for name in inputs), *before.items()]:
                binding.bind_input(name, "cpu", 0, np.float32, x.shape, x.ctypes.data)
            for name, x in [*((name, values[name]) for name in outputs), *((f"{n}_out", x) for n, x in after.items())]:
                binding.bind_output(name, "cpu", 0, np.float32, x.shape, x.ctypes.data)
            self._bindings.append(binding)

    def run(self) -> None:
        """One frame further."""
        self._session.run_with_iobinding(self._bindings[self._next])
        self._next = 1 - self._next

    def reset(self) -> None:
        for memory in self._memories[self._next].values():
            memory.fill(0)


def open_core(model: str = PACKAGED) -> "DeepFilter":
    """``model`` as in ``files``. Raises BadModel."""
    return DeepFilter(*open_stages(files(model)))


def open_stages(graphs: list[Path], kind: type[Stage] = Stage) -> tuple[list[Stage], dict[str, Floats]]:
    """The graphs in the order of ``STAGES``, and the buffers by which they are joined; raises BadModel,
    also where one is not what the card beside it names. Each is read once.
    """
    values: dict[str, Floats] = {}
    stages = []
    for file, (stage, shapes) in zip(graphs, STAGES.items(), strict=True):
        session = open_session(file, Model(str(file.parent.absolute())).read(f".{stage}.onnx"))
        inputs, outputs, memories = shapes
        wanted = (inputs | memories, outputs | {f"{name}_out": shape for name, shape in memories.items()})
        sides = (session.get_inputs(), session.get_outputs())
        found = tuple({value.name: tuple(value.shape) for value in side} for side in sides)
        if found != wanted or any(value.type != "tensor(float)" for side in sides for value in side):
            raise BadModel(f"{file} is not a streaming graph of DeepFilterNet3; make it with quant.deepfilter")
        for name, shape in (inputs | outputs).items():
            values.setdefault(name, np.zeros(shape, np.float32))
        stages.append(kind(session, values, shapes))
    return stages, values


def band_sizes() -> list[int]:
    """How many bins each of the 32 bands takes: equal steps in ERB numbers from 0 to 24 kHz, at least two bins.

    ERB number: 9.265 ln(1 + f / (24.7 x 9.265)) (Glasberg & Moore 1990). What a band takes beyond its share, the next
    ones give back.
    """
    top = math.log1p(RATE_HZ / 2 / (24.7 * 9.265))
    edges = [round(24.7 * 9.265 * math.expm1(top * band / BANDS) * WINDOW / RATE_HZ) for band in range(BANDS + 1)]
    sizes, owed = list[int](), 0
    for low, high in itertools.pairwise(edges):
        size = max(high - low - owed, LEAST_BINS)
        owed = size - (high - low - owed)
        sizes.append(size)
    sizes[-1] = BINS - sum(sizes[:-1])
    return sizes


def window() -> Floats:
    """float32, 960: Vorbis' power-complementary window, for analysis and synthesis."""
    return np.sin(np.pi / 2 * np.sin(np.pi * (np.arange(WINDOW) + 0.5) / WINDOW) ** 2).astype(np.float32)


def speech_probability(local_snr_db: float) -> float:
    """-15..35 dB -> 0..1; +10 dB gives 0.6, where ``[voice] on`` stands unless changed, and +5 dB 0.4, its ``off``."""
    return min(max(0.6 + 0.04 * (local_snr_db - SPEECH_DB), 0.0), 1.0)


class DeepFilter(Core):
    """480 samples in, the 480 samples that came in 1440 earlier out: two frames of look-ahead and the overlap."""

    name = NAME
    rate_hz = RATE_HZ
    block_samples = HOP

    def __init__(
        self,
        stages: Sequence[Stage],
        values: Mapping[str, Floats],
        rest_frames: float = REST_FRAMES,
        ahead: int = AHEAD,
    ) -> None:
        """``stages`` and ``values``: see ``open_stages``. ``rest_frames`` = inf lets the decoders never rest."""
        self._enc, self._erb_dec, self._df_dec = stages
        self._rest_frames = rest_frames
        self._ahead = ahead
        self.delay_samples = (ahead + 1) * HOP
        self.local_snr_db = -15.0
        """Of the frame that left last: speech over noise as the network estimates it, -15..35 dB."""
        self.resting = False
        """Whether that frame was made without the decoders."""
        self._levels_in = values["feat_erb"].reshape(BANDS)
        self._parts_in = values["feat_spec"].reshape(2, FILTERED)
        self._lsnr = values["lsnr"]
        self._gains = values["m"].reshape(BANDS)
        self._filter: Spectra = values["coefs"].reshape(FILTERED, 2 * TAPS).view(np.complex64)

        sizes = band_sizes()
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._shares: Floats = (1 / np.array(sizes)).astype(np.float32)
        self._band_of: NDArray[np.intp] = np.repeat(np.arange(BANDS), sizes)
        self._window = window()
        self._frame, self._windowed = np.zeros((2, WINDOW), np.float32)
        self._overlap = np.zeros(HOP, np.float32)
        self._spectra: Spectra = np.zeros((TAPS, BINS), np.complex64)
        self._clean: Spectra = np.zeros(BINS, np.complex64)
        self._power, self._bin_gains = np.zeros((2, BINS), np.float32)
        self._levels = np.zeros(BANDS, np.float32)
        self._magnitude, self._root = np.zeros((2, FILTERED), np.float32)
        self._mean_level = np.zeros(BANDS, np.float32)
        self._mean_magnitude = np.zeros(FILTERED, np.float32)
        self._silent = self._noise = 0
        self.reset()

    def reset(self) -> None:
        """As new."""
        for stage in (self._enc, self._erb_dec, self._df_dec):
            stage.reset()
        for past in (self._frame, self._overlap, self._spectra):
            past.fill(0)
        self._mean_level[:] = np.linspace(*LEVELS_DB, BANDS)
        self._mean_magnitude[:] = np.linspace(*MAGNITUDES, FILTERED)
        self._silent = self._noise = 0
        self.local_snr_db = -15.0
        self.resting = False

    def process(self, block: Floats) -> float:
        """float32, 480 samples, changed in place; returns the probability of speech in what leaves, 0..1."""
        self._silent = self._silent + 1 if np.dot(block, block) < SILENCE * HOP else 0
        if self._silent > SILENT_FRAMES:
            block.fill(0)
            self.local_snr_db, self.resting = -15.0, True
            return 0.0
        self._analyse(block)
        self._enc.run()
        local_snr_db = self.local_snr_db = self._lsnr.item()
        self._noise = self._noise + 1 if local_snr_db < NOISE_DB else 0
        self.resting = self._noise > self._rest_frames
        if self.resting:
            self._clean.fill(0)
        else:
            self._decode()
        self._synthesise(block)
        return speech_probability(local_snr_db)

    def _decode(self) -> None:
        """Gains for the frame that is due, and the filter over the five last ones for its lowest bins."""
        clean = self._clean
        self._erb_dec.run()
        np.take(self._gains, self._band_of, out=self._bin_gains, mode="clip")
        np.multiply(self._spectra[-1 - self._ahead], self._bin_gains, out=clean)
        self._df_dec.run()
        np.einsum("tf,ft->f", self._spectra[:, :FILTERED], self._filter, out=clean[:FILTERED])

    def _analyse(self, block: Floats) -> None:
        """The next spectrum, and what the encoder reads of it."""
        self._frame[:HOP] = self._frame[HOP:]
        self._frame[HOP:] = block
        np.multiply(self._frame, self._window, out=self._windowed)
        self._spectra[:-1] = self._spectra[1:]
        spectrum = self._spectra[-1]
        np.fft.rfft(self._windowed, norm="forward", out=spectrum)
        parts = spectrum.view(np.float32).reshape(BINS, 2)

        np.einsum("ij,ij->i", parts, parts, out=self._power)
        levels = self._levels
        np.add.reduceat(self._power, self._starts, out=levels)
        levels *= self._shares
        levels += POWER_FLOOR
        np.log10(levels, out=levels)
        levels *= np.float32(10)
        _follow(self._mean_level, levels, self._levels_in)
        np.subtract(levels, self._mean_level, out=levels)
        np.divide(levels, SPREAD_DB, out=self._levels_in)

        np.sqrt(self._power[:FILTERED], out=self._magnitude)
        _follow(self._mean_magnitude, self._magnitude, self._root)
        np.sqrt(self._mean_magnitude, out=self._root)
        np.divide(parts[:FILTERED].T, self._root, out=self._parts_in)

    def _synthesise(self, block: Floats) -> None:
        np.fft.irfft(self._clean, n=WINDOW, norm="forward", out=self._windowed)  # type: ignore[arg-type]
        self._windowed *= self._window
        np.add(self._windowed[:HOP], self._overlap, out=block)
        self._overlap[:] = self._windowed[HOP:]


def _follow(mean: Floats, value: Floats, scratch: Floats) -> None:
    """``mean`` moves by a hundredth of its distance towards ``value``."""
    mean *= NORM_HOLD
    np.multiply(value, 1 - NORM_HOLD, out=scratch)
    mean += scratch

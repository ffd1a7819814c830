"""The network by NumPy alone: one hop of models/network.py on the shipped int8 weights, in buffers made once.

Read ``NumpyNetwork.step`` beside ``Network.logits`` there: the same steps. Two things differ in form only. The gates
lie one after the other, [z | o | x'], and those of z and o are halved, since (1 + tanh(x / 2)) / 2 is the sigmoid of x:
one tanh serves all three. And the state lies where it is used, not in one flat vector.

The time depends on the number of NumPy's calls, not on the arithmetic, and a call on an array that is not contiguous
takes three times as long: hence biases as large as what they are added to.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import BANDS, SILENCE, Features, Floats, Spectra

LEVEL_KEEP = 0.99
"""Pole of the running level: a time constant of half a second."""
LEVEL_EPS = 1e-5
"""Keeps the running level finite while there was no signal."""
SLOWEST = -7.6
"""The gate z is at least sigmoid(-7.6) = 1/2000: a state decays over at most 2000 hops (10 s), so that no network can
learn to hold something for ever, and a long pause ends in the same state whatever was before."""

Weights = Mapping[str, NDArray[Any]]
MOST_UNITS = 1024
_LEAST_Z = np.array(1 / (1 + math.exp(-SLOWEST)), np.float32)
# arrays without a dimension: NumPy reads them faster than Python numbers
_HALF, _ZERO = np.array(0.5, np.float32), np.array(0, np.float32)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Everything that fixes the sizes of the weights; stored with them."""

    stride_bands: int = 4
    """Bands whose gains a frequency group computes; its input has half as many more on either side."""
    channels: int = 32
    """Width of each frequency group."""
    squeeze: int = 8
    """Channels that a group passes to the full-band layers."""
    hidden: int = 64
    """Units of a full-band recurrence."""
    rounds: int = 2
    """Pairs of a group recurrence and a full-band recurrence; one more group recurrence comes last."""
    past_hops: int = 2
    """Earlier hops in a patch beside the present one."""

    def check(self) -> None:
        """Raises ValueError for sizes that no network has."""
        sizes = dataclasses.astuple(self)
        valid = all(type(size) is int and 0 < size <= MOST_UNITS for size in sizes)
        if not valid or self.stride_bands % 2 or BANDS % self.stride_bands:
            raise ValueError(f"there is no network of this shape, {sizes}")

    @property
    def groups(self) -> int:
        return BANDS // self.stride_bands

    @property
    def flat(self) -> int:
        """Width of the full-band layers' input."""
        return self.groups * self.squeeze

    @property
    def state_sizes(self) -> list[int]:
        """Level, earlier features, group recurrences, full-band recurrences."""
        groups = [self.groups * self.channels] * (self.rounds + 1)
        return [2, self.past_hops * BANDS, *groups, *[self.hidden] * self.rounds]


class NumpyNetwork(Estimator):
    """The estimator of ``engine = "network"`` where ONNX Runtime does not work, and of ``engine = "rnn"``."""

    def __init__(self, name: str, shape: Shape, weights: Weights) -> None:
        """``weights``: as quant/quantize.py writes them; raises KeyError or ValueError if they do not fit ``shape``."""
        self.name = name
        stride, channels, groups = shape.stride_bands, shape.channels, shape.groups
        self._features = Features()
        self._silence = np.split(_sized(weights, "silence", sum(shape.state_sizes)), np.cumsum(shape.state_sizes)[:-1])
        self._level, self._active = 0.0, 0.0
        self._mean = np.full(BANDS, 1 / BANDS, np.float32)

        # Features of this hop (last) and those before, with half a stride of zeros on either side.
        hops = shape.past_hops + 1
        self._history = np.zeros((hops, BANDS + stride), np.float32)
        self._now = self._history[:, stride // 2 : -stride // 2]
        row, item = self._history.strides
        self._windows = as_strided(self._history, (groups, hops, 2 * stride), (stride * item, row, item))
        self._patches = np.zeros((groups, hops * 2 * stride), np.float32)
        self._patch = _Layer(weights, "patch", groups, hops * 2 * stride, channels)
        self._place = _sized(weights, "place", groups, channels)

        # The groups' channels, with a group of zeros on either side.
        self._around = np.zeros((groups + 2, channels), np.float32)
        self._x = self._around[1:-1]
        self._groups = [_GroupRecurrence(weights, f"groups.{index}", shape) for index in range(shape.rounds + 1)]
        self._full = [_FullBandRecurrence(weights, f"full.{index}", shape) for index in range(shape.rounds)]

        row, item = self._around.strides
        self._neighbours = as_strided(self._around, (groups, 3 * channels), (row, item))
        self._joined = np.zeros((groups, 3 * channels), np.float32)
        self._join = _Layer(weights, "join", groups, 3 * channels, channels)
        self._spread = _Layer(weights, "spread", groups, channels, stride)
        self._speech = _Layer(weights, "speech", 1, shape.hidden, 1)
        self.reset()

    def reset(self) -> None:
        """The state after a long digital silence."""
        level, earlier, *states = self._silence
        self._level, self._active = float(level[0]), float(level[1])
        self._now[1:] = earlier.reshape(-1, BANDS)
        held = [part.recurrence.state for part in self._groups] + [part.recurrence.state for part in self._full]
        for now, state in zip(held, states, strict=True):
            now.reshape(-1)[:] = state

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        """complex64[161] -> gains 0..1 in place in float32[64]; returns the probability of speech, 0..1."""
        return self.step(self._features.of(spectrum), gains)

    def step(self, features: Floats, gains: Floats) -> float:
        """float32[64] -> gains 0..1 in place in float32[64]; returns the probability of speech, 0..1."""
        self._push_features(features)
        np.copyto(self._patches.reshape(self._windows.shape), self._windows)
        x = self._x
        patch = self._patch.of(self._patches)
        np.maximum(patch, _ZERO, out=x)
        np.add(x, self._place, out=x)
        for index, group in enumerate(self._groups):
            group.process(x)
            if index < len(self._full):
                output = self._full[index].process(x)
        np.copyto(self._joined, self._neighbours)
        joined = self._join.of(self._joined)
        np.maximum(joined, _ZERO, out=joined)
        np.multiply(self._spread.of(joined).reshape(-1), _HALF, out=gains)
        np.tanh(gains, out=gains)
        np.multiply(gains, _HALF, out=gains)
        np.add(gains, _HALF, out=gains)
        return 0.5 + 0.5 * math.tanh(0.5 * self._speech.of(output).item())

    def _push_features(self, features: Floats) -> None:
        """The features less their running mean become the newest row of the history."""
        mean = float(np.dot(features, self._mean))
        active = min(max((mean - SILENCE) * 4, 0.0), 1.0)
        self._level = LEVEL_KEEP * self._level + mean * active
        self._active = LEVEL_KEEP * self._active + active
        self._history[:-1] = self._history[1:]
        np.subtract(features, np.float32(self._level / (self._active + LEVEL_EPS)), out=self._now[-1])


class _Layer:
    """x W + b on so many rows."""

    def __init__(self, weights: Weights, name: str, rows: int, inputs: int, outputs: int) -> None:
        matrix, bias = _dequantised(weights, name, inputs, outputs)
        self._matrix = np.ascontiguousarray(matrix)
        self._bias = np.tile(bias, (rows, 1))
        self._out = np.zeros((rows, outputs), np.float32)

    def of(self, x: Floats) -> Floats:
        """(rows, inputs) -> (rows, outputs), good until the next call."""
        np.dot(x, self._matrix, out=self._out)
        np.add(self._out, self._bias, out=self._out)
        return self._out


class _Recurrence:
    """h = (1 - z) h + z x', output o h: the gates of all lanes by one layer."""

    def __init__(self, weights: Weights, name: str, lanes: int, inputs: int, width: int) -> None:
        matrix, bias = _dequantised(weights, name, inputs, 3 * width)
        z, candidate, output_gate = np.split(matrix, 3, 1)
        z_bias, candidate_bias, output_gate_bias = np.split(bias, 3)
        self._matrices = np.stack([z / 2, output_gate / 2, candidate])
        self._bias = np.stack([np.tile(row, (lanes, 1)) for row in (z_bias / 2, output_gate_bias / 2, candidate_bias)])
        self._gates = np.zeros((3, lanes, width), np.float32)
        self.state = np.zeros((lanes, width), np.float32)
        self._output = np.zeros((lanes, width), np.float32)

    def step(self, x: Floats) -> Floats:
        """(lanes, inputs) -> the output, (lanes, width)."""
        gates, sigmoids, held = self._gates, self._gates[:2], self.state
        np.matmul(x, self._matrices, out=gates)
        np.add(gates, self._bias, out=gates)
        np.tanh(gates, out=gates)
        np.multiply(sigmoids, _HALF, out=sigmoids)
        np.add(sigmoids, _HALF, out=sigmoids)
        z, output_gate, change = gates
        np.maximum(z, _LEAST_Z, out=z)
        np.subtract(change, held, out=change)
        np.multiply(change, z, out=change)
        np.add(held, change, out=held)
        np.multiply(output_gate, held, out=self._output)
        return self._output


class _GroupRecurrence:
    """One recurrence for all groups, each with a state of its own."""

    def __init__(self, weights: Weights, name: str, shape: Shape) -> None:
        self.recurrence = _Recurrence(weights, f"{name}.gates", shape.groups, shape.channels, shape.channels)
        self._back = _Layer(weights, f"{name}.back", shape.groups, shape.channels, shape.channels)

    def process(self, x: Floats) -> None:
        """(groups, channels), changed in place."""
        np.add(x, self._back.of(self.recurrence.step(x)), out=x)


class _FullBandRecurrence:
    """One narrow recurrence over all groups."""

    def __init__(self, weights: Weights, name: str, shape: Shape) -> None:
        groups, channels, squeeze = shape.groups, shape.channels, shape.squeeze
        self._narrow = _Layer(weights, f"{name}.narrow", groups, channels, squeeze)
        self.recurrence = _Recurrence(weights, f"{name}.gates", 1, shape.flat, shape.hidden)
        self._back = _Layer(weights, f"{name}.back", 1, shape.hidden, shape.flat)
        self._widen = _Layer(weights, f"{name}.widen", groups, squeeze, channels)
        self._narrow_shape = (groups, squeeze)

    def process(self, x: Floats) -> Floats:
        """(groups, channels), changed in place; returns the recurrence's output, (1, hidden)."""
        output = self.recurrence.step(self._narrow.of(x).reshape(1, -1))
        back = self._back.of(output)
        np.maximum(back, _ZERO, out=back)
        np.add(x, self._widen.of(back.reshape(self._narrow_shape)), out=x)
        return output


def _dequantised(weights: Weights, name: str, inputs: int, outputs: int) -> tuple[Floats, Floats]:
    """(inputs, outputs): int8 rows times their scales, turned; and the bias."""
    scale = np.asarray(weights[f"{name}.scale"], np.float32).reshape(-1, 1)
    matrix = _sized(weights, f"{name}.weight", outputs, inputs) * scale
    return matrix.T, _sized(weights, f"{name}.bias", outputs)


def _sized(weights: Weights, name: str, *sizes: int) -> Floats:
    """A copy in float32, if it has these sizes."""
    found = weights[name]
    if found.shape != sizes:
        raise ValueError(f"{name} is {found.shape}, not {sizes}")
    return found.astype(np.float32)

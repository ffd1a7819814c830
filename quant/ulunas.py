"""Is ``engine = "ulunas"`` in the box what its owners' loop makes of the same file?

    python -m quant.ulunas ulunas_stream_simple.onnx tests/sounds/noisy/*.flac

The owners' loop (README of ulunas_onnx in github.com/Xiaobin-Rong/ul-unas) takes the spectrum of a whole recording
with torch.stft, runs the graph frame by frame and inverts all frames with torch.istft; the box takes hops of 80
samples. Both get the recording between stretches of silence, since torch reflects the sound at its ends and the box
cannot. Prints the energy of the owners' result over that of the difference, for each recording; exit status 1 below
60 dB.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import soundfile

from edge import HOP_SAMPLES, RATE_HZ
from edge.console import run_main
from edge.dsp.spectrum import Floats
from edge.suppress import open_engine
from edge.suppress.foreign.spectral import BINS, HOP, WINDOW
from edge.suppress.foreign.ulunas import STATES
from edge.tools.bench import NO_LIMIT_DB
from models.command import BadRequest, need, status_of

LEAST_DB = 60.0
SILENCE = np.zeros(2 * WINDOW, np.float32)


def owners_loop(file: Path, samples: Floats) -> Floats:
    """float32 at 16 kHz -> the same length, by whole transforms and one call of the graph a frame."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(torch.from_numpy(samples)[None], WINDOW, HOP, window=window, return_complex=True)
    frames = torch.view_as_real(spectrum).numpy()
    state = [np.zeros((1, size), np.float32) for size in STATES.values()]
    cleaned = np.zeros((BINS, frames.shape[2]), np.complex64)
    for number in range(frames.shape[2]):
        mix = np.ascontiguousarray(frames[:, :, number : number + 1])
        bins, *state = session.run(None, {"mix": mix, **dict(zip(STATES, state, strict=True))})
        cleaned[:, number] = bins.reshape(BINS, 2).view(np.complex64)[:, 0]
    whole = torch.istft(torch.from_numpy(cleaned)[None], WINDOW, HOP, window=window, length=len(samples))
    result: Floats = whole[0].numpy()
    return result


def in_the_box(file: Path, samples: Floats) -> Floats:
    """float32 at 16 kHz -> the same length, hop by hop and without its delay; raises BadModel."""
    engine = open_engine("ulunas", NO_LIMIT_DB, str(file), required=True)
    late = engine.delay_samples
    walked = np.concatenate([samples, np.zeros(late + -(len(samples) + late) % HOP_SAMPLES, np.float32)])
    for hop in walked.reshape(-1, HOP_SAMPLES):
        engine.process(hop)
    return walked[late : late + len(samples)]


def agreement_db(file: Path, samples: Floats) -> float:
    """Energy of the owners' result over that of the difference; infinite where there is none."""
    padded = np.concatenate([SILENCE, samples, SILENCE])
    ours = in_the_box(file, padded)
    theirs = owners_loop(file, padded).astype(np.float64)
    difference = ours - theirs
    energy = float(np.vdot(difference, difference))
    return 10 * math.log10(float(np.vdot(theirs, theirs)) / energy) if energy else math.inf


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m quant.ulunas", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="the owners' streaming graph, ONNX")
    parser.add_argument("sounds", type=Path, nargs="+", help="recordings at 16 kHz, mono")
    return parser.parse_args(argv)


def read(path: Path) -> Floats:
    """float32, mono at 16 kHz; raises BadRequest."""
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32")
    except (OSError, soundfile.LibsndfileError) as error:
        raise BadRequest(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if samples.ndim > 1 or rate_hz != RATE_HZ:
        raise BadRequest(f"{path} must be mono at {RATE_HZ} Hz")
    return np.ascontiguousarray(samples, np.float32)


def run(asked: argparse.Namespace) -> int:
    """0 if every recording agrees, 1 otherwise; raises BadRequest."""
    need("evaluate,train", "onnxruntime", "torch")
    least = math.inf
    for path in asked.sounds:
        found = agreement_db(asked.model, read(path))
        least = min(least, found)
        print(f"{path.name}: {found:.1f} dB")
    print(f"lowest: {least:.1f} dB, {'at least' if least >= LEAST_DB else 'below'} {LEAST_DB:g} dB")
    return 0 if least >= LEAST_DB else 1


def main(argv: list[str] | None = None) -> int:
    """0 if every recording agrees, 1 if one does not, 2 after one line that says what is wrong."""
    asked = arguments(argv)
    return status_of(lambda: run(asked), "ulunas")


if __name__ == "__main__":
    run_main(main, "ulunas")

"""Calibration data: what the network meets in use, as (features, state) of single hops from running streams.

    python -m quant.calibrate --model network.onnx --sounds DIR --out calibration.npz

Every sound becomes a stream: silence, the sound, the same loud, the same clipped, its quietest second over and over
(noise alone), the same faint, silence again. The states evolve through all of it, for they are what calibration
by single frames gets wrong; every few hops one sample is kept. ``quantize`` does the same by itself if given none.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from edge import HOP_SAMPLES, RATE_HZ
from edge.console import run_main
from edge.dsp.resample import Resampler
from edge.dsp.spectrum import BANDS, Features, Floats, Transform
from edge.files import BadFile, read_bounded
from edge.files.arrays import read_npz
from edge.tools.sounds.sound_kinds import BadSound, why_no_sound
from edge.tools.sounds.sound_opening import open_sound
from models.command import BadRequest, need, status_of
from quant.history import step
from quant.hops import Hops

SOUNDS = Path(__file__).parents[1] / "tests" / "sounds" / "noisy"
"""Where there are some without asking."""
EVERY_HOPS = 5
MOST_BYTES = 512 << 20
"""Of calibration data, packed or unpacked; an hour of sound gives 150 MB."""
LONGEST_S = 10.0
"""Of every sound, its beginning so long."""
PAUSE_S = 0.5
CLIPPED_DB = 20.0
FAINT_DB = -30.0


@dataclass(frozen=True)
class Samples:
    """Single hops out of streams, one a row."""

    features: Floats
    """float32 [samples, 64]."""
    state: Floats
    """float32 [samples, S], before the hop."""

    def save(self, file: BinaryIO, history: str = "") -> None:
        """As an .npz; ``history``: how they were made, see ``quant.history``."""
        np.savez_compressed(file, features=self.features, state=self.state, history=np.array(history))


class Reader:
    """What onnxruntime's calibration asks of its data: one feed after the other, then None."""

    def __init__(self, samples: Samples) -> None:
        self._samples, self._at = samples, 0

    def get_next(self) -> dict[str, Floats] | None:
        at, self._at = self._at, self._at + 1
        if at >= len(self._samples.features):
            return None
        return {"features": self._samples.features[at : at + 1], "state": self._samples.state[at : at + 1]}


def find(folders: list[Path]) -> list[Path]:
    """Every sound below these folders; raises BadRequest for one that holds none."""
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise BadRequest(f"{folder} is not a folder; --sounds needs folders of recordings")
        here = sorted(path for path in folder.rglob("*") if path.is_file() and not why_no_sound(path))
        if not here:
            raise BadRequest(f"{folder}: no sound files in this folder")
        found += here
    return found


def read(file: Path) -> Floats:
    """float32, 16 kHz, all channels mixed to one, the first LONGEST_S; raises BadRequest."""
    try:
        with open_sound(file) as sound:
            rate_hz = sound.rate_hz
            frames = np.zeros((0, sound.channels), np.float32)
            for block in sound.blocks():
                frames = np.concatenate([frames, block])
                if len(frames) >= LONGEST_S * rate_hz:
                    break
            frames = frames[: round(LONGEST_S * rate_hz)]
    except BadSound as refusal:
        raise BadRequest(str(refusal)) from None
    if len(frames) < rate_hz // 2 or not np.isfinite(frames).all():
        raise BadRequest(f"{file}: shorter than half a second, or it holds NaN or infinite samples")
    mono = np.ascontiguousarray(frames.mean(axis=1))
    return Resampler(rate_hz, RATE_HZ, len(mono)).process(mono).copy()


def stream_of(sound: Floats) -> Floats:
    """The sound in all the states that a box meets; whole hops, within +-1.0."""
    pause = np.zeros(round(PAUSE_S * RATE_HZ), np.float32)
    loud = sound / max(float(np.abs(sound).max()), 1e-6)
    second = min(RATE_HZ, len(sound))
    energy = np.cumsum(np.append(0.0, np.square(sound, dtype=np.float64)))
    quietest = int(np.argmin(energy[second:] - energy[:-second]))
    alone = np.tile(sound[quietest : quietest + second], 2)
    clipped = np.clip(loud * 10 ** (CLIPPED_DB / 20), -1, 1)
    stream = np.concatenate([pause, sound, loud, clipped, alone, pause, sound * 10 ** (FAINT_DB / 20), pause])
    return stream[: len(stream) // HOP_SAMPLES * HOP_SAMPLES].astype(np.float32)


def hops_of(sound: Floats) -> Iterator[tuple[Transform, Floats]]:
    """Every hop's features float32 [64], and the transform that still holds its spectrum."""
    transform, features = Transform(), Features()
    for at in range(0, len(sound) - HOP_SAMPLES + 1, HOP_SAMPLES):
        yield transform, features.of(transform.analyse(sound[at : at + HOP_SAMPLES]))


def collect(hops: Hops, sounds: list[Floats], every: int, tick: Callable[[], object] = lambda: None) -> Samples:
    """Walk every sound's stream through the network and keep every so many hops."""
    features: list[Floats] = []
    states: list[NDArray[np.float32]] = []
    for sound in sounds:
        hops.reset()
        for count, (_, seen) in enumerate(hops_of(stream_of(sound))):
            if count % every == 0:
                features.append(seen.copy())
                states.append(hops.state[0].copy())
            hops.step(seen)
        tick()
    return Samples(np.array(features), np.array(states))


def read_samples(file: Path, state_size: int) -> Samples:
    """What this script wrote; raises BadRequest for anything else."""
    try:
        stored = read_npz(read_bounded(file, MOST_BYTES), MOST_BYTES)
        samples = Samples(stored["features"], stored["state"])
    except BadFile as error:
        raise BadRequest(str(error)) from None
    except Exception:  # zipfile, zlib and NumPy raise a dozen kinds of errors for a broken archive
        raise BadRequest(f"{file}: no calibration data; python -m quant.calibrate makes some") from None
    rows = len(samples.features)
    if samples.features.shape != (rows, BANDS) or samples.state.shape != (rows, state_size) or rows == 0:
        raise BadRequest(f"{file}: holds calibration data of another network; make it again with quant.calibrate")
    return samples


def progress() -> Progress:
    """A bar on stderr that leaves nothing behind."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m quant.calibrate", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--model", type=Path, required=True, metavar="F.onnx", help="a float network made by quant.export"
    )
    parser.add_argument("--sounds", type=Path, nargs="+", default=[SOUNDS], metavar="DIR", help="folders of recordings")
    parser.add_argument("--out", type=Path, required=True, metavar="F.npz", help="output file")
    parser.add_argument("--every", type=int, default=EVERY_HOPS, help="keep every n-th hop (default %(default)s)")
    return parser.parse_args(argv)


def run(asked: argparse.Namespace) -> None:
    """Raises UserError."""
    need("quantize", "onnx", "onnxruntime")
    from quant.graph import can_write, is_ours, open_session, read_model, silence_of, write_whole  # needs onnx

    if asked.every < 1:
        raise BadRequest(f"--every {asked.every}: at least 1")
    can_write(asked.out, asked.model)
    model = read_model(asked.model)
    if not is_ours(model):
        raise BadRequest(f"{asked.model}: not a network of this project; python -m quant.export makes one")
    hops = Hops(open_session(model), silence_of(model))
    files = find(asked.sounds)
    can_write(asked.out, *files)
    sounds = [read(file) for file in files]
    with progress() as bar:
        task = bar.add_task(f"{len(sounds)} streams", total=len(sounds))
        samples = collect(hops, sounds, asked.every, lambda: bar.advance(task))
    made_by = step("calibrate", asked.model)
    size = write_whole(asked.out, lambda content: samples.save(content, made_by))
    print(f"{asked.out}: {len(samples.features)} hops of {len(sounds)} streams, {size} bytes")


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    asked = arguments(argv)
    return status_of(lambda: run(asked), "calibrate")


if __name__ == "__main__":
    run_main(main, "calibrate")

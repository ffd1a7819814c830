"""Every engine that can be compared: ours through the live chain, other people's by themselves and in the box."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from edge import HOP_MS, HOP_SAMPLES, config, engines
from edge.chain import Chain
from edge.dsp.spectrum import Floats
from edge.engines import Family
from edge.suppress import engine as contract
from edge.suppress import files_of, open_engine
from edge.suppress.mask import MaskEngine
from edge.suppress.shipped import BadModel, Model
from models.command import BadRequest
from quant.peers import PEERS, Engine, Heard, in_hops


def product(engine: str, *, model: str = "quietbox", whole: bool = False) -> Engine:
    """One of the box's engines, on ``model``, through the live chain, as `quietbox enhance` runs it.

    High-pass and hum canceller only take part if ``whole``: the other packages have none, and SI-SDR counts the
    phase that a high-pass turns in the lowest voice, which is inaudible, as distortion.
    """

    def opened(limit_db: float) -> contract.Engine:
        try:
            return open_engine(engine, limit_db, model, required=True)
        except BadModel as missing:
            raise BadRequest(str(missing)) from None

    def weights() -> list[Path]:
        opened(0)
        return files_of(engine, model)

    return _live(opened, weights, whole, lambda: opened(0).notes)


def network_file(path: Path) -> Engine:
    """A network of ours, float or quantized, from an ONNX file anywhere, by ONNX Runtime and through the live chain."""

    class Lone(Model):
        """Nothing lies beside it: no card, no weights for NumPy."""

        def file(self, suffix: str) -> Path:
            return path

        def read(self, suffix: str) -> bytes:
            return self._content(path)

        def refused(self, file: Path, why: str) -> BadModel:
            return BadModel(f"{file} {why}")

    def opened(limit_db: float) -> MaskEngine:
        from edge.suppress.onnx import OnnxNetwork

        return MaskEngine([OnnxNetwork(path.name, Lone(str(path.parent)))], limit_db)

    def weights() -> list[Path]:
        opened(0)
        return [path]

    return _live(opened, weights)


def _live(
    opened: Callable[[float], contract.Engine],
    weights: Callable[[], list[Path]],
    whole: bool = False,
    notes: Callable[[], list[str]] = list,
) -> Engine:
    """``opened`` (of the attenuation limit) in the live chain, with its speech probability."""

    def hear(samples: Floats, limit_db: float) -> Heard:
        engine = opened(limit_db)
        walk = Chain(_config(limit_db, whole), engine)
        speech: list[float] = []

        def process(hop: Floats) -> None:
            walk.process(hop)
            speech.append(walk.speech)

        walked = in_hops(samples, HOP_SAMPLES, walk.delay_samples, process)
        if engine.failure or engine.invalid:
            why = " ".join(str(engine.failure or "NaN or infinite gains").split())
            raise BadRequest(f"{engine.name} failed while processing: {why}")
        return Heard(walked[walk.delay_samples :], np.array(speech, np.float32))

    return Engine(hear, lambda: block_latency_ms(opened(0).delay_samples), weights, notes, opened)


def block_latency_ms(delay_samples: int) -> float:
    """Of an engine in the box: the hop that it waits for, and its delay."""
    return HOP_MS * (HOP_SAMPLES + delay_samples) / HOP_SAMPLES


def _config(limit_db: float, whole: bool) -> config.Config:
    shipped = config.Config()
    suppress = replace(shipped.suppress, limit_db=limit_db)
    feedforward = shipped.feedforward if whole else replace(shipped.feedforward, highpass_hz=0, mains="off")
    return replace(shipped, suppress=suppress, feedforward=feedforward)


NOISY = Engine(lambda samples, limit_db: Heard(samples), lambda: 0.0, list)

OURS = [*engines.names(Family.OURS)]

BOXED = {f"{name}-box" if name in PEERS else name: name for name in engines.names(Family.THIRD_PARTY)}
"""Other people's engines as the box runs them; where there is the peer by itself, too, with a suffix."""

ENGINES: dict[str, Engine] = {
    "noisy": NOISY,
    **{name: product(name) for name in OURS},
    **{f"{name}-whole": product(name, whole=True) for name in OURS},
    **PEERS,
    **{called: product(name) for called, name in BOXED.items()},
}
"""What went in, our engines, the same with everything before them, other people's by themselves and in the box."""

FILE = "file:"

KNOWN = f"{', '.join(ENGINES)}, {FILE}NETWORK.onnx, ENGINE:MODEL"

ALL = "all"
"""Every engine that a user can write into the settings, as the box runs it, as far as it can be had here."""


def engine_named(name: str) -> Engine:
    """Every engine a user can name; raises BadRequest."""
    if name.startswith(FILE):
        return network_file(Path(name.removeprefix(FILE)))
    called, _, model = name.partition(":")
    if model and called in engines.names(Family.OURS, Family.THIRD_PARTY):
        return product(called, model=model)
    if name not in ENGINES:
        raise BadRequest(f"no engine is called {name}; known: {ALL}, {KNOWN}")
    return ENGINES[name]

"""The run of a network of ours with its gate; somebody else's model goes to ``quant.quantize.others``."""

import argparse
import sys

import numpy as np
import onnx
from rich.console import Console

from edge import command_for
from models.command import BadRequest, installed
from quant.calibrate import collect, find, progress, read, read_samples
from quant.evaluate.sounds import read_pairs
from quant.graph import can_write, initializers, is_ours, metadata_of, open_session, read_model, silence_of, write_whole
from quant.history import KEY, recorded, step
from quant.hops import Hops
from quant.quantize.activations import static
from quant.quantize.compact import compact, numbers, pack
from quant.quantize.gate import choose, compare, table_of
from quant.quantize.others import theirs
from quant.quantize.weights import every_node


def quantize(asked: argparse.Namespace) -> int:
    """0; 1 if no variant passes the gate. Raises UserError; the options are those of ``quant.quantize``."""
    if asked.every < 1 or not asked.most_kb > 0:
        raise BadRequest("--every and --most-kb need numbers above zero")
    can_write(asked.out, asked.model, asked.calibration)
    if asked.out.suffix != ".onnx":
        raise BadRequest(f"{asked.out}: --out needs a file called .onnx")
    model = read_model(asked.model)
    if any("QuantizeLinear" in node.op_type for node in every_node(model.graph)):
        raise BadRequest(f"{asked.model}: is quantized already; give its float version")
    if metadata_of(model).get("weights") == "int8":
        raise BadRequest(f"{asked.model}: holds int8 weights already; give its float version")
    if "quant.quantize " in metadata_of(model).get(KEY, ""):
        raise BadRequest(
            f"{asked.model}: holds no float weights any more, quant.quantize made it; give its float version"
        )
    return ours(asked, model) if is_ours(model) else theirs(asked, model)


def ours(asked: argparse.Namespace, model: onnx.ModelProto) -> int:
    """Both variants, the gate, the table, the files; 1 if none passes."""
    beside = asked.out.with_suffix(".npz")
    can_write(beside, asked.model, asked.calibration)
    if odd := [name for name, values in initializers(model).items() if not np.isfinite(values).all()]:
        raise BadRequest(f"{asked.model}: its tensor {odd[0]} holds NaN or infinite weights")
    model = recorded(model, step("quantize", asked.model), keep=False)
    given = read_samples(asked.calibration, len(silence_of(model))) if asked.calibration else None
    streams = [] if given else [read(file) for file in find(asked.sounds)]
    measures_pesq = installed("pesq")
    sounds = [(sound.noisy, sound.clean if measures_pesq else None) for sound in read_pairs(asked.pairs)]
    most_bytes = round(1000 * asked.most_kb)
    packed = pack(numbers(model))
    if len(packed) > most_bytes:
        print(f"quantize: nothing written, the NumPy weights have {len(packed)} bytes", file=sys.stderr)
        return 1
    with progress() as bar:
        task = bar.add_task("calibrating", total=len(streams) + 1 + len(sounds))
        hops = Hops(open_session(model), silence_of(model))
        samples = given or collect(hops, streams, asked.every, lambda: bar.advance(task))
        models = {"float": model, "weights": compact(model), "static": static(model, samples)}
        bar.update(task, advance=1, description="measuring")
        figures = compare(models, samples, sounds, lambda: bar.advance(task))
    best, why = choose(figures, most_bytes)
    console = Console()
    console.print(table_of(figures, len(sounds)))
    if not measures_pesq:
        console.print(f"pesq is not installed ({command_for('evaluate')}): PESQ was not measured")
    if best is None:
        print(f"quantize: nothing written, {why}", file=sys.stderr)
        return 1
    console.print(why, soft_wrap=True, highlight=False)
    write_whole(beside, lambda content: content.write(packed))
    size = write_whole(asked.out, lambda content: content.write(models[best.variant].SerializeToString()))
    console.print(f"{asked.out}: {size} bytes; NumPy weights beside it: {len(packed)} bytes", soft_wrap=True)
    return 0

"""DeepFilterNet3's published graphs -> graphs that take one frame at a time, for ``engine = "deepfilternet3"``.

    ./install.sh --setup quantize,peers
    python -m quant.deepfilter --out /var/lib/quietbox/deepfilternet3
    python -m quant.deepfilter --compare --pairs tests/sounds

The published graphs (encoder, gain decoder, filter decoder) take whole recordings: every GRU begins with zeros that a
ConstantOfShape makes, every convolution over time with padding. Here the sequence becomes one frame long; each GRU's
initial state becomes an input and its last state an output; each padding in time becomes an input with the frames
before, and an output with the ones to be kept. What only worked out shapes is folded away, and the grouped linear
layers, written as Einsum, become products of matrices: ``quant.quantize`` knows their weights then, too.

Before anything is written, the new graphs walk a drawn sequence frame by frame and must give what the published ones
give for the whole. The model is a folder: three graphs and a card with their sha256, DeepFilterNet3's licence is MIT or
Apache 2.0.

``--int8`` makes the five GRUs products of int8 weights by inputs of eight bits (ONNX Runtime's dynamic quantisation,
which knows no GRU: each is first written out as products), and gives all other weights int8 storage
(``quant.quantize.weights_only``): a quarter of the size, and less time wherever 7 MB of weights do not fit the cache.

``--compare`` walks pairs of clean and noisy speech through the owners' runtime (libdf), through these graphs with all
frames computed, as the box runs them (the decoders rest in silence), the same in int8, and through the published
graphs called frame by frame as they are: no memory, no history, and at last no look-ahead either. All hear the same
second of sound in turn; times are medians of a frame with and without the decoders.
"""

import argparse
import hashlib
import io
import math
import sys
import tarfile
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from edge import HOP_SAMPLES, UserError
from edge import RATE_HZ as SPEECH_HZ
from edge.console import run_main
from edge.dsp.spectrum import Floats
from edge.files import BadFile, read_bounded
from edge.suppress.blocks import Blocks
from edge.suppress.foreign.deepfilter import HOP, RATE_HZ, STAGES, DeepFilter, Shapes, Stage, files, open_stages, places
from models.measures import noise_alone, pesq_wb, si_sdr_db, stoi, without_lag
from quant.evaluate import BadRequest, Sound, read_pairs
from quant.graph import initializers, open_session, write_whole
from quant.peers import Libdf, dfn3_files
from quant.quantize import every_node, quiet, weights_only

SHA256 = "c94d91f70911001c946e0fabb4aa9adc37045f45a03b56008cb0c8244cb63616"
"""Of the owners' DeepFilterNet3_onnx.tar.gz, as the package carries it."""
MOST_BYTES = 64_000_000
CHECKED_FRAMES = 40
TOLERANCE = 1e-4
"""Largest difference between frame by frame and the whole; another order of additions makes some 1e-6."""


# --- the graphs ----------------------------------------------------------------------------------------------------


def read_archive(archive: Path, sha256: str) -> dict[str, onnx.ModelProto]:
    """The three published graphs by their names in ``STAGES``; raises BadRequest."""
    try:
        content = read_bounded(archive, MOST_BYTES)
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise BadRequest(
                f"{archive}: its sha256 is {found}, not {sha256}; if this archive is intended, pass its value with "
                "--sha256"
            )
        models = {}
        with tarfile.open(fileobj=io.BytesIO(content)) as packed:  # what was summed is what is read
            for entry in packed:
                stage = Path(entry.name).name.removesuffix(".onnx")
                graph = packed.extractfile(entry) if stage in STAGES and entry.size <= MOST_BYTES else None
                if graph:
                    models[stage] = onnx.load_model_from_string(graph.read())
    except BadFile as error:
        raise BadRequest(str(error)) from None
    except OSError as error:
        raise BadRequest(f"{archive}: cannot be read: {error.strerror or error}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise BadRequest(f"{archive}: is not an archive, or a broken one ({type(error).__name__})") from None
    except DecodeError:
        raise BadRequest(f"{archive}: its {stage}.onnx is not an ONNX model, or a broken one") from None
    if missing := STAGES.keys() - models.keys():
        raise BadRequest(f"{archive}: holds no {sorted(missing)[0]}.onnx")
    return models


def streaming(stage: str, published: onnx.ModelProto) -> onnx.ModelProto:
    """One published graph -> one that takes a frame and its memories, as ``STAGES`` says; raises BadRequest."""
    inputs, outputs, memories = STAGES[stage]
    model = onnx.ModelProto()
    model.CopyFrom(published)
    graph = model.graph
    if {value.name for value in graph.input} != set(inputs) or not outputs.keys() <= {v.name for v in graph.output}:
        raise BadRequest(f"{stage}.onnx is not a graph of DeepFilterNet3: its inputs and outputs differ")
    del graph.value_info[:]
    declare(graph, inputs, outputs)
    model = folded(model)
    graph = model.graph
    products_of_matrices(model)
    expose_memories(graph)
    declare(graph, inputs | memories, outputs | {f"{name}_out": shape for name, shape in memories.items()})
    model = folded(model)
    model.producer_name, model.producer_version = "quant.deepfilter", ""
    onnx.checker.check_model(model)
    return model


def declare(graph: onnx.GraphProto, inputs: Shapes, outputs: Shapes) -> None:
    """Give the graph these inputs and outputs, float32, and no others."""
    for values, shapes in ((graph.input, inputs), (graph.output, outputs)):
        del values[:]
        values.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's basic optimisation: constants worked out, paddings in their convolutions; and no idle nodes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/folded.onnx"
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has a class of its own for every kind of fault
            raise BadRequest(f"onnxruntime rejects the graph: {' '.join(str(error).split())[:160]}") from None
        small = onnx.load(options.optimized_model_filepath)
    used = {node.domain for node in every_node(small.graph)}
    if used - {"", "ai.onnx"}:
        raise BadRequest(f"this onnxruntime fuses nodes into private operators ({max(used)}); use another version")
    needed, living = {value.name for value in small.graph.output}, list[onnx.NodeProto]()
    for node in reversed(small.graph.node):
        if needed & {*node.output}:
            needed |= {*node.input}
            living.insert(0, node)
    del small.graph.node[:]
    small.graph.node.extend(living)
    standard = [entry for entry in small.opset_import if entry.domain in ("", "ai.onnx")]
    del small.opset_import[:]
    small.opset_import.extend(standard)
    return small


def expose_memories(graph: onnx.GraphProto) -> None:
    """The n-th GRU's state is ``memory_n``; what a convolution over time keeps of its input x is ``past_x``."""
    nodes, recurrent = [], 0
    for node in graph.node:
        if node.op_type == "GRU":
            recurrent += 1
            node.input[5] = f"memory_{recurrent}"
            node.output[1] = f"memory_{recurrent}_out"
        elif node.op_type == "Conv" and (frames := padded_frames(node)):
            x = node.input[0]
            bounds = [constant(graph, f"{x}_{at}", value) for at, value in (("from", 1), ("to", frames + 1), ("on", 2))]
            nodes.append(helper.make_node("Concat", [f"past_{x}", x], [f"{x}_all"], axis=2))
            nodes.append(helper.make_node("Slice", [f"{x}_all", *bounds], [f"past_{x}_out"]))
            node.input[0] = f"{x}_all"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def padded_frames(convolution: onnx.NodeProto) -> int:
    """How many frames of zeros come before the sequence; afterwards none."""
    for attribute in convolution.attribute:
        if attribute.name == "pads":
            frames, attribute.ints[0] = attribute.ints[0], 0
            return int(frames)
    return 0


def products_of_matrices(model: onnx.ModelProto) -> None:
    """Each Einsum of groups (one frame, weights [groups, in, out]) becomes a MatMul of [groups, 1, in] rows."""
    graph, weights = model.graph, initializers(model)
    maker = {name: node for node in graph.node for name in node.output}
    nodes = []
    for node in graph.node:
        if node.op_type == "Einsum":
            before = maker[node.input[0]]
            while before.op_type == "Transpose":  # of one frame: moves axes of length one
                before = maker[before.input[0]]
            if before.op_type != "Reshape" or node.input[1] not in weights:
                raise BadRequest(f"{node.name} is not a grouped linear layer as DeepFilterNet3 has them")
            groups, width, _ = weights[node.input[1]].shape
            rows = constant(graph, f"{node.output[0]}_rows", groups, 1, width)
            nodes.append(helper.make_node("Reshape", [before.input[0], rows], [f"{node.output[0]}_in"]))
            node = helper.make_node("MatMul", [f"{node.output[0]}_in", node.input[1]], [node.output[0]])
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def constant(graph: onnx.GraphProto, name: str, *values: int) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """The GRUs' products in int8, everything else with int8 weights that are widened at load."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, names = recurrent_as_products(model)
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(plain, source)
        quantize_dynamic(source, target, nodes_to_quantize=names, per_channel=True, weight_type=QuantType.QInt8)
        return weights_only(onnx.load(target))


def recurrent_as_products(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Each GRU of one frame as two MatMul and what follows; also the names of these MatMul.

    z, r = sigmoid(W x + R h + b), n = tanh(W x + b + r (R h + b)), h' = n + z (h - n): the GRU whose reset comes after
    its product (linear_before_reset), as PyTorch has it.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph, stored = plain.graph, initializers(model)
    nodes, names = [], list[str]()
    for node in model.graph.node:
        if node.op_type != "GRU":
            nodes.append(node)
            continue
        sequence, last = node.output[:2]
        (weight,), (recurrent,), (biases,) = (stored[node.input[place]] for place in (1, 2, 3))
        units = recurrent.shape[1]

        def make(kind: str, inputs: list[str], *outputs: str, at: str = last, **attributes: Any) -> str:
            found = [f"{at}.{name}" for name in outputs]
            nodes.append(helper.make_node(kind, inputs, found, found[0], **attributes))
            return found[0]

        parts = []
        row = constant(graph, f"{last}.row", 1, units)
        for x, matrix, bias in zip("xh", (weight, recurrent), np.split(biases, 2), strict=True):
            for name, values in ((f"{last}.{x}.weight", matrix.T), (f"{last}.{x}.bias", bias)):
                graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
            flat = make("Reshape", [node.input[0 if x == "x" else 5], row], x)
            names.append(make("MatMul", [flat, f"{last}.{x}.weight"], f"{x}.product"))
            total = make("Add", [names[-1], f"{last}.{x}.bias"], f"{x}.sum")
            make("Split", [total], f"{x}.zr", f"{x}.n", axis=1, split=[2 * units, units])
            parts.append(f"{last}.{x}")
        zr = make("Sigmoid", [make("Add", [f"{part}.zr" for part in parts], "zr.sum")], "zr")
        make("Split", [zr], "z", "r", axis=1, split=[units, units])
        reset = make("Mul", [f"{last}.r", f"{last}.h.n"], "reset")
        new = make("Tanh", [make("Add", [f"{last}.x.n", reset], "n.sum")], "n")
        kept = make("Mul", [f"{last}.z", make("Sub", [f"{last}.h", new], "change")], "kept")
        state = make("Add", [new, kept], "state")
        for name, shape in ((last, (1, 1, units)), (sequence, (1, 1, 1, units))):
            sizes = constant(graph, f"{name}.shape", *shape)
            nodes.append(helper.make_node("Reshape", [state, sizes], [name], f"{name}.out"))
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept_values = [value for value in graph.initializer if value.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept_values)
    onnx.checker.check_model(plain)
    return plain, names


def check(published: dict[str, onnx.ModelProto], stages: dict[str, onnx.ModelProto]) -> float:
    """The largest difference between whole and frame by frame, as a share of the values' size; raises BadRequest."""
    draw = np.random.default_rng(1)
    whole: dict[str, Floats] = {
        name: draw.normal(0, 0.5, (*shape[:2], CHECKED_FRAMES, shape[3])).astype(np.float32)
        for name, shape in STAGES["enc"][0].items()
    }
    worst = 0.0
    for stage, (inputs, outputs, memories) in STAGES.items():
        feed = {name: whole[name] for name in inputs}
        whole.update(zip(outputs, open_session(published[stage]).run([*outputs], feed), strict=True))
        session = open_session(stages[stage])
        kept = {name: np.zeros(shape, np.float32) for name, shape in memories.items()}
        for at in range(CHECKED_FRAMES):
            now = {name: frame_of(whole[name], shape, at) for name, shape in inputs.items()}
            said = session.run([*outputs, *(f"{name}_out" for name in memories)], now | kept)
            kept = dict(zip(memories, said[len(outputs) :], strict=True))
            for name, value in zip(outputs, said[: len(outputs)], strict=True):
                wanted = frame_of(whole[name], outputs[name], at)
                worst = max(worst, float(np.abs(value - wanted).max() / max(1.0, np.abs(wanted).max())))
    if not worst <= TOLERANCE:  # also what is no number
        raise BadRequest(f"the new graphs differ from the published ones by {worst:.2g}; use another onnxruntime")
    return worst


def frame_of(whole: Floats, shape: tuple[int, ...], at: int) -> Floats:
    """Frame ``at`` of a sequence; time is the axis that ``shape`` has one of and the sequence many."""
    axis = next(axis for axis, size in enumerate(whole.shape) if size == CHECKED_FRAMES and shape[axis] == 1)
    return np.take(whole, [at], axis=axis)


def write(folder: Path, stages: dict[str, onnx.ModelProto], sha256: str, weights: str) -> None:
    """The model's folder: graphs first, then the card, so that an interrupted run leaves nothing that opens."""
    card = folder / "CARD.md"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        card.unlink(missing_ok=True)
    except OSError as error:
        raise BadRequest(f"{folder} cannot be written: {error.strerror}") from None
    lines = [
        "# DeepFilterNet3, one frame at a time",
        "",
        f"Made by quant.deepfilter from the owners' archive with the sha256 {sha256}, weights {weights}.",
        "Hendrik Schröter et al. 2023, https://github.com/Rikorose/DeepFilterNet, MIT or Apache 2.0.",
        "",
    ]
    for stage, model in stages.items():
        content = model.SerializeToString()
        name = f"{folder.name}.{stage}.onnx"
        write_whole(folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
        lines.append(f"| `{name}` | sha256 `{hashlib.sha256(content).hexdigest()}` |")
    write_whole(card, lambda file: file.write(("\n".join(lines) + "\n").encode()))


# --- side by side ----------------------------------------------------------------------------------------------------


class Forgetful(Stage):
    """The graph as it is published, called with one frame: every memory is empty."""

    def run(self) -> None:
        self.reset()
        super().run()


class Variant:
    """One way to run the network, and what was measured of it."""

    def __init__(self, name: str, core: DeepFilter | Libdf, graphs: list[Path]) -> None:
        self.name = name
        self.core = core
        self.bytes = sum(file.stat().st_size for file in graphs)
        self.figures: list[tuple[float, ...]] = []
        self.spent_s: dict[bool, list[float]] = {False: [], True: []}
        """What each block took, with the decoders and, at True, without."""
        self._blocks = Blocks(self._work, RATE_HZ, HOP, core.delay_samples)
        self._walked = np.zeros(0, np.float32)

    def begin(self, samples: Floats) -> None:
        """A new sound, float32 at 16 kHz."""
        self.core.reset()
        self._blocks.reset()
        length = math.ceil((len(samples) + self._blocks.delay_samples) / HOP_SAMPLES) * HOP_SAMPLES
        self._walked = np.zeros(length, np.float32)
        self._walked[: len(samples)] = samples

    def walk(self, begin: int, end: int) -> None:
        """From hop to hop; both ends are whole hops."""
        for at in range(begin, min(end, len(self._walked)), HOP_SAMPLES):
            self._blocks.process(self._walked[at : at + HOP_SAMPLES])

    def heard(self, begin: int, length: int) -> Floats:
        return without_lag(self._walked, begin + self._blocks.delay_samples, length)

    def _work(self, block: Floats) -> None:
        begun = time.thread_time()
        self.core.process(block)
        spent_s = time.thread_time() - begun
        self.spent_s[isinstance(self.core, DeepFilter) and self.core.resting].append(spent_s)

    def row(self) -> list[str]:
        """Its line of the table."""
        pesq, intelligible, gain_db, near_db = (float(np.mean(values)) for values in zip(*self.figures, strict=True))
        working, resting = (1000 * float(np.median(spent)) if spent else math.nan for spent in self.spent_s.values())
        share = len(self.spent_s[True]) / sum(map(len, self.spent_s.values()))
        said = [f"{pesq:.3f}", f"{intelligible:.3f}", f"{gain_db:+.2f}", f"{near_db:.1f}", f"{share:.0%}"]
        said += [f"{working:.2f}", f"{resting:.2f}", f"{self.bytes / 1e6:.1f}"]
        return [self.name, *("" if value == "nan" else value for value in said)]


COLUMNS = ("PESQ", "STOI", "gain dB", "near dB", "rests", "ms", "rest ms", "MB")
"""SI-SDR gained, and SI-SDR against libdf's output; share of frames without decoders; ms for 10 ms with and without
them; size of the files."""


def variants(folder: Path, small: Path) -> list[Variant]:
    """All ways to run the graphs in ``folder`` and, int8, in ``small``; the owners' runtime first if it is here."""
    graphs, small_graphs = files(str(folder)), files(str(small))
    forgetful = open_stages(graphs, Forgetful)
    found = [
        Variant("all frames", DeepFilter(*open_stages(graphs), rest_frames=math.inf), graphs),
        Variant("as it runs", DeepFilter(*open_stages(graphs)), graphs),
        Variant("int8", DeepFilter(*open_stages(small_graphs)), small_graphs),
        Variant("no memory", DeepFilter(*forgetful, rest_frames=math.inf), graphs),
        Variant("nor look-ahead", DeepFilter(*forgetful, rest_frames=math.inf, ahead=0), graphs),
    ]
    try:
        return [Variant("libdf", Libdf(), dfn3_files()), *found]
    except UserError:
        return found


def compare(found: list[Variant], sounds: list[Sound], pause_s: float) -> None:
    """Every sound through every variant, after so much of the sound's noise alone; notes the figures."""
    for sound in sounds:
        assert sound.clean is not None
        noise = noise_alone(sound.clean, sound.noisy)
        begin = 0 if noise is None else round(pause_s * SPEECH_HZ)
        samples = np.concatenate([np.resize(noise, begin), sound.noisy]) if noise is not None else sound.noisy
        for variant in found:
            variant.begin(samples.astype(np.float32))
        for at in range(0, len(samples) + SPEECH_HZ, SPEECH_HZ):
            for variant in found:
                variant.walk(at, at + SPEECH_HZ)
        owners = found[0].heard(begin, len(sound.noisy)) if isinstance(found[0].core, Libdf) else None
        for variant in found:
            heard = variant.heard(begin, len(sound.noisy))
            near_db = si_sdr_db(owners, heard) if owners is not None and variant is not found[0] else math.nan
            gain_db = si_sdr_db(sound.clean, heard) - si_sdr_db(sound.clean, sound.noisy)
            variant.figures.append((pesq_wb(sound.clean, heard), stoi(sound.clean, heard), gain_db, near_db))


def table_of(found: list[Variant], sounds: int, pause_s: float) -> Table:
    table = Table(title=f"{sounds} sounds, each after {pause_s:g} s of its noise alone", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    for variant in found:
        table.add_row(*variant.row())
    return table


# --- the command -----------------------------------------------------------------------------------------------------


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m quant.deepfilter", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"output folder, such as {places()[0]}")
    parser.add_argument("--archive", type=Path, metavar="F.tar.gz", help="the owners' archive (default: the package's)")
    parser.add_argument("--sha256", default=SHA256, metavar="HEX", help="expected sha256 of the archive")
    parser.add_argument("--int8", action="store_true", help="store int8 weights")
    parser.add_argument("--compare", action="store_true", help="compare the ways to run it")
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="clean/ and noisy/ to compare on")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every n-th pair")
    parser.add_argument(
        "--pause-s", type=float, default=5.0, metavar="S", help="seconds of noise alone before each (default 5)"
    )
    return parser.parse_args(argv)


def run(asked: argparse.Namespace) -> None:
    if not (asked.out or asked.compare):
        raise BadRequest("nothing to do; give --out DIR, --compare or both")
    if asked.compare and not asked.pairs:
        raise BadRequest("--compare needs --pairs DIR, a folder that holds clean/ and noisy/")
    if asked.every < 1 or not 0 <= asked.pause_s <= 600:
        raise BadRequest("--every needs 1 or more, --pause-s 0 to 600")
    archive = asked.archive or dfn3_files()[0]
    published = read_archive(archive, asked.sha256.lower())
    stages = {stage: streaming(stage, published[stage]) for stage in STAGES}
    worst = check(published, stages)
    small = {stage: int8(model) for stage, model in stages.items()} if asked.int8 or asked.compare else {}
    console = Console()
    console.print(f"{CHECKED_FRAMES} frames one by one differ from the published graphs' by {worst:.1g} at most.")
    if asked.out:
        write(asked.out, small if asked.int8 else stages, asked.sha256, "int8" if asked.int8 else "float32")
        console.print(f'{asked.out}: DeepFilterNet3 for engine = "deepfilternet3"', soft_wrap=True)
    if asked.compare:
        sounds = read_pairs(asked.pairs)[:: asked.every]
        with tempfile.TemporaryDirectory() as folder:
            folders = Path(folder, "float32"), Path(folder, "int8")
            for place, graphs in zip(folders, (stages, small), strict=True):
                write(place, graphs, asked.sha256, place.name)
            found = variants(*folders)
            compare(found, sounds, asked.pause_s)
        console.print(table_of(found, len(sounds), asked.pause_s))


def main(argv: list[str] | None = None) -> int:
    """0; 2 after one line that says what is wrong."""
    try:
        run(arguments(argv))
    except UserError as error:
        print(f"deepfilter: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    run_main(main, "deepfilter")

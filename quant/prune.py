"""A smaller network out of a trained one: whole channels, units and rounds are left out, the rest goes on learning.

    python -m quant.prune --weights models/quietbox/weights.pt --shape '{"channels": 24, "hidden": 48}' --out smaller.pt
    python -m models.train --init smaller.pt --data DIR --out RUN       # what was lost comes back in training

Real sounds stream through the network. A unit's worth is how much it fluctuates times how strongly it is listened to:
its variance times the squared norm of its outgoing weights, summed over all layers that read it, each layer counting
the same. (The fluctuation criterion of FLAP, An et al. 2023, arXiv 2312.11983: a constant unit is worth nothing,
whatever it weighs, for its mean can move into the biases behind it.) What the remaining units say of the ones that go
moves into their weights: every layer behind is refitted by least squares to the inputs it keeps (He, Zhang & Sun 2017,
arXiv 1707.06168).

The path from ``patch`` to ``join`` has one set of channels that all layers share. Everything else is chosen layer by
layer, in the number that the shape says: what a group memory and ``join`` hold inside (``channels``), what a full-band
layer takes from a group and gives back to it (``squeeze``), its memory (``hidden``). Of ``rounds`` the one goes first
without which the output changes least; the last one stays, for the speech probability comes out of it.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from edge import HOP_SAMPLES
from edge.console import run_main
from edge.dsp.spectrum import DELAY_SAMPLES, Floats
from edge.suppress.network import Shape
from models.network import Network, Spectrum, enhance
from models.train import Refused, read_weights
from quant.calibrate import SOUNDS, find, progress, read, stream_of
from quant.evaluate import BadRequest
from quant.export import build, read_network
from quant.graph import can_write, write_whole
from quant.quantize import compact

FIXED = ("stride_bands", "past_hops")
"""Sizes that say what the network sees, not how much it holds."""
RIDGE = 1e-4
"""Of the mean variance of the kept inputs: keeps the refitted weights from growing."""


# --- which units there are -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """The rows or the columns of a layer: the units of a set, all of them ``copies`` times one after the other."""

    units: str
    copies: int = 1


def sets(shape: Shape) -> dict[str, int]:
    """Every set of units of which some may go -> how many it has."""
    found = {"channels": shape.channels, "join": shape.channels}
    found |= {f"groups.{index}": shape.channels for index in range(shape.rounds + 1)}
    for index in range(shape.rounds):
        found |= {f"full.{index}.narrow": shape.squeeze, f"full.{index}.back": shape.squeeze}
        found[f"full.{index}.hidden"] = shape.hidden
    return found


def sides(shape: Shape) -> dict[str, tuple[Side | None, Side | None]]:
    """Every layer -> what its rows (outputs) and its columns (inputs) are; None where nothing can go."""
    channels, groups = Side("channels"), shape.groups
    found: dict[str, tuple[Side | None, Side | None]] = {"patch": (channels, None)}
    for index in range(shape.rounds + 1):
        layer = f"groups.{index}"
        found[f"{layer}.gates"] = Side(layer, 3), channels
        found[f"{layer}.back"] = channels, Side(layer)
    for index in range(shape.rounds):
        layer = f"full.{index}"
        found[f"{layer}.narrow"] = Side(f"{layer}.narrow"), channels
        found[f"{layer}.gates"] = Side(f"{layer}.hidden", 3), Side(f"{layer}.narrow", groups)
        found[f"{layer}.back"] = Side(f"{layer}.back", groups), Side(f"{layer}.hidden")
        found[f"{layer}.widen"] = channels, Side(f"{layer}.back")
    found["join"] = Side("join"), Side("channels", 3)
    found["spread"] = None, Side("join")
    found["speech"] = None, Side(f"full.{shape.rounds - 1}.hidden")
    return found


# --- what they do --------------------------------------------------------------------------------------------------


class Moments:
    """Mean and covariance of what a layer reads, gathered while it works; float64."""

    def __init__(self, inputs: int) -> None:
        self._count, self._sum, self._products = 0, torch.zeros(inputs).double(), torch.zeros(inputs, inputs).double()

    def see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A forward hook: ``inputs`` holds one tensor (..., columns)."""
        rows = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
        self._count += len(rows)
        self._sum += rows.sum(0)
        self._products += rows.T @ rows

    @property
    def mean(self) -> Tensor:
        """(columns,)"""
        return self._sum / self._count

    @property
    def covariance(self) -> Tensor:
        """(columns, columns)"""
        return self._products / self._count - torch.outer(self.mean, self.mean)


@torch.no_grad()
def watch(network: Network, streams: list[Tensor], tick: Callable[[], object] = lambda: None) -> dict[str, Moments]:
    """Every layer of ``sides`` -> what it reads while the streams, each (1, samples), run through the network."""
    found, hooks = dict[str, Moments](), []
    for name in sides(network.shape):
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        found[name] = Moments(layer.in_features)
        hooks.append(layer.register_forward_pre_hook(found[name].see))
    try:
        for stream in streams:
            enhance(network, Spectrum(), stream)
            tick()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def worth(network: Network, moments: dict[str, Moments]) -> dict[str, Tensor]:
    """Every set -> the worth of its units, each reading layer's scores adding up to one."""
    weights = network.state_dict()
    found = {units: torch.zeros(size).double() for units, size in sets(network.shape).items()}
    for layer, (_, columns) in sides(network.shape).items():
        if columns is not None:
            heard = weights[f"{layer}.weight"].double().square().sum(0)
            score = (heard * moments[layer].covariance.diagonal().clamp(min=0)).reshape(columns.copies, -1).sum(0)
            found[columns.units] += score / score.sum().clamp(min=1e-30)
    return found


# --- leaving out ---------------------------------------------------------------------------------------------------


def pruned(network: Network, shape: Shape, moments: dict[str, Moments]) -> Network:
    """A network of ``shape``, as large or smaller but with as many rounds, of the most useful units in their order."""
    weights, wanted = network.state_dict(), sets(shape)
    kept = {
        units: torch.sort(torch.argsort(score, descending=True, stable=True)[: wanted[units]]).values
        for units, score in worth(network, moments).items()
    }
    whole = sets(network.shape)

    def places(side: Side) -> Tensor:
        copies = torch.arange(side.copies).unsqueeze(1) * whole[side.units]
        return (copies + kept[side.units]).flatten()

    small = {"place": weights["place"][:, kept["channels"]]}
    for layer, (rows, columns) in sides(shape).items():
        weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        if columns is not None:
            weight, bias = without_inputs(weight, bias, places(columns), moments[layer])
        if rows is not None:
            weight, bias = weight[places(rows)], bias[places(rows)]
        small |= {f"{layer}.weight": weight, f"{layer}.bias": bias}
    return settled(shape, small)


def without_inputs(weight: Tensor, bias: Tensor, kept: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    """The layer (weight, bias) that reads only the columns ``kept``: the best one for the inputs that were seen.

    Least squares: an input that goes is replaced by its regression on those that stay, with a trace of damping.
    """
    stays = torch.zeros(weight.shape[1], dtype=torch.bool)
    stays[kept] = True
    if stays.all():
        return weight, bias
    goes, mean, covariance = ~stays, moments.mean, moments.covariance
    among = covariance[stays][:, stays]
    damped = among + torch.eye(len(among)).double() * (RIDGE * among.diagonal().mean() + 1e-12)
    regression = torch.linalg.solve(damped, covariance[stays][:, goes]).T
    lost = weight[:, goes].double()
    refitted = weight[:, stays] + (lost @ regression).float()
    return refitted, bias + (lost @ (mean[goes] - regression @ mean[stays])).float()


def without_round(network: Network, index: int) -> Network:
    """One round less: group memory and full-band layer ``index`` are gone, the later ones move up."""
    shape, weights = replace(network.shape, rounds=network.shape.rounds - 1), dict[str, Tensor]()
    for name, value in network.state_dict().items():
        part, _, rest = name.partition(".")
        number, _, tail = rest.partition(".")
        if part not in ("groups", "full"):
            weights[name] = value
        elif int(number) != index:
            weights[f"{part}.{int(number) - (int(number) > index)}.{tail}"] = value
    del weights["silence"]
    return settled(shape, weights)


def settled(shape: Shape, weights: dict[str, Tensor]) -> Network:
    """The network of these weights, beginning where silence leads it."""
    network = Network(shape)
    missing = network.load_state_dict(weights, strict=False)
    assert missing.missing_keys == ["silence"] and not missing.unexpected_keys
    network.settle()
    return network.eval()


def prune(network: Network, shape: Shape, sounds: list[Floats], tick: Callable[[], object] = lambda: None) -> Network:
    """``network`` cut down to ``shape`` by what it does on ``sounds`` (float32, 16 kHz); ``tick`` once for each."""
    waves = [whole_hops(sound) for sound in sounds]
    while network.shape.rounds > shape.rounds:
        fewer = [without_round(network, index) for index in range(network.shape.rounds - 1)]
        network = max(fewer, key=partial(snr_db, network, waves=waves)) if len(fewer) > 1 else fewer[0]
    return pruned(network, shape, watch(network, [whole_hops(stream_of(sound)) for sound in sounds], tick))


# --- what it cost --------------------------------------------------------------------------------------------------


def whole_hops(sound: Floats) -> Tensor:
    """float32 (1, samples), filled up with silence."""
    return nn.functional.pad(torch.from_numpy(sound), (0, -len(sound) % HOP_SAMPLES)).unsqueeze(0)


@torch.no_grad()
def snr_db(whole: Network, small: Network, waves: list[Tensor]) -> float:
    """How far what ``whole`` makes of the waves lies above what ``small`` makes differently; infinite if nothing."""
    signal = error = 0.0
    for wave in waves:
        wanted, got = (enhance(network, Spectrum(), wave)[0][:, DELAY_SAMPLES:].double() for network in (whole, small))
        signal += float(wanted.square().sum())
        error += float((got - wanted).square().sum())
    return float(10 * torch.log10(torch.tensor(signal / error))) if error else float("inf")


def int8_kb(network: Network) -> float:
    """Size of the file that quant.quantize makes of it with int8 weights, in 1000 bytes."""
    return compact(build(network)).ByteSize() / 1000


def table_of(networks: dict[str, Network], waves: list[Tensor]) -> Table:
    """Sizes, and how far the output moved; the first network is the whole one."""
    table = Table(title=f"before fine-tuning, {len(waves)} recordings", title_justify="left")
    for heading in ("network", "channels", "squeeze", "hidden", "rounds", "weights", "int8 KB", "SNR dB"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    whole = next(iter(networks.values()))
    for name, network in networks.items():
        shape, count = network.shape, sum(value.numel() for value in network.parameters())
        sizes = (shape.channels, shape.squeeze, shape.hidden, shape.rounds, count)
        apart = "-" if network is whole else f"{snr_db(whole, network, waves):.1f}"
        table.add_row(name, *map(str, sizes), f"{int8_kb(network):.1f}", apart)
    return table


# --- the command ---------------------------------------------------------------------------------------------------


def smaller(text: str, whole: Shape) -> Shape:
    """The shape that the JSON ``text`` makes of ``whole``; raises BadRequest for one that pruning cannot give."""
    sizes = asdict(whole)
    try:
        asked = json.loads(text)
    except ValueError as reason:
        raise BadRequest(f"--shape {text}: no JSON ({reason})") from None
    if not isinstance(asked, dict):
        raise BadRequest(f'--shape {text}: needs sizes by name, e.g. {{"channels": 24}}')
    for name, size in asked.items():
        if name not in sizes:
            raise BadRequest(f"--shape: a network has no {name}; it has {', '.join(sizes)}")
        if name in FIXED and size != sizes[name]:
            raise BadRequest(f"--shape: {name} is the input size of a network and stays {sizes[name]}")
        if type(size) is not int or not 1 <= size <= sizes[name]:
            raise BadRequest(
                f"--shape: {name} {json.dumps(size)} is not a whole number from 1 to {sizes[name]}, as it is"
            )
    return Shape(**sizes | asked)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m quant.prune", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True, metavar="F.pt", help="weights.pt or checkpoint.pt")
    parser.add_argument("--shape", required=True, metavar="JSON", help='the target sizes, e.g. {"channels": 24}')
    parser.add_argument("--out", type=Path, required=True, metavar="F.pt", help="output file of the smaller network")
    parser.add_argument("--sounds", type=Path, nargs="+", default=[SOUNDS], metavar="DIR", help="folders of recordings")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """0, or 2 after one line that says what is wrong."""
    asked = arguments(argv)
    try:
        can_write(asked.out)
        network, source = read_network(asked.weights), read_weights(asked.weights)
        if asked.out.exists() and asked.out.samefile(asked.weights):
            raise BadRequest(f"{asked.out}: --out would overwrite --weights; give another name")
        shape = smaller(asked.shape, network.shape)
        sounds = [read(file) for file in find(asked.sounds)]
        with progress() as bar:
            task = bar.add_task(f"{len(sounds)} streams", total=len(sounds))
            small = prune(network, shape, sounds, lambda: bar.advance(task))
        table = table_of({"whole": network, "pruned": small}, [whole_hops(sound) for sound in sounds])
        content: dict[str, Any] = {"shape": asdict(shape), "weights": small.state_dict()}
        content |= {name: source.get(name, 0) for name in ("step", "audio_hours", "minutes")}
        size = write_whole(asked.out, lambda file: torch.save(content, file))
    except (BadRequest, Refused) as error:
        print(f"prune: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    console = Console()
    console.print(table)
    console.print(f"{asked.out}: {size} bytes; now fine-tune it:", soft_wrap=True, highlight=False)
    line = f"python -m models.train --init {asked.out} --data DIR --out RUN"
    console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    run_main(main, "prune")

"""A smaller network of the most useful units, refitted to what it keeps, and how far its output moved."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from rich.table import Table
from torch import Tensor, nn

from edge import HOP_SAMPLES
from edge.dsp.spectrum import DELAY_SAMPLES, Floats
from edge.suppress.network import Shape
from models.network import Network, Spectrum, enhance
from quant.calibrate import stream_of
from quant.export.network import build
from quant.prune.units import Moments, Side, sets, sides, watch, worth
from quant.quantize.compact import compact

RIDGE = 1e-4
"""Of the mean variance of the kept inputs: keeps the refitted weights from growing."""


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

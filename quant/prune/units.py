"""Which units a network has, and what each is worth by what it does on real sounds."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge.suppress.network import Shape
from models.network import Network, Spectrum, enhance


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

"""The contract of an engine: what a minimal one gets for free, and that every engine of ours keeps to it."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

from edge import HOP_SAMPLES
from edge.chain import Chain
from edge.config import Config
from edge.dsp.spectrum import Floats
from edge.suppress.engine import Engine
from edge.suppress.foreign.adapter import Adapter
from edge.suppress.mask import MaskEngine
from edge.suppress.remote import RemoteEngine

ROOT = Path(__file__).parents[2]


class Smallest(Engine):
    """Nothing but what an engine must offer."""

    name = "smallest"
    delay_samples = 0

    def process(self, hop: Floats) -> float:
        hop *= np.float32(0.5)
        return 1.0

    def reset(self) -> None:
        pass


def test_an_engine_that_offers_only_the_required_runs_in_the_chain() -> None:
    chain = Chain(Config(), Smallest())
    hop = np.full(HOP_SAMPLES, 0.1, np.float32)
    chain.process(hop)
    assert chain.speech == 1.0 and chain.working == "smallest" and not chain.skipped and not chain.degraded
    chain.step_down()
    assert chain.working == "bypass", "it has no level to fall back to"
    chain.step_up()
    assert chain.working == "smallest"


def test_an_engine_without_the_required_cannot_be_made() -> None:
    class Nothing(Engine):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()  # type: ignore[abstract]


@pytest.mark.parametrize("kind", [MaskEngine, Adapter, RemoteEngine])
def test_an_engine_offers_nothing_beside_the_contract(kind: type[Engine]) -> None:
    """What users of an engine may ask stands in one place."""
    known = {name for name in dir(Engine) if not name.startswith("_")}
    assert {name for name in dir(kind) if not name.startswith("_")} <= known | {"delay_samples"}


@pytest.mark.parametrize("file", ["edge/chain.py", "edge/box.py", "edge/service.py", "edge/tools/bench.py"])
def test_no_ability_of_an_engine_is_found_by_probing(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    probes = [call for call in calls if call.startswith(("getattr(", "hasattr(", "isinstance("))]
    assert not [call for call in probes if "engine" in call.lower()]


def test_the_contract_says_what_each_member_means() -> None:
    for name, member in vars(Engine).items():
        if not name.startswith("_") and callable(getattr(member, "fget", member)):
            assert inspect.getdoc(member), name

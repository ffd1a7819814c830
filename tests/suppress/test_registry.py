"""One row an engine: what the settings, the commands and the documentation say of engines comes from there."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge import HOP_MS, HOP_SAMPLES, RATE_HZ, engines
from edge.config import Config
from edge.engines import BY_NAME, CHOICES, ROWS, Family, Row, fallback_chain, names
from edge.suppress import BadModel, files_of, open_configured, open_core, open_engine, open_listener
from edge.suppress.blocks import Blocks
from edge.suppress.open import files_with_cards
from edge.suppress.shipped import FOLDER
from edge.tools import bench
from quant.evaluate import engines as evaluate

ROOT = Path(__file__).parents[2]
THIRD_PARTY = names(Family.THIRD_PARTY)


def test_the_choices_of_the_setting_are_the_rows() -> None:
    assert ("auto", *(row.name for row in ROWS)) == CHOICES and len({*CHOICES}) == len(CHOICES)
    assert Config.__dataclass_fields__["suppress"].default_factory().engine == "auto"  # type: ignore[misc, call-arg]
    shown = f'engine = "auto"  # auto: the first of network, rnn and dsp that works here; from {THIRD_PARTY[0]} on'
    (line,) = [line for line in (ROOT / "edge/quietbox.toml").read_text().splitlines() if line.startswith("engine =")]
    assert line.startswith(shown) and all(f'"{name}"' in line for name in CHOICES)


def test_the_commands_list_the_rows() -> None:
    here = [row.name for row in ROWS if row.family is not Family.REMOTE]
    assert bench.engines_named("all") == here
    listed = {name.removesuffix("-box") for name in evaluate.ENGINES}
    assert {*here} - {"off"} <= listed


def test_the_page_of_the_engines_has_the_table_of_the_registry() -> None:
    page = (ROOT / "docs/engines.md").read_text()
    assert "\n".join(engines.table()) in page, "python -m edge.engines prints it"
    printed = subprocess.run([sys.executable, "-m", "edge.engines"], cwd=ROOT, capture_output=True, text=True)
    assert printed.stdout.splitlines() == engines.table()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_module_of_a_row_offers_what_its_family_needs(row: Row) -> None:
    module = importlib.import_module(row.module)
    needed = {
        Family.OURS: ["open_estimator", "files"],
        Family.NONE: ["open_estimator", "files"],
        Family.THIRD_PARTY: ["open_core", "files"],
        Family.REMOTE: ["open_remote"],
    }[row.family]
    assert all(callable(getattr(module, name)) for name in needed)
    assert not row.section or hasattr(Config(), row.section)
    if row.family is Family.THIRD_PARTY:
        takes = len(inspect.signature(module.open_core).parameters)
        assert takes == (2 if row.section else 1)
    if pin := getattr(module, "PIN", ""):
        assert f"`{pin}`" in row.source and pin in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", names(Family.OURS, Family.NONE))
def test_what_a_row_says_of_ours_is_so(name: str) -> None:
    engine, row = open_engine(name, 30), BY_NAME[name]
    if engine.name != name:
        pytest.fail("; ".join(engine.notes))
    assert HOP_MS * (1 + engine.delay_samples / HOP_SAMPLES) == row.latency_ms
    assert bool(files_of(name)) == bool(row.shipped)
    folder = FOLDER / (row.model or "quietbox")
    assert [path.parent for path in files_of(name)] == [folder] * bool(row.shipped)


@pytest.mark.parametrize("name", [name for name in THIRD_PARTY if name != "deepfilternet3"])  # that one is made first
def test_what_a_row_says_of_a_third_party_engine_is_so(name: str, tmp_path: Path) -> None:
    row, model = BY_NAME[name], "quietbox"
    if name == "ulunas":
        pytest.importorskip("onnx")
        from ulunas_graph import graph

        model = str(graph(tmp_path / "graph.onnx"))
    try:
        core = open_core(name, model)
    except BadModel as missing:
        pytest.skip(str(missing))
    engine = open_engine(name, 30, model)
    assert HOP_MS * (1 + engine.delay_samples / HOP_SAMPLES) == row.latency_ms
    said = core.process(np.zeros(core.block_samples, np.float32))
    assert (said is not None) == row.reports_speech


def test_the_latency_of_a_row_follows_from_block_rate_and_delay() -> None:
    """Also where its files are not here: block, rate and delay are known."""
    for name, rate_hz, block, delay in (
        ("deepfilternet3", 48_000, 480, 1440),
        ("rnnoise", 48_000, 480, 960),
        ("dtln", RATE_HZ, 128, 384),
        ("gtcrn", RATE_HZ, 256, 256),
    ):
        blocks = Blocks(lambda block: None, rate_hz, block, delay)
        assert HOP_MS * (1 + blocks.delay_samples / HOP_SAMPLES) == BY_NAME[name].latency_ms, name


def test_the_fallback_chain_begins_at_the_engine_asked_for() -> None:
    assert [row.name for row in fallback_chain("auto")] == ["network", "rnn", "dsp", "off"]
    assert [row.name for row in fallback_chain("rnn")] == ["rnn", "dsp", "off"]
    assert fallback_chain("dtln") == () == fallback_chain("remote")


def test_only_networks_of_ours_have_files_with_cards_and_a_listener_beside_them() -> None:
    assert [(model.name, suffix) for model, suffix in files_with_cards("auto")] == [
        ("quietbox", ".npz"),
        ("quietbox", ".onnx"),
        ("rnn", ".npz"),
    ]
    assert [model.name for model, _ in files_with_cards("rnn", "somebody's")] == ["rnn"]
    assert not files_with_cards("dsp") and not files_with_cards("dtln")
    assert open_listener("rnn") and not open_listener("dsp") and not open_listener("dtln")


@pytest.mark.parametrize("name", [row.name for row in ROWS if row.section])
def test_an_engine_gets_its_own_section_of_the_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    def opened(*words: object) -> None:
        given.extend(words)
        raise BadModel("not here")

    row = BY_NAME[name]
    function = "open_remote" if row.family is Family.REMOTE else "open_core"
    monkeypatch.setattr(f"{row.module}.{function}", opened)
    config = Config()
    object.__setattr__(config.suppress, "engine", name)
    engine = open_configured(config)
    assert getattr(config, row.section) in given
    assert engine.notes[-1] == f"engine {name} cannot be used: not here; {engine.name} works"

"""Pruning: nothing gone changes nothing, dead units go first, what is left is a sound network; refusals."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from edge import RATE_HZ  # noqa: E402
from edge.dsp.spectrum import BANDS, Floats  # noqa: E402
from edge.suppress.network import Shape  # noqa: E402
from models.network import Network  # noqa: E402
from models.train.checkpoint import load_network  # noqa: E402
from models.train.development import stream  # noqa: E402
from models.train.trainer import Plan, Trainer  # noqa: E402
from quant.calibrate import SOUNDS, find, read  # noqa: E402
from quant.prune import removal  # noqa: E402
from quant.prune.__main__ import main  # noqa: E402
from quant.prune.removal import (  # noqa: E402
    int8_kb,
    prune,
    pruned,
    settled,
    snr_db,
    whole_hops,
    without_inputs,
    without_round,
)
from quant.prune.units import (  # noqa: E402
    Moments,
    sets,
    sides,
    watch,
    worth,
)

torch.set_num_threads(1)
WHOLE = Shape(stride_bands=8, channels=8, squeeze=4, hidden=12, rounds=2, past_hops=1)
FEWER = replace(WHOLE, channels=5, squeeze=3, hidden=7)


@pytest.fixture(scope="module")
def network() -> Network:
    """Untrained, with every unit at work and biases that are no zeros."""
    torch.manual_seed(3)
    made = Network(WHOLE).eval()
    made.settle()
    return made


@pytest.fixture(scope="module")
def sounds() -> list[Floats]:
    return [read(file)[: 2 * RATE_HZ] for file in find([SOUNDS])]


@pytest.fixture(scope="module")
def moments(network: Network, sounds: list[Floats]) -> dict[str, Moments]:
    return watch(network, [whole_hops(sound) for sound in sounds])


@pytest.fixture
def weights(network: Network, tmp_path: Path) -> Path:
    file = tmp_path / "weights.pt"
    content = {"shape": asdict(WHOLE), "weights": network.state_dict(), "step": 7, "audio_hours": 1.5, "minutes": 2.0}
    torch.save(content, file)
    return file


def features(hops: int = 120) -> torch.Tensor:
    return torch.randn(1, hops, BANDS, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def apart(one: Network, other: Network) -> float:
    """The largest difference of gains and speech."""
    return max(float((a - b).abs().max()) for a, b in zip(one(features())[:2], other(features())[:2], strict=True))


def test_pruning_nothing_gives_the_same_network(network: Network, moments: dict[str, Moments]) -> None:
    same = pruned(network, WHOLE, moments)
    assert apart(network, same) < 1e-6
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in network.named_parameters())


@pytest.mark.parametrize("units", [*sets(WHOLE)])
def test_units_that_nobody_hears_go_first_and_change_nothing(
    network: Network, sounds: list[Floats], units: str
) -> None:
    """Random units of one set, not the last ones: a wrong order of copies or a wrong set would show at once."""
    size, state = sets(WHOLE)[units], {name: value.clone() for name, value in network.state_dict().items()}
    dead = torch.randperm(size, generator=torch.Generator().manual_seed(len(units)))[: size // 4]
    for layer, (_, columns) in sides(WHOLE).items():
        if columns is not None and columns.units == units:
            for copy in range(columns.copies):
                state[f"{layer}.weight"][:, copy * size + dead] = 0
    del state["silence"]
    deaf = settled(WHOLE, state)
    found = watch(deaf, [whole_hops(sound) for sound in sounds])
    assert set(worth(deaf, found)[units].argsort()[: len(dead)].tolist()) == set(dead.tolist())
    # Only this set is allowed to shrink: what the shape ties to it keeps its size by worthless units of its own.
    kept = worth(deaf, found)[units].argsort(descending=True)[: size - len(dead)].sort().values
    layers = {name: columns for name, (_, columns) in sides(WHOLE).items() if columns and columns.units == units}
    for layer, columns in layers.items():
        weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        places = (torch.arange(columns.copies).unsqueeze(1) * size + kept).flatten()
        smaller, shifted = without_inputs(weight, bias, places, found[layer])
        assert torch.equal(smaller, weight[:, places]) and torch.equal(shifted, bias)


def test_a_network_with_dead_units_everywhere_shrinks_without_loss(network: Network, sounds: list[Floats]) -> None:
    """As many dead units in every set as are to go: the whole command then changes nothing that can be measured."""
    state, wanted = {name: value.clone() for name, value in network.state_dict().items()}, sets(FEWER)
    rng = torch.Generator().manual_seed(8)
    dead = {units: torch.randperm(size, generator=rng)[: size - wanted[units]] for units, size in sets(WHOLE).items()}
    for layer, (_, columns) in sides(WHOLE).items():
        if columns is not None:
            for copy in range(columns.copies):
                state[f"{layer}.weight"][:, copy * sets(WHOLE)[columns.units] + dead[columns.units]] = 0
    del state["silence"]
    deaf = settled(WHOLE, state)
    small = prune(deaf, FEWER, sounds)
    assert small.shape == FEWER
    assert apart(deaf, small) < 1e-5


def test_a_constant_unit_is_worth_nothing_and_its_mean_moves_into_the_bias(
    network: Network, sounds: list[Floats]
) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items() if name != "silence"}
    state["join.weight"][2], state["join.bias"][2] = 0, 1.7  # after the rectifier always 1.7
    state["spread.weight"][:, 2] = 100
    steady = settled(WHOLE, state)
    found = watch(steady, [whole_hops(sound) for sound in sounds])
    assert worth(steady, found)["join"].argmin() == 2
    kept = torch.tensor([unit for unit in range(WHOLE.channels) if unit != 2])
    smaller, shifted = without_inputs(state["spread.weight"], state["spread.bias"], kept, found["spread"])
    torch.testing.assert_close(smaller, state["spread.weight"][:, kept])
    torch.testing.assert_close(shifted, state["spread.bias"] + 170, atol=1e-3, rtol=0)


def test_refitting_loses_less_than_cutting(
    network: Network, sounds: list[Floats], moments: dict[str, Moments], monkeypatch: pytest.MonkeyPatch
) -> None:
    waves = [whole_hops(sound) for sound in sounds]
    refitted = snr_db(network, pruned(network, FEWER, moments), waves)
    monkeypatch.setattr(removal, "without_inputs", lambda weight, bias, kept, seen: (weight[:, kept], bias))
    assert refitted > snr_db(network, pruned(network, FEWER, moments), waves) + 3


def test_the_most_useful_units_lose_less_than_the_least_useful(
    network: Network, sounds: list[Floats], moments: dict[str, Moments], monkeypatch: pytest.MonkeyPatch
) -> None:
    waves = [whole_hops(sound) for sound in sounds]
    best = snr_db(network, pruned(network, FEWER, moments), waves)
    scores = {units: -score for units, score in worth(network, moments).items()}
    monkeypatch.setattr(removal, "worth", lambda network, moments: scores)
    assert best > snr_db(network, pruned(network, FEWER, moments), waves) + 1


@torch.no_grad()
def test_hop_by_hop_is_the_whole_sequence(network: Network, moments: dict[str, Moments]) -> None:
    small = pruned(network, FEWER, moments)
    gains, speech, last = small(features())
    state = small.fresh_state()
    for hop in range(features().shape[1]):
        gain, voice, state = small.step(features()[:, hop], state)
        torch.testing.assert_close(gain, gains[:, hop], atol=1e-5, rtol=0)
        torch.testing.assert_close(voice, speech[:, hop], atol=1e-5, rtol=0)
    torch.testing.assert_close(state, last, atol=1e-4, rtol=0)


def test_it_begins_where_silence_leads(network: Network, moments: dict[str, Moments]) -> None:
    small = pruned(network, FEWER, moments)
    assert small.silence.shape == (Network(FEWER).state_size,)
    settled_again = small.silence.clone()
    small.settle()
    torch.testing.assert_close(small.silence, settled_again)


@pytest.mark.parametrize("gone", [0, 1])
def test_a_round_that_adds_nothing_can_go(network: Network, sounds: list[Floats], gone: int) -> None:
    shape = replace(WHOLE, rounds=3)
    torch.manual_seed(4)
    state = {name: value for name, value in Network(shape).state_dict().items() if name != "silence"}
    for layer in (f"groups.{gone}.back", f"full.{gone}.widen"):
        state[f"{layer}.weight"], state[f"{layer}.bias"] = (
            torch.zeros_like(state[f"{layer}.{part}"]) for part in ("weight", "bias")
        )
    idle = settled(shape, state)
    assert apart(idle, without_round(idle, gone)) < 1e-6
    assert apart(idle, without_round(idle, 1 - gone)) > 1e-3
    assert apart(idle, prune(idle, WHOLE, sounds[:1])) < 1e-6


def test_the_command_writes_what_training_goes_on_from(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sizes = tmp_path / "smaller.pt", {"channels": 6, "hidden": 5, "rounds": 1}
    assert main(["--weights", str(weights), "--shape", json.dumps(sizes), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"python -m models.train --init {out} --data DIR --out RUN"
    small = load_network(out)
    assert asdict(small.shape) == asdict(WHOLE) | sizes
    assert f"{sum(value.numel() for value in small.parameters())}" in said
    stored = torch.load(out, weights_only=True)
    assert (stored["step"], stored["audio_hours"], stored["minutes"]) == (7, 1.5, 2.0)
    student = Trainer(small.shape, Plan(), torch.device("cpu"))
    student.start_from(out)
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in student.averaged.items())
    noisy = np.random.default_rng(1).normal(0, 0.1, 8000).astype(np.float32)
    assert np.isfinite(stream(small, [noisy])[0]).all()


def test_sizes_go_down_with_the_shape(network: Network, moments: dict[str, Moments]) -> None:
    small = pruned(network, FEWER, moments)
    assert {name: value.shape for name, value in small.state_dict().items()} == {
        name: value.shape for name, value in Network(FEWER).state_dict().items()
    }
    assert int8_kb(small) < int8_kb(network)


def test_refusals_are_one_line_and_write_nothing(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.pt").write_text("no weights")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "beside.wav", np.zeros(RATE_HZ), RATE_HZ)
    torch.save({"shape": asdict(FEWER), "weights": load_network(weights).state_dict()}, tmp_path / "other.pt")
    out, shape = tmp_path / "smaller.pt", '{"channels": 6}'
    cases: list[tuple[str, list[str | Path]]] = [
        ("from 1 to 8", [weights, '{"channels": 9}']),
        ("from 1 to 8", [weights, '{"channels": 0}']),
        ("from 1 to 12", [weights, '{"hidden": 4.0}']),
        ("from 1 to 2", [weights, '{"rounds": true}']),
        ("rounds 0", [weights, '{"rounds": 0}']),
        ("no units", [weights, '{"units": 4}']),
        ("stays 8", [weights, '{"stride_bands": 4}']),
        ("stays 1", [weights, '{"past_hops": 2}']),
        ("no JSON", [weights, "channels=4"]),
        ("by name", [weights, "[4]"]),
        ("no weights of this network", [tmp_path / "bad.pt", shape]),
        ("do not match its shape", [tmp_path / "other.pt", shape]),
        ("no such file", [tmp_path / "none.pt", shape]),
        ("no sound files", [weights, shape, "--sounds", tmp_path / "empty"]),
        ("not a sound file that", [weights, shape, "--sounds", tmp_path / "broken"]),
        ("is not a folder", [weights, shape, "--sounds", tmp_path / "beside.wav"]),
        ("cannot be written", [weights, shape, "--out", tmp_path / "nowhere" / "smaller.pt"]),
        ("would overwrite the input", [weights, shape, "--out", weights]),
    ]
    before = sorted(tmp_path.rglob("*")), weights.read_bytes()
    for wanted, (file, text, *more) in cases:
        assert main(["--weights", str(file), "--shape", text, "--out", str(out), *map(str, more)]) == 2, wanted
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("prune: ") and wanted in lines[0], (wanted, lines)
    assert (sorted(tmp_path.rglob("*")), weights.read_bytes()) == before

"""The window engine: a mask of ones is a pure delay, streaming is what the formula says, and what is no mask network is
refused with what was wanted."""

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edge import HOP_SAMPLES, RATE_HZ  # noqa: E402
from edge.config import WindowConfig  # noqa: E402
from edge.config_file import BadConfig, parse  # noqa: E402
from edge.dsp.spectrum import Floats  # noqa: E402
from edge.suppress import open_engine  # noqa: E402
from edge.suppress.foreign.adapter import Adapter  # noqa: E402
from edge.suppress.foreign.window import (  # noqa: E402
    OURS,
    Geometry,
    WindowCore,
    analysis_taper,
    geometry_of,
    open_core,
    synthesis_taper,
)
from edge.suppress.mask import MaskEngine, Unity  # noqa: E402
from edge.suppress.shipped import BadModel  # noqa: E402

Nodes = list[tuple[str, list[str], dict[str, Any]]]
ONES: Nodes = [("Mul", ["x", "zero"], {}), ("Add", ["a", "one"], {})]
HARD: Nodes = [("HardSigmoid", ["x"], {"alpha": 0.1, "beta": 0.5})]
"""A gain that grows with the logarithm of the magnitude, in a straight line."""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Writes a graph of a few nodes, each taking the one before as ``a``, ``b`` ...; returns its path."""

    def made(
        nodes: Nodes,
        shape: Sequence[int | str],
        out: Sequence[int | str] | None = None,
        stored: dict[str, Any] | None = None,
        about: dict[str, str] | None = None,
        kind: int = TensorProto.FLOAT,
        more_inputs: int = 0,
    ) -> Path:
        names = [chr(ord("a") + place) for place in range(len(nodes) - 1)] + ["y"]
        steps = [
            helper.make_node(op, taken, [name], **how) for (op, taken, how), name in zip(nodes, names, strict=True)
        ]
        held = {"zero": np.float32(0), "one": np.float32(1), **(stored or {})}
        tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in held.items()]
        inputs = [helper.make_tensor_value_info("x", kind, shape)]
        inputs += [helper.make_tensor_value_info(f"x{n}", kind, shape) for n in range(more_inputs)]
        outputs = [helper.make_tensor_value_info("y", kind, shape if out is None else out)]
        graph = helper.make_graph(steps, "g", inputs, outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, about or {})
        file = tmp_path / f"m{len([*tmp_path.iterdir()])}.onnx"
        onnx.save(model, file)
        return file

    return made


def noise(samples: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def through(core: WindowCore, sound: Floats, tail: bool = True) -> Floats:
    """The stream, its delay taken off; ``tail`` feeds silence until all is out."""
    size = core.block_samples
    length = -(-(len(sound) + (core.delay_samples if tail else 0)) // size) * size
    walked = np.zeros(length, np.float32)
    walked[: len(sound)] = sound
    for at in range(0, length, size):
        core.process(walked[at : at + size])
    return walked[core.delay_samples :][: len(sound)]


def shaped(settings: WindowConfig) -> list[int]:
    geometry = geometry_of(settings)
    return [1, 1, geometry.bins, geometry.frames]


SETTINGS = (
    WindowConfig(),
    WindowConfig(window_ms=50, fft_samples=320, hop_samples=80, taper="sqrt-hann", step_frames=3),
    WindowConfig(window_ms=90, fft_samples=400, hop_samples=150, taper="hamming", step_frames=1, wait_frames=1),
    WindowConfig(window_ms=64, fft_samples=256, hop_samples=128, taper="sqrt-hann", step_frames=7),
    WindowConfig(window_ms=100, fft_samples=512, hop_samples=256, step_frames=2, wait_frames=0, logarithm="db"),
    WindowConfig(window_ms=32, fft_samples=512, hop_samples=128, step_frames=1),
)


@pytest.mark.parametrize("settings", SETTINGS)
def test_mask_of_ones_is_a_pure_delay(make: Callable[..., Path], settings: WindowConfig) -> None:
    core = open_core(str(make(ONES, shaped(settings))), settings)
    sound = noise(12_345)
    assert np.abs(through(core, sound) - sound).max() < 2e-6
    core.reset()
    click = np.zeros(9000, np.float32)
    click[4321] = 1
    assert np.abs(through(core, click) - click).max() < 2e-6


@pytest.mark.parametrize("seed", range(12))
def test_any_geometry_with_an_inverse_is_a_pure_delay(make: Callable[..., Path], seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 2 * int(rng.integers(32, 400))
    hop = int(rng.integers(size // 8 + 1, size // 2 + 1))
    settings = WindowConfig(
        window_ms=float(rng.uniform(size / 16 + 1, 250)),
        fft_samples=size,
        hop_samples=hop,
        taper=str(rng.choice(["hann", "sqrt-hann", "hamming"])),
        step_frames=1,
    )
    frames = geometry_of(settings).frames
    step = int(rng.integers(1, frames + 1))
    wait = int(rng.integers(0, frames - step + 1))
    settings = WindowConfig(**{**vars(settings), "step_frames": step, "wait_frames": wait})
    core = open_core(str(make(ONES, shaped(settings))), settings)
    sound = noise(8000, seed)
    assert core.block_samples == step * hop
    assert core.delay_samples == size + (step + wait - 1) * hop
    assert np.abs(through(core, sound) - sound).max() < 1e-5


def test_stated_latency() -> None:
    core = open_core("quietbox")
    assert (core.block_samples, core.delay_samples) == (320, 3200)
    adapter = Adapter(core, MaskEngine([Unity()], 30), 30)
    assert (adapter.delay_samples + HOP_SAMPLES) * 1000 / RATE_HZ == 220


def test_waiting_less_costs_less_latency(make: Callable[..., Path]) -> None:
    file = make(ONES, shaped(WindowConfig()))
    delays = [open_core(str(file), WindowConfig(wait_frames=wait)).delay_samples for wait in (0, 5, 20, "all")]
    assert delays == [640, 640 + 5 * 128, 3200, 3200]
    with pytest.raises(BadModel, match=r"wait_frames = 21: in .* can wait for at most 20"):
        open_core(str(file), WindowConfig(wait_frames=21))


def offline(sound: Floats, settings: WindowConfig, gains_of: Callable[[Floats], Floats], wait: int) -> Floats:
    """What the engine should make of a sound, from the definition: every window, the mean of its gains, overlap-add."""
    geometry, step = geometry_of(settings), settings.step_frames
    size, hop = geometry.fft_samples, geometry.hop_samples
    lead = geometry.window_samples + step * hop
    padded = np.concatenate([np.zeros(lead), sound, np.zeros(3 * lead)]) * 10 ** (settings.input_gain_db / 20)
    # the newest frame of the first window that holds sound ends with the first whole step of it
    first = (lead + step * hop - size) % hop
    count = (len(padded) - first - size) // hop + 1
    starts = first + hop * np.arange(count)
    spectra = np.array([np.fft.rfft(padded[at : at + size] * analysis_taper(geometry)) for at in starts])
    scale = {"ln": 1.0, "log10": 1 / np.log(10), "db": 20 / np.log(10)}[settings.logarithm]
    seen = scale * np.log(np.abs(spectra) + settings.log_floor)
    sums, counts = np.zeros(seen.shape), np.zeros(count)
    newest = (lead + step * hop - size - first) // hop
    for last in range(newest % step, count, step):
        begin = last - geometry.frames + 1
        if begin < 0:
            continue
        gains = np.clip(gains_of(seen[begin : last + 1].T.astype(np.float32)), 10 ** (-settings.floor_db / 20), 1)
        used = slice(max(last - step - wait + 1, begin), last + 1)
        sums[used] += gains[:, used.start - begin :].T
        counts[used] += 1
    spectra *= sums / np.maximum(counts, 1)[:, None]
    output = np.zeros(len(padded) + size)
    for at, spectrum in zip(starts, spectra, strict=True):
        output[at : at + size] += np.fft.irfft(spectrum, size) * synthesis_taper(geometry)
    return (output[lead : lead + len(sound)] * 10 ** (settings.output_gain_db / 20)).astype(np.float32)


@pytest.mark.parametrize(
    "settings",
    [
        WindowConfig(),
        WindowConfig(window_ms=60, fft_samples=320, hop_samples=80, step_frames=3, wait_frames=6, logarithm="log10"),
        WindowConfig(window_ms=80, fft_samples=320, hop_samples=160, taper="sqrt-hann", step_frames=1, wait_frames=0),
        WindowConfig(logarithm="db", log_floor=0.1, floor_db=12, input_gain_db=9, output_gain_db=-5, step_frames=4,
                     wait_frames=4),
    ],
)  # fmt: skip
def test_streaming_is_what_the_definition_says(make: Callable[..., Path], settings: WindowConfig) -> None:
    shape = shaped(settings)
    place = np.linspace(-0.3, 0.3, int(shape[3]), dtype=np.float32)  # so that it matters which frame's gain is taken
    core = open_core(str(make([*HARD, ("Add", ["a", "place"], {}), ("Clip", ["b", "zero", "one"], {})], shape,
                              stored={"place": place})), settings)  # fmt: skip
    sound = noise(9000) * np.linspace(0, 3, 9000, dtype=np.float32)
    wait = shape[3] - settings.step_frames if settings.wait_frames == "all" else settings.wait_frames

    def gains_of(seen: Floats) -> Floats:
        return np.clip(np.clip(0.1 * seen + 0.5, 0, 1) + place, 0, 1).astype(np.float32)

    wanted = offline(sound, settings, gains_of, int(wait))
    got = through(core, sound)
    assert np.abs(wanted - sound).max() > 0.05  # it does something
    assert np.abs(got - wanted).max() < 2e-5


def test_bins_without_the_last_one(make: Callable[..., Path]) -> None:
    """Many such networks leave out 8 kHz to have a power of two; the bin below speaks for it."""
    settings = WindowConfig()
    core = open_core(str(make(ONES, [1, 1, 256, 22])), settings)
    sound = noise(6000)
    assert np.abs(through(core, sound) - sound).max() < 2e-6


def test_only_the_last_frames_gains(make: Callable[..., Path]) -> None:
    """Such a graph is asked for every frame, and no frame waits."""
    last = [*ONES[:1], ("Add", ["a", "one"], {}), ("ReduceMax", ["b"], {"axes": [3], "keepdims": 1})]
    core = open_core(str(make(last, [1, 1, 257, 22], [1, 1, 257, 1])))
    assert (core.block_samples, core.delay_samples) == (128, 512)
    sound = noise(6000)
    assert np.abs(through(core, sound) - sound).max() < 2e-6


def test_sizes_left_free(make: Callable[..., Path]) -> None:
    core = open_core(str(make(ONES, ["items", 1, "bins", "frames"])), WindowConfig(window_ms=100))
    sound = noise(6000)
    assert np.abs(through(core, sound) - sound).max() < 2e-6


def test_floor_and_gains(make: Callable[..., Path]) -> None:
    nothing: Nodes = [("Mul", ["x", "zero"], {})]
    sound = noise(6000)
    core = open_core(str(make(nothing, [1, 1, 257, 22])), WindowConfig(floor_db=20))
    assert np.abs(through(core, sound) - 0.1 * sound).max() < 1e-6
    core = open_core(str(make(ONES, [1, 1, 257, 22])), WindowConfig(input_gain_db=6, output_gain_db=-2))
    assert np.abs(through(core, sound) - 10**0.2 * sound).max() < 1e-5


def test_reset_forgets(make: Callable[..., Path]) -> None:
    core = open_core(str(make(HARD, [1, 1, 257, 22])))
    first = through(core, noise(5000), tail=False)
    core.process(np.full(core.block_samples, 0.5, np.float32))
    core.reset()
    assert np.array_equal(first, through(core, noise(5000), tail=False))


REFUSED: dict[str, tuple[Nodes, dict[str, Any], str]] = {
    "rank": (ONES, {"shape": [1, 257, 22]}, r"has an input of shape \[1, 257, 22\]; expected \[1, 1, bins, frames\]"),
    "channels": (ONES, {"shape": [1, 2, 257, 22]}, r"expected \[1, 1, bins, frames\]"),
    "bins": (ONES, {"shape": [1, 1, 161, 22]}, "161 bins x 22 frames, its settings make 257 x 22; .*fft_samples = 320"),
    "frames": (ONES, {"shape": [1, 1, 257, 32]}, "257 bins x 32 frames, .*fft_samples = 512 and window_ms = 280 would"),
    "no mask": (
        [("Mul", ["x", "x"], {})],
        {"shape": [1, 1, 257, 22]},
        "returns values from .* to .*; a mask lies in 0 to 1",
    ),
    "not a number": ([("Sqrt", ["x"], {})], {"shape": [1, 1, 257, 22]}, "returns values from nan to nan"),
    "transposed": (
        [*ONES, ("Transpose", ["b"], {"perm": [0, 1, 3, 2]})],
        {"shape": [1, 1, 257, 22], "out": [1, 1, 22, 257]},
        r"returns \[1, 1, 22, 257\] for \[1, 1, 257, 22\]; expected a mask of the same shape",
    ),
    "two inputs": (ONES, {"shape": [1, 1, 257, 22], "more_inputs": 1}, "has other inputs and outputs than a mask"),
    "doubles": (
        [("Identity", ["x"], {})],
        {"shape": [1, 1, 257, 22], "kind": TensorProto.DOUBLE},
        "one each of float32",
    ),
    "free sizes that do not fit": (
        [*ONES, ("Reshape", ["b", "sizes"], {})],
        {"shape": [1, 1, "b", "f"], "stored": {"sizes": np.array([1, 1, 257, 30])}},
        r"rejects an input of shape \[1, 1, 257, 22\]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_is_no_mask_network(make: Callable[..., Path], case: str) -> None:
    nodes, how, wanted = REFUSED[case]
    with pytest.raises(BadModel, match=wanted) as refusal:
        open_core(str(make(nodes, **how)))
    assert "\n" not in str(refusal.value)


def test_refuses_broken_files(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "folder").mkdir()
    for name, wanted in (
        ("empty.onnx", "not an ONNX"),
        ("text.onnx", "not an ONNX"),
        ("folder", "missing"),
        ("none", "read"),
    ):
        with pytest.raises(BadModel, match=wanted) as refusal:
            open_core(str(tmp_path / name))
        assert name in str(refusal.value)


def test_settings_without_an_inverse_are_refused(make: Callable[..., Path]) -> None:
    settings = WindowConfig(fft_samples=512, hop_samples=511)
    with pytest.raises(BadModel, match=r"\[window\].* 512 samples every 511 do not overlap enough"):
        open_core(str(make(ONES, [1, 1, 257, "f"])), settings)
    with pytest.raises(BadModel, match="move by 9"):
        open_core(str(make(ONES, [1, 1, 257, "f"])), WindowConfig(window_ms=64, step_frames=9))
    with pytest.raises(BadConfig, match=r"window.hop_samples \(512\) must be below window.fft_samples \(512\)"):
        parse("[window]\nhop_samples = 512\n")


SAID = {
    **{name: str(value) for name, value in vars(Geometry()).items()},
    "name": OURS,
    "version": "0.9.9",
    "sample_rate_hz": "16000",
}


def test_our_own_files_say_their_geometry(make: Callable[..., Path]) -> None:
    core = open_core(str(make(ONES, [1, 1, 241, 18], about=SAID)), WindowConfig(fft_samples=1024))
    assert core.geometry == Geometry()
    for change, wanted in (
        ({"version": "1.0.0"}, "of version 1.0.0"),
        ({"sample_rate_hz": "48000"}, "48000 Hz"),
        ({"hop_samples": "many"}, "has invalid metadata"),
        ({"hop_samples": "480"}, "do not overlap enough"),
        ({"taper": "kaiser"}, "kaiser"),
        ({"step_frames": "0"}, "move by 0"),
    ):
        with pytest.raises(BadModel, match=wanted):
            open_core(str(make(ONES, [1, 1, 241, 18], about=SAID | change)))
    with pytest.raises(BadModel, match="has invalid metadata"):
        open_core(str(make(ONES, [1, 1, 241, 18], about={k: v for k, v in SAID.items() if k != "taper"})))


def test_what_fails_in_the_thread_is_raised_and_reset_mends_it(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = open_core(str(make(ONES, [1, 1, 257, 22])))
    block = np.zeros(core.block_samples, np.float32)

    def broken() -> None:
        raise MemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(core.network, "run", broken)
        core.process(block)
        with pytest.raises(MemoryError):
            core.process(block)
    core.reset()
    sound = noise(6000)
    assert np.abs(through(core, sound) - sound).max() < 2e-6


def test_a_step_does_not_wait_for_its_own_window(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The network has a whole step's time, so that no hop of the box lasts as long as a window takes to compute."""
    core = open_core(str(make(ONES, [1, 1, 257, 22])))
    run, may_run = core.network.run, threading.Semaphore(0)

    def slow() -> None:
        assert may_run.acquire(timeout=30)
        run()

    monkeypatch.setattr(core.network, "run", slow)
    sound = noise(40 * core.block_samples)
    walked = sound.copy()
    for at in range(0, len(walked), core.block_samples):
        core.process(walked[at : at + core.block_samples])  # would never return if it waited for what it has begun
        may_run.release()
    late = core.delay_samples
    assert np.abs(walked[late:] - sound[:-late]).max() < 2e-6


def test_spoilt_masks_do_not_outlive_a_reset(make: Callable[..., Path]) -> None:
    """A network may be sound in its trial and run away later: the adapter sees the output and resets."""
    core = open_core(str(make(ONES, [1, 1, 257, 22])))
    through(core, noise(3000))
    core._running.result()  # type: ignore[union-attr]
    core.network.mask.fill(np.nan)
    block = noise(core.block_samples)
    for _ in range(3):
        core.process(block)
    assert not np.isfinite(block).all()
    core.reset()
    sound = noise(6000)
    assert np.abs(through(core, sound) - sound).max() < 2e-6


def test_a_dropped_engine_takes_its_thread_with_it(make: Callable[..., Path]) -> None:
    before = {*threading.enumerate()}
    core = open_core(str(make(ONES, [1, 1, 257, 22])))
    core.process(np.zeros(core.block_samples, np.float32))
    (own,) = {*threading.enumerate()} - before
    del core
    gc.collect()
    own.join(10)
    assert not own.is_alive()


@pytest.fixture(scope="module")
def engine() -> Iterator[Adapter]:
    opened = open_engine("window", 30)
    assert isinstance(opened, Adapter) and opened.name == "window" and not opened.notes
    yield opened


def test_the_shipped_one_runs_in_the_box(engine: Adapter) -> None:
    engine.reset()
    sound = noise(RATE_HZ)
    walked = sound.copy()
    for at in range(0, len(walked), HOP_SAMPLES):
        assert 0 <= engine.process(walked[at : at + HOP_SAMPLES]) <= 1
    assert engine.failure is None and engine.invalid == 0 and np.isfinite(walked).all()
    late = walked[engine.delay_samples + RATE_HZ // 2 :]
    removed_db = -20 * np.log10(np.linalg.norm(late) / np.linalg.norm(sound[RATE_HZ // 2 : -engine.delay_samples]))
    assert 3 < removed_db < 31  # white noise goes, as far as the limit lets it


def test_bypass_is_the_dry_sound_at_the_same_delay(engine: Adapter) -> None:
    engine.reset()
    engine.wet = 0.0
    sound = noise(8000)
    walked = sound.copy()
    for at in range(0, len(walked), HOP_SAMPLES):
        engine.process(walked[at : at + HOP_SAMPLES])
    engine.wet = 1.0
    delay = engine.delay_samples
    assert np.abs(walked[delay + 2 * HOP_SAMPLES :] - sound[2 * HOP_SAMPLES : -delay]).max() < 1e-6

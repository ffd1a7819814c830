"""Every command of quant/ and models/ explains itself without an extra, and names the extra it needs in one line."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
COMMANDS = sorted(
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__main__")
    for package in ("models", "quant")
    for path in (CHECKOUT / package).rglob("*.py")
    if '\nif __name__ == "__main__"' in path.read_text(encoding="utf-8")
)
EXTRAS = ("torch", "onnx", "onnxruntime", "pesq", "pystoi", "speechmos", "speexdsp_ns", "matplotlib")
"""Packages that no bare ``./install.sh`` brings."""
PAIRS = str(CHECKOUT / "tests" / "sounds")
WEIGHTS = str(CHECKOUT / "models" / "rnn" / "weights.pt")
REQUESTS = {
    "models.clean": ("onnx", "--data . --teacher t.onnx --out new"),
    "models.train": ("train", "--speech . --noise . --out new"),
    "models.twin": ("train", "--speech . --noise . --out new"),
    "models.unet": ("train", "--data . --out new"),
    "quant.bound": ("evaluate", f"--pairs {PAIRS}"),
    "quant.calibrate": ("quantize", "--model m.onnx --out new.npz"),
    "quant.deepfilter": ("quantize,peers", "--out new"),
    "quant.distil": ("quantize,train", f"--teacher dsp --noisy {PAIRS} --init {WEIGHTS} --out new"),
    "quant.evaluate": ("evaluate", f"--pairs {PAIRS} --engines dsp"),
    "quant.export": ("quantize,train", f"--weights {WEIGHTS} --out new.onnx"),
    "quant.presets": ("evaluate", ""),
    "quant.prune": ("quantize,train", f"--weights {WEIGHTS} --shape {{}} --out new.pt"),
    "quant.quantize": ("quantize", "--model m.onnx --out new.onnx"),
    "quant.ulunas": ("evaluate,train", f"m.onnx {PAIRS}/noisy/NOWHERE.flac"),
    "quant.report": ("evaluate", f"--pairs {PAIRS} --engines dsp --out new.html"),
}
"""Command -> the extra it needs, and options that reach the first use of it."""
NEED_NONE = {"models.mix", "quant.edges", "quant.peers"}
RUNNER = """
import contextlib, io, json, runpy, sys, warnings

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

warnings.simplefilter("ignore")
blocked, lines = json.loads(sys.argv[1]), json.loads(sys.argv[2])
sys.meta_path.insert(0, Blocker())
found = []
for module, words in lines:
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [module, *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            status = None
        except SystemExit as end:
            status = end.code
    found.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""
Result = tuple[int, str, str]


def without_extras(lines: list[tuple[str, list[str]]], folder: Path) -> list[Result]:
    """Status, output and errors of each command line in a Python that finds none of EXTRAS."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(EXTRAS), json.dumps(lines)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return [(status, out, err) for status, out, err in json.loads(done.stdout)]


def test_help_needs_no_extra(tmp_path: Path) -> None:
    results = without_extras([(command, ["--help"]) for command in COMMANDS], tmp_path)
    for command, (status, out, err) in zip(COMMANDS, results, strict=True):
        assert status == 0 and not err, (command, err)
        assert out.startswith(f"usage: python -m {command} "), (command, out)
        description = out.split("\n\n")[1]
        assert len(description) > 20 and not description.startswith("options"), (command, description)


def test_a_missing_extra_is_one_line_that_names_the_command(tmp_path: Path) -> None:
    results = without_extras([(command, words.split()) for command, (_, words) in REQUESTS.items()], tmp_path)
    for (command, (extra, _)), (status, out, err) in zip(REQUESTS.items(), results, strict=True):
        assert status == 2 and not out, (command, out, err)
        assert err.count("\n") == 1 and " not installed; " in err, (command, err)
        assert err.startswith(f"{command.partition('.')[2]}: ") and err.endswith(f"./install.sh --setup {extra}\n"), err
    assert not [*tmp_path.iterdir()], "nothing was written"


def test_every_command_is_tested() -> None:
    assert {*REQUESTS} | NEED_NONE == {*COMMANDS}


@pytest.mark.parametrize("extra", sorted({name for extra, _ in REQUESTS.values() for name in extra.split(",")}))
def test_the_named_extras_exist(extra: str) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    assert extra in project["project"]["optional-dependencies"] | project["tool"]["quietbox"]["extras"]

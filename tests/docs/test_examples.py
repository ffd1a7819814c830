"""The examples of the documentation run alone, each as its first lines say, and do what they say."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples"


def run(name: str, *arguments: str, cwd: Path) -> str:
    call = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(call, cwd=cwd, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def floor(sound: np.ndarray) -> float:
    """Mean square in its quietest tenth of 20 ms frames."""
    frames = sound[: len(sound) // 320 * 320].reshape(-1, 320)
    return float(np.quantile(np.square(frames).mean(axis=1), 0.1))


def test_every_example_is_run_here_and_says_how() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {"clean_array.py", "clean_file.py", "new_stage.py"}
    for name in names:
        assert f".venv/bin/python docs/examples/{name}" in (EXAMPLES / name).read_text()


def test_an_array_is_cleaned(tmp_path: Path) -> None:
    noisy_db, clean_db = map(float, re.findall(r"(-[\d.]+) dBFS", run("clean_array.py", cwd=tmp_path)))
    assert clean_db < noisy_db - 20


@pytest.mark.parametrize("engine", ["network", "dsp"])
def test_a_file_passes_an_engine(engine: str, tmp_path: Path) -> None:
    noisy, rate_hz = soundfile.read(ROOT / "tests/sounds/noisy/rain_en_5dB.flac", frames=4 * 16_000, dtype="float32")
    soundfile.write(tmp_path / "in.wav", noisy, rate_hz)
    said = run("clean_file.py", "in.wav", "out.wav", engine, cwd=tmp_path)
    assert said.startswith("out.wav: ") and "delay 5 ms removed" in said
    clean, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert abs(len(clean) - len(noisy)) < 160
    assert floor(clean) < 0.5 * floor(noisy)


def test_a_stage_of_one_s_own_changes_the_chain(tmp_path: Path) -> None:
    rows = re.findall(r"(\d+) Hz: ([+-][\d.]+) dB as shipped, ([+-][\d.]+) dB", run("new_stage.py", cwd=tmp_path))
    plain = {int(hz): float(db) for hz, db, _ in rows}
    changed = {int(hz): float(db) for hz, _, db in rows}
    assert all(abs(db) < 0.1 for db in plain.values())
    assert abs(changed[1000]) < 0.2 and changed[500] < -2 and changed[4000] > 5

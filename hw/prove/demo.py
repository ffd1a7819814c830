"""The box on a machine without a sound card: a noisy recording through the live engine on ALSA, and what became of it.

    python -m hw.prove.demo --out out

plays `tests/sounds/noisy/rain_en_5dB.flac` (or any pair named) into a user-space sound card, lets `quietbox run` clean
it, records what it plays, and leaves the sound, a picture and a table.
docs/pictures/before-after.png is its picture.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.table import Table
from scipy.signal import correlate

from edge import HOP_SAMPLES, RATE_HZ
from edge.config import Config
from edge.console import run_main
from edge.dsp.highpass import HighPass
from edge.dsp.spectrum import Floats
from edge.tools.tables import show
from hw.prove import spectrogram
from hw.virtual.rigs import NoVirtualSound, PacedRig
from models.measures import si_sdr_db

SOUNDS = Path(__file__).parents[2] / "tests" / "sounds"
SETTINGS = """
[capture]
device = "{microphone}"
mute_ms = 0
fade_ms = 0
[playback]
device = "{output}"
volume_db = 0
clock = "{clock}"
"""
ATTEMPTS = 3
LEAD_S = 1.0
"""Silence before the recording, while everything starts."""
TAIL_S = 1.5
PAUSE_DB = -40.0
"""A stretch of the clean speech this far below its mean level is a pause."""


@dataclass(frozen=True)
class Outcome:
    """What the live box did to the recording."""

    noise_removed_db: float
    speech_kept_db: float
    si_sdr_before_db: float
    si_sdr_after_db: float


def judge(clean: Floats, noisy: Floats, enhanced: Floats) -> Outcome:
    """Compare three sounds of one length, lined up.

    Noise removed: how much quieter the pauses of the speech became. Speech kept: level of the part of the output that
    is the clean speech (its projection) while somebody speaks; 0 dB is all of it. The output is compared with the clean
    speech as the box's high-pass leaves it, because that filter turns the phase of the lowest voice.
    """
    pause = pauses(clean)
    passed = high_passed(clean)
    spoken = passed[~pause]
    kept = float(np.dot(enhanced[~pause], spoken) / np.dot(spoken, spoken))
    return Outcome(
        noise_removed_db=_level_db(noisy[pause]) - _level_db(enhanced[pause]),
        speech_kept_db=20 * np.log10(max(kept, 1e-6)),
        si_sdr_before_db=si_sdr_db(clean, noisy),
        si_sdr_after_db=si_sdr_db(passed, enhanced),
    )


def high_passed(sound: Floats) -> Floats:
    """Through the box's own high-pass at its default."""
    hops = np.pad(sound, (0, -len(sound) % HOP_SAMPLES)).reshape(-1, HOP_SAMPLES)
    stage = HighPass(Config().feedforward.highpass_hz)
    for hop in hops:
        stage.process(hop)
    return hops.reshape(-1)[: len(sound)]


def pauses(clean: Floats) -> np.ndarray:
    """bool, one a sample: stretches of 20 ms in which nobody speaks."""
    frame = RATE_HZ // 50
    power = np.mean(clean[: len(clean) // frame * frame].reshape(-1, frame).astype(float) ** 2, axis=1)
    quiet = np.repeat(power < power.mean() * 10 ** (PAUSE_DB / 10), frame)
    return np.pad(quiet, (0, len(clean) - len(quiet)), constant_values=False)


def play_through_the_box(noisy: Floats, folder: Path) -> tuple[Floats, dict[str, Any]]:
    """Send the recording through `quietbox run` on ALSA; what it played, lined up, and what it reported of itself."""
    lead, tail = np.zeros(round(LEAD_S * RATE_HZ), np.float32), np.zeros(round(TAIL_S * RATE_HZ), np.float32)
    sent = np.round(np.concatenate([lead, noisy, tail]) * 32767).astype(np.int16)
    with PacedRig(RATE_HZ) as rig:
        box = quietbox(folder, "run", "--config", settings_file(folder, rig.mic, rig.spk))
        try:
            wait_until_running(folder, box)
            recorder = rig.record(len(sent) / RATE_HZ)
            player = rig.play(sent)
            player.done.wait(len(sent) / RATE_HZ + 5)
            status = json.loads(quietbox(folder, "status", "--json").communicate()[0])
            recorder.done.wait(5)
        finally:
            box.terminate()
            box.wait(5)
        heard: Floats = recorder.samples.astype(np.float32) / np.float32(32768)
    return _lined_up(heard, noisy), status


def measured_latency(folder: Path) -> dict[str, Any]:
    """`quietbox latency` with the output looped back to the microphone."""
    with PacedRig(RATE_HZ) as rig:
        measuring = quietbox(folder, "latency", "--json", "--config", settings_file(folder, rig.mic, "feed"))
        output, _ = measuring.communicate(timeout=60)
    found: dict[str, Any] = json.loads(output)
    return found


def picture(path: Path, pair: str, clean: Floats, noisy: Floats, enhanced: Floats) -> None:
    """Spectrograms of the clean voice, of the microphone and of the headphones, one below the other, with a caption."""
    rows = {"clean voice": clean, "microphone: the voice in noise": noisy, "headphones: the output": enhanced}
    spectrogram.draw(path, rows, caption(pair), stacked=True)


def caption(pair: str) -> str:
    """What the picture of one of tests/sounds shows."""
    return (
        f"{pair} through the running box. Bright is loud, on one scale for all rows. "
        "Between the words the output is dark, as the clean voice is: there the noise was removed."
    )


def table(outcome: Outcome, status: dict[str, Any], latency: dict[str, Any]) -> Table:
    """The result for a reader."""
    made = Table(title=f"live on ALSA, engine {status['engine']}", title_justify="left")
    made.add_column("figure")
    made.add_column("value", justify="right")
    made.add_row("noise removed in the pauses", f"{outcome.noise_removed_db:.1f} dB")
    made.add_row("speech kept (0 dB is all)", f"{outcome.speech_kept_db:+.1f} dB")
    made.add_row("SI-SDR before -> after", f"{outcome.si_sdr_before_db:.1f} -> {outcome.si_sdr_after_db:.1f} dB")
    made.add_row("delay, measured (calculated)", f"{latency['measured_ms']:.1f} ({latency['budget_ms']:.1f}) ms")
    made.add_row("time per 5 ms hop, p50 / p99", f"{status['hop_p50_us']:.0f} / {status['hop_p99_us']:.0f} µs")
    made.add_row("late hops", f"{status['late_hops']}")
    made.add_row("xruns in / out", f"{status['xruns_in']} / {status['xruns_out']}")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description="A noisy recording through the live box on user-space ALSA.")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results (out)")
    parser.add_argument("--pair", default="rain_en_5dB", help="which of tests/sounds (rain_en_5dB)")
    options = parser.parse_args()
    clean, noisy = (
        soundfile.read(SOUNDS / kind / f"{options.pair}.flac", dtype="float32")[0] for kind in ("clean", "noisy")
    )
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"starting the box, then playing {len(noisy) / RATE_HZ:.0f} s in real time ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        try:
            for attempts_left in reversed(range(ATTEMPTS)):
                enhanced, status = play_through_the_box(noisy, Path(folder))
                if not slipped(enhanced, noisy):
                    break
                again = "again" if attempts_left else "the figures below are not reliable"
                print(
                    f"demo: the simulated sound server missed its deadlines, this machine is busy; {again}",
                    file=sys.stderr,
                )
            print("measuring the delay ...", file=sys.stderr)
            latency = measured_latency(Path(folder))
        except NoVirtualSound as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
    soundfile.write(options.out / "enhanced.wav", enhanced, RATE_HZ, "PCM_16")
    picture(options.out / "spectrogram.png", options.pair, clean, noisy, enhanced)
    show(table(judge(clean, noisy, enhanced), status, latency))
    return 0


def settings_file(folder: Path, microphone: str, output: str, clock: str = "shared") -> str:
    """Settings for one run. The rig's two ends share a clock; "own" lets the box believe they do not."""
    path = folder / "quietbox.toml"
    path.write_text(SETTINGS.format(microphone=microphone, output=output, clock=clock))
    return str(path)


def quietbox(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The product's own command, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "edge.cli", *arguments],
        env=os.environ | {"RUNTIME_DIRECTORY": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_until_running(folder: Path, box: subprocess.Popen[str]) -> None:
    status = folder / "status.json"
    over = time.monotonic() + 60
    while not (status.exists() and '"state": "running"' in status.read_text()):
        if box.poll() is not None or time.monotonic() > over:
            raise NoVirtualSound("the box did not start; see its output above")
        time.sleep(0.05)


def _lined_up(heard: Floats, noisy: Floats) -> Floats:
    """Cut what was recorded so that it lies on the recording that was sent."""
    start = _lag(heard, high_passed(noisy))
    return np.pad(heard, (max(0, -start), len(noisy)))[max(0, start) : max(0, start) + len(noisy)]


def slipped(enhanced: Floats, noisy: Floats) -> bool:
    """Whether the thirds of what was recorded lie differently on what was sent: a stand-in sound server whose machine
    was held up skips a period without a word, and neither the box nor its card can know.
    """
    sent, third = high_passed(noisy), len(noisy) // 3
    thirds = [slice(start, start + third) for start in (0, third, 2 * third)]
    return len({_lag(enhanced[part], sent[part]) for part in thirds}) > 1


def _lag(heard: Floats, sent: Floats) -> int:
    """How many samples later than ``sent`` it lies in ``heard``."""
    return int(correlate(heard, sent, "full", "fft").argmax()) - (len(sent) - 1)


def _level_db(sound: Floats) -> float:
    return float(10 * np.log10(np.mean(sound.astype(float) ** 2) + 1e-12))


if __name__ == "__main__":
    run_main(main, "demo")

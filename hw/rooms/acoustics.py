"""Two microphones in a simulated room: what each path of the box removes, alone and together, and what speech is left.

    python -m hw.rooms.acoustics [--quick] [--scene NAME ...] [--json FILE] [--out DIR]

Somebody wears a headset in a furnished office (image sources by pyroomacoustics; Allen & Berkley 1979). The voice
microphone sits at the mouth, the reference microphone on the outside of the ear cup; a machine, a window or a crowd
is an arm's length away. Every scene goes through ``edge.chain`` four times: high-pass only, with the reference
microphone (feedforward), with the network (feedback), with both. Attenuation is taken in the pauses of the speech
against the voice microphone, speech quality against the speech alone through the same chain with nothing switched on.

Speech and one noise are the recordings of tests/sounds; the shipped network has met both in training, so the figures
compare the paths and say little about the network on unknown voices.
The exit status is 1 if both paths together are not better than either alone on a noise that the reference hears, or
anywhere worse than the network alone.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge import UserError
from edge.chain import Chain
from edge.console import run_main
from edge.suppress import open_named
from edge.tools.tables import show
from hw.rooms.ear_cup import EarResult, at_the_ear
from hw.rooms.measures import attenuation_db, best_prediction, measure_mode
from hw.rooms.modes import MODES, processed, settings
from hw.rooms.rendering import check_packages, render, save_sounds
from hw.rooms.scenes import LENGTH_S, QUICK, QUICK_S, SCENES, BadRequest, Scene
from hw.rooms.tables import ear_table, scene_summary, scene_table, without_nan
from hw.rooms.verdicts import EAR_NOISES, Verdict, ear_verdicts, scene_verdicts


def measure_scene(scene: Scene, seconds: float, engine: str, out: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """All modes of one scene, as plain data."""
    sound = render(scene, seconds, seed)
    plain = processed(Chain(settings(MODES[0], engine)), sound.clean, None)
    results, made = {}, {"voice": sound.voice, "speech alone": sound.clean}
    if sound.reference is not None:
        made["reference"] = sound.reference
    for mode in MODES:
        chain = Chain(settings(mode, engine))
        made[mode.name] = output = processed(chain, sound.voice, sound.reference)
        results[mode.name] = asdict(measure_mode(sound, plain, output, chain))
    if out is not None:
        save_sounds(made, out / scene.name.replace(" ", "-"))
    possible = None
    if scene.event not in ("moving", "change") and sound.reference is not None and sound.reference.any():
        left = sound.voice - best_prediction(sound.voice - sound.clean, sound.reference)
        possible = attenuation_db(sound, left)
    return {
        "scene": asdict(scene),
        "speech_at_reference_db": sound.speech_at_reference_db,
        "noise_at_reference_db": sound.noise_at_reference_db,
        "possible_db": possible,
        "modes": results,
    }


def run_scenes(
    scenes: Sequence[Scene], ears: Sequence[str], seconds: float, engine: str, out: Path | None, seed: int, jobs: int
) -> tuple[list[dict[str, Any]], list[EarResult]]:
    """Measure scenes, and noises at the ear, in ``jobs`` processes of one thread each."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    results = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        begun = time.monotonic()
        waiting = [pool.submit(measure_scene, scene, seconds, engine, out, seed) for scene in scenes]
        waiting_ears = [pool.submit(at_the_ear, kind, seconds, seed, out) for kind in ears]
        for scene, task in zip(scenes, waiting, strict=True):
            results.append(task.result())
            print(f"{time.monotonic() - begun:4.0f} s  {scene.name}: {scene.text}", file=sys.stderr)
        return results, [ear.result() for ear in waiting_ears]


def chosen(names: Sequence[str], quick: bool) -> list[Scene]:
    """The scenes by name; raises BadRequest."""
    known = {scene.name: scene for scene in SCENES}
    for name in names:
        if name not in known:
            raise BadRequest(f"no scene is called {name!r}; known: {', '.join(known)}")
    return [known[name] for name in (names or (QUICK if quick else known))]


def main(arguments: list[str] | None = None) -> int:
    """0; 1 if a gate fails; 2 after one line that names the fault."""
    parser = argparse.ArgumentParser(
        "python -m hw.rooms.acoustics", description="Noise reduction of one and two microphones in a simulated room."
    )
    parser.add_argument("--scene", action="append", default=[], metavar="NAME", help="only this scene; may be repeated")
    parser.add_argument("--quick", action="store_true", help=f"four scenes of {QUICK_S:.0f} s")
    parser.add_argument("--engine", choices=("network", "rnn", "dsp"), default="network", help="the feedback path")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the sounds, one subfolder a scene")
    parser.add_argument("--seed", type=int, default=0, help="random seed (0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    wanted = parser.parse_args(arguments)
    try:
        check_packages()
        open_named(settings(MODES[0], wanted.engine))  # the one named is measured, or none
        scenes = chosen(wanted.scene, wanted.quick)
        if wanted.seed < 0 or wanted.jobs < 1:
            raise BadRequest("--seed counts from 0, --jobs from 1")
        if wanted.json and not wanted.json.parent.is_dir():
            raise BadRequest(f"--json: there is no folder {wanted.json.parent}")
        seconds = QUICK_S if wanted.quick else LENGTH_S
        noises = () if wanted.quick or wanted.scene else EAR_NOISES
        results, ears = run_scenes(scenes, noises, seconds, wanted.engine, wanted.out, wanted.seed, wanted.jobs)
        judged = [verdict for result in results for verdict in scene_verdicts(result)]
        judged += [verdict for ear in ears for verdict in ear_verdicts(ear)]
        if wanted.json:
            figures = {"scenes": results, "ears": [*map(asdict, ears)], "verdicts": [*map(asdict, judged)]}
            wanted.json.write_text(json.dumps(without_nan(figures), indent=1) + "\n")
    except (UserError, OSError) as reason:
        print(f"acoustics: {reason}", file=sys.stderr)
        return 2
    print_results(results, ears, judged)
    return 0 if all(verdict.passed for verdict in judged) else 1


def print_results(results: Sequence[dict[str, Any]], ears: Sequence[EarResult], judged: Sequence[Verdict]) -> None:
    """Tables, a line a scene, a line a verdict."""
    show(scene_table(results))
    if ears:
        show(ear_table(ears))
    for result in results:
        print(scene_summary(result))
    for verdict in judged:
        print(f"{'ok  ' if verdict.passed else 'FAIL'}  {verdict.scene}: {verdict.gate} ({verdict.figures})")


if __name__ == "__main__":
    run_main(main, "acoustics")

"""Results as tables, as a line of text and as JSON."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from hw.rooms.ear_cup import LOOP_S, EarResult
from hw.rooms.measures import BANDS_HZ, recovery_s
from hw.rooms.scenes import CHANGE_S, TAIL_S


def scene_table(results: Sequence[dict[str, Any]]) -> Table:
    """One block of rows a scene."""
    made = Table(title="Attenuation in speech pauses (dB, by Hz) and quality of the speech", title_justify="left")
    for name in ("scene", "paths", *BANDS_HZ, "PESQ", "STOI", "SI-SDR", "reference"):
        made.add_column(name, justify="left" if name in ("scene", "paths", "reference") else "right")
    for result in results:
        scene = result["scene"]["name"]
        for name, mode in result["modes"].items():
            bands = [_number(db, 1) for db in mode["attenuation_db"].values()]
            state = mode["state"] + (f", {mode['resets']} resets" if mode["resets"] else "")
            quality = (_number(mode[key], digits) for key, digits in (("pesq", 2), ("stoi", 3), ("si_sdr_db", 1)))
            made.add_row(scene, name, *bands, *quality, state)
            scene = ""
        if result["possible_db"]:
            made.add_row("", "(possible)", *(_number(db, 1) for db in result["possible_db"].values()), "", "", "", "")
        made.add_section()
    return made


def ear_table(ears: Sequence[EarResult]) -> Table:
    """One row a noise."""
    title = f"Anti-noise at the ear, {1000 * LOOP_S:.0f} ms behind (dB quieter)"
    made = Table(title=title, title_justify="left")
    for name in ("noise", "cancelled tones", "all of it", "upper bound of any filter with this delay"):
        made.add_column(name, justify="right" if name == "all of it" else "left")
    for ear in ears:
        tones = ", ".join(f"{hz} Hz: {db:.1f}" for hz, db in ear.tones_db.items())
        made.add_row(ear.noise, tones or "none", f"{ear.all_db:.1f}", f"{ear.broadband_possible_db:.1f}")
    return made


def scene_summary(result: dict[str, Any]) -> str:
    """One line beside the table."""
    scene = result["scene"]
    line = f"{scene['name']}: {scene['text']}; at the reference {result['noise_at_reference_db']:+.1f} dB of noise"
    if result["speech_at_reference_db"] > -60:
        line += f" and {result['speech_at_reference_db']:+.1f} dB of speech"
    course = result["modes"]["feedforward"]["course_db"]
    if scene["event"] == "talk":
        line += f"; feedforward removes {np.mean(course[1 : -math.ceil(TAIL_S)]):.1f} dB of the noise during speech"
    if scene["event"] == "change" and len(course) > CHANGE_S + 1:
        change = int(CHANGE_S)
        before = float(np.mean(course[change - 3 : change]))
        line += f"; feedforward {before:.1f} dB before the change, {course[change]:.1f} dB in the second after it, "
        line += f"back within 3 dB after {recovery_s(course):.0f} s"
    return line


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def without_nan(value: Any) -> Any:
    """The same with null for what JSON cannot express: NaN and infinity."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

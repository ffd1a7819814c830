"""What must hold for every scene and for anti-noise at the ear."""

from dataclasses import dataclass
from typing import Any

from hw.rooms.ear_cup import EarResult

WORSE_PESQ = 0.02
EAR_NOISES, STEADY_NOISES = ("fan", "engine", "traffic", "white"), ("fan",)
STEADY_DB, LOUDER_DB = 10.0, 0.1


@dataclass(frozen=True)
class Verdict:
    """One gate on one scene."""

    scene: str
    gate: str
    passed: bool
    figures: str


def scene_verdicts(result: dict[str, Any]) -> list[Verdict]:
    """The gates of one measured scene."""
    scene, modes = result["scene"]["name"], result["modes"]
    both, network, feedforward = modes["both"], modes["network"], modes["feedforward"]
    made = []
    if result["scene"]["correlated"]:
        for name, value, digits in (
            ("attenuation", lambda mode: mode["attenuation_db"]["all"], 1),
            ("PESQ", lambda mode: mode["pesq"], 2),
        ):
            together, alone = value(both), [value(feedforward), value(network)]
            figures = f"{together:.{digits}f} against {alone[0]:.{digits}f} and {alone[1]:.{digits}f}"
            made.append(Verdict(scene, f"both exceed either alone: {name}", together > max(alone), figures))
    least = network["pesq"] - WORSE_PESQ
    figures = f"{both['pesq']:.3f} against {network['pesq']:.3f}"
    made.append(Verdict(scene, f"PESQ not {WORSE_PESQ} below the network", both["pesq"] >= least, figures))
    return made


def ear_verdicts(ear: EarResult) -> list[Verdict]:
    """Steady tones become quieter, and nothing becomes louder."""
    place = f"at the ear, {ear.noise}"
    made = [Verdict(place, "not louder", ear.all_db > -LOUDER_DB, f"{ear.all_db:.2f} dB quieter")]
    if ear.noise in STEADY_NOISES:
        least = min(ear.tones_db.values(), default=0.0)
        figures = f"{least:.1f} dB of {len(ear.tones_db)} tones"
        made.append(Verdict(place, f"every steady tone {STEADY_DB:.0f} dB quieter", least >= STEADY_DB, figures))
    return made

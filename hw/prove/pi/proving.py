"""Inside the machine: what every proof uses. The verdict, the speech, the speaker and the eye on the LED."""

from pathlib import Path

import soundfile
import stage
from stage import status

from edge.dsp.spectrum import Floats

SHARE = Path("/share")
PAIR = "rain_en_5dB"
BACK_S = 3.0
"""The box has to be back this long after a card is plugged in again or its process was killed."""

speaker: stage.Speaker
led: stage.Led
"""Both are made once, by ``proofs.main``."""


class Failed(Exception):
    """The proof did not hold; the text has what was measured."""


def check(holds: bool, words: str) -> str:
    """``words`` if it holds; raises Failed with them if not."""
    if not holds:
        raise Failed(words)
    return words


def pair() -> tuple[Floats, Floats]:
    """(clean, noisy) speech, 16 kHz."""
    clean, noisy = (
        soundfile.read(SHARE / "sounds" / kind / f"{PAIR}.flac", dtype="float32")[0] for kind in ("clean", "noisy")
    )
    return clean, noisy


def xruns() -> tuple[int, int, int]:
    report = status()
    return report["xruns_in"], report["xruns_out"], report["dropped_hops"]

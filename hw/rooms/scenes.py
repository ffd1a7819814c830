"""The simulated office: where everything stands, how loud it is, and which scenes there are."""

from dataclasses import dataclass

from edge import UserError
from edge.dsp.spectrum import Floats

Point = tuple[float, float, float]
"""x, y, z in metres."""


ROOM_M: Point = (5.0, 4.0, 2.7)
RT60_S = 0.25
"""Carpet, shelves, curtains."""
MOUTH: Point = (2.5, 2.0, 1.2)
VOICE: Point = (2.53, 2.02, 1.19)
"""The voice microphone on its boom, 4 cm from the lips."""
CUP: Point = (2.40, 2.12, 1.27)
"""The reference microphone on the cup, 17 cm from the lips."""
NOISE: Point = (2.2, 2.8, 1.2)
"""0.9 m from the mouth, on the side of the reference, which hears it 0.5 ms earlier than the voice microphone."""
AT_THE_NOISE: Point = (2.25, 2.66, 1.2)
"""A reference microphone on a wire, 15 cm from the noise."""
NEW_PLACE: Point = (1.9, 2.6, 1.3)
"""Where the noise comes from after the change: 37 cm away."""
FAR_SIDE: Point = (2.9, 1.2, 1.2)
"""The voice microphone hears this one first."""
AROUND = 12
"""Independent sources, 1.7 m from the head all around: nearly a diffuse field."""
SWAY_M, SWAY_S, SWAY_STEP_M = 0.1, 10.0, 0.006
"""The moving talker: head and headset go this far to either side, to and fro in this time, in steps below a quarter
of the shortest wave."""
HEAD_SHADOW_DB = 4.0
"""Mouths speak forwards and the head is in between: off the speech at the cup, beside what distance does."""
SPEECH_DBFS = -26.0
SNR_DB = 5.0
"""Speech against noise at the voice microphone, both as mean power."""
SELF_NOISE_DBFS = -80.0
"""Of each microphone, white and its own."""
LEAD_S, LENGTH_S, QUICK_S = 3.0, 20.0, 8.0
"""Noise alone at first; the whole scene; a scene of --quick."""
CHANGE_S = 10.0
TAIL_S = 1.0
"""Where speech has no pauses, the attenuation is taken in the noise after it."""


class BadRequest(UserError):
    """Something the user can fix; the text is one line."""


@dataclass(frozen=True)
class Scene:
    """Which noise, where, and what happens meanwhile."""

    name: str
    noise: str
    text: str
    event: str = ""
    reference: str = "cup"
    correlated: bool = True
    """Whether the reference hears the noise, so that both paths must beat either alone."""


SCENES = (
    Scene("white", "white", "random numbers"),
    Scene("engine", "engine", "92 Hz and harmonics, slowly wandering, over a rush"),
    Scene("traffic", "traffic", "falling from 300 Hz on, cars coming and going"),
    Scene("babble", "babble", "eight voices from one place"),
    Scene("brook", "brook", "running water, a recording"),
    Scene("at the machine", "engine", "the reference on a wire, 15 cm from the engine", reference="machine"),
    Scene("moving talker", "engine", "the head sways 10 cm to either side in 10 s", event="moving"),
    Scene("path change", "engine", "the engine is 37 cm elsewhere after 10 s", event="change"),
    Scene("double talk", "engine", "speech without pauses, from the first moment on", event="talk"),
    Scene("one talker", "talker", "a single competing voice"),
    Scene("far side", "engine", "the voice microphone hears the engine first", event="far", correlated=False),
    Scene("diffuse", "traffic", "twelve independent sources all around", event="around", correlated=False),
    Scene("elsewhere", "engine", "the reference hears another engine", reference="elsewhere", correlated=False),
    Scene("swapped", "engine", "the two microphones swapped", reference="swapped", correlated=False),
    Scene("dead", "engine", "the reference is silent", reference="dead", correlated=False),
    Scene("none", "engine", "no reference signal", reference="none", correlated=False),
)
QUICK = ("engine", "babble", "elsewhere", "none")


@dataclass(frozen=True)
class Sound:
    """float32 of one length, ±1.0. ``voice`` is ``clean`` and noise; ``reference`` the other microphone."""

    voice: Floats
    clean: Floats
    reference: Floats | None
    lead_samples: int
    speech_at_reference_db: float
    """Against the speech at the voice microphone."""
    noise_at_reference_db: float

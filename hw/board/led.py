"""What the LED shows, and how bright it is at each moment.

| light | the box |
|---|---|
| lit | passes speech on |
| a short flash every three seconds | listens, nobody speaks |
| dim | bypass: everything passes, noise too |
| dark | muted, or without power |
| slow blinking | waits for a sound card |
| fast blinking | fault |

A light that stayed dark until somebody speaks would look like a muted one; a faint glow would look like dim, and
flickers under a PWM made by software. Hence the short flash: "on", seen within three seconds, not to be mistaken.
"""

from enum import Enum

DIM = 0.15
"""Share of the time a dim LED is lit; to the eye, whose response is about a cube root, half as bright."""
SLOW_S, FAST_S = 1.0, 0.1
"""How long a blinking LED is lit, and then dark."""
FLASH_EVERY_S, FLASH_S = 3.0, 0.04


class LedPattern(Enum):
    """What the LED shows."""

    OFF = "muted"
    DIM = "bypass"
    DARK = "running, nobody speaks"
    LIT = "speech"
    SLOW = "waiting"
    FAST = "fault"


def brightness(pattern: LedPattern, since_s: float) -> float:
    """0 to 1: how bright the LED is ``since_s`` after it began to show this pattern."""
    match pattern:
        case LedPattern.LIT:
            return 1.0
        case LedPattern.DIM:
            return DIM
        case LedPattern.SLOW:
            return float(since_s % (2 * SLOW_S) < SLOW_S)
        case LedPattern.FAST:
            return float(since_s % (2 * FAST_S) < FAST_S)
        case LedPattern.DARK:
            # It begins dark, so that pauses between words do not sparkle.
            return float(since_s % FLASH_EVERY_S >= FLASH_EVERY_S - FLASH_S)
        case LedPattern.OFF:
            return 0.0

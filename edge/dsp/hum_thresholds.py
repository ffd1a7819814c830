"""What decides which lines are mains hum, and how closely they are tracked."""

import math
from dataclasses import dataclass

from edge.dsp.thresholds import threshold

_TESTS = "chosen: on synthetic hum, rooms, voices and music; `pytest tests/dsp/test_hum.py` holds the results"
_SPEECH = "tuned: real speech with added hum; `pytest tests/dsp/test_hum.py` holds the results"


@dataclass(frozen=True)
class HumThresholds:
    """A phasor is one harmonic in one frame; coherence is the length of the mean of unit phasors, 0 to 1.

    Frames of random phase reach a coherence c with probability exp(-N c^2), N the number of independent ones (Rayleigh
    test), so mains is assumed only where two harmonics do.
    """

    # search
    search_harmonics: int = threshold(10, "1", "harmonics searched, from the first", _TESTS)
    search_range_hz: float = threshold(
        0.6, "Hz", "largest deviation from 50 or 60 Hz", "cited: EN 50160 allows 1 %, 0.5 Hz"
    )
    search_step_hz: float = threshold(
        0.02,
        "Hz",
        "step of the search",
        "derived: half a step turns the tenth harmonic by a quarter period in 2.4 s; its phasors still add up",
    )
    min_frames: int = threshold(20, "1", "frames heard before a search", "derived: a sung note ends before 2 s")
    min_quiet_frames: float = threshold(5.0, "1", "sum of the frames' quietness, each 0 to 1", _TESTS)
    coherence_found: float = threshold(0.7, "1", "coherence of a harmonic that begins", _TESTS)
    max_scatter: float = threshold(0.03, "1", "variance of a line over its power; vibrato scatters more", _TESTS)
    min_line_over_noise: float = threshold(4.0, "1", "power of a line over that beside it", _TESTS)
    max_hum_dbfs: float = threshold(
        -30.0, "dBFS", "level of all lines together", "chosen: louder lines are music or a voice"
    )

    # tracking
    coherence_joins: float = threshold(0.55, "1", "coherence at which a further harmonic is removed", _TESTS)
    coherence_lost: float = threshold(0.4, "1", "coherence at which a harmonic is no longer removed", _TESTS)
    max_deviation_hz: float = threshold(
        1.0, "Hz", "deviation from 50 or 60 Hz at which tracking ends", "derived: search_range_hz and a margin"
    )
    frequency_step_hz: float = threshold(
        0.0015,
        "Hz",
        "standard deviation of the frequency's random walk from frame to frame (Kalman)",
        "tuned: real mains drifts by some mHz per second",
    )
    initial_phase_variance: float = threshold(1e-4, "rad^2", "error variance of the phase at the lock", _SPEECH)
    initial_frequency_variance: float = threshold(1e-4, "Hz^2", "error variance of the frequency at the lock", _SPEECH)
    phase_step_variance: float = threshold(1e-6, "rad^2", "growth of the phase's variance per frame", _SPEECH)
    phase_noise: float = threshold(1e-6, "rad^2", "added to the variance of every measured phase", _SPEECH)
    averaging_s: float = threshold(
        2.5, "s", "time constant of amplitudes and coherence", "derived: spans several pauses of speech"
    )
    gone_power: float = threshold(0.25, "1", "power over the expected one below which a line has ended", _SPEECH)
    gone_noise: float = threshold(0.1, "1", "power beside it over the expected one, at most, to conclude that", _SPEECH)
    gone_kept: float = threshold(0.3, "1", "share of the average kept per frame once a line has ended", _SPEECH)
    unsteadiness: float = threshold(
        1e-3,
        "1",
        "variance of a line over its power, at least",
        "chosen: -30 dB; keeps a very quiet frame from outweighing all others",
    )
    max_outlier: float = threshold(
        30.0,
        "1",
        "largest factor on a frame's variance for a line that looks too strong",
        "chosen: hum that grew looks like a voice on the line, and must be followed after a while",
    )
    output_share: float = threshold(
        0.1, "1", "share per hop by which the removed amplitude follows", "chosen: harmonics come and go within 50 ms"
    )

    @property
    def max_hum_power(self) -> float:
        """``max_hum_dbfs`` as a mean square."""
        return 10 ** (self.max_hum_dbfs / 10)

    def kept_per_frame(self, frame_s: float) -> float:
        """The factor per frame of a decay with ``averaging_s``."""
        return math.exp(-frame_s / self.averaging_s)

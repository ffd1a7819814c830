"""All constants of the reference canceller and of its check of the channels."""

from dataclasses import dataclass

from edge.dsp.thresholds import threshold

_ROOMS = "tuned: rooms and noises of `python -m hw.rooms.acoustics`"
_SWAPPED = "tuned: right and swapped channels in 6 noises, `python -m hw.rooms.swapped`"
_TESTS = "tuned: `pytest tests/dsp/test_reference.py`"


@dataclass(frozen=True)
class ReferenceThresholds:
    """Speech probabilities are 0 to 1; levels for comparisons are powers of differences (``edge.dsp.power``)."""

    # learning
    quiet_speech: float = threshold(0.2, "1", "speech probability up to which learning is at full speed", _ROOMS)
    held_speech: float = threshold(0.5, "1", "speech probability from which on the path is held", _ROOMS)
    clipped_level: float = threshold(
        0.999, "1", "level of full scale from which on a sample is clipped", "derived: full scale of 16 bits is 0.99997"
    )
    fit_forgetting: float = threshold(
        0.9, "1", "forgetting factor of the fit in pauses, each hop", "derived: 50 ms, shorter than a pause"
    )
    fit_forgetting_speech: float = threshold(
        0.985, "1", "the same in speech, which hides the fit", "derived: 330 ms, longer than a syllable"
    )
    attenuation_forgetting: float = threshold(
        0.995, "1", "forgetting factor of the reported attenuation, each hop", "chosen: 1 s, readable"
    )
    full_fit: float = threshold(
        0.8, "1", "fit that counts as a full one: no estimate over a few hops is better", _ROOMS
    )
    lost_fit: float = threshold(0.4, "1", "fit below which the path has changed", _ROOMS)
    found_fit: float = threshold(0.9, "1", "fit from which on a lost path is found again", _ROOMS)
    search_ms: float = threshold(2000.0, "ms", "but not sooner: the little that is learnt first fits, too", _ROOMS)
    masked_ratio: float = threshold(
        10.0,
        "1",
        "power of the voice channel over the prediction's from which on the fit is meaningless",
        "derived: 10 dB, an error of the fit of a third",
    )
    worse_ratio: float = threshold(
        1.25, "1", "power with over power without subtraction of a path that is wrong", "chosen: 1 dB, just audible"
    )
    worse_ms: float = threshold(60.0, "ms", "time after which such a path is forgotten", _TESTS)
    relevant_share: float = threshold(
        0.1, "1", "share of the power that a prediction must have for its misfit to matter", "derived: 10 dB below it"
    )
    expect_change_ms: float = threshold(
        2000.0, "ms", "least time between two restarts of the step size", "derived: a path is learnt within 2 s"
    )

    # dead or copied channel
    certain_ms: float = threshold(
        1000.0, "ms", "a fault, or its end, lasts so long before it counts", "chosen: no pause of a converter is longer"
    )
    silent_power: float = threshold(
        1e-11, "1", "mean square below which a channel is dead", "derived: -110 dBFS, below the last of 16 bits"
    )

    # swapped channels, by how far speech stands out
    speech: float = threshold(0.8, "1", "speech probability from which on a hop is speech", _SWAPPED)
    pause: float = threshold(0.3, "1", "speech probability below which a hop is a pause", _SWAPPED)
    least_speech_ms: float = threshold(1500.0, "ms", "speech before levels are compared", _SWAPPED)
    least_pause_ms: float = threshold(300.0, "ms", "pauses before levels are compared", _SWAPPED)
    swapped_ratio: float = threshold(
        2.0, "1", "rise of speech at the reference over that at the voice: swapped", "chosen: 3 dB, twice the power"
    )
    right_ratio: float = threshold(1.0, "1", "the same ratio: right again", "chosen: 0 dB, a hysteresis of 3 dB")
    least_rise: float = threshold(
        0.4,
        "1",
        "power of speech over that of pauses less one, that counts as a rise",
        "chosen: 1.5 dB, half of the ratio above",
    )

    # swapped channels, by who hears the speech
    settle_ms: float = threshold(
        1000.0, "ms", "speech probabilities are ignored so long after listening began", _SWAPPED
    )
    least_alone_ms: float = threshold(3000.0, "ms", "speech that only the reference hears", _SWAPPED)
    alone_ratio: float = threshold(10.0, "1", "and over what only the voice channel hears", _SWAPPED)
    alone_share: float = threshold(0.2, "1", "and of all that the reference hears", _SWAPPED)
    enough_ms: float = threshold(15_000.0, "ms", "speech after which listening ends", _SWAPPED)
    longest_listening_ms: float = threshold(60_000.0, "ms", "listening ends after this", "chosen: costs CPU time")
    idle_listening_ms: float = threshold(10_000.0, "ms", "and after this without speech", "chosen: costs CPU time")

    # a reference that swings as speech does
    moment_ms: float = threshold(100.0, "ms", "one measurement of level", "derived: half a syllable")
    moments: int = threshold(20, "1", "loud and quiet moments before the swing is known", _TESTS)
    usual_share: float = threshold(0.02, "1", "share of a moment in the usual level", "derived: 5 s, a sentence")
    loud_ratio: float = threshold(1.2, "1", "power over the usual from which on a moment is loud", _TESTS)
    quiet_ratio: float = threshold(0.6, "1", "power over the usual below which a moment is quiet", _TESTS)
    swing: float = threshold(
        6.0, "1", "power of loud over quiet moments less one, from which on a reference is suspected", _TESTS
    )
    swing_ratio: float = threshold(1.8, "1", "its swing over the voice channel's", _TESTS)
    pause_for_speech_ms: float = threshold(
        5000.0, "ms", "the canceller pauses so long to hear whether that is speech", "derived: one or two sentences"
    )

    # trust after a check without a fault
    trust_ms: float = threshold(60_000.0, "ms", "no check for so long, doubled each time", "chosen: costs CPU time")
    longest_trust_ms: float = threshold(3_600_000.0, "ms", "at most", "chosen: cables are swapped rarely")

    # whose voice it is
    level_share: float = threshold(0.1, "1", "share of a hop in the smoothed level", "derived: 50 ms, a syllable")
    level_floor: float = threshold(1e-9, "1", "added to levels", "derived: sum of 79 squared differences, -105 dBFS")
    level_settle_ms: float = threshold(
        50.0, "ms", "ignored at the start: one microphone hears before the other does", "derived: the smoothing time"
    )
    least_block_ms: float = threshold(
        500.0, "ms", "resolution of the memory of the lowest ratio", "chosen: a twentieth of it"
    )
    least_blocks: int = threshold(
        20, "1", "length of that memory in blocks: 10 s", "derived: speech pauses within 10 s"
    )
    lift_db: float = threshold(3.0, "dB", "ratio over its lowest at which a voice begins to be the wearer's", _ROOMS)
    lift_range_db: float = threshold(1.5, "dB", "and over that it certainly is", _ROOMS)

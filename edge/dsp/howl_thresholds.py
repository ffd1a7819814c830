"""All constants of the howl guard, of the feedback path's estimate and of the notches."""

from dataclasses import dataclass

from edge.dsp.thresholds import threshold

_LOOPS = "tuned: simulated loops with seeds below 30000, `python -m hw.rooms.feedback_loop --loops 24`"
_NETWORK = "tuned: the same with the network in the loop, `python -m hw.rooms.feedback_loop --engine network`"
_SOUNDS = "tuned: sounds without a loop, `python -m hw.rooms.feedback_loop --without FOLDER`"


@dataclass(frozen=True)
class HowlThresholds:
    """Powers are of the differences between samples (``edge.dsp.power``) unless stated otherwise."""

    # the estimate of the feedback path
    average_ms: float = threshold(
        2000.0,
        "ms",
        "averaging time of the steady estimate",
        "derived: a vowel lasts 0.1 to 0.3 s, so ten of them are averaged and their bias cancels",
    )
    initial_variance: float = threshold(
        0.1, "1", "error variance of every partition", "chosen: buffers decide the delay, no partition is likelier"
    )
    drift_variance: float = threshold(
        1e-4,
        "1",
        "growth of the error variance each hop: a headphone is taken off at any time, also after an hour",
        "tuned: loops that close later, `python -m hw.rooms.feedback_loop --closes-s 3`",
    )
    ignored_below_hz: float = threshold(
        150.0,
        "Hz",
        "nothing below is subtracted: what seems to return there is the voice itself",
        "derived: the pitch of men lies below it, and no headphone closes a loop there",
    )
    complete_from_hz: float = threshold(
        300.0, "Hz", "from here on all of the estimate is subtracted", "derived: one octave of transition"
    )
    refresh_ms: float = threshold(
        200.0, "ms", "how often the subtracted filter is taken from the average", "chosen: a tenth of the average"
    )

    # suspicion
    memory_ms: float = threshold(
        100.0, "ms", "time over which explained powers are summed; levels over twice as much", _LOOPS
    )
    explained_db: float = threshold(
        0.4, "dB", "mean over all bands that our output must explain to suspect a feedback loop", _NETWORK
    )
    explained_again_db: float = threshold(
        1.0,
        "dB",
        "the same while the path is subtracted: what is left of the path still explains a little",
        _NETWORK,
    )
    ringing_ratio: float = threshold(
        2.0,
        "1",
        "explained and unexplained power together over the unexplained, for an output at the limiter",
        "derived: half of the microphone is our output",
    )
    returned_ratio: float = threshold(
        0.9,
        "1",
        "power at the microphone over power played, if the box amplifies nothing; below it the loop is open",
        "derived: at the limit of stability it is at least 1; 0.5 dB of tolerance",
    )
    loud_ratio: float = threshold(
        0.9,
        "1",
        "level over the lowest steady level that the limiter lets out: from there on the output stands at the limiter",
        "chosen: 1 dB of tolerance",
    )
    clipping_level: float = threshold(
        0.72,
        "1",
        "level of full scale at which the microphone limits the loop, where the volume keeps it from the limiter",
        "derived: what ``loud_ratio`` gives for the default limiter, -2 dBFS",
    )
    quietest_power: float = threshold(
        1e-6, "1", "power at the microphone below which nothing is tested", "chosen: -60 dBFS, too quiet to disturb"
    )
    faintest_path_db: float = threshold(
        -3.0, "dB", "highest gain of the quick estimate below which no loop is suspected", _LOOPS
    )

    # gain-drop test
    drop_db: float = threshold(
        12.0, "dB", "gain drop of a test", "derived: opens a loop up to 12 dB above the limit of stability"
    )
    largest_drop_db: float = threshold(30.0, "dB", "largest gain drop in all", "chosen: speech is still heard")
    counted_ms: float = threshold(50.0, "ms", "hops that must tell the two predictions apart", _SOUNDS)
    longest_test_ms: float = threshold(
        100.0, "ms", "a test ends this long after the longest path", "chosen: twice the counted time"
    )
    reached_share: float = threshold(
        0.3, "1", "share of the prediction's power that must be due to the drop for a hop to count", _LOOPS
    )
    present_share: float = threshold(
        0.5, "1", "share of the microphone's power that the prediction must be for a hop to count", _LOOPS
    )
    follows_db: float = threshold(0.4, "dB", "a loop: explained by what was really played, mean over all bands", _LOOPS)
    ahead_db: float = threshold(0.8, "dB", "a loop: more than explained by the prediction without the drop", _SOUNDS)
    open_path_db: float = threshold(
        -2.0, "dB", "highest gain of the quick estimate below which a loop cannot howl", _LOOPS
    )
    held_share: float = threshold(
        0.3, "1", "held tone: at most this share of power is left by the prediction without the drop", _SOUNDS
    )
    one_tone_share: float = threshold(
        0.8, "1", "loop at one tone: at most this share of power is left by the prediction with the drop", _LOOPS
    )
    one_tone_ratio: float = threshold(
        3.0, "1", "loop at one tone: the prediction without the drop leaves at least so many times that", _SOUNDS
    )
    ended_share: float = threshold(
        0.1,
        "1",
        "share of the power before the test: less is left where a voice stopped and an open loop rang out meanwhile",
        "chosen: 10 dB, a voice that continues loses less",
    )

    # low-gain verification
    verification_drop_db: float = threshold(
        7.0, "dB", "gain drop meanwhile", "derived: opens a loop 6 dB above the limit, with 1 dB of margin"
    )
    round_ms: float = threshold(1000.0, "ms", "sound heard before each decision", _NETWORK)
    rounds: int = threshold(3, "1", "decisions at most", _NETWORK)
    known_db: float = threshold(
        0.15,
        "dB",
        "a loop: explained after the first round; divided by the round's number, since more sound is surer",
        _NETWORK,
    )
    unknown_db: float = threshold(
        0.03, "dB", "no loop: explained less than this, after one round only if the path is open, too", _NETWORK
    )
    tone_path_db: float = threshold(
        10.0,
        "dB",
        "highest gain of the steady estimate above which it is a tone that the suppressor removes",
        "derived: such a loop would have howled long before",
    )

    # time between two tests
    retry_ms: float = threshold(
        200.0, "ms", "pause after a test that found no loop, doubled with each one after it", _SOUNDS
    )
    longest_retry_ms: float = threshold(60_000.0, "ms", "longest pause", "chosen: one dip a minute is tolerable")
    forgiven_share: float = threshold(
        0.05, "1", "of a hop by which the pause shortens with each hop without a test", _SOUNDS
    )
    patient_ratio: float = threshold(
        3.0,
        "1",
        "pause over its shortest from which on no verification follows",
        "derived: reached after two tests without a loop",
    )

    # margin after an event
    hold_ms: float = threshold(100.0, "ms", "gain drop held after an event", "derived: the longest default path")
    release_db_s: float = threshold(8.0, "dB/s", "speed at which the gain returns", _LOOPS)
    first_margin_db: float = threshold(
        10.0,
        "dB",
        "margin after the first event: the estimate leaves up to 6 dB of the path at frequencies hardly heard yet",
        _LOOPS,
    )
    margin_step_db: float = threshold(3.0, "dB", "more with each further event", _LOOPS)
    largest_margin_db: float = threshold(19.0, "dB", "largest margin", "derived: 10 dB and three further events")
    above_path_db: float = threshold(
        1.0, "dB", "least margin above the estimated path's own gain, soon after an event", _LOOPS
    )
    forget_db_s: float = threshold(
        0.02, "dB/s", "speed at which the margin is given back", "derived: from 10 to 3 dB in six minutes"
    )
    least_margin_db: float = threshold(
        3.0, "dB", "margin against ringing while the path is subtracted", "chosen: half the usual gain margin of 6 dB"
    )
    recent_ms: float = threshold(
        10_000.0, "ms", "an event so soon after another places a notch", "chosen: subtraction alone was not enough"
    )

    # end of the subtraction
    useful_share: float = threshold(
        0.9, "1", "share of the power that must be left at most for the subtraction to be useful", _LOOPS
    )
    idle_ms: float = threshold(
        60_000.0, "ms", "subtraction ends after so long without use", "chosen: longer than pauses of speech"
    )

    # notches
    notches: int = threshold(4, "1", "notches at a time", "chosen: each costs a row of every hop's work")
    notch_width: float = threshold(
        1 / 12, "1", "width over frequency", "derived: a ninth of an octave; a third would be heard in the voice"
    )
    narrowest_notch_hz: float = threshold(
        50.0, "Hz", "least width", "derived: wider than the error of the peak's frequency, 16 Hz"
    )
    notch_fade_ms: float = threshold(50.0, "ms", "time in which a notch opens and closes", "chosen: inaudible")
    notch_kept_ms: float = threshold(20_000.0, "ms", "life of a notch", "chosen: twice the time of a recent event")
    peak_db: float = threshold(
        15.0, "dB", "height of a peak over its surroundings for a notch", "tuned: `pytest tests/dsp/test_howl.py`"
    )

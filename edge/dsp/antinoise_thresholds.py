"""All constants of anti-noise: of the search for tones and of their cancellation."""

from dataclasses import dataclass

from edge.dsp.thresholds import threshold

_TONES = "tuned: wandering tones, `python -m hw.rooms.anti_noise_bound`"
_TESTS = "tuned: `pytest tests/dsp/test_antinoise.py`"


@dataclass(frozen=True)
class AntiNoiseThresholds:
    """Amplitudes are of full scale; a measurement is the Kalman step of all tones."""

    # the search for tones
    frame_samples: int = threshold(8192, "1", "samples of a spectrum: 512 ms", "derived: bins of 2 Hz, as tones wander")
    frame_ms: float = threshold(250.0, "ms", "time between two spectra", "derived: Hann frames overlap by half")
    frame_share: float = threshold(
        1 / 8, "1", "share of a spectrum in the averages", "derived: 2 s, the averaging time"
    )
    coherence: float = threshold(
        0.8, "1", "length of the mean rotation over the mean power of a tone", "derived: 1 for a line, 1/6 for noise"
    )
    prominence_db: float = threshold(12.0, "dB", "height over the quieter side", _TESTS)
    confirmations: int = threshold(8, "1", "spectra in a row with the tone", "derived: the averaging time, 2 s")
    side_bins: int = threshold(
        12, "1", "bins to either side, the nearest three left out", "chosen: 23 Hz, less than an octave at 40 Hz"
    )
    quietest_power: float = threshold(1e-8, "1", "power of a tone worth an answer", "derived: -80 dBFS")
    candidates: int = threshold(16, "1", "tones reported at most", "derived: twice the highest number of tones")

    # measuring a tone
    window_ms: float = threshold(120.0, "ms", "sine-squared window of a measurement", "derived: 17 Hz of resolution")
    measure_ms: float = threshold(30.0, "ms", "time between two measurements", "derived: a quarter of the window")
    apart_hz: float = threshold(17.0, "Hz", "least distance of two tones", "derived: the window's resolution")
    listen_ms: float = threshold(
        360.0, "ms", "a new tone is measured so long before anything is played", "derived: three windows"
    )
    tone_walk: float = threshold(0.1, "1", "change of a tone from one measurement to the next", _TONES)
    path_walk: float = threshold(0.06, "1", "the same of the path: delays between two clocks wander", _TESTS)
    path_deviation: float = threshold(
        0.5, "1", "standard deviation of the calibrated path", "chosen: a headphone that sits differently, 6 dB"
    )
    path_return: float = threshold(
        0.98,
        "1",
        "exponent with which a path's loudness returns to the calibrated one",
        "derived: a time constant of 1.5 s",
    )
    measurement_error: float = threshold(
        0.02, "1", "share of the tone by which a measurement errs at least", "chosen: 34 dB, more than is attainable"
    )
    initial_noise: float = threshold(
        0.1, "1", "share of a new tone's power in the measurement's noise", "derived: a tone stands out by 12 dB"
    )
    certain_ratio: float = threshold(
        4.0, "1", "power over noise from which on a tone's rotation corrects its frequency", "derived: 6 dB, 30 degrees"
    )
    noise_share: float = threshold(0.1, "1", "share of a measurement in mean powers", "derived: ten of them, 0.3 s")
    frequency_share: float = threshold(0.05, "1", "share of the measured frequency error that is corrected", _TONES)
    path_limit: float = threshold(
        3.0,
        "1",
        "largest ratio of the path's loudness to the calibrated one, or inverse",
        "chosen: 10 dB, a shifted cup",
    )

    # playing
    follow_share: float = threshold(
        0.15, "1", "share of the difference to the wanted amplitude, each hop", "derived: 30 ms, one measurement"
    )

    # giving up a tone
    too_loud_ratio: float = threshold(
        2.0, "1", "amplitude over the loudest that can be played at which a tone is ignored", "chosen: half of it, 6 dB"
    )
    faintest: float = threshold(1e-4, "1", "amplitude below which a tone is gone", "derived: -80 dBFS, inaudible")
    lost_ms: float = threshold(2000.0, "ms", "a tone is gone so long before it is given up", _TESTS)
    louder_ratio: float = threshold(
        1.3, "1", "power with anti-noise over power without that is worse", "derived: 1 dB, just audible"
    )
    first_ratio: float = threshold(
        2.0, "1", "the same over the power before anything was played", "chosen: 3 dB, whatever the model predicts"
    )
    worse_ms: float = threshold(1000.0, "ms", "a tone is worse so long before it is given up", _TESTS)
    rejected_ms: float = threshold(10_000.0, "ms", "and then left alone so long", "chosen: one attempt every 10 s")
    outside_hz: float = threshold(2.0, "Hz", "a tone may leave the range of the settings by this", "derived: one bin")

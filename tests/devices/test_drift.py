"""Two crystals, one queue: microphone and jack clocks apart, steered through the real resampler.

``Jack`` is the simulated world: every hop of the microphone's clock the loop reads the queue, steers, converts 80
samples and writes them; the jack drains in its own time and shows it only in 10 ms steps. What is judged is the true
queue, plus half a step, because the target is meant for the saw's mean. The ten minutes run through the resampler
itself, sound and all; the other cases take its count as read.
"""

import numpy as np
import pytest

from edge.devices.drift import DriftControl
from edge.dsp.resample import Resampler

TARGET_MS = 30.0
FRAMES_PER_MS = 48


class Jack:
    def __init__(self, step_ms=10.0, start_ms=TARGET_MS, phase_ms=3.0, jitter_ms=0.0, sound=False):
        self.step, self.jitter = step_ms, jitter_ms
        self.control = DriftControl(TARGET_MS)
        self.up = Resampler(16_000, 48_000, 80, steered=True)
        self.played_ms = phase_ms
        self.fill(start_ms)
        self.rng = np.random.default_rng(5)
        self.queue_ms, self.ppm, self.out = [], [], []
        self.sound = sound

    def fill(self, level_ms):
        """Priming, and what follows an xrun: the next reading, one hop from now, is ``level_ms`` but for the saw."""
        self.written_ms = self.played_ms + 5 + level_ms - self.step / 2

    def run(self, seconds, apart_ppm):
        """The jack's crystal is ``apart_ppm`` faster than the microphone's."""
        t = 2 * np.pi * 1000 / 16_000 * np.arange(80)  # 1 kHz: a whole number of periods in each hop
        tone = (0.5 * np.sin(t)).astype(np.float32)
        for _ in range(round(seconds * 200)):
            self.played_ms += 5 * (1 + apart_ppm * 1e-6)
            seen = self.played_ms - (abs(self.rng.normal()) * self.jitter if self.jitter else 0.0)
            shown = seen // self.step * self.step if self.step else seen
            ppm = self.control.update(self.written_ms - shown)
            self.queue_ms.append(self.written_ms - self.played_ms + self.step / 2)
            self.ppm.append(ppm)
            if not self.sound:  # what the resampler would count, in whole frames or not
                self.written_ms += 5 * (1 + ppm * 1e-6)
                continue
            self.up.steer(ppm)
            y = self.up.process(tone)
            self.written_ms += len(y) / FRAMES_PER_MS
            self.out.append(y.copy())
        return self

    def error_ms(self, from_s, to_s=None):
        part = self.queue_ms[round(from_s * 200) : None if to_s is None else round(to_s * 200)]
        return float(np.max(np.abs(np.array(part) - TARGET_MS)))

    def never_dry_nor_full(self):
        true = np.array(self.queue_ms) - self.step / 2
        return true.min() > self.step and true.max() < 2 * TARGET_MS


def thd_n_db(y, ppm):
    """Everything in one second that is not the tone, against the tone.

    The tone's frequency follows the steering, so it is fitted as a carrier at the second's mean frequency whose sine
    and cosine parts may each vary as a polynomial of 4th degree in time: that takes up a pitch that glides by
    hundreds of ppm, and neither a step, nor noise, nor a harmonic.
    """
    n = len(y)
    t = np.linspace(-1, 1, n)
    angle = 2 * np.pi * 1000 / 48_000 / (1 + ppm * 1e-6) * np.arange(n)
    powers = t[:, None] ** np.arange(5)
    basis = np.concatenate([powers * np.sin(angle)[:, None], powers * np.cos(angle)[:, None]], axis=1)
    weights = np.linalg.solve(basis.T @ basis, basis.T @ y)
    tone = basis @ weights
    return 10 * np.log10(np.mean((y - tone) ** 2) / np.mean(tone**2))


def test_the_figure_of_merit_sees_what_it_should():
    n = np.arange(48_000)
    glide = np.sin(2 * np.pi * 1000 / 48_000 * (n - 50e-6 * n * n / 48_000))
    assert thd_n_db(glide, 50.0) < -90
    assert thd_n_db(glide + 0.002 * np.sin(2 * np.pi * 3000 / 48_000 * n), 50.0) > -55
    step = np.concatenate([glide[:20_000], glide[20_001:]])
    assert thd_n_db(step, 50.0) > -40


def test_ten_minutes_300_ppm_apart_hold_the_queue_and_the_tone():
    """The issue's figure: queue within +-2 ms after settling, nothing dry, THD+N of 1 kHz better than 60 dB."""
    jack = Jack(sound=True).run(600, 300.0)
    assert jack.error_ms(from_s=60) < 2.0
    assert jack.never_dry_nor_full()
    assert abs(jack.control.learned_ppm - 300) < 150
    assert abs(np.mean(jack.ppm[200 * 60 :]) - 300) < 5
    y = np.concatenate(jack.out).astype(float)
    hop_ends = np.cumsum([len(block) for block in jack.out])
    worst = -200.0
    for second in [0.02, *range(1, 60, 4), *range(60, 599, 18)]:  # densely while it still settles
        start = round(second * 48_000)
        first, last = np.searchsorted(hop_ends, [start, start + 48_000])
        worst = max(worst, thd_n_db(y[start : start + 48_000], float(np.mean(jack.ppm[first:last]))))
    assert worst < -60.0, worst


@pytest.mark.parametrize("phase_ms", [0.1, 2.4, 4.9, 7.3])
@pytest.mark.parametrize("apart_ppm", [-300.0, 300.0, 500.0])
def test_other_phases_of_the_steps_and_signs_of_the_drift(apart_ppm, phase_ms):
    jack = Jack(phase_ms=phase_ms).run(150, apart_ppm)
    assert jack.error_ms(from_s=75) < 2.0
    assert jack.never_dry_nor_full()


@pytest.mark.parametrize("apart_ppm", [0.0, 20.0, -50.0, 100.0])
def test_close_clocks_stay_within_what_a_10_ms_step_seen_every_5_ms_can_tell(apart_ppm):
    """Read on a 5 ms grid, the saw does not say where in 5 ms the queue is until the clocks have slid past each other
    (100 s at 50 ppm): +-2.5 ms that no reading holds, and a little overshoot when it shows.
    """
    for phase_ms in (0.1, 4.9):
        jack = Jack(phase_ms=phase_ms).run(300, apart_ppm)
        assert jack.error_ms(from_s=60) < 3.5
        assert jack.never_dry_nor_full()


@pytest.mark.parametrize("apart_ppm", [-300.0, 0.0, 20.0, 100.0, 300.0])
def test_fine_readings_hold_the_queue_closely(apart_ppm):
    assert Jack(step_ms=0.0).run(120, apart_ppm).error_ms(from_s=75) < 0.3


@pytest.mark.parametrize("step_ms, jitter_ms", [(512 / 48, 0.0), (10.0, 1.0), (5.0, 0.3), (1.0, 2.0)])
def test_other_steps_and_readings_that_come_late(step_ms, jitter_ms):
    jack = Jack(step_ms=step_ms, jitter_ms=jitter_ms).run(150, 300.0)
    assert jack.error_ms(from_s=75) < 2.0 + jitter_ms


@pytest.mark.parametrize("apart_ppm", [-900.0, 900.0])
def test_bad_crystals_settle_too(apart_ppm):
    jack = Jack().run(300, apart_ppm)
    assert jack.never_dry_nor_full()
    assert jack.error_ms(from_s=200) < 2.0


@pytest.mark.parametrize("apart_ppm", [-1000.0, 1000.0])
def test_a_drift_equal_to_the_limit_is_kept_from_growing(apart_ppm):
    """No steering is left to bring back what was lost while learning, and nothing more is lost."""
    jack = Jack().run(240, apart_ppm)
    assert jack.never_dry_nor_full()
    assert abs(jack.queue_ms[-1] - jack.queue_ms[200 * 60]) < 0.5
    assert max(abs(p) for p in jack.ppm) <= 1000


@pytest.mark.parametrize("apart_ppm", [-500.0, 500.0])
def test_a_step_of_500_ppm_in_mid_stream(apart_ppm):
    jack = Jack().run(120, 100.0).run(120, 100.0 + apart_ppm)
    assert jack.never_dry_nor_full()
    assert jack.error_ms(from_s=120 + 75) < 2.0


def test_a_queue_that_starts_elsewhere_is_brought_to_its_target():
    for start_ms in (TARGET_MS - 12, TARGET_MS + 12):
        jack = Jack(start_ms=start_ms).run(150, -300.0)
        assert jack.error_ms(from_s=90) < 2.0


def test_steering_never_jumps_and_never_leaves_its_limits():
    control = DriftControl(TARGET_MS)
    rng = np.random.default_rng(2)
    ppm = np.array([control.update(float(q)) for q in rng.uniform(-500, 500, 4000)] + [control.ppm])
    assert np.max(np.abs(np.diff(ppm))) <= DriftControl.SLEW_PPM_PER_S * 0.005 + 1e-9
    assert np.max(np.abs(ppm)) <= 1000


def test_no_wind_up_after_a_queue_that_could_not_be_brought_back():
    """A minute pinned at the limit by a reading stuck far off; then the truth again."""
    jack = Jack()
    for _ in range(200 * 60):
        jack.control.update(TARGET_MS + 200)
    assert jack.control.ppm == -1000
    jack.run(150, 300.0)
    assert jack.error_ms(from_s=100) < 2.0


def test_reset_keeps_the_learned_drift_and_the_refilled_queue_stays():
    jack = Jack().run(120, 400.0)
    learned = jack.control.learned_ppm
    assert abs(learned - 400) < 150
    jack.control.reset()
    assert jack.control.ppm == jack.control.learned_ppm == learned
    jack.fill(TARGET_MS)
    jack.run(60, 400.0)
    assert jack.error_ms(from_s=120) < 2.5
    unlearned = Jack().run(60, 400.0)
    assert unlearned.error_ms(from_s=0) > jack.error_ms(from_s=120) + 1.0
    jack.control.reset(keep_ppm=False)
    assert jack.control.ppm == jack.control.learned_ppm == 0.0


def test_readings_every_other_hop_do_as_well():
    every, other = DriftControl(TARGET_MS), DriftControl(TARGET_MS)
    queue_every = queue_other = TARGET_MS + 3.0
    for k in range(200 * 90):
        queue_every += (every.update(queue_every) - 250) * 5e-6
        ppm = other.update(queue_other, hops=2) if k % 2 else other.ppm
        queue_other += (ppm - 250) * 5e-6
    assert abs(queue_every - TARGET_MS) < 0.1 and abs(queue_other - TARGET_MS) < 0.1
    assert abs(every.ppm - 250) < 5 and abs(other.ppm - 250) < 5

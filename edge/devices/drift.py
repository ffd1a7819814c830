"""Two clocks: how far the outgoing ``Resampler`` must be steered so that the playback queue keeps its length."""

from edge import HOP_MS
from edge.dsp.resample import STEER_LIMIT_PPM


class DriftControl:
    """Playback queue (ms) in, steering (ppm) out: holds the queue at ``target_ms`` between two free-running clocks.

    What the queue does beyond what our steering explains is the drift between the clocks. An observer with two equal
    poles at ``observe_s`` learns both, the queue and the drift, from readings as coarse as they come (the jack's
    position moves in 10 ms steps, so the reading saws between 0 and 10 ms above what is really queued: the target is
    held by the saw's mean). The steering is the learned drift plus what returns the queue in ``return_s``, limited to
    +-1000 ppm and to ``SLEW_PPM_PER_S``. The observer gets the steering really applied, so
    limiting it causes no integrator wind-up. Time is counted in hops. After camilladsp's rate adjust, which steers by
    the averaged queue alone.

    From knowing nothing, 300 ppm apart, the queue is within +-2 ms of the target after 40 s and stays. Clocks less than
    100 ppm apart leave up to 3.1 ms: 10 ms steps seen every 5 ms do not resolve the queue to less than 5 ms until
    the clocks have slid past each other. A drift of 1000 ppm leaves no steering to correct the queue, whose error then
    only stops growing.
    """

    SLEW_PPM_PER_S = 60.0

    def __init__(
        self, target_ms: float, hop_ms: float = HOP_MS, observe_s: float = 12.0, return_s: float = 8.0
    ) -> None:
        self.target_ms = target_ms
        self.queue_ms = target_ms
        """The observer's queue: the mean of the saw, without its teeth."""
        self.learned_ppm = 0.0
        """How much faster playback runs than capture, as far as known."""
        self.ppm = 0.0
        """What to steer the outgoing ``Resampler`` by."""
        self._hop_s = hop_ms / 1000
        self._observe_s = observe_s
        self._return_s = return_s
        self._seen_s = 0.0

    def update(self, queue_ms: float, hops: int = 1) -> float:
        """One reading of the queue, ``hops`` hops after the last one, always taken at the same place of the loop
        -> ``ppm``.
        """
        elapsed_s = hops * self._hop_s
        self._observe(queue_ms, elapsed_s)
        wanted = self.learned_ppm + 1000 * (self.target_ms - self.queue_ms) / self._return_s
        step = self.SLEW_PPM_PER_S * elapsed_s
        self.ppm = _within(_within(wanted, self.ppm - step, self.ppm + step), -STEER_LIMIT_PPM, STEER_LIMIT_PPM)
        return self.ppm

    def _observe(self, queue_ms: float, elapsed_s: float) -> None:
        """Predict the queue from drift and steering (1 ppm moves it 0.001 ms a second), then correct both."""
        self._seen_s += elapsed_s
        self.queue_ms += 1e-3 * (self.ppm - self.learned_ppm) * elapsed_s
        surprise_ms = queue_ms - self.queue_ms
        share = elapsed_s / self._observe_s
        self.queue_ms += surprise_ms * min(1.0, max(2 * share, elapsed_s / self._seen_s))  # at first the plain mean
        if self._seen_s > 1.0:
            learned = self.learned_ppm - 1000 * surprise_ms * min(share, 1.0) / self._observe_s
            self.learned_ppm = _within(learned, -STEER_LIMIT_PPM, STEER_LIMIT_PPM)

    def reset(self, keep_ppm: bool = True) -> None:
        """The queue was filled anew (start, xrun): forget its level; keep the drift, which belongs to the crystals."""
        self.queue_ms = self.target_ms
        self._seen_s = 0.0
        if not keep_ppm:
            self.learned_ppm = 0.0
        self.ppm = self.learned_ppm


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)

"""Signal processing without input, output, clock or log: NumPy in, NumPy out, one hop of 80 samples at a time.

``ORDER`` is the path of a hop through ``edge.chain.Chain.process``; a test derives it from there. Each stage is a
module of this package except ``engine``, which is one of ``edge.suppress``. Anti-noise and howl guard hear the
microphone before anything changed it, and the howl guard hears what the limiter lets through, since both work on the
feedback path from output to microphone.
"""

ORDER = (
    "antinoise.hear",
    "howl.hear",
    "feedforward.process",
    "reference.process",
    "engine.process",
    "voice.decide",
    "eq.process",
    "gate.process",
    "line.process",
    "volume.process",
    "antinoise.process",
    "mute.process",
    "howl.process",
    "limiter.process",
    "howl.played",
)
"""Attribute of ``Chain`` and its method, in the order of the calls for one hop. What is switched off is skipped."""

"""Noisy speech made on the fly: recordings in, (noisy, clean) batches out, a different one at every step.

Breadth beats hours: signal-to-noise ratio, level, tone, room, second noise, babble, bandwidth, clipping, hum and the
microphone's own noise are drawn anew for every item, and everything is batched PyTorch on one device, so that a GPU
mixes as fast as it learns. What a step sees depends on (seed, step) only: a resumed run sees what it would have seen.

``recordings`` -> ``bank`` and ``rooms`` -> ``mixer``, which also takes ``drawn_noise``; ``pack`` makes a small copy.
"""

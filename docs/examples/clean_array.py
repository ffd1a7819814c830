"""The live signal path on an array: what the box does to sound, without a sound card.

.venv/bin/python docs/examples/clean_array.py
"""

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ
from edge.chain import Chain
from edge.config import Config


def clean(sound: np.ndarray) -> np.ndarray:
    """float32, +-1.0, 16 kHz, mono: the same sound without noise, ``delay_samples`` late and as long as before."""
    chain = Chain(Config())  # the settings as they ship; edge/quietbox.toml explains each
    hops = np.resize(sound, (-(-len(sound) // HOP_SAMPLES), HOP_SAMPLES)).astype(np.float32)
    for hop in hops:  # 80 samples, 5 ms, changed in place, as on the box 200 times a second
        chain.process(hop)
    return hops.reshape(-1)[: len(sound)]


def level_dbfs(sound: np.ndarray) -> float:
    return float(10 * np.log10(np.square(sound).mean() + 1e-12))


if __name__ == "__main__":
    noise = 0.05 * np.random.default_rng(1).standard_normal(4 * RATE_HZ).astype(np.float32)
    cleaned = clean(noise)
    last = slice(-RATE_HZ, None)  # the first seconds are the network's to adapt
    print(f"noise {level_dbfs(noise[last]):.1f} dBFS, cleaned {level_dbfs(cleaned[last]):.1f} dBFS")

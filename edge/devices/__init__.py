"""Sound cards by ALSA: what there is, samples in, samples out, two clocks; and shipped stand-ins for tests."""

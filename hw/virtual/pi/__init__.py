"""A Raspberry Pi's kernel parts without a Pi: real systemd, journald, ALSA and GPIO in a machine, and proofs in it."""

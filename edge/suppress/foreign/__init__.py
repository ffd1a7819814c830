"""Third-party networks in hops of 80 samples: contract, adapter, what they are opened with, one file a network."""

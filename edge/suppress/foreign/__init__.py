"""Other people's networks in hops of 80 samples: adapter, what they are opened with, one file a network."""

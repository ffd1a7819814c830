"""The network: frames, keys, encryption, limits on what a peer can use up."""

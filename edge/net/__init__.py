"""What runs over a socket to another machine: frames, keys, encryption, bounds on what a peer can use up."""

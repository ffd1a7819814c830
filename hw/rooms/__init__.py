"""Simulated rooms: two microphones, an open headphone, microphones in each other's place."""

NEEDS_CHECKOUT = True  # read by edge.console.run_main

"""Simulated rooms: two microphones, an open headphone, microphones in each other's place."""
